"""A store gives what its sources give, says when it cannot, and is never half there."""

import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import layouts
import numpy as np
import pytest
from conftest import PROJECT

import main
from commands.curation import prepare as preparing
from commands.curation.prepare import prepare
from commands.evaluation.evaluate import evaluate
from commands.evaluation.map_sources import ModelMaps
from commands.settings import EvaluateConfig, PrepareConfig
from commands.training.train import train
from salience.data import loading, store
from salience.data.plan import Plan
from salience.measures.references import TruthSplit
from salience.pictures.reading import sample_density, sample_image
from salience.system.errors import UserError
from utilities import OutputGrid, SaliencyBatches

SIZE = {"rows": 48, "cols": 64}
COUNTS = {"train": 7, "val": 3, "test": 4}


@pytest.fixture
def own(tmp_path, picture, rng):
    """Return a folder of pictures of several shapes with maps, or with fixations and observers."""

    def make(name="own", kind="fixations"):
        root = tmp_path / name
        for split, count in COUNTS.items():
            for part in ("images", kind):
                (root / part / split).mkdir(parents=True)
            for i in range(count):
                shape = (60 + 5 * i, 90 - 3 * i)
                cv2.imwrite(str(root / "images" / split / f"p{i}.jpg"), picture(*shape))
                if kind == "maps":
                    cv2.imwrite(str(root / "maps" / split / f"p{i}.png"), picture(*shape)[..., 0])
                    continue
                points = rng.uniform(-3, 1, (12, 2)) + rng.uniform(0, 1, (12, 2)) * shape[::-1]
                path = root / "fixations" / split / f"p{i}.npz"
                np.savez(path, fixations=points, subjects=np.repeat([0, 1, 2], 4))
        return root

    return make


@pytest.fixture
def prepared(tmp_path):
    """Return a function that prepares a folder and returns the store's."""

    def run(root, name="store", say=print, **changes):
        settings = {"dataset": "folder", "data": root, "output": tmp_path / name, "workers": 2}
        prepare(PrepareConfig(**{**settings, **SIZE, **changes}), say)
        return tmp_path / name

    return run


def load(root, split="train", plan=None, out_of_bounds="drop"):
    return loading.load("folder", root, split, plan or Plan(), out_of_bounds)


def generator(root, split="train", **changes):
    shape = (changes.pop("rows", 48), changes.pop("cols", 64))
    settings = {"shuffle": True, "flip": True, "seed": 3, **changes}
    return SaliencyBatches(load(root, split), shape, 3, **settings)


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def damage(path, where=-7):
    data = bytearray(path.read_bytes())
    data[where] ^= 4
    path.write_bytes(data)


def test_columns_that_a_store_was_not_prepared_with_are_refused(own, prepared):
    folder = prepared(own())
    columns = "x=FPOGX,y=FPOGY"
    with pytest.raises(UserError, match=rf"prepared with --columns .*but --columns {columns}"):
        loading.load("folder", folder, "train", Plan(), "drop", columns=columns)


# --- what comes out of a store is what comes out of its sources ---


@pytest.mark.parametrize("kind", ["fixations", "maps"])
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_are_equal_to_the_bit_in_every_epoch(own, prepared, kind, workers):
    root = own(kind=kind)
    folder = prepared(root)
    for split in COUNTS:
        ways = [generator(place, split, workers=workers) for place in (root, folder)]
        for epoch in (0, 1):
            for way in ways:
                way.epoch = epoch
            for (x, y), (stored_x, stored_y) in zip(*ways, strict=True):
                np.testing.assert_array_equal(x, stored_x)
                np.testing.assert_array_equal(y, stored_y)
                assert (stored_x.dtype, stored_y.dtype) == (np.uint8, np.float32)
        assert ways[0].boxes == ways[1].boxes


def test_another_grid_and_gaussian_are_kept_as_asked_for(own, prepared, monkeypatch):
    grid = OutputGrid(stride=4, crop=2, blur=1.0)
    monkeypatch.setattr(preparing, "grid_of", lambda model: grid)
    root = own()
    folder = prepared(root, sigma_pixels=5.0)
    settings = {"grid": grid, "sigma_pixels": 5.0}
    batches = zip(generator(root, **settings), generator(folder, **settings), strict=True)
    for (_, y), (_, stored) in batches:
        assert y.shape[1:] == (11, 15, 2)
        np.testing.assert_array_equal(y, stored)


def test_samples_carry_all_that_scoring_asks_for(own, prepared):
    root = own()
    folder = prepared(root, out_of_bounds="clip")
    originals, stored = load(root, "test", out_of_bounds="clip"), load(folder, "test", None, "clip")
    assert sum(sample.outside for sample in originals) > 0
    for a, b in zip(originals, stored, strict=True):
        for field in ("name", "category", "sigma_pixels", "outside", "shape"):
            assert getattr(a, field) == getattr(b, field)
        assert b.fixations.dtype == a.fixations.dtype
        np.testing.assert_array_equal(a.fixations, b.fixations)
        np.testing.assert_array_equal(a.subjects, b.subjects)
        np.testing.assert_array_equal(sample_image(a), sample_image(b))


def test_training_from_a_store_is_training_from_its_sources(own, prepared, tiny, tmp_path):
    root = own()
    runs = [
        train(
            tiny(dataset="folder", data=data, epochs=2, batch_size=3, output=tmp_path / name,
                 freeze_backbone=False, flip=True, weights_dir=tmp_path / f"{name}-weights"),
            say=lambda line: None,
        )
        for name, data in (("originals", root), ("stored", prepared(root)))
    ]  # fmt: skip
    untimed = [
        [{k: v for k, v in row.items() if not k.endswith("seconds")
          and k not in ("images_per_second", "peak_memory_mb")} for row in run.history]
        for run in runs
    ]  # fmt: skip
    assert untimed[0] == untimed[1]
    import h5py

    with (
        h5py.File(runs[0].path("best.weights.h5")) as a,
        h5py.File(runs[1].path("best.weights.h5")) as b,
    ):
        weights = []
        a.visititems(lambda name, item: weights.append(name) if hasattr(item, "shape") else None)
        assert len(weights) > 20
        for name in weights:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("kind", ["fixations", "maps"])
@pytest.mark.parametrize("sources", ["there", "gone"])
def test_evaluation_of_every_picture_is_the_same(own, prepared, trained, kind, sources):
    root = own(kind=kind)
    folder = prepared(root)
    settings = {"dataset": "folder", "weights": trained, "metrics": "cc,nss,auc_judd,ig,sim"}
    found = [evaluate(EvaluateConfig(data=root, **settings), say=lambda line: None)]
    if sources == "gone":
        root.rename(root.with_name("elsewhere"))
    found.append(evaluate(EvaluateConfig(data=folder, **settings), say=lambda line: None))
    assert found[0].pictures == found[1].pictures
    for a, b in zip(*(f.rows for f in found), strict=True):
        assert (a.name, repr(a.scores)) == (b.name, repr(b.scores))


def test_a_store_alone_is_enough(own, prepared, tmp_path):
    """Copied to a node's own disk, say; the pictures to look at are then enlarged."""
    root = own(kind="maps")
    expected = list(generator(root))
    densities = [sample_density(s, sample_image(s).shape[:2], None) for s in load(root)]
    originals = [sample_image(s).astype(float) for s in load(root)]
    copied = tmp_path / "scratch"
    shutil.move(prepared(root), copied)
    shutil.rmtree(root)
    for (x, y), (stored_x, stored_y) in zip(expected, generator(copied), strict=True):
        np.testing.assert_array_equal(x, stored_x)
        np.testing.assert_array_equal(y, stored_y)
    samples = load(copied)
    for sample, density, original in zip(samples, densities, originals, strict=True):
        np.testing.assert_array_equal(sample_density(sample, sample.shape, None), density)
        shown = sample_image(sample)
        assert shown.shape == original.shape
        assert abs(shown - original).mean() < 6


def test_a_changed_copy_of_a_map_is_noticed(own, prepared):
    folder = prepared(own(kind="maps"))
    copy = next((folder / "maps").rglob("*.png"))
    cv2.imwrite(str(copy), np.eye(60, dtype=np.uint8) * 255)
    with pytest.raises(UserError, match=f"{copy.name} is damaged or missing"):
        for split in ("train", "val", "test"):
            for sample in load(folder, split):
                sample.map()


def test_a_mount_point_without_its_disk_is_no_changed_source(own, prepared):
    root = own()
    folder = prepared(root)
    shutil.rmtree(root)
    root.mkdir()
    assert len(load(folder)) == COUNTS["train"]


def test_no_picture_is_decoded_to_learn_its_shape(own, prepared, monkeypatch):
    folder = prepared(own())
    monkeypatch.setattr("salience.pictures.reading.read_image", None)
    assert [shape for _, shape in TruthSplit(load(folder), ("cc",)).pictures] == [
        (60 + 5 * i, 90 - 3 * i) for i in range(7)
    ]


def test_a_network_of_another_size_takes_the_originals_where_they_are(own, prepared, trained):
    root = own()
    folder = prepared(root, rows=80, cols=80)
    maps = ModelMaps(trained, "m", batch_size=2, workers=2)
    shapes = [sample.shape for sample in load(root)]
    for a, b in zip(maps.maps(load(root), shapes), maps.maps(load(folder), shapes), strict=True):
        np.testing.assert_array_equal(a, b)
    root.rename(root.with_name("elsewhere"))
    with pytest.raises(UserError, match="prepared with --rows 80 and --cols 80, but --rows 48"):
        list(maps.maps(load(folder), shapes))


@pytest.fixture
def arrays(tmp_path, rng):
    """Return a folder with pictures and maps in two array files."""
    root = tmp_path / "arrays"
    root.mkdir()
    np.save(root / "images.npy", rng.integers(0, 256, (10, 60, 90, 3), dtype=np.uint8))
    np.save(root / "maps.npy", rng.random((10, 60, 90), np.float32))
    return root


def test_pictures_and_maps_in_array_files_are_prepared(arrays, prepared):
    folder = prepared(arrays, dataset="npy")
    originals, stored = (loading.load("npy", root, "train") for root in (arrays, folder))
    ways = [SaliencyBatches(samples, (48, 64), 3) for samples in (originals, stored)]
    for (x, y), (stored_x, stored_y) in zip(*ways, strict=True):
        np.testing.assert_array_equal(x, stored_x)
        np.testing.assert_array_equal(y, stored_y)
    maps = [sample.map() for sample in originals]
    shutil.rmtree(arrays)
    alone = loading.load("npy", folder, "train")
    for original, expected, sample in zip(originals, maps, alone, strict=True):
        np.testing.assert_array_equal(sample.map(), expected)
        assert sample_image(sample).shape == (60, 90, 3)
        assert sample.name == original.name


def test_a_changed_map_in_an_array_file_is_noticed(arrays, prepared):
    folder = prepared(arrays, dataset="npy")
    maps = np.load(arrays / "maps.npy")
    np.save(arrays / "maps.npy", maps)
    assert len(loading.load("npy", folder, "train")) == 7  # written again, but the same
    index = loading.load("npy", arrays, "train")[2].map.index
    maps[index, 0, 0] += 1
    np.save(arrays / "maps.npy", maps)
    with pytest.raises(UserError, match=rf"maps\.npy\[{index}\] differs"):
        loading.load("npy", folder, "train")


# --- a store that does not fit what is asked for ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 96}, r"--rows 48, but --rows 96 is requested.*prepare .*--rows 96 --cols 64"),
        ({"sigma_pixels": 9.0}, "data set's own --sigma_pixels, but --sigma_pixels 9.0"),
        ({"grid": OutputGrid(1, 2)}, r"cells of 8 .* border of 0 .*of 1 .* of 2 .*--model MODEL"),
    ],
)
def test_training_otherwise_is_refused_with_both_and_what_to_do(own, prepared, changes, message):
    folder = prepared(own())
    with pytest.raises(UserError, match=message):
        generator(folder, **changes)


def test_another_plan_rule_or_data_set_is_refused(own, prepared):
    folder = prepared(own())
    with pytest.raises(UserError, match="--split_seed 0, but --split_seed 5 is requested"):
        load(folder, plan=Plan(5))
    with pytest.raises(UserError, match="--out_of_bounds drop, but --out_of_bounds clip"):
        load(folder, out_of_bounds="clip")
    with pytest.raises(UserError, match="--dataset folder, but --dataset osie is requested"):
        loading.load("osie", folder, "train")


def test_the_command_that_is_offered_prepares_what_was_asked_for(own, prepared, tmp_path):
    import main

    root = own()
    folder = prepared(root, sigma_pixels=7.0)
    with pytest.raises(UserError) as caught:
        generator(folder, sigma_pixels=7.0, rows=96)
    words = str(caught.value).split(": ")[-1].split()
    assert words[:3] == ["main.py", "data", "prepare"]
    other = tmp_path / "other"
    assert main.main([*words[1:-1], str(other)]) == 0
    assert len(generator(other, sigma_pixels=7.0, rows=96)) == 3


def test_a_split_that_could_not_be_prepared_is_named_with_the_reason(own, prepared):
    root = own()
    shutil.rmtree(root / "images/val")
    said = []
    folder = prepared(root, say=said.append)
    assert said[0].startswith("note: not read: 3 .npz in fixations/val/")
    assert any(line.startswith("left out: the val split. ") for line in said)
    with pytest.raises(UserError, match=r"without a 'val' split.*but no 'val' with images"):
        load(folder, "val")


# --- sources that change ---


def replaced_picture(root):
    path = root / "images/train/p3.jpg"
    cv2.imwrite(str(path), 255 - cv2.imread(str(path)))


def moved_fixation(root):
    path = root / "fixations/train/p2.npz"
    with np.load(path) as file:
        np.savez(path, fixations=file["fixations"] + 0.25, subjects=file["subjects"])


def new_picture(root):
    for kind, suffix in (("images", "jpg"), ("fixations", "npz")):
        folder = root / kind / "train"
        shutil.copy(folder / f"p0.{suffix}", folder / f"q.{suffix}")


def lost_picture(root):
    (root / "images/train/p0.jpg").unlink()
    (root / "fixations/train/p0.npz").unlink()


def unpaired(root):
    (root / "images/train/p0.jpg").unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced_picture, r"images/train/p3\.jpg differs"),
        (moved_fixation, r"the fixations of p2\.jpg differ"),
        (new_picture, r"were 7 and are 8; q\.jpg is new"),
        (lost_picture, r"were 7 and are 6; p0\.jpg is missing"),
        (unpaired, "first unpaired: p0"),
    ],
)
def test_a_changed_source_is_noticed_and_prepared_anew(own, prepared, change, message):
    root = own()
    folder = prepared(root)
    change(root)
    with pytest.raises(UserError, match=rf"has changed since .*: .*{message}.*main.py data prep"):
        load(folder)
    if change is unpaired:
        return
    said = []
    prepared(root, say=said.append)
    assert "has changed since" in said[0]
    for (x, y), (stored_x, stored_y) in zip(generator(root), generator(folder), strict=True):
        np.testing.assert_array_equal(x, stored_x)
        np.testing.assert_array_equal(y, stored_y)


def test_a_changed_map_is_noticed(own, prepared):
    root = own(kind="maps")
    folder = prepared(root)
    cv2.imwrite(str(root / "maps/val/p1.png"), np.full((65, 87), 9, np.uint8))
    assert len(load(folder, "train")) == 7
    with pytest.raises(UserError, match=r"maps/val/p1\.png differs"):
        load(folder, "val")


def test_a_source_replaced_by_one_of_the_same_size_and_time_is_a_change(own, prepared):
    root = own()
    path = root / "images/train/p3.jpg"
    folder = prepared(root)
    before, data = path.stat(), path.read_bytes()
    path.write_bytes(data[:-2] + b"ab")  # of which only the content tells
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UserError, match=r"images/train/p3\.jpg differs"):
        load(folder)


def test_what_is_touched_or_laid_beside_is_no_change(own, prepared):
    root = own()
    folder = prepared(root)
    os.utime(root / "images/train/p0.jpg", (1, 1))
    (root / "README").write_text("mine")
    assert len(load(folder)) == 7


def test_a_store_inside_its_source_is_not_part_of_it(own, prepared):
    root = own()
    (root / "loop").symlink_to(root)
    folder = prepared(root, name="own/stores/a")
    (folder / "notes.txt").write_text("mine")
    said = []
    prepared(root, name="own/stores/a", say=said.append)
    assert "is finished" in said[0]


def test_a_source_that_changes_under_the_work_leaves_no_finished_store(
    own, prepared, monkeypatch, tmp_path
):
    root = own()
    monkeypatch.setattr(
        preparing, "make_truth", lambda *a, real=preparing.make_truth: (moved_fixation(root),
                                                                        real(*a))[1]
    )  # fmt: skip
    with pytest.raises(UserError, match="changed during the preparation"):
        prepared(root, workers=1)
    assert not (tmp_path / "store/store.json").exists()


# --- damage ---


def changed(field=None, **values):
    """Return a function that changes values of a manifest, or of one of its fields."""

    def change(data):
        manifest = json.loads(data)
        (manifest[field] if field else manifest).update(values)
        return json.dumps(manifest).encode()

    return change


def as_npy(array):
    """Return the bytes of an array's file."""
    np.save(file := io.BytesIO(), array)
    return file.getvalue()


def test_a_damaged_picture_is_named_and_mended(own, prepared):
    root = own()
    folder = prepared(root)
    whole = contents(folder)
    assert Path("train.pictures.npy") in whole
    damage(folder / "train.pictures.npy")
    damage(folder / "val.truth.npy")
    training = generator(folder, shuffle=False)
    assert len(training[0][0]) == 3
    with pytest.raises(UserError, match=r"data of p6\.jpg is damaged.*Repair it.*data prepare"):
        training[2]
    with pytest.raises(UserError, match=r"val\.truth\.npy: the data of p2\.jpg is damaged"):
        generator(folder, "val", shuffle=False)[0]
    said = []
    prepared(root, say=said.append)
    assert "; 12 of them are done" in said[0]
    assert contents(folder) == whole


@pytest.mark.parametrize(
    ("name", "cut", "message"),
    [
        ("train.pictures.npy", lambda data: data[:-1], "damaged or truncated"),
        ("train.pictures.npy", lambda data: b"", "damaged or truncated"),
        ("train.truth.npy", lambda data: data[:40], "damaged or truncated"),
        ("train.points.npz", lambda data: data[:-30], "missing or damaged"),
        ("train.points.npz", lambda data: data.replace(data[90:94], b"\0\1\2\3"), "damaged"),
        ("store.json", lambda data: data[:-30], "is not valid JSON"),
        ("store.json", lambda data: b"[]", "is of version None, 1 is needed"),
        ("store.json", lambda data: b'{"version": 1}', "is damaged: it has no 'inventory'"),
        ("store.json", changed(model=3), "damaged: 'model' is not what a preparation writes"),
        ("store.json", changed(settings={}), r"damaged: 'settings' without '\w+' is not what"),
        ("store.json", changed("settings", rows=0), "damaged: rows 0 is not what"),
        ("store.json", changed(splits=[]), "damaged: 'splits' is not what"),
        ("store.json", changed("splits", train=3), "damaged: 'splits', 'train' is not what"),
        ("store.json", changed("splits", train=[{}]), "damaged: picture 0 of 'train' is not what"),
        ("train.truth.npy", lambda data: as_npy(np.zeros((2, 3))), r"holds float64 .*\(2, 3\)"),
        ("train.points.npz", lambda data: as_npy(np.zeros(3)), "missing or damaged"),
    ],
)
def test_a_damaged_file_is_one_error(own, prepared, name, cut, message):
    folder = prepared(own())
    whole = contents(folder)
    (folder / name).write_bytes(cut((folder / name).read_bytes()))
    with pytest.raises(UserError, match=message):
        generator(folder)[0]
    prepared(folder.with_name("own"), overwrite=name == "store.json")
    assert contents(folder) == whole


def test_a_missing_array_is_one_error(own, prepared):
    folder = prepared(own())
    (folder / "train.truth.npy").unlink()
    with pytest.raises(UserError, match=r"train\.truth\.npy is missing"):
        generator(folder)[0]


def test_a_damaged_copy_of_a_map_is_mended(own, prepared):
    root = own(kind="maps")
    folder = prepared(root)
    whole = contents(folder)
    damage(folder / "maps/train/000002.png")
    prepared(root)
    assert contents(folder) == whole


# --- interruption ---


class Interrupted(Exception):
    pass


def test_interrupted_work_goes_on_and_nothing_half_written_looks_whole(
    own, prepared, monkeypatch, tmp_path
):
    root = own(kind="maps")
    whole = contents(prepared(root, name="whole"))
    folder, made = tmp_path / "store", []
    real = preparing.make_truth

    def break_after(count):
        def make(sample, *rest):
            if len(made) >= count:
                raise Interrupted
            made.append(sample.name)
            return real(sample, *rest)

        monkeypatch.setattr(preparing, "make_truth", make)

    for count in (4, 9):
        break_after(count)
        with pytest.raises(Interrupted):
            prepared(root, workers=1)
        with pytest.raises(UserError, match=r"is an unfinished store.*data prepare"):
            load(folder)
    break_after(100)
    said = []
    prepared(root, workers=1, say=said.append)
    assert "; 9 of them are done" in said[0]
    assert len(made) == 14
    assert contents(folder) == whole


@pytest.mark.slow
def test_work_that_is_killed_goes_on(own, prepared, tmp_path):
    """A kill that nothing can catch, right after a line of the journal."""
    root = own()
    whole = contents(prepared(root, name="whole"))
    code = (
        "import os, sys, signal, main\n"
        "from commands.curation import prepare\n"
        "lines, real = [], prepare.journal_line\n"
        "def line(*about):\n"
        "    if len(lines) == 8: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    lines.append(0)\n"
        "    return real(*about)\n"
        "prepare.journal_line = line\n"
        "main.main(sys.argv[1:])\n"
    )
    words = ["data", "prepare", "--dataset", "folder", "--data", str(root), "--rows", "48",
             "--cols", "64", "--output", str(tmp_path / "store")]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=PROJECT, check=False)
    assert done.returncode == -9
    assert not (tmp_path / "store/store.json").exists()
    said = []
    assert contents(prepared(root, say=said.append)) == whole
    assert "; 8 of them are done" in said[0]


def test_the_journal_is_not_believed_without_its_checksums(own, prepared, monkeypatch, tmp_path):
    """After a power failure, what was noted last may not be on the disk; a line may be cut off."""
    root = own()
    whole = contents(prepared(root, name="whole"))
    monkeypatch.setattr(preparing.Preparation, "finish", lambda self: None)
    folder = prepared(root)
    monkeypatch.undo()
    path = folder / "train.pictures.npy"
    data = path.read_bytes()
    path.write_bytes(data[: -48 * 64 * 3] + bytes(48 * 64 * 3))
    journal = folder / "journal.jsonl"
    journal.write_text(journal.read_text()[:-20])
    said = []
    assert contents(prepared(root, say=said.append)) == whole
    assert "; 12 of them are done" in said[0]


# --- what is refused before anything is written ---


def test_a_store_prepared_otherwise_is_replaced_only_when_asked(own, prepared):
    root = own()
    folder = prepared(root)
    whole = contents(folder)
    with pytest.raises(UserError, match=r"--rows 48, now --rows 96 is requested.*--overwrite"):
        prepared(root, rows=96)
    assert contents(folder) == whole
    prepared(root, rows=96, overwrite=True)
    assert generator(folder, rows=96)[0][0].shape == (3, 96, 64, 3)


def test_other_files_are_left_alone(own, prepared, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store/thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files than a store"):
        prepared(own())
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["thesis.txt"]


def test_a_disk_that_is_too_small_is_said_first(own, prepared, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match=r"needs 0 MB more, but its disk has 0 MB left"):
        prepared(own())
    assert not any((tmp_path / "store").iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": None}, "--output is required"),
        ({"dataset": "synthetic"}, "synthetic is built in"),
        ({"data": None}, "--data is needed"),
        ({"data": Path("nowhere")}, "is not at nowhere"),
    ],
)
def test_bad_settings_are_one_error(own, prepared, changes, message):
    with pytest.raises(UserError, match=message):
        prepared(own(), **changes)


def test_a_store_is_no_source(own, prepared):
    folder = prepared(own())
    with pytest.raises(UserError, match="is a store"):
        prepared(folder, name="second")


def test_an_unreadable_picture_is_named_and_the_rest_is_kept(own, prepared, tmp_path):
    root = own()
    path = root / "images/test/p3.jpg"
    good = path.read_bytes()
    path.write_bytes(good[:200])
    with pytest.raises(UserError, match=r"p3\.jpg is not a picture that can be read"):
        prepared(root, workers=1)
    assert not (tmp_path / "store/store.json").exists()


# --- archives ---


def test_an_archive_is_unpacked_once_and_kept(own, prepared, tmp_path, monkeypatch):
    root = own()
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(root.rglob("*.*")):
            file.write(path, Path("top") / path.relative_to(root))
    expected = list(generator(root))
    folder = prepared(archive)
    for (x, y), (stored_x, stored_y) in zip(expected, generator(folder), strict=True):
        np.testing.assert_array_equal(x, stored_x)
        np.testing.assert_array_equal(y, stored_y)
    source = Path(json.loads((folder / "store.json").read_text())["source"])
    assert source.parent == tmp_path / "store.source"
    assert [path.name for path in source.iterdir()] == ["top"]
    monkeypatch.setattr(preparing.archives, "extract", None)
    prepared((archive,))  # finds it unpacked


def zipped(path, root, *tops):
    """Write what lies in some folders of a data set into an archive, with those on top."""
    with zipfile.ZipFile(path, "w") as file:
        for top in tops:
            for inner in sorted((root / top).rglob("*.*")):
                file.write(inner, inner.relative_to(root))
    return path


@pytest.mark.parametrize(
    ("name", "tops"),
    [
        ("salicon", {"images.zip": "images", "maps.zip": "maps", "fixations.zip": "fixations"}),
        ("cat2000", {"trainSet.zip": "trainSet"}),
        ("mit1003", {"ALLSTIMULI.zip": "ALLSTIMULI", "ALLFIXATIONMAPS.zip": "ALLFIXATIONMAPS"}),
        ("osie", {"osie.zip": "data"}),
    ],
)
def test_archives_as_they_are_published_are_prepared_and_drawn_from(prepared, tmp_path, name, tops):
    root = tmp_path / "set"
    getattr(layouts, name)(root)
    given = [zipped(tmp_path / archive, root, top) for archive, top in tops.items()]
    words = ["--dataset", name, "--data", *map(str, given[::-1])]
    size = ["--rows", "48", "--cols", "64"]
    assert main.main(["data", "prepare", *words, *size, "--output", str(tmp_path / "store")]) == 0
    for split in ("train", "val"):
        own, stored = (loading.load(name, folder, split) for folder in (root, tmp_path / "store"))
        assert [sample.name for sample in own] == [sample.name for sample in stored]
        for first, second in zip(own, stored, strict=True):
            np.testing.assert_array_equal(first.fixations, second.fixations)
    copy = tmp_path / "copy"
    assert main.main(["data", "subset", *words, "--n", "4", "--output", str(copy)]) == 0
    assert len(list(copy.rglob("images/*/*"))) == 4


def test_several_folders_are_no_source(own, prepared, tmp_path):
    own()
    for others in ((tmp_path / "own",) * 2, (tmp_path / "gone.zip", tmp_path / "own")):
        with pytest.raises(UserError, match=r"one folder, or one or several archives; .* is no"):
            prepared(others)


@pytest.mark.parametrize("command", ["data check", "train"])
def test_an_archive_elsewhere_is_answered_with_what_unpacks_it(tmp_path, capsys, command):
    (tmp_path / "a.zip").write_bytes(b"PK")
    words = [*command.split(), "--dataset", "osie", "--data", str(tmp_path / "a.zip")]
    assert main.main([*words, "--output", str(tmp_path / "out")]) == 2
    assert "a.zip is a file; the folder of osie is needed" in (told := capsys.readouterr().err)
    assert "`main.py data prepare` unpacks it" in told


def test_a_damaged_archive_is_one_error(prepared, tmp_path):
    (tmp_path / "set.zip").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(UserError, match="damaged or truncated"):
        prepared(tmp_path / "set.zip")


def test_points_of_pictures_without_any_are_told_from_none(tmp_path):
    from salience.pictures.sample import Sample

    samples = [
        Sample("a", Path("a"), fixations=np.ones((2, 2), np.float32)),
        Sample("b", Path("b")),
        Sample("c", Path("c"), fixations=np.zeros((0, 2), np.float32),
               subjects=np.zeros(0, np.int32)),
        Sample("d", Path("d"), fixations=np.full((1, 2), 5, np.float32),
               subjects=np.array([3], np.int32)),
    ]  # fmt: skip
    store.write_points(tmp_path / "p.npz", samples)
    found = store.read_points(tmp_path / "p.npz", 4, "")
    for sample, pair in itertools.zip_longest(samples, found):
        for wanted, got in zip((sample.fixations, sample.subjects), pair, strict=True):
            assert (wanted is None) == (got is None)
            if wanted is not None:
                np.testing.assert_array_equal(wanted, got)

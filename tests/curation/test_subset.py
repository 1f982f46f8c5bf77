"""A working copy holds what was drawn, whole, and scores as the original does."""

import json
import tarfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from commands.curation.prepare import prepare
from commands.curation.subset import allocate, draw_samples, subset
from commands.settings import PrepareConfig, SubsetConfig
from salience.data import loading
from salience.data.sets import folder as folder_set
from salience.data.sets import osie
from salience.measures.metrics import METRICS
from salience.measures.references import TruthSplit
from salience.pictures.reading import sample_density, sample_image
from salience.pictures.sample import Sample
from salience.system.errors import UserError


@pytest.fixture
def copied(tmp_path):
    """Return a function that draws a working copy and returns its folder."""

    def run(name="copy", say=lambda line: None, **settings):
        subset(SubsetConfig(**{"output": tmp_path / name, **settings}), say)
        return tmp_path / name

    return run


@pytest.fixture
def own(tmp_path, picture, rng):
    """Return a folder of 20 pictures with maps, fixations and a card."""
    root, told = tmp_path / "own", {}
    for kind in ("images", "maps", "fixations"):
        (root / kind).mkdir(parents=True)
    for i in range(20):
        shape = (40 + i, 60)
        cv2.imwrite(str(root / f"images/p{i:02d}.jpg"), picture(*shape))
        cv2.imwrite(str(root / f"maps/p{i:02d}.png"), picture(*shape)[..., 0])
        points = rng.uniform(-4, 1, (9, 2)) + rng.uniform(0, 1, (9, 2)) * shape[::-1]
        subjects = np.repeat([4, 7, 9], 3)
        np.savez(root / f"fixations/p{i:02d}.npz", fixations=points, subjects=subjects)
        told[f"p{i:02d}.jpg"] = {"sigma_pixels": 5 + i, "category": "ab"[i % 4 == 0]}
    (root / "dataset.json").write_text(json.dumps({"pictures": told}))
    return root


def everything(name, root):
    return {
        split: {sample.name: sample for sample in loading.load(name, root, split)}
        for split in ("train", "val", "test")
    }


@pytest.mark.parametrize("rule", ["drop", "clip"])
def test_a_copy_has_every_fixation_observer_and_setting_of_its_original(own, copied, rule):
    copy = copied(dataset="folder", data=own, n=10)
    count = 0
    for split in ("train", "val", "test"):
        originals = {s.name: s for s in loading.load("folder", own, split, out_of_bounds=rule)}
        for sample in loading.load("folder", copy, split, out_of_bounds=rule):
            original, count = originals[sample.name], count + 1
            np.testing.assert_array_equal(sample.fixations, original.fixations)
            np.testing.assert_array_equal(sample.subjects, original.subjects)
            for field in ("sigma_pixels", "category", "shape", "outside"):
                assert getattr(sample, field) == getattr(original, field)
            assert sample.image.read_bytes() == original.image.read_bytes()
            assert sample.map.read_bytes() == original.map.read_bytes()
    assert count == 10


def test_every_picture_of_a_copy_scores_as_its_original(copied, picture):
    originals = everything("synthetic", None)["test"]
    copies = loading.load("folder", copied(dataset="synthetic", n=15), "test")
    chosen = [originals[sample.name] for sample in copies]
    assert len(chosen) >= 3
    splits = [TruthSplit(samples) for samples in (chosen, copies)]
    assert splits[0].names == tuple(METRICS)
    for index, sample in enumerate(chosen):
        np.testing.assert_array_equal(sample_image(sample), sample_image(copies[index]))
        saliency_map = picture(*sample.shape)[..., 0] / 255
        scores = [split.truth(index).score(saliency_map) for split in splits]
        assert repr(scores[0]) == repr(scores[1])


def test_a_draw_comes_from_its_seed_alone(own, copied):
    settings = {"dataset": "folder", "data": own, "n": 10}
    names = {
        name: [s.name for split in everything("folder", folder).values() for s in split.values()]
        for name, folder in (
            ("first", copied("first", **settings, seed=42)),
            ("again", copied("again", **settings, seed=42)),
            ("other", copied("other", **settings, seed=43)),
        )
    }
    assert names["first"] == names["again"]
    assert sorted(names["first"]) != sorted(names["other"])


def test_splits_and_categories_keep_their_shares(own, copied):
    def counts(root):
        return {
            split: Counter(s.category for s in samples.values())
            for split, samples in everything("folder", root).items()
        }

    whole, half = counts(own), counts(copied(dataset="folder", data=own, n=10))
    assert {split: c.total() for split, c in whole.items()} == {"train": 14, "val": 2, "test": 4}
    assert {split: c.total() for split, c in half.items()} == {"train": 7, "val": 1, "test": 2}
    for split, parts in half.items():
        for category, count in parts.items():
            assert abs(count - whole[split][category] / 2) <= 1


@pytest.mark.parametrize("n", range(1, 41))
def test_shares_add_up_and_leave_nobody_out(n):
    sizes = {"train": 25, "val": 1, "test": 14}
    found = allocate(sizes, n)
    assert sum(found.values()) == n
    assert all(found[split] <= size for split, size in sizes.items())
    assert n < 3 or min(found.values()) >= 1


def test_all_of_a_set_is_every_picture_once(own, copied):
    copy = copied(dataset="folder", data=own, n=20)
    assert {k: list(v) for k, v in everything("folder", copy).items()} == {
        k: list(v) for k, v in everything("folder", own).items()
    }


def test_names_that_the_layout_does_not_have_stay_apart(tmp_path, copied, monkeypatch, picture):
    samples = []
    for i, name in enumerate(("A/1.jpg", "A-1.jpg", "B/1.jpg", "A/1.png")):
        path = tmp_path / f"{i}{Path(name).suffix}"
        cv2.imwrite(str(path), picture())
        fixations = np.full((1, 2), i, np.float32)
        samples.append(Sample(name, path, fixations=fixations, category=name[0]))
    monkeypatch.setattr(osie, "load", lambda root, split, plan: samples)
    monkeypatch.setattr(osie, "parts", lambda root: [])
    (tmp_path / "osie").mkdir()
    copy = copied(dataset="osie", data=tmp_path / "osie", n=12)
    found = loading.load("folder", copy, "train")
    assert {s.name for s in found} == {"A-1.jpg", "A-1-2.jpg", "B-1.jpg", "A-1-3.png"}
    for sample in found:
        original = samples[int(sample.fixations[0, 0])]
        assert sample.image.read_bytes() == original.image.read_bytes()
        assert sample.category == original.category


def test_maps_in_an_array_file_keep_their_every_bit(tmp_path, copied, rng):
    root = tmp_path / "arrays"
    root.mkdir()
    np.save(root / "images.npy", rng.integers(0, 256, (10, 20, 30, 3), dtype=np.uint8))
    np.save(root / "maps.npy", rng.random((10, 20, 30), np.float32))
    originals = everything("npy", root)
    copies = everything("folder", copied(dataset="npy", data=root, n=10))
    for split, samples in originals.items():
        assert list(samples) == list(copies[split])
        for name, sample in samples.items():
            found = copies[split][name]
            np.testing.assert_array_equal(sample_image(sample), sample_image(found))
            densities = [sample_density(s, (20, 30), None) for s in (sample, found)]
            np.testing.assert_array_equal(*densities)


def test_an_archive_is_drawn_from_and_nothing_else_is_left(own, copied, tmp_path):
    archive = tmp_path / "own.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(own, "own")
    copy = copied("x/copy", dataset="folder", data=archive, n=6)
    assert sum(len(samples) for samples in everything("folder", copy).values()) == 6
    assert [p.name for p in copy.parent.iterdir()] == ["copy"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 21}, "--n 21: the data set has 20 pictures"),
        ({"output": None}, "--output is required"),
        ({"data": Path("nowhere")}, "is not at nowhere"),
        ({"data": None}, "--data is needed"),
    ],
)
def test_bad_settings_are_one_error_and_leave_nothing(own, copied, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        copied(**{"dataset": "folder", "data": own, "n": 3, **changes})
    assert [p.name for p in tmp_path.iterdir()] == ["own"]


def test_what_is_there_is_not_touched(own, copied, tmp_path):
    with pytest.raises(UserError, match="own exists"):
        copied("own", dataset="folder", data=own, n=3)


def test_a_copy_that_breaks_off_is_not_there(own, copied, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(UserError, match=r"Cannot copy .*: No space left on device"):
        copied(dataset="folder", data=own, n=3)
    assert [p.name for p in tmp_path.iterdir()] == ["own"]


def test_a_store_is_not_drawn_from(own, copied, tmp_path):
    """Its pictures have lost their size."""
    store = tmp_path / "store"
    prepare(
        PrepareConfig(dataset="folder", data=own, rows=48, cols=64, output=store),
        say=lambda line: None,
    )
    with pytest.raises(UserError, match="is a store"):
        copied(dataset="folder", data=store, n=3)


def test_pictures_with_and_without_maps_do_not_mix(tmp_path, own, copied, monkeypatch):
    (own / "maps/p03.png").unlink()
    mixed = [
        Sample(f"p{i:02d}.jpg", own / f"images/p{i:02d}.jpg", own_map, np.ones((1, 2), np.float32))
        for i, own_map in ((2, own / "maps/p02.png"), (3, None))
    ]
    monkeypatch.setattr(folder_set, "load", lambda root, split, plan: mixed)
    with pytest.raises(UserError, match=r"1 of 2 train pictures have maps.*first without: p03"):
        copied(dataset="folder", data=own, n=6)


# --- what the folder's layout gained ---


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("[]", 'no object "pictures"'),
        ('{"pictures": {"p00.jpg": {"sigma_pixels": 0}}}', r"p00\.jpg has sigma_pixels 0; "),
        ('{"pictures": {"p00.jpg": {"sigma_pixels": "5"}}}', "has sigma_pixels '5'"),
        ('{"pictures": {"p00.jpg": {"shape": [40, 60.5]}}}', "has shape"),
        ('{"pictures": {"p00.jpg": {"colour": 1}}}', "has colour 1"),
        ('{"pictures": {"p00.jpg": 7}}', "has no object, but 7"),
    ],
)
def test_a_card_that_says_something_else_is_refused(own, card, message):
    (own / "dataset.json").write_text(card)
    with pytest.raises(UserError, match=message):
        loading.load("folder", own, "train")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"fixations": np.ones((3, 2)), "subjects": np.zeros(2, int)}, r"shape \(2,\); whole"),
        ({"fixations": np.ones((3, 2)), "subjects": np.full(3, 0.5)}, "no whole numbers"),
        ({"points": np.ones((3, 2))}, r"has no array .fixations"),
        ({"fixations": np.ones((3, 4))}, "3 x 4 numbers"),
    ],
)
def test_observers_that_do_not_fit_are_refused(own, arrays, message):
    np.savez(own / "fixations/p05.npz", **arrays)
    with pytest.raises(UserError, match=message):
        everything("folder", own)


def test_a_damaged_npz_is_named(own):
    path = own / "fixations/p05.npz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"p05\.npz cannot be read"):
        everything("folder", own)


def test_categories_are_drawn_from_in_proportion():
    samples = [Sample(str(i), Path(), category="abc"[min(i // 10, 2)]) for i in range(40)]
    found = Counter(s.category for s in draw_samples({"train": samples}, 8, seed=1)["train"])
    assert found == {"a": 2, "b": 2, "c": 4}

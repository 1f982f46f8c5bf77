"""Maps of others: whose file is whose, what its numbers are taken for, and what is refused."""

import os
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from commands.evaluation import evaluate
from commands.evaluation.map_sources import FolderMaps
from commands.evaluation.stored_maps import as_saliency, pair_maps, read_values
from commands.settings import CompareConfig, EvaluateConfig
from config import Config
from salience.data import loading
from salience.measures.metrics import METRICS, as_distribution, score
from salience.pictures.sample import Sample
from salience.system.errors import UserError
from salience.system.notes import Notes

SHAPE = (30, 40)


@pytest.fixture
def density(rng):
    """Return a density map, sum 1, with zeros nowhere."""
    return as_distribution(cv2.GaussianBlur(rng.random(SHAPE), (0, 0), 4) ** 8 + 1e-4)


def wanted(*names):
    return [Sample(name, Path(name)) for name in names]


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, np.eye(3)) if name.endswith(".npy") else (folder / name).touch()
    return folder


def found(folder, *pictures):
    """Return which file was paired with each picture, and the notes."""
    notes = Notes()
    files = pair_maps(folder, wanted(*pictures), notes)
    return {n: p.relative_to(folder).as_posix() for n, p in files.items()}, "\n".join(notes.lines())


# which file is whose


def test_maps_below_a_sub_folder_are_found_by_the_end_of_their_path(tmp_path):
    put(tmp_path, "pred/val/p0.png", "pred/val/p1.npy", "pred/val/a/b.png")
    files, notes = found(tmp_path, "p0.jpg", "p1.jpg", "a/b.jpg")
    assert files == {
        "p0.jpg": "pred/val/p0.png", "p1.jpg": "pred/val/p1.npy", "a/b.jpg": "pred/val/a/b.png",
    }  # fmt: skip
    assert "maps found in pred/val/, by the end of their path (3: a/b.jpg, p0.jpg, p1.jpg)" in notes


def test_a_path_below_the_folder_itself_comes_before_one_below_a_sub_folder(tmp_path):
    put(tmp_path, "p0.png", "old/p0.png")
    files, notes = found(tmp_path, "p0.jpg")
    assert files == {"p0.jpg": "p0.png"}
    assert "maps without a picture in the split: not used" in notes
    # and a map that is one picture's by its whole path is no other's by its end
    put(tmp_path / "b", "a/p1.png")
    assert found(tmp_path / "b", "a/p1.jpg", "p1.jpg")[0] == {"a/p1.jpg": "a/p1.png"}
    put(tmp_path / "c", "d/a/p1.png")
    assert found(tmp_path / "c", "p1.jpg", "a/p1.jpg")[0] == {"a/p1.jpg": "d/a/p1.png"}


def test_two_sub_folders_with_a_picture_s_name_are_refused_by_both_names(tmp_path):
    put(tmp_path, "test/p0.png", "val/p0.png")
    with pytest.raises(UserError, match=r"p0\.jpg may be test/p0\.png or val/p0\.png of .*name"):
        found(tmp_path, "p0.jpg")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_are_compared_in_unicode_s_composed_form(tmp_path, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    name = unicodedata.normalize(form, "é/Größe.jpg")
    put(tmp_path, unicodedata.normalize(other, "x/é/Größe.png"))
    assert list(found(tmp_path, name)[0]) == [name]
    assert list(found(tmp_path / "x", name)[0]) == [name]


def test_what_systems_leave_behind_is_no_map_and_other_files_are_named(tmp_path):
    put(tmp_path, "._p0.png", ".ipynb_checkpoints/p0.png", "__MACOSX/p0.png", "Thumbs.db",
        "sub/p0.png", "p0.pkl", "p1.pkl", "README")  # fmt: skip
    files, notes = found(tmp_path, "p0.jpg")
    assert files == {"p0.jpg": "sub/p0.png"}
    assert ".pkl files among the maps: not read (2: p0.pkl, p1.pkl)" in notes
    assert "nameless files among the maps: not read (README)" in notes
    assert "MACOSX" not in notes


def test_a_folder_without_a_fitting_name_says_what_it_holds(tmp_path):
    with pytest.raises(UserError, match=r"such as p0\.png\. It holds no \.npy, .*\.mat\."):
        found(put(tmp_path, "p0.h5"), "p0.jpg")
    put(tmp_path, *(f"map{i}.npy" for i in range(5)))
    with pytest.raises(UserError, match=r"It holds map0\.npy, map1\.npy, map2\.npy, \.\.\.\.$"):
        found(tmp_path, "p0.jpg")


# what a file holds


def test_one_array_of_an_npz_or_mat_file_is_read(tmp_path, density):
    np.savez_compressed(tmp_path / "a.npz", saliency=density)
    savemat(tmp_path / "b.mat", {"S": density}, do_compression=True)
    savemat(tmp_path / "c.mat", {"S": density}, format="4")
    savemat(tmp_path / "d.mat", {"S": np.round(density * 255).astype(np.uint8)})
    for name in ("a.npz", "b.mat", "c.mat"):
        np.testing.assert_array_equal(read_values(tmp_path / name), density)
    assert read_values(tmp_path / "d.mat").dtype == np.uint8


@pytest.mark.parametrize("suffix", [".npz", ".mat"])
def test_several_arrays_or_none_are_named(tmp_path, suffix):
    def write(name, **arrays):
        path = tmp_path / f"{name}{suffix}"
        if suffix == ".npz":
            np.savez(path, **arrays)
        else:
            savemat(path, arrays)
        return path

    two = write("two", a=np.ones(SHAPE), b=np.ones((2, 3), np.float32))
    with pytest.raises(UserError, match=r"holds 2 arrays \(a: float64 .*b: float32 of shape \(2"):
        read_values(two)
    with pytest.raises(UserError, match="holds 0 arrays"):
        read_values(write("none"))
    with pytest.raises(UserError, match=r"shape \(2, 3, 4\); a map is \[rows, columns\]"):
        read_values(write("deep", a=np.ones((2, 3, 4))))


def test_what_is_no_map_is_refused_in_one_line(tmp_path):
    np.save(tmp_path / "pickle.npy", np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "pickle.npz", a=np.array([{}], object))
    savemat(tmp_path / "struct.mat", {"S": {"map": np.ones((3, 3))}})
    savemat(tmp_path / "cell.mat", {"S": np.array([1, "a"], object)})
    (tmp_path / "torn.npz").write_bytes(b"PK\3\4")
    (tmp_path / "torn.mat").write_bytes(b"MATLAB 5.0" + bytes(130))
    (tmp_path / "late.mat").write_bytes(b"MATLAB 7.3".ljust(124) + b"\0\2IM")
    np.save(tmp_path / "empty.npy", np.zeros((0, 64)))
    np.save(tmp_path / "infinite.npy", np.full((3, 3), np.inf))
    for path in tmp_path.iterdir():
        with pytest.raises(UserError) as caught:
            read_values(path)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)


# what its numbers say


def scored(values, notes=None):
    return as_saliency(values, SHAPE, "p0", notes or Notes())


@pytest.mark.parametrize("kind", ["float64", "float32", "float16"])
@pytest.mark.parametrize(
    ("logarithm", "told"),
    [
        (np.log, "maps that are log-densities: scored as they are (p0)"),
        (lambda d: np.log(d) + 0.002, "maps of natural logarithms of densities: exponentiated"),
        (np.log2, "maps of logarithms to base 2 of densities: exponentiated (p0)"),
        (np.log10, "maps of logarithms to base 10 of densities: exponentiated (p0)"),
        (lambda d: np.log(d) - 3, "maps of only negative values that are not a log-density"),
        (lambda d: np.log(d / d.max()), "maps of only negative values"),
    ],
)  # fmt: skip
def test_log_densities_score_as_their_densities(density, logarithm, told, kind):
    notes = Notes()
    made = as_distribution(scored(logarithm(density).astype(kind), notes))
    np.testing.assert_allclose(made, density, rtol=0.05 if kind == "float16" else 1e-4)
    if kind == "float16" and "natural" in told:  # half floats are not exacter than that
        told = "log-densities: scored as they are"
    assert told in "\n".join(notes.lines())


def test_a_density_s_zeros_are_minus_infinity_as_logarithms(density):
    density[:5] = 0
    density /= density.sum()
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(as_distribution(scored(np.log(density))), density, rtol=1e-6)
    odd = np.where(density > 0, density, -np.inf)  # no logarithms
    with pytest.raises(UserError, match="non-finite"):
        scored(odd)


def test_other_negative_values_are_kept_and_told(density):
    notes = Notes()
    values = density / density.max() - 0.5
    np.testing.assert_array_equal(scored(values, notes), values)
    assert "maps with negative values that are not log-densities: unchanged" in notes.lines()[0]
    for positive in (density / density.max(), 255 * density, np.zeros(SHAPE)):
        notes = Notes()
        scored(positive, notes)
        assert notes.lines() == []
    scored(density, notes)
    assert notes.lines() == ["maps that are densities: scored as they are (p0)"]


def test_densities_of_test_precede_the_maps_beside_them(tmp_path):
    put(tmp_path, "p0.png", "p0.density.npy", "p0.npy", "sub/p1.jpg.density.npy", "p2.density.npy")
    files, _ = found(tmp_path, "p0.jpg", "sub/p1.jpg", "p2.density.jpg")
    assert files == {
        "p0.jpg": "p0.density.npy",
        "sub/p1.jpg": "sub/p1.jpg.density.npy",
        "p2.density.jpg": "p2.density.npy",  # the map of a picture of that name
    }


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        ((40, 30), False), ((30, 41), True), ((60, 80), True), ((15, 20), True), ((8, 10), True),
        ((300, 408), True), ((300, 412), False), ((30, 30), False), ((4, 3), False), ((1, 1), True),
    ],
)  # fmt: skip
def test_a_map_of_another_aspect_is_refused_with_both_shapes(rng, shape, fits):
    values = rng.random(shape)
    if fits:
        assert scored(values).shape == SHAPE
        return
    with pytest.raises(UserError) as caught:
        scored(values)
    assert f"{shape[1]} x {shape[0]} but its picture 40 x 30" in str(caught.value)
    assert "--stretch True" in str(caught.value)
    assert ("exchanged?" in str(caught.value)) == (shape == SHAPE[::-1])
    assert as_saliency(values, SHAPE, "p0", Notes(), stretch=True).shape == SHAPE


# as the command has it


@pytest.fixture
def data(tmp_path, density):
    """Return a set of three pictures in its test split, whose maps are `density`'s."""
    for i in range(3):
        for kind in ("images", "maps"):
            (tmp_path / f"set/test/{kind}").mkdir(parents=True, exist_ok=True)
        picture = np.full((*SHAPE, 3), 40 * i, np.uint8)
        cv2.imwrite(str(tmp_path / f"set/test/images/p{i}.png"), picture)
        truth = np.uint8(255 * np.roll(density, 5 * i, 1) / density.max())
        cv2.imwrite(str(tmp_path / f"set/test/maps/p{i}.png"), truth)
    return tmp_path / "set"


def run(data, maps, **settings):
    lines = []
    settings = {"metrics": "cc", "human": False, **settings}
    config = EvaluateConfig(dataset="folder", data=data, maps=maps, **settings)
    return evaluate.evaluate(config, say=lines.append), "\n".join(lines)


def test_a_fault_of_one_map_is_its_picture_s_alone(data, tmp_path, density):
    maps = tmp_path / "maps"
    maps.mkdir()
    np.save(maps / "p0.npy", np.zeros((0, 64)))
    np.save(maps / "p1.npy", density.T)
    np.save(maps / "p2.npy", np.full(SHAPE, 7.0))
    done, text = run(data, maps)
    assert done.left_out == ["p0.png", "p1.png"]
    assert "p0.npy holds float64 of shape (0, 64)" in text
    assert "p1.npy: the map is 30 x 40 but its picture 40 x 30 (are rows and col" in text
    assert "constant maps: their scores are at chance level (p2.png)" in text
    assert done.row("maps").means["cc"].mean == 0
    assert run(data, maps, stretch=True)[0].left_out == ["p0.png"]
    for i in range(3):
        np.save(maps / f"p{i}.npy", density.T)
    with pytest.raises(UserError, match=r"No picture has a map that can be scored.*30 x 40 but"):
        run(data, maps)


def test_a_map_of_tiny_or_huge_values_scores_as_its_multiples_blurred_or_not(data, tmp_path, rng):
    values = [rng.random(SHAPE) for _ in range(3)]
    for smooth in (0.0, 2.0):
        means = []
        for factor in (1.0, 1e-170, 1e-60, 1e60, 1e300):
            folder = tmp_path / f"{factor}"
            folder.mkdir(exist_ok=True)
            for i, one in enumerate(values):
                np.save(folder / f"p{i}.npy", factor * one)
            done, _ = run(data, folder, smooth=smooth)
            means.append(done.rows[0].means["cc"].mean)
        assert means == pytest.approx([means[0]] * 5)


def test_smoothing_adds_no_centre_bias(data, tmp_path):
    maps = tmp_path / "even"
    maps.mkdir()
    for i in range(3):
        cv2.imwrite(str(maps / f"p{i}.png"), np.full(SHAPE, 200, np.uint8))
    source = FolderMaps(maps, "m", loading.load("folder", data, "test"), Notes(), smooth=5.0)
    for saliency_map in source.maps(source.samples, [SHAPE] * 3):
        assert np.ptp(saliency_map) < 1e-3 * saliency_map.max()


def test_notes_on_maps_are_not_those_of_other_maps_in_the_same_folder(data, tmp_path, density):
    first, second, output = tmp_path / "first", tmp_path / "second", tmp_path / "out"
    for folder in (first, second):
        folder.mkdir()
    level = np.uint8(255 * density / density.max())
    cv2.imwrite(str(first / "p0.png"), level)
    cv2.imwrite(str(first / "p1.png"), np.zeros_like(level))
    for i in range(3):
        np.save(second / f"p{i}.npy", density)
    told = [run(data, maps, output=output)[1] for maps in (first, second, first)]
    for note in ("8-bit maps", "maps missing", "constant maps"):
        assert [note in text for text in told] == [True, False, True], note


@pytest.mark.parametrize("size", [1, 300_000])  # the second has more than 1 MB
def test_maps_that_were_replaced_are_another_source(tmp_path, size):
    values = np.zeros((size, 3, 2), np.float32)
    np.save(tmp_path / "p0.npy", values)
    before = FolderMaps(tmp_path, "m", wanted("p0.jpg"), Notes()).fingerprint()
    status = (tmp_path / "p0.npy").stat()
    values[size // 2] = 1
    np.save(tmp_path / "p0.npy", values)
    os.utime(tmp_path / "p0.npy", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert FolderMaps(tmp_path, "m", wanted("p0.jpg"), Notes()).fingerprint() != before


def test_stretching_is_for_maps():
    with pytest.raises(UserError, match="--stretch needs finished maps"):
        EvaluateConfig(stretch=True)


# which pictures are scored


def test_all_splits_are_scored_together_under_names_of_their_own(data, tmp_path, density):
    for kind in ("images", "maps"):
        (data / f"val/{kind}").mkdir(parents=True)
        for name in ("p0.png", "q.png"):
            (data / f"val/{kind}/{name}").write_bytes((data / f"test/{kind}/p0.png").read_bytes())
    maps = put(tmp_path / "maps", "val/.x")
    for name in ("val/p0", "test/p0", "p1", "p2", "q"):
        (maps / name).parent.mkdir(exist_ok=True)
        np.save(maps / f"{name}.npy", density)
    done, text = run(data, maps, split="all")
    assert done.pictures == ["val/p0.png", "q.png", "test/p0.png", "p1.png", "p2.png"]
    assert "folder, all splits: 5 pictures" in text
    assert "The train split is left out: " in text
    assert not done.left_out


def test_all_pictures_may_test_where_nothing_trains(data, tmp_path, density):
    flat = tmp_path / "flat"
    (data / "test").rename(flat)
    plan = EvaluateConfig(dataset="folder", data=flat, maps=tmp_path, test_share=1.0).plan
    assert len(loading.load("folder", flat, "test", plan)) == 3
    for split in ("train", "val"):
        with pytest.raises(UserError, match="no pictures"):
            loading.load("folder", flat, split, plan)
    assert CompareConfig(test_share=1.0).plan.test == 1
    with pytest.raises(UserError, match="leave no picture to train on"):
        Config(test_share=1.0)
    with pytest.raises(UserError, match="add up to more than all pictures"):
        EvaluateConfig(test_share=0.6, val_share=0.5)
    with pytest.raises(UserError, match=r"--test_share 1\.5 is too large"):
        EvaluateConfig(test_share=1.5)


def test_every_metric_of_a_log_density_is_its_density_s(density, rng):
    points = rng.uniform(0, 29, (40, 2))
    truth = cv2.GaussianBlur(rng.random(SHAPE), (0, 0), 3)
    about = {"others": points[::-1] / 2, "baseline": np.ones(SHAPE)}
    direct, through = (
        score(values, truth, points, tuple(METRICS), **about)
        for values in (density, scored(np.log(density)))
    )
    assert through == pytest.approx(direct)

"""Data sets as people have them: archives' own folders, names of other systems, unread files."""

import json
import unicodedata
from pathlib import Path

import cv2
import layouts
import numpy as np
import pytest
from scipy.io import savemat

from salience.data import loading, parts
from salience.data.plan import SPLITS
from salience.data.sets import folder, osie, salicon
from salience.pictures.picture_files import read_map
from salience.pictures.reading import sample_density
from salience.system.errors import UserError

NAME = "caf\u00e9\u0301 M\u00fcller"  # with two accents on one letter
DECOMPOSED = unicodedata.normalize("NFD", NAME)


def every(name, root):
    """Return the samples of all splits that have any, by name."""
    found = {}
    for split in SPLITS:
        try:
            found |= {s.name: s for s in loading.load(name, root, split, truth=False)}
        except UserError as error:
            assert "no pictures in its" in str(error) or "but no '" in str(error)
    return found


def own(root: Path, count=4, points=None, name="p{}", shape=(48, 64)) -> Path:
    """Write a set in the folder layout, fixations alone."""
    for i in range(count):
        stem = name.format(i)
        layouts.picture(root / "images" / f"{stem}.png", shape, seed=i)
        (root / "fixations").mkdir(exist_ok=True)
        of_picture = layouts.points_of(i, shape) if points is None else points
        np.save(root / "fixations" / f"{stem}.npy", of_picture)
    return root


def nest(path: Path) -> None:
    """Move a folder into one of its own name, as a file manager unpacks an archive, with a note."""
    moved = path.rename(path.with_name("moved"))
    path.mkdir()
    moved.rename(path / path.name)
    (path / "README.txt").write_text("x")
    (path / ".DS_Store").write_bytes(b"x")
    (path / "__MACOSX").mkdir()


# --- folders of archives ---


@pytest.mark.parametrize(
    ("name", "build", "nested"),
    [
        ("mit1003", layouts.mit1003, ["ALLSTIMULI", "ALLFIXATIONMAPS"]),
        ("mit300", layouts.mit300, ["BenchmarkIMAGES"]),
        ("cat2000", layouts.cat2000, ["trainSet/Stimuli", "trainSet/FIXATIONLOCS", "trainSet"]),
        ("salicon", layouts.salicon, ["images", "maps", "fixations/train", "fixations"]),
        ("osie", layouts.osie, ["data/stimuli", "data/eye", "data"]),
        ("toronto", layouts.toronto, ["eyetrackingdata/fixdens/Original Image Set",
                                      "eyetrackingdata"]),
        ("npy", lambda root: layouts.npy(root, folders=True), ["images", "maps"]),
        ("folder", own, ["images", "fixations"]),
    ],
)  # fmt: skip
def test_archives_unpacked_into_folders_of_their_own_names_are_read(tmp_path, name, build, nested):
    build(tmp_path)
    before = every(name, tmp_path)
    assert before
    for inner in nested:
        nest(tmp_path / inner)
    after = every(name, tmp_path)
    assert list(after) == list(before)
    for key, sample in after.items():
        assert (sample.map is None) == (before[key].map is None)
        np.testing.assert_array_equal(sample.fixations, before[key].fixations)
    assert not any("not read" in line for line in loading.remarks(name, tmp_path))


def test_a_folder_of_its_own_name_beside_pictures_is_not_taken_for_them(tmp_path):
    own(tmp_path)
    layouts.picture(tmp_path / "images/images/other.png")
    assert len(every("folder", tmp_path)) == 4
    assert any("1 .png in images/images/" in line for line in loading.remarks("folder", tmp_path))


# --- names ---


@pytest.mark.parametrize("pictures", ["NFC", "NFD"])
def test_names_pair_in_whichever_way_their_accents_are_written(tmp_path, pictures):
    other = "NFD" if pictures == "NFC" else "NFC"
    for i in range(3):
        stem = f"{NAME}{i}"
        layouts.picture(tmp_path / f"images/{unicodedata.normalize(pictures, stem)}.png", seed=i)
        layouts.density(
            tmp_path / f"maps/{unicodedata.normalize(other, stem)}.png", layouts.points_of(i)
        )
    card = {"pictures": {f"{unicodedata.normalize(other, NAME)}0.png": {"sigma_pixels": 3}}}
    (tmp_path / "dataset.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(card).encode())
    found = every("folder", tmp_path)
    composed = unicodedata.normalize("NFC", NAME)
    assert sorted(found) == [f"{composed}{i}.png" for i in range(3)]
    assert found[f"{composed}0.png"].sigma_pixels == 3
    assert all(sample.map.exists() for sample in found.values())


def test_categories_and_fixed_splits_pair_by_composed_names(tmp_path):
    layouts.cat2000(tmp_path / "cat")
    for kind, form in (("Stimuli", "NFD"), ("FIXATIONMAPS", "NFC"), ("FIXATIONLOCS", "NFD")):
        inner = tmp_path / "cat/trainSet" / kind
        (inner / "Art").rename(inner / unicodedata.normalize(form, NAME))
    assert len(every("cat2000", tmp_path / "cat")) == 30
    layouts.osie(tmp_path / "osie", count=3)
    stimuli = tmp_path / "osie/data/stimuli"
    (stimuli / "1001.jpg").rename(stimuli / f"{DECOMPOSED}.jpg")
    names = {f"{NAME}.jpg": 0}
    with pytest.raises(UserError, match="3 images but 3 fixation records"):
        osie.load(tmp_path / "osie", "train")
    split = {"train": [f"{NAME}.jpg"], "val": ["1002.jpg"], "test": ["1003.jpg"]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    known = [unicodedata.normalize("NFC", name) for name in (*names, "1002.jpg", "1003.jpg")]
    assert osie._names(tmp_path / "split.json", known)["train"] == known[:1]


def test_two_pictures_whose_names_differ_in_their_coding_alone_are_a_clash(tmp_path):
    own(tmp_path, 1, name=NAME)
    layouts.picture(tmp_path / "images" / f"{DECOMPOSED}.jpg")
    with pytest.raises(UserError, match="have one name"):
        folder.load(tmp_path, "train")


# --- what is read, and what is not ---


def test_maps_as_arrays_are_read_as_those_of_pictures(tmp_path):
    own(tmp_path)
    for i in range(4):
        layouts.density(tmp_path / "maps" / f"p{i}.png", layouts.points_of(i))
    pictures = {n: sample_density(s, (48, 64), None) for n, s in every("folder", tmp_path).items()}
    for path in sorted((tmp_path / "maps").iterdir()):
        np.save(path.with_suffix(".npy"), read_map(path) * 7)  # of any scale
        path.unlink()
    arrays = {n: sample_density(s, (48, 64), None) for n, s in every("folder", tmp_path).items()}
    for name, density in arrays.items():
        np.testing.assert_allclose(density, pictures[name], rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [(np.full((48, 64), -1.0), "below 0, down to -1"),
     (np.full((48, 64), np.nan), "finite numbers"),
     (np.ones((48, 64, 3)), "a map is")],
)  # fmt: skip
def test_arrays_that_are_no_map_are_refused(tmp_path, values, message):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(UserError, match=message):
        folder.read_array_map(tmp_path / "a.npy")


def test_salicon_masks_in_variable_i_are_read(tmp_path):
    known = layouts.salicon(tmp_path, None, maps=False)["train"]
    for name, points in known.items():
        path = tmp_path / "fixations/train" / f"{Path(name).stem}.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        savemat(path, {"I": layouts.mask_of(points)})
    [part] = [part for part in salicon.parts(tmp_path) if part.split == "train"]
    for sample in parts.samples(part):
        ours = {tuple(point) for point in sample.fixations.tolist()}
        assert ours == {tuple(point) for point in known[sample.name].tolist()}


def test_files_that_no_rule_takes_are_told_by_kind_number_and_first_name(tmp_path):
    own(tmp_path)
    (tmp_path / "maps").mkdir()
    for name in ("maps/a.exr", "maps/b.EXR", "maps/._a.exr", "notes.doc", "table.csv",
                 "LICENSE", "README.md", "fixations/.ipynb_checkpoints"):  # fmt: skip
        (tmp_path / name).write_text("x")
    lines = loading.remarks("folder", tmp_path)
    assert lines[0].startswith("not read: 2 .exr in maps/ (a.exr, ...); truth is read from maps/ (")
    assert lines[1:] == [
        "not read: 1 .csv in ./ (table.csv)",
        "not read: 1 .doc in ./ (notes.doc)",
    ]


def test_many_kinds_are_summed_up_and_large_trees_are_not_walked_to_their_end(
    tmp_path, monkeypatch
):
    own(tmp_path)
    for i in range(12):
        (tmp_path / f"a.k{i}").write_text("x")
    assert loading.remarks("folder", tmp_path)[-1] == (
        "not read: 4 files of other kinds and folders"
    )
    monkeypatch.setattr(parts, "MOST_ENTRIES", 5)
    *lines, last = loading.remarks("folder", tmp_path)
    assert len(lines) == 5
    assert "the first 5 were checked" in last


def test_links_that_lead_back_are_not_followed(tmp_path):
    own(tmp_path)
    (tmp_path / "images" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    assert loading.remarks("folder", tmp_path) == ["not read: 1 without suffix in ./ (self)"]


# --- points ---


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (
            np.array([[700.0, 400], [801, 500]]),
            r"None of the train .* \d+ fixations lies .*700",
        ),
        (np.array([[-20.0, 4], [-3, -5]]), "None of the train split's"),
        (np.array([[0.25, 0.5], [0.5, 0.125], [1.0, 0.0]]), "between -1 and 1.*shares"),
        (np.array([[-0.25, 0.5], [0.5, -0.125], [1.0, 0.0]]), "between -1 and 1.*shares"),
        (np.array([[0.25, 0.5]] * 30 + [[1.2, 0.5]]), "shares"),
        (np.zeros((0, 2)), "(has no|No) fixation"),
    ],
)
@pytest.mark.parametrize("rule", ["drop", "clip"])
def test_a_split_whose_fixations_are_not_in_its_pictures_is_refused(
    tmp_path, points, message, rule
):
    own(tmp_path, points=points)
    with pytest.raises(UserError, match=message):
        loading.load("folder", tmp_path, "train", out_of_bounds=rule)


@pytest.mark.parametrize(
    ("points", "shape"),
    [
        (np.array([[0.0, 0], [1, 1]]), (48, 64)),  # whole numbers are pixels
        (np.array([[0.25, 0.5], [30.5, 20]]), (48, 64)),
        (np.array([[0.25, 0.5]]), (8, 8)),
        (np.array([[700.0, 400], [5, 5]]), (48, 64)),  # some inside: told, and settled
    ],
)
def test_a_split_with_some_fixations_inside_is_not(tmp_path, points, shape):
    own(tmp_path, points=points, shape=shape)
    assert len(every("folder", tmp_path)) == 4


def test_points_elsewhere_are_copied_as_they_are_by_who_keeps_them(tmp_path):
    own(tmp_path, points=np.array([[700.0, 400]]))
    [first, *_] = loading.load("folder", tmp_path, "train", out_of_bounds="keep")
    assert first.fixations.tolist() == [[700, 400]]


def test_osie_leaves_out_the_copy_of_a_training_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(osie, "PUBLISHED", {"all": (10,)})
    monkeypatch.setattr(osie, "TWINS", ("1002", "1007"))
    layouts.osie(tmp_path)

    def names(split):
        return [sample.name for sample in loading.load("osie", tmp_path, split)]

    def fix(**splits):
        named = {split: [f"{name}.jpg" for name in names] for split, names in splits.items()}
        (tmp_path / "split.json").write_text(json.dumps(named))

    fix(train=["1001", "1007"], val=["1003"], test=["1002", "1004"])
    assert (names("train"), names("test")) == (["1001.jpg", "1007.jpg"], ["1004.jpg"])
    fix(train=["1002"], val=["1003", "1007"], test=["1004"])
    assert names("val") == ["1003.jpg"]
    fix(train=["1001"], val=["1003"], test=["1002", "1007"])  # a copy among the scored ones stays
    assert names("test") == ["1002.jpg", "1007.jpg"]
    (tmp_path / "split.json").unlink()
    splits = [names(split) for split in ("train", "val", "test")]
    assert sum(map(len, splits)) == 10
    assert any({"1002.jpg", "1007.jpg"} <= set(split) for split in splits)


def test_osies_gaussian_follows_the_width_of_its_pictures(tmp_path):
    layouts.osie(tmp_path)
    [sample, *_] = loading.load("osie", tmp_path, "train")
    width = cv2.imread(str(sample.image)).shape[1]
    assert sample.sigma_pixels == pytest.approx(24 * width / 800)


def test_osie_says_that_two_of_its_pictures_are_one(tmp_path, monkeypatch):
    monkeypatch.setattr(osie, "PUBLISHED", {"all": (10,)})
    monkeypatch.setattr(osie, "TWINS", ("1002", "1007"))
    layouts.osie(tmp_path)
    [line] = loading.remarks("osie", tmp_path)
    assert line.startswith("1002.jpg and 1007.jpg are the same picture")
    cv2.imwrite(str(tmp_path / "data/stimuli/new.jpg"), np.zeros((9, 9, 3), np.uint8))
    assert loading.remarks("osie", tmp_path) == []

import json
from itertools import chain

import cv2
import layouts
import numpy as np
import pytest
from conftest import SHARED, needs
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_matrix

from salience.data import fixation_files, loading
from salience.data.parts import divided
from salience.data.plan import SPLITS, Plan
from salience.data.sets import folder, osie, synthetic
from salience.pictures.headers import header_shape
from salience.pictures.reading import sample_image
from salience.pictures.sample import Sample
from salience.system.errors import UserError

# --- osie ---


@pytest.fixture
def osie_root(tmp_path):
    """Return OSIE's layout in miniature: 10 pictures, 2 observers with known fixations."""
    layouts.osie(tmp_path)
    return tmp_path


def test_osie_fixations_become_zero_based_to_the_pixel(osie_root):
    samples = {s.name: s for part in ("train", "val", "test") for s in osie.load(osie_root, part)}
    assert len(samples) == 10
    sample = samples["1004.jpg"]
    np.testing.assert_allclose(sample.fixations, [[0, 0], [39, 29], [3.5, 6.25]])
    assert sample.fixations.dtype == np.float32
    assert sample.subjects.tolist() == [0, 0, 1]
    assert sample.sigma_pixels == 24 * 64 / 800


def test_osie_is_found_a_folder_or_two_deeper_with_its_split(tmp_path):
    known = layouts.osie(tmp_path / "download/osie-master")
    split = {part: [name] for part, name in zip(("train", "val", "test"), known, strict=False)}
    (tmp_path / "download/osie-master/split.json").write_text(json.dumps(split))
    for part, names in split.items():
        assert [s.name for s in osie.load(tmp_path, part)] == names


def test_osie_split_file_is_obeyed(osie_root):
    (osie_root / "split.json").write_text(json.dumps({"train": ["1003.jpg", "1001.jpg"]}))
    assert [s.name for s in osie.load(osie_root, "train")] == ["1003.jpg", "1001.jpg"]
    with pytest.raises(UserError, match="has no list 'val'"):
        osie.load(osie_root, "val")
    (osie_root / "split.json").write_text(json.dumps({"train": ["9.jpg"]}))
    with pytest.raises(UserError, match=r"names 9\.jpg, which is not in"):
        osie.load(osie_root, "train")


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"train": "1001.jpg"}, "no list 'train' of file names"),
        ({"train": ["1001.jpg", 7]}, "no list 'train' of file names as texts"),
        ({"train": [["1001.jpg"]]}, "no list 'train' of file names as texts"),
        ({"train": ["1001.jpg", "1001.jpg"]}, r"names 1001\.jpg in 'train' twice"),
        (
            {"train": ["1001.jpg"], "test": ["1002.jpg", "1001.jpg"]},
            r"names 1001\.jpg in 'train' and 'test'",
        ),
        ([], "holds no splits"),
    ],
)
def test_osie_split_file_that_is_no_split_is_refused(osie_root, split, message):
    (osie_root / "split.json").write_text(json.dumps(split))
    with pytest.raises(UserError, match=message) as caught:
        osie.load(osie_root, "train")
    assert "\n" not in str(caught.value)


def test_osie_unpaired_picture_is_named(osie_root):
    (osie_root / "data/stimuli/1007.jpg").unlink()
    with pytest.raises(UserError, match=r"9 images but 10 .*first unpaired: 1007"):
        osie.load(osie_root, "train")


def test_osie_missing_parts_and_damaged_mat_are_named(osie_root):
    mat = osie_root / "data/eye/fixations.mat"
    mat.write_bytes(mat.read_bytes()[:200])
    with pytest.raises(UserError, match="cannot be read as OSIE's fixations"):
        osie.load(osie_root, "train")
    mat.unlink()
    with pytest.raises(UserError, match=r"fixations\.mat is missing.*--dataset synthetic"):
        osie.load(osie_root, "train")


@needs(SHARED / "osie")
def test_real_osie_has_the_published_counts():
    parts = {p: loading.load("osie", SHARED / "osie", p) for p in ("train", "val", "test")}
    assert {p: len(s) for p, s in parts.items()} == {"train": 450, "val": 50, "test": 199}
    samples = [s for part in parts.values() for s in part]
    assert len({s.name for s in samples}) == 699  # without 1279, the copy of a training picture
    points = np.concatenate([s.fixations for s in samples])
    assert len(points) == 98_321 - 119
    # the files' [1.2, 799.2] x [1.2, 599.2], counted from zero
    np.testing.assert_allclose(points.min(axis=0), [0.2, 0.2], atol=1e-4)
    np.testing.assert_allclose(points.max(axis=0), [798.2, 598.2], atol=1e-4)
    assert {s.subjects.max() for s in samples} == {14}
    assert sample_image(samples[0]).shape == (600, 800, 3)


def test_eyecrowd_is_of_osie_s_layout_with_a_gaussian_that_follows_the_width(tmp_path):
    known = layouts.osie(tmp_path)  # pictures 64 wide, in place of 1024
    samples = [s for part in SPLITS for s in loading.load("eyecrowd", tmp_path, part)]
    assert {s.name for s in samples} == set(known)
    assert {s.sigma_pixels for s in samples} == {26 * 64 / 1024}
    (tmp_path / "data/eye/fixations.mat").unlink()
    with pytest.raises(UserError, match=r"is not EyeCrowd's folder.*saliency-in-crowd"):
        loading.load("eyecrowd", tmp_path, "train")


@needs(SHARED / "eyecrowd")
def test_real_eyecrowd_has_the_published_counts():
    samples = [s for part in SPLITS for s in loading.load("eyecrowd", SHARED / "eyecrowd", part)]
    assert len(samples) == 500
    assert sum(len(s.fixations) for s in samples) == 126_348
    assert {s.sigma_pixels for s in samples} == {16.25}  # 26 at the full width


# --- folder ---


@pytest.fixture
def own(tmp_path, picture):
    """Return a function that fills a folder with images, maps and fixations."""

    def make(where="", count=10, kinds=("maps", "fixations"), infix="{kind}"):
        for i in range(count):
            for kind in ("images", *kinds):
                target = tmp_path / where / infix.format(kind=kind)
                target.mkdir(parents=True, exist_ok=True)
                if kind == "fixations":
                    np.save(target / f"p{i}.npy", np.array([[i, 2.0], [3.0, 4.0]]))
                else:
                    suffix = ".jpg" if kind == "images" else ".png"
                    cv2.imwrite(str(target / f"p{i}{suffix}"), picture())
        return tmp_path

    return make


def test_folder_is_split_by_a_seed_without_overlap(own):
    root = own()
    parts = {p: {s.name for s in folder.load(root, p, Plan(3))} for p in ("train", "val", "test")}
    assert {p: len(names) for p, names in parts.items()} == {"train": 7, "val": 1, "test": 2}
    assert len(set.union(*parts.values())) == 10
    assert parts["train"] == {s.name for s in folder.load(root, "train", Plan(3))}
    assert any(
        parts["train"] != {s.name for s in folder.load(root, "train", Plan(n))} for n in range(4)
    )


@pytest.mark.parametrize("where", [("train", "{kind}"), ("", "{kind}/train")])
def test_folder_with_its_own_split_in_either_nesting(own, where):
    root = own(where[0], 3, infix=where[1])
    samples = folder.load(root, "train")
    assert [s.name for s in samples] == ["p0.jpg", "p1.jpg", "p2.jpg"]
    assert samples[1].map.name == "p1.png"
    np.testing.assert_array_equal(samples[1].fixations, [[1, 2], [3, 4]])
    with pytest.raises(UserError, match="has the splits train, but no 'val'"):
        folder.load(root, "val")


@pytest.mark.parametrize("infix", ["{kind}", "{kind}/train", "train/{kind}"])
def test_folder_is_found_a_folder_or_two_deeper_with_its_card(own, infix):
    root = own("a/b", infix=infix)
    card = {"pictures": {f"p{i}.jpg": {"sigma_pixels": 3} for i in range(10)}}
    (root / "a/b/dataset.json").write_text(json.dumps(card))
    samples = folder.load(root, "train")
    assert len(samples) == (7 if infix == "{kind}" else 10)
    assert {s.sigma_pixels for s in samples} == {3}


def test_folder_needs_maps_or_fixations_not_both(own):
    root = own(kinds=("maps",))
    assert folder.load(root, "train")[0].fixations is None
    for path in (root / "maps").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="neither maps nor fixations"):
        folder.load(root, "train")


def test_folder_names_the_first_unpaired(own):
    root = own()
    (root / "maps/p4.png").unlink()
    with pytest.raises(UserError, match=r"10 images but 9 maps .*first unpaired: p4"):
        folder.load(root, "train")


def test_folder_refuses_two_pictures_of_one_name(own, picture):
    root = own()
    cv2.imwrite(str(root / "images/p4.png"), picture())
    with pytest.raises(UserError, match=r"p4\.png and p4\.jpg have one name"):
        folder.load(root, "train")


def test_empty_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="No images in"):
        loading.load("folder", tmp_path, "train")


@pytest.fixture
def blank(tmp_path_factory):
    """Return a function that writes a blank picture of a shape."""

    def write(*shape):
        path = tmp_path_factory.mktemp("blank") / "blank.png"
        cv2.imwrite(str(path), np.zeros(shape, np.uint8))
        return path

    return write


def test_fixation_files_of_every_form_give_the_same_points(tmp_path, blank):
    picture = blank(3, 6)
    expected = [[4, 1], [4, 1], [0, 2]]
    mask = np.zeros((3, 6))
    mask[1, 4], mask[2, 0] = 2, 1
    np.save(tmp_path / "points.npy", np.array(expected))
    np.save(tmp_path / "mask.npy", mask)
    savemat(tmp_path / "points.mat", {"fixations": np.array(expected) + 1})  # 1-based
    savemat(tmp_path / "mask.mat", {"fixLocs": mask.astype(np.uint8)})
    for path in sorted(tmp_path.iterdir()):
        found = fixation_files.parse(path, picture).fixations
        np.testing.assert_array_equal(found, expected, err_msg=path.name)


def test_a_sparse_mask_is_refused_in_one_line(tmp_path, blank):
    savemat(tmp_path / "m.mat", {"fixLocs": csc_matrix(np.eye(3))})
    with pytest.raises(UserError, match=r"m\.mat: 'fixLocs' is sparse\. Save it with .*full"):
        fixation_files.parse(tmp_path / "m.mat", blank(3, 3))


def test_white_mask_means_one_fixation_a_pixel(tmp_path, blank):
    np.save(tmp_path / "m.npy", np.diag([0, 255, 255, 0, 0, 0]).astype(np.uint8))
    found = fixation_files.parse(tmp_path / "m.npy", blank(6, 6))
    assert found.fixations.tolist() == [[1, 1], [2, 2]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((9, 4)), "9 x 4 numbers: neither points .* nor a mask of blank.png, which has 3"),
        (np.full((9, 3), 0.21), "three columns, of which the third .* as a duration does"),
        (np.arange(60).reshape(20, 3), "three columns, of which the third .* as a duration does"),
        (np.ones((2, 9)), "2 x 9 numbers"),  # points lying on their side
        (np.full((3, 6), -1), "negative or not finite: a density map"),
        (np.full((3, 6), 0.5), "values above 0 on 100% of its pixels: a density map"),
        (np.eye(3, 6) * 0.5, "fractions such as 0.5: a density map"),
        (np.eye(3, 6) * [[1], [2], [255]], "3 shades from 1 to 255: a density map"),
        (np.full((9, 2), np.nan), "not finite"),
    ],
)
def test_numbers_that_are_neither_points_nor_the_pictures_mask_are_refused(
    tmp_path, blank, values, message
):
    np.save(tmp_path / "f.npy", values)
    with pytest.raises(UserError, match=message):
        fixation_files.parse(tmp_path / "f.npy", blank(3, 6))


def test_pickled_and_shapeless_fixations_are_refused(tmp_path, blank):
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.save(tmp_path / "v.npy", np.zeros(5))
    savemat(tmp_path / "n.mat", {"points": np.zeros((2, 2))})
    for name, message in (
        ("o.npy", "cannot be read"),
        ("v.npy", r"shape \(5,\); points \[n, 2\] or a mask"),
        ("n.mat", "no variable 'fixLocs' or 'fixations'"),
    ):
        with pytest.raises(UserError, match=message):
            fixation_files.parse(tmp_path / name, blank(3, 3))


# --- synthetic and the rest ---


def test_synthetic_scenes_come_from_the_seed_alone():
    first, again, other = (synthetic.load(None, "train", Plan(s))[0] for s in (0, 0, 1))
    np.testing.assert_array_equal(sample_image(first), sample_image(again))
    np.testing.assert_array_equal(first.fixations, again.fixations)
    assert not np.array_equal(sample_image(first), sample_image(other))
    val = synthetic.load(None, "val")[0]
    assert not np.array_equal(sample_image(first), sample_image(val))


def test_synthetic_observers_look_at_what_pops_out():
    for index, sample in enumerate(synthetic.load(None, "train")):
        centres, target, _, _ = synthetic._layout((0, 0, index))
        near = np.linalg.norm(sample.fixations - centres[target], axis=1) < 12
        assert near.mean() > 0.4, sample.name
        image = sample_image(sample)
        limits = (image.shape[1] - 0.5, image.shape[0] - 0.5)
        assert (sample.fixations >= -0.5).all()
        assert (sample.fixations < limits).all()


def test_absent_data_is_answered_with_how_to_get_it(tmp_path):
    with pytest.raises(UserError, match=f"not at {tmp_path / 'x'}.*github.*--dataset synthetic"):
        loading.load("osie", tmp_path / "x", "train")
    with pytest.raises(UserError, match="--data is needed"):
        loading.load("osie", None, "train")


def test_divided_does_not_depend_on_the_order_of_names():
    names = [f"{i:03d}" for i in range(50)]
    assert divided(names, "test", Plan(1)) == divided(names[::-1], "test", Plan(1))


def test_split_is_stratified_by_category():
    names = [f"{i:03d}" for i in range(40)]
    categories = ["a"] * 20 + ["b"] * 20
    plan = Plan(seed=3, val=0.2, test=0.15)
    parts = {s: divided(names, s, plan, categories) for s in ("train", "val", "test")}
    assert sorted(chain(*parts.values())) == names
    for share, split in ((13, "train"), (4, "val"), (3, "test")):
        assert sum(name < "020" for name in parts[split]) == share
        assert sum(name >= "020" for name in parts[split]) == share


def test_every_picture_tests_in_exactly_one_fold():
    names = [f"{i:03d}" for i in range(23)]
    plans = [Plan(val=0.2, folds=5, fold=i) for i in range(5)]
    assert sorted(n for plan in plans for n in divided(names, "test", plan)) == names
    for plan in plans:
        parts = [divided(names, split, plan) for split in ("train", "val", "test")]
        assert sorted(chain(*parts)) == names


@pytest.mark.parametrize(
    ("rule", "expected"), [("drop", [[1, 2]]), ("clip", [[1, 2], [39, 0], [0, 29]])]
)
def test_fixations_outside_are_dropped_or_clipped_and_counted(tmp_path, picture, rule, expected):
    (tmp_path / "images").mkdir()
    (tmp_path / "fixations").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), picture(30, 40))
    points = np.array([[1, 2], [45.5, -3], [-1, 31]], np.float32)
    np.save(tmp_path / "fixations" / "a.npy", points)
    plan = Plan(val=0, test=0)
    [sample] = loading.load("folder", tmp_path, "train", plan, rule)
    assert sample.fixations.tolist() == expected
    assert (sample.outside, sample.shape) == (2, (30, 40))


def test_points_that_are_nowhere_lie_at_no_border():
    points = np.array([[np.nan, 3], [np.inf, 3], [9, 9]], np.float32)
    sample = Sample("a", lambda: np.zeros(0), fixations=points, shape=(5, 5))
    assert loading.bounded(sample, "clip").fixations.tolist() == [[4, 4]]
    assert loading.bounded(sample, "clip").outside == 3


def test_folds_of_a_set_with_its_own_split_are_refused(own):
    with pytest.raises(UserError, match="brings its own split, which --folds does not divide"):
        loading.load("folder", own(infix="{kind}/train"), "train", Plan(folds=5))


def test_a_picture_turned_away_from_its_truth_is_read_as_stored(tmp_path, picture):
    """CAT2000's Pattern/134.jpg says by EXIF that it is upright; its map lies on its side."""
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(30, 40)).save(path, exif=exif)
    assert sample_image(Sample("a.jpg", path)).shape == (40, 30, 3)
    assert sample_image(Sample("a.jpg", path, shape=(30, 40))).shape == (30, 40, 3)
    assert header_shape(path) == (40, 30)

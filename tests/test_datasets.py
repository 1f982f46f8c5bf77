import json

import cv2
import numpy as np
import pytest
from conftest import SHARED, needs
from scipy.io import savemat

import datasets
from datasets import folder, osie, seeded_split, synthetic
from errors import UserError
from pictures import sample_image

# --- osie ---


def struct(**fields):
    """Return a MATLAB struct of one element."""
    record = np.empty((1, 1), dtype=[(name, object) for name in fields])
    for name, value in fields.items():
        record[name][0, 0] = value
    return record


def cells(values):
    """Return a column of MATLAB cells."""
    column = np.empty((len(values), 1), object)
    for i, value in enumerate(values):
        column[i, 0] = value
    return column


@pytest.fixture
def osie_root(tmp_path, picture):
    """Return OSIE's layout in miniature: 10 pictures, 2 observers with known fixations."""
    (tmp_path / "data/stimuli").mkdir(parents=True)
    (tmp_path / "data/eye").mkdir()
    records = []
    for i in range(10):
        name = f"{1001 + i}.jpg"
        cv2.imwrite(str(tmp_path / "data/stimuli" / name), picture())
        first = struct(fix_x=np.array([[1.0, 40.0]]), fix_y=np.array([[1.0, 30.0]]),
                       fix_duration=np.array([[200.0, 300.0]]))  # fmt: skip
        second = struct(fix_x=np.array([[i + 1.5]]), fix_y=np.array([[7.25]]),
                        fix_duration=np.array([[100.0]]))  # fmt: skip
        records.append(struct(img=name, subjects=cells([first, second])))
    savemat(tmp_path / "data/eye/fixations.mat", {"fixations": cells(records)})
    return tmp_path


def test_osie_fixations_become_zero_based_to_the_pixel(osie_root):
    samples = {s.name: s for part in ("train", "val", "test") for s in osie.load(osie_root, part)}
    assert len(samples) == 10
    sample = samples["1004.jpg"]
    np.testing.assert_allclose(sample.fixations, [[0, 0], [39, 29], [3.5, 6.25]])
    assert sample.fixations.dtype == np.float32
    assert sample.subjects.tolist() == [0, 0, 1]
    assert sample.sigma_pixels == 24


def test_osie_split_file_is_obeyed(osie_root):
    (osie_root / "split.json").write_text(json.dumps({"train": ["1003.jpg", "1001.jpg"]}))
    assert [s.name for s in osie.load(osie_root, "train")] == ["1003.jpg", "1001.jpg"]
    with pytest.raises(UserError, match="has no list 'val'"):
        osie.load(osie_root, "val")
    (osie_root / "split.json").write_text(json.dumps({"train": ["9.jpg"]}))
    with pytest.raises(UserError, match=r"names 9\.jpg, which is not in"):
        osie.load(osie_root, "train")


def test_osie_unpaired_picture_is_named(osie_root):
    (osie_root / "data/stimuli/1007.jpg").unlink()
    with pytest.raises(UserError, match=r"9 images but 10 .*first unpaired: 1007\.jpg"):
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
    parts = {p: datasets.load("osie", SHARED / "osie", p) for p in ("train", "val", "test")}
    assert {p: len(s) for p, s in parts.items()} == {"train": 450, "val": 50, "test": 200}
    samples = [s for part in parts.values() for s in part]
    assert len({s.name for s in samples}) == 700
    points = np.concatenate([s.fixations for s in samples])
    assert len(points) == 98_321
    # the files' [1.2, 799.2] x [1.2, 599.2], counted from zero
    np.testing.assert_allclose(points.min(axis=0), [0.2, 0.2], atol=1e-4)
    np.testing.assert_allclose(points.max(axis=0), [798.2, 598.2], atol=1e-4)
    assert {s.subjects.max() for s in samples} == {14}
    assert sample_image(samples[0]).shape == (600, 800, 3)


@needs(SHARED / "eyecrowd")
def test_eyecrowd_loads_through_the_same_layout():
    samples = [s for p in ("train", "val", "test") for s in osie.load(SHARED / "eyecrowd", p)]
    assert len(samples) == 500
    assert sum(len(s.fixations) for s in samples) == 126_348


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
    parts = {p: {s.name for s in folder.load(root, p, 3)} for p in ("train", "val", "test")}
    assert {p: len(names) for p, names in parts.items()} == {"train": 7, "val": 1, "test": 2}
    assert len(set.union(*parts.values())) == 10
    assert parts["train"] == {s.name for s in folder.load(root, "train", 3)}
    assert any(parts["train"] != {s.name for s in folder.load(root, "train", n)} for n in range(4))


@pytest.mark.parametrize("where", [("train", "{kind}"), ("", "{kind}/train")])
def test_folder_with_its_own_split_in_either_nesting(own, where):
    root = own(where[0], 3, infix=where[1])
    samples = folder.load(root, "train")
    assert [s.name for s in samples] == ["p0.jpg", "p1.jpg", "p2.jpg"]
    assert samples[1].map.name == "p1.png"
    np.testing.assert_array_equal(samples[1].fixations, [[1, 2], [3, 4]])
    with pytest.raises(UserError, match="has the splits train, but no 'val'"):
        folder.load(root, "val")


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
        datasets.load("folder", tmp_path, "train")


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
        found = folder.read_fixations(path, picture)
        np.testing.assert_array_equal(found, expected, err_msg=path.name)


def test_white_mask_means_one_fixation_a_pixel(tmp_path, blank):
    np.save(tmp_path / "m.npy", np.diag([0, 255, 255]).astype(np.uint8))
    assert folder.read_fixations(tmp_path / "m.npy", blank(3, 3)).tolist() == [[1, 1], [2, 2]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((9, 3)), "9 x 3 numbers: neither points .* nor a mask of blank.png, which has 3"),
        (np.ones((2, 9)), "2 x 9 numbers"),  # points lying on their side
        (np.full((3, 6), -1), "not all of them are 0, 1, 2"),
        (np.full((3, 6), 0.5), "not all of them are 0, 1, 2"),
        (np.full((9, 2), np.nan), "not finite"),
    ],
)
def test_numbers_that_are_neither_points_nor_the_pictures_mask_are_refused(
    tmp_path, blank, values, message
):
    np.save(tmp_path / "f.npy", values)
    with pytest.raises(UserError, match=message):
        folder.read_fixations(tmp_path / "f.npy", blank(3, 6))


def test_pickled_and_shapeless_fixations_are_refused(tmp_path, blank):
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.save(tmp_path / "v.npy", np.zeros(5))
    savemat(tmp_path / "n.mat", {"points": np.zeros((2, 2))})
    for name, message in (
        ("o.npy", "cannot be read"),
        ("v.npy", r"shape \(5,\); points \[n, 2\] or a mask"),
        ("n.mat", "no variable 'fixations' or 'fixLocs'"),
    ):
        with pytest.raises(UserError, match=message):
            folder.read_fixations(tmp_path / name, blank(3, 3))


# --- synthetic and the rest ---


def test_synthetic_scenes_come_from_the_seed_alone():
    first, again, other = (synthetic.load(None, "train", s)[0] for s in (0, 0, 1))
    np.testing.assert_array_equal(sample_image(first), sample_image(again))
    np.testing.assert_array_equal(first.fixations, again.fixations)
    assert not np.array_equal(sample_image(first), sample_image(other))
    val = synthetic.load(None, "val", 0)[0]
    assert not np.array_equal(sample_image(first), sample_image(val))


def test_synthetic_observers_look_at_what_pops_out():
    for index, sample in enumerate(synthetic.load(None, "train", 0)):
        centres, target, _, _ = synthetic._layout((0, 0, index))
        near = np.linalg.norm(sample.fixations - centres[target], axis=1) < 12
        assert near.mean() > 0.4, sample.name
        image = sample_image(sample)
        limits = (image.shape[1] - 0.5, image.shape[0] - 0.5)
        assert (sample.fixations >= -0.5).all()
        assert (sample.fixations < limits).all()


def test_absent_data_is_answered_with_how_to_get_it(tmp_path):
    with pytest.raises(UserError, match=f"not at {tmp_path / 'x'}.*github.*--dataset synthetic"):
        datasets.load("osie", tmp_path / "x", "train")
    with pytest.raises(UserError, match="--data is needed"):
        datasets.load("osie", None, "train")


def test_seeded_split_does_not_depend_on_the_order_of_names():
    names = [f"{i:03d}" for i in range(50)]
    assert seeded_split(names, "test", 1) == seeded_split(names[::-1], "test", 1)

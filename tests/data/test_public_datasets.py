import json
import shutil
from itertools import chain
from pathlib import Path

import cv2
import layouts
import numpy as np
import pytest
from conftest import SHARED, needs
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_matrix

from salience.data import loading
from salience.data import points as _points
from salience.data.plan import SPLITS, Plan
from salience.data.sets import cat2000, mit300, npy, salicon, toronto
from salience.pictures.fixations import density_map
from salience.pictures.picture_files import read_map
from salience.pictures.reading import sample_density, sample_image
from salience.system.errors import UserError

FORMS = ("mat2015", "mat2017", "png", "json")


def every(name, root):
    """Return the samples of all splits by name."""
    return {s.name: s for split in SPLITS for s in loading.load(name, root, split)}


def assert_points(samples, known):
    assert samples.keys() == known.keys()
    for name, points in known.items():
        found = samples[name].fixations
        assert found.dtype == np.float32
        assert sorted(found.tolist()) == sorted(points.tolist()), name


# --- salicon ---


@pytest.mark.parametrize("form", FORMS)
def test_salicon_fixations_of_every_form_are_the_same_to_the_pixel(tmp_path, form):
    known = layouts.salicon(tmp_path, form)
    for split in ("train", "val"):
        samples = {s.name: s for s in loading.load("salicon", tmp_path, split)}
        assert_points(samples, known[split])
        for name, sample in samples.items():
            assert sample.shape == layouts.SHAPE
            assert sample.sigma_pixels == 19
            assert sample.map == (tmp_path / "maps" / split / name).with_suffix(".png")
            # one observer made the first point, another the rest, and a third none
            who = None if form == "png" else [0, 1, 1, 1, 1]
            assert (sample.subjects if who is None else sample.subjects.tolist()) == who


def test_salicon_pictures_may_all_lie_in_one_folder(tmp_path):
    known = layouts.salicon(tmp_path, flat=True)
    for split in ("train", "val"):
        samples = {s.name: s for s in loading.load("salicon", tmp_path, split)}
        assert_points(samples, known[split])
    assert len(salicon.submission_pictures(tmp_path)) == 2


def test_salicon_maps_or_fixations_alone_are_enough(tmp_path):
    layouts.salicon(tmp_path / "maps", form=None)
    layouts.salicon(tmp_path / "fixations", maps=False)
    for sample in loading.load("salicon", tmp_path / "maps", "val"):
        assert sample.fixations is None
    for sample in loading.load("salicon", tmp_path / "fixations", "val"):
        assert sample.map is None


def test_salicon_is_found_a_folder_deeper(tmp_path):
    known = layouts.salicon(tmp_path / "SALICON" / "2017")
    (tmp_path / "__MACOSX" / "images").mkdir(parents=True)
    samples = {s.name: s for s in loading.load("salicon", tmp_path, "val")}
    assert_points(samples, known["val"])


def test_salicon_test_pictures_are_for_submissions_alone(tmp_path):
    layouts.salicon(tmp_path)
    names = [s.name for s in salicon.submission_pictures(tmp_path)]
    assert names == ["COCO_test2014_000000000201.jpg", "COCO_test2014_000000000202.jpg"]
    assert [s.name for s in loading.load("salicon", tmp_path, "test", truth=False)] == names
    with pytest.raises(UserError, match="test split of salicon comes without maps and fixations"):
        loading.load("salicon", tmp_path, "test")
    shutil.rmtree(tmp_path / "images" / "test")
    with pytest.raises(UserError, match="has no images/test"):
        salicon.submission_pictures(tmp_path)


def test_salicon_train_alone_is_divided_and_says_so(tmp_path):
    known = layouts.salicon(tmp_path, counts={"train": 10})
    assert_points(every("salicon", tmp_path), known["train"])
    counts = [len(loading.load("salicon", tmp_path, split)) for split in SPLITS]
    assert counts == [7, 1, 2]
    assert loading.remarks("salicon", tmp_path) == [
        "only the train split is there: it is divided by --val_share and --test_share"
    ]


def test_salicon_says_what_is_missing(tmp_path):
    with pytest.raises(UserError, match=r"No pictures in .*images.*salicon\.net"):
        loading.load("salicon", tmp_path, "train")
    layouts.salicon(tmp_path, form=None, maps=False)
    with pytest.raises(UserError, match=r"should be in .*: maps/train, fixations/train or fix"):
        loading.load("salicon", tmp_path, "train")


def test_salicon_unpaired_and_damaged_files_are_named(tmp_path):
    layouts.salicon(tmp_path)
    mat = tmp_path / "fixations/train/COCO_train2014_000000000002.mat"
    whole = mat.read_bytes()
    mat.write_bytes(whole[:300])
    with pytest.raises(UserError, match=r"0002\.mat cannot be read as SALICON's fixations"):
        loading.load("salicon", tmp_path, "train")
    savemat(mat, {"gaze": np.zeros((2, 2))})
    with pytest.raises(UserError, match=r"0002\.mat is not of SALICON's layout"):
        loading.load("salicon", tmp_path, "train")
    mat.write_bytes(whole)
    (tmp_path / "maps/train/COCO_train2014_000000000003.png").unlink()
    with pytest.raises(UserError, match=r"4 images but 3 maps .*first unpaired: COCO_.*0003"):
        loading.load("salicon", tmp_path, "train")


@pytest.mark.parametrize("shape", [(3, 3), (2, 6), (1, 4), (2, 2, 2)])
def test_salicon_points_that_are_no_pairs_are_refused(tmp_path, shape):
    layouts.salicon(tmp_path)
    name = "COCO_train2014_000000000002"
    record = layouts.salicon_mat(name, np.ones((2, 2)), columns=False)
    record["gaze"]["fixations"][0, 0] = np.ones(shape)
    savemat(tmp_path / f"fixations/train/{name}.mat", record)
    with pytest.raises(UserError, match=r"0002\.mat is not of SALICON's layout \(points of shape"):
        loading.load("salicon", tmp_path, "train")


@pytest.mark.parametrize("own", [[[1, 2, 3], [4, 5, 6]], [1, 2], [[[1, 2], [3, 4]]], [[1], [2]]])
def test_salicon_json_points_that_are_no_pairs_are_refused(tmp_path, own):
    layouts.salicon(tmp_path, "json")
    file = tmp_path / "fixations_train2014.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["fixations"] = own
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"SALICON API's layout \(ValueError: points of shape"):
        loading.load("salicon", tmp_path, "train")


def test_a_folder_that_may_not_be_read_holds_nothing(tmp_path, monkeypatch):
    known = layouts.salicon(tmp_path / "set")
    listed, looked = Path.iterdir, Path.is_dir
    (tmp_path / "closed").mkdir()

    def refuse(path):
        if "closed" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", lambda path: refuse(path) or listed(path))
    monkeypatch.setattr(
        Path, "is_dir", lambda path: (path.parent.name == "closed" and refuse(path)) or looked(path)
    )
    samples = {s.name: s for s in loading.load("salicon", tmp_path, "val")}
    assert_points(samples, known["val"])


def test_salicon_json_of_another_layout_is_refused(tmp_path):
    layouts.salicon(tmp_path, "json")
    file = tmp_path / "fixations_train2014.json"
    for content, message in (
        ('{"images": []', "is not valid JSON"),
        ('{"images": [{}], "annotations": []}', "not of the SALICON API's layout"),
        ("[1]", "not of the SALICON API's layout"),
        ('{"images": [], "annotations": [{"image_id": 3}]}', "not of the SALICON API's layout"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            loading.load("salicon", tmp_path, "train")


def test_salicon_observers_win_over_masks_and_it_is_said(tmp_path):
    layouts.salicon(tmp_path, "png")
    layouts.salicon(tmp_path, "mat2017")
    assert loading.load("salicon", tmp_path, "train")[0].subjects is not None
    assert loading.remarks("salicon", tmp_path) == [
        "train: fixations as .mat files and masks; the .mat files are read",
        "val: fixations as .mat files and masks; the .mat files are read",
    ]


def test_salicon_says_which_of_several_json_files_is_read(tmp_path):
    layouts.salicon(tmp_path, "json")
    (tmp_path / "annotations").mkdir()
    shutil.copy(tmp_path / "fixations_val2014.json", tmp_path / "annotations")
    assert loading.remarks("salicon", tmp_path) == [
        "val: fixations_val2014.json is read; annotations/fixations_val2014.json is left aside"
    ]


def test_salicon_points_outside_are_settled_as_asked(tmp_path):
    layouts.salicon(tmp_path, counts={"train": 1, "val": 1})
    name = "COCO_train2014_000000000001"
    points = np.array([[64.0, 10], [3, 4], [-2, 48]])
    savemat(
        tmp_path / f"fixations/train/{name}.mat", layouts.salicon_mat(name, points, columns=False)
    )
    [dropped] = loading.load("salicon", tmp_path, "train")
    assert (dropped.fixations.tolist(), dropped.outside) == ([[3, 4]], 2)
    assert dropped.subjects.tolist() == [1]
    [clipped] = loading.load("salicon", tmp_path, "train", out_of_bounds="clip")
    assert (clipped.fixations.tolist(), clipped.outside) == ([[63, 10], [3, 4], [0, 47]], 2)


@needs(SHARED / "salicon_api")
def test_the_salicon_apis_own_sample_loads_and_trains():
    root = SHARED / "salicon_api"
    samples = every("salicon", root)
    assert len(samples) == 10
    assert len(loading.load("salicon", root, "train")) == 7
    content = json.loads((root / "annotations/fixations_train2014examples.json").read_text())
    first = content["images"][0]
    sample = samples[first["file_name"]]
    points = [
        [x - 1, y - 1]
        for annotation in content["annotations"]
        if annotation["image_id"] == first["id"]
        for y, x in annotation["fixations"]
    ]
    assert sorted(sample.fixations.tolist()) == sorted(points)
    assert sample.shape == sample_image(sample).shape[:2] == (480, 640)
    workers = {a["worker_id"] for a in content["annotations"] if a["image_id"] == first["id"]}
    assert set(sample.subjects) == set(range(len(workers)))
    total = sum(len(a["fixations"]) for a in content["annotations"])
    assert sum(len(s.fixations) + s.outside for s in samples.values()) == total


def test_the_published_map_is_the_gaussian_of_19_pixels(tmp_path):
    """What SALICON's maps are, as our density map makes them, to the rounding of 8 bits."""
    layouts.salicon(tmp_path, "png", counts={"train": 1, "val": 1})
    [sample] = loading.load("salicon", tmp_path, "train")
    grey = np.round(density_map(sample.fixations, layouts.SHAPE, 19) * 255).astype(np.uint8)
    cv2.imwrite(str(sample.map), grey)
    again = sample_density(sample, layouts.SHAPE, salicon.SIGMA_PIXELS)
    np.testing.assert_allclose(read_map(sample.map), again, atol=0.51 / 255)


def test_a_density_map_among_the_masks_is_refused(tmp_path):
    layouts.salicon(tmp_path, "png")
    name = "train/COCO_train2014_000000000003.png"
    shutil.copy(tmp_path / "maps" / name, tmp_path / "fixations" / name)
    with pytest.raises(UserError, match=r"0003\.png holds values above 0 on \d+% .* a density map"):
        loading.load("salicon", tmp_path, "train")


# --- the cache of parsed fixations ---


def test_fixations_are_parsed_once_and_again_when_a_file_changes(tmp_path, monkeypatch):
    known = layouts.salicon(tmp_path)
    seen = []
    original = salicon.read_mat
    monkeypatch.setattr(salicon, "read_mat", lambda *a: seen.append(a[0]) or original(*a))
    for _ in range(2):
        samples = {s.name: s for s in loading.load("salicon", tmp_path, "train")}
        assert_points(samples, known["train"])
        assert samples[min(samples)].subjects.tolist() == [0, 1, 1, 1, 1]
    assert len(seen) == 4
    name = "COCO_train2014_000000000002"
    path = tmp_path / f"fixations/train/{name}.mat"
    savemat(path, layouts.salicon_mat(name, np.array([[9.0, 9]]), columns=False))
    samples = {s.name: s for s in loading.load("salicon", tmp_path, "train")}
    assert samples[f"{name}.jpg"].fixations.tolist() == [[9, 9]]
    assert len(seen) == 8


def test_an_unwritable_cache_only_costs_time(tmp_path, monkeypatch):
    known = layouts.salicon(tmp_path / "data")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SALIENCY_CACHE", str(tmp_path / "file"))
    samples = {s.name: s for s in loading.load("salicon", tmp_path / "data", "val")}
    assert_points(samples, known["val"])


def test_a_picture_without_fixations_and_one_without_observers_survive_the_cache(tmp_path):
    nothing = np.zeros((0, 2), np.float32)
    looks = {
        "none": _points.Looks(nothing),
        "Category/b ü": _points.Looks(np.ones((2, 2), np.float32), np.array([0, 4]), (3, 5)),
        "c": _points.Looks(np.full((1, 2), -7.5, np.float32), None, (1, 2)),
        "last": _points.Looks(nothing, np.zeros(0, np.int32)),
        "timed": _points.Looks(
            np.ones((2, 2), np.float32), None, None, np.array([4, np.nan], np.float32)
        ),
    }
    again = _points._unpacked(_points._packed(looks))
    assert list(again) == list(looks)
    for name, kept in looks.items():
        assert again[name].shape == kept.shape
        for field in ("fixations", "subjects", "times", "durations"):
            found, expected = getattr(again[name], field), getattr(kept, field)
            assert (found is None) == (expected is None)
            np.testing.assert_array_equal(found, expected)


# --- cat2000 ---


@pytest.mark.parametrize("variable", ["fixLocs", "fixations"])
def test_cat2000_fixations_categories_and_maps(tmp_path, variable):
    known = layouts.cat2000(tmp_path, variable=variable)
    samples = every("cat2000", tmp_path)
    assert_points(samples, known)
    sample = samples["Art/003.jpg"]
    assert sample.category == "Art"
    assert sample.map == tmp_path / "trainSet/FIXATIONMAPS/Art/003.jpg"
    assert (sample.subjects, sample.shape, sample.sigma_pixels) == (None, layouts.SHAPE, 38)
    assert not any("Output" in name for name in samples)


@pytest.mark.parametrize(
    "plan", [Plan(val=0.2, test=0.1), Plan(1, 0.1, 0.2), Plan(2, 0.25, folds=5, fold=4)]
)
def test_cat2000_splits_are_stratified_by_category(tmp_path, plan):
    layouts.cat2000(tmp_path)
    parts = [loading.load("cat2000", tmp_path, split, plan) for split in SPLITS]
    assert len({s.name for s in chain(*parts)}) == sum(map(len, parts)) == 30
    for part in parts:
        counts = {sum(s.category == category for s in part) for category in layouts.CATEGORIES}
        assert counts == {len(part) / 3}


def test_cat2000_picture_with_a_wrong_exif_turn_is_read_as_it_was_shown(tmp_path):
    layouts.cat2000(tmp_path)
    shutil.rmtree(tmp_path / "trainSet/FIXATIONLOCS")  # the size of the map decides
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in ("trainSet/Stimuli/Pattern/004.jpg", "testSet/Stimuli/Pattern/132.jpg"):
        with Image.open(tmp_path / path) as picture:
            picture.save(tmp_path / path, exif=exif)
    samples = every("cat2000", tmp_path)
    assert sample_image(samples["Pattern/004.jpg"]).shape == (*layouts.SHAPE, 3)
    pictures = {s.name: s for s in cat2000.submission_pictures(tmp_path)}
    assert sample_image(pictures["Pattern/132.jpg"]).shape == (*layouts.SHAPE, 3)


def test_cat2000_test_pictures_are_for_submissions_alone(tmp_path):
    layouts.cat2000(tmp_path)
    pictures = cat2000.submission_pictures(tmp_path)
    assert [s.name for s in pictures][:3] == ["Action/131.jpg", "Action/132.jpg", "Art/131.jpg"]
    assert {s.category for s in pictures} == set(layouts.CATEGORIES)
    assert not {s.name for s in pictures} & every("cat2000", tmp_path).keys()
    shutil.rmtree(tmp_path / "testSet")
    with pytest.raises(UserError, match="has no testSet/Stimuli"):
        cat2000.submission_pictures(tmp_path)


def test_cat2000_sparse_mask_is_named(tmp_path):
    layouts.cat2000(tmp_path)
    savemat(tmp_path / "trainSet/FIXATIONLOCS/Art/002.mat", {"fixLocs": csc_matrix(np.eye(3))})
    with pytest.raises(UserError, match=r"Art/002\.mat: 'fixLocs' is sparse"):
        loading.load("cat2000", tmp_path, "train")


def test_cat2000_bad_input_is_named(tmp_path):
    with pytest.raises(UserError, match=r"No pictures in .*trainSet.Stimuli.*trainSet\.zip"):
        loading.load("cat2000", tmp_path, "train")
    layouts.cat2000(tmp_path)
    mat = tmp_path / "trainSet/FIXATIONLOCS/Art/002.mat"
    savemat(mat, {"fixLocs": np.full(layouts.SHAPE, 0.5)})
    with pytest.raises(UserError, match=r"Art/002\.mat holds .*: a density map rather than fix"):
        loading.load("cat2000", tmp_path, "train")
    mat.unlink()
    with pytest.raises(UserError, match=r"30 images but 29 fixation records .*: Art/002"):
        loading.load("cat2000", tmp_path, "train")
    shutil.rmtree(tmp_path / "trainSet/Stimuli")
    with pytest.raises(UserError, match="only pictures without truth, but no 'train'"):
        loading.load("cat2000", tmp_path, "train")


# --- mit1003 and mit300 ---


def test_mit1003_jpeg_masks_give_their_white_pixels(tmp_path):
    known = layouts.mit1003(tmp_path)
    samples = every("mit1003", tmp_path)
    assert_points(samples, known)  # the one without an underscore, too
    for sample in samples.values():
        assert sample_image(sample).shape[:2] == sample.shape == read_map(sample.map).shape


def test_mit1003_file_with_the_underscore_wins_over_the_one_without_and_it_is_said(tmp_path):
    known = layouts.mit1003(tmp_path)
    folder = tmp_path / "ALLFIXATIONMAPS"
    shutil.copy(folder / "i1001_fixPts.jpg", folder / "i1000fixPts.jpg")  # of another picture
    assert_points(every("mit1003", tmp_path), known)
    assert loading.remarks("mit1003", tmp_path) == [
        "i1000fixPts.jpg is ignored: i1000_fixPts.jpg belongs to the same picture"
    ]


@pytest.mark.parametrize("stem", ["i1000_fixPts", "i1003fixPts"])
def test_mit1003_two_files_of_equal_right_are_named(tmp_path, stem):
    layouts.mit1003(tmp_path)
    folder = tmp_path / "ALLFIXATIONMAPS"
    shutil.copy(folder / f"{stem}.jpg", folder / f"{stem}.png")
    with pytest.raises(UserError, match=rf"{stem}\.png and {stem}\.jpg belong to one"):
        loading.load("mit1003", tmp_path, "train")


def test_mit1003_folds_test_every_picture_once(tmp_path):
    known = layouts.mit1003(tmp_path)
    plans = [Plan(val=0.2, folds=4, fold=fold) for fold in range(4)]
    tested = [s.name for p in plans for s in loading.load("mit1003", tmp_path, "test", p)]
    assert sorted(tested) == sorted(known)


def test_mit300_is_pictures_alone(tmp_path):
    names = layouts.mit300(tmp_path)
    (tmp_path / "BenchmarkIMAGES/SM").mkdir()
    layouts.picture(tmp_path / "BenchmarkIMAGES/SM/i1_SM.jpg")
    for root in (tmp_path, tmp_path / "BenchmarkIMAGES"):
        assert [s.name for s in mit300.submission_pictures(root)] == names
        assert [s.name for s in loading.load("mit300", root, "test", truth=False)] == names
    with pytest.raises(UserError, match="comes without maps and fixations"):
        loading.load("mit300", tmp_path, "test")
    with pytest.raises(UserError, match="has the splits test, but no 'train'"):
        loading.load("mit300", tmp_path, "train")


# --- toronto ---


def test_toronto_masks_belong_to_the_pictures_of_their_number(tmp_path):
    known = layouts.toronto(tmp_path)
    samples = every("toronto", tmp_path)
    assert_points(samples, known)
    assert samples["10.jpg"].shape == layouts.SHAPE


def test_toronto_equal_pictures_share_a_split(tmp_path):
    layouts.toronto(tmp_path, count=20, twins=(3, 9, 14, 20))
    for seed in range(8):
        plan = Plan(seed=seed, val=0.3, test=0.3)
        parts = [{s.name for s in loading.load("toronto", tmp_path, x, plan)} for x in SPLITS]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 20
        assert any({"3.jpg", "9.jpg", "14.jpg", "20.jpg"} <= part for part in parts)
    assert loading.remarks("toronto", tmp_path) == [
        "3 pictures repeat another one: they share its split"
    ]


def test_toronto_several_folders_of_numbered_pictures_are_named(tmp_path):
    known = layouts.toronto(tmp_path)
    folder = tmp_path / "eyetrackingdata/fixdens"
    shutil.copytree(folder / "Original Image Set", folder / "Heat maps")
    assert_points(every("toronto", tmp_path), known)  # the authors' name tells
    samples = every("toronto", tmp_path)
    assert {s.image.parent.name for s in samples.values()} == {"Original Image Set"}
    (folder / "Original Image Set").rename(folder / "pictures")
    with pytest.raises(UserError, match=r"Both .*Heat maps and .*pictures hold pictures named"):
        loading.load("toronto", tmp_path, "train")


def test_toronto_bad_input_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no origfixdata\.mat in"):
        loading.load("toronto", tmp_path, "train")
    layouts.toronto(tmp_path)
    folder = tmp_path / "eyetrackingdata/fixdens"
    (folder / "Original Image Set/7.jpg").unlink()
    with pytest.raises(UserError, match=r"9 images but 10 fixation records .*first unpaired: 7"):
        loading.load("toronto", tmp_path, "train")
    savemat(folder / "origfixdata.mat", {"white": np.zeros((2, 2))})
    with pytest.raises(UserError, match=r"'white' is float64 of shape .*, not cells"):
        toronto.parse_mat(folder / "origfixdata.mat")
    shutil.rmtree(folder / "Original Image Set")
    with pytest.raises(UserError, match=r"No pictures named 1\.jpg to 120\.jpg"):
        loading.load("toronto", tmp_path, "train")


# --- npy ---


@pytest.mark.parametrize("folders", [False, True])
@pytest.mark.parametrize("form", ["uint8", "unit", "signed", "imagenet", "chw"])
def test_npy_pictures_of_every_form_become_the_same_bgr(tmp_path, form, folders):
    rgb = layouts.npy(tmp_path, form, folders=folders)
    samples = every("npy", tmp_path)
    assert len(samples) == 10
    for i, name in enumerate(sorted(samples)):
        np.testing.assert_array_equal(sample_image(samples[name]), rgb[i][..., ::-1])
        density = sample_density(samples[name], layouts.SHAPE, None)
        expected = density_map(layouts.points_of(i), layouts.SHAPE, 4.0)
        np.testing.assert_allclose(density, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("uint8", "RGB from 0 to 255"),
        ("unit", "RGB from 0 to 1"),
        ("signed", "RGB from -1 to 1"),
        ("imagenet", "ImageNet-normalised RGB"),
    ],
)
def test_npy_says_what_was_detected(tmp_path, form, said):
    layouts.npy(tmp_path, form)
    [remark] = loading.remarks("npy", tmp_path)
    assert remark == f"pictures read as {said}"


def test_npy_splits_may_be_spelt_out(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        layouts.npy(tmp_path / "nested" / split, count=count)
        layouts.npy(tmp_path / "flat" / "made", count=count)
        for ours, theirs in (("images", "x"), ("maps", "y")):
            source = tmp_path / "flat" / "made" / f"{ours}.npy"
            source.rename(tmp_path / "flat" / f"{theirs}_{split}.npy")
    for root in (tmp_path / "nested", tmp_path / "flat"):
        assert [len(loading.load("npy", root, split)) for split in ("train", "val")] == [3, 2]
        with pytest.raises(UserError, match="has the splits train, val, but no 'test'"):
            loading.load("npy", root, "test")


@pytest.mark.parametrize("folders", [False, True])
def test_npy_is_found_a_folder_or_two_deeper(tmp_path, folders):
    layouts.npy(tmp_path / "made" / "arrays", folders=folders)
    assert len(every("npy", tmp_path)) == 10


def test_npy_is_mapped_into_memory_not_loaded(tmp_path):
    layouts.npy(tmp_path)
    assert isinstance(npy.opened(tmp_path / "images.npy"), np.memmap)


def test_npy_bad_input_is_named(tmp_path):
    with pytest.raises(UserError, match=r"holds no images\.npy and no images"):
        loading.load("npy", tmp_path, "train")
    layouts.npy(tmp_path)
    maps = np.load(tmp_path / "maps.npy")
    np.save(tmp_path / "maps.npy", maps[:8])
    with pytest.raises(UserError, match=r"10 images but 8 maps .*first unpaired: picture_00008"):
        loading.load("npy", tmp_path, "train")
    np.save(tmp_path / "maps.npy", maps - 1)
    with pytest.raises(UserError, match=r"maps\.npy is not a map"):
        sample_density(loading.load("npy", tmp_path, "val")[0], layouts.SHAPE, None)
    np.save(tmp_path / "maps.npy", maps[:, :20])
    with pytest.raises(UserError, match=r"maps\.npy\[\d\] is 64 x 20 but its picture"):
        sample_density(loading.load("npy", tmp_path, "val")[0], layouts.SHAPE, None)
    np.save(tmp_path / "images.npy", np.full((10, 4, 4, 3), -120.0))
    with pytest.raises(UserError, match="numbers from -120 to -120, which fit none of"):
        loading.load("npy", tmp_path, "train")
    np.save(tmp_path / "images.npy", np.zeros((10, 4, 4, 5)))
    with pytest.raises(UserError, match=r"a picture is \[rows, columns, 3\]"):
        sample_image(loading.load("npy", tmp_path, "val")[0])
    (tmp_path / "maps.npy").unlink()
    np.save(tmp_path / "images.npy", np.zeros((10, 4, 4, 3)))
    with pytest.raises(UserError, match=r"should be in .*: maps\.npy or maps/\*\.npy"):
        loading.load("npy", tmp_path, "train")


@pytest.mark.parametrize("shape", [(3, 0, 4, 3), (0, 4, 4, 3)])
def test_npy_pictures_without_pixels_are_named(tmp_path, shape):
    np.save(tmp_path / "images.npy", np.zeros(shape))
    with pytest.raises(UserError, match=r"images\.npy holds float64 of shape .*, not pictures"):
        loading.load("npy", tmp_path, "train")


def test_a_changed_array_changes_what_is_cached_of_it(tmp_path):
    from salience.pictures.reading import stamp

    layouts.npy(tmp_path)
    first, second = (loading.load("npy", tmp_path, "test")[i] for i in (0, 1))
    assert stamp(first.map) != stamp(second.map)
    before = stamp(first.map)
    np.save(tmp_path / "maps.npy", np.load(tmp_path / "maps.npy").astype(np.float64))
    assert stamp(first.map) != before


def test_arrays_train_and_score_and_what_was_detected_is_said(tmp_path, tiny):
    from commands.evaluation.evaluate import evaluate
    from commands.settings import EvaluateConfig
    from commands.training.train import train

    layouts.npy(tmp_path / "npy", "unit")
    said = []
    train(tiny(dataset=("npy",), data=(tmp_path / "npy",)), say=said.append)
    assert "npy: pictures read as RGB from 0 to 1" in said
    maps = tmp_path / "maps"
    maps.mkdir()
    stored = np.load(tmp_path / "npy/maps.npy")
    for i, saliency_map in enumerate(stored):
        np.save(maps / f"picture_{i:05d}.npy", saliency_map[..., 0])
    settings = EvaluateConfig(dataset="npy", data=tmp_path / "npy", maps=maps, metrics="cc,sim")
    scored = evaluate(settings, said.append)
    assert scored.row("maps").means["cc"].mean == pytest.approx(1, abs=1e-6)
    assert "note: pictures read as RGB from 0 to 1" in said


def test_form_of_is_told_from_pictures_spread_over_all(tmp_path):
    """The first pictures may be dark: one that is told by them alone would be wrong."""
    values = np.zeros((40, 4, 4, 3), np.float32)
    values[39] = 200
    np.save(tmp_path / "images.npy", values)
    images = {f"{i:02d}": (tmp_path / "images.npy", i) for i in range(40)}
    assert npy.form_of(images) == "RGB from 0 to 255"


# --- pictures and truth that differ ---


def test_a_picture_of_another_size_than_its_truth_is_named(tmp_path):
    layouts.cat2000(tmp_path)
    layouts.picture(tmp_path / "trainSet/Stimuli/Art/005.jpg", (20, 30))
    sample = every("cat2000", tmp_path)["Art/005.jpg"]
    with pytest.raises(UserError, match=r"005\.jpg is 30 x 20 but its .* are 64 x 48"):
        sample_image(sample)

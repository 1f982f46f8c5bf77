"""What fixation files hold: masks and densities, observers, tables, and what is kept of them."""

import os

import cv2
import layouts
import numpy as np
import pytest
from PIL import Image, features
from scipy.io import savemat

from commands.curation.prepare import prepare
from commands.curation.subset import subset
from commands.settings import CheckConfig, EvaluateConfig, PrepareConfig, SubsetConfig, data_of
from config import Config
from salience.data import loading, points, tables
from salience.data.columns import parse_columns
from salience.data.plan import SPLITS, Plan
from salience.data.sets import npy as npy_set
from salience.pictures.reading import sample_image, stamp
from salience.system.errors import UserError

ALL = Plan(val=0, test=0)
SHAPE = (30, 40)


def filled(root, files, pictures=("a", "b"), shape=SHAPE):
    """Write pictures, and the files that are given by path and text, bytes or what is called."""
    for name in pictures:
        layouts.picture(root / f"images/{name}.png", shape)
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def mask(*places, shape=SHAPE, kind=np.uint8):
    """Return a mask with (x, y, value) at some places."""
    found = np.zeros(shape, kind)
    for x, y, value in places:
        found[y, x] = value
    return found


def npy(values):
    return lambda path: np.save(path, values)


def npz(**arrays):
    return lambda path: np.savez(path, **arrays)


def mat(**content):
    return lambda path: savemat(path, content)


def picture(values):
    return lambda path: cv2.imwrite(str(path), values)


FORMS = {
    "a.npy": npy,
    "a.npz": lambda values: npz(fixations=values),
    "a.mat": lambda values: mat(fixLocs=values),
    "a.png": picture,
    "a.tif": picture,
    "a.bmp": picture,
    "a.pgm": picture,
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (((3, 4, 255), (5, 6, 255)), [[3, 4], [5, 6]]),
        (((3, 4, 128), (5, 6, 128)), [[3, 4], [5, 6]]),
        (((3, 4, 1), (5, 6, 2)), [[3, 4], [5, 6], [5, 6]]),
        (((3, 4, 1), (5, 6, 105)), [[3, 4]] + [[5, 6]] * 105),
        (((5, 6, 105),), [[5, 6]] * 105),
    ],
)
def test_a_mask_is_two_colours_and_anything_else_counts(tmp_path, name, places, expected):
    filled(tmp_path, {f"fixations/{name}": FORMS[name](mask(*places))}, "a")
    [sample] = loading.load("folder", tmp_path, "train", ALL)
    assert sample.fixations.tolist() == expected


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("times", [255, 1])
def test_a_density_in_place_of_fixations_is_refused_whatever_its_file(tmp_path, name, times):
    blurred = cv2.GaussianBlur(mask((20, 15, 1), kind=np.float32), (0, 0), 5)
    density = np.uint8(np.ceil(blurred / blurred.max() * times))
    filled(tmp_path, {f"fixations/{name}": FORMS[name](density)}, "a")
    with pytest.raises(UserError, match=r"above 0 on \d+% of its pixels: a density map rather"):
        loading.load("folder", tmp_path, "train", ALL)


def spots(deviation, peak, shape=SHAPE, rounded=np.rint):
    """Return a density of whole numbers, of spots that cover less than a fifth."""
    blurred = mask((12, 9, 1), (30, 20, 1), shape=shape, kind=np.float32)
    blurred = cv2.GaussianBlur(blurred, (0, 0), deviation)
    return np.uint8(rounded(blurred / blurred.max() * peak))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    ("deviation", "peak"),
    [(1.5, 254), (1.5, 200), (1.5, 127), (1.5, 60), (2, 11), (2, 2), (2, 1), (1, 3), (0.6, 254)],
)
def test_a_small_density_of_whole_numbers_is_refused_whatever_its_peak(
    tmp_path, name, deviation, peak
):
    density = spots(deviation, peak)
    assert 0 < np.count_nonzero(density) < 0.2 * density.size
    filled(tmp_path, {f"fixations/{name}": FORMS[name](density)}, "a")
    with pytest.raises(UserError, match=r"(spots of|shades from) .*: a density map rather"):
        loading.load("folder", tmp_path, "train", ALL)


def test_a_mask_of_many_observers_is_no_density_though_its_fixations_lie_together():
    random = np.random.default_rng(0)
    places = np.clip(random.normal((48, 64), 14, (1000, 2)), 0, (95, 127)).astype(int)
    counts = np.zeros((96, 128), int)
    np.add.at(counts, tuple(places.T), 1)
    counts[40, 60] += 105
    assert len(points.points_of_mask(counts, "")) == 1105
    even = np.zeros((48, 64), int)
    even[random.random(even.shape) < 0.19] = 1  # as dense as is allowed
    assert len(points.points_of_mask(even, "")) == even.sum()


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("value", [11, 100, 127])
def test_a_mask_of_a_grey_that_is_neither_count_nor_white_is_refused(tmp_path, name, value):
    places = [(3 * i, 2 * i, value) for i in range(3)]
    filled(tmp_path, {f"fixations/{name}": FORMS[name](mask(*places))}, "a")
    with pytest.raises(UserError, match=f"holds {value} on most of 3 pixels, neither count nor"):
        loading.load("folder", tmp_path, "train", ALL)


def test_small_counts_stay_counts_though_all_are_equal():
    places = [(3 * i, 2 * i, 10) for i in range(3)]
    assert len(points.points_of_mask(mask(*places), "")) == 30


# format, and how it is written
SMEARED = {
    **{f"a{q}.jpg": {"quality": q} for q in (75, 85, 95, 100)},
    **{f"colour{q}.jpg": {"quality": q, "subsampling": 2} for q in (75, 85, 95, 100)},
    **{f"a{q}.webp": {"quality": q} for q in (50, 75, 100)},
    "whole.webp": {"lossless": True},
    "a.jp2": {},
    "a20.jp2": {"quality_mode": "rates", "quality_layers": [20], "irreversible": True},
    "a75.avif": {"quality": 75},
    "a100.avif": {"quality": 100},
}


def written(folder, name, values):
    """Return the path of a picture in a format that may smear it."""
    if name.endswith(".avif") and not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    colour = "RGB" if name.startswith("colour") else "L"
    Image.fromarray(values).convert(colour).save(folder / name, **SMEARED[name])
    return folder / name


@pytest.mark.parametrize("name", SMEARED)
def test_a_lossy_mask_has_its_points_where_it_is_above_half(tmp_path, name):
    random = np.random.default_rng(0)
    places = {(int(x), int(y)) for x, y in random.integers(0, (320, 240), (80, 2))}
    places |= {(100, 100), (101, 100), (101, 101)}  # some are adjacent
    path = written(tmp_path, name, mask(*((x, y, 255) for x, y in places), shape=(240, 320)))
    found = {tuple(point) for point in points.looks_of_picture(path).fixations.astype(int).tolist()}
    assert found == places


@pytest.mark.parametrize("name", SMEARED)
@pytest.mark.parametrize(("deviation", "peak"), [(5, 255), (5, 140), (1.5, 255), (25, 255)])
def test_a_density_in_a_lossy_format_is_refused(tmp_path, name, deviation, peak):
    path = written(tmp_path, name, spots(deviation, peak, (80, 120)))
    with pytest.raises(
        UserError, match=r"(spots of grey|64 or more on \d+%).*: a density map rath"
    ):
        points.looks_of_picture(path)


@pytest.mark.parametrize("name", SMEARED)
def test_counts_in_a_format_that_loses_them_are_refused(tmp_path, name):
    places = [(7 * i, 5 * i, 1 + i % 3) for i in range(12)]
    if SMEARED[name].get("quality", 100) < 100:
        places = [(x, y, 25 * value) for x, y, value in places]  # smaller ones are black there
    path = written(tmp_path, name, mask(*places, shape=(80, 120)))
    with pytest.raises(UserError, match=r"values up to \d+ in a lossy format"):
        points.looks_of_picture(path)


@pytest.mark.parametrize("name", SMEARED)
def test_black_in_a_lossy_format_is_no_fixation_though_it_is_rounded(tmp_path, name):
    path = written(tmp_path, name, mask(shape=(80, 120)))
    assert points.looks_of_picture(path).fixations.shape == (0, 2)


@pytest.mark.parametrize("kind", [np.float64, np.uint16, np.int64, bool])
def test_a_mask_of_any_type_of_number_is_read(kind):
    assert points.points_of_mask(mask((1, 2, 1), kind=kind), "").tolist() == [[1, 2]]
    white = 1 if kind is bool else 300
    assert points.points_of_mask(mask((1, 2, white), kind=kind), "").tolist() == [[1, 2]]


def test_masks_that_are_all_zero_are_refused_and_single_ones_have_no_fixation(tmp_path):
    empty = picture(mask())
    filled(tmp_path, {"fixations/a.png": empty, "fixations/b.png": picture(mask((1, 1, 1)))})
    samples = loading.load("folder", tmp_path, "train", ALL)
    assert [len(sample.fixations) for sample in samples] == [0, 1]
    filled(tmp_path, {"fixations/b.png": empty})
    for _ in range(2):  # also where it was kept
        with pytest.raises(UserError, match=r"any of 2 fixation files such as .*a\.png"):
            loading.load("folder", tmp_path, "train", ALL)
    layouts.toronto(tmp_path / "toronto")
    white = layouts.cells([np.zeros(layouts.SHAPE)] * 10, columns=True)
    [file] = (tmp_path / "toronto").rglob("origfixdata.mat")
    savemat(file, {"white": white})
    with pytest.raises(UserError, match="No fixation in any of 10 pictures of "):
        loading.load("toronto", tmp_path / "toronto", "train")


# --- observers ---

PEOPLE = {
    "beyond 32 bits": np.array([2**33 + 1, 5, 2**33 + 2, 2**33 + 1]),
    "unsigned 64": np.array([2**64 - 1, 5, 2**64 - 2, 2**64 - 1], np.uint64),
    "texts": np.array(["ann", "bob", "cy", "ann"]),
    "bytes": np.array([b"ann", b"bob", b"cy", b"ann"]),
    "column": np.array([[7], [8], [9], [7]], np.uint8),
    "row": np.array([[7, 8, 9, 7]], np.int16),
    "whole floats": np.array([7.0, 8, 9, 7]),
    "negative": np.array([-7, 8, 9, -7], np.int8),
}
WHERE = np.array([[1.0, 2], [3, 4], [5, 6], [7, 8]])


@pytest.mark.parametrize("who", PEOPLE.values(), ids=PEOPLE)
def test_observers_of_any_type_stay_as_many_as_they_are(tmp_path, who):
    filled(tmp_path, {"fixations/a.npz": npz(fixations=WHERE, subjects=who)}, "a")
    for _ in range(2):  # also where they are kept
        [sample] = loading.load("folder", tmp_path, "train", ALL)
        labels = sample.subjects
        assert labels.dtype == np.int32
        assert [labels.tolist().index(label) for label in labels] == [0, 1, 2, 0]


def test_small_numbers_of_observers_stay_and_others_count_by_first_appearance():
    assert points.observers_of(np.array([9, 4, 9], np.uint8), 3, "").tolist() == [9, 4, 9]
    assert points.observers_of(np.array(["z", "a", "z"]), 3, "").tolist() == [0, 1, 0]
    assert points.observers_of(np.array([2**40, 4, 2**40]), 3, "").tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("who", "message"),
    [
        (np.array([1, 2, 3]), r"of shape \(3,\); whole numbers or names of shape \(4,\)"),
        (np.array([1.5, 2, 3, 4]), "not whole numbers"),
        (np.array([np.nan, 2, 3, 4]), "not whole numbers"),
        (np.array([2.0**60, 2, 3, 4]), "too large for exact float64"),
        (np.array([1j, 2, 3, 4]), "observers as complex128"),
        (np.array(["a", " ", "b", "c"]), "observer is blank"),
    ],
)
def test_observers_that_cannot_be_told_are_refused(tmp_path, who, message):
    filled(tmp_path, {"fixations/a.npz": npz(fixations=WHERE, subjects=who)}, "a")
    with pytest.raises(UserError, match=message):
        loading.load("folder", tmp_path, "train", ALL)


@pytest.mark.parametrize(
    "who",
    [
        np.array([[4.0], [5], [6], [4]]),
        layouts.cells(["ann", "bob", "cy", "ann"]),
        layouts.cells(["ann", "bob", "cy", "ann"], columns=True),
        layouts.cells([4, 5, 6, 4]),
        np.array(["ann", "bob", "cyy", "ann"]),  # rows of characters
    ],
)
def test_observers_in_a_mat_file_are_numbers_cells_or_characters(tmp_path, who):
    filled(tmp_path, {"fixations/a.mat": mat(fixations=WHERE + 1, subjects=who)}, "a")
    [sample] = loading.load("folder", tmp_path, "train", ALL)
    np.testing.assert_array_equal(sample.fixations, WHERE)
    assert [sample.subjects.tolist().index(label) for label in sample.subjects] == [0, 1, 2, 0]
    filled(
        tmp_path, {"fixations/a.mat": mat(fixations=WHERE, subjects=layouts.cells([[1, 2]] * 4))}
    )
    with pytest.raises(UserError, match="observers that does not hold one number or name"):
        loading.load("folder", tmp_path, "train", ALL)


def test_observers_are_the_third_column_or_named_in_an_npy(tmp_path):
    rows = [(1.0, 2.0, 4), (3.0, 4.0, 5), (5.0, 6.0, 4)]
    named = np.array(rows, [("X", "f4"), ("y", "f8"), ("Subject", "i8")])
    words = np.array([(1, 2, "ann"), (3, 4, "bob"), (5, 6, "ann")],
                     [("x", "i4"), ("y", "i4"), ("subject", "U5")])  # fmt: skip
    alone = words[["x", "y"]].astype([("x", "f4"), ("y", "f4")])
    files = {"a": np.array(rows), "b": named, "c": words, "d": alone}
    filled(tmp_path, {f"fixations/{k}.npy": npy(v) for k, v in files.items()}, "abcd")
    samples = loading.load("folder", tmp_path, "train", ALL)
    for sample, who in zip(samples, ([4, 5, 4], [4, 5, 4], [0, 1, 0], None), strict=True):
        assert sample.fixations.tolist() == [[1, 2], [3, 4], [5, 6]]
        assert (None if sample.subjects is None else sample.subjects.tolist()) == who
    [remark] = loading.remarks("folder", tmp_path)
    assert "a.npy: three columns are read as x, y and who made the fixation" in remark
    filled(tmp_path, {"fixations/b.npy": npy(np.zeros(3, [("x", "f4"), ("when", "f4")]))})
    with pytest.raises(UserError, match=r"b\.npy has the columns x, when .* x and y are needed"):
        loading.load("folder", tmp_path, "train", ALL)


# --- tables ---


@pytest.mark.parametrize(
    "text",
    [
        "x,y,subject\n1.5,2,ann\n3,4,bob\n",
        "\ufeffX,Y,Subject\r\n1.5,2,ann\r\n3,4,bob\r\n",
        "subject;y;x\n ann;2;1,5\nbob;4;3\n\n",
        "x\ty\tobserver\n1.5\t2\tann\n3\t4\tbob",
        "sep=;\nx;y;participant\n1.5;2;ann\n3;4;bob\n",
        "# x,y,subject\n1.5,2,ann\n3,4,bob\n",
        '"x","y","subject"\n"1.5","2","ann"\n"3","4","bob"\n',
        "x,y,subject\n1.5,2,ann\n3,4,bob\n".encode("utf-16"),
        ",x,y,duration,subject\n0,1.5,2,210,ann\n1,3,4,190,bob\n",
        "image,x,y,subject\nimages/a.png,1.5,2,ann\na,3,4,bob\n",
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_table_of_a_picture_is_read_as_programs_write_it(tmp_path, text, suffix):
    filled(tmp_path, {f"fixations/a{suffix}": text}, "a")
    [sample] = loading.load("folder", tmp_path, "train", ALL)
    assert (sample.fixations.tolist(), sample.fixations.dtype) == ([[1.5, 2], [3, 4]], np.float32)
    assert sample.subjects.tolist() == [0, 1]


def test_a_table_without_observers_tells_of_none_and_other_columns_are_named(tmp_path):
    filled(tmp_path, {"fixations/a.csv": "x,y,start,eye\n1,2,3,4\n"}, "a")
    [sample] = loading.load("folder", tmp_path, "train", ALL)
    assert (sample.fixations.tolist(), sample.subjects) == ([[1, 2]], None)
    [remark] = loading.remarks("folder", tmp_path)
    assert remark.endswith("a.csv: the columns start, eye are passed over")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n3,4\n", r"a\.csv has the columns '1', '2'; its first line must name one column x"),
        ("FixX,FixY\n3,4\n", "has the columns 'FixX', 'FixY'"),
        ("x,X,y\n1,2,3\n", "has the columns 'x', 'X', 'y'"),
        ("x,y,subject,observer\n1,2,3,4\n", "at most one subject"),
        ("", "has the columns ; its first line"),
        ("x,y\n1,2\n12,5,13,5\n", r"a\.csv, line 3: 4 values for 2 columns"),
        ("x,y\n1\n", "line 2: 1 values for 2 columns"),
        ("x,y\n1,\n", "line 2: could not convert string to float: ''"),
        ("x,y\n.,3\n", r"line 2: could not convert string to float: '\.'"),
        ("x,y\n1,nan\n", "line 2: 'nan' is no place in a picture"),
        ("x,y\n1_0,2\n", "line 2: '1_0' is no place in a picture"),
        ('x,y\n1,"2\n', "line 2: unexpected end of data"),
        ("x,y,subject\n1,2,\n", "observer is blank"),
        (b"x,y,subject\n1,2,\xe4\n", "no text in UTF-8"),
        ("image,x,y\nb.png,1,2\n", r"about a\.png by its name, but names b\.png"),
        ("image,x,y\n,1,2\n", "whose picture is blank"),
    ],
)
def test_a_table_that_is_not_clear_is_refused_with_what_was_found(tmp_path, text, message):
    filled(tmp_path, {"fixations/a.csv": text}, "a")
    with pytest.raises(UserError, match=message) as caught:
        loading.load("folder", tmp_path, "train", ALL)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", ["fixations.csv", "fixations/fixations.tsv", "fixations/all.csv"])
def test_one_table_is_about_all_pictures(tmp_path, where):
    text = "Image,x,y,subject\nb.png,5,6,bob\nimages/a.jpg,1,2,bob\nC:\\x\\b.png,3,4,ann\n"
    filled(tmp_path, {where: text})
    first, second = loading.load("folder", tmp_path, "train", ALL)
    assert (first.fixations.tolist(), first.subjects.tolist()) == ([[1, 2]], [0])
    assert (second.fixations.tolist(), second.subjects.tolist()) == ([[5, 6], [3, 4]], [0, 1])


def test_several_tables_are_read_together(tmp_path):
    tables_of = {f"fixations/s{i}.csv": f"image,x,y,subject\na,{i},2,s{i}\nb,1,1,s{i}\n"
                 for i in range(3)}  # fmt: skip
    filled(tmp_path, tables_of)
    first, _ = loading.load("folder", tmp_path, "train", ALL)
    assert (first.fixations[:, 0].tolist(), first.subjects.tolist()) == ([0, 1, 2], [0, 1, 2])
    filled(tmp_path, {"fixations/s1.csv": "image,x,y\na,1,2\n"})
    with pytest.raises(UserError, match="one has a column 'subject', the other none"):
        loading.load("folder", tmp_path, "train", ALL)


def test_a_table_of_all_splits_is_shared_out_and_what_fits_none_is_named(tmp_path):
    for split, name in zip(SPLITS, "abc", strict=True):
        layouts.picture(tmp_path / split / f"images/{name}.png", SHAPE)
    table = tmp_path / "fixations.csv"
    table.write_text("image,x,y\na,1,2\nb,3,4\nc,5,6\n")
    for split, x in zip(SPLITS, (1, 3, 5), strict=True):
        [sample] = loading.load("folder", tmp_path, split)
        assert sample.fixations[0, 0] == x
    table.write_text("image,x,y\na,1,2\nb,3,4\nc,5,6\nother.png,5,6\n")
    with pytest.raises(UserError, match=r"1 images but 2 fixation records .*first unpaired: other"):
        loading.load("folder", tmp_path, "train")
    layouts.picture(tmp_path / "test/images/a.png", SHAPE)
    table.write_text("image,x,y\na,1,2\nb,3,4\nc,5,6\n")
    with pytest.raises(UserError, match="has a, which several splits hold"):
        loading.load("folder", tmp_path, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,2\n", r"other\.csv is called like no picture and has no column 'image'"),
        ("image,x,y\n", r"other\.csv names columns, but has no row"),
        ("image,x,y\na.png,1,2\na.jpg,1,2\nb,1,1\n", r"a\.jpg and a\.png: one picture under two"),
    ],
)
def test_a_table_about_nothing_known_is_refused(tmp_path, text, message):
    filled(tmp_path, {"fixations/other.csv": text})
    with pytest.raises(UserError, match=message):
        loading.load("folder", tmp_path, "train", ALL)


def test_of_several_files_of_a_picture_the_one_that_tells_most_is_read_and_it_is_said(tmp_path):
    own = {f"fixations/{k}.npy": npy(np.array([[1, 2]])) for k in "ab"}
    masks = {f"fixations/{k}.png": picture(mask((9, 9, 1))) for k in "ab"}
    filled(tmp_path, own | masks | {"fixations.csv": "image,x,y\na,7,7\nb,7,7\n"})
    samples = loading.load("folder", tmp_path, "train", ALL)
    assert [sample.fixations.tolist() for sample in samples] == [[[1, 2]]] * 2
    pictures, table = loading.remarks("folder", tmp_path)
    assert (
        pictures.startswith("a.png, b.png in ")
        and "not read: files of another form tell" in pictures
    )
    assert table == "fixations.csv not read: pictures have files of their own"


# --- arrays of all pictures, and SALICON's masks ---


def test_arrays_have_fixations_beside_them(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((2, *SHAPE, 3), np.uint8))
    np.save(tmp_path / "fixations.npy", np.stack([mask((1, 2, 255)), mask((3, 4, 255))]))
    samples = loading.load("npy", tmp_path, "train", ALL)
    assert [sample.fixations.tolist() for sample in samples] == [[[1, 2]], [[3, 4]]]
    (tmp_path / "fixations.npy").unlink()
    names = {"picture_00000": [[1.0, 2, 7]], "picture_00001": [[3.0, 4, 8]]}
    filled(tmp_path, {f"fixations/{name}.npy": npy(rows) for name, rows in names.items()}, ())
    samples = loading.load("npy", tmp_path, "train", ALL)
    assert [sample.subjects.tolist() for sample in samples] == [[7], [8]]
    for name in names:
        (tmp_path / f"fixations/{name}.npy").unlink()
    text = "image,x,y\npicture_00000,1,2\npicture_00001,3,4\n"
    filled(tmp_path, {"fixations.csv": text}, ())
    samples = loading.load("npy", tmp_path, "train", ALL)
    assert [sample.fixations.tolist() for sample in samples] == [[[1, 2]], [[3, 4]]]


def arrayed(root, kind, rows, shape=SHAPE):
    """Write two pictures as arrays, and the same points about each in a form."""
    pictures = np.zeros((2, *shape, 3), np.uint8)
    if kind.startswith("folder"):
        (root / "images").mkdir()
        for i, picture in enumerate(pictures):
            np.save(root / f"images/picture_0000{i}.npy", picture)
    else:
        np.save(root / "images.npy", pictures.transpose(0, 3, 1, 2) if "chw" in kind else pictures)
    keys = [f"picture_0000{i}" for i in range(2)]
    if kind.endswith("table"):
        lines = [f"{key},{x},{y}" for key in keys for x, y in rows]
        return filled(root, {"fixations.csv": "\n".join(["image,x,y", *lines])}, ())
    values = np.array(rows, float)
    form = {"npz": npz(fixations=values), "mat": mat(fixations=values + 1)}.get(kind, npy(values))
    suffix = kind if kind in ("npz", "mat") else "npy"
    return filled(root, {f"fixations/{key}.{suffix}": form for key in keys}, ())


ARRAYED = ["npy", "npz", "mat", "table", "chw", "chw table", "folder", "folder table"]


@pytest.mark.parametrize("kind", ARRAYED)
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [(700, 400), (801, 500)],
            "None of the train split.s 4 fixations .*40 columns and 30 rows",
        ),
        ([(0.25, 0.5), (0.5, 0.125), (1, 0)], "between -1 and 1, 6 of 6 of them: shares"),
        ([(-0.25, 0.5), (0.5, -0.125)], "shares"),
    ],
)
def test_points_that_are_not_in_pictures_of_arrays_are_refused(tmp_path, kind, rows, message):
    arrayed(tmp_path, kind, rows)
    with pytest.raises(UserError, match=message):
        loading.load("npy", tmp_path, "train", ALL)


@pytest.mark.parametrize("kind", ARRAYED)
def test_single_points_outside_pictures_of_arrays_are_dropped_and_counted(tmp_path, kind):
    arrayed(tmp_path, kind, [(1, 2), (40, 2), (39, 29)])
    for sample in loading.load("npy", tmp_path, "train", ALL):
        assert sample.fixations.tolist() == [[1, 2], [39, 29]]
        assert (sample.shape, sample.outside) == (SHAPE, 1)


def test_masks_of_another_size_than_the_pictures_of_an_array_are_refused(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((2, *SHAPE, 3), np.uint8))
    np.save(tmp_path / "fixations.npy", np.stack([mask((1, 2, 255), shape=(15, 20))] * 2))
    [sample, _] = loading.load("npy", tmp_path, "train", ALL)
    with pytest.raises(UserError, match=r"images\.npy\[0\] is 40 x 30 but .*fixations are 20 x 15"):
        sample_image(sample)


def test_the_shape_of_a_picture_in_an_array_is_told_without_its_pixels(tmp_path, monkeypatch):
    arrayed(tmp_path, "npy", [(1, 2)])
    monkeypatch.setattr(npy_set, "read_picture", lambda *_: pytest.fail("read"))
    [sample, _] = loading.load("npy", tmp_path, "train", ALL)
    assert sample.shape == SHAPE


def test_salicon_masks_in_a_mat_file_are_read(tmp_path):
    known = layouts.salicon(tmp_path, "png", counts={"train": 2, "val": 1})
    for path in (tmp_path / "fixations").rglob("*.png"):
        savemat(path.with_suffix(".mat"), {"I": cv2.imread(str(path), 0)})
        path.unlink()
    for sample in loading.load("salicon", tmp_path, "train"):
        assert sorted(sample.fixations.tolist()) == sorted(known["train"][sample.name].tolist())
        assert (sample.subjects, sample.shape) == (None, layouts.SHAPE)


# --- what is kept ---


def swapped(path, content):
    """Write another content of the same size into a file, and set its time back."""
    before = path.stat()
    content(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)


def test_kept_fixations_follow_the_content_though_size_and_time_are_the_same(tmp_path):
    filled(tmp_path, {"fixations/a.npy": npy(np.array([[1.0, 2]]))}, "a")
    assert loading.load("folder", tmp_path, "train", ALL)[0].fixations.tolist() == [[1, 2]]
    swapped(tmp_path / "fixations/a.npy", npy(np.array([[3.0, 4]])))
    assert loading.load("folder", tmp_path, "train", ALL)[0].fixations.tolist() == [[3, 4]]


def test_kept_tables_follow_the_content_though_size_and_time_are_the_same(tmp_path):
    filled(tmp_path, {"fixations.csv": "image,x,y\na,1,2\n"}, "a")
    assert loading.load("folder", tmp_path, "train", ALL)[0].fixations.tolist() == [[1, 2]]
    other = "image,x,y\na,3,4\n"
    swapped(tmp_path / "fixations.csv", lambda path: path.write_text(other))
    assert loading.load("folder", tmp_path, "train", ALL)[0].fixations.tolist() == [[3, 4]]


def test_what_is_kept_of_a_picture_or_map_follows_its_content(tmp_path):
    path = tmp_path / "a.bmp"
    cv2.imwrite(str(path), mask((1, 1, 9)))
    before = stamp(path)
    swapped(path, picture(mask((1, 1, 8))))
    assert stamp(path) != before


EXPORTED = "Shown,FPOGX,FPOGY,Who\na.png,1.5,2,ann\nb,3,4,bob\n"
NAMES = "image=Shown,x=FPOGX,y=fpogy,subject=Who"


@pytest.mark.parametrize("name", ["fixations.csv", "fixations.tsv", "fixations/all.csv"])
def test_columns_of_other_names_are_named(tmp_path, name):
    filled(tmp_path, {name: EXPORTED})
    a, b = loading.load("folder", tmp_path, "train", ALL, columns=NAMES)
    assert (a.fixations.tolist(), b.fixations.tolist()) == ([[1.5, 2]], [[3, 4]])
    assert (a.subjects.tolist(), b.subjects.tolist()) == ([0], [1])
    assert loading.remarks("folder", tmp_path, columns=NAMES) == []


def test_columns_named_anew_are_not_answered_from_what_was_kept(tmp_path):
    filled(tmp_path, {"fixations.csv": "image,x,y,u\na,1,2,7\nb,3,4,8\n"})
    for columns, expected in (("", [[1, 2]]), ("x=u", [[7, 2]])):
        [a, _] = loading.load("folder", tmp_path, "train", ALL, columns=columns)
        assert a.fixations.tolist() == expected


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("", r"columns 'Shown', 'FPOGX', 'FPOGY', 'Who'; .* --columns x=NAME,y=NAME"),
        ("x=FPOGX,y=FOGY", r"columns 'Shown', .*; --columns y=FOGY must name one of them"),
        ("x=FPOGX,y=FPOGY,image=Who", "2 images but 2 fixation records .* first unpaired: a"),
        ("x=FPOGX,y=FPOGY", r"no column 'image'.* Other columns: Shown, Who\. .*image=NAME"),
    ],
)
def test_columns_that_are_missing_are_told_with_those_that_are_there(tmp_path, columns, message):
    filled(tmp_path, {"fixations.csv": EXPORTED})
    with pytest.raises(UserError, match=message):
        loading.load("folder", tmp_path, "train", ALL, columns=columns)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "'x' is not ROLE=NAME"),
        ("x=", "'x=' is not ROLE=NAME"),
        ("img=a", "unknown role 'img'. Did you mean 'image'"),
        ("x=a,x=b", "names the column of 'x' twice"),
        ('"x=a', "unexpected end"),
    ],
)
def test_names_of_columns_that_cannot_be_understood_are_told(text, message):
    with pytest.raises(UserError, match=f"--columns .*{message}"):
        parse_columns(text)


def test_columns_need_a_table_of_ones_own():
    for make in (CheckConfig, SubsetConfig, PrepareConfig, EvaluateConfig):
        make(dataset="folder", columns="x=a")
        with pytest.raises(UserError, match=r"--columns x=a .* --dataset osie does not have"):
            make(dataset="osie", columns="x=a")
    trained = Config(dataset=("folder", "osie"), columns="x=a")
    assert data_of(trained, {"dataset": "osie"})["columns"] == ""
    assert data_of(trained, {"dataset": "folder"})["columns"] == "x=a"


def test_a_store_remembers_the_names_of_columns(tmp_path):
    root = filled(tmp_path / "set", {"fixations.csv": EXPORTED}, [*"abcdefgh"])
    rows = "".join(f"{name},{i},2,ann\n" for i, name in enumerate("abcdefgh"))
    (root / "fixations.csv").write_text(EXPORTED.splitlines()[0] + "\n" + rows)
    settings = PrepareConfig(
        dataset="folder", data=(root,), rows=48, cols=64, output=tmp_path / "store", columns=NAMES
    )
    prepare(settings, say=lambda line: None)
    os.utime(root / "fixations.csv")  # so that the sources are read again
    assert loading.load("folder", tmp_path / "store", "test")[0].fixations.shape == (1, 2)


def test_times_and_durations_are_read_and_an_order_sorts(tmp_path):
    table = (
        "image,x,y,subject,t,duration,order\n"
        "a,1,2,ann,300,80,2\n"
        "a,50,4,ann,100,90,1\n"  # outside
        "a,5,6,bob,.,70,1\n"
        "b,3,4,bob,500,,2\n"
    )
    filled(tmp_path, {"fixations.csv": table})
    for _ in range(2):  # the second time from what was kept
        a, b = loading.load("folder", tmp_path, "train", ALL)
        assert a.fixations.tolist() == [[1, 2], [5, 6]]
        assert (a.outside, a.subjects.tolist()) == (1, [0, 1])
        np.testing.assert_array_equal(a.times, np.array([300, np.nan], np.float32))
        np.testing.assert_array_equal(a.durations, np.array([80, 70], np.float32))
        np.testing.assert_array_equal(b.durations, np.array([np.nan], np.float32))
    [kept, _] = loading.load("folder", tmp_path, "train", ALL, "keep")
    assert kept.times[:2].tolist() == [100, 300]
    assert kept.fixations[:2].tolist() == [[50, 4], [1, 2]]


def test_a_subset_keeps_times_and_durations(tmp_path):
    table = "image,x,y,subject,t,duration\na,1,2,ann,300,80\nb,3,4,bob,500,\n"
    filled(tmp_path / "set", {"fixations.csv": table})
    settings = {"data": (tmp_path / "set",), "n": 2, "output": tmp_path / "copy"}
    subset(SubsetConfig(dataset="folder", test_share=1, val_share=0, **settings), lambda line: None)
    a, b = loading.load("folder", tmp_path / "copy", "test")
    assert (a.times.tolist(), a.durations.tolist()) == ([300], [80])
    assert np.isnan(b.durations).tolist() == [True]


def test_times_of_another_number_than_fixations_are_refused(tmp_path):
    fixations = npz(fixations=np.ones((2, 2)), t=np.ones(3))
    filled(tmp_path, {"fixations/a.npz": fixations}, "a")
    with pytest.raises(UserError, match=r"'t' as float64 of shape \(3,\); milliseconds of shape"):
        loading.load("folder", tmp_path, "train", ALL)


def test_columns_are_told_without_the_rows(tmp_path):
    (tmp_path / "a.csv").write_text("Y;X;when\nno number\n")
    found = tables.columns_of(tmp_path / "a.csv")
    assert (found.places, found.others) == ({"x": 1, "y": 0}, ("when",))


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (3, 4)])
def test_a_mask_without_a_pixel_above_0_has_no_points(shape):
    assert points.points_of_mask(np.zeros(shape), "").shape == (0, 2)

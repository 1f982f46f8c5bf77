"""pysaliency's files: each type is read, what goes out comes back, and a bad file is one line."""

import dataclasses
import json

import cv2
import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.curation.subset import write_sample
from salience.data import hdf5, loading
from salience.data.plan import SPLITS, Plan
from salience.data.sets import pysaliency
from salience.pictures.fixations import pixels
from salience.pictures.picture_files import read_image
from salience.pictures.reading import sample_image
from salience.system.errors import StorageError, UserError
from salience.system.files import joined_pair

SHAPE = (30, 40)
NAMES = ("one/a.png", "one/b.png", "two/a.png")
# by scan path: stimulus, observer, x, y, seconds, seconds of duration
PATHS = [
    (0, 3, [0.5, 39.9], [0.25, 29.0], [0.0, 0.3], [0.2, 0.25]),
    (2, 3, [7.0], [8.0], [0.1], [0.5]),
    (0, 5, [12.0, 13.0, 14.0], [4.0, 5.0, 6.0], [0.0, 0.4, 0.9], [0.1, 0.2, 0.3]),
]
NO_SPLIT = Plan(val=0, test=1)  # all pictures are test pictures


def head(group, kind, version, **attributes):
    group.attrs["type"], group.attrs["version"] = np.bytes_(kind), np.bytes_(version)
    for name, value in attributes.items():
        group.attrs[name] = np.bytes_(json.dumps(value))


def write_stimuli(path, rng, inside=False):
    rgb = rng.integers(0, 256, (len(NAMES), *SHAPE, 3), dtype=np.uint8)
    with h5py.File(path, "w") as file:
        head(file, "Stimuli" if inside else "FileStimuli", "1.1" if inside else "2.1")
        file.attrs["__attributes__"] = np.bytes_("[]")
        file.attrs["size"] = len(NAMES)
        if inside:
            for n, picture in enumerate(rgb):
                file.create_dataset(str(n), data=picture, compression="gzip")
            return rgb
        file.create_dataset("filenames", data=[f"shown/{n}" for n in NAMES],
                            dtype=h5py.string_dtype())  # fmt: skip
        shapes = file.create_dataset("shapes", (len(NAMES),), h5py.vlen_dtype(np.int64))
        for n, name in enumerate(NAMES):
            shapes[n] = np.array([*SHAPE, 3])
            target = path.parent / "shown" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(target), rgb[n, ..., ::-1])
    return rgb


def padded(rows):
    made = np.full((len(rows), max(map(len, rows))), np.nan)
    for row, values in zip(made, rows, strict=True):
        row[: len(values)] = values
    return made


def write_fixations(path, kind):
    ns, who, xs, ys, ts, durations = map(list, zip(*PATHS, strict=True))
    with h5py.File(path, "w") as file:
        if kind == "Fixations":
            counts = list(map(len, xs))
            head(file, kind, "1.0", __attributes__=["subjects", "duration"])
            for name, rows in (("x", xs), ("y", ys), ("t", ts), ("duration", durations)):
                file[name] = np.concatenate(rows)
            file["n"], file["subjects"] = np.repeat(ns, counts), np.repeat(who, counts)
        elif kind == "FixationTrains":
            head(file, kind, "1.2", __attributes__=[])
            for name, rows in (("xs", xs), ("ys", ys), ("ts", ts)):
                file[f"train_{name}"] = padded(rows)
            file["train_ns"], file["train_subjects"] = ns, who
            file["scanpath_fixation_attributes/durations"] = padded(durations)
        else:
            head(file, kind, "1.0")
            group = file.create_group("scanpaths") if kind == "ScanpathFixations" else file
            head(group, "Scanpaths", "1.0")
            group["xs"], group["ys"], group["n"] = padded(xs), padded(ys), ns
            group["lengths"] = list(map(len, xs))
            group["scanpath_attributes/subject"] = who
            group["fixation_attributes/ts"] = padded(ts)
            group["fixation_attributes/durations"] = padded(durations)


@pytest.fixture
def pair(tmp_path, rng):
    """Return a function that writes both files and returns them as one path."""

    def make(kind="FixationTrains", inside=False):
        paths = tmp_path / "s.hdf5", tmp_path / "f.hdf5"
        make.rgb = write_stimuli(paths[0], rng, inside)
        write_fixations(paths[1], kind)
        return joined_pair(*paths)

    return make


def loaded(root):
    return {s.name: s for s in loading.load("pysaliency", root, "test", NO_SPLIT)}


@pytest.mark.parametrize("kind", pysaliency.FIXATION_TYPES)
def test_every_type_of_fixations_is_read_with_all_that_belongs_to_it(pair, kind):
    found = loaded(pair(kind))
    assert list(found) == list(NAMES)
    one = found["one/a.png"]
    # pysaliency's first pixel is from 0 to 1; ours has its centre at 0
    assert one.fixations.tolist() == pytest.approx(
        np.array([[0, -0.25], [39.4, 28.5], [11.5, 3.5], [12.5, 4.5], [13.5, 5.5]])
    )
    assert pixels(one.fixations, SHAPE)[:, ::-1].tolist() == [[0, 0], [39, 29], [12, 4], [13, 5],
                                                              [14, 6]]  # fmt: skip
    assert one.subjects.tolist() == [3, 3, 5, 5, 5]
    assert one.times.tolist() == [0, 300, 0, 400, 900]
    assert one.durations.tolist() == [200, 250, 100, 200, 300]
    assert one.shape == SHAPE
    assert found["one/b.png"].fixations.shape == (0, 2)


@pytest.mark.parametrize("inside", [False, True])
def test_pictures_are_files_or_pixels(pair, inside):
    samples = list(loaded(pair(inside=inside)).values())
    for sample, rgb in zip(samples, pair.rgb, strict=True):
        assert (sample_image(sample) == rgb[..., ::-1]).all()


def test_an_index_is_no_time_and_minus_one_no_observer(pair):
    root = pair()
    with h5py.File(str(root).split(":")[1], "r+") as file:
        file["train_ts"][...] = padded([np.arange(len(row[2])) for row in PATHS])
        file["train_subjects"][...] = -1
    one = loaded(root)["one/a.png"]
    assert one.times is None
    assert one.subjects is None


def test_an_index_is_no_time_in_a_list_of_fixations(pair):
    root = pair("Fixations")
    with h5py.File(str(root).split(":")[1], "r+") as file:
        file["t"][...] = np.concatenate([np.arange(len(row[2])) for row in PATHS])
    assert loaded(root)["one/a.png"].times is None


def test_each_picture_keeps_its_gaussian(pair):
    root = pair()
    with h5py.File(str(root).split(":")[0], "r+") as file:
        file["sigma_pixels"] = [6.0, 8.0, 7.5]
    assert [sample.sigma_pixels for sample in loaded(root).values()] == [6.0, 8.0, 7.5]
    assert loading.sigma_origin("pysaliency", root) == "the file of stimuli (sigma_pixels)"


def test_pictures_are_not_turned_as_pysaliency_does_not(pair, tmp_path):
    from PIL import Image

    root = pair()
    path = tmp_path / "shown" / NAMES[0]
    plain = Image.open(path).copy()
    exif = Image.Exif()
    exif[0x0112] = 3  # half a turn
    plain.save(path, exif=exif)
    sample = loaded(root)[NAMES[0]]
    assert (sample_image(sample) == np.asarray(plain)[..., ::-1]).all()
    assert not (
        sample_image(dataclasses.replace(sample, turned=True)) == np.asarray(plain)[..., ::-1]
    ).all()
    (tmp_path / "copy").mkdir()
    name = write_sample(tmp_path / "copy", "test", sample, set())
    assert (read_image(tmp_path / "copy/images/test" / name) == sample_image(sample)).all()


@given(st.floats(0, 20_000, exclude_max=True))
def test_rounding_never_moves_a_fixation_to_another_pixel(x):
    made = pysaliency.centres(np.array([x]))
    assert pixels(np.array([[made[0], 0]]), (1, 20_000))[0, 1] == int(x)


def damage(action):
    """Return a function that changes the files of a pair."""

    def change(folder):
        with h5py.File(folder / "f.hdf5", "r+") as fixations, h5py.File(
            folder / "s.hdf5", "r+"
        ) as stimuli:  # fmt: skip
            action(stimuli, fixations)

    return change


def replace(file, name, values):
    del file[name]
    file[name] = values


def numbers_for_names(stimuli, fixations):
    del stimuli["filenames"]
    made = stimuli.create_dataset("filenames", (3,), h5py.vlen_dtype(np.int64))
    for n in range(3):
        made[n] = np.arange(3)


def no_stimuli(stimuli, fixations):
    for name in ("filenames", "shapes"):
        kind = stimuli[name].dtype
        del stimuli[name]
        stimuli.create_dataset(name, (0,), kind)


def outside(folder):
    """Keep an array's data in another file, by a link and by what an array may say itself."""
    with h5py.File(folder / "other.hdf5", "w") as file:
        file["x"] = np.ones((3, 3))
    with h5py.File(folder / "f.hdf5", "r+") as file:
        del file["train_xs"]
        file["train_xs"] = h5py.ExternalLink("other.hdf5", "x")


def stored_outside(folder):
    (folder / "other").write_bytes(bytes(72))
    with h5py.File(folder / "f.hdf5", "r+") as file:
        del file["train_xs"]
        file.create_dataset("train_xs", (3, 3), "f8", external=[(folder / "other", 0, 72)])


BAD = {
    "not HDF5": (lambda folder: (folder / "f.hdf5").write_text("x"), r"f\.hdf5 is not a file in"),
    "gone": (lambda folder: (folder / "s.hdf5").unlink(), r"s\.hdf5: no such file"),
    "swapped": (lambda folder: (folder / "s.hdf5").write_bytes((folder / "f.hdf5").read_bytes()),
                "holds FixationTrains, but Stimuli or FileStimuli is expected"),
    "no type": (damage(lambda s, f: f.attrs.pop("type")), "holds no type of pysaliency"),
    "no array": (damage(lambda s, f: f.pop("train_ys")), "has no 'train_ys', which FixationTrains"),
    "lengths": (damage(lambda s, f: replace(f, "train_ns", [0, 1])), "xs has 3 rows, but n 2"),
    "shapes": (damage(lambda s, f: replace(f, "train_ys", np.ones((3, 4)))), r"ys has the shape"),
    "text": (damage(lambda s, f: replace(f, "train_ns", [b"a"] * 3)), "not an array of numbers"),
    "stimulus": (damage(lambda s, f: replace(f, "train_ns", [0, 1, 7])),
                 "fixations on stimulus 7, but .* 0 to 2. Do both belong together"),
    "half a stimulus": (damage(lambda s, f: replace(f, "train_ns", [0, 0.5, 1])), "whole numbers"),
    "picture": (lambda folder: (folder / "shown" / NAMES[1]).unlink(), r"one/b\.png, which is not"),
    "no picture": (damage(lambda s, f: replace(s, "filenames", ["/etc/passwd"] * 3)),
                   "'/etc/passwd', which is no picture file"),
    "one name": (damage(lambda s, f: replace(s, "filenames", [f"shown/{NAMES[0]}"] * 3)),
                 "two stimuli of the name a;"),
    "names": (damage(lambda s, f: replace(s, "filenames", [b"a.png"])), "1 file names but 3"),
    "no names": (damage(lambda s, f: s.pop("filenames")), "has no 'filenames'"),
    "numbers for names": (damage(numbers_for_names), "filenames does not hold texts"),
    "no UTF-8": (damage(lambda s, f: replace(s, "filenames", [b"\xff"] * 3)), "is not UTF-8"),
    "flat": (damage(lambda s, f: replace(f, "train_xs", np.ones(3))), "2 dimensions are expected"),
    "no stimuli": (damage(no_stimuli), "holds no stimuli"),
    "a link out": (outside, "has no 'train_xs'"),
    "data outside": (stored_outside, "stores its data in another file"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_line(pair, tmp_path, case):
    change, expected = BAD[case]
    root = pair()
    change(tmp_path)
    with pytest.raises(UserError, match=expected) as refused:
        loaded(root)
    assert "\n" not in str(refused.value)


def test_bad_pixels_inside_a_file_are_one_line(pair, tmp_path):
    root = pair(inside=True)
    damage(lambda s, f: replace(s, "1", np.zeros(7, np.uint8)))(tmp_path)
    with pytest.raises(UserError, match=r"s\.hdf5: 1 is not a picture"):
        loaded(root)
    damage(lambda s, f: s.attrs.modify("size", -1))(tmp_path)
    with pytest.raises(UserError, match="has no 'size', the number of its stimuli"):
        loaded(root)


def test_rows_that_share_their_bytes_are_refused(tmp_path):
    """Two thousand names of a megabyte in a file of one would fill the memory."""
    path = tmp_path / "s.hdf5"
    with h5py.File(path, "w") as file:
        rows = file.create_dataset("filenames", (2000,), h5py.string_dtype())
        for n in range(2000):
            rows[n] = "x" if n else "y" * 10**6
        at = rows.id.get_offset()
    data = bytearray(path.read_bytes())
    data[at : at + 16 * 2000] = data[at : at + 16] * 2000
    path.write_bytes(data)
    with h5py.File(path) as file, pytest.raises(UserError, match="more than the file can hold"):
        hdf5.read_rows(file["filenames"], "x")


def test_two_files_are_given_in_a_row(cli, pair, tmp_path, monkeypatch):
    monkeypatch.setattr("commands.curation.check.draw", lambda *about: False)
    pair()
    # drawn splits of three pictures, one of which nobody looked at, cannot be used
    cli("data", "check", "--dataset", "pysaliency", "--data", "s.hdf5", "f.hdf5", code=1)
    assert json.loads((tmp_path / "check/check.json").read_text())["parts"][0]["fixations"] == 6
    refused = cli("data", "check", "--dataset", "osie", "--data", "s.hdf5", "f.hdf5", code=2)
    assert "Two HDF5 files are for --dataset pysaliency" in refused.stderr
    refused = cli("data", "check", "--dataset", "pysaliency", "--data", "s.hdf5", code=2)
    assert "is one file, but pysaliency has two" in refused.stderr


# --- out, and back ---


def assert_equal(found, samples):
    assert [s.name for s in found] == [s.name for s in samples]
    for one, other in zip(found, samples, strict=True):
        for name in ("fixations", "subjects", "times", "durations"):
            mine, theirs = getattr(one, name), getattr(other, name)
            assert (mine is None) == (theirs is None), name
            assert mine is None or np.array_equal(mine, theirs, equal_nan=True), name
        assert one.sigma_pixels == other.sigma_pixels


def recordings(folder, rng, who=True):
    """Write a set of --dataset folder, with fractions, and with what may be unknown."""
    (folder / "images").mkdir(parents=True)
    lines = ["image,x,y,subject,t,duration" if who else "image,x,y"]
    # pysaliency might read the .tif otherwise
    odd = "e.tif" if who else "e.png"
    for name in ("a.png", "b.jpg", "c.bmp", "d.png", odd, "f.png", "g.png"):
        cv2.imwrite(str(folder / "images" / name), rng.integers(0, 256, (*SHAPE, 3), np.uint8))
        for n, (x, y) in enumerate(rng.uniform(-0.5, (39.5, 29.5), (5, 2)).astype(np.float32)):
            more = f",{n // 3},{n * 217.3},{'' if n == 4 else 90 + n / 7}" if who else ""
            lines.append(f"{name},{x},{y}{more}")
    (folder / "fixations.csv").write_text("\n".join(lines))


@pytest.mark.parametrize("stimuli", ["files", "pixels"])
@pytest.mark.parametrize("who", [True, False])
def test_what_goes_out_comes_back_to_the_bit(cli, tmp_path, rng, stimuli, who):
    recordings(tmp_path / "set", rng, who)
    words = [
        "data",
        "export",
        "--dataset",
        "folder",
        "--data",
        "set",
        "--output",
        "out",
        "--stimuli",
    ]
    done = cli(*words, stimuli)
    assert f"fixations as {'FixationTrains' if who else 'Fixations'}" in done.stdout
    assert f"{7 * 5} fixations" in done.stdout
    if stimuli == "files":
        with h5py.File(tmp_path / "out/stimuli.hdf5") as file:
            name = file["filenames"][0].decode()
            assert name.startswith("pictures/" if who else "../set/images/")
    for split in SPLITS:
        theirs = loading.load("folder", tmp_path / "set", split)
        ours = loading.load("pysaliency", tmp_path / "out", split)
        named = {s.name.split(".")[0]: s for s in theirs}
        # pictures of other formats become PNG
        assert_equal(ours, [
            _renamed(named[s.name.split(".")[0]], s.name) for s in ours
        ])  # fmt: skip
        assert len(ours) == len(theirs)
        for sample in ours:
            one = named[sample.name.split(".")[0]]
            assert (sample_image(sample) == sample_image(one)).all()


def _renamed(sample, name):
    from dataclasses import replace as changed

    return changed(sample, name=name)


def test_a_built_in_set_goes_out_with_pictures_of_its_own(cli, tmp_path):
    cli("data", "export", "--dataset", "synthetic", "--split", "test", "--output", "out")
    theirs, ours = (
        loading.load(name, root, "test")
        for name, root in (("synthetic", None), ("pysaliency", tmp_path / "out"))
    )
    assert_equal(ours, theirs)
    assert loading.sigma_origin("pysaliency", tmp_path / "out") != pysaliency.SIGMA_FROM
    with h5py.File(tmp_path / "out/stimuli.hdf5") as file:
        assert file["filenames"][0].decode().startswith("pictures/")


def test_a_picture_that_pysaliency_would_not_turn_is_written_turned(cli, tmp_path, rng):
    from PIL import Image

    recordings(tmp_path / "set", rng)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    path = tmp_path / "set/images/b.jpg"
    Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8)).save(path, exif=exif)
    cli("data", "export", "--dataset", "folder", "--data", "set", "--output", "out")
    with h5py.File(tmp_path / "out/stimuli.hdf5") as file:
        names = [name.decode() for name in file["filenames"]]
        n = names.index("pictures/b.jpg.png")
        assert file["shapes"][n].tolist() == [30, 40, 3]
        # and the others lie beside it, as they are
        copied = tmp_path / "out/pictures/a.png"
        assert copied.read_bytes() == (tmp_path / "set/images/a.png").read_bytes()


def test_observers_in_any_order_stay_whole_paths(tmp_path):
    from commands.curation import exporting
    from salience.pictures.sample import Sample

    sample = Sample("a.png", tmp_path / "a.png", fixations=np.eye(4, 2, dtype=np.float32),
                    subjects=np.array([7, 2, 7, 2], np.int32))  # fmt: skip
    columns = exporting.columns_of(0, sample)
    assert columns["subjects"].tolist() == [7, 7, 2, 2]
    assert columns["x"].tolist() == [1.5, 0.5, 0.5, 0.5]
    assert columns["y"].tolist() == [0.5, 0.5, 1.5, 0.5]


def test_maps_alone_cannot_go_out(cli, tmp_path, rng):
    for kind in ("images", "maps"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        for n in range(6):
            grey = rng.integers(0, 256, SHAPE, np.uint8)
            cv2.imwrite(str(tmp_path / f"set/{kind}/{n}.png"), grey)
    words = ["data", "export", "--dataset", "folder", "--data", "set", "--output", "out"]
    assert "maps but no fixations" in cli(*words, code=2).stderr
    assert not (tmp_path / "out").exists()
    assert "--output is required" in cli(*words[:-2], code=2).stderr
    assert "set exists. Choose another --output" in cli(*words[:-1], "set", code=2).stderr


def test_one_split_goes_out_with_a_note_of_what_does_not(cli, tmp_path, rng):
    recordings(tmp_path / "set", rng)
    split = loading.load("folder", tmp_path / "set", "val")
    with (tmp_path / "set/fixations.csv").open("a") as file:
        for sample in split:
            file.write(f"\n{sample.name},-40,-40,1,1,1")
    words = ["data", "export", "--dataset", "folder", "--data", "set", "--output", "out"]
    done = cli(*words, "--split", "val", "--out_of_bounds", "drop")
    assert f"{len(split)} fixations outside their picture are dropped or clipped" in done.stdout
    assert_equal(loading.load("pysaliency", tmp_path / "out", "val"), split)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device")

    class Full(hdf5.KeptError):
        def __init__(self, file):
            class Disk:
                write, readinto, seek, tell, truncate = (
                    full, file.readinto, file.seek, file.tell, file.truncate
                )  # fmt: skip

            super().__init__(Disk())

        def write(self, data):
            self.file.write = lambda data: full(self, data)
            return super().write(data)

    monkeypatch.setattr(hdf5, "KeptError", Full)
    with pytest.raises(StorageError, match="No space left"), hdf5.writing(tmp_path / "a") as file:
        file["x"] = np.ones(10**5)
    assert list(tmp_path.iterdir()) == []

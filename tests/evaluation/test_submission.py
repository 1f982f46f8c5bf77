"""Submissions are what the benchmarks ask for, and a broken one is told for what it is."""

import dataclasses
import json
import shutil
import sys
import tarfile
import zipfile
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

import main
from commands.evaluation.submission import BENCHMARK_FORMATS, export_maps, validate
from commands.prediction import predict as predict_module
from commands.settings import BENCHMARKS, ExportMapsConfig
from model import load_model
from model import predict as predict_one
from salience.networks import weight_files
from salience.pictures.sample import Sample
from salience.system import quiet
from salience.system.errors import UserError

NAMES = {
    "mit300": ("i1.jpg", "i2.jpg", "i11.jpg"),
    "cat2000": ("Action/001.jpg", "Action/002.jpg", "Art/001.jpg"),
    "salicon": ("COCO_test2014_000000000001.jpg", "COCO_test2014_000000000014.jpg"),
}
SHAPES = ((30, 40), (33, 25), (30, 40))


@pytest.fixture(autouse=True)
def benchmarks(tmp_path, picture, monkeypatch):
    """Make a miniature of each benchmark: its pictures below tmp_path, and who lists them."""
    for benchmark, names in NAMES.items():
        samples = []
        for name, shape in zip(names, SHAPES, strict=False):
            path = tmp_path / benchmark / name
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), picture(*shape))
            samples.append(Sample(name, path))
        module = SimpleNamespace(
            NEEDS_FILES=True,
            SOURCE="Get it.",
            submission_pictures=lambda root, found=samples: found,
        )
        monkeypatch.setitem(sys.modules, f"salience.data.sets.{benchmark}", module)
        few = dataclasses.replace(BENCHMARK_FORMATS[benchmark], pictures=len(names))
        monkeypatch.setitem(BENCHMARK_FORMATS, benchmark, few)


@pytest.fixture
def run(trained, tmp_path):
    """Return a function that exports to tmp_path/out and returns (problems, lines)."""

    def go(benchmark, **changes):
        lines = []
        settings = ExportMapsConfig(
            **{
                "format": benchmark,
                "data": tmp_path / benchmark,
                "weights": trained,
                "output": tmp_path / "out",
                **changes,
            }
        )
        return export_maps(settings, lines.append), lines

    return go


@pytest.fixture
def model(trained):
    return weight_files.card_path(trained).stem


@pytest.fixture
def samples(tmp_path):
    """Return a function that returns the pictures of a miniature benchmark."""

    def of(benchmark):
        return [Sample(name, tmp_path / benchmark / name) for name in NAMES[benchmark]]

    return of


@pytest.fixture
def submission(tmp_path, samples):
    """Return a function that makes a sound submission by hand: a folder, packed by `pack`."""

    def make(benchmark, suffix=".png"):
        folder = tmp_path / "by_hand"
        for sample in samples(benchmark):
            path = (folder / sample.name).with_suffix(suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            shape = cv2.imread(str(sample.image)).shape[:2]
            write(path, np.linspace(0, 255, shape[0] * shape[1]).reshape(shape).astype(np.uint8))
        return folder

    return make


def write(path, values):
    assert cv2.imwrite(str(path), values)


def pack(folder, prefix=""):
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            file.write(path, prefix + path.relative_to(folder).as_posix())
    return archive


def names_in(archive):
    with zipfile.ZipFile(archive) as file:
        return file.namelist()


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_each_benchmark_gets_the_archive_that_it_asks_for(
    run, tmp_path, trained, model, samples, benchmark
):
    problems, lines = run(benchmark, batch_size=2)
    assert problems == []
    expected = {
        "mit300": [f"{model}/{name}" for name in NAMES["mit300"]],
        "cat2000": [f"{model}/{name}" for name in NAMES["cat2000"]],
        "salicon": [name.replace(".jpg", ".png") for name in NAMES["salicon"]],
    }[benchmark]
    archive = tmp_path / "out" / f"{model}.zip"
    assert names_in(archive) == sorted(expected)
    with zipfile.ZipFile(archive) as file:
        for sample, name in zip(samples(benchmark), expected, strict=True):
            data = np.frombuffer(file.read(name), np.uint8)
            written = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
            map_ = predict_one(load_model(trained), sample.image)
            assert written.shape == map_.shape
            # JPEG, which the first two ask for, may move a value by two levels
            near = 0.51 if benchmark == "salicon" else 2.51
            np.testing.assert_allclose(written, map_ * 255, atol=near)
    assert lines[-1] == f"{archive}: read again, no problems"


def test_a_part_of_the_pictures_is_a_problem_and_no_set_is_offered_instead(
    run, tmp_path, monkeypatch
):
    all_300 = dataclasses.replace(BENCHMARK_FORMATS["mit300"], pictures=300)
    monkeypatch.setitem(BENCHMARK_FORMATS, "mit300", all_300)
    problems, lines = run("mit300")
    assert problems == ["3 of 300 pictures are in --data: mit300 takes maps of all"]
    assert lines[-1].endswith("1 problem")
    monkeypatch.delitem(sys.modules, "salience.data.sets.mit300")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError) as refused:
        run("mit300", data=tmp_path / "none")
    assert "BenchmarkIMAGES.zip" in str(refused.value)
    assert "synthetic" not in str(refused.value)


def test_maps_that_are_there_are_kept_and_give_the_same_archive(run, tmp_path, model):
    run("mit300")
    archive, folder = tmp_path / "out" / f"{model}.zip", tmp_path / "out" / model
    first = archive.read_bytes()
    (folder / "i2.jpg").unlink()
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    problems, lines = run("mit300")
    assert problems == []
    assert archive.read_bytes() == first
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert any("1 map written" in line and "2 kept" in line for line in lines)


def test_maps_of_other_weights_settings_or_benchmarks_are_never_mixed_in(
    run, tmp_path, trained, model
):
    run("mit300")
    for changes in ({"smooth": 3.0}, {"weights": tmp_path / trained.name}):
        if "weights" in changes:
            shutil.copy(trained, changes["weights"])
            network = load_model(trained)
            network.set_weights([values * 0.9 for values in network.get_weights()])
            weight_files.save(network, changes["weights"], weight_files.read_card(trained))
        with pytest.raises(UserError, match=r"holds maps of other weights.* --overwrite"):
            run("mit300", **changes)
    before = (tmp_path / "out" / model / "i1.jpg").read_bytes()
    assert run("mit300", smooth=3.0, overwrite=True)[0] == []
    assert (tmp_path / "out" / model / "i1.jpg").read_bytes() != before
    (tmp_path / "out" / f"{model}.maps.json").unlink()
    with pytest.raises(UserError, match="holds maps of other weights"):
        run("mit300", smooth=3.0)


def test_an_interrupted_overwrite_does_not_leave_old_maps_for_new(
    run, tmp_path, model, monkeypatch
):
    run("mit300")
    with monkeypatch.context() as patch:
        patch.setattr(
            predict_module, "predict_and_write", lambda *arguments: (_ for _ in ()).throw(KeyError)
        )
        with pytest.raises(KeyError):
            run("mit300", smooth=3.0, overwrite=True)
    assert list((tmp_path / "out").rglob("*.jpg")) == []
    assert not (tmp_path / "out" / f"{model}.zip").exists()
    problems, lines = run("mit300", smooth=3.0)
    assert problems == []
    assert any("3 maps written" in line for line in lines)


def test_a_picture_without_a_map_gives_no_archive(run, tmp_path, model, capsys):
    (tmp_path / "mit300" / "i2.jpg").write_text("no picture")
    problems, lines = run("mit300")
    assert problems == ["1 picture without a map, so no archive is written"]
    assert lines[-1] == f"problem: {problems[0]}"
    assert "skipped: " in capsys.readouterr().err
    assert not (tmp_path / "out" / f"{model}.zip").exists()


def test_a_model_that_gives_nothing_is_noticed(run, tmp_path, trained):
    network = load_model(trained)
    network.set_weights([np.zeros_like(values) for values in network.get_weights()])
    dead = tmp_path / "dead.weights.h5"
    weight_files.save(network, dead, weight_files.read_card(trained))
    problems, lines = run("salicon", weights=dead)
    assert len(problems) == 2
    assert "is constant (0)" in problems[0]
    assert lines[-1].endswith("dead.zip: 2 problems")


def test_pictures_are_never_taken_for_maps(run, tmp_path, model):
    (tmp_path / "mit300").rename(tmp_path / model)
    (tmp_path / "mit300").symlink_to(tmp_path / model)
    before = (tmp_path / model / "i1.jpg").read_bytes()
    with pytest.raises(UserError, match="holds the pictures themselves"):
        run("mit300", output=tmp_path, overwrite=True)
    assert (tmp_path / model / "i1.jpg").read_bytes() == before


def test_the_card_of_weights_in_the_output_folder_is_left_alone(run, trained, tmp_path):
    for path in (trained, weight_files.card_path(trained)):
        shutil.copy(path, tmp_path)
    card = weight_files.card_path(tmp_path / trained.name)
    before = card.read_bytes()
    assert run("mit300", weights=tmp_path / trained.name, output=tmp_path)[0] == []
    assert card.read_bytes() == before


def test_a_picture_with_a_wrong_exif_turn_gets_a_map_of_its_stored_size(
    run, tmp_path, picture, monkeypatch
):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "cat2000" / "Pattern" / "132.jpg"
    path.parent.mkdir()
    Image.fromarray(picture(30, 40)).save(path, exif=exif)
    samples = [Sample("Pattern/132.jpg", path, shape=(30, 40))]
    module = sys.modules["salience.data.sets.cat2000"]
    monkeypatch.setattr(module, "submission_pictures", lambda root: samples)
    one = dataclasses.replace(BENCHMARK_FORMATS["cat2000"], pictures=1)
    monkeypatch.setitem(BENCHMARK_FORMATS, "cat2000", one)
    problems, _ = run("cat2000")
    assert problems == []


def test_a_map_without_the_right_to_read_it_is_told(submission, samples, monkeypatch):
    folder = submission("mit300")
    opened = type(folder).open

    def locked(path, *arguments):
        if path.name == "i2.png":
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments)

    monkeypatch.setattr(type(folder), "open", locked)
    assert validate(folder, samples("mit300"), "mit300") == [
        "i2.png cannot be read: Permission denied"
    ]


def test_missing_data_is_said(run, tmp_path):
    with pytest.raises(UserError, match="--data is needed: the folder of salicon"):
        run("salicon", data=None)
    with pytest.raises(UserError, match=r"cat2000 data set is not at .*nowhere"):
        run("cat2000", data=tmp_path / "nowhere")
    with pytest.raises(UserError, match="Unknown format 'mit30'"):
        run("mit30")


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_a_sound_submission_of_others_passes(submission, samples, benchmark, tmp_path):
    folder = submission(benchmark)
    assert validate(folder, samples(benchmark), benchmark) == []
    assert validate(pack(folder), samples(benchmark), benchmark) == []
    with tarfile.open(tmp_path / "by_hand.tar.gz", "w:gz") as file:
        file.add(folder, "" if benchmark == "salicon" else "their-model")
    assert validate(tmp_path / "by_hand.tar.gz", samples(benchmark), benchmark) == []
    # as `tar czf X.tar.gz ./their-model` and macOS' Finder pack
    pack(folder, "./" if benchmark == "salicon" else "./their-model/")
    with zipfile.ZipFile(folder.with_suffix(".zip"), "a") as file:
        file.writestr("__MACOSX/their-model/._i1.png", b"x")
        file.writestr("their-model/.DS_Store", b"x")
    (problem,) = validate(folder.with_suffix(".zip"), samples(benchmark), benchmark)
    assert problem.startswith("2 files of the operating system")
    (folder / ".DS_Store").write_bytes(b"x")
    assert validate(folder, samples(benchmark), benchmark) == []
    (folder / ".DS_Store").unlink()
    around = validate(pack(folder, "their-model/"), samples(benchmark), benchmark)
    assert (around == []) == (benchmark != "salicon")


def test_jpeg_of_any_quality_passes_where_it_is_asked_for(submission, samples):
    folder = submission("cat2000", ".jpg")
    for path in folder.rglob("*.jpg"):
        values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), values, [cv2.IMWRITE_JPEG_QUALITY, 60])
    assert validate(folder, samples("cat2000"), "cat2000") == []


def change(**changes):
    """Return a function that writes one map anew, its values changed."""

    def apply(folder):
        path = folder / "Action" / "002.png"
        values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        write(path, changes["to"](values))

    return apply


def truncate(folder):
    path = folder / "Action" / "002.png"
    path.write_bytes(path.read_bytes()[:100])


def as_palette(folder):
    path = folder / "Action" / "002.png"
    image = Image.open(path).convert("P")
    image.putpalette([255 - i // 3 for i in range(768)])
    image.save(path)


def promise_gigabytes(folder):
    path = folder / "Action" / "002.png"
    data = bytearray(path.read_bytes())
    data[16:24] = (100_000).to_bytes(4) * 2
    path.write_bytes(data)


BROKEN = {
    "missing": (lambda f: (f / "Art/001.png").unlink(), ["Art/001.png is missing"]),
    "extra": (lambda f: (f / "Art/002.png").touch(), ["'Art/002.png' is unexpected"]),
    "extra of another type": (
        lambda f: (f / "readme.txt").touch(),
        ["'readme.txt' is unexpected"],
    ),
    "wrong folder": (
        lambda f: (f / "Art").rename(f / "Arts"),
        ["Art/001.png is missing", "'Arts/001.png' is unexpected; expected is A"],
    ),
    "no folder": (
        lambda f: (f / "Art/001.png").rename(f / "001.png"),
        ["Art/001.png is missing", "'001.png' is unexpected; expected is A"],
    ),
    "two types": (
        lambda f: (f / "Art/001.png").rename(f / "Art/001.tiff"),
        ["Art/001.png is missing", "'Art/001.tiff' is unexpected"],
    ),
    "wrong size": (
        change(to=lambda v: v[:, 1:]),
        ["Action/002.png is 24 x 33, but its picture 25"],
    ),
    "turned": (change(to=lambda v: v.T), ["is 33 x 25, but its picture 25 x 33"]),
    "colour": (
        change(to=lambda v: cv2.applyColorMap(v, cv2.COLORMAP_JET)),
        ["Action/002.png is in colour: 3 channels"],
    ),
    "grey in three channels": (change(to=lambda v: cv2.merge([v] * 3)), ["3 channels"]),
    "transparency": (change(to=lambda v: cv2.merge([v] * 4)), ["4 channels"]),
    "palette": (as_palette, ["3 channels"]),
    "16 bits": (change(to=lambda v: v.astype(np.uint16) * 257), ["002.png has 16 bits per pixel"]),
    "constant": (change(to=lambda v: v * 0 + 255), ["Action/002.png is constant (255)"]),
    "half the range": (change(to=lambda v: v // 2), ["has a maximum of 127"]),
    "0 to 1": (change(to=lambda v: v // 255), ["has a maximum of 1 instead"]),
    "text": (lambda f: (f / "Art/001.png").write_text("x"), ["001.png is not a picture"]),
    "empty": (lambda f: (f / "Art/001.png").write_bytes(b""), ["001.png is not a picture"]),
    "truncated": (truncate, ["Action/002.png is not a picture that can be read"]),
    "a great header": (promise_gigabytes, ["Action/002.png is "]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_submission_is_told_for_what_it_is(submission, samples, name):
    damage, expected = BROKEN[name]
    folder = submission("cat2000")
    damage(folder)
    for place in (folder, pack(folder)):
        problems = validate(place, samples("cat2000"), "cat2000")
        assert len(problems) == len(expected), problems
        for problem, part in zip(problems, expected, strict=True):
            assert part in problem
            assert "\n" not in problem


def test_a_map_that_is_there_twice_or_is_a_link_is_told(submission, samples, tmp_path):
    archive = pack(submission("mit300"))
    with zipfile.ZipFile(archive, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("i1.png", file.read("i1.png"))
    assert validate(archive, samples("mit300"), "mit300") == ["'i1.png' occurs 2 times"]
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.add(tmp_path / "by_hand", "m")
        link = tarfile.TarInfo("m/i1.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    problems = validate(tmp_path / "a.tar", samples("mit300"), "mit300")
    assert problems == ["'m/i1.png' occurs 2 times", "m/i1.png is a link or a device"]


def test_a_map_larger_than_any_is_not_read(submission, samples, monkeypatch):
    monkeypatch.setattr("commands.evaluation.submission.MAX_MAP_BYTES", 10)
    problems = validate(pack(submission("salicon")), samples("salicon"), "salicon")
    assert len(problems) == 2
    assert "too many for a map" in problems[0]


def test_two_folders_around_the_maps_do_not_belong(submission, samples):
    folder = submission("mit300")
    (folder / "m").mkdir()
    (folder / "i2.png").rename(folder / "m" / "i2.png")
    problems = validate(folder, samples("mit300"), "mit300")
    assert problems[0] == "i2.png is missing"
    assert problems[1] == "'m/i2.png' is unexpected; expected is i2.png"


def test_a_system_s_clutter_is_no_map_and_does_not_hide_the_maps(submission, samples):
    folder = submission("mit300")
    for name in ("._i1.png", ".ipynb_checkpoints/i1.png", "__MACOSX/mine/._i1.png"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(b"x")
    assert validate(folder, samples("mit300"), "mit300") == []
    # in an archive it would be handed in; but the folder around the maps is still found
    archive = pack(folder, "mine/")
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("__MACOSX/mine/._i2.png", b"x")
    (problem,) = validate(archive, samples("mit300"), "mit300")
    assert problem.startswith("4 files of the operating system ('mine/")


def test_a_picture_that_cannot_be_read_leaves_its_map_unchecked(submission, samples, tmp_path):
    folder = submission("mit300")
    (tmp_path / "mit300" / "i2.jpg").write_text("x")
    problems = validate(folder, samples("mit300"), "mit300")
    assert len(problems) == 1
    assert "i2.png cannot be checked: its picture" in problems[0]


def test_check_is_a_command_that_loads_no_network(submission, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(quiet, "start_keras", lambda: pytest.fail("Keras"))
    folder = submission("cat2000")
    words = ["export-maps", "--format", "cat2000", "--data", str(tmp_path / "cat2000")]
    assert main.main([*words, "--check", str(pack(folder))]) == 0
    assert "by_hand.zip: read again, no problems" in capsys.readouterr().out
    for path in folder.rglob("*.png"):
        path.unlink()
    (folder / "Action" / "001.png").write_text("x")
    assert main.main([*words, "--check", str(pack(folder))]) == 1
    out = capsys.readouterr().out
    assert "problem: Action/002.png is missing" in out
    assert "by_hand.zip: 3 problems" in out
    (tmp_path / "cut.zip").write_bytes(b"PK")
    assert main.main([*words, "--check", str(tmp_path / "cut.zip")]) == 2
    assert "cut.zip is damaged or truncated" in capsys.readouterr().err
    assert main.main([*words, "--check", str(tmp_path / "gone.zip")]) == 2
    assert not (tmp_path / "submission").exists()


def test_only_the_first_problems_are_printed_and_all_are_counted(run, tmp_path, submission):
    folder = submission("mit300")
    for i in range(50):
        (folder / f"{i}.txt").touch()
    problems, lines = run("mit300", check=folder)
    assert len(problems) == 50
    assert len(lines) == 20 + 2
    assert lines[-2:] == ["... and 30 more", f"{folder}: 50 problems"]


def test_the_command_writes_and_says_so(tmp_path, trained, model, capsys):
    words = ["export-maps", "--format", "salicon", "--data", str(tmp_path / "salicon")]
    words += ["--weights", str(trained), "--output", str(tmp_path / "out")]
    assert main.main(words) == 0
    assert "no problems" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / f"{model}.maps.json").read_text())
    assert record["format"] == "salicon"
    (tmp_path / "salicon" / NAMES["salicon"][0]).write_text("x")
    assert main.main([*words, "--overwrite"]) == 1

"""What the storage refuses ends a command in one line, and leaves nothing half written.

Every point where a command opens, flushes, renames or makes something is refused in turn; then
small file systems of their own are filled, made read-only and taken away.
"""

import errno
import functools
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import h5py
import numpy as np
import pytest
from conftest import PROJECT, TINY
from PIL import Image
from weights_of_2016 import theano_weights, write_2016

import main
from commands.curation import prepare
from commands.evaluation import submission
from commands.prediction import engines, predict
from commands.prediction.map_record import RECORD
from commands.training.run_folder import RunFolder
from model import load_model, system_module
from salience.pictures.sample import Sample
from salience.system import cache, files

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.mkdir", "os.truncate", "os.utime")  # besides "open"; removing is free


class Refusals:
    """Refuses, from the n-th on or once, what would change files below a folder; counts them."""

    def __init__(self):
        self.folder = None
        sys.addaudithook(self.heard)

    def arm(self, folder, first, number, once=False):
        self.count, self.first, self.number, self.once = 0, first, number, once
        self.folder = os.fspath(folder)

    def disarm(self):
        self.folder = None

    def heard(self, event, details):
        if self.folder is None or not (event == "open" or event in CHANGES):
            return
        path = details[0]
        if event == "open" and (not isinstance(path, str | bytes) or not details[2] & WRITES):
            return
        if os.fsdecode(path).startswith(self.folder):
            self.refuse(os.fsdecode(path))

    def refuse(self, path=None):
        if self.folder is None:
            return
        self.count += 1
        if self.count == self.first or (self.count > self.first and not self.once):
            raise OSError(self.number, os.strerror(self.number), path)


REFUSALS = Refusals()  # such a hook cannot be taken away again


@pytest.fixture
def refusals(monkeypatch):
    """Return what refuses; flushes are refused, too."""
    fsync = os.fsync

    def counted(handle):
        REFUSALS.refuse()
        fsync(handle)

    monkeypatch.setattr(os, "fsync", counted)
    yield REFUSALS
    REFUSALS.disarm()


@pytest.fixture(scope="module")
def inputs(trained, tmp_path_factory):
    """Return a folder with what the commands read."""
    root, rng = tmp_path_factory.mktemp("inputs"), np.random.default_rng(0)

    def draw(path, shape):
        path.parent.mkdir(parents=True, exist_ok=True)
        values = rng.integers(0, 256, shape, dtype=np.uint8)
        cv2.imwrite(str(path), cv2.GaussianBlur(values, (0, 0), 3))

    for name in ("a", "b"):
        draw(root / "pictures" / f"{name}.jpg", (60, 80, 3))
        draw(root / "benchmark" / "Action" / f"{name}.jpg", (60, 80, 3))
    for i in range(4):
        draw(root / "maps" / f"test_{i:03d}.png", (120, 160))
    for split in ("train", "val", "test"):
        for i in range(2):
            draw(root / "own" / "images" / split / f"p{i}.jpg", (60, 80, 3))
            draw(root / "own" / "maps" / split / f"p{i}.png", (60, 80))
    (root / "export.csv").write_text("image,x,y,subject\na,9,8,ann\nb.jpg,7,6,bob\n")
    with zipfile.ZipFile(root / "own.zip", "w") as archive:
        for path in sorted((root / "own").rglob("*.*")):
            archive.write(path, path.relative_to(root / "own"))
    write_2016(root / "old.pkl", *theano_weights(rng, 0.125, (2, 3)))
    shutil.copytree(trained.parent.parent / "run", root / "run")
    shutil.copytree(root / "run", root / "other")
    other = json.loads((root / "run" / "config.json").read_text()) | {"seed": 1}
    (root / "other" / "config.json").write_text(json.dumps(other))
    shutil.copy(trained, root / "net.weights.h5")
    return root


@pytest.fixture(autouse=True)
def quick(inputs, monkeypatch):
    """Load the network once, and list a benchmark of two pictures."""
    pictures = sorted((inputs / "benchmark").rglob("*.jpg"))
    samples = [Sample(f"Action/{path.name}", path) for path in pictures]
    module = SimpleNamespace(
        NEEDS_FILES=True, SOURCE="Get it.", submission_pictures=lambda root: samples
    )
    monkeypatch.setitem(sys.modules, "salience.data.sets.cat2000", module)
    formats = submission.BENCHMARK_FORMATS
    monkeypatch.setitem(formats, "cat2000", replace(formats["cat2000"], pictures=len(samples)))
    monkeypatch.setattr(engines, "load", lambda name, weights, *more: engine(weights))
    monkeypatch.setattr(prepare, "system_module", lambda name: SimpleNamespace(build=built))
    monkeypatch.setattr(cache, "_told", [])


@functools.cache
def engine(weights):
    return engines.keras_engine(weights)


@functools.cache
def built(network):
    return system_module(network.model).build(network)


FROM = ["--dataset", "folder", "--data"]
# these take longer
SLOWER = {
    **{
        f"export {name}": lambda at, out, name=name, suffix=suffix: [
            *("export", "--format", name, "--weights", at / "net.weights.h5"),
            *("--output", out / f"net{suffix}", "--overwrite"),
        ]
        for name, suffix in (
            ("litert", ".tflite"),
            ("openvino", ".xml"),
            ("saved_model", ""),
            ("onnx", ".onnx"),
        )
    },
    "compare": lambda at, out: [
        *("compare", at / "run", at / "other", "--metrics", "cc", "--gallery", "1"),
        *("--output", out),
    ],
    "probe": lambda at, out: [
        *("probe", "--dataset", "synthetic", "--backbone_weights", "none", "--width", "0.05"),
        *("--rows", "64", "--cols", "96", "--gallery", "1", "--metrics", "cc", "--output", out),
    ],
}
TRAINING = {
    "train": lambda at, out: [
        "train",
        *(word for name, value in TINY.items() for word in (f"--{name}", value)),
        *("--epochs", "2", "--output", out / "run", "--weights_dir", out / "weights"),
        "--overwrite",
    ],
}
COMMANDS = {
    "test": lambda at, out: [
        *("test", at / "pictures", "--weights", at / "net.weights.h5", "--engine", "keras"),
        *("--overlay", "--float", "--output", out),
    ],
    "evaluate": lambda at, out: [
        *("evaluate", "--dataset", "synthetic", "--maps", at / "maps", "--metrics", "cc"),
        *("--output", out),
    ],
    "data check": lambda at, out: ["data", "check", *FROM, at / "own", "--output", out],
    "data prepare": lambda at, out: [
        *("data", "prepare", *FROM, at / "own", "--rows", "48", "--cols", "64", "--output", out),
    ],
    "data subset": lambda at, out: [
        *("data", "subset", *FROM, at / "own.zip", "--n", "3", "--output", out / "small"),
    ],
    "data import": lambda at, out: [
        *("data", "import", at / "export.csv", "--images", at / "pictures"),
        *("--output", out / "imported"),
    ],
    "data export": lambda at, out: [
        *("data", "export", "--dataset", "synthetic", "--split", "val", "--output", out / "sent"),
    ],
    "export-maps": lambda at, out: [
        *("export-maps", "--format", "cat2000", "--data", at / "benchmark"),
        *("--weights", at / "net.weights.h5", "--output", out),
    ],
    "convert": lambda at, out: ["convert", at / "old.pkl", out / "new.weights.h5"],
}


# each reading and each kind of writing once; the others, whose writing is the same, take longer
QUICK = ("test", "evaluate", "data check")
MANY = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS]

# what lets a command go on where the last flush alone was refused
GO_ON = {"convert": ["--overwrite"]}


def run(command, inputs, out, capsys, more=()):
    """Run a command in this process; return its exit code and the lines of its errors."""
    words = [*(COMMANDS | SLOWER | TRAINING)[command](inputs, out), *more]
    code = main.main([str(word) for word in words])
    return code, capsys.readouterr().err.splitlines()


def refuse_half_files(folder):
    """Assert that each file that has a name is whole, and that no other is left."""
    for path in folder.rglob("*"):
        assert path.name == RECORD or not path.name.startswith("."), path
        if path.suffix in (".png", ".jpg"):
            Image.open(path).load()
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix in (".npy", ".npz") and not (path.parent / "preparing.json").exists():
            np.load(path, allow_pickle=False)
        elif path.suffix == ".h5":
            h5py.File(path).close()
        elif path.suffix == ".zip":
            assert zipfile.ZipFile(path).testzip() is None
        elif path.suffix in (".csv", ".html"):
            assert path.read_text().endswith(("\n", "</html>")), path


def state(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("command", MANY)
def test_a_full_disk_at_any_point_is_one_line_and_the_command_goes_on_later(
    command, inputs, tmp_path, refusals, capsys
):
    code = first = 1
    while code:
        out = tmp_path / str(first) / "out"
        out.parent.mkdir()
        refusals.arm(out.parent, first, errno.ENOSPC)
        code, told = run(command, inputs, out, capsys)
        refusals.disarm()
        if refusals.count < first:  # it has not come so far
            break
        assert code == 1, told
        assert len(told) == 1, told
        assert told[0].startswith("error: "), told
        assert "No space left on device. Free space or files there (df -h, df -i)" in told[0]
        refuse_half_files(out.parent)
        if first % 4 == 1:
            again, told = run(command, inputs, out, capsys, GO_ON.get(command, []))
            assert (again, told) == (0, [])
            refuse_half_files(out)
        shutil.rmtree(out.parent)
        first += 1
    assert first > 3  # it was refused at several points


def done_once(command, inputs, folder, capsys):
    """Return a new folder that a command has written to."""
    folder.mkdir()
    assert run(command, inputs, folder, capsys) == (0, [])
    return folder


@pytest.mark.slow
# LiteRT's file is written as ONNX's is, and takes longest to make
@pytest.mark.parametrize("command", [name for name in SLOWER if name != "export litert"])
def test_what_was_there_stays_or_is_replaced_as_a_whole(
    command, inputs, tmp_path, refusals, capsys
):
    """A full disk at every third point of a command that replaces what it wrote before."""
    before = done_once(command, inputs, tmp_path / "before", capsys)
    first, code = 2, 1
    while code:
        out = tmp_path / "out"
        shutil.copytree(before, out)
        # once: what is moved back then is not refused again
        refusals.arm(out, first, errno.ENOSPC, once=True)
        code, told = run(command, inputs, out, capsys)
        refusals.disarm()
        if code == 0:
            assert refusals.count < first
            break
        assert (code, len(told)) == (1, 1), told
        assert told[0].startswith("error: ") and "No space left on device" in told[0]
        refuse_half_files(out)
        if command.startswith("export"):
            assert state(out) == state(before)
        else:
            assert set(state(out)) >= set(state(before))
        shutil.rmtree(out)
        first += 3
    assert first > 2


REASONS = {
    errno.EDQUOT: "Disk quota exceeded. Free some of your quota",
    errno.EROFS: "Read-only file system. Have that disk mounted",
    errno.EIO: "Input/output error. Check that disk for errors",
    errno.ESTALE: "Stale file handle. See whether that disk is still mounted",
    errno.EMFILE: "Too many open files. Raise the limit",
    errno.EACCES: "Permission denied. See who may write there",
}


@pytest.mark.parametrize("number", REASONS)
def test_each_refusal_says_what_its_owner_can_do(number, inputs, tmp_path, refusals, capsys):
    refusals.arm(tmp_path, 4, number)
    code, told = run("test", inputs, tmp_path / "out", capsys)
    assert (code, len(told)) == (1, 1)
    assert REASONS[number] in told[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_goes_on_the_way_is_told_and_not_made_again_in_part(
    command, inputs, tmp_path, capsys, monkeypatch
):
    expected = set(state(done_once(command, inputs, tmp_path / "whole", capsys)))
    points = 0
    for first in (3, 5, 8, 13, 21):
        out = tmp_path / str(first)
        out.mkdir()

        gone = {}

        def vanish(path=None, out=out, first=first, gone=gone):
            REFUSALS.count += 1
            if REFUSALS.count == first:
                REFUSALS.disarm()
                gone.update(state(out))
                while out.exists():  # another thread may be writing
                    shutil.rmtree(out, ignore_errors=True)

        monkeypatch.setattr(REFUSALS, "refuse", vanish)
        REFUSALS.arm(out, first, 0)
        code, told = run(command, inputs, out, capsys)
        REFUSALS.disarm()
        if REFUSALS.count < first:
            break
        points += 1
        if code == 0:  # it went before there was anything to keep
            assert set(state(out)) >= expected - {Path("net.maps.json")}
            assert set(gone) <= {Path("net.maps.json")}
            continue
        assert len(told) == 1, told
        # what was unpacked there may be missed first where it is read
        assert code == 1 or "No images in" in told[0], (first, told)
        assert code == 2 or "No such file or directory. See what removed the folder" in told[0]
        assert not out.exists() or not state(out)
    assert points


@pytest.fixture
def disk(tmp_path):
    """Return a function that mounts a small file system of its own and returns its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        if os.geteuid():
            pytest.skip("only root mounts a file system")
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder, left):
    """Leave so many bytes of a file system; return the file that takes the rest."""
    ballast = folder / "ballast"
    free = shutil.disk_usage(folder).free
    with ballast.open("wb") as file:
        file.write(b"x" * (free - left))
    return ballast


@pytest.mark.parametrize("command", MANY)
def test_a_small_disk_that_is_full_is_one_line(command, inputs, disk, capsys):
    """Now with what C libraries meet when they write, and not only when they open."""
    folder = disk("size=2m")
    refused = 0
    for left in (0, 1, 2, 4, 8, 16, 64):  # pages
        (folder / "out").mkdir()
        ballast = fill(folder, left * 4096)
        code, told = run(command, inputs, folder / "out", capsys)
        if code:
            refused += 1
            assert (code, len(told)) == (1, 1), told
            assert told[0].startswith("error: ")
            assert "No space left on device" in told[0] or "MB more" in told[0], told
            refuse_half_files(folder / "out")
            ballast.unlink()
            again = GO_ON.get(command, [])
            assert run(command, inputs, folder / "out", capsys, again) == (0, [])
        refuse_half_files(folder / "out")
        shutil.rmtree(folder / "out")
        ballast.unlink(missing_ok=True)
        if code == 0:
            break
    assert refused > 1


@pytest.mark.slow
@pytest.mark.parametrize("command", SLOWER)
def test_a_larger_disk_that_is_full_is_one_line(command, inputs, disk, capsys):
    folder = disk("size=24m")
    refused = 0
    for left in (1, 8, 40, 100, 200, 300, 400, 600, 2000):  # pages
        (folder / "out").mkdir()
        ballast = fill(folder, left * 4096)
        code, told = run(command, inputs, folder / "out", capsys)
        if code:
            refused += 1
            assert (code, len(told)) == (1, 1), told
            assert told[0].startswith("error: ") and "No space left on device" in told[0], told
        refuse_half_files(folder / "out")
        ballast.unlink()
        if refused == 2 or code == 0:
            assert run(command, inputs, folder / "out", capsys) == (0, [])
            refuse_half_files(folder / "out")
        shutil.rmtree(folder / "out")
        if code == 0:
            break
    assert refused > 1


@pytest.mark.slow
def test_a_training_whose_disk_is_full_keeps_its_last_good_weights(inputs, disk, capsys):
    """The disk fills after the first epoch."""
    folder = disk("size=24m")
    (folder / "out").mkdir()
    save_weights, ballast = RunFolder.save_weights, None

    def fills(run, weights, row, best):
        nonlocal ballast
        if row["epoch"] > 1:
            ballast = fill(folder, 4096)
        return save_weights(run, weights, row, best)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "save_weights", fills)
        code, told = run("train", inputs, folder / "out", capsys)
    assert (code, len(told)) == (1, 1), told
    assert "No space left on device" in told[0]
    refuse_half_files(folder / "out")
    written = list((folder / "out").rglob("*.weights.h5"))
    assert len(written) == 3  # the last, the best, and its copy in weights/
    for path in written:
        assert load_model(path)
    ballast.unlink()
    assert run("train", inputs, folder / "out", capsys) == (0, [])


def test_a_cache_that_is_full_is_one_note_and_no_end(inputs, disk, tmp_path, capsys, monkeypatch):
    folder = disk("size=1m")
    monkeypatch.setenv("SALIENCY_CACHE", str(folder))
    fill(folder, 0)
    code, told = run("train", inputs, tmp_path, capsys)
    assert code == 0
    assert len(told) == 1 and told[0].startswith("note: nothing more is cached. Cannot ")
    assert "No space left on device" in told[0]


@pytest.mark.parametrize("command", ["test", "data subset", "data prepare"])
def test_a_disk_without_room_for_another_file_is_one_line(command, inputs, disk, capsys):
    folder = disk("size=8m,nr_inodes=60")
    (folder / "out").mkdir()
    for left in (0, 1, 3, 5):
        names = [folder / f"file{i}" for i in range(left)]
        with pytest.raises(OSError, match="No space"):
            while True:
                names.append(folder / f"file{len(names)}")
                names[-1].touch()
        for name in names[:left]:
            name.unlink(missing_ok=True)
        code, told = run(command, inputs, folder / "out", capsys)
        assert (code, len(told)) == (1, 1), told
        assert "No space left on device. Free space or files there (df -h, df -i)" in told[0]
        refuse_half_files(folder / "out")
        for name in names:
            name.unlink(missing_ok=True)
    assert run(command, inputs, folder / "out", capsys) == (0, [])


@pytest.mark.parametrize("command", COMMANDS)
def test_a_read_only_disk_is_one_line_and_is_as_it_was(command, inputs, disk, capsys):
    folder = disk("size=4m")
    (folder / "out").mkdir()
    (folder / "out" / "mine.txt").write_text("mine")
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    code, told = run(command, inputs, folder / "out", capsys)
    assert (code, len(told)) == (1, 1), told
    assert "is not writable" in told[0] or "Read-only file system" in told[0]
    assert state(folder) == {Path("out/mine.txt"): b"mine"}


def test_a_disk_that_becomes_read_only_on_the_way_ends_the_run(inputs, disk, capsys, monkeypatch):
    folder, write = disk("size=4m"), predict._write

    one_at_a_time = threading.Lock()

    def remount(*arguments):
        with one_at_a_time:
            write(*arguments)
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)

    monkeypatch.setattr(predict, "_write", remount)
    code, told = run("test", inputs, folder / "out", capsys, ["--workers", "1"])
    assert (code, len(told)) == (1, 1), told
    assert "Read-only file system. Have that disk mounted for writing" in told[0] or (
        "is not writable" in told[0]
    )
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    for left in (folder / "out").glob(".partial-*"):  # which could not be removed, either
        left.unlink()
    assert state(folder)  # of the first picture
    refuse_half_files(folder)


def test_the_limit_of_a_files_size_is_told(inputs, tmp_path, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        code = main.main([str(word) for word in COMMANDS["convert"](inputs, tmp_path)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    told = capsys.readouterr().err
    assert code == 1
    assert "File too large. Raise the limit of a file's size (ulimit -f)" in told
    assert not list(tmp_path.iterdir())


@pytest.fixture
def as_nobody():
    """Return a function that makes this process a user without rights, for one test."""

    def become():
        if os.geteuid():
            pytest.skip("only root can become nobody")
        os.setresuid(65534, 65534, 0)

    yield become
    if os.geteuid():
        os.setresuid(0, 0, 0)


def test_a_folder_of_somebody_else_is_told(inputs, capsys, as_nobody):
    """Root may write everywhere, whatever a folder's rights are."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        shutil.copytree(inputs / "own", Path(folder) / "own")
        out = Path(folder) / "out"
        run("data check", Path(folder), Path(folder) / "imported", capsys)  # whatever it takes
        out.mkdir()
        as_nobody()
        code, told = run("data check", Path(folder), out, capsys)
        assert code == 1
        assert told == [f"error: The folder {out} is not writable. Choose another with --output."]
        (code, told), new = run("data check", Path(folder), out / "new", capsys), out / "new"
        assert code == 1
        assert told[0].startswith(f"error: Cannot create the folder {new}: Permission denied. ")
        assert len(told) == 1 and not list(out.iterdir())
        os.setresuid(0, 0, 0)


def test_words_that_cannot_be_printed_are_told(inputs, tmp_path):
    words = shlex.join(map(str, ["data", "check", *FROM, inputs / "own", "--output", tmp_path]))
    command = f"{sys.executable} {PROJECT / 'main.py'} {words}"
    done = subprocess.run(f"{command} >/dev/full", shell=True, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: Cannot write standard output, or a file: No space left")
    assert done.stderr.count("\n") == 1
    shutil.rmtree(tmp_path)
    done = subprocess.run(f"{command} >&- 2>&- <&-", shell=True)
    assert done.returncode == 0
    refuse_half_files(tmp_path)


def test_what_killed_processes_left_goes_after_a_day(tmp_path):
    old, new, mine = ".partial-1-0.png", ".partial-1-1.npy", ".2024-05.csv"
    for name in (old, new, mine):
        (tmp_path / name).write_text("half")
    for name in (".partial-1-2", ".partial-1-3"):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data" / "a.png").write_text("half")
    past = time.time() - 2 * files.LEFT_SECONDS
    for path in (*tmp_path.rglob("*"), *tmp_path.iterdir()):
        if path.name != new and path != tmp_path / ".partial-1-3" / "data" / "a.png":
            os.utime(path, (past, past))
    files.make_folder(tmp_path)
    # of the second folder, something has changed since: somebody may be at it
    assert sorted(p.name for p in tmp_path.iterdir()) == [mine, new, ".partial-1-3"]

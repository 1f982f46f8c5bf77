"""What the storage refuses ends a command in one line, and leaves nothing half written.

Every point where a command opens, flushes, renames or makes something is refused in turn; then
small file systems of their own are filled, made read-only and taken away.
"""

import errno
import functools
import json
import os
import shutil
import sys
import zipfile
from types import SimpleNamespace

import cv2
import h5py
import numpy as np
import pytest
from PIL import Image
from test_foreign import theano_weights, write_2016

import cache
import engines
import main
from sample import Sample

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.mkdir", "os.truncate", "os.utime")  # besides "open"; removing is free


class Refusals:
    """Refuses, from the n-th on, what would change files below a folder; counts them."""

    def __init__(self):
        self.folder = None
        sys.addaudithook(self.heard)

    def arm(self, folder, first, number):
        self.count, self.first, self.number, self.folder = 0, first, number, os.fspath(folder)

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
        if self.count >= self.first:
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
    with zipfile.ZipFile(root / "own.zip", "w") as archive:
        for path in sorted((root / "own").rglob("*.*")):
            archive.write(path, path.relative_to(root / "own"))
    write_2016(root / "old.pkl", *theano_weights(rng, 0.125, (2, 3)))
    shutil.copytree(trained.parent.parent / "run", root / "run")
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
    monkeypatch.setitem(sys.modules, "datasets.cat2000", module)
    monkeypatch.setattr(engines, "get", lambda name, weights, say: engine(weights))
    monkeypatch.setattr(cache, "_told", [])


@functools.cache
def engine(weights):
    return engines.keras_engine(weights)


FROM = ["--dataset", "folder", "--data"]
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
    "export-maps": lambda at, out: [
        *("export-maps", "--format", "cat2000", "--data", at / "benchmark"),
        *("--weights", at / "net.weights.h5", "--output", out),
    ],
    "convert": lambda at, out: ["convert", at / "old.pkl", out / "new.weights.h5"],
}


# what lets a command go on where the last flush alone was refused
GO_ON = {"convert": ["--overwrite"]}


def run(command, inputs, out, capsys, more=()):
    """Run a command in this process; return its exit code and the lines of its errors."""
    words = [*COMMANDS[command](inputs, out), *more]
    code = main.main([str(word) for word in words])
    return code, capsys.readouterr().err.splitlines()


def refuse_half_files(folder):
    """Assert that each file that has a name is whole, and that no other is left."""
    for path in folder.rglob("*"):
        assert not path.name.startswith("."), path
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


@pytest.mark.parametrize("command", COMMANDS)
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
        if first % 3 == 1:
            again, told = run(command, inputs, out, capsys, GO_ON.get(command, []))
            assert (again, told) == (0, [])
            refuse_half_files(out)
        shutil.rmtree(out.parent)
        first += 1
    assert first > 3  # it was refused at several points

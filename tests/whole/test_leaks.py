"""A long run takes no more and more, and one that is interrupted leaves nothing.

`benchmarks/leaks.py` does the same at full length: 500 epochs, 20,000 pictures.
"""

import contextlib
import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import pytest
from conftest import PROJECT

from benchmarks import leaks
from benchmarks.leaks import Look
from commands.prediction import map_record
from commands.training.devices import Feed
from salience.system.errors import Interrupted
from utilities import SaliencyBatches

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
pytestmark = [linux, pytest.mark.waits]

EPOCHS, PICTURES, TIMES = 60, 6000, 6
SECONDS = 0.1  # between samples, of which a quick machine would give too few
# KiB for each epoch or picture. What examples.png is drawn on, 900x480 pixels of 4 bytes, would be
# 1,700 an epoch; the network's input 9 a picture.
EPOCH_KB, PICTURE_KB = 200.0, 1.0
# TensorFlow keeps the graph of each training in a process, and the batches that it read from
CALL_MB = 20.0
GONE_SECONDS = 30.0  # after Ctrl-C, on a machine that is busy
# after Ctrl-C `train` is to be taken up again; before it has begun it is one command among others
AGAIN, AT_ONCE = {Interrupted.exit_code}, {130}
BAR = rb" [1-9]% \|.*images/s"  # it is at work, and has shown its bar


def test_a_leak_is_seen():
    flat = [Look(done, 500.0 + done % 3, 9, 20, 0) for done in range(100)]
    leaking = [Look(done, 500.0 + done, 9, 20, 0) for done in range(100)]
    assert abs(leaks.slope(flat)) < EPOCH_KB / 10
    assert leaks.slope(leaking) == pytest.approx(1024)
    warming = [Look(done, 500.0 + min(done, 20), 9, 20, 0) for done in range(100)]
    assert abs(leaks.slope(warming)) < 1e-6
    once = [Look(done, 500.0 + 8 * (done > 80), 9, 20, 0) for done in range(100)]
    assert abs(leaks.slope(once)) < EPOCH_KB / 10
    in_steps = [Look(done, 500.0 + done // 8 * 8, 9, 20, 0) for done in range(100)]
    assert leaks.slope(in_steps) > EPOCH_KB


def test_what_a_process_has_is_counted():
    before = leaks.look("self")
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    child = subprocess.Popen(["sleep", "60"])
    with Path(os.devnull).open():
        held = bytearray(os.urandom(1)) * (64 * 2**20)
        after = leaks.look("self")
    done.set()
    thread.join()
    child.kill()
    child.wait()
    assert after.files == before.files + 1
    assert after.threads == before.threads + 1
    assert after.children == before.children + 1
    assert after.memory - before.memory == pytest.approx(len(held) / 2**20, abs=8)
    assert leaks.look("self").children == before.children


def test_reading_ahead_leaves_no_thread(tmp_path, monkeypatch):
    monkeypatch.setattr(SaliencyBatches, "read", lambda self, epoch, index, readers: index)
    batches = SaliencyBatches([], (48, 64), 1, workers=3)
    before = threading.active_count()
    feed = Feed(batches, 0, 20, epochs=3)
    for batches.epoch in range(3):
        assert [feed[index] for index in range(20)] == list(range(20))
    # those of an earlier test may end meanwhile
    until(lambda: threading.active_count() <= before, 5)
    before = threading.active_count()
    feed = Feed(batches, 0, 20, epochs=3)
    batches.epoch = 0
    feed[0]
    assert threading.active_count() > before
    feed.close()
    assert threading.active_count() <= before


def until(fact, seconds):
    """Wait until something holds; fail where it does not in time."""
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)


def check_flat(looks, kb_each):
    steady = leaks.at_work(looks)
    assert len(steady) > 4 * leaks.PARTS
    assert leaks.slope(looks) < kb_each
    # what is open for the moment aside, the last has no more than the first
    third = len(steady) // 3
    for name in ("files", "threads", "children"):
        values = [getattr(one, name) for one in steady]
        assert min(values[-third:]) <= max(values[:third]), name
        assert median(values[-third:]) <= median(values[:third]) + 1, name
        # a thread may just then be writing the files of an epoch
        assert max(values[-third:]) <= max(values[:third]) + (8 if name == "files" else 2), name


@pytest.mark.slow
def test_epochs_and_pictures_take_no_more_and_more(tmp_path, monkeypatch):
    monkeypatch.setattr(leaks, "SECONDS", SECONDS)
    check_flat(leaks.train(tmp_path, EPOCHS), EPOCH_KB)
    check_flat(leaks.predict(tmp_path, PICTURES), PICTURE_KB)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_one_process_may_train_and_predict_again_and_again(backend, tmp_path):
    if find_spec(backend) is None and "REQUIRE_BACKENDS" not in os.environ:
        pytest.skip(f"optional: {backend} is not installed (requirements/backends.txt)")
    done = subprocess.run(
        [sys.executable, PROJECT / "tests/helpers/leak_probe.py", tmp_path, str(TIMES)],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(PROJECT)},
        check=True, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    looks = [Look(*values) for values in json.loads(done.stdout.splitlines()[-1])]
    second, last = looks[1], looks[-1]
    assert (last.files, last.children) == (second.files, 0)
    assert last.threads <= second.threads
    # JAX's memory rises and falls by 80 MiB between calls: the least of a half is compared
    early, late = (min(one.memory for one in half) for half in (looks[1:4], looks[4:]))
    assert (late - early) / 3 < CALL_MB


@dataclass
class AtTerminal:
    """A command of main.py, in a terminal of its own.

    Args:
        words: the command.
        folder: where it runs.
        scratch: where it is told to put temporary files.
    """

    words: list[str]
    folder: Path
    scratch: Path
    said: bytes = field(default=b"", init=False)

    def __enter__(self):
        self.ours, theirs = os.openpty()
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.state = termios.tcgetattr(self.ours)
        # as a user's shell has it: no log level set, so that the program's own silence is tested
        inherited = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
        self.process = subprocess.Popen(
            [sys.executable, str(PROJECT / "main.py"), *self.words],
            cwd=self.folder, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env={**inherited, "TMPDIR": str(self.scratch)},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(theirs)
        os.set_blocking(self.ours, False)
        return self

    def __exit__(self, *raised):
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        self.process.wait()
        os.close(self.ours)

    def read(self):
        """Take in what the terminal shows by now."""
        with contextlib.suppress(BlockingIOError, OSError):  # the latter: all have gone
            while words := os.read(self.ours, 65536):
                self.said += words

    def wait_for(self, pattern, seconds=180):
        """Wait until the terminal has shown something."""

        def shown():
            self.read()
            assert self.process.poll() is None, self.said.decode(errors="replace")
            return re.search(pattern, self.said)

        until(shown, seconds)

    def interrupt(self):
        """Press Ctrl-C: the terminal tells all that run in it. Return the exit code."""
        os.write(self.ours, b"\x03")

        def ended():
            self.read()
            return self.process.poll() is not None

        until(ended, GONE_SECONDS)
        self.read()
        return self.process.returncode

    def processes(self):
        """Return the processes that run in this terminal, zombies among them."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = path.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.process.pid and int(path.parent.name) != self.process.pid:
                    found.append(int(path.parent.name))
        return found


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    """Return a folder in which a tiny network has been trained, with many pictures."""
    folder = tmp_path_factory.mktemp("used")
    leaks.train(folder, 1)
    leaks.make_pictures(folder / "pictures", 3000)
    for kind in ("images", "maps"):
        leaks.make_pictures(folder / "many" / "test" / kind, 1500)
        for split in ("train", "val"):
            leaks.make_pictures(folder / "many" / split / kind, 1500)
    return folder


TRAIN = ["train", "--dataset", "folder", "--data", "data", *leaks.TINY, "--epochs", "100000"]
LONG = {  # by name: the command, what it shows when it is at work, and its exit codes
    "train": ([*TRAIN, "--output", "run2", "--weights_dir", "w2"], rb"epoch 2:", AGAIN),
    "train, starting": ([*TRAIN, "--output", "run3", "--weights_dir", "w3"], rb"", AGAIN | AT_ONCE),
    "arms": (
        [*TRAIN, "--strategies", "frozen", "finetuned", "--output", "arms", "--weights_dir", "w4"],
        rb"epoch 2:", AGAIN,
    ),
    "test": (["test", "pictures", "--engine", "keras", "--weights_dir", "weights"], BAR, AT_ONCE),
    "test, making its network": (
        ["test", "pictures", "--weights_dir", "weights", "--output", "maps2"], rb"making the",
        AT_ONCE,
    ),
    "data prepare": (
        ["data", "prepare", "--dataset", "folder", "--data", "many", "--rows", "48", "--cols",
         "64", "--output", "store"], BAR, AT_ONCE,
    ),
    "evaluate": (
        ["evaluate", "--dataset", "folder", "--data", "many", "--weights_dir", "weights",
         "--output", "eval"], BAR, AT_ONCE,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_ctrl_c_leaves_nothing_behind(name, used, tmp_path, monkeypatch):
    words, at_work, codes = LONG[name]
    monkeypatch.setenv("SALIENCY_CACHE", str(tmp_path / "cache"))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with AtTerminal(words, used, scratch) as command:
        command.wait_for(at_work)
        time.sleep(0.5)
        assert command.interrupt() in codes, command.said.decode(errors="replace")
        said = command.said.decode(errors="replace")
        assert "Traceback" not in said
        last = re.split(r"[\r\n]+", said.strip())[-1]
        assert codes == AGAIN or last.endswith("interrupted") or "stopped by SIGINT" in last, said
        assert command.said.endswith(b"\n")
        until(lambda: not command.processes(), GONE_SECONDS)
        # the bar hides no cursor, and echo and line ends are as they were
        assert termios.tcgetattr(command.ours) == command.state
    assert list(scratch.iterdir()) == []
    hidden = {path.name for folder in (used, tmp_path) for path in folder.rglob(".*")}
    assert hidden <= {map_record.RECORD}  # no half of a file

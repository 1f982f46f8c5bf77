"""A signal ends a training in good order, two end it at once, and nothing is lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import PROJECT, TINY

from commands.training import train
from commands.training.run_folder import RunFolder
from salience.system.errors import Interrupted
from salience.system.signals import SIGNALS, Stop, heeded

QUIET = {"say": lambda line: None}
pytestmark = pytest.mark.signals


def wait_until(true, seconds=60):
    """Wait for a condition; fail where it does not come about."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_where_the_run_looks_and_raised_where_it_does_not(number):
    with heeded(lambda line: None) as stop:
        stop.can_wait = True
        os.kill(os.getpid(), number)
        wait_until(lambda: stop)
        assert stop.name == signal.Signals(number).name
    with pytest.raises(Interrupted, match=number.name), heeded(lambda line: None):
        os.kill(os.getpid(), number)
        time.sleep(10)


def test_handlers_are_given_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with heeded(lambda line: None):
        assert signal.getsignal(signal.SIGTERM) != before[SIGNALS.index(signal.SIGTERM)]
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with heeded(lambda line: None) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
            assert not stop
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_any_command_as_ctrl_c_does(tmp_path, number):
    os.mkfifo(tmp_path / "list")
    words = [sys.executable, PROJECT / "main.py", "test", "--list", tmp_path / "list"]
    with (
        subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process,
        (tmp_path / "list").open("w"),  # it now waits for the first line
    ):
        process.send_signal(number)
        assert process.communicate(timeout=60)[1].splitlines()[-1] == "interrupted"
    assert process.returncode == 130


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_comes_while_a_library_is_imported_ends_the_program_at_once(number):
    code = (
        "import os, signal\n"
        "from salience.system.signals import as_interrupts\n"
        "with as_interrupts(at_once=True):\n"
        "    try:\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "    except BaseException as error:\n"
        "        raise ImportError from error\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_second_signal_leaves_at_once_and_so_does_a_step_that_takes_too_long(monkeypatch):
    codes, lines = [], []
    with heeded(lines.append, leave=codes.append) as stop:
        stop.can_wait = True
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(lambda: lines)
        os.kill(
            os.getpid(), signal.SIGTERM
        )  # a queue signals a job's shell, too, which passes it on
        time.sleep(0.2)
        assert codes == []
        monkeypatch.setattr("salience.system.signals.ONE_SIGNAL_SECONDS", 0.1)
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(lambda: codes)
    assert codes == [128 + signal.SIGTERM]
    assert lines == ["SIGTERM: saving a checkpoint after this step. A second signal stops at once."]
    with heeded(lines.append, grace_seconds=0.1, leave=codes.append) as stop:
        stop.can_wait = True
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(lambda: len(codes) == 2)
    assert codes[1] == Interrupted.exit_code == 75
    assert "The step has not ended within 0.1 s" in lines[-1]


class Training:
    """A training in a process of its own, large enough to be met at work."""

    def __init__(self, folder, *words):
        tiny = [w for k, v in TINY.items() for w in (f"--{k}", str(v))]
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, str(PROJECT / "main.py"), "train", *tiny, "--epochs", "500",
             "--patience", "500", "--output", str(folder), "--weights_dir", str(folder / "weights"),
             *map(str, words)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def wait_for(self, beginning):
        """Read until a line begins so."""
        for line in iter(self.process.stdout.readline, ""):
            if line.startswith(beginning):
                return
        raise AssertionError(f"it ended without {beginning}")

    def ended(self, number=None):
        """Return the exit code and what was said, after a signal to its group."""
        if number:
            os.killpg(self.process.pid, number)
        try:
            said = self.process.communicate(timeout=60)[0]
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, said


def test_training_is_alone_in_its_folder_stops_by_a_signal_and_goes_on(tmp_path):
    run = tmp_path / "run"
    training = Training(run)
    training.wait_for("epoch 2:")
    code, said = Training(run).ended()
    assert code == 2
    assert f"error: Another training writes to {run} (process {training.process.pid}" in said
    _stopped(training, signal.SIGINT, run)  # it was not disturbed
    rows = len((run / "history.csv").read_text().splitlines())
    again = Training(run)
    again.wait_for(f"resuming from epoch {rows}, ")
    again.wait_for(f"epoch {rows}:")
    _stopped(again, signal.SIGTERM, run)


def _stopped(training: Training, number: signal.Signals, run: Path) -> None:
    """Stop a training and check how it ends."""
    asked = time.monotonic()
    code, said = training.ended(number)
    assert time.monotonic() - asked < 30
    assert code == 75
    assert f"{number.name}: a checkpoint is saved in {run}. The same" in said
    assert "Traceback" not in said
    assert not list(run.rglob(".*"))


def test_the_folder_is_free_after_a_run_and_after_a_mistake(tiny, monkeypatch):
    train.train(tiny(), **QUIET)
    RunFolder(tiny(overwrite=True)).close()
    monkeypatch.setattr("commands.training.run_folder.settings.save", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        RunFolder(tiny(overwrite=True))
    monkeypatch.undo()
    RunFolder(tiny(overwrite=True)).close()


def test_a_stop_in_the_validation_keeps_what_the_epoch_learned(tiny, monkeypatch, tmp_path):
    from commands.training import validation

    whole = train.train(tiny(output=tmp_path / "whole", epochs=2), **QUIET)
    real = validation.Validator.validate

    def asked(self, model, stop=None):
        stop = Stop()
        stop.name = "SIGTERM"
        return real(self, model, stop)

    monkeypatch.setattr(validation.Validator, "validate", asked)
    with pytest.raises(Interrupted):
        train.train(tiny(epochs=2), **QUIET)
    monkeypatch.setattr(validation.Validator, "validate", real)
    lines = []
    run = train.train(tiny(epochs=2), say=lines.append)
    assert "resuming from epoch 1, its validation" in lines
    assert run.path("history.csv").read_bytes() == whole.path("history.csv").read_bytes()

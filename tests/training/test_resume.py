"""A run that is killed, at whatever moment, comes to the same end as one that is not."""

import contextlib
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import PROJECT

from commands.training import train
from commands.training.checkpoint import Checkpoints
from commands.training.feature_cache import Probe, Rates
from salience.system import files
from salience.system.errors import Interrupted, UserError

QUIET = {"say": lambda line: None}


def weights_of(path):
    """Return all that a weights file holds but its card, by name."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
    assert found
    return found


def assert_same_end(one: Path, other: Path):
    """Refuse two run folders whose weights or histories differ in a bit."""
    assert (one / "history.csv").read_bytes() == (other / "history.csv").read_bytes()
    for name in ("last.weights.h5", "best.weights.h5"):
        a, b = weights_of(one / name), weights_of(other / name)
        assert a.keys() == b.keys()
        for key, value in a.items():
            np.testing.assert_array_equal(value, b[key], err_msg=f"{name} {key}")
    done = [json.loads((folder / "done.json").read_text()) for folder in (one, other)]
    assert done[0] == done[1]


# by name: settings in which a run's state is of another kind
KINDS = {
    "frozen, features kept": {},
    "frozen, features computed": {"flip": True},
    "frozen": {"feature_cache": "off", "flip": True},
    "all weights, momentum, schedules": {
        "freeze_backbone": False, "optimizer": "sgd", "momentum_end": 0.99, "decay": 0.0,
        "learning_rate_end": 1e-4, "flip": True,
    },
    "parts of a batch, several steps at once": {
        "freeze_backbone": False, "micro_batch": 2, "steps_per_execution": 2, "batch_size": 3,
    },
    "scaled loss": {"freeze_backbone": False, "precision": "mixed_float16"},
    "another system": {"model": "salnet-shallow", "freeze_backbone": False, "loss": "mse",
                       "backbone_weights": None, "rows": 96, "cols": 96},
}  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [kind if kind == "frozen, features kept" else pytest.param(kind, marks=pytest.mark.slow)
     for kind in KINDS],
)  # fmt: skip
def test_a_run_that_stops_at_each_step_comes_to_the_same_end(tiny, tmp_path, monkeypatch, kind):
    changes = {"batch_size": 6, "epochs": 2, "dropout": 0.5, **KINDS[kind]}
    if kind == "frozen, features computed":
        quick = Rates(compute=0.001, read=0.1, write=0.1, recall=0.1)
        monkeypatch.setattr(Probe, "rates", lambda self, is_complete: quick)
    whole = train.train(tiny(output=tmp_path / "whole", **changes), **QUIET)
    # by process, which of its chances to stop it takes: after the first step; after the epoch's
    # last, before its validation; and in the middle of the next epoch
    chances, left = iter([1, 1, 2]), [0]

    def asked(self):
        left[0] -= 1
        return left[0] == 0

    monkeypatch.setattr("commands.training.epochs.Epochs.asked_to_stop", asked)
    stops = 0
    while not (tmp_path / "parts" / "done.json").exists():
        left[0] = next(chances, 100)
        try:
            train.train(tiny(output=tmp_path / "parts", **changes), **QUIET)
        except Interrupted:
            stops += 1
    assert stops == 3
    modes = {json.loads((x / "run.json").read_text())["features"] for x in tmp_path.glob("*/")
             if (x / "run.json").exists()}  # fmt: skip
    assert ("computed" in modes) == (kind == "frozen, features computed")
    assert_same_end(whole.folder, tmp_path / "parts")
    assert not Checkpoints(tmp_path / "parts" / "checkpoints").paths()


def test_a_finished_run_goes_on_to_more_epochs_as_if_it_had_begun_with_them(tiny, tmp_path):
    # by default, a run of one epoch keeps no features, which are rounded
    settings = {"output": tmp_path / "parts", "dropout": 0.5, "feature_cache": "on"}
    whole = train.train(tiny(**{**settings, "output": tmp_path / "whole"}, epochs=2), **QUIET)
    train.train(tiny(**settings), **QUIET)
    assert (tmp_path / "parts" / "state.npz").exists()
    lines = []
    train.train(tiny(epochs=2, **settings), say=lines.append)
    assert any(line.startswith("resuming from epoch 2") for line in lines)
    assert_same_end(whole.folder, tmp_path / "parts")
    # by patience, by the schedule, or without its state, it does not
    (tmp_path / "parts" / "state.npz").unlink()
    with pytest.raises(UserError, match=r"cannot go on to 3 epochs: its state.npz.* is missing"):
        train.train(tiny(epochs=3, **settings), **QUIET)
    about = json.loads((tmp_path / "parts" / "config.json").read_text())
    (tmp_path / "parts" / "config.json").write_text(json.dumps({**about, "patience": 1}))
    rows = (tmp_path / "parts" / "history.csv").read_text().splitlines()
    column = rows[0].split(",").index("val_loss")
    cells = rows[2].split(",")
    cells[column] = "1e9"
    (tmp_path / "parts" / "history.csv").write_text("\n".join([*rows[:2], ",".join(cells)]))
    with pytest.raises(UserError, match=r"ended by --patience 1: epoch 1 of 2 was the best"):
        train.train(tiny(epochs=3, patience=1, **settings), **QUIET)
    about |= {"learning_rate_end": 1e-5, "decay": 0.0}
    (tmp_path / "parts" / "config.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="changes linearly until epoch 2"):
        train.train(tiny(epochs=3, learning_rate_end=1e-5, decay=0.0, **settings), **QUIET)


@pytest.fixture
def failing_writes():
    """Return a function that lets the n-th rename of a file end all, as a kill there would."""
    real = os.replace

    class Killed(BaseException):
        pass

    @contextlib.contextmanager
    def fail_at(number):
        count = itertools.count(1)

        def replace(*paths):
            if next(count) == number:
                raise Killed
            real(*paths)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files.os, "replace", replace)
            yield Killed

    return fail_at


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_come_to_the_same_end_too(backend):
    if find_spec(backend) is None and "REQUIRE_BACKENDS" not in os.environ:
        pytest.skip(f"optional: {backend} is not installed (requirements/backends.txt)")
    chosen = "stops and (features or momentum) or left_out or goes_back"
    files = [
        str(PROJECT / "tests/training" / name) for name in ("test_resume.py", "test_nonfinite.py")
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", "-k", chosen, *files],
        env={**os.environ, "KERAS_BACKEND": backend}, cwd=PROJECT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b7 passed", done.stdout), done.stdout


SHALLOW = {**KINDS["another system"], "checkpoint_minutes": 0.0, "batch_size": 6}


@pytest.mark.slow
def test_a_run_that_ends_at_any_of_its_writes_comes_to_the_same_end(tiny, tmp_path, failing_writes):
    whole = train.train(tiny(output=tmp_path / "whole", **SHALLOW), **QUIET)
    number, ended = 0, False
    while not ended:
        number += 1
        config = tiny(output=tmp_path / f"cut-{number}", **SHALLOW)
        with failing_writes(number) as killed:
            try:
                train.train(config, **QUIET)
                ended = True
            except killed:
                pass
        if not ended:
            train.train(config, **QUIET)
        assert_same_end(whole.folder, config.run_folder)
    assert number > 12


def command(*words, **environment):
    """Start main.py train in a process group of its own."""
    tiny = ["--dataset", "synthetic", "--rows", "48", "--cols", "64", "--width", "0.05",
            "--backbone_weights", "none", "--loss", "kld", "--optimizer", "adam"]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, str(PROJECT / "main.py"), "train", *tiny, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("frozen", "kills"), [(False, int(os.environ.get("KILLS", "20"))), (True, 1)]
)
def test_a_run_killed_at_random_moments_comes_to_the_same_end(tmp_path, frozen, kills):
    epochs = 5 + 2 * kills  # a start that is killed comes an epoch further, or two
    words = ["--batch_size", 8, "--epochs", epochs, "--patience", epochs, "--flip", "True",
             "--freeze_backbone", frozen, "--checkpoint_minutes", 0.002]  # fmt: skip
    draw = random.Random(7)

    def start(name):
        folders = ["--output", tmp_path / name, "--weights_dir", tmp_path / f"weights-{name}"]
        return command(*words, *folders, SALIENCY_CACHE=str(tmp_path / f"cache-{name}"))

    def end(process):
        said = process.communicate()[0]
        assert process.returncode == 0, said
        return said

    end(start("whole"))
    met = set()
    for _ in range(kills):
        checkpoints = Checkpoints(tmp_path / "killed" / "checkpoints")
        before = checkpoints.paths()
        process = start("killed")
        while checkpoints.paths() == before and process.poll() is None:
            time.sleep(0.001)  # a kill before the first step would be none
        time.sleep(draw.uniform(0, 0.4))
        met.update(path.stem for path in checkpoints.paths())
        os.killpg(process.pid, signal.SIGKILL)
        said = process.communicate()[0]
        assert process.returncode == -signal.SIGKILL, said
    assert sum(not name.endswith("-00000000") for name in met) > kills / 2  # in mid-epoch, mostly
    assert "resuming from epoch" in end(start("killed"))
    assert_same_end(tmp_path / "whole", tmp_path / "killed")

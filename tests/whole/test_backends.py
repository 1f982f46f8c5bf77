"""The program on each of Keras' backends, where the others, TensorFlow above all, are not there."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import keras
import numpy as np
import pytest
from conftest import PROJECT, TINY

import main

TOY = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]
OTHERS = {"tensorflow": ["jax", "torch"], "jax": ["tensorflow", "torch"], "torch": ["tensorflow"]}
PROBE = ["--dataset", "synthetic", "--rows", "64", "--cols", "64", "--width", "0.05"]


def needed(backend):
    """Skip a test where an optional backend is not installed, but not where CI installed it."""
    if find_spec(backend) is None and "REQUIRE_BACKENDS" not in os.environ:
        pytest.skip(f"optional: {backend} is not installed (requirements/backends.txt)")


def walk(folder, backend, absent, *commands, code=0):
    """Run commands in a fresh process on a backend, without some packages."""
    inherited = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    words = [[str(word) for word in command] for command in commands]
    done = subprocess.run(
        [sys.executable, PROJECT / "tests/helpers/walk.py", json.dumps(absent), json.dumps(words)],
        cwd=folder,
        env={**inherited, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_all_commands_work_without_tensorflow(backend, tmp_path, pictures, trained, monkeypatch):
    """Weights of each backend give the same maps on the other."""
    needed(backend)
    done = walk(
        tmp_path, backend, OTHERS[backend],
        ["train", *TOY, "--micro_batch", "3", "--output", "run"],
        ["test", "pictures", "--float", "--weights_dir", "weights", "--output", "own"],
        ["test", "pictures", "--float", "--weights", trained, "--output", "theirs"],
        ["evaluate", "--dataset", "synthetic", "--metrics", "cc,nss", "--output", "evaluation"],
        ["compare", "run", "--metrics", "cc", "--output", "comparison"],
        ["probe", *PROBE, "--backbone_weights", "none", "--metrics", "cc", "--output", "probe"],
    )  # fmt: skip
    assert done.stderr == ""
    assert "epoch 1: loss" in done.stdout
    for file in ("evaluation/metrics.json", "comparison/comparison.json", "probe/probe.json"):
        assert (tmp_path / file).exists()
    card = json.loads((tmp_path / "weights/mlnet-scratch-frozen-synthetic.json").read_text())
    assert card["versions"]["backend"].startswith(backend)

    monkeypatch.chdir(tmp_path)
    assert keras.backend.backend() != backend
    for weights, output in ((tmp_path / "run/best.weights.h5", "own"), (trained, "theirs")):
        words = ["test", "pictures", "--float", "--weights", str(weights), "--output", "here"]
        assert main.main([*words, "--overwrite"]) == 0
        for name in ("a", "b"):
            here, there = (np.load(tmp_path / f / f"{name}.npy") for f in ("here", output))
            assert here.std() > 0
            np.testing.assert_allclose(there, here, atol=1e-3)


def test_absent_or_unknown_backend_is_named_in_one_line(tmp_path, trained, pictures):
    words = ["test", "pictures", "--weights", trained, "--engine", "keras"]
    for backend, absent, message in (
        ("torch", ["torch"], "Keras is to run on torch, which is not installed in "),
        ("tensorflow", ["tensorflow", "torch", "jax"], "pip install tensorflow (the version is in"),
        ("tensroflow", [], "KERAS_BACKEND=tensroflow: Did you mean 'tensorflow'?"),
        ("openvino", [], "KERAS_BACKEND=openvino"),
    ):
        done = walk(tmp_path, backend, absent, words, code=2)
        assert message in done.stderr
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "predictions").exists()


def test_another_backend_that_is_there_is_offered(tmp_path, trained, pictures):
    needed("jax")
    words = ["test", "pictures", "--weights", trained]
    done = walk(tmp_path, "torch", ["torch", "tensorflow"], words, code=2)
    assert "or set KERAS_BACKEND=jax, which is there" in done.stderr

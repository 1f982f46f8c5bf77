"""What runs a network in `test` gives Keras' maps, or says that it cannot and lets Keras."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
from conftest import PROJECT

from commands.prediction import engines
from commands.prediction.predict import predict
from config import PredictConfig
from salience.system.cache import default_cache
from salience.system.errors import UserError

ABSENT = [] if "REQUIRE_BACKENDS" in os.environ else [
    package for package in ("onnx", "onnxruntime", "tf2onnx") if not find_spec(package)
]  # fmt: skip
COPIED = [
    "ncnn",
    "openvino",
    pytest.param("onnx", marks=pytest.mark.skipif(bool(ABSENT), reason=f"absent: {ABSENT}")),
]


@pytest.fixture
def batch(picture):
    """Return three pictures of the tiny network's size."""
    return np.stack([picture(48, 64) for _ in range(3)])


def network(weights):
    """Return the folder of an exported network in the tests' cache."""
    return default_cache().shelf(engines.key("ncnn", weights)).folder / "made"


@pytest.mark.parametrize("name", COPIED)
def test_maps_are_keras_own_to_a_grey_level(trained, pictures, tmp_path, name):
    for engine in ("keras", name):
        settings = PredictConfig(
            weights=trained, engine=engine, output=tmp_path / engine, recursive=True
        )
        lines = []
        assert predict(replace(settings, images=(str(pictures),)), lines.append) == 0
        assert not [line for line in lines if "so Keras does" in line]
    for map_name in ("a.png", "b.png", "sub/c.png"):
        wanted, found = (
            cv2.imread(str(tmp_path / engine / map_name), cv2.IMREAD_UNCHANGED).astype(int)
            for engine in ("keras", name)
        )
        assert wanted.max() == 255
        assert np.ptp(wanted) > 50
        assert np.abs(found - wanted).max() <= 1


@pytest.mark.parametrize("name", COPIED)
def test_several_threads_and_batches_get_their_own_maps(trained, batch, name):
    engine = engines.load(name, trained, lambda line: None)
    wanted = engines.load("keras", trained, lambda line: None).maps(batch)
    with ThreadPoolExecutor(4) as pool:
        alone = list(pool.map(engine.maps, [batch[i % 3][None] for i in range(30)]))
    for i, found in enumerate(alone):
        np.testing.assert_allclose(found[0], wanted[i % 3], rtol=1e-4, atol=1e-4 * wanted.max())
    np.testing.assert_allclose(engine.maps(batch), wanted, rtol=1e-4, atol=1e-4 * wanted.max())


@pytest.mark.parametrize("name", COPIED)
def test_geometry_is_the_networks_own(trained, name):
    engine, keras = (engines.load(n, trained, lambda line: None) for n in (name, "keras"))
    assert engine.input_shape == keras.input_shape == (48, 64)
    assert engine.grid == keras.grid


@pytest.mark.parametrize("name", ["ncnn", "openvino"])
def test_a_second_start_imports_no_backend_and_reports_to_nobody(trained, pictures, tmp_path, name):
    engines.load(name, trained, lambda line: None)  # made by now
    code = (
        "import sys, main\n"
        "assert main.main(sys.argv[1:]) == 0\n"
        "heavy = {'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "runtimes = {'ncnn', 'openvino', 'onnxruntime'} & set(sys.modules)\n"
        f"assert runtimes == {{'{name}'}}, runtimes\n"
        "assert not sys.modules.get('openvino_telemetry')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "test", str(pictures), "--weights", str(trained),
         "--output", str(tmp_path / "out"), *(["--engine", name] if name != "ncnn" else [])],
        cwd=PROJECT, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 maps written" in done.stdout
    assert "making the" not in done.stdout
    assert done.stderr == ""


def test_a_damaged_copy_is_made_again(trained, batch):
    lines = []
    wanted = engines.load("ncnn", trained, lines.append).maps(batch)
    weights = network(trained) / "network.bin"
    weights.write_bytes(weights.read_bytes()[:-4] + b"oops")
    lines.clear()
    found = engines.load("ncnn", trained, lines.append)
    assert [line.split()[:3] for line in lines] == [["making", "the", "ncnn"]]
    np.testing.assert_array_equal(found.maps(batch), wanted)


def test_what_fails_to_run_is_said_in_a_line_and_keras_does(trained, batch, monkeypatch):
    def fails(path, at_once):
        raise RuntimeError("no such\ninstruction")

    broken = replace(engines.RUNTIMES["ncnn"], open=fails)
    monkeypatch.setitem(engines.RUNTIMES, "ncnn", broken)
    lines = []
    engine = engines.load("ncnn", trained, lines.append)
    assert engine.name == "keras"
    assert lines[-1] == f"ncnn cannot run {trained}, Keras is used instead: no such instruction"
    assert engine.maps(batch).shape == (3, 6, 8, 1)


def test_without_keras_one_line_says_why_ncnn_fails(trained, monkeypatch):
    def fails(path, at_once):
        raise ImportError("libgomp.so.1")

    monkeypatch.setattr(engines, "has_gpu", lambda say=None: False)
    monkeypatch.setattr(engines, "find_spec", lambda name: True if name == "ncnn" else None)
    broken = replace(engines.RUNTIMES["ncnn"], open=fails)
    monkeypatch.setitem(engines.RUNTIMES, "ncnn", broken)
    with pytest.raises(UserError, match=r"^ncnn cannot run .*: libgomp"):
        engines.load("auto", trained, lambda line: None)
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"only ncnn runs .*leave --engine out, and install ncnn"):
        engines.require_keras(trained)


@pytest.mark.skipif(os.name == "nt", reason="paths are text")
def test_ncnn_reads_a_path_that_is_no_text(trained, batch, tmp_path, monkeypatch):
    wanted = engines.load("ncnn", trained, lambda line: None).maps(batch)
    monkeypatch.setenv("SALIENCY_CACHE", str(tmp_path / os.fsdecode(b"\xff")))
    found = engines.load("ncnn", trained, lambda line: None)
    assert found.name == "ncnn"
    np.testing.assert_array_equal(found.maps(batch), wanted)


def test_what_cannot_be_made_is_said_in_a_line_and_keras_does(trained, tmp_path, monkeypatch):
    occupied = tmp_path / "file"
    occupied.touch()
    monkeypatch.setenv("SALIENCY_CACHE", str(occupied))
    lines = []
    assert engines.load("ncnn", trained, lines.append).name == "keras"
    assert "Keras is used instead: Cannot create the folder" in lines[-1]
    assert "$SALIENCY_CACHE" in lines[-1]


def test_why_an_export_failed_is_passed_on(tmp_path, monkeypatch):
    monkeypatch.setenv("SALIENCY_CACHE", str(tmp_path / "cache"))
    nothing = tmp_path / "nothing.weights.h5"
    nothing.touch()
    with pytest.raises(UserError, match="is not an HDF5 file"):
        engines.exported_engine("openvino", nothing, lambda line: None)
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_keras_one_line_says_which_network_needs_it(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("SALIENCY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engines, "has_gpu", lambda say=None: False)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setattr(engines, "find_spec", lambda name: True if name == "ncnn" else None)
    lines = []
    assert engines.load("auto", trained, lines.append).name == "ncnn"  # ML-Net on VGG
    assert [line.split()[:3] for line in lines] == [["making", "the", "ncnn"]]
    monkeypatch.setattr(engines, "direct_settings", lambda weights: None)  # any other network
    with pytest.raises(UserError, match=r"run or converted by Keras, .*pip install"):
        engines.load("auto", trained, lines.append)
    with pytest.raises(UserError, match=r"ncnn runs ML-Net on a VGG, and .* Leave --engine out"):
        engines.load("ncnn", trained, lines.append)
    with pytest.raises(UserError, match=r"openvino is not installed.*requirements\.txt"):
        engines.load("openvino", trained, lines.append)


def test_an_engine_that_is_not_installed_is_named(trained, monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda package: None)
    with pytest.raises(UserError, match=r"onnxruntime is not installed.*requirements/engines"):
        engines.load("onnx", trained, lambda line: None)
    assert engines.fastest() == "keras"


def test_auto_is_the_first_that_is_installed_unless_a_backend_is_named(monkeypatch):
    monkeypatch.setattr(engines, "has_gpu", lambda say=None: False)
    monkeypatch.setattr(engines, "find_spec", lambda package: package == "onnxruntime" or None)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert engines.fastest() == "onnx"
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert engines.fastest() == "onnx"
    monkeypatch.setenv("KERAS_BACKEND", "")  # as Keras takes it: not named
    assert engines.fastest() == "onnx"
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert engines.fastest() == "keras"
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setattr(engines, "has_gpu", lambda say=None: True)
    assert engines.fastest() == "keras"


def test_auto_is_ncnn_for_the_networks_that_it_runs(trained, monkeypatch):
    monkeypatch.setattr(engines, "has_gpu", lambda say=None: False)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert engines.choose("auto") == "auto"  # without the weights it is open
    assert engines.fastest(trained) == "ncnn"
    monkeypatch.setattr(engines, "direct_settings", lambda weights: None)
    assert engines.fastest(trained) == "openvino"
    lines = []
    found = engines.load("ncnn", trained, lines.append)
    assert found.name == "keras"
    assert "Keras is used instead: ncnn runs ML-Net on a VGG, and" in lines[-1]


def test_other_weights_are_another_network(trained, tmp_path):
    other = tmp_path / "other.weights.h5"
    other.write_bytes(trained.read_bytes() + b"x")
    keys = {engines.key(name, path) for name in ("ncnn", "openvino") for path in (trained, other)}
    assert len(keys) == 4


def test_reduced_precision_shares_the_copy_and_is_near(trained, batch):
    if not engines.has_bfloat16():
        pytest.skip("this processor has no bfloat16")
    lines = []
    wanted = engines.load("openvino", trained, lines.append).maps(batch)
    lines.clear()
    found = engines.load(engines.REDUCED, trained, lines.append)
    assert (found.name, lines) == (engines.REDUCED, [])  # nothing is made again
    gap = np.abs(found.maps(batch) - wanted).max() / wanted.max()
    assert 1e-5 < gap < 0.05


def test_reduced_precision_needs_a_processor_that_has_it(monkeypatch):
    monkeypatch.setattr(engines, "has_bfloat16", lambda: False)
    with pytest.raises(UserError, match="this processor has no bfloat16"):
        engines.choose(engines.REDUCED)


def test_maps_of_reduced_precision_are_not_kept_for_exact_ones(
    trained, pictures, tmp_path, monkeypatch
):
    monkeypatch.setattr(engines, "has_bfloat16", lambda: True)  # OpenVINO computes exactly then
    settings = PredictConfig(weights=trained, images=(str(pictures),), output=tmp_path / "out")
    for engine, words in (
        (engines.REDUCED, "2 maps written"),
        (engines.REDUCED, "2 kept"),
        ("openvino", "2 of them in place of outdated ones"),
        ("keras", "2 kept"),
    ):
        lines = []
        assert predict(replace(settings, engine=engine), lines.append) == 0
        assert words in lines[-1]

"""Exported networks are what Keras predicts, or are not there."""

import errno
import json
import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest
from backend_probe import TINY, drawn

import config as settings
from commands.prediction import export as export_module
from commands.prediction.engines import card_path
from commands.prediction.export import export
from commands.settings import ExportConfig
from config import SYSTEMS, resolve
from model import system_module
from salience.networks import weight_files
from salience.system.errors import StorageError, UserError
from salience.system.files import file_digest

ABSENT = [] if "REQUIRE_BACKENDS" in os.environ else [
    package for package in ("onnx", "onnxruntime", "tf2onnx") if not find_spec(package)
]  # fmt: skip
WITH_ONNX = pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {ABSENT}")


@pytest.fixture(scope="module")
def weights_of(tmp_path_factory):
    """Return a function that gives a weights file of a system, with weights that are alive."""
    folder = tmp_path_factory.mktemp("weights")

    def make(system):
        path = folder / f"{system}.weights.h5"
        if path.exists():
            return path
        rng = np.random.default_rng(0)
        config = resolve({"model": system, **TINY[system]})
        model = system_module(system).build(config)
        model.set_weights([drawn(w.path, tuple(w.shape), rng) for w in model.weights])
        if system == "mlnet":  # a draw with signs may give an all-zero map
            model.get_layer("head_conv2").set_weights([np.ones((1, 1, 6, 1)), np.zeros(1)])
        if system == "resnet50-decoder":  # its logits reach 1e4: a sigmoid would hide them
            last = model.get_layer("saliency")
            kernel, bias = last.get_weights()
            last.set_weights([kernel / 1e4, bias])
        card = {"system": system, "config": settings.to_json(config), "metrics": {"val_cc": 0.5}}
        weight_files.save(model, path, card)
        return path

    return make


def options(weights, name, folder, **changes):
    """Return the settings of an export into a folder."""
    output = folder / f"network{export_module.EXPORT_FORMATS[name].suffix}"
    return ExportConfig(format=name, weights=weights, output=output, **changes)


def combinations():
    """Yield each system in each format: the quick ones, the others marked as slow."""
    for system in SYSTEMS:
        for name in export_module.EXPORT_FORMATS:
            light = ("linear-probe", "salnet-shallow")
            quick = system == "mlnet" or (name == "openvino" and system in light)
            marks = [WITH_ONNX] if name == "onnx" else []
            yield pytest.param(system, name, marks=marks + ([] if quick else [pytest.mark.slow]))


@pytest.mark.parametrize(("system", "name"), list(combinations()))
def test_every_system_in_every_format_is_what_keras_predicts(weights_of, tmp_path, system, name):
    weights, lines = weights_of(system), []
    output = export(options(weights, name, tmp_path), lines.append)
    card = json.loads(card_path(output).read_text())
    assert 0 <= card["difference"] < 1e-4
    assert "differs from Keras by at most" in lines[-1]
    assert lines[-2].startswith(f"writing {output}, and comparing it with Keras: about ")
    assert card["weights"] == {"file": weights.name, "sha256": file_digest(weights)}
    for file, digest in card["files"].items():
        assert file_digest(tmp_path / file) == digest
    # nothing else is there, and all weights are
    files = [p for p in tmp_path.rglob("*") if p.is_file() and p != card_path(output)]
    assert {str(p.relative_to(tmp_path)) for p in files} == card["files"].keys()
    count = weight_files_count(weights)
    assert sum(p.stat().st_size for p in files) > 4 * count


def weight_files_count(path):
    """Return how many weights a file holds that shape the maps: all but the dropout's seed."""
    return sum(int(np.prod(shape)) for shape in weight_files._shapes(path))


@WITH_ONNX
def test_onnx_carries_its_card_and_takes_any_batch(weights_of, tmp_path):
    import onnxruntime

    output = export(options(weights_of("salnet-shallow"), "onnx", tmp_path), lambda line: None)
    session = onnxruntime.InferenceSession(output)
    card = json.loads(session.get_modelmeta().custom_metadata_map["saliency"])
    assert (card["input"]["rows"], card["input"]["cols"]) == (48, 64)
    assert "BGR" in card["input"]["values"]
    place = session.get_inputs()[0]
    assert place.shape[1:] == [48, 64, 3]
    for batch in (1, 2, 5):
        maps = session.run(None, {place.name: np.zeros((batch, 48, 64, 3), np.float32)})[0]
        assert maps.shape == (batch, card["output"]["rows"], card["output"]["cols"], 1)


def test_openvino_carries_its_card(weights_of, tmp_path):
    from salience.system import quiet

    output = export(options(weights_of("salnet-half"), "openvino", tmp_path), lambda line: None)
    network = quiet.import_openvino().Core().read_model(output)
    card = json.loads(network.get_rt_info("saliency").astype(str))
    assert card["output"]["crop"] == 2  # what the authors' network leaves uncovered
    assert card["system"] == "salnet-half"


def test_saved_model_carries_its_card(weights_of, tmp_path):
    output = export(options(weights_of("mlnet"), "saved_model", tmp_path), lambda line: None)
    card = json.loads((output / "assets.extra" / "saliency.json").read_text())
    assert card["output"]["stride"] == 8


def spoil(change):
    """Return a format whose maps come out changed."""
    form = export_module.EXPORT_FORMATS["saved_model"]

    def opened(path):
        maps = form.open(path)
        return lambda batch: change(maps(batch))

    return replace(form, open=opened)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda maps: maps + 2e-3 * maps.max(), "differs from Keras by"),
        (lambda maps: maps * np.nan, "differs from Keras by nan"),
        (lambda maps: maps[:, :-1], "returns maps of shape"),
        (lambda maps: 1 / 0, "cannot be written as saved_model: division by zero"),
    ],
)
def test_what_is_not_what_keras_predicts_is_not_kept(
    weights_of, tmp_path, monkeypatch, change, message
):
    monkeypatch.setitem(export_module.EXPORT_FORMATS, "saved_model", spoil(change))
    with pytest.raises(UserError, match=message):
        export(options(weights_of("mlnet"), "saved_model", tmp_path), lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_died_is_not_exported(weights_of, tmp_path):
    card = weight_files.read_card(weights_of("mlnet"))
    model = export_module.load_model(weights_of("mlnet"))
    model.set_weights([np.zeros(w.shape) for w in model.weights])
    dead = tmp_path / "dead.weights.h5"
    weight_files.save(model, dead, card)
    with pytest.raises(UserError, match="constant or non-finite map"):
        export(options(dead, "saved_model", tmp_path / "out"), lambda line: None)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_earlier_export_is_replaced_only_when_asked(weights_of, tmp_path):
    first, second = weights_of("salnet-half"), weights_of("salnet-shallow")
    output = export(options(first, "saved_model", tmp_path), lambda line: None)
    with pytest.raises(UserError, match=r"exists\..*--overwrite"):
        export(options(second, "saved_model", tmp_path), lambda line: None)
    assert json.loads(card_path(output).read_text())["system"] == "salnet-half"
    export(options(second, "saved_model", tmp_path, overwrite=True), lambda line: None)
    assert json.loads(card_path(output).read_text())["system"] == "salnet-shallow"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["saved_model", "litert"])
def test_a_folder_that_is_no_export_is_never_replaced(weights_of, tmp_path, name):
    output = tmp_path / ("mine" if name == "saved_model" else "mine.tflite")
    output.mkdir()
    (output / "thesis.txt").write_text("years")
    settings = ExportConfig(
        format=name, weights=weights_of("salnet-half"), output=output, overwrite=True
    )
    with pytest.raises(UserError, match=f"is not a {name} export, so it is not replaced"):
        export(settings, lambda line: None)
    assert (output / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize("output", [".", "/", "a.onnx"])
def test_a_saved_model_is_a_folder_of_its_own(weights_of, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    weights = weights_of("salnet-half")
    settings = ExportConfig(
        format="saved_model", weights=weights, output=Path(output), overwrite=True
    )
    with pytest.raises(UserError, match=r"is a folder\."):
        export(settings, lambda line: None)


def test_the_name_of_weights_may_have_dots(tmp_path):
    settings = ExportConfig(format="saved_model")
    for name in ("v1.2.weights.h5", "mlnet_salicon_weights.pkl"):
        stem = name.removesuffix(".weights.h5")
        form = export_module.EXPORT_FORMATS[settings.format]
        place = export_module.output_path(settings, form, Path(name))
        assert place == Path(f"exports/{stem}-saved_model")


def test_a_full_disk_is_said_in_a_line(weights_of, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export_module, "scratch", full)
    with pytest.raises(StorageError, match=r"Cannot write .*: No space left on device"):
        export(options(weights_of("salnet-half"), "saved_model", tmp_path), lambda line: None)


def test_what_cannot_be_exported_is_said_before_anything_is_loaded(
    weights_of, tmp_path, monkeypatch
):
    with pytest.raises(UserError, match=r"a file that ends in \.tflite"):
        export(ExportConfig(format="litert", weights=weights_of("mlnet"), output=tmp_path / "a.x"))
    monkeypatch.setattr("commands.prediction.engines.installed", lambda package: False)
    with pytest.raises(UserError, match=r"needs openvino: pip install -r requirements\.txt"):
        export(options(weights_of("mlnet"), "openvino", tmp_path))
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UserError, match="KERAS_BACKEND=tensorflow"):
        export(options(weights_of("mlnet"), "openvino", tmp_path))

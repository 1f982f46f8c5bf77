"""Newer backbones: features equal to other people's code, and what DINOv2 asks for."""

import dataclasses
import importlib.util
import os

import keras
import numpy as np
import pytest

from commands import preflight
from commands.settings import ProbeConfig
from config import Config, resolve
from model import system_module
from salience.networks import backbone
from salience.networks.backbone_table import BACKBONES
from salience.networks.trunks import dinov2
from salience.system.errors import UserError

# by network: the published channels of its stages
NEWER = {
    "efficientnet_v2_s": [24, 48, 256, 960, 1280],
    "efficientnet_v2_m": [24, 48, 320, 1056, 1280],
    "efficientnet_v2_l": [32, 64, 384, 1344, 1280],
    "convnext_tiny": [96, 192, 384, 768],
    "convnext_small": [96, 192, 384, 768],
    "convnext_base": [128, 256, 512, 1024],
    "convnext_large": [192, 384, 768, 1536],
    "densenet201": [256, 512, 1792, 1920],
    "dinov2_small": [384] * 4,
    "dinov2_base": [768] * 4,
}


def need(package, part):
    """Skip a test whose optional package is absent, unless a variable requires it."""
    if importlib.util.find_spec(package) is None:
        if f"REQUIRE_{part.upper()}" in os.environ:
            pytest.fail(f"{package} is missing (requirements/{part}.txt)")
        pytest.skip(f"optional: {package} is not installed (requirements/{part}.txt)")


def whole_network(name, size):
    inputs = keras.Input((*size, 3))
    return keras.Model(inputs, backbone.stages(name, inputs))


def prepared(name, image):
    """Return pixels as the network expects them, by the values that torchvision documents."""
    rgb = image[..., ::-1] / 255
    if BACKBONES[name].prepare == "rgb":  # EfficientNetV2 as its authors trained it
        return np.ascontiguousarray(rgb * 255 / 128 - 1, "float32")
    return ((rgb - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype("float32")


@pytest.mark.slow
@pytest.mark.parametrize("name", NEWER)
def test_features_equal_those_of_an_independent_implementation(name, rng):
    """Equal random weights give equal stages in PyTorch, to 1e-3 of their spread."""
    is_dinov2 = name.startswith("dinov2")
    for package in ("torch",) if is_dinov2 else ("torch", "torchvision"):
        need(package, "backends")
    import torch_trunks

    # whole patches of DINOv2, but not square
    size = (56, 84) if is_dinov2 else (64, 96)
    network = whole_network(name, size)
    layers = backbone.weighted_layers(network, name)
    torch_trunks.draw(layers, rng)
    image = rng.uniform(0, 255, (2, *size, 3)).astype("float32")
    ours = network.predict_on_batch(image)
    pixels = prepared(name, image)
    if is_dinov2:
        blocks = [int(stage.removeprefix("block")) for stage in BACKBONES[name].stages]
        theirs = torch_trunks.dinov2_stages(layers, BACKBONES[name].heads, pixels, blocks)
    else:
        theirs = torch_trunks.torchvision_stages(name, layers, pixels)
    assert len(ours) == len(theirs) == len(BACKBONES[name].stages)
    assert [a.shape[-1] for a in ours.values()] == NEWER[name]
    for (stage, a), b in zip(ours.items(), theirs, strict=True):
        assert a.shape == b.shape, stage
        stride = BACKBONES[name].stages[stage]
        assert a.shape[1:3] == tuple(-(-length // stride) for length in size), stage
        assert b.std() > 1e-3, stage
        np.testing.assert_allclose(a / b.std(), b / b.std(), atol=1e-3, err_msg=stage)


@pytest.mark.slow
def test_a_file_of_keras_hub_gives_the_features_of_keras_hub(tmp_path, rng, monkeypatch):
    """Each layer gets its own weights, and the square network of keras-hub the same tokens."""
    need("keras_hub", "dinov2")
    about, path = BACKBONES["dinov2_small"], tmp_path / "dinov2_small" / "model.weights.h5"
    hub = dinov2.hub_backbone(about, size=4)
    for weight in hub.weights:
        weight.assign(rng.normal(0.5 if "norm" in weight.path else 0, 0.05, weight.shape))
    path.parent.mkdir()
    hub.save_weights(path)
    ours = whole_network("dinov2_small", (56, 56))
    monkeypatch.chdir(tmp_path)
    assert backbone.load_pretrained(ours, "dinov2_small", None, tmp_path) == path
    for layer in ours.layers:
        for weight in layer.weights:  # the first values are all alike, or near zero
            assert np.std(weight) > 0.03, weight.path
    # keras-hub interpolates positions as TensorFlow does, the authors as PyTorch
    positions = ours.get_layer("tokens").positions.numpy()
    across = dinov2.cubic(dinov2.POSITIONS, 4)
    table = positions[1:].reshape(dinov2.POSITIONS, dinov2.POSITIONS, -1)
    table = np.einsum("pr,rcd,qc->pqd", across, table, across).reshape(16, -1)
    hub.embeddings.interpolated_position_embeddings.assign(
        np.concatenate([positions[:1], table])[None]
    )
    image = rng.uniform(0, 255, (1, 56, 56, 3)).astype("float32")
    theirs = hub.predict_on_batch({"images": prepared("dinov2_small", image)})[:, 1:]
    found = ours.predict_on_batch(image)["block12"].reshape(theirs.shape)
    np.testing.assert_allclose(found / theirs.std(), theirs / theirs.std(), atol=1e-3)
    (tmp_path / "other.weights.h5").write_bytes(b"not HDF5")
    with pytest.raises(UserError, match="does not hold DINOv2-S as keras-hub writes it"):
        backbone.load_weights(ours, "dinov2_small", tmp_path / "other.weights.h5")
    thin = keras.Input((28, 28, 3))
    thin = keras.Model(thin, backbone.stages("dinov2_small", thin, 0.1))
    with pytest.raises(UserError, match="is --width 1"):
        backbone.load_weights(thin, "dinov2_small", path)


def test_without_keras_hub_the_error_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = "DINOv2-B need keras-hub.*requirements/dinov2.txt.*--backbone_weights none"
    with pytest.raises(UserError, match=message):
        backbone.find_weights("dinov2_base", None, tmp_path)
    config = Config(model="mlnet", dataset="synthetic", backbone="dinov2_base")
    with pytest.raises(UserError, match=message):  # before Keras is imported
        preflight.check_inputs(config)
    preflight.check_inputs(dataclasses.replace(config, backbone_weights="none"))
    with pytest.raises(UserError, match=message):
        preflight.check_inputs(ProbeConfig(dataset="synthetic", backbone="vgg16,dinov2_base"))
    assert backbone.find_weights("dinov2_base", "none", tmp_path) is None


def test_a_failing_download_of_dinov2_is_one_line(monkeypatch, tmp_path):
    def refuse(about):
        raise OSError("no network")

    monkeypatch.setattr(dinov2, "download", refuse)
    monkeypatch.setattr(BACKBONES["dinov2_small"].__class__, "need_hub", lambda about: None)
    message = "put dinov2_small/model.weights.h5 into weights/ .the download from .*kaggle.com"
    with pytest.raises(UserError, match=message):
        backbone.find_weights("dinov2_small", None, tmp_path)


def test_pictures_are_read_at_whole_patches():
    """A picture keeps its content and its size of whole patches; any other size is resampled."""
    ramp = np.arange(33, dtype="float32")[None, :, None, None] * np.ones((1, 1, 42, 3), "float32")
    read = np.asarray(dinov2.WholePatches(14)(ramp))
    assert read.shape == (1, 28, 42, 3)
    # pixel centres of the new rows, in the old ones
    np.testing.assert_allclose(read[0, :, 5, 0], (np.arange(28) + 0.5) * 33 / 28 - 0.5, atol=1e-4)
    whole = ramp[:, :28]
    np.testing.assert_allclose(np.asarray(dinov2.WholePatches(14)(whole)), whole, atol=1e-5)


def test_a_convnext_needs_whole_cells():
    with pytest.raises(UserError, match=r"--rows 240 is not a multiple of 32.*Try 256"):
        resolve({"rows": 240, "cols": 320, "backbone": "convnext_tiny"})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_tiny", "dinov2_small"])
@pytest.mark.parametrize("system", ["multiscale", "linear-probe"])
def test_other_systems_take_the_newer_backbones(name, system, rng):
    """Also with a fixed block, and at two scales; the map depends on the picture."""
    config = Config(
        model=system, backbone=name, rows=64, cols=128, width=0.1, readout=(4, 2),
        freeze_backbone=False, fixed_blocks=int(system == "multiscale"),
    )  # fmt: skip
    network = system_module(system).build(config)
    grid = 8 if system == "multiscale" else 16
    assert network.output_shape == (None, 64 // grid, 128 // grid, 1)
    one, other = network.predict_on_batch(rng.uniform(0, 255, (2, 64, 128, 3)))
    assert np.isfinite(one).all() and one.std() > 0 and (one != other).any()
    assert network.trainable_weights

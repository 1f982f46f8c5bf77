"""Newer backbones: features equal to other people's code, and what DINOv2 asks for."""

import importlib.util
import os

import keras
import numpy as np
import pytest

from salience.networks import backbone
from salience.networks.backbone_table import BACKBONES


def need(*packages):
    for package in packages:
        if importlib.util.find_spec(package) is None:
            if "REQUIRE_BACKENDS" in os.environ:
                pytest.fail(f"{package} is missing (requirements/)")
            pytest.skip(f"optional: {package} is not installed (requirements/)")


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
@pytest.mark.parametrize(
    "name", ["convnext_tiny", "efficientnet_v2_s", "densenet201", "dinov2_small"]
)
def test_features_equal_those_of_an_independent_implementation(name, rng):
    """Equal random weights give equal stages in PyTorch, to 1e-3 of their spread."""
    need("torch", *(["torchvision"] if name != "dinov2_small" else []))
    import torch_trunks

    # whole patches of DINOv2, but not square
    size = (56, 84) if name == "dinov2_small" else (64, 96)
    network = whole_network(name, size)
    layers = backbone.weighted_layers(network, name)
    torch_trunks.draw(layers, rng)
    image = rng.uniform(0, 255, (2, *size, 3)).astype("float32")
    ours = network.predict_on_batch(image)
    pixels = prepared(name, image)
    if name == "dinov2_small":
        blocks = [int(stage.removeprefix("block")) for stage in BACKBONES[name].stages]
        theirs = torch_trunks.dinov2_stages(layers, BACKBONES[name].heads, pixels, blocks)
    else:
        theirs = torch_trunks.torchvision_stages(name, layers, pixels)
    assert len(ours) == len(theirs) == len(BACKBONES[name].stages)
    for (stage, a), b in zip(ours.items(), theirs, strict=True):
        assert a.shape == b.shape, stage
        assert b.std() > 1e-3, stage
        np.testing.assert_allclose(a / b.std(), b / b.std(), atol=1e-3, err_msg=stage)

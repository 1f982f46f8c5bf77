"""Trunks of `keras.applications`, with random weights and a share of their channels."""

from typing import Any

import keras
import numpy as np
from keras import layers


def build(application: str, prepared, width: float, seed: int) -> keras.Model:
    """Return a network of `keras.applications` without its classifier.

    Args:
        application: its name in `keras.applications`.
        prepared: Keras tensor [b, rows, cols, 3], pixels as the network expects them.
        width: share of each layer's channels; 1 is the published network.
        seed: seed of the random weights; each layer gets a seed derived from it.
    """
    make = getattr(keras.applications, application)
    trunk = make(include_top=False, weights=None, input_tensor=prepared)
    if width != 1:
        trunk = keras.models.clone_model(
            trunk, input_tensors=trunk.inputs, clone_function=lambda layer: _thinner(layer, width)
        )
    _draw(trunk, seed)
    return trunk


def _thinner(layer: Any, width: float) -> Any:
    """Return a copy of a layer with a share of its channels."""
    if not isinstance(layer, layers.Layer):
        return layer  # the operation that flips the channels
    config = layer.get_config()
    if isinstance(layer, layers.Conv2D):
        config["filters"] = max(1, round(config["filters"] * width))
    if isinstance(layer, layers.Reshape):  # in squeeze and excitation: (1, 1, channels)
        *rest, channels = config["target_shape"]
        config["target_shape"] = (*rest, max(1, round(channels * width)))
    return type(layer).from_config(config)


def _draw(trunk: keras.Model, seed: int) -> None:
    """Draw the kernels of a network again, each with its own initialiser and its own seed."""
    drawn = [layer for layer in trunk.layers if getattr(layer, "kernel", None) is not None]
    for layer, own in zip(drawn, seeds_of(seed, len(drawn)), strict=True):
        initial = getattr(layer, "depthwise_initializer", None) or layer.kernel_initializer
        again = type(initial).from_config({**initial.get_config(), "seed": own})
        layer.kernel.assign(again(layer.kernel.shape))


def seeds_of(seed: int, count: int) -> list[int]:
    """Return one seed for each layer, derived from `seed`."""
    return np.random.SeedSequence(seed).generate_state(count).tolist()

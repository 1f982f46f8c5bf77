"""Trunks of `keras.applications`, with random weights and a share of their channels."""

import dataclasses
import functools
from typing import Any

import keras
import numpy as np
from keras import layers

from salience.networks.foreign_weights import ForeignWeights


def build(application: str, prepared, width: float, seed: int) -> keras.Model:
    """Return a network of `keras.applications` without its classifier.

    Args:
        application: its name in `keras.applications`.
        prepared: Keras tensor [b, rows, cols, 3], pixels as the network expects them. A ConvNeXt
            expects them standardised, as its own preprocessing would round them in bfloat16.
        width: share of each layer's channels; 1 is the published network.
        seed: seed of the random weights; each layer gets a seed derived from it.
    """
    make = getattr(keras.applications, application)
    is_convnext = application.startswith("ConvNeXt")
    options = {"include_preprocessing": False} if is_convnext else {}
    trunk = make(include_top=False, weights=None, input_tensor=prepared, **options)
    if is_convnext:  # Keras' automatic name would depend on the networks built before
        trunk.layers[-1].name = f"{trunk.name}_last_layernorm"
    if width != 1 or is_convnext:
        trunk = flat_copy(trunk, width)
    _draw(trunk, seed)
    return trunk


def flat_copy(trunk: keras.Model, width: float) -> keras.Model:
    """Return a copy of a network with a share of its channels, without sub-models.

    The layers of a ConvNeXt's sub-models, which lie between its stages, follow one another in it.
    """

    def copy_of(operation: Any) -> Any:
        if isinstance(operation, keras.Sequential):
            parts = [_thinner(layer, width) for layer in operation.layers]
            return lambda x, **options: functools.reduce(lambda y, part: part(y), parts, x)
        if isinstance(operation, layers.Layer):
            return _thinner(operation, width)
        return type(operation).from_config(operation.get_config())

    outputs = trunk._run_through_graph(trunk.input, operation_fn=copy_of)
    return keras.Model(trunk.input, outputs, name=trunk.name)


def output_of(trunk: keras.Model, stage: str) -> Any:
    """Return the output of a stage.

    Args:
        trunk: from `build`.
        stage: name of a layer; or NAME_stage_I of a ConvNeXt, the sum that ends its stage I. The
            sum has no name of its own, and goes into the next layer norm.
    """
    network, _, number = stage.rpartition("_stage_")
    if not network:
        return trunk.get_layer(stage).output
    return trunk.get_layer(f"{network}_downsampling_layernorm_{number}").input


def _thinner(layer: layers.Layer, width: float) -> layers.Layer:
    """Return a copy of a layer with a share of its channels."""
    config = layer.get_config()
    for name in ("filters", "units", "projection_dim"):  # of Conv2D, Dense and LayerScale
        if config.get(name):
            config[name] = max(1, round(config[name] * width))
    if config.get("groups", 1) > 1:  # a ConvNeXt's depthwise convolutions are Conv2D
        config["groups"] = config["filters"]
    if isinstance(layer, layers.Reshape):  # in squeeze and excitation: (1, 1, channels)
        *rest, channels = config["target_shape"]
        config["target_shape"] = (*rest, max(1, round(channels * width)))
    return type(layer).from_config(config)


def flattened(found: ForeignWeights) -> ForeignWeights:
    """Return the weights of a ConvNeXt's file by layer, as `flat_copy` has the layers.

    Keras' files have one group for a convolution and a layer norm between two stages, with two
    weights of each; no other group has four.
    """
    split = {}
    for label, weights in found.layers.items():
        parts = (weights[:2], weights[2:]) if len(weights) == 4 else (weights,)
        split |= {f"{label}/{i}" if i else label: part for i, part in enumerate(parts)}
    return dataclasses.replace(found, layers=split)


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

"""Weights files of other programs, converted to the layout of Keras 3.

The files are HDF5: a group for each layer, as Keras 1 and 2 wrote them, or the VGG16 file of 2015
with groups `layer_N`. Layer names in them are automatic, so layers are matched by order. Kernels of
Theano are [out, in, rows, columns] and rotated by 180 degrees: Theano convolves where Keras 3
correlates. Nothing here unpickles, not even a file named `.pkl`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from salience.data.hdf5 import (
    DAMAGED,
    MOST_BYTES,
    get_child,
    open_checked,
    read_attribute,
    read_numbers,
)
from salience.system.errors import UserError

MOST_ARRAYS = 100  # of a layer
MOST_DIFFERENCES = 20  # layers that an error lists: more than ML-Net has


@dataclass(frozen=True)
class ForeignWeights:
    """The weights of a file of another program.

    Attributes:
        layers: weights by layer name, in the file's order; kernels in the layout of Keras 3,
            [rows, columns, in, out].
        theano: whether the network was trained on Theano, so that kernels were rotated.
        only_vgg: whether the file holds a VGG without a head, in groups `layer_N`.
    """

    layers: dict[str, list[NDArray]]
    theano: bool
    only_vgg: bool


def read(path: Path) -> ForeignWeights:
    """Return the weights of a file of Keras 1 or 2.

    Raises:
        UserError: the file is not HDF5, or has another layout.
    """
    try:
        with open_checked(path) as file:
            return _read(file, path)
    except DAMAGED as error:
        raise UserError(f"{path} is not an HDF5 file, or is damaged: {error}.") from error


def _read(file: h5py.File, path: Path) -> ForeignWeights:
    """Return the weights of an open file."""
    numbered = [name for name in file if re.fullmatch(r"layer_\d{1,9}", name, re.ASCII)]
    left = MOST_BYTES
    if numbered:
        layers = {}
        for label in sorted(numbered, key=lambda name: int(name[6:])):
            group = get_child(file, label)
            is_group = isinstance(group, h5py.Group)
            count = int(read_attribute(group, "nb_params") or 0) if is_group else 0
            if count > MOST_ARRAYS:
                raise UserError(f"{path}: {label} claims {count:,} arrays.")
            arrays = _arrays(group, [f"param_{i}" for i in range(count)], path, left)
            left -= sum(array.nbytes for array in arrays)
            if arrays and arrays[0].ndim == 4:  # dense layers of a classifier are left out
                layers[label] = _in_keras_layout(arrays, channels_first=True, theano=True)
        return ForeignWeights(layers, theano=True, only_vgg=True)
    root = get_child(file, "model_weights") or file
    layers = {}
    for label in _texts(root, "layer_names"):
        group = get_child(root, label)
        names = _texts(group, "weight_names") if isinstance(group, h5py.Group) else []
        if arrays := _arrays(group, names, path, left):
            layers[label] = arrays
            left -= sum(array.nbytes for array in arrays)
    if not layers:
        raise UserError(
            f"{path} is not a weights file of Keras 1 or 2: expected groups that an attribute "
            f"layer_names lists, or groups layer_N; found {_first_names(list(file))}."
        )
    channels_first = _channels_first(layers)
    backends = _texts(root, "backend") or _texts(file, "backend")
    # Keras before 1.2 wrote no backend. Channels first suggest Theano, whose default that was;
    # `convert` compares with ImageNet's VGG16 to find out whether kernels are rotated
    theano = backends == ["theano"] or (not backends and channels_first)
    converted = {
        label: _in_keras_layout(arrays, channels_first, theano) for label, arrays in layers.items()
    }
    return ForeignWeights(converted, theano=theano, only_vgg=False)


def _arrays(group: Any, names: list[str], path: Path, left: int) -> list[NDArray]:
    """Return the weights of a layer, which may take `left` bytes at most."""
    found = []
    for name in names:
        found.append(read_numbers(get_child(group, name), f"{path}: {group.name}/{name}", left))
        left -= found[-1].nbytes
    return found


def _texts(group: Any, name: str) -> list[str]:
    """Return an attribute that is a name or a list of names, as a list."""
    names = read_attribute(group, name)
    if names is None:
        return []
    listed = [names] if isinstance(names, bytes | str) else names
    return [n.decode() if isinstance(n, bytes) else str(n) for n in listed]


def _channels_first(layers: dict[str, list[NDArray]]) -> bool:
    """Return whether kernels are [out, in, rows, columns]: the first one has 3 input channels.

    >>> _channels_first({"conv": [np.zeros((64, 3, 3, 3))]})
    True
    >>> _channels_first({"conv": [np.zeros((3, 3, 3, 64))]})
    False
    """
    shape = next((w.shape for ws in layers.values() for w in ws if w.ndim == 4), (0, 0, 0, 0))
    return shape[1] == 3 and shape[2] == shape[3] and shape[:3] != shape[1:]


def _in_keras_layout(arrays: list[NDArray], channels_first: bool, theano: bool) -> list[NDArray]:
    """Return a layer's weights with kernels in the layout of Keras 3."""
    return [
        np.ascontiguousarray(_kernel(array, channels_first, theano))
        if array.ndim == 4 and not is_prior(arrays)
        else array
        for array in arrays
    ]


def _kernel(kernel: NDArray, channels_first: bool, theano: bool) -> NDArray:
    """Return a kernel as [rows, columns, in, out], for a cross-correlation."""
    if channels_first:
        kernel = kernel.transpose(2, 3, 1, 0)
    # a convolution is a cross-correlation with the kernel rotated by 180 degrees
    return kernel[::-1, ::-1] if theano else kernel


def is_prior(arrays: list[NDArray]) -> bool:
    """Return whether a layer's weights are ML-Net's prior: one array, [6, 8] or [1, 1, 6, 8]."""
    shape = arrays[0].shape
    return len(arrays) == 1 and len(shape) >= 2 and arrays[0].size == shape[-2] * shape[-1]


def set_weights(layers: Sequence[Any], found: ForeignWeights, path: Path, network: str) -> None:
    """Set the weights of layers from a file, by order, after all shapes are checked.

    Args:
        layers: Keras layers that have weights, in the order of the network.
        found: the weights of the file.
        path: the file, for errors.
        network: name of the network, for errors.

    Raises:
        UserError: the number of layers or a shape differs; the message lists the differences.
    """
    expected = [(layer.name, [tuple(w.shape) for w in layer.weights]) for layer in layers]
    in_file = [(label, [w.shape for w in weights]) for label, weights in found.layers.items()]
    differences = [
        f"{name} expects {_shapes(shapes)}, found {label} with {_shapes(others)}"
        for (name, shapes), (label, others) in zip(expected, in_file, strict=False)
        if [_without_leading_ones(s) for s in shapes] != [_without_leading_ones(s) for s in others]
    ]
    if len(expected) != len(in_file):
        counts = f"{len(expected)} layers with weights are expected, found {len(in_file)}"
        differences.insert(0, f"{counts} ({_first_names(list(found.layers))})")
    if differences:
        listed = "; ".join(differences[:MOST_DIFFERENCES])
        others = len(differences) - MOST_DIFFERENCES
        more = f"; and {others} more" if others > 0 else ""
        raise UserError(f"{path} does not fit {network}: {listed}{more}.")
    for label, values in found.layers.items():
        if not all(np.isfinite(value).all() for value in values):
            raise UserError(
                f"{path}: the weights of {label} are not all finite numbers. Get the file again."
            )
    for layer, values in zip(layers, found.layers.values(), strict=True):
        layer.set_weights(
            [value.reshape(w.shape) for value, w in zip(values, layer.weights, strict=True)]
        )


def _without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without its first axes of length one: a prior [1, 1, 6, 8] equals [6, 8]."""
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _shapes(shapes: list[tuple[int, ...]]) -> str:
    """Return shapes as text."""
    return " + ".join("x".join(map(str, shape)) for shape in shapes) or "none"


def _first_names(names: list[str]) -> str:
    """Return the first few names as text."""
    return ", ".join(names[:4]) + (" ..." if len(names) > 4 else "") if names else "nothing"


def mlnet_settings(found: ForeignWeights, path: Path) -> dict[str, Any]:
    """Return the settings of the ML-Net in a file, as fields of its card.

    The file does not record the size of the input. The size follows from the prior, which has a
    weight for each 80 rows and columns: 6 x 8 for the 480 x 640 of 2016. The width follows from the
    first layer.

    Raises:
        UserError: the last layer of the file is not a prior, so the file does not hold ML-Net.
    """
    layers = list(found.layers.values())
    if not is_prior(layers[-1]) or layers[0][0].ndim != 4:
        last = _shapes([w.shape for w in layers[-1]])
        raise UserError(
            f"{path} does not hold ML-Net: its last weights are {last}, but a prior such as 6x8 "
            "is expected."
        )
    rows, cols = layers[-1][0].shape[-2:]
    return {
        "rows": 80 * rows,
        "cols": 80 * cols,
        "width": layers[0][0].shape[-1] / 64,
        "theano_pooling": found.theano,
        "freeze_backbone": False,
        "dataset": ["salicon"],
    }


def card(path: Path) -> dict[str, Any]:
    """Return a card for an ML-Net file of another program, with the fields that the file implies.

    Raises:
        UserError: the file does not hold ML-Net.
    """
    found = read(path)
    if found.only_vgg:
        raise UserError(
            f"{path} holds only a VGG, not a saliency network. To train from it, name it with "
            "--backbone_weights."
        )
    settings = mlnet_settings(found, path)
    return {
        "model": "mlnet",
        "system": "mlnet",
        "strategy": "finetuned",
        "input_shape": [settings["rows"], settings["cols"]],
        "dataset": "salicon, if it is the file of 2016",
        "config": settings,
    }

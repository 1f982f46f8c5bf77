"""Weights files that other programs wrote, read as Keras has weights today.

They are HDF5: a group a layer, as Keras 1 and 2 wrote them, or the VGG16 file of 2015 with groups
`layer_N`. Names in them are automatic, so layers are matched by their order. What Theano wrote is
turned: its kernels are [out, in, rows, columns], and it convolves where today's networks correlate.
Nothing here unpickles, whatever a file is called.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from salience.networks.hdf5 import DAMAGED, MOST_BYTES, attribute, inside, numbers, opened
from salience.system.errors import UserError

MOST_PARTS = 100  # arrays of a layer
DIFFERENCES = 20  # of layers, told in an error: more than ML-Net has


@dataclass(frozen=True)
class Foreign:
    """What a file holds.

    Attributes:
        layers: weights by the file's name of the layer, in its order; kernels as Keras has them,
            [rows, columns, in, out].
        theano: whether Theano's network was trained, so that kernels were turned.
        bare: whether it is a VGG alone, in groups `layer_N`.
    """

    layers: dict[str, list[NDArray]]
    theano: bool
    bare: bool


def read(path: Path) -> Foreign:
    """Return what a file of Keras 1 or 2 holds.

    Raises:
        UserError: it is not HDF5, or of none of these layouts.
    """
    try:
        with opened(path) as file:
            return _read(file, path)
    except DAMAGED as error:
        raise UserError(f"{path} is not an HDF5 file, or a damaged one: {error}.") from error


def _read(file: h5py.File, path: Path) -> Foreign:
    """Return what an open file holds."""
    numbered = [name for name in file if re.fullmatch(r"layer_\d{1,9}", name, re.ASCII)]
    left = MOST_BYTES
    if numbered:
        layers = {}
        for label in sorted(numbered, key=lambda name: int(name[6:])):
            group = inside(file, label)
            count = int(attribute(group, "nb_params") or 0) if isinstance(group, h5py.Group) else 0
            if count > MOST_PARTS:
                raise UserError(f"{path}: {label} claims {count:,} arrays.")
            arrays = _arrays(group, [f"param_{i}" for i in range(count)], path, left)
            left -= sum(array.nbytes for array in arrays)
            if arrays and arrays[0].ndim == 4:  # a classifier may follow the convolutions
                layers[label] = _turned(arrays, channels_first=True, theano=True)
        return Foreign(layers, theano=True, bare=True)
    root = inside(file, "model_weights") or file
    layers = {}
    for label in _texts(root, "layer_names"):
        group = inside(root, label)
        names = _texts(group, "weight_names") if isinstance(group, h5py.Group) else []
        if arrays := _arrays(group, names, path, left):
            layers[label] = arrays
            left -= sum(array.nbytes for array in arrays)
    if not layers:
        raise UserError(
            f"{path} is no weights file of Keras 1 or 2: expected groups that an attribute "
            f"layer_names lists, or groups layer_N; found {_some(list(file))}."
        )
    channels_first = _channels_first(layers)
    backends = _texts(root, "backend") or _texts(file, "backend")
    # Keras 1 before 1.2 wrote no backend. Channels first are taken for Theano's, whose default that
    # was; `convert` asks ImageNet's VGG16 whether the kernels are turned
    theano = backends == ["theano"] or (not backends and channels_first)
    turned = {label: _turned(arrays, channels_first, theano) for label, arrays in layers.items()}
    return Foreign(turned, theano=theano, bare=False)


def _arrays(group: Any, names: list[str], path: Path, left: int) -> list[NDArray]:
    """Return the weights of a layer, which may take so many bytes."""
    found = []
    for name in names:
        found.append(numbers(inside(group, name), f"{path}: {group.name}/{name}", left))
        left -= found[-1].nbytes
    return found


def _texts(group: Any, name: str) -> list[str]:
    """Return an attribute that is a name or lists names."""
    names = attribute(group, name)
    if names is None:
        return []
    listed = [names] if isinstance(names, bytes | str) else names
    return [n.decode() if isinstance(n, bytes) else str(n) for n in listed]


def _channels_first(layers: dict[str, list[NDArray]]) -> bool:
    """Return whether kernels are [out, in, rows, columns], judged by the first, which sees colours.

    >>> _channels_first({"conv": [np.zeros((64, 3, 3, 3))]})
    True
    >>> _channels_first({"conv": [np.zeros((3, 3, 3, 64))]})
    False
    """
    shape = next((w.shape for ws in layers.values() for w in ws if w.ndim == 4), (0, 0, 0, 0))
    return shape[1] == 3 and shape[2] == shape[3] and shape[:3] != shape[1:]


def _turned(arrays: list[NDArray], channels_first: bool, theano: bool) -> list[NDArray]:
    """Return a layer's weights with its kernels as Keras has them today."""
    return [
        np.ascontiguousarray(_kernel(array, channels_first, theano))
        if array.ndim == 4 and not is_prior(arrays)
        else array
        for array in arrays
    ]


def _kernel(kernel: NDArray, channels_first: bool, theano: bool) -> NDArray:
    """Return a kernel as [rows, columns, in, out], for a correlation."""
    if channels_first:
        kernel = kernel.transpose(2, 3, 1, 0)
    # a convolution is a correlation with the kernel turned by 180 degrees
    return kernel[::-1, ::-1] if theano else kernel


def is_prior(arrays: list[NDArray]) -> bool:
    """Return whether a layer's weights are ML-Net's prior: one array, [6, 8] or [1, 1, 6, 8]."""
    shape = arrays[0].shape
    return len(arrays) == 1 and len(shape) >= 2 and arrays[0].size == shape[-2] * shape[-1]


def fill(layers: Sequence[Any], found: Foreign, path: Path, network: str) -> None:
    """Set the weights of layers from a file's, by order; all shapes are checked before any is set.

    Args:
        layers: Keras layers that have weights, in the order of the network.
        found: what the file holds.
        path: of the file, for errors.
        network: what it should fit, for errors.

    Raises:
        UserError: another number of layers or other shapes; it lists what differs.
    """
    expected = [(layer.name, [tuple(w.shape) for w in layer.weights]) for layer in layers]
    there = [(label, [w.shape for w in weights]) for label, weights in found.layers.items()]
    differences = [
        f"{name} expects {_shapes(shapes)}, found {label} with {_shapes(others)}"
        for (name, shapes), (label, others) in zip(expected, there, strict=False)
        if [_bare(s) for s in shapes] != [_bare(s) for s in others]
    ]
    if len(expected) != len(there):
        counts = f"{len(expected)} layers with weights are expected, found {len(there)}"
        differences.insert(0, f"{counts} ({_some(list(found.layers))})")
    if differences:
        told = "; ".join(differences[:DIFFERENCES])
        more = f"; and {len(differences) - DIFFERENCES} more" if differences[DIFFERENCES:] else ""
        raise UserError(f"{path} does not fit {network}: {told}{more}.")
    for label, values in found.layers.items():
        if not all(np.isfinite(value).all() for value in values):
            raise UserError(f"{path}: the weights of {label} are not all numbers. Get it again.")
    for layer, values in zip(layers, found.layers.values(), strict=True):
        layer.set_weights(
            [value.reshape(w.shape) for value, w in zip(values, layer.weights, strict=True)]
        )


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without its first axes of one: a prior of [1, 1, 6, 8] is one of [6, 8]."""
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _shapes(shapes: list[tuple[int, ...]]) -> str:
    """Return shapes as text."""
    return " + ".join("x".join(map(str, shape)) for shape in shapes) or "none"


def _some(names: list[str]) -> str:
    """Return the first few names as text."""
    return ", ".join(names[:4]) + (" ..." if len(names) > 4 else "") if names else "nothing"


def mlnet_settings(found: Foreign, path: Path) -> dict[str, Any]:
    """Return the settings of the ML-Net whose weights a file holds, as a card has them.

    The network's size is not in a file, but follows from its prior, which has a weight for every 80
    rows and columns: that of 2016 is 6 x 8 for 480 x 640. The width follows from the first layer.

    Raises:
        UserError: the file's last layer is no prior, so it is no ML-Net.
    """
    layers = list(found.layers.values())
    if not is_prior(layers[-1]) or layers[0][0].ndim != 4:
        last = _shapes([w.shape for w in layers[-1]])
        raise UserError(
            f"{path} is not ML-Net's: its last weights are {last}, where a prior such as 6x8 is "
            "expected."
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
    """Return a card for a file of other hands that holds ML-Net: what can be known of it.

    Raises:
        UserError: it does not hold ML-Net.
    """
    found = read(path)
    if found.bare:
        raise UserError(
            f"{path} holds a VGG alone, no saliency network. As a start for training name it with "
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

"""The command `convert`: converts weights files of Keras 1 and 2 to this program's format."""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
from numpy.typing import NDArray

from commands.settings import ConvertConfig
from model import load_model
from salience.networks import backbone, foreign_weights, weight_files
from salience.system.errors import UserError
from salience.system.files import file_digest, make_folder, write_bytes
from salience.system.terminal import tell

MIN_CORRELATION = 0.5  # kernels that correlate more are related; by chance it is near 0


def run(settings: ConvertConfig) -> bool:
    """Run the command `convert`."""
    convert(settings.old, settings.new, settings.overwrite, settings.weights_dir)
    return True


def convert(
    old: Path,
    new: Path,
    overwrite: bool = False,
    weights_dir: Path = Path("weights"),
    say: Callable[[str], None] = tell,
) -> None:
    """Convert a weights file of Keras 1 or 2.

    An ML-Net becomes a `.weights.h5` with a card, for `test`, `evaluate` and `train
    --init_weights`. A VGG16 in groups `layer_N` becomes an `.h5` for `--backbone_weights`.

    Args:
        old: the file to convert.
        new: the file to write.
        overwrite: whether to replace `new`.
        weights_dir: folder that may hold ImageNet's VGG16, for a check of the kernels' orientation.
        say: called with each message.

    Raises:
        UserError: `old` is neither an ML-Net nor a VGG16; `new` exists or cannot be written.
    """
    if not old.is_file():
        raise UserError(f"{old}: no such file.")
    if new.exists() and not overwrite:
        raise UserError(f"{new} exists. Choose another name, or replace it with --overwrite.")
    found = foreign_weights.read(old)
    suffix = ".h5" if found.only_vgg else weight_files.SUFFIX
    if not new.name.endswith(suffix):
        raise UserError(f"{new}: the name of the converted file must end in {suffix}.")
    if found.only_vgg:
        model = _bare_vgg16(found, old)
        make_folder(new.absolute().parent, "NEW")
        _save_as_applications(model, new)
        say(f"{new}: VGG16, for --backbone_weights")
    else:
        model = load_model(old)
        make_folder(new.absolute().parent, "NEW")
        weight_files.save(model, new, weight_files.read_card(old) | _origin(old))
        rows, cols = model.input_shape[1:3]
        say(f"{new}: ML-Net at {rows}x{cols}, for test, evaluate and train --init_weights")
    say(_kernels_line(found, weights_dir))


def _origin(old: Path) -> dict:
    """Return the fields of a card that describe the origin of converted weights."""
    return {
        "converted_from": old.name,
        "sha256": file_digest(old),
        "versions": {"keras": importlib.metadata.version("keras")},
    }


def _bare_vgg16(found: foreign_weights.ForeignWeights, path: Path) -> keras.Model:
    """Return the convolutional part of VGG16 with the weights of a file."""
    inputs = keras.Input((32, 32, 3))
    ends = backbone.stages("vgg16", inputs)
    model = keras.Model(inputs, list(ends.values())[-1])
    foreign_weights.set_weights(backbone.weighted_layers(model, "vgg16"), found, path, "VGG16")
    return model


def _save_as_applications(model: keras.Model, path: Path) -> None:
    """Write convolutions atomically, in the layout of `keras.applications`."""
    made = weight_files.InMemory()
    with h5py.File(made, "w") as file:
        layers = [layer for layer in model.layers if layer.weights]
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        for layer in layers:
            group = file.create_group(layer.name)
            group.attrs["weight_names"] = [b"kernel", b"bias"]
            for name, value in zip(("kernel", "bias"), layer.get_weights(), strict=True):
                group[name] = value
    write_bytes(path, made.getbuffer())


def _kernels_line(found: foreign_weights.ForeignWeights, weights_dir: Path) -> str:
    """Return a message on whether kernels were rotated, checked against ImageNet's VGG16."""
    done = "were rotated by 180° (Theano's convention)" if found.theano else "were not rotated"
    ours, first = _imagenet(weights_dir), next(iter(found.layers.values()))[0]
    if ours is None or first.shape != ours.shape:
        return f"kernels {done}"
    as_is, rotated = correlation(first, ours), correlation(first[::-1, ::-1], ours)
    measured = f"the first layer's correlation with ImageNet's VGG16 is {as_is:.2f}"
    if rotated > max(as_is, MIN_CORRELATION):
        return f"warning: kernels {done}, but {measured}, and {rotated:.2f} if rotated once more"
    return f"kernels {done}; {measured}, if rotated once more: {rotated:.2f}"


def _imagenet(weights_dir: Path) -> NDArray | None:
    """Return the first kernel of ImageNet's VGG16, or None if no folder holds its file."""
    file_name = backbone.BACKBONES["vgg16"].file_name
    for folder in (weights_dir, Path("weights")):
        if (folder / file_name).is_file():
            return next(iter(foreign_weights.read(folder / file_name).layers.values()))[0]
    return None


def correlation(a: NDArray, b: NDArray) -> float:
    """Return Pearson's correlation of two kernels of the same shape."""
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])

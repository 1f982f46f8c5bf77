"""VGG16: its features for a saliency head, and where its ImageNet weights come from.

The network's input is the BGR picture, 0 to 255; what its ImageNet weights expect is done here, as
the first layer of the network.
"""

import contextlib
import io
import socket
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import layers

from errors import UserError

# ImageNet means of the caffe networks, in BGR order; nothing is divided (VGG16 and ResNet-50)
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
FILE_NAME = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
DOWNLOAD = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg16/{FILE_NAME}"
DOWNLOAD_MD5 = "6d6bbae143d832006294945121d1f1fc"  # as keras.applications checks it
TIMEOUT_SECONDS = 20
# convolutions in each block, and their channels (Simonyan and Zisserman 2015, table 1, column D)
BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
CONVOLUTIONS = [
    f"block{b}_conv{c}" for b, (count, _) in enumerate(BLOCKS, 1) for c in range(1, count + 1)
]


def caffe(inputs):
    """Return BGR pictures, 0 to 255, minus the ImageNet mean, as the caffe networks expect them."""
    return layers.Rescaling(1.0, [-mean for mean in CAFFE_MEAN_BGR], name="minus_mean")(inputs)


def vgg16(inputs, width: float = 1.0, trainable: bool = True, seed: int = 0) -> dict:
    """Return the taps of VGG16 at one eighth: `block3_pool`, `block4_pool` and `block5_conv3`.

    The last pooling is left out and the fourth has stride 1, so that blocks 4 and 5 both end at an
    eighth of the input (Cornia et al., ICPR 2016). Layer names are VGG16's own.

    Args:
        inputs: Keras tensor [b, rows, cols, 3], BGR, 0 to 255.
        width: share of each layer's channels; 1 is VGG16.
        trainable: whether the convolutions learn.
        seed: of the random start; every layer has its own, drawn from it.

    Returns:
        Keras tensors [b, rows/8, cols/8, channels] by layer name.
    """
    x, taps = caffe(inputs), {}
    seeds = iter(np.random.SeedSequence(seed).generate_state(len(CONVOLUTIONS)).tolist())
    for block, (count, channels) in enumerate(BLOCKS, 1):
        for conv in range(1, count + 1):
            x = layers.Conv2D(
                max(1, round(channels * width)),
                3,
                padding="same",
                activation="relu",
                # He et al. 2015: a random start of 13 ReLU layers neither fades nor explodes
                kernel_initializer=keras.initializers.HeNormal(next(seeds)),
                trainable=trainable,
                name=f"block{block}_conv{conv}",
            )(x)
        if block == 5:
            taps[f"block5_conv{count}"] = x  # (b, h/8, w/8, 512)
            break
        # stride 1 in the fourth keeps block 5 at one eighth
        x = layers.MaxPooling2D(
            2, strides=1 if block == 4 else 2, padding="same", name=f"block{block}_pool"
        )(x)
        if block >= 3:
            taps[f"block{block}_pool"] = x  # (b, h/8, w/8, 256), then 512
    return taps


def load_pretrained(
    model: keras.Model, choice: str | None, weights_dir: Path = Path("weights")
) -> Path | None:
    """Load VGG16's ImageNet weights into a model; return their file, or None for a random start.

    Args, Raises: see `find_weights` and `load_weights`.
    """
    path = find_weights(choice, weights_dir)
    if path:
        load_weights(model, path)
    return path


def find_weights(choice: str | None, weights_dir: Path = Path("weights")) -> Path | None:
    """Return the file of VGG16's ImageNet weights, or None where a random start is asked for.

    Args:
        choice: a path, `none`, or None to look in `weights_dir` and `weights/`, then in Keras'
            cache, then to download it.
        weights_dir: the folder that this run's weights go to.

    Raises:
        UserError: no file, and no network to get one.
    """
    if choice == "none":
        return None
    if choice is not None:
        if not Path(choice).is_file():
            raise UserError(f"--backbone_weights {choice}: no such file.")
        return Path(choice)
    for folder in (weights_dir, Path("weights")):
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
    try:
        return _download()
    except Exception as error:  # get_file raises bare Exception for a failed download
        raise UserError(
            f"No ImageNet weights of VGG16: put {FILE_NAME} into weights/ (the download from "
            f"{DOWNLOAD} failed), name a copy with --backbone_weights PATH, or ask for a random "
            "start with --backbone_weights none."
        ) from error


def _download() -> Path:
    """Return the file from Keras' cache or its download, with its progress on a terminal."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)  # a network that swallows packets is none
    try:
        words = sys.stderr if sys.stderr.isatty() else io.StringIO()
        with contextlib.redirect_stdout(words):
            return Path(
                keras.utils.get_file(
                    FILE_NAME, DOWNLOAD, cache_subdir="models", file_hash=DOWNLOAD_MD5
                )
            )
    finally:
        socket.setdefaulttimeout(before)


def load_weights(model: keras.Model, path: Path) -> None:
    """Copy VGG16's ImageNet weights into the layers of a model that carry VGG16's names.

    The file is HDF5 as `keras.applications` distributes it: a group a layer, whose attribute
    `weight_names` names the kernel, then the bias. All shapes are checked before any is set.

    Raises:
        UserError: the file is not HDF5, lacks a layer, or a shape differs.
    """
    loaded = {}
    try:
        with h5py.File(path) as file:
            for name in CONVOLUTIONS:
                loaded[name] = _read_layer(file, name, path)
    except OSError as error:
        raise UserError(f"{path} is not an HDF5 file: truncated or of another type.") from error
    for name, values in loaded.items():
        expected = [tuple(w.shape) for w in model.get_layer(name).weights]
        found = [v.shape for v in values]
        if found != expected:
            raise UserError(
                f"{path}: layer {name} has weights of shape {found}, the network expects "
                f"{expected}. Is it VGG16's file, and is --width 1?"
            )
    for name, values in loaded.items():
        model.get_layer(name).set_weights(values)


def _read_layer(file: h5py.File, name: str, path: Path) -> list[np.ndarray]:
    """Return kernel and bias of one layer."""
    group = file.get(name)
    names = group.attrs.get("weight_names", []) if isinstance(group, h5py.Group) else []
    texts = [n.decode() if isinstance(n, bytes) else str(n) for n in names]
    if len(texts) != 2 or not all(isinstance(group.get(t), h5py.Dataset) for t in texts):
        raise UserError(
            f"{path} is not VGG16's weights file: layer {name} with its kernel and bias is "
            f"expected, found {', '.join(list(file)[:4]) or 'nothing'} ..."
        )
    return [np.asarray(group[t]) for t in texts]

"""Backbones: the pretrained networks below the saliency heads, their stages and their weights.

Each backbone takes BGR pictures, 0 to 255; its first layers normalise them as its pretrained
weights expect. VGG is built layer by layer, since ML-Net changes its strides, and DINOv2 in
`trunks/`; the others come from `keras.applications`. A model contains the layers of its backbone
directly, not as a sub-model, under the names of `keras.applications`.
"""

import contextlib
import io
import socket
import sys
from collections.abc import Container
from pathlib import Path
from typing import Any

import keras
from keras import layers, ops

from salience.networks import foreign_weights
from salience.networks.backbone_table import (
    BACKBONES,
    CAFFE_MEAN_BGR,
    TORCH_DEVIATION_RGB,
    TORCH_MEAN_RGB,
    VGG_BLOCKS,
    VGG_CHANNELS,
    Backbone,
)
from salience.networks.trunks import applications, dinov2
from salience.networks.trunks.resampling import Resampled, sampling
from salience.system.errors import UserError

TIMEOUT_SECONDS = 20


def caffe(inputs):
    """Return BGR pictures, 0 to 255, minus the ImageNet means, as networks from Caffe expect."""
    # in float32, since bfloat16 would round 103.939 to 104
    return layers.Rescaling(
        1.0, [-mean for mean in CAFFE_MEAN_BGR], dtype="float32", name="minus_mean"
    )(inputs)


def rgb(inputs):
    """Return BGR pictures as RGB, 0 to 255; EfficientNetV2 has its own scaling layer."""
    return ops.flip(inputs, axis=-1)


def symmetric_rgb(inputs):
    """Return BGR pictures, 0 to 255, as RGB, -1 to 1."""
    scaled = layers.Rescaling(1 / 127.5, -1.0, dtype="float32", name="minus_one_to_one")
    return scaled(rgb(inputs))


def torch_rgb(inputs):
    """Return BGR pictures, 0 to 255, as RGB with ImageNet's mean 0 and deviation 1, as PyTorch."""
    # in float32, since bfloat16 would round 123.675 to 123.5
    return layers.Rescaling(
        [1 / deviation for deviation in TORCH_DEVIATION_RGB],
        [-m / d for m, d in zip(TORCH_MEAN_RGB, TORCH_DEVIATION_RGB, strict=True)],
        dtype="float32",
        name="standardised_rgb",
    )(rgb(inputs))


PREPARE = {"caffe": caffe, "rgb": rgb, "symmetric_rgb": symmetric_rgb, "torch_rgb": torch_rgb}


def stages(
    name: str,
    inputs,
    width: float = 1.0,
    trainable: bool = True,
    seed: int = 0,
    fixed_blocks: int = 0,
) -> dict[str, Any]:
    """Return the outputs of a backbone's stages, first to last, with the published strides.

    In a frozen backbone, batch normalisation uses its stored means and dropout is off. Its features
    are therefore those of inference, even while a head on them is trained.

    Args:
        name: key of BACKBONES.
        inputs: Keras tensor [b, rows, cols, 3], BGR, 0 to 255; from `keras.Input`.
        width: share of each layer's channels; 1 is the published network.
        trainable: whether the weights are trained.
        seed: seed of the random weights; each layer gets a seed derived from it.
        fixed_blocks: number of blocks, from the first, that stay frozen in any case. A block ends
            with a stage.

    Returns:
        Keras tensors [b, rows/stride, cols/stride, channels] by layer name, with sizes rounded up.
        BACKBONES has the strides. A network of patches has a cell for each patch.
    """
    about = BACKBONES[name]
    if about.is_vgg:
        return vgg(name, inputs, width, trainable, seed, fixed_blocks=fixed_blocks)
    prepared = PREPARE[about.prepare](inputs)
    if about.patch:
        ends = dinov2.build(prepared, about, width, seed)
    else:
        trunk = applications.build(about.application, prepared, width, seed)
        ends = {stage: applications.output_of(trunk, stage) for stage in about.stages}
    if not trainable:
        freeze(inputs, list(ends.values()))
    elif fixed_blocks:
        freeze(inputs, list(ends.values())[fixed_blocks - 1])
    return ends


def freeze(inputs, ends) -> None:
    """Freeze the layers that tensors of a network depend on, as they are in inference.

    Args:
        inputs: the network's input.
        ends: a Keras tensor, or several.
    """
    for layer in keras.Model(inputs, ends).layers:
        layer.trainable = False
        if isinstance(layer, layers.Dropout):
            layer.rate = 0.0


def vgg(
    name: str,
    inputs,
    width: float = 1.0,
    trainable: bool = True,
    seed: int = 0,
    at_eighth: bool = False,
    theano_pooling: bool = False,
    fixed_blocks: int = 0,
    more: Container[str] = (),
) -> dict[str, Any]:
    """Return the outputs of VGG's stages, under the published layer names.

    Args:
        name: vgg16 or vgg19.
        inputs: see `stages`.
        width: share of each layer's channels.
        trainable: whether the weights are trained.
        seed: seed of the random weights.
        at_eighth: use stride 1 in the fourth pooling and leave out the fifth, so that blocks 4 and
            5 both end at one eighth of the input (Cornia et al., ICPR 2016).
        theano_pooling: start the pooling windows a row and a column earlier, as the "same" pooling
            of Keras 1 did on Theano.
        fixed_blocks: number of blocks, from the first, that stay frozen in any case.
        more: names of convolutions that are returned besides the stages.

    Returns:
        Keras tensors by layer name.
    """
    about, counts = BACKBONES[name], VGG_BLOCKS[name]
    x, ends = PREPARE[about.prepare](inputs), {}
    seeds = iter(applications.seeds_of(seed, sum(counts)))
    for block, (count, channels) in enumerate(zip(counts, VGG_CHANNELS, strict=True), 1):
        for conv in range(1, count + 1):
            x = layers.Conv2D(
                max(1, round(channels * width)),
                3,
                padding="same",
                activation="relu",
                # He et al. 2015: signals neither vanish nor explode in 13 random ReLU layers
                kernel_initializer=keras.initializers.HeNormal(next(seeds)),
                trainable=trainable and block > fixed_blocks,
                name=f"block{block}_conv{conv}",
            )(x)
            if f"block{block}_conv{conv}" in more:
                ends[f"block{block}_conv{conv}"] = x
        if block == 5:
            ends[f"block5_conv{count}"] = x  # (b, h/16, w/16, 512), or h/8 and w/8
            if at_eighth:
                break
        if (
            theano_pooling
        ):  # window i of stride 2 is rows 2i - 1 and 2i; features are never negative
            x = layers.ZeroPadding2D(((1, 0), (1, 0)), name=f"block{block}_padding")(x)
        # stride 1 in the fourth pooling keeps block 5 at one eighth; "same" keeps the last row and
        # column of an odd size, which the published VGG drops
        x = layers.MaxPooling2D(
            2,
            strides=1 if block == 4 and at_eighth else 2,
            padding="valid" if theano_pooling else "same",
            name=f"block{block}_pool",
        )(x)
        ends[f"block{block}_pool"] = x
    return ends


def features_at_eighth(
    name: str,
    inputs,
    width: float = 1.0,
    trainable: bool = True,
    seed: int = 0,
    theano_pooling: bool = False,
    fixed_blocks: int = 0,
) -> list[Any]:
    """Return a backbone's features at one eighth of the input, for ML-Net's head.

    For VGG, these are the third and fourth pooling and the last convolution, with ML-Net's strides.
    For the others, these are the stages from stride 8 on, interpolated to one eighth.

    Args: see `stages`; `theano_pooling` see `vgg`.

    Returns:
        Keras tensors [b, rows/8, cols/8, channels].
    """
    if name in VGG_BLOCKS:
        ends = vgg(name, inputs, width, trainable, seed, True, theano_pooling, fixed_blocks)
        return [end for layer, end in ends.items() if layer[5] in "345"]  # blocks 3, 4 and 5
    ends = stages(name, inputs, width, trainable, seed, fixed_blocks)
    deep = {layer: end for layer, end in ends.items() if BACKBONES[name].stages[layer] >= 8}
    return list(on_grid(name, deep, inputs, 8).values())


def stages_to_read(
    name: str,
    inputs,
    width: float = 1.0,
    trainable: bool = True,
    seed: int = 0,
    fixed_blocks: int = 0,
) -> dict[str, Any]:
    """Return the outputs of the layers that the multi-scale read-out reads, `Backbone.read`.

    Args: see `stages`.

    Returns:
        Keras tensors by layer name.
    """
    about = BACKBONES[name]
    if about.is_vgg:
        ends = vgg(name, inputs, width, trainable, seed, fixed_blocks=fixed_blocks, more=about.read)
    else:
        ends = stages(name, inputs, width, trainable, seed, fixed_blocks)
    return {layer: ends[layer] for layer in about.read}


def on_grid(name: str, ends: dict[str, Any], inputs, stride: int) -> dict[str, Any]:
    """Return the outputs of stages resampled to one grid, whose cells tile the input.

    Args:
        name: key of BACKBONES.
        ends: outputs of `stages`, by layer.
        inputs: the network's input, [b, rows, cols, 3].
        stride: rows and columns of a grid cell, pixels of the input.

    Returns:
        Keras tensors [b, rows/stride, cols/stride, channels], by layer.
    """
    about = BACKBONES[name]
    return {
        layer: Resampled(
            *(
                sampling(
                    cells,
                    about.stride_of(layer, cells, length),
                    about.centre_of(layer),
                    length // stride,
                    stride,
                )
                for cells, length in zip(end.shape[1:3], inputs.shape[1:3], strict=True)
            ),
            name=f"{layer}_on_grid",
        )(end)
        for layer, end in ends.items()
    }


def load_pretrained(
    model: keras.Model, name: str, choice: str | None, weights_dir: Path = Path("weights")
) -> Path | None:
    """Load ImageNet weights into a model; return their file, or None for a random start.

    Args, Raises: see `find_weights` and `load_weights`.
    """
    path = find_weights(name, choice, weights_dir)
    if path:
        load_weights(model, name, path)
    return path


def find_weights(name: str, choice: str | None, weights_dir: Path = Path("weights")) -> Path | None:
    """Return the file of a backbone's ImageNet weights, or None for a random start.

    Args:
        name: key of BACKBONES.
        choice: a path; `none` for a random start; or None to search `weights_dir`, `weights/` and
            the cache of Keras or Kaggle, and to download the file otherwise.
        weights_dir: folder of this run's weights.

    Raises:
        UserError: there is no file, and the download failed; or keras-hub is not installed, which
            reads the weights of DINOv2.
    """
    if choice == "none":
        return None
    about = BACKBONES[name]
    about.need_hub()
    if choice is not None:
        if not Path(choice).is_file():
            raise UserError(f"--backbone_weights {choice}: no such file.")
        return Path(choice)
    for folder in (weights_dir, Path("weights")):
        if (folder / about.file_name).is_file():
            return folder / about.file_name
    try:
        return _download(about)
    except Exception as error:  # get_file raises bare Exception for a failed download
        raise UserError(
            f"No pretrained weights of {about.title}: put {about.file_name} into weights/ (the "
            f"download from {about.address} failed), name a copy with --backbone_weights PATH, or "
            "ask for a random start with --backbone_weights none."
        ) from error


def _download(about: Backbone) -> Path:
    """Return the file from its cache or its download; a terminal shows the progress."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)  # a firewall may drop packets without an answer
    try:
        output = sys.stderr if sys.stderr.isatty() else io.StringIO()
        with contextlib.redirect_stdout(output):
            if about.patch:
                return dinov2.download(about)
            return Path(
                keras.utils.get_file(
                    about.file_name, about.address, cache_subdir="models", file_hash=about.digest
                )
            )
    finally:
        socket.setdefaulttimeout(before)


def weighted_layers(model: keras.Model, name: str) -> list[Any]:
    """Return the layers of a model's backbone that have weights, in the order of Keras' files.

    Args:
        model: built on the backbone.
        name: key of BACKBONES.
    """
    present = {layer.name for layer in model.layers}
    last = next(stage for stage in reversed(BACKBONES[name].stages) if stage in present)
    # a model of the backbone alone: layers of a head can change the order
    trunk = keras.Model(model.inputs, model.get_layer(last).output)
    return [layer for layer in trunk.layers if layer.weights]


def load_weights(model: keras.Model, name: str, path: Path) -> None:
    """Copy ImageNet weights into the backbone's layers of a model.

    The file is HDF5 as `keras.applications` or keras-hub distributes it, or the VGG16 file of 2015
    (see `foreign_weights`). Layers are matched by order, as in Keras: names differ in some files.

    Raises:
        UserError: the file is not HDF5, a layer is missing, or a shape differs.
    """
    about, own = BACKBONES[name], weighted_layers(model, name)
    hint = f"{about.title} (is this a file of {about.title}, and is --width 1?)"
    if about.patch:
        found = dinov2.read(path, about, [layer.name for layer in own])
    else:
        found = foreign_weights.read(path)
    if about.folder == "convnext":
        found = applications.flattened(found)
    foreign_weights.set_weights(own, found, path, hint)

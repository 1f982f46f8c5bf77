"""Linear probe: predict saliency by one linear layer on a backbone's features.

All stages are resampled to one grid, and one 1x1 convolution reads them (after Alain and Bengio,
linear classifier probes, ICLR 2017 workshop). Here the convolution is trained by gradient descent;
`main.py probe` solves the same read-outs exactly, also for single stages. The map may be negative;
later steps set negative values to zero.
"""

from pathlib import Path

import keras
from keras import layers, ops

from salience.networks import backbone
from salience.networks.settings import NetworkSettings

# Rows and columns of a cell, pixels of the input. Human density maps are blurred by about as much,
# so a finer grid adds equations but no information; a coarser grid loses some.
# (OSIE's sigma is 24 pixels at 600 x 800, which is 9.6 pixels at 240 x 320.)
GRID = 16


def features(
    name: str,
    input_shape: tuple[int, int],
    width: float = 1.0,
    trainable: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Return a model from pictures to the features of all stages on one grid, by layer.

    Args:
        name: key of `backbone.BACKBONES`.
        input_shape: rows and columns of the input, pixels.
        width: share of each layer's channels.
        trainable: whether the weights are trained.
        seed: seed of the random weights.
    """
    inputs = keras.Input((*input_shape, 3), name="image")
    ends = backbone.stages(name, inputs, width, trainable, seed)
    return keras.Model(inputs, backbone.on_grid(name, ends, inputs, GRID), name=f"{name}_stages")


def build(settings: NetworkSettings) -> keras.Model:
    """Return the linear probe with random weights.

    Input [b, rows, cols, 3], BGR, 0 to 255. Output [b, rows/16, cols/16, 1], on the truth's scale.

    Args:
        settings: reads rows, cols, backbone, width, freeze_backbone and seed.

    >>> from types import SimpleNamespace
    >>> settings = SimpleNamespace(
    ...     model="linear-probe", backbone="resnet50", rows=48, cols=64, width=0.1,
    ...     freeze_backbone=True, seed=0
    ... )
    >>> build(settings).output_shape
    (None, 3, 4, 1)
    """
    trunk = features(
        settings.backbone,
        (settings.rows, settings.cols),
        settings.width,
        not settings.freeze_backbone,
        settings.seed,
    )
    x = layers.Concatenate(name="features")(list(trunk.output.values()))
    # standardise only, without learned scale and centre: steps then have one size in all directions
    x = layers.BatchNormalization(momentum=0.9, center=False, scale=False, name="standardised")(x)
    x = layers.Conv2D(
        1,
        1,
        kernel_initializer=keras.initializers.GlorotNormal(settings.seed),
        dtype="float32",
        name="saliency",
    )(x)  # (b, h/16, w/16, 1)
    return keras.Model(trunk.input, x, name=settings.model)


def to_unit_range(y_pred):
    """Return the maps unchanged: they are trained on truth from 0 to 1."""
    return ops.cast(y_pred, "float32")


def load_pretrained(model: keras.Model, settings: NetworkSettings) -> Path | None:
    """Load the backbone's ImageNet weights; return their file, or None for a random start.

    Raises:
        UserError: the weights cannot be found or downloaded, or do not fit the backbone.
    """
    return backbone.load_pretrained(
        model, settings.backbone, settings.backbone_weights, settings.weights_dir
    )

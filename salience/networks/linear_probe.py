"""Linear probe: what a linear layer reads of human attention from a network's features.

All stages, brought to one grid, then one 1x1 convolution (Alain and Bengio, ICLR 2017 workshop:
linear classifier probes). `main.py probe` solves the same read-outs exactly, for each stage alone,
too; here one is trained by gradient descent as any other system. The map may be negative; what is
made of it afterwards takes that for zero.
"""

from pathlib import Path

import keras
from keras import layers, ops

from salience.networks import backbone
from salience.networks.settings import NetworkSettings

# Pixels of the input that a cell covers. A human density map is blurred by more than that, so
# that a finer grid would add rows to the sums and nothing to know; a coarser one would lose some
# of it. (OSIE's Gaussian is 24 pixels of 600 x 800: at 240 x 320 that is 9.6.)
GRID = 16


def features(
    name: str,
    input_shape: tuple[int, int],
    width: float = 1.0,
    trainable: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Return a network from pictures to the features of all its stages on one grid, by layer.

    Args:
        name: of `backbone.BACKBONES`.
        input_shape: rows and columns of the pictures.
        width: share of each layer's channels.
        trainable: whether it learns.
        seed: of the random start.
    """
    inputs = keras.Input((*input_shape, 3), name="image")
    ends = backbone.stages(name, inputs, width, trainable, seed)
    return keras.Model(inputs, backbone.on_grid(name, ends, inputs, GRID), name=f"{name}_stages")


def build(settings: NetworkSettings) -> keras.Model:
    """Return the linear probe with random weights.

    Input [b, rows, cols, 3], BGR, 0 to 255; output [b, rows/16, cols/16, 1], of the truth's scale.

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
    # without a scale and a centre it only standardises: a step is then as long in each direction
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
    """Return the maps as they are: they are fitted to truth from 0 to 1."""
    return ops.cast(y_pred, "float32")


def load_pretrained(model: keras.Model, settings: NetworkSettings) -> Path | None:
    """Load the backbone's ImageNet weights; return their file, or None for a random start.

    Raises:
        UserError: the weights are not to be had, or not the backbone's.
    """
    return backbone.load_pretrained(
        model, settings.backbone, settings.backbone_weights, settings.weights_dir
    )

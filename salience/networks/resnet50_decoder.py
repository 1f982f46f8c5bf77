"""ResNet-50 with an up-sampling decoder, which predicts a map at the resolution of the input.

The encoder is Keras' ResNet-50 without its classifier (He et al., CVPR 2016); `backbone.py` builds
and loads it. The decoder doubles the resolution five times.
"""

from pathlib import Path

import keras
import numpy as np
from keras import layers

from salience.networks import backbone, losses
from salience.networks.settings import NetworkSettings

ENCODER = "resnet50"
BLOCKS = (1024, 512, 256, 128)  # channels of the blocks, each at twice the previous resolution
LAST = 64  # channels at the input's resolution
LIGHT = 0.25  # share of the decoder's channels with --light

TRAINING_METRICS = (losses.ssim,)


def build(settings: NetworkSettings) -> keras.Model:
    """Return the network with random weights.

    Input [b, rows, cols, 3], BGR, 0 to 255. Output [b, rows, cols, 1], 0 to 1. The network has
    61,315,649 weights, 23,587,712 of them in the encoder; with `light`, it has 29,487,665.

    Args:
        settings: reads rows, cols, width, light, freeze_backbone and seed.
    """
    width = settings.width * (LIGHT if settings.light else 1.0)
    seeds = iter(np.random.SeedSequence(settings.seed).generate_state(2 * len(BLOCKS) + 3).tolist())

    def convolution(x, channels: int, name: str, **options):
        return layers.Conv2D(
            max(1, round(channels * width)),
            3,
            padding="same",
            kernel_initializer=keras.initializers.HeNormal(next(seeds)),
            name=name,
            **options,
        )(x)

    inputs = keras.Input((settings.rows, settings.cols, 3), name="image")
    # batch normalisation of a frozen encoder keeps its ImageNet means during training
    ends = backbone.stages(
        ENCODER, inputs, settings.width, not settings.freeze_backbone, settings.seed
    )
    x = ends["conv5_block3_out"]  # (b, h/32, w/32, 2048)
    for block, channels in enumerate(BLOCKS, 1):
        x = layers.UpSampling2D(2, name=f"up{block}")(x)
        for place in (1, 2):
            name = f"up{block}_conv{place}"
            # no bias, which the normalisation would cancel
            x = convolution(x, channels, name, use_bias=False)
            x = layers.BatchNormalization(name=f"up{block}_norm{place}")(x)
            x = layers.ReLU(name=f"up{block}_relu{place}")(x)
    x = layers.UpSampling2D(2, name="up5")(x)  # (b, h, w, 128)
    for place in (1, 2):
        x = convolution(x, LAST, f"up5_conv{place}", activation="relu")
    x = layers.Conv2D(
        1,
        3,
        padding="same",
        activation="sigmoid",
        kernel_initializer=keras.initializers.GlorotNormal(next(seeds)),
        dtype="float32",
        name="saliency",
    )(x)
    return keras.Model(inputs, x, name="resnet50-decoder")


def to_unit_range(y_pred):
    """Return the maps unchanged: a sigmoid yields 0 to 1."""
    return y_pred


def load_pretrained(model: keras.Model, settings: NetworkSettings) -> Path | None:
    """Load the encoder's ImageNet weights; return their file, or None for a random start.

    Raises:
        UserError: the weights cannot be found or downloaded, or do not fit ResNet-50.
    """
    return backbone.load_pretrained(model, ENCODER, settings.backbone_weights, settings.weights_dir)

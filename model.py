"""ML-Net: the network and its loss; and `load_model` and `predict` for notebooks.

Cornia, Baraldi, Serra and Cucchiara, "A deep multi-level network for saliency prediction",
ICPR 2016 (arXiv 1609.01064).
"""

from salience.system import quiet

quiet.import_keras()  # first, so that a notebook does not show TensorFlow's log

import importlib
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray
from PIL.Image import Image

from config import SYSTEMS, Config, config_of
from eltwise_product import EltWiseProduct
from salience.measures import density as densities
from salience.measures.adaptation import SetNumbers
from salience.measures.finish import UNFINISHED, finish_of
from salience.networks import backbone, weight_files
from salience.networks.losses import split_truth
from salience.pictures.letterbox import OutputGrid, postprocess, preprocess, read_input
from salience.pictures.picture_files import as_bgr
from salience.pictures.sample import Sample
from salience.system.errors import UserError
from salience.system.files import HERE
from salience.system.terminal import tell

EPSILON = 1e-7  # least divisor: the maximum of an all-zero map is 0


@keras.saving.register_keras_serializable(package="saliency")
class PositiveGlorotNormal(keras.initializers.GlorotNormal):
    """Absolute values of Glorot-normal weights, for the 1x1 convolution before the last ReLU.

    With signed weights, some seeds start with an all-zero map, whose gradient is zero for ever.
    With positive weights, the map is positive wherever a feature is.
    """

    def __call__(self, shape, dtype=None, **kwargs):
        return ops.abs(super().__call__(shape, dtype=dtype, **kwargs))


def build(config: Config) -> keras.Model:
    """Return ML-Net with random weights.

    Input [b, rows, cols, 3], BGR, 0 to 255. Output [b, rows/8, cols/8, 1], 0 or more, without a
    fixed scale. The network has 15,452,145 weights at 480 x 640 on VGG16.

    Args:
        config: reads rows, cols, backbone, width, dropout, freeze_backbone, fixed_blocks,
            theano_pooling and seed.

    >>> build(Config(rows=48, cols=64, width=0.1)).output_shape
    (None, 6, 8, 1)
    """
    initial = keras.initializers.GlorotNormal(config.seed)
    inputs = keras.Input((config.rows, config.cols, 3), name="image")
    taps = backbone.features_at_eighth(
        config.backbone,
        inputs,
        config.width,
        not config.freeze_backbone,
        config.seed,
        config.theano_pooling,
        config.fixed_blocks,
    )
    x = layers.Concatenate(name="features")(taps)  # (b, h/8, w/8, 1280)
    x = layers.Dropout(config.dropout, seed=config.seed, name="dropout")(x)
    x = layers.Conv2D(
        max(1, round(64 * config.width)),
        3,
        padding="same",
        activation="relu",
        kernel_initializer=initial,
        name="head_conv1",
    )(x)  # (b, h/8, w/8, 64)
    x = layers.Conv2D(
        1,
        1,
        activation="relu",
        kernel_initializer=PositiveGlorotNormal(config.seed),
        dtype="float32",  # from here on, in any precision: the loss divides by the maximum
        name="head_conv2",
    )(x)  # (b, h/8, w/8, 1)
    x = EltWiseProduct(theano=config.theano_pooling, dtype="float32", name="prior")(x)
    x = layers.Activation("relu", dtype="float32", name="saliency")(x)
    return keras.Model(inputs, x, name="mlnet")


def load_pretrained(model: keras.Model, config: Config) -> Path | None:
    """Load the backbone's ImageNet weights; return their file, or None for a random start.

    Raises:
        UserError: the weights cannot be found or downloaded, or do not fit the backbone.
    """
    return backbone.load_pretrained(
        model, config.backbone, config.backbone_weights, config.weights_dir
    )


def to_unit_range(y_pred):
    """Return each map divided by its own maximum; an all-zero map stays zero."""
    y_pred = ops.cast(y_pred, "float32")
    # the maximum of each map, not of the batch
    peak = ops.max(y_pred, axis=(1, 2, 3), keepdims=True)
    return y_pred / ops.maximum(peak, EPSILON)


def loss(y_true, y_pred):
    """Return ML-Net's loss: the mean of (prediction / maximum - y)^2 / (1.1 - y), where y is truth.

    Args:
        y_true: [b, rows, cols, 2]; the first channel is the density map with maximum 1.
        y_pred: [b, rows, cols, 1], 0 or more; each map is divided by its own maximum.

    Returns:
        [b], one value a picture; 0 is best.

    Source: Cornia et al., equation 3, with alpha = 1.1; salient pixels weigh more.

    >>> round(float(loss(np.zeros((1, 2, 2, 2)), np.ones((1, 2, 2, 1)))[0]) * 1.1, 5)
    1.0
    """
    y = split_truth(y_true)[0]
    difference = to_unit_range(y_pred)[..., 0] - y
    return ops.mean(ops.square(difference) / (1.1 - y), axis=(1, 2))


def load_model(
    weights: str | Path | None = None,
    of_set: str | SetNumbers | None = None,
    adaptation: str | Path | None = None,
) -> keras.Model:
    """Return a trained model, ready to predict.

    Args:
        weights: a `.weights.h5` file that `train` wrote, or the name of one in the folder
            `weights/` or of an included one, such as "multiscale-osie". Default: your newest
            weights in the folder `weights/` of the current folder, else the included weights. The
            choice is printed.
        of_set: the data set whose numbers are used, one of the training's, for a network that has
            such numbers (multiscale); or numbers that were fitted; None for their mean.
        adaptation: a file of `adapt`, or its name: numbers of the network in place of a set's, or
            what `predict` does to maps; "none" for the network's own maps; None for what the
            weights' card says (see `measures.finish`).

    Raises:
        UserError: the file is missing, damaged or of another model; there are no weights; the
            network has no numbers of this data set; or the adaptation cannot be used.
    """
    if weights is None:
        path = best_weights()
    else:
        path = weight_files.named(Path(weights), Config.weights_dir)
    card = weight_files.read_card(path)
    config = config_of(card, path)
    finish = finish_of(card, path, adaptation, of_set)
    config.check_set(finish.numbers)
    with quiet.keras_conventions():
        model = system_module(config.model).build(config)
        weight_files.load(model, path)
        model = with_set(model, config, finish.numbers)
    about = {densities.CALIBRATION: card.get(densities.CALIBRATION), "path": str(path),
             "finish": finish}  # fmt: skip
    model.card = about  # type: ignore[attr-defined]
    return model


def with_set(model: keras.Model, config: Config, of_set: str | SetNumbers | None) -> keras.Model:
    """Return a model that uses the numbers of a data set; see `load_model`."""
    if not config.own.has_numbers:
        return model
    return system_module(config.model).with_set(model, config.dataset, of_set)


def best_weights() -> Path:
    """Return the weights file that `load_model` takes by default.

    Raises:
        UserError: there are no weights.
    """
    own, included = Config.weights_dir, HERE / Config.weights_dir
    is_used = any(own.glob("[!.]*" + weight_files.SUFFIX)) or (own / weight_files.PIN).exists()
    return weight_files.choose(None, own if is_used else included, tell)


def predict(
    model: keras.Model,
    image: str | Path | NDArray | Image,
    rgb: bool = False,
    density: bool = False,
) -> NDArray[np.floating]:
    """Return the saliency map of one picture, or its log-density, at the picture's own size.

    Args:
        model: from `load_model`.
        image: a file; a uint8 array [rows, columns, 3] in OpenCV's order (blue, green, red); or any
            other input of `picture_files.as_bgr`: a grey or transparent picture, floats from 0 to
            1, or an image of Pillow's.
        rgb: True for an array in the order red, green, blue, as matplotlib, scikit-image and
            `np.asarray` of Pillow's images have it. Files and Pillow's images need no flag.
        density: True for the natural logarithm of the probability of a fixation at each pixel. A
            message is printed if the weights have no calibration, which turns maps into densities.

    Returns:
        Saliency map, float32 [rows, columns], 0 to 1; its maximum is 1. With `density`, the
        logarithms, float32 [rows, columns]; the sum of their exponentials is 1.

    Raises:
        UserError: the file cannot be read, the array is not a picture, or the weights' calibration
            cannot be used.
    """
    input_shape = model.input_shape[1:3]
    if isinstance(image, str | Path):
        x, box = read_input(Sample(str(image), Path(image)), input_shape)
    else:
        x, box = preprocess(as_bgr(image, rgb), input_shape)
    prediction = np.asarray(model.predict_on_batch(x[None]))[0]
    saliency_map = postprocess(prediction, box, grid_of(model))
    card = getattr(model, "card", {"path": model.name})
    finish = card.get("finish", UNFINISHED)
    if not density:
        return finish.apply(saliency_map)
    calibration = finish.calibration or densities.calibration_or_identity(card, card["path"], tell)
    return densities.log_density(saliency_map, calibration)


def system_module(name: str) -> ModuleType:
    """Return the module of a system: this one, or one of `salience.networks`.

    Each has `build(settings)`, `to_unit_range` and `load_pretrained(model, settings)`. Optional:
    `loss`, if the published loss is not a sum of those in `losses`; `CROP` and `BLUR`, by system,
    if a map is not a plain grid over its input (see `letterbox.OutputGrid`); `TRAINING_METRICS`,
    which training reports besides the loss.

    Args:
        name: key of `config.SYSTEMS`.
    """
    return importlib.import_module(SYSTEMS[name].module)


def grid_of(model: keras.Model) -> OutputGrid:
    """Return the position of a network's output map on its input.

    Args:
        model: from a system's `build`, with the system's name.
    """
    module = system_module(model.name)
    crop = getattr(module, "CROP", {}).get(model.name, 0)
    stride = (model.input_shape[1] - 2 * crop) // model.output_shape[1]
    return OutputGrid(stride, crop, getattr(module, "BLUR", {}).get(model.name, 0.0))


def __getattr__(name: str) -> Any:
    """Return `PysaliencyModel`, which needs pysaliency: it is imported on the first use."""
    if name == "PysaliencyModel":
        return pysaliency_model()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def pysaliency_model() -> type:
    """Return the class `PysaliencyModel`, a `pysaliency.Model` of a network.

    `PysaliencyModel(weights)` takes a weights file, a name or a model, as `load_model` has them.
    Its log-densities are those of `predict`, float64, so that pysaliency's sums are exact.

    Raises:
        UserError: pysaliency is not installed.
    """
    try:
        pysaliency = importlib.import_module("pysaliency")
    except ModuleNotFoundError as error:
        raise UserError(
            f"PysaliencyModel needs pysaliency ({error.name} is not installed), which has an "
            "environment of its own: make pysaliency (docs/PYSALIENCY.md)."
        ) from error

    class PysaliencyModel(pysaliency.Model):
        """A network as a model of pysaliency.

        Args:
            weights: a weights file, a name, or a model of `load_model`; None for the default.
            of_set: data set whose numbers are used; see `load_model`.
            options: those of `pysaliency.Model`, such as `caching`.
        """

        def __init__(
            self,
            weights: str | Path | keras.Model | None = None,
            of_set: str | None = None,
            **options: Any,
        ) -> None:
            super().__init__(**options)
            built = isinstance(weights, keras.Model)
            if built and of_set is not None:
                raise UserError("of_set is for weights: give it to load_model, which built this.")
            self.network = weights if built else load_model(weights, of_set)

        def _log_density(self, stimulus: NDArray) -> NDArray[np.float64]:
            """Return the log-density of a stimulus, float64 [rows, columns].

            Args:
                stimulus: uint8 [rows, columns, 3], red, green, blue; or grey [rows, columns].
            """
            pixels = np.asarray(getattr(stimulus, "stimulus_data", stimulus))
            logs = predict(self.network, pixels, rgb=True, density=True)
            return logs.astype(np.float64)

    return PysaliencyModel

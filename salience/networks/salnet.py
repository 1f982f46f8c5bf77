"""SalNet: a deep network, the same network at half its width, and a shallow network.

Pan, Sayrol, Giro-i-Nieto, McGuinness and O'Connor, "Shallow and deep convolutional networks for
saliency prediction", CVPR 2016 (arXiv 1603.00845), and the authors' published code
(github.com/imatge-upc/saliency-2016-cvpr). All three end in a linear layer, so that their maps may
be negative; later steps set negative values to zero.
"""

from pathlib import Path

import h5py
import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from salience.data import hdf5
from salience.networks.settings import NetworkSettings
from salience.system.arrays import UNREADABLE, read_arrays
from salience.system.errors import UserError

# the hidden convolutions of the deep network: channels and kernel size
HIDDEN = ((96, 7), (256, 5), (512, 3), (512, 5), (512, 5), (256, 7), (128, 11), (32, 11))
VGG_M = ("conv1", "conv2", "conv3")  # layers with the shapes of VGG-M's first three convolutions
WIDTH = {"salnet-deep": 1.0, "salnet-half": 0.5}
SHALLOW = "salnet-shallow"
SHALLOW_CONVOLUTIONS = ((32, 5), (64, 3), (64, 3))
SHALLOW_LEAST = 24  # pixels: three convolutions and poolings reduce smaller inputs to nothing

# pixels at each side that pooling without padding and the cropped up-sampling leave out
CROP = {"salnet-deep": 2, "salnet-half": 2}
# cells: the authors' code blurs the 48 x 48 map before resizing (shallow/prediction.py, sigma=3)
BLUR = {SHALLOW: 3.0}


@keras.saving.register_keras_serializable(package="saliency")
class LocalResponseNormalization(layers.Layer):
    """Divide each value by (1 + alpha / 5 * sum of squares over 5 channels) ** beta.

    The channels are the value's own and up to two on either side. Alpha is divided by the number of
    channels, as in PyTorch and in Caffe, in which the network was published. TensorFlow's
    `tf.nn.lrn` does not divide.

    Source: Krizhevsky et al., NIPS 2012, section 3.3; the constants are those of VGG-M.
    """

    SIZE = 5
    ALPHA = 1e-4
    BETA = 0.75

    def call(self, x):
        reach = self.SIZE // 2
        channels = x.shape[-1]
        x = ops.cast(x, "float32")  # squares of features overflow float16
        # sums of shifted slices, since the backends' own operations define alpha differently
        squares = ops.pad(ops.square(x), ((0, 0), (0, 0), (0, 0), (reach, reach)))
        total = sum(squares[..., i : i + channels] for i in range(self.SIZE))
        normalised = x / ops.power(1.0 + self.ALPHA / self.SIZE * total, self.BETA)
        return ops.cast(normalised, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="saliency")
class MaxoutPairs(layers.Layer):
    """Maximum of each pair of units, [b, 2 n] to [b, n] (maxout, Goodfellow et al. 2013).

    >>> MaxoutPairs()(np.array([[1.0, 3.0, 2.0, 0.0]])).shape
    TensorShape([1, 2])
    """

    def call(self, x):
        return ops.max(ops.reshape(x, (-1, x.shape[-1] // 2, 2)), axis=-1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], input_shape[-1] // 2)


def build(settings: NetworkSettings) -> keras.Model:
    """Return one of the three networks with random weights.

    Input [b, rows, cols, 3], BGR, 0 to 255. Linear output: [b, rows - 4, cols - 4, 1] for the deep
    and the half network; [b, rows/2, cols/2, 1] for the shallow network.

    Args:
        settings: reads model, rows, cols, width, freeze_backbone, weight_decay, optimizer and seed.

    Raises:
        UserError: the input is too small.

    >>> from types import SimpleNamespace
    >>> settings = SimpleNamespace(
    ...     model="salnet-deep", rows=48, cols=64, width=0.02, freeze_backbone=False,
    ...     weight_decay=0.0, optimizer="sgd", seed=0
    ... )
    >>> build(settings).output_shape
    (None, 44, 60, 1)
    """
    return _build_shallow(settings) if settings.model == SHALLOW else _build_deep(settings)


def _build_deep(settings: NetworkSettings) -> keras.Model:
    """Return `salnet-deep` (25,806,209 weights at any input size) or `salnet-half`."""
    width = settings.width * WIDTH[settings.model]
    seeds = _seeds(settings.seed)
    decay = _decay(settings.optimizer, settings.weight_decay)
    inputs = keras.Input((settings.rows, settings.cols, 3), name="image")
    x = layers.Rescaling(1 / 127.5, -1.0, dtype="float32", name="normalised")(
        inputs
    )  # (v / 255 - 0.5) / 0.5
    x = ops.flip(x, axis=-1)  # BGR to RGB
    for number, (channels, size) in enumerate(HIDDEN, 1):
        name = f"conv{number}"
        x = layers.Conv2D(
            max(1, round(channels * width)),
            size,
            padding="same",
            activation="relu",
            kernel_initializer=keras.initializers.HeNormal(next(seeds)),
            kernel_regularizer=decay(),
            trainable=not (settings.freeze_backbone and name in VGG_M),
            name=name,
        )(x)
        if number == 1:
            x = LocalResponseNormalization(name="norm1")(x)
        if number <= 2:
            x = layers.MaxPooling2D(3, strides=2, name=f"pool{number}")(x)
    # (b, rows/4 - 1, cols/4 - 1, 32)
    x = layers.Conv2D(
        1,
        13,
        padding="same",
        kernel_initializer=keras.initializers.HeNormal(next(seeds)),
        kernel_regularizer=decay(),
        dtype="float32",  # the map, in any precision
        name="conv9",
    )(x)
    x = layers.Conv2DTranspose(
        1,
        8,
        strides=4,
        use_bias=False,
        kernel_initializer=keras.initializers.RandomNormal(0.0, 1e-4, next(seeds)),
        kernel_regularizer=decay(),
        dtype="float32",
        name="deconv1",
    )(x)  # (b, rows, cols, 1)
    x = layers.Cropping2D(2, dtype="float32", name="saliency")(x)
    return keras.Model(inputs, x, name=settings.model)


def _build_shallow(settings: NetworkSettings) -> keras.Model:
    """Return `salnet-shallow`, whose dense layers depend on the size of the map.

    The published output z is trained on 2 y - 1 for a truth y. Here the output is (z + 1) / 2, so
    that the map is on the scale 0 to 1, as in the other systems.
    """
    for flag, length in (("rows", settings.rows), ("cols", settings.cols)):
        if length < SHALLOW_LEAST:
            raise UserError(f"--{flag} {length}: {SHALLOW} needs at least {SHALLOW_LEAST}.")
    seeds = _seeds(settings.seed)
    decay = _decay(settings.optimizer, settings.weight_decay)
    rows, cols = settings.rows // 2, settings.cols // 2
    inputs = keras.Input((settings.rows, settings.cols, 3), name="image")
    x = layers.Rescaling(1 / 255, dtype="float32", name="normalised")(inputs)
    x = ops.flip(x, axis=-1)  # BGR to RGB
    for number, (channels, size) in enumerate(SHALLOW_CONVOLUTIONS, 1):
        x = layers.Conv2D(
            max(1, round(channels * settings.width)),
            size,
            activation="relu",
            kernel_initializer=keras.initializers.HeNormal(next(seeds)),
            kernel_regularizer=decay(),
            name=f"conv{number}",
        )(x)
        x = layers.MaxPooling2D(2, name=f"pool{number}")(x)
    x = layers.Flatten(name="flatten")(x)  # (b, 6400) for 96 x 96
    x = layers.Dense(
        2 * max(1, round(rows * cols * settings.width)),
        kernel_initializer=keras.initializers.HeNormal(next(seeds)),
        kernel_regularizer=decay(),
        name="dense4",
    )(x)
    x = MaxoutPairs(name="maxout4")(x)
    x = layers.Dense(
        rows * cols,
        kernel_initializer=keras.initializers.GlorotNormal(next(seeds)),
        kernel_regularizer=decay(),
        dtype="float32",  # the map, in any precision
        name="dense5",
    )(x)
    x = layers.Reshape((rows, cols, 1), dtype="float32", name="map")(x)
    x = layers.Rescaling(0.5, 0.5, dtype="float32", name="saliency")(x)
    return keras.Model(inputs, x, name=settings.model)


def _seeds(seed: int):
    """Return an iterator over seeds of the layers, derived from the run's seed."""
    return iter(np.random.SeedSequence(seed).generate_state(len(HIDDEN) + 2).tolist())


def _decay(optimizer: str, weight_decay: float):
    """Return a function that makes a kernel's regulariser, for Caffe's weight decay.

    Caffe adds `weight_decay * w` to the gradient, which is the gradient of weight_decay / 2 * w^2.
    AdamW has its own weight decay.
    """
    if optimizer == "adamw" or not weight_decay:
        return lambda: None
    return lambda: keras.regularizers.L2(weight_decay / 2)


def to_unit_range(y_pred):
    """Return the maps unchanged: they are trained on truth from 0 to 1."""
    return y_pred


def load_pretrained(model: keras.Model, settings: NetworkSettings) -> Path | None:
    """Load VGG-M's first three convolutions; return their file, or None for a random start.

    Raises:
        UserError: the file is missing, or does not hold VGG-M.
    """
    if settings.starts_at_random:
        return None
    path = Path(str(settings.backbone_weights))
    if not path.is_file():
        raise UserError(f"--backbone_weights {path}: no such file.")
    load_vgg_m(model, path)
    return path


def load_vgg_m(model: keras.Model, path: Path) -> None:
    """Copy VGG-M's first three convolutions into `conv1` to `conv3`.

    The file is HDF5 or `.npz`. In the file's order, the first three 4-D arrays are the kernels, the
    first three vectors the biases; later arrays are ignored. Kernels are (rows, columns, in, out)
    as in Keras and MatConvNet, or (out, in, rows, columns) as in Caffe and PyTorch. The first
    kernel must read RGB: reverse its inputs if it reads BGR.

    Raises:
        UserError: the file cannot be read, or a shape does not fit the network.
    """
    arrays = [array.squeeze() for array in _arrays(path)]
    kernels = [array for array in arrays if array.ndim == 4]
    biases = [array for array in arrays if array.ndim == 1]
    expected = [tuple(w.shape) for name in VGG_M for w in model.get_layer(name).weights]
    values = []
    for kernel, bias, shape in zip(kernels, biases, expected[::2], strict=False):
        if kernel.shape != shape and kernel.transpose(2, 3, 1, 0).shape == shape:
            kernel = kernel.transpose(2, 3, 1, 0)
        values += [kernel, bias]
    found = [value.shape for value in values]
    if found != expected:
        raise UserError(
            f"{path}: expected the first three convolutions of VGG-M, with kernels and biases of "
            f"shape {_listed(expected)}; found {_listed(found)}. {model.name} takes them only at "
            "full width."
        )
    if not all(np.isfinite(value).all() for value in values):
        raise UserError(f"{path}: its weights are not all finite numbers. Get the file again.")
    for index, name in enumerate(VGG_M):
        model.get_layer(name).set_weights(values[2 * index : 2 * index + 2])


def _arrays(path: Path) -> list[NDArray]:
    """Return the floating-point arrays of an HDF5 or `.npz` file, in the file's order."""
    found: list[NDArray] = []
    try:
        if path.suffix == ".npz":
            found = list(read_arrays(path).values())
        else:
            with hdf5.open_checked(path) as file:
                file.visititems(
                    lambda name, item: (
                        found.append(hdf5.read_numbers(item, f"{path}: {name}"))
                        if isinstance(item, h5py.Dataset) and item.dtype.kind == "f"
                        else None
                    )
                )
    except (*UNREADABLE, *hdf5.DAMAGED) as error:
        raise UserError(
            f"{path} is neither HDF5 nor an .npz of numeric arrays: truncated or of another type."
        ) from error
    return [np.asarray(array) for array in found if np.asarray(array).dtype.kind == "f"]


def _listed(shapes: list[tuple[int, ...]]) -> str:
    """Return shapes as text."""
    return ", ".join(map(str, shapes)) or "none"

"""Multi-scale read-out: a density of fixations, with numbers of each data set trained jointly.

One trunk sees the picture at several scales. Stages of each scale are read by 1x1 convolutions into
one grid; a small network of 1x1 convolutions, a blur and a centre bias make a density of it. Each
data set has a row of numbers (`NUMBERS`): contrast, blur, centre bias, shares and weights of the
scales. A set that the training did not see gets their mean, or a row that is fitted on a few of its
pictures (`ReadoutRows`).

After Kümmerer, Khanuja and Bethge, "Modeling saliency dataset bias" (arXiv 2505.10169), and
Kümmerer, Wallis and Bethge, "DeepGaze II" (arXiv 1610.01563).
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from salience.measures.adaptation import SetNumbers
from salience.networks import backbone
from salience.networks.backbone_table import BACKBONES
from salience.networks.settings import MEAN, NetworkSettings, row_of
from salience.networks.trunks.resampling import Resampled, sampling
from salience.system.errors import UserError

GRID = 8  # rows and columns of a cell of the output, pixels of the input
EPSILON = 1e-7  # least maximum of a map
LEAST_OVERLAP = 0.05  # of a cell with the picture, along an axis
FAR = -1e9  # logit of a cell outside the picture
ALL = "all"  # the rows of all data sets, each with an output channel of its own


class Number(NamedTuple):
    """A number of a data set: its value as a function of a trained coordinate, and its start.

    Attributes:
        start: value at coordinate 0.
        kind: "exp", start * exp(coordinate); "share", a logistic function; "sum", start + unit *
            coordinate.
        unit: step of a "sum".
    """

    start: float
    kind: str
    unit: float = 1.0

    def value(self, coordinate):
        """Return the value at a coordinate, a tensor."""
        if self.kind == "exp":
            return self.start * ops.exp(coordinate)
        if self.kind == "share":
            return ops.sigmoid(coordinate + math.log(self.start / (1 - self.start)))
        return self.start + self.unit * coordinate

    def coordinate(self, value: float) -> float:
        """Return the coordinate of a value.

        Raises:
            ValueError: no coordinate has this value.

        >>> round(Number(0.5, "exp").coordinate(0.5 * math.e), 6)
        1.0
        """
        if self.kind == "exp":
            return math.log(value / self.start)
        if self.kind == "share":
            if value >= 1:
                raise ValueError(value)
            return math.log(value / (1 - value)) - math.log(self.start / (1 - self.start))
        return (value - self.start) / self.unit


# The numbers of a data set. Positions and widths are shares of the picture's width and height; the
# blur is in diagonals of the picture, as in `adaptation.py`. Weights of the scales follow.
NUMBERS = {
    "contrast": Number(1.0, "exp"),
    "blur": Number(0.012, "exp"),
    "centre_power": Number(0.5, "sum"),
    "centre_x": Number(0.5, "sum", 0.1),
    "centre_y": Number(0.5, "sum", 0.1),
    "centre_width": Number(0.25, "exp"),
    "centre_height": Number(0.25, "exp"),
    "first_share": Number(0.02, "share"),
    "first_width": Number(0.05, "exp"),
    "uniform_share": Number(0.02, "share"),
}
SCALE_WEIGHT = Number(1.0, "exp")
PACE = 3.0  # coordinates move this many times faster than other weights, by the same optimiser
# ordinary difference of two data sets by kind of a number, in what `Number.value` takes
STEPS = {"exp": 0.5, "share": 1.5, "sum": 0.5}
CHUNK = 8  # pictures whose densities are computed at once
Row = str | int | tuple[float, ...]  # MEAN, ALL, the index of a data set, or a row of coordinates


def number_names(scales: int) -> list[str]:
    """Return the names of a row's numbers, for a number of scales.

    >>> number_names(2)[-2:]
    ['scale_1', 'scale_2']
    """
    return [*NUMBERS, *(f"scale_{i + 1}" for i in range(scales))]


def build(settings: NetworkSettings) -> keras.Model:
    """Return the network with random weights; it uses the mean of the data sets' numbers.

    Input [b, rows, cols, 3], BGR, 0 to 255. Output [b, rows/8, cols/8, 1], a density of sum 1 over
    the cells inside the picture.

    Args:
        settings: reads model, rows, cols, backbone, width, freeze_backbone, fixed_blocks, scales,
            readout, dropout, dataset and seed.

    >>> from types import SimpleNamespace
    >>> settings = SimpleNamespace(
    ...     model="multiscale", backbone="vgg16", rows=64, cols=96, width=0.05, dataset=("osie",),
    ...     scales=(1.0, 0.5), readout=(4, 2), freeze_backbone=True, fixed_blocks=0, dropout=0.0,
    ...     seed=0,
    ... )
    >>> build(settings).output_shape
    (None, 8, 12, 1)
    """
    check_scales(settings)
    inputs = keras.Input((settings.rows, settings.cols, 3), name="image")
    trunk, taps = trunk_of(settings, inputs)
    maps = []
    for number, scale in enumerate(settings.scales, 1):
        ends = taps if scale == 1 else scaled(trunk, inputs, scale, number)
        maps.append(read_scale(ends, settings, scale, number))
    extent = Extent(dtype="float32", name="extent")(inputs)
    readout = Readout(
        len(settings.dataset),
        settings.readout[1:],
        len(settings.scales),
        settings.seed,
        dtype="float32",
        name="density",
    )
    return keras.Model(inputs, readout([extent, *maps], row=MEAN), name=settings.model)


def check_scales(settings: NetworkSettings) -> None:
    """Check that the trunk can see the input at every scale.

    Raises:
        UserError: a scale is not from 0 to 1, none is 1, or rows or columns do not fit.
    """
    given = " ".join(f"{scale:g}" for scale in settings.scales)
    if not settings.scales or max(settings.scales) != 1 or min(settings.scales) <= 0:
        raise UserError(
            f"--scales {given}: name shares of the input's size from 0 to 1, with 1 among them."
        )
    if len(set(settings.scales)) < len(settings.scales):
        raise UserError(f"--scales {given}: a scale is named twice.")
    step = BACKBONES[settings.backbone].size_step
    for scale in settings.scales:
        for flag, size in (("rows", settings.rows), ("cols", settings.cols)):
            if size * scale % step:
                raise UserError(
                    f"--{flag} {size} at scale {scale:g} is {size * scale:g} pixels, not a "
                    f"multiple of {step}, which {settings.backbone} needs. Choose another size, or "
                    "other --scales."
                )


def trunk_of(settings: NetworkSettings, inputs) -> tuple[keras.Model, dict[str, Any]]:
    """Return the trunk as a model of its stages, and its stages of the input by layer."""
    ends = backbone.stages_to_read(
        settings.backbone,
        inputs,
        settings.width,
        not settings.freeze_backbone,
        settings.seed,
        settings.fixed_blocks,
    )
    return keras.Model(inputs, ends), ends


def scaled(trunk: keras.Model, inputs, scale: float, number: int) -> dict[str, Any]:
    """Return the stages of a trunk at a smaller scale, by layer; the layers are shared."""
    rows, cols = (
        sampling(length, 1, 0.5, round(length * scale), 1 / scale) for length in inputs.shape[1:3]
    )
    smaller = Resampled(rows, cols, dtype="float32", name=f"picture_{number}")(inputs)
    # not a call of the trunk, which would be a sub-model: layers keep their names and their places
    return trunk._run_through_graph(smaller, operation_fn=lambda operation: operation)


def read_scale(ends: dict[str, Any], settings: NetworkSettings, scale: float, number: int):
    """Return the first 1x1 convolution over the stages of one scale, [b, rows/8, cols/8, width].

    The convolution precedes the resampling to the grid, which is linear, too: the result is the
    same, for a fortieth of the work.
    """
    about = BACKBONES[settings.backbone]
    read = {}
    for place, (layer, end) in enumerate(ends.items()):
        seed = (settings.seed + 100 * number + place) % 2**32
        # each cell's channels have mean 0 and deviation 1, so that all stages have one scale
        x = layers.LayerNormalization(
            epsilon=1e-3, center=False, scale=False, name=f"{layer}_normalised_{number}"
        )(end)
        if settings.dropout:  # of whole channels: neighbouring cells tell the same
            x = layers.SpatialDropout2D(
                settings.dropout,
                seed=seed,
                name=f"{layer}_dropout_{number}",
            )(x)
        read[layer] = layers.Conv2D(
            settings.readout[0],
            1,
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(1.0 / len(ends), seed=seed),
            name=f"{layer}_read_{number}",
        )(x)
    parts = []
    for layer, x in read.items():
        rows, cols = (
            sampling(
                cells,
                # pixels of the input: those of the scaled picture are larger
                about.stride_of(layer, cells, round(length * scale)) / scale,
                about.centre_of(layer),
                length // GRID,
                GRID,
            )
            for cells, length in zip(x.shape[1:3], (settings.rows, settings.cols), strict=True)
        )
        parts.append(Resampled(rows, cols, name=f"{layer}_on_grid_{number}")(x))
    return layers.Add(name=f"features_{number}")(parts) if parts[1:] else parts[0]


@keras.saving.register_keras_serializable(package="saliency")
class Extent(layers.Layer):
    """The part of an input that its picture covers: the bounds of what is not black.

    Input: [b, rows, cols, 3]. Output: [b, 4], top, bottom, left and right, shares of rows and
    columns from 0 to 1. An all-black input is covered.

    >>> x = np.zeros((1, 4, 4, 3), "float32")
    >>> x[:, 1:3] = 9
    >>> np.asarray(Extent()(x)).tolist()
    [[0.25, 0.75, 0.0, 1.0]]
    """

    def call(self, inputs):
        bright = ops.max(inputs, axis=-1)
        found = []
        for axis in (2, 1):
            line = ops.cast(ops.max(bright, axis=axis) > 0, "float32")  # [b, rows] or [b, cols]
            count = line.shape[1]
            places = np.arange(count, dtype="float32")[None]
            # not by argmax, which Keras computes by operations that OpenVINO does not know
            low = ops.min(ops.where(line > 0, places, count), axis=1)
            high = ops.max(ops.where(line > 0, places + 1, 0), axis=1)
            is_black = low >= high
            low, high = ops.where(is_black, 0, low), ops.where(is_black, count, high)
            found += [low / count, high / count]
        return ops.stack(found, axis=1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 4)


@keras.saving.register_keras_serializable(package="saliency")
class Readout(layers.Layer):
    """From features on one grid to a density of fixations, by the numbers of a data set.

    With z the weighted sum of the scales' features after 1x1 convolutions, blurred, and g and f the
    Gaussians of the centre bias and of the first look, the density is (1 - first_share) ((1 -
    uniform_share) softmax(contrast z + centre_power log g) + uniform_share uniform) + first_share
    f, inside the picture.

    Args:
        sets: number of data sets, rows of the table.
        widths: channels of the convolutions after the first one; one more makes one channel.
        scales: number of scales.
        seed: seed of the random weights.

    Input: extent [b, 4] (see `Extent`), and for each scale [b, rows, columns, width]. Output:
    [b, rows, columns, n], with n = 1, or a channel for each data set if `row` is "all".
    """

    def __init__(
        self, sets: int, widths: Sequence[int], scales: int, seed: int = 0, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.sets, self.widths, self.scales, self.seed = sets, tuple(widths), scales, seed

    def build(self, input_shape):
        first = input_shape[1][-1]
        sizes = [first, *self.widths, 1]
        self.shift = self.add_weight(name="shift", shape=(first,), initializer="zeros")
        self.numbers = self.add_weight(
            name="numbers",
            shape=(self.sets, len(number_names(self.scales))),
            initializer="zeros",
        )
        self.kernels, self.gains, self.biases = [], [], []
        for i, (old, new) in enumerate(itertools.pairwise(sizes)):
            self.gains.append(self.add_weight(name=f"gain_{i}", shape=(old,), initializer="ones"))
            self.kernels.append(
                self.add_weight(
                    name=f"kernel_{i}",
                    shape=(old, new),
                    initializer=keras.initializers.GlorotNormal(self.seed + i),
                )
            )
            if new > 1:  # one number more in all logits changes no density
                self.biases.append(
                    self.add_weight(name=f"bias_{i}", shape=(new,), initializer="zeros")
                )

    def call(self, inputs, row: Row = MEAN):
        extent, *maps = (ops.cast(x, "float32") for x in inputs)
        numbers = self.values(row)
        return self.densities(extent, self.logits(maps, numbers), numbers)

    def of_rows(self, inputs, table, distinct, which):
        """Return the densities by rows of one's own, [b, rows, columns, n].

        Args:
            inputs: see above.
            table: rows of coordinates, [n, numbers].
            distinct: those with different weights of the scales, which alone need convolutions.
            which: index in `distinct` of each row, [n].
        """
        extent, *maps = (ops.cast(x, "float32") for x in inputs)
        logits = ops.take(self.logits(maps, self.values_at(distinct)), which, axis=1)
        return self.densities(extent, logits, self.values_at(table))

    def logits(self, maps, numbers: dict[str, Any]):
        """Return what the convolutions make of the scales' features, [b, n, rows, columns].

        Args:
            maps: features of each scale, [b, rows, columns, width].
            numbers: see `values`; the weights of the scales are used.
        """
        n = numbers["scale_1"].shape[0]
        weighed = [
            x[:, None] * ops.reshape(numbers[f"scale_{i + 1}"], (1, n, 1, 1, 1))
            for i, x in enumerate(maps)
        ]
        x = sum(weighed[1:], weighed[0]) + self.shift  # (b, n, rows, cols, width)
        x = x / len(maps)
        for i, kernel in enumerate(self.kernels):
            x = normalised(x) * self.gains[i]
            if i:
                x = ops.softplus(x)
            x = ops.matmul(x, kernel)
            if i < len(self.biases):
                x = x + self.biases[i]
        return x[..., 0]

    def densities(self, extent, logits, numbers: dict[str, Any]):
        """Return the densities of logits, [b, rows, columns, n].

        Args:
            extent: see `Extent`, [b, 4].
            logits: [b, n, rows, columns].
            numbers: see `values`; all but the weights of the scales are used.
        """
        n = numbers["contrast"].shape[0]
        rows, cols = logits.shape[2:4]
        sigma = numbers["blur"] * math.hypot(rows, cols)  # cells
        logits = ops.einsum(
            "npr,bnrc,nqc->bnpq", blurring(sigma, rows), logits, blurring(sigma, cols)
        )
        down, across = (self.places(extent, i, (rows, cols)[i]) for i in (0, 1))
        logits = ops.reshape(numbers["contrast"], (1, n, 1, 1)) * logits
        centre = gaussian(down, numbers["centre_y"], numbers["centre_height"])[..., None]
        centre = centre + gaussian(across, numbers["centre_x"], numbers["centre_width"])[:, :, None]
        logits = logits + ops.reshape(numbers["centre_power"], (1, n, 1, 1)) * centre
        inside = (within(down)[:, :, None] * within(across)[:, None])[:, None]  # (b, 1, rows, cols)
        own = density(logits, inside)
        half = ops.full((n,), 0.5)
        first = gaussian(down, half, numbers["first_width"])[..., None]
        first = density(first + gaussian(across, half, numbers["first_width"])[:, :, None], inside)
        uniform = inside / ops.sum(inside, axis=(2, 3), keepdims=True)
        first_share, uniform_share = (
            ops.reshape(numbers[name], (1, n, 1, 1)) for name in ("first_share", "uniform_share")
        )
        mixed = (1 - uniform_share) * own + uniform_share * uniform
        mixed = (1 - first_share) * mixed + first_share * first
        return ops.transpose(mixed, (0, 2, 3, 1))

    def values(self, row: Row) -> dict[str, Any]:
        """Return the numbers of the chosen rows, each [n]; n is 1, or all sets."""
        table = ops.convert_to_tensor(self.numbers)
        if isinstance(row, tuple):
            table = ops.convert_to_tensor(np.array([row], "float32"))
        elif row == MEAN:
            table = ops.mean(table, axis=0, keepdims=True)
        elif row != ALL:
            table = table[int(row) : int(row) + 1]
        return self.values_at(table)

    def values_at(self, table) -> dict[str, Any]:
        """Return the numbers of rows of coordinates [n, numbers], each [n]."""
        return {
            name: NUMBERS.get(name, SCALE_WEIGHT).value(PACE * table[:, i])
            for i, name in enumerate(number_names(self.scales))
        }

    def places(self, extent, axis: int, count: int):
        """Return the positions of cells in the picture, [b, count]: 0 to 1 are inside."""
        # slices of length 1: TensorFlow's optimiser of graphs loses the axis of [:, i, None]
        low, high = (extent[:, i : i + 1] for i in (2 * axis, 2 * axis + 1))
        # a tensor: PyTorch subtracts none of its own from NumPy's arrays
        centres = ops.convert_to_tensor(((np.arange(count) + 0.5) / count).astype("float32")[None])
        return (centres - low) / ops.maximum(high - low, 1 / count)

    def compute_output_shape(self, input_shape, row: Row = MEAN):
        return (*input_shape[1][:3], self.sets if row == ALL else 1)

    def compute_output_spec(self, inputs, row: Row = MEAN):
        shape = self.compute_output_shape([x.shape for x in inputs], row)
        return keras.KerasTensor(shape, "float32")

    def get_config(self) -> dict:
        own = {
            "sets": self.sets,
            "widths": list(self.widths),
            "scales": self.scales,
            "seed": self.seed,
        }
        return {**super().get_config(), **own}


def normalised(x):
    """Return channels with mean 0 and standard deviation 1 in each cell."""
    centred = x - ops.mean(x, axis=-1, keepdims=True)
    # a product, since OpenVINO 2026.4 fails to fuse the quotient of five axes
    return centred * ops.rsqrt(ops.mean(ops.square(centred), axis=-1, keepdims=True) + 1e-3)


def blurring(sigma, count: int):
    """Return matrices that blur a row of cells by Gaussians, [n, count, count].

    Args:
        sigma: standard deviations, cells, [n].
        count: number of cells; weights beyond the ends are given to the cells inside.
    """
    places = np.arange(count)
    squares = ops.convert_to_tensor(((places[:, None] - places) ** 2).astype("float32")[None])
    sigma = ops.reshape(sigma, (-1, 1, 1))
    weights = ops.exp(-0.5 * squares / (ops.square(sigma) + 0.01))
    return weights / ops.sum(weights, axis=-1, keepdims=True)


def gaussian(places, middle, width):
    """Return the logarithm of Gaussians, [b, n, count], 0 at the middle.

    Args:
        places: positions, [b, count].
        middle: means, [n].
        width: standard deviations, [n].
    """
    middle, width = (ops.reshape(x, (1, -1, 1)) for x in (middle, width))
    return -0.5 * ops.square((places[:, None] - middle) / width)


def within(places):
    """Return 1 for cells that overlap the picture, else 0, [b, count].

    Fixations at the border fall into cells that the picture covers in part. LEAST_OVERLAP is more
    than what features in half precision round the picture's extent by.

    Args:
        places: positions of the cells' centres, 0 to 1 inside the picture, [b, count].
    """
    if places.shape[1] == 1:
        return ops.ones_like(places)
    reach = (0.5 - LEAST_OVERLAP) * (places[:, 1:2] - places[:, :1])
    return ops.cast(ops.logical_and(places > -reach, places < 1 + reach), "float32")


def density(logits, inside):
    """Return logits [b, n, rows, cols] as densities of sum 1 over the cells inside the picture."""
    logits = ops.where(inside > 0, logits, FAR)
    raised = ops.exp(logits - ops.max(logits, axis=(2, 3), keepdims=True))
    return raised / ops.sum(raised, axis=(2, 3), keepdims=True)


def readout_of(model: keras.Model) -> tuple[Readout, Any]:
    """Return the read-out of a network, and what it is given: the extent and the scales' maps."""
    layer: Any = model.get_layer("density")
    return layer, layer._inbound_nodes[0].arguments.args[0]


def with_row(model: keras.Model, row: Row) -> keras.Model:
    """Return a network of the same layers that uses other rows of the table of numbers.

    Args:
        model: from `build`.
        row: see `Row`; "all" gives an output channel for each data set.
    """
    layer, given = readout_of(model)
    return keras.Model(model.input, layer(given, row=row), name=model.name)


def with_set(
    model: keras.Model, sets: Sequence[str], of_set: str | SetNumbers | None
) -> keras.Model:
    """Return a network of the same layers that uses the numbers of a data set.

    Args:
        model: from `build`.
        sets: data sets of its training, in the order of the table.
        of_set: one of them; None or "mean" for their mean; or numbers that were fitted.

    Raises:
        UserError: the network was not trained on the data set, or the numbers are not its own.
    """
    if isinstance(of_set, SetNumbers):
        return with_row(model, row_at(of_set, readout_of(model)[0].scales))
    row = row_of(sets, of_set)
    return model if row == MEAN else with_row(model, row)


def begin_from(
    model: keras.Model, start: keras.Model, before: Sequence[str], now: Sequence[str]
) -> str:
    """Set the weights of a network to those of one with rows of other data sets; say what is done.

    A data set that both know keeps its row. Another one begins with the mean of all rows.

    Args:
        model: the network that is to be trained.
        start: the network to begin from.
        before: data sets of `start`, in the order of its table.
        now: data sets of `model`.

    Raises:
        UserError: the networks differ in more than their data sets.
    """
    numbers = readout_of(model)[0].numbers
    table = ops.convert_to_numpy(readout_of(start)[0].numbers)
    rows = [table[before.index(name)] if name in before else table.mean(axis=0) for name in now]
    pairs = list(zip(model.weights, start.weights, strict=False))
    fits = len(model.weights) == len(start.weights) and all(
        own is numbers or own.shape == other.shape for own, other in pairs
    )
    if not fits or table.shape[1] != numbers.shape[1]:
        raise UserError(
            "The initial weights have other sizes than this network: give --backbone, --scales and "
            "--readout as in their training."
        )
    for own, other in pairs:
        own.assign(np.stack(rows) if own is numbers else ops.convert_to_numpy(other))
    known = [name for name in now if name in before]
    new = [name for name in now if name not in before]
    told = [f"those of {', '.join(known)} are kept"] if known else []
    told += [f"those of {', '.join(new)} begin as the mean of {', '.join(before)}"] if new else []
    return f"numbers of data sets: {'; '.join(told)}"


def row_at(numbers: SetNumbers, scales: int) -> tuple[float, ...]:
    """Return the coordinates of fitted numbers, a row as those of the table.

    Raises:
        UserError: these are not the names of a row, or a value is out of its range.
    """
    names = number_names(scales)
    if numbers.values.keys() != set(names):
        raise UserError(f"The adaptation's numbers are not {', '.join(names)}.")
    found = []
    for name in names:
        value = numbers.values[name]
        try:
            found.append(NUMBERS.get(name, SCALE_WEIGHT).coordinate(value) / PACE)
        except (ValueError, OverflowError):
            raise UserError(f"The adaptation's {name} is {value:g}, out of its range.") from None
    return tuple(found)


class AtRows(keras.Model):
    """A read-out whose rows are inputs, too: `Readout.of_rows`, compiled by the backend."""

    def __init__(self, layer: Readout) -> None:
        super().__init__()
        self.layer = layer
        self.built = True

    def call(self, inputs):
        *given, table, distinct, which = inputs
        return self.layer.of_rows(given, table, distinct, which)


class ReadoutRows:
    """The rows of numbers that the read-out of a network can have, for a fit (`row_fit.py`).

    Places of the fit are coordinates in units of STEPS.

    Args:
        model: from `build`.
    """

    def __init__(self, model: keras.Model) -> None:
        self.layer, given = readout_of(model)
        self.trunk = keras.Model(model.input, given)
        table = ops.convert_to_numpy(self.layer.numbers).astype(np.float64)
        kinds = [NUMBERS.get(name, SCALE_WEIGHT).kind for name in number_names(self.layer.scales)]
        self.step = np.array([STEPS[kind] / PACE for kind in kinds])  # of coordinates
        self.mean = table.mean(axis=0) / self.step
        self.channels = 4 + sum(x.shape[-1] for x in given[1:])
        self._compiled: dict[tuple[int, ...], AtRows] = {}  # by the numbers of pictures and rows

    def features(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return what the read-out is given of pictures, [b, rows, columns, 4 + scales x width].

        Args:
            batch: pictures, [b, rows, cols, 3]; the first four channels hold their extents.
        """
        extent, *maps = map(np.asarray, self.trunk.predict_on_batch(batch))
        everywhere = np.broadcast_to(extent[:, None, None], (*maps[0].shape[:3], 4))
        return np.concatenate([everywhere, *maps], axis=-1, dtype=np.float32)

    def densities(
        self, features: Sequence[NDArray], places: NDArray
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the densities of each picture by several rows, [n, rows, columns].

        Args:
            features: of each picture, [rows, columns, channels].
            places: [n, numbers].
        """
        table = (np.asarray(places) * self.step).astype(np.float32)
        _, first, which = np.unique(
            table[:, len(NUMBERS) :], axis=0, return_index=True, return_inverse=True
        )
        rows = table, table[first], which.ravel().astype(np.int32)
        for start in range(0, len(features), CHUNK):
            chunk = features[start : start + CHUNK]
            # of one size, or each would be compiled
            missing = 0 if len(features) == 1 else CHUNK - len(chunk)
            given = np.stack([*chunk, *[chunk[-1]] * missing]).astype(np.float32)
            inputs = given[:, 0, 0, :4], *np.split(given[..., 4:], self.layer.scales, axis=-1)
            # a model for each size: TensorFlow's would lose a size that changes
            size = len(given), len(table), len(first)
            if size not in self._compiled:
                self._compiled[size] = AtRows(self.layer)
            made = np.asarray(self._compiled[size].predict_on_batch([*inputs, *rows]))
            yield from np.moveaxis(made[: len(chunk)], -1, 1)

    def numbers(self, place: NDArray) -> SetNumbers:
        """Return the numbers at a place, [numbers]."""
        row = tuple((np.asarray(place) * self.step).tolist())
        return SetNumbers(as_floats(self.layer.values(row)))

    def place(self, numbers: SetNumbers) -> NDArray[np.float64]:
        """Return the place of numbers."""
        return np.array(row_at(numbers, self.layer.scales)) / self.step


def for_training(model: keras.Model, sets: int) -> keras.Model:
    """Return the network whose output has one channel for each data set; see `of_own_set`."""
    return with_row(model, ALL) if sets > 1 else model


def of_own_set(y_true, y_pred):
    """Return each picture's map of its own data set, [b, rows, cols, 1].

    Args:
        y_true: [b, rows, cols, 3]; the last channel holds the index of the data set.
        y_pred: [b, rows, cols, sets].
    """
    sets = y_pred.shape[-1]
    if sets == 1:
        return y_pred
    own = ops.one_hot(ops.cast(y_true[:, 0, 0, 2], "int32"), sets, dtype=y_pred.dtype)
    return ops.sum(y_pred * own[:, None, None], axis=-1, keepdims=True)


def to_unit_range(y_pred):
    """Return each density divided by its own maximum."""
    y_pred = ops.cast(y_pred, "float32")
    return y_pred / ops.maximum(ops.max(y_pred, axis=(1, 2, 3), keepdims=True), EPSILON)


def numbers_of(model: keras.Model, sets: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the numbers of each data set by name, and their mean as "mean".

    Args:
        model: from `build`.
        sets: data sets of its training, in the order of the table.
    """
    layer = readout_of(model)[0]
    rows: dict[str, Row] = {name: i for i, name in enumerate(sets)}
    return {name: as_floats(layer.values(row)) for name, row in {**rows, MEAN: MEAN}.items()}


def as_floats(numbers: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of one row, tensors [1], as floats."""
    return {name: float(ops.convert_to_numpy(x)[0]) for name, x in numbers.items()}


def load_pretrained(model: keras.Model, settings: NetworkSettings) -> Path | None:
    """Load the backbone's ImageNet weights; return their file, or None for a random start.

    Raises:
        UserError: the weights cannot be found or downloaded, or do not fit the backbone.
    """
    return backbone.load_pretrained(
        model, settings.backbone, settings.backbone_weights, settings.weights_dir
    )

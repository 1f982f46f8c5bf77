"""Losses that several systems share, and their weighted sums.

A loss takes the truth [b, rows, cols, 2] (density map with maximum 1, fixation counts) and the
prediction [b, rows, cols, 1] and returns one value a picture [b]; lower is better. All are computed
in float32 and are finite for all-zero maps.
"""

from collections.abc import Callable, Mapping

import keras
from keras import ops

from config import parse_loss

EPSILON = 1e-7  # below a density of one in 4800 cells by three orders of magnitude


def split_truth(y_true):
    """Return the density maps and the fixation counts, each [b, rows, cols], float32."""
    y_true = ops.cast(y_true, "float32")
    return y_true[..., 0], y_true[..., 1]


def as_map(y_pred):
    """Return the prediction as [b, rows, cols], float32."""
    return ops.cast(y_pred, "float32")[..., 0]


def sum_over_map(x):
    """Return the sum of each map, [b, 1, 1]."""
    return ops.sum(x, axis=(1, 2), keepdims=True)


def standardise(x):
    """Return each map minus its mean over its standard deviation; a constant map becomes zeros."""
    centred = x - ops.mean(x, axis=(1, 2), keepdims=True)
    variance = ops.mean(ops.square(centred), axis=(1, 2), keepdims=True)
    # the root of exactly zero has an infinite gradient
    return centred / ops.sqrt(variance + EPSILON**2)


def kld(y_true, y_pred):
    """Return the Kullback-Leibler divergence of the prediction from the density map, nats."""
    density, prediction = split_truth(y_true)[0], as_map(y_pred)
    prediction = ops.relu(prediction)  # some systems end in a linear layer
    p = prediction / (sum_over_map(prediction) + EPSILON)
    q = density / (sum_over_map(density) + EPSILON)
    return ops.sum(q * (ops.log(q + EPSILON) - ops.log(p + EPSILON)), axis=(1, 2))


def cc(y_true, y_pred):
    """Return 1 minus Pearson's correlation of the prediction and the density map."""
    a, b = standardise(as_map(y_pred)), standardise(split_truth(y_true)[0])
    return 1 - ops.mean(a * b, axis=(1, 2))


def nss(y_true, y_pred):
    """Return minus the mean standardised prediction at the fixations."""
    counts = split_truth(y_true)[1]
    total = ops.maximum(ops.sum(counts, axis=(1, 2)), 1.0)
    return -ops.sum(standardise(as_map(y_pred)) * counts, axis=(1, 2)) / total


def mse(y_true, y_pred):
    """Return the mean squared difference of the prediction and the density map."""
    return ops.mean(ops.square(as_map(y_pred) - split_truth(y_true)[0]), axis=(1, 2))


def bce(y_true, y_pred):
    """Return the binary cross-entropy of the prediction, 0 to 1, with the density map."""
    p = ops.clip(as_map(y_pred), EPSILON, 1 - EPSILON)
    y = split_truth(y_true)[0]
    return -ops.mean(y * ops.log(p) + (1 - y) * ops.log(1 - p), axis=(1, 2))


SHARED: dict[str, Callable] = {"kld": kld, "cc": cc, "nss": nss, "mse": mse, "bce": bce}
NEED_UNIT_RANGE = {"mse", "bce"}


def combine(
    text: str, own: Mapping[str, Callable], to_unit_range: Callable = lambda y_pred: y_pred
) -> Callable:
    """Return the loss that a text such as `kld+0.5*nss` describes.

    Args:
        text: weighted sum of names of SHARED and of `own`.
        own: losses that belong to one system.
        to_unit_range: brings that system's output into 0 to 1, for the losses that need it.

    >>> combine("kld", {}) is not None
    True
    """
    table = {**SHARED, **own}
    terms = [(weight, name, table[name]) for weight, name in parse_loss(text)]

    def loss(y_true, y_pred):
        total = 0.0
        for weight, name, function in terms:
            scaled = to_unit_range(y_pred) if name in NEED_UNIT_RANGE else y_pred
            total = total + weight * function(y_true, scaled)
        return total

    return loss


@keras.saving.register_keras_serializable(package="saliency")
def zero_maps(y_true, y_pred):
    """Return 1 for each map that is zero everywhere, else 0; a dying network's first sign."""
    return ops.cast(ops.max(as_map(y_pred), axis=(1, 2)) <= 0, "float32")

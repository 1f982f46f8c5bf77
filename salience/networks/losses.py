"""Losses that several systems share, and their weighted sums.

A loss takes the truth [b, rows, cols, 2] (density map with maximum 1, fixation counts) and the
prediction [b, rows, cols, 1]. It returns one value a picture, [b]; lower is better. Losses are
computed in float32 and are finite for all-zero maps.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
from keras import ops

EPSILON = 1e-7  # three orders of magnitude below a uniform density over 4800 cells
LEAST_DENSITY = 1e-20  # of a cell: costs 66 bits
SSIM_SIGMA = 1.5  # cells (Wang et al., IEEE TIP 2004)
SSIM_REACH = 5  # cells on each side: scikit-image truncates the Gaussian at 3.5 sigma
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # for maps from 0 to 1


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
    """Return each map with mean 0 and standard deviation 1; a constant map becomes zeros."""
    centred = x - ops.mean(x, axis=(1, 2), keepdims=True)
    variance = ops.mean(ops.square(centred), axis=(1, 2), keepdims=True)
    # the square root has an infinite gradient at zero
    return centred / ops.sqrt(variance + EPSILON**2)


def kld(y_true, y_pred):
    """Return the Kullback-Leibler divergence of the prediction from the density map, in nats.

    Args:
        y_true: see above.
        y_pred: see above; negative values count as 0.

    Returns:
        [b], 0 or more; 0 is best.
    """
    density, prediction = split_truth(y_true)[0], as_map(y_pred)
    prediction = ops.relu(prediction)  # some systems end in a linear layer
    p = prediction / (sum_over_map(prediction) + EPSILON)
    q = density / (sum_over_map(density) + EPSILON)
    return ops.sum(q * (ops.log(q + EPSILON) - ops.log(p + EPSILON)), axis=(1, 2))


def cc(y_true, y_pred):
    """Return 1 - Pearson's correlation of prediction and density map: 0 is best, 1 is chance."""
    a, b = standardise(as_map(y_pred)), standardise(split_truth(y_true)[0])
    return 1 - ops.mean(a * b, axis=(1, 2))


def nss(y_true, y_pred):
    """Return the negative mean of the standardised prediction at the fixations; 0 is chance."""
    counts = split_truth(y_true)[1]
    total = ops.maximum(ops.sum(counts, axis=(1, 2)), 1.0)
    return -ops.sum(standardise(as_map(y_pred)) * counts, axis=(1, 2)) / total


def nll(y_true, y_pred):
    """Return the negative log-likelihood of the fixations, in bits a fixation above uniform.

    Args:
        y_true: see above; the counts of fixations are used.
        y_pred: see above; a density, or a map that is scaled to sum 1; negative values count as 0.

    Returns:
        [b]; lower is better, 0 is chance: minus the information gain over a uniform density.

    Source: Kuemmerer et al., PNAS 2015.
    """
    counts, prediction = split_truth(y_true)[1], ops.relu(as_map(y_pred))
    p = prediction / (sum_over_map(prediction) + LEAST_DENSITY)
    cells = p.shape[1] * p.shape[2]
    total = ops.maximum(ops.sum(counts, axis=(1, 2)), 1.0)
    nats = ops.log(ops.maximum(p, LEAST_DENSITY)) + math.log(cells)
    return -ops.sum(counts * nats, axis=(1, 2)) / total / math.log(2)


def mse(y_true, y_pred):
    """Return the mean squared difference of prediction and density map; 0 is best."""
    return ops.mean(ops.square(as_map(y_pred) - split_truth(y_true)[0]), axis=(1, 2))


def bce(y_true, y_pred):
    """Return the binary cross-entropy of the prediction, 0 to 1, with the density map."""
    p = ops.clip(as_map(y_pred), EPSILON, 1 - EPSILON)
    y = split_truth(y_true)[0]
    return -ops.mean(y * ops.log(p) + (1 - y) * ops.log(1 - p), axis=(1, 2))


@keras.saving.register_keras_serializable(package="saliency")
def ssim(y_true, y_pred):
    """Return the mean structural similarity of prediction and density map; 1 is best.

    Args:
        y_true: see above.
        y_pred: 0 to 1, as the density map; 11 or more rows and columns.

    Source: Wang et al., IEEE TIP 2004, with the Gaussian window at all positions where it fits. It
    equals scikit-image's `structural_similarity(gaussian_weights=True,
    use_sample_covariance=False)`.
    """
    # centred about 0.5: variances stay the same, and their squares lose fewer digits
    a, b = as_map(y_pred) - 0.5, split_truth(y_true)[0] - 0.5
    windowed = _windowed(ops.concatenate([a, b, a * a, b * b, a * b]))
    mean_a, mean_b, square_a, square_b, product = ops.split(windowed, 5)
    variances = square_a - ops.square(mean_a) + square_b - ops.square(mean_b)
    covariance = product - mean_a * mean_b
    mean_a, mean_b = mean_a + 0.5, mean_b + 0.5
    luminance = (2 * mean_a * mean_b + SSIM_C1) / (
        ops.square(mean_a) + ops.square(mean_b) + SSIM_C1
    )
    return ops.mean(luminance * (2 * covariance + SSIM_C2) / (variances + SSIM_C2), axis=(1, 2))


def _windowed(maps):
    """Return Gaussian-weighted averages of maps [n, rows, cols], where the window fits."""
    offsets = np.arange(-SSIM_REACH, SSIM_REACH + 1)
    window = np.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    window = (window / window.sum()).astype("float32")
    x = ops.conv(maps[..., None], window.reshape(-1, 1, 1, 1), padding="valid")
    return ops.conv(x, window.reshape(1, -1, 1, 1), padding="valid")[..., 0]


SHARED_LOSSES: dict[str, Callable] = {
    "kld": kld,
    "cc": cc,
    "nss": nss,
    "nll": nll,
    "mse": mse,
    "bce": bce,
}
NEED_UNIT_RANGE = {"mse", "bce"}


def combine(
    terms: Sequence[tuple[float, str]],
    own: Mapping[str, Callable],
    to_unit_range: Callable = lambda y_pred: y_pred,
) -> Callable:
    """Return the weighted sum of losses.

    Args:
        terms: (weight, name) of each loss; names are keys of SHARED_LOSSES or of `own`.
        own: losses of one system.
        to_unit_range: function that maps the system's output to 0 to 1, for `mse` and `bce`.

    >>> combine([(1.0, "kld"), (0.5, "nss")], {}) is not None
    True
    """
    table = {**SHARED_LOSSES, **own}
    summed = [(weight, name, table[name]) for weight, name in terms]

    def loss(y_true, y_pred):
        total = 0.0
        for weight, name, function in summed:
            scaled = to_unit_range(y_pred) if name in NEED_UNIT_RANGE else y_pred
            total = total + weight * function(y_true, scaled)
        return total

    return loss


@keras.saving.register_keras_serializable(package="saliency")
def zero_maps(y_true, y_pred):
    """Return 1 for each all-zero map, else 0; many of them mean that the last ReLU has died."""
    return ops.cast(ops.max(as_map(y_pred), axis=(1, 2)) <= 0, "float32")

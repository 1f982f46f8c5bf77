"""The maps that score best under a density, one for each metric.

A density says where people look, and it implies for each metric the map with the highest expected
score. Scored so, a model is compared by its density, and not by the metric that its map was made
for. After Kümmerer, Wallis and Bethge, "Saliency benchmarking made easy: separating models, maps
and metrics" (ECCV 2018).
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from salience.measures.metrics import as_distribution
from salience.measures.references import Scores, Truth
from salience.pictures.fixations import blurred

AS_IT_IS = ("nss", "auc_judd", "auc_borji", "ig", "ll")  # metrics for which the density is best
SIMULATED = 400  # sets of fixations that are drawn for SIM
CELLS_A_SIGMA = 3  # of the grid for SIM; the blurred maps have no finer detail


def optimal_scores(truth: Truth, density: NDArray, fixations: int) -> Scores:
    """Return each metric of the map that is best for it under a density.

    EMD, SSIM and MSE are NaN, since their best maps are not known.

    Args:
        truth: the ground truth of the picture, with its metrics.
        density: [rows, columns], of the picture's shape, 0 or more, sum 1.
        fixations: number of fixations of a picture, for the simulation of SIM.
    """
    scores = dict.fromkeys(truth.names, float("nan"))

    def add(names: Sequence[str], saliency_map: NDArray) -> None:
        scores.update(dataclasses.replace(truth, names=tuple(names)).score(saliency_map))

    asked = set(truth.names)
    add([name for name in AS_IT_IS if name in asked], density)
    if "sauc" in asked and truth.baseline is not None:
        add(["sauc"], best_for_sauc(density, truth.baseline))
    if names := [name for name in ("cc", "kld") if name in asked]:
        add(names, best_for_cc_and_kld(density, truth.sigma_pixels))
    if "sim" in asked:
        add(["sim"], best_for_sim(density, truth.sigma_pixels, fixations, truth.seed))
    return scores


def best_for_sauc(density: NDArray, centre_bias: NDArray) -> NDArray[np.float64]:
    """Return the density over that of the negatives: the likelihood ratio has the highest AUC.

    Args:
        density: [rows, columns], sum 1.
        centre_bias: [rows, columns], density of the other pictures' fixations, sum 1.

    >>> best_for_sauc(np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])).round(4).tolist()
    [[2.0, 0.6667]]
    """
    return np.asarray(density, np.float64) / np.maximum(centre_bias, np.finfo(np.float64).tiny)


def best_for_cc_and_kld(density: NDArray, sigma_pixels: float) -> NDArray[np.float64]:
    """Return the expected density map: the density blurred as fixations are, scaled to sum 1.

    KLD's best map is the expectation of the density maps. CC's is that of the standardised ones,
    which differs little for many fixations.

    Args:
        density: [rows, columns], sum 1.
        sigma_pixels: standard deviation of the density maps' Gaussian, pixels.
    """
    return as_distribution(blurred(density, sigma_pixels))


def best_for_sim(
    density: NDArray,
    sigma_pixels: float,
    fixations: int,
    seed: int | Sequence[int] = 0,
    simulated: int = SIMULATED,
) -> NDArray[np.float64]:
    """Return the map with the highest mean SIM with density maps of simulated fixations, sum 1.

    The mean of the sum of min(s, t), with sum s = 1, is highest where the share of the density maps
    t above s is the same at each pixel. So s is one quantile of t at each pixel, and the share is
    found by bisection. The grid has CELLS_A_SIGMA cells for each standard deviation.

    Args:
        density: [rows, columns], sum 1.
        sigma_pixels: standard deviation of the density maps' Gaussian, pixels.
        fixations: number of fixations in each set.
        seed: seed of the simulation.
        simulated: number of sets.
    """
    rows, columns = density.shape
    step = max(1.0, sigma_pixels / CELLS_A_SIGMA)
    low = (max(1, round(rows / step)), max(1, round(columns / step)))
    small = density
    if low != density.shape:
        small = cv2.resize(np.asarray(density, np.float32), low[::-1], interpolation=cv2.INTER_AREA)
    truths = simulated_truths(
        as_distribution(small), sigma_pixels * low[1] / columns, fixations, simulated, seed
    )
    best = highest_mean_overlap(truths.reshape(simulated, -1)).reshape(low)
    if low != density.shape:
        best = cv2.resize(best, (columns, rows), interpolation=cv2.INTER_CUBIC)
    return as_distribution(np.maximum(best, 0))


def simulated_truths(
    density: NDArray,
    sigma_pixels: float,
    fixations: int,
    simulated: int,
    seed: int | Sequence[int] = 0,
) -> NDArray[np.float32]:
    """Return density maps of fixations that are drawn from a density, [n, rows, columns], sum 1.

    Args:
        density: [rows, columns], sum 1.
        sigma_pixels: standard deviation of the Gaussian, pixels.
        fixations: number of fixations in each map.
        simulated: number of maps.
        seed: seed of the draws.
    """
    rng = np.random.default_rng(seed)
    ends = np.cumsum(density.ravel())
    found = np.empty((simulated, *density.shape), np.float32)
    for i in range(simulated):
        drawn = np.searchsorted(ends, rng.random(max(1, fixations)) * ends[-1], side="right")
        counts = np.bincount(np.minimum(drawn, density.size - 1), minlength=density.size)
        found[i] = as_distribution(blurred(counts.reshape(density.shape), sigma_pixels))
    return found


def highest_mean_overlap(truths: NDArray) -> NDArray[np.float64]:
    """Return the values s, 0 or more with sum 1, with the highest mean of sum min(s, t) over t.

    Args:
        truths: [n, values], 0 or more, each of sum 1.

    >>> highest_mean_overlap(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])).tolist()
    [1.0, 0.0]
    """
    ordered = np.sort(truths, axis=0)
    last = len(ordered) - 1

    def at(level: float) -> NDArray[np.float64]:
        place = level * last
        lower = min(int(place), max(last - 1, 0))
        share = place - lower
        upper = ordered[min(lower + 1, last)]
        return (1 - share) * ordered[lower].astype(np.float64) + share * upper

    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle).sum() < 1 else (low, middle)
    found = at(high)
    return found / found.sum()

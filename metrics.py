"""How well a saliency map tells where people looked: one pure function a metric, then METRICS.

NumPy only. Every function takes the saliency map at the original picture's size and either the
fixations (location-based metrics) or the density map (distribution-based ones). Definitions follow
Bylinskii et al., "What do different evaluation metrics tell us about saliency models?", TPAMI 2019.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fixations import pixels

EPSILON = 2.2204e-16  # the MATLAB eps that the MIT benchmark's KLD adds


def nss(saliency_map: NDArray, fixations: NDArray) -> float:
    """Return the mean standardised saliency at the fixations (normalised scanpath saliency).

    Every fixation counts, also two at one pixel.

    Args:
        saliency_map: [rows, columns].
        fixations: [n, 2], (x, y), pixels of the map.

    Returns:
        Standard deviations above the map's mean; 0 is chance, and what a constant map gets. NaN
        without fixations inside the map.

    Source: Peters et al., Vision Research 2005.

    >>> round(nss(np.array([[0.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 1.0]])), 4)
    1.7321
    """
    cells = pixels(fixations, saliency_map.shape)  # type: ignore[arg-type]
    if not len(cells):
        return float("nan")
    saliency = np.asarray(saliency_map, np.float64)
    spread = saliency.std()
    if spread == 0:
        return 0.0
    return float((saliency[cells[:, 0], cells[:, 1]].mean() - saliency.mean()) / spread)


def auc_judd(saliency_map: NDArray, fixations: NDArray) -> float:
    """Return the area under the ROC curve of fixated against unfixated pixels.

    Exact, by ranks: the share of (fixation, unfixated pixel) pairs in which the fixation has the
    higher saliency, ties counted half. Every fixation counts, also two at one pixel.

    Args:
        saliency_map: [rows, columns].
        fixations: [n, 2], (x, y), pixels of the map.

    Returns:
        0 to 1; 0.5 is chance, and what a constant map gets. NaN without fixations inside the map,
        or without an unfixated pixel.

    Source: Judd et al., ICCV 2009, with the negatives of Bylinskii et al. and no jitter.

    >>> auc_judd(np.array([[0.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 1.0]]))
    1.0
    """
    cells = pixels(fixations, saliency_map.shape)  # type: ignore[arg-type]
    fixated = np.zeros(saliency_map.shape, bool)
    fixated[cells[:, 0], cells[:, 1]] = True
    negatives = saliency_map[~fixated]
    if not len(cells) or not len(negatives):
        return float("nan")
    positives = np.sort(saliency_map[cells[:, 0], cells[:, 1]])
    # placing each of the many negatives among the few positives needs no sort of the map
    above = len(positives) - np.searchsorted(positives, negatives, side="right")
    ties = len(positives) - np.searchsorted(positives, negatives, side="left") - above
    return float((above.sum() + 0.5 * ties.sum()) / (len(positives) * len(negatives)))


def cc(saliency_map: NDArray, density_map: NDArray) -> float:
    """Return Pearson's linear correlation of the two maps.

    Returns:
        -1 to 1; 0 is chance, and what a constant saliency map gets, so that a dead network is not
        left out of a mean. NaN where the density map is constant: there is no truth.

    >>> cc(np.array([[0.0, 1.0]]), np.array([[3.0, 5.0]]))
    1.0
    """
    a = np.asarray(saliency_map, np.float64) - np.mean(saliency_map, dtype=np.float64)
    b = np.asarray(density_map, np.float64) - np.mean(density_map, dtype=np.float64)
    if not b.any():
        return float("nan")
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / scale) if scale > 0 else 0.0


def as_distribution(saliency_map: NDArray) -> NDArray[np.float64]:
    """Return the map scaled to a sum of 1; an all-zero map becomes uniform."""
    values = np.asarray(saliency_map, np.float64)
    total = values.sum()
    return values / total if total > 0 else np.full(values.shape, 1 / values.size)


def sim(saliency_map: NDArray, density_map: NDArray) -> float:
    """Return how much of the two distributions overlaps (histogram intersection).

    Both maps are scaled to a sum of 1, without a min-max step before. Negative values are an error.

    Returns:
        0 to 1, where 1 means equal.

    >>> sim(np.array([[1.0, 1.0]]), np.array([[0.0, 1.0]]))
    0.5
    """
    return float(np.minimum(as_distribution(saliency_map), as_distribution(density_map)).sum())


def kld(saliency_map: NDArray, density_map: NDArray) -> float:
    """Return the Kullback-Leibler divergence of the saliency map from the density map.

    Returns:
        Nats, 0 or more, where 0 means equal; zeros of the saliency map where people looked cost
        up to 36 nats each, by the eps of the MIT benchmark.

    >>> abs(kld(np.array([[1.0, 3.0]]), np.array([[1.0, 3.0]]))) < 1e-12
    True
    """
    p, q = as_distribution(saliency_map), as_distribution(density_map)
    return float((q * np.log(EPSILON + q / (p + EPSILON))).sum()) + 0.0


@dataclass(frozen=True)
class Metric:
    """A row of METRICS: the field's name, the function, what it needs, which way is better."""

    name: str
    function: Callable[[NDArray, NDArray], float]
    truth: str  # "fixations" or "density_map"
    higher_is_better: bool = True


METRICS = {
    "cc": Metric("CC", cc, "density_map"),
    "nss": Metric("NSS", nss, "fixations"),
    "auc_judd": Metric("AUC-Judd", auc_judd, "fixations"),
    "sim": Metric("SIM", sim, "density_map"),
    "kld": Metric("KLD", kld, "density_map", higher_is_better=False),
}


def score(
    saliency_map: NDArray,
    density_map: NDArray | None,
    fixations: NDArray | None,
    names: tuple[str, ...] = tuple(METRICS),
) -> dict[str, float]:
    """Return the named metrics of one saliency map; NaN where the truth that one needs is absent.

    Args:
        saliency_map: [rows, columns], at the original picture's size.
        density_map: [rows, columns] or None.
        fixations: [n, 2], (x, y), pixels, or None.
        names: keys of METRICS.
    """
    truths = {"density_map": density_map, "fixations": fixations}
    return {
        name: float("nan")
        if (truth := truths[METRICS[name].truth]) is None
        else METRICS[name].function(saliency_map, truth)
        for name in names
    }


def mean_scores(
    rows: list[dict[str, float]], names: tuple[str, ...] = tuple(METRICS)
) -> dict[str, float]:
    """Return the mean of each named metric over the pictures that have it; NaN where none has.

    >>> mean_scores([{"cc": 0.5}, {"cc": float("nan")}], ("cc",))
    {'cc': 0.5}
    """
    means = {}
    for name in names:
        values = [row[name] for row in rows if not np.isnan(row[name])]
        means[name] = float(np.mean(values)) if values else float("nan")
    return means

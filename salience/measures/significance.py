"""How sure a mean or a difference is: bootstrap intervals, permutation tests, their correction.

SciPy does the resampling. The unit is the picture: what is resampled, and what signs are flipped
of, is one value a picture. NaN marks a picture that has no value, and is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

RESAMPLES = 9999
CONFIDENCE = 0.95
AT_ONCE = 10_000_000  # values held in memory while resampling


@dataclass(frozen=True)
class Interval:
    """A mean over pictures and its bootstrap interval; `pictures` is how many had a value."""

    mean: float
    low: float
    high: float
    pictures: int


def mean_interval(values: ArrayLike, seed: int = 0, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of a value per picture with its bootstrap interval.

    Bias-corrected and accelerated (Efron, JASA 1987), 9999 resamples of the pictures. Fewer than
    two pictures have no interval (NaN); where all are equal it has no width.

    Args:
        values: [pictures]; NaN is left out.
        seed: of the resampling.
        confidence: between 0 and 1.

    >>> mean_interval([1.0, 1.0, float("nan")])
    Interval(mean=1.0, low=1.0, high=1.0, pictures=2)
    """
    kept = _kept(values)
    mean = float(kept.mean()) if kept.size else float("nan")
    if kept.size < 2:
        return Interval(mean, float("nan"), float("nan"), kept.size)
    if np.ptp(kept) <= 1e-12 * max(1.0, abs(mean)):  # the acceleration would be 0 / 0
        return Interval(mean, mean, mean, kept.size)
    found = stats.bootstrap(
        (kept,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=_batch(kept.size),
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high), kept.size)


def sign_flip_p(differences: ArrayLike, seed: int = 0) -> float:
    """Return the two-sided p value of a paired permutation test of a mean difference of 0.

    Under the hypothesis that the two arms are exchangeable, each picture's difference could as
    well have the other sign; p is the share of sign flips whose mean is at least as far from 0.
    Exact up to 13 pictures, else from 9999 random flips, so that it is never below 2e-4.

    Args:
        differences: [pictures]; NaN is left out.
        seed: of the random flips.

    Returns:
        0 to 1; NaN for fewer than two pictures, 1 where no picture differs.

    >>> sign_flip_p([1.0, 2.0, 3.0])
    0.25
    """
    kept = _kept(differences)
    if kept.size < 2:
        return float("nan")
    if not kept.any():
        return 1.0
    found = stats.permutation_test(
        (kept,),
        np.mean,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        batch=_batch(kept.size),
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p values corrected for being several, so that any below 0.05 errs in 5 % at most.

    Holm's step-down form of Bonferroni (Scandinavian Journal of Statistics, 1979), which holds
    however the metrics depend on each other. NaN stays NaN and is not counted.

    >>> holm({"cc": 0.01, "nss": 0.04, "sim": 0.03})
    {'cc': 0.03, 'nss': 0.06, 'sim': 0.06}
    """
    known = sorted((p, name) for name, p in p_values.items() if not np.isnan(p))
    corrected = dict(p_values)
    highest = 0.0
    for rank, (p, name) in enumerate(known):
        # a larger p value never becomes the smaller one
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        corrected[name] = highest
    return corrected


@dataclass(frozen=True)
class Difference:
    """What changes from arm `a` to arm `b` in one metric, paired by picture.

    Attributes:
        difference: mean of b - a, in the metric's unit.
        low, high: its bootstrap interval.
        p: of the permutation test; `p_corrected` is set once all metrics' are known.
        improved: share of pictures in which b is better; equal ones count half.
        pictures: how many have a value of both.
    """

    difference: float
    low: float
    high: float
    p: float
    p_corrected: float
    improved: float
    pictures: int


def compare_metrics(
    a: Mapping[str, ArrayLike],
    b: Mapping[str, ArrayLike],
    higher_is_better: Mapping[str, bool],
    seed: int = 0,
) -> dict[str, Difference]:
    """Return the paired difference of two arms in each metric, p values corrected over metrics.

    Args:
        a: [pictures] of each metric, one arm.
        b: the same pictures in the same order, the other arm.
        higher_is_better: of each metric.
        seed: of the resampling.
    """
    differences = {name: np.asarray(b[name], float) - np.asarray(a[name], float) for name in a}
    p_values = {name: sign_flip_p(d, seed) for name, d in differences.items()}
    corrected = holm(p_values)
    result = {}
    for name, values in differences.items():
        interval, kept = mean_interval(values, seed), _kept(values)
        gains = kept if higher_is_better[name] else -kept
        result[name] = Difference(
            interval.mean,
            interval.low,
            interval.high,
            p_values[name],
            corrected[name],
            float(np.mean((gains > 0) + 0.5 * (gains == 0))) if kept.size else float("nan"),
            interval.pictures,
        )
    return result


def _kept(values: ArrayLike) -> NDArray[np.float64]:
    """Return the values that are not NaN."""
    array = np.asarray(values, np.float64)
    return array[~np.isnan(array)]


def _batch(count: int) -> int:
    """Return how many resamples of `count` values are held at once."""
    return max(1, min(RESAMPLES, AT_ONCE // count))

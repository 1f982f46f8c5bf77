"""Statistics over pictures: bootstrap intervals, paired permutation tests, Holm's correction.

SciPy does the resampling. The unit of resampling is the picture, with one value each. NaN marks a
picture without a value, which is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

RESAMPLES = 9999
CONFIDENCE = 0.95
MOST_VALUES = 10_000_000  # values in memory during resampling


@dataclass(frozen=True)
class Interval:
    """A mean over pictures with its bootstrap interval, and the number of pictures with a value."""

    mean: float
    low: float
    high: float
    pictures: int


def mean_interval(values: ArrayLike, seed: int = 0, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of one value per picture, with its bootstrap interval.

    The interval is bias-corrected and accelerated, with 9999 resamples of the pictures. It is NaN
    for fewer than two pictures, and has width 0 if all values are equal.

    Args:
        values: [pictures]; NaN is left out.
        seed: seed of the resampling.
        confidence: confidence level, between 0 and 1.

    Source: Efron, "Better bootstrap confidence intervals", JASA 1987.

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

    If the two arms are exchangeable, the sign of each difference is random. The p value is the
    share of sign flips whose mean is at least as far from 0. It is exact for up to 13 pictures; for
    more, it uses 9999 random flips and is never below 2e-4.

    Args:
        differences: [pictures]; NaN is left out.
        seed: seed of the random flips.

    Returns:
        0 to 1; 1 if no picture differs, NaN for fewer than two pictures.

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
    """Return p values corrected for multiple tests by Holm's step-down method.

    The family-wise error rate is controlled for any dependence between the metrics. NaN stays NaN
    and does not count as a test.

    Source: Holm, Scandinavian Journal of Statistics, 1979.

    >>> holm({"cc": 0.01, "nss": 0.04, "sim": 0.03})
    {'cc': 0.03, 'nss': 0.06, 'sim': 0.06}
    """
    known = sorted((p, name) for name, p in p_values.items() if not np.isnan(p))
    corrected = dict(p_values)
    highest = 0.0
    for rank, (p, name) in enumerate(known):
        # corrected values keep the order of the p values
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        corrected[name] = highest
    return corrected


@dataclass(frozen=True)
class Difference:
    """The difference between two arms `a` and `b` in one metric, paired by picture.

    Attributes:
        difference: mean of b - a, in the metric's unit.
        low, high: bootstrap interval of the difference.
        p: p value of the permutation test.
        p_corrected: p value corrected over all metrics.
        improved: share of pictures on which b is better; ties count half.
        pictures: number of pictures with values in both arms.
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
    """Return the paired difference of two arms in each metric, with p values corrected by `holm`.

    Args:
        a: values of one arm by metric, [pictures] each.
        b: values of the other arm, for the same pictures in the same order.
        higher_is_better: whether higher values are better, by metric.
        seed: seed of the resampling.
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
    """Return the number of resamples of `count` values that are in memory at once."""
    return max(1, min(RESAMPLES, MOST_VALUES // count))

"""Saliency metrics: one pure function a metric, then the tables METRICS and PROFILES.

Each function takes the saliency map at the size of the original picture, and either fixations or a
density map. Definitions follow the MIT/Tuebingen benchmark as pysaliency implements it;
`profile="mit"` selects those of the older MIT MATLAB code. docs/METRICS.md lists the differences.
EMD and SSIM import POT and scikit-image when called.

A constant saliency map scores as chance. A map with NaN scores NaN. A map with infinities scores
NaN, too, except in the AUCs that only rank its values.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from salience.pictures.fixations import pixels
from salience.system.errors import UserError, did_you_mean
from salience.system.quiet import variables

Profile = Literal["tuebingen", "mit"]
Seed = int | Sequence[int]

EPSILON = 2.2204e-16  # MATLAB's eps, added in the MIT benchmark's KLD and IG
JITTER = 1e-7  # largest noise with which the MIT benchmark's AUC-Judd breaks ties
SPLITS = 100  # random draws of the MIT benchmark's AUC-Borji and sAUC
THRESHOLDS = np.arange(11) * 0.1  # thresholds of the MIT benchmark's AUC-Borji and sAUC
# number of other pictures whose fixations are sAUC's negatives; None: all
SHUFFLED_PICTURES = {"tuebingen": None, "mit": 10}
CELL_PIXELS = 32  # reduction factor of the MIT benchmark before EMD
SSIM_WINDOW = 11  # pixels: scikit-image truncates a Gaussian of 1.5 pixels at 3.5 sigma
BUCKETS = 1 << 16
# POT imports each tensor library that is installed, unless these variables disable it
POT_WITHOUT_BACKENDS = {
    f"POT_BACKEND_DISABLE_{library}": "1" for library in ("PYTORCH", "JAX", "TENSORFLOW", "CUPY")
}
LARGEST_PEAK = 2.0**50  # its square fits into single precision, in which maps are blurred


def auc_judd(
    saliency_map: NDArray, fixations: NDArray, seed: Seed = 0, profile: Profile = "tuebingen"
) -> float:
    """Return the area under the ROC curve of fixations against all pixels of the picture.

    It is the share of (fixation, pixel) pairs in which the fixation has the higher saliency; ties
    count half. The value is exact, without thresholds. Fixations at one pixel count separately.

    Args:
        saliency_map: [rows, columns].
        fixations: [n, 2], (x, y), pixels of the map.
        seed: seed of the jitter ("mit" only).
        profile: "mit" takes only unfixated pixels as negatives, merges fixations of one pixel,
            scales the map to [0, 1] and adds jitter up to 1e-7 against ties. Its curve passes
            through the saliencies of the fixations only, which adds up to 1 / (2 n).

    Returns:
        0 to 1; 1 is best, 0.5 is chance. A constant map scores 0.5 ("mit": on average). NaN without
        fixations inside the map or, with "mit", without unfixated pixels.

    Source: Judd et al., ICCV 2009; pysaliency's AUC with uniform non-fixations; AUC_Judd.m.

    >>> auc_judd(np.array([[0.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 1.0]]))
    0.875
    """
    if profile == "tuebingen":
        return _area(_at(saliency_map, fixations), saliency_map)
    cells = _cells(saliency_map, fixations, merge=True)
    unfixated = np.ones(saliency_map.size, bool)
    unfixated[cells] = False
    noise = np.random.default_rng(seed).random(saliency_map.size) * JITTER
    jittered = unit_range(saliency_map).ravel() + noise
    return _area_through_positives(jittered[cells], jittered[unfixated])


def auc_borji(
    saliency_map: NDArray, fixations: NDArray, seed: Seed = 0, profile: Profile = "tuebingen"
) -> float:
    """Return the area under the ROC curve of fixations against randomly drawn pixels.

    It is the mean over 100 splits; each draws as many pixels as fixations, with replacement. Splits
    have equal size, so that one computation over all draws gives the mean.

    Args:
        saliency_map: [rows, columns].
        fixations: [n, 2], (x, y), pixels of the map.
        seed: seed of the draws.
        profile: "mit" merges fixations of one pixel, scales the map to [0, 1] and uses thresholds
            in steps of 0.1.

    Returns:
        0 to 1; 1 is best, 0.5 is chance and the score of a constant map. NaN without fixations.

    Source: Borji et al., ICCV 2013; AUC_Borji.m.

    >>> auc_borji(np.eye(2), np.array([[0.0, 0.0], [1.0, 1.0]]), seed=1) > 0.6
    True
    """
    values = (_tenths(saliency_map) if profile == "mit" else np.asarray(saliency_map)).ravel()
    if _has_nan(values):
        return float("nan")
    cells = _cells(saliency_map, fixations, merge=profile == "mit")
    draws = np.random.default_rng(seed).integers(values.size, size=SPLITS * len(cells))
    return _area(values[cells], values[draws])


def sauc(
    saliency_map: NDArray,
    fixations: NDArray,
    others: NDArray,
    seed: Seed = 0,
    samples: int | None = None,
    profile: Profile = "tuebingen",
) -> float:
    """Return the shuffled AUC: fixations against the fixations of other pictures.

    The value is exact, without thresholds; ties count half. A map of the centre bias scores about
    chance.

    Args:
        saliency_map: [rows, columns].
        fixations: [n, 2], (x, y), pixels of the map.
        others: [m, 2], (x, y), the negatives, pixels of the map; see `other_fixations`. They come
            from all other pictures or, with "mit", from ten.
        seed: seed of the draws.
        samples: number of negatives to draw, without replacement; None takes all.
        profile: "mit" merges fixations of one pixel, scales the map to [0, 1] and uses thresholds
            in steps of 0.1. It averages 100 draws of as many negatives as fixations.

    Returns:
        0 to 1; 1 is best, 0.5 is chance and the score of a constant map. NaN without fixations or
        negatives inside the map.

    Source: Tatler et al., Vision Research 2005; pysaliency's sAUC; AUC_shuffled.m.

    >>> sauc(np.eye(2), np.array([[0.0, 0.0]]), np.array([[1.0, 0.0], [1.0, 1.0]]))
    0.75
    """
    values = (_tenths(saliency_map) if profile == "mit" else np.asarray(saliency_map)).ravel()
    if _has_nan(values):
        return float("nan")
    cells = _cells(saliency_map, fixations, merge=profile == "mit")
    negatives = _cells(saliency_map, others, merge=profile == "mit")
    rng = np.random.default_rng(seed)
    if profile == "mit":
        count = min(len(cells), len(negatives))
        draws = [rng.choice(negatives, count, replace=False) for _ in range(SPLITS)]
        negatives = np.concatenate(draws)
    elif samples is not None and samples < len(negatives):
        negatives = rng.choice(negatives, samples, replace=False)
    return _area(values[cells], values[negatives])


def nss(saliency_map: NDArray, fixations: NDArray, profile: Profile = "tuebingen") -> float:
    """Return the normalised scanpath saliency: the mean standardised saliency at the fixations.

    Fixations at one pixel count separately.

    Args:
        saliency_map: [rows, columns].
        fixations: [n, 2], (x, y), pixels of the map.
        profile: "mit" merges fixations of one pixel and divides the variance by pixels - 1.

    Returns:
        Standard deviations above the map's mean; higher is better, 0 is chance and the score of a
        constant map. NaN without fixations inside the map.

    Source: Peters et al., Vision Research 2005.

    >>> round(nss(np.array([[0.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 1.0]])), 4)
    1.7321
    """
    values = _at(in_range(saliency_map), fixations, merge=profile == "mit")
    if not len(values):
        return float("nan")
    centred, mean = _centred(saliency_map)
    spread = np.sqrt(_dot(centred, centred) / (centred.size - (profile == "mit")))
    return 0.0 if spread == 0 else float((np.mean(values, dtype=np.float64) - mean) / spread)


def ig(
    saliency_map: NDArray,
    fixations: NDArray,
    baseline: NDArray,
    profile: Profile = "tuebingen",
) -> float:
    """Return the information gain of the map over a baseline, in bits per fixation.

    It is the mean over fixations of log2(eps + p) - log2(eps + q), where p is the saliency map and
    q the baseline, each scaled to sum 1. A zero at a fixation costs about 33 bits because of eps;
    in pysaliency, which has no eps, the mean becomes minus infinity.

    Args:
        saliency_map: [rows, columns], 0 or more; negative values shift the map to minimum 0.
        fixations: [n, 2], (x, y), pixels of the map.
        baseline: [rows, columns], the density of a centre bias.
        profile: "mit" first scales both maps to [0, 1], and merges fixations of one pixel.

    Returns:
        Bits per fixation; higher is better, 0 equals the baseline. NaN without fixations inside the
        map.

    Source: Kuemmerer et al., PNAS 2015; InfoGain.m.

    >>> round(ig(np.array([[0.0, 0.5, 0.5, 0.0]]), np.array([[1.0, 0.0]]), np.ones((1, 4))), 6)
    1.0
    """
    _check_same_shape(saliency_map, baseline)
    cells = _cells(saliency_map, fixations, merge=profile == "mit")
    if not len(cells):
        return float("nan")
    if profile == "mit":
        saliency_map, baseline = unit_range(saliency_map), unit_range(baseline)
    p, q = (as_distribution(values).ravel()[cells] for values in (saliency_map, baseline))
    return float(np.mean(np.log2(EPSILON + p) - np.log2(EPSILON + q))) + 0.0


def ll(saliency_map: NDArray, fixations: NDArray, profile: Profile = "tuebingen") -> float:
    """Return the log-likelihood of the fixations, in bits per fixation above a uniform density.

    It is the information gain of the map over the uniform density. The IG of two maps is the
    difference of their log-likelihoods.

    Args:
        saliency_map: [rows, columns], 0 or more; negative values shift the map to minimum 0.
        fixations: [n, 2], (x, y), pixels of the map.
        profile: "mit" scales the map to [0, 1] first, and merges fixations of one pixel, as in IG.

    Returns:
        Bits per fixation; higher is better, 0 equals the uniform density. NaN without fixations
        inside the map.

    Source: Kuemmerer et al., PNAS 2015.

    >>> round(ll(np.array([[0.0, 0.5, 0.5, 0.0]]), np.array([[1.0, 0.0]])), 6)
    1.0
    """
    return ig(saliency_map, fixations, np.ones(saliency_map.shape), profile)


def cc(saliency_map: NDArray, density_map: NDArray) -> float:
    """Return Pearson's linear correlation of the two maps.

    Args:
        saliency_map: [rows, columns].
        density_map: [rows, columns].

    Returns:
        -1 to 1; 1 is best, 0 is chance. A constant saliency map scores 0, so that a dead network is
        not left out of a mean. NaN if the density map is constant, which is no truth.

    Source: Bylinskii et al., TPAMI 2019.

    >>> cc(np.array([[0.0, 1.0]]), np.array([[3.0, 5.0]]))
    1.0
    """
    _check_same_shape(saliency_map, density_map)
    (a, _), (b, _) = _centred(saliency_map), _centred(density_map)
    if not b.any():
        return float("nan")
    scale = np.sqrt(_dot(a, a) * _dot(b, b))
    return 0.0 if scale == 0 else float(_dot(a, b) / scale)


def sim(saliency_map: NDArray, density_map: NDArray, profile: Profile = "tuebingen") -> float:
    """Return the histogram intersection of the two maps, each scaled to sum 1.

    Args:
        saliency_map: [rows, columns], 0 or more; negative values shift the map to minimum 0.
        density_map: [rows, columns], as saliency_map.
        profile: "mit" first scales both maps to [0, 1].

    Returns:
        0 to 1; 1 is best. Chance, the score of a constant or all-zero map, depends on the truth.

    Source: Judd et al., 2012; Bylinskii et al., TPAMI 2019; similarity.m.

    >>> sim(np.array([[1.0, 1.0]]), np.array([[0.0, 1.0]]))
    0.5
    """
    _check_same_shape(saliency_map, density_map)
    if profile == "mit":
        saliency_map, density_map = unit_range(saliency_map), unit_range(density_map)
    p, q = as_distribution(saliency_map), as_distribution(density_map)
    return float(np.minimum(p, q, out=p).sum())


def kld(saliency_map: NDArray, density_map: NDArray) -> float:
    """Return the Kullback-Leibler divergence of the saliency map from the density map.

    It is the sum of q log(eps + q / (p + eps)), where p is the saliency map and q the density map,
    each scaled to sum 1.

    Args:
        saliency_map: [rows, columns], 0 or more; negative values shift the map to minimum 0.
        density_map: [rows, columns], as saliency_map.

    Returns:
        Nats, 0 or more; 0 is best. Chance, the score of a constant map, depends on the truth. Zeros
        in the saliency map cost up to 36 nats, because of eps.

    Source: Bylinskii et al., TPAMI 2019; pysaliency's MIT_KLDiv; KLdiv.m.

    >>> round(kld(np.array([[1.0, 1.0]]), np.array([[3.0, 1.0]])), 4)
    0.1308
    """
    _check_same_shape(saliency_map, density_map)
    p, q = as_distribution(saliency_map), as_distribution(density_map)
    p += EPSILON
    ratio = np.divide(q, p, out=p)
    ratio += EPSILON
    return _dot(q, np.log(ratio, out=ratio)) + 0.0


def emd(
    saliency_map: NDArray,
    density_map: NDArray,
    cell_pixels: int = CELL_PIXELS,
    profile: Profile = "tuebingen",
) -> float:
    """Return the earth mover's distance between the two maps, each scaled to sum 1.

    Maps are summed over cells of 32 x 32 pixels, smaller at the right and lower edge; mass moves
    between the centres of cells. The value is exact for these cells. The time grows faster than the
    square of their number.

    Args:
        saliency_map: [rows, columns], 0 or more; negative values shift the map to minimum 0.
        density_map: [rows, columns], as saliency_map.
        cell_pixels: side of a cell, pixels.
        profile: "mit" first matches the histogram of the saliency map's cells to the density map,
            so that only their order counts. The MATLAB code matches in 256 steps and reduces by
            bicubic interpolation, so its values are not reproduced exactly.

    Returns:
        Mean distance that mass moves, in cells, 0 or more; 0 is best.

    Source: Rubner et al., IJCV 2000; EMD.m; solved by POT's network simplex.

    >>> emd(np.array([[1.0, 0.0, 0.0]]), np.array([[0.0, 0.0, 1.0]]), cell_pixels=1)
    2.0
    """
    _check_same_shape(saliency_map, density_map)
    if "ot" not in sys.modules:
        with variables(POT_WITHOUT_BACKENDS):
            import ot  # noqa: F401
    from ot import emd2

    (p, centres), (q, _) = (
        _cell_masses(as_distribution(values), cell_pixels) for values in (saliency_map, density_map)
    )
    if _has_nan(p) or _has_nan(q):
        return float("nan")
    if profile == "mit":
        p = _with_histogram_of(p, q)
    ways = np.linalg.norm(centres[:, None] - centres, axis=-1)
    return float(emd2(p, q, ways, numItermax=10_000_000))  # type: ignore[arg-type]


def ssim(saliency_map: NDArray, density_map: NDArray) -> float:
    """Return the mean structural similarity of the two maps, each scaled to [0, 1].

    Args:
        saliency_map: [rows, columns], 11 or more each.
        density_map: [rows, columns].

    Returns:
        -1 to 1; 1 is best. NaN for maps smaller than the window of 11 x 11 pixels.

    Source: Wang et al., IEEE TIP 2004, with its Gaussian window of 1.5 pixels; scikit-image.

    >>> round(ssim(np.eye(20), np.eye(20)), 6)
    1.0
    """
    from skimage.metrics import structural_similarity

    _check_same_shape(saliency_map, density_map)
    if min(saliency_map.shape) < SSIM_WINDOW:
        return float("nan")
    similarity = structural_similarity(
        unit_range(saliency_map),
        unit_range(density_map),
        data_range=1.0,
        gaussian_weights=True,
        use_sample_covariance=False,
    )
    return float(similarity)  # type: ignore[arg-type]


def mse(saliency_map: NDArray, density_map: NDArray) -> float:
    """Return the mean squared difference of the two maps, each scaled to [0, 1].

    Args:
        saliency_map: [rows, columns].
        density_map: [rows, columns].

    Returns:
        0 to 1; 0 is best. A constant map is scaled to zeros.

    >>> mse(np.array([[0.0, 2.0]]), np.array([[1.0, 0.0]]))
    1.0
    """
    _check_same_shape(saliency_map, density_map)
    difference = unit_range(saliency_map) - unit_range(density_map)
    return _dot(difference, difference) / difference.size


def as_distribution(saliency_map: NDArray) -> NDArray[np.float64]:
    """Return the map scaled to sum 1; an all-zero map becomes uniform, an infinite one NaN.

    If there are negative values, the least value is first subtracted from all.
    """
    values = in_range(saliency_map)
    least = values.min()
    if -np.inf < least < 0:
        values = values - least
    total = values.sum()
    if not np.isfinite(total):
        return np.full(values.shape, np.nan)
    return np.full(values.shape, 1 / values.size) if total == 0 else values / total


def in_range(saliency_map: NDArray) -> NDArray[np.float64]:
    """Return a map in double precision, scaled so that squares neither overflow nor underflow.

    A map whose maximum is far from 1 is divided by a power of two, which rounds nothing; other maps
    are returned unchanged. No metric depends on the scale.

    >>> in_range(np.array([[0.0, 2.0**-600]])).tolist()
    [[0.0, 0.5]]
    """
    values = np.asarray(saliency_map, np.float64)
    peak = np.maximum(values.max(), -values.min())
    if 1 / LARGEST_PEAK <= peak <= LARGEST_PEAK or not peak or not np.isfinite(peak):
        return values
    return np.ldexp(values, -int(np.frexp(peak)[1]))


def unit_range(saliency_map: NDArray) -> NDArray[np.float64]:
    """Return the map scaled linearly to minimum 0 and maximum 1.

    A constant map becomes zeros; a map with NaN or infinities becomes NaN.
    """
    values = in_range(saliency_map)
    least, greatest = values.min(), values.max()
    if not np.isfinite(least) or not np.isfinite(greatest):
        return np.full(values.shape, np.nan)
    values = values - least
    if greatest != least:
        values /= greatest - least
    return values


def from_8bit(stored_map: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return an 8-bit map as floats, plus half a step.

    A stored 0 stands for all values that were rounded to it. Without the half step, KLD and IG
    penalise it as probability zero. Mention this with scores of 8-bit maps. NSS, CC and the AUCs do
    not change.

    >>> from_8bit(np.array([[0, 255]], np.uint8)).tolist()
    [[0.5, 255.5]]
    """
    return np.asarray(stored_map, np.float64) + 0.5


def _check_same_shape(saliency_map: NDArray, truth: NDArray) -> None:
    """Raise ValueError if two maps differ in shape."""
    if saliency_map.shape != truth.shape:
        raise ValueError(
            f"saliency map of {saliency_map.shape[0]} x {saliency_map.shape[1]} (rows x columns) "
            f"but truth of {truth.shape[0]} x {truth.shape[1]}; scores need the original size."
        )


def _has_nan(values: NDArray) -> bool:
    """Return whether any value is NaN, which is equivalent to a maximum of NaN."""
    return bool(np.isnan(np.max(values)))


def _cells(saliency_map: NDArray, fixations: NDArray, merge: bool = False) -> NDArray[np.intp]:
    """Return the flat index of each fixation's pixel; with `merge`, of each fixated pixel once."""
    cells = pixels(fixations, saliency_map.shape)  # type: ignore[arg-type]
    flat = cells[:, 0] * saliency_map.shape[1] + cells[:, 1]
    return np.unique(flat) if merge else flat


def _at(saliency_map: NDArray, fixations: NDArray, merge: bool = False) -> NDArray:
    """Return the saliency at each fixation; with `merge`, at each fixated pixel once."""
    return np.asarray(saliency_map).ravel()[_cells(saliency_map, fixations, merge)]


def _centred(values: NDArray) -> tuple[NDArray[np.float64], float]:
    """Return the values minus their mean, exactly zero if all are equal, and the mean."""
    values = in_range(values)
    first = values.flat[0]
    # the mean of equal values can differ from them by rounding
    constant = first == values.flat[-1] and (values == first).all()
    with np.errstate(invalid="ignore"):  # infinities
        mean = first if constant else values.mean()
        return values - mean, float(mean)


def _dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the sum of products, without BLAS, whose threads cost more time than they save."""
    return float(np.einsum("ij,ij->", a, b))


def _tenths(saliency_map: NDArray) -> NDArray:
    """Return the number of thresholds that each pixel of the scaled map reaches; NaN for a NaN map.

    The ROC curve at these thresholds equals the ranking of these integers.
    """
    scaled = unit_range(saliency_map)
    return scaled if _has_nan(scaled) else np.searchsorted(THRESHOLDS, scaled, side="right")


def _cell_masses(density: NDArray, cell_pixels: int) -> tuple[NDArray, NDArray]:
    """Return the mass of each square cell, [n], and its centre, [n, 2], in units of cells."""
    starts = [np.arange(0, side, cell_pixels) for side in density.shape]
    masses = np.add.reduceat(np.add.reduceat(density, starts[0], axis=0), starts[1], axis=1)
    ends = [np.append(s[1:], side) for s, side in zip(starts, density.shape, strict=True)]
    middles = [(s + e - 1) / 2 / cell_pixels for s, e in zip(starts, ends, strict=True)]
    return masses.ravel(), np.stack(np.meshgrid(*middles, indexing="ij"), axis=-1).reshape(-1, 2)


def _with_histogram_of(values: NDArray, model: NDArray) -> NDArray:
    """Return the values of `model` in the rank order of `values`; tied values get their mean."""
    _, rank, counts = np.unique(values, return_inverse=True, return_counts=True)
    shares = np.add.reduceat(np.sort(model), np.cumsum(counts) - counts) / counts
    return shares[rank]


def _area(positives: NDArray, negatives: NDArray) -> float:
    """Return the share of (positive, negative) pairs in the right order; ties count half."""
    if not len(positives) or not negatives.size:
        return float("nan")
    if _has_nan(negatives) or _has_nan(positives):
        return float("nan")
    below, equal = _count_below_and_equal(positives, negatives)
    return float((below.sum() + 0.5 * equal.sum()) / (len(positives) * negatives.size))


def _area_through_positives(positives: NDArray, negatives: NDArray) -> float:
    """Return the area under the MIT code's ROC curve, whose thresholds are the positives."""
    if not len(positives) or not len(negatives) or _has_nan(positives):
        return float("nan")
    below, _ = _count_below_and_equal(positives, negatives)
    false_alarms = np.sort(1 - below / len(negatives))
    hits = np.arange(1, len(positives) + 1) / len(positives)
    return float(np.trapezoid(np.r_[0, hits, 1], np.r_[0, false_alarms, 1]))


def _count_below_and_equal(points: NDArray, population: NDArray) -> tuple[NDArray, NDArray]:
    """Return for each point the number of population values below it and equal to it.

    The counts are exact. A large population is not sorted but counted in narrow buckets of values;
    only values in the same bucket as a point are compared with the point. Rounding is monotonic, so
    a value in a lower bucket is lower.
    """
    population = population.ravel()
    if population.dtype.itemsize < 4:  # bucket numbers overflow bytes and half floats
        population, points = population.astype(np.float32), points.astype(np.float32)
    below = np.zeros(len(points), np.int64)
    low, high = float(population.min()), float(population.max())
    # no buckets for infinities and for ranges that overflow 32 bits
    limit = float(np.finfo(np.float32).max)
    if len(population) > BUCKETS // 4 and BUCKETS / limit < high - low < limit:
        scale = BUCKETS / (high - low)
        buckets = ((population - low) * scale).astype(np.int32)
        homes = ((points.clip(low, high) - low) * scale).astype(np.int32)
        shared = np.zeros(BUCKETS + 1, bool)
        shared[homes] = True
        counts = np.bincount(buckets, minlength=BUCKETS + 1)
        counts[shared] = 0
        below += np.cumsum(counts)[homes]
        population = population[shared[buckets]]
    population = np.sort(population)
    left = np.searchsorted(population, points, side="left")
    right = np.searchsorted(population, points, side="right")
    return below + left, right - left


@dataclass(frozen=True)
class Metric:
    """A row of METRICS.

    Attributes:
        name: name in publications.
        function: function of the saliency map, and of truth and extras as keywords.
        truth: "fixations" or "density_map".
        higher_is_better: whether higher values are better.
        variant: the definition in a few words, where several are in use.
        extras: further arguments of the function, under the names of `score`'s arguments.
    """

    name: str
    function: Callable[..., float]
    truth: str
    higher_is_better: bool = True
    variant: str = ""
    extras: tuple[str, ...] = ()


METRICS = {
    "cc": Metric("CC", cc, "density_map", variant="Pearson"),
    "nss": Metric("NSS", nss, "fixations", variant="every fixation"),
    "auc_judd": Metric(
        "AUC-Judd", auc_judd, "fixations", variant="plain AUC: all pixels, ties half"
    ),
    "auc_borji": Metric(
        "AUC-Borji", auc_borji, "fixations", variant="100 seeded splits, exact", extras=("seed",)
    ),
    "sauc": Metric(
        "sAUC",
        sauc,
        "fixations",
        variant="all other pictures' fixations, rescaled",
        extras=("others", "seed"),
    ),
    "ig": Metric(
        "IG", ig, "fixations", variant="bits per fixation, from densities", extras=("baseline",)
    ),
    "ll": Metric("LL", ll, "fixations", variant="bits per fixation above uniform"),
    "sim": Metric("SIM", sim, "density_map", variant="no min-max"),
    "kld": Metric(
        "KLD", kld, "density_map", higher_is_better=False, variant="nats, eps 2.2204e-16"
    ),
    "emd": Metric(
        "EMD", emd, "density_map", higher_is_better=False, variant="cells of 32 x 32 pixels"
    ),
    "ssim": Metric("SSIM", ssim, "density_map", variant="min-max, Gaussian of 1.5 pixels"),
    "mse": Metric("MSE", mse, "density_map", higher_is_better=False, variant="min-max"),
}


def _mit(name: str, variant: str, *extras: str) -> Metric:
    """Return a row of METRICS with the definition of the MIT MATLAB code."""
    row = METRICS[name]
    function = partial(row.function, profile="mit")
    return replace(row, function=function, variant=variant, extras=row.extras + extras)


PROFILES: dict[str, dict[str, Metric]] = {
    "tuebingen": METRICS,
    "mit": METRICS
    | {
        "nss": _mit("nss", "fixated pixels once, n - 1"),
        "auc_judd": _mit("auc_judd", "unfixated pixels, min-max, seeded jitter", "seed"),
        "auc_borji": _mit("auc_borji", "100 seeded splits, min-max, steps of 0.1"),
        "sauc": _mit("sauc", "ten other pictures, 100 seeded splits, min-max, steps of 0.1"),
        "ig": _mit("ig", "bits per fixated pixel, from min-max maps"),
        "ll": _mit("ll", "bits per fixated pixel above uniform, from min-max maps"),
        "sim": _mit("sim", "min-max first"),
        "emd": _mit("emd", "cells of 32 x 32 pixels, histograms matched"),
    },
}


def metric_names(text: str) -> tuple[str, ...]:
    """Return the metrics in a list such as "cc,nss", in the order of METRICS.

    >>> metric_names("nss,cc")
    ('cc', 'nss')

    Raises:
        UserError: a name is unknown.
    """
    if text == "all":
        return tuple(METRICS)
    asked = [name.strip().lower().replace("-", "_") for name in text.split(",")]
    for name in asked:
        if name not in METRICS:
            raise UserError(f"--metrics {text}: unknown '{name}'. {did_you_mean(name, METRICS)}")
    return tuple(name for name in METRICS if name in asked)


def score(
    saliency_map: NDArray,
    density_map: NDArray | None,
    fixations: NDArray | None,
    names: Sequence[str] = tuple(METRICS),
    *,
    others: NDArray | None = None,
    baseline: NDArray | None = None,
    seed: Seed = 0,
    profile: Profile = "tuebingen",
) -> dict[str, float]:
    """Return the named metrics of one saliency map; NaN for a metric whose truth is missing.

    NumPy's loops release Python's lock, so that threads over pictures use all cores.

    Args:
        saliency_map: [rows, columns], at the original picture's size.
        density_map: [rows, columns] or None. A constant map counts as None.
        fixations: [n, 2], (x, y), pixels, or None.
        names: keys of METRICS.
        others: [m, 2], negatives of sAUC from `other_fixations`, or None.
        baseline: [rows, columns], the centre bias as the baseline of IG, or None.
        seed: seed of all draws; use another one for each picture.
        profile: key of PROFILES.

    Returns:
        The score of each metric by name.

    >>> score(np.eye(2), np.eye(2), None, ("cc", "nss"))
    {'cc': 1.0, 'nss': nan}
    """
    if density_map is not None and (density_map == density_map.flat[0]).all():
        density_map = None
    given: dict[str, Any] = {
        "density_map": density_map,
        "fixations": fixations,
        "others": others,
        "baseline": baseline,
        "seed": seed,
    }
    scores = {}
    for name in names:
        metric = PROFILES[profile][name]
        needed = {key: given[key] for key in (metric.truth, *metric.extras)}
        absent = any(value is None for value in needed.values())
        scores[name] = float("nan") if absent else metric.function(saliency_map, **needed)
    return scores


def mean_scores(
    rows: Sequence[dict[str, float]], names: Sequence[str] | None = None
) -> dict[str, float]:
    """Return the mean of each metric over the pictures with a score; NaN if there are none.

    Args:
        rows: the scores of each picture.
        names: keys of METRICS; None for those of the first row.

    >>> mean_scores([{"cc": 0.5}, {"cc": float("nan")}])
    {'cc': 0.5}
    """
    means = {}
    for name in rows[0] if names is None else names:
        values = [row[name] for row in rows if not np.isnan(row[name])]
        means[name] = float(np.mean(values)) if values else float("nan")
    return means

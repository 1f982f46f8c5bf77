"""How well a saliency map tells where people looked: one pure function a metric, then the tables.

NumPy and SciPy only; EMD and SSIM import POT and scikit-image when called. Every function takes the
saliency map at the original picture's size and either the fixations or a density map, and works in
floats. Definitions are those of the MIT/Tuebingen benchmark as pysaliency implements them;
`profile="mit"` gives those of the older MIT MATLAB code. docs/METRICS.md tabulates where they part.

A constant saliency map scores what chance scores. NaN in a map gives NaN, never a number; so do
infinities, which only the AUCs that rank the map as it is put in their place.
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

EPSILON = 2.2204e-16  # MATLAB's eps, which the MIT benchmark's KLD and IG add
JITTER = 1e-7  # what the MIT benchmark's AUC-Judd breaks ties with
SPLITS = 100  # the MIT benchmark's random draws for AUC-Borji and sAUC
THRESHOLDS = np.arange(11) * 0.1  # the step at which its AUC-Borji and sAUC walk the curve
SHUFFLED_PICTURES = {
    "tuebingen": None,
    "mit": 10,
}  # whose fixations are sAUC's negatives; None: all
CELL_PIXELS = 32  # the MIT benchmark's reduction before EMD
SSIM_WINDOW = 11  # pixels: what scikit-image makes of a Gaussian of 1.5 pixels, cut at 3.5 of them
BUCKETS = 1 << 16
# POT imports every tensor library that it finds, unless told not to
NUMPY_ALONE = {
    f"POT_BACKEND_DISABLE_{library}": "1" for library in ("PYTORCH", "JAX", "TENSORFLOW", "CUPY")
}
FAR_FROM_ONE = 2.0**50  # what squares of single precision, in which maps are blurred, can bear


def auc_judd(
    saliency_map: NDArray, fixations: NDArray, seed: Seed = 0, profile: Profile = "tuebingen"
) -> float:
    """Return the area under the ROC curve of fixated pixels against the picture's pixels.

    Exact, by ranks: the share of (fixation, pixel) pairs in which the fixation has the higher
    saliency, ties counted half. Every fixation counts, also two at one pixel.

    Args:
        saliency_map: [rows, columns].
        fixations: [n, 2], (x, y), pixels of the map.
        seed: of the jitter, which only "mit" has.
        profile: "mit" takes unfixated pixels alone as negatives, merges fixations of one pixel,
            scales the map to [0, 1], adds jitter up to 1e-7 against ties, and draws the curve
            through the fixations' saliencies only, which lifts it by up to 1 / (2 n).

    Returns:
        0 to 1, 1 is best; 0.5 is chance, and what a constant map gets (with "mit" only on average:
        the jitter ranks its pixels). NaN without fixations inside the map and, with "mit", without
        an unfixated pixel.

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
    """Return the area under the ROC curve of fixated pixels against randomly drawn ones.

    The mean over 100 splits, each with as many pixels as fixations, drawn with replacement. Splits
    are equally large, so it is found at once, from all draws together.

    Args:
        saliency_map: [rows, columns].
        fixations: [n, 2], (x, y), pixels of the map.
        seed: of the draws.
        profile: "mit" merges fixations of one pixel, scales the map to [0, 1] and knows saliency
            only to the tenth below.

    Returns:
        0 to 1, 1 is best; 0.5 is chance, and what a constant map gets. NaN without fixations.

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
    """Return the area under the ROC curve of fixated pixels against other pictures' fixations.

    Exact, by ranks, ties counted half. A centre bias gains nothing here.

    Args:
        saliency_map: [rows, columns].
        fixations: [n, 2], (x, y), pixels of the map.
        others: [m, 2], the negatives, at this map's scale, as `other_fixations` makes them: from
            all other pictures, or with "mit" from ten.
        seed: of the draws, where there are any.
        samples: how many of the others to draw, without replacement; None takes all.
        profile: "mit" merges fixations of one pixel, scales the map to [0, 1], knows saliency only
            to the tenth below, and takes the mean over 100 draws of as many others as fixations.

    Returns:
        0 to 1, 1 is best; 0.5 is chance, and what a constant map gets. NaN without fixations or
        others inside the map.

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
    """Return the mean standardised saliency at the fixations (normalised scanpath saliency).

    Every fixation counts, also two at one pixel.

    Args:
        saliency_map: [rows, columns].
        fixations: [n, 2], (x, y), pixels of the map.
        profile: "mit" merges fixations of one pixel and divides the variance by pixels - 1.

    Returns:
        Standard deviations above the map's mean, higher is better; 0 is chance, and what a
        constant map gets. NaN without fixations inside the map.

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
    """Return how much better than a baseline the map, read as a density, foretells fixations.

    The mean over fixations of log2(eps + saliency) - log2(eps + baseline), both scaled to a sum of
    1. The eps makes a zero where somebody looked cost about 33 bits, where the logarithm alone, and
    pysaliency, would make the mean minus infinity.

    Args:
        saliency_map: [rows, columns], 0 or more; of negative values the least becomes 0.
        fixations: [n, 2], (x, y), pixels of the map.
        baseline: [rows, columns], the density of a centre bias.
        profile: "mit" scales both maps to [0, 1] first, so that their least value becomes 0, and
            merges fixations of one pixel.

    Returns:
        Bits per fixation, higher is better; 0 is no better than the baseline. NaN without
        fixations inside the map.

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


def cc(saliency_map: NDArray, density_map: NDArray) -> float:
    """Return Pearson's linear correlation of the two maps.

    Args:
        saliency_map: [rows, columns].
        density_map: [rows, columns].

    Returns:
        -1 to 1, 1 is best; 0 is chance, and what a constant saliency map gets, so that a dead
        network is not left out of a mean. NaN where the density map is constant: there is no truth.

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
    """Return how much of the two distributions overlaps (histogram intersection).

    Args:
        saliency_map: [rows, columns], 0 or more; of negative values the least becomes 0.
        density_map: [rows, columns], the same.
        profile: "mit" scales both maps to [0, 1] first, so that their least value becomes 0.

    Returns:
        0 to 1, where 1 means equal. A constant map is the uniform distribution, an all-zero one
        too; what that gets depends on the truth.

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

    The sum of q log(eps + q / (p + eps)), p the saliency map and q the density map, both scaled to
    a sum of 1.

    Args:
        saliency_map: [rows, columns], 0 or more; of negative values the least becomes 0.
        density_map: [rows, columns], the same.

    Returns:
        Nats, 0 or more, where 0 means equal; zeros of the saliency map where people looked cost
        up to 36 nats each, by the eps. A constant map is the uniform distribution.

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
    """Return the least work that moves the saliency map's mass onto the density map's.

    Both maps are scaled to a sum of 1 and summed over cells of 32 x 32 pixels (smaller ones at the
    right and lower edge), between whose centres mass moves. Exact on those cells; the time grows
    faster than the square of their number.

    Args:
        saliency_map: [rows, columns], 0 or more; of negative values the least becomes 0.
        density_map: [rows, columns], the same.
        cell_pixels: the side of a cell.
        profile: "mit" gives the saliency map's cells the density map's histogram first, so that
            only the order of its values counts. Its MATLAB code does so in 256 steps and reduces
            by bicubic interpolation, so it is not reproduced to the digit.

    Returns:
        The mean way of the mass, in cells: 0 or more, where 0 means equal.

    Source: Rubner et al., IJCV 2000; EMD.m; solved by POT's network simplex.

    >>> emd(np.array([[1.0, 0.0, 0.0]]), np.array([[0.0, 0.0, 1.0]]), cell_pixels=1)
    2.0
    """
    _check_same_shape(saliency_map, density_map)
    if "ot" not in sys.modules:
        with variables(NUMPY_ALONE):
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
        -1 to 1, where 1 means equal. NaN for maps less than a window of 11 pixels high or wide.

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
        0 to 1, where 0 means equal. A constant map is scaled to zeros.

    >>> mse(np.array([[0.0, 2.0]]), np.array([[1.0, 0.0]]))
    1.0
    """
    _check_same_shape(saliency_map, density_map)
    difference = unit_range(saliency_map) - unit_range(density_map)
    return _dot(difference, difference) / difference.size


def as_distribution(saliency_map: NDArray) -> NDArray[np.float64]:
    """Return the map scaled to a sum of 1; an all-zero map becomes uniform, an infinite one NaN.

    Negative values cannot be shares: where there are any, the least is taken from all.
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
    """Return a map in double precision, of a size whose squares neither overflow nor vanish.

    No metric asks for a map's scale. One that is far from 1 is divided by a power of two, which
    rounds nothing; all others are returned as they are.

    >>> in_range(np.array([[0.0, 2.0**-600]])).tolist()
    [[0.0, 0.5]]
    """
    values = np.asarray(saliency_map, np.float64)
    peak = np.maximum(values.max(), -values.min())
    if 1 / FAR_FROM_ONE <= peak <= FAR_FROM_ONE or not peak or not np.isfinite(peak):
        return values
    return np.ldexp(values, -int(np.frexp(peak)[1]))


def unit_range(saliency_map: NDArray) -> NDArray[np.float64]:
    """Return the map scaled from its least and greatest value to 0 and 1.

    A constant map becomes zeros, one with NaN or an infinity NaN.
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
    """Return a map of 8-bit steps as floats, each half a step higher.

    A stored 0 stands for all that was rounded to it, not for nothing: without the half step KLD
    and IG charge it as an impossibility. Say so beside scores that come from 8-bit maps. NSS, CC
    and the AUCs do not change.

    >>> from_8bit(np.array([[0, 255]], np.uint8)).tolist()
    [[0.5, 255.5]]
    """
    return np.asarray(stored_map, np.float64) + 0.5


def _check_same_shape(saliency_map: NDArray, truth: NDArray) -> None:
    """Raise ValueError where two maps do not lie on each other."""
    if saliency_map.shape != truth.shape:
        raise ValueError(
            f"saliency map of {saliency_map.shape[0]} x {saliency_map.shape[1]} (rows x columns) "
            f"but truth of {truth.shape[0]} x {truth.shape[1]}; scores need the original size."
        )


def _has_nan(values: NDArray) -> bool:
    """Say whether any value is NaN: then, and only then, the greatest is."""
    return bool(np.isnan(np.max(values)))


def _cells(saliency_map: NDArray, fixations: NDArray, merge: bool = False) -> NDArray[np.intp]:
    """Return the index into the raveled map of each fixation; merged, of each fixated pixel."""
    cells = pixels(fixations, saliency_map.shape)  # type: ignore[arg-type]
    flat = cells[:, 0] * saliency_map.shape[1] + cells[:, 1]
    return np.unique(flat) if merge else flat


def _at(saliency_map: NDArray, fixations: NDArray, merge: bool = False) -> NDArray:
    """Return the saliency at each fixation; merged, at each fixated pixel."""
    return np.asarray(saliency_map).ravel()[_cells(saliency_map, fixations, merge)]


def _centred(values: NDArray) -> tuple[NDArray[np.float64], float]:
    """Return the values without their mean, exact zeros if they are all equal, and the mean."""
    values = in_range(values)
    first = values.flat[0]
    # a mean is rounded: of equal values it need not be that value
    constant = first == values.flat[-1] and (values == first).all()
    with np.errstate(invalid="ignore"):  # infinities
        mean = first if constant else values.mean()
        return values - mean, float(mean)


def _dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the sum of products; BLAS would start threads that cost more than they give."""
    return float(np.einsum("ij,ij->", a, b))


def _tenths(saliency_map: NDArray) -> NDArray:
    """Return how many thresholds each pixel of the scaled map reaches; NaN if that is NaN.

    Walking a ROC curve at these thresholds is the same as ranking these whole numbers.
    """
    scaled = unit_range(saliency_map)
    return scaled if _has_nan(scaled) else np.searchsorted(THRESHOLDS, scaled, side="right")


def _cell_masses(density: NDArray, cell_pixels: int) -> tuple[NDArray, NDArray]:
    """Return the mass of each square cell, [n], and its centre, [n, 2], in cells."""
    starts = [np.arange(0, side, cell_pixels) for side in density.shape]
    masses = np.add.reduceat(np.add.reduceat(density, starts[0], axis=0), starts[1], axis=1)
    ends = [np.append(s[1:], side) for s, side in zip(starts, density.shape, strict=True)]
    middles = [(s + e - 1) / 2 / cell_pixels for s, e in zip(starts, ends, strict=True)]
    return masses.ravel(), np.stack(np.meshgrid(*middles, indexing="ij"), axis=-1).reshape(-1, 2)


def _with_histogram_of(values: NDArray, model: NDArray) -> NDArray:
    """Return the model's values in the order of the given ones; equal ones share their mean."""
    _, rank, counts = np.unique(values, return_inverse=True, return_counts=True)
    shares = np.add.reduceat(np.sort(model), np.cumsum(counts) - counts) / counts
    return shares[rank]


def _area(positives: NDArray, negatives: NDArray) -> float:
    """Return the share of (positive, negative) pairs in the right order, ties counted half."""
    if not len(positives) or not negatives.size:
        return float("nan")
    if _has_nan(negatives) or _has_nan(positives):
        return float("nan")
    below, equal = _count_below_and_equal(positives, negatives)
    return float((below.sum() + 0.5 * equal.sum()) / (len(positives) * negatives.size))


def _area_through_positives(positives: NDArray, negatives: NDArray) -> float:
    """Return the area under the curve whose corners are the positives, as the MIT code draws it."""
    if not len(positives) or not len(negatives) or _has_nan(positives):
        return float("nan")
    below, _ = _count_below_and_equal(positives, negatives)
    false_alarms = np.sort(1 - below / len(negatives))
    hits = np.arange(1, len(positives) + 1) / len(positives)
    return float(np.trapezoid(np.r_[0, hits, 1], np.r_[0, false_alarms, 1]))


def _count_below_and_equal(points: NDArray, population: NDArray) -> tuple[NDArray, NDArray]:
    """Return for each point how many of the population are below it, and how many equal to it.

    Exact. A large population is not sorted: it is counted in narrow buckets of value, and only
    what shares a bucket with a point is compared. Rounding cannot change an order, so whatever is
    in a lower bucket is lower.
    """
    population = population.ravel()
    if population.dtype.itemsize < 4:  # bytes and half floats have no room for the buckets' numbers
        population, points = population.astype(np.float32), points.astype(np.float32)
    below = np.zeros(len(points), np.int64)
    low, high = float(population.min()), float(population.max())
    # the limits keep infinities, and what would overflow in 32 bits, out of the buckets
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
    """A row of METRICS: the field's name, the function, what it needs, which way is better.

    Attributes:
        name: as the field writes it.
        function: takes the saliency map, the truth, and the extras by name.
        truth: "fixations" or "density_map".
        higher_is_better: as it says.
        variant: which of the definitions in use this is, in a few words.
        extras: what else the function takes, by the names of `score`'s arguments.
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
    """Return a row of METRICS as the MIT MATLAB code has it."""
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
        "sim": _mit("sim", "min-max first"),
        "emd": _mit("emd", "cells of 32 x 32 pixels, histograms matched"),
    },
}


def metric_names(text: str) -> tuple[str, ...]:
    """Return the metrics of a list such as "cc,nss", in the table's order.

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
    """Return the named metrics of one saliency map; NaN where the truth that one needs is absent.

    NumPy's loops release the interpreter, so threads over pictures use all cores.

    Args:
        saliency_map: [rows, columns], at the original picture's size.
        density_map: [rows, columns] or None. A constant one is no truth, just as None.
        fixations: [n, 2], (x, y), pixels, or None.
        names: keys of METRICS.
        others: [m, 2], sAUC's negatives, from `other_fixations`, or None.
        baseline: [rows, columns], the centre bias that IG compares with, or None.
        seed: of whatever is drawn; give each picture its own.
        profile: a key of PROFILES.
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
    """Return the mean of each metric over the pictures that have it; NaN where none has.

    Args:
        rows: the scores of each picture.
        names: keys of METRICS; None takes those of the first row.

    >>> mean_scores([{"cc": 0.5}, {"cc": float("nan")}])
    {'cc': 0.5}
    """
    means = {}
    for name in rows[0] if names is None else names:
        values = [row[name] for row in rows if not np.isnan(row[name])]
        means[name] = float(np.mean(values)) if values else float("nan")
    return means

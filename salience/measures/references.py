"""What a score is read against: the truth of each picture, the centre bias, and human observers.

`TruthSplit` knows the pictures of a split and what they owe to each other; `Truth` is what one
picture's maps are scored against. The reference rows are made here: centre bias, uniform, and two
forms of the human ceiling.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from salience.measures import metrics
from salience.measures.metrics import as_distribution, mean_scores
from salience.pictures.fixations import (
    are_within,
    blurred,
    count_map,
    density_map,
    gathered,
    kernel_density,
    mixture_weights,
    other_fixations,
    pixels,
    within,
)
from salience.pictures.reading import sample_density, sample_shape, stamp
from salience.pictures.sample import Sample

CENTRE_BIAS, UNIFORM = "centre bias", "uniform"
HALVES, ONE = "humans, split half", "humans, one from the others"
RESERVED = (CENTRE_BIAS, UNIFORM, HALVES, ONE)
# Map metrics whose share of the attainable is asked for: they are scored against each half of the
# observers, too, since that is the truth that the other half is scored against.
HALVED = ("cc", "sim", "kld")
FITTED_PICTURES = 200  # at the most; the shares of a mixture need no more
# One observer's few fixations make no density map that the structure
# or the transport of a whole one could be held against, and there are fifteen of them a picture.
SKIPPED_FOR_ONE = ("emd", "ssim", "mse")

Picture = tuple[NDArray, tuple[int, int]]  # fixations, and the shape of their picture
Scores = dict[str, float]
# from [n] who made each fixation and a seed to [n] masks, one a fold of the observers
Folding = Callable[[NDArray, tuple[int, int]], list[NDArray[np.bool_]]]


class CentreBias:
    """Where people look whatever the picture, from many pictures' fixations scaled to one shape.

    Args:
        pictures: (fixations, shape) of each picture.
        sigma_pixels: of the blur, in pixels of the map asked for.
    """

    KEPT = 64  # blurred totals in memory, a few megabytes each

    def __init__(self, pictures: Sequence[Picture], sigma_pixels: float) -> None:
        self.pictures, self.sigma_pixels = pictures, sigma_pixels
        self.count = sum(len(within(*picture)) for picture in pictures)
        self._totals: OrderedDict[tuple[int, int], NDArray] = OrderedDict()
        self._lock = Lock()

    def without(self, index: int) -> NDArray:
        """Return the density at a picture's shape of all pictures but this one, sum 1."""
        fixations, shape = self.pictures[index]
        own = blurred(count_map(fixations, shape), self.sigma_pixels)
        # what rounding leaves of a difference of equals is nothing
        return as_distribution(np.maximum(self._total(shape) - own, 0))

    def _total(self, shape: tuple[int, int]) -> NDArray:
        """Return all fixations at one shape, blurred; blurring is linear, so one can be taken."""
        with self._lock:
            if shape not in self._totals:
                kept = [(within(points, old), old) for points, old in self.pictures]
                counts = count_map(gathered(kept, shape), shape)
                self._totals[shape] = blurred(counts, self.sigma_pixels)
                if len(self._totals) > self.KEPT:
                    self._totals.popitem(last=False)
            return self._totals[shape]


@dataclass(frozen=True)
class Truth:
    """All that the maps of one picture are scored against.

    Attributes:
        name: of the picture.
        shape: its rows and columns.
        density: its density map, maximum 1.
        fixations: [n, 2], (x, y), pixels, or None.
        subjects: [n], which observer made each fixation, or None.
        sigma_pixels: of the density map.
        others: [m, 2], the fixations of other pictures at this one's scale, or None.
        baseline: the centre bias without this picture, sum 1, or None.
        halves: the density map of each half of the observers, none for fewer than two; None where
            the observers are not compared.
        names: the metrics asked for.
        seed: of what is drawn for this picture.
        profile: whose definitions.
    """

    name: str
    shape: tuple[int, int]
    density: NDArray
    fixations: NDArray | None
    subjects: NDArray | None
    sigma_pixels: float
    others: NDArray | None
    baseline: NDArray | None
    halves: tuple[NDArray, ...] | None
    names: tuple[str, ...]
    seed: tuple[int, int]
    profile: metrics.Profile

    def score(self, saliency_map: NDArray) -> Scores:
        """Return the metrics of a map of this picture, some against half of the observers, too."""
        scores = self.score_against(saliency_map, self.density, self.fixations, self.names)
        if self.halves is None:
            return scores
        halved = [name for name in self.names if name in HALVED]
        rows = [self.score_against(saliency_map, half, None, halved) for half in self.halves]
        return scores | against_half(mean_scores(rows, halved))

    def score_against(
        self,
        saliency_map: NDArray,
        density: NDArray,
        fixations: NDArray | None,
        names: Sequence[str],
    ) -> Scores:
        """Return the named metrics of a map against a truth that stands in for the picture's."""
        return metrics.score(
            saliency_map,
            density,
            fixations,
            names,
            others=self.others,
            baseline=self.baseline,
            seed=self.seed,
            profile=self.profile,
        )


@dataclass
class TruthSplit:
    """The pictures of a split, and what they owe to each other.

    Args:
        samples: the pictures.
        names: the metrics that will be asked for.
        sigma_pixels: Gaussian for the density maps; None for the data set's own.
        profile: whose definitions of the metrics.
        seed: of whatever is drawn.
        workers: threads that read the pictures.
        human: whether the observers are compared with each other.
    """

    samples: list[Sample]
    names: tuple[str, ...] = tuple(metrics.METRICS)
    sigma_pixels: float | None = None
    profile: metrics.Profile = "tuebingen"
    seed: int = 0
    workers: int = 2
    human: bool = True
    pictures: list[Picture] = field(init=False)
    centre: CentreBias = field(init=False)
    uniform_share: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.human = self.human and any(s.subjects is not None for s in self.samples)
        with ThreadPoolExecutor(self.workers) as pool:
            shapes = list(pool.map(sample_shape, self.samples))
        nothing = np.zeros((0, 2), np.float32)
        self.pictures = [
            (nothing if sample.fixations is None else sample.fixations, shape)
            for sample, shape in zip(self.samples, shapes, strict=True)
        ]
        self.centre = CentreBias(self.pictures, self.sigma(0))
        self.uniform_share = self._fitted_uniform_share() if self.centre.count else 0.0

    def sigma(self, index: int) -> float:
        """Return the Gaussian of a picture's density map, pixels."""
        return self.sigma_pixels or self.samples[index].sigma_pixels

    def over_fitted_pictures(self, function: Callable[[int], NDArray]) -> list[NDArray]:
        """Return a function's value for each picture that shares are fitted on, evenly spread."""
        step = -(-len(self.samples) // FITTED_PICTURES)
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(function, range(0, len(self.samples), step)))

    def _fitted_uniform_share(self) -> float:
        """Return how much of the centre bias is best replaced by a uniform density."""

        def likelihoods(i: int) -> NDArray:
            fixations, shape = self.pictures[i]
            at = pixels(fixations, shape)
            centre = self.centre.without(i)[at[:, 0], at[:, 1]]
            return np.stack([centre, np.full(len(at), 1 / np.prod(shape))], axis=1)

        return float(mixture_weights(np.concatenate(self.over_fitted_pictures(likelihoods)))[1])

    def baseline(self, index: int) -> NDArray | None:
        """Return the centre bias that knows all pictures but this one, sum 1."""
        if not self.centre.count:
            return None
        return mixed([self.centre.without(index)], [1 - self.uniform_share], self.uniform_share)

    def truth(self, index: int) -> Truth:
        """Return what the maps of a picture are scored against."""
        sample, (_, shape) = self.samples[index], self.pictures[index]
        others = None
        parts = _folds(sample, shape, (self.seed, index), folds_of_half) if self.human else []
        halves = [density_map(sample.fixations[own], shape, self.sigma(index)) for own in parts]  # type: ignore[index]
        if self.centre.count and "sauc" in self.names:
            count = metrics.SHUFFLED_PICTURES[self.profile]
            others = other_fixations(self.pictures, index, count, (self.seed, index))
        return Truth(
            sample.name,
            shape,
            sample_density(sample, shape, self.sigma_pixels),
            sample.fixations,
            sample.subjects,
            self.sigma(index),
            others,
            self.baseline(index),
            tuple(halves) if self.human else None,
            self.names,
            (self.seed, index),
            self.profile,
        )

    @cached_property
    def fingerprint(self) -> str:
        """A name for all that scores on this split depend on, besides the map and the code."""
        about = (self.names, self.sigma_pixels, self.profile, self.seed, self.human)
        digest = hashlib.sha256(repr(about).encode())
        for sample, (fixations, shape) in zip(self.samples, self.pictures, strict=True):
            digest.update(repr((sample.name, shape, sample.sigma_pixels)).encode())
            digest.update(np.ascontiguousarray(fixations, np.float32).tobytes())
            if sample.subjects is not None:
                digest.update(np.ascontiguousarray(sample.subjects, np.int32).tobytes())
            if sample.prepared:  # wherever the store lies, and with or without its sources
                digest.update(sample.prepared.digest.encode())
                continue
            for source in (sample.image, sample.map):
                digest.update(repr(found).encode() if (found := stamp(source)) else b"")
        return digest.hexdigest()[:16]


def mixed(
    densities: Sequence[NDArray], weights: Sequence[float], uniform: float
) -> NDArray[np.float64]:
    """Return the weighted sum of densities, each of sum 1, and of a uniform density."""
    total = np.full(densities[0].shape, uniform / densities[0].size)
    for density, weight in zip(densities, weights, strict=True):
        total += weight * density
    return total


def folds_of_one(subjects: NDArray, seed: tuple[int, int]) -> list[NDArray[np.bool_]]:
    """Return for each observer which fixations are that observer's."""
    return [subjects == subject for subject in np.unique(subjects)]


def folds_of_half(subjects: NDArray, seed: tuple[int, int]) -> list[NDArray[np.bool_]]:
    """Return for two random halves of the observers which fixations are theirs."""
    observers = np.random.default_rng(seed).permutation(np.unique(subjects))
    half = np.isin(subjects, observers[: len(observers) // 2])
    return [half, ~half]


@dataclass(frozen=True)
class Ceiling:
    """How well observers foretell other observers, as the mark that a map is held against.

    A map that knew the population better than so few of its members do could pass it.

    Each fold of the fixations is foretold from the rest: blurred with the data set's sigma and
    mixed with the centre bias and a uniform density, in the shares under which the folds are most
    likely over the split. Unmixed, one fixation where nobody else looked would rule KLD and IG.

    Attributes:
        folds: the function that parts the observers.
        weights: shares of the other observers, the centre bias, and the uniform density.
    """

    folds: Folding
    weights: tuple[float, float, float]

    @classmethod
    def fitted(cls, folds: Folding, split: TruthSplit) -> "Ceiling":
        """Return the ceiling with the shares that suit a split best."""

        def likelihoods(i: int) -> NDArray:
            sample, (fixations, shape) = split.samples[i], split.pictures[i]
            rows = [np.zeros((0, 3))]
            parts = _folds(sample, shape, (split.seed, i), folds)
            baseline = np.asarray(split.baseline(i)) if parts else np.zeros(shape)
            for own in parts:
                at = pixels(fixations[own], shape)
                rest = within(fixations[~own], shape)
                human = kernel_density(rest, at[:, ::-1], shape, split.sigma(i))
                uniform = np.full(len(at), 1 / np.prod(shape))
                rows.append(np.stack([human, baseline[at[:, 0], at[:, 1]], uniform], axis=1))
            return np.concatenate(rows)

        seen = np.concatenate(split.over_fitted_pictures(likelihoods))
        humans, centre, uniform = mixture_weights(seen).tolist()
        return cls(folds, (humans, centre, uniform))

    def score(self, truth: Truth) -> Scores:
        """Return the mean metrics over the folds of a picture; NaN for fewer than two observers."""
        names = truth.names
        if self.folds is folds_of_one:
            names = tuple(name for name in names if name not in SKIPPED_FOR_ONE)
        rows = [
            truth.score_against(foretold, density, fixations, names)
            for foretold, density, fixations in self._foretold(truth)
        ]
        scores = dict.fromkeys(truth.names, float("nan"))
        scores |= mean_scores(rows, names) if rows else {}
        halved = [name for name in truth.names if name in HALVED]
        if self.folds is folds_of_half:
            return scores | against_half({name: scores[name] for name in halved})
        return scores | against_half(dict.fromkeys(halved, float("nan")))

    def _foretold(self, truth: Truth) -> Iterator[tuple[NDArray, NDArray, NDArray]]:
        """Yield for each fold the map made from the rest, and the fold's density and fixations."""
        folds = _folds(truth, truth.shape, truth.seed, self.folds)
        if not folds:
            return
        fixations = np.asarray(truth.fixations)
        # blurring is linear: the rest is the total without the fold
        parts = [
            blurred(count_map(fixations[own], truth.shape), truth.sigma_pixels) for own in folds
        ]
        total = np.sum(parts, axis=0)
        humans, centre, uniform = self.weights
        for own, part in zip(folds, parts, strict=True):
            rest = as_distribution(np.maximum(total - part, 0))
            foretold = mixed([rest, np.asarray(truth.baseline)], [humans, centre], uniform)
            yield foretold, part / part.max(), fixations[own]


def against_half(scores: Scores) -> Scores:
    """Return the scores under the names that they have against half of the observers.

    >>> against_half({"cc": 0.5})
    {'cc_vs_half': 0.5}
    """
    return {f"{name}_vs_half": value for name, value in scores.items()}


def model_name(name: str) -> str:
    """Return a name for a row of maps that is no reference's.

    >>> model_name("uniform")
    'uniform (maps)'
    """
    return f"{name} (maps)" if name in RESERVED else name


def _folds(
    sample: Sample | Truth, shape: tuple[int, int], seed: tuple[int, int], folds: Folding
) -> list[NDArray[np.bool_]]:
    """Return the folds that hold fixations inside the picture; none for fewer than two."""
    if sample.fixations is None or sample.subjects is None:
        return []
    inside = are_within(sample.fixations, shape)
    found = [own & inside for own in folds(sample.subjects, seed)]
    found = [own for own in found if own.any()]
    return found if len(found) > 1 else []


def references(split: TruthSplit) -> dict[str, Callable[[Truth], Scores]]:
    """Return the reference rows by name, each a function from a picture's truth to its scores.

    Args:
        split: the pictures; the shares of the human ceilings are fitted here.
    """
    rows: dict[str, Callable[[Truth], Scores]] = {}
    if split.centre.count:
        rows[CENTRE_BIAS] = lambda truth: truth.score(np.asarray(truth.baseline))
    rows[UNIFORM] = lambda truth: truth.score(np.ones(truth.shape))
    if split.human:
        rows[HALVES] = Ceiling.fitted(folds_of_half, split).score
        rows[ONE] = Ceiling.fitted(folds_of_one, split).score
    return rows

"""Ground truth and reference scores: centre bias, uniform map, and two marks of the observers.

`TruthSplit` holds the pictures of a split and what is computed from all of them, such as the centre
bias. `Truth` is the ground truth of one picture, with its scoring function. The marks of the
observers are the gold standard, for metrics from fixations, and the split half, for metrics from
maps.
"""

import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from salience.measures import metrics
from salience.measures.gold_standard import (
    MOST_PAIRS,
    GoldStandard,
    LeftOut,
    fit_gold_standard,
)
from salience.measures.metrics import METRICS, as_distribution, mean_scores
from salience.pictures.fixations import (
    are_within,
    blurred,
    blurred_fixations,
    count_map,
    density_of_fixations,
    gathered,
    kernel_density,
    mixture_weights,
    other_fixations,
    pixels,
    within,
)
from salience.pictures.reading import sample_density, sample_shape, stamp
from salience.pictures.sample import Sample
from salience.system.cache import Shelf, make_key

CENTRE_BIAS, UNIFORM = "centre bias", "uniform"
HALVES, GOLD = "humans, split half", "humans, gold standard"
RESERVED = (CENTRE_BIAS, UNIFORM, HALVES, GOLD)
# Map metrics with a mark of the observers: maps are also scored against each half of the observers,
# the truth against which the other half is scored.
HALVED = ("cc", "sim", "kld")
FITTED_PICTURES = 200  # most pictures for the fit of mixture weights, which needs no more

Picture = tuple[NDArray, tuple[int, int]]  # fixations, and the shape of their picture
Scores = dict[str, float]
Value = TypeVar("Value")
# function from the observer of each fixation, [n], and a seed to a mask [n] for each fold
Folding = Callable[[NDArray, tuple[int, int]], list[NDArray[np.bool_]]]


class CentreBias:
    """The centre bias: blurred density of the fixations of many pictures, scaled to one shape.

    Args:
        pictures: (fixations, shape) of each picture.
        sigma_pixels: standard deviation of the blur, pixels of the resulting map.
    """

    KEPT = 64  # blurred totals in memory, a few megabytes each

    def __init__(self, pictures: Sequence[Picture], sigma_pixels: float) -> None:
        self.pictures, self.sigma_pixels = pictures, sigma_pixels
        self.count = sum(len(within(*picture)) for picture in pictures)
        self._totals: OrderedDict[tuple[int, int], NDArray] = OrderedDict()
        self._lock = Lock()

    def without(self, index: int) -> NDArray:
        """Return the centre bias of all other pictures, at this picture's shape, sum 1."""
        fixations, shape = self.pictures[index]
        own = blurred_fixations(fixations, shape, self.sigma_pixels)
        # rounding can make the difference slightly negative
        return as_distribution(np.maximum(self._total(shape) - own, 0))

    def _total(self, shape: tuple[int, int]) -> NDArray:
        """Return the blurred fixations of all pictures at one shape, from which one is subtracted.

        Blurring is linear, so that the difference of two blurred maps is exact.
        """
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
    """The ground truth of one picture, and the settings of its scores.

    Attributes:
        name: the picture's name.
        shape: rows and columns of the picture.
        density: density map, maximum 1.
        fixations: [n, 2], (x, y), pixels, or None.
        subjects: [n], the observer of each fixation, or None.
        sigma_pixels: standard deviation of the density map's Gaussian.
        others: [m, 2], fixations of other pictures, scaled to this picture, or None.
        baseline_of: `TruthSplit.baseline`, which is called if a metric or a row needs it.
        halves: density map of each half of the observers; empty for fewer than two observers, None
            if observers are not compared.
        names: metrics to compute.
        seed: seed of this picture's draws: that of the split, and the picture's index.
        profile: key of `metrics.PROFILES`.
    """

    name: str
    shape: tuple[int, int]
    density: NDArray
    fixations: NDArray | None
    subjects: NDArray | None
    sigma_pixels: float
    others: NDArray | None
    baseline_of: Callable[[int], NDArray | None]
    halves: tuple[NDArray, ...] | None
    names: tuple[str, ...]
    seed: tuple[int, int]
    profile: metrics.Profile

    @property
    def index(self) -> int:
        """The picture's index in its split."""
        return self.seed[1]

    @cached_property
    def baseline(self) -> NDArray | None:
        """The centre bias of the other pictures, sum 1, or None."""
        return self.baseline_of(self.index)

    def score(self, saliency_map: NDArray) -> Scores:
        """Return the metrics of a map; those of HALVED also against half of the observers."""
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
        """Return the named metrics of a map against a given density map and fixations."""
        is_compared = any("baseline" in METRICS[name].extras for name in names)
        return metrics.score(
            saliency_map,
            density,
            fixations,
            names,
            others=self.others,
            baseline=self.baseline if is_compared else None,
            seed=self.seed,
            profile=self.profile,
        )


@dataclass
class TruthSplit:
    """The pictures of a split with their ground truth, centre bias and mixture weights.

    Args:
        samples: the pictures.
        names: metrics to compute.
        sigma_pixels: Gaussian of the density maps, pixels; None for the data set's own.
        profile: key of `metrics.PROFILES`.
        seed: seed of all draws.
        workers: number of threads that read the pictures.
        human: whether to compare the observers with each other; not done if no picture has two.
        by_picture: whether each picture has a gold standard of its own parameters.

    Attributes:
        compared: whether each picture has fixations of two observers or more.
        without_observers: whether observers were to be compared, but no picture has two.
    """

    samples: list[Sample]
    names: tuple[str, ...] = tuple(metrics.METRICS)
    sigma_pixels: float | None = None
    profile: metrics.Profile = "tuebingen"
    seed: int = 0
    workers: int = 2
    human: bool = True
    by_picture: bool = False
    pictures: list[Picture] = field(init=False)
    compared: list[bool] = field(init=False)
    without_observers: bool = field(init=False)
    _gold: list[GoldStandard] = field(init=False, default_factory=list, repr=False)
    centre: CentreBias = field(init=False)
    _once: Lock = field(init=False, default_factory=Lock, repr=False)

    def __post_init__(self) -> None:
        with ThreadPoolExecutor(self.workers) as pool:
            shapes = list(pool.map(sample_shape, self.samples))
        nothing = np.zeros((0, 2), np.float32)
        self.pictures = [
            (nothing if sample.fixations is None else sample.fixations, shape)
            for sample, shape in zip(self.samples, shapes, strict=True)
        ]
        self.compared = [
            bool(_folds(sample, shape, (self.seed, 0), folds_of_one))
            for sample, (_, shape) in zip(self.samples, self.pictures, strict=True)
        ]
        self.without_observers = self.human and not any(self.compared)
        self.human = self.human and any(self.compared)
        self.centre = CentreBias(self.pictures, self.sigma(0))

    def sigma(self, index: int) -> float:
        """Return the standard deviation of a picture's Gaussian, pixels."""
        return self.sigma_pixels or self.samples[index].sigma_pixels

    def over_fitted_pictures(
        self, function: Callable[[int], Value], among: Sequence[int] | None = None
    ) -> list[Value]:
        """Return a function's values for at most FITTED_PICTURES pictures, evenly spread.

        Args:
            function: function of a picture's index.
            among: the pictures to choose from; None for all.
        """
        among = range(len(self.samples)) if among is None else among
        step = -(-len(among) // FITTED_PICTURES) or 1
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(function, among[::step]))

    @property
    def uniform_share(self) -> float:
        """The likeliest share of a uniform density in its mixture with the centre bias."""
        with self._once:  # the first thread that asks fits it
            return self._fitted_share

    @cached_property
    def _fitted_share(self) -> float:
        def likelihoods(i: int) -> NDArray:
            fixations, shape = self.pictures[i]
            at = pixels(fixations, shape)
            centre = self.centre.without(i)[at[:, 0], at[:, 1]]
            return np.stack([centre, np.full(len(at), 1 / np.prod(shape))], axis=1)

        return float(mixture_weights(np.concatenate(self.over_fitted_pictures(likelihoods)))[1])

    def left_out(self, index: int) -> LeftOut:
        """Return the fixations of a picture for the gold standard; two observers or more."""
        sample, (_, shape) = self.samples[index], self.pictures[index]
        baseline = np.asarray(self.baseline(index))
        return LeftOut(
            np.asarray(sample.fixations),
            np.asarray(sample.subjects),
            shape,
            self.sigma(index),
            baseline,
        )

    def gold_standards(self, shelf: Shelf | None = None) -> list[GoldStandard]:
        """Return the gold standard of the set, and with `by_picture` one of each picture instead.

        The fit of the set uses at most FITTED_PICTURES pictures, and MOST_PAIRS pairs of fixations.
        Pictures without two observers get the gold standard of the set.

        Args:
            shelf: where the fit is kept, see `shelf_key`; None to fit each time.
        """

        def fitted() -> NDArray:
            whose = [i for i, compared in enumerate(self.compared) if compared]
            pairs = sum(len(self.pictures[i][0]) ** 2 for i in whose)
            step = -(-pairs // MOST_PAIRS)
            of_set = fit_gold_standard(self.over_fitted_pictures(self.left_out, whose[::step]))
            if not self.by_picture:
                return np.array([dataclasses.astuple(of_set)])
            each = [
                fit_gold_standard([self.left_out(i)], of_set) if compared else of_set
                for i, compared in enumerate(self.compared)
            ]
            return np.array([dataclasses.astuple(gold) for gold in each])

        if not self._gold:
            name = "gold_by_picture" if self.by_picture else "gold_standard"
            rows = shelf.get(name, fitted) if shelf else fitted()
            self._gold = [GoldStandard(*row) for row in rows.tolist()]
        return self._gold

    def baseline(self, index: int) -> NDArray | None:
        """Return the centre bias of all other pictures, mixed with a uniform density, sum 1."""
        if not self.centre.count:
            return None
        share = self.uniform_share
        return mixed([self.centre.without(index)], [1 - share], share)

    def truth(self, index: int) -> Truth:
        """Return the ground truth of a picture."""
        sample, (_, shape) = self.samples[index], self.pictures[index]
        others = None
        parts = _folds(sample, shape, (self.seed, index), folds_of_half) if self.human else []
        halves = [
            density_of_fixations(np.asarray(sample.fixations)[own], shape, self.sigma(index))
            for own in parts
        ]
        if self.centre.count and "sauc" in self.names:
            count = metrics.SHUFFLED_PICTURES[self.profile]
            others = other_fixations(self.pictures, index, count, (self.seed, index))
        return Truth(
            sample.name,
            shape,
            sample_density(sample, shape, self.sigma_pixels, density_of_fixations),
            sample.fixations,
            sample.subjects,
            self.sigma(index),
            others,
            self.baseline,
            tuple(halves) if self.human else None,
            self.names,
            (self.seed, index),
            self.profile,
        )

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all data and settings that scores on this split depend on, except the map."""
        about = (self.names, self.profile, self.human, self.by_picture, self.data_fingerprint)
        return hashlib.sha256(repr(about).encode()).hexdigest()[:16]

    @cached_property
    def data_fingerprint(self) -> str:
        """Hash of the pictures, their fixations, sigma and the seed: what the fits depend on."""
        digest = hashlib.sha256(repr((self.sigma_pixels, self.seed)).encode())
        for sample, (fixations, shape) in zip(self.samples, self.pictures, strict=True):
            digest.update(repr((sample.name, shape, sample.sigma_pixels)).encode())
            digest.update(np.ascontiguousarray(fixations, np.float32).tobytes())
            if sample.subjects is not None:
                digest.update(np.ascontiguousarray(sample.subjects, np.int32).tobytes())
            if sample.prepared:  # independent of the store's place and of its source files
                digest.update(sample.prepared.digest.encode())
                continue
            for source in (sample.image, sample.map):
                digest.update(repr(found).encode() if (found := stamp(source)) else b"")
        return digest.hexdigest()


def mixed(
    densities: Sequence[NDArray], weights: Sequence[float], uniform: float
) -> NDArray[np.float64]:
    """Return the weighted sum of densities of sum 1 and of a uniform density."""
    total = np.full(densities[0].shape, uniform / densities[0].size)
    for density, weight in zip(densities, weights, strict=True):
        total += weight * density
    return total


def folds_of_one(subjects: NDArray, seed: tuple[int, int]) -> list[NDArray[np.bool_]]:
    """Return a mask of the fixations of each observer, [n] each."""
    return [subjects == subject for subject in np.unique(subjects)]


def folds_of_half(subjects: NDArray, seed: tuple[int, int]) -> list[NDArray[np.bool_]]:
    """Return masks of the fixations of two random halves of the observers, [n] each."""
    observers = np.random.default_rng(seed).permutation(np.unique(subjects))
    half = np.isin(subjects, observers[: len(observers) // 2])
    return [half, ~half]


@dataclass(frozen=True)
class SplitHalf:
    """The mark of the observers in metrics from maps: one half of them predicts the other.

    The fixations of a half are blurred with the data set's sigma and mixed with the centre bias and
    a uniform density. The mixture weights maximise the likelihood of the other half over the split.
    Without a mixture, one fixation where nobody else looked would dominate KLD. CC is that of the
    two halves' own maps, and is corrected to the full number of observers.

    Attributes:
        weights: weights of the predicting half, the centre bias, and the uniform density.
    """

    weights: tuple[float, float, float]

    @classmethod
    def fitted(cls, split: TruthSplit, shelf: Shelf | None = None) -> "SplitHalf":
        """Return the mark with the likeliest mixture weights for a split.

        Args:
            split: the pictures.
            shelf: where the weights are kept, see `shelf_key`; None to fit each time.
        """

        def likelihoods(i: int) -> NDArray:
            sample, (fixations, shape) = split.samples[i], split.pictures[i]
            rows = [np.zeros((0, 3))]
            parts = _folds(sample, shape, (split.seed, i), folds_of_half)
            baseline = np.asarray(split.baseline(i)) if parts else np.zeros(shape)
            for own in parts:
                at = pixels(fixations[own], shape)
                rest = within(fixations[~own], shape)
                human = kernel_density(rest, at[:, ::-1], shape, split.sigma(i))
                uniform = np.full(len(at), 1 / np.prod(shape))
                rows.append(np.stack([human, baseline[at[:, 0], at[:, 1]], uniform], axis=1))
            return np.concatenate(rows)

        def fitted() -> NDArray:
            return mixture_weights(np.concatenate(split.over_fitted_pictures(likelihoods)))

        found = shelf.get("split_half", fitted) if shelf else fitted()
        humans, centre, uniform = found.tolist()
        return cls((humans, centre, uniform))

    def score(self, truth: Truth) -> Scores:
        """Return the mean scores of the two halves; NaN for fewer than two observers.

        Metrics from fixations are NaN: the gold standard has them.
        """
        names = [name for name in truth.names if METRICS[name].truth == "density_map"]
        folds = _folds(truth, truth.shape, truth.seed, folds_of_half)
        predictions = list(_predictions(truth, folds, truth.sigma_pixels, self.weights))
        rows = [
            truth.score_against(prediction, part / part.max(), None, names)
            for prediction, part, _ in predictions
        ]
        scores = dict.fromkeys(score_names(truth.names), float("nan"))
        if not rows:
            return scores
        scores |= mean_scores(rows, names)
        scores |= against_half({name: scores[name] for name in names if name in HALVED})
        if "cc" in names:
            one, other = (part for _, part, _ in predictions)
            scores["cc_vs_half"] = metrics.cc(one, other)
            scores["cc"] = spearman_brown(scores["cc_vs_half"])
        return scores


@dataclass(frozen=True)
class LeaveOneOut:
    """The mark of the observers in metrics from fixations: the gold standard predicts each of them.

    Attributes:
        standards: the gold standard of the set, or one of each picture.
    """

    standards: Sequence[GoldStandard]

    def standard(self, index: int) -> GoldStandard:
        """Return the gold standard that predicts the observers of a picture."""
        return self.standards[index if len(self.standards) > 1 else 0]

    def score(self, truth: Truth) -> Scores:
        """Return the mean scores over the fixations of a picture; NaN for fewer than two observers.

        Metrics from maps are NaN: the fixations of one observer are no map.
        """
        standard = self.standard(truth.index)
        weights = standard.humans, standard.centre, standard.uniform
        names = [name for name in truth.names if METRICS[name].truth == "fixations"]
        folds = _folds(truth, truth.shape, truth.seed, folds_of_one)
        sigma = standard.bandwidth_pixels(truth.sigma_pixels)
        rows, counts = [], []
        for prediction, _, fixations in _predictions(truth, folds, sigma, weights):
            rows.append(truth.score_against(prediction, truth.density, fixations, names))
            counts.append(len(fixations))
        scores = dict.fromkeys(score_names(truth.names), float("nan"))
        for name in names:  # a mean over fixations, like the score of a map
            found = [(row[name], n) for row, n in zip(rows, counts, strict=True)
                     if row[name] == row[name]]  # fmt: skip
            if found:
                values, weighted = zip(*found, strict=True)
                scores[name] = float(np.average(values, weights=weighted))
        return scores


def _predictions(
    truth: Truth,
    folds: Sequence[NDArray[np.bool_]],
    sigma_pixels: float,
    weights: tuple[float, float, float],
) -> Iterator[tuple[NDArray, NDArray, NDArray]]:
    """Yield the prediction of each fold from the rest, and the fold's blurred map and fixations."""
    if not folds:
        return
    fixations = np.asarray(truth.fixations)
    # blurring is linear, so the rest is the total minus the fold
    parts = [blurred_fixations(fixations[own], truth.shape, sigma_pixels) for own in folds]
    total = np.sum(parts, axis=0)
    humans, centre, uniform = weights
    for own, part in zip(folds, parts, strict=True):
        rest = as_distribution(np.maximum(total - part, 0))
        prediction = mixed([rest, np.asarray(truth.baseline)], [humans, centre], uniform)
        yield prediction, part, fixations[own]


def spearman_brown(correlation: float) -> float:
    """Return the correlation that twice as many observers would have, from that of two halves.

    A correlation of 0 or less stays: the formula is for halves that measure the same.

    Source: Spearman and Brown, British Journal of Psychology, 1910.

    >>> round(spearman_brown(0.6), 6), spearman_brown(-0.5)
    (0.75, -0.5)
    """
    return 2 * correlation / (1 + correlation) if correlation > 0 else correlation


def score_names(names: Sequence[str]) -> list[str]:
    """Return the names of all scores of a map: the metrics, and those against half.

    >>> score_names(("nss", "kld"))
    ['nss', 'kld', 'kld_vs_half']
    """
    return [*names, *against_half({name: 0.0 for name in names if name in HALVED})]


def observers_row(metric: str) -> str:
    """Return the row of the observers that has a metric.

    Metrics from maps need a map of several observers: half of them.
    """
    return GOLD if METRICS[metric].truth == "fixations" else HALVES


def mark_of(metric: str) -> tuple[str, str] | None:
    """Return the row of the observers that suits a metric, and the score there to compare with.

    SIM and KLD have no correction to the full number of observers, so maps are compared against
    half of them.

    >>> mark_of("nss"), mark_of("kld"), mark_of("emd")
    (('humans, gold standard', 'nss'), ('humans, split half', 'kld_vs_half'), None)
    """
    row = observers_row(metric)
    if row == GOLD or metric == "cc":
        return row, metric
    return (row, f"{metric}_vs_half") if metric in HALVED else None


def against_half(scores: Scores) -> Scores:
    """Return scores against half of the observers, under their names in the tables.

    >>> against_half({"cc": 0.5})
    {'cc_vs_half': 0.5}
    """
    return {f"{name}_vs_half": value for name, value in scores.items()}


def model_name(name: str) -> str:
    """Return a name for a row of maps that differs from all reference rows.

    >>> model_name("uniform")
    'uniform (maps)'
    """
    return f"{name} (maps)" if name in RESERVED else name


def _folds(
    sample: Sample | Truth, shape: tuple[int, int], seed: tuple[int, int], folds: Folding
) -> list[NDArray[np.bool_]]:
    """Return the folds with fixations inside the picture; [] for fewer than two folds."""
    if sample.fixations is None or sample.subjects is None:
        return []
    inside = are_within(sample.fixations, shape)
    found = [own & inside for own in folds(sample.subjects, seed)]
    found = [own for own in found if own.any()]
    return found if len(found) > 1 else []


def shelf_key(split: TruthSplit) -> str:
    """Return the key of the shelf on which the fits to a split are kept."""
    return make_key(references, split.data_fingerprint)


def references(
    split: TruthSplit, shelf: Shelf | None = None
) -> dict[str, Callable[[Truth], Scores]]:
    """Return the reference rows by name, each a function from a picture's truth to its scores.

    Args:
        split: the pictures; the marks of the observers are fitted to them.
        shelf: where the fits are kept, see `shelf_key`; None to fit each time.
    """
    rows: dict[str, Callable[[Truth], Scores]] = {}
    if split.centre.count:
        rows[CENTRE_BIAS] = lambda truth: truth.score(np.asarray(truth.baseline))
    rows[UNIFORM] = lambda truth: truth.score(np.ones(truth.shape))
    if split.human and any(METRICS[name].truth == "density_map" for name in split.names):
        rows[HALVES] = SplitHalf.fitted(split, shelf).score
    if split.human and any(METRICS[name].truth == "fixations" for name in split.names):
        rows[GOLD] = LeaveOneOut(split.gold_standards(shelf)).score
    return rows

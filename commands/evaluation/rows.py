"""Scores rows of saliency maps on the pictures of a split, and computes their means.

All commands that score use this module. The ground truth of a picture is computed once for all rows
without a score. Scores are stored under keys that include all their inputs.
"""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commands.evaluation.map_sources import RowMaps, Source
from commands.evaluation.score_log import Result, ScoreLog
from salience.measures.adaptation import IDENTITY, Adaptation, SetNumbers
from salience.measures.metrics import METRICS, PROFILES, Metric, mean_scores
from salience.measures.optimal import optimal_scores
from salience.measures.references import (
    CENTRE_BIAS,
    GOLD,
    HALVES,
    LeaveOneOut,
    Scores,
    Truth,
    TruthSplit,
    mark_of,
    score_names,
    shelf_key,
)
from salience.measures.references import references as reference_rows
from salience.measures.significance import Interval, mean_interval
from salience.pictures.fixations import within
from salience.system.cache import Shelf, default_cache, make_key
from salience.system.errors import UserError
from salience.system.notes import Notes
from salience.system.terminal import counted, progress


@dataclass(frozen=True)
class Row:
    """A row of the table to be scored.

    Attributes:
        name: name of the row.
        kind: "model" or "reference".
        key: digest of all inputs of its scores; equal keys mean equal scores.
        score: function from a picture's ground truth and its map (None for a reference) to its
            metrics.
        source: source of the maps; None for a reference.
    """

    name: str
    kind: str
    key: str
    score: Callable[[Truth, Any], Scores]
    source: Source | None = None


@dataclass(frozen=True)
class Scored:
    """A scored row.

    Attributes:
        name, kind: name and kind of the row.
        scores: metrics of each picture, in the order of `Evaluation.pictures`.
        means: mean and bootstrap interval by metric.
        share: position of the mean between the centre bias (0) and the observers (1), by metric.
    """

    name: str
    kind: str
    scores: list[Scores]
    means: dict[str, Interval]
    share: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """All scored rows on the same pictures, with notes."""

    pictures: list[str]
    rows: list[Scored]
    metrics: dict[str, Metric]
    notes: Notes
    left_out: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)  # of each picture; empty without categories

    def row(self, name: str) -> Scored:
        """Return the row with a name."""
        return next(row for row in self.rows if row.name == name)


def model_row(source: Source, split: TruthSplit) -> Row:
    """Return a row that scores the maps of a source."""
    return Row(
        source.name,
        "model",
        key_of(split, source.fingerprint()),
        lambda truth, saliency_map: truth.score(saliency_map),
        source,
    )


def adapted_row(
    name: str, source: Source, split: TruthSplit, adaptation: Adaptation | SetNumbers
) -> Row:
    """Return a row that scores the adapted maps of a source.

    Numbers in a network need a source that makes maps by any: `RowMaps`.
    """
    if isinstance(adaptation, SetNumbers):
        assert isinstance(source, RowMaps)
        return dataclasses.replace(model_row(source.with_numbers(adaptation), split), name=name)
    if adaptation == IDENTITY:
        return dataclasses.replace(model_row(source, split), name=name)
    return Row(
        name,
        "model",
        key_of(split, f"{source.fingerprint()} {adaptation}"),
        lambda truth, saliency_map: truth.score(
            adaptation.apply(saliency_map - min(0.0, float(saliency_map.min())))
        ),
        source,
    )


def optimal_row(source: Source, split: TruthSplit, calibration: Adaptation) -> Row:
    """Return a row in which each metric gets the map that is best for it under a source's density.

    Args:
        source: source of maps or densities.
        split: the pictures.
        calibration: turns the maps into densities; the identity for densities.
    """
    counts = [len(within(*picture)) for picture in split.pictures]
    fixations = max(1, round(float(np.mean([count for count in counts if count] or [1]))))
    return Row(
        f"{source.name}, optimal",
        "model",
        key_of(split, f"optimal {fixations} {source.fingerprint()} {calibration}"),
        lambda truth, saliency_map: optimal_scores(
            truth, calibration.density(np.asarray(saliency_map, np.float64)), fixations
        ),
        source,
    )


def all_reference_rows(split: TruthSplit, notes: Notes) -> list[Row]:
    """Return the reference rows of a split, kept in the cache since no map changes them.

    Args:
        split: the pictures.
        notes: receives a note on the fit of the observers' rows.
    """
    if split.without_observers:
        notes.explain(
            "no rows of humans: no picture has fixations of two known observers "
            "(docs/METRICS.md#the-marks-of-the-observers)"
        )
    for sample, compared in zip(split.samples, split.compared, strict=True):
        if split.human and not compared:
            notes.add(
                "pictures with fixations of fewer than two observers: the rows of humans leave "
                "them out",
                sample.name,
            )
    cache = default_cache()
    shelf = cache.shelf(shelf_key(split))
    rows = []
    for name, score in reference_rows(split, shelf).items():
        score = kept(score, cache.shelf(make_key(kept, split.fingerprint, name)))
        function = lambda truth, _, score=score: score(truth)  # noqa: E731
        rows.append(Row(name, "reference", key_of(split, name), function))
        if name == GOLD:
            notes.explain(gold_line(split))
    return rows


def kept(score: Callable[[Truth], Scores], shelf: Shelf) -> Callable[[Truth], Scores]:
    """Return a function like `score` that keeps the scores of each picture on a shelf."""

    def scored(truth: Truth) -> Scores:
        # without a comparison of the observers there are no scores against half of them
        names = list(truth.names) if truth.halves is None else score_names(truth.names)

        def computed() -> NDArray:
            found = score(truth)
            return np.array([found[name] for name in names])

        values = shelf.get(f"{truth.index:08d}", computed)
        return dict(zip(names, values.tolist(), strict=True))

    return scored


def gold_line(split: TruthSplit) -> str:
    """Return the parameters of the gold standard as a sentence."""
    found = split.gold_standards()
    compared = [i for i, compared in enumerate(split.compared) if compared]
    each = [LeaveOneOut(found).standard(i) for i in compared]
    widths = [gold.bandwidth_pixels(split.sigma(i)) for i, gold in zip(compared, each, strict=True)]
    low, middle, high = np.percentile(widths, (0, 50, 100))
    span = f" ({low:.1f} to {high:.1f})" if high - low > 0.05 else ""
    humans, centre, uniform = np.mean(
        [(gold.humans, gold.centre, gold.uniform) for gold in each], axis=0
    )
    return (
        f"{GOLD}, the mark to reach (docs/METRICS.md#the-marks-of-the-observers): each observer "
        f"predicted by the others; a Gaussian of {middle:.1f}{span} pixels, "
        f"{humans:.1%} fixations of the others, {centre:.1%} centre bias and {uniform:.1%} uniform "
        f"maximise the likelihood{' of each picture' if len(found) > 1 else ''}"
    )


def key_of(split: TruthSplit, about: str) -> str:
    """Return the key of a row on a split: the pictures, the map, and the code that scores it."""
    return make_key(score_rows, split.fingerprint, about)[:16]


def no_score_reason(notes: Notes) -> str:
    """Return why no picture is scored: the reasons for leaving them out, then other remarks."""
    reasons = [line for line in notes.lines() if "left out of every row" in line]
    return "; ".join([*reasons, *reversed(notes.remarks)][:3]).rstrip(".")


def score_rows(
    split: TruthSplit, rows: list[Row], log: ScoreLog, notes: Notes, seed: int, workers: int
) -> Evaluation:
    """Score all rows on all pictures that are not in the log, and compute the means.

    A picture without a map in one row is left out of all rows, so that means are over the same
    pictures; the notes list it.
    """
    names = [sample.name for sample in split.samples]
    for row in rows:
        log.recall(row.key, names, notes)
    pending = [
        i for i, name in enumerate(names) if any(not log.has(row.key, name) for row in rows)
    ]  # fmt: skip
    noted = notes.by_name()  # by the pictures' split, and what the log recalled
    waiting: list[Future] = []
    bar = progress(len(names), "scoring")
    bar.update(len(names) - len(pending))

    def score(i: int, maps: dict[int, NDArray | None]) -> list[Result]:
        truth, found = split.truth(i), []
        of_maps = [one for one in notes.about(truth.name) if one not in noted.get(truth.name, ())]
        of_truth = []
        if split.samples[i].map and not np.ptp(truth.density):
            of_truth = ["pictures with a constant density map: metrics from maps leave them out"]
        for row in rows:
            saliency_map = maps.get(id(row.source))
            if log.has(row.key, truth.name) or (row.source and saliency_map is None):
                continue
            findings = [*of_truth, *(of_maps if row.source else [])]
            if saliency_map is not None and np.min(saliency_map) == np.max(saliency_map):
                findings.append("constant maps: their scores are at chance level")
            found.append(Result(row.key, truth.name, row.score(truth, saliency_map), findings))
        return found

    def add_results(future: Future) -> None:
        log.add(future.result())
        for one in future.result():
            for finding in one.findings:
                notes.add(finding, one.picture)
        bar.update()

    with bar, ThreadPoolExecutor(workers) as pool:
        for i, maps in zip(pending, maps_of(rows, split, pending, log), strict=True):
            waiting.append(pool.submit(score, i, maps))
            # a map in double precision takes megabytes: limit the number that waits
            while len(waiting) > 2 * workers or (waiting and waiting[0].done()):
                add_results(waiting.pop(0))
        for future in waiting:
            add_results(future)
    pictures = [name for name in names if all(log.has(row.key, name) for row in rows)]
    if not pictures:
        raise UserError(f"No picture has a map that can be scored: {no_score_reason(notes)}.")
    left_out = [name for name in names if name not in set(pictures)]
    scores = {row.name: [log.scores[row.key, name] for name in pictures] for row in rows}
    kinds = {row.name: row.kind for row in rows}
    return gather(pictures, kinds, scores, split, notes, left_out, seed)


def scoring_line(split: TruthSplit, rows: list[Row]) -> str:
    """Return what is about to be scored, and how fast that usually is."""
    return (
        f"scoring {counted(len(split.samples), 'picture')}, {len(rows)} rows of scores: usually 1 "
        "to 3 pictures a second, the first time"
    )


def maps_of(
    rows: list[Row], split: TruthSplit, pending: list[int], log: ScoreLog
) -> Iterator[dict[int, NDArray | None]]:
    """Yield for each picture its maps, by the id of those sources that a row still needs."""
    sources = {id(row.source): row.source for row in rows if row.source}
    needing = {
        key: [row for row in rows if row.source and id(row.source) == key] for key in sources
    }
    streams = {}
    wanted: dict[int, set[int]] = {}
    for key, source in sources.items():
        chosen = [
            i
            for i in pending
            if any(not log.has(row.key, split.samples[i].name) for row in needing[key])
        ]
        wanted[key] = set(chosen)
        streams[key] = source.maps(
            [split.samples[i] for i in chosen], [split.pictures[i][1] for i in chosen]
        )
    for i in pending:
        yield {key: next(stream) for key, stream in streams.items() if i in wanted[key]}


def gather(
    pictures: list[str],
    kinds: dict[str, str],
    scores: dict[str, list[Scores]],
    split: TruthSplit,
    notes: Notes,
    left_out: list[str],
    seed: int,
) -> Evaluation:
    """Return an evaluation from scores: means, intervals and shares of the attainable score.

    Args:
        pictures: names of the scored pictures.
        kinds: "model" or "reference", by row.
        scores: scores of each picture, by row.
        split: gives the metrics and their definitions.
        notes: notes of the evaluation.
        left_out: names of the pictures that were left out.
        seed: seed of the bootstrap.
    """
    means = {
        name: {
            metric: mean_interval([picture[metric] for picture in values], seed)
            for metric in values[0]
        }
        for name, values in scores.items()
    }
    finished = [
        Scored(
            name,
            kind,
            scores[name],
            means[name],
            {metric: attainable_share(means, scores, name, metric) for metric in split.names},
        )
        for name, kind in kinds.items()
    ]
    chosen = {name: PROFILES[split.profile][name] for name in split.names}
    category_of = {sample.name: sample.category for sample in split.samples}
    categories = [category_of[name] for name in pictures] if any(category_of.values()) else []
    return Evaluation(pictures, finished, chosen, notes, left_out, categories)


def note_reading(evaluation: Evaluation) -> None:
    """Add notes on the correction of the split half and on metrics of fewer pictures."""
    if "cc" in evaluation.metrics and any(row.name == HALVES for row in evaluation.rows):
        others = [evaluation.metrics[key].name for key in ("sim", "kld")
                  if key in evaluation.metrics]  # fmt: skip
        evaluation.notes.explain(
            f"{HALVES} (docs/METRICS.md#the-marks-of-the-observers): one half of the observers "
            "predicts the other; CC is corrected to all observers (Spearman-Brown)"
            + (f"; {' and '.join(others)} are against half of them, uncorrected" if others else "")
        )
    total = len(evaluation.pictures)
    if total == 1 and "sauc" in evaluation.metrics:
        evaluation.notes.explain(
            "sAUC needs fixations of other pictures: one picture has no value."
        )
    for row in evaluation.rows:
        fewer: dict[int, list[str]] = {}
        for key, metric in evaluation.metrics.items():
            if 0 < row.means[key].pictures < total:
                fewer.setdefault(row.means[key].pictures, []).append(metric.name)
        for count, names in fewer.items():
            evaluation.notes.explain(
                f"{row.name}: {', '.join(names)} are means over the {count} of {total} pictures "
                "with a value."
            )


def attainable_share(
    means: dict[str, dict[str, Interval]],
    scores: dict[str, list[Scores]],
    name: str,
    metric: str,
) -> float:
    """Return the position of a row's mean between the centre bias (0) and the observers (1).

    All three are scored against the same ground truth: for metrics from fixations and CC, all
    fixations; for SIM and KLD, the map of half of the observers. They are means over the pictures
    with a mark of the observers. NaN for metrics without such a mark, or if the mark is not above
    the centre bias.

    Args:
        means: means of the metrics, by row.
        scores: scores of each picture, by row.
        name: the row.
        metric: the metric.
    """
    mark = mark_of(metric)
    if not mark or mark[0] not in means or CENTRE_BIAS not in means:
        return float("nan")
    key = mark[1]
    marked = ~np.isnan([picture[key] for picture in scores[mark[0]]])
    own, floor = (
        mean_scores([one for one, use in zip(scores[row], marked, strict=True) if use], [key])[key]
        for row in (name, CENTRE_BIAS)
    )
    best = means[mark[0]][key]
    # the scale needs observers that are significantly better than the centre bias
    nearest = best.low if METRICS[metric].higher_is_better else best.high
    nearest = best.mean if np.isnan(nearest) else nearest  # NaN for a single picture
    is_better = nearest > floor if METRICS[metric].higher_is_better else nearest < floor
    return (own - floor) / (best.mean - floor) if is_better else float("nan")

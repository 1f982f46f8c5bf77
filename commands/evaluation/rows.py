"""Scoring itself: rows of maps on the pictures of a split, then the means.

Each picture's truth is made once, and every row that lacks a score of the picture gets it. The
commands that score are made of this. It knows no data set: what it depends on is in its keys.
"""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commands.evaluation.map_sources import Source
from commands.evaluation.score_log import ScoreLog
from salience.measures.adaptation import IDENTITY, Adaptation
from salience.measures.metrics import METRICS, PROFILES, Metric
from salience.measures.references import HALVED, HALVES, ONE, UNIFORM, Scores, Truth, TruthSplit
from salience.measures.references import references as reference_rows
from salience.measures.significance import Interval, mean_interval
from salience.system.cache import make_key
from salience.system.errors import UserError
from salience.system.notes import Notes
from salience.system.terminal import progress


@dataclass(frozen=True)
class Row:
    """A row of the table while it is scored: whose map, and what is done to it first.

    Attributes:
        name: of the row.
        kind: "model" or "reference".
        key: names all that its scores depend on; equal keys mean equal scores.
        score: from a picture's truth and its map (None for a reference) to its metrics.
        source: where the map comes from; None for a reference.
    """

    name: str
    kind: str
    key: str
    score: Callable[[Truth, Any], Scores]
    source: Source | None = None


@dataclass(frozen=True)
class Scored:
    """A finished row: the metrics of each picture, their means, and the share of the attainable.

    Attributes:
        name, kind: of the row.
        scores: of each picture, in the order of `Evaluation.pictures`.
        means: by metric, with bootstrap intervals.
        share: by metric, where the mean lies between the uniform map (0) and the observers (1).
    """

    name: str
    kind: str
    scores: list[Scores]
    means: dict[str, Interval]
    share: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """All rows on the same pictures, and what should be known beside them."""

    pictures: list[str]
    rows: list[Scored]
    metrics: dict[str, Metric]
    notes: Notes
    left_out: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)  # of each picture; none where it has none

    def row(self, name: str) -> Scored:
        """Return the row of a name."""
        return next(row for row in self.rows if row.name == name)


def model_row(source: Source, split: TruthSplit) -> Row:
    """Return the row that scores a source's maps as they are."""
    return Row(
        source.name,
        "model",
        key_of(split, source.fingerprint()),
        lambda truth, saliency_map: truth.score(saliency_map),
        source,
    )


def adapted_row(name: str, source: Source, split: TruthSplit, adaptation: Adaptation) -> Row:
    """Return the row that scores a source's maps as an adaptation makes them."""
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


def all_reference_rows(split: TruthSplit) -> list[Row]:
    """Return the reference rows of a split."""
    return [
        Row(name, "reference", key_of(split, name), lambda truth, _, score=score: score(truth))
        for name, score in reference_rows(split).items()
    ]


def key_of(split: TruthSplit, about: str) -> str:
    """Return the key of a row on a split: the pictures, the map, and the code that scores it."""
    return make_key(score_rows, split.fingerprint, about)[:16]


def unscored(notes: Notes) -> str:
    """Return why no picture is scored: what the pictures were left out for, then what was told."""
    reasons = [line for line in notes.lines() if "left out of every row" in line]
    return "; ".join([*reasons, *reversed(notes.remarks)][:3]).rstrip(".")


def score_rows(
    split: TruthSplit, rows: list[Row], log: ScoreLog, notes: Notes, seed: int, workers: int
) -> Evaluation:
    """Score every row on every picture that the log lacks, and gather the means.

    A picture that one row has no map of is left out of all rows, so that means are over the same
    pictures; the notes name it.
    """
    names = [sample.name for sample in split.samples]
    for row in rows:
        log.recall(row.key, names, notes)
    todo = [
        i for i, name in enumerate(names) if any(not log.has(row.key, name) for row in rows)
    ]  # fmt: skip
    waiting: list[Future] = []
    bar = progress(len(names), "scoring")
    bar.update(len(names) - len(todo))

    def score(i: int, maps: dict[int, NDArray | None]) -> dict[tuple[str, str], Scores]:
        truth, found = split.truth(i), {}
        if split.samples[i].map and not np.ptp(truth.density):
            notes.add(
                "pictures whose map is of one value: metrics from maps leave them out", truth.name
            )
        for row in rows:
            saliency_map = maps.get(id(row.source))
            if log.has(row.key, truth.name) or (row.source and saliency_map is None):
                continue
            if saliency_map is not None and np.min(saliency_map) == np.max(saliency_map):
                notes.add("maps of one value: they score as chance does", truth.name)
            found[row.key, truth.name] = row.score(truth, saliency_map)
        return found

    def take(future: Future) -> None:
        log.add(future.result(), notes)
        bar.update()

    with bar, ThreadPoolExecutor(workers) as pool:
        for i, maps in zip(todo, maps_of(rows, split, todo, log), strict=True):
            waiting.append(pool.submit(score, i, maps))
            # a map in double precision has megabytes: only so many wait
            while len(waiting) > 2 * workers or (waiting and waiting[0].done()):
                take(waiting.pop(0))
        for future in waiting:
            take(future)
    pictures = [name for name in names if all(log.has(row.key, name) for row in rows)]
    if not pictures:
        raise UserError(f"No picture has a map that can be scored: {unscored(notes)}.")
    left_out = [name for name in names if name not in set(pictures)]
    scores = {row.name: [log.scores[row.key, name] for name in pictures] for row in rows}
    kinds = {row.name: row.kind for row in rows}
    return gather(pictures, kinds, scores, split, notes, left_out, seed)


def maps_of(
    rows: list[Row], split: TruthSplit, todo: list[int], log: ScoreLog
) -> Iterator[dict[int, NDArray | None]]:
    """Yield for each picture its map of every source that some row still needs."""
    sources = {id(row.source): row.source for row in rows if row.source}
    needing = {
        key: [row for row in rows if row.source and id(row.source) == key] for key in sources
    }
    streams = {}
    wanted: dict[int, set[int]] = {}
    for key, source in sources.items():
        chosen = [
            i
            for i in todo
            if any(not log.has(row.key, split.samples[i].name) for row in needing[key])
        ]
        wanted[key] = set(chosen)
        streams[key] = source.maps(
            [split.samples[i] for i in chosen], [split.pictures[i][1] for i in chosen]
        )
    for i in todo:
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
    """Return finished rows from their scores: means, intervals, and shares of the attainable.

    Args:
        pictures: what was scored.
        kinds: "model" or "reference", by row.
        scores: of each of the pictures, by row.
        split: says which metrics, and in whose definitions.
        notes: passed on.
        left_out: passed on.
        seed: of the bootstrap.
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
            {metric: attained(means, name, metric) for metric in split.names},
        )
        for name, kind in kinds.items()
    ]
    chosen = {name: PROFILES[split.profile][name] for name in split.names}
    category_of = {sample.name: sample.category for sample in split.samples}
    categories = [category_of[name] for name in pictures] if any(category_of.values()) else []
    return Evaluation(pictures, finished, chosen, notes, left_out, categories)


def note_reading(evaluation: Evaluation) -> None:
    """Note what the table alone would not tell: against what, and over how many pictures."""
    against_one = [m.name for key, m in evaluation.metrics.items() if key in HALVED]
    if against_one and any(row.name == ONE for row in evaluation.rows):
        evaluation.notes.explain(
            f"{ONE}: scores of {', '.join(against_one)} are against the map of one observer's few "
            "fixations; compare the split half instead."
        )
    total = len(evaluation.pictures)
    for row in evaluation.rows:
        fewer: dict[int, list[str]] = {}
        for key, metric in evaluation.metrics.items():
            if 0 < row.means[key].pictures < total:
                fewer.setdefault(row.means[key].pictures, []).append(metric.name)
        for count, names in fewer.items():
            evaluation.notes.explain(
                f"{row.name}: {', '.join(names)} are means over those {count} of {total} pictures "
                "that have a value."
            )


def attained(means: dict[str, dict[str, Interval]], name: str, metric: str) -> float:
    """Return where a row's mean lies between the uniform map's (0) and the observers' (1).

    All three are scored against the same truth: for a metric from fixations each observer's, whom
    the others foretell; for CC, SIM and KLD the maps of half of the observers, whom the other half
    foretells. NaN for the metrics without such a mark, and where it is not above chance.
    """
    fixations = METRICS[metric].truth == "fixations"
    ceiling = means.get(ONE if fixations else HALVES)
    key = metric if fixations else f"{metric}_vs_half"
    if not ceiling or UNIFORM not in means or key not in ceiling:
        return float("nan")
    nothing, mark = means[UNIFORM][key].mean, ceiling[key]
    gap = mark.mean - nothing
    # only a metric that puts humans clearly above a map that knows nothing has such a scale
    nearest = mark.low if METRICS[metric].higher_is_better else mark.high
    nearest = mark.mean if np.isnan(nearest) else nearest  # of one picture
    better = nearest > nothing if METRICS[metric].higher_is_better else nearest < nothing
    return (means[name][key].mean - nothing) / gap if better else float("nan")

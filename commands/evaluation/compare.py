"""What `compare` does: score several runs on the same pictures and say what differs, how surely.

Runs that differ in their seed alone are one arm: its score of a picture is the mean over its runs.
Writes `comparison.json`, `per_image.csv` and `index.html`, one page that opens anywhere.
"""

import dataclasses
import shlex
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commands.evaluation.map_sources import ModelMaps
from commands.evaluation.rows import (
    Evaluation,
    all_reference_rows,
    gather,
    model_row,
    note_reading,
    score_rows,
)
from commands.evaluation.score_log import LOG, ScoreLog
from commands.evaluation.scored_split import load_split, note_training_pictures
from commands.evaluation.tables import DIGITS, metric_definitions, score_table, write_per_image
from commands.pages.report import map_png, thumbnail_jpeg, verdict, verdict_words, write_page
from commands.settings import CompareConfig
from commands.training.runs import Arm, Run, arms_of, differing_settings
from salience.measures.metrics import METRICS
from salience.measures.references import TruthSplit, model_name
from salience.measures.significance import Difference, compare_metrics
from salience.pictures.reading import sample_density, sample_image
from salience.system.errors import UserError
from salience.system.files import make_folder, write_json
from salience.system.flags import to_json, typed_flags
from salience.system.notes import Notes
from salience.system.terminal import COMMAND_LINE, tell

# in which of the metrics a sentence sums the comparison up: the first that was asked for
MAIN_METRICS = ("nss", "ig", "cc", "auc_judd")
EXTREMES = 5  # pictures named as the best, the worst and the most changed


def run(settings: CompareConfig) -> bool:
    """Carry out `compare`; return whether every picture had a map of every run."""
    return not compare(settings)["left_out"]


def compare(settings: CompareConfig, say: Callable[[str], None] = tell) -> dict[str, Any]:
    """Score runs on the same pictures, print and write what differs.

    Args:
        settings: the runs, the data and where to write.
        say: gets each line of news.

    Returns:
        What `comparison.json` holds.

    Raises:
        UserError: a run, or the data, is not usable, or the output cannot be written.
    """
    runs = [Run(folder) for folder in settings.runs]
    arms, notes = arms_of(runs), Notes()
    make_folder(settings.output)
    split = load_split(settings, settings.split, notes)
    sources = {
        run.folder: ModelMaps(run.weights, str(run.folder), settings.batch_size, settings.workers)
        for run in runs
    }
    rows = [model_row(source, split) for source in sources.values()]
    log = ScoreLog(settings.output / LOG, settings.overwrite)
    scored = score_rows(
        split, rows + all_reference_rows(split), log, notes, settings.seed, settings.workers
    )
    evaluation = by_arm(scored, arms, split, settings.seed)
    note_reading(evaluation)
    # runs of one data set, split and start have the same training pictures, which are read once
    trainings = {
        (run.config.sets_name, run.config.plan, run.config.init_weights): run for run in runs
    }
    for run in trainings.values():
        note_training_pictures(run.config, settings, split, notes, run.weights)
    add_notes(notes, runs, arms, scored, settings.dataset)
    comparison = described_comparison(evaluation, arms, sources, settings)
    comparison["command"] = shlex.join([*COMMAND_LINE, "compare", *typed_flags(settings)])
    say(score_table(evaluation, f"{settings.dataset}, {settings.split} split"))
    for line in (*difference_lines(comparison), *(f"note: {n}" for n in notes.lines())):
        say(line)
    say(comparison["sentence"])
    write_json(settings.output / "comparison.json", comparison)
    write_per_image(settings.output / "per_image.csv", evaluation)
    pictures = gallery_pictures(comparison, evaluation, settings.gallery)
    page = {**comparison, "rows": page_rows(evaluation)}
    page["gallery"] = list(gallery(pictures, split, arms, sources))
    write_page(settings.output / "index.html", page)
    say(f"wrote {settings.output}/index.html, comparison.json and per_image.csv")
    return comparison


def by_arm(scored: Evaluation, arms: list[Arm], split: TruthSplit, seed: int) -> Evaluation:
    """Return the evaluation with one row an arm: each picture's mean over the arm's runs."""
    kinds = {arm.name: "model" for arm in arms}
    scores = {
        arm.name: [
            {name: float(np.mean([scores[name] for scores in picture])) for name in picture[0]}
            for picture in zip(
                *(scored.row(model_name(str(run.folder))).scores for run in arm.runs), strict=True
            )
        ]
        for arm in arms
    }
    for row in scored.rows:
        if row.kind == "reference":
            kinds[row.name], scores[row.name] = row.kind, row.scores
    return gather(scored.pictures, kinds, scores, split, scored.notes, scored.left_out, seed)


def add_notes(
    notes: Notes, runs: list[Run], arms: list[Arm], scored: Evaluation, dataset: str
) -> None:
    """Note what a reader of the comparison should know of the runs themselves."""
    for run in runs:
        if run.config.dataset != (dataset,):
            notes.explain(f"{run.folder} was trained on {run.config.dataset_name}.")
    metric = main_metric(scored)
    if any(len(arm.runs) > 1 for arm in arms):
        notes.explain(
            "Of an arm of several runs, scores and costs are those of all; the maps, the curves "
            "and the settings shown are those of its first."
        )
    for arm in arms:
        if len(arm.runs) > 1:
            means = [scored.row(model_name(str(run.folder))).means[metric].mean for run in arm.runs]
            seeds = ", ".join(str(run.config.seed) for run in arm.runs)
            notes.explain(
                f"{arm.name} is the mean of {len(means)} runs (seeds {seeds}); their mean "
                f"{METRICS[metric].name} has a standard deviation of {np.std(means, ddof=1):.3f}. "
                "Intervals and tests are over pictures, not over seeds."
            )
    if all(len(arm.runs) == 1 for arm in arms):
        notes.explain(
            "Each arm is one run: the intervals tell how it would do on other pictures, not how "
            "another seed would."
        )
    # of settings other than the strategy, the reader should not have to guess
    differing = differing_settings(arms)
    if differing:
        notes.explain("The arms also differ in " + ", ".join(differing) + ".")


def main_metric(evaluation: Evaluation) -> str:
    """Return the metric that sentences are about: the first of MAIN_METRICS of every model."""
    models = [row for row in evaluation.rows if row.kind == "model"]
    known = [
        name
        for name in evaluation.metrics
        if all(not np.isnan(row.means[name].mean) for row in models)
    ]
    if not known:
        raise UserError("No metric has a value for every run: the pictures have no truth to score.")
    return next((name for name in MAIN_METRICS if name in known), known[0])


def described_comparison(
    evaluation: Evaluation,
    arms: list[Arm],
    sources: dict[Path, ModelMaps],
    settings: CompareConfig,
) -> dict[str, Any]:
    """Return the comparison as plain values, as the page and the JSON file want them."""
    by_name = {arm.name: arm for arm in arms}
    scored = []
    for row in evaluation.rows:
        entry: dict[str, Any] = {
            "name": row.name,
            "kind": row.kind,
            "means": {name: dataclasses.asdict(mean) for name, mean in row.means.items()},
            "share": row.share if row.kind == "model" else {},
            "cost": None,
            "config": None,
            "history": None,
        }
        if row.name in by_name:
            arm = by_name[row.name]
            entry["cost"] = cost(arm, sources[arm.runs[0].folder])
            entry["config"] = to_json(arm.runs[0].config)
            entry["history"] = arm.runs[0].history
            entry["runs"] = [str(run.folder) for run in arm.runs]
        scored.append(entry)
    differences, effects = [], []
    for before, after in combinations([arm.name for arm in arms], 2):
        found = paired(evaluation, before, after, settings.seed)
        # a minus b: what the later arm of the command line adds to the earlier
        differences += [
            {"a": after, "b": before, "metric": name, **dataclasses.asdict(d)}
            for name, d in found.items()
        ]
        effects.append(effects_by_picture(evaluation, before, after))
    names = [f"{arm.name}" for arm in arms]
    comparison = {
        "title": " or ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names),
        "dataset": settings.dataset,
        "split": settings.split,
        "pictures": len(evaluation.pictures),
        "left_out": evaluation.left_out,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "scoring": to_json(settings),
        "metrics": [
            {"key": key, **about} for key, about in metric_definitions(evaluation.metrics).items()
        ],
        "scored": scored,
        "differences": differences,
        "effects": effects,
        "notes": evaluation.notes.lines(),
    }
    return {**comparison, "sentence": sentence(comparison, main_metric(evaluation))}


def paired(evaluation: Evaluation, before: str, after: str, seed: int) -> dict[str, Difference]:
    """Return what changes from one row to another in each metric."""
    better = {name: metric.higher_is_better for name, metric in evaluation.metrics.items()}
    columns = [
        {name: [scores[name] for scores in evaluation.row(row).scores] for name in better}
        for row in (before, after)
    ]
    return compare_metrics(columns[0], columns[1], better, seed)


def effects_by_picture(evaluation: Evaluation, before: str, after: str) -> dict[str, Any]:
    """Return the pictures that gained and lost most from one arm to another, and its extremes."""
    metric = main_metric(evaluation)
    old, new = (
        np.array([scores[metric] for scores in evaluation.row(name).scores])
        for name in (before, after)
    )
    sign = 1 if METRICS[metric].higher_is_better else -1

    def leading(values: NDArray) -> list[dict[str, Any]]:
        """Return the pictures of the highest values, with their scores."""
        order = [i for i in np.argsort(-values, kind="stable") if not np.isnan(values[i])]
        return [
            {"picture": evaluation.pictures[i], before: float(old[i]), after: float(new[i])}
            for i in order[:EXTREMES]
        ]

    gain = sign * (new - old)
    return {
        "before": before,
        "after": after,
        "metric": metric,
        "most_gained": leading(gain),
        "most_lost": leading(-gain),
        "best": leading(sign * new),
        "worst": leading(-sign * new),
    }


def cost(arm: Arm, source: ModelMaps) -> dict[str, float | None]:
    """Return what training an arm took, as the means over its runs; None where it is not known."""
    histories = [row for run in arm.runs for row in run.history]

    def over(name: str, function: Callable = np.mean) -> float | None:
        values = [row[name] for row in histories if name in row]
        return float(function(values)) if values else None

    return {
        "trainable_weights": sum(int(np.prod(w.shape)) for w in source.model.trainable_weights),
        "weights": source.model.count_params(),
        "seconds_per_epoch": over("seconds"),
        "images_per_second": over("images_per_second"),
        "peak_memory_mb": over("peak_memory_mb", max),
    }


def sentence(comparison: dict[str, Any], metric: str) -> str:
    """Return the comparison's answer in a metric: who is best, by how much, and how surely."""
    arms = [entry for entry in comparison["scored"] if entry["kind"] == "model"]
    name, sign = METRICS[metric].name, 1 if METRICS[metric].higher_is_better else -1
    best = max(arms, key=lambda arm: sign * arm["means"][metric]["mean"])
    mean, share = best["means"][metric]["mean"], best["share"].get(metric, float("nan"))
    count = comparison["pictures"]
    where = f"On {count} picture{'s' * (count != 1)} of {comparison['dataset']}"
    clauses = [
        clause(comparison, best["name"], other["name"], metric) for other in arms if other != best
    ]
    lead = f"{where}, {best['name']} scores {name} {mean:.{DIGITS.get(metric, 3)}f}"
    if clauses:
        lead += ", " + ", and ".join(clauses)
    if share < 0:
        lead += "; that is worse than a uniform map"
    elif share == share:
        lead += (
            f"; that is {share:.0%} of the way from a uniform map to what observers foretell of "
            "each other"
        )
    return lead + "."


def clause(comparison: dict[str, Any], best: str, other: str, metric: str) -> str:
    """Return by how much the best arm is better than another, and whether that could be chance."""
    row = next(
        d
        for d in comparison["differences"]
        if {d["a"], d["b"]} == {best, other} and d["metric"] == metric
    )
    sign, d = 1 if row["a"] == best else -1, DIGITS.get(metric, 3)

    def signed(value: float) -> str:
        return f"{round(sign * value, d) + 0.0:+.{d}f}"

    gap = signed(row["difference"])
    if np.isnan(row["low"]):
        return f"{gap} against {other}, of which too few pictures tell nothing"
    low, high = (row["low"], row["high"]) if sign > 0 else (row["high"], row["low"])
    gap = f"{gap} (95 % interval {signed(low)} to {signed(high)}) against {other}"
    found = said(row)
    if found == "unclear":
        return f"{gap}, which these pictures do not tell from chance"
    if found == "zero":
        return f"{gap}, which rounds to zero"
    if found == "uncorrected":
        return f"{gap}, {verdict_words(found, row, comparison['differences'])}"
    improved = row["improved"] if row["a"] == best else 1 - row["improved"]
    return f"{gap} and better in {improved:.0%} of the pictures"


def said(row: dict[str, Any]) -> str:
    """Return the verdict on a difference, with the decimals that the terminal shows."""
    metric = row["metric"]
    better = {"higher_is_better": METRICS[metric].higher_is_better}
    return verdict(row, better, DIGITS.get(metric, 3))


def difference_lines(comparison: dict[str, Any]) -> Iterator[str]:
    """Yield the differences as text, a line a metric under a heading a pair."""
    heading = ""
    for row in comparison["differences"]:
        if np.isnan(row["low"]):
            continue  # fewer than two pictures have both scores
        pair = f"{row['a']} minus {row['b']}, paired by picture:"
        if pair != heading:
            heading = pair
            yield pair
        d = DIGITS.get(row["metric"], 3)
        gap, low, high = (round(row[key], d) + 0.0 for key in ("difference", "low", "high"))
        words = [f"better in {row['improved']:.0%} of {row['pictures']}"] if gap else []
        if (found := said(row)) in ("zero", "uncorrected") or not gap:
            words.append(verdict_words(found if gap else "zero", row, comparison["differences"]))
        yield (
            f"  {METRICS[row['metric']].name:<10}{gap:+.{d}f} [{low:+.{d}f}, {high:+.{d}f}]  "
            f"p {row['p']:.4f}, corrected {row['p_corrected']:.4f}; " + "; ".join(words)
        )


def page_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the scores of each picture for the page."""
    return [
        {"picture": name, "scores": {row.name: row.scores[i] for row in evaluation.rows}}
        for i, name in enumerate(evaluation.pictures)
    ]


def gallery_pictures(comparison: dict[str, Any], evaluation: Evaluation, count: int) -> list[str]:
    """Return the pictures to show: those that changed most, the extremes, then evenly the rest."""
    chosen: dict[str, None] = {}
    kinds = ("most_gained", "most_lost", "best", "worst")
    for rank in range(EXTREMES):
        for effect in comparison["effects"]:
            for kind in kinds:
                if rank < len(effect[kind]):
                    chosen.setdefault(effect[kind][rank]["picture"])
    names = evaluation.pictures
    for i in np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int):
        chosen.setdefault(names[i])
    for name in names:
        chosen.setdefault(name)
    shown = set(list(chosen)[:count])
    return [name for name in names if name in shown]


def gallery(
    pictures: list[str], split: TruthSplit, arms: list[Arm], sources: dict[Path, ModelMaps]
) -> Iterator[dict[str, Any]]:
    """Yield each shown picture with its fixations, its truth, and each arm's first run's map."""
    indices = [i for i, sample in enumerate(split.samples) if sample.name in set(pictures)]
    samples = [split.samples[i] for i in indices]
    shapes = [split.pictures[i][1] for i in indices]
    streams = {arm.name: sources[arm.runs[0].folder].maps(samples, shapes) for arm in arms}
    for sample, shape in zip(samples, shapes, strict=True):
        density = sample_density(sample, shape, split.sigma_pixels)
        fixations = [] if sample.fixations is None else sample.fixations.tolist()
        yield {
            "picture": sample.name,
            "width": shape[1],
            "height": shape[0],
            "fixations": fixations,
            "image": thumbnail_jpeg(sample_image(sample)),
            "truth": map_png(density),
            "maps": {name: map_png(np.asarray(next(maps))) for name, maps in streams.items()},
        }

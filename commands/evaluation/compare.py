"""The command `compare`: scores runs on the same pictures and tests their differences.

Runs that differ only in their seed form an arm; its score of a picture is the mean over its runs.
The outputs are `comparison.json`, `per_image.csv` and `index.html`, a self-contained page.
"""

import dataclasses
import shlex
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commands.evaluation.map_sources import ModelMaps, Source, engine_for, of_one_precision
from commands.evaluation.rows import (
    Evaluation,
    all_reference_rows,
    gather,
    model_row,
    note_reading,
    score_rows,
    scoring_line,
)
from commands.evaluation.score_log import LOG, ScoreLog
from commands.evaluation.scored_split import load_split, note_training_pictures, truth_of
from commands.evaluation.tables import DIGITS, metric_definitions, score_table, write_per_image
from commands.pages.report import map_png, thumbnail_jpeg, verdict, verdict_text, write_page
from commands.prediction.engines import finish_for
from commands.settings import CompareConfig, EvaluateConfig
from commands.training.runs import Arm, Run, arms_of, differing_settings, run_of
from salience.measures.density import LOG_DENSITY, density_kind
from salience.measures.metrics import METRICS
from salience.measures.references import CENTRE_BIAS, TruthSplit, model_name, observers_row
from salience.measures.significance import Difference, compare_metrics
from salience.pictures.reading import sample_density, sample_image
from salience.pictures.sample import Sample
from salience.system.errors import UserError
from salience.system.files import make_folder, write_json
from salience.system.flags import to_json, typed_flags
from salience.system.notes import Notes
from salience.system.terminal import COMMAND_LINE, counted, progress, tell
from salience.system.threads import in_order

# the summary is about the first of these metrics that was computed
MAIN_METRICS = ("nss", "ig", "cc", "auc_judd")
EXTREMES = 5  # pictures listed as the best, the worst and the most changed


def run(settings: CompareConfig) -> bool:
    """Run the command `compare`; return True if every picture has a map of every run."""
    return not compare(settings)["left_out"]


def compare(settings: CompareConfig, say: Callable[[str], None] = tell) -> dict[str, Any]:
    """Score runs on the same pictures; print and write their differences.

    Args:
        settings: the runs, the data and the output folder.
        say: called with each message.

    Returns:
        The content of `comparison.json`.

    Raises:
        UserError: a run or the data cannot be used, or the output cannot be written.
    """
    runs = [run_of(named) for named in settings.runs]
    arms, notes = arms_of(runs), Notes()
    make_folder(settings.output)
    split = load_split(settings, settings.split, notes)

    finishes = {
        run.folder: finish_for(run.weights, settings.adaptation, None, 0.0, notes.explain)
        for run in runs
    }

    def maps_by(engine: str) -> dict[Path, ModelMaps]:
        return {
            run.folder: ModelMaps(run.weights, str(run.folder), settings.batch_size,
                                  settings.workers, finish=finishes[run.folder], engine=engine,
                                  say=say)
            for run in runs
        }  # fmt: skip

    files = [run.weights for run in runs]
    engine = engine_for(settings.engine, len(split.samples), files, say)
    sources = of_one_precision(maps_by, engine)
    rows = [model_row(source, split) for source in sources.values()]
    log = ScoreLog(settings.output / LOG, settings.overwrite)
    rows += all_reference_rows(split, notes)
    say(scoring_line(split, rows))
    scored = score_rows(split, rows, log, notes, settings.seed, settings.workers)
    evaluation = average_arms(scored, arms, split, settings.seed)
    note_reading(evaluation)
    # runs of the same data set, split and initial weights share their training pictures: read once
    trainings = {
        (tuple(run.config.sets), run.config.plan, run.config.init_weights): run for run in runs
    }
    for run in trainings.values():
        note_training_pictures(run.config, settings, split.samples, notes, run.weights)
    add_notes(notes, runs, arms, scored, settings.dataset)
    comparison = comparison_values(evaluation, arms, sources, settings)
    comparison["command"] = shlex.join([*COMMAND_LINE, "compare", *typed_flags(settings)])
    comparison["truth"] = truth_of(split, settings)
    comparison["engines"] = {str(folder): one.engine.name for folder, one in sources.items()}
    say(score_table(evaluation, f"{settings.dataset}, {settings.split} split"))
    for line in (*difference_lines(comparison), *(f"note: {n}" for n in notes.lines())):
        say(line)
    say(comparison["sentence"])
    write_json(settings.output / "comparison.json", comparison)
    write_per_image(settings.output / "per_image.csv", evaluation)
    pictures = gallery_pictures(comparison, evaluation, settings.gallery)
    page = {**comparison, "rows": page_rows(evaluation)}
    shown = {arm.name: sources[arm.runs[0].folder] for arm in arms}
    page["gallery"] = list(gallery(pictures, split, shown))
    write_page(settings.output / "index.html", page)
    say(f"wrote {settings.output}/index.html, comparison.json and per_image.csv")
    return comparison


def average_arms(scored: Evaluation, arms: list[Arm], split: TruthSplit, seed: int) -> Evaluation:
    """Return the evaluation with one row per arm: each picture's mean over the arm's runs."""
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
    """Add notes on the runs: their data sets, seeds and differing settings."""
    for run in runs:
        if run.config.dataset != (dataset,):
            notes.explain(f"{run.folder} was trained on {run.config.dataset_name}.")
    metric = main_metric(scored)
    if any(len(arm.runs) > 1 for arm in arms):
        notes.explain(
            "For an arm of several runs, scores and costs are means over all runs; the maps, the "
            "curves and the settings shown are those of its first run."
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
            "Each arm is one run: the intervals cover other pictures, but not other seeds. Runs "
            "with another --seed show those: docs/EVALUATING.md#compare"
        )
    # report settings other than the strategy that differ
    differing = differing_settings(arms)
    if differing:
        notes.explain("The arms also differ in " + ", ".join(differing) + ".")


def main_metric(evaluation: Evaluation) -> str:
    """Return the metric of the summary: the first of MAIN_METRICS that all models have."""
    models = [row for row in evaluation.rows if row.kind == "model"]
    known = [
        name
        for name in evaluation.metrics
        if all(not np.isnan(row.means[name].mean) for row in models)
    ]
    if not known:
        raise UserError("No metric has a value for every run: the pictures have no ground truth.")
    return next((name for name in MAIN_METRICS if name in known), known[0])


def comparison_values(
    evaluation: Evaluation,
    arms: list[Arm],
    sources: dict[Path, ModelMaps],
    settings: CompareConfig,
) -> dict[str, Any]:
    """Return the comparison as JSON values, for the page and the JSON file."""
    names = [arm.name for arm in arms]
    comparison = page_values(evaluation, names, settings)
    for entry in comparison["scored"]:
        for arm in arms:
            if arm.name == entry["name"]:
                entry["cost"] = cost(arm, sources[arm.runs[0].folder])
                entry["config"] = to_json(arm.runs[0].config)
                entry["history"] = arm.runs[0].history
                entry["runs"] = [str(run.folder) for run in arm.runs]
    return comparison


def page_values(
    evaluation: Evaluation, names: list[str], settings: CompareConfig | EvaluateConfig
) -> dict[str, Any]:
    """Return an evaluation as JSON values: means of all rows, differences of the named ones.

    Raises:
        UserError: no metric has a value for every model.
    """
    scored = [
        {
            "name": row.name,
            "kind": row.kind,
            "means": {name: dataclasses.asdict(mean) for name, mean in row.means.items()},
            "share": row.share if row.kind == "model" else {},
            "cost": None,
            "config": None,
            "history": None,
        }
        for row in evaluation.rows
    ]
    differences, effects = [], []
    for before, after in combinations(names, 2):
        found = paired(evaluation, before, after, settings.seed)
        # a minus b: the later arm of the command line minus the earlier
        differences += [
            {"a": after, "b": before, "metric": name, **dataclasses.asdict(d)}
            for name, d in found.items()
        ]
        effects.append(effects_by_picture(evaluation, before, after))
    if len(names) == 1:
        alone = effects_by_picture(evaluation, names[0], names[0])
        effects.append({**alone, "most_gained": [], "most_lost": []})
    comparison = {
        "title": " or ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names),
        "dataset": settings.dataset,
        "split": settings.split,
        "pictures": len(evaluation.pictures),
        "left_out": evaluation.left_out,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "scoring": to_json(settings),
        "metrics": [
            {**about, "key": key, "people": people_of(evaluation, key), "baseline": CENTRE_BIAS}
            for key, about in metric_definitions(evaluation.metrics).items()
        ],
        "scored": scored,
        "differences": differences,
        "effects": effects,
        "notes": evaluation.notes.lines(),
    }
    return {**comparison, "sentence": sentence(comparison, main_metric(evaluation))}


def people_of(evaluation: Evaluation, metric: str) -> str | None:
    """Return the name of the row of human observers to compare with in a metric, or None."""
    name = observers_row(metric)
    rows = [row for row in evaluation.rows if row.name == name]
    return name if any(not np.isnan(row.means[metric].mean) for row in rows) else None


def paired(evaluation: Evaluation, before: str, after: str, seed: int) -> dict[str, Difference]:
    """Return the difference of two rows in each metric, paired by picture."""
    better = {name: metric.higher_is_better for name, metric in evaluation.metrics.items()}
    columns = [
        {name: [scores[name] for scores in evaluation.row(row).scores] for name in better}
        for row in (before, after)
    ]
    return compare_metrics(columns[0], columns[1], better, seed)


def effects_by_picture(evaluation: Evaluation, before: str, after: str) -> dict[str, Any]:
    """Return the pictures with the largest gains and losses, and the best and the worst ones."""
    metric = main_metric(evaluation)
    old, new = (
        np.array([scores[metric] for scores in evaluation.row(name).scores])
        for name in (before, after)
    )
    sign = 1 if METRICS[metric].higher_is_better else -1

    def leading(values: NDArray) -> list[dict[str, Any]]:
        """Return the pictures with the highest values, with their scores."""
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
    """Return the costs of training an arm as means over its runs; None for unknown values."""
    histories = [row for run in arm.runs for row in run.history]

    def over(name: str, function: Callable = np.mean) -> float | None:
        values = [row[name] for row in histories if name in row]
        return float(function(values)) if values else None

    return {
        **source.counts,
        "seconds_per_epoch": over("seconds"),
        "images_per_second": over("images_per_second"),
        "peak_memory_mb": over("peak_memory_mb", max),
    }


def sentence(comparison: dict[str, Any], metric: str) -> str:
    """Return a summary: the best arm in a metric, its margin and its significance."""
    arms = [entry for entry in comparison["scored"] if entry["kind"] == "model"]
    name, sign = METRICS[metric].name, 1 if METRICS[metric].higher_is_better else -1
    best = max(arms, key=lambda arm: sign * arm["means"][metric]["mean"])
    mean, share = best["means"][metric]["mean"], best["share"].get(metric, float("nan"))
    where = f"On {counted(comparison['pictures'], 'picture')} of {comparison['dataset']}"
    clauses = [
        clause(comparison, best["name"], other["name"], metric) for other in arms if other != best
    ]
    lead = f"{where}, {best['name']} scores {name} {mean:.{DIGITS.get(metric, 3)}f}"
    if clauses:
        lead += ", " + ", and ".join(clauses)
    if share < 0:
        lead += "; that is worse than the centre bias"
    elif share == share:
        lead += (
            f"; that is {share:.0%} of the way from the centre bias to the observers' prediction "
            "of each other"
        )
    return lead + "."


def clause(comparison: dict[str, Any], best: str, other: str, metric: str) -> str:
    """Return the margin of the best arm over another, with its significance."""
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
        return f"{gap} against {other}, from too few pictures for a test"
    low, high = (row["low"], row["high"]) if sign > 0 else (row["high"], row["low"])
    gap = f"{gap} (95 % interval {signed(low)} to {signed(high)}) against {other}"
    found = verdict_of(row)
    if found == "unclear":
        return f"{gap}, which is not significant"
    if found == "zero":
        return f"{gap}, which rounds to zero"
    if found == "uncorrected":
        return f"{gap}, {verdict_text(found, row, comparison['differences'])}"
    improved = row["improved"] if row["a"] == best else 1 - row["improved"]
    return f"{gap} and better in {improved:.0%} of the pictures"


def verdict_of(row: dict[str, Any]) -> str:
    """Return the verdict on a difference, rounded as in the terminal."""
    metric = row["metric"]
    better = {"higher_is_better": METRICS[metric].higher_is_better}
    return verdict(row, better, DIGITS.get(metric, 3))


def difference_lines(comparison: dict[str, Any]) -> Iterator[str]:
    """Yield the differences as text: a heading per pair of arms, then a line per metric."""
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
        if (found := verdict_of(row)) in ("zero", "uncorrected") or not gap:
            words.append(verdict_text(found if gap else "zero", row, comparison["differences"]))
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
    """Return the pictures to show: extremes and largest changes, then evenly spaced ones."""
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
    pictures: list[str], split: TruthSplit, sources: Mapping[str, Source]
) -> Iterator[dict[str, Any]]:
    """Yield each picture with its fixations, density map and the map of each source by its name."""
    indices = [i for i, sample in enumerate(split.samples) if sample.name in set(pictures)]
    samples = [split.samples[i] for i in indices]
    shapes = [split.pictures[i][1] for i in indices]
    streams = {name: source.maps(samples, shapes) for name, source in sources.items()}

    def drawn(given: tuple[Sample, tuple[int, int], dict[str, NDArray | None]]) -> dict[str, Any]:
        sample, shape, maps = given
        return {
            "picture": sample.name,
            "width": shape[1],
            "height": shape[0],
            "fixations": [] if sample.fixations is None else sample.fixations.tolist(),
            "image": thumbnail_jpeg(sample_image(sample)),
            "truth": map_png(sample_density(sample, shape, split.sigma_pixels)),
            "maps": {name: map_png(not_negative(values)) for name, values in maps.items()},
        }

    found = (
        (sample, shape, {name: next(maps) for name, maps in streams.items()})
        for sample, shape in zip(samples, shapes, strict=True)
    )
    bar = progress(len(samples), "pictures of the page")
    with bar, ThreadPoolExecutor(split.workers) as pool:
        for _, entry in in_order(pool, drawn, found, split.workers):
            bar.update()
            yield entry


def not_negative(saliency_map: NDArray | None) -> NDArray:
    """Return a map without values below 0: those of logarithms, or moved up."""
    values = np.asarray(saliency_map)
    if density_kind(values) == LOG_DENSITY:
        return np.exp(values - values.max())
    return values - min(0.0, float(np.nanmin(values)))

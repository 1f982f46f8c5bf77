"""Tables of an evaluation: text for the terminal, metrics.json and per_image.csv."""

import dataclasses
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from commands.evaluation.rows import Evaluation, Scored
from salience.measures.metrics import Metric, mean_scores
from salience.measures.references import CENTRE_BIAS, GOLD, HALVES, Scores, mark_of
from salience.system.files import as_csv, write_json, write_text
from salience.system.terminal import WIDTH, aligned, counted

METRICS_PAGE = "docs/METRICS.md"  # what each metric asks, and which to look at
DIGITS = {"mse": 4}  # decimals; three for all other metrics


def score_table(evaluation: Evaluation, caption: str) -> str:
    """Return the means with their intervals as text: a line per metric, a column per row.

    Rows that do not fit beside each other follow below. The definitions of the metrics stand last.
    """
    lines = [["", *(row.name for row in evaluation.rows)]]
    for key, metric in evaluation.metrics.items():
        name = metric.name + ("" if metric.higher_is_better else " (lower is better)")
        lines.append([name, *(cell(row, key) for row in evaluation.rows)])
    count = len(evaluation.pictures)
    text = [f"{caption}: {counted(count, 'picture')}, means [bootstrap 95 %]", aligned(lines)]
    if any(row.name in (GOLD, HALVES) for row in evaluation.rows):
        text.append("%: 0 is the centre bias, 100 the row of the humans")
    # needed to compare scores with those of others
    about = [f"{m.name} {m.variant}" for m in evaluation.metrics.values() if m.variant]
    if about:
        # a definition is not broken: spaces within it are no places for a break
        words = "; ".join(one.replace(" ", "\xa0") for one in about)
        filled = textwrap.fill(f"definitions ({METRICS_PAGE}): {words}", WIDTH,
                               subsequent_indent="  ", break_on_hyphens=False)  # fmt: skip
        text.append(filled.replace("\xa0", " "))
    return "\n".join(text)


def category_means(evaluation: Evaluation, row: Scored) -> dict[str, Scores]:
    """Return the means of a row over the pictures of each category."""
    groups: dict[str, list[Scores]] = {}
    for category, scores in zip(evaluation.categories, row.scores, strict=False):
        groups.setdefault(category, []).append(scores)
    return {name: mean_scores(groups[name], tuple(evaluation.metrics)) for name in sorted(groups)}


def category_table(evaluation: Evaluation) -> list[str]:
    """Return the means by category of each model as text; no table without categories."""
    tables = []
    for row in evaluation.rows:
        if row.kind != "model" or not evaluation.categories:
            continue
        lines = [[f"{row.name}, by category", *(m.name for m in evaluation.metrics.values()), ""]]
        for category, means in category_means(evaluation, row).items():
            digits = (f"{means[key]:.{DIGITS.get(key, 3)}f}" for key in evaluation.metrics)
            lines.append([category, *digits, str(evaluation.categories.count(category))])
        lines[0][-1] = "pictures"
        tables.append(aligned(lines))
    return tables


def cell(row: Scored, metric: str) -> str:
    """Return a mean with its interval, and for a model its share of the attainable score."""
    found = row.means[metric]
    if np.isnan(found.mean):
        return "-"
    d = DIGITS.get(metric, 3)
    interval = "" if np.isnan(found.low) else f" [{found.low:.{d}f}, {found.high:.{d}f}]"
    share = row.share[metric]
    if row.kind != "model" or np.isnan(share):
        return f"{found.mean:.{d}f}{interval}"
    # a negative share has no meaningful size
    return f"{found.mean:.{d}f}{interval} " + ("< 0%" if share < 0 else f"{share:4.0%}")


def write(
    folder: Path, evaluation: Evaluation, settings: dict[str, Any], truth: dict[str, Any]
) -> None:
    """Write the means as metrics.json and the pictures' rows as per_image.csv.

    Args:
        folder: the output folder.
        evaluation: the rows.
        settings: the settings as JSON values.
        truth: the origin of the density maps, see `truth_of`.
    """
    write_json(
        folder / "metrics.json",
        {
            "settings": settings,
            "truth": truth,
            "pictures": len(evaluation.pictures),
            "left_out": evaluation.left_out,
            "metrics": metric_definitions(evaluation.metrics),
            "rows": {
                row.name: {
                    "kind": row.kind,
                    "means": {name: dataclasses.asdict(m) for name, m in row.means.items()},
                    "share_of_attainable": row.share,
                    **by_category(evaluation, row),
                }
                for row in evaluation.rows
            },
            "notes": {**evaluation.notes.found, "remarks": evaluation.notes.remarks},
        },
    )
    write_per_image(folder / "per_image.csv", evaluation)


def by_category(evaluation: Evaluation, row: Scored) -> dict[str, Any]:
    """Return a model's means by category, for the files; {} without categories."""
    if row.kind != "model" or not evaluation.categories:
        return {}
    return {"means_by_category": category_means(evaluation, row)}


def write_per_image(path: Path, evaluation: Evaluation) -> None:
    """Write a line for each picture and row, with the picture's category if it has one."""
    kinds = [{"category": category} for category in evaluation.categories]
    lines = [
        {"picture": name, **kind, "scored": row.name, **scores}
        for row in evaluation.rows
        for name, kind, scores in zip(
            evaluation.pictures, kinds or [{}] * len(evaluation.pictures), row.scores, strict=True
        )
    ]
    write_text(path, as_csv(lines))


def metric_definitions(chosen: dict[str, Metric]) -> dict[str, dict[str, Any]]:
    """Return the definition of each metric, for the files."""
    return {
        key: {
            "name": m.name,
            "higher_is_better": m.higher_is_better,
            "variant": m.variant,
            "share": f"from {CENTRE_BIAS} to {mark[0]}" if mark else None,
        }
        for key, m in chosen.items()
        for mark in [mark_of(key)]
    }

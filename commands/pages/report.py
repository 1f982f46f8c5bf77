"""Renders a comparison or a probe as one self-contained HTML page: tables, curves and a gallery.

The input is JSON values; the HTML needs no other files and no internet. Markup, style and script
are in `templates/`.
"""

import base64
import hashlib
import io
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from commands.pages.explained import METRIC_HELP
from commands.pages.figures import alignment, new_figure, shrink
from salience.system.files import write_text
from salience.system.terminal import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATES = Path(__file__).resolve().parent / "templates"
DASH = "\N{EN DASH}"  # shown for missing numbers
MINUS = "\N{MINUS SIGN}"
THIN_SPACE = "\N{NARROW NO-BREAK SPACE}"
SERIES = 6  # colours of the style sheet; further models repeat them
SIGNIFICANT = 0.05  # threshold of the corrected p
# smallest span of a curve's axis, as a share of the largest value: less would make noise a cliff
LEAST_SPAN = 0.1
LARGEST_HEADLINE = 3  # pairs of models in the first sentences
MAP_LEVELS = 64  # six bits look the same as eight and halve the size of the PNG

IMAGES = {b"\x89PNG": "png", b"RIFF": "webp"}  # kinds of embedded pictures beside JPEG

Row = dict[str, Any]

_EMPTY: Row = {"differences": [], "notes": [], "rows": [], "gallery": [], "command": "", "date": ""}


def write_page(path: Path, comparison: dict[str, Any]) -> None:
    """Write a comparison atomically as one HTML file.

    Args:
        path: the HTML file.
        comparison: results of `compare`: `title`, `sentence`, `dataset`, `split`, `pictures`,
            `date`, `command`, `metrics` (columns), `scored` (models and references, with means,
            intervals, cost, config and history), `differences`, `notes`, `rows` (the scores of each
            picture) and `gallery` (pictures and maps, as JPEG or PNG bytes). NaN and None are shown
            as a dash. All texts are escaped.

    Raises:
        UserError: the file cannot be written.
    """
    write_text(path, render(comparison))


def render(comparison: dict[str, Any]) -> str:
    """Return the HTML page of a comparison."""
    comparison = {**_EMPTY, **{k: v for k, v in plain(comparison).items() if v is not None}}
    script, digest = script_of("shared.js", "report.js", "theme.js")
    digits = metric_digits(comparison)
    template = environment().get_template("report.html")
    return template.render(
        **comparison,
        script=script,
        script_hash=digest,
        style=style_of("report.css"),
        digits=digits,
        score_rows=score_cells(comparison),
        pairs=pairs(comparison),
        models=[entry for entry in comparison["scored"] if entry["kind"] == "model"],
        priced=[entry for entry in comparison["scored"] if entry.get("cost")],
        curves=training_curves(comparison),
        levels=list(reference_levels(comparison)),
        headline=headline(comparison),
        help=METRIC_HELP,
        settings=config_rows(comparison["scored"]),
        payload=payload(comparison, digits),
    )


def write_probe_page(path: Path, found: dict[str, Any]) -> None:
    """Write the results of a probe atomically as one HTML file.

    Args:
        path: the HTML file.
        found: the content of `probe.json`, and `gallery`: for each picture its `panels`, BGR
            pictures by name. All texts are escaped.

    Raises:
        UserError: the file cannot be written.
    """
    write_text(path, render_probe(found))


def render_probe(found: dict[str, Any]) -> str:
    """Return the HTML page of a probe, which has no script."""
    gallery = [
        {"picture": item["picture"], "panels": [
            {"name": name, "image": thumbnail_jpeg(image, 240)}
            for name, image in item["panels"].items()
        ]}
        for item in found["gallery"]
    ]  # fmt: skip
    values = plain({**found, "gallery": gallery})
    rows = [{**row, "kind": "model"} for row in values["read_outs"]] + [
        {**row, "kind": "reference"} for row in values["references"]
    ]
    plot = _svg(alignment(values, _INK, (_series(0), _series(1))), "alignment")
    return environment().get_template("probe.html").render(
        **values,
        style=style_of("report.css"),
        script_hash="",
        plot=Markup(plot),
        score_rows=score_cells({"scored": rows, "metrics": values["metrics"]}),
        networks=list(dict.fromkeys(row["network"] for row in values["read_outs"])),
        digits=metric_digits({"scored": rows, "metrics": values["metrics"]}),
    )  # fmt: skip


def style_of(*names: str) -> Markup:
    """Return style sheets of `templates/` as one."""
    return Markup("".join((TEMPLATES / name).read_text(encoding="utf-8") for name in names))


def script_of(*names: str) -> tuple[Markup, str]:
    """Return scripts of `templates/` as one, and its SHA-256 for the content security policy.

    The policy allows only this script, so that file names cannot inject others.
    """
    script = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in names)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Markup(script), digest


def thumbnail_jpeg(image: NDArray, longest: int = 480) -> bytes:
    """Return a picture, BGR uint8 [rows, columns, 3], as a small JPEG for the gallery."""
    small = shrink(image, longest)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 72])[1].tobytes()


def map_png(saliency_map: NDArray, longest: int = 160) -> bytes:
    """Return a map as a small grey PNG for the gallery, scaled to a maximum of 1.

    The gallery compares the positions of high values, not their scale.

    Args:
        saliency_map: [rows, columns], 0 or more; NaN counts as 0.
        longest: rows or columns of the PNG, pixels.
    """
    values = np.maximum(np.nan_to_num(shrink(saliency_map.astype(np.float32), longest)), 0)
    peak = values.max()
    levels = np.round(values / (peak if peak > 0 else 1) * (MAP_LEVELS - 1))
    grey = np.round(levels * (255 / (MAP_LEVELS - 1))).astype(np.uint8)
    return cv2.imencode(".png", grey, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def number(value: float | None, digits: int = 3, signed: bool = False) -> str:
    """Return a number as text, or a dash if it is missing.

    >>> number(0.5, 1, signed=True), number(float("nan")) == DASH, number(-1, 0) == MINUS + "1"
    ('+0.5', True, True)
    """
    if value is None or not math.isfinite(value):
        return DASH
    value = round(value, digits) + 0.0  # avoids "-0"
    text = f"{value:+,.{digits}f}" if signed else f"{value:,.{digits}f}"
    return text.replace("-", MINUS).replace(",", THIN_SPACE)


def percent(value: float | None) -> str:
    """Return a share as text in per cent, or a dash if it is missing.

    >>> percent(0.847) == "85" + THIN_SPACE + "%", percent(None) == DASH
    (True, True)
    """
    if value is None or not math.isfinite(value):
        return DASH
    return f"{number(100 * value, 0)}{THIN_SPACE}%"


def p_value(value: float | None) -> str:
    """Return a p-value as text; small values as "< 0.001".

    >>> p_value(0.0314), p_value(1e-5)
    ('0.031', '< 0.001')
    """
    if value is not None and value < 0.001:
        return "< 0.001"
    return number(value, 3)


def metric_digits(comparison: dict[str, Any]) -> dict[str, int]:
    """Return the number of decimals for the scores of each metric."""
    digits = {}
    for metric in comparison["metrics"]:
        means = _means(comparison["scored"], metric["key"])
        sizes = [abs(mean["mean"]) for mean in means if mean.get("mean")]
        largest = max(sizes, default=1.0)
        needed = 2 - math.floor(math.log10(largest))  # three significant digits of the largest
        digits[metric["key"]] = 2 if largest >= 10 else min(6, max(3, needed))
    return digits


def score_cells(comparison: dict[str, Any]) -> list[Row]:
    """Return the table of means: a row per model or reference, a cell per metric.

    A cell's `from`, `at` and `to` place its interval on the metric's scale, 0 to 100.
    """
    scored, digits = comparison["scored"], metric_digits(comparison)
    rows = [{"name": entry["name"], "kind": entry["kind"], "cells": []} for entry in scored]
    for metric in comparison["metrics"]:
        key = metric["key"]
        means = _means(comparison["scored"], key)
        spans = [(*_interval(mean), mean.get("mean")) for mean in means]
        ends = [end for span in spans for end in span if end is not None]
        lowest, highest = min(ends, default=0.0), max(ends, default=0.0)
        width = (highest - lowest) or 1.0
        best = _best(scored, means, metric["higher_is_better"], digits[key])
        for index, (entry, (low, high, mean)) in enumerate(zip(scored, spans, strict=True)):
            start, at, end = (
                None if x is None else 2 + 96 * (x - lowest) / width for x in (low, mean, high)
            )
            cell = {"key": key, "mean": mean, "low": low, "high": high}
            cell |= {"from": start, "at": at, "to": end, "best": index in best}
            cell["share"] = (entry.get("share") or {}).get(key)
            rows[index]["cells"].append(cell)
    return rows


def _means(scored: list[Row], key: str) -> list[Row]:
    """Return the mean and interval of each row in a metric; {} if it was not scored."""
    return [(entry.get("means") or {}).get(key) or {} for entry in scored]


def _interval(mean: Row) -> tuple[float | None, float | None]:
    """Return the ends of an interval; both are None if one is missing."""
    low, high = mean.get("low"), mean.get("high")
    return (None, None) if low is None or high is None else (low, high)


def _best(scored: list[Row], means: list[Row], higher_is_better: bool, digits: int) -> set[int]:
    """Return the indices of the best models (equal after rounding), without references."""
    candidates = {
        index: round(mean["mean"] if higher_is_better else -mean["mean"], digits)
        for index, (entry, mean) in enumerate(zip(scored, means, strict=True))
        if entry["kind"] == "model" and mean.get("mean") is not None
    }
    best = max(candidates.values(), default=0.0)
    leading = {index for index, mean in candidates.items() if mean == best}
    return leading if len(leading) < len(candidates) else set()


def pairs(comparison: dict[str, Any]) -> list[Row]:
    """Return the differences grouped by pair, each with its verdict and its position on a scale.

    The scale of a metric is the same in all pairs, from 0 to 100 with zero difference at 50.
    """
    metrics = {metric["key"]: metric for metric in comparison["metrics"]}
    known = [row for row in comparison["differences"] if row["metric"] in metrics]
    widest: dict[str, float] = {}
    for row in known:
        ends = [abs(row[key]) for key in ("difference", "low", "high") if row.get(key) is not None]
        widest[row["metric"]] = max([widest.get(row["metric"], 0.0), *ends])
    digits = metric_digits(comparison)
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in known:
        scale = 48 / (widest[row["metric"]] or 1.0)
        places = {
            place: None if row.get(key) is None else 50 + scale * row[key]
            for place, key in (("from", "low"), ("at", "difference"), ("to", "high"))
        }
        metric = metrics[row["metric"]]
        found = verdict(row, metric, digits[row["metric"]])
        words = verdict_text(found, row, comparison["differences"])
        line = {**row, **places, "metric": metric, "verdict": found, "words": words}
        grouped.setdefault((row["a"], row["b"]), []).append(line)
    return [{"a": a, "b": b, "rows": rows} for (a, b), rows in grouped.items()]


def verdict(difference: Row, metric: Row, digits: int = 3) -> str:
    """Return the verdict on a difference: whether its first side is better or worse.

    A difference is significant if its interval excludes zero and its corrected p is below 0.05.

    Args:
        difference: a row of the comparison's `differences`.
        metric: a row of its `metrics`.
        digits: number of decimals that are shown.

    Returns:
        "better" or "worse" for a significant difference; "unclear" if the interval includes zero;
        "zero" if the difference rounds to zero; "uncorrected" if only the corrected p is too large.

    >>> row = {"difference": -0.2, "low": -0.3, "high": -0.1, "p_corrected": 0.01}
    >>> verdict(row, {"higher_is_better": False})
    'better'
    """
    low, high, p = (difference.get(key) for key in ("low", "high", "p_corrected"))
    if low is None or high is None or not (low > 0 or high < 0):  # also true for NaN
        return "unclear"
    gap = difference.get("difference")
    if gap is not None and not round(gap, digits):
        return "zero"
    if p is not None and p >= SIGNIFICANT:
        return "uncorrected"
    return "better" if (low > 0) == metric["higher_is_better"] else "worse"


def verdict_text(found: str, difference: Row, differences: list[Row]) -> str:
    """Return the text of a verdict.

    Args:
        found: the result of `verdict`.
        difference: the difference.
        differences: all differences of the comparison, for the number of corrected metrics.
    """
    if found != "uncorrected":
        return {"unclear": "not clear", "zero": "rounds to zero"}.get(found, found)
    p = difference.get("p")
    if p is not None and p >= SIGNIFICANT:  # also without the correction
        return "not significant"
    pair = [
        row for row in differences if (row["a"], row["b"]) == (difference["a"], difference["b"])
    ]
    # fewer than two pictures have no p; NaN is unequal to itself
    count = sum(row.get("p") is not None and row["p"] == row["p"] for row in pair)
    return f"not significant after correcting for {counted(count, 'metric')}"


def headline(comparison: dict[str, Any]) -> str:
    """Return which model is better, on which metrics and by how much; "" without two models.

    A metric counts as better or worse if the interval of the difference excludes zero and the
    corrected p is below 0.05. Of several pairs, each gets its first difference only.
    """
    found, digits = pairs(comparison), metric_digits(comparison)
    shown = 3 if len(found) == 1 else 1  # differences with their numbers
    return " ".join(_headline(pair, digits, shown) for pair in found[:LARGEST_HEADLINE])


def _headline(pair: Row, digits: dict[str, int], shown: int) -> str:
    """Return the result of a pair of models as text, the better one first."""
    by_verdict: dict[str, list[Row]] = {}
    for row in pair["rows"]:
        by_verdict.setdefault(row["verdict"], []).append(row)
    sides = [(pair["a"], by_verdict.get("better", [])), (pair["b"], by_verdict.get("worse", []))]
    (better, wins), (worse, losses) = sorted(sides, key=lambda side: -len(side[1]))
    if not wins:
        sentences = [f"No metric clearly tells {better} from {worse}"]
    else:
        gaps = [_gap(row, digits) for row in wins[:shown]]
        more = [f"{len(wins) - shown} more"] if len(wins) > shown else []
        of = counted(len(pair["rows"]), "metric")
        lead = (
            f"{better} is better than {worse} on {len(wins)} of {of}, with 95{THIN_SPACE}% "
            f"intervals that exclude zero: {_named([*gaps, *more])}"
        )
        sentences = [lead]
    if losses:
        sentences[0] += f"; it is worse on {_named([row['metric']['name'] for row in losses])}"
    for words, kinds in (
        ("Not significant after correction", ("uncorrected",)),
        ("Not clear, or rounded to zero", ("unclear", "zero")),
    ):
        names = [row["metric"]["name"] for row in pair["rows"] if row["verdict"] in kinds]
        if names and shown > 1:
            sentences.append(f"{words}: {_named(names)}")
    return ". ".join(sentences) + "."


def _gap(row: Row, digits: dict[str, int]) -> str:
    """Return a difference with its interval as text, without its sign."""
    decimals = digits[row["metric"]["key"]]
    ends = sorted(abs(row[end]) for end in ("low", "high"))
    gap, low, high = (number(value, decimals) for value in (abs(row["difference"]), *ends))
    return f"{row['metric']['name']} by {gap} ({low} to {high})"


def _named(names: list[str]) -> str:
    """Return names as text.

    >>> _named(["CC", "NSS", "KLD"])
    'CC, NSS and KLD'
    """
    return " and ".join([", ".join(names[:-1]), names[-1]]) if names[1:] else "".join(names)


def reference_levels(comparison: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return, by the name of a line in the curves, the level of each metric.

    The lines are the rows that `baseline` and `people` of a metric name.
    """
    scored = comparison["scored"]
    references = {entry["name"]: entry for entry in scored if entry["kind"] != "model"}
    found: dict[str, dict[str, float]] = {}
    for metric in comparison["metrics"]:
        for label, field in (("centre bias", "baseline"), ("people", "people")):
            means = (references.get(metric.get(field)) or {}).get("means") or {}
            level = (means.get(metric["key"]) or {}).get("mean")
            if level is not None and any(entry.get("history") for entry in scored):
                found.setdefault(label, {})[metric["key"]] = level
    return found


def config_rows(scored: list[Row]) -> list[Row]:
    """Return the settings of all models: a row per setting, with a mark if values differ."""
    configs = [_flat(entry["config"]) for entry in scored if entry.get("config")]
    names = list(dict.fromkeys(name for config in configs for name in config))
    rows = []
    for name in names:
        values = [config.get(name, DASH) for config in configs]
        rows.append({"name": name, "values": values, "differs": len(set(values)) > 1})
    return rows


def _flat(config: Row, prefix: str = "") -> dict[str, str]:
    """Return the values of a config as texts; nested tables get dotted names."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = (
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            )
    return flat


def training_curves(comparison: dict[str, Any]) -> list[Row]:
    """Return the panels of the training curves: title, SVG and a description as text."""
    models = [entry for entry in comparison["scored"] if entry["kind"] == "model"]
    runs = [(i, m["name"], m["history"]) for i, m in enumerate(models) if m.get("history")]
    keys = dict.fromkeys(
        key
        for _, _, history in runs
        for row in history
        for key, value in row.items()
        if value is not None
    )
    names = {metric["key"]: metric["name"] for metric in comparison["metrics"]}
    panels, levels = [], reference_levels(comparison)
    if {"loss", "val_loss"} & keys.keys():
        panels.append(_panel("Loss", runs, [("loss", "--"), ("val_loss", "-")]))
    for key in keys:
        name = key.removeprefix("val_")
        if key != name and name != "loss":
            own = {label: of[name] for label, of in levels.items() if name in of}
            title = f"Validation {names.get(name, name)}"
            panels.append(_panel(title, runs, [(key, "-")], own))
    return panels


def _panel(
    title: str,
    runs: list[tuple[int, str, list[Row]]],
    lines: list[tuple[str, str]],
    levels: dict[str, float] | None = None,
) -> Row:
    """Return a panel that shows a quantity of every run by epoch, with horizontal lines."""
    figure = new_figure((3.6, 2.3))
    axes = figure.subplots()
    descriptions = []
    for index, name, history in runs:
        epochs = [row.get("epoch", place) for place, row in enumerate(history, start=1)]
        for key, style in lines:
            values = [math.nan if row.get(key) is None else row[key] for row in history]
            # a placeholder for a colour of the style sheet, so that the curves follow the theme
            axes.plot(epochs, values, style, marker="o", ms=2.5, lw=1.5, color=_series(index))
        scores = [row.get(lines[-1][0]) for row in history]
        there = [(epoch, x) for epoch, x in zip(epochs, scores, strict=True) if x is not None]
        if there:
            (first, start), (last, end) = there[0], there[-1]
            descriptions.append(
                f"{name} {number(start)} at epoch {first}, {number(end)} at epoch {last}"
            )
    for label, level in (levels or {}).items():
        axes.axhline(level, color=_INK, lw=1, ls=":")
        axes.annotate(label, (1, level), xycoords=("axes fraction", "data"), ha="right",
                      va="bottom", fontsize=7, color=_INK)  # fmt: skip
        descriptions.append(f"{label} {number(level)}")
    low, high = axes.get_ylim()
    least = LEAST_SPAN * max(abs(low), abs(high))
    if 0 < high - low < least:
        middle = (low + high) / 2
        axes.set_ylim(middle - least / 2, middle + least / 2)
    from matplotlib.ticker import MaxNLocator  # as in `new_figure`

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_INK)
    axes.tick_params(colors=_INK, labelsize=8, length=3)
    axes.grid(axis="y", color=_INK, alpha=0.15, lw=0.6)
    axes.set_xlabel("epoch", fontsize=8, color=_INK)
    return {
        "title": title,
        "svg": Markup(_svg(figure, title)),
        "words": f"{title}: " + "; ".join(descriptions),
    }


_INK = "#0000ff"


def _series(index: int) -> str:
    """Return the placeholder that `_svg` replaces by a model's colour in the style sheet."""
    return f"#0000{index % SERIES + 1:02x}"


def _svg(figure: "Figure", salt: str) -> str:
    """Return a figure as SVG for embedding in HTML, with the page's font and colours."""
    out = io.StringIO()
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    # matplotlib's style sheet would apply to the whole page; report.css has the rules for figures
    svg = re.sub(r"<(metadata|style).*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # several figures on a page would have the same ids
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 aria-hidden="true"', svg)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font: \1 var(--sans)", svg)
    svg = svg.replace(_INK, "currentColor")
    return re.sub(r"#0000(\d\d)", lambda m: f"var(--series-{int(m[1])})", svg)


def payload(comparison: dict[str, Any], digits: dict[str, int]) -> Row:
    """Return the data of the page's script: scores by position, pictures as data URIs.

    Positions instead of names keep names from becoming keys, and the data of 5000 pictures small.
    """
    metrics, scored = comparison["metrics"], comparison["scored"]
    keys = [metric["key"] for metric in metrics]
    rows = [
        {
            "name": row["picture"],
            "scores": [
                [_short((row["scores"].get(entry["name"]) or {}).get(key)) for key in keys]
                for entry in scored
            ],
        }
        for row in comparison["rows"]
    ]
    places = {row["name"]: place for place, row in enumerate(rows)}
    pictures = []
    for item in comparison["gallery"]:
        if item["picture"] not in places:
            places[item["picture"]] = len(rows)
            rows.append({"name": item["picture"], "scores": [[None] * len(keys) for _ in scored]})
        pictures.append(
            {
                "row": places[item["picture"]],
                "width": item["width"],
                "height": item["height"],
                "fixations": [round(c, 1) for point in item["fixations"] or [] for c in point],
                "image": item["image"],
                "truth": item["truth"],
                "maps": [(item["maps"] or {}).get(entry["name"]) for entry in scored],
            }
        )
    return {
        "metrics": [
            {
                "name": metric["name"],
                "higher": metric["higher_is_better"],
                "digits": digits[metric["key"]],
                "people": _place(scored, metric.get("people")),
            }
            for metric in metrics
        ],
        "scored": [{"name": entry["name"], "kind": entry["kind"]} for entry in scored],
        "pair": _first_pair(comparison),
        "rows": rows,
        "pictures": pictures,
    }


def _place(scored: list[Row], name: str | None) -> int | None:
    """Return the position of a row by its name, or None."""
    return next((i for i, entry in enumerate(scored) if entry["name"] == name), None)


def _first_pair(comparison: dict[str, Any]) -> list[int]:
    """Return the positions of the two models that the gallery compares at first."""
    names = [entry["name"] for entry in comparison["scored"]]
    for row in comparison["differences"]:
        if row["a"] in names and row["b"] in names:
            return [names.index(row["a"]), names.index(row["b"])]
    return [0, min(1, len(names) - 1)]  # the model first: "better" refers to the first


def _short(value: float | None) -> float | None:
    """Return a score rounded to six significant digits, more than any table shows."""
    return None if value is None else float(f"{value:.6g}")


def plain(value: Any) -> Any:
    """Return a value for JSON: without NaN, NumPy and undecodable names; bytes as data URIs."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return {plain(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        kind = next((name for start, name in IMAGES.items() if value.startswith(start)), "jpeg")
        return f"data:image/{kind};base64,{base64.b64encode(value).decode()}"
    if value is None or isinstance(value, bool | int):
        return value
    # file names that are not UTF-8 contain lone surrogates, which cannot be encoded
    return str(value).encode("utf-8", "backslashreplace").decode()


def environment() -> Environment:
    """Return the environment of the templates, which escapes everything except Markup."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(number=number, percent=percent, p_value=p_value)
    made.globals.update(SERIES=SERIES)
    return made

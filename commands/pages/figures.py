"""Figures: a run's curves, a grid of pictures with truth and prediction, a probe's alignment."""

import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from salience.measures.metrics import METRICS, Metric
from salience.measures.references import CENTRE_BIAS, HALVED, HALVES, ONE
from salience.measures.significance import Interval
from salience.system.files import atomic

Row = dict[str, float]
BARS = 40  # at the most, of a histogram


def curves(history: list[Row], path: Path, title: str) -> None:
    """Write a PNG of the losses and the validation metrics by epoch.

    Args:
        history: a row an epoch, with `epoch`, `loss`, `val_loss` and `val_<metric>`; `<metric>`
            where training watched it too.
        path: the PNG.
        title: the run's name.
    """
    epochs = [row["epoch"] for row in history]
    scores = [key for key in history[0] if key.startswith("val_") and key != "val_loss"]
    figure = Figure(figsize=(3.2 * (1 + len(scores)), 3), layout="constrained", dpi=110)
    axes = figure.subplots(1, 1 + len(scores), squeeze=False)[0]
    axes[0].plot(epochs, [row["loss"] for row in history], "o-", ms=3, label="training")
    axes[0].plot(epochs, [row["val_loss"] for row in history], "o-", ms=3, label="validation")
    axes[0].set_title("loss")
    axes[0].legend(frameon=False)
    for axis, key in zip(axes[1:], scores, strict=True):
        name = key.removeprefix("val_")
        if name in history[0]:  # a system's own, watched in training too
            axis.plot(epochs, [row[name] for row in history], "o-", ms=3, color="tab:blue")
        axis.plot(epochs, [row[key] for row in history], "o-", ms=3, color="tab:orange")
        axis.set_title(f"validation {METRICS[name].name}")
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.suptitle(title)
    _save(figure, path)


def picture_grid(rows: list[tuple[str, NDArray, NDArray, NDArray, str]], path: Path) -> None:
    """Write a PNG with a line a picture: the picture, where people looked, the prediction.

    Args:
        rows: (name, BGR picture, density map, saliency map, caption of the prediction).
        path: the PNG.
    """
    figure = Figure(figsize=(9, 2.4 * len(rows)), layout="constrained", dpi=100)
    axes = figure.subplots(len(rows), 3, squeeze=False)
    for line, (name, image, density_map, saliency_map, caption) in zip(axes, rows, strict=True):
        small = shrink(image)
        line[0].imshow(cv2.cvtColor(small, cv2.COLOR_BGR2RGB))
        line[0].set_title(name, fontsize=8, parse_math=False)  # a name may hold any $
        for axis, values, label in (
            (line[1], density_map, "observers"),
            (line[2], saliency_map, caption),
        ):
            axis.imshow(shrink(values), cmap="inferno", vmin=0, vmax=1)
            axis.set_title(label, fontsize=8)
    for axis in axes.flat:
        axis.set_axis_off()
    _save(figure, path)


def overview(mean_map: NDArray, counts: list[int], path: Path, name: str, caption: str) -> None:
    """Write a PNG of where people look on a whole data set, and how often on each picture.

    Args:
        mean_map: [rows, columns], 0 to 1.
        counts: fixations of each picture; none where the data set has maps alone.
        path: the PNG.
        name: the data set's.
        caption: what the map is made of.
    """
    figure = Figure(figsize=(9.5 if counts else 5, 3.6), layout="constrained", dpi=110)
    axes = figure.subplots(1, 2 if counts else 1, squeeze=False)[0]
    axes[0].imshow(shrink(mean_map), cmap="inferno", vmin=0, vmax=1)
    axes[0].set_title(caption, fontsize=9)
    axes[0].set_axis_off()
    if counts:
        bars = edges(counts)
        axes[1].hist(counts, bins=bars, color="tab:orange")
        axes[1].margins(x=0.02 if len(bars) > 8 else 2)  # a bar alone would be a wall
        axes[1].xaxis.get_major_locator().set_params(integer=True)
        axes[1].axvline(float(np.median(counts)), color="0.2", lw=1, ls="--")
        axes[1].set_title(f"median {np.median(counts):g} fixations a picture", fontsize=9)
        axes[1].set_xlabel("fixations")
        axes[1].set_ylabel("pictures")
        axes[1].yaxis.get_major_locator().set_params(integer=True)
        axes[1].spines[["top", "right"]].set_visible(False)
        axes[1].grid(alpha=0.25)
        axes[1].set_axisbelow(True)
    figure.suptitle(name)
    _save(figure, path)


def edges(counts: list[int]) -> list[float]:
    """Return the edges of a histogram's bars, each as wide as the same whole number of counts.

    With another width some bars would hold one count more than their neighbours, like a comb.

    >>> edges([3, 5])
    [2.5, 3.5, 4.5, 5.5]
    """
    width = -(-(max(counts) - min(counts) + 1) // BARS)
    return (np.arange(min(counts), max(counts) + width + 1, width) - 0.5).tolist()


def save_alignment(found: dict[str, Any], path: Path) -> None:
    """Write a PNG of how well each stage of a network aligns with people (see `alignment`)."""
    figure = alignment(found, "#333333", ("#0d6b78", "#c2571a"))
    figure.set_dpi(130)
    _save(figure, path)


def alignment(found: dict[str, Any], ink: str, colours: tuple[str, str]) -> Figure:
    """Return the plot of a probe: a row a backbone, a column a metric, the stages by depth.

    Args:
        found: what `probe` found out: `read_outs`, `references` and `metrics`.
        ink: colour of axes, texts and references.
        colours: of ImageNet's weights and of random ones.
    """
    backbones = list(dict.fromkeys(row["backbone"] for row in found["read_outs"]))
    metrics = found["metrics"]
    figure = Figure(figsize=(5.0 * len(metrics), 0.6 + 3.3 * len(backbones)), layout="constrained")
    grid = figure.subplots(len(backbones), len(metrics), squeeze=False, sharey="col")
    for line, name in zip(grid, backbones, strict=True):
        rows = [row for row in found["read_outs"] if row["backbone"] == name]
        for axis, metric in zip(line, metrics, strict=True):
            _alignment_panel(axis, rows, found["references"], metric, ink, colours)
    handles = {}
    for axis in grid.flat:
        handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(),
                                                           strict=True)}  # fmt: skip
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=4, frameon=False,
        fontsize=8, labelcolor=ink,
    )  # fmt: skip
    return figure


def _alignment_panel(
    axis: Any,
    rows: list[dict[str, Any]],
    references: list[dict[str, Any]],
    metric: dict[str, Any],
    ink: str,
    colours: tuple[str, str],
) -> None:
    """Draw one backbone in one metric."""
    key = metric["key"]
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    deep = [row["stage"] for row in rows if row["stride"]]
    # what reads several stages stands apart
    places = {stage: i + 0.5 * (stage not in deep) for i, stage in enumerate(stages)}
    marks = [("people", HALVES if key in HALVED else ONE, "-."), ("centre bias", CENTRE_BIAS, ":")]
    for label, name, style in marks:
        found = [row["means"][key]["mean"] for row in references if row["name"] == name]
        if found:
            axis.axhline(found[0], color=ink, lw=1, ls=style, label=label)
    for network in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == network]
        random = own[0]["weights"] is None
        look = {"color": colours[random], "ms": 4.5, "lw": 1.6, "capsize": 2.5, "elinewidth": 1.1}
        label = "random weights" if random else "ImageNet weights"
        for chosen, fmt in (
            ([row for row in own if row["stride"]], "o--" if random else "o-"),
            ([row for row in own if not row["stride"]], "s"),
        ):
            means = [row["means"][key] for row in chosen]
            values = np.array([_or_nan(mean["mean"]) for mean in means])
            ends = [[_or_nan(mean[end]) for mean in means] for end in ("low", "high")]
            spans = np.abs(np.array(ends) - values)
            where = [places[row["stage"]] for row in chosen]
            axis.errorbar(where, values, spans, fmt=fmt, label=label, **look)
            label = "_"  # once in the legend
    strides = {row["stage"]: f"\n1/{row['stride']}" if row["stride"] else "" for row in rows}
    axis.set_xticks(
        list(places.values()), [f"{stage}{strides[stage]}" for stage in stages], fontsize=7,
        rotation=35, ha="right", rotation_mode="anchor",
    )  # fmt: skip
    axis.set_title(f"{rows[0]['network'].split(',')[0]}: {metric['name']}", fontsize=9, color=ink)
    axis.tick_params(colors=ink, labelsize=7.5)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(ink)
    axis.grid(axis="y", color=ink, alpha=0.15, lw=0.6)


def adaptation(
    lines: list[dict[str, Any]],
    draws: dict[str, list[dict[str, Interval]]],
    metrics: dict[str, Metric],
    path: Path,
) -> None:
    """Write a PNG of the scores by how many pictures an adaptation was fitted on.

    Args:
        lines: of each number of pictures and metric, the mean over the draws (see `adapt.summary`).
        draws: by number of pictures, the means of each draw.
        metrics: what was scored.
        path: the PNG.
    """
    figure = Figure(figsize=(3.4 * len(metrics), 3.4), layout="constrained", dpi=120)
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    names = [name for name in draws if name != "reference"]
    for axis, (key, metric) in zip(axes, metrics.items(), strict=True):
        found = {line["fitted_on"]: line for line in lines if line["metric"] == key}
        for place, name in enumerate(names):
            line = found[name]
            span = np.abs(np.array([[line["low"]], [line["high"]]]) - line["mean"])
            colour = "#555555" if name == "before" else "#0d6b78"
            axis.errorbar([place], [line["mean"]], span, fmt="o", ms=5, capsize=3, color=colour)
            if len(draws[name]) > 1:
                values = [means[key].mean for means in draws[name]]
                axis.plot([place + 0.2] * len(values), values, "_", ms=9, color="#c2571a")
        axis.plot(range(len(names)), [found[name]["mean"] for name in names], color="#0d6b78",
                  lw=1, alpha=0.6)  # fmt: skip
        axis.axhline(found["before"]["mean"], color="#555555", lw=0.9, ls=":")
        if "reference" in found:
            axis.axhline(found["reference"]["mean"], color="#333333", lw=1, ls="-.")
        axis.set_xticks(range(len(names)), names)
        axis.set_title(metric.name + ("" if metric.higher_is_better else " (low is good)"))
        axis.set_xlabel("pictures fitted on")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.25)
    figure.suptitle(
        "bars: bootstrap 95 % over pictures"
        + ("; dashes: single draws" if any(len(d) > 1 for d in draws.values()) else "")
        + ("; dash-dotted: the reference" if "reference" in draws else ""),
        fontsize=9,
    )
    _save(figure, path)


def _or_nan(value: float | None) -> float:
    """Return a number, NaN where there is none."""
    return float("nan") if value is None else value


def shrink(image: NDArray, longest: int = 320) -> NDArray:
    """Return a picture or map scaled down to at most `longest` pixels."""
    scale = longest / max(image.shape[:2])
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)


def _save(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all."""
    with atomic(path) as temporary, warnings.catch_warnings():
        # a name in a script that matplotlib's font lacks is shown as boxes
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(temporary)

"""Figures: training curves, pictures with truth and prediction, the scores of a probe."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from salience.measures.metrics import METRICS, Metric
from salience.measures.references import CENTRE_BIAS, mark_of
from salience.measures.significance import Interval
from salience.system.files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, float]
BARS = 40  # largest number of bars in a histogram
ADAPTATION_COLUMNS = 3  # panels side by side
# the thread in which trainings draw: matplotlib keeps its fonts open for each thread that draws
DRAWING = ThreadPoolExecutor(1, "figures")


def new_figure(size: tuple[float, float], dpi: float = 100) -> "Figure":
    """Return an empty figure; matplotlib is imported here, since most pages do without it.

    Args:
        size: width and height, inches.
        dpi: pixels per inch.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained", dpi=dpi)


def curves(history: list[Row], path: Path, title: str) -> None:
    """Write a PNG of the losses and the validation metrics by epoch.

    Args:
        history: a row per epoch, with `epoch`, `loss`, `val_loss` and `val_<metric>`; also
            `<metric>` if it was computed in training.
        path: the PNG.
        title: name of the run.
    """
    epochs = [row["epoch"] for row in history]
    scores = [key for key in history[0] if key.startswith("val_") and key != "val_loss"]
    figure = new_figure((3.2 * (1 + len(scores)), 3), 110)
    axes = figure.subplots(1, 1 + len(scores), squeeze=False)[0]
    axes[0].plot(epochs, [row["loss"] for row in history], "o-", ms=3, label="training")
    axes[0].plot(epochs, [row["val_loss"] for row in history], "o-", ms=3, label="validation")
    axes[0].set_title("loss")
    axes[0].legend(frameon=False)
    for axis, key in zip(axes[1:], scores, strict=True):
        name = key.removeprefix("val_")
        if name in history[0]:  # a metric of the system that is also computed in training
            axis.plot(epochs, [row[name] for row in history], "o-", ms=3, color="tab:blue")
        axis.plot(epochs, [row[key] for row in history], "o-", ms=3, color="tab:orange")
        axis.set_title(f"validation {score_title(name)}")
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.suptitle(title)
    _save(figure, path)


def score_title(name: str) -> str:
    """Return the title of a column of a history: a metric, or a metric on one data set.

    >>> score_title("auc_judd"), score_title("ig_osie")
    ('AUC-Judd', 'IG, osie')
    """
    if name in METRICS:
        return METRICS[name].name
    metric, _, dataset = name.partition("_")
    return f"{METRICS[metric].name}, {dataset}"


def picture_grid(rows: list[tuple[str, NDArray, NDArray, NDArray, str]], path: Path) -> None:
    """Write a PNG with a row per picture: the picture, its density map and the prediction.

    Args:
        rows: (name, BGR picture, density map, saliency map, caption of the prediction).
        path: the PNG.
    """
    figure = new_figure((9, 2.4 * len(rows)), 100)
    axes = figure.subplots(len(rows), 3, squeeze=False)
    for line, (name, image, density_map, saliency_map, caption) in zip(axes, rows, strict=True):
        small = shrink(image)
        line[0].imshow(cv2.cvtColor(small, cv2.COLOR_BGR2RGB))
        line[0].set_title(name, fontsize=8, parse_math=False)  # a name may contain $
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
    """Write a PNG of a data set's mean density map and its fixations per picture.

    Args:
        mean_map: [rows, columns], 0 to 1.
        counts: number of fixations of each picture; empty for a data set with maps only.
        path: the PNG.
        name: name of the data set.
        caption: caption of the mean map.
    """
    figure = new_figure((9.5 if counts else 5, 3.6), 110)
    axes = figure.subplots(1, 2 if counts else 1, squeeze=False)[0]
    axes[0].imshow(shrink(mean_map), cmap="inferno", vmin=0, vmax=1)
    axes[0].set_title(caption, fontsize=9)
    axes[0].set_axis_off()
    if counts:
        bars = edges(counts)
        axes[1].hist(counts, bins=bars, color="tab:orange")
        axes[1].margins(x=0.02 if len(bars) > 8 else 2)  # keeps a single bar narrow
        axes[1].xaxis.get_major_locator().set_params(integer=True)
        axes[1].axvline(float(np.median(counts)), color="0.2", lw=1, ls="--")
        axes[1].set_title(f"median {np.median(counts):g} fixations per picture", fontsize=9)
        axes[1].set_xlabel("fixations")
        axes[1].set_ylabel("pictures")
        axes[1].yaxis.get_major_locator().set_params(integer=True)
        axes[1].spines[["top", "right"]].set_visible(False)
        axes[1].grid(alpha=0.25)
        axes[1].set_axisbelow(True)
    figure.suptitle(name)
    _save(figure, path)


def fixations_over(
    rows: list[tuple[str, NDArray, NDArray, list[str]]], path: Path, title: str
) -> None:
    """Write a PNG of pictures with their fixations, in a colour for each observer.

    Fixations outside their picture are drawn, too, up to half the picture's size away.

    Args:
        rows: (name, BGR picture, fixations [n, 2] in (x, y) pixels, observer of each fixation).
        path: the PNG.
        title: title of the figure.
    """
    columns = min(3, len(rows))
    lines = -(-len(rows) // columns)
    figure = new_figure((4.2 * columns, 3.4 * lines), 110)
    axes = figure.subplots(lines, columns, squeeze=False)
    observers = sorted({name for *_, who in rows for name in who})
    for axis, (name, image, points, who) in zip(axes.flat, rows, strict=False):
        height, width = image.shape[:2]
        small = shrink(image, 640)
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        axis.imshow(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), extent=extent)
        colours = [f"C{observers.index(one) % 10}" for one in who]
        axis.scatter(*points.T, s=14, c=colours, edgecolors="white", linewidths=0.5)
        size = np.array([width, height])
        low = np.maximum(np.minimum(points.min(axis=0), 0), -size / 2) - 0.02 * size
        high = np.minimum(np.maximum(points.max(axis=0), size), 1.5 * size) + 0.02 * size
        axis.set_xlim(low[0], high[0])
        axis.set_ylim(high[1], low[1])
        label = f"{name}: {len(points):,} fixations, {len(set(who)):,} observers"
        axis.set_title(label, fontsize=8, parse_math=False)  # a name may contain $
    for axis in axes.flat:
        axis.set_axis_off()
    figure.suptitle(title)
    _save(figure, path)


def edges(counts: list[int]) -> list[float]:
    """Return the edges of a histogram's bars, each of the same whole number of counts.

    With fractional widths, some bars would cover one count more than their neighbours.

    >>> edges([3, 5])
    [2.5, 3.5, 4.5, 5.5]
    """
    width = -(-(max(counts) - min(counts) + 1) // BARS)
    return (np.arange(min(counts), max(counts) + width + 1, width) - 0.5).tolist()


def save_alignment(found: dict[str, Any], path: Path) -> None:
    """Write a PNG of the scores of each stage of a network (see `alignment`)."""
    figure = alignment(found, "#333333", ("#0d6b78", "#c2571a"))
    figure.set_dpi(130)
    _save(figure, path)


def alignment(found: dict[str, Any], ink: str, colours: tuple[str, str]) -> "Figure":
    """Return the plot of a probe: a row per backbone, a column per metric, the stages by depth.

    Args:
        found: results of `probe`: `read_outs`, `references` and `metrics`.
        ink: colour of axes, texts and references.
        colours: colours of ImageNet weights and of random weights.
    """
    backbones = list(dict.fromkeys(row["backbone"] for row in found["read_outs"]))
    metrics = found["metrics"]
    figure = new_figure((5.0 * len(metrics), 0.6 + 3.3 * len(backbones)))
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
    """Draw the scores of one backbone in one metric."""
    key = metric["key"]
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    deep = [row["stage"] for row in rows if row["stride"]]
    # read-outs of several stages are set apart
    places = {stage: i + 0.5 * (stage not in deep) for i, stage in enumerate(stages)}
    people = mark_of(key)
    marks = [("people", people[0] if people else "", "-."), ("centre bias", CENTRE_BIAS, ":")]
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
            label = "_"  # only once in the legend
    strides = {row["stage"]: f", 1/{row['stride']}" if row["stride"] else "" for row in rows}
    axis.set_xticks(
        list(places.values()), [f"{stage}{strides[stage]}" for stage in stages], fontsize=7,
        rotation=45, ha="right", rotation_mode="anchor",
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
    """Write a PNG of the scores by the number of pictures that an adaptation was fitted on.

    Args:
        lines: means over the draws by number of pictures and metric (see `adapt.summary`).
        draws: means of each draw by number of pictures.
        metrics: the metrics.
        path: the PNG.
    """
    columns = min(len(metrics), ADAPTATION_COLUMNS)
    lines_of_panels = -(-len(metrics) // columns)
    figure = new_figure((3.4 * columns, 3.2 * lines_of_panels + 0.2), 120)
    axes = figure.subplots(lines_of_panels, columns, squeeze=False).ravel()
    for axis in axes[len(metrics) :]:
        axis.set_axis_off()
    names = [name for name in draws if name != "reference"]
    for axis, (key, metric) in zip(axes, metrics.items(), strict=False):
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
        axis.set_title(metric.name + ("" if metric.higher_is_better else " (lower is better)"))
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
    """Return a number, or NaN for None."""
    return float("nan") if value is None else value


def shrink(image: NDArray, longest: int = 320) -> NDArray:
    """Return a picture or map, scaled down if its longer side has more than `longest` pixels."""
    scale = longest / max(image.shape[:2])
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)


def _save(figure: "Figure", path: Path) -> None:
    """Write a figure atomically."""
    with atomic(path) as temporary, warnings.catch_warnings():
        # characters that the font lacks are drawn as boxes
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(temporary)

"""Figures of a run: its curves, and a grid of pictures with truth and prediction."""

import warnings
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from files import atomic
from metrics import METRICS

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

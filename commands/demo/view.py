"""Drawings and texts for the page of `demo`: the overlay, and a description of the weights.

These are pure functions of arrays and cards, independent of the page and of networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from salience.measures.metrics import METRICS
from salience.networks.weight_files import (
    SUFFIX,
    is_synthetic,
    licences_of,
    limits_of,
    scores_by_set,
)
from salience.pictures import marks
from salience.pictures.picture_files import overlay
from salience.system.arrays import Array

MAX_PEAKS = 20
MAX_SIDE = 1280  # longer side of a displayed picture, pixels; enough for common screens
CONTOURS = {f"{share:.0%}": share for share in marks.LEVELS}  # by their label on the page
# photographs in the package scikit-image, free to use (public domain, CC0)
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


@dataclass(frozen=True)
class View:
    """A picture and its map at display size.

    Attributes:
        picture: BGR uint8 [rows, columns, 3].
        saliency_map: float32 [rows, columns], 0 to 1.
        peaks: local maxima of the map, the strongest first.
    """

    picture: NDArray[np.uint8]
    saliency_map: Array
    peaks: list[marks.Peak]


def view(image: NDArray[np.uint8], saliency_map: Array) -> View:
    """Return a picture and its map, scaled down to at most `MAX_SIDE`.

    >>> view(np.zeros((2000, 5120, 3), np.uint8), np.zeros((2000, 5120))).picture.shape
    (500, 1280, 3)
    """
    rows, cols = image.shape[:2]
    scale = min(1.0, MAX_SIDE / max(rows, cols))
    size = max(1, round(cols * scale)), max(1, round(rows * scale))
    if scale < 1:
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        saliency_map = np.asarray(
            cv2.resize(saliency_map, size, interpolation=cv2.INTER_AREA), np.float32
        )
    return View(image, saliency_map, marks.peaks(saliency_map, MAX_PEAKS))


def drawn(
    shown: View, opacity: float, contours: Sequence[str], count: int, colormap: str = "jet"
) -> NDArray[np.uint8]:
    """Return the picture with its map, contours and peaks drawn over it, BGR.

    Args:
        shown: the picture and its map.
        opacity: opacity of the map where its value is 1; 0 shows the picture alone.
        contours: keys of CONTOURS: shares of the area to outline.
        count: number of peaks to draw.
        colormap: key of `config.COLORMAPS`.
    """
    picture = overlay(shown.picture, shown.saliency_map, colormap, opacity)
    if contours:
        levels = [CONTOURS[name] for name in contours]
        picture = marks.draw_contours(picture, shown.saliency_map, levels)
    return marks.draw_peaks(picture, shown.peaks[:count])


def labels(paths: Sequence[Path]) -> dict[str, Path]:
    """Return weights files by unique short names; names that occur twice include the folder.

    >>> list(labels([Path("w/a.weights.h5"), Path("w/b.weights.h5"), Path("x/b.weights.h5")]))
    ['a', 'w/b.weights.h5', 'x/b.weights.h5']
    """
    short = [path.name.removesuffix(SUFFIX) for path in paths]
    return {
        name if short.count(name) == 1 else str(path): path
        for name, path in zip(short, paths, strict=True)
    }


def describe_weights(card: dict[str, Any]) -> str:
    """Return a description of weights as an HTML list: network, data, scores, licence and limits.

    >>> text = describe_weights({"system": "mlnet", "strategy": "frozen", "dataset": "<b>"})
    >>> "<dd>mlnet (frozen)</dd>" in text, "Trained on &lt;b&gt;" in text
    (True, True)
    """
    system, strategy = card.get("system", card.get("model")), card.get("strategy")
    network = f"{system} ({strategy})" if strategy else f"{system}"
    shape = card.get("input_shape")
    if isinstance(shape, list | tuple):
        network += f", input {' x '.join(map(str, shape))}"
    data = f"Trained on {card.get('dataset') or 'pictures that its card does not name'}."
    if isinstance(card.get("data"), str):
        data += f" {card['data']}"
    if is_synthetic(card):
        data += " These are drawn scenes: its maps are meaningless for photographs."
    rows = {
        "Network": network,
        "Training data": data,
        "Scores": "\n".join(scores_of(card)),
        "Licences": "\n".join(licences_of(card)),
        "Limits": limits_of(card),
    }
    items = "".join(
        f"<dt>{escape(title)}</dt>"
        + "".join(f"<dd>{escape(line)}</dd>" for line in text.split("\n"))
        for title, text in rows.items()
        if text
    )
    return f"<dl>{items}</dl>"


def scores_of(card: dict[str, Any]) -> list[str]:
    """Return a line for each set of pictures on which the card has scores."""
    lines = []
    metrics = card.get("metrics")
    own = {key.removeprefix("val_"): value for key, value in metrics.items()} if isinstance(
        metrics, dict) else {}  # fmt: skip
    if text := scores_text(own):
        lines.append(f"On its validation pictures: {text}.")
    lines += [
        f"On {scores.get('pictures')} {scores.get('split')} pictures of {name}: {text}."
        for name, scores in scores_by_set(card).items()
        if (text := scores_text(scores))
    ]
    return lines


def scores_text(scores: dict[str, Any]) -> str:
    """Return scores as text, in the order of METRICS; "" without one.

    >>> scores_text({"nss": 3.25, "cc": 0.75, "kld": None, "pictures": 9})
    'CC 0.750, NSS 3.250'
    """
    found = {
        key: value
        for key, value in scores.items()
        if key in METRICS and isinstance(value, int | float) and not isinstance(value, bool)
    }
    return ", ".join(f"{METRICS[key].name} {found[key]:.3f}" for key in METRICS if key in found)


def photographs() -> list[Path]:
    """Return the example photographs of scikit-image, if it is installed; does not import it."""
    found = find_spec("skimage")
    if found is None or found.origin is None:
        return []
    paths = [Path(found.origin).parent / "data" / name for name in PHOTOGRAPHS]
    return [path for path in paths if path.is_file()]

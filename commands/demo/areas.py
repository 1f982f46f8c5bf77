"""Regions on the page of `demo`: their text, their shares of attention, and their drawing.

Each line of the text is a region: its name and the numbers of a box (x, y, width, height) or of the
corners of a polygon (x, y, x, y, ...), in pixels of the original picture. Lines of one name are one
region, as in a file of `regions`.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from commands.regions.measured import predicted_rows
from salience.data import regions
from salience.data.regions import LARGEST, Region, corners
from salience.pictures.marks import BLACK, WHITE
from salience.system.arrays import read_array
from salience.system.errors import UserError

MOST = 40  # regions of a picture
LONGEST_TEXT = 20_000  # characters of the text
LONGEST_NAME = 60  # characters of a name on the page; on the overlay, LONGEST_LABEL
LONGEST_LABEL = 24
LINE = "name, x, y, width, height"
FONT, LETTERS = cv2.FONT_HERSHEY_SIMPLEX, 0.026  # height of letters, of the picture's diagonal
COLOUR = (255, 200, 60)  # BGR, light blue


@dataclass(frozen=True)
class Share:
    """What a region gets of the predicted density.

    Attributes:
        region: the region.
        share, area: its shares of the density and of the picture's pixels, 0 to 1.
        rank: place by its greatest value, from 1; None without a pixel in the picture.
    """

    region: Region
    share: float
    area: float
    rank: int | None


def parsed(text: str) -> tuple[Region, ...]:
    r"""Return the regions of a text.

    Raises:
        UserError: a line is no region.

    >>> [one.name for one in parsed("logo, 10, 20, 30, 40\n\nsky, 0,0, 9,0, 9,9\nlogo, 0, 0, 5, 5")]
    ['logo', 'sky']
    """
    if len(text) > LONGEST_TEXT:
        raise UserError(f"The regions have more than {LONGEST_TEXT} characters.")
    shapes: dict[str, list[NDArray[np.float64]]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            name, polygon = _parsed_line(line, number)
            shapes.setdefault(name, []).append(polygon)
    if len(shapes) > MOST:
        raise UserError(f"There are {len(shapes)} regions; the page shows at most {MOST}.")
    return tuple(Region(name, tuple(polygons)) for name, polygons in shapes.items())


def _parsed_line(line: str, number: int) -> tuple[str, NDArray[np.float64]]:
    """Return the name and the polygon of a line."""
    try:
        (cells,) = csv.reader([line], skipinitialspace=True)
        name, *rest = (cell.strip() for cell in cells)
        values = [float(cell) for cell in rest]
    except (ValueError, csv.Error):
        raise UserError(f"Line {number} is no region: {LINE} are expected.") from None
    is_box = len(values) == 4
    is_polygon = len(values) >= 6 and len(values) % 2 == 0
    if not name or not (is_box or is_polygon):
        raise UserError(f"Line {number} is no region: {LINE} are expected.")
    if not all(abs(value) <= LARGEST for value in values):  # NaN is not either
        raise UserError(f"Line {number}: a number is not between -{LARGEST:g} and {LARGEST:g}.")
    if is_polygon:
        return name, np.array(values).reshape(-1, 2)
    x, y, width, height = values
    if min(width, height) <= 0:
        raise UserError(f"Line {number}: a box of {width:g} x {height:g} pixels is none.")
    return name, corners(x, y, width, height)


def text_of(found: Sequence[Region]) -> str:
    """Return regions as the text that `parsed` reads."""
    lines = []
    for region in found:
        name = region.name.replace('"', '""')
        name = f'"{name}"' if any(mark in name for mark in ',"') else name
        for polygon in region.polygons:
            (left, top), (right, bottom) = polygon.min(axis=0), polygon.max(axis=0)
            box = corners(left, top, right - left, bottom - top)
            is_box = len(polygon) == 4 and np.array_equal(polygon, box)
            values = (left, top, right - left, bottom - top) if is_box else polygon.ravel()
            lines.append(
                ", ".join([" ".join(name.split()), *(f"{value:.12g}" for value in values)])
            )
    return "\n".join(lines)


def of_file(path: Path, picture: str, shape: tuple[int, int] | None = None) -> str:
    """Return the regions of a picture in a file, as text.

    A file that names a single picture is taken for this one.

    Args:
        path: a table or COCO JSON, see `salience.data.regions.read`.
        picture: file name of the picture.
        shape: its rows and columns; None if they are not known.

    Raises:
        UserError: the file cannot be read, or holds no region of the picture; or regions were drawn
            on a picture of another aspect.
    """
    read = regions.read(path)
    found, _ = regions.assign(read, [picture], path.name)
    if not found and len(read) > 1:
        named = ", ".join(list(read)[:3])
        raise UserError(f"{path.name} names {named}, but not {picture}.")
    own = next(iter((found or read).values()))
    text = text_of([one.on(shape) for one in own] if shape else own)
    parsed(text)  # there may be too many
    return text


@lru_cache(maxsize=64)
def shares(density: Path, text: str) -> tuple[Share, ...]:
    """Return what the regions of a text get of a density, as `regions` measures it.

    Args:
        density: `.npy` of natural logarithms of the density, [rows, columns].
        text: see `parsed`.

    Raises:
        UserError: a line is no region.
    """
    found = parsed(text)
    if not found:
        return ()
    logs = read_array(density)
    windows = {region.name: region.window(logs.shape) for region in found}
    rows = predicted_rows(np.exp(logs, dtype=np.float64), windows)
    return tuple(
        Share(region, row["share"], row["area"], row["rank"])
        for region, row in zip(found, rows, strict=True)
    )


def drawn(
    picture: NDArray[np.uint8], found: Sequence[Share], shape: tuple[int, int]
) -> NDArray[np.uint8]:
    """Return a picture with the outlines of regions, each with its name and share.

    Args:
        picture: BGR, uint8 [rows, columns, 3], at any size.
        found: the regions.
        shape: rows and columns of the original picture, whose pixels the regions count.
    """
    drawn = picture.copy()
    rows, columns = picture.shape[:2]
    scale = np.array([columns / shape[1], rows / shape[0]])
    width = max(1, round(0.0025 * np.hypot(rows, columns)))
    limit = 4 * max(rows, columns)  # OpenCV draws nothing at far larger coordinates
    for one in found:
        lines = [
            np.clip(np.round(polygon * scale), -limit, limit).astype(np.int32)
            for polygon in one.region.polygons
        ]
        for thickness, colour in ((3 * width, BLACK), (width, COLOUR)):
            cv2.polylines(drawn, lines, True, colour, thickness, cv2.LINE_AA)
    for number, one in enumerate(found, 1):  # above all lines
        top_left = np.concatenate(one.region.polygons).min(axis=0) * scale
        _label(drawn, label(one, number), (float(top_left[0]), float(top_left[1])))
    return drawn


def label(one: Share, number: int) -> str:
    """Return the label of a region: its name and share; its number if OpenCV cannot draw it."""
    name = one.region.name
    name = name if name.isascii() and name.isprintable() else f"region {number}"
    return f"{name[:LONGEST_LABEL]} {100 * one.share:.1f} %"


def _label(picture: NDArray[np.uint8], text: str, at: tuple[float, float]) -> None:
    """Write a text on dark ground above a place, moved into the picture."""
    rows, columns = picture.shape[:2]
    wanted = max(10.0, LETTERS * float(np.hypot(rows, columns)))
    (width, height), _ = cv2.getTextSize(text, FONT, 1.0, 1)
    scale = min(wanted / height, 0.9 * columns / width)
    thickness = max(1, round(wanted / 12))
    (width, height), base = cv2.getTextSize(text, FONT, scale, thickness)
    pad = max(2, round(height / 3))
    left = round(min(max(at[0], 0), max(columns - width - 2 * pad, 0)))
    tall = height + base + 2 * pad
    top = round(min(max(at[1] - tall, 0), max(rows - tall, 0)))
    corner = (left + width + 2 * pad, top + tall)
    cv2.rectangle(picture, (left, top), corner, BLACK, cv2.FILLED)
    origin = (left + pad, top + pad + height)
    cv2.putText(picture, text, origin, FONT, scale, WHITE, thickness, cv2.LINE_AA)


def short(name: str) -> str:
    """Return a name with at most LONGEST_NAME characters.

    >>> len(short("a" * 99)), short("logo")
    (60, 'logo')
    """
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def table(found: Sequence[Share]) -> str:
    """Return the shares of regions as an HTML table; "" without regions."""
    if not found:
        return ""
    rows = "".join(
        f"<tr><th scope=row>{escape(short(one.region.name))}</th><td>{100 * one.share:.1f} %</td>"
        f"<td>{100 * one.area:.1f} %</td>"
        f"<td>{one.share / one.area:.2f}</td><td>{one.rank}</td></tr>"
        if one.area
        else f"<tr><th scope=row>{escape(short(one.region.name))}</th>"
        "<td colspan=4>outside the picture</td></tr>"
        for one in found
    )
    titles = ("Region", "Attention", "Area", "Times area", "Rank")
    head = "".join(f"<th scope=col>{title}</th>" for title in titles)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

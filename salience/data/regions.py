"""Regions of pictures: named boxes and polygons, from a table or a COCO JSON file.

Coordinates are pixels of the original picture, counted from its outer edge: pixel 0 spans 0 to 1.
A box with x 10 and width 5 therefore holds the columns 10 to 14. A pixel belongs to a region if its
centre is inside. In one picture, all boxes and polygons with the same name are one region.
"""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from salience.data.columns import ROLES
from salience.data.tables import DELIMITERS, named, number, text_of
from salience.pictures.sample import IMAGE_SUFFIXES
from salience.system.errors import UserError
from salience.system.files import composed, read_json

# names of the columns of a table, in lower case
COLUMNS = {
    "image": ROLES["image"],
    "name": ("name", "region", "label"),
    "x": ("x",),
    "y": ("y",),
    "width": ("width", "w"),
    "height": ("height", "h"),
}
SAME_ASPECT = 1.02  # largest ratio of two aspects that count as equal
LARGEST = 1e6  # coordinate, pixels; larger than any picture that is read
JSON = ".json"


class Window(NamedTuple):
    """The pixels of a region, in the smallest rectangle of the picture that holds them.

    Attributes:
        top, left: row and column of the rectangle's first pixel.
        inside: [rows, columns] of the rectangle, True for pixels of the region.
    """

    top: int
    left: int
    inside: NDArray[np.bool_]

    def of(self, values: NDArray) -> NDArray:
        """Return the part of a map [rows, columns] of the picture that the rectangle covers."""
        rows, columns = self.inside.shape
        return values[self.top : self.top + rows, self.left : self.left + columns]

    def holds(self, cells: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return which pixels, [n, 2] as (row, column), belong to the region, [n]."""
        rows, columns = self.inside.shape
        row, column = cells[:, 0] - self.top, cells[:, 1] - self.left
        found = (row >= 0) & (column >= 0) & (row < rows) & (column < columns)
        found[found] = self.inside[row[found], column[found]]
        return found


@dataclass(frozen=True)
class Region:
    """A named part of a picture: the union of polygons.

    Attributes:
        name: its name.
        polygons: float64 [corners, 2] each, (x, y) in pixels from the picture's outer edge.
        size: rows and columns of the picture that these pixels are of; None if that is not known.
    """

    name: str
    polygons: tuple[NDArray[np.float64], ...]
    size: tuple[int, int] | None = None

    def on(self, shape: tuple[int, int]) -> "Region":
        """Return the region on a picture of a shape, scaled if it was drawn at another size.

        Raises:
            UserError: the picture that it was drawn on has another aspect.
        """
        if self.size in (None, shape):
            return self
        rows, columns = self.size  # pyright: ignore[reportGeneralTypeIssues]
        scale = np.array([shape[1] / columns, shape[0] / rows])
        if not 1 / SAME_ASPECT <= scale[0] / scale[1] <= SAME_ASPECT:
            raise UserError(
                f"the region {self.name} was drawn on {columns} x {rows} pixels, but the picture "
                f"has {shape[1]} x {shape[0]}, which is another aspect. Name the regions of each "
                "picture in its own pixels."
            )
        return Region(self.name, tuple(polygon * scale for polygon in self.polygons), shape)

    def window(self, shape: tuple[int, int]) -> Window:
        """Return the pixels of the region in a picture of a shape (rows, columns).

        >>> box = Region("box", (corners(2, 1, 2, 1),))
        >>> box.window((4, 8))
        Window(top=1, left=2, inside=array([[ True,  True]]))
        """
        corners = np.concatenate(self.polygons)
        limits = np.array(shape[::-1])
        left, top = np.clip(np.floor(corners.min(axis=0)), 0, limits).astype(int)
        right, bottom = np.clip(np.ceil(corners.max(axis=0)), 0, limits).astype(int)
        inside = np.zeros((max(0, bottom - top), max(0, right - left)), bool)
        for polygon in self.polygons:
            inside |= filled(polygon - (left, top), inside.shape)
        return Window(int(top), int(left), inside)

    def outside(self, shape: tuple[int, int]) -> float:
        """Return the share of the region's area that lies outside a picture, 0 to 1."""
        whole = sum(map(area, self.polygons))
        kept = sum(area(clipped(polygon, shape)) for polygon in self.polygons)
        share = 1 - kept / whole if whole else 0.0
        return share if share > 1e-9 else 0.0


def corners(x: float, y: float, width: float, height: float) -> NDArray[np.float64]:
    """Return the corners of a box, [4, 2] as (x, y)."""
    return np.array(
        [(x, y), (x + width, y), (x + width, y + height), (x, y + height)], dtype=np.float64
    )


def filled(polygon: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which pixels have their centre inside a polygon, by the even-odd rule.

    Polygons that share an edge share no pixel.

    Args:
        polygon: [corners, 2], (x, y); pixel 0 spans 0 to 1.
        shape: rows and columns of the result.
    """
    rows, columns = shape
    crossings = np.zeros((rows, columns + 1), np.int32)  # of edges to the left of each pixel
    for (x, y), (end_x, end_y) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        # an edge holds its upper end but not its lower, so that each corner counts once
        first, last = (int(np.clip(math.ceil(at - 0.5), 0, rows)) for at in sorted((y, end_y)))
        middles = np.arange(first, last) + 0.5
        if middles.size:
            at = x + (middles - y) * ((end_x - x) / (end_y - y))
            from_column = np.clip(np.ceil(at - 0.5), 0, columns).astype(int)
            crossings[np.arange(first, last), from_column] += 1
    return np.cumsum(crossings[:, :columns], axis=1) % 2 == 1


def area(polygon: NDArray[np.float64]) -> float:
    """Return the area of a polygon [corners, 2], square pixels.

    >>> area(corners(1, 1, 3, 2))
    6.0
    """
    if len(polygon) < 3:
        return 0.0
    x, y = (polygon - polygon[0]).T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def clipped(polygon: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return the part of a polygon inside a picture of a shape (rows, columns), [corners, 2].

    Source: Sutherland and Hodgman, Communications of the ACM, 1974.
    """
    for axis, limit, sign in ((0, 0, 1), (0, shape[1], -1), (1, 0, 1), (1, shape[0], -1)):
        made = []
        depths = sign * (polygon[:, axis] - limit) if len(polygon) else []
        for i, depth in enumerate(depths):
            before, last = polygon[i - 1], depths[i - 1]
            if (depth >= 0) != (last >= 0):
                made.append(before + (polygon[i] - before) * (last / (last - depth)))
            if depth >= 0:
                made.append(polygon[i])
        polygon = np.array(made, np.float64).reshape(-1, 2)
    return polygon


def read(path: Path) -> dict[str, tuple[Region, ...]]:
    """Return the regions of a file by picture, as the file names it.

    Args:
        path: a table with the columns of `COLUMNS`, or COCO JSON (`.json`).

    Raises:
        UserError: the file cannot be read or is neither.
    """
    sizes: dict[str, tuple[int, int]] = {}
    pieces = _coco(path, sizes) if path.suffix.lower() == JSON else _table(path)
    shapes: dict[str, dict[str, list[NDArray[np.float64]]]] = {}
    for image, name, polygons in pieces:
        shapes.setdefault(image, {}).setdefault(name, []).extend(polygons)
    if not shapes:
        raise UserError(f"{path} holds no region.")
    return {
        image: tuple(
            Region(name, tuple(polygons), sizes.get(image)) for name, polygons in own.items()
        )
        for image, own in shapes.items()
    }


def assign(
    regions: dict[str, tuple[Region, ...]], pictures: Sequence[str], where: object
) -> tuple[dict[str, tuple[Region, ...]], list[str]]:
    """Return the regions of each picture that has any, and the names that no picture has.

    A file names a picture by its path, by its file name, or by either without the suffix. If no
    picture has the suffix that is named, another version of the picture may have another.

    Args:
        regions: regions by the name of their picture.
        pictures: paths of the pictures, with forward slashes.
        where: the file of the regions, for errors.

    Raises:
        UserError: a name fits several pictures, or two names fit one.
    """
    keys: list[dict[str, list[str]]] = [{}, {}, {}, {}]
    for picture in pictures:
        path = PurePosixPath(composed(picture))
        for known, key in zip(
            keys, (str(path), str(path.with_suffix("")), path.name, path.stem), strict=True
        ):
            known.setdefault(key, []).append(picture)
    found: dict[str, tuple[Region, ...]] = {}
    missing, named_by = [], {}
    for name, own in regions.items():
        path = PurePosixPath(composed(name.replace("\\", "/")))
        wanted = [str(path)]
        if path.suffix.lower() in IMAGE_SUFFIXES:
            wanted.append(str(path.with_suffix("")))
        fitting = next((known[text] for text in wanted for known in keys if text in known), [])
        if len(fitting) > 1:
            raise UserError(
                f"{where} names the picture {name}, which fits {fitting[0]} and {fitting[1]}: "
                "name it with its folder and suffix."
            )
        if not fitting:
            missing.append(name)
        elif fitting[0] in found:
            raise UserError(
                f"{where} names {fitting[0]} both as {named_by[fitting[0]]} and as {name}."
            )
        else:
            found[fitting[0]], named_by[fitting[0]] = own, name
    return found, missing


Piece = tuple[str, str, list[NDArray[np.float64]]]  # picture, name of the region, polygons


def _table(path: Path) -> Iterable[Piece]:
    """Yield the box of each row of a table."""
    lines = io.StringIO(text_of(path), newline="")
    first = lines.readline()
    choices = [(named(first, delimiter), delimiter) for delimiter in DELIMITERS]
    names, delimiter = max(choices, key=lambda pair: len(pair[0]))
    places = {
        role: [i for i, name in enumerate(names) if name.lower() in words]
        for role, words in COLUMNS.items()
    }
    if any(len(found) != 1 for found in places.values()):
        there = ", ".join(repr(name) for name in names)
        raise UserError(
            f"{path} has the columns {there}; its first line must name each of "
            f"{', '.join(COLUMNS)} once. Polygons are read from COCO JSON."
        )
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        for row in rows:
            if any(cell.strip() for cell in row):
                yield _box(row, {role: found[0] for role, found in places.items()}, delimiter)
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}, line {rows.line_num + 1}: {error}.") from error


def _box(row: list[str], places: dict[str, int], delimiter: str) -> Piece:
    """Return the box of a row.

    Raises:
        ValueError: the row is not a box.
    """
    if len(row) <= max(places.values()):
        raise ValueError(f"{len(row)} values for {max(places.values()) + 1} columns")
    cells = {role: row[place].strip() for role, place in places.items()}
    for role in ("image", "name"):
        if not cells[role]:
            raise ValueError(f"the {role} is blank")
    x, y, width, height = (number(cells[role], delimiter) for role in ("x", "y", "width", "height"))
    if width <= 0 or height <= 0:
        raise ValueError(f"{width:g} x {height:g} pixels are no box")
    return cells["image"], cells["name"], [_checked(corners(x, y, width, height))]


def _coco(path: Path, sizes: dict[str, tuple[int, int]]) -> Iterable[Piece]:
    """Yield the polygons of each annotation of a COCO file; `sizes` gets rows and columns."""
    content = read_json(path)
    lists = {}
    for key in ("images", "annotations", "categories"):
        lists[key] = content.get(key) if isinstance(content, dict) else None
        if not isinstance(lists[key], list):
            raise UserError(
                f'{path} is not COCO JSON: an object with the lists "images", "annotations" and '
                '"categories" is expected.'
            )
    images = _names(lists["images"], "file_name", f"{path}, images")
    categories = _names(lists["categories"], "name", f"{path}, categories")
    for entry in lists["images"]:
        size = entry.get("height"), entry.get("width")
        if all(type(side) is int and side > 0 for side in size):
            sizes[entry["file_name"].strip()] = size
    for i, annotation in enumerate(lists["annotations"]):
        try:
            if not isinstance(annotation, dict):
                raise ValueError("no object")
            image = _reference(annotation, "image_id", images)
            name = _reference(annotation, "category_id", categories)
            yield image, name, _polygons(annotation)
        except ValueError as error:
            raise UserError(f"{path}, annotation {i} (from 0): {error}.") from error


def _names(entries: list[Any], field: str, where: str) -> dict[int | str, str]:
    """Return the names of COCO entries by id."""
    found = {}
    for entry in entries:
        own = entry if isinstance(entry, dict) else {}
        key, name = own.get("id"), own.get(field)
        if not isinstance(key, int | str) or not isinstance(name, str) or not name.strip():
            raise UserError(f'{where}: each needs an "id" and a "{field}".')
        found[key] = name.strip()
    return found


def _reference(annotation: dict[str, Any], field: str, names: dict[int | str, str]) -> str:
    """Return the name that an annotation refers to by id."""
    key = annotation.get(field)
    if not isinstance(key, int | str) or key not in names:
        raise ValueError(f"its {field} {str(key)[:40]!r} is not listed")
    return names[key]


def _polygons(annotation: dict[str, Any]) -> list[NDArray[np.float64]]:
    """Return the polygons of a COCO annotation, or its box if it has none."""
    segments = annotation.get("segmentation")
    if isinstance(segments, dict):
        raise ValueError("its segmentation is run-length encoded; polygons are expected")
    if isinstance(segments, list) and segments:
        return [_checked(_numbers(one, "a polygon").reshape(-1, 2)) for one in segments]
    box = _numbers(annotation.get("bbox"), "a bbox")
    if box.size != 4 or min(box[2:]) <= 0:
        raise ValueError("its bbox is not [x, y, width, height]")
    return [_checked(corners(*box))]


def _numbers(values: Any, what: str) -> NDArray[np.float64]:
    """Return a list of coordinates as an array."""
    plain = isinstance(values, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
    if not plain or len(values) < 4 or len(values) % 2:
        raise ValueError(f"{what} of numbers x, y, ... is expected")
    try:
        return np.array(values, np.float64)
    except OverflowError as error:
        raise ValueError(f"{what} has a number that is too large") from error


def _checked(polygon: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a polygon whose corners are places in or near a picture.

    Raises:
        ValueError: a coordinate is no number or too large, or there are fewer than three corners.
    """
    if len(polygon) < 3:
        raise ValueError("a polygon needs three corners")
    if not (np.abs(polygon) <= LARGEST).all():  # NaN is not either
        raise ValueError(f"a coordinate is not between -{LARGEST:g} and {LARGEST:g}")
    return polygon

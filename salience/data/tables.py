"""Text tables of fixations, as eye trackers, spreadsheets and pandas export them.

The first line names the columns: `x` and `y` in pixels from 0; `subject`, the observer; and `image`
in a table for several pictures. Case is ignored. Columns are separated by commas, semicolons or
tabs. Other columns are ignored.
"""

import codecs
import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salience.data.points import Looks, observers_of
from salience.system.errors import UserError
from salience.system.files import composed, read_bytes

SUFFIXES = {".csv", ".tsv"}
DELIMITERS = (",", ";", "\t")
# accepted names of columns
ROLES = {
    "x": ("x",),
    "y": ("y",),
    "subject": ("subject", "observer", "participant"),
    "image": ("image", "picture", "stimulus", "filename"),
}
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # Excel's "Unicode text"


@dataclass(frozen=True)
class Columns:
    """The columns of a table.

    Attributes:
        places: index of the column for each role.
        others: names of ignored columns.
        delimiter: separator of columns.
        head: number of lines before the first row.
    """

    places: dict[str, int]
    others: tuple[str, ...]
    delimiter: str
    head: int


@dataclass(frozen=True)
class Table:
    """The fixations of a table.

    Attributes:
        points: float64 [n, 2], (x, y), pixels.
        subjects: observer of each fixation, or None without such a column.
        images: picture of each fixation, without folders, or None without such a column.
    """

    points: NDArray[np.float64]
    subjects: list[str] | None
    images: list[str] | None


def columns_of(path: Path) -> Columns:
    """Return the columns of a table, without reading its rows.

    Raises:
        UserError: the file cannot be read, or its first line does not name the columns.
    """
    return _columns(_text(path), path)[0]


def parse_picture(path: Path, picture: str) -> Looks:
    """Return the fixations of a table for one picture.

    Args:
        path: the table.
        picture: file name of the picture; a column of pictures must name only this one.

    Raises:
        UserError: the file is not such a table.
    """
    table = read(path)
    wanted = {composed(picture), composed(PurePosixPath(picture).stem)}
    other = next((name for name in table.images or () if name not in wanted), None)
    if other is not None:
        raise UserError(
            f"{path} is about {picture} by its name, but names {other}. Call a table about several "
            "pictures fixations.csv."
        )
    return _looks([table], path)[0]


def parse_all(*paths: Path) -> dict[str, Looks]:
    """Return the fixations of tables for several pictures, by the picture's name in the rows.

    Raises:
        UserError: a file is not such a table, or only some tables have observers.
    """
    tables = [read(path) for path in paths]
    for table, path in zip(tables, paths, strict=True):
        if table.images is None:
            raise UserError(
                f"{path} is called like no picture and has no column 'image', so what it is about "
                "is not known."
            )
        if (table.subjects is None) != (tables[0].subjects is None):
            raise UserError(f"{paths[0]} and {path}: one has a column 'subject', the other none.")
    looks, images = _looks(tables, paths[0])
    if not images:
        raise UserError(f"{paths[0]} names columns, but has no row: no fixation of any picture.")
    names, places = np.unique(images, return_inverse=True)
    order = np.argsort(places, kind="stable")
    ends = np.cumsum(np.bincount(places, minlength=len(names)))[:-1]
    who = looks.subjects
    return {
        str(name): Looks(looks.fixations[own], None if who is None else who[own])
        for name, own in zip(names, np.split(order, ends), strict=True)
    }


def _looks(tables: list[Table], where: object) -> tuple[Looks, list[str]]:
    """Return the fixations of all tables together, and the picture of each."""
    points = np.concatenate([table.points for table in tables]).astype(np.float32)
    images = [name for table in tables for name in table.images or ()]
    if tables[0].subjects is None:
        return Looks(points), images
    who = np.array([name for table in tables for name in table.subjects or ()], np.str_)
    return Looks(points, observers_of(who, len(points), where)), images


def read(path: Path) -> Table:
    """Return the fixations of a table.

    Raises:
        UserError: the file cannot be read, a column is missing, or a row is not a fixation.
    """
    columns, rows = _columns(_text(path), path)
    found: dict[str, list[str]] = {role: [] for role in columns.places}
    points = []
    try:
        for row in rows:
            if any(cell.strip() for cell in row):
                values = _values(row, columns)
                points.append([_number(values[axis], columns.delimiter) for axis in "xy"])
                for role, value in values.items():
                    found[role].append(value)
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}, line {columns.head + rows.line_num}: {error}.") from error
    images = [_file_name(name) for name in found["image"]] if "image" in found else None
    if images is not None and not all(images):
        raise UserError(f"{path} has fixations whose picture is blank.")
    return Table(np.reshape(points, (-1, 2)).astype(np.float64), found.get("subject"), images)


def _values(row: list[str], columns: Columns) -> dict[str, str]:
    """Return the values of a row by role.

    Raises:
        ValueError: the number of values differs from the number of columns.
    """
    width = len(columns.places) + len(columns.others)
    if len(row) < width or any(cell.strip() for cell in row[width:]):
        raise ValueError(f"{len(row)} values for {width} columns")
    return {role: row[place].strip() for role, place in columns.places.items()}


def _text(path: Path) -> str:
    """Return the text of a file, decoded by its byte-order mark or else as UTF-8."""
    try:
        data = read_bytes(path)
        return data.decode("utf-16" if data.startswith(UTF_16) else "utf-8-sig")
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    except UnicodeError as error:
        raise UserError(f"{path} is no text in UTF-8: save it as CSV in UTF-8.") from error


def _columns(text: str, path: Path) -> tuple[Columns, Any]:
    """Return the columns of a table, and a CSV reader at its first row."""
    lines = io.StringIO(text, newline="")
    first, head = lines.readline(), 1
    if first.lower().startswith("sep="):  # for Excel
        first, head = lines.readline(), 2
    choices = [_named(first, delimiter) for delimiter in DELIMITERS]
    names, delimiter = max(zip(choices, DELIMITERS, strict=True), key=lambda pair: len(pair[0]))
    by_role = {
        role: [i for i, name in enumerate(names) if name.lower() in words]
        for role, words in ROLES.items()
    }
    if any(len(by_role[axis]) != 1 for axis in "xy") or any(len(p) > 1 for p in by_role.values()):
        raise UserError(
            f"{path} has the columns {', '.join(repr(name) for name in names)}; its first line "
            "must name one column x, one y (pixels counted from 0), and at most one subject and "
            "one image."
        )
    places = {role: found[0] for role, found in by_role.items() if found}
    others = tuple(name for i, name in enumerate(names) if i not in places.values())
    return Columns(places, others, delimiter, head), csv.reader(
        lines, delimiter=delimiter, strict=True
    )


def _named(line: str, delimiter: str) -> list[str]:
    """Return the names of columns in a line, which NumPy writes as a comment."""
    try:
        names = next(
            csv.reader([line.strip(" \r\n").removeprefix("#").lstrip(" ")], delimiter=delimiter), []
        )
    except csv.Error:
        return []
    return [name.strip() for name in names]


def _number(text: str, delimiter: str) -> float:
    """Return a coordinate; a decimal comma is allowed unless commas separate columns."""
    value = float(text.replace(",", ".") if delimiter != "," else text)
    if not math.isfinite(value) or "_" in text:
        raise ValueError(f"{text!r} is no place in a picture")
    return value


def _file_name(name: str) -> str:
    """Return a picture's name without folders, in the syntax of any system."""
    return composed(name.replace("\\", "/").rsplit("/", 1)[-1])

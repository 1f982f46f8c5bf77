"""Text tables of fixations, as eye trackers, spreadsheets and pandas export them.

The first line names the columns: `x` and `y` in pixels from 0; `subject`, the observer; `t` and
`duration` in milliseconds; `order` of an observer's fixations on a picture; and `image` in a table
for several pictures. Case is ignored. Other names can be given for each role
(`columns.parse_columns`). Columns are separated by commas, semicolons or tabs. Other columns are
ignored.
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

from salience.data.columns import ROLES, parse_columns
from salience.data.points import Looks, observers_of
from salience.system.errors import UserError
from salience.system.files import composed, read_bytes

SUFFIXES = {".csv", ".tsv"}
DELIMITERS = (",", ";", "\t")
NUMBERS = ("x", "y", "t", "duration", "order")  # roles whose values are numbers
# text of a cell without a value, in the columns that may lack one
MISSING = {"", ".", "-", "na", "nan", "null", "none"}
ROLE_OF = {"times": "t"}  # role of a field of `Table`, where that is not its singular
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
        times: float64 [n], start of each fixation, milliseconds; None without such a column.
        durations: float64 [n], milliseconds; None without such a column.
        orders: float64 [n], place among the observer's fixations; None without such a column.
    """

    points: NDArray[np.float64]
    subjects: list[str] | None
    images: list[str] | None
    times: NDArray[np.float64] | None = None
    durations: NDArray[np.float64] | None = None
    orders: NDArray[np.float64] | None = None


def columns_of(path: Path, columns: str = "") -> Columns:
    """Return the columns of a table, without reading its rows.

    Args:
        path: the table.
        columns: names of columns, see `parse_columns`.

    Raises:
        UserError: the file cannot be read, or its first line does not name the columns.
    """
    return _columns(text_of(path), path, columns)[0]


def parse_picture(path: Path, picture: str, columns: str = "") -> Looks:
    """Return the fixations of a table for one picture.

    Args:
        path: the table.
        picture: file name of the picture; a column of pictures must name only this one.
        columns: names of columns, see `parse_columns`.

    Raises:
        UserError: the file is not such a table.
    """
    table = read(path, columns)
    wanted = {composed(picture), composed(PurePosixPath(picture).stem)}
    other = next((name for name in table.images or () if name not in wanted), None)
    if other is not None:
        raise UserError(
            f"{path} is about {picture} by its name, but names {other}. Call a table about several "
            "pictures fixations.csv."
        )
    return _looks([table], path)[0]


def parse_all(*paths: Path, columns: str = "") -> dict[str, Looks]:
    """Return the fixations of tables for several pictures, by the picture's name in the rows.

    Args:
        paths: the tables.
        columns: names of columns, see `parse_columns`.

    Raises:
        UserError: a file is not such a table, or only some tables have a column.
    """
    tables = [read(path, columns) for path in paths]
    for table, path in zip(tables, paths, strict=True):
        if table.images is None:
            names = ", ".join(columns_of(path, columns).others) or "none"
            raise UserError(
                f"{path} is called like no picture and has no column 'image', so what it is about "
                f"is not known. Other columns: {names}. Name one: --columns image=NAME."
            )
        for role in ("subjects", "times", "durations", "orders"):
            if (getattr(table, role) is None) != (getattr(tables[0], role) is None):
                name = ROLE_OF.get(role, role.removesuffix("s"))
                raise UserError(
                    f"{paths[0]} and {path}: one has a column '{name}', the other none."
                )
    looks, images = _looks(tables, paths[0])
    if not images:
        raise UserError(f"{paths[0]} names columns, but has no row: no fixation of any picture.")
    names, places = np.unique(images, return_inverse=True)
    order = np.argsort(places, kind="stable")
    ends = np.cumsum(np.bincount(places, minlength=len(names)))[:-1]
    return {
        str(name): looks.chosen(own) for name, own in zip(names, np.split(order, ends), strict=True)
    }


def _looks(tables: list[Table], where: object) -> tuple[Looks, list[str]]:
    """Return the fixations of all tables together, and the picture of each.

    A column of orders sorts the fixations of each observer, on each picture.
    """

    def together(role: str) -> NDArray | None:
        values = [getattr(table, role) for table in tables]
        return None if values[0] is None else np.concatenate(values)

    points = np.concatenate([table.points for table in tables]).astype(np.float32)
    images = [name for table in tables for name in table.images or ()]
    subjects, orders = None, together("orders")
    if tables[0].subjects is not None:
        who = np.array([name for table in tables for name in table.subjects or ()], np.str_)
        subjects = observers_of(who, len(points), where)
    looks = Looks(points, subjects, None, *map(_as_floats, map(together, ("times", "durations"))))
    if orders is None:
        return looks, images
    groups = np.zeros(len(points)) if subjects is None else subjects
    order = np.lexsort((orders, groups))  # `parse_all` divides by picture and keeps this order
    return looks.chosen(order), [images[i] for i in order] if images else images


def _as_floats(values: NDArray | None) -> NDArray[np.float32] | None:
    """Return times as float32."""
    return None if values is None else values.astype(np.float32)


def read(path: Path, columns: str = "") -> Table:
    """Return the fixations of a table.

    Args:
        path: the table.
        columns: names of columns, see `parse_columns`.

    Raises:
        UserError: the file cannot be read, a column is missing, or a row is not a fixation.
    """
    layout, rows = _columns(text_of(path), path, columns)
    found: dict[str, list] = {role: [] for role in layout.places}
    try:
        for row in rows:
            if any(cell.strip() for cell in row):
                for role, value in _values(row, layout).items():
                    place = role in ("x", "y")
                    found[role].append(
                        number(value, layout.delimiter, place) if role in NUMBERS else value
                    )
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}, line {layout.head + rows.line_num}: {error}.") from error
    images = [file_name(name) for name in found["image"]] if "image" in found else None
    if images is not None and not all(images):
        raise UserError(f"{path} has fixations whose picture is blank.")
    times, durations, orders = (
        np.array(found[role], np.float64) if role in found else None
        for role in ("t", "duration", "order")
    )
    points = np.stack([np.array(found[axis], np.float64) for axis in "xy"], axis=1)
    return Table(points, found.get("subject"), images, times, durations, orders)


def _values(row: list[str], columns: Columns) -> dict[str, str]:
    """Return the values of a row by role.

    Raises:
        ValueError: the number of values differs from the number of columns.
    """
    width = len(columns.places) + len(columns.others)
    if len(row) < width or any(cell.strip() for cell in row[width:]):
        raise ValueError(f"{len(row)} values for {width} columns")
    return {role: row[place].strip() for role, place in columns.places.items()}


def text_of(path: Path) -> str:
    """Return the text of a file, decoded by its byte-order mark or else as UTF-8.

    Raises:
        UserError: the file cannot be read, or is no text.
    """
    try:
        data = read_bytes(path)
        return data.decode("utf-16" if data.startswith(UTF_16) else "utf-8-sig")
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    except UnicodeError as error:
        raise UserError(f"{path} is no text in UTF-8: save it as CSV in UTF-8.") from error


def _columns(text: str, path: Path, columns: str) -> tuple[Columns, Any]:
    """Return the columns of a table, and a CSV reader at its first row."""
    lines = io.StringIO(text, newline="")
    first, head = lines.readline(), 1
    if first.lower().startswith("sep="):  # for Excel
        first, head = lines.readline(), 2
    choices = [named(first, delimiter) for delimiter in DELIMITERS]
    names, delimiter = max(zip(choices, DELIMITERS, strict=True), key=lambda pair: len(pair[0]))
    chosen = parse_columns(columns)
    accepted = ROLES | {role: (name.lower(),) for role, name in chosen.items()}
    by_role = {
        role: [i for i, name in enumerate(names) if name.lower() in words]
        for role, words in accepted.items()
    }
    there = ", ".join(repr(name) for name in names)
    for role, name in chosen.items():
        if len(by_role[role]) != 1:
            raise UserError(
                f"{path} has the columns {there}; --columns {role}={name} must name one of them."
            )
    if any(len(by_role[axis]) != 1 for axis in "xy") or any(len(p) > 1 for p in by_role.values()):
        raise UserError(
            f"{path} has the columns {there}; its first line must name one column x, one y (pixels "
            "counted from 0), and at most one subject and one image. Other names: --columns "
            "x=NAME,y=NAME."
        )
    places = {role: found[0] for role, found in by_role.items() if found}
    others = tuple(name for i, name in enumerate(names) if i not in places.values())
    return Columns(places, others, delimiter, head), csv.reader(
        lines, delimiter=delimiter, strict=True
    )


def named(line: str, delimiter: str) -> list[str]:
    """Return the names of columns in a line, which NumPy writes as a comment."""
    try:
        names = next(
            csv.reader([line.strip(" \r\n").removeprefix("#").lstrip(" ")], delimiter=delimiter), []
        )
    except csv.Error:
        return []
    return [name.strip() for name in names]


def number(text: str, delimiter: str, place: bool = True) -> float:
    """Return a number; a decimal comma is allowed unless commas separate columns.

    Args:
        text: the text of a cell.
        delimiter: separator of columns.
        place: whether it is a coordinate; other numbers may be missing, which gives NaN.

    Raises:
        ValueError: the text is no finite number.
    """
    if not place and text.strip().lower() in MISSING:
        return math.nan
    value = float(text.replace(",", ".") if delimiter != "," else text)
    if not math.isfinite(value) or "_" in text:
        raise ValueError(f"{text!r} is no {'place in a picture' if place else 'number'}")
    return value


def file_name(name: str) -> str:
    """Return a picture's name without folders, in the syntax of any system."""
    return composed(name.replace("\\", "/").rsplit("/", 1)[-1])

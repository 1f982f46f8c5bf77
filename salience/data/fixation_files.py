"""Fixations in files of one's own: an array, a .mat file, a table or a mask a picture, or a table.

`.npy`, `.npz`, tables and pictures count pixels from 0, and `.mat` files from 1, as MATLAB does;
masks have no such question. What tells most of a picture is read, and what is passed over is named.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from salience.data import tables
from salience.data.parts import by_stem, files_of
from salience.data.points import (
    Looks,
    Read,
    looks_of_picture,
    observers_of,
    points_of_mask,
    read_files,
    read_mat,
    read_table,
)
from salience.pictures.headers import header_shape
from salience.pictures.sample import IMAGE_SUFFIXES, Stored
from salience.system.arrays import UNREADABLE, read_array, read_arrays
from salience.system.errors import UserError
from salience.system.files import composed

Image = Path | Stored
# of one picture's files that is read which stands first: it tells most
FORMS = ({".npy", ".npz", ".mat"}, tables.SUFFIXES, IMAGE_SUFFIXES)
TABLE = "fixations"  # what the name of a table about many pictures begins with, if not among them
NAMED = 3  # columns or files in a remark
# fixations from which on a third column of ever new numbers is a duration rather than an observer
MANY = 20


class Found(NamedTuple):
    """Files of fixations.

    Attributes:
        read: returns the fixations; None where there are none.
        remarks: what a user should know of how the files were understood.
        files: those that are read, or named in the remarks as not read.
    """

    read: Callable[[], Read] | None = None
    remarks: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


def found_in(
    folder: Path,
    images: Mapping[str, Image],
    clashes: list[str],
    around: Sequence[Path] = (),
    elsewhere: Sequence[str] = (),
    columns: str = "",
) -> Found:
    """Return what tells where people looked at pictures.

    Args:
        folder: holds a file a picture, and maybe tables about many.
        images: the pictures by their key.
        clashes: gets what makes it impossible to pair.
        around: folders that may hold tables about many pictures, too; only the first is no other
            split's.
        elsewhere: keys of the other splits' pictures, which tables may name, too.
        columns: names of tables' columns, see `columns.parse_columns`.
    """
    files: dict[str, Path] = {}
    second: list[Path] = []
    for suffixes in FORMS:
        better = dict(files)
        for key, path in by_stem(folder, suffixes, clashes).items():
            if key in better or (better and key not in images):
                second.append(path)
            elif path.suffix.lower() not in tables.SUFFIXES or key in images:
                files[key] = path
    whole = [
        path
        for inner in dict.fromkeys((folder, *around))
        for path in files_of(inner, tables.SUFFIXES)
        if path.stem not in images and (inner == folder or path.stem.lower().startswith(TABLE))
    ]
    known = (*files.values(), *second, *whole)
    remarks = []
    if second:
        names = _some([path.name for path in second])
        remarks.append(f"{names} in {folder} not read: files of another form tell more")
    if files and whole:
        remarks.append(f"{_some([path.name for path in whole])} not read: pictures have files of "
                       "their own")  # fmt: skip
        whole = []
    remarks += _columns_read([*files.values(), *whole], columns)
    if whole:
        own = all(path.parent in (folder, *around[:1]) for path in whole)
        others = [key for key in elsewhere if not (own and key in images)]
        return Found(lambda: _of_tables(whole, images, others, columns), tuple(remarks), known)
    read = (lambda: _of_files(files, images, columns)) if files else None
    return Found(read, tuple(remarks), known)


def _some(names: Sequence[str]) -> str:
    """Return some names and their number."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def _columns_read(paths: Sequence[Path], columns: str) -> list[str]:
    """Return what is to be known of the columns of tables and arrays, told by the first of each."""
    remarks = []
    table = next((path for path in paths if path.suffix.lower() in tables.SUFFIXES), None)
    array = next((path for path in paths if path.suffix.lower() == ".npy"), None)
    if columns and not table:
        remarks.append(f"--columns {columns} has no effect: no table of fixations is read")
    try:
        others = [n for n in tables.columns_of(table, columns).others if n] if table else []
        if others:
            remarks.append(f"{table}: the columns {', '.join(others)} are passed over")
        held: Any = read_array(array, mapped=True, table=True) if array else np.zeros(0)
        if held.dtype.names is None and held.ndim == 2 and held.shape[1] == 3:
            remarks.append(f"{array}: three columns are read as x, y and who made the fixation")
    except (UserError, *UNREADABLE):
        pass  # its parser says what is wrong
    return remarks


def _of_files(files: dict[str, Path], images: Mapping[str, Image], columns: str) -> Read:
    """Return the fixations of pictures that have a file each."""
    # a mask is told from points by its picture's size; one without picture is reported as unpaired
    pairs = {key: (path, images[key]) for key, path in files.items() if key in images}
    found = read_files(pairs, parse, columns=columns)
    alone = dict.fromkeys(files.keys() - pairs.keys(), Looks(np.zeros((0, 2), np.float32)))
    return Read({**found.looks, **alone}, found.failures)


def _of_tables(
    paths: Sequence[Path], images: Mapping[str, Image], elsewhere: Sequence[str], columns: str
) -> Read:
    """Return the fixations of pictures that tables name, with or without their suffix."""
    read = read_table(paths[0], tables.parse_all, *paths[1:], columns=columns)
    find = finder(images)
    looks: dict[str, Looks] = {}
    said: dict[str, str] = {}
    for name, found in read.looks.items():
        key = find(name)
        if key in looks:
            raise UserError(f"{paths[0]} has {said[key]} and {name}: one picture under two names.")
        if key in images and key in elsewhere:
            raise UserError(
                f"{paths[0]} has {name}, which several splits hold: give each split a table of its "
                "own, in its folder of fixations."
            )
        if key not in elsewhere:
            looks[key], said[key] = found, name
    return Read(looks)


def finder(images: Mapping[str, Image]) -> Callable[[str], str]:
    """Return a function from a picture's name in a table to its key, or to a key of no picture.

    Names may have the picture's suffix, another one or none.

    Args:
        images: the pictures by their key.
    """
    keys = {composed(key): key for key in images}
    by_name = keys | {composed(i.name): key for key, i in images.items() if isinstance(i, Path)}

    def find(name: str) -> str:
        path = Path(name)
        stem = path.stem if path.suffix.lower() in IMAGE_SUFFIXES else name
        return by_name.get(name) or keys.get(stem, stem)

    return find


def parse(path: Path, image: Image, columns: str = "") -> Looks:
    """Return the fixations of one picture's file.

    Args:
        path: .npy, .npz, .mat, a table, or a mask as a picture.
        image: the picture, whose size tells a mask from points.
        columns: names of tables' columns, see `columns.parse_columns`.

    Raises:
        UserError: the file cannot be read, or holds neither points nor a mask of that picture.
    """
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return looks_of_picture(path)
    if suffix in tables.SUFFIXES:
        name = image.name if isinstance(image, Path) else path.stem
        return tables.parse_picture(path, name, columns)
    values, beside = _mat(path) if suffix == ".mat" else _numpy(path)
    who = beside.get("subjects")
    shape = _shape_of(image)
    if values.dtype.kind not in "buif" or values.ndim != 2:
        raise UserError(
            f"{path} holds {values.dtype} of shape {values.shape}; points [n, 2] or a mask "
            "[rows, columns] are expected."
        )
    if not np.isfinite(values).all():
        raise UserError(f"{path} holds values that are not finite.")
    if suffix != ".mat" and who is None and values.shape[1] == 3 and values.shape != shape:
        values, who = values[:, :2], _third(values[:, 2], path)
    if not values.size:  # MATLAB's [] is 0 x 0
        values = np.zeros((0, 2))
    if values.shape[1] == 2:
        first_pixel = 1.0 if suffix == ".mat" else 0.0  # MATLAB counts pixels from one
        subjects = None if who is None else observers_of(who, len(values), path)
        when = (_times(beside.get(name), len(values), name, path) for name in ("t", "duration"))
        return Looks((values - first_pixel).astype(np.float32), subjects, None, *when)
    if values.shape != shape:  # (x, y, duration) would else pass for a mask, three pixels wide
        of = f"{shape[0]} rows and {shape[1]} columns" if shape else "a damaged header"
        raise UserError(
            f"{path} holds {values.shape[0]} x {values.shape[1]} numbers: neither points [n, 2] "
            f"nor a mask of {_name(image)}, which has {of}."
        )
    if who is not None:
        raise UserError(f"{path} has subjects, but a mask in place of points [n, 2].")
    return Looks(points_of_mask(values, path), None, shape)


def _times(values: NDArray | None, count: int, name: str, path: Path) -> NDArray | None:
    """Return the times or durations of fixations as float32 [n]; None where there are none."""
    if values is None:
        return None
    if values.dtype.kind not in "buif" or values.size != count:
        raise UserError(
            f"{path} holds '{name}' as {values.dtype} of shape {values.shape}; milliseconds of "
            f"shape ({count},) are expected."
        )
    return values.ravel().astype(np.float32)


def _mat(path: Path) -> tuple[NDArray, Mapping[str, NDArray]]:
    """Return the values of a .mat file, and the arrays beside them."""
    return read_mat(path, ("fixLocs", "fixations"), "fixations", ("subjects",))


def _numpy(path: Path) -> tuple[NDArray, Mapping[str, NDArray]]:
    """Return the values of a .npy or .npz file, and the arrays or columns beside them."""
    try:
        if path.suffix.lower() == ".npy":
            values = read_array(path, table=True)
            return _columns(values, path) if values.dtype.names else (values, {})
        found = read_arrays(path)
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read as an array: {error}") from error
    if "fixations" not in found:
        there = ", ".join(found) or "nothing"
        raise UserError(f"{path} has no array 'fixations', but {there}.")
    return found["fixations"], found


def _columns(values: NDArray, path: Path) -> tuple[NDArray, Mapping[str, NDArray]]:
    """Return the points of an array with named columns, and the columns beside them."""
    names: Any = {name.lower(): name for name in values.dtype.names or ()}
    if not {"x", "y"} <= names.keys() or values.ndim != 1:
        raise UserError(
            f"{path} has the columns {', '.join(names)} and shape {values.shape}; x and y are "
            "needed, and maybe subject, of shape [n]."
        )
    roles = {"subject": "subjects", "t": "t", "duration": "duration"}
    beside = {roles[role]: values[names[role]] for role in roles.keys() & names.keys()}
    return np.stack([values[names["x"]], values[names["y"]]], axis=1), beside


def _third(values: NDArray, path: Path) -> NDArray:
    """Return a third column, if it can tell who made each fixation.

    Raises:
        UserError: its numbers are a duration's.
    """
    if (values % 1).any() or (len(values) >= MANY and 2 * len(np.unique(values)) > len(values)):
        raise UserError(
            f"{path} has three columns, of which the third should tell who made each fixation, but "
            "it changes as a duration does. Leave it away, or name the columns x, y and subject."
        )
    return values


def _shape_of(image: Image) -> tuple[int, int] | None:
    """Return a picture's rows and columns, without decoding it."""
    return header_shape(image) if isinstance(image, Path) else image.shape()


def _name(image: Image) -> str:
    """Return what an error calls a picture."""
    return image.name if isinstance(image, Path) else str(image)

"""Fixations, parsed once: many files by a pool of threads, then kept in the user's cache.

What a file holds is a parser's business. A parser takes paths and returns `Looks`, or, for a file
about many pictures, a dictionary of them; on a damaged file it raises UserError.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from salience.data import mat
from salience.pictures.headers import read_header
from salience.pictures.picture_files import read_stored_map
from salience.pictures.sample import Stored
from salience.system.arrays import divided, joined
from salience.system.cache import Shelf, default_cache, make_key
from salience.system.errors import UserError
from salience.system.files import stamp_or_nothing
from salience.system.terminal import progress

LOOKS = "fixations"  # the name of what is kept
# Pillow's names of what may smear a white pixel; some files of these kinds do not, as none tells
LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "JPEG2000")
DENSE = 0.2  # share of a picture's pixels that no observers look at one by one
WHITE = 128  # the least value, of 255, that is a mask's white rather than a count
WHITEST = (255, 65535)  # white in pictures of 8 and of 16 bits
BLACK = 2  # the most that a lossy format makes of black, in blocks
# neighbours above 0, of eight, that a density's pixels have on average: 4.4 were seen of spots with
# a deviation of one pixel, and 7 to 8 of others; 3.6 of 1,000 fixations in clusters on 96 x 128
SPREAD = 4
# where so many pixels are above 0, and half of them hold as much, it is a scaled white, no count
SEVERAL, MOST_COUNTED = 3, 11


class Looks(NamedTuple):
    """Where people looked at one picture.

    Attributes:
        fixations: float32 [n, 2] in (x, y), 0-based pixel centres; some may lie outside.
        subjects: int32 [n], which observer made each, or None.
        shape: rows and columns of the picture, where the file tells.
    """

    fixations: NDArray[np.floating]
    subjects: NDArray[np.int32] | None = None
    shape: tuple[int, int] | None = None


@dataclass(frozen=True)
class Read:
    """What was read about the pictures of a split.

    Attributes:
        looks: by the picture's key.
        failures: by the picture's key, why its file could not be read.
    """

    looks: dict[str, Looks] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def read_files(
    files: Mapping[str, tuple[Path | Stored, ...]], parser: Callable[..., Looks]
) -> Read:
    """Return the fixations of pictures that have a file each, from the cache where unchanged.

    Args:
        files: by the picture's key, what the parser takes.
        parser: a function of a module, from these paths to the picture's fixations.
    """
    shelf = _shelf(parser, [path for paths in files.values() for path in paths])
    failures: dict[str, str] = {}

    def parse(name: str) -> tuple[str, Looks] | None:
        try:
            return name, parser(*files[name])
        except UserError as error:
            failures[name] = str(error)
            return None
        finally:
            bar.update()

    kept = shelf.recall(LOOKS)
    if kept is not None:  # by their order: another set of the same files may have other keys
        looks = dict(zip(files, _unpacked(kept).values(), strict=True))
    else:
        bar = progress(len(files), "reading fixations")
        with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
            looks = dict(found for found in pool.map(parse, files) if found)
        if looks and not failures:
            shelf.keep(LOOKS, _packed(looks))
    if not failures and files:
        first = next(iter(files.values()))[0]
        _refuse_empty(looks, f"{len(files)} fixation files such as {first}")
    return Read(looks, dict(sorted(failures.items())))


def read_table(path: Path, parser: Callable[..., dict[str, Looks]], *others: Path) -> Read:
    """Return the fixations of all pictures of one file, from the cache where unchanged.

    Args:
        path: the file.
        parser: a function of a module, from these files to the fixations by the picture's name.
        others: further files of the same kind, which only together tell all.

    Raises:
        UserError: a file cannot be read, or no picture has a fixation.
    """
    shelf = _shelf(parser, [path, *others])
    kept = shelf.recall(LOOKS)
    looks = _unpacked(kept) if kept is not None else parser(path, *others)
    if kept is None and looks:
        shelf.keep(LOOKS, _packed(looks))
    _refuse_empty(looks, f"{len(looks)} pictures of {path}")
    return Read(looks)


def _refuse_empty(looks: dict[str, Looks], of: str) -> None:
    """Raise UserError where there are pictures, and none of them has a fixation."""
    if looks and not any(len(found.fixations) for found in looks.values()):
        raise UserError(
            f"No fixation in any of {of}: all of them are empty. Were the points lost when they "
            "were written?"
        )


def _shelf(parser: Callable, sources: Sequence[Path | Stored]) -> Shelf:
    """Return where what a parser makes of files is kept: by the code, and what each file holds."""
    files = [source.file if isinstance(source, Stored) else source for source in sources]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        stamps = list(pool.map(stamp_or_nothing, files))
    places = [source.index if isinstance(source, Stored) else None for source in sources]
    # where an error names the file it must be this one, so its name counts
    told = list(zip(map(str, sources), places, stamps, strict=True))
    return default_cache().shelf(make_key(parser, told))


def _packed(looks: dict[str, Looks]) -> dict[str, NDArray]:
    """Return the fixations of many pictures as a few arrays."""
    points, who, shapes = zip(*looks.values(), strict=True)
    return {
        "names": np.array(list(looks), np.str_),
        "shapes": np.array([shape or (0, 0) for shape in shapes], np.int64),
        **joined("fixations", points, np.zeros((0, 2), np.float32)),
        **joined("subjects", who, np.zeros(0, np.int32)),
    }


def _unpacked(arrays: dict[str, NDArray]) -> dict[str, Looks]:
    """Return what `_packed` was given."""
    rows = zip(
        arrays["names"].tolist(),
        divided("fixations", arrays),
        divided("subjects", arrays),
        arrays["shapes"].tolist(),
        strict=True,
    )
    return {
        name: Looks(points, who, (shape[0], shape[1]) if any(shape) else None)
        for name, points, who, shape in rows
    }


def points_of_mask(mask: NDArray, where: object) -> NDArray[np.floating]:
    """Return the points of a picture-sized mask, one for each count, as (x, y), float32.

    A mask of 0 and one other value of at least 128 marks its points in white. Any other value
    counts the fixations of its pixel. Fixations mark single pixels, and a density map spots. All
    masks come through here, whatever file they are in.

    Args:
        mask: [rows, columns], counts, or 0 and one white.
        where: what the error names.

    Raises:
        UserError: it holds anything else, as a density map does.

    >>> points_of_mask(np.array([[0, 2, 0, 0, 0], [1, 0, 0, 0, 0]]), "").tolist()
    [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    """
    values = mask.astype(np.float64)
    if not np.isfinite(values).all() or (values < 0).any():
        raise _no_mask(where, "numbers that are negative or not finite")
    rows, columns = np.nonzero(values)
    if len(rows) > DENSE * values.size:
        raise _no_mask(where, f"values above 0 on {len(rows) / values.size:.0%} of its pixels")
    counts = values[rows, columns]
    kinds = np.unique(counts)
    if len(kinds) == 1 and kinds[0] >= WHITE:
        counts[:] = 1
    if (counts % 1).any():
        raise _no_mask(where, f"fractions such as {counts[counts % 1 > 0][0]:.4g}")
    whites = np.count_nonzero(counts >= WHITE)
    if len(kinds) > 1 and (kinds[-1] in WHITEST or whites >= SEVERAL):
        raise _no_mask(where, f"{len(kinds)} shades from {kinds[0]:g} to {kinds[-1]:g}")
    if _neighbours(values > 0) > SPREAD:
        raise _no_mask(where, f"spots of adjacent pixels, {len(rows)} above 0 in all")
    usual = np.median(counts) if len(rows) >= SEVERAL else 0
    if usual >= MOST_COUNTED:
        raise _no_mask(where, f"{usual:g} on most of {len(rows)} pixels, neither count nor white")
    if counts.sum() > values.size:
        raise _no_mask(where, f"{counts.sum():.0f} fixations on {values.size} pixels")
    points = np.stack([columns, rows], axis=1)
    return np.repeat(points, counts.astype(int), axis=0).astype(np.float32)


def _neighbours(marked: NDArray[np.bool_]) -> float:
    """Return how many of the eight pixels about one that is marked are, too, on average."""
    if not marked.any():  # or there is no pixel, which OpenCV does not take
        return 0.0
    near = cv2.boxFilter(
        marked.astype(np.float32), -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    return float(near[marked].mean()) - 1


def mask_of(mask: NDArray, where: object) -> Looks:
    """Return the fixations of what a file holds in place of a mask.

    Raises:
        UserError: it is none: no numbers [rows, columns], or those of a density map.
    """
    if np.ndim(mask) != 2 or mask.dtype.kind not in "buif":
        raise UserError(f"{where} holds {mask.dtype} of shape {mask.shape}, not a mask.")
    return Looks(points_of_mask(mask, where), None, (mask.shape[0], mask.shape[1]))


def _no_mask(where: object, holds: str) -> UserError:
    """Return the error of what is no mask of fixations."""
    return UserError(
        f"{where} holds {holds}: a density map rather than fixations? A mask of fixations counts "
        "those of each pixel, 0, 1, 2 and so on, or is 0 and 255."
    )


def observers_of(values: NDArray, count: int, where: object) -> NDArray[np.int32]:
    """Return who made each fixation as int32 [n], from numbers or names of any type.

    Whole numbers of up to 32 bits stay as they are. Larger ones and names become 0, 1, 2 and so
    on, by their first appearance.

    Args:
        values: [n], [n, 1] or [1, n]: integers, whole floats, texts, bytes or MATLAB's cells.
        count: how many fixations there are.
        where: what the error names.

    Raises:
        UserError: they are of another number, or of a type that names nobody.

    >>> observers_of(np.array(["ann", "bob", "ann"]), 3, "").tolist()
    [0, 1, 0]
    """
    who = np.ravel(values)
    if who.dtype == object:  # a cell each
        who = np.array([_content_of(cell, where) for cell in who])
    if who.size != count or who.dtype.kind not in "buifUS":
        raise UserError(
            f"{where} holds observers as {values.dtype} of shape {np.shape(values)}; whole numbers "
            f"or names of shape ({count},), one a fixation, are expected."
        )
    if who.dtype.kind in "US":
        if any(not name.strip() for name in who.tolist()):
            raise UserError(f"{where} has fixations whose observer is blank.")
        return _numbered(who)
    if who.dtype.kind == "f":
        # beyond that, one number of this type may stand for two observers
        told_apart = (np.abs(who) < 2.0 ** (np.finfo(who.dtype).nmant + 1)).all()
        if not told_apart or (who % 1).any():
            raise UserError(
                f"{where} has observers that are no whole numbers, or larger than {who.dtype} "
                "tells apart. Store them as integers or names."
            )
    if not who.size or (int(who.min()) >= -(2**31) and int(who.max()) < 2**31):
        return who.astype(np.int32)
    return _numbered(who)


def _content_of(cell: Any, where: object) -> Any:
    """Return the one number or text of a MATLAB cell."""
    inner = np.ravel(cell)
    if inner.size != 1 or inner.dtype.kind not in "buifUS":
        raise UserError(f"{where} has a cell of observers that holds no one number or name.")
    return inner[0]


def _numbered(labels: NDArray) -> NDArray[np.int32]:
    """Return labels as 0, 1, 2 and so on, by their first appearance."""
    _, first, places = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[places.ravel()].astype(np.int32)


def as_points(values: NDArray) -> NDArray[np.floating]:
    """Return the 1-based points of a MATLAB array as 0-based ones; its empty one is 0 x 0.

    Raises:
        ValueError: it is neither [n, 2] nor empty.
    """
    points = np.asarray(values, np.float32)
    if points.size and (points.ndim != 2 or points.shape[1] != 2):
        raise ValueError(f"points of shape {points.shape} instead of [n, 2]")
    return points.reshape(-1, 2) - 1


def gathered_looks(observers: Sequence[NDArray], shape: tuple[int, int] | None = None) -> Looks:
    """Return the points of each observer of a picture as one list, with who made each."""
    points = np.concatenate([*observers, np.zeros((0, 2))], dtype=np.float32)
    who = np.repeat(np.arange(len(observers)), [len(own) for own in observers])
    return Looks(points, who.astype(np.int32), shape)


def looks_of_picture(path: Path) -> Looks:
    """Return the fixations of a mask that is stored as a grey picture.

    A lossy format smears a white pixel and rings about it, so white is what is above half, and
    counts are lost. Others keep what was stored: a mask, or counts.

    Raises:
        UserError: it is no picture, or no mask.
    """
    mask = read_stored_map(path)
    header = read_header(path, turn=False)
    if mask.dtype == np.uint8 and header and header.format in LOSSY:
        mask = _white_of(mask, path)
    return Looks(points_of_mask(mask, path), None, (mask.shape[0], mask.shape[1]))


def _white_of(mask: NDArray[np.uint8], where: object) -> NDArray[np.uint8]:
    """Return the white of a mask that may have been smeared, as 255.

    Raises:
        UserError: it has shades as a density map has, or is not black and yet has no white.
    """
    grey = mask >= WHITE // 2  # as far from black as ringing does not go
    if grey.mean() > DENSE:
        raise _no_mask(where, f"values of {WHITE // 2} or more on {grey.mean():.0%} of its pixels")
    if _neighbours(grey) > SPREAD:
        raise _no_mask(where, f"spots of grey, {np.count_nonzero(grey)} pixels in all")
    black = mask.max() <= BLACK and _neighbours(mask > 0) > SPREAD
    if 0 < mask.max() < WHITE and not black:
        raise _no_mask(where, f"values up to {mask.max()} in a format that keeps white alone")
    return np.where(mask >= WHITE, np.uint8(255), np.uint8(0))


def read_mat(
    path: Path, names: Sequence[str], what: str, besides: Sequence[str] = ()
) -> tuple[Any, dict[str, Any]]:
    """Return the first of some variables that a .mat file holds, and all that was asked for.

    Args:
        path: the file.
        names: of the variables, the one to be preferred first.
        what: the file should be, for the error.
        besides: further variables, none of which is needed.

    Raises:
        UserError: the file is damaged, holds none of them, or of a class that is not read.
    """
    asked = [*names, *besides]
    try:
        content = mat.read(path, asked)
    except mat.Damaged as error:
        raise UserError(
            f"{path} cannot be read as {what} ({error}). Is the download whole?"
        ) from error
    name = next((name for name in names if name in content), None)
    if name is None:
        wanted = " or ".join(f"'{name}'" for name in names)
        raise UserError(f"{path} has no variable {wanted}.")
    return content[name], content

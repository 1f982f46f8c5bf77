"""Reading of fixations: files are parsed by threads and cached in the user's cache.

A parser reads one file format. It takes paths and returns `Looks`, or a dictionary of `Looks` for a
file of many pictures. It raises UserError for a damaged file.
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

LOOKS = "fixations"  # name of the cached arrays
# Pillow's names of formats that may be lossy; their headers do not tell
LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "JPEG2000")
DENSE = 0.2  # share of fixated pixels that only density maps exceed
WHITE = 128  # least value, of 255, that is white in a mask rather than a count
WHITEST = (255, 65535)  # white in pictures of 8 and of 16 bits
BLACK = 2  # largest value of black in lossy formats, which change whole blocks
# mean number of positive neighbours, of eight, that only density maps exceed. Measured: 4.4 for
# Gaussians with sigma of one pixel, 7 to 8 for wider ones, 3.6 for 1,000 fixations on 96 x 128
SPREAD = 4
# with at least SEVERAL positive pixels, a median of MOST_COUNTED is a scaled white, not a count
SEVERAL, MOST_COUNTED = 3, 11


class Looks(NamedTuple):
    """The fixations of one picture.

    Attributes:
        fixations: float32 [n, 2] in (x, y), 0-based pixel centres; some may lie outside.
        subjects: int32 [n], the observer of each fixation, or None.
        shape: rows and columns of the picture, if the file records them.
        times: float32 [n], start of each fixation, milliseconds; NaN where unknown, or None.
        durations: float32 [n], milliseconds; NaN where unknown, or None.
    """

    fixations: NDArray[np.floating]
    subjects: NDArray[np.int32] | None = None
    shape: tuple[int, int] | None = None
    times: NDArray[np.floating] | None = None
    durations: NDArray[np.floating] | None = None

    def chosen(self, which: NDArray) -> "Looks":
        """Return some of the fixations, by index or mask, with all that belongs to them."""

        def own(values: NDArray | None) -> NDArray | None:
            return None if values is None else values[which]

        return Looks(
            self.fixations[which],
            own(self.subjects),
            self.shape,
            own(self.times),
            own(self.durations),
        )


@dataclass(frozen=True)
class Read:
    """The fixations of the pictures of a split.

    Attributes:
        looks: fixations by the picture's key.
        failures: errors of unreadable files by the picture's key.
    """

    looks: dict[str, Looks] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def read_files(
    files: Mapping[str, tuple[Path | Stored, ...]], parser: Callable[..., Looks], **options: str
) -> Read:
    """Return the fixations of pictures with one file each, from the cache for unchanged files.

    Args:
        files: arguments of the parser by the picture's key.
        parser: module-level function from these paths to the picture's fixations.
        options: keyword arguments of the parser.

    Raises:
        UserError: no picture has a fixation.
    """
    shelf = _shelf(parser, [path for paths in files.values() for path in paths], options)
    failures: dict[str, str] = {}

    def parse(name: str) -> tuple[str, Looks] | None:
        try:
            return name, parser(*files[name], **options)
        except UserError as error:
            failures[name] = str(error)
            return None
        finally:
            bar.update()

    kept = shelf.recall(LOOKS)
    if kept is not None:  # by order: the keys may differ for the same files
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


def read_table(
    path: Path, parser: Callable[..., dict[str, Looks]], *others: Path, **options: str
) -> Read:
    """Return the fixations of all pictures of one file, from the cache for an unchanged file.

    Args:
        path: the file.
        parser: module-level function from these files to the fixations by the picture's name.
        others: further files of the same kind that the parser needs.
        options: keyword arguments of the parser.

    Raises:
        UserError: a file cannot be read, or no picture has a fixation.
    """
    shelf = _shelf(parser, [path, *others], options)
    kept = shelf.recall(LOOKS)
    looks = _unpacked(kept) if kept is not None else parser(path, *others, **options)
    if kept is None and looks:
        shelf.keep(LOOKS, _packed(looks))
    _refuse_empty(looks, f"{len(looks)} pictures of {path}")
    return Read(looks)


def _refuse_empty(looks: dict[str, Looks], of: str) -> None:
    """Raise UserError if there are pictures and none of them has a fixation."""
    if looks and not any(len(found.fixations) for found in looks.values()):
        raise UserError(
            f"No fixation in any of {of}: all of them are empty. Were the points lost when the "
            "files were written?"
        )


def _shelf(parser: Callable, sources: Sequence[Path | Stored], options: Mapping[str, str]) -> Shelf:
    """Return the shelf of a parser's results, keyed by its code and the files' identities."""
    files = [source.file if isinstance(source, Stored) else source for source in sources]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        stamps = list(pool.map(stamp_or_nothing, files))
    places = [source.index if isinstance(source, Stored) else None for source in sources]
    # includes the file names, which errors quote
    identities = list(zip(map(str, sources), places, stamps, strict=True))
    return default_cache().shelf(make_key(parser, identities, sorted(options.items())))


def _packed(looks: dict[str, Looks]) -> dict[str, NDArray]:
    """Return the fixations of many pictures as a few arrays, for a .npz."""
    points, who, shapes, times, durations = zip(*looks.values(), strict=True)
    return {
        "names": np.array(list(looks), np.str_),
        "shapes": np.array([shape or (0, 0) for shape in shapes], np.int64),
        **joined("fixations", points, np.zeros((0, 2), np.float32)),
        **joined("subjects", who, np.zeros(0, np.int32)),
        **joined("times", times, np.zeros(0, np.float32)),
        **joined("durations", durations, np.zeros(0, np.float32)),
    }


def _unpacked(arrays: dict[str, NDArray]) -> dict[str, Looks]:
    """Return the fixations that were passed to `_packed`."""
    rows = zip(
        arrays["names"].tolist(),
        divided("fixations", arrays),
        divided("subjects", arrays),
        arrays["shapes"].tolist(),
        divided("times", arrays),
        divided("durations", arrays),
        strict=True,
    )
    return {
        name: Looks(points, who, (shape[0], shape[1]) if any(shape) else None, *when)
        for name, points, who, shape, *when in rows
    }


def points_of_mask(mask: NDArray, where: object) -> NDArray[np.floating]:
    """Return the fixations of a picture-sized mask.

    If the mask has one value besides 0 and it is at least 128, each such pixel is one fixation.
    Otherwise values are numbers of fixations. Density maps are refused: they have spots instead of
    single pixels. Masks of all file formats are read by this function.

    Args:
        mask: [rows, columns], counts, or 0 and one white.
        where: name of the file, for errors.

    Returns:
        float32 [n, 2] in (x, y), 0-based pixel centres; a count gives as many equal points.

    Raises:
        UserError: the mask holds anything else, such as a density map.

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
    """Return the mean number of marked pixels among the eight neighbours of a marked pixel."""
    if not marked.any():  # includes arrays without pixels, which OpenCV refuses
        return 0.0
    near = cv2.boxFilter(
        marked.astype(np.float32), -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    return float(near[marked].mean()) - 1


def mask_of(mask: NDArray, where: object) -> Looks:
    """Return the fixations of a mask of any type, with the picture's shape.

    Args:
        mask: [rows, columns], counts, or 0 and one white.
        where: name of the file, for errors.

    Raises:
        UserError: the array is not a mask: another shape or type, or a density map.
    """
    if np.ndim(mask) != 2 or mask.dtype.kind not in "buif":
        raise UserError(f"{where} holds {mask.dtype} of shape {mask.shape}, not a mask.")
    return Looks(points_of_mask(mask, where), None, (mask.shape[0], mask.shape[1]))


def _no_mask(where: object, holds: str) -> UserError:
    """Return the error for an array that is not a mask of fixations."""
    return UserError(
        f"{where} holds {holds}: a density map rather than fixations? A mask of fixations counts "
        "the fixations of each pixel (0, 1, 2 and so on), or contains only 0 and 255."
    )


def observers_of(values: NDArray, count: int, where: object) -> NDArray[np.int32]:
    """Return the observer of each fixation as int32 [n], from numbers or names.

    Whole numbers of up to 32 bits are unchanged. Larger numbers and names become 0, 1, 2 and so on,
    in order of first appearance.

    Args:
        values: [n], [n, 1] or [1, n]: integers, whole floats, texts, bytes or MATLAB's cells.
        count: number of fixations.
        where: name of the file, for errors.

    Raises:
        UserError: the number of values is not `count`, or their type is not supported.

    >>> observers_of(np.array(["ann", "bob", "ann"]), 3, "").tolist()
    [0, 1, 0]
    """
    who = np.ravel(values)
    if who.dtype == object:  # MATLAB cells
        who = np.array([_content_of(cell, where) for cell in who])
    if who.size != count or who.dtype.kind not in "buifUS":
        raise UserError(
            f"{where} holds observers as {values.dtype} of shape {np.shape(values)}; whole numbers "
            f"or names of shape ({count},), one per fixation, are expected."
        )
    if who.dtype.kind in "US":
        if any(not name.strip() for name in who.tolist()):
            raise UserError(f"{where} has fixations whose observer is blank.")
        return _numbered(who)
    if who.dtype.kind == "f":
        # larger integers are not exact in this type: two observers could become one
        is_exact = (np.abs(who) < 2.0 ** (np.finfo(who.dtype).nmant + 1)).all()
        if not is_exact or (who % 1).any():
            raise UserError(
                f"{where} has observers that are not whole numbers, or too large for "
                f"exact {who.dtype}. Store them as integers or names."
            )
    if not who.size or (int(who.min()) >= -(2**31) and int(who.max()) < 2**31):
        return who.astype(np.int32)
    return _numbered(who)


def _content_of(cell: Any, where: object) -> Any:
    """Return the number or text in a MATLAB cell."""
    inner = np.ravel(cell)
    if inner.size != 1 or inner.dtype.kind not in "buifUS":
        raise UserError(f"{where} has a cell of observers that does not hold one number or name.")
    return inner[0]


def _numbered(labels: NDArray) -> NDArray[np.int32]:
    """Return labels as 0, 1, 2 and so on, in order of first appearance."""
    _, first, places = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[places.ravel()].astype(np.int32)


def as_points(values: NDArray) -> NDArray[np.floating]:
    """Return the 1-based points of a MATLAB array as 0-based ones, float32 [n, 2].

    Args:
        values: [n, 2], or empty, as MATLAB's 0 x 0.

    Raises:
        ValueError: the array is neither [n, 2] nor empty.
    """
    points = np.asarray(values, np.float32)
    if points.size and (points.ndim != 2 or points.shape[1] != 2):
        raise ValueError(f"points of shape {points.shape} instead of [n, 2]")
    return points.reshape(-1, 2) - 1


def gathered_looks(observers: Sequence[NDArray], shape: tuple[int, int] | None = None) -> Looks:
    """Return the fixations of all observers of a picture, with observer indices.

    Args:
        observers: points [n, 2] of each observer, (x, y), 0-based pixel centres.
        shape: rows and columns of the picture, if known.
    """
    points = np.concatenate([*observers, np.zeros((0, 2))], dtype=np.float32)
    who = np.repeat(np.arange(len(observers)), [len(own) for own in observers])
    return Looks(points, who.astype(np.int32), shape)


def looks_of_picture(path: Path) -> Looks:
    """Return the fixations of a mask that is stored as a grey picture.

    Lossy formats blur white pixels and change counts. In these, pixels above half of white are
    fixations. Lossless formats may store counts.

    Raises:
        UserError: the file is not a picture, or its picture is not a mask.
    """
    mask = read_stored_map(path)
    header = read_header(path, turn=False)
    if mask.dtype == np.uint8 and header and header.format in LOSSY:
        mask = _white_of(mask, path)
    return Looks(points_of_mask(mask, path), None, (mask.shape[0], mask.shape[1]))


def _white_of(mask: NDArray[np.uint8], where: object) -> NDArray[np.uint8]:
    """Return the white pixels of a mask from a lossy format as 255, others as 0.

    Raises:
        UserError: it has the shades of a density map, or is neither black nor has white pixels.
    """
    grey = mask >= WHITE // 2  # compression artefacts stay below this value
    if grey.mean() > DENSE:
        raise _no_mask(where, f"values of {WHITE // 2} or more on {grey.mean():.0%} of its pixels")
    if _neighbours(grey) > SPREAD:
        raise _no_mask(where, f"spots of grey, {np.count_nonzero(grey)} pixels in all")
    black = mask.max() <= BLACK and _neighbours(mask > 0) > SPREAD
    if 0 < mask.max() < WHITE and not black:
        raise _no_mask(where, f"values up to {mask.max()} in a lossy format, but none is white")
    return np.where(mask >= WHITE, np.uint8(255), np.uint8(0))


def read_mat(
    path: Path, names: Sequence[str], what: str, besides: Sequence[str] = ()
) -> tuple[Any, dict[str, Any]]:
    """Return the first of several variables in a .mat file, and all requested variables.

    Args:
        path: the file.
        names: names of the variable, in order of preference.
        what: expected content of the file, for errors.
        besides: names of optional variables.

    Returns:
        The first variable of `names` that exists, and all existing variables by name.

    Raises:
        UserError: the file is damaged, has none of `names`, or has an unsupported class.
    """
    requested = [*names, *besides]
    try:
        content = mat.read(path, requested)
    except mat.Damaged as error:
        raise UserError(
            f"{path} cannot be read as {what} ({error}). Is the download complete?"
        ) from error
    name = next((name for name in names if name in content), None)
    if name is None:
        wanted = " or ".join(f"'{name}'" for name in names)
        raise UserError(f"{path} has no variable {wanted}.")
    return content[name], content

"""Fixations, parsed once: many files by a pool of threads, then kept in the user's cache.

What a file holds is a parser's business. A parser takes paths and returns `Looks`, or, for a file
about many pictures, a dictionary of them; on a damaged file it raises UserError.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from salience.data.mat import checked
from salience.pictures.picture_files import read_stored_map
from salience.system.arrays import divided, joined
from salience.system.cache import default_cache
from salience.system.code_digest import code_digest
from salience.system.errors import UserError
from salience.system.terminal import progress

JPEG = {".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"}
DENSE = 0.2  # share of a picture's pixels that no observers look at one by one


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


def read_files(files: dict[str, tuple[Path, ...]], parser: Callable[..., Looks]) -> Read:
    """Return the fixations of pictures that have a file each, from the cache where unchanged.

    Args:
        files: by the picture's key, what the parser takes.
        parser: a function of a module, from these paths to the picture's fixations.
    """
    key = _key(parser, [path for paths in files.values() for path in paths])
    failures: dict[str, str] = {}

    def parse(name: str) -> tuple[str, Looks] | None:
        try:
            return name, parser(*files[name])
        except UserError as error:
            failures[name] = str(error)
            return None
        finally:
            bar.update()

    cache = default_cache()
    kept = cache.recall(key)
    if kept is not None:  # by their order: another set of the same files may have other keys
        return Read(dict(zip(files, _unpacked(kept).values(), strict=True)))
    bar = progress(len(files), "reading fixations")
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        looks = dict(found for found in pool.map(parse, files) if found)
    if looks and not failures:
        cache.keep(key, _packed(looks))
    return Read(looks, dict(sorted(failures.items())))


def read_table(path: Path, parser: Callable[[Path], dict[str, Looks]]) -> Read:
    """Return the fixations of all pictures of one file, from the cache where unchanged.

    Raises:
        UserError: the file cannot be read.
    """
    cache, key = default_cache(), _key(parser, [path])
    kept = cache.recall(key)
    if kept is not None:
        return Read(_unpacked(kept))
    looks = parser(path)
    if looks:
        cache.keep(key, _packed(looks))
    return Read(looks)


def _key(parser: Callable, paths: Sequence[Path]) -> str:
    """Return a name for what a parser makes of files: the code, and each file's size and time."""
    digest = hashlib.sha256(f"{parser.__qualname__} {code_digest(parser)}".encode())
    for path in paths:
        status = path.stat()
        digest.update(repr((str(path.absolute()), status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()


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

    Args:
        mask: [rows, columns], counts, or 0 and 255.
        where: what the error names.

    >>> points_of_mask(np.array([[0, 2], [1, 0]]), "").tolist()
    [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    """
    counts = mask.astype(np.float64)
    if counts.size and counts.max() > 100:
        counts = (counts > 0) * 1.0  # a mask of 0 and 255
    if counts.size and (not np.isfinite(counts).all() or counts.min() < 0 or (counts % 1).any()):
        raise UserError(f"{where} is a mask of counts, but not all of them are 0, 1, 2 and so on.")
    if counts.sum() > counts.size:
        raise UserError(
            f"{where} counts more fixations than it has pixels: a density map rather than "
            "fixations?"
        )
    rows, columns = np.nonzero(counts)
    points = np.stack([columns, rows], axis=1)
    return np.repeat(points, counts[rows, columns].astype(int), axis=0).astype(np.float32)


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
    """Return the fixations of a mask that is stored as a grey picture: its white pixels.

    JPEG smears a white pixel and rings about it, so white is what is above half. PNG keeps what
    was stored, which may be 1 instead of 255: there white is what is not black.

    Raises:
        UserError: it is no picture, or no mask.
    """
    mask = read_stored_map(path)
    white = mask > 127 if path.suffix.lower() in JPEG else mask > 0
    rows, columns = np.nonzero(white)
    if len(rows) > DENSE * white.size:
        raise UserError(
            f"{path} is white on {len(rows) / white.size:.0%} of the picture: a density map rather "
            "than fixations?"
        )
    points = np.stack([columns, rows], axis=1).astype(np.float32)
    return Looks(points, None, (white.shape[0], white.shape[1]))


def read_mat(path: Path, names: Sequence[str], what: str) -> tuple[Any, dict[str, Any]]:
    """Return the first of some variables that a .mat file holds, and all that it holds of them.

    Args:
        path: the file.
        names: of the variables, the one to be preferred first.
        what: the file should be, for the error.

    Raises:
        UserError: the file is damaged, holds none of them, or of a class that is not read.
    """
    try:
        content = loadmat(checked(path.read_bytes(), names, path), variable_names=list(names))
    except UserError:
        raise
    except Exception as error:  # scipy raises many types on a damaged file
        raise UserError(
            f"{path} cannot be read as {what} ({type(error).__name__}: {error}). Is the "
            "download whole?"
        ) from error
    name = next((name for name in names if name in content), None)
    if name is None:
        wanted = " or ".join(f"'{name}'" for name in names)
        raise UserError(f"{path} has no variable {wanted}.")
    return content[name], content

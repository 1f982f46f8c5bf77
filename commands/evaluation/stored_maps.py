"""Saliency maps that others made: which file is which picture's, and what its numbers say.

Whatever decides a score is noted: how a file was found, what its values were taken for, and what
was done to them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from salience.data import mat
from salience.measures.metrics import from_8bit, in_range
from salience.pictures.picture_files import as_map, read_stored_map
from salience.pictures.sample import IMAGE_SUFFIXES, Sample
from salience.system.arrays import UNREADABLE, read_array, read_arrays
from salience.system.errors import UserError
from salience.system.files import composed, lies_in_clutter
from salience.system.notes import Notes

# where there are several, the first is taken
MAP_SUFFIXES = (".npy", *sorted(IMAGE_SUFFIXES), ".npz", ".mat")
ASPECT = 0.02  # by which a map's aspect may differ from its picture's: sizes are whole pixels
LOG_BASES = {"natural logarithms": np.e, "logarithms to base 2": 2, "logarithms to base 10": 10}
LOG_TOLERANCE = 0.05  # of the logarithm of a density's sum: half floats are rounded to 0.01
AT_PEAK = 0.01  # share of the pixels that may be 0 where a logarithm's greatest value is
SHOWN = 3  # files named in an error


def paired(folder: Path, samples: list[Sample], notes: Notes) -> dict[str, Path]:
    """Return the map file of each picture, by the picture's name.

    A map has its picture's path below the folder, with any suffix; or, where only one file ends so,
    that path below a sub-folder. Names are compared in Unicode's composed form.

    Args:
        folder: searched with its sub-folders.
        samples: the pictures.
        notes: gets what is missing, what is left over, and what was found below a sub-folder.

    Raises:
        UserError: no folder, none of its files is named like a picture, or several could be a
            picture's map.
    """
    if not folder.is_dir():
        raise UserError(f"The maps are not at {folder}: no such folder.")
    found: dict[str, list[Path]] = {}
    for path in _files(folder):
        inner = path.relative_to(folder)
        if path.suffix.lower() in MAP_SUFFIXES:
            key = composed(inner.with_suffix("").as_posix())
            found.setdefault(key, []).append(path)
        else:
            kind = path.suffix or "nameless"
            notes.add(f"{kind} files among the maps: not read", inner.as_posix())
    keys = _keys(folder, found, samples, notes)
    files = {}
    for sample in samples:
        if sample.name not in keys:
            notes.add("maps missing: the picture is left out of every row", sample.name)
            continue
        ranked = sorted(
            found[keys[sample.name]], key=lambda path: MAP_SUFFIXES.index(path.suffix.lower())
        )
        files[sample.name] = ranked[0]
        for other in ranked[1:]:
            notes.add(f"maps beside one of the same name: not used, {ranked[0].suffix} is",
                      other.name)  # fmt: skip
    if not files:
        there = [path.relative_to(folder).as_posix() for paths in found.values() for path in paths]
        more = ", ..." * (len(there) > SHOWN)
        holds = ", ".join(there[:SHOWN]) + more if there else f"no {', '.join(MAP_SUFFIXES)}"
        raise UserError(
            f"No file of {folder} is named like a picture of the split, such as "
            f"{Path(samples[0].name).with_suffix('.png')}. It holds {holds}."
        )
    for key in sorted(found.keys() - keys.values()):
        notes.add("maps without a picture in the split: not used", found[key][0].name)
    return files


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and its sub-folders, sorted, without a system's clutter."""
    for path in sorted(folder.rglob("*")):
        if not lies_in_clutter(path.relative_to(folder)) and path.is_file():
            yield path


def _keys(
    folder: Path, found: dict[str, list[Path]], samples: list[Sample], notes: Notes
) -> dict[str, str]:
    """Return the key of each picture's map among those found, by the picture's name.

    Raises:
        UserError: several sub-folders hold a map of one picture's name.
    """
    keys, missing = {}, []
    for sample in samples:
        # the full name where two pictures differ by their suffix alone: a.jpg.png
        names = [composed(sample.name), composed(Path(sample.name).with_suffix("").as_posix())]
        key = next((name for name in names if name in found), None)
        if key is None:
            missing.append((sample.name, names))
        else:
            keys[sample.name] = key
    ends: dict[str, list[str]] = {}
    for key in sorted(found.keys() - keys.values()):
        parts = key.split("/")
        for start in range(1, len(parts)):
            ends.setdefault("/".join(parts[start:]), []).append(key)
    # the longest names first: val/a.png is nearer to val/a.jpg than to a.jpg
    for picture, names in sorted(missing, key=lambda pair: -pair[0].count("/")):
        taken = set(keys.values())
        ways = [(key, name) for name in names for key in ends.get(name, []) if key not in taken]
        ways = [(key, name) for key, name in ways if name == ways[0][1]]
        if len(ways) > 1:
            first, second = (found[key][0].relative_to(folder) for key, _ in ways[:2])
            raise UserError(
                f"The map of {picture} may be {first} or {second} of {folder}: name the sub-folder "
                "that is meant."
            )
        for key, name in ways:
            keys[picture] = key
            notes.add(f"maps found in {key.removesuffix(name)}, by the end of their path", picture)
    return keys


def read_values(path: Path) -> NDArray:
    """Return the numbers of a map's file, [rows, columns], as it holds them.

    Arrays may hold minus infinity, the logarithm of nothing.

    Raises:
        UserError: it cannot be read, holds several arrays, or no map of numbers.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        return read_stored_map(path)
    try:
        found = reader(path)
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read as an array: {error}") from error
    if len(found) != 1:
        there = ", ".join(f"{n}: {v.dtype} of shape {v.shape}" for n, v in found.items())
        raise UserError(f"{path} holds {len(found)} arrays ({there}); a map's file holds one.")
    (values,) = found.values()
    return as_map(values, path, logarithms=True)


READERS: dict[str, Callable[[Path], dict[str, NDArray]]] = {
    ".npy": lambda path: {path.stem: read_array(path)},
    ".npz": read_arrays,
    ".mat": lambda path: mat.read(path, None),
}


def as_saliency(
    values: NDArray, shape: tuple[int, int], name: str, notes: Notes, stretch: bool = False
) -> NDArray[np.float64]:
    """Return a stored map as it is scored: at its picture's shape, densities for logarithms.

    Args:
        values: as `read_values` gives them.
        shape: rows and columns of the picture.
        name: of the picture.
        notes: gets what was done.
        stretch: whether a map of another aspect than the picture's is scaled to it all the same.

    Raises:
        UserError: the map is of another aspect, or holds numbers that are not finite.
    """
    _check_aspect(values.shape, shape, stretch)
    if values.dtype == np.uint8:
        notes.add("8-bit maps: scored half a step higher, as 0 is not nothing", name)
        values = from_8bit(values)
    elif logarithms := _logarithms(values):
        kind, base = logarithms
        notes.add(f"maps {kind}: exponentiated", name)
        values = _exponentials(values, base)
    if not np.isfinite(values).all():
        raise UserError("it holds numbers that are not finite.")
    if values.min() < 0:
        notes.add(
            "maps with negative values that are no log-densities: kept for NSS, CC and the AUCs; "
            "where shares are asked (IG, KLD, SIM, EMD) their least becomes 0",
            name,
        )
    values = in_range(values)
    if values.shape != shape:
        notes.add("maps of another size than the picture: scaled to it", name)
        values = cv2.resize(values, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(values, np.float64)


def _check_aspect(map_shape: tuple[int, ...], shape: tuple[int, int], stretch: bool) -> None:
    """Raise UserError where a map cannot be its picture scaled, unless it may be stretched."""
    rows, columns = map_shape
    wanted = columns * shape[0] / shape[1]
    # of a small map, the side that follows from the other is rounded to a whole pixel
    if stretch or abs(rows - wanted) <= max(1, ASPECT * wanted):
        return
    turned = " (are rows and columns exchanged?)" * ((columns, rows) == shape)
    raise UserError(
        f"the map is {columns} x {rows} but its picture {shape[1]} x {shape[0]}{turned}. With "
        "--stretch True, maps of another aspect are scaled to their pictures all the same."
    )


def _logarithms(values: NDArray) -> tuple[str, float] | None:
    """Return what logarithms a map holds, in words and by their base; None for other maps.

    Of a density, the exponentials sum to 1. What is negative everywhere, but for a peak of about 0,
    is taken for natural logarithms, too.
    """
    if values.dtype.kind != "f" or values.max() > LOG_TOLERANCE or values.min() == values.max():
        return None
    for kind, base in LOG_BASES.items():
        logarithm = float(values.max()) * np.log(base) + np.log(_exponentials(values, base).sum())
        if abs(logarithm) <= LOG_TOLERANCE:
            return f"of {kind} of densities", base
    # log(map + epsilon) of a map with the peak 1 has its own a little above 0
    if np.count_nonzero(values >= min(0, values.max())) <= max(1, AT_PEAK * values.size):
        return "of negative values alone, which sum to no density: taken for logarithms", np.e
    return None


def _exponentials(values: NDArray, base: float) -> NDArray[np.float64]:
    """Return the exponentials of logarithms to a base, the maximum 1."""
    wide = np.asarray(values, np.float64)
    with np.errstate(over="ignore"):  # of a zero, which may be far below
        return np.exp((wide - wide.max()) * np.log(base))

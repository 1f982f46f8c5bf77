"""Saliency maps of other programs: matching files to pictures, and interpreting their values.

All decisions that affect scores are noted: how a file was found, and how its values were
interpreted and changed.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from salience.data import mat
from salience.measures.density import LOG_DENSITY, density_kind
from salience.measures.metrics import from_8bit, in_range
from salience.pictures.picture_files import as_map, read_stored_map
from salience.pictures.sample import IMAGE_SUFFIXES, Sample
from salience.system.arrays import UNREADABLE, read_array, read_arrays
from salience.system.errors import UserError
from salience.system.files import composed, lies_in_clutter
from salience.system.notes import Notes

# in order of preference
MAP_SUFFIXES = (".npy", *sorted(IMAGE_SUFFIXES), ".npz", ".mat")
ASPECT_TOLERANCE = 0.02  # relative; sizes are rounded to whole pixels
LOG_BASES = {"natural logarithms": np.e, "logarithms to base 2": 2, "logarithms to base 10": 10}
LOG_TOLERANCE = 0.05  # for the logarithm of a density's sum: half floats are rounded to 0.01
MAX_PEAK_SHARE = 0.01  # largest share of pixels with the value 0 in a logarithm's map
DENSITY_SUFFIX = ".density.npy"  # as `test --density` names log-densities
MAX_SHOWN = 3  # files named in an error


def pair_maps(folder: Path, samples: list[Sample], notes: Notes) -> dict[str, Path]:
    """Return the map file of each picture, by the picture's name.

    A map has its picture's path relative to the folder, with any suffix; log-densities of `test`
    (NAME.density.npy) precede maps. If only one file ends so, the path may be relative to a
    sub-folder. Names are compared in Unicode's composed form.

    Args:
        folder: the folder, searched with its sub-folders.
        samples: the pictures.
        notes: receives missing files, unused files and files found in a sub-folder.

    Raises:
        UserError: no folder, no file named like a picture, or several candidates for one picture.
    """
    if not folder.is_dir():
        raise UserError(f"The maps are not at {folder}: no such folder.")
    found: dict[str, list[Path]] = {}
    pictures = {composed(Path(sample.name).stem) for sample in samples}
    for path in _files(folder):
        inner = path.relative_to(folder)
        if path.suffix.lower() in MAP_SUFFIXES:
            key = composed(inner.with_suffix("").as_posix())
            if _is_density(path) and composed(path.stem) not in pictures:
                key = key.removesuffix(".density")
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
            found[keys[sample.name]],
            # a density says more than its map, which has the same ranks
            key=lambda path: (not _is_density(path), MAP_SUFFIXES.index(path.suffix.lower())),
        )
        files[sample.name] = ranked[0]
        for other in ranked[1:]:
            notes.add(f"maps beside one of the same name: not used, {ranked[0].suffix} is",
                      other.name)  # fmt: skip
    if not files:
        there = [path.relative_to(folder).as_posix() for paths in found.values() for path in paths]
        more = ", ..." * (len(there) > MAX_SHOWN)
        holds = ", ".join(there[:MAX_SHOWN]) + more if there else f"no {', '.join(MAP_SUFFIXES)}"
        raise UserError(
            f"No file of {folder} is named like a picture of the split, such as "
            f"{Path(samples[0].name).with_suffix('.png')}. It holds {holds}."
        )
    for key in sorted(found.keys() - keys.values()):
        notes.add("maps without a picture in the split: not used", found[key][0].name)
    return files


def _is_density(path: Path) -> bool:
    """Return whether a file is named as the log-densities of `test --density`."""
    return path.name.endswith(DENSITY_SUFFIX)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and its sub-folders, sorted, without system files."""
    for path in sorted(folder.rglob("*")):
        if not lies_in_clutter(path.relative_to(folder)) and path.is_file():
            yield path


def _keys(
    folder: Path, found: dict[str, list[Path]], samples: list[Sample], notes: Notes
) -> dict[str, str]:
    """Return the key of each picture's map in `found`, by the picture's name.

    Raises:
        UserError: several sub-folders hold a map of one picture's name.
    """
    keys, missing = {}, []
    for sample in samples:
        # the full name if two pictures differ only by their suffix: a.jpg.png
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
    # the longest names first: val/a.png matches val/a.jpg better than a.jpg
    for picture, names in sorted(missing, key=lambda pair: -pair[0].count("/")):
        taken = set(keys.values())
        candidates = [
            (key, name) for name in names for key in ends.get(name, []) if key not in taken
        ]
        candidates = [(key, name) for key, name in candidates if name == candidates[0][1]]
        if len(candidates) > 1:
            first, second = (found[key][0].relative_to(folder) for key, _ in candidates[:2])
            raise UserError(
                f"The map of {picture} may be {first} or {second} of {folder}: name the correct "
                "sub-folder."
            )
        for key, name in candidates:
            keys[picture] = key
            notes.add(f"maps found in {key.removesuffix(name)}, by the end of their path", picture)
    return keys


def read_values(path: Path) -> NDArray:
    """Return the values of a map's file, [rows, columns].

    Arrays may hold minus infinity, the logarithm of zero.

    Raises:
        UserError: the file cannot be read, holds several arrays, or no numeric map.
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
        raise UserError(f"{path} holds {len(found)} arrays ({there}); one is expected.")
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
    """Return a stored map ready for scoring: at its picture's shape, logarithms exponentiated.

    Args:
        values: values from `read_values`.
        shape: rows and columns of the picture.
        name: name of the picture.
        notes: receives the changes that were made.
        stretch: whether to scale a map whose aspect ratio differs from the picture's.

    Raises:
        UserError: the aspect ratio differs, or values are not finite.
    """
    _check_aspect(values.shape, shape, stretch)
    if values.dtype == np.uint8:
        notes.add("8-bit maps: half a level is added, as 0 does not mean zero probability", name)
        values = from_8bit(values)
    elif kind := density_kind(values):
        notes.add(f"maps that are {kind}: scored as they are", name)
        values = _exponentials(values, np.e) if kind == LOG_DENSITY else values
    elif logarithms := _logarithms(values):
        kind, base = logarithms
        notes.add(f"maps {kind}: exponentiated", name)
        values = _exponentials(values, base)
    if not np.isfinite(values).all():
        raise UserError("it holds non-finite values.")
    if values.min() < 0:
        notes.add(
            "maps with negative values that are not log-densities: unchanged for NSS, CC and the "
            "AUCs; for IG, KLD, SIM and EMD, the minimum is shifted to 0",
            name,
        )
    values = in_range(values)
    if values.shape != shape:
        notes.add("maps of another size than the picture: scaled to it", name)
        values = cv2.resize(values, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(values, np.float64)


def _check_aspect(map_shape: tuple[int, ...], shape: tuple[int, int], stretch: bool) -> None:
    """Raise UserError if the aspect ratio differs from the picture's, unless stretching is on."""
    rows, columns = map_shape
    expected_rows = columns * shape[0] / shape[1]
    # the sides of a small map are rounded to whole pixels
    if stretch or abs(rows - expected_rows) <= max(1, ASPECT_TOLERANCE * expected_rows):
        return
    hint = " (are rows and columns exchanged?)" * ((columns, rows) == shape)
    raise UserError(
        f"the map is {columns} x {rows} but its picture {shape[1]} x {shape[0]}{hint}. With "
        "--stretch True, maps of another aspect ratio are scaled to their pictures."
    )


def _logarithms(values: NDArray) -> tuple[str, float] | None:
    """Return a description and the base of a map's logarithms, or None for other maps.

    The exponentials of a log-density sum to 1. A map that is negative everywhere, except for a peak
    of about 0, is interpreted as natural logarithms, too.
    """
    if values.dtype.kind != "f" or values.max() > LOG_TOLERANCE or values.min() == values.max():
        return None
    for kind, base in LOG_BASES.items():
        logarithm = float(values.max()) * np.log(base) + np.log(_exponentials(values, base).sum())
        if abs(logarithm) <= LOG_TOLERANCE:
            return f"of {kind} of densities", base
    # log(map + epsilon) of a map with maximum 1 has a maximum slightly above 0
    if np.count_nonzero(values >= min(0, values.max())) <= max(1, MAX_PEAK_SHARE * values.size):
        return (
            "of only negative values that are not a log-density: interpreted as natural logarithms",
            np.e,
        )
    return None


def _exponentials(values: NDArray, base: float) -> NDArray[np.float64]:
    """Return the exponentials of logarithms to a base, scaled to a maximum of 1."""
    wide = np.asarray(values, np.float64)
    with np.errstate(over="ignore"):  # the logarithm of zero may be very low
        return np.exp((wide - wide.max()) * np.log(base))

"""One's own data: `images/` and `maps/` and/or `fixations/`, paired by file name.

Either `ROOT/images/...`, or with the split spelt out `ROOT/train/images/...` or
`ROOT/images/train/...` (and val, and test if there is one); else a seeded split. A map is
a grey picture of the image's size, or `.npy` [rows, columns] of numbers that are 0 or more.
Fixations are either points or a picture-sized mask of counts: `.npy`
holds 0-based (x, y) points [n, 2] or a mask; `.mat` holds 1-based (x, y) points, as MATLAB counts,
in `fixations`, or a mask in `fixLocs` or `fixations`; `.npz` holds 0-based points in `fixations`
and who made each in `subjects` [n].

`ROOT/dataset.json` may say more, as that of `data subset` does: `{"pictures": {"train/a.jpg":
{"sigma_pixels": 24, "category": "Indoor", "shape": [600, 800]}}}`, each of them if it is known.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salience.data.parts import FileGroup, by_stem, find_root, load_parts, offer, unpacked
from salience.data.plan import BY_SHARES, SPLITS, Plan
from salience.data.points import Looks, Read, points_of_mask, read_files, read_mat
from salience.pictures.headers import header_shape
from salience.pictures.picture_files import read_stored_map
from salience.pictures.sample import IMAGE_SUFFIXES, Sample, Stored
from salience.system.arrays import UNREADABLE, read_array, read_arrays
from salience.system.errors import UserError
from salience.system.files import composed, read_json

NEEDS_FILES = True
SOURCE = "Point --data at a folder with images/ and maps/ (grey PNG) or fixations/ (.npy, .mat)."
FIXATION_SUFFIXES = {".npy", ".npz", ".mat"}
MAP_SUFFIXES = {*IMAGE_SUFFIXES, ".npy"}
CARD = "dataset.json"


def load(root: Path, split: str, plan: Plan = BY_SHARES) -> list[Sample]:
    """Return the samples of a split.

    Raises:
        UserError: no images, no truth, or images and truth that do not pair up.
    """
    samples = load_parts(parts(root), root, split, plan)
    told = {composed(name): fields for name, fields in read_card(_base(root) / CARD).items()}
    return [
        dataclasses.replace(s, **told.get(f"{split}/{s.name}", told.get(s.name, {})))
        for s in samples
    ]


def read_card(path: Path) -> dict[str, dict[str, Any]]:
    """Return what is known of each picture besides its files, as fields of its sample.

    Raises:
        UserError: it holds anything else.
    """
    if not path.exists():
        return {}
    card = read_json(path)
    told = card.get("pictures") if isinstance(card, dict) else None
    if not isinstance(told, dict):
        raise UserError(f'{path} has no object "pictures" with what is known of each.')
    return {name: _fields(values, f"{path}: {name}") for name, values in told.items()}


def _fields(values: Any, about: str) -> dict[str, Any]:
    """Return what a card says of a picture, checked for its type."""
    fields = {}
    for name, value in values.items() if isinstance(values, dict) else [("", values)]:
        if name == "sigma_pixels" and isinstance(value, int | float) and 0 < value < np.inf:
            fields[name] = float(value)
        elif name == "category" and isinstance(value, str):
            fields[name] = value
        elif name == "shape" and isinstance(value, list) and [type(n) for n in value] == [int, int]:
            fields[name] = tuple(value)
        else:
            raise UserError(
                f'{about} has {name or "no object, but"} {value!r}; "sigma_pixels" (above 0), '
                '"category" (text) and "shape" (rows, columns) are expected.'
            )
    return fields


def parts(root: Path) -> list[FileGroup]:
    """Return what is there of each split, or of all pictures.

    Raises:
        UserError: there are no images, or neither maps nor fixations.
    """
    base = _base(root)
    by_split = {split: _folders(base, split) for split in SPLITS}
    there = {split: folders for split, folders in by_split.items() if folders["images"].is_dir()}
    return [_part(base, *found) for found in (there or {"": _folders(base, None)}).items()]


def _base(root: Path) -> Path:
    """Return the folder that holds images/, or the splits that do."""

    def holds(folder: Path) -> bool:
        ways = (folder, *(unpacked(folder / split) for split in SPLITS))
        return any((way / "images").is_dir() for way in ways)

    return find_root(root, holds) or root


def _folders(root: Path, split: str | None) -> dict[str, Path]:
    """Return the folders of images, maps and fixations, in either order of nesting."""
    kinds = ("images", "maps", "fixations")
    if split is None:
        return {kind: root / kind for kind in kinds}
    own = unpacked(root / split)
    if (own / "images").is_dir():
        return {kind: own / kind for kind in kinds}
    return {kind: unpacked(root / kind) / split for kind in kinds}


def _part(root: Path, split: str, folders: dict[str, Path]) -> FileGroup:
    """Return what one set of folders holds."""
    clashes: list[str] = []
    images = by_stem(folders["images"], IMAGE_SUFFIXES, clashes)
    if not images:
        raise UserError(f"No images in {folders['images']}. {offer(SOURCE)}")
    maps = by_stem(folders["maps"], MAP_SUFFIXES, clashes)
    points = by_stem(folders["fixations"], FIXATION_SUFFIXES, clashes)
    if not maps and not points:
        raise UserError(f"{root} has images but neither maps nor fixations. {offer(SOURCE)}")
    # a mask is told from points by its picture's size; one without picture is reported as unpaired
    files = {key: (path, images[key]) for key, path in points.items() if key in images}
    alone = dict.fromkeys(points.keys() - files.keys(), Looks(np.zeros((0, 2), np.float32)))

    def read() -> Read:
        found = read_files(files, parse)
        return Read({**found.looks, **alone}, found.failures)

    forms = ", ".join(sorted(FIXATION_SUFFIXES))
    return FileGroup(
        split or "all",
        split,
        folders["images"].parent,
        images,
        {key: _map_source(path) for key, path in maps.items()},
        read if points else Read,
        sought=f"maps/ (grey pictures, .npy) and fixations/ ({forms})",
        clashes=tuple(clashes),
        known=(*points.values(), root / CARD),
    )


def _map_source(path: Path) -> Path | Stored:
    """Return a map as samples name it: a picture by its file, an array by its reader."""
    return Stored(path, -1, read_array_map) if path.suffix.lower() == ".npy" else path


def read_array_map(path: Path, index: int = -1) -> NDArray[np.floating]:
    """Return the map of a .npy file as float32 [rows, columns].

    Args:
        path: the file.
        index: not used: the file holds one map.

    Raises:
        UserError: it is no map of finite numbers, 0 or more.
    """
    values = read_stored_map(path)
    if values.size and values.min() < 0:
        raise UserError(f"{path} holds values below 0, down to {values.min():g}: no density map.")
    return values.astype(np.float32)


def parse(path: Path, image: Path) -> Looks:
    """Return the fixations of a .npy, .npz or .mat file.

    Args:
        path: the file.
        image: its picture, whose size tells a mask from points.

    Raises:
        UserError: the file cannot be read, or holds neither points nor a mask of that picture.
    """
    first_pixel, subjects = 0, None
    if path.suffix.lower() in (".npy", ".npz"):
        try:
            values, subjects = _read_arrays(path)
        except (*UNREADABLE, KeyError) as error:
            raise UserError(f"{path} cannot be read as an array: {error}") from error
    else:
        values, _ = read_mat(path, ("fixLocs", "fixations"), "fixations")
        first_pixel = 1  # MATLAB counts pixels from one
    if values.dtype.kind not in "buif" or values.ndim != 2:
        raise UserError(
            f"{path} holds {values.dtype} of shape {values.shape}; points [n, 2] or a mask "
            "[rows, columns] are expected."
        )
    if not np.isfinite(values).all():
        raise UserError(f"{path} holds values that are not finite.")
    if not values.size:  # MATLAB's [] is 0 x 0
        return Looks(np.zeros((0, 2), np.float32), subjects)
    if values.shape[1] == 2:
        return Looks((values - float(first_pixel)).astype(np.float32), subjects)
    shape = header_shape(image)
    if values.shape != shape:  # (x, y, duration) would else pass for a mask, three pixels wide
        of = f"{shape[0]} rows and {shape[1]} columns" if shape else "a damaged header"
        raise UserError(
            f"{path} holds {values.shape[0]} x {values.shape[1]} numbers: neither points [n, 2] "
            f"nor a mask of {image.name}, which has {of}."
        )
    return Looks(points_of_mask(values, path), None, shape)


def _read_arrays(path: Path) -> tuple[NDArray, NDArray[np.int32] | None]:
    """Return the values of a .npy or .npz file, and who made each fixation where it says.

    Raises:
        UserError: it does not say it of each fixation.
    """
    if path.suffix.lower() == ".npy":
        return read_array(path), None
    found = read_arrays(path)
    values, subjects = found["fixations"], found.get("subjects")
    if subjects is None:
        return values, None
    if subjects.dtype.kind not in "ui" or subjects.shape != values.shape[:1]:
        raise UserError(
            f"{path} holds subjects of type {subjects.dtype} and shape {subjects.shape}; whole "
            f"numbers of shape {values.shape[:1]}, one a fixation, are expected."
        )
    return values, subjects.astype(np.int32)

"""Data sets of NumPy arrays: one file for all pictures, or one per picture.

`images.npy` [n, rows, columns, 3] and `maps.npy` [n, rows, columns] (or [..., 1]), also called
`x.npy` and `y.npy`; or folders `images/` and `maps/` with a `.npy` per picture, paired by name. The
splits may be named, as `train/images.npy`, `images_train.npy` or `x_train.npy`, and for folders
as `train/images/` or `images/train/`; else the plan divides the pictures.

Pictures are RGB, channels last or first. Whole numbers are values from 0 to 255. The format
of fractions follows from their range: 0 to 1, -1 to 1, 0 to 255, or values below -1, which were
normalised with ImageNet's mean and deviation. Files are memory-mapped and read picture by picture.

Fixations are optional: `fixations.npy` with masks [n, rows, columns], or a folder `fixations/` with
a file per picture or tables, see `folder.py`. Pixels are counted from 0. The pictures of one array
are named `picture_00000` and so on, or `train_00000` and so on in a named split.
"""

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from salience.data.fixation_files import Found, found_in
from salience.data.parts import FileGroup, by_stem, files_of, find_root, load_parts, offer
from salience.data.plan import BY_SHARES, SPLITS, Plan
from salience.data.points import Looks, Read, mask_of, read_files
from salience.pictures.sample import Sample, Stored
from salience.system.arrays import UNREADABLE, read_array
from salience.system.errors import UserError

NEEDS_FILES = READS_TABLES = True
SOURCE = "Point --data at a folder with images.npy and maps.npy, or images/*.npy and maps/*.npy."
SIGMA_PIXELS = 24.0
SIGMA_FROM = "the default for own data, whose degree is not known"
# names of the arrays
IMAGES, MAPS, FIXATIONS = ("images", "x", "X"), ("maps", "y", "Y"), "fixations"
LOOKED_AT = 16  # number of pictures that are sampled for the range of values
# the mean and deviation of ImageNet's RGB from 0 to 1, as torchvision states them
MEAN_RGB = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION_RGB = np.array([0.229, 0.224, 0.225], np.float32)
# least and greatest value of each format, with a tolerance for rounding and interpolation; the
# first format that fits is chosen
RANGES = {
    "RGB from 0 to 1": (-0.01, 1.01),
    "RGB from -1 to 1": (-1.01, 1.01),
    "RGB from 0 to 255": (-0.5, 255.5),
    "ImageNet-normalised RGB": (-2.3, 2.8),
}


def load(root: Path, split: str, plan: Plan = BY_SHARES, columns: str = "") -> list[Sample]:
    """Return the samples of a split.

    Args:
        root: the folder.
        split: train, val or test.
        plan: division of the pictures without named splits.
        columns: names of tables' columns, see `columns.parse_columns`.

    Raises:
        UserError: there are no arrays, or they do not match.
    """
    return load_parts(parts(root, columns), root, split, plan)


def parts(root: Path, columns: str = "") -> list[FileGroup]:
    """Return the file group of each split, or of all pictures.

    Args:
        root: the folder.
        columns: names of tables' columns, see `columns.parse_columns`.

    Raises:
        UserError: there are no arrays of pictures, or their format is unknown.
    """
    base = find_root(root, _holds) or root
    found = [part for split in (*SPLITS, "") if (part := _part(base, split, columns))]
    if not found:
        raise UserError(f"{root} holds no images.npy and no images/*.npy. {offer(SOURCE)}")
    # with named splits, an images.npy beside them is ignored
    return [part for part in found if part.split] or found


def _holds(root: Path) -> bool:
    """Return True if a folder holds arrays of pictures of any split."""
    places = [_places(root, name, split) for name in IMAGES for split in (*SPLITS, "")]
    return any(
        any(file.is_file() for file in files) or any(files_of(inner, {".npy"}) for inner in folders)
        for files, folders in places
    )


def _places(root: Path, name: str, split: str) -> tuple[tuple[Path, Path], tuple[Path, Path]]:
    """Return the possible paths of an array, and of a folder of arrays, with a name."""
    tail = f"_{split}" if split else ""
    files = (root / split / f"{name}.npy", root / f"{name}{tail}.npy")
    return files, (root / split / name, root / name / split)


def _part(root: Path, split: str, columns: str) -> FileGroup | None:
    """Return the file group of a split, or of all pictures for ""; None without pictures."""
    clashes: list[str] = []
    images = _found(root, IMAGES, split, clashes)
    maps = _found(root, MAPS, split, clashes)
    if not images:
        return None
    form = form_of(images)
    stored = {
        key: Stored(file, i, partial(read_picture, form), shape_of)
        for key, (file, i) in images.items()
    }
    fixations = _fixations(root, split, stored, clashes, columns)
    return FileGroup(
        split or "all",
        split,
        root,
        stored,
        {key: Stored(file, i, read_map) for key, (file, i) in maps.items()},
        fixations.read or Read,
        SIGMA_PIXELS,
        sought="maps.npy or maps/*.npy",
        clashes=tuple(clashes),
        remarks=(f"{split + ': ' if split else ''}pictures read as {form}", *fixations.remarks),
        known=fixations.files,
    )


def _fixations(
    root: Path, split: str, images: dict[str, Stored], clashes: list[str], columns: str
) -> Found:
    """Return the source of the fixations of a split."""
    files, folders = _places(root, FIXATIONS, split)
    file = next((file for file in files if file.is_file()), None)
    if file:
        count, name = len(opened(file)), split or "picture"
        masks = {f"{name}_{i:05d}": (Stored(file, i, one),) for i in range(count)}
        return Found(lambda: read_files(masks, parse_mask), files=(file,))
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return found_in(folder, images, clashes, (root / split,), columns=columns)


def parse_mask(stored: Stored) -> Looks:
    """Return the fixations of one mask of an array.

    Raises:
        UserError: the values are not a mask.
    """
    return mask_of(stored(), stored)


def _found(
    root: Path, names: tuple[str, ...], split: str, clashes: list[str]
) -> dict[str, tuple[Path, int]]:
    """Return the file of each picture or map by key, and its index in the file.

    The index is -1 for a file with one picture or map.
    """
    for name in names:
        files, folders = _places(root, name, split)
        for file in files:
            if file.is_file():
                count = len(opened(file))
                return {f"{split or 'picture'}_{i:05d}": (file, i) for i in range(count)}
        for folder in folders:
            found = by_stem(folder, {".npy"}, clashes)
            if found:
                return {stem: (file, -1) for stem, file in found.items()}
    return {}


def opened(file: Path) -> NDArray:
    """Return a memory-mapped array of pictures or maps.

    Raises:
        UserError: the file is damaged or does not hold numbers.
    """
    try:
        array = read_array(file, mapped=True)
    except UNREADABLE as error:
        raise UserError(f"{file} cannot be read as an array: {error}") from error
    if array.ndim < 2 or not array.size or array.dtype.kind not in "buif":
        raise UserError(f"{file} holds {array.dtype} of shape {array.shape}, not pictures or maps.")
    return array


def one(file: Path, index: int) -> NDArray:
    """Return one picture or map of a file, as stored; index -1 is the whole array."""
    array = opened(file)
    return np.asarray(array if index < 0 else array[index])


def form_of(images: dict[str, tuple[Path, int]]) -> str:
    """Return the format of pictures (a key of RANGES), from the range of an evenly spread sample.

    Args:
        images: file and index of each picture by key.

    Raises:
        UserError: the range fits no known format.
    """
    chosen = list(images.values())[:: -(-len(images) // LOOKED_AT)]
    pictures = [one(*where) for where in chosen]
    least = min(float(picture.min()) for picture in pictures)
    most = max(float(picture.max()) for picture in pictures)
    if all(picture.dtype.kind != "f" for picture in pictures):
        low, high = RANGES["RGB from 0 to 255"]
        if low <= least and most <= high:
            return "RGB from 0 to 255"
    for form, (low, high) in RANGES.items():
        if low <= least and most <= high:
            return form
    raise UserError(
        f"{chosen[0][0]} holds numbers from {least:.4g} to {most:.4g}, which fit none of: "
        f"{', '.join(RANGES)}."
    )


def read_picture(form: str, file: Path, index: int) -> NDArray[np.uint8]:
    """Return one picture as uint8 [rows, columns, 3] in BGR.

    Args:
        form: format of the pictures, a key of RANGES.
        file: the array file.
        index: index in the file; -1 for a file with one picture.

    Raises:
        UserError: the values are not a picture with one or three channels.
    """
    values = arranged(file, index)
    if form == "ImageNet-normalised RGB":
        values = values * DEVIATION_RGB + MEAN_RGB
    if form == "RGB from -1 to 1":
        values = (values + 1) / 2
    scale = 1 if form == "RGB from 0 to 255" else 255
    rgb = np.clip(np.round(values.astype(np.float32) * scale), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(rgb[..., ::-1], (*rgb.shape[:2], 3)))


def shape_of(file: Path, index: int) -> tuple[int, int]:
    """Return rows and columns of one picture, without reading its pixels.

    Raises:
        UserError: the values are not a picture with one or three channels.
    """
    rows, cols, _ = arranged(file, index).shape
    return rows, cols


def arranged(file: Path, index: int) -> NDArray:
    """Return one picture memory-mapped, with channels last.

    Raises:
        UserError: the values are not a picture with one or three channels.
    """
    values = one(file, index)
    if values.ndim == 3 and values.shape[0] in (1, 3) and values.shape[2] not in (1, 3):
        values = values.transpose(1, 2, 0)  # channels first, as in PyTorch
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[2] not in (1, 3):
        raise UserError(
            f"{file} holds {values.dtype} of shape {values.shape}; a picture is [rows, columns, 3]."
        )
    return values


def read_map(file: Path, index: int) -> NDArray[np.floating]:
    """Return one map as float32 [rows, columns].

    Raises:
        UserError: the values are not a map: [rows, columns] of finite numbers that are 0 or more.
    """
    values = np.squeeze(one(file, index)).astype(np.float32)
    if values.ndim != 2 or not np.isfinite(values).all() or values.min() < 0:
        raise UserError(
            f"{file} is not a map, [rows, columns] of numbers that are 0 or more; its shape is "
            f"{values.shape}."
        )
    return values

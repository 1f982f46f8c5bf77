"""What a sample holds, read: its picture, its shape, its density map. No network is known here."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from inspect import isroutine
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from salience.pictures.fixations import density_map
from salience.pictures.headers import JPEG, LARGEST_MAP, header_shape, read_header
from salience.pictures.picture_files import read_image, read_map
from salience.pictures.sample import Sample, Stored
from salience.system.arrays import Array
from salience.system.code_digest import code_digest
from salience.system.errors import UserError
from salience.system.files import content_stamp
from salience.system.notes import Notes


def sample_image(sample: Sample, notes: Notes | None = None) -> NDArray[np.uint8]:
    """Return the picture of a sample, BGR uint8 [rows, columns, 3].

    A picture that its EXIF data turn away from the shape of its truth is left as it is stored.

    Args:
        sample: whose picture.
        notes: gets what is odd about its file, and does no harm.

    Raises:
        UserError: it cannot be read, or is of another shape than its truth.
    """
    if isinstance(sample.image, Path):
        image = read_image(sample.image, notes=notes)
        same = sample.shape in (None, image.shape[:2])
        unturned = image if same else read_image(sample.image, turn=False)
    else:
        unturned = image = sample.image()
    if sample.shape not in (None, unturned.shape[:2]):
        raise unequal(sample.image, image.shape, "its map or fixations are", sample.shape)
    return unturned


def reduced_image(
    sample: Sample, reduction: Callable[[tuple[int, int]], int], notes: Notes | None = None
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Return a sample's picture, maybe decoded smaller, and the rows and columns it has in full.

    Args:
        sample: as for `sample_image`.
        reduction: from the full shape to how many times smaller a JPEG may be: 1, 2, 4 or 8.
        notes: as for `sample_image`.

    Raises:
        UserError: as `sample_image` does.
    """
    path = sample.image
    large = sample.shape is None or reduction(sample.shape) > 1  # else its header tells nothing new
    if isinstance(path, Path) and large and (jpeg := _jpeg_shape(path, sample.shape)):
        shape, turn = jpeg
        times = reduction(shape)
        image = read_image(path, turn, times, notes)
        # the decoder may take damaged EXIF data otherwise than the header's reader does
        if image.shape[:2] == tuple(-(-length // times) for length in shape):
            return image, shape
    image = sample_image(sample, notes)
    return image, (image.shape[0], image.shape[1])


def _jpeg_shape(
    path: Path, expected: tuple[int, int] | None
) -> tuple[tuple[int, int], bool] | None:
    """Return the rows and columns of a JPEG and whether it is to be turned for them.

    None where it is no JPEG, or neither way of the shape that is expected.
    """
    for turn in (True, False):
        header = read_header(path, turn)
        if header is None or header.format not in JPEG:
            return None
        if expected in (None, header.shape):
            return header.shape, turn
    return None


def unequal(path: object, shape: tuple, other: str, other_shape: tuple) -> UserError:
    """Return the error of a picture and a truth that differ in size."""
    return UserError(
        f"{path} is {shape[1]} x {shape[0]} but {other} {other_shape[1]} x {other_shape[0]}. They "
        "must be equal."
    )


def stamp(source: object) -> tuple:
    """Return what changes with the content of a picture or map: a digest, its place in its file.

    Of one in an array file also how it is read, which no import tells. Empty for what comes from no
    file.
    """
    file = source.file if isinstance(source, Stored) else source
    if not isinstance(file, Path):
        return ()
    place = (source.index, *_way(source.read)) if isinstance(source, Stored) else ()
    return (content_stamp(file), *place)


def _way(read: Callable) -> tuple[str, str]:
    """Return a digest of the code of a function that reads, and what it was given beforehand."""
    given = ""
    if isinstance(read, partial):
        read, given = read.func, repr((read.args, read.keywords))
    return code_digest(read if isroutine(read) else type(read)), given


def known_shape(sample: Sample) -> tuple[int, int] | None:
    """Return the rows and columns of a sample's picture where they are known without decoding."""
    if sample.shape is None and isinstance(sample.image, Path):
        return header_shape(sample.image)
    if sample.shape is None and isinstance(sample.image, Stored):
        with suppress(UserError):  # reading it says what is wrong
            return sample.image.shape()
    return sample.shape


def sample_shape(sample: Sample) -> tuple[int, int]:
    """Return the rows and columns of a sample's picture, which is decoded only where it must be.

    Raises:
        UserError: the picture must be read and cannot be.
    """
    if sample.shape is not None:
        return sample.shape
    rows, cols = sample_image(sample).shape[:2]
    return rows, cols


def sample_density(sample: Sample, shape: tuple[int, int], sigma_pixels: float | None) -> Array:
    """Return a sample's density map at the picture's shape, maximum 1.

    The data set's own map where it has one and no other sigma is asked for, else the blurred
    fixations.

    Raises:
        UserError: the map's shape is not the picture's, or too large.
    """
    if shape[0] * shape[1] > LARGEST_MAP:
        raise UserError(
            f"{sample.name} is {shape[1]} x {shape[0]} pixels; of at most {LARGEST_MAP:,} a map of "
            "where people looked is made. Scale it down, and its fixations with it."
        )
    if sample.map is not None and (sigma_pixels is None or sample.fixations is None):
        density = read_map(sample.map) if isinstance(sample.map, Path) else sample.map()
        if density.shape != shape:
            raise unequal(sample.map, density.shape, f"its picture {sample.name} is", shape)
        return density / max(float(density.max()), 1e-12)
    if sample.fixations is None:
        raise UserError(f"{sample.name} has neither a map nor fixations.")
    return density_map(sample.fixations, shape, sigma_pixels or sample.sigma_pixels)

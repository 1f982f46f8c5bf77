"""Reading of samples: picture, shape and density map. This module depends on no network."""

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

    If the EXIF rotation contradicts the shape of the truth, the rotation is ignored.

    Args:
        sample: the sample.
        notes: receives remarks about harmless defects of the file.

    Raises:
        UserError: the picture cannot be read, or its shape differs from the truth's.
    """
    if isinstance(sample.image, Path):
        image = read_image(sample.image, sample.turned, notes=notes)
        same = sample.shape in (None, image.shape[:2])
        unturned = image if same else read_image(sample.image, turn=False)
    else:
        unturned = image = sample.image()
    if sample.shape not in (None, unturned.shape[:2]):
        raise unequal(sample.image, image.shape, "its map or fixations are", sample.shape)
    return unturned


def reduced_image(
    sample: Sample,
    reduction: Callable[[tuple[int, int]], int],
    notes: Notes | None = None,
    known: tuple[int, int] | None = None,
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Return a sample's picture, possibly decoded at a reduced size, and its full shape.

    Args:
        sample: as for `sample_image`.
        reduction: function of the full shape that returns the allowed reduction of a JPEG, 1 to 8.
        notes: as for `sample_image`.
        known: `known_shape` of the sample, where the caller has it.

    Raises:
        UserError: as `sample_image` does.
    """
    path, known = sample.image, known or sample.shape
    # else there is no need of a header; one that states no pixels is damaged, which is told below
    large = known is None or 0 in known or reduction(known) > 1
    if isinstance(path, Path) and large and (jpeg := _jpeg_shape(path, sample)):
        shape, turn = jpeg
        times = reduction(shape)
        image = read_image(path, turn, times, notes)
        # decoder and header reader may interpret damaged EXIF data differently
        if image.shape[:2] == tuple(-(-length // times) for length in shape):
            return image, shape
    image = sample_image(sample, notes)
    return image, (image.shape[0], image.shape[1])


def _jpeg_shape(path: Path, sample: Sample) -> tuple[tuple[int, int], bool] | None:
    """Return the shape of a JPEG, and whether its EXIF rotation applies.

    None if the file is not a JPEG, or if neither orientation has the expected shape.
    """
    for turn in (True, False) if sample.turned else (False,):
        header = read_header(path, turn)
        if header is None or header.format not in JPEG:
            return None
        if sample.shape in (None, header.shape):
            return header.shape, turn
    return None


def unequal(path: object, shape: tuple, other: str, other_shape: tuple) -> UserError:
    """Return the error for a picture and a truth that differ in size."""
    return UserError(
        f"{path} is {shape[1]} x {shape[0]} but {other} {other_shape[1]} x {other_shape[0]}. They "
        "must be equal."
    )


def stamp(source: object) -> tuple:
    """Return a tuple that changes with the content of a picture or map; () without a file.

    For a picture in an array file, the tuple includes its index and the code that reads it.
    """
    file = source.file if isinstance(source, Stored) else source
    if not isinstance(file, Path):
        return ()
    place = (source.index, *_way(source.read)) if isinstance(source, Stored) else ()
    return (content_stamp(file), *place)


def _way(read: Callable) -> tuple[str, str]:
    """Return a digest of a reading function's code, and its bound arguments."""
    given = ""
    if isinstance(read, partial):
        read, given = read.func, repr((read.args, read.keywords))
    return code_digest(read if isroutine(read) else type(read)), given


def known_shape(sample: Sample) -> tuple[int, int] | None:
    """Return the shape of a sample's picture if it is known without decoding, else None."""
    if sample.shape is None and isinstance(sample.image, Path):
        return header_shape(sample.image, sample.turned)
    if sample.shape is None and isinstance(sample.image, Stored):
        with suppress(UserError):  # a later read reports the error
            return sample.image.shape()
    return sample.shape


def sample_shape(sample: Sample) -> tuple[int, int]:
    """Return the rows and columns of a sample's picture, which is decoded only if necessary.

    Raises:
        UserError: the picture must be decoded, but cannot be read.
    """
    if sample.shape is not None:
        return sample.shape
    rows, cols = sample_image(sample).shape[:2]
    return rows, cols


def sample_density(
    sample: Sample,
    shape: tuple[int, int],
    sigma_pixels: float | None,
    made: Callable[[NDArray, tuple[int, int], float], Array] = density_map,
) -> Array:
    """Return a sample's density map at the picture's shape, maximum 1.

    It is the published map if there is one and `sigma_pixels` is None, else the blurred fixations.

    Args:
        sample: the sample.
        shape: rows and columns of the picture.
        sigma_pixels: standard deviation of the Gaussian, pixels; None for the data set's own.
        made: function that blurs fixations.

    Raises:
        UserError: the shape of the map differs from the picture's, or is too large.
    """
    if shape[0] * shape[1] > LARGEST_MAP:
        raise UserError(
            f"{sample.name} is {shape[1]} x {shape[0]} pixels; density maps have at most "
            f"{LARGEST_MAP:,}. Scale the picture and its fixations down."
        )
    if sample.map is not None and (sigma_pixels is None or sample.fixations is None):
        density = read_map(sample.map) if isinstance(sample.map, Path) else sample.map()
        if density.shape != shape:
            raise unequal(sample.map, density.shape, f"its picture {sample.name} is", shape)
        return density / max(float(density.max()), 1e-12)
    if sample.fixations is None:
        raise UserError(f"{sample.name} has neither a map nor fixations.")
    return made(sample.fixations, shape, sigma_pixels or sample.sigma_pixels)

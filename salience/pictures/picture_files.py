"""Pictures and maps as files and in memory: reading, writing, overlays.

Everything here is at the original picture's size, and knows no network.
"""

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from salience.pictures.headers import (
    IMAGE_FORMATS,
    LARGEST_MAP,
    read_content,
    room,
)
from salience.system.arrays import UNREADABLE, Array, read_array
from salience.system.errors import UserError
from salience.system.files import write_bytes

GREY_TOLERANCE = 8  # levels that JPEG's colour coding may put between the channels of a grey map

BAND_PIXELS = 2**24  # what a picture's drawing is worked on at a time
# by how many times smaller a JPEG is decoded: its blocks of 8 x 8 as 4 x 4, 2 x 2 or 1
REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def read_image(path: Path, turn: bool = True, reduction: int = 1) -> NDArray[np.uint8]:
    """Return a picture as BGR uint8 [rows, columns, 3].

    Grey, 16-bit, CMYK and transparent pictures are converted (transparency is dropped), and a
    picture that says by EXIF how to turn it is turned, unless `turn` is False.

    Args:
        path: its file.
        turn: whether EXIF data are heeded.
        reduction: 2, 4 or 8 decodes a JPEG so many times smaller, sides rounded up. Only JPEG is
            then averaged, so nothing else may be asked for smaller.

    Raises:
        UserError: the file is missing, empty, truncated or not a picture.
    """
    return _decode(path, REDUCED[reduction] | (0 if turn else cv2.IMREAD_IGNORE_ORIENTATION))


def read_map(path: Path) -> Array:
    """Return a map, stored as a grey picture, as float32 [rows, columns], 0 to 1.

    Raises:
        UserError: the file is missing, empty, truncated or not a picture.
    """
    values = _decode(path, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH, LARGEST_MAP)
    if values.dtype.kind == "f":  # a floating-point TIFF has no greatest value of its own
        if not np.isfinite(values).all() or values.min() < 0:
            raise UserError(f"{path} holds values that are negative or not finite.")
        return values.astype(np.float32) / max(float(values.max()), 1e-12)
    return values.astype(np.float32) / np.iinfo(values.dtype).max


def read_stored_map(path: Path) -> NDArray:
    """Return a map as its file holds it, [rows, columns]: integers of a picture, or .npy's numbers.

    Raises:
        UserError: the file is missing, empty, truncated, or holds no map of finite numbers.
    """
    if path.suffix.lower() != ".npy":
        values = _decode(path, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH, LARGEST_MAP)
        if values.ndim == 3 and np.ptp(values, axis=2).max() > GREY_TOLERANCE:
            raise UserError(
                f"{path} is in colour: the colours of a heat-map are no saliency. Store grey maps."
            )
        values = values[..., 0] if values.ndim == 3 else values
    else:
        try:
            values = read_array(path)
        except UNREADABLE as error:
            raise UserError(f"{path} cannot be read as an array: {error}") from error
    if values.ndim != 2 or values.dtype.kind not in "uif" or not np.isfinite(values).all():
        raise UserError(
            f"{path} holds {values.dtype} of shape {values.shape}; a map is [rows, columns] of "
            "finite numbers."
        )
    return values


def whole_picture(path: Path) -> tuple[tuple[int, int], bool]:
    """Return the rows and columns of a picture as it is stored, and whether it is grey.

    The file is read to its end: OpenCV fills what a truncated one lacks with grey, Pillow refuses.

    Raises:
        UserError: it is no picture, too large, or not whole.
    """
    data, header = read_content(path)
    try:
        with warnings.catch_warnings(), room(header.shape):
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as picture:
                picture.load()
                return (picture.height, picture.width), picture.mode in ("1", "L", "I;16")
    except Exception as error:  # Pillow raises many types on a damaged file
        raise UserError(f"{path} is not a whole picture: {error}.") from error


def _decode(path: Path, flags: int, largest: int | None = None) -> NDArray:
    """Decode a picture file of at most so many pixels, or say in one line why not.

    Raises:
        UserError: it cannot be read.
        MemoryError: there is not enough for it.
    """
    data, header = read_content(path, largest)
    with room(header.shape):
        try:
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error as error:
            if error.code == cv2.Error.StsNoMem:
                raise MemoryError(f"{path} has {header.shape} pixels") from error
            picture = None
    if picture is None:
        raise UserError(f"{path} is not a picture that can be read: truncated or of another type.")
    return picture


def as_bgr(image: NDArray | Image.Image, rgb: bool = False) -> NDArray[np.uint8]:
    """Return a picture that is held in memory as BGR uint8 [rows, columns, 3].

    Grey ones get three equal channels, and transparency is dropped, as `read_image` has it.

    Args:
        image: an array [rows, columns], or [rows, columns, channels] with 1, 3 or 4 channels:
            uint8, or as scikit-image and matplotlib have them, uint16 or floats of 0 to 1. Or a
            picture of Pillow's, whose colours are known.
        rgb: whether the array's colours are in the order red, green, blue, as matplotlib,
            scikit-image and Pillow have them; OpenCV's are blue, green, red.

    Raises:
        UserError: its type, shape or values are no picture's.

    >>> as_bgr(np.array([[[1.0, 0.5, 0.0]]]), rgb=True).tolist()
    [[[0, 128, 255]]]
    """
    if isinstance(image, Image.Image):
        deep = image.mode[0] in "IF"  # more than bytes, which Pillow would cut off
        image, rgb = np.asarray(image if deep else image.convert("RGB")), True
    if not isinstance(image, np.ndarray):
        raise UserError(
            f"A picture is a path, an array or Pillow's, not a {type(image).__name__}. Of several, "
            "predict each: [predict(model, image) for image in images]."
        )
    pixels = image[..., None] if image.ndim == 2 else image
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3, 4) or not pixels.size:
        raise UserError(
            f"An array of shape {image.shape} is no picture: [rows, columns] or [rows, columns, "
            "channels] with 1, 3 or 4 channels is expected"
            + (", so image.transpose(1, 2, 0)." if _channels_first(image) else ".")
        )
    pixels = _as_bytes(pixels[..., :3])
    if pixels.shape[-1] == 1:
        return np.repeat(pixels, 3, axis=-1)
    return np.ascontiguousarray(pixels[..., ::-1] if rgb else pixels)


def _channels_first(image: NDArray) -> bool:
    """Return whether an array looks like a picture of PyTorch's, [channels, rows, columns]."""
    return image.ndim == 3 and image.shape[0] in (1, 3, 4)


def _as_bytes(pixels: NDArray) -> NDArray[np.uint8]:
    """Return a picture's values as bytes.

    Raises:
        UserError: of what scale they are cannot be told.
    """
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return (pixels / 257).round().astype(np.uint8)
    if pixels.dtype.kind != "f":
        raise UserError(
            f"An array of {pixels.dtype} is no picture: uint8, uint16 or floats of 0 to 1 are "
            "expected. If its values are 0 to 255: image.astype('uint8')."
        )
    least, most = float(pixels.min()), float(pixels.max())
    if not (least >= 0 and most <= 1):  # NaN is neither
        raise UserError(
            f"An array of floats is a picture if they are 0 to 1, not {least:g} to {most:g}. If "
            "its values are 0 to 255: image.astype('uint8')."
        )
    return (pixels * 255).round().astype(np.uint8)


def bands(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield stretches of rows, so that what is computed of a large picture takes little memory."""
    rows = max(1, BAND_PIXELS // shape[1])
    yield from (slice(first, first + rows) for first in range(0, shape[0], rows))


def to_8_bit(saliency_map: NDArray) -> NDArray[np.uint8]:
    """Return a map of 0 to 1 as whole numbers of 0 to 255."""
    grey = np.empty(saliency_map.shape, np.uint8)
    for band in bands(grey.shape):
        grey[band] = np.round(np.clip(saliency_map[band], 0, 1) * 255)
    return grey


def in_colours(saliency_map: NDArray, colormap: str = "jet") -> NDArray[np.uint8]:
    """Return a map of 0 to 1 as a heat-map, BGR."""
    table = getattr(cv2, f"COLORMAP_{colormap.upper()}")
    drawn = np.empty((*saliency_map.shape, 3), np.uint8)
    for band in bands(drawn.shape):
        drawn[band] = cv2.applyColorMap(to_8_bit(saliency_map[band]), table)
    return drawn


def overlay(
    image: NDArray[np.uint8], saliency_map: NDArray, colormap: str = "jet", opacity: float = 0.6
) -> NDArray[np.uint8]:
    """Return the map as a heat-map over its BGR picture: the more salient, the more opaque."""
    drawn = np.empty(image.shape, np.uint8)
    for band in bands(drawn.shape):
        heat = saliency_map[band]
        colours = in_colours(heat, colormap)
        # the picture shows through where nothing is salient
        weight = (opacity * np.sqrt(np.clip(heat, 0, 1))).astype(np.float32)
        # a third of the time that NumPy takes, which a video feels
        drawn[band] = cv2.blendLinear(image[band], colours, 1 - weight, weight)
    return drawn


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write a picture, whole or not at all, as its suffix says; JPEG at its best quality."""
    jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    options = [cv2.IMWRITE_JPEG_QUALITY, 100] if jpeg else []
    write_bytes(path, cv2.imencode(path.suffix, image, options)[1].tobytes())

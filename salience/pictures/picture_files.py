"""Pictures and maps in files and in memory: reading, writing, overlays.

All functions work at the original picture's size and depend on no network.
"""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from salience.pictures.headers import (
    LARGEST_MAP,
    SIDEWAYS,
    Header,
    opened_by_pillow,
    read_content,
    read_header,
    room,
)
from salience.system.arrays import UNREADABLE, Array, read_array
from salience.system.errors import UserError
from salience.system.files import write_bytes
from salience.system.notes import Notes

GREY_TOLERANCE = 8 / 255  # largest difference of a grey map's channels, due to JPEG's coding
JPEG_END = b"\xff\xd9"
OTHER_BITS = b"\x5a" * 64  # longer than any block
VALUES = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
# argument of `cv2.flip` by EXIF orientation, after rows and columns are exchanged if necessary
FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}

BAND_PIXELS = 2**24  # pixels that are processed at a time
# OpenCV's flag by the reduction of a JPEG: blocks of 8 x 8 are decoded to 4 x 4, 2 x 2 or 1
REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


@contextmanager
def opencv_threads(workers: int) -> Iterator[None]:
    """Divide the cores between reading threads and OpenCV's own, while the block runs.

    OpenCV starts a thread a core for each resizing and blurring, whoever calls it.

    Args:
        workers: number of threads that call OpenCV.
    """
    before = cv2.getNumThreads()
    allowed = getattr(os, "sched_getaffinity", None)  # not available on macOS and Windows
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    cv2.setNumThreads(max(1, cores // workers))
    try:
        yield
    finally:
        cv2.setNumThreads(before)


class Whole(NamedTuple):
    """The result of `whole_picture`.

    Attributes:
        shape: stored rows and columns.
        grey: whether the picture is grey.
        remark: a harmless defect of the file; "" if there is none.
    """

    shape: tuple[int, int]
    grey: bool
    remark: str


def read_image(
    path: Path, turn: bool = True, reduction: int = 1, notes: Notes | None = None
) -> NDArray[np.uint8]:
    """Return a picture as BGR uint8 [rows, columns, 3].

    Grey, 16-bit, CMYK and transparent pictures are converted; transparency is dropped.

    Args:
        path: the file.
        turn: whether to apply the EXIF rotation.
        reduction: factor by which a JPEG is reduced when decoded: 1, 2, 4 or 8, sides rounded up.
            Other formats allow only 1.
        notes: receives remarks about harmless defects of the file.

    Raises:
        UserError: the file is missing, empty, truncated or not a picture.
    """
    data, header = read_content(path)
    with room(header.shape):
        if header.deep:
            image = _levels(path, _values(path, data, header, turn), header.most)
        else:
            flags = REDUCED[reduction] | (0 if turn else cv2.IMREAD_IGNORE_ORIENTATION)
            image = _decode(path, data, header, flags)
    if notes and header.remark:  # only now, since a picture that cannot be decoded is refused
        notes.add(header.remark, str(path))
    return image


def _levels(path: Path, values: NDArray, most: int | None) -> NDArray[np.uint8]:
    """Return a picture's values as BGR bytes.

    Raises:
        UserError: the value of white is unknown.
    """
    if values.dtype.kind == "f":
        most, fits = 1, values.min() >= 0 and values.max() <= 1  # NaN is neither
    else:
        most, fits = most or np.iinfo(values.dtype).max, values.dtype.kind == "u"
    if not fits:
        raise UserError(
            f"{path} holds {values.dtype} of {values.min():g} to {values.max():g}; a picture's "
            "values are unsigned whole numbers, or floats of 0 to 1. Save it as 8 or 16 bits."
        )
    image = np.empty((*values.shape[:2], 3), np.uint8)
    for band in bands(image.shape):
        part = values[band] if values.ndim == 3 else values[band][..., None]
        image[band] = np.minimum(np.round(part * (255 / most)), 255)
    return image


def read_map(path: Path) -> Array:
    """Return a map from a grey picture, as float32 [rows, columns], 0 to 1.

    Floats are divided by their maximum, integers by the largest value of the format.

    Raises:
        UserError: the file is missing, empty, truncated, not grey, or has negative values.
    """
    values, header = _map_values(path)
    # NaN is not above 0 either
    if values.dtype.kind != "u" and not (values.min() >= 0 and np.isfinite(values).all()):
        raise UserError(f"{path} holds values that are negative or not finite.")
    if values.dtype.kind == "f":  # a floating-point TIFF has no greatest value of its own
        most = max(float(values.max()), 1e-12)
    else:
        most = header.most or np.iinfo(values.dtype).max
    return np.minimum(values.astype(np.float32) / np.float32(most), 1)


def read_stored_map(path: Path) -> NDArray:
    """Return a map as stored, [rows, columns]: the integers of a picture or the numbers of a .npy.

    Raises:
        UserError: the file is missing, empty, truncated, or not a map of finite numbers.
    """
    if path.suffix.lower() != ".npy":
        values, _ = _map_values(path)
    else:
        try:
            values = read_array(path)
        except UNREADABLE as error:
            raise UserError(f"{path} cannot be read as an array: {error}") from error
    return as_map(values, path)


def as_map(values: NDArray, path: Path, logarithms: bool = False) -> NDArray:
    """Return an array after a check that it is a map.

    Args:
        values: the array of the file.
        path: the file, for the error.
        logarithms: whether values are logarithms, so that minus infinity is allowed and the map
            must not be empty.

    Raises:
        UserError: the array is not a map.
    """
    is_map = values.ndim == 2 and values.dtype.kind in "uif"
    if logarithms:
        is_map = is_map and values.size and np.max(values) < np.inf  # NaN is not less either
    if not is_map or not (logarithms or np.isfinite(values).all()):
        raise UserError(
            f"{path} holds {values.dtype} of shape {values.shape}; a map is [rows, columns] of "
            f"finite numbers{', with one pixel at least' * logarithms}."
        )
    return values


def _map_values(path: Path) -> tuple[NDArray, Header]:
    """Return the values of a map in a picture file, [rows, columns], and the header.

    Raises:
        UserError: the file is missing, empty, truncated, not a picture, or in colour.
    """
    data, header = read_content(path, LARGEST_MAP)
    with room(header.shape):
        values = _values(path, data, header)
        if values.ndim == 2:
            return values, header
        most = float(values.max()) if values.dtype.kind == "f" else np.iinfo(values.dtype).max
        channels = cv2.split(values)
        apart = max(cv2.absdiff(channels[i], channels[i - 1]).max() for i in range(3))
        if apart > GREY_TOLERANCE * most:
            raise UserError(
                f"{path} is in colour: the colours of a heat-map are no saliency. Store grey maps."
            )
        # the luminance, which OpenCV computes only for these types
        weighted = values.dtype in (np.uint8, np.uint16, np.float32)
        grey = cv2.cvtColor(values, cv2.COLOR_BGR2GRAY) if weighted else channels[1]
        return np.asarray(grey), header


def whole_picture(path: Path) -> Whole:
    """Return shape and kind of a picture, after a check that the file is complete.

    Pillow decodes the whole file: OpenCV would fill the missing part of a truncated file with grey.

    Raises:
        UserError: the file is not a picture, too large, or incomplete.
    """
    data, header = read_content(path)
    with room(header.shape):
        if header.tiff:  # OpenCV refuses truncated TIFFs, and supports more kinds than Pillow
            values = _values(path, data, header)
            return Whole(header.shape, values.ndim == 2, header.remark)
        if header.endless:
            data = _with_end(path, data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with opened_by_pillow(io.BytesIO(data)) as picture:
                    picture.load()
                    grey = picture.mode in ("1", "L", "I", "I;16")
                    return Whole((picture.height, picture.width), grey, header.remark)
        except Exception as error:  # Pillow raises many types on a damaged file
            raise UserError(f"{path} is not a whole picture: {error}.") from error


def _values(path: Path, data: bytes, header: Header, turn: bool = True) -> NDArray:
    """Return a picture's stored values, inverted if 0 is white.

    Raises:
        UserError: the values cannot be read.
    """
    values = _decode(path, data, header, VALUES | (0 if turn else cv2.IMREAD_IGNORE_ORIENTATION))
    if header.tiff is None or not header.tiff.inverted:
        return values
    if values.dtype.kind != "f":
        return ~values
    if not (values.min() >= 0 and values.max() <= 1):
        raise UserError(
            f"{path} holds floats of {values.min():g} to {values.max():g} whose least is white; "
            "which is black cannot be told. Store it with the least for black."
        )
    return 1 - values


def _decode(path: Path, data: bytes, header: Header, flags: int) -> NDArray:
    """Decode a picture, and apply its EXIF rotation unless the flags forbid that.

    Raises:
        UserError: the picture cannot be read.
        MemoryError: the memory is too small.
    """
    if header.endless:
        data = _with_end(path, data)
    try:
        if header.tiff and header.tiff.by_pillow:
            return _by_pillow(data, flags)
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if picture is not None and header.format == "AVIF":  # OpenCV does not rotate AVIF
            picture = _turned(picture, data, flags)
    except MemoryError:
        raise
    except Exception as error:  # an error of a decoder concerns only this picture
        if isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem:
            raise MemoryError(f"{path} has {header.shape} pixels") from error
        picture = None
    if picture is None:
        raise UserError(f"{path} is not a picture that can be read: truncated or of another type.")
    return picture


def _turned(picture: NDArray, data: bytes, flags: int) -> NDArray:
    """Return a picture rotated by its EXIF orientation, unless the flags forbid that."""
    header = read_header(io.BytesIO(data))
    if header is None or flags & cv2.IMREAD_IGNORE_ORIENTATION:
        return picture
    if header.orientation in SIDEWAYS:
        picture = cv2.transpose(picture)
    flip = FLIPS.get(header.orientation)
    return picture if flip is None else cv2.flip(picture, flip)


def _by_pillow(data: bytes, flags: int) -> NDArray[np.uint8]:
    """Return a picture decoded by Pillow, without transparency, where OpenCV is wrong."""
    with opened_by_pillow(io.BytesIO(data)) as picture:
        grey = picture.mode in ("1", "L", "LA")
        colour = flags & cv2.IMREAD_COLOR or not grey
        picture.load()
        pixels = np.asarray(picture.convert("RGB" if colour else "L"))
    return np.ascontiguousarray(pixels[..., ::-1]) if colour else pixels


def _with_end(path: Path, data: bytes) -> bytes:
    """Return a JPEG without an end marker with one added, if nothing else is missing.

    Decoders fill in missing data of the last scan. The file is therefore complete if different bits
    after its end give the same picture.

    Raises:
        UserError: picture data are missing.
    """
    data = data.rstrip(b"\xff")  # half of the marker
    try:
        whole, other = (_pixels(data + bits + JPEG_END) for bits in (b"", OTHER_BITS))
    except Exception:  # Pillow raises many types on a damaged file
        whole, other = b"", b"-"
    if whole != other:
        raise UserError(f"{path} is not a picture that can be read: truncated or of another type.")
    return data + JPEG_END


def _pixels(data: bytes) -> bytes:
    """Return a JPEG's pixels; unlike OpenCV, Pillow prints nothing of what it fills in."""
    with opened_by_pillow(io.BytesIO(data)) as picture:
        return picture.tobytes()


def as_bgr(image: NDArray | Image.Image, rgb: bool = False) -> NDArray[np.uint8]:
    """Return a picture that is held in memory as BGR uint8 [rows, columns, 3].

    Grey ones get three equal channels, and transparency is dropped, as `read_image` has it.

    Args:
        image: an array [rows, columns], or [rows, columns, channels] with 1, 3 or 4 channels, of
            uint8, uint16 or floats from 0 to 1; or an image of Pillow's.
        rgb: whether an array's channels are red, green, blue, as in matplotlib, scikit-image and
            Pillow; OpenCV's are blue, green, red.

    Raises:
        UserError: type, shape or values are not those of a picture.

    >>> as_bgr(np.array([[[1.0, 0.5, 0.0]]]), rgb=True).tolist()
    [[[0, 128, 255]]]
    """
    if isinstance(image, Image.Image):
        deep = image.mode[0] in "IF"  # more than 8 bits, which Pillow's conversion would clip
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
    """Return whether an array may be a picture in PyTorch's order, [channels, rows, columns]."""
    return image.ndim == 3 and image.shape[0] in (1, 3, 4)


def _as_bytes(pixels: NDArray) -> NDArray[np.uint8]:
    """Return a picture's values as bytes.

    Raises:
        UserError: the scale of the values is unknown.
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
    """Yield slices of rows, so that operations on a large picture take little memory."""
    rows = max(1, BAND_PIXELS // shape[1])
    yield from (slice(first, first + rows) for first in range(0, shape[0], rows))


def to_8_bit(saliency_map: NDArray) -> NDArray[np.uint8]:
    """Return a map from 0 to 1 as integers from 0 to 255."""
    grey = np.empty(saliency_map.shape, np.uint8)
    for band in bands(grey.shape):
        part = np.clip(saliency_map[band], 0, 1)
        if part.dtype == np.float32 and part.size:  # a third of NumPy's time, and the same values
            grey[band] = cv2.convertScaleAbs(part, alpha=255)
        else:
            grey[band] = np.round(part * 255)
    return grey


def in_colours(saliency_map: NDArray, colormap: str = "jet") -> NDArray[np.uint8]:
    """Return a map from 0 to 1 as a heat map, BGR."""
    table = getattr(cv2, f"COLORMAP_{colormap.upper()}")
    drawn = np.empty((*saliency_map.shape, 3), np.uint8)
    for band in bands(drawn.shape):
        drawn[band] = cv2.applyColorMap(to_8_bit(saliency_map[band]), table)
    return drawn


def overlay(
    image: NDArray[np.uint8], saliency_map: NDArray, colormap: str = "jet", opacity: float = 0.6
) -> NDArray[np.uint8]:
    """Return the map as a heat map over its BGR picture; opacity grows with saliency."""
    drawn = np.empty(image.shape, np.uint8)
    for band in bands(drawn.shape):
        heat = saliency_map[band]
        colours = in_colours(heat, colormap)
        # the picture shows through where nothing is salient
        weight = (opacity * np.sqrt(np.clip(heat, 0, 1))).astype(np.float32)
        # a third of NumPy's time, which matters for videos
        drawn[band] = cv2.blendLinear(image[band], colours, 1 - weight, weight)
    return drawn


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write a picture atomically, in the format of its suffix; JPEG with quality 100."""
    jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    options = [cv2.IMWRITE_JPEG_QUALITY, 100] if jpeg else []
    write_bytes(path, cv2.imencode(path.suffix, image, options)[1].tobytes())

"""Pictures and maps as files and arrays: reading, writing, overlays, what a sample holds.

Everything here is at the original picture's size, and knows no network.
"""

import io
import lzma
import math
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal
from zipfile import BadZipFile, ZipFile

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from salience.pictures.fixations import density_map
from salience.pictures.headers import (
    FORMATS,
    JPEG,
    LARGEST_MAP,
    header_shape,
    read_content,
    read_header,
    room,
)
from salience.pictures.sample import Sample, Stored
from salience.system.errors import UserError
from salience.system.files import atomic, write_bytes

Array = NDArray[np.floating]
GREY_TOLERANCE = 8  # levels that JPEG's colour coding may put between the channels of a grey map

# what reading a damaged .npy or .npz raises: a flipped bit may ask for any compression (zlib, lzma,
# NotImplementedError) or a password (RuntimeError, of which that is one), or spoil a length
UNREADABLE = (OSError, ValueError, EOFError, BadZipFile, zlib.error, lzma.LZMAError, RuntimeError,
              struct.error, OverflowError, MemoryError)  # fmt: skip
MOST_BYTES = 2**32  # of the arrays of a .npz, which may be packed a thousandfold
LONGEST_HEADER = 10_000  # bytes, as NumPy has it
# the header of a .npy file is a Python dictionary; what it says is picked out rather than evaluated
KIND = re.compile(rb"""['"]descr['"]\s*:\s*['"]([<>|=]?[biufcUS]\d{1,9})['"]""")
ORDER = re.compile(rb"""['"]fortran_order['"]\s*:\s*(True|False)""")
SHAPE = re.compile(rb"""['"]shape['"]\s*:\s*\(([\d\s,L]{0,400})\)""")
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
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
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


def write_array(path: Path, array: NDArray) -> None:
    """Write an array as .npy, whole or not at all."""
    made = io.BytesIO()  # into a file, NumPy writes past Python, and of a full disk says not why
    np.save(made, array, allow_pickle=False)
    write_bytes(path, made.getbuffer())


def write_arrays(path: Path, arrays: dict[str, NDArray]) -> None:
    """Write arrays as .npz by their names, whole or not at all."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_array(path: Path, mapped: bool = False) -> NDArray:
    """Return the array of a .npy file, in memory or mapped.

    Raises:
        one of UNREADABLE: it is missing or damaged, or holds anything but numbers or text.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        shape, kind, order = _header(file, size)
        if not mapped or not math.prod(shape):  # nothing cannot be mapped
            file.seek(0)
            return _array_of(file, size)
        return np.memmap(path, kind, "r", file.tell(), shape, order)


def read_arrays(path: Path) -> dict[str, NDArray]:
    """Return the arrays of a .npz file by their names.

    Raises:
        one of UNREADABLE: it is missing or damaged, or holds anything but numbers or text.
    """
    found = {}
    with ZipFile(path) as file:
        members = file.infolist()
        if sum(member.file_size for member in members) > MOST_BYTES:
            raise ValueError(f"its arrays take more than {MOST_BYTES} bytes")
        for member in members:
            with file.open(member) as array:
                found[member.filename.removesuffix(".npy")] = _array_of(array, member.file_size)
                if array.read(1):  # at its end the checksum is compared
                    raise ValueError(f"{member.filename} goes on after its array")
    return found


def _array_of(file: IO[bytes], size: int) -> NDArray:
    """Return the array of an open .npy file of so many bytes."""
    shape, kind, order = _header(file, size)
    size = math.prod(shape) * kind.itemsize
    data = file.read(size)
    if len(data) < size:  # of a member that claims more than it has
        raise ValueError("its array is cut off")
    return np.ndarray(shape, kind, bytearray(data), order=order)


def _header(file: IO[bytes], size: int) -> tuple[tuple[int, ...], np.dtype, Literal["C", "F"]]:
    """Return the shape, type and order of the array that follows in a .npy file.

    NumPy's own reader has Python parse the header, whose parser fails in many ways, and takes the
    memory for all that is claimed before it reads any.
    """
    begin = file.read(8)
    width = {b"\1\0": 2, b"\2\0": 4, b"\3\0": 4}.get(begin[6:])
    if begin[:6] != b"\x93NUMPY" or width is None:
        raise ValueError("no .npy file")
    text = file.read(min(int.from_bytes(file.read(width), "little"), LONGEST_HEADER))
    found = [pattern.search(text) for pattern in (KIND, ORDER, SHAPE)]
    if None in found:
        raise ValueError(f"its header is damaged, or tells of objects: {text[:200]!r}")
    name, order, sides = (match[1].decode() for match in found if match)
    try:
        kind = np.dtype(name)
    except TypeError as error:
        raise ValueError(f"it holds {name}") from error
    shape, left = tuple(int(side) for side in re.findall(r"\d+", sides)), size - file.tell()
    if kind.kind not in "biufcUS" or math.prod(shape) * max(kind.itemsize, 1) > left:
        raise ValueError(
            f"it claims {kind} of shape {shape}, but has {left} bytes of numbers or text"
        )
    return shape, kind, "F" if order == "True" else "C"


def joined(kind: str, arrays: Sequence[NDArray | None], empty: NDArray) -> dict[str, NDArray]:
    """Return arrays of any lengths as two, as a .npz holds them: all values, and each length.

    Args:
        kind: what they are; the names of the two begin with it.
        arrays: one a picture, [n, ...]; None where there is none, which `divided` keeps apart from
            one of length 0.
        empty: such an array of length 0.
    """
    present = [array for array in arrays if array is not None]
    lengths = [-1 if array is None else len(array) for array in arrays]
    return {
        f"{kind}_values": np.concatenate([empty, *present]),
        f"{kind}_lengths": np.array(lengths, np.int64),
    }


def divided(kind: str, arrays: dict[str, NDArray]) -> list[Any]:
    """Return the arrays that `joined` was given, None for None.

    >>> divided("x", joined("x", [np.ones(2), None, np.zeros(0)], np.zeros(0)))
    [array([1., 1.]), None, array([], dtype=float64)]

    Raises:
        KeyError: the arrays hold nothing of this kind.
        ValueError: they do not fit together.
    """
    values, lengths = arrays[f"{kind}_values"], arrays[f"{kind}_lengths"]
    if lengths.dtype != np.int64 or lengths.ndim != 1 or not values.ndim:
        raise ValueError(f"the lengths of {kind} are no whole numbers")
    if any(not -1 <= length <= len(values) for length in lengths.tolist()):
        raise ValueError(f"the lengths of {kind} are not those of what is there")
    ends = np.cumsum(np.maximum(lengths, 0))
    return [
        None if length < 0 else values[end - length : end]
        for length, end in zip(lengths.tolist(), ends.tolist(), strict=True)
    ]


def sample_image(sample: Sample) -> NDArray[np.uint8]:
    """Return the picture of a sample, BGR uint8 [rows, columns, 3].

    A picture that its EXIF data turn away from the shape of its truth is left as it is stored.

    Raises:
        UserError: it cannot be read, or is of another shape than its truth.
    """
    if not isinstance(sample.image, Path):
        return sample.image()
    image = read_image(sample.image)
    if sample.shape in (None, image.shape[:2]):
        return image
    unturned = read_image(sample.image, turn=False)
    if unturned.shape[:2] != sample.shape:
        raise unequal(sample.image, image.shape, "its map or fixations are", sample.shape)
    return unturned


def reduced_image(
    sample: Sample, reduction: Callable[[tuple[int, int]], int]
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Return a sample's picture, maybe decoded smaller, and the rows and columns it has in full.

    Args:
        sample: as for `sample_image`.
        reduction: from the full shape to how many times smaller a JPEG may be: 1, 2, 4 or 8.

    Raises:
        UserError: as `sample_image` does.
    """
    path = sample.image
    large = sample.shape is None or reduction(sample.shape) > 1  # else its header tells nothing new
    if isinstance(path, Path) and large and (jpeg := _jpeg_shape(path, sample.shape)):
        shape, turn = jpeg
        times = reduction(shape)
        image = read_image(path, turn, times)
        # the decoder may take damaged EXIF data otherwise than the header's reader does
        if image.shape[:2] == tuple(-(-length // times) for length in shape):
            return image, shape
    image = sample_image(sample)
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
    """Return what changes with the content of a picture or map: size, time, place in its file.

    Empty for what comes from no file.
    """
    file = source.file if isinstance(source, Stored) else source
    if not isinstance(file, Path):
        return ()
    status = file.stat()
    place = (source.index,) if isinstance(source, Stored) else ()
    return (status.st_size, status.st_mtime_ns, *place)


def known_shape(sample: Sample) -> tuple[int, int] | None:
    """Return the rows and columns of a sample's picture where they are known without decoding."""
    if sample.shape is None and isinstance(sample.image, Path):
        return header_shape(sample.image)
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

"""Headers of picture files: format, size and orientation, before the pixels are decoded.

Files are untrusted: a few bytes may claim, or unpack to, more than fits into memory. Pictures that
are too large, or of an unsupported format, are refused here with a one-line error.
"""

import io
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock, RLock
from typing import BinaryIO

from PIL import Image

from salience.pictures.formats import TIFF_MARKS, Tiff, deep_most, jpeg_end, pnm_most, read_tiff
from salience.system.errors import UserError
from salience.system.files import open_regular
from salience.system.terminal import PROGRAM

JPEG = ("JPEG", "MPO")  # an MPO is a JPEG with more of them behind it
# OpenCV takes 6 bytes a pixel while it decodes a colour picture of these, so at most 3.2 GB ...
LARGEST: dict[str, int] = dict.fromkeys((*JPEG, "PNG", "TIFF"), 2**29)
# ... 9 for a BMP and 15 for JPEG 2000: 2 GB
LARGEST_OTHER = 2**27
LARGEST_MAP = 2**27  # a map is held as float32, and metrics hold it several times
LARGEST_SIDE = 2**20  # OpenCV's own limit
LARGEST_FILE = 2**31  # bytes: more than 8 bits of any of these take without compression
LARGE = 2**25  # pixels, 200 MB: pictures beyond are decoded one at a time
SURELY_QUICK = 2**21  # bytes of packed rows
BLOCK = 2**20  # bytes unpacked at a time
# what encoders write has some ten; each takes as long as the whole picture, and a few bytes
MOST_SCANS = 200
# what OpenCV reads, too, and none whose reader starts other programs
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 exchange rows and columns
TURNED = (*JPEG, "PNG", "WEBP", "AVIF")  # OpenCV turns TIFF in any case, and the rest never
SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange rows and columns
PNG = b"\x89PNG\r\n\x1a\n"
# what decides about a PNG's pixels; texts, profiles and gamma may be damaged or unpack to anything
PNG_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf")
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
TRAILING, LACKING = "with bytes after the end", "without an end marker, but otherwise whole"
# formats that people have, by the bytes at a place of their files, and what makes another of them
OTHERS = (
    (4, (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1"), "a HEIC picture",
     "Convert it to JPEG or PNG: heif-convert IN.heic OUT.jpg"),
    (0, (b"\xff\x0a", b"\0\0\0\x0cJXL "), "a JPEG XL picture", "Convert it: djxl IN.jxl OUT.png"),
    (4, (b"ftypiso", b"ftypmp4", b"ftypqt", b"ftypM4V", b"ftypavc1"), "a video",
     f"If it ends in .mp4 or the like, {PROGRAM} test CLIP.mp4 takes it"),
    (0, (b"8BPS",), "a Photoshop file", "Save it as PNG"),
    (0, (b"%PDF", b"%!PS"), "a document", "Convert its pages to PNG: pdftoppm -png IN OUT"),
    (0, (b"Pf", b"PF"), "a PFM picture, whose floats have no white",
     "Save a picture as PNG, a map as .npy or float TIFF"),
    (0, (b"<svg", b"<?xml"), "a drawing, which has no pixels", "Save it as PNG"),
)  # fmt: skip

_one_large = RLock()
_global = Lock()  # Pillow's limit, and Python's filters of warnings, are one for all threads


@dataclass(frozen=True)
class Header:
    """The header of a picture.

    Attributes:
        format: Pillow's name of the format.
        shape: rows and columns, after the EXIF rotation if that was requested.
        orientation: EXIF orientation if that was requested; 1 means as stored.
        tiff: further tags of a TIFF.
        most: value of white; None for the type's maximum. `read_content` sets this and what
            follows.
        endless: whether a JPEG lacks only its end marker, as far as its markers tell.
        remark: a harmless defect of the file; "" if there is none.
    """

    format: str
    shape: tuple[int, int]
    orientation: int = 1
    tiff: Tiff | None = None
    most: int | None = None
    endless: bool = False
    remark: str = ""

    @property
    def deep(self) -> bool:
        """Whether OpenCV cannot convert the values to bytes correctly."""
        if self.tiff:
            return self.tiff.deep and not self.tiff.by_pillow
        return self.format == "PPM" and self.most is not None


def room(shape: tuple[int, int] | None) -> AbstractContextManager:
    """Return a context manager that allows one large picture at a time, over all threads.

    Smaller pictures, and pictures of unknown shape, do not wait.
    """
    large = shape is not None and shape[0] * shape[1] > LARGE
    return _one_large if large else nullcontext()


@contextmanager
def opened_by_pillow(source: BinaryIO) -> Iterator[Image.Image]:
    """Open a picture with Pillow, without Pillow's warnings and size limit.

    This module has its own limits. Afterwards the caller's settings are restored.
    """
    with _global, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a damaged EXIF block
        kept, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            picture = Image.open(source, formats=IMAGE_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = kept
    with picture:
        yield picture


def header_shape(source: Path | BinaryIO, turn: bool = True) -> tuple[int, int] | None:
    """Return a picture's rows and columns without decoding it; None if the header is unreadable.

    The EXIF rotation is applied unless `turn` is False.
    """
    header = read_header(source, turn)
    return header.shape if header else None


def read_header(source: Path | BinaryIO, turn: bool = True) -> Header | None:
    """Return a picture's header; None if it cannot be read.

    Args:
        source: path of the file, or the open file at its beginning.
        turn: whether to apply the EXIF rotation.
    """
    try:
        with _opened(source) if isinstance(source, Path) else nullcontext(source) as file:
            start = file.read(len(PNG))
            if start == PNG:
                return _png_header(file, turn)
            file.seek(0)
            if start.startswith(b"Pf"):
                return None  # which Pillow takes for one of the PNM
            if start.startswith(TIFF_MARKS):
                tiff = read_tiff(file)
                return _header("TIFF", *tiff.shape, tiff.orientation, tiff)
            with opened_by_pillow(file) as picture:
                turn = turn and picture.format in TURNED
                # not `getexif`, which also reads XMP, unlike OpenCV and viewers
                exif = picture.info.get("exif", b"") if turn else b""
                return _header(
                    str(picture.format), picture.height, picture.width, _orientation(exif)
                )
    except Exception:  # Pillow raises many types on a damaged file
        return None


def _opened(path: Path) -> BinaryIO:
    """Open a picture's file.

    Raises:
        UserError: the path is not a regular file, or the file is larger than any picture.
        OSError: the file cannot be opened.
    """
    file = open_regular(path)
    size = os.fstat(file.fileno()).st_size
    if size > LARGEST_FILE:
        file.close()
        raise UserError(f"{path} has {size:,} bytes; no picture that is read has.")
    return file


def _orientation(exif: bytes) -> int:
    """Return the orientation in EXIF data."""
    found = Image.Exif()
    found.load(exif)
    return found.get(ORIENTATION, 1)


def _header(kind: str, rows: int, cols: int, orientation: int, tiff: Tiff | None = None) -> Header:
    """Return a header from stored rows and columns and the orientation."""
    shape = (cols, rows) if orientation in SIDEWAYS else (rows, cols)
    return Header(kind, shape, orientation, tiff)


def _png_header(file: BinaryIO, turn: bool) -> Header:
    """Return the header of a PNG; Pillow would decode all of it to look for EXIF data."""
    rows = cols = 0
    orientation = 1
    for kind, _, length in _png_chunks(file):
        if kind == b"IHDR":
            cols, rows = (int.from_bytes(file.read(4), "big") for _ in range(2))
            if not turn:
                break
        elif kind == b"eXIf":
            orientation = _orientation(file.read(length))
    return _header("PNG", rows, cols, orientation)


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, position and content length of each chunk up to IEND.

    At each chunk, the file is positioned at its content.
    """
    place = len(PNG)
    kind = b""
    while kind != b"IEND":
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        yield kind, place, length
        place += 12 + length  # with the checksum


def read_content(path: Path, largest: int | None = None) -> tuple[bytes, Header]:
    """Return the content of a picture's file, safe to decode, and its header.

    Chunks of a PNG that do not affect its pixels are removed.

    Args:
        path: the file.
        largest: most pixels; None for the limit of the format.

    Raises:
        UserError: the file is missing, empty, too large, or of an unsupported format.
    """
    try:
        with _opened(path) as file:
            data = file.read()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:  # a name with a NUL
        raise UserError(f"Cannot read {path}: {error}.") from error
    if not data:
        raise UserError(f"{path} is empty (0 bytes). Copy or download it again.")
    header = read_header(io.BytesIO(data), turn=False)
    if header is None or min(header.shape) < 1:
        raise UserError(f"{path} {_why_not(data)}")
    rows, cols = header.shape
    deep = header.tiff is not None and header.tiff.deep  # up to 24 bytes a pixel
    most = min(
        largest or 2**63, LARGEST_OTHER if deep else LARGEST.get(header.format, LARGEST_OTHER)
    )
    if rows * cols > most or max(rows, cols) > LARGEST_SIDE:
        raise UserError(
            f"{path} is {cols} x {rows} pixels; at most {most:,} are read of such a file, and "
            f"{LARGEST_SIDE:,} a side. Scale it down."
        )
    if header.format in JPEG:
        return data, _jpeg(path, data, header)
    if header.tiff and header.tiff.unread:
        raise UserError(f"{path} is a TIFF that {header.tiff.unread}.")
    if header.format != "PNG":
        most = pnm_most(data) if header.format == "PPM" else deep_most(header.format, data)
        # as text, OpenCV asks for something after the last number
        return data + b"\n" * data.startswith((b"P1", b"P2", b"P3")), replace(header, most=most)
    return _png(path, data, header)


def _jpeg(path: Path, data: bytes, header: Header) -> Header:
    """Return a JPEG's header, with a remark about its end.

    Raises:
        UserError: the file has more scans than any encoder writes.
    """
    found = jpeg_end(data)
    if found.scans > MOST_SCANS:
        raise UserError(f"{path} is a JPEG of more than {MOST_SCANS} scans. Save it anew.")
    if found.end is None:
        return replace(header, endless=found.complete, remark=LACKING if found.complete else "")
    more = len(data) > found.end and header.format == "JPEG"  # behind an MPO there are others
    return replace(header, remark=TRAILING if more else "")


def _png(path: Path, data: bytes, header: Header) -> tuple[bytes, Header]:
    """Return a PNG without chunks that do not affect its pixels, and its header.

    Raises:
        UserError: the file is truncated, or unpacks to more than its header says.
    """
    chunks, end, endless = [], 0, True
    for kind, place, length in _png_chunks(io.BytesIO(data)):
        if place + 12 + length <= len(data):
            end, endless = place + 12 + length, kind != b"IEND"
            chunks += [(kind, data[place:end])] if kind in PNG_CHUNKS else []
        elif kind != b"IEND":
            # OpenCV takes minutes over rows that a chunk claims and the file has not
            raise UserError(f"{path} {_why_not(data)}")
    if _unpacks_beyond([chunk[8:-4] for kind, chunk in chunks if kind == b"IDAT"], header.shape):
        rows, cols = header.shape
        raise UserError(f"{path} unpacks to more than {cols} x {rows} pixels. Save it anew.")
    if endless:  # if rows are missing, too, the decoder refuses it
        chunks.append((b"IEND", PNG_END))
        remark = LACKING
    else:
        remark = TRAILING if len(data) > end else ""
    return PNG + b"".join(chunk for _, chunk in chunks), replace(header, remark=remark)


def _unpacks_beyond(packed: list[bytes], shape: tuple[int, int]) -> bool:
    """Return whether a PNG's compressed data hold more than a picture of this shape.

    The decoder would unpack all data, in 4 seconds a megabyte of the file. Small files are not
    checked, since the check takes half the time of decoding.
    """
    if sum(map(len, packed)) < SURELY_QUICK:
        return False
    # 16 bits of four channels, and a byte a row for its filter: interlaced, of up to seven rows
    left = shape[0] * (shape[1] * 8 + 7)
    inflater = zlib.decompressobj()
    with suppress(zlib.error):  # damaged: the decoder refuses it
        for part in packed:
            while part and left >= 0:
                left -= len(inflater.decompress(part, BLOCK))
                part = inflater.unconsumed_tail
    return left < 0


def _why_not(data: bytes) -> str:
    """Return why a file without a readable header is refused, and the remedy."""
    for place, marks, kind, remedy in OTHERS:
        if data.startswith(marks, place):
            return f"is {kind}, which is not read here. {remedy}."
    return "is not a picture that can be read: truncated or of another type."

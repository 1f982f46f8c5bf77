"""Details of picture formats that decoders ignore.

These are the end and completeness of a JPEG, the white value of a PNM, the sample format of a TIFF,
and the bit depth of AVIF and JPEG 2000.
"""

import re
from dataclasses import dataclass
from typing import BinaryIO

from PIL import TiffImagePlugin

# a marker may have several \xff; a pattern that starts with one literal is searched 3 times faster
JPEG_MARKER = re.compile(rb"\xff([^\0\xff])")
# restart markers do not end the data of a scan
JPEG_SCAN_END = re.compile(rb"\xff([^\0\xff\xd0-\xd7])")
END, SCAN = 0xD9, 0xDA
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # frame headers, with the number of components
BARE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
COEFFICIENTS = 64  # of a block
PNM_TOKEN = re.compile(rb"(?:\s|#[^\n]*(?:\n|$))*(\d+)")
TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
UNSIGNED, SIGNED, FLOAT = 1, 2, 3  # TIFF's kinds of samples
WHITE_IS_LEAST, BLACK_IS_LEAST, RGB = 0, 1, 2  # TIFF's kinds of colours
UNASSOCIATED = 2  # colours are not premultiplied by alpha


@dataclass(frozen=True)
class JpegEnd:
    """The end of the first picture of a JPEG.

    Attributes:
        end: position after the end marker; None without an end marker.
        scans: number of scans.
        complete: whether the scans contain every coefficient at full precision.
    """

    end: int | None
    scans: int
    complete: bool


def jpeg_end(data: bytes) -> JpegEnd:
    """Return the end of the first picture of a JPEG, from its markers only."""
    place, scans, components = 2, 0, 0
    full: set[tuple[int, int]] = set()
    inside = False
    while found := (JPEG_SCAN_END if inside else JPEG_MARKER).search(data, place):
        marker, place = found[1][0], found.end()
        if marker == END:
            break
        if marker in BARE:
            continue
        inside = marker == SCAN
        body = data[place + 2 : place + int.from_bytes(data[place : place + 2], "big")]
        if marker in FRAMES and len(body) > 5:
            components = body[5]
        elif inside:
            scans += 1
            full |= _full_coefficients(body)
        place += 2 + len(body)
    complete = 0 < COEFFICIENTS * components <= len(full)
    return JpegEnd(found.end() if found else None, scans, complete)


def _full_coefficients(scan: bytes) -> set[tuple[int, int]]:
    """Return the (component, coefficient) pairs whose last bit a scan contains, by its header."""
    count = scan[0] if scan else 0
    if len(scan) < 4 + 2 * count or scan[3 + 2 * count] & 15:
        return set()
    first, last = scan[1 + 2 * count], min(scan[2 + 2 * count], COEFFICIENTS - 1)
    return {(scan[1 + 2 * i], k) for i in range(count) for k in range(first, last + 1)}


def pnm_most(data: bytes) -> int | None:
    r"""Return the value of white in a PNM decoded by OpenCV; None for the type's maximum.

    >>> pnm_most(b"P5 2 1 # a comment\n127 ab"), pnm_most(b"P2 2 1 127 0 1"), pnm_most(b"P4 8 1 a")
    (127, None, None)
    """
    if data[:2] not in (b"P2", b"P3", b"P5", b"P6"):  # P1 and P4 are bitmaps
        return None
    place, most = 2, 0
    for _ in range(3):  # columns, rows, the greatest value
        found = PNM_TOKEN.match(data, place)
        if not found:
            return None
        place, most = found.end(), int(found[1])
    # OpenCV scales only bytes in text formats
    return None if most in (255, 65535) or (most < 256 and data[:2] in (b"P2", b"P3")) else most


def deep_most(kind: str, data: bytes) -> int | None:
    """Return the value of white in an AVIF or JPEG 2000; None for the type's maximum."""
    bits = 8
    if kind == "AVIF" and 0 <= (box := data.find(b"av1C")) < len(data) - 6:
        high, twelve = data[box + 6] & 0x40, data[box + 6] & 0x20
        bits = 8 if not high else 12 if twelve else 10
    elif kind == "JPEG2000" and 0 <= (size := data.find(b"\xff\x4f\xff\x51")) < len(data) - 42:
        bits = (data[size + 42] & 0x7F) + 1
    return 2**bits - 1 if 8 < bits < 16 else None


@dataclass(frozen=True)
class Tiff:
    """Tags of a TIFF's first page.

    Attributes:
        shape: stored rows and columns.
        orientation: as in EXIF.
        bits: bits per sample.
        sample_format: UNSIGNED, SIGNED, FLOAT or another.
        photometric: WHITE_IS_LEAST, BLACK_IS_LEAST, RGB or another.
        samples: samples per pixel.
        apart: whether channels are stored separately (planar).
        alpha: whether there is an alpha channel and colours are not premultiplied.
    """

    shape: tuple[int, int]
    orientation: int
    bits: int
    sample_format: int
    photometric: int
    samples: int
    apart: bool
    alpha: bool

    @property
    def wide(self) -> bool:
        """Whether samples take more than a byte."""
        return self.bits > 8

    @property
    def unread(self) -> str:
        """Why no decoder reads the pixels correctly, with a remedy; "" if one does."""
        if self.sample_format == FLOAT and (self.bits not in (32, 64) or self.samples > 3):
            return f"holds {self.samples} x {self.bits} bits of floats. Store grey or RGB of 32"
        if self.bits not in (1, 2, 4, 8, 10, 12, 14, 16, 32, 64):
            return f"holds samples of {self.bits} bits. Store 8 or 16"
        if self.wide and self.photometric not in (WHITE_IS_LEAST, BLACK_IS_LEAST, RGB):
            return f"holds {self.bits} bits of other colours than grey or RGB. Store those"
        if self.apart and self.samples > 1 and (self.wide or self.deep):
            return f"holds its channels of {self.bits} bits apart. Store them interleaved"
        return ""

    @property
    def by_pillow(self) -> bool:
        """Whether Pillow decodes the file correctly and OpenCV does not."""
        return self.bits in (2, 4) or (self.bits == 8 and self.alpha and self.samples > 2)

    @property
    def deep(self) -> bool:
        """Whether OpenCV cannot convert the samples to bytes correctly."""
        kinds = self.sample_format in (SIGNED, FLOAT) or self.bits not in (1, 2, 4, 8, 16)
        return kinds or (self.wide and self.alpha)

    @property
    def inverted(self) -> bool:
        """Whether the stored samples are inverted: 0 is white."""
        # OpenCV inverts narrower samples, and grey with alpha, itself
        return self.photometric == WHITE_IS_LEAST and self.wide and self.samples == 1


def read_tiff(file: BinaryIO) -> Tiff:
    """Return the tags of a TIFF, also of those that Pillow cannot decode.

    Args:
        file: open file, at its beginning.
    """
    head = file.read(8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(head + file.read(8 if 43 in head[2:4] else 0))
    file.seek(tags.next)
    tags.load(file)

    def first(tag: int, default: int) -> int:
        value = tags.get(tag, default)
        return int(value[0] if isinstance(value, tuple) else value)

    return Tiff(
        shape=(first(257, 0), first(256, 0)),
        orientation=first(274, 1),
        bits=first(258, 1),
        sample_format=first(339, UNSIGNED),
        photometric=first(262, BLACK_IS_LEAST),
        samples=first(277, 1),
        apart=first(284, 1) == 2,
        alpha=first(338, 0) == UNASSOCIATED,
    )

"""What files of single formats say beside their size, and what decoders do not heed of it.

Where a JPEG ends and whether it is whole, which value a PNM's white is, what kind of samples a TIFF
holds, how many bits an AVIF's or JPEG 2000's.
"""

import re
from dataclasses import dataclass
from typing import BinaryIO

from PIL import TiffImagePlugin

JPEG_MARKER = re.compile(rb"\xff+([^\0\xff])")
# within a scan's data restarts are no end of it
JPEG_SCAN_END = re.compile(rb"\xff+([^\0\xff\xd0-\xd7])")
END, SCAN = 0xD9, 0xDA
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # what says how many components there are
BARE = {0x01, *range(0xD0, 0xD9)}  # markers that no length follows
COEFFICIENTS = 64  # of a block
PNM_TOKEN = re.compile(rb"(?:\s|#[^\n]*(?:\n|$))*(\d+)")
TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
UNSIGNED, SIGNED, FLOAT = 1, 2, 3  # TIFF's kinds of samples
WHITE_IS_LEAST, BLACK_IS_LEAST, RGB = 0, 1, 2  # TIFF's kinds of colours
UNASSOCIATED = 2  # alpha that the colours are not multiplied by


@dataclass(frozen=True)
class JpegEnd:
    """Where the first picture of a JPEG ends.

    Attributes:
        end: the place behind its end marker; None where there is none.
        scans: how many there are.
        complete: whether they bring every coefficient at its full precision.
    """

    end: int | None
    scans: int
    complete: bool


def jpeg_end(data: bytes) -> JpegEnd:
    """Return where the first picture of a JPEG ends, by its markers alone."""
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
    """Return the components and coefficients whose last bit a scan brings, by its header."""
    count = scan[0] if scan else 0
    if len(scan) < 4 + 2 * count or scan[3 + 2 * count] & 15:
        return set()
    first, last = scan[1 + 2 * count], min(scan[2 + 2 * count], COEFFICIENTS - 1)
    return {(scan[1 + 2 * i], k) for i in range(count) for k in range(first, last + 1)}


def pnm_most(data: bytes) -> int | None:
    r"""Return the value that a PNM's white is as OpenCV decodes it; None for its type's greatest.

    >>> pnm_most(b"P5 2 1 # a comment\n127 ab"), pnm_most(b"P2 2 1 127 0 1"), pnm_most(b"P4 8 1 a")
    (127, None, None)
    """
    if data[:2] not in (b"P2", b"P3", b"P5", b"P6"):  # the others are of black and white alone
        return None
    place, most = 2, 0
    for _ in range(3):  # columns, rows, the greatest value
        found = PNM_TOKEN.match(data, place)
        if not found:
            return None
        place, most = found.end(), int(found[1])
    # OpenCV scales bytes that are written as text, and nothing else
    return None if most in (255, 65535) or (most < 256 and data[:2] in (b"P2", b"P3")) else most


def deep_most(kind: str, data: bytes) -> int | None:
    """Return the greatest value of an AVIF's or JPEG 2000's bits; None for its type's."""
    bits = 8
    if kind == "AVIF" and 0 <= (box := data.find(b"av1C")) < len(data) - 6:
        high, twelve = data[box + 6] & 0x40, data[box + 6] & 0x20
        bits = 8 if not high else 12 if twelve else 10
    elif kind == "JPEG2000" and 0 <= (size := data.find(b"\xff\x4f\xff\x51")) < len(data) - 42:
        bits = (data[size + 42] & 0x7F) + 1
    return 2**bits - 1 if 8 < bits < 16 else None


@dataclass(frozen=True)
class Tiff:
    """What a TIFF's first page says of itself.

    Attributes:
        shape: rows and columns as they are stored.
        orientation: as EXIF's.
        bits: of a sample.
        sample_format: UNSIGNED, SIGNED, FLOAT or another.
        photometric: WHITE_IS_LEAST, BLACK_IS_LEAST, RGB or another.
        samples: of a pixel.
        apart: whether each channel is stored by itself.
        alpha: whether colours come with an alpha that they are not multiplied by.
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
        """Why no decoder reads its pixels right, and what to do; empty where one does."""
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
        """Whether Pillow reads it right and OpenCV does not."""
        return self.bits in (2, 4) or (self.bits == 8 and self.alpha and self.samples > 2)

    @property
    def deep(self) -> bool:
        """Whether OpenCV makes no bytes of its samples, or wrong ones."""
        kinds = self.sample_format in (SIGNED, FLOAT) or self.bits not in (1, 2, 4, 8, 16)
        return kinds or (self.wide and self.alpha)

    @property
    def inverted(self) -> bool:
        """Whether black comes out white where samples are read as they are stored."""
        # of narrower ones, and of grey with alpha, OpenCV makes bytes the right way round
        return self.photometric == WHITE_IS_LEAST and self.wide and self.samples == 1


def read_tiff(file: BinaryIO) -> Tiff:
    """Return what a TIFF says; Pillow opens only those whose pixels it decodes.

    Args:
        file: open at its beginning.
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

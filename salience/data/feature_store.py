"""Features on disk: one packed file a picture and way round, on a shelf for each network.

What the features are of, `feature_cache.py` knows.
"""

import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from salience.system.cache import Shelf

MAGIC = b"features 1\n"
HEAD = struct.Struct("<BIQ")  # of each array: how it is written, its checksum, its bytes
DENSE, SPARSE = 0, 1
SUFFIX = ".features"
PICTURES = "pictures.txt"


def pack(arrays: Sequence[NDArray]) -> bytes:
    """Return arrays of 2- or 4-byte numbers as the bytes of a file.

    Four of five values that a ReLU leaves are zero: kept are a bit for each value and then those
    that are not. That takes 27 % of ML-Net's features, as Zstandard does, and is read in half of
    its time. Where it would not be smaller, the array is kept as it is.
    """
    parts = [MAGIC]
    for array in arrays:
        bits = as_bits(array)
        there = bits != 0  # of bits, so that a negative zero is kept
        places = np.flatnonzero(there)
        sparse = places.size * bits.itemsize + bits.size / 8 < bits.nbytes
        data = [np.packbits(there), bits[places]] if sparse else [bits]
        body = b"".join(part.tobytes() for part in data)
        parts += [HEAD.pack(SPARSE if sparse else DENSE, zlib.crc32(body), len(body)), body]
    return b"".join(parts)


def unpack(data: bytes, arrays: Sequence[NDArray]) -> None:
    """Fill arrays with what `pack` wrote.

    Raises:
        ValueError: the bytes are damaged, or of arrays of other sizes.
    """
    if not data.startswith(MAGIC):
        raise ValueError("no features")
    at = len(MAGIC)
    for array in arrays:
        if len(data) < at + HEAD.size:
            raise ValueError("truncated")
        kind, checksum, length = HEAD.unpack_from(data, at)
        at += HEAD.size
        body = memoryview(data)[at : at + length]
        at += length
        if len(body) != length or zlib.crc32(body) != checksum:
            raise ValueError("damaged")
        bits = as_bits(array)
        if kind == DENSE:
            bits[:] = np.frombuffer(body, bits.dtype)
            continue
        mask = -(-bits.size // 8)
        there = np.unpackbits(np.frombuffer(body[:mask], np.uint8), count=bits.size)
        bits[:] = 0
        # by places: with the mask itself, NumPy takes three times as long
        bits[np.flatnonzero(there.view(bool))] = np.frombuffer(body[mask:], bits.dtype)
    if at != len(data):
        raise ValueError("too long")


def as_bits(array: NDArray) -> NDArray:
    """Return an array as the unsigned integers of its bits, in one row; it must lie in one piece.

    >>> as_bits(np.array([[1.0]], np.float16))
    array([15360], dtype=uint16)
    """
    return array.view(f"u{array.itemsize}").reshape(-1)


@dataclass(frozen=True)
class KnownPicture:
    """What is known of a picture that was read once: a digest of the network's input, its shape."""

    content: str
    image_shape: tuple[int, int]


class FeatureStore:
    """The features of one network's frozen part.

    Args:
        shelf: of the user's cache, under a key of all that its features depend on.
    """

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.seen = self._read_seen()
        self._lock = Lock()

    def has(self, name: str) -> bool:
        """Return whether the features of a name are kept."""
        return self.shelf.path(name + SUFFIX).exists()

    def read(self, name: str, arrays: Sequence[NDArray]) -> bool:
        """Fill arrays with the features of a name; return whether they are there."""
        data = self.shelf.read(name + SUFFIX)
        try:
            unpack(data or b"", arrays)
        except ValueError:  # absent or damaged: made again
            return False
        return True

    def keep(self, name: str, arrays: Sequence[NDArray]) -> None:
        """Write the features of a name, if there is room."""
        if not self.shelf.full:
            self.shelf.write(name + SUFFIX, pack(arrays))

    def remember(self, identity: str, seen: KnownPicture) -> None:
        """Note what is known of a picture, so that another run need not read it."""
        with self._lock:
            self.seen[identity] = seen
            line = f"{identity} {seen.content} {seen.image_shape[0]} {seen.image_shape[1]}\n"
            path = self.shelf.path(PICTURES)
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                # one write of a short line to the end of a file: two runs do not mix theirs
                with path.open("ab", buffering=0) as file:
                    file.write(line.encode())

    def _read_seen(self) -> dict[str, KnownPicture]:
        """Return what is known of pictures, by their identity; half-written lines are let be."""
        found = {}
        for line in (self.shelf.read(PICTURES) or b"").decode(errors="replace").splitlines():
            words = line.split()
            if len(words) == 4 and [len(w) for w in words[:2]] == [64, 64]:
                with suppress(ValueError):
                    found[words[0]] = KnownPicture(words[1], (int(words[2]), int(words[3])))
        return found

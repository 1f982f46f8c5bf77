"""Features on disk: one file a picture and way round, in a folder for each network.

Whatever a file is asked for, it is whole and right or taken for absent: what is made from it then
is only made again. So nothing waits for another run, and nothing has to be mended. What the
features are of, `feature_cache.py` knows.
"""

import os
import shutil
import struct
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from salience.system.errors import UserError
from salience.system.files import atomic, read_bytes, read_text

MAGIC = b"features 1\n"
HEAD = struct.Struct("<BIQ")  # of each array: how it is written, its checksum, its bytes
DENSE, SPARSE = 0, 1
SUFFIX = ".features"
PICTURES = "pictures.txt"
USED = "used"  # its time tells when a run last used the folder
IN_USE_SECONDS = 3600
TOUCH_SECONDS = 60
RESERVE = 2 * 10**9  # bytes of the disk that are left to others
RECOUNT = 10**9  # bytes after which it is looked up what other runs have written


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
class Occupant:
    """What the features of one network take.

    Attributes:
        folder: where they lie.
        size: bytes.
        used: when a run last used them, seconds since 1970.
    """

    folder: Path
    size: int
    used: float

    @property
    def in_use(self) -> bool:
        """Whether a run may be using them, on whatever machine."""
        return time.time() - self.used < IN_USE_SECONDS


def occupants(root: Path) -> list[Occupant]:
    """Return what lies in a folder of features, longest unused first."""
    found = []
    for folder in (f for f in _scan(root) if f.is_dir()):
        sizes = [_size(file) for part in _scan(Path(folder)) for file in _files(part)]
        try:
            used = (Path(folder) / USED).stat().st_mtime
        except OSError:
            used = 0.0
        found.append(Occupant(Path(folder), sum(sizes), used))
    return sorted(found, key=lambda one: one.used)


def _scan(folder: Path) -> list[os.DirEntry]:
    """Return what is in a folder; nothing where it is not there (any more)."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _files(entry: os.DirEntry) -> list[os.DirEntry]:
    """Return an entry that is a file, or what is in it."""
    return _scan(Path(entry.path)) if entry.is_dir() else [entry]


def _size(file: os.DirEntry) -> int:
    """Return the bytes of a file; none where it is gone."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def free_bytes(folder: Path) -> int:
    """Return how much may be written to the disk of a folder, which may not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free - RESERVE


@dataclass(frozen=True)
class KnownPicture:
    """What is known of a picture that was read once: a digest of the network's input, its shape."""

    content: str
    image_shape: tuple[int, int]


class FeatureStore:
    """The features of one network's frozen part.

    Args:
        root: the folder of all networks' features.
        key: a name for this network, made from all that its features depend on.
        limit: bytes that all networks' features may take together.
    """

    def __init__(self, root: Path, key: str, limit: int) -> None:
        self.root, self.folder, self.limit = root, root / key, limit
        self.full = ""  # why nothing more is kept
        self.seen = self._read_seen()
        self._lock = Lock()
        self._touched = 0.0
        self._total, self._since = 0, RECOUNT  # bytes of all, and written since they were counted

    def path(self, name: str) -> Path:
        """Return the file of features."""
        return self.folder / name[:2] / f"{name}{SUFFIX}"

    def read(self, name: str, arrays: Sequence[NDArray]) -> bool:
        """Fill arrays with the features of a name; return whether they are there."""
        self.touch()
        try:
            unpack(read_bytes(self.path(name)), arrays)
        except (OSError, ValueError):  # absent or damaged: made again
            return False
        return True

    def keep(self, name: str, arrays: Sequence[NDArray]) -> None:
        """Write the features of a name, if there is room; `full` says why there is not."""
        if self.full:
            return
        data = pack(arrays)
        if not self._has_room(len(data)):
            self.full = "no more room"
            return
        path = self.path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # a file that a loss of power leaves half written is found out by its checksum
            with atomic(path, durable=False) as temporary:
                temporary.write_bytes(data)
        except (OSError, UserError) as error:
            self.full = f"cannot be written ({error})"

    def remember(self, identity: str, seen: KnownPicture) -> None:
        """Note what is known of a picture, so that another run need not read it."""
        with self._lock:
            self.seen[identity] = seen
            line = f"{identity} {seen.content} {seen.image_shape[0]} {seen.image_shape[1]}\n"
            with suppress(OSError):
                self.folder.mkdir(parents=True, exist_ok=True)
                # one write of a short line to the end of a file: two runs do not mix theirs
                with (self.folder / PICTURES).open("ab", buffering=0) as file:
                    file.write(line.encode())

    def _read_seen(self) -> dict[str, KnownPicture]:
        """Return what is known of pictures, by their identity; half-written lines are let be."""
        found = {}
        with suppress(OSError):
            for line in read_text(self.folder / PICTURES, errors="replace").splitlines():
                words = line.split()
                if len(words) == 4 and [len(w) for w in words[:2]] == [64, 64]:
                    with suppress(ValueError):
                        found[words[0]] = KnownPicture(words[1], (int(words[2]), int(words[3])))
        return found

    def touch(self) -> None:
        """Note that these features are in use, at most once a minute."""
        if time.monotonic() - self._touched < TOUCH_SECONDS:
            return
        self._touched = time.monotonic()
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / USED).touch()

    def room(self) -> int:
        """Return how many bytes could still be kept, if all that is not in use made place."""
        found = occupants(self.root)
        fixed = [one for one in found if one.in_use or one.folder == self.folder]
        free = sum(one.size for one in found) - sum(one.size for one in fixed)
        allowed = self.limit - sum(one.size for one in fixed)
        return max(0, min(allowed, free_bytes(self.root) + free))

    def _has_room(self, size: int) -> bool:
        """Return whether a file may be written, after removing what is longest unused."""
        with self._lock:
            if self._since >= RECOUNT:
                self._count()
            if not self._fits(size):
                self._count()
                for one in occupants(self.root):
                    if self._fits(size):
                        break
                    if one.folder != self.folder and not one.in_use:
                        shutil.rmtree(one.folder, ignore_errors=True)
                        self._count()
            if not self._fits(size):
                return False
            self._total += size
            self._since += size
            return True

    def _fits(self, size: int) -> bool:
        """Return whether a file of a size stays within the limit and the disk."""
        return self._total + size <= self.limit and size <= free_bytes(self.root)

    def _count(self) -> None:
        """Look up what all networks' features take."""
        self._total, self._since = sum(one.size for one in occupants(self.root)), 0

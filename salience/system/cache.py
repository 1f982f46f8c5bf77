"""The user's cache of results that were computed from files.

The cache is a folder with a size limit. It contains shelves: folders of results of one function,
such as the features of one network. A damaged file counts as missing and is computed again.
Processes therefore neither wait for each other nor repair anything.
"""

import errno
import hashlib
import io
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from inspect import isclass, isroutine
from pathlib import Path
from threading import Lock

import numpy as np
import platformdirs
from numpy.typing import NDArray
from tqdm import tqdm

from salience.system.arrays import UNREADABLE, Array, read_arrays
from salience.system.code_digest import code_digest
from salience.system.errors import StorageError, UserError
from salience.system.files import (
    aside,
    atomic,
    make_folder,
    read_bytes,
    refused,
    scratch,
    sweep,
)
from salience.system.flags import parse_bytes

LIMIT = 50 * 10**9  # bytes of all shelves together
BULKY_SHARE = 0.9  # share of the limit for bulky shelves (features), to leave room for small ones
RESERVE = 2 * 10**9  # free bytes of the disk that bulky shelves leave
RECOUNT = 10**9  # bytes written until the shelves are measured again: other processes write, too
USED = "used"  # file whose time records the last use of its shelf
IN_USE_SECONDS = 3600
TOUCH_SECONDS = 60
# names of shelves and of files of earlier versions, and of the folders of those files
OURS = re.compile(r"[0-9a-f]{64}(\.np[yz])?|[0-9a-f]{32}")
EARLIER = re.compile(r"features|networks|[0-9a-f]{2}")

_told: list[str] = []  # warnings printed so far: one is enough for all shelves of a process


def make_key(*parts: object) -> str:
    """Return a key for a result: a digest of all that it depends on.

    Args:
        parts: functions or classes, represented by all code that they depend on; arrays,
            represented by their type, shape and values; other objects, represented by their `repr`.

    Returns:
        64 hexadecimal digits.

    >>> make_key("a", 1) == make_key("a", 1), make_key("a", 1) == make_key("a", 2)
    (True, False)
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype} {part.shape} ".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
            continue
        if isroutine(part) or isclass(part):
            part = part.__qualname__, code_digest(part)
        text = repr(part).encode(errors="surrogateescape")  # file names may not be UTF-8
        digest.update(f"{len(text)} ".encode() + text)
    return digest.hexdigest()


@dataclass(frozen=True)
class Occupant:
    """A shelf in the cache, or a file of an earlier version.

    Attributes:
        path: path of its folder or file.
        size: size, bytes.
        used: time of its last use, seconds since 1970.
    """

    path: Path
    size: int
    used: float

    @property
    def in_use(self) -> bool:
        """Whether a process on any machine may be using it."""
        return time.time() - self.used < IN_USE_SECONDS


class Cache:
    """A folder of shelves; if room is needed, the least recently used shelves are removed.

    Shelves used within the last hour are never removed: a training reads its features each epoch.

    Args:
        folder: folder of the shelves; None disables the cache.
        limit: largest size of all shelves together, bytes.
    """

    def __init__(self, folder: Path | None, limit: int = LIMIT) -> None:
        self.folder, self.limit = folder, limit
        self._lock = Lock()
        self._total, self._since = 0, RECOUNT  # bytes in all, and since the last count

    def shelf(self, name: str, bulky: bool = False) -> "Shelf":
        """Return the shelf of a key, which may not exist yet.

        Args:
            name: key of the shelf, see `make_key`.
            bulky: whether its files are large, so that it must leave room for other shelves.
        """
        return Shelf(self, name, bulky)

    def occupants(self) -> list[Occupant]:
        """Return the content of the cache, least recently used first, without foreign files."""
        found = []
        for entry in _scan(self.folder):
            inside = _scan(entry.path) if EARLIER.fullmatch(entry.name) else [entry]
            found += [_occupant(one) for one in inside if OURS.fullmatch(one.name)]
        return sorted(found, key=lambda one: one.used)

    def room(self, shelf: "Shelf") -> int:
        """Return the bytes that a shelf can still write if all unused shelves are removed."""
        found = self.occupants()
        total, fixed = (
            sum(one.size for one in found if everything or one.in_use or one.path == shelf.folder)
            for everything in (True, False)
        )
        allowed = min(int(shelf.share * self.limit) - fixed, self._free(shelf) + total - fixed)
        return max(0, allowed)

    def make_room(self, size: int, shelf: "Shelf") -> None:
        """Remove the least recently used shelves until a number of bytes fits.

        Args:
            size: bytes to write.
            shelf: shelf to write, which is not removed.

        Raises:
            StorageError: the limit or the disk is still exceeded.
        """
        with self._lock:
            if self._since >= RECOUNT or not self._fits(size, shelf):
                for one in self._count():
                    if self._fits(size, shelf):
                        break
                    if not one.in_use and one.path != shelf.folder:
                        self._remove(one)
            if self._free(shelf) < size:
                raise refused(f"Cannot write into {self.folder}", OSError(errno.ENOSPC, ""))
            if not self._fits(size, shelf):
                raise StorageError(
                    f"No more room in {self.folder}: its limit is {self.limit:,} bytes "
                    "(--cache_limit, $SALIENCY_CACHE_LIMIT), and all its content is in use."
                )
            self._total += size
            self._since += size

    def _fits(self, size: int, shelf: "Shelf") -> bool:
        """Return True if a number of bytes fits within the limit and on the disk."""
        return self._total + size <= shelf.share * self.limit and size <= self._free(shelf)

    def _free(self, shelf: "Shelf") -> int:
        """Return the bytes that a shelf may write to the disk; the folder may not exist yet."""
        folder = Path(self.folder or "")
        for existing in (folder, *folder.parents):
            with suppress(OSError):
                return shutil.disk_usage(existing).free - shelf.reserve
        return 0

    def _count(self) -> list[Occupant]:
        """Measure and return `occupants`, after removing temporary files of killed processes."""
        if self.folder:
            sweep(self.folder)
        found = self.occupants()
        self._total, self._since = sum(one.size for one in found), 0
        return found

    def _remove(self, one: Occupant) -> None:
        """Remove a shelf; other processes see all of it or nothing."""
        gone = aside(self.folder or Path())
        try:
            os.replace(one.path, gone)
        except FileNotFoundError:
            pass  # another process removed it
        except OSError:
            return  # for example a read-only folder
        self._total -= one.size
        with suppress(OSError):
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink()


class Shelf:
    """Cached results of one function, by name.

    If a result cannot be written, a message is printed once, and results are computed each time.

    Args:
        cache: the cache of the shelf; nothing is written if it has no folder.
        name: key of the shelf.
        bulky: whether its files are large, so that it must leave room for other shelves.

    Attributes:
        folder: folder of the shelf, or None.
        share: share of the cache's limit up to which it is written.
        reserve: free bytes of the disk that it leaves.
        full: whether writing is disabled.
    """

    def __init__(self, cache: Cache, name: str, bulky: bool = False) -> None:
        self.cache, self.folder = cache, cache.folder and cache.folder / name
        self.share, self.reserve = (BULKY_SHARE, RESERVE) if bulky else (1.0, 0)
        self.full = self.folder is None
        self._touched = -math.inf

    def path(self, name: str) -> Path:
        """Return the path of a name's file."""
        return Path(self.folder or "", name[:2], name)

    def touch(self) -> None:
        """Record the use of the shelf, at most once a minute."""
        if self.folder and time.monotonic() - self._touched >= TOUCH_SECONDS:
            with suppress(OSError):  # the shelf does not exist yet or is read-only
                (self.folder / USED).touch()
                self._touched = time.monotonic()

    def read(self, name: str) -> bytes | None:
        """Return the bytes that were written under a name, or None."""
        self.touch()
        try:
            return read_bytes(self.path(name)) if self.folder else None
        except (OSError, UserError):
            return None

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write bytes under a name if possible; they should contain a checksum of their own."""
        if self.full:
            return
        path = self.path(name)
        try:
            make_folder(path.parent, "$SALIENCY_CACHE")
            self.touch()
            self.cache.make_room(len(data), self)
            # not durable: after a loss of power, the checksum reveals a partial file
            with atomic(path, durable=False) as temporary:
                temporary.write_bytes(data)
        except (UserError, OSError) as error:
            self.full = True  # a read-only or full disk: continue without the cache
            if not _told:
                _told.append(str(error))
                tqdm.write(f"note: nothing more is cached. {error}", file=sys.stderr)

    def recall(self, name: str) -> dict[str, NDArray] | None:
        """Return the arrays that were stored under a name, or None."""
        self.touch()
        try:
            return read_arrays(self.path(f"{name}.npz")) if self.folder else None
        except (*UNREADABLE, UserError):
            return None

    def keep(self, name: str, arrays: dict[str, NDArray]) -> None:
        """Store arrays under a name, as .npz with checksums."""
        if not self.full:
            made = io.BytesIO()
            np.savez(made, allow_pickle=False, **arrays)
            self.write(f"{name}.npz", made.getbuffer())

    def get(self, name: str, make: Callable[[], Array]) -> Array:
        """Return the array stored under a name; if there is none, make and store it."""
        kept = (self.recall(name) or {}).get("array")
        if kept is None:
            kept = make()
            self.keep(name, {"array": kept})
        return kept

    def files(self, make: Callable[[Path], None], whole: Callable[[Path], bool]) -> Path:
        """Return a folder with files that a function makes, all of them or none.

        Args:
            make: function that writes the files into a folder.
            whole: function that returns whether a folder has all files, undamaged.

        Returns:
            The folder with the files, which were made now or earlier.

        Raises:
            UserError: there is no cache folder, it cannot be written, or `make` raises this error.
        """
        if self.folder is None or self.cache.folder is None:
            raise UserError("There is no folder for the cache: set $SALIENCY_CACHE to one.")
        self.touch()
        place = self.folder / "made"
        if not whole(place):
            with scratch(make_folder(self.cache.folder, "$SALIENCY_CACHE")) as temporary:
                made = temporary / "made"
                made.mkdir()
                make(made)
                with suppress(StorageError):  # the files are needed, even beyond the limit
                    self.cache.make_room(sum(map(_size, _scan(made))), self)
                if not whole(place):  # else another process has made them meanwhile
                    shutil.rmtree(place, ignore_errors=True)  # damaged
                    make_folder(self.folder, "$SALIENCY_CACHE")
                    self.touch()
                    with suppress(OSError):
                        made.rename(place)
        return place


def _occupant(entry: os.DirEntry) -> Occupant:
    """Return path, size and last use of an entry of the cache; size 0 if it has been removed."""
    used = 0.0
    path = Path(entry.path)
    for mark in (path / USED, path):
        with suppress(OSError):
            used = used or mark.stat().st_mtime
    return Occupant(path, _size(entry), used)


def _size(entry: os.DirEntry) -> int:
    """Return the bytes of a file or of a folder's content; 0 if it has been removed."""
    try:
        if entry.is_dir(follow_symlinks=False):
            return sum(map(_size, _scan(entry.path)))
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0


def _scan(folder: Path | str | None) -> list[os.DirEntry]:
    """Return the entries of a folder; [] if it does not exist."""
    try:
        with os.scandir(folder or os.devnull) as entries:
            return list(entries)
    except OSError:
        return []


def default_cache(limit: int | None = None) -> Cache:
    """Return the user's cache: in $SALIENCY_CACHE, else in the system's folder for caches.

    Users without a home folder, as in some services and containers, have no cache.

    Args:
        limit: largest size, bytes; None for the default. $SALIENCY_CACHE_LIMIT applies if lower.

    Raises:
        UserError: $SALIENCY_CACHE_LIMIT is not a size.
    """
    own = os.environ.get("SALIENCY_CACHE_LIMIT")
    limits = [limit] if limit is not None else []
    limits += [parse_bytes(own, "$SALIENCY_CACHE_LIMIT")] if own else []
    folder = None
    with suppress(RuntimeError):  # platformdirs finds no home
        named = os.environ.get("SALIENCY_CACHE")
        folder = named or platformdirs.user_cache_path("saliency-maps", appauthor=False)
    return _opened(folder and Path(folder), min(limits, default=LIMIT))


@lru_cache(16)  # one object per folder, so that a process measures each folder once
def _opened(folder: Path | None, limit: int) -> Cache:
    """Return the cache in a folder."""
    return Cache(folder, limit)

"""The user's cache: what was computed once from files and need not be computed again.

It is one folder with one limit. It holds shelves: folders of what is made in one way, such as the
features of one network. Whatever a file is asked for, it is whole and right or taken for absent:
it is then made again. So nothing waits for another process, and nothing has to be mended.
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

LIMIT = 50 * 10**9  # bytes of all shelves
BULKY_SHARE = 0.9  # of the limit, for features: they would leave no room for what is small
RESERVE = 2 * 10**9  # bytes of the disk that these leave to others
RECOUNT = 10**9  # bytes after which it is looked up what other processes have written
USED = "used"  # its time tells when a process last used the shelf
IN_USE_SECONDS = 3600
TOUCH_SECONDS = 60
# names of shelves, and of what earlier versions kept; of the latter's folders what is in them
OURS = re.compile(r"[0-9a-f]{64}(\.np[yz])?|[0-9a-f]{32}")
EARLIER = re.compile(r"features|networks|[0-9a-f]{2}")

_told: list[str] = []  # one line is enough, however many shelves a process opens


def make_key(*parts: object) -> str:
    """Return a name for what is made from parts, 64 hexadecimal digits.

    A function or class stands for all code that it depends on, an array for its numbers, and
    anything else for how it is written out.

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
        text = repr(part).encode(errors="surrogateescape")  # the name of a file may be no UTF-8
        digest.update(f"{len(text)} ".encode() + text)
    return digest.hexdigest()


@dataclass(frozen=True)
class Occupant:
    """What a shelf takes, or a file of an earlier version.

    Attributes:
        path: where it lies.
        size: bytes.
        used: when a process last used it, seconds since 1970.
    """

    path: Path
    size: int
    used: float

    @property
    def in_use(self) -> bool:
        """Whether a process may be using it, on whatever machine."""
        return time.time() - self.used < IN_USE_SECONDS


class Cache:
    """A folder of shelves; the one that was used longest ago makes room for what is written.

    A shelf that was used within the hour stays: a training reads its features in every epoch.

    Args:
        folder: where the shelves lie; None keeps nothing.
        limit: bytes that all of them may take together.
    """

    def __init__(self, folder: Path | None, limit: int = LIMIT) -> None:
        self.folder, self.limit = folder, limit
        self._lock = Lock()
        self._total, self._since = 0, RECOUNT  # bytes of all, and written since they were counted

    def shelf(self, name: str, bulky: bool = False) -> "Shelf":
        """Return the shelf of a key, which need not be there yet; `bulky` leaves room to others."""
        return Shelf(self, name, bulky)

    def occupants(self) -> list[Occupant]:
        """Return what the cache holds, longest unused first; nothing that others put there."""
        found = []
        for entry in _scan(self.folder):
            inside = _scan(entry.path) if EARLIER.fullmatch(entry.name) else [entry]
            found += [_occupant(one) for one in inside if OURS.fullmatch(one.name)]
        return sorted(found, key=lambda one: one.used)

    def room(self, shelf: "Shelf") -> int:
        """Return how many bytes a shelf could still get, if all that is not in use made place."""
        found = self.occupants()
        total, fixed = (
            sum(one.size for one in found if everything or one.in_use or one.path == shelf.folder)
            for everything in (True, False)
        )
        allowed = min(int(shelf.share * self.limit) - fixed, self._free(shelf) + total - fixed)
        return max(0, allowed)

    def make_room(self, size: int, shelf: "Shelf") -> None:
        """Remove what is longest unused, until so many bytes may be written.

        Raises:
            StorageError: that does not suffice.
        """
        with self._lock:
            if self._since >= RECOUNT or not self._fits(size, shelf):
                self._count()
            for one in [] if self._fits(size, shelf) else self.occupants():
                if not one.in_use and one.path != shelf.folder:
                    self._remove(one)
                    if self._fits(size, shelf):
                        break
            if self._free(shelf) < size:
                raise refused(f"Cannot write into {self.folder}", OSError(errno.ENOSPC, ""))
            if not self._fits(size, shelf):
                raise StorageError(
                    f"No more room in {self.folder}: its limit is {self.limit:,} bytes "
                    "(--cache_limit, $SALIENCY_CACHE_LIMIT), and what is there is in use."
                )
            self._total += size
            self._since += size

    def _fits(self, size: int, shelf: "Shelf") -> bool:
        """Return whether so many bytes stay within the limit and the disk."""
        return self._total + size <= shelf.share * self.limit and size <= self._free(shelf)

    def _free(self, shelf: "Shelf") -> int:
        """Return how much a shelf may write to the disk of the folder, which need not be there."""
        folder = Path(self.folder or "")
        for place in (folder, *folder.parents):
            with suppress(OSError):
                return shutil.disk_usage(place).free - shelf.reserve
        return 0

    def _count(self) -> None:
        """Look up what all shelves take, and remove what killed processes left of some."""
        if self.folder:
            sweep(self.folder)
        self._total, self._since = sum(one.size for one in self.occupants()), 0

    def _remove(self, one: Occupant) -> None:
        """Remove a shelf; nobody ever finds half of it."""
        gone = aside(self.folder or Path())
        try:
            os.replace(one.path, gone)
        except FileNotFoundError:
            pass  # another process was as quick
        except OSError:
            return  # as where it may only be read
        self._total -= one.size
        with suppress(OSError):
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink()


class Shelf:
    """What is made in one way, by its names; without a folder, nothing is kept.

    What cannot be written, or has no room, only costs the time, which one line says.

    Attributes:
        folder: where it lies, or None.
        share: of the cache's limit, up to which it is written.
        reserve: bytes of the disk that it leaves to others.
        full: whether nothing more is kept.
    """

    def __init__(self, cache: Cache, name: str, bulky: bool = False) -> None:
        self.cache, self.folder = cache, cache.folder and cache.folder / name
        self.share, self.reserve = (BULKY_SHARE, RESERVE) if bulky else (1.0, 0)
        self.full = self.folder is None
        self._touched = -math.inf

    def path(self, name: str) -> Path:
        """Return the file of a name."""
        return Path(self.folder or "", name[:2], name)

    def touch(self) -> None:
        """Note that the shelf is in use, at most once a minute."""
        if self.folder and time.monotonic() - self._touched >= TOUCH_SECONDS:
            with suppress(OSError):  # not there yet, or not to be written
                (self.folder / USED).touch()
                self._touched = time.monotonic()

    def read(self, name: str) -> bytes | None:
        """Return what was written under a name; None where nothing is there."""
        self.touch()
        try:
            return read_bytes(self.path(name)) if self.folder else None
        except (OSError, UserError):
            return None

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write bytes under a name, if that can be; they should tell whether they are whole."""
        if self.full:
            return
        path = self.path(name)
        try:
            make_folder(path.parent, "$SALIENCY_CACHE")
            self.touch()
            self.cache.make_room(len(data), self)
            # a file that a loss of power leaves half written is found out by its checksum
            with atomic(path, durable=False) as temporary:
                temporary.write_bytes(data)
        except (UserError, OSError) as error:
            self.full = True  # a read-only or full disk: go on without
            if not _told:
                _told.append(str(error))
                tqdm.write(f"note: nothing more is cached. {error}", file=sys.stderr)

    def recall(self, name: str) -> dict[str, NDArray] | None:
        """Return the arrays kept together under a name; None where there are none."""
        self.touch()
        try:
            return read_arrays(self.path(f"{name}.npz")) if self.folder else None
        except (*UNREADABLE, UserError):
            return None

    def keep(self, name: str, arrays: dict[str, NDArray]) -> None:
        """Keep arrays together under a name; a .npz has checksums."""
        if not self.full:
            made = io.BytesIO()
            np.savez(made, allow_pickle=False, **arrays)
            self.write(f"{name}.npz", made.getbuffer())

    def get(self, name: str, make: Callable[[], Array]) -> Array:
        """Return the array kept under a name, or make and keep it."""
        kept = (self.recall(name) or {}).get("array")
        if kept is None:
            kept = make()
            self.keep(name, {"array": kept})
        return kept

    def files(self, make: Callable[[Path], None], whole: Callable[[Path], bool]) -> Path:
        """Return a folder with files that a function makes, which are there whole or not at all.

        Args:
            make: writes them into a folder.
            whole: returns whether a folder has all of them, undamaged.

        Raises:
            UserError: there is no cache, it cannot be written, or `make` raises it.
        """
        if self.folder is None or self.cache.folder is None:
            raise UserError("There is no folder for a cache: name one as $SALIENCY_CACHE.")
        self.touch()
        place = self.folder / "made"
        if not whole(place):
            with scratch(make_folder(self.cache.folder, "$SALIENCY_CACHE")) as temporary:
                made = temporary / "made"
                made.mkdir()
                make(made)
                with suppress(StorageError):  # they stay in any case: they cannot be elsewhere
                    self.cache.make_room(sum(map(_size, _scan(made))), self)
                if not whole(place):  # else another process has made the same meanwhile
                    shutil.rmtree(place, ignore_errors=True)  # damaged
                    make_folder(self.folder, "$SALIENCY_CACHE")
                    self.touch()
                    with suppress(OSError):
                        made.rename(place)
        return place


def _occupant(entry: os.DirEntry) -> Occupant:
    """Return what an entry of the cache takes; nothing where it has gone."""
    used = 0.0
    path = Path(entry.path)
    for mark in (path / USED, path):
        with suppress(OSError):
            used = used or mark.stat().st_mtime
    return Occupant(path, _size(entry), used)


def _size(entry: os.DirEntry) -> int:
    """Return the bytes of a file, or of all that is in a folder; none where it is gone."""
    try:
        if entry.is_dir(follow_symlinks=False):
            return sum(map(_size, _scan(entry.path)))
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0


def _scan(folder: Path | str | None) -> list[os.DirEntry]:
    """Return what is in a folder; nothing where it is not there (any more)."""
    try:
        with os.scandir(folder or os.devnull) as entries:
            return list(entries)
    except OSError:
        return []


def default_cache(limit: int | None = None) -> Cache:
    """Return the user's cache: $SALIENCY_CACHE, or a folder where the system has such.

    Whoever has no home, as some services and containers, has none.

    Args:
        limit: bytes, if a flag tells; the lower of it and $SALIENCY_CACHE_LIMIT holds.

    Raises:
        UserError: $SALIENCY_CACHE_LIMIT is no size.
    """
    own = os.environ.get("SALIENCY_CACHE_LIMIT")
    limits = [limit] if limit is not None else []
    limits += [parse_bytes(own, "$SALIENCY_CACHE_LIMIT")] if own else []
    folder = None
    with suppress(RuntimeError):  # platformdirs finds no home
        named = os.environ.get("SALIENCY_CACHE")
        folder = named or platformdirs.user_cache_path("saliency-maps", appauthor=False)
    return _opened(folder and Path(folder), min(limits, default=LIMIT))


@lru_cache(16)  # one object a folder, so that a process counts once what is there
def _opened(folder: Path | None, limit: int) -> Cache:
    """Return the cache in a folder."""
    return Cache(folder, limit)

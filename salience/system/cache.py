"""The user's cache: what was computed once from files and need not be computed again."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import platformdirs
from numpy.typing import NDArray
from tqdm import tqdm

from salience.system.arrays import (
    UNREADABLE,
    Array,
    read_array,
    read_arrays,
    write_array,
    write_arrays,
)
from salience.system.errors import UserError
from salience.system.files import make_folder

_told: list[UserError] = []  # one line is enough, however many caches a process opens


class ArrayCache:
    """Arrays on disk that cost time to make, such as each picture's network-sized truth.

    Keys hold everything that the arrays are made from, so nothing has to be invalidated. A folder
    that cannot be written only costs the time, which one line says.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, key: str, make: Callable[[], Array]) -> Array:
        """Return the array stored under a key, or make and store it."""
        if self.folder is None:
            return make()
        path = self._path(key, ".npy")
        try:
            return read_array(path)
        except UNREADABLE:
            array = make()
        self._store(path, lambda: write_array(path, array))
        return array

    def recall(self, key: str) -> dict[str, NDArray] | None:
        """Return the arrays kept together under a key, by name; None where there are none."""
        if self.folder is None:
            return None
        try:
            return read_arrays(self._path(key, ".npz"))
        except UNREADABLE:
            return None

    def keep(self, key: str, arrays: dict[str, NDArray]) -> None:
        """Keep arrays together under a key, by name."""
        if self.folder is None:
            return
        path = self._path(key, ".npz")
        self._store(path, lambda: write_arrays(path, arrays))

    def _path(self, key: str, suffix: str) -> Path:
        """Return the file of a key."""
        return Path(self.folder or "") / key[:2] / f"{key}{suffix}"

    def _store(self, path: Path, write: Callable[[], None]) -> None:
        """Write a file of the cache, if that can be."""
        try:
            make_folder(path.parent, "$SALIENCY_CACHE")
            write()
        except UserError as error:
            self.folder = None  # a read-only or full disk: go on without
            if not _told:
                _told.append(error)
                tqdm.write(f"note: nothing more is cached. {error}", file=sys.stderr)


def default_cache() -> ArrayCache:
    """Return the user's cache: $SALIENCY_CACHE, or a folder where the system has such.

    Whoever has no home, as some services and containers, has none.
    """
    if folder := os.environ.get("SALIENCY_CACHE"):
        return ArrayCache(Path(folder))
    try:
        return ArrayCache(platformdirs.user_cache_path("saliency-maps", appauthor=False))
    except RuntimeError:  # platformdirs finds no home
        return ArrayCache(None)

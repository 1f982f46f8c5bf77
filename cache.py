"""The user's cache: what was computed once from files and need not be computed again."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from errors import UserError
from pictures import Array, write_array


class ArrayCache:
    """Arrays on disk that cost time to make, such as each picture's network-sized truth.

    Keys hold everything that the truth is made from, so nothing has to be invalidated. A folder
    that cannot be written only costs the time.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, key: str, make: Callable[[], Array]) -> Array:
        """Return the array stored under a key, or make and store it."""
        if self.folder is None:
            return make()
        path = self.folder / key[:2] / f"{key}.npy"
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            array = make()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_array(path, array)
        except (OSError, UserError):
            self.folder = None  # a read-only or full disk: go on without
        return array


def default_cache() -> ArrayCache:
    """Return the user's cache: $SALIENCY_CACHE, or a folder of the user's own cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return ArrayCache(Path(os.environ.get("SALIENCY_CACHE") or Path(home) / "saliency-maps"))

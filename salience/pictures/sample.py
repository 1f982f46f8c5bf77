"""Sample: a picture with its fixations and density map, the record that data-set loaders return."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# suffixes of picture files
IMAGE_SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".tif",
    ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".j2c",
    ".jpc", ".jpf", ".jpx",
    ".heic", ".heif",  # not supported, but found, so that an error names them
}  # fmt: skip
# suffixes of videos; .ts is missing, since it is also TypeScript's: such files are opened to decide
VIDEO_SUFFIXES = {
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".wmv", ".mpg", ".mpeg", ".m2ts", ".flv",
    ".ogv", ".3gp", ".mxf", ".vob",
}  # fmt: skip


class Prepared(Protocol):
    """A network's input and truth for one picture, prepared in a store (see `store.py`)."""

    @property
    def input_shape(self) -> tuple[int, int]:
        """Rows and columns of the stored picture, pixels."""
        ...

    @property
    def origin(self) -> str:
        """Path of the source picture, which may have been removed."""
        ...

    @property
    def digest(self) -> str:
        """Hash of the contents of the picture file and the map file."""
        ...

    @property
    def stored(self) -> int:
        """Checksum of the stored picture, which the program that prepared it decides about, too."""
        ...

    def require(self, **asked: object) -> None:
        """Raise UserError if the store was prepared with settings other than `asked`."""
        ...

    def picture(self) -> NDArray[np.uint8]:
        """Return the network's input, BGR [rows, cols, 3], read-only."""
        ...

    def truth(self) -> NDArray[np.floating]:
        """Return the network-sized truth, [map rows, map cols, 2], read-only."""
        ...


@dataclass(frozen=True)
class Stored:
    """A picture or a map inside an array file of many; a call reads it.

    Attributes:
        file: the array file.
        index: index of the picture or map in the file.
        read: function of file and index that returns the picture, BGR uint8, or the map.
        shape_of: function of file and index that returns rows and columns without reading; or None.
    """

    file: Path
    index: int
    read: Callable[[Path, int], NDArray]
    shape_of: Callable[[Path, int], tuple[int, int]] | None = None

    def __call__(self) -> NDArray:
        """Return the picture or the map."""
        return self.read(self.file, self.index)

    def shape(self) -> tuple[int, int]:
        """Return the rows and columns of the picture or the map."""
        if self.shape_of:
            return self.shape_of(self.file, self.index)
        rows, cols = self().shape[:2]
        return rows, cols

    def __str__(self) -> str:
        """Return file and index as text."""
        return f"{self.file}[{self.index}]"


@dataclass(frozen=True)
class Sample:
    """One picture with its fixations and density map.

    Attributes:
        name: unique name within the data set, with forward slashes; outputs get this name.
        image: file of the picture, or a function that returns it as BGR uint8 (built-in sets).
        map: file of the published density map, a map in an array file, or None.
        fixations: float32 [n, 2] in (x, y), 0-based pixel-centre coordinates of the original
            picture, or None.
        subjects: int [n], the observer of each fixation, or None.
        sigma_pixels: published Gaussian of the data set, about one degree of visual angle.
        category: category of the picture in the data set, such as CAT2000's; "" if there is none.
        shape: rows and columns of the picture, if the truth implies them. If the EXIF rotation
            contradicts this shape, it is ignored.
        outside: number of fixations outside the picture, before they were dropped or clipped.
        prepared: the prepared input and truth in a store, or None.
        times: float32 [n], start of each fixation since the picture appeared, milliseconds; NaN
            where unknown. None for data sets without times, and in stores.
        durations: float32 [n], duration of each fixation, milliseconds; likewise.
        turned: whether the EXIF rotation of the picture's file applies.
    """

    name: str
    image: Path | Callable[[], NDArray[np.uint8]]
    map: Path | Stored | None = None
    fixations: NDArray[np.floating] | None = None
    subjects: NDArray[np.int32] | None = None
    sigma_pixels: float = 24.0
    category: str = ""
    shape: tuple[int, int] | None = None
    outside: int = 0
    prepared: Prepared | None = None
    times: NDArray[np.floating] | None = None
    durations: NDArray[np.floating] | None = None
    turned: bool = True

"""Sample: a picture and where people looked, the record that data sets hand to the rest."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# what a folder of pictures is searched for
IMAGE_SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".tif",
    ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".j2c",
    ".jpc", ".jpf", ".jpx",
    ".heic", ".heif",  # which are not read: found, so that they are named
}  # fmt: skip
# what videos are called; .ts is TypeScript, too, and is opened to see
VIDEO_SUFFIXES = {
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".wmv", ".mpg", ".mpeg", ".m2ts", ".flv",
    ".ogv", ".3gp", ".mxf", ".vob",
}  # fmt: skip


class Prepared(Protocol):
    """A picture and its truth as a network wants them, made once and kept (see `store.py`)."""

    @property
    def input_shape(self) -> tuple[int, int]:
        """Rows and columns of the picture that is kept, pixels."""
        ...

    @property
    def origin(self) -> str:
        """Where the picture was read from; it need not be there any more."""
        ...

    @property
    def digest(self) -> str:
        """A name for what the files of the picture and its map held."""
        ...

    def require(self, **asked: object) -> None:
        """Raise UserError where what is kept was made with other settings than those asked for."""
        ...

    def picture(self) -> NDArray[np.uint8]:
        """Return the network's input, BGR [rows, cols, 3]; not to be written to."""
        ...

    def truth(self) -> NDArray[np.floating]:
        """Return the network-sized truth, [map rows, map cols, 2]; not to be written to."""
        ...


@dataclass(frozen=True)
class Stored:
    """A picture or a map that is one of many in an array file: calling it reads it.

    Attributes:
        file: the array file.
        index: which of its pictures.
        read: from file and index to the picture, BGR uint8, or the map.
        shape_of: from file and index to its rows and columns, where those cost less than reading.
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
        """Return where it is."""
        return f"{self.file}[{self.index}]"


@dataclass(frozen=True)
class Sample:
    """One picture and where people looked at it.

    Attributes:
        name: unique within the data set, with forward slashes; also names outputs.
        image: the picture's file, or a function that returns it as BGR uint8 (built-in sets).
        map: the file of the data set's own density map, a place in an array file, or None.
        fixations: float32 [n, 2] in (x, y), 0-based pixel-centre coordinates of the original
            picture, or None.
        subjects: int [n], which observer made each fixation, or None.
        sigma_pixels: the data set's own Gaussian, about one degree of visual angle.
        category: the data set's own kind of picture, such as CAT2000's; empty where it has none.
        shape: rows and columns of the picture, where the truth tells without decoding it. A picture
            that its EXIF data turns away from this shape is read unturned.
        outside: how many fixations lay outside the picture, dropped or clipped as was asked.
        prepared: what a store keeps of it, or None.
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

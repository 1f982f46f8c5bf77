"""Sample: a picture and where people looked, the record that data sets hand to the rest."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# what a folder of pictures is searched for
IMAGE_SUFFIXES = {
    ".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"
}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """One picture and where people looked at it.

    Attributes:
        name: unique within the data set, with forward slashes; also names outputs.
        image: the picture's file, or a function that returns it as BGR uint8 (built-in sets).
        map: the file of the data set's own density map, or None.
        fixations: float32 [n, 2] in (x, y), 0-based pixel-centre coordinates of the original
            picture, or None.
        subjects: int [n], which observer made each fixation, or None.
        sigma_pixels: the data set's own Gaussian, about one degree of visual angle.
        category: the data set's own kind of picture, such as CAT2000's; empty where it has none.
        shape: rows and columns of the picture, where the truth tells without decoding it. A picture
            that its EXIF data turns away from this shape is read unturned.
        outside: how many fixations lay outside the picture, dropped or clipped as was asked.
    """

    name: str
    image: Path | Callable[[], NDArray[np.uint8]]
    map: Path | None = None
    fixations: NDArray[np.floating] | None = None
    subjects: NDArray[np.int32] | None = None
    sigma_pixels: float = 24.0
    category: str = ""
    shape: tuple[int, int] | None = None
    outside: int = 0

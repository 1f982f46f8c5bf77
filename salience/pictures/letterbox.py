"""The geometry between pictures and networks, which needs no network and no Keras.

`Letterbox` (the padding and its undoing), `OutputGrid` (where a map's cells lie), and the way there
and back: `preprocess`, `read_input` and `postprocess`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from salience.pictures.headers import room
from salience.pictures.reading import known_shape, reduced_image
from salience.pictures.sample import Sample
from salience.system.arrays import Array
from salience.system.notes import Notes

# a JPEG decoded smaller must still be so many times larger than what it is averaged to, or a whole
# multiple of it: then the two differ by about half a grey level on average
# (docs/decisions/pictures.md)
REDUCED_MARGIN = 3
REDUCED_PIXELS = 1_000_000  # smaller ones take as long to read the header and to unpack


@dataclass(frozen=True)
class OutputGrid:
    """Where the cells of a network's map lie on its input.

    Attributes:
        stride: rows and columns of the input that a cell covers, pixels.
        crop: rows and columns at each side of the input that no cell covers, pixels.
        blur: standard deviation of the Gaussian that the system's authors give its maps, cells.

    >>> OutputGrid(stride=1, crop=2).shape((240, 320))
    (236, 316)
    """

    stride: int = 8
    crop: int = 0
    blur: float = 0.0

    def shape(self, input_shape: tuple[int, int]) -> tuple[int, int]:
        """Return the rows and columns of the map of an input."""
        rows, cols = ((length - 2 * self.crop) // self.stride for length in input_shape)
        return rows, cols

    def reduced(self, placed: NDArray) -> Array:
        """Return a map of the input's shape at the map's: cropped, each cell the mean over it."""
        rows, cols = placed.shape
        inner = placed[self.crop : rows - self.crop, self.crop : cols - self.crop]
        cells = cv2.resize(inner, self.shape((rows, cols))[::-1], interpolation=cv2.INTER_AREA)
        return np.asarray(cells, np.float32)

    def points(self, placed: NDArray) -> NDArray:
        """Return points (x, y) of the input as (x, y) of the map."""
        # the centre of pixel 0 is 0.5 from the edge, that of a cell half a stride
        return (placed + 0.5 - self.crop) / self.stride - 0.5


@dataclass(frozen=True)
class Letterbox:
    """How a picture is placed into the network's input: scaled to fit, centred, black around it.

    The same box undoes the placing for the map that comes out, so there is one geometry.

    >>> box = Letterbox.fit((600, 800), (480, 480))
    >>> box.scaled_shape, box.top, box.left
    ((360, 480), 60, 0)
    """

    image_shape: tuple[int, int]
    input_shape: tuple[int, int]
    scaled_shape: tuple[int, int]
    top: int
    left: int

    @classmethod
    def fit(cls, image_shape: tuple[int, int], input_shape: tuple[int, int]) -> "Letterbox":
        """Return the box that fits a picture into an input, both (rows, columns)."""
        scale = min(input_shape[0] / image_shape[0], input_shape[1] / image_shape[1])
        # a 1 x 5000 picture still covers one row
        rows, cols = (
            min(size, max(1, round(length * scale)))
            for length, size in zip(image_shape, input_shape, strict=True)
        )
        top, left = (input_shape[0] - rows) // 2, (input_shape[1] - cols) // 2
        return cls(image_shape, input_shape, (rows, cols), top, left)

    @property
    def reduction(self) -> int:
        """How many times smaller a JPEG may be decoded before it is placed: 1, 2, 4 or 8."""
        if self.image_shape[0] * self.image_shape[1] < REDUCED_PIXELS:
            return 1
        sides = list(zip(self.image_shape, self.scaled_shape, strict=True))
        for times in (8, 4, 2):
            whole = all(length % (scaled * times) == 0 for length, scaled in sides)
            ample = all(length >= scaled * times * REDUCED_MARGIN for length, scaled in sides)
            if whole or ample:
                return times
        return 1

    def place(self, image: NDArray) -> NDArray:
        """Return a picture or map scaled and padded with zeros to the input's shape.

        The picture may be smaller than the box was made for (see `reduction`).
        """
        rows, cols = self.scaled_shape
        shrinks = rows < image.shape[0] or cols < image.shape[1]
        # area averaging keeps fine texture from turning into noise when shrinking
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        placed = np.zeros(self.input_shape + image.shape[2:], image.dtype)
        placed[self.top : self.top + rows, self.left : self.left + cols] = cv2.resize(
            image, (cols, rows), interpolation=method
        )
        return placed

    def place_points(self, fixations: NDArray) -> Array:
        """Return fixations (x, y) of the picture as (x, y) of the input."""
        scale = np.array(
            [self.scaled_shape[1] / self.image_shape[1], self.scaled_shape[0] / self.image_shape[0]]
        )
        # pixel centres lie at whole numbers, so a scale acts on x + 0.5
        return ((fixations + 0.5) * scale - 0.5 + (self.left, self.top)).astype(np.float32)

    def undo(self, saliency_map: NDArray, crop: int = 0) -> Array:
        """Return a map of the input, at any resolution, cropped and scaled to the picture's shape.

        Bilinear; each of the picture's pixels reads the map where `place` put that pixel.

        Args:
            saliency_map: [rows, columns].
            crop: pixels at each side of the input that the map does not cover; beyond its edge its
                outermost cells go on.
        """
        offsets = (self.top, self.left)
        rows, cols = (
            linear_sampling(
                # where each of the picture's pixel centres lies in the input, then in the map
                (pixel_centres(self.image_shape[i], self.scaled_shape[i]) + offsets[i] - crop)
                * (cells / (self.input_shape[i] - 2 * crop)),
                cells,
            )
            for i, cells in enumerate(saliency_map.shape)
        )
        return rows @ saliency_map.astype(np.float32) @ cols.T


def pixel_centres(count: int, length: float) -> NDArray[np.floating]:
    """Return where the centres of `count` equal pixels lie that span 0 to `length`.

    >>> pixel_centres(2, 8).tolist()
    [2.0, 6.0]
    """
    return (np.arange(count) + 0.5) * (length / count)


def linear_sampling(where: NDArray, cells: int) -> Array:
    """Return the [len(where), cells] matrix that reads a row of cells by linear interpolation.

    Args:
        where: positions, in cells from the row's edge; the centre of cell i is at i + 0.5. Beyond
            the outer centres the outer cell's value goes on.
        cells: the number of cells.

    >>> linear_sampling(np.array([0.0, 1.0]), 2).tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """
    position = np.clip(where - 0.5, 0, cells - 1)
    low = np.minimum(position.astype(int), max(cells - 2, 0))
    share = (position - low).astype(np.float32)
    matrix = np.zeros((len(where), cells), np.float32)
    matrix[np.arange(len(where)), low] = 1 - share
    matrix[np.arange(len(where)), np.minimum(low + 1, cells - 1)] += share
    return matrix


def preprocess(
    image: NDArray[np.uint8], input_shape: tuple[int, int]
) -> tuple[NDArray[np.uint8], Letterbox]:
    """Return a BGR picture as the network's input, uint8 [rows, cols, 3], and the box that did it.

    What a backbone subtracts or divides is its own, and part of the network.
    """
    box = Letterbox.fit((image.shape[0], image.shape[1]), input_shape)
    return box.place(image), box


def read_input(
    sample: Sample, input_shape: tuple[int, int], notes: Notes | None = None
) -> tuple[NDArray[np.uint8], Letterbox]:
    """Return a sample's picture as the network's input, and the box that placed it.

    A JPEG that is much larger than the input is decoded at a part of its size, which is faster.

    Args:
        sample: whose picture.
        input_shape: rows and columns of the input.
        notes: gets what is odd about the picture's file, and does no harm.

    Raises:
        UserError: the picture cannot be read.
    """
    # what was made of its pixels is kept by others: a change here is one of `input_identity`, too
    with room(known_shape(sample)):
        image, shape = reduced_image(
            sample, lambda full: Letterbox.fit(full, input_shape).reduction, notes
        )
        box = Letterbox.fit(shape, input_shape)
        return box.place(image), box


def of_both_ways(maps: Callable[[NDArray[np.uint8]], Array]) -> Callable[..., Array]:
    """Return a network that averages its map of a picture and that of the mirrored picture.

    Args:
        maps: from pictures [b, rows, cols, 3] to maps [b, map rows, map cols, 1].

    >>> doubled = of_both_ways(lambda x: x[..., :1] * np.array([[1.0], [3.0]]))
    >>> doubled(np.ones((1, 1, 2, 3), np.uint8)).ravel().tolist()
    [2.0, 2.0]
    """

    def both(batch: NDArray[np.uint8]) -> Array:
        turned = maps(np.ascontiguousarray(batch[:, :, ::-1]))
        return (maps(batch) + turned[:, :, ::-1]) / 2

    return both


def postprocess(
    prediction: NDArray,
    box: Letterbox,
    grid: OutputGrid | None = None,
    smooth_pixels: float = 0.0,
) -> Array:
    """Return a network's output [rows, cols] or [rows, cols, 1] as a saliency map of the picture.

    Args:
        prediction: the map of the padded input.
        box: the box that placed the picture.
        grid: where the map lies on the input; None where it covers all of it.
        smooth_pixels: standard deviation of a Gaussian blur, pixels of the original picture.

    Returns:
        [rows, columns] of the original picture, 0 to 1, the maximum 1 (an all-zero map stays so).
    """
    grid = grid or OutputGrid()
    cells = np.asarray(prediction, np.float32).reshape(prediction.shape[0], prediction.shape[1])
    if grid.blur:
        cells = gaussian_filter(cells, grid.blur)
    saliency_map = box.undo(cells, grid.crop)
    # in place, since a picture of 20,000 x 20,000 has a map of 1.6 GB
    if smooth_pixels:
        gaussian_filter(saliency_map, smooth_pixels, output=saliency_map)
    np.maximum(saliency_map, 0, out=saliency_map)
    peak = saliency_map.max()
    if peak > 0:
        saliency_map /= peak
    return saliency_map

"""Geometry between pictures and networks, without Keras.

`Letterbox` pads a picture to the input and undoes the padding. `OutputGrid` describes the cells of
a network's map. `preprocess`, `read_input` and `postprocess` apply both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from salience.pictures.headers import room
from salience.pictures.reading import known_shape, reduced_image
from salience.pictures.sample import Sample
from salience.system.arrays import Array
from salience.system.notes import Notes

# A JPEG decoded at a reduced size must be at least this many times larger than its target, or a
# multiple of it. The result then differs by about half a grey level (docs/decisions/pictures.md).
REDUCED_MARGIN = 3
REDUCED_PIXELS = 1_000_000  # for fewer pixels, reduced decoding saves no time


@dataclass(frozen=True)
class OutputGrid:
    """The position of a network's output map on its input.

    Attributes:
        stride: rows and columns of the input that a cell covers, pixels.
        crop: rows and columns at each side of the input that no cell covers, pixels.
        blur: standard deviation of the Gaussian that the system's authors apply to maps, cells.

    >>> OutputGrid(stride=1, crop=2).shape((240, 320))
    (236, 316)
    """

    stride: int = 8
    crop: int = 0
    blur: float = 0.0

    def shape(self, input_shape: tuple[int, int]) -> tuple[int, int]:
        """Return the rows and columns of the map for an input's shape."""
        rows, cols = ((length - 2 * self.crop) // self.stride for length in input_shape)
        return rows, cols

    def reduced(self, placed: NDArray) -> Array:
        """Return a map of the input's shape reduced to the grid: cropped, then averaged by cell."""
        rows, cols = placed.shape
        inner = placed[self.crop : rows - self.crop, self.crop : cols - self.crop]
        cells = cv2.resize(inner, self.shape((rows, cols))[::-1], interpolation=cv2.INTER_AREA)
        return np.asarray(cells, np.float32)

    def points(self, placed: NDArray) -> NDArray:
        """Return points (x, y) of the input in coordinates (x, y) of the map."""
        # the centre of pixel 0 is 0.5 pixels from the edge; that of cell 0, half a stride
        return (placed + 0.5 - self.crop) / self.stride - 0.5


@dataclass(frozen=True)
class Letterbox:
    """The placement of a picture in a network's input: scaled to fit, centred, padded with black.

    The same box maps the network's output back to the picture.

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
        """Return the letterbox for the shapes of a picture and an input, each (rows, columns)."""
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
        """Factor by which a JPEG may be reduced when decoded: 1, 2, 4 or 8."""
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
        """Return a picture or map, scaled and padded with zeros to the input's shape.

        The picture may have been decoded at a reduced size (see `reduction`).
        """
        rows, cols = self.scaled_shape
        shrinks = rows < image.shape[0] or cols < image.shape[1]
        # area averaging avoids aliasing
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        placed = np.zeros(self.input_shape + image.shape[2:], image.dtype)
        placed[self.top : self.top + rows, self.left : self.left + cols] = cv2.resize(
            image, (cols, rows), interpolation=method
        )
        return placed

    def without_padding(self, placed: NDArray) -> NDArray:
        """Return the part of an input that the picture covers, a view."""
        rows, cols = self.scaled_shape
        return placed[self.top : self.top + rows, self.left : self.left + cols]

    def place_points(self, fixations: NDArray) -> Array:
        """Return fixations (x, y) of the picture in coordinates (x, y) of the input."""
        scale = np.array(
            [self.scaled_shape[1] / self.image_shape[1], self.scaled_shape[0] / self.image_shape[0]]
        )
        # coordinates are pixel centres, so the distance from the edge is x + 0.5
        return ((fixations + 0.5) * scale - 0.5 + (self.left, self.top)).astype(np.float32)

    def undo(self, saliency_map: NDArray, crop: int = 0) -> Array:
        """Return a map of the input, at any resolution, as a map of the picture's shape.

        Each pixel of the picture reads the map by bilinear interpolation, where `place` puts it.

        Args:
            saliency_map: [rows, columns].
            crop: pixels at each side of the input that the map does not cover; the outermost cells
                are repeated there.
        """
        offsets = (self.top, self.left)
        rows, cols = (
            placed_sampling(
                self.image_shape[i], self.scaled_shape[i], self.input_shape[i], offsets[i], crop,
                cells,
            )
            for i, cells in enumerate(saliency_map.shape)
        )  # fmt: skip
        return rows @ saliency_map.astype(np.float32) @ cols.T


def pixel_centres(count: int, length: float) -> NDArray[np.floating]:
    """Return the centres of `count` equal pixels that span 0 to `length`.

    >>> pixel_centres(2, 8).tolist()
    [2.0, 6.0]
    """
    return (np.arange(count) + 0.5) * (length / count)


def prior_places(length: int, cells: int, theano: bool, cell: int = 10) -> NDArray[np.floating]:
    """Return the positions of a map's pixels in a row of ML-Net's prior, for `linear_sampling`.

    Args:
        length: number of pixels.
        cells: number of weights of the prior.
        theano: as Theano up-sampled: cell i is centred at pixel `cell` i + (`cell` - 1) // 2.
        cell: pixels that a weight covers.

    >>> prior_places(20, 2, True)[[4, 14]].tolist()
    [0.5, 1.5]
    """
    if not theano:
        return pixel_centres(length, cells)
    return (np.arange(length) - (cell - 1) // 2) / cell + 0.5


def linear_sampling(where: NDArray, cells: int) -> Array:
    """Return the [len(where), cells] matrix that reads a row of cells by linear interpolation.

    Args:
        where: positions in cells from the edge of the row; the centre of cell i is at i + 0.5.
            Beyond the outer centres, the value of the outer cell is repeated.
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


@lru_cache(4)  # pictures of a collection often have the same size; four sides, as memory is limited
def placed_sampling(
    length: int, scaled: int, placed: int, offset: int, crop: int, cells: int
) -> Array:
    """Return the [length, cells] matrix of `Letterbox.undo` for rows or columns, read-only.

    Args:
        length: rows of the picture.
        scaled: rows of the input that the picture covers.
        placed: rows of the input.
        offset: rows of the input before the picture.
        crop: rows at each side of the input that the map does not cover.
        cells: rows of the map.
    """
    # positions of the picture's pixel centres in the input, then in the map
    where = (pixel_centres(length, scaled) + offset - crop) * (cells / (placed - 2 * crop))
    matrix = linear_sampling(where, cells)
    matrix.flags.writeable = False
    return matrix


def preprocess(
    image: NDArray[np.uint8], input_shape: tuple[int, int]
) -> tuple[NDArray[np.uint8], Letterbox]:
    """Return a BGR picture as a network's input, uint8 [rows, cols, 3], and its letterbox.

    The normalisation is part of the network.
    """
    box = Letterbox.fit((image.shape[0], image.shape[1]), input_shape)
    return box.place(image), box


def read_input(
    sample: Sample, input_shape: tuple[int, int], notes: Notes | None = None
) -> tuple[NDArray[np.uint8], Letterbox]:
    """Return a sample's picture as a network's input, uint8 [rows, cols, 3], and its letterbox.

    A JPEG that is much larger than the input is decoded at a reduced size, which is faster.

    Args:
        sample: the sample.
        input_shape: rows and columns of the input, pixels.
        notes: receives remarks about harmless defects of the file.

    Raises:
        UserError: the picture cannot be read.
    """
    # caches depend on these pixels through `input_identity`, which includes this code
    known = known_shape(sample)
    with room(known):
        image, shape = reduced_image(
            sample, lambda full: Letterbox.fit(full, input_shape).reduction, notes, known
        )
        box = Letterbox.fit(shape, input_shape)
        return box.place(image), box


def of_both_ways(maps: Callable[[NDArray[np.uint8]], Array]) -> Callable[..., Array]:
    """Return a function that averages the maps of a picture and of its mirror image.

    Args:
        maps: function from pictures [b, rows, cols, 3] to maps [b, map rows, map cols, 1].

    >>> doubled = of_both_ways(lambda x: x[..., :1] * np.array([[1.0], [3.0]]))
    >>> doubled(np.ones((1, 1, 2, 3), np.uint8)).ravel().tolist()
    [2.0, 2.0]
    """

    def both(batch: NDArray[np.uint8]) -> Array:
        turned = maps(np.ascontiguousarray(batch[:, :, ::-1]))
        return (maps(batch) + turned[:, :, ::-1]) / 2

    return both


def smoothed(saliency_map: NDArray, smooth_pixels: float, output: NDArray | None = None) -> NDArray:
    """Return a map blurred by a Gaussian; the border mirrors it, so that an even map stays even.

    Args:
        saliency_map: [rows, columns].
        smooth_pixels: standard deviation of the Gaussian, pixels.
        output: array for the result; None for a new one.
    """
    return gaussian_filter(saliency_map, smooth_pixels, output=output)


def postprocess(
    prediction: NDArray,
    box: Letterbox,
    grid: OutputGrid | None = None,
    smooth_pixels: float = 0.0,
) -> Array:
    """Return a network's output [rows, cols] or [rows, cols, 1] as a saliency map of the picture.

    Args:
        prediction: the network's map of the padded input.
        box: the letterbox that placed the picture.
        grid: position of the map on the input; None if the map covers all of it.
        smooth_pixels: standard deviation of a Gaussian blur, pixels of the original picture.

    Returns:
        [rows, columns] of the original picture, 0 to 1, with maximum 1; an all-zero map stays zero.
    """
    grid = grid or OutputGrid()
    cells = np.asarray(prediction, np.float32).reshape(prediction.shape[0], prediction.shape[1])
    if grid.blur:
        cells = gaussian_filter(cells, grid.blur)
    saliency_map = box.undo(cells, grid.crop)
    # in place, since the map of 20,000 x 20,000 pixels takes 1.6 GB
    if smooth_pixels:
        smoothed(saliency_map, smooth_pixels, output=saliency_map)
    if not cells.size or not cells.min() >= 0:  # interpolation and blur keep values at or above 0
        np.maximum(saliency_map, 0, out=saliency_map)
    peak = saliency_map.max()
    if peak > 0:
        saliency_map /= peak
    return saliency_map

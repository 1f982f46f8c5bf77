"""What lies between pictures and networks: inputs, outputs, and the generators of batches.

`Letterbox` (the padding and its undoing), preprocessing, postprocessing, then `SaliencyBatches`.
Files are read and written in `pictures.py`. No network is known here.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import keras
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cache import ArrayCache, default_cache
from errors import UserError
from fixations import count_map, within
from pictures import Array, reduced_image, sample_density, stamp
from sample import Sample, Stored

# a JPEG decoded smaller must still be so many times larger than what it is averaged to, or a whole
# multiple of it: then the two differ by about half a grey level on average (docs/ARCHITECTURE.md)
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


def read_input(sample: Sample, input_shape: tuple[int, int]) -> tuple[NDArray[np.uint8], Letterbox]:
    """Return a sample's picture as the network's input, and the box that placed it.

    A JPEG that is much larger than the input is decoded at a part of its size, which is faster.

    Raises:
        UserError: the picture cannot be read.
    """
    image, shape = reduced_image(sample, lambda full: Letterbox.fit(full, input_shape).reduction)
    box = Letterbox.fit(shape, input_shape)
    return box.place(image), box


def network_input(
    sample: Sample, input_shape: tuple[int, int]
) -> tuple[NDArray[np.uint8], Letterbox]:
    """Return a sample's picture as the network's input, and the box that placed it.

    From its store where that keeps it at this size, else from the picture's file.

    Raises:
        UserError: the file cannot be read, or there is only a store of another size.
    """
    kept = sample.prepared
    if kept is None or (kept.input_shape != input_shape and isinstance(sample.image, Path)):
        return read_input(sample, input_shape)
    kept.require(rows=input_shape[0], cols=input_shape[1])
    assert sample.shape is not None  # a store knows it of every picture
    return kept.picture(), Letterbox.fit(sample.shape, input_shape)


def input_identity(sample: Sample, input_shape: tuple[int, int]) -> str | None:
    """Return a name for what `network_input` returns, without reading the picture.

    What that function does is part of the name: raise the number when it changes. None where only
    reading tells (a built-in set, or a file that is not there).
    """
    kept = sample.prepared
    if kept is not None and kept.input_shape == input_shape:
        about: tuple = ("store", kept.digest)
    else:
        try:
            about = stamp(sample.image)
        except OSError:
            return None
        if not about:
            return None
        file = sample.image.file if isinstance(sample.image, Stored) else sample.image
        about = (str(Path(file).resolve()), *about, sample.shape)  # type: ignore[arg-type]
    return hashlib.sha256(repr((1, cv2.__version__, input_shape, about)).encode()).hexdigest()


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
    if smooth_pixels:
        saliency_map = gaussian_filter(saliency_map, smooth_pixels)
    saliency_map = np.maximum(saliency_map, 0)
    peak = saliency_map.max()
    return saliency_map / peak if peak > 0 else saliency_map


class Features(Protocol):
    """What a network's frozen part makes of pictures, kept (see `feature_cache.py`)."""

    def batch(
        self, samples: list[Sample], flipped: list[bool]
    ) -> tuple[NDArray | tuple[NDArray, ...], list[Letterbox]]:
        """Return the features of samples, those flipped that are to be, and each one's box."""
        ...


@dataclass(frozen=True)
class Part:
    """What one of several processes reads of each batch.

    Attributes:
        number: of the process, from 0.
        processes: how many there are.
        devices: how many all of them have together.
    """

    number: int = 0
    processes: int = 1
    devices: int = 1

    def of(self, batch: NDArray) -> NDArray:
        """Return this process' stretch of a batch, or all of one that the devices do not divide.

        >>> Part(1, 2, 2).of(np.arange(4)).tolist(), Part(1, 2, 2).of(np.arange(3)).tolist()
        ([2, 3], [0, 1, 2])
        """
        if len(batch) % self.devices:
            return batch
        length = len(batch) // self.processes
        return batch[self.number * length : (self.number + 1) * length]


class SaliencyBatches(keras.utils.PyDataset):
    """Batches of pictures and their truth, shuffled by seed and epoch.

    A batch depends on (seed, epoch, its index) alone, so the order and the flips are the same
    whatever the number of workers, and an epoch can be repeated. Set `epoch` before each one. Where
    several processes train one network, `part` says what this one reads of a batch.

    Args:
        samples: what to read.
        input_shape: rows and columns of the network's input, pixels.
        batch_size: pictures a batch; the last one may be smaller, and none is left out.
        grid: where the network's map lies on its input; None for cells of 8 pixels.
        sigma_pixels: Gaussian for the density maps; None for the data set's own.
        shuffle: a new order each epoch, else the order of `samples`.
        flip: mirror half of the pictures with their maps and fixations.
        sizes: how many of the samples each data set brings, where there are several.
        mix: with `shuffle`, the shares of an epoch that these sets make up; an epoch is as long as
            all of them. A set that is too small for its share comes several times, one that is too
            large in part, and in other parts in other epochs. Empty: every sample once.
        seed: of order and flips.
        cache: where network-sized truth is kept; None for the user's cache.
        workers: reading threads. Decoding releases Python's lock, so threads suffice.

    A batch is (pictures uint8 [b, rows, cols, 3] in BGR, truth float32 [b, map rows, map cols, 2]);
    where `features` is set, its features of these pictures take their place.
    The truth's first channel is the density map, scaled to a maximum of 1; the second counts
    fixations.

    Raises:
        UserError: a store was prepared with other settings, or a file cannot be read. `failure`
            keeps the latter, since Keras wraps what workers raise.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        input_shape: tuple[int, int],
        batch_size: int,
        *,
        grid: OutputGrid | None = None,
        sigma_pixels: float | None = None,
        shuffle: bool = False,
        flip: bool = False,
        sizes: Sequence[int] = (),
        mix: Sequence[float] = (),
        seed: int = 0,
        cache: ArrayCache | None = None,
        workers: int = 1,
    ) -> None:
        super().__init__(workers=workers, use_multiprocessing=False, max_queue_size=4)
        self.samples = list(samples)
        self.input_shape = input_shape
        self.batch_size = batch_size
        self.grid = grid or OutputGrid()
        self.sigma_pixels = sigma_pixels
        self.shuffle = shuffle
        self.flip = flip
        self.sizes = list(sizes) or [len(self.samples)]
        self.counts = [
            max(1, round(len(self.samples) * share / sum(mix))) for share in mix
        ] or self.sizes
        self.seed = seed
        self.epoch = 0
        self.part = Part()
        self.cache = cache or default_cache()
        self.features: Features | None = None
        self.failure: UserError | None = None
        self.boxes: dict[int, Letterbox] = {}  # by sample, once its picture has been read
        self._order: tuple[object, NDArray[np.intp]] = (None, np.arange(0))  # of one epoch
        for sample in self.samples:
            if sample.prepared:
                sample.prepared.require(
                    rows=input_shape[0],
                    cols=input_shape[1],
                    stride=self.grid.stride,
                    crop=self.grid.crop,
                    sigma_pixels=sigma_pixels,
                )

    @property
    def count(self) -> int:
        """How many pictures an epoch has."""
        return sum(self.counts)

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def order(self) -> NDArray[np.intp]:
        """Return the indices of the samples in this epoch's order."""
        # drawn once: for each batch anew, an epoch's cost would grow with the square of its length
        drawn_for, order = self._order
        if drawn_for != (epoch := (self.seed, self.epoch)):
            order = self._draw()
            self._order = epoch, order
        return order

    def _draw(self) -> NDArray[np.intp]:
        """Draw this epoch's order."""
        if not self.shuffle:
            return np.arange(len(self.samples))
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.counts == self.sizes:
            return rng.permutation(len(self.samples))
        drawn, first = [], 0
        for size, count in zip(self.sizes, self.counts, strict=True):
            passes = [rng.permutation(size) for _ in range(-(-count // size))]
            drawn.append(first + np.concatenate(passes)[:count])
            first += size
        return rng.permutation(np.concatenate(drawn))

    def __getitem__(self, index: int) -> tuple[Any, Array]:
        batch = self.order()[index * self.batch_size : (index + 1) * self.batch_size]
        chosen = self.part.of(batch).tolist()
        flipped = [self.is_flipped(i) for i in chosen]
        try:
            x, boxes = self.inputs([self.samples[i] for i in chosen], flipped)
            self.boxes.update(zip(chosen, boxes, strict=True))
            truths = [self.truth(i, box) for i, box in zip(chosen, boxes, strict=True)]
        except UserError as error:
            self.failure = error
            raise
        return x, np.stack([y[:, ::-1] if f else y for y, f in zip(truths, flipped, strict=True)])

    def is_flipped(self, index: int) -> bool:
        """Return whether a sample is mirrored in this epoch."""
        if not self.flip:
            return False
        return bool(np.random.default_rng((self.seed, self.epoch, index)).random() < 0.5)

    def inputs(self, samples: list[Sample], flipped: list[bool]) -> tuple[Any, list[Letterbox]]:
        """Return what the network is fed of samples, and the boxes that placed them."""
        if self.features:
            return self.features.batch(samples, flipped)
        placed = [network_input(sample, self.input_shape) for sample in samples]
        pictures = [mirrored(x) if f else x for (x, _), f in zip(placed, flipped, strict=True)]
        return np.stack(pictures), [box for _, box in placed]

    def truth(self, index: int, box: Letterbox) -> Array:
        """Return the network-sized truth of a sample, [map rows, map cols, 2], unflipped."""
        sample = self.samples[index]
        if sample.prepared:
            return sample.prepared.truth()
        return self.cache.get(
            _truth_key(sample, box, self.grid, self.sigma_pixels),
            lambda: make_truth(sample, box, self.grid, self.sigma_pixels),
        )


def mirrored(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture with left and right exchanged."""
    # OpenCV's way takes a tenth of the time of copying picture[:, ::-1]
    return np.asarray(cv2.flip(picture, 1), np.uint8)


def make_truth(
    sample: Sample, box: Letterbox, grid: OutputGrid, sigma_pixels: float | None
) -> Array:
    """Return density and fixation counts on the network's output grid, [map rows, map cols, 2]."""
    density = grid.reduced(box.place(sample_density(sample, box.image_shape, sigma_pixels)))
    density /= max(float(density.max()), 1e-12)
    counts = np.zeros_like(density)
    if sample.fixations is not None:
        points = box.place_points(within(sample.fixations, box.image_shape))
        counts = count_map(grid.points(points), grid.shape(box.input_shape))
    return np.stack([density, counts], axis=-1).astype(np.float32)


def _truth_key(sample: Sample, box: Letterbox, grid: OutputGrid, sigma_pixels: float | None) -> str:
    """Return a name for what `make_truth` returns, made from all that it depends on."""
    digest = hashlib.sha256(repr((2, box, grid, sigma_pixels, sample.sigma_pixels)).encode())
    if sample.fixations is not None:
        digest.update(np.ascontiguousarray(sample.fixations, np.float32).tobytes())
    if sample.map is not None:
        file = sample.map if isinstance(sample.map, Path) else sample.map.file
        digest.update(repr((file.resolve(), *stamp(sample.map))).encode())
    return digest.hexdigest()

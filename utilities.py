"""What is fed to networks: inputs, truth, and the generators of batches.

How a picture is placed in an input and its map taken out again is in `letterbox.py`, whose names
are also to be had here; files are read in `salience.pictures`. No network is known here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import keras
import numpy as np
from numpy.typing import NDArray

from salience.pictures.fixations import count_map, within
from salience.pictures.letterbox import Letterbox, OutputGrid, postprocess, preprocess, read_input
from salience.pictures.reading import sample_density, stamp
from salience.pictures.sample import Sample, Stored
from salience.system.arrays import Array
from salience.system.cache import Cache, default_cache, make_key
from salience.system.errors import UserError
from salience.system.files import real_path

__all__ = [
    "Features",
    "Letterbox",
    "OutputGrid",
    "SaliencyBatches",
    "input_identity",
    "make_truth",
    "mirrored",
    "network_input",
    "postprocess",
    "preprocess",
    "read_input",
]


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

    None where only reading tells (a built-in set, or a file that is not there).
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
        about = (str(real_path(Path(file))), *about, sample.shape)  # type: ignore[arg-type]
    return make_key(network_input, cv2.__version__, input_shape, about)


class Features(Protocol):
    """What a network's frozen part makes of pictures, kept (see `feature_cache.py`)."""

    def batch(
        self, samples: list[Sample], flipped: list[bool]
    ) -> tuple[NDArray | tuple[NDArray, ...], list[Letterbox]]:
        """Return the features of samples, those flipped that are to be, and each one's box."""
        ...


@dataclass(frozen=True)
class BatchShare:
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

        >>> share = BatchShare(1, 2, 2)
        >>> share.of(np.arange(4)).tolist(), share.of(np.arange(3)).tolist()
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
        cache: Cache | None = None,
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
        self.part = BatchShare()
        about = make_key(make_truth, self.grid, sigma_pixels, input_shape)
        self.truths = (cache or default_cache()).shelf(about)
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
        return self.truths.get(
            truth_name(sample, box),
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


def truth_name(sample: Sample, box: Letterbox) -> str:
    """Return a name for the truth of a sample, which with its shelf tells all it depends on."""
    about: tuple = ()
    if sample.map is not None:
        file = sample.map if isinstance(sample.map, Path) else sample.map.file
        about = (str(real_path(file)), *stamp(sample.map))
    return make_key(box, sample.sigma_pixels, sample.fixations, about)

"""The generators of batches: network inputs with their truth.

`salience.pictures` reads the files: `network_inputs.py` makes the input and the truth of a sample,
and `letterbox.py` takes a map out again. Their names are also exported here. This module does not
depend on any network.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import keras
import numpy as np
from numpy.typing import NDArray

from salience.pictures.letterbox import Letterbox, OutputGrid, postprocess, preprocess, read_input
from salience.pictures.network_inputs import (
    input_identity,
    make_truth,
    network_input,
    truth_name,
)
from salience.pictures.picture_files import opencv_threads
from salience.pictures.sample import Sample
from salience.system.arrays import Array
from salience.system.cache import Cache, default_cache, make_key
from salience.system.errors import UserError

__all__ = [
    "Features",
    "Letterbox",
    "OutputGrid",
    "SaliencyBatches",
    "input_identity",
    "make_truth",
    "mirrored",
    "network_input",
    "opencv_threads",
    "postprocess",
    "preprocess",
    "read_input",
]


class Features(Protocol):
    """Cached output of a network's frozen layers (see `feature_cache.py`)."""

    def batch(
        self, samples: list[Sample], flipped: list[bool], readers: Executor | None = None
    ) -> tuple[NDArray | tuple[NDArray, ...], list[Letterbox]]:
        """Return the features of samples, mirrored where `flipped`, and their letterboxes.

        `readers` are threads that read several at a time.
        """
        ...


@dataclass(frozen=True)
class BatchShare:
    """The part of each batch that one of several processes reads.

    Attributes:
        number: index of the process, from 0.
        processes: number of processes.
        devices: number of devices of all processes together.
    """

    number: int = 0
    processes: int = 1
    devices: int = 1

    def of(self, batch: NDArray) -> NDArray:
        """Return this process' part of a batch; all of it if the devices cannot share it evenly.

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

    A batch depends only on (seed, epoch, index). Order and flips are therefore the same for any
    number of workers, and an epoch can be repeated. Set `epoch` before each epoch. If several
    processes train one network, `part` selects the part of each batch that this process reads.

    Args:
        samples: pictures and truth to read.
        input_shape: rows and columns of the network's input, pixels.
        batch_size: pictures a batch. The last batch may be smaller; no picture is left out.
        grid: position of the network's map on its input; None for cells of 8 pixels.
        sigma_pixels: Gaussian of the density maps, pixels of the original picture; None for the
            data set's own.
        shuffle: draw a new order each epoch; False keeps the order of `samples`.
        flip: mirror half of the pictures with their maps and fixations.
        sizes: number of samples of each data set, if there are several.
        mix: with `shuffle`, the shares of the data sets in an epoch, whose length stays the same.
            A set that is too small for its share is repeated; of a set that is too large, each
            epoch draws another part. Empty: every sample once.
        marks_sets: add a third channel to the truth: the index of the sample's data set.
        seed: seed of order and flips.
        cache: cache of network-sized truth; None for the user's cache.
        workers: number of reading threads. Decoding releases Python's lock, so threads suffice.

    A batch is (pictures uint8 [b, rows, cols, 3] in BGR, truth float32 [b, map rows, map cols, 2]).
    `read` makes a batch of any epoch, with its pictures read in parallel.
    If `features` is set, cached features replace the pictures. The first channel of the truth is
    the density map with maximum 1; the second counts fixations.

    Raises:
        UserError: a store was prepared with other settings, or a file cannot be read. `failure`
            keeps the error of a file, since Keras wraps exceptions of workers.
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
        marks_sets: bool = False,
        seed: int = 0,
        cache: Cache | None = None,
        workers: int = 1,
    ) -> None:
        # small batches: enough of them that each thread has a picture
        ahead = max(4, -(-2 * workers // batch_size))
        super().__init__(workers=workers, use_multiprocessing=False, max_queue_size=ahead)
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
        self.marks_sets = marks_sets
        self.seed = seed
        self.epoch = 0
        self.part = BatchShare()
        about = make_key(make_truth, self.grid, sigma_pixels, input_shape)
        self.truths = (cache or default_cache()).shelf(about)
        self.features: Features | None = None
        self.failure: UserError | None = None
        self.boxes: dict[int, Letterbox] = {}  # by index of the sample, after its picture was read
        self._orders: dict[tuple[int, int], NDArray[np.intp]] = {}  # by seed and epoch
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
        """Number of pictures in an epoch."""
        return sum(self.counts)

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def order(self, epoch: int | None = None) -> NDArray[np.intp]:
        """Return the indices of the samples in the order of an epoch; None for this epoch."""
        epoch = self.epoch if epoch is None else epoch
        # drawn once an epoch: a draw for each batch would cost quadratic time
        key, orders = (self.seed, epoch), self._orders
        if key not in orders:
            # the last two are kept, since batches of the next epoch are read ahead
            kept = list(orders.items())[-1:]
            self._orders = orders = {**dict(kept), key: self._draw(epoch)}
        return orders[key]

    def _draw(self, epoch: int) -> NDArray[np.intp]:
        """Draw the order of an epoch."""
        if not self.shuffle:
            return np.arange(len(self.samples))
        rng = np.random.default_rng((self.seed, epoch))
        if self.counts == self.sizes:
            return rng.permutation(len(self.samples))
        drawn, first = [], 0
        for size, count in zip(self.sizes, self.counts, strict=True):
            passes = [rng.permutation(size) for _ in range(-(-count // size))]
            drawn.append(first + np.concatenate(passes)[:count])
            first += size
        return rng.permutation(np.concatenate(drawn))

    def __getitem__(self, index: int) -> tuple[Any, Array]:
        return self.read(self.epoch, index)

    def read(self, epoch: int, index: int, readers: Executor | None = None) -> tuple[Any, Array]:
        """Return a batch.

        Args:
            epoch: index of the epoch.
            index: index of the batch in the epoch.
            readers: threads that read the pictures of the batch in parallel. The caller must not
                be one of them.
        """
        batch = self.order(epoch)[index * self.batch_size : (index + 1) * self.batch_size]
        chosen = self.part.of(batch).tolist()
        flipped = [self.is_flipped(i, epoch) for i in chosen]
        places = np.array_split(np.arange(len(chosen)), self.workers if readers else 1)
        parts = [[chosen[i] for i in part] for part in places if len(part)]
        in_parallel = readers.map if readers else map
        try:
            if self.features:
                samples = [self.samples[i] for i in chosen]
                x, boxes = self.features.batch(samples, flipped, readers)
                self.boxes.update(zip(chosen, boxes, strict=True))
            else:
                pictures = [x for part in in_parallel(self.pictures, parts) for x in part]
                x = np.stack(
                    [mirrored(x) if f else x for x, f in zip(pictures, flipped, strict=True)]
                )
            truths = [y for part in in_parallel(self.own_truths, parts) for y in part]
        except UserError as error:
            self.failure = error
            raise
        y = np.stack([y[:, ::-1] if f else y for y, f in zip(truths, flipped, strict=True)])
        if self.marks_sets:
            numbers = np.array([self.set_of(i) for i in chosen], np.float32)
            marks = np.broadcast_to(numbers[:, None, None, None], (*y.shape[:3], 1))
            y = np.concatenate([y, marks], axis=-1)
        return x, y

    def pictures(self, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Return the network's inputs for samples, and note the letterboxes that placed them."""
        placed = [network_input(self.samples[i], self.input_shape) for i in indices]
        self.boxes.update(zip(indices, (box for _, box in placed), strict=True))
        return [x for x, _ in placed]

    def own_truths(self, indices: Sequence[int]) -> list[Array]:
        """Return the truths of samples whose pictures have been read."""
        return [self.truth(i, self.boxes[i]) for i in indices]

    @property
    def samples_by_set(self) -> list[list[Sample]]:
        """The samples of each data set."""
        ends = np.cumsum(self.sizes).tolist()
        return [self.samples[end - size : end] for size, end in zip(self.sizes, ends, strict=True)]

    def set_of(self, index: int) -> int:
        """Return the index of the data set of a sample."""
        return int(np.searchsorted(np.cumsum(self.sizes), index, side="right"))

    def is_flipped(self, index: int, epoch: int | None = None) -> bool:
        """Return whether a sample is mirrored in an epoch; None for this epoch."""
        if not self.flip:
            return False
        epoch = self.epoch if epoch is None else epoch
        return bool(np.random.default_rng((self.seed, epoch, index)).random() < 0.5)

    def truth(self, index: int, box: Letterbox) -> Array:
        """Return the network-sized truth of a sample, [map rows, map cols, 2], not mirrored."""
        sample = self.samples[index]
        if sample.prepared:
            return sample.prepared.truth()
        return self.truths.get(
            truth_name(sample, box),
            lambda: make_truth(sample, box, self.grid, self.sigma_pixels),
        )


def mirrored(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture with left and right exchanged."""
    # cv2.flip takes a tenth of the time of a copy of picture[:, ::-1]
    return np.asarray(cv2.flip(picture, 1), np.uint8)

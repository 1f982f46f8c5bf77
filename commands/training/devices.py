"""Training on several devices and processes: division of batches, and exchange of results.

Several devices need JAX; docs/decisions/training.md explains why. The batch size is that of one
update, for any number of devices. Each process reads its part of a batch. If the devices cannot
share a batch evenly, each device computes the whole batch.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from commands.preflight import Place, find_place, refuse_other_engine
from commands.training.hosts import together
from config import Config
from salience.system.errors import UserError
from salience.system.flags import to_json
from salience.system.quiet import hushed
from utilities import BatchShare, SaliencyBatches

# settings that may differ between processes: paths, and settings that do not affect results
OWN_SETTINGS = ("data", "output", "weights_dir", "overwrite", "workers", "init_weights")


class Devices:
    """The devices of all processes of a run; this base class is one device in one process.

    Attributes:
        number: index of this process. Process 0 is the chief: only it writes files and messages.
        processes: number of processes.
        count: number of devices of all processes together.
    """

    number, processes, count = 0, 1, 1

    @property
    def is_chief(self) -> bool:
        """Whether this process writes files and messages."""
        return self.number == 0

    def steps(self, training: SaliencyBatches) -> int:
        """Return the number of batches of an epoch that `fit` receives."""
        return len(training)

    def feed(self, training: SaliencyBatches, first: int = 0, epochs: int = 0) -> "Feed":
        """Return the training batches for `fit`.

        Args:
            training: the batches.
            first: index of an epoch's first batch.
            epochs: number of epochs whose batches may be read ahead.
        """
        return Feed(training, first, self.steps(training), epochs)

    def finish_epoch(
        self, model: keras.Model, training: SaliencyBatches, logs: dict[str, float]
    ) -> dict[str, float]:
        """Train on batches that `feed` left out; return the epoch's logs including them."""
        return logs

    def share(self, items: Sequence) -> Sequence:
        """Return this process' share of a list of items; the chief has the first items."""
        return items

    def predict(self, model: keras.Model, x: Any) -> Any:
        """Return the prediction of this process' own batch: an array or several."""
        return keras.tree.map_structure(np.asarray, model.predict_on_batch(x))

    def gather(self, table: NDArray) -> NDArray:
        """Return the rows of all processes, in the order of the processes."""
        return table

    def agree(self, on: bool) -> bool:
        """Return True if `on` is true in every process."""
        return bool(self.gather(np.array([[float(on)]])).all())

    def any(self, on: bool) -> bool:
        """Return True if `on` is true in at least one process."""
        return bool(self.gather(np.array([[float(on)]])).any())

    def from_chief(self, data: bytes | None) -> bytes | None:
        """Return the chief's data in every process."""
        return data

    def check_same(self, what: str, data: bytes) -> None:
        """Check that this process has the same data as the chief.

        Args:
            what: plural name of the data, for the error.
            data: the data of this process.

        Raises:
            UserError: the data differ.
        """

    def copy_weights(self, model: keras.Model) -> None:
        """Set a network's weights to the chief's."""


class Feed(keras.utils.PyDataset):
    """Consecutive batches, in order, read ahead by threads across the end of an epoch.

    Keras' own reading threads start anew each epoch. With JAX and PyTorch, Keras starts them before
    the first epoch, to inspect a batch. Batches that they have read then appear before the first
    batch or in the next epoch (Keras 3.15.1, PyDatasetEnqueuer.stop).

    Args:
        batches: batches to read; at most `batches.max_queue_size` are in memory.
        first: index of an epoch's first batch.
        end: index after an epoch's last batch.
        epochs: number of epochs whose first batches may be read before the epoch begins.
    """

    def __init__(self, batches: SaliencyBatches, first: int, end: int, epochs: int = 0) -> None:
        super().__init__(workers=1)
        self.batches, self.first, self.end, self.epochs = batches, first, end, epochs
        self.pools: tuple[ThreadPoolExecutor, ThreadPoolExecutor] | None = None
        self.pending: dict[tuple[int, int], Future] = {}  # by epoch and index
        self.is_closed = False

    def __len__(self) -> int:
        return self.end - self.first

    def __getitem__(self, index: int) -> Any:
        if self.is_closed:  # TensorFlow's reader may still run after the training has stopped
            raise RuntimeError("The batches are closed.")
        wanted = self.batches.epoch, self.first + index
        later = list(islice(self.following(*wanted), self.batches.max_queue_size))
        for epoch, place in later:
            if (epoch, place) not in self.pending:
                self.pending[epoch, place] = self.submit(epoch, place)
        self.pending = {key: batch for key, batch in self.pending.items() if key >= wanted}
        if len(later) < self.batches.max_queue_size:
            self.pools = None  # the last batch is submitted: their threads end after it
        # keep this batch until the next is requested: Keras requests the first one twice
        return self.pending[wanted].result()

    def following(self, epoch: int, index: int) -> Iterator[tuple[int, int]]:
        """Yield the epoch and the index of a batch and of those after it."""
        yield from ((epoch, place) for place in range(index, self.end))
        for later in range(epoch + 1, self.epochs):
            yield from ((later, place) for place in range(self.first, self.end))

    def submit(self, epoch: int, index: int) -> Future:
        """Start to read a batch."""
        if not self.pools:
            depth = self.batches.max_queue_size
            self.pools = ThreadPoolExecutor(depth), ThreadPoolExecutor(self.batches.workers)
        makers, readers = self.pools  # a maker waits for readers, so they are not the same threads
        return makers.submit(self.batches.read, epoch, index, readers)

    def close(self) -> None:
        """End the threads, and drop what was read for later epochs."""
        self.is_closed = True
        if self.pools:
            makers, readers = self.pools
            makers.shutdown(cancel_futures=True)
            readers.shutdown()
        self.pools, self.pending = None, {}


class Mesh(Devices):
    """Devices that share each batch, in one or several processes, with JAX.

    Args:
        place: position of this process among all.
        local: number of devices of each process.

    Raises:
        UserError: a process has fewer devices.
    """

    def __init__(self, place: Place, local: int) -> None:
        import jax  # pyright: ignore[reportMissingImports]

        self.number, self.processes = place.rank, place.count
        self.count = place.count * local
        there = [jax.local_devices(process_index=rank) for rank in range(place.count)]
        least = min(len(devices) for devices in there)
        if least < local:
            kind = there[0][0].platform
            raise UserError(
                f"--devices {local}: JAX finds {least} of kind {kind}. For a trial on a CPU set "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={local}."
            )
        names = [f"{d.platform}:{d.id}" for devices in there for d in devices[:local]]
        self.distribution = WholeOrShared(devices=names, auto_shard_dataset=False)
        mine = np.array(there[place.rank][:local])
        self.local = jax.sharding.Mesh(mine, ("batch",))
        self.forward: dict[keras.Model, Callable] = {}
        self.local_values: dict[int, tuple[Any, Any]] = {}  # by id: global, local value
        keras.distribution.set_distribution(self.distribution)

    def steps(self, training: SaliencyBatches) -> int:
        """Return the number of batches of an epoch that the devices can share evenly."""
        return len(training) - bool(self.rest(training))

    def feed(self, training: SaliencyBatches, first: int = 0, epochs: int = 0) -> Feed:
        """Return the batches that the devices can share evenly; each process reads its part.

        Raises:
            UserError: there is no such batch.
        """
        training.part = BatchShare(self.number, self.processes, self.count)
        if not self.steps(training):
            raise UserError(
                f"{training.count} training pictures are fewer than a batch of "
                f"{training.batch_size} and do not divide by {self.count} devices. Try "
                f"--batch_size {max(1, training.count // self.count) * self.count}."
            )
        return super().feed(training, first, epochs)

    def rest(self, training: SaliencyBatches) -> int:
        """Return the size of the last batch if the devices cannot share it evenly, else 0."""
        last = training.count % training.batch_size
        return last if last % self.count else 0

    def finish_epoch(
        self, model: keras.Model, training: SaliencyBatches, logs: dict[str, float]
    ) -> dict[str, float]:
        """Train on a last batch that cannot be shared evenly; each device computes all of it."""
        rest = self.rest(training)
        if not rest:
            return logs
        x, y = training[len(training) - 1]
        with self.distribution.whole():
            last = model.train_on_batch(x, y, return_dict=True)
        share = rest / training.count
        return {name: (1 - share) * float(logs[name]) + share * float(last[name]) for name in logs}

    def share(self, items: Sequence) -> Sequence:
        """Return this process' share of a list of items; the chief has the first items."""
        ends = [len(items) * rank // self.processes for rank in range(self.processes + 1)]
        # larger shares first, so that the chief always has a share
        first, last = (len(items) - end for end in ends[::-1][self.number : self.number + 2])
        return items[first:last]

    def predict(self, model: keras.Model, x: Any) -> Any:
        """Return the prediction of this process' batch, shared by its devices if possible."""
        import jax  # pyright: ignore[reportMissingImports]

        length = len(jax.tree.leaves(x)[0])
        spec = jax.sharding.PartitionSpec("batch" if length % self.local.size == 0 else None)
        if model not in self.forward:
            self.forward[model] = jax.jit(
                lambda *state: model.stateless_call(*state, training=False)[0]
            )
        trained, fixed = (
            [self.local_value(variable) for variable in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        )
        placed = jax.device_put(x, jax.sharding.NamedSharding(self.local, spec))
        return jax.tree.map(np.asarray, self.forward[model](trained, fixed, placed))

    def local_value(self, variable: Any) -> Any:
        """Return a weight's value as an array on the devices of this process only."""
        import jax  # pyright: ignore[reportMissingImports]

        value = variable.value
        kept = self.local_values.get(id(variable))
        if kept is None or kept[0] is not value:
            # copied through the host: JAX has no shards of a weight before the first step
            alone = jax.sharding.NamedSharding(self.local, jax.sharding.PartitionSpec())
            kept = value, jax.device_put(np.asarray(value), alone)
            self.local_values[id(variable)] = kept
        return kept[1]

    def gather(self, table: NDArray) -> NDArray:
        """Return the rows of all processes, in the order of the processes."""
        if self.processes == 1:
            return table
        from jax.experimental.multihost_utils import process_allgather  # pyright: ignore[reportMissingImports]

        lengths = process_allgather(np.array([len(table)])).ravel()
        padded = np.zeros((max(lengths), table.shape[1]))
        padded[: len(table)] = table
        # JAX would round doubles to single precision, so their bits are sent as integers
        bits = process_allgather(padded.view(np.uint32))
        rows = np.ascontiguousarray(bits).view(np.float64)
        return np.concatenate([some[:n] for some, n in zip(rows, lengths, strict=True)])

    def from_chief(self, data: bytes | None) -> bytes | None:
        """Return the chief's data in every process."""
        if self.processes == 1:
            return data
        from jax.experimental.multihost_utils import broadcast_one_to_all  # pyright: ignore[reportMissingImports]

        mine = np.frombuffer(data or b"", np.uint8)
        length = int(broadcast_one_to_all(np.array(mine.size)))
        if not length:
            return None
        return np.asarray(broadcast_one_to_all(np.resize(mine, length))).tobytes()

    def check_same(self, what: str, data: bytes) -> None:
        """Check that this process has the same data as the chief.

        Args:
            what: plural name of the data, for the error.
            data: the data of this process.

        Raises:
            UserError: the data differ.
        """
        number = int.from_bytes(hashlib.sha256(data).digest()[:6])  # exact in a double
        numbers = self.gather(np.array([[float(number)]])).ravel()
        if numbers[self.number] != numbers[0]:
            raise UserError(f"{what} differ from those of process 0. Give all processes the same.")

    def copy_weights(self, model: keras.Model) -> None:
        """Set a network's weights to the chief's, bit by bit."""
        if self.processes == 1:
            return
        from jax.experimental.multihost_utils import broadcast_one_to_all  # pyright: ignore[reportMissingImports]

        values = [np.array(keras.ops.convert_to_numpy(weight)) for weight in model.weights]
        bits = broadcast_one_to_all([value.reshape(-1).view(np.uint8) for value in values])
        for weight, value, received in zip(model.weights, values, bits, strict=True):
            weight.assign(np.asarray(received).view(value.dtype).reshape(value.shape))


class WholeOrShared(keras.distribution.DataParallel):
    """Data parallelism; inside the context `whole`, each device receives the whole batch."""

    is_whole = False

    def get_data_layout(self, data_shape):
        if self.is_whole:
            return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)
        return super().get_data_layout(data_shape)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Give each device the whole batch inside this context."""
        self.is_whole = True
        try:
            yield
        finally:
            self.is_whole = False


@contextlib.contextmanager
def started(config: Config) -> Iterator[Devices]:
    """Yield the devices of a run; several processes start and end together.

    Args:
        config: reads devices, cluster, cluster_timeout, batch_size and micro_batch. All settings
            except OWN_SETTINGS must be equal in all processes.

    Raises:
        UserError: devices or processes are missing, or the devices cannot share a batch evenly.
    """
    place = find_place(os.environ) if config.cluster else Place()
    check_batch(config.batch_size, config.part_size, config.devices, place)
    if place.count * config.devices == 1:
        yield Devices()
        return
    refuse_other_engine(keras.backend.backend())
    same = {k: v for k, v in to_json(config).items() if k not in OWN_SETTINGS}
    group = together(place, same, config.devices, config.cluster_timeout)
    with group if place.count > 1 else contextlib.nullcontext():
        try:
            mesh = Mesh(place, config.devices)
            with hushed(1):  # hides the log of the connection between CPUs
                mesh.gather(np.zeros((1, 1)))
            yield mesh
        finally:
            keras.distribution.set_distribution(None)


def check_batch(batch_size: int, part_size: int | None, devices: int, place: Place) -> None:
    """Check that the devices can share a batch, or a micro-batch, evenly.

    Args:
        batch_size: pictures per update.
        part_size: pictures per micro-batch; None without micro-batches.
        devices: number of devices of each process.
        place: position of this process among all.

    Raises:
        UserError: the size is not a multiple of the devices; the message names the nearest sizes.
    """
    count = place.count * devices
    for name, size in (("batch_size", batch_size), ("micro_batch", part_size)):
        if not size or size % count == 0:
            continue
        below = size // count * count
        near = " or ".join(str(size) for size in (below, below + count) if size)
        raise UserError(
            f"--{name} {size} applies to all {count} devices together and does not divide by them. "
            f"Try {near}."
        )

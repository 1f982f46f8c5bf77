"""Several devices and processes: what of a batch each reads, predicts and tells the others.

The engine is JAX; docs/decisions/training.md says why.
A batch is the batch of an update, whatever the number of devices. Each process feeds its part of
it; one that does not divide by the devices is computed whole by all of them.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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

# what may differ between the processes of a run: where its files are, and what no result depends on
OWN_SETTINGS = ("data", "output", "weights_dir", "overwrite", "workers", "init_weights")


class Devices:
    """The devices of this process and of its neighbours; this class has one, and no neighbours.

    Attributes:
        number: of this process; process 0 is the chief, which alone writes and speaks.
        processes: how many there are.
        count: devices of all of them.
    """

    number, processes, count = 0, 1, 1

    @property
    def is_chief(self) -> bool:
        """Whether this process writes and speaks."""
        return self.number == 0

    def steps(self, training: SaliencyBatches) -> int:
        """Return how many batches of an epoch `fit` is given."""
        return len(training)

    def feed(self, training: SaliencyBatches, first: int = 0) -> keras.utils.PyDataset:
        """Return what `fit` is given of the training batches, from the first that is wanted."""
        # TensorFlow gets its batches another way, which keeps their order
        if keras.backend.backend() == "tensorflow" and not first:
            return training
        return Feed(training, first, self.steps(training))

    def finish_epoch(
        self, model: keras.Model, training: SaliencyBatches, logs: dict[str, float]
    ) -> dict[str, float]:
        """Train on what `feed` left away of an epoch; return its logs with that."""
        return logs

    def share(self, items: Sequence) -> Sequence:
        """Return this process' share of work, one stretch of it; the chief has the first."""
        return items

    def predict(self, model: keras.Model, x: Any) -> Any:
        """Return the prediction of a batch that this process alone has: an array, or several."""
        return keras.tree.map_structure(np.asarray, model.predict_on_batch(x))

    def gather(self, table: NDArray) -> NDArray:
        """Return the rows of all processes, in their order, of which each has made its share."""
        return table

    def agree(self, on: bool) -> bool:
        """Return whether something that each process has found out for itself holds in all."""
        return bool(self.gather(np.array([[float(on)]])).all())

    def any(self, on: bool) -> bool:
        """Return whether something holds in a process, whichever."""
        return bool(self.gather(np.array([[float(on)]])).any())

    def from_chief(self, data: bytes | None) -> bytes | None:
        """Return what the chief has, in every process."""
        return data

    def check_same(self, what: str, data: bytes) -> None:
        """Refuse to go on where processes hold different data.

        Raises:
            UserError: this one's are not the chief's.
        """

    def copy_weights(self, model: keras.Model) -> None:
        """Set a network's weights to those of the chief's."""


class Feed(keras.utils.PyDataset):
    """The first batches of an epoch, in order, read ahead.

    Keras' own reading threads start before the first epoch under JAX and PyTorch, to see what a
    batch is like, and what they have read by then comes before the first batch, or in the next
    epoch (3.15.1; see PyDatasetEnqueuer.stop).

    Args:
        batches: what is read; no more than its `max_queue_size` of them are held at once.
        first: of them.
        end: the one after the last.
    """

    def __init__(self, batches: SaliencyBatches, first: int, end: int) -> None:
        super().__init__(workers=1)
        self.batches, self.first, self.end = batches, first, end
        self.pool: ThreadPoolExecutor | None = None  # until it has been given the last batch
        self.coming: dict[tuple[int, int], Future] = {}  # by epoch and index

    def __len__(self) -> int:
        return self.end - self.first

    def __getitem__(self, index: int) -> Any:
        epoch, index = self.batches.epoch, self.first + index
        for later in range(index, min(index + self.batches.max_queue_size, self.end)):
            if (epoch, later) not in self.coming:
                self.pool = self.pool or ThreadPoolExecutor(self.batches.workers)
                self.coming[epoch, later] = self.pool.submit(self.batches.__getitem__, later)
                if later == self.end - 1:  # its threads end with what they have to read
                    self.pool.shutdown(wait=False)
                    self.pool = None
        self.coming = {key: coming for key, coming in self.coming.items() if key >= (epoch, index)}
        # it stays until the next is asked for, because Keras looks at the first one twice
        return self.coming[epoch, index].result()


class Mesh(Devices):
    """Devices that share each batch, in one process or several, by JAX.

    Args:
        place: of this process.
        local: how many devices each process uses.

    Raises:
        UserError: there are fewer devices.
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
                f"--devices {local}: JAX sees {least} of kind {kind}. For a trial on a CPU set "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={local}."
            )
        names = [f"{d.platform}:{d.id}" for devices in there for d in devices[:local]]
        self.distribution = WholeOrShared(devices=names, auto_shard_dataset=False)
        mine = np.array(there[place.rank][:local])
        self.local = jax.sharding.Mesh(mine, ("batch",))
        self.forward: dict[keras.Model, Callable] = {}
        self.home: dict[int, tuple[Any, Any]] = {}  # by variable: its value, there and here
        keras.distribution.set_distribution(self.distribution)

    def steps(self, training: SaliencyBatches) -> int:
        """Return how many batches of an epoch divide by the devices."""
        return len(training) - bool(self.rest(training))

    def feed(self, training: SaliencyBatches, first: int = 0) -> keras.utils.PyDataset:
        """Return the batches that divide by the devices, of which each process reads its part.

        Raises:
            UserError: there is none.
        """
        training.part = BatchShare(self.number, self.processes, self.count)
        if not self.steps(training):
            raise UserError(
                f"{training.count} training pictures are fewer than a batch of "
                f"{training.batch_size} and do not divide by {self.count} devices. Try "
                f"--batch_size {max(1, training.count // self.count) * self.count}."
            )
        return Feed(training, first, self.steps(training))

    def rest(self, training: SaliencyBatches) -> int:
        """Return how many pictures the last batch has if it does not divide, else 0."""
        last = training.count % training.batch_size
        return last if last % self.count else 0

    def finish_epoch(
        self, model: keras.Model, training: SaliencyBatches, logs: dict[str, float]
    ) -> dict[str, float]:
        """Train on a last batch that does not divide, on every device alike."""
        rest = self.rest(training)
        if not rest:
            return logs
        x, y = training[len(training) - 1]
        with self.distribution.whole():
            last = model.train_on_batch(x, y, return_dict=True)
        share = rest / training.count
        return {name: (1 - share) * float(logs[name]) + share * float(last[name]) for name in logs}

    def share(self, items: Sequence) -> Sequence:
        """Return this process' share of work, one stretch of it; the chief has the first."""
        ends = [len(items) * rank // self.processes for rank in range(self.processes + 1)]
        # the larger shares come first, so that the chief has some
        first, last = (len(items) - end for end in ends[::-1][self.number : self.number + 2])
        return items[first:last]

    def predict(self, model: keras.Model, x: Any) -> Any:
        """Return the prediction of a batch, divided among this process' devices if it divides."""
        import jax  # pyright: ignore[reportMissingImports]

        length = len(jax.tree.leaves(x)[0])
        spec = jax.sharding.PartitionSpec("batch" if length % self.local.size == 0 else None)
        if model not in self.forward:
            self.forward[model] = jax.jit(
                lambda *state: model.stateless_call(*state, training=False)[0]
            )
        trained, fixed = (
            [self.at_home(variable) for variable in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        )
        placed = jax.device_put(x, jax.sharding.NamedSharding(self.local, spec))
        return jax.tree.map(np.asarray, self.forward[model](trained, fixed, placed))

    def at_home(self, variable: Any) -> Any:
        """Return a weight, which every device holds, as one that only this process' hold."""
        import jax  # pyright: ignore[reportMissingImports]

        value = variable.value
        kept = self.home.get(id(variable))
        if kept is None or kept[0] is not value:
            # by way of the host: of a weight that no step has been through, JAX gives no shards
            alone = jax.sharding.NamedSharding(self.local, jax.sharding.PartitionSpec())
            kept = value, jax.device_put(np.asarray(value), alone)
            self.home[id(variable)] = kept
        return kept[1]

    def gather(self, table: NDArray) -> NDArray:
        """Return the rows of all processes, in their order, of which each has made its share."""
        if self.processes == 1:
            return table
        from jax.experimental.multihost_utils import process_allgather  # pyright: ignore[reportMissingImports]

        lengths = process_allgather(np.array([len(table)])).ravel()
        padded = np.zeros((max(lengths), table.shape[1]))
        padded[: len(table)] = table
        # JAX would round doubles to single precision: their bits pass as whole numbers
        bits = process_allgather(padded.view(np.uint32))
        rows = np.ascontiguousarray(bits).view(np.float64)
        return np.concatenate([some[:n] for some, n in zip(rows, lengths, strict=True)])

    def from_chief(self, data: bytes | None) -> bytes | None:
        """Return what the chief has, in every process."""
        if self.processes == 1:
            return data
        from jax.experimental.multihost_utils import broadcast_one_to_all  # pyright: ignore[reportMissingImports]

        mine = np.frombuffer(data or b"", np.uint8)
        length = int(broadcast_one_to_all(np.array(mine.size)))
        if not length:
            return None
        return np.asarray(broadcast_one_to_all(np.resize(mine, length))).tobytes()

    def check_same(self, what: str, data: bytes) -> None:
        """Refuse to go on where processes hold different data.

        Raises:
            UserError: this one's are not the chief's.
        """
        number = int.from_bytes(hashlib.sha256(data).digest()[:6])  # a double holds it exactly
        numbers = self.gather(np.array([[float(number)]])).ravel()
        if numbers[self.number] != numbers[0]:
            raise UserError(f"{what} are not those of process 0. Give all processes the same.")

    def copy_weights(self, model: keras.Model) -> None:
        """Set a network's weights to those of the chief's, bit by bit."""
        if self.processes == 1:
            return
        from jax.experimental.multihost_utils import broadcast_one_to_all  # pyright: ignore[reportMissingImports]

        values = [np.array(keras.ops.convert_to_numpy(weight)) for weight in model.weights]
        bits = broadcast_one_to_all([value.reshape(-1).view(np.uint8) for value in values])
        for weight, value, told in zip(model.weights, values, bits, strict=True):
            weight.assign(np.asarray(told).view(value.dtype).reshape(value.shape))


class WholeOrShared(keras.distribution.DataParallel):
    """Data parallelism, which inside `whole` gives every device the whole batch."""

    is_whole = False

    def get_data_layout(self, data_shape):
        if self.is_whole:
            return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)
        return super().get_data_layout(data_shape)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Give every device the whole batch."""
        self.is_whole = True
        try:
            yield
        finally:
            self.is_whole = False


@contextlib.contextmanager
def started(config: Config) -> Iterator[Devices]:
    """Yield the devices that a run was given; with several processes, all end together.

    Args:
        config: reads devices, cluster, cluster_timeout and batch_size; all but paths must be the
            same in all processes.

    Raises:
        UserError: devices or processes are not there, or the batch does not divide by them.
    """
    place = find_place(os.environ) if config.cluster else Place()
    check_batch(config.batch_size, config.part_size, config.devices, place)
    if place.count * config.devices == 1:
        yield Devices()
        return
    refuse_other_engine(keras.backend.backend())
    same = {k: v for k, v in to_json(config).items() if k not in OWN_SETTINGS}
    joined = together(place, same, config.devices, config.cluster_timeout)
    with joined if place.count > 1 else contextlib.nullcontext():
        try:
            mesh = Mesh(place, config.devices)
            with hushed(1):  # what joins the processes on a CPU says so
                mesh.gather(np.zeros((1, 1)))
            yield mesh
        finally:
            keras.distribution.set_distribution(None)


def check_batch(batch_size: int, part_size: int | None, devices: int, place: Place) -> None:
    """Refuse a batch, or a part of one, that does not divide by the devices.

    Raises:
        UserError: it does not; it names the nearest that do.
    """
    count = place.count * devices
    for name, size in (("batch_size", batch_size), ("micro_batch", part_size)):
        if not size or size % count == 0:
            continue
        below = size // count * count
        near = " or ".join(str(size) for size in (below, below + count) if size)
        raise UserError(
            f"--{name} {size} is that of all {count} devices together and does not divide by them. "
            f"Try {near}."
        )

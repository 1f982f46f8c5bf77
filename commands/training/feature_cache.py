"""The feature cache: outputs of a network's frozen layers, computed once per picture and stored.

A network is cut before its first trainable layers. The trunk before the cut gives the same features
of a picture in every epoch, run and seed. The head behind it is trained on these features. Any
functional Keras network can be cut by its graph. `feature_store.py` keeps the arrays.

With `--feature_cache auto`, features are kept only where reading them is faster than computing
them. Else the whole network is fitted, whose features are rounded as kept ones are.
"""

import hashlib
import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from threading import Lock
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from commands.training import backends
from commands.training.devices import Devices
from config import Config
from salience.data.feature_store import FeatureStore, KnownPicture
from salience.networks.weight_files import versions
from salience.pictures.letterbox import Letterbox
from salience.pictures.network_inputs import input_identity, network_input
from salience.pictures.sample import Sample
from salience.system.cache import default_cache, make_key
from salience.system.code_digest import is_ours
from salience.system.files import make_folder
from salience.system.terminal import tell
from utilities import SaliencyBatches, mirrored

FLOAT16_MOST = 65504.0  # largest finite float16
LEAST_SHARE = 0.05  # least share of the features that must fit on disk for the cache to pay off
QUEUE = 2  # batches read ahead; one of ML-Net's features at 480 x 640 takes 123 MB
MEMORY_SHARE = 0.5  # share of the available main memory that features may take
# settings of a layer that do not affect its output once its weights are set
SETTINGS_ALONE = ("name", "trainable", "seed", "initializer", "regularizer", "constraint")


@dataclass(frozen=True)
class Cut:
    """The two parts of a network, which share its layers.

    Attributes:
        trunk: computes features of pictures, in the precision in which they are stored.
        head: computes the map from the features; contains all trainable layers.
    """

    trunk: keras.Model
    head: keras.Model


class Attachment(NamedTuple):
    """What `attach` decided.

    Attributes:
        fitted: model to fit.
        message: the decision and its reason in a line; "" if there is nothing to say.
        mode: "off"; "computed": computed each time, rounded as kept ones are; "memory": kept in
            memory; "on": kept on disk. Resumed runs keep it, since it affects rounding.
        costs: measurements for `speed.csv`.
    """

    fitted: keras.Model
    message: str
    mode: str
    costs: dict[str, float]


def attach(
    model: keras.Model,
    training: SaliencyBatches,
    validation: SaliencyBatches,
    config: Config,
    say: Callable[[str], None] = tell,
    devices: Devices | None = None,
    earlier: str = "",
) -> Attachment:
    """Replace the pictures in batches by cached features, if settings, sizes and rates allow it.

    Args:
        model: the network with its initial weights.
        training: batches of the training split.
        validation: batches of the validation split.
        config: reads feature_cache, feature_precision, cache_limit, epochs, flip and batch_size.
        say: called with each message while the cache fills.
        devices: devices of the run; None for one device.
        earlier: mode of the run that is resumed, see `Attachment`; "" to decide.

    Raises:
        UserError: the cache is required and cannot be written, or a picture cannot be read.
    """
    asked = earlier or config.feature_cache
    parts = cut(model, config.feature_precision) if asked != "off" else None
    cache = default_cache(config.cache_bytes)
    if parts is None:
        why = "feature cache: none, since no layer with weights is frozen" if asked == "on" else ""
        return Attachment(model, why, "off", {})
    if cache.folder is None:  # features are rounded all the same: results do not depend on it
        return Attachment(joined(parts), "", "computed", {})
    if asked == "computed":
        line = "feature cache: off, as at the start of this run; features are rounded as kept ones"
        return Attachment(joined(parts), line, asked, {})
    shelf = cache.shelf(fingerprint(parts.trunk), bulky=True)
    store = FeatureStore(shelf)
    devices = devices or Devices()
    features = Features(
        parts.trunk, store, config.input_shape, config.batch_size, say, devices.predict
    )
    orientations = [False, True] if config.flip else [False]
    names = [
        features.known_name(sample, flip)
        for samples, flips in ((training.samples, orientations), (validation.samples, [False]))
        for sample in samples
        for flip in flips
    ]
    there = sum(name is not None and store.has(name) for name in names)
    count, room = len(names), cache.room(shelf)
    on, why = decide(asked, count, there, features.nbytes, room, config.epochs)
    if on and asked == "on":
        make_folder(cache.folder, "$SALIENCY_CACHE")
    if not devices.agree(on) and on:  # all processes must fit the same part
        on, why = False, "as in another process of this run: all must use the cache or none"
    fits = count * features.nbytes <= MEMORY_SHARE * backends.available_memory()
    choice = Choice(on_disk=on and not (fits and asked == "memory"), in_memory=on and fits)
    rates = probe = None
    if on and asked == "auto":
        probe = Probe(features, training, config.workers)
        rates = probe.rates(is_complete=there == count)
        reads = config.epochs * (training.count + len(validation.samples))
        choice = choose(rates, count - there, reads, fits)
        if not devices.agree(choice.is_kept) and choice.is_kept:
            choice, why = Choice(False, False), "as in another process of this run"
        elif not choice.is_kept:
            why = "since computing features takes less time than keeping them"
    store.on_disk, store.in_memory = choice.on_disk, choice.in_memory
    if probe:
        probe.clear(choice)
    line = (
        f"feature cache: {'on' if choice.is_kept else 'off'}, {why}. Of {count:,} sets of features "
        f"{there:,} are cached; at most {readable(features.nbytes)} each, all take up to "
        f"{readable(count * features.nbytes)} in {shelf.folder}"
    )
    if rates:
        line += f". {rates}. They are kept {choice}"
    costs = rates.costs(choice) if rates else {}
    if not choice.is_kept:
        return Attachment(joined(parts), line, "computed", costs)
    for batches in (training, validation):
        batches.features = features
        batches.max_queue_size = QUEUE
    return Attachment(parts.head, line, "on" if choice.on_disk else "memory", costs)


@dataclass(frozen=True)
class Choice:
    """Where features are kept.

    Attributes:
        on_disk: whether they are written to the cache.
        in_memory: whether they are kept in memory.
    """

    on_disk: bool
    in_memory: bool

    @property
    def is_kept(self) -> bool:
        """Whether features are kept at all."""
        return self.on_disk or self.in_memory

    def __str__(self) -> str:
        places = ["on disk"] * self.on_disk + ["in memory"] * self.in_memory
        return " and ".join(places) or "nowhere"


@dataclass(frozen=True)
class Rates:
    """What the features of a picture cost, seconds of wall time.

    Attributes:
        compute: to compute them from the picture file, by as many threads as read pictures.
        read: to read and unpack them from the disk, and to copy them to the device.
        write: to pack and write them.
        recall: to copy them from memory to the device.
    """

    compute: float
    read: float
    write: float
    recall: float

    def __str__(self) -> str:
        compute, read, write, recall = (
            f"{1e3 * s:.3g} ms" for s in (self.compute, self.read, self.write, self.recall)
        )
        return (
            f"A picture's take {compute} to compute, {read} to read and unpack, {write} to write, "
            f"{recall} from memory"
        )

    def costs(self, choice: Choice) -> dict[str, float]:
        """Return the columns of `speed.csv`: whether features are kept, and both figures, ms.

        The second figure is that of the memory, if features are kept there.
        """
        read = self.recall if choice.in_memory else self.read
        return {
            "features_kept": float(choice.is_kept),
            "features_compute_ms": round(1e3 * self.compute, 3),
            "features_read_ms": round(1e3 * read, 3),
        }


def choose(rates: Rates, missing: int, reads: int, fits: bool) -> Choice:
    """Return where features should be kept, by what that costs.

    Args:
        rates: measured costs.
        missing: number of sets of features that are computed and written once.
        reads: number of sets that all epochs use.
        fits: whether all sets fit in memory.

    >>> slow = Rates(compute=0.3, read=0.004, write=0.006, recall=0.0005)
    >>> str(choose(slow, missing=100, reads=1000, fits=True))
    'on disk and in memory'
    >>> quick = Rates(compute=0.001, read=0.004, write=0.006, recall=0.002)
    >>> str(choose(quick, missing=100, reads=1000, fits=True))
    'nowhere'
    """
    again = reads - missing  # a set is written once, and read the other times
    from_disk = rates.read + rates.write * missing / again if again > 0 else math.inf
    return Choice(
        on_disk=from_disk < rates.compute,
        in_memory=fits and again > 0 and rates.recall < rates.compute,
    )


def decide(
    asked: str, count: int, there: int, nbytes: int, room: int, epochs: int
) -> tuple[bool, str]:
    """Return whether a run should cache features, and the reason.

    Args:
        asked: value of --feature_cache: auto or on; memory for a resumed run that kept them there.
        count: number of sets of features that the run needs.
        there: number of sets that are cached already.
        nbytes: size of a set, bytes, uncompressed.
        room: bytes that may still be written.
        epochs: number of epochs of the run.

    >>> decide("auto", count=100, there=0, nbytes=10, room=500, epochs=20)
    (True, 'room for at least 50 % of the missing ones; the rest is computed each time')
    >>> decide("auto", count=100, there=0, nbytes=10, room=20, epochs=20)
    (False, 'room for only 2 % of the missing ones')
    >>> decide("auto", count=100, there=0, nbytes=10, room=5000, epochs=1)
    (False, 'one epoch reads nothing twice')
    """
    missing = (count - there) * nbytes
    share = min(1.0, room / missing) if missing > 0 else 1.0
    if asked == "auto" and epochs == 1 and not there:
        return False, "one epoch reads nothing twice"
    if asked == "auto" and share < LEAST_SHARE and there < LEAST_SHARE * count:
        return False, f"room for only {share:.0%} of the missing ones".replace("%", " %")
    if share < 1:
        text = f"room for at least {share:.0%} of the missing ones; the rest is computed each time"
        return True, text.replace("%", " %")
    return True, "all missing ones fit" if missing else "none is missing"


def readable(nbytes: float) -> str:
    """Return a size as text with a unit.

    >>> readable(12_300_000)
    '12.3 MB'
    """
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:,.1f} GB"


def cut(model: keras.Model, precision: str = "float16") -> Cut | None:
    """Return a network cut before its first trainable layers; None if no layer before has weights.

    Args:
        model: functional Keras model with one input.
        precision: float16 or float32, precision of the features.
    """
    taps = frontier(model)
    if not taps:
        return None
    features = [ops.cast(tap, "float32") for tap in taps]  # computed in any precision
    if precision == "float16":
        # the largest feature of VGG16 in measurements was 15,169
        features = [
            ops.cast(ops.clip(tap, -FLOAT16_MOST, FLOAT16_MOST), precision) for tap in features
        ]
    trunk = keras.Model(model.input, features, name=f"{model.name}_trunk")
    if not trunk.weights:
        return None
    trunk.compile(jit_compile="auto")  # else Keras would decide again at each prediction
    # the head casts its input inside the graph, so that half as many bytes are copied
    return Cut(trunk, keras.Model(taps if taps[1:] else taps[0], model.output, name=model.name))


def joined(parts: Cut) -> keras.Model:
    """Return trunk and head as one network, which computes each feature and rounds it as kept."""
    features = parts.trunk.outputs
    maps = parts.head(features if features[1:] else features[0])
    return keras.Model(parts.trunk.input, maps, name=parts.head.name)


def frontier(model: keras.Model) -> list[Any]:
    """Return the fixed tensors of a network's graph that other layers read.

    A tensor is fixed if only fixed layers lie between it and the input.
    """
    inputs = {id(tensor) for tensor in keras.tree.flatten(model.input)}
    nodes = [node for operation in model.operations for node in operation._inbound_nodes]
    fixed, grows = set(inputs), True
    while grows:  # repeated, since a layer that is called twice is listed once
        before = len(fixed)
        for node in nodes:
            sources = node.input_tensors
            if sources and is_fixed(node.operation) and all(id(t) in fixed for t in sources):
                fixed |= {id(tensor) for tensor in node.output_tensors}
        grows = len(fixed) > before
    read = [
        tensor
        for node in nodes
        if not all(id(t) in fixed for t in node.output_tensors)
        for tensor in node.input_tensors
        if id(tensor) in fixed
    ]
    return list({id(tensor): tensor for tensor in read}.values())


def is_fixed(operation: Any) -> bool:
    """Return True if an operation's output for an input stays the same during training."""
    if not isinstance(operation, keras.layers.Layer):
        return True  # a function without weights
    layers = operation._flatten_layers()
    return not any(learns(layer) or is_random(layer) for layer in layers)


def learns(layer: keras.layers.Layer) -> bool:
    """Return True if training changes a layer's weights or its running statistics."""
    return bool(layer.trainable_weights or (layer.trainable and layer.non_trainable_weights))


def is_random(layer: keras.layers.Layer) -> bool:
    """Return True if a layer is random in training, as is dropout with a rate above 0."""
    return bool(layer._seed_generators) and getattr(layer, "rate", None) != 0


def fingerprint(trunk: keras.Model) -> str:
    """Return a digest of a network's weights, graph and preprocessing.

    It includes the backend's version, which affects rounding, and the code of our own layers. It
    does not include names of layers or their initialisers.
    """
    places = {id(operation): place for place, operation in enumerate(trunk.operations)}
    digest = make_key(versions()["backend"], trunk.input_shape)
    for operation in trunk.operations:
        settings = {
            name: value
            for name, value in operation.get_config().items()
            if not name.endswith(SETTINGS_ALONE)
        }
        calls = [
            [call_argument(leaf, places) for leaf in keras.tree.flatten(argument)]
            for node in operation._inbound_nodes
            for argument in (node.arguments.args, node.arguments.kwargs)
        ]
        kind = type(operation)
        about = json.dumps([settings, calls], sort_keys=True, default=str)
        weights = map(ops.convert_to_numpy, getattr(operation, "weights", []))
        digest = make_key(digest, kind if is_ours(kind) else kind.__name__, about, *weights)
    return digest


def call_argument(argument: Any, places: dict[int, int]) -> Any:
    """Return an argument of an operation: the position of a tensor in the graph, or a value."""
    if isinstance(argument, keras.KerasTensor):
        operation, node, tensor = argument._keras_history
        return [places.get(id(operation)), node, tensor]
    return argument.tolist() if isinstance(argument, np.ndarray) else repr(argument)


@dataclass(frozen=True)
class Found:
    """A picture of a batch.

    Attributes:
        name: name of its features.
        box: letterbox that places it in the network's input.
        picture: the network's input, if its features are missing.
    """

    name: str
    box: Letterbox
    picture: NDArray[np.uint8] | None


class Features:
    """The features of pictures: read from the cache, else computed and cached.

    Several threads may call it at once; the trunk predicts for one thread at a time.

    Args:
        trunk: see `Cut`.
        store: cache of the trunk's features.
        input_shape: rows and columns of the network's input, pixels.
        batch_size: largest number of pictures per prediction.
        say: called with each message.
        predict: function that predicts a batch of this process.
    """

    def __init__(
        self,
        trunk: keras.Model,
        store: FeatureStore,
        input_shape: tuple[int, int],
        batch_size: int,
        say: Callable[[str], None],
        predict: Callable[[keras.Model, Any], Any],
    ) -> None:
        self.trunk, self.store, self.predict, self.say = trunk, store, predict, say
        self.input_shape, self.batch_size = input_shape, batch_size
        self.shapes = [tuple(tensor.shape[1:]) for tensor in trunk.outputs]
        self.dtype = np.dtype(trunk.outputs[0].dtype)
        self._known: dict[int, KnownPicture] = {}
        self._warned = False
        self._computing = Lock()

    @property
    def nbytes(self) -> int:
        """Size of a picture's features, bytes, uncompressed."""
        return sum(map(prod, self.shapes)) * self.dtype.itemsize

    def batch(
        self, samples: list[Sample], flipped: list[bool], readers: Executor | None = None
    ) -> tuple[NDArray | tuple[NDArray, ...], list[Letterbox]]:
        """Return the features of samples and their letterboxes.

        A picture with cached features is not decoded.

        Args:
            samples: samples of the batch.
            flipped: for each sample, whether its picture is mirrored.
            readers: threads that read and write several pictures' features at a time. The caller
                must not be one of them.

        Returns:
            An array [n, rows, columns, channels], or a tuple of arrays if the trunk has several
            outputs; and the letterboxes.

        Raises:
            UserError: a picture cannot be read.
        """
        in_parallel = readers.map if readers else map
        arrays = self.empty(len(samples))
        sets = [[array[place] for array in arrays] for place in range(len(samples))]
        found = list(in_parallel(self.find, samples, flipped, sets))
        missing = [place for place, one in enumerate(found) if one.picture is not None]
        if missing:
            made = self.compute(np.stack([found[place].picture for place in missing]))  # type: ignore
            for row, place in enumerate(missing):
                for array, values in zip(arrays, made, strict=True):
                    array[place] = values[row]
            names = [found[place].name for place in missing]
            list(in_parallel(self.store.keep, names, [sets[place] for place in missing]))
            self.warn_of_clipping(made)
        return (tuple(arrays) if arrays[1:] else arrays[0]), [one.box for one in found]

    def empty(self, count: int) -> list[NDArray]:
        """Return arrays for the features of a number of pictures."""
        return [np.empty((count, *shape), self.dtype) for shape in self.shapes]

    def find(self, sample: Sample, flip: bool, arrays: Sequence[NDArray]) -> "Found":
        """Fill arrays with a sample's features if they are stored, else read its picture."""
        known, picture = self.recall(sample), None
        if known is None:
            picture, known = self.read_picture(sample)
        name, box = name_of(known, flip), Letterbox.fit(known.image_shape, self.input_shape)
        if self.store.read(name, arrays):
            return Found(name, box, None)
        if picture is None:
            picture, _ = network_input(sample, self.input_shape)
        return Found(name, box, mirrored(picture) if flip else picture)

    def read_picture(self, sample: Sample) -> tuple[NDArray[np.uint8], KnownPicture]:
        """Return a sample's picture as a network input, not mirrored, and its new record."""
        picture, box = network_input(sample, self.input_shape)
        return picture, self.remember(sample, picture, box.image_shape)

    def compute(self, pictures: NDArray[np.uint8]) -> list[NDArray]:
        """Return the features of pictures, uint8 [n, rows, columns, 3]."""
        count = len(pictures)
        if self.trunk.jit_compile:
            # XLA compiles again for each batch size: use only a few sizes
            size = min(self.batch_size, 1 << (count - 1).bit_length())
            pictures = np.concatenate([pictures, *[pictures[:1]] * (size - count)])
        elif count == 1 < self.batch_size:
            # PyTorch rounds differently for a batch of one picture: a resumed run would differ
            # from an uninterrupted one
            pictures = np.concatenate([pictures, pictures])
        with self._computing:
            made = self.predict(self.trunk, pictures)
        return [np.asarray(array)[:count] for array in keras.tree.flatten(made)]

    def device_seconds(self, pictures: NDArray[np.uint8]) -> float:
        """Return the time to compute features of pictures without copying them to the host."""
        ends = [ops.max(x, axis=tuple(range(1, len(x.shape)))) for x in self.trunk.outputs]
        timed = keras.Model(self.trunk.input, ends)
        timed.compile(jit_compile="auto")
        self.predict(timed, pictures)  # compiles
        return best(lambda: self.predict(timed, pictures))

    def warn_of_clipping(self, made: Sequence[NDArray]) -> None:
        """Warn once if features are too large for float16."""
        if self._warned or self.dtype != np.float16 or not any(map(is_saturated, made)):
            return
        self._warned = True
        self.say(
            f"warning: features beyond {FLOAT16_MOST:,.0f} are clipped. "
            "--feature_precision float32 keeps them unchanged."
        )

    def known_name(self, sample: Sample, flip: bool) -> str | None:
        """Return the name of a sample's features; None if its picture is not known yet."""
        known = self.recall(sample)
        return name_of(known, flip) if known else None

    def recall(self, sample: Sample) -> KnownPicture | None:
        """Return the record of a sample's picture from this run or an earlier one, or None."""
        if id(sample) not in self._known:  # samples live as long as their batches
            identity = input_identity(sample, self.input_shape)
            found = self.store.seen.get(identity) if identity else None
            if found is None:
                return None
            self._known[id(sample)] = found
        return self._known[id(sample)]

    def remember(
        self, sample: Sample, picture: NDArray, image_shape: tuple[int, int]
    ) -> KnownPicture:
        """Record a sample's picture for this run and, if it has a file, for later runs."""
        known = KnownPicture(hashlib.sha256(picture.tobytes()).hexdigest(), image_shape)
        self._known[id(sample)] = known
        identity = input_identity(sample, self.input_shape)
        if identity:
            self.store.remember(identity, known)
        return known


class Probe:
    """Measurements on the first two batches of a training; what they make is used by it.

    Args:
        features: the features; `store` keeps those of the first batch.
        training: batches of the training split.
        workers: number of reading threads.
    """

    def __init__(self, features: Features, training: SaliencyBatches, workers: int) -> None:
        self.features, self.store, self.workers = features, features.store, workers
        size, order = training.batch_size, training.order().tolist()
        first, second = order[:size], order[size : 2 * size]
        if len(second) < len(first):  # another size would be compiled anew
            second = first
        self.first, self.second = (
            [(training.samples[i], training.is_flipped(i)) for i in some]
            for some in (first, second)
        )
        self.added: list[str] = []

    def rates(self, is_complete: bool) -> Rates:
        """Return what a picture's features cost.

        Args:
            is_complete: whether the features of all pictures are stored. The cost of computing is
                then taken from an earlier run on this machine, if there was one.
        """
        # of a network on a machine, as its cache may be shared by several
        about = make_key("compute", platform.node(), backends.has_accelerator(), self.workers)
        count, kept = len(self.first), None
        arrays = self.features.empty(count)
        sets = [[array[place] for array in arrays] for place in range(count)]
        names = [self.features.known_name(*one) for one in self.first]
        with ThreadPoolExecutor(self.workers) as readers:
            if is_complete and all(map(self.store.read, names, sets)):  # type: ignore
                kept = self.store.shelf.recall(about)
            if kept is not None:
                write, compute = 0.0, float(kept["seconds"][0])
            else:
                compute, made = self.compute(readers)
                self.features.warn_of_clipping(made)
                for array, values in zip(arrays, made, strict=True):
                    array[...] = values
                names = [self.features.known_name(*one) for one in self.first]
                self.added = [name for name in names if name and not self.store.has(name)]
                self.store.on_disk = True
                write = seconds(lambda: list(readers.map(self.store.keep, names, sets)))  # type: ignore
                self.store.shelf.keep(about, {"seconds": np.array([compute])})

            def read() -> bool:
                return all(readers.map(self.store.read, names, sets))  # type: ignore

            is_there = read()  # a full disk, or one that cannot be written
            disk = best(read) if is_there else math.inf
            self.store.in_memory = True
            list(readers.map(self.store.hold, names, sets))  # type: ignore
            memory = best(read)
        copy = self.copy_seconds(arrays)
        return Rates(compute, *((s / count) for s in (disk + copy, write, memory + copy)))

    def compute(self, readers: Executor) -> tuple[float, list[NDArray]]:
        """Return the seconds of a picture's features, and the features of the first batch."""
        pictures = self.pictures(self.first, readers)
        made = self.features.compute(pictures)  # compiles
        began = time.perf_counter()
        more = self.pictures(self.second, readers)
        reading = time.perf_counter() - began
        if backends.has_accelerator():
            computing = self.features.device_seconds(more)
        else:
            computing = seconds(lambda: self.features.compute(more))
        return max(reading, computing) / len(more), made  # one is done while the other is

    def pictures(self, some: list[tuple[Sample, bool]], readers: Executor) -> NDArray[np.uint8]:
        """Return the network's inputs for samples."""
        read = readers.map(self.features.read_picture, [sample for sample, _ in some])
        return np.stack(
            [mirrored(x) if flip else x for (x, _), (_, flip) in zip(read, some, strict=True)]
        )

    def copy_seconds(self, arrays: list[NDArray]) -> float:
        """Return the seconds that a copy of a batch's features to the device takes."""
        if not backends.has_accelerator():
            return 0.0
        # a number is read back, as copies are made while the host goes on
        return best(lambda: [float(ops.max(ops.convert_to_tensor(array))) for array in arrays])

    def clear(self, choice: Choice) -> None:
        """Remove what was kept for the measurement alone."""
        if not choice.in_memory:
            self.store.release()
        for name in [] if choice.on_disk else self.added:
            self.store.drop(name)


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of a function."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def best(work: Callable[[], object]) -> float:
    """Return the shortest wall time of three calls, since a machine may have other work."""
    return min(seconds(work) for _ in range(3))


def name_of(known: KnownPicture, flip: bool) -> str:
    """Return the name under which features of a picture, or of its mirror image, are cached."""
    return known.content + ("-flipped" if flip else "")


def is_saturated(array: NDArray) -> bool:
    """Return True if a float16 array holds its largest finite value or a non-finite one."""
    # compares bits: NumPy compares float16 values at a tenth of the speed
    most = np.float16(FLOAT16_MOST).view(np.uint16)
    return bool((array.view(np.uint16) & np.uint16(0x7FFF)).max(initial=0) >= most)

"""What a network's frozen part makes of each picture, computed once and kept on disk.

A network is cut where its layers begin to learn: the trunk before the cut gives the same features
of a picture in every epoch, run and seed; the head behind it is fitted on them. Any network of
Keras' functional kind is cut, since its graph tells what is fixed. Files are `feature_store.py`'s.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from threading import Lock
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from commands.training.devices import Devices
from config import Config
from salience.data.feature_store import FeatureStore, KnownPicture
from salience.networks.weight_files import versions
from salience.pictures.sample import Sample
from salience.system.cache import default_cache, make_key
from salience.system.code_digest import is_ours
from salience.system.files import make_folder
from salience.system.terminal import tell
from utilities import Letterbox, SaliencyBatches, input_identity, mirrored, network_input

FLOAT16_MOST = 65504.0
LEAST_SHARE = 0.05  # of the features that must fit, or the cache is not worth its while
QUEUE = 2  # batches read ahead: of ML-Net's features at 480 x 640 each has 123 MB
# what a layer is set up with, but does not compute with once its weights are there
SETTINGS_ALONE = ("name", "trainable", "seed", "initializer", "regularizer", "constraint")


@dataclass(frozen=True)
class Cut:
    """A network in two parts, which share their layers with it.

    Attributes:
        trunk: from pictures to the features, in the precision that they are kept in.
        head: from these to the map; all that learns.
    """

    trunk: keras.Model
    head: keras.Model


def attach(
    model: keras.Model,
    training: SaliencyBatches,
    validation: SaliencyBatches,
    config: Config,
    say: Callable[[str], None] = tell,
    devices: Devices | None = None,
) -> tuple[keras.Model, str]:
    """Have batches hold features instead of pictures, where that is asked for and possible.

    Args:
        model: the network with the weights that it starts from.
        training: batches of one split.
        validation: and of the other.
        config: reads feature_cache, feature_precision, cache_limit, epochs, flip and batch_size.
        say: gets what is to be told while the cache fills.
        devices: those of the run; None for one.

    Returns:
        What is to be fitted: the head, or the network where nothing is kept; and a line about it.

    Raises:
        UserError: the cache is asked for and cannot be written.
    """
    parts = cut(model, config.feature_precision) if config.feature_cache != "off" else None
    cache = default_cache(config.cache_bytes)
    if parts is None or cache.folder is None:
        asked = config.feature_cache == "on"
        return model, "feature cache: none, since no layer with weights is frozen" if asked else ""
    shelf = cache.shelf(fingerprint(parts.trunk), bulky=True)
    store = FeatureStore(shelf)
    devices = devices or Devices()
    features = Features(
        parts.trunk, store, config.input_shape, config.batch_size, say, devices.predict
    )
    ways = [False, True] if config.flip else [False]
    names = [
        features.known_name(sample, way)
        for samples, orientations in ((training.samples, ways), (validation.samples, [False]))
        for sample in samples
        for way in orientations
    ]
    there = sum(name is not None and store.has(name) for name in names)
    count, room = len(names), cache.room(shelf)
    on, why = decide(config.feature_cache, count, there, features.nbytes, room, config.epochs)
    if on and config.feature_cache == "on":
        make_folder(cache.folder, "$SALIENCY_CACHE")
    if not devices.agree(on) and on:  # of a network, processes must fit the same part
        on, why = False, "as for another process of this run: its cache decides, too"
    line = (
        f"feature cache: {'on' if on else 'off'}, {why}. Of {count:,} sets of features {there:,} "
        f"are there; at {readable(features.nbytes)} each at the most, all take up to "
        f"{readable(count * features.nbytes)} in {shelf.folder}"
    )
    if not on:
        return model, line
    for batches in (training, validation):
        batches.features = features
        batches.max_queue_size = QUEUE
    return parts.head, line


def decide(
    asked: str, count: int, there: int, nbytes: int, room: int, epochs: int
) -> tuple[bool, str]:
    """Return whether features are kept, and why, from sizes alone.

    Args:
        asked: auto or on.
        count: how many sets of features a run needs.
        there: how many of them are kept already.
        nbytes: of a set, uncompressed.
        room: bytes that may still be written.
        epochs: of the run.

    >>> decide("auto", count=100, there=0, nbytes=10, room=500, epochs=20)
    (True, 'room for 50 % of what is missing at the least; the rest is computed each time')
    >>> decide("auto", count=100, there=0, nbytes=10, room=20, epochs=20)
    (False, 'room for only 2 % of what is missing')
    >>> decide("auto", count=100, there=0, nbytes=10, room=5000, epochs=1)
    (False, 'one epoch reads nothing twice')
    """
    missing = (count - there) * nbytes
    share = min(1.0, room / missing) if missing > 0 else 1.0
    if asked == "auto" and epochs == 1 and not there:
        return False, "one epoch reads nothing twice"
    if asked == "auto" and share < LEAST_SHARE and there < LEAST_SHARE * count:
        return False, f"room for only {share:.0%} of what is missing".replace("%", " %")
    if share < 1:
        text = f"room for {share:.0%} of what is missing at the least; the rest is computed each"
        return True, text.replace("%", " %") + " time"
    return True, "all that is missing fits" if missing else "nothing is missing"


def readable(nbytes: float) -> str:
    """Return a size for people.

    >>> readable(12_300_000)
    '12.3 MB'
    """
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:,.1f} GB"


def cut(model: keras.Model, precision: str = "float16") -> Cut | None:
    """Return a network cut where it begins to learn; None where no layer before that has weights.

    Args:
        model: of the functional kind, with one input.
        precision: float16 or float32, of the features.
    """
    taps = frontier(model)
    if not taps:
        return None
    features = [ops.cast(tap, "float32") for tap in taps]  # of whatever precision they are computed
    if precision == "float16":
        # it ends at 65,504; the largest feature seen of VGG16 was 15,169
        features = [
            ops.cast(ops.clip(tap, -FLOAT16_MOST, FLOAT16_MOST), precision) for tap in features
        ]
    trunk = keras.Model(model.input, features, name=f"{model.name}_trunk")
    if not trunk.weights:
        return None
    trunk.compile(jit_compile="auto")  # uncompiled, Keras would choose anew for each prediction
    # it casts what it is fed to what its layers compute in, inside the graph: half is copied
    return Cut(trunk, keras.Model(taps if taps[1:] else taps[0], model.output, name=model.name))


def frontier(model: keras.Model) -> list[Any]:
    """Return the tensors of a network's graph that are fixed and that what is not fixed reads.

    A tensor is fixed that comes from the input through fixed layers alone.
    """
    inputs = {id(tensor) for tensor in keras.tree.flatten(model.input)}
    nodes = [node for operation in model.operations for node in operation._inbound_nodes]
    fixed, grows = set(inputs), True
    while grows:  # a layer that is called twice is listed once, so one pass might not do
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
    """Return whether an operation gives the same of the same input all through training."""
    if not isinstance(operation, keras.layers.Layer):
        return True  # plain mathematics
    layers = operation._flatten_layers()
    return not any(learns(layer) or is_random(layer) for layer in layers)


def learns(layer: keras.layers.Layer) -> bool:
    """Return whether training changes what a layer holds: its weights, or the means it counts."""
    return bool(layer.trainable_weights or (layer.trainable and layer.non_trainable_weights))


def is_random(layer: keras.layers.Layer) -> bool:
    """Return whether a layer draws numbers in training, as dropout does unless its rate is 0."""
    return bool(layer._seed_generators) and getattr(layer, "rate", None) != 0


def fingerprint(trunk: keras.Model) -> str:
    """Return a name for a network that is equal where weights, graph and preprocessing are.

    Names of layers, and what they were drawn from, are no part of it; the backend and its version
    are, whose rounding the features have, and so is the code of layers of ours.
    """
    places = {id(operation): place for place, operation in enumerate(trunk.operations)}
    found = make_key(versions()["backend"], trunk.input_shape)
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
        found = make_key(found, kind if is_ours(kind) else kind.__name__, about, *weights)
    return found


def call_argument(argument: Any, places: dict[int, int]) -> Any:
    """Return what an operation was called with: which tensor of the graph, or which value."""
    if isinstance(argument, keras.KerasTensor):
        operation, node, tensor = argument._keras_history
        return [places.get(id(operation)), node, tensor]
    return argument.tolist() if isinstance(argument, np.ndarray) else repr(argument)


class Features:
    """The features of pictures: read where they are kept, else computed and kept.

    Several threads may ask at once; the trunk works for one of them at a time.

    Args:
        trunk: see `Cut`.
        store: where its features are.
        input_shape: rows and columns of the network's input, pixels.
        batch_size: pictures that it sees at once at the most.
        say: gets what is to be told.
        predict: gives what a network makes of a batch that this process alone has.
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
        self._seen: dict[int, KnownPicture] = {}
        self._told = False
        self._computing = Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of a picture's features, uncompressed."""
        return sum(map(prod, self.shapes)) * self.dtype.itemsize

    def batch(
        self, samples: list[Sample], flipped: list[bool]
    ) -> tuple[NDArray | tuple[NDArray, ...], list[Letterbox]]:
        """Return the features of samples, those flipped that are to be, and each one's box.

        A picture whose features are kept is not decoded.

        Raises:
            UserError: a picture cannot be read.
        """
        arrays = [np.empty((len(samples), *shape), self.dtype) for shape in self.shapes]
        boxes, missing = [], []
        for place, (sample, flip) in enumerate(zip(samples, flipped, strict=True)):
            seen, picture = self.recall(sample), None
            if seen is None:
                picture, box = network_input(sample, self.input_shape)
                seen = self.remember(sample, picture, box.image_shape)
            boxes.append(Letterbox.fit(seen.image_shape, self.input_shape))
            if not self.store.read(name_of(seen, flip), [array[place] for array in arrays]):
                if picture is None:
                    picture, _ = network_input(sample, self.input_shape)
                missing.append((place, name_of(seen, flip), mirrored(picture) if flip else picture))
        if missing:
            made = self.compute(np.stack([picture for *_, picture in missing]))
            for row, (place, name, _) in enumerate(missing):
                for array, values in zip(arrays, made, strict=True):
                    array[place] = values[row]
                self.store.keep(name, [array[place] for array in arrays])
            self.tell(made)
        return (tuple(arrays) if arrays[1:] else arrays[0]), boxes

    def compute(self, pictures: NDArray[np.uint8]) -> list[NDArray]:
        """Return the features of pictures [n, rows, cols, 3]."""
        count = len(pictures)
        if self.trunk.jit_compile:
            # XLA compiles for each size of a batch anew: a few sizes must do
            size = min(self.batch_size, 1 << (count - 1).bit_length())
            pictures = np.concatenate([pictures, *[pictures[:1]] * (size - count)])
        elif count == 1 < self.batch_size:
            # PyTorch convolves one picture another way, to other bits than among several: what a
            # run computes would depend on what an interrupted one has kept
            pictures = np.concatenate([pictures, pictures])
        with self._computing:
            made = self.predict(self.trunk, pictures)
        return [np.asarray(array)[:count] for array in keras.tree.flatten(made)]

    def tell(self, made: Sequence[NDArray]) -> None:
        """Say once that features are too large for float16."""
        if self._told or self.dtype != np.float16 or not any(map(reaches_the_end, made)):
            return
        self._told = True
        self.say(
            f"warning: features beyond {FLOAT16_MOST:,.0f} are cut off there. "
            "--feature_precision float32 keeps them as they are."
        )

    def known_name(self, sample: Sample, flip: bool) -> str | None:
        """Return the name of a sample's features; None where its picture has not been seen."""
        seen = self.recall(sample)
        return name_of(seen, flip) if seen else None

    def recall(self, sample: Sample) -> KnownPicture | None:
        """Return what is known of a sample's picture, from this run or an earlier one."""
        if id(sample) not in self._seen:  # samples live as long as their batches
            identity = input_identity(sample, self.input_shape)
            found = self.store.seen.get(identity) if identity else None
            if found is None:
                return None
            self._seen[id(sample)] = found
        return self._seen[id(sample)]

    def remember(
        self, sample: Sample, picture: NDArray, image_shape: tuple[int, int]
    ) -> KnownPicture:
        """Note what a sample's picture is: for this run, and where it has a file for others."""
        seen = KnownPicture(hashlib.sha256(picture.tobytes()).hexdigest(), image_shape)
        self._seen[id(sample)] = seen
        identity = input_identity(sample, self.input_shape)
        if identity:
            self.store.remember(identity, seen)
        return seen


def name_of(seen: KnownPicture, flip: bool) -> str:
    """Return the name of the features of a picture, or of its mirror image."""
    return seen.content + ("-flipped" if flip else "")


def reaches_the_end(array: NDArray) -> bool:
    """Return whether a float16 array holds the largest number there is, or none at all."""
    # of their bits: NumPy compares float16 at a tenth of the speed
    most = np.float16(FLOAT16_MOST).view(np.uint16)
    return bool((array.view(np.uint16) & np.uint16(0x7FFF)).max(initial=0) >= most)

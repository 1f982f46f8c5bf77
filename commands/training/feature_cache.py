"""The feature cache: outputs of a network's frozen layers, computed once per picture and stored.

A network is cut before its first trainable layers. The trunk before the cut gives the same features
of a picture in every epoch, run and seed. The head behind it is trained on these features. Any
functional Keras network can be cut by its graph. `feature_store.py` writes the files.
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

FLOAT16_MOST = 65504.0  # largest finite float16
LEAST_SHARE = 0.05  # least share of the features that must fit on disk for the cache to pay off
QUEUE = 2  # batches read ahead; one of ML-Net's features at 480 x 640 takes 123 MB
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


def attach(
    model: keras.Model,
    training: SaliencyBatches,
    validation: SaliencyBatches,
    config: Config,
    say: Callable[[str], None] = tell,
    devices: Devices | None = None,
) -> tuple[keras.Model, str]:
    """Replace the pictures in batches by cached features, if the settings and sizes allow it.

    Args:
        model: the network with its initial weights.
        training: batches of the training split.
        validation: batches of the validation split.
        config: reads feature_cache, feature_precision, cache_limit, epochs, flip and batch_size.
        say: called with each message while the cache fills.
        devices: devices of the run; None for one device.

    Returns:
        The model to fit (the head, or the whole network without a cache), and a message.

    Raises:
        UserError: the cache is required and cannot be written.
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
    orientations = [False, True] if config.flip else [False]
    names = [
        features.known_name(sample, flip)
        for samples, flips in ((training.samples, orientations), (validation.samples, [False]))
        for sample in samples
        for flip in flips
    ]
    there = sum(name is not None and store.has(name) for name in names)
    count, room = len(names), cache.room(shelf)
    on, why = decide(config.feature_cache, count, there, features.nbytes, room, config.epochs)
    if on and config.feature_cache == "on":
        make_folder(cache.folder, "$SALIENCY_CACHE")
    if not devices.agree(on) and on:  # all processes must fit the same part
        on, why = False, "as in another process of this run: all must use the cache or none"
    line = (
        f"feature cache: {'on' if on else 'off'}, {why}. Of {count:,} sets of features {there:,} "
        f"are cached; at most {readable(features.nbytes)} each, all take up to "
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
    """Return whether a run should cache features, and the reason.

    Args:
        asked: value of --feature_cache: auto or on.
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
        self, samples: list[Sample], flipped: list[bool]
    ) -> tuple[NDArray | tuple[NDArray, ...], list[Letterbox]]:
        """Return the features of samples and their letterboxes.

        A picture with cached features is not decoded.

        Args:
            samples: samples of the batch.
            flipped: for each sample, whether its picture is mirrored.

        Returns:
            An array [n, rows, columns, channels], or a tuple of arrays if the trunk has several
            outputs; and the letterboxes.

        Raises:
            UserError: a picture cannot be read.
        """
        arrays = [np.empty((len(samples), *shape), self.dtype) for shape in self.shapes]
        boxes, missing = [], []
        for place, (sample, flip) in enumerate(zip(samples, flipped, strict=True)):
            known, picture = self.recall(sample), None
            if known is None:
                picture, box = network_input(sample, self.input_shape)
                known = self.remember(sample, picture, box.image_shape)
            boxes.append(Letterbox.fit(known.image_shape, self.input_shape))
            if not self.store.read(name_of(known, flip), [array[place] for array in arrays]):
                if picture is None:
                    picture, _ = network_input(sample, self.input_shape)
                picture = mirrored(picture) if flip else picture
                missing.append((place, name_of(known, flip), picture))
        if missing:
            made = self.compute(np.stack([picture for *_, picture in missing]))
            for row, (place, name, _) in enumerate(missing):
                for array, values in zip(arrays, made, strict=True):
                    array[place] = values[row]
                self.store.keep(name, [array[place] for array in arrays])
            self.warn_of_clipping(made)
        return (tuple(arrays) if arrays[1:] else arrays[0]), boxes

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


def name_of(known: KnownPicture, flip: bool) -> str:
    """Return the name under which features of a picture, or of its mirror image, are cached."""
    return known.content + ("-flipped" if flip else "")


def is_saturated(array: NDArray) -> bool:
    """Return True if a float16 array holds its largest finite value or a non-finite one."""
    # compares bits: NumPy compares float16 values at a tenth of the speed
    most = np.float16(FLOAT16_MOST).view(np.uint16)
    return bool((array.view(np.uint16) & np.uint16(0x7FFF)).max(initial=0) >= most)

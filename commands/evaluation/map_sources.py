"""Sources of the saliency maps to be scored: a trained network, or a folder of files.

A source yields the maps of pictures at their original size, and a fingerprint of its inputs.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from commands.evaluation import stored_maps
from commands.prediction import engines
from config import Config, trained_config
from salience.measures.adaptation import (
    OBJECTIVES,
    LowResolutionMaps,
    SetNumbers,
    low_resolution_maps,
)
from salience.measures.density import density_kind
from salience.measures.finish import NONE, UNFINISHED, Finish
from salience.measures.metrics import as_distribution
from salience.measures.references import model_name
from salience.measures.row_fit import FeaturesAndTruth
from salience.networks import weight_files
from salience.pictures.letterbox import Letterbox, of_both_ways, postprocess, smoothed
from salience.pictures.network_inputs import input_identity, make_truth, network_input
from salience.pictures.reading import sample_density, sample_shape
from salience.pictures.sample import Sample
from salience.system import quiet
from salience.system.cache import Shelf, default_cache, make_key
from salience.system.errors import UserError
from salience.system.files import file_digest
from salience.system.notes import Notes
from salience.system.terminal import PROGRAM, progress, tell
from salience.system.threads import groups, in_order

# pictures from which "auto" predicts with a copy of the network: to make it takes as long as Keras
# takes for some tens of pictures
LEAST_FOR_COPY = 40
# bytes of a network's outputs that stay in memory: the page shows some of the scored maps again
REMEMBERED = 2**26

Key = TypeVar("Key")


def engine_for(
    name: str, pictures: int, weights: Sequence[Path], say: Callable[[str], None]
) -> str:
    """Return the engine that predicts a number of pictures to be scored.

    Args:
        name: an engine of `config.ENGINES`; "auto" is Keras for fewer than LEAST_FOR_COPY pictures,
            unless ncnn runs all networks, whose copies take a second.
        pictures: how many there are.
        weights: the weights files of all networks.
        say: called with a message if Keras is imported.

    Raises:
        UserError: the engine is not installed, or a weights file cannot be read.
    """
    few = name == engines.AUTO and pictures < LEAST_FOR_COPY
    if few and any(engines.fastest(one, say) != engines.NCNN for one in weights):
        name = engines.KERAS
    return engines.choose(name, say)


class Source(Protocol):
    """Protocol of a source of saliency maps."""

    name: str

    def fingerprint(self) -> str:
        """Return a digest of all inputs of the maps except the pictures."""
        ...

    def maps(
        self, samples: list[Sample], shapes: list[tuple[int, int]]
    ) -> Iterator[NDArray | None]:
        """Yield the map of each picture at its shape, or None without a usable map."""
        ...


class ModelMaps:
    """The maps of a trained network.

    Args:
        weights: a weights file of `train`.
        name: name of the row.
        batch_size: pictures per batch.
        workers: threads that read pictures.
        smooth: standard deviation of a Gaussian blur, pixels of the original picture.
        mirror: average each map with that of the mirrored picture.
        finish: what is done to finished maps, and the numbers of data sets in the network.
        keep: keep the network's outputs in the user's cache, so that it sees each picture once.
        engine: inference engine, see `engines.choose`; Keras where its copy does not run.
        say: called with each message of the engine.

    Raises:
        UserError: the weights or the engine cannot be used.
    """

    bulky = False  # whether what is kept is large
    channels = 1  # of what the engine returns
    most_remembered = REMEMBERED  # bytes

    def __init__(
        self,
        weights: Path,
        name: str,
        batch_size: int,
        workers: int,
        smooth: float = 0.0,
        mirror: bool = False,
        finish: Finish = UNFINISHED,
        keep: bool = False,
        engine: str = engines.KERAS,
        say: Callable[[str], None] = tell,
    ) -> None:
        self.weights, self.name, self.smooth = weights, model_name(name), smooth
        self.batch_size, self.workers, self.mirror = batch_size, workers, mirror
        self.finish, self.of_set = finish, finish.numbers
        self.engine = self._load(engine, say)
        self.slots = BoundedSemaphore(self.engine.at_once)
        # by the sample's id, with the sample, since the id of a freed one may be used again
        self.remembered: dict[int, tuple[Sample, NDArray]] = {}
        self.digest = file_digest(weights)
        self.kept: Shelf | None = None
        if keep:
            about = make_key(type(self), self.digest, mirror, self.of_set, self.engine.name)
            self.kept = default_cache().shelf(about, self.bulky)

    def _load(self, engine: str, say: Callable[[str], None]) -> engines.Engine:
        """Return the engine that predicts."""
        return engines.load(engine, self.weights, say, self.of_set)

    def _cells(self, prediction: NDArray) -> NDArray:
        """Return the map's cells, made of what the engine returned."""
        return prediction

    def finished(self, finish: Finish) -> "ModelMaps":
        """Return a source of the same network's maps to which something else is done."""
        if finish == self.finish:
            return self
        own = copy(self)
        own.finish = finish
        return own

    @property
    def config(self) -> Config:
        """The settings of the network's training."""
        return trained_config(self.weights)

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of all weights and of those that were trained, for the costs of a run."""
        kept = weight_files.counts_in_card(weight_files.read_card(self.weights))
        return kept or weight_files.counts(self.model)

    @cached_property
    def model(self) -> Any:
        """The Keras network; it is loaded when it is asked for."""
        quiet.start_keras()
        from model import load_model  # here: an exported copy needs no Keras

        return load_model(self.weights, self.of_set, NONE)

    def fingerprint(self) -> str:
        """Return as text the weights' digest, the engine and what is done to the maps."""
        adapted = "" if self.finish == UNFINISHED else f" {self.finish}"
        own = f" set {self.of_set}" if self.of_set else ""
        # engines agree to about 1e-5, not to the bit
        by = "" if self.engine.name == engines.KERAS else f" by {self.engine.name}"
        return f"weights {self.digest} {self.smooth}{' mirror' * self.mirror}{adapted}{own}{by}"

    def maps(
        self, samples: list[Sample], shapes: list[tuple[int, int]]
    ) -> Iterator[NDArray | None]:
        """Yield the map of each picture, [rows, columns], maximum 1."""
        threads = self.workers + self.engine.at_once
        with ThreadPoolExecutor(threads) as pool:
            at = 0
            for batch, predictions in self._batches(samples, pool):
                for sample, prediction in zip(batch, predictions, strict=True):
                    if not np.isfinite(prediction).all():
                        raise UserError(
                            f"{self.weights} predicts non-finite values for {sample.name}: its "
                            "training has failed."
                        )
                    box = Letterbox.fit(shapes[at], self.engine.input_shape)
                    cells = self._cells(prediction)
                    made = postprocess(cells, box, self.engine.grid, self.smooth)
                    at += 1
                    yield self.finish.apply(made)

    def _batches(
        self, samples: list[Sample], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[list[Sample], list[NDArray]]]:
        """Yield pictures with the network's outputs.

        A copy of the network predicts single pictures in threads, ahead of what is asked for, while
        the caller scores. Keras predicts batches in the caller's thread: it keeps the devices of a
        training by thread.
        """
        if self.engine.name == engines.KERAS:
            for batch in groups(iter(samples), self.batch_size):
                yield batch, self._predictions(batch, pool.map)
        else:
            single = ([sample] for sample in samples)
            ahead = 2 * self.engine.at_once + 1
            yield from in_order(pool, lambda one: self._predictions(one, map), single, ahead)

    def _predictions(
        self, batch: Sequence[Sample], mapped: Callable[..., Iterator[Any]]
    ) -> list[NDArray]:
        """Return the network's output of each picture; what is kept is not computed again.

        Args:
            batch: the pictures.
            mapped: applies a function to each item, as `map` does.
        """
        names = [self._name(sample) for sample in batch]
        found = {}
        for i, (sample, name) in enumerate(zip(batch, names, strict=True)):
            known = self.remembered.get(id(sample))
            kept = known[1] if known else self._recalled(name)
            if kept is not None:
                found[i] = kept
        missing = [i for i in range(len(batch)) if i not in found]
        if missing:
            shape = self.engine.input_shape
            inputs = list(mapped(lambda i: network_input(batch[i], shape)[0], missing))
            network = of_both_ways(self.engine.maps) if self.mirror else self.engine.maps
            with self.slots:
                predictions = network(np.stack(inputs))
            for i, prediction in zip(missing, predictions, strict=True):
                found[i] = prediction
                if (len(self.remembered) + 1) * prediction.nbytes <= self.most_remembered:
                    self.remembered[id(batch[i])] = batch[i], np.array(prediction)
                if self.kept and (name := names[i]):
                    self.kept.keep(name, {"prediction": prediction})
        return [found[i] for i in range(len(batch))]

    def _recalled(self, name: str | None) -> NDArray | None:
        """Return the output that is kept under a name; None where there is none, or it is odd."""
        kept = self.kept.recall(name) if self.kept and name else None
        prediction = (kept or {}).get("prediction")
        shape = (*self.engine.grid.shape(self.engine.input_shape), self.channels)
        if prediction is None or prediction.shape != shape:
            return None
        return prediction if prediction.dtype.kind == "f" else None

    def _name(self, sample: Sample) -> str | None:
        """Return a name for a picture, as the network sees it; None where no output is kept."""
        return input_identity(sample, self.engine.input_shape) if self.kept else None


class RowMaps(ModelMaps):
    """The maps of a network by any numbers of a data set: the trunk sees each picture once for all.

    Kept are the features that the last layer is given, which Keras computes.

    Args:
        weights: a weights file of a network that has numbers of data sets.
        name: name of the row.
        batch_size: pictures per batch.
        workers: threads that read pictures.

    Raises:
        UserError: the weights cannot be used.
    """

    bulky = True
    most_remembered = 0  # features are large, and each is asked for once

    def __init__(self, weights: Path, name: str, batch_size: int, workers: int) -> None:
        self._lock = Lock()
        super().__init__(weights, name, batch_size, workers, keep=True)

    def _load(self, engine: str, say: Callable[[str], None]) -> engines.Engine:
        quiet.start_keras(say)
        from model import grid_of
        from salience.networks.multiscale import ReadoutRows

        self.rows = ReadoutRows(self.model)
        self.channels = self.rows.channels

        def features(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
            with self._lock:
                return self.rows.features(batch)

        return engines.Engine(
            engines.KERAS, self.model.input_shape[1:3], grid_of(self.model), features
        )

    def with_numbers(self, numbers: SetNumbers) -> "RowMaps":
        """Return a source of the maps by other numbers, which shares the features."""
        own = copy(self)
        own.of_set = numbers
        return own

    def fingerprint(self) -> str:
        """Return the fingerprint of `ModelMaps`, marked: rounding may differ."""
        return f"{super().fingerprint()} by rows"

    def _cells(self, prediction: NDArray) -> NDArray:
        place = self.rows.mean
        if isinstance(self.of_set, SetNumbers):
            place = self.rows.place(self.of_set)
        with self._lock:
            (density,) = self.rows.densities([prediction], place[None])
        return density[0]

    def to_fit(
        self, samples: list[Sample], sigma_pixels: float | None, objective: str = "ig"
    ) -> list[FeaturesAndTruth | None]:
        """Return the data that numbers in the network are fitted on: features with their truth.

        They are half precision, in memory. The arguments and the missing items are those of
        `maps_to_fit`.
        """
        found: list[FeaturesAndTruth | None] = []
        bar = progress(len(samples), "features to fit on")
        with bar, ThreadPoolExecutor(self.workers) as pool:
            for batch, features in self._batches(samples, pool):
                for sample, own in zip(batch, features, strict=True):
                    bar.update()
                    box = Letterbox.fit(sample_shape(sample), self.engine.input_shape)
                    density, counts = np.moveaxis(
                        make_truth(sample, box, self.engine.grid, sigma_pixels), -1, 0
                    )
                    truth = density if is_fitted_to_map(sample, objective) else counts
                    usable = truth.any() and np.isfinite(own).all()
                    picture = FeaturesAndTruth(own.astype(np.float16), truth)
                    found.append(picture if usable else None)
        return found


def of_one_precision(
    maps_by: Callable[[str], dict[Key, ModelMaps]], engine: str
) -> dict[Key, ModelMaps]:
    """Return the maps of several networks, all predicted by exact engines, or all by one.

    Where an engine of reduced precision does not run one of the networks, Keras predicts all of
    them: scores that are compared differ by no more than float32's rounding, about 1e-5.

    Args:
        maps_by: returns the maps, given an engine's name.
        engine: the engine to try.
    """
    found = maps_by(engine)
    names = {source.engine.name for source in found.values()}
    return maps_by(engines.KERAS) if engines.REDUCED in names and len(names) > 1 else found


@dataclass
class FolderMaps:
    """A folder of saliency maps: pictures or arrays, named like the pictures of the split.

    The matching of files and the interpretation of their values are noted (`stored_maps`).

    Args:
        folder: the folder, searched with its sub-folders.
        name: name of the row.
        samples: the pictures of the split.
        notes: receives the notes.
        smooth: standard deviation of a Gaussian blur, pixels of the original picture.
        stretch: whether to scale maps whose aspect ratio differs from their picture's.
        only_densities: whether to refuse maps that are neither densities nor log-densities.

    Raises:
        UserError: no folder, no file named like a picture of the split, or several files for one
            picture.
    """

    folder: Path
    name: str
    samples: list[Sample]
    notes: Notes
    smooth: float = 0.0
    stretch: bool = False
    only_densities: bool = False
    files: dict[str, Path] = field(init=False)

    def __post_init__(self) -> None:
        self.name = model_name(self.name)
        self.files = stored_maps.pair_maps(self.folder, self.samples, self.notes)

    def fingerprint(self) -> str:
        """Return a digest of the files' names and contents, the blur and the stretching as text."""
        digest = hashlib.sha256()
        for name, path in self.files.items():
            digest.update(repr((name, path.name, file_digest(path))).encode())
        return f"maps {digest.hexdigest()} {self.smooth}{' stretched' * self.stretch}"

    def maps(
        self, samples: list[Sample], shapes: list[tuple[int, int]]
    ) -> Iterator[NDArray | None]:
        """Yield the map of each picture, or None if its file is missing or cannot be read."""
        for sample, shape in zip(samples, shapes, strict=True):
            yield self._read(sample.name, shape) if sample.name in self.files else None

    def _read(self, name: str, shape: tuple[int, int]) -> NDArray | None:
        """Return a map as floats at its picture's shape, or None if it cannot be used."""
        path = self.files[name]
        try:
            values = stored_maps.read_values(path)
        except UserError as error:
            self._leave_out("that cannot be read", name, str(error))
            return None
        if self.only_densities and density_kind(values) is None:
            raise UserError(
                f"{path} is not a density, which --optimal needs: 0 or more with sum 1, or natural "
                f"logarithms whose exponentials have sum 1. {PROGRAM} test --density writes such."
            )
        try:
            values = stored_maps.as_saliency(values, shape, name, self.notes, self.stretch)
        except UserError as error:
            self._leave_out("that cannot be scored", name, f"{path}: {error}")
            return None
        return smoothed(values, self.smooth) if self.smooth else values

    def _leave_out(self, kind: str, name: str, why: str) -> None:
        """Add a note on a picture whose map cannot be scored."""
        self.notes.add(f"maps {kind}: the picture is left out of every row", name)
        self.notes.explain(why)


def is_fitted_to_map(sample: Sample, objective: str) -> bool:
    """Return whether a fit uses a picture's density map, and not its fixations."""
    return sample.fixations is None or OBJECTIVES[objective].from_map


def maps_to_fit(
    source: Source, samples: list[Sample], sigma_pixels: float | None, objective: str = "ig"
) -> list[LowResolutionMaps | None]:
    """Return the data that an adaptation is fitted on: low-resolution maps and their ground truth.

    An item is None for a picture without a usable map or without fixations. Density maps replace
    fixations if the data set has none or if the objective needs density maps.

    Args:
        source: source of the maps.
        samples: the pictures.
        sigma_pixels: standard deviation of the Gaussian for density maps, pixels; None for the data
            set's own.
        objective: key of `adaptation.OBJECTIVES`.
    """
    shapes = [sample_shape(sample) for sample in samples]
    found: list[LowResolutionMaps | None] = []
    bar = progress(len(samples), "maps to fit on")
    with bar:
        for sample, shape, saliency_map in zip(
            samples, shapes, source.maps(samples, shapes), strict=True
        ):
            bar.update()
            if saliency_map is None:
                found.append(None)
                continue
            points, density = sample.fixations, None
            if is_fitted_to_map(sample, objective):
                points, density = None, sample_density(sample, shape, sigma_pixels)
            found.append(low_resolution_maps(as_distribution(saliency_map), points, density))
    return found

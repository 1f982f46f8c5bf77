"""Where the saliency maps come from that are scored: a trained network, or a folder of files.

A source yields the maps of pictures at their original size, and can name what its maps depend on.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from config import Config
from salience.measures.adaptation import (
    IDENTITY,
    Adaptation,
    LowResolutionMaps,
    low_resolution_maps,
)
from salience.measures.metrics import as_distribution, from_8bit
from salience.measures.references import model_name
from salience.pictures.fixations import blurred
from salience.pictures.letterbox import Letterbox, of_both_ways, postprocess
from salience.pictures.picture_files import read_stored_map
from salience.pictures.reading import sample_density, sample_shape
from salience.pictures.sample import IMAGE_SUFFIXES, Sample
from salience.system.cache import ArrayCache
from salience.system.code_digest import code_digest
from salience.system.errors import UserError
from salience.system.files import content_stamp, file_digest
from salience.system.notes import Notes
from salience.system.terminal import progress

MAP_SUFFIXES = (".npy", *sorted(IMAGE_SUFFIXES))  # where there are several, the first is taken


class Source(Protocol):
    """What `evaluate` asks of a source of saliency maps."""

    name: str

    def fingerprint(self) -> str:
        """Return a name for all that the maps depend on, besides the pictures."""
        ...

    def maps(
        self, samples: list[Sample], shapes: list[tuple[int, int]]
    ) -> Iterator[NDArray | None]:
        """Yield the map of each picture at its shape; None where there is none to be had."""
        ...


class ModelMaps:
    """The maps of a trained network.

    Args:
        weights: a file that `train` wrote.
        name: of its row.
        batch_size: pictures a step.
        workers: threads that read pictures.
        smooth: standard deviation of a Gaussian blur, pixels of the original picture.
        mirror: average each map with that of the mirrored picture.
        adaptation: what a data set asks of the maps.
        kept: where the network's outputs are kept, so that it sees each picture once.

    Raises:
        UserError: the weights are not usable.
    """

    def __init__(
        self,
        weights: Path,
        name: str,
        batch_size: int,
        workers: int,
        smooth: float = 0.0,
        mirror: bool = False,
        adaptation: Adaptation = IDENTITY,
        kept: ArrayCache | None = None,
    ) -> None:
        from model import load_model  # here: scoring maps of a folder needs no network

        self.weights, self.name, self.smooth = weights, model_name(name), smooth
        self.batch_size, self.workers, self.mirror = batch_size, workers, mirror
        self.adaptation, self.kept = adaptation, kept or ArrayCache(None)
        self.model = load_model(weights)
        self.digest = file_digest(weights)

    @property
    def config(self) -> Config:
        """The settings that it was trained with."""
        from model import trained_config

        return trained_config(self.weights)

    def fingerprint(self) -> str:
        """Return the weights' digest, the blur, whether mirror images count, and the adaptation."""
        adapted = "" if self.adaptation == IDENTITY else f" {self.adaptation}"
        return f"weights {self.digest} {self.smooth}{' mirror' * self.mirror}{adapted}"

    def maps(
        self, samples: list[Sample], shapes: list[tuple[int, int]]
    ) -> Iterator[NDArray | None]:
        """Yield the map of each picture, maximum 1."""
        from model import grid_of

        grid = grid_of(self.model)
        with ThreadPoolExecutor(self.workers) as pool:
            for start in range(0, len(samples), self.batch_size):
                batch = samples[start : start + self.batch_size]
                for sample, prediction, shape in zip(
                    batch, self._predictions(batch, pool), shapes[start:], strict=False
                ):
                    if not np.isfinite(prediction).all():
                        raise UserError(
                            f"{self.weights} gives numbers that are not finite for {sample.name}: "
                            "its training went wrong."
                        )
                    box = Letterbox.fit(shape, self.model.input_shape[1:3])
                    made = postprocess(prediction, box, grid, self.smooth)
                    yield self.adaptation.apply(made)

    def _predictions(self, batch: list[Sample], pool: ThreadPoolExecutor) -> list[NDArray]:
        """Return the network's output of each picture; what is kept is not computed again."""
        keys = [self._key(sample) for sample in batch]
        found = {i: kept for i, key in enumerate(keys) if (kept := self._recalled(key)) is not None}
        missing = [i for i in range(len(batch)) if i not in found]
        if missing:
            from utilities import network_input

            input_shape = self.model.input_shape[1:3]
            inputs = pool.map(lambda i: network_input(batch[i], input_shape)[0], missing)
            network = of_both_ways(self._network) if self.mirror else self._network
            predictions = network(np.stack(list(inputs)))
            for i, prediction in zip(missing, predictions, strict=True):
                found[i] = prediction
                if (key := keys[i]) is not None:
                    self.kept.keep(key, {"prediction": prediction})
        return [found[i] for i in range(len(batch))]

    def _network(self, batch: NDArray[np.uint8]) -> NDArray:
        """Return the network's outputs of pictures."""
        return np.asarray(self.model.predict_on_batch(batch))

    def _recalled(self, key: str | None) -> NDArray | None:
        """Return the output that is kept under a key; None where there is none, or it is odd."""
        kept = self.kept.recall(key) if key else None
        prediction = (kept or {}).get("prediction")
        if prediction is None or prediction.shape != self.model.output_shape[1:]:
            return None
        return prediction if prediction.dtype.kind == "f" else None

    def _key(self, sample: Sample) -> str | None:
        """Return a name for the network's output of a picture; None where it is not kept."""
        if self.kept.folder is None:
            return None
        from utilities import input_identity

        picture = input_identity(sample, self.model.input_shape[1:3])
        about = f"{self.digest} {self.mirror} {picture} {code_digest(ModelMaps)}"
        return picture and hashlib.sha256(about.encode()).hexdigest()


@dataclass
class FolderMaps:
    """Saliency maps made by anything: pictures or .npy files, named like the pictures of the split.

    8-bit maps are scored half a step higher (`metrics.from_8bit`); maps of another size than their
    picture's are scaled to it. Both are noted, as are maps without a picture.

    Args:
        folder: searched with its sub-folders.
        name: of its row.
        samples: the pictures of the split.
        notes: gets what was found and how it was decided.
        smooth: standard deviation of a Gaussian blur, pixels of the original picture.

    Raises:
        UserError: no folder, or none of its files is named like a picture of the split.
    """

    folder: Path
    name: str
    samples: list[Sample]
    notes: Notes
    smooth: float = 0.0
    files: dict[str, Path] = field(init=False)

    def __post_init__(self) -> None:
        self.name = model_name(self.name)
        if not self.folder.is_dir():
            raise UserError(f"The maps are not at {self.folder}: no such folder.")
        found: dict[str, list[Path]] = {}
        for path in sorted(self.folder.rglob("*")):
            if path.suffix.lower() in MAP_SUFFIXES and path.is_file():
                key = path.relative_to(self.folder).with_suffix("").as_posix()
                found.setdefault(key, []).append(path)
        self.files = {}
        used = set()
        for sample in self.samples:
            # the full name where two pictures differ by their suffix alone: a.jpg.png
            keys = (sample.name, Path(sample.name).with_suffix("").as_posix())
            key = next((key for key in keys if key in found), None)
            if key is None:
                self.notes.add("maps missing: the picture is left out of every row", sample.name)
                continue
            used.add(key)
            ranked = sorted(found[key], key=lambda p: MAP_SUFFIXES.index(p.suffix.lower()))
            self.files[sample.name] = ranked[0]
            for other in ranked[1:]:
                self.notes.add(f"maps beside one of the same name: not used, {ranked[0].suffix} "
                               "is", other.name)  # fmt: skip
        if not self.files:
            raise UserError(
                f"No file of {self.folder} is named like a picture of the split, such as "
                f"{Path(self.samples[0].name).with_suffix('.png')}."
            )
        for key in sorted(found.keys() - used):
            self.notes.add("maps without a picture in the split: not used", found[key][0].name)

    def fingerprint(self) -> str:
        """Return a digest of the files' names and contents, and the blur."""
        digest = hashlib.sha256()
        for name, path in self.files.items():
            digest.update(repr((name, path.name, content_stamp(path))).encode())
        return f"maps {digest.hexdigest()} {self.smooth}"

    def maps(
        self, samples: list[Sample], shapes: list[tuple[int, int]]
    ) -> Iterator[NDArray | None]:
        """Yield the map of each picture; None where the file is missing or cannot be read."""
        for sample, shape in zip(samples, shapes, strict=True):
            yield self._read(sample.name, shape) if sample.name in self.files else None

    def _read(self, name: str, shape: tuple[int, int]) -> NDArray | None:
        """Return one map, float, at its picture's shape."""
        try:
            values = read_stored_map(self.files[name])
        except UserError as error:
            self.notes.add("maps that cannot be read: the picture is left out of every row", name)
            self.notes.explain(str(error))
            return None
        if values.dtype == np.uint8:
            self.notes.add("8-bit maps: scored half a step higher, as 0 is not nothing", name)
            values = from_8bit(values)
        if values.min() < 0:
            self.notes.add("maps with negative values: as shares, their least becomes 0", name)
        if values.shape != shape:
            self.notes.add("maps of another size than the picture: scaled to it", name)
            values = cv2.resize(
                np.asarray(values, np.float64), shape[::-1], interpolation=cv2.INTER_LINEAR
            )
        return blurred(values, self.smooth) if self.smooth else np.asarray(values, np.float64)


def pictures_seen(
    source: Source, samples: list[Sample], sigma_pixels: float | None
) -> list[LowResolutionMaps | None]:
    """Return what an adaptation is fitted on: each picture's map and where people looked, small.

    None for a picture without a usable map, or that nobody looked at. Where the data set has no
    fixations, its density maps say where people looked.

    Args:
        source: of the maps.
        samples: the pictures.
        sigma_pixels: Gaussian for the density maps; None for the data set's own.
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
            known = sample.fixations is not None
            density = None if known else sample_density(sample, shape, sigma_pixels)
            found.append(
                low_resolution_maps(as_distribution(saliency_map), sample.fixations, density)
            )
    return found

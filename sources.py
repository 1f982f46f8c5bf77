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
from errors import UserError
from files import file_digest
from fixations import blurred
from metrics import as_distribution, from_8bit
from notes import Notes
from pictures import read_stored_map
from references import model_name
from sample import IMAGE_SUFFIXES, Sample

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
    ) -> None:
        from model import load_model  # here: scoring maps of a folder needs no network

        self.weights, self.name, self.smooth = weights, model_name(name), smooth
        self.batch_size, self.workers, self.mirror = batch_size, workers, mirror
        self.model = load_model(weights)

    @property
    def config(self) -> Config:
        """The settings that it was trained with."""
        import weight_files

        return weight_files.trained_config(self.weights)

    def fingerprint(self) -> str:
        """Return the weights' digest, the blur and whether mirror images count."""
        return f"weights {file_digest(self.weights)} {self.smooth}" + (
            " mirror" if self.mirror else ""
        )

    def maps(
        self, samples: list[Sample], shapes: list[tuple[int, int]]
    ) -> Iterator[NDArray | None]:
        """Yield the map of each picture, maximum 1."""
        import architectures
        from utilities import network_input, of_both_ways, postprocess

        input_shape, grid = self.model.input_shape[1:3], architectures.grid_of(self.model)

        def network(batch: NDArray[np.uint8]) -> NDArray:
            return np.asarray(self.model.predict_on_batch(batch))

        predict = of_both_ways(network) if self.mirror else network
        with ThreadPoolExecutor(self.workers) as pool:
            for start in range(0, len(samples), self.batch_size):
                batch = samples[start : start + self.batch_size]
                read = pool.map(lambda s: network_input(s, input_shape), batch)
                inputs, boxes = zip(*read, strict=True)
                predictions = predict(np.stack(inputs))
                for sample, prediction, box in zip(batch, predictions, boxes, strict=True):
                    if not np.isfinite(prediction).all():
                        raise UserError(
                            f"{self.weights} gives numbers that are not finite for {sample.name}: "
                            "its training went wrong."
                        )
                    yield postprocess(prediction, box, grid, self.smooth)


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
        """Return a digest of the files' names, sizes and times, and the blur."""
        digest = hashlib.sha256()
        for name, path in self.files.items():
            status = path.stat()
            digest.update(repr((name, path.name, status.st_size, status.st_mtime_ns)).encode())
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


@dataclass(frozen=True)
class PostProcessing:
    """A blur and a centre bias given to maps that were made without.

    Attributes:
        blur: standard deviation of the Gaussian, in those of the picture's density map.
        weights: shares of the blurred map, the centre bias, and a uniform density.
    """

    blur: float
    weights: tuple[float, float, float]

    def apply(
        self, saliency_map: NDArray, centre: NDArray, sigma_pixels: float
    ) -> NDArray[np.float64]:
        """Return the post-processed map as a density.

        Args:
            saliency_map: [rows, columns], 0 or more.
            centre: the centre bias of the training pictures at this shape, sum 1.
            sigma_pixels: of the picture's density map.
        """
        density = spread(saliency_map, self.blur * sigma_pixels)
        own, bias, uniform = self.weights
        return own * density + bias * centre + uniform / density.size


def spread(saliency_map: NDArray, blur_pixels: float) -> NDArray[np.float64]:
    """Return a map as a blurred density, sum 1."""
    return as_distribution(blurred(saliency_map, blur_pixels) if blur_pixels else saliency_map)

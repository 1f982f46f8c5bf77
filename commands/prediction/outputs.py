"""What `test` writes of one picture: its finished map, and what is drawn of it or read off it."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commands.prediction.inputs import Job
from commands.prediction.map_record import MapRecord
from config import PredictConfig
from salience.pictures.marks import (
    Peak,
    best_crop,
    draw_contours,
    draw_peaks,
    matched,
    parse_aspect,
    peaks,
    side_by_side,
    thresholded,
)
from salience.pictures.picture_files import (
    in_colours,
    overlay,
    read_stored_map,
    to_8_bit,
    write_image,
)
from salience.pictures.reading import sample_image
from salience.pictures.sample import Sample
from salience.system.arrays import write_array
from salience.system.errors import UserError
from salience.system.files import make_folder, write_json

MOST_LEVELS = 2**20  # of a reference's values: more tell nothing, and are gone through each time


class Outputs:
    """How each picture's outputs are made; what they share is read once.

    Args:
        settings: what to write and how.

    Attributes:
        record: gets what each output was made of; None where nothing is recorded.

    Raises:
        UserError: the aspect ratio is none, or the reference cannot be read or matched.
    """

    def __init__(self, settings: PredictConfig) -> None:
        self.settings = settings
        self.record: MapRecord | None = None
        self.aspect = 1.0 if settings.crop is None else parse_aspect(settings.crop)
        self.reference = None if settings.match is None else read_reference(settings.match)

    def write(self, job: Job, saliency_map: NDArray) -> None:
        """Write what is asked for of a picture, by its map (0 to 1; it is changed)."""
        seen = RenderedOutputs(job, self.finished(saliency_map), self)
        replaces = self.record and self.record.begin(job.source, job.outputs)
        for kind, path in job.outputs.items():
            make_folder(path.parent, inside=self.settings.output)
            write = WRITERS.get(path.suffix, write_image)
            write(path, MAKERS[kind](seen))
        if self.record and replaces:
            self.record.end(job.source, job.outputs)

    def finished(self, saliency_map: NDArray) -> NDArray:
        """Return a map (0 to 1; it is changed) as it is to be written."""
        if self.reference is not None:
            saliency_map = matched(saliency_map, self.reference)
        if self.settings.threshold:
            saliency_map[saliency_map < self.settings.threshold] = 0
        return saliency_map


class RenderedOutputs:
    """A picture and its finished map, and what several outputs are made of."""

    def __init__(self, job: Job, saliency_map: NDArray, how: Outputs) -> None:
        self.job, self.map, self.how = job, saliency_map, how

    @cached_property
    def picture(self) -> NDArray[np.uint8]:
        """The picture in full: the network's was maybe decoded smaller, and none is kept."""
        return sample_image(job_sample(self.job))

    @cached_property
    def peaks(self) -> list[Peak]:
        """The most salient points, as many as are asked for."""
        return peaks(self.map, self.how.settings.peaks)

    @cached_property
    def overlay(self) -> NDArray[np.uint8]:
        """The map over the picture, with the peaks."""
        return self.numbered(overlay(self.picture, self.map, self.how.settings.colormap))

    def numbered(self, drawn: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a drawing with the peaks; itself where none are asked for, as it may be large."""
        return draw_peaks(drawn, self.peaks) if self.how.settings.peaks else drawn

    def contours(self) -> NDArray[np.uint8]:
        """Return the picture with lines around its most salient shares, and the peaks."""
        return self.numbered(draw_contours(self.picture, self.map))

    def crop(self) -> NDArray[np.uint8]:
        """Return the part of the picture that keeps most saliency."""
        x, y, width, height = best_crop(self.map, self.how.aspect)
        return self.picture[y : y + height, x : x + width]

    def points(self) -> list[dict[str, Any]]:
        """Return the peaks as JSON has them."""
        return [
            {"rank": peak.rank, "x": peak.x, "y": peak.y, "strength": round(peak.strength, 4)}
            for peak in self.peaks
        ]


MAKERS: dict[str, Callable[[RenderedOutputs], Any]] = {
    "map": lambda seen: to_8_bit(seen.map),
    "overlay": lambda seen: seen.overlay,
    "float": lambda seen: seen.map,
    "contours": RenderedOutputs.contours,
    "peaks": RenderedOutputs.points,
    "crop": RenderedOutputs.crop,
    "mask": lambda seen: to_8_bit(thresholded(seen.map, seen.how.settings.mask)),
    "side_by_side": lambda seen: side_by_side(
        seen.picture, in_colours(seen.map, seen.how.settings.colormap), seen.overlay
    ),
}
WRITERS: dict[str, Callable[[Path, Any], None]] = {".npy": write_array, ".json": write_json}


def job_sample(job: Job) -> Sample:
    """Return a job's picture as a sample."""
    return Sample(job.source.name, job.source, shape=job.shape)


def read_reference(path: Path) -> NDArray[np.floating]:
    """Return the values of the map that others are to be like, the maximum 1.

    Of a large one, quantiles stand for all.

    Raises:
        UserError: it cannot be read, has values below 0, or is constant.
    """
    values = read_stored_map(path)
    values = values.astype(np.promote_types(values.dtype, float))
    if not values.size or values.min() == values.max():
        raise UserError(
            f"--match {path} is constant: every map would become so. Name a map that is not."
        )
    if values.min() < 0:
        raise UserError(
            f"--match {path} has values below 0, which no saliency map has. Name one of 0 and up."
        )
    values = (values / values.max()).astype(float)  # a longer type goes beyond it
    if values.size > MOST_LEVELS:
        values = np.quantile(values, np.linspace(0, 1, MOST_LEVELS))
    return values

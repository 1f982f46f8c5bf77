"""The outputs of `test` for one picture: its map, overlay, contours, peaks, crop and mask."""

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

MAX_REFERENCE_VALUES = 2**20  # quantiles of a reference; more cost time for no gain


class OutputWriter:
    """Makes and writes the outputs of pictures.

    Args:
        settings: which outputs to write, with their options.

    Attributes:
        record: record of the inputs of each output; None to record nothing.

    Raises:
        UserError: the `crop` is not an aspect ratio, or the reference of `match` cannot be used.
    """

    def __init__(self, settings: PredictConfig) -> None:
        self.settings = settings
        self.record: MapRecord | None = None
        self.aspect = 1.0 if settings.crop is None else parse_aspect(settings.crop)
        self.reference = None if settings.match is None else read_reference(settings.match)

    def write(self, job: Job, saliency_map: NDArray, log_density: NDArray | None = None) -> None:
        """Write the requested outputs of a picture.

        Args:
            job: the picture and its output paths.
            saliency_map: [rows, columns], 0 to 1; changed in place.
            log_density: [rows, columns], of the map before matching and threshold; needed for the
                output "density" only.
        """
        rendered = RenderedPicture(job, self.adjusted(saliency_map), self, log_density)
        replaces = self.record and self.record.begin(job.source, job.outputs)
        for kind, path in job.outputs.items():
            make_folder(path.parent, inside=self.settings.output)
            write = WRITERS.get(path.suffix, write_image)
            write(path, MAKERS[kind](rendered))
        if self.record and replaces:
            self.record.end(job.source, job.outputs)

    def adjusted(self, saliency_map: NDArray) -> NDArray:
        """Return a map (0 to 1; changed in place) after histogram matching and the threshold."""
        if self.reference is not None:
            saliency_map = matched(saliency_map, self.reference)
        if self.settings.threshold:
            saliency_map[saliency_map < self.settings.threshold] = 0
        return saliency_map


class RenderedPicture:
    """A picture, its map, and the drawings that several outputs share."""

    def __init__(
        self,
        job: Job,
        saliency_map: NDArray,
        writer: OutputWriter,
        log_density: NDArray | None = None,
    ) -> None:
        self.job, self.map, self.writer, self.log_density = job, saliency_map, writer, log_density

    @cached_property
    def picture(self) -> NDArray[np.uint8]:
        """The picture at full size; the input of the network may have been decoded smaller."""
        return sample_image(job_sample(self.job))

    @cached_property
    def peaks(self) -> list[Peak]:
        """The most salient points; their number is `settings.peaks`."""
        return peaks(self.map, self.writer.settings.peaks)

    @cached_property
    def overlay(self) -> NDArray[np.uint8]:
        """The map in colour over the picture, with the peaks."""
        return self.numbered(overlay(self.picture, self.map, self.writer.settings.colormap))

    def numbered(self, drawn: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a drawing with the peaks; without peaks the drawing itself, not a copy."""
        return draw_peaks(drawn, self.peaks) if self.writer.settings.peaks else drawn

    def contours(self) -> NDArray[np.uint8]:
        """Return the picture with contour lines of its most salient areas, and the peaks."""
        return self.numbered(draw_contours(self.picture, self.map))

    def crop(self) -> NDArray[np.uint8]:
        """Return the crop of the picture that contains most saliency."""
        x, y, width, height = best_crop(self.map, self.writer.aspect)
        return self.picture[y : y + height, x : x + width]

    def points(self) -> list[dict[str, Any]]:
        """Return the peaks as JSON values."""
        return [
            {"rank": peak.rank, "x": peak.x, "y": peak.y, "strength": round(peak.strength, 4)}
            for peak in self.peaks
        ]


MAKERS: dict[str, Callable[[RenderedPicture], Any]] = {
    "map": lambda rendered: to_8_bit(rendered.map),
    "overlay": lambda rendered: rendered.overlay,
    "float": lambda rendered: rendered.map,
    "density": lambda rendered: rendered.log_density,
    "contours": RenderedPicture.contours,
    "peaks": RenderedPicture.points,
    "crop": RenderedPicture.crop,
    "mask": lambda rendered: to_8_bit(thresholded(rendered.map, rendered.writer.settings.mask)),
    "side_by_side": lambda rendered: side_by_side(
        rendered.picture,
        in_colours(rendered.map, rendered.writer.settings.colormap),
        rendered.overlay,
    ),
}
WRITERS: dict[str, Callable[[Path, Any], None]] = {".npy": write_array, ".json": write_json}


def job_sample(job: Job) -> Sample:
    """Return a job's picture as a `Sample`."""
    return Sample(job.source.name, job.source, shape=job.shape)


def read_reference(path: Path) -> NDArray[np.floating]:
    """Return the values of the reference map of `--match`, scaled to a maximum of 1.

    A map with more than `MAX_REFERENCE_VALUES` values is reduced to that number of quantiles.

    Raises:
        UserError: the file cannot be read, has values below 0, or is constant.
    """
    values = read_stored_map(path)
    values = values.astype(np.promote_types(values.dtype, float))
    if not values.size or values.min() == values.max():
        raise UserError(f"--match {path} is constant, and so would be every map. Name another map.")
    if values.min() < 0:
        raise UserError(f"--match {path} has values below 0. Name a map without negative values.")
    # scale first: longdouble values may exceed the range of float
    values = (values / values.max()).astype(float)
    if values.size > MAX_REFERENCE_VALUES:
        values = np.quantile(values, np.linspace(0, 1, MAX_REFERENCE_VALUES))
    return values

"""Network inputs of samples, and their truth on the grid of a network's map. Needs no Keras."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from salience.pictures.fixations import count_map, within
from salience.pictures.letterbox import Letterbox, OutputGrid, read_input
from salience.pictures.reading import sample_density, stamp
from salience.pictures.sample import Sample, Stored
from salience.system.arrays import Array
from salience.system.cache import make_key
from salience.system.files import real_path


def network_input(
    sample: Sample, input_shape: tuple[int, int]
) -> tuple[NDArray[np.uint8], Letterbox]:
    """Return a sample's picture as a network input, and the letterbox that placed the picture.

    The input comes from the sample's store if the store has this size, else from the picture file.

    Raises:
        UserError: the file cannot be read, or only a store of another size exists.
    """
    kept = sample.prepared
    if kept is None or (kept.input_shape != input_shape and isinstance(sample.image, Path)):
        return read_input(sample, input_shape)
    kept.require(rows=input_shape[0], cols=input_shape[1])
    assert sample.shape is not None  # a store records the shape of every picture
    return kept.picture(), Letterbox.fit(sample.shape, input_shape)


def input_identity(sample: Sample, input_shape: tuple[int, int]) -> str | None:
    """Return a digest that identifies the result of `network_input`, without reading the picture.

    None for pictures of a built-in data set and for missing files.
    """
    kept = sample.prepared
    if kept is not None and kept.input_shape == input_shape:
        about: tuple = ("store", kept.digest, kept.stored, sample.shape)
    else:
        try:
            about = stamp(sample.image)
        except OSError:
            return None
        if not about:
            return None
        file = sample.image.file if isinstance(sample.image, Stored) else sample.image
        about = (str(real_path(Path(file))), *about, sample.shape, sample.turned)  # type: ignore[arg-type]
    return make_key(network_input, cv2.__version__, input_shape, about)


def make_truth(
    sample: Sample, box: Letterbox, grid: OutputGrid, sigma_pixels: float | None
) -> Array:
    """Return density map and fixation counts on the output grid, [map rows, map cols, 2]."""
    density = grid.reduced(box.place(sample_density(sample, box.image_shape, sigma_pixels)))
    density /= max(float(density.max()), 1e-12)
    counts = np.zeros_like(density)
    if sample.fixations is not None:
        points = box.place_points(within(sample.fixations, box.image_shape))
        counts = count_map(grid.points(points), grid.shape(box.input_shape))
    return np.stack([density, counts], axis=-1).astype(np.float32)


def truth_name(sample: Sample, box: Letterbox) -> str:
    """Return the name of a sample's truth; with the shelf's key, it covers all dependencies."""
    about: tuple = ()
    if sample.map is not None:
        file = sample.map if isinstance(sample.map, Path) else sample.map.file
        about = (str(real_path(file)), *stamp(sample.map))
    return make_key(box, sample.sigma_pixels, sample.fixations, about)

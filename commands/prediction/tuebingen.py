"""Log-densities in one HDF5 file, for the MIT/Tuebingen benchmark and for pysaliency.

`pysaliency.HDF5Model(stimuli, file)` looks for a dataset named like each stimulus' file, with as
many of its folders as the names in this file have: `i1.jpg`, or `Action/001.jpg`. It is an array
[rows, columns] of the picture's size, of natural logarithms. pysaliency accepts a logsumexp from
-0.01 to 0.01, which it computes in the numbers of the file. In half floats, this sum is coarse: its
steps are 0.008 near 0.01. `problems_in` computes it in the same way.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from commands.prediction import engines
from commands.prediction.engines import Engine
from commands.settings import ExportMapsConfig
from salience.data import hdf5, loading
from salience.measures.density import log_density
from salience.networks import weight_files
from salience.pictures.letterbox import postprocess, read_input
from salience.pictures.reading import sample_shape
from salience.pictures.sample import Sample
from salience.system.errors import UserError
from salience.system.files import make_folder
from salience.system.terminal import progress
from salience.system.threads import in_order

TOLERANCE = 0.01  # of the logsumexp, in pysaliency's HDF5Model


def pictures_of(settings: ExportMapsConfig) -> list[Sample]:
    """Return the pictures: the test pictures of a benchmark, or a split of another data set.

    Raises:
        UserError: the data set or the split is not there.
    """
    name = settings.dataset
    module = loading.module_of(name, settings.data)
    if settings.split == "test" and hasattr(module, "submission_pictures"):
        return loading.submission_pictures(name, settings.data)
    return loading.load(name, settings.data, settings.split, truth=False)


def export(settings: ExportMapsConfig, samples: list[Sample], say: Callable[[str], None]) -> Path:
    """Write the log-densities of pictures; return the file.

    Args:
        settings: the model, the output folder and the precision.
        samples: the pictures.
        say: called with each message.

    Raises:
        UserError: no weights, a picture cannot be read, or the file exists.
    """
    weights = weight_files.choose(settings.weights, settings.weights_dir, say)
    path = settings.output / f"{weight_files.card_path(weights).stem}.hdf5"
    if path.exists() and not settings.overwrite:
        raise UserError(f"{path} exists. Replace it with --overwrite, or choose another --output.")
    engine = engines.load_adapted(
        engines.choose("auto"),
        weights,
        None,
        False,
        say,
        None,
        density=True,
        only_densities=True,
        has_flag=False,
    )
    make_folder(settings.output)
    slots, kind = BoundedSemaphore(engine.at_once), np.float16 if settings.half else np.float32
    one = partial(density_of, engine=engine, slots=slots, smooth=settings.smooth)
    threads = settings.workers + engine.at_once
    with (
        progress(len(samples), "densities") as bar,
        ThreadPoolExecutor(threads) as pool,
        hdf5.writing(path) as file,
    ):
        for sample, logs in in_order(pool, one, samples, threads):
            file.create_dataset(
                sample.name, data=logs.astype(kind), compression="gzip", shuffle=True
            )
            bar.update()
    return path


def density_of(
    sample: Sample, engine: Engine, slots: BoundedSemaphore, smooth: float
) -> NDArray[np.float32]:
    """Return the log-density of a picture, [rows, columns]; raises UserError."""
    x, box = read_input(sample, engine.input_shape)
    with slots:
        prediction = engine.maps(x[None])[0]
    return log_density(postprocess(prediction, box, engine.grid, smooth), engine.calibration)


def problems_in(path: Path, samples: list[Sample]) -> list[str]:
    """Return the problems of a file of log-densities, one line each.

    Args:
        path: the file, of this program or another.
        samples: the pictures.

    Raises:
        UserError: the file is missing, damaged or not HDF5.
    """
    problems, expected = [], {sample.name for sample in samples}
    try:
        with hdf5.open_checked(path) as file, progress(len(samples), "checking") as bar:
            for sample in samples:
                problem = problem_of(hdf5.get_child(file, sample.name), sample, str(path))
                problems += [f"{sample.name} {problem}"] if problem else []
                bar.update()
            there: list[str] = []
            file.visititems(
                lambda name, item: there.append(name) if isinstance(item, h5py.Dataset) else None
            )
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file.") from error
    except hdf5.DAMAGED as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not a file in HDF5, or is damaged ({error}).") from error
    return problems + [f"{name!r} is unexpected" for name in sorted(set(there) - expected)]


def problem_of(item: Any, sample: Sample, where: str) -> str:
    """Return the problem of one log-density, or ""."""
    if item is None:
        return "is missing"
    shape = sample_shape(sample)
    if not isinstance(item, h5py.Dataset) or item.shape != shape:
        size = "x".join(map(str, getattr(item, "shape", None) or ()))
        return f"has the shape {size or 'of no array'}, but its picture {shape[0]}x{shape[1]}"
    if item.dtype.kind != "f":
        return f"holds {item.dtype}, not floats"
    values = hdf5.read_numbers(item, f"{where}: {sample.name}")
    if np.isnan(values).any() or values.max() == np.inf:
        return "holds values that are not logarithms of a probability"
    found = log_sum(values)
    if abs(found) <= TOLERANCE:
        return ""
    remedy = "; try --half False" if values.dtype == np.float16 else ""
    return f"has a logsumexp of {found:.3g}, and pysaliency takes -0.01 to 0.01{remedy}"


def log_sum(values: NDArray) -> float:
    """Return the logsumexp that is farther from 0: that of pysaliency, or the exact one.

    pysaliency computes in the numbers of the file, which for half floats is coarse.
    """
    from scipy.special import logsumexp  # here: its import takes a third of a second

    with np.errstate(over="ignore"):
        found = [logsumexp(values), logsumexp(values.astype(np.float64))]
    return max((float(np.asarray(one)) for one in found), key=abs)

"""What `test` does: pictures in, saliency maps out; a stream that memory does not grow with."""

import errno
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import architectures
import weight_files
from collection import Collection, Job
from config import PredictConfig
from errors import UserError
from files import make_folder
from model import load_model
from pictures import overlay, sample_image, to_8_bit, write_array, write_image
from progress import progress
from sample import Sample
from utilities import Letterbox, OutputGrid, postprocess, read_input

# a disk that is full or read-only, not one picture's fault
NO_MORE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
NEWS_SECONDS = 60.0  # between two lines of news, where no bar is shown


def predict(images: list[str], settings: PredictConfig, say: Callable[[str], None] = print) -> int:
    """Write the saliency maps of pictures; return how many pictures gave none.

    Args:
        images: folders, files or globs.
        settings: what to write and where.
        say: gets each line of news.

    Raises:
        UserError: no pictures, no weights, or the output folder cannot be written.
    """
    with Collection(images, settings, say) as jobs:
        make_folder(settings.output)
        return write_maps(
            jobs,
            lambda: weight_files.choose(settings.weights, settings.weights_dir, say),
            settings,
            say,
        )


def write_maps(
    jobs: list[Job] | Collection,
    weights: Callable[[], Path],
    settings: PredictConfig,
    say: Callable[[str], None] = print,
) -> int:
    """Write the outputs that are not there yet; return how many pictures gave none.

    Args:
        jobs: the pictures and where their outputs go.
        weights: returns the weights file; asked only where something is to be predicted.
        settings: how.
        say: gets each line of news.

    Raises:
        UserError: the weights are not usable, or nothing can be written.
    """
    todo = Todo(jobs, settings.overwrite, say)
    failed = run(load_model(weights()), todo, settings) if todo.first else 0
    say(
        f"{todo.begun - failed} maps written to {settings.output}/"
        + (f" at {todo.rate:.1f} images/s" if todo.begun else "")
        + (f", {todo.kept} kept (--overwrite predicts them again)" if todo.kept else "")
        + (f", {failed} pictures skipped" if failed else "")
    )
    return failed


class Todo:
    """The jobs whose outputs are not there, looked for as they are asked for, and their progress.

    Where no bar is shown, as in the log of a batch queue, a line a minute says how far it is.

    Args:
        jobs: all of them.
        overwrite: whether outputs that are there do not count.
        say: gets each line of news.
    """

    def __init__(
        self, jobs: list[Job] | Collection, overwrite: bool, say: Callable[[str], None]
    ) -> None:
        self.jobs, self.total, self.overwrite, self.say = iter(jobs), len(jobs), overwrite, say
        self.kept = self.begun = self.ended = 0
        self.started = self.told = perf_counter()
        self.first = self._next()

    def _next(self) -> Job | None:
        """Return the next job with an output to write."""
        for job in self.jobs:
            if self.overwrite or not job.done:
                return job
            self.kept += 1
        return None

    def __iter__(self) -> Iterator[Job]:
        """Yield the jobs; once."""
        self.started = self.told = perf_counter()
        job = self.first
        while job:
            self.begun += 1
            yield job
            job = self._next()

    @property
    def rate(self) -> float:
        """Pictures a second since the first was asked for."""
        return self.begun / max(perf_counter() - self.started, 1e-9)

    def end(self, bar: tqdm, pictures: int) -> None:
        """Count pictures that have been predicted."""
        self.ended += pictures
        bar.total = self.total - self.kept
        bar.update(pictures)
        if bar.disable and perf_counter() - self.told > NEWS_SECONDS:
            self.told = perf_counter()
            rate = self.ended / (self.told - self.started)
            self.say(f"{self.ended} of {bar.total} pictures, {rate:.1f} images/s")


def run(model: Any, jobs: Todo, settings: PredictConfig) -> int:
    """Predict and write; return how many pictures could not be read, or their maps not written."""
    failed = 0
    input_shape, grid = model.input_shape[1:3], architectures.grid_of(model)
    bar = progress(jobs.total - jobs.kept, "pictures")
    with bar, ThreadPoolExecutor(settings.workers) as pool:
        ahead = settings.batch_size * 2 + settings.workers
        read = _in_order(pool, lambda job: _read(job, input_shape), jobs, ahead)
        writing: deque[Future] = deque()

        def skip(error: UserError) -> None:
            nonlocal failed
            failed += 1
            tqdm.write(f"skipped: {error}", file=sys.stderr)

        def finish(future: Future) -> None:
            try:
                future.result()
            except UserError as error:
                if getattr(error.__cause__, "errno", None) in NO_MORE:
                    raise  # no other map could be written either
                skip(error)

        for batch in _groups(read, settings.batch_size):
            good = []
            for item in batch:
                if isinstance(item, UserError):
                    skip(item)
                else:
                    good.append(item)
            if good:
                predictions = np.asarray(
                    model.predict_on_batch(np.stack([x for _, _, x, _ in good]))
                )
                for (job, image, _, box), prediction in zip(good, predictions, strict=True):
                    writing.append(pool.submit(_write, job, image, prediction, box, grid, settings))
            while len(writing) > ahead:
                finish(writing.popleft())
            jobs.end(bar, len(batch))
        for future in writing:
            finish(future)
    return failed


def _in_order(
    pool: ThreadPoolExecutor, function: Callable, items: Iterable, ahead: int
) -> Iterator[Any]:
    """Yield function(item) of each item in order, at most `ahead` of them computed in advance."""
    futures: deque[Future] = deque()
    for item in items:
        futures.append(pool.submit(function, item))
        if len(futures) > ahead:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def _groups(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Yield the items in lists of `size`; the last may be shorter."""
    while group := list(islice(items, size)):
        yield group


def _read(
    job: Job, input_shape: tuple[int, int]
) -> tuple[Job, NDArray[np.uint8], NDArray[np.uint8], Letterbox] | UserError:
    """Return a job with its picture and the network's input, or why it cannot be read."""
    sample = Sample(job.source.name, job.source, shape=job.shape)
    try:
        x, box = read_input(sample, input_shape)
        # in full only where it is drawn: the network's may have been decoded smaller
        image = sample_image(sample) if "overlay" in job.outputs else x
    except UserError as error:
        return error
    return job, image, x, box


def _write(
    job: Job,
    image: NDArray,
    prediction: NDArray,
    box: Letterbox,
    grid: OutputGrid,
    settings: PredictConfig,
) -> None:
    """Write the outputs of one picture."""
    saliency_map = postprocess(prediction, box, grid, settings.smooth)
    saliency_map[saliency_map < settings.threshold] = 0
    for kind, path in job.outputs.items():
        make_folder(path.parent)
        if kind == "map":
            write_image(path, to_8_bit(saliency_map))
        elif kind == "overlay":
            write_image(path, overlay(image, saliency_map, settings.colormap))
        else:
            write_array(path, saliency_map)

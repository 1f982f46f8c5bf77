"""What `test` does: pictures in, saliency maps out; a stream that memory does not grow with.

Videos that are named go to `video.py`.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import BoundedSemaphore
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from commands.prediction import engines, video
from commands.prediction.engines import Engine
from commands.prediction.inputs import Collection, Job
from commands.prediction.map_record import MapRecord, State, made_of_else, no_record
from commands.prediction.outputs import Outputs, job_sample
from config import PredictConfig
from salience.networks import weight_files
from salience.pictures.headers import room
from salience.pictures.letterbox import Letterbox, postprocess, read_input
from salience.system.errors import StorageError, UserError
from salience.system.files import make_folder
from salience.system.notes import Notes
from salience.system.terminal import REPORT_SECONDS, progress, tell
from salience.system.threads import groups, in_order


def run(settings: PredictConfig) -> bool:
    """Carry out `test`; return whether every picture got its map."""
    if not settings.images and not settings.listed:
        raise UserError("No pictures: name a folder, a picture or a glob, or a file with --list.")
    return not predict(settings)


def predict(settings: PredictConfig, say: Callable[[str], None] = tell) -> int:
    """Write the saliency maps of pictures and videos; return how many gave none.

    Args:
        settings: of what (videos among the files that are named, too), what to write and where.
        say: gets each line of news.

    Raises:
        UserError: no pictures, no weights, a setting is of no use, or the output folder cannot be
            written.
    """
    choose = cache(lambda: weight_files.choose(settings.weights, settings.weights_dir, say))
    # asks for the weights, whose lack is told before anything counts as kept
    record = cache(lambda: MapRecord(settings, choose()))
    outputs = Outputs(settings)  # first: what is wrong with the settings is said alone
    clips, images = video.apart(list(settings.images), settings.recursive)
    failed = 0
    if images or settings.listed or not clips:
        with Collection(images, settings, say) as jobs:
            failed = write_maps(jobs, choose, outputs, say, record)
    if clips:
        alone = not (images or settings.listed)
        failed += video.predict_videos(clips, choose, outputs, say, alone, record)
    return failed


def write_maps(
    jobs: list[Job] | Collection,
    weights: Callable[[], Path],
    outputs: Outputs,
    say: Callable[[str], None] = tell,
    record: Callable[[], MapRecord] | None = None,
) -> int:
    """Write the outputs that are not there yet; return how many pictures gave none.

    What is there counts where the record says that it was made of the same picture, weights and
    settings. Else it is made anew; what has no record is left as it is, and counted as none.

    Args:
        jobs: the pictures and where their outputs go.
        weights: returns the weights file; asked only where something is to be predicted.
        outputs: how they are made and written.
        say: gets each line of news.
        record: returns that of what the outputs that are there were made of, and needs the weights;
            None where the caller knows.

    Raises:
        UserError: the weights are not usable, or nothing can be written.
    """
    settings = outputs.settings
    outputs.record = record() if record else None
    todo = Todo(jobs, settings.overwrite, say, outputs.record)
    failed = 0
    if todo.first:
        engine = engines.chosen(settings.engine)  # what is absent leaves no empty folder behind
        make_folder(settings.output)
        failed = predict_and_write(
            engines.as_asked(engine, weights(), settings.adaptation, settings.mirror, say),
            todo,
            outputs,
        )
    say(
        f"{todo.begun - failed} maps written to {settings.output}/"
        + (f" at {todo.rate:.1f} images/s" if todo.begun > failed else "")
        + (f", {todo.replaced} of them in place of others" if todo.replaced else "")
        + (f", {todo.kept} kept (--overwrite predicts them again)" if todo.kept else "")
        + (f", {failed} pictures skipped" if failed else "")
        + (f", {todo.unknown} left as they are, for want of a record" if todo.unknown else "")
    )
    return failed + todo.unknown


class Todo:
    """The jobs whose outputs are not there, looked for as they are asked for, and their progress.

    Where no bar is shown, as in the log of a batch queue, a line a minute says how far it is.

    Args:
        jobs: all of them.
        overwrite: whether outputs that are there do not count.
        say: gets each line of news.
        record: of what they were made of; None where all that are there count.

    Attributes:
        kept: pictures whose outputs are there.
        replaced: those that have some that were made of something else.
        unknown: those that have some of which nothing is on record.
    """

    def __init__(
        self,
        jobs: list[Job] | Collection,
        overwrite: bool,
        say: Callable[[str], None],
        record: MapRecord | None = None,
    ) -> None:
        self.jobs, self.total, self.overwrite, self.say = iter(jobs), len(jobs), overwrite, say
        self.record = record
        self.kept = self.replaced = self.unknown = self.begun = self.ended = 0
        self.started = self.told = perf_counter()
        self.first = self._next()

    def _next(self) -> Job | None:
        """Return the next job with an output to write."""
        for job in self.jobs:
            state = State.MISSING if self.overwrite else self._state(job)
            if state is State.KEPT:
                self.kept += 1
            elif state is State.UNKNOWN:
                self.unknown += 1
                if self.unknown == 1:
                    self.say(no_record(job.outputs["map"]))
            else:
                self.replaced += state is State.OTHER
                if state is State.OTHER and self.replaced == 1:
                    self.say(made_of_else(job.outputs["map"]))
                return job
        return None

    def _state(self, job: Job) -> State:
        """Return how the outputs stand that are there."""
        if self.record is None:
            return State.KEPT if job.done else State.MISSING
        # unlike Path.is_file, this answers for a name that is too long, too
        return self.record.state(job.source, job.outputs, os.path.isfile)

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
        bar.total = self.total - self.kept - self.unknown
        bar.update(pictures)
        if bar.disable and perf_counter() - self.told > REPORT_SECONDS:
            self.told = perf_counter()
            rate = self.ended / (self.told - self.started)
            self.say(f"{self.ended} of {bar.total} pictures, {rate:.1f} images/s")


def predict_and_write(engine: Engine, jobs: Todo, outputs: Outputs) -> int:
    """Predict and write; return how many pictures could not be read, or their maps not written.

    Each thread sees a batch through, from its files to its maps, so that reading, the network and
    writing overlap. As many threads predict as the engine takes, `workers` more read and write.
    """
    failed, settings, odd = 0, outputs.settings, Counter[str]()
    first: dict[str, str] = {}
    bar = progress(jobs.total - jobs.kept - jobs.unknown, "pictures")
    turns = BoundedSemaphore(engine.at_once)
    threads = settings.workers + engine.at_once
    with bar, ThreadPoolExecutor(threads) as pool:
        batches = groups(iter(jobs), settings.batch_size)
        done = in_order(pool, lambda batch: _see_through(batch, engine, turns, outputs), batches,
                        threads)  # fmt: skip
        for batch, (errors, notes) in done:
            for error in errors:
                failed += 1
                tqdm.write(f"skipped: {error}", file=sys.stderr)
            for kind, names in notes.found.items():  # of a million pictures one name is kept
                odd[kind] += len(names)
                first.setdefault(kind, names[0])
            jobs.end(bar, len(batch))
    for kind, count in odd.items():
        jobs.say(f"note: {count} pictures {kind}; read nevertheless, the first is {first[kind]}")
    return failed


def _see_through(
    batch: list[Job], engine: Engine, turns: BoundedSemaphore, outputs: Outputs
) -> tuple[list[UserError], Notes]:
    """Read a batch, predict it and write its maps; return what went wrong with single pictures.

    The notes say what was odd about others, and did no harm.

    Raises:
        UserError: no map can be written.
    """
    errors, good, notes = [], [], Notes()
    for job in batch:
        try:
            good.append((job, *_read(job, engine.input_shape, notes)))
        except UserError as error:
            errors.append(error)
        except MemoryError:
            errors.append(too_large(job))
    if not good:
        return errors, notes
    with turns:
        predictions = engine.maps(np.stack([x for _, x, _ in good]))
    for (job, _, box), prediction in zip(good, predictions, strict=True):
        try:
            with room(box.image_shape):
                _write(job, prediction, box, engine, outputs)
        except StorageError:
            raise  # no other map could be written either
        except UserError as error:
            errors.append(error)
        except MemoryError:
            errors.append(too_large(job))
    return errors, notes


def too_large(job: Job) -> UserError:
    """Return the error of a picture that takes more memory than this machine gives."""
    return UserError(f"{job.source} takes more memory than there is. Scale it down.")


def _read(
    job: Job, input_shape: tuple[int, int], notes: Notes
) -> tuple[NDArray[np.uint8], Letterbox]:
    """Return the network's input, and the box that placed the picture.

    Raises:
        UserError: the picture cannot be read.
    """
    return read_input(job_sample(job), input_shape, notes)


def _write(job: Job, prediction: NDArray, box: Letterbox, engine: Engine, outputs: Outputs) -> None:
    """Write the outputs of one picture."""
    made = postprocess(prediction, box, engine.grid, outputs.settings.smooth)
    outputs.write(job, engine.adaptation.apply(made))

"""The command `test`: predicts saliency maps of pictures with constant memory.

Videos are predicted by `video.py`.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice
from pathlib import Path
from threading import BoundedSemaphore
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from commands.prediction import engines, video
from commands.prediction.engines import Engine
from commands.prediction.inputs import Collection, Job, requested_kinds
from commands.prediction.map_record import MapRecord, State, outdated_message, unrecorded_message
from commands.prediction.outputs import OutputWriter, job_sample
from config import PredictConfig
from salience.measures.density import log_density
from salience.networks import weight_files
from salience.pictures.headers import room
from salience.pictures.letterbox import Letterbox, postprocess, read_input
from salience.pictures.picture_files import opencv_threads
from salience.pictures.screens import LOOK
from salience.system.errors import StorageError, UserError
from salience.system.files import make_folder
from salience.system.notes import Notes
from salience.system.terminal import REPORT_SECONDS, counted, progress, tell
from salience.system.threads import groups, in_order, keep_freed_memory


def run(settings: PredictConfig) -> bool:
    """Run the command `test`; return True if every picture has its map."""
    if not settings.images and not settings.listed:
        raise UserError("No pictures: name a folder, a picture or a glob, or a file with --list.")
    return not predict(settings)


def predict(settings: PredictConfig, say: Callable[[str], None] = tell) -> int:
    """Write the saliency maps of pictures and videos; return the number without a map.

    Args:
        settings: the pictures and videos, the kinds of output and their folder.
        say: called with each message.

    Raises:
        UserError: no pictures, no weights, an unusable setting, or the output folder cannot be
            written.
    """
    choose = cache(lambda: weight_files.choose(settings.weights, settings.weights_dir, say))
    # needs the weights: missing weights are reported before any map counts as up to date
    record = cache(lambda: MapRecord(settings, choose()))
    writer = OutputWriter(settings)  # first, to report invalid settings before anything else
    clips, images = video.split_videos(list(settings.images), settings.recursive)
    failed = 0
    shown, pictures = [], 0
    if images or settings.listed or not clips:
        with Collection(images, settings, say) as jobs:
            failed = write_maps(jobs, choose, writer, say, record)
            if settings.page:
                shown, pictures = list(islice(jobs, settings.gallery)), len(jobs)
    if clips:
        only_videos = not (images or settings.listed)
        failed += video.predict_videos(clips, choose, writer, say, only_videos, record)
    if settings.page:
        from commands.prediction.page import write_page  # here: pages take a second to import

        failed += write_page(settings, shown, pictures, clips, choose, say)
    return failed


def write_maps(
    jobs: list[Job] | Collection,
    weights: Callable[[], Path],
    writer: OutputWriter,
    say: Callable[[str], None] = tell,
    record: Callable[[], MapRecord] | None = None,
) -> int:
    """Write the outputs that are missing or outdated; return the number of pictures without a map.

    An output is up to date if the record holds the same picture, weights and settings. Existing
    outputs without a record are left unchanged, and their pictures count as being without a map.

    Args:
        jobs: the pictures and their output paths.
        weights: returns the weights file; called only if a picture must be predicted.
        writer: makes and writes the outputs.
        say: called with each message.
        record: returns the record of the output folder, which needs the weights; None to count all
            existing outputs as up to date.

    Raises:
        UserError: the weights cannot be used, or an output cannot be written.
    """
    settings = writer.settings
    writer.record = record() if record else None
    pending = PendingJobs(jobs, settings.overwrite, say, writer.record)
    failed = 0
    if pending.first:
        engine = engines.choose(settings.engine)  # before the folder: the engine may be missing
        make_folder(settings.output)
        failed = predict_and_write(
            engines.load_adapted(
                engine,
                weights(),
                settings.adaptation,
                settings.mirror,
                say,
                settings.of_set,
                "density" in requested_kinds(settings),
                settings.smooth,
            ),
            pending,
            writer,
        )
    written = pending.begun - failed
    say(
        f"{counted(written, 'map')} written to {settings.output}/"
        + (f" at {pending.rate:.1f} images/s" if written else "")
        + (
            f", {min(pending.replaced, written)} of them in place of outdated ones"
            if pending.replaced and written
            else ""
        )
        + (f", {pending.kept} kept (--overwrite predicts them again)" if pending.kept else "")
        + (f", {counted(failed, 'picture')} skipped" if failed else "")
        + (
            f", {pending.unrecorded} left unchanged because they have no record"
            if pending.unrecorded
            else ""
        )
    )
    return failed + pending.unrecorded


class PendingJobs:
    """Iterator over the jobs that must be predicted, with their progress.

    If no progress bar is shown, as in the log of a batch queue, a message is printed every minute.

    Args:
        jobs: all jobs.
        overwrite: whether to predict jobs whose outputs exist.
        say: called with each message.
        record: record of the output folder; None to count all existing outputs as up to date.

    Attributes:
        kept: number of pictures whose outputs are up to date.
        replaced: number of pictures with outdated outputs.
        unrecorded: number of pictures with outputs that have no record.
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
        self.kept = self.replaced = self.unrecorded = self.begun = self.ended = 0
        self.started = self.reported = perf_counter()
        self.first = self._next()

    def _next(self) -> Job | None:
        """Return the next job that must be predicted, or None."""
        for job in self.jobs:
            state = State.MISSING if self.overwrite else self._state(job)
            if state is State.UP_TO_DATE:
                self.kept += 1
            elif state is State.UNRECORDED:
                self.unrecorded += 1
                if self.unrecorded == 1:
                    self.say(unrecorded_message(job.outputs["map"]))
            else:
                self.replaced += state is State.OUTDATED
                if state is State.OUTDATED and self.replaced == 1:
                    self.say(outdated_message(job.outputs["map"]))
                return job
        return None

    def _state(self, job: Job) -> State:
        """Return the state of a job's outputs."""
        if self.record is None:
            return State.UP_TO_DATE if job.done else State.MISSING
        # Path.is_file raises an error for a name that is too long
        return self.record.state(job.source, job.outputs, os.path.isfile)

    def __iter__(self) -> Iterator[Job]:
        """Yield the jobs; can be called once."""
        self.started = self.reported = perf_counter()
        job = self.first
        while job:
            self.begun += 1
            yield job
            job = self._next()

    @property
    def rate(self) -> float:
        """Pictures per second since the iteration began."""
        return self.begun / max(perf_counter() - self.started, 1e-9)

    def end(self, bar: tqdm, pictures: int) -> None:
        """Count pictures that have been predicted, and report the progress."""
        self.ended += pictures
        bar.total = self.total - self.kept - self.unrecorded
        bar.update(pictures)
        if bar.disable and perf_counter() - self.reported > REPORT_SECONDS:
            self.reported = perf_counter()
            rate = self.ended / (self.reported - self.started)
            self.say(f"{self.ended} of {bar.total} pictures, {rate:.1f} images/s")


def predict_and_write(engine: Engine, jobs: PendingJobs, writer: OutputWriter) -> int:
    """Predict pictures and write their outputs; return the number of pictures that failed.

    Each thread processes one batch, from its files to its maps, so that reading, the network and
    writing overlap. `engine.at_once` threads predict, and `workers` more read and write.
    """
    keep_freed_memory()
    failed, settings, note_counts = 0, writer.settings, Counter[str]()
    first: dict[str, str] = {}
    bar = progress(jobs.total - jobs.kept - jobs.unrecorded, "pictures")
    slots = BoundedSemaphore(engine.at_once)
    threads = settings.workers + engine.at_once
    # a single picture gets all of OpenCV's threads
    alone = opencv_threads(min(threads, max(1, jobs.total)))
    with bar, alone, ThreadPoolExecutor(threads) as pool:
        batches = groups(iter(jobs), settings.batch_size)
        done = in_order(pool, lambda batch: _process_batch(batch, engine, slots, writer), batches,
                        threads)  # fmt: skip
        for batch, (errors, notes) in done:
            for error in errors:
                failed += 1
                tqdm.write(f"skipped: {error}", file=sys.stderr)
            for kind, names in notes.found.items():  # only the first name, as there may be millions
                note_counts[kind] += len(names)
                first.setdefault(kind, names[0])
            jobs.end(bar, len(batch))
    screens = note_counts.pop(LOOK, 0)
    for kind, count in note_counts.items():
        jobs.say(f"note: {counted(count, 'picture')} {kind}; read, first: {first[kind]}")
    if screens:
        jobs.say(
            f"note: {counted(screens, 'picture')} {LOOK}, first: {first[LOOK]}. The weights' "
            f"card: {engine.limits}"
        )
    return failed


def _process_batch(
    batch: list[Job], engine: Engine, slots: BoundedSemaphore, writer: OutputWriter
) -> tuple[list[UserError], Notes]:
    """Read a batch, predict it and write its outputs.

    Returns:
        The errors of pictures that failed, and notes on harmless defects of the others.

    Raises:
        StorageError: no output can be written.
    """
    errors, good, notes = [], [], Notes()
    for job in batch:
        try:
            x, box = _read(job, engine.input_shape, notes)
            good.append((job, x, box))
            if engine.is_outside_limits(x, box):
                notes.add(LOOK, job.source.name)
        except UserError as error:
            errors.append(error)
        except MemoryError:
            errors.append(too_large(job))
    if not good:
        return errors, notes
    with slots:
        predictions = engine.maps(np.stack([x for _, x, _ in good]))
    for (job, _, box), prediction in zip(good, predictions, strict=True):
        try:
            with room(box.image_shape):
                _write(job, prediction, box, engine, writer)
        except StorageError:
            raise  # would also fail for every other map
        except UserError as error:
            errors.append(error)
        except MemoryError:
            errors.append(too_large(job))
    return errors, notes


def too_large(job: Job) -> UserError:
    """Return the error for a picture that needs more memory than is available."""
    return UserError(f"{job.source} needs more memory than is available. Scale it down.")


def _read(
    job: Job, input_shape: tuple[int, int], notes: Notes
) -> tuple[NDArray[np.uint8], Letterbox]:
    """Return the network's input, uint8 [rows, columns, 3], and the picture's letterbox.

    Raises:
        UserError: the picture cannot be read.
    """
    return read_input(job_sample(job), input_shape, notes)


def _write(
    job: Job, prediction: NDArray, box: Letterbox, engine: Engine, writer: OutputWriter
) -> None:
    """Write the outputs of one picture."""
    saliency_map = postprocess(prediction, box, engine.grid, writer.settings.smooth)
    # before the map is written, which may change it in place
    logs = log_density(saliency_map, engine.calibration) if "density" in job.outputs else None
    writer.write(job, engine.finish.apply(saliency_map), logs)

"""What `test` does: pictures in, saliency maps out; a stream that memory does not grow with."""

import errno
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import architectures
import weight_files
from config import PredictConfig
from errors import UserError
from files import make_folder
from model import load_model
from pictures import overlay, sample_image, to_8_bit, write_array, write_image
from progress import progress
from sample import IMAGE_SUFFIXES, Sample
from utilities import Letterbox, OutputGrid, network_input, postprocess

# a disk that is full or read-only, not one picture's fault
NO_MORE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


@dataclass(frozen=True)
class Job:
    """A picture and the outputs asked for."""

    source: Path
    outputs: dict[str, Path]  # by kind: map, overlay, float
    # rows and columns of the picture where its EXIF data may tell otherwise (see `sample_image`)
    shape: tuple[int, int] | None = None

    @property
    def done(self) -> bool:
        """Whether every output is there."""
        # unlike Path.is_file, this answers for a name that is too long, too
        return all(os.path.isfile(path) for path in self.outputs.values())  # noqa: PTH113


def predict(images: list[str], settings: PredictConfig, say: Callable[[str], None] = print) -> int:
    """Write the saliency maps of pictures; return how many pictures gave none.

    Args:
        images: folders, files or globs.
        settings: what to write and where.
        say: gets each line of news.

    Raises:
        UserError: no pictures, no weights, or the output folder cannot be written.
    """
    sources = find_images(images, settings.recursive, settings.output)
    make_folder(settings.output)
    return write_maps(
        plan(sources, settings),
        lambda: weight_files.choose(settings.weights, settings.weights_dir, say),
        settings,
        say,
    )


def write_maps(
    jobs: list[Job],
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
    waiting = [job for job in jobs if settings.overwrite or not job.done]
    kept = len(jobs) - len(waiting)
    failed = run(load_model(weights()), waiting, settings) if waiting else 0
    say(
        f"{len(waiting) - failed} maps written to {settings.output}/"
        + (f", {kept} kept (--overwrite predicts them again)" if kept else "")
        + (f", {failed} pictures skipped" if failed else "")
    )
    return failed


def find_images(images: list[str], recursive: bool, output: Path) -> list[tuple[Path, Path]]:
    """Return (file, path relative to the output) of each picture, sorted within each argument.

    Where the output folder lies inside a searched one, its files are left out, so that a second run
    over `.` does not predict the first one's maps.

    Raises:
        UserError: an argument names nothing, a folder holds no picture, or the maps would go among
            the pictures.
    """
    found: dict[Path, Path] = {}
    several = len(images) > 1
    for text in images:
        path = Path(text)
        if text and path.is_dir():
            if path.resolve() == output.resolve():
                raise UserError(
                    f"--output {output} is the folder of the pictures: the next run would take the "
                    "maps for pictures. Choose another."
                )
            inside = sorted(path.rglob("*") if recursive else path.glob("*"))
            files = [
                p
                for p in inside
                if p.suffix.lower() in IMAGE_SUFFIXES
                and (p.is_file() or p.is_symlink())  # a broken link is named when it is read
                and not _lies_in(p, output, path)
            ]
            if not files:
                hint = "" if recursive else " Its sub-folders are searched with --recursive."
                raise UserError(f"No pictures in the folder {path}.{hint}")
            root = Path(path.resolve().name) if several else Path()
            found.update((p, root / p.relative_to(path)) for p in files if p not in found)
        elif path.is_file():
            found.setdefault(path, Path(path.name))
        else:
            matches = [Path(p) for p in sorted(glob(text, recursive=recursive))]
            files = [p for p in matches if p.is_file() and not _lies_in(p, output, Path())]
            if not text or not files:
                raise UserError(f"No picture or folder at '{text}'.")
            found.update((p, Path(p.name)) for p in files if p not in found)
    return list(found.items())


def _lies_in(path: Path, output: Path, searched: Path) -> bool:
    """Return whether a file lies in the output folder, and that inside the searched one."""
    there = output.resolve()
    nested = there != searched.resolve() and there.is_relative_to(searched.resolve())
    return nested and path.resolve().is_relative_to(there)


def plan(sources: list[tuple[Path, Path]], settings: PredictConfig) -> list[Job]:
    """Return a job a picture, so that no two pictures write the same file, and none a picture.

    A picture's map is named like the picture; where that is not unique the old suffix is kept in
    the name (a.jpg.png), and where that is not enough a number is added.
    """
    stems = [relative.with_suffix("") for _, relative in sources]
    shared = {stem for stem, n in _counts(stems).items() if n > 1}
    pictures = {source.resolve() for source, _ in sources}
    taken: set[Path] = set()
    jobs = []
    for (source, relative), stem in zip(sources, stems, strict=True):
        base = relative if stem in shared else stem
        numbered = (base.with_name(f"{base.name}-{n}") for n in range(2, len(sources) + 3))
        outputs = next(
            made
            for name in (base, relative, *numbered)
            if not taken & set((made := _all_outputs(name, settings)).values())
            and pictures.isdisjoint(path.resolve() for path in made.values())
        )
        taken |= set(outputs.values())
        wanted = {"map": True, "overlay": settings.overlay, "float": settings.float_maps}
        jobs.append(Job(source, {k: path for k, path in outputs.items() if wanted[k]}))
    return jobs


def _counts(stems: Iterable[Path]) -> dict[Path, int]:
    """Return how often each stem occurs."""
    counts: dict[Path, int] = {}
    for stem in stems:
        counts[stem] = counts.get(stem, 0) + 1
    return counts


def _all_outputs(name: Path, settings: PredictConfig) -> dict[str, Path]:
    """Return every file that a picture could write, whether asked for or not: names stay put."""
    base = settings.output / name
    return {
        "map": base.with_name(f"{base.name}.png"),
        "overlay": base.with_name(f"{base.name}_overlay.png"),
        "float": base.with_name(f"{base.name}.npy"),
    }


def run(model: Any, jobs: list[Job], settings: PredictConfig) -> int:
    """Predict and write; return how many pictures could not be read, or their maps not written."""
    failed = 0
    input_shape, grid = model.input_shape[1:3], architectures.grid_of(model)
    bar = progress(len(jobs), "pictures")
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
            bar.update(len(batch))
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
        x, box = network_input(sample, input_shape)
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

"""What `export-maps` does: the maps of a benchmark's pictures as it asks for them, and their check.

What they ask for, and where it is said:

* MIT300 and CAT2000 (saliency.mit.edu/submission_mit300.html and submission_cat2000.html): ".jpg
  images of the same size and name as the original images", CAT2000's in its 20 folders, "as a zip
  or tar folder with the name of your model as the folder name". saliency.tuebingen.ai, where both
  are scored now, pairs maps and pictures by the end of their paths without suffix, and reads PNG as
  well as JPEG, but one of them throughout (github.com/matthias-k/saliency-benchmarking, and
  pysaliency's SaliencyMapModelFromArchive). So JPEG is written, as asked, at quality 100, which
  moves a value by a level of 255, seldom two; in the check PNG passes, too.
* SALICON (LSUN 2017; competitions.codalab.org/competitions/17136, whose upload page is for those
  who log in): no public page says what the files are. Written is what the set's own maps are: 8-bit
  grey PNG, which loses nothing, named like the pictures. No folder is around them, as CodaLab's
  scorers look at the top of what was uploaded (github.com/codalab/codalab-competitions, issue
  2709). The challenge of 2015, with maps as text inside JSON (salicon.net/upload), is closed.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, cast

import cv2
import numpy as np

from commands.prediction.inputs import Job
from commands.settings import ExportMapsConfig
from config import PredictConfig
from salience.data.loading import submission_pictures
from salience.pictures.headers import header_shape
from salience.pictures.sample import Sample
from salience.system.archives import Member, members, write_zip
from salience.system.errors import UserError
from salience.system.files import (
    composed,
    content_stamp,
    file_digest,
    lies_in_clutter,
    make_folder,
    read_json,
    real_path,
    telling,
    write_json,
)
from salience.system.terminal import progress, tell

JPEG_LOSS = 8  # levels that the peak of a map may lose in JPEG, as others may write it
MAP_BYTES = 64 * 2**20  # no map of 1920 x 1080 takes a tenth of this
SHOWN = 20  # problems that are printed; all are counted


@dataclass(frozen=True)
class BenchmarkFormat:
    """What a benchmark asks for.

    Attributes:
        pictures: how many it has.
        suffixes: of the maps: the one that is written, then others that it reads as well.
        in_folder: whether the archive holds one folder, named like the model.
    """

    pictures: int
    suffixes: tuple[str, ...]
    in_folder: bool


BENCHMARK_FORMATS = {
    "mit300": BenchmarkFormat(300, (".jpg", ".png"), in_folder=True),
    "cat2000": BenchmarkFormat(2000, (".jpg", ".png"), in_folder=True),
    "salicon": BenchmarkFormat(5000, (".png",), in_folder=False),
}


def run(settings: ExportMapsConfig) -> bool:
    """Carry out `export-maps`; return whether nothing is wrong with the submission."""
    return not export_maps(settings)


def export_maps(settings: ExportMapsConfig, say: Callable[[str], None] = tell) -> list[str]:
    """Write a submission, or check one that is there; return what is wrong with it.

    Args:
        settings: the benchmark, its pictures, and the model or the submission to check.
        say: gets each line of news.

    Raises:
        UserError: no pictures, no weights, maps of another model are there, or the output cannot
            be written.
    """
    samples = submission_pictures(settings.format, settings.data)
    form = BENCHMARK_FORMATS[settings.format]
    if len(samples) != form.pictures:
        say(f"warning: {len(samples)} pictures; {settings.format} has {form.pictures}")
    if settings.check:
        return told(settings.check, validate(settings.check, samples, settings.format), say)

    from commands.prediction.outputs import Outputs
    from commands.prediction.predict import write_maps
    from salience.networks import weight_files  # here: a check needs no network

    weights = weight_files.choose(settings.weights, settings.weights_dir, say)
    model = weight_files.card_path(weights).stem
    folder, archive = make_folder(settings.output) / model, settings.output / f"{model}.zip"
    names = [map_name(sample, form.suffixes[0]) for sample in samples]
    # the pictures of the benchmarks are files
    images = [cast(Path, sample.image) for sample in samples]
    jobs = [
        Job(image, {"map": folder / name}, sample.shape)
        for sample, image, name in zip(samples, images, names, strict=True)
    ]
    made_of = {
        "format": settings.format,
        "weights": file_digest(weights),
        "smooth": settings.smooth,
        "pictures": contents(images),
    }
    claim(folder, images, [job.outputs["map"] for job in jobs], made_of, settings.overwrite)
    how = PredictConfig(
        output=folder,
        smooth=settings.smooth,
        batch_size=settings.batch_size,
        workers=settings.workers,
    )
    with suppress(OSError):
        archive.unlink()  # an earlier one, which would be taken for that of the maps to come
    failed = write_maps(jobs, lambda: weights, Outputs(how), say)
    if failed:
        problem = f"{failed} pictures gave no map, so no archive is written"
        say(f"problem: {problem}")
        return [problem]
    around = f"{model}/" if form.in_folder else ""
    write_zip(archive, {around + name: folder / name for name in names})
    return told(archive, validate(archive, samples, settings.format), say)


def contents(images: list[Path]) -> str:
    """Return a digest of what pictures hold."""
    digest = hashlib.sha256()
    for image in images:
        with suppress(OSError, UserError):  # told when it is read
            digest.update(f"{image.name} {content_stamp(image)}\n".encode(errors="replace"))
    return digest.hexdigest()


def map_name(sample: Sample, suffix: str) -> str:
    """Return the name of a picture's map within a submission: the picture's, with a map's suffix.

    >>> map_name(Sample("Action/001.jpg", Path("001.jpg")), ".png")
    'Action/001.png'
    """
    return PurePosixPath(sample.name).with_suffix(suffix).as_posix()


def claim(
    folder: Path, images: list[Path], maps: list[Path], made_of: dict[str, Any], overwrite: bool
) -> None:
    """Note in a file beside the folder what its maps are made of, so that none is kept of another.

    Raises:
        UserError: the maps that are there are made of something else, or pictures are in their
            place.
    """
    if not {real_path(image) for image in images}.isdisjoint(real_path(path) for path in maps):
        raise UserError(f"{folder} holds the pictures themselves. Choose another --output.")
    # not MODEL.json: so is the card of weights called, which may lie in the same folder
    record = folder.with_name(f"{folder.name}.maps.json")
    there = [path for path in maps if path.exists()]
    if overwrite:
        for path in there:
            with telling(f"Cannot remove {path}", "choose another --output"):
                path.unlink()
    elif there and (not record.exists() or read_json(record) != made_of):
        raise UserError(
            f"{folder} holds maps of other weights or settings, or of another benchmark. Predict "
            "them again with --overwrite, or choose another --output."
        )
    write_json(record, made_of)


def told(submission: Path, problems: list[str], say: Callable[[str], None]) -> list[str]:
    """Say what a check has found, and return it."""
    for problem in problems[:SHOWN]:
        say(f"problem: {problem}")
    if len(problems) > SHOWN:
        say(f"... and {len(problems) - SHOWN} more")
    say(f"{submission}: {f'{len(problems)} problems' if problems else 'read again, all is well'}")
    return problems


def validate(submission: Path, samples: list[Sample], format: str) -> list[str]:
    """Read a submission from disk and return what is wrong with it, a line each.

    Every picture has one map, and nothing else is there; each map can be read, is 8-bit grey, has
    its picture's size, and spans the range up to 255.

    Args:
        submission: an archive, or a folder.
        samples: the benchmark's pictures.
        format: of `BENCHMARK_FORMATS`.

    Raises:
        UserError: there is no such file, or the archive is damaged.
    """
    with _entries(submission) as entries:
        names = Counter(composed(entry.name) for entry in entries if not entry.is_folder)
    wanted = _wanted(names, samples, BENCHMARK_FORMATS[format])
    clutter = [name for name in names if lies_in_clutter(PurePosixPath(name))]
    problems = [f"{name} is missing" for name in wanted if name not in names]
    if clutter:
        problems.append(f"{len(clutter)} files are a system's own ({clutter[0]!r}): leave them out")
    problems += [f"{name!r} is there {count} times" for name, count in names.items() if count > 1]
    by_base = {PurePosixPath(name).name: name for name in wanted}
    for name in sorted(names.keys() - wanted.keys() - set(clutter)):
        meant = by_base.get(PurePosixPath(name).name)
        hint = f", as {meant} is" if meant else ""
        problems.append(f"{name!r} is not asked for{hint}")
    with _entries(submission) as entries, progress(len(wanted), "checking") as bar:
        for entry in entries:
            name = composed(entry.name)
            if not entry.is_folder and name in wanted:
                fault = entry.trouble or _fault(entry, wanted[name])
                problems += [f"{name} {fault}"] if fault else []
                bar.update()
    return problems


@contextmanager
def _entries(submission: Path) -> Iterator[Iterator[Member]]:
    """Give the files of a folder, or the entries of an archive."""
    if not submission.is_dir():
        with members(submission) as entries:
            yield entries
        return
    yield (
        Member(
            path.relative_to(submission).as_posix(), path.stat().st_size, False, "",
            partial(path.open, "rb"), 0,
        )
        for path in sorted(submission.rglob("*"))
        if path.is_file() and not lies_in_clutter(path.relative_to(submission))
    )  # fmt: skip


def _wanted(
    names: Iterable[str], samples: list[Sample], form: BenchmarkFormat
) -> dict[str, Sample]:
    """Return the samples by the names that their maps should have in a submission of these names.

    One kind of file and, where the format has one, one folder around all are taken as they are.
    """
    names = [name for name in names if not lies_in_clutter(PurePosixPath(name))]
    suffix = next(
        (s for s in form.suffixes if any(name.endswith(s) for name in names)), form.suffixes[0]
    )
    plain = {map_name(sample, suffix): sample for sample in samples}
    tops = {name.split("/")[0] if "/" in name else "" for name in names}
    around = tops.pop() if form.in_folder and len(tops) == 1 else ""
    if not around or any(name.startswith(f"{around}/") for name in plain):
        return plain
    return {f"{around}/{name}": sample for name, sample in plain.items()}


def _fault(entry: Member, sample: Sample) -> str:
    """Return what is wrong with a map, or nothing."""
    if entry.size > MAP_BYTES:
        return f"has {entry.size} bytes, more than a map can take"
    try:
        with entry.open() as file:
            data = file.read()
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    shape = sample.shape or header_shape(cast(Path, sample.image))
    there = header_shape(io.BytesIO(data))
    if shape is None:
        return f"cannot be checked: its picture {sample.image} cannot be read"
    if there is None:
        return "is not a picture that can be read"
    if there != shape:  # before decoding, as a header can promise any size
        return f"is {there[1]} x {there[0]}, but its picture {shape[1]} x {shape[0]}"
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        return "is not a picture that can be read: truncated?"
    if values.ndim != 2:
        return f"is in colour: {values.shape[2]} channels, where one is asked for"
    if values.dtype != np.uint8:
        return f"has {8 * values.itemsize} bits a pixel, where 8 are asked for"
    if values.min() == values.max():
        return f"is {values.max()} everywhere"
    loss = 0 if entry.name.endswith(".png") else JPEG_LOSS
    if values.max() < 255 - loss:
        return f"has the maximum {values.max()}: it does not use the 8 bits up to 255"
    return ""

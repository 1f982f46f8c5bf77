"""The command `export-maps`: writes and checks a benchmark's submission.

Formats and their sources:

* MIT300 and CAT2000 (saliency.mit.edu/submission_mit300.html and submission_cat2000.html): ".jpg
  images of the same size and name as the original images", CAT2000's in its 20 folders, "as a zip
  or tar folder with the name of your model as the folder name". saliency.tuebingen.ai, where both
  are scored now, pairs maps and pictures by the end of their paths without suffix. It reads PNG and
  JPEG, but not both in one archive (github.com/matthias-k/saliency-benchmarking, and pysaliency's
  SaliencyMapModelFromArchive). So JPEG is written, at quality 100, which changes values by one
  level of 255, rarely by two. The check accepts PNG, too.
  Densities: one HDF5 file of log-densities (`commands/prediction/tuebingen.py`).
* SALICON (LSUN 2017; competitions.codalab.org/competitions/17136, whose upload page needs a login):
  no public page describes the format. Maps are written like those of the data set: 8-bit grey PNG,
  which is lossless, named like the pictures. They are not in a folder, as CodaLab's scorers look at
  the top level of the archive (github.com/codalab/codalab-competitions, issue 2709). The challenge
  of 2015, with maps as text inside JSON (salicon.net/upload), is closed.
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
from commands.settings import TUEBINGEN, ExportMapsConfig
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
from salience.system.terminal import counted, progress, tell

MAX_JPEG_LOSS = 8  # levels of 255 that a map's maximum may lose in JPEGs of other programs
MAX_MAP_BYTES = 64 * 2**20  # more than ten times the size of a map of 1920 x 1080
MAX_SHOWN = 20  # problems that are printed; all are counted


@dataclass(frozen=True)
class BenchmarkFormat:
    """The submission format of a benchmark.

    Attributes:
        pictures: number of its test pictures.
        suffixes: suffixes of maps: the one that is written, then others that are accepted.
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
    """Run the command `export-maps`; return True if the submission has no problems."""
    return not export_maps(settings)


def export_maps(settings: ExportMapsConfig, say: Callable[[str], None] = tell) -> list[str]:
    """Write a submission, or check an existing one; return its problems.

    Args:
        settings: the benchmark, its pictures, and the model or the submission to check.
        say: called with each message.

    Raises:
        UserError: no pictures, no weights, the folder holds maps of another model, or the output
            cannot be written.
    """
    if settings.format == TUEBINGEN:
        return export_densities(settings, say)
    samples = submission_pictures(settings.format, settings.data)
    benchmark = BENCHMARK_FORMATS[settings.format]
    incomplete = []
    if len(samples) != benchmark.pictures:
        there = f"{len(samples)} of {benchmark.pictures} pictures are in --data"
        incomplete = [f"{there}: {settings.format} takes maps of all"]
    if settings.check:
        problems = incomplete + validate(settings.check, samples, settings.format)
        return report_problems(settings.check, problems, say)

    from commands.prediction.outputs import OutputWriter
    from commands.prediction.predict import write_maps
    from salience.networks import weight_files  # here: a check needs no network

    weights = weight_files.choose(settings.weights, settings.weights_dir, say)
    model = weight_files.card_path(weights).stem
    folder, archive = make_folder(settings.output) / model, settings.output / f"{model}.zip"
    names = [map_name(sample, benchmark.suffixes[0]) for sample in samples]
    # the pictures of the benchmarks are files
    images = [cast(Path, sample.image) for sample in samples]
    jobs = [
        Job(image, {"map": folder / name}, sample.shape)
        for sample, image, name in zip(samples, images, names, strict=True)
    ]
    inputs = {
        "format": settings.format,
        "weights": file_digest(weights),
        "smooth": settings.smooth,
        "pictures": contents_digest(images),
    }
    record_inputs(folder, images, [job.outputs["map"] for job in jobs], inputs, settings.overwrite)
    predict_settings = PredictConfig(
        output=folder,
        smooth=settings.smooth,
        batch_size=settings.batch_size,
        workers=settings.workers,
    )
    with suppress(OSError):
        archive.unlink()  # an earlier archive does not hold the new maps
    failed = write_maps(jobs, lambda: weights, OutputWriter(predict_settings), say)
    if failed:
        problem = f"{counted(failed, 'picture')} without a map, so no archive is written"
        say(f"problem: {problem}")
        return [problem]
    prefix = f"{model}/" if benchmark.in_folder else ""
    write_zip(archive, {prefix + name: folder / name for name in names})
    return report_problems(archive, incomplete + validate(archive, samples, settings.format), say)


def export_densities(settings: ExportMapsConfig, say: Callable[[str], None]) -> list[str]:
    """Write log-densities in one HDF5 file, or check one; return its problems.

    The arguments and the errors are those of `export_maps`.
    """
    from commands.prediction import tuebingen

    samples = tuebingen.pictures_of(settings)
    path = settings.check or tuebingen.export(settings, samples, say)
    return report_problems(path, tuebingen.problems_in(path, samples), say)


def contents_digest(images: list[Path]) -> str:
    """Return a digest of the contents of pictures."""
    digest = hashlib.sha256()
    for image in images:
        with suppress(OSError, UserError):  # reported when the picture is read
            digest.update(f"{image.name} {content_stamp(image)}\n".encode(errors="replace"))
    return digest.hexdigest()


def map_name(sample: Sample, suffix: str) -> str:
    """Return the name of a picture's map in a submission: the picture's name with another suffix.

    >>> map_name(Sample("Action/001.jpg", Path("001.jpg")), ".png")
    'Action/001.png'
    """
    return PurePosixPath(sample.name).with_suffix(suffix).as_posix()


def record_inputs(
    folder: Path, images: list[Path], maps: list[Path], inputs: dict[str, Any], overwrite: bool
) -> None:
    """Record the inputs of a folder's maps in a file beside it, so that no outdated map is kept.

    Raises:
        UserError: existing maps were made of other inputs, or the folder holds the pictures.
    """
    if not {real_path(image) for image in images}.isdisjoint(real_path(path) for path in maps):
        raise UserError(f"{folder} holds the pictures themselves. Choose another --output.")
    # not MODEL.json, which is the name of the weights' card, maybe in the same folder
    record = folder.with_name(f"{folder.name}.maps.json")
    there = [path for path in maps if path.exists()]
    if overwrite:
        for path in there:
            with telling(f"Cannot remove {path}", "choose another --output"):
                path.unlink()
    elif there and (not record.exists() or read_json(record) != inputs):
        raise UserError(
            f"{folder} holds maps of other weights or settings, or of another benchmark. Predict "
            "them again with --overwrite, or choose another --output."
        )
    write_json(record, inputs)


def report_problems(submission: Path, problems: list[str], say: Callable[[str], None]) -> list[str]:
    """Report the problems that a check has found; return them."""
    for problem in problems[:MAX_SHOWN]:
        say(f"problem: {problem}")
    if len(problems) > MAX_SHOWN:
        say(f"... and {len(problems) - MAX_SHOWN} more")
    count = counted(len(problems), "problem") if problems else "read again, no problems"
    say(f"{submission}: {count}")
    return problems


def validate(submission: Path, samples: list[Sample], format: str) -> list[str]:
    """Read a submission from disk and return its problems, one line each.

    Each picture must have one map, and there must be no other files. Each map must be readable,
    8-bit grey, of its picture's size, and have a maximum of 255.

    Args:
        submission: an archive, or a folder.
        samples: the benchmark's pictures.
        format: key of `BENCHMARK_FORMATS`.

    Raises:
        UserError: there is no such file, or the archive is damaged.
    """
    with _entries(submission) as entries:
        names = Counter(composed(entry.name) for entry in entries if not entry.is_folder)
    expected = _expected_names(names, samples, BENCHMARK_FORMATS[format])
    clutter = [name for name in names if lies_in_clutter(PurePosixPath(name))]
    problems = [f"{name} is missing" for name in expected if name not in names]
    if clutter:
        problems.append(
            f"{len(clutter)} files of the operating system ({clutter[0]!r}): remove them"
        )
    problems += [f"{name!r} occurs {count} times" for name, count in names.items() if count > 1]
    by_base = {PurePosixPath(name).name: name for name in expected}
    for name in sorted(names.keys() - expected.keys() - set(clutter)):
        meant = by_base.get(PurePosixPath(name).name)
        hint = f"; expected is {meant}" if meant else ""
        problems.append(f"{name!r} is unexpected{hint}")
    with _entries(submission) as entries, progress(len(expected), "checking") as bar:
        for entry in entries:
            name = composed(entry.name)
            if not entry.is_folder and name in expected:
                problem = entry.trouble or _problem_of(entry, expected[name])
                problems += [f"{name} {problem}"] if problem else []
                bar.update()
    return problems


@contextmanager
def _entries(submission: Path) -> Iterator[Iterator[Member]]:
    """Yield an iterator over the files of a folder or an archive."""
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


def _expected_names(
    names: Iterable[str], samples: list[Sample], benchmark: BenchmarkFormat
) -> dict[str, Sample]:
    """Return the samples by the expected names of their maps in a submission of these names.

    The suffix, and the name of the folder if the format has one, are taken from the submission.
    """
    names = [name for name in names if not lies_in_clutter(PurePosixPath(name))]
    suffix = next(
        (s for s in benchmark.suffixes if any(name.endswith(s) for name in names)),
        benchmark.suffixes[0],
    )
    plain = {map_name(sample, suffix): sample for sample in samples}
    tops = {name.split("/")[0] if "/" in name else "" for name in names}
    prefix = tops.pop() if benchmark.in_folder and len(tops) == 1 else ""
    if not prefix or any(name.startswith(f"{prefix}/") for name in plain):
        return plain
    return {f"{prefix}/{name}": sample for name, sample in plain.items()}


def _problem_of(entry: Member, sample: Sample) -> str:
    """Return the problem of a map, or an empty string."""
    if entry.size > MAX_MAP_BYTES:
        return f"has {entry.size} bytes, too many for a map"
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
    if there != shape:  # checked before decoding, as a header can claim any size
        return f"is {there[1]} x {there[0]}, but its picture {shape[1]} x {shape[0]}"
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        return "is not a picture that can be read: truncated?"
    if values.ndim != 2:
        return f"is in colour: {values.shape[2]} channels instead of one"
    if values.dtype != np.uint8:
        return f"has {8 * values.itemsize} bits per pixel instead of 8"
    if values.min() == values.max():
        return f"is constant ({values.max()})"
    loss = 0 if entry.name.endswith(".png") else MAX_JPEG_LOSS
    if values.max() < 255 - loss:
        return f"has a maximum of {values.max()} instead of 255"
    return ""

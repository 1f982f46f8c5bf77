"""The page of `test --page`: collects pictures, maps, regions and other versions from the outputs.

The page is made from the files of the output folder. So it shows pictures of earlier calls, too,
and nothing is predicted twice.
"""

import os
import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commands.pages.pictures_page import Shown, View, compared, view, write_pictures_page
from commands.prediction import engines, predict
from commands.prediction.inputs import Job, find_pictures, shortened
from commands.prediction.key_frames import POINTS, key_frames, with_other_videos
from commands.prediction.map_record import MapRecord, State
from commands.prediction.outputs import OutputWriter, job_sample
from commands.prediction.video import outputs_of
from commands.regions.measured import on_picture, outline, predicted_rows, windows_of
from commands.regions.pairs import Version
from config import PredictConfig
from salience.data import regions
from salience.data.regions import Region
from salience.networks import weight_files
from salience.pictures.headers import room
from salience.pictures.marks import Peak, peaks
from salience.pictures.picture_files import read_map
from salience.pictures.reading import sample_image
from salience.pictures.sample import IMAGE_SUFFIXES
from salience.pictures.video_files import has_video_suffix, is_video
from salience.system.arrays import UNREADABLE, read_array
from salience.system.errors import UserError
from salience.system.files import read_json
from salience.system.flags import typed_flags
from salience.system.notes import Notes
from salience.system.terminal import COMMAND_LINE, counted, tell
from salience.system.threads import in_order

PAGE = "index.html"
OTHERS = "against.maps"  # folder of the maps of --against, inside the output folder

Choose = Callable[[], Path]


def write_page(
    settings: PredictConfig,
    jobs: list[Job],
    pictures: int,
    clips: list[Path],
    weights: Choose,
    say: Callable[[str], None] = tell,
) -> int:
    """Write the page of pictures and key frames; return the number of other maps that are missing.

    Args:
        settings: the settings of `test`.
        jobs: the first pictures; those without a map of these settings are left out.
        pictures: number of all pictures.
        clips: the videos.
        weights: returns the weights file.
        say: called with each message.

    Raises:
        UserError: the regions or --against cannot be used, or the page cannot be written.
    """
    notes, failed = Notes(), 0
    if pictures > len(jobs):
        notes.explain(
            f"The page shows the first {len(jobs)} of {pictures} pictures (--gallery shows more)."
        )
    names = {job.source: name_of(job, settings.output) for job in jobs}
    assigned = assigned_regions(settings, list(names.values()), notes)
    others: dict[Path, Job] = {}
    other_record: MapRecord | None = None
    other_clips: dict[Path, tuple[Path, Path]] = {}
    if settings.against is not None:
        refuse_names_of_others(settings, clips)
        own, other_weights = other_settings(settings, weights, notes, say)
        say(f"against {settings.against}:")
        if jobs and has_video_suffix(Path(settings.against)):
            notes.explain("--against names videos: pictures are shown alone.")
        elif jobs:
            others, failed = other_versions(settings, own, jobs, other_weights, notes, say)
            other_record = MapRecord(own, other_weights()) if others else None
        if clips:
            files = settings.against if are_files(settings.against) else None
            other_clips, missing = with_other_videos(clips, own, files, other_weights, notes, say)
            failed += missing
    record = MapRecord(settings, weights())
    shown: list[Shown] = []

    def made(job: Job) -> Shown | UserError | None:
        name, other = names[job.source], others.get(job.source)
        if not is_current(record, job):
            return None
        if other and other_record and not is_current(other_record, other):
            notes.add("pictures have no other map of this call: shown alone", name)
            other = None
        try:
            return shown_picture(job, name, assigned.get(name, ()), other, settings, notes)
        except UserError as error:
            return error

    with ThreadPoolExecutor(settings.workers) as pool:
        for job, one in in_order(pool, made, iter(jobs), settings.workers):
            if isinstance(one, Shown):
                shown.append(one)
            else:
                reason = f": {one}" if one else ""
                notes.add(f"pictures have no map of this call: left out{reason}", names[job.source])
    for clip in clips:
        try:
            shown += list(key_frames(clip, clips, settings, record, other_clips.get(clip), notes))
        except UserError as error:
            notes.add(f"videos cannot be read: left out: {error}", clip.name)
    path = settings.output / PAGE
    labels = (
        labels_of(settings, weights)
        if any(one.other for one in shown)
        else [f"weights {weight_files.name_of(weights())}"]
    )
    write_pictures_page(path, {
        "shown": shown,
        "labels": labels,
        "colormap": settings.colormap,
        "notes": notes.lines(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([*COMMAND_LINE, "test", *typed_flags(settings)]),
    })  # fmt: skip
    for line in notes.lines():
        say(f"note: {line}")
    say(f"wrote {path}: {counted(len(shown), 'picture')}, {path.stat().st_size / 1e6:.1f} MB")
    return failed


def is_current(record: MapRecord, job: Job) -> bool:
    """Return whether the outputs of a picture exist and are those of this call."""
    return record.state(job.source, job.outputs, os.path.isfile) is State.UP_TO_DATE


def refuse_names_of_others(settings: PredictConfig, clips: list[Path]) -> None:
    """Raise UserError if the maps of a video would lie in the folder of the other version."""
    for clip, paths in outputs_of(clips, settings.output, settings.video_maps).items():
        if paths.get("maps") == settings.output / OTHERS:
            raise UserError(
                f"The maps of {clip} are in {OTHERS}, which the page needs for those of --against. "
                "Rename the video, or leave --against out."
            )


def name_of(job: Job, output: Path) -> str:
    """Return a picture's name on the page: the path of its map, with the picture's suffix."""
    path = job.outputs["map"].relative_to(output).with_suffix("")
    suffix = job.source.suffix
    is_cut = path.name + suffix == job.source.name  # as x.png of a picture x.png.png
    return str(path) if path.suffix == suffix and not is_cut else f"{path}{suffix}"


def assigned_regions(
    settings: PredictConfig, names: list[str], notes: Notes
) -> dict[str, tuple[Region, ...]]:
    """Return the regions of each picture by name; {} without --regions."""
    if settings.regions is None or not names:
        return {}
    read = regions.read(settings.regions)
    found, missing = regions.assign(read, names, settings.regions)
    if not found:
        raise UserError(
            f"{settings.regions} names {', '.join(list(read)[:3])}, but none of the {len(names)} "
            f"pictures of the page, such as {names[0]}."
        )
    for name in missing:
        notes.add(f"pictures that {settings.regions} names are not on the page", name)
    return found


def shown_picture(
    job: Job,
    name: str,
    own_regions: tuple[Region, ...],
    other: Job | None,
    settings: PredictConfig,
    notes: Notes,
) -> Shown:
    """Return what the page shows of a picture and of its other version.

    Raises:
        UserError: the picture or its map cannot be read.
    """
    own, own_map = view_of(job, name, own_regions, settings, notes)
    if other is None:
        return Shown(name, own)
    # on other pictures the regions are the same: a warning of one would repeat the other's
    found, other_map = view_of(other, name, own_regions, settings, Notes())
    return compared(name, own, found, own_map, other_map)


def view_of(
    job: Job, name: str, own_regions: tuple[Region, ...], settings: PredictConfig, notes: Notes
) -> tuple[View, NDArray]:
    """Return what the page shows of one version of a picture, and its map."""
    saliency_map = read_map(job.outputs["map"])
    rows, columns = saliency_map.shape
    with room((rows, columns)):
        picture = sample_image(job_sample(job))
        outlines: list[dict[str, Any]] = []
        if own_regions:
            logs = density_in(job.outputs["density"])
            version = on_picture(Version(job_sample(job), own_regions), (rows, columns), notes)
            windows = windows_of(version, (rows, columns), notes)
            measured = predicted_rows(np.exp(logs, dtype=np.float64), windows)
            shares = {row["name"]: row["share"] for row in measured}
            outlines = [outline(one, shares[one.name], (rows, columns)) for one in version.regions]
        points = peaks_of(job, saliency_map, settings)
        return view(picture, saliency_map, points, outlines), saliency_map


def density_in(path: Path) -> NDArray:
    """Return the log-density in a file; raises UserError for a damaged one."""
    try:
        return read_array(path)
    except UNREADABLE as error:
        raise UserError(
            f"{path} is damaged ({error}). Remove the file, and run the command again."
        ) from error


def peaks_of(job: Job, saliency_map: NDArray, settings: PredictConfig) -> list[Peak]:
    """Return the peaks that `--peaks` has written, else the strongest of the 8-bit map."""
    path = job.outputs.get("peaks")
    if path is None:
        return peaks(saliency_map, settings.peaks or POINTS)
    return [Peak(**point) for point in read_json(path)]


def other_settings(
    settings: PredictConfig, weights: Choose, notes: Notes, say: Callable[[str], None]
) -> tuple[PredictConfig, Choose]:
    """Return the settings and the weights by which the other version is predicted.

    The outputs are maps, and densities if there are regions, in a folder of the output folder.

    Args:
        settings: the settings of the page.
        weights: returns its weights, which other pictures are predicted by, too.
        notes: notes of the page.
        say: called with the choice of other weights.
    """
    assert settings.against is not None
    own = replace(
        settings, output=settings.output / OTHERS, page=False, against=None, regions=None,
        images=(), density=settings.regions is not None, overlay=False, float_maps=False,
        contours=False, peaks=0, crop=None, mask=0.0, side_by_side=False,
    )  # fmt: skip
    if are_files(settings.against):
        return own, weights
    own = replace(own, weights=Path(settings.against))
    chosen = cache(lambda: weight_files.choose(own.weights, own.weights_dir, say))
    flags = {
        "of_set": ("--set", lambda: own.of_set and engines.check_set(chosen(), own.of_set)),
        "adaptation": (
            "--adaptation",
            lambda: engines.finish_for(chosen(), own.adaptation, None, own.smooth, lambda _: None),
        ),
    }
    for name, (flag, tried) in flags.items():
        try:
            tried()
        except UserError as error:  # it belongs to the first weights
            notes.explain(f"{flag} is left out for {settings.against}: {error}")
            own = replace(own, **{name: None})
    return own, chosen


def other_versions(
    settings: PredictConfig,
    own: PredictConfig,
    jobs: list[Job],
    weights: Choose,
    notes: Notes,
    say: Callable[[str], None],
) -> tuple[dict[Path, Job], int]:
    """Predict what `--against` names; return a job for each picture, and the number without a map.

    Args:
        settings: the settings of the page.
        own: the settings of the other version, see `other_settings`.
        jobs: the pictures of the page.
        weights: returns the weights of the other version.
        notes: notes of the page.
        say: called with each message.
    """
    assert settings.against is not None
    folder = own.output
    kinds = {"map": ".png", **({"density": ".density.npy"} if own.density else {})}

    def outputs(job: Job) -> dict[str, Path]:
        name = job.outputs["map"].relative_to(settings.output).with_suffix("")
        return {kind: Path(shortened(str(folder / name), end)) for kind, end in kinds.items()}

    if are_files(settings.against):
        sources = other_pictures(settings, jobs, notes)
        pairs = {
            job.source: Job(sources[job.source], outputs(job))
            for job in jobs if job.source in sources
        }  # fmt: skip
    else:
        pairs = {job.source: Job(job.source, outputs(job), job.shape) for job in jobs}
    failed = predict.write_maps(
        list(pairs.values()), weights, OutputWriter(own), say, lambda: MapRecord(own, weights())
    )
    return pairs, failed


def are_files(against: str) -> bool:
    """Return whether `--against` names a folder, pictures or videos; else it names weights."""
    path = Path(against)
    is_named = path.suffix.lower() in IMAGE_SUFFIXES or has_video_suffix(path)
    return path.is_dir() or is_named or any(c in against for c in "*?")


def other_pictures(settings: PredictConfig, jobs: list[Job], notes: Notes) -> dict[Path, Path]:
    """Return the picture of `--against` for each picture: the one with the same path or file name.

    A single picture and a single other one need no common name.

    Raises:
        UserError: no picture has another version, or a name is ambiguous.
    """
    assert settings.against is not None
    found = list(
        find_pictures([settings.against], settings.recursive, None, settings.output, lambda _: None)
    )
    if len(found) == len(jobs) == 1:
        return {jobs[0].source: Path(found[0][0])}
    # a path, with and without its suffix, comes before the name alone
    by_kind: list[dict[str, list[str]]] = [{}, {}, {}]
    for path, relative in found:
        for keys, key in zip(by_kind, keys_of(relative), strict=True):
            keys.setdefault(key, []).append(path)
    chosen = {}
    for job in jobs:
        name = name_of(job, settings.output)
        own_keys = zip(by_kind, keys_of(name), strict=True)
        fitting = next((keys[key] for keys, key in own_keys if key in keys), [])
        if len(fitting) > 1:
            raise UserError(f"{name} has two other versions: {fitting[0]} and {fitting[1]}.")
        if fitting:
            chosen[job.source] = Path(fitting[0])
        else:
            notes.add(f"pictures are not in {settings.against}: shown alone", name)
    if not chosen:
        raise UserError(
            f"--against {settings.against} holds no picture called like {jobs[0].source.name}."
        )
    return chosen


def keys_of(name: str) -> tuple[str, str, str]:
    """Return a picture's path, its path without suffix, and its name without suffix."""
    stem = PurePath(name).with_suffix("")
    return name, str(stem), stem.name


def labels_of(settings: PredictConfig, weights: Choose) -> list[str]:
    """Return what the page calls the two versions: the weights, or the folders or files."""
    against = settings.against or ""
    if not are_files(against):
        return [weight_files.name_of(weights()), weight_files.name_of(Path(against))]
    named = [text for text in settings.images if Path(text).is_dir()]
    named = named or [text for text in settings.images if is_video(Path(text))]
    own = named[0] if len(named) == 1 else "these"
    names = [Path(text).name or text for text in (own, against)]
    return names if names[0] != names[1] else [own, against]

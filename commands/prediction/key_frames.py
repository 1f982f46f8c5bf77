"""Key frames of videos on the page of `test --page`, alone or beside those of another version.

The other version is the same video by other weights, or another video of the same name. Both are
predicted whole, since smoothing over time and cuts decide about the map of a frame.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from commands.pages.pictures_page import Shown, compared, view
from commands.prediction.map_record import MapRecord, State
from commands.prediction.outputs import OutputWriter
from commands.prediction.video import outputs_of, predict_videos, split_videos
from config import PredictConfig
from salience.pictures.marks import peaks
from salience.pictures.picture_files import read_map
from salience.pictures.video_files import has_video_suffix, open_clip
from salience.system.arrays import array_of
from salience.system.notes import Notes

POINTS = 5  # numbered points without --peaks
KEY_FRAMES = 6  # of a video, evenly spaced among the predicted frames
READABLE = ("png", "npz")  # formats of `--maps` whose frames can be read singly


def with_other_videos(
    clips: list[Path],
    own: PredictConfig,
    against: str | None,
    weights: Callable[[], Path],
    notes: Notes,
    say: Callable[[str], None],
) -> tuple[dict[Path, tuple[Path, Path]], int]:
    """Predict the other version of videos.

    Args:
        clips: the videos.
        own: settings of the other version; its output folder gets the outputs.
        against: files of `--against`; None if it names weights.
        weights: returns the weights of the other version.
        notes: notes of the page.
        say: called with each message.

    Returns:
        For each video its other version and the maps of that, and the number of videos that were
        not written or are incomplete.
    """
    if own.video_maps not in READABLE:
        return {}, 0  # `key_frames` says why there are none
    own = replace(own, density=False)  # of pictures only
    others = dict(zip(clips, clips, strict=True))
    if against is not None:
        others = paired(clips, against, own.recursive, notes)
    if not others:
        return {}, 0
    named = list(dict.fromkeys(others.values()))
    failed = predict_videos(
        named, weights, OutputWriter(own), say, False, lambda: MapRecord(own, weights())
    )
    maps, record = {}, MapRecord(own, weights())
    for other, paths in outputs_of(named, own.output, own.video_maps, own.contours).items():
        if record.state(other, paths, os.path.exists) is State.UP_TO_DATE:
            maps[other] = paths["maps"]
        else:
            notes.add("videos have no other maps of this call: shown alone", other.name)
    return {clip: (other, maps[other]) for clip, other in others.items() if other in maps}, failed


def paired(clips: list[Path], against: str, recursive: bool, notes: Notes) -> dict[Path, Path]:
    """Return the video of `--against` for each video: the one with the same name.

    The suffix may differ. A single video and a single other one need no common name.
    """
    path = Path(against)
    if path.is_dir():
        found = path.rglob("*") if recursive else path.iterdir()
        videos = sorted(one for one in found if has_video_suffix(one) and one.is_file())
    else:
        videos, _ = split_videos([against], recursive)
    if len(clips) == len(videos) == 1:
        return {clips[0]: videos[0]}
    pairs = {}
    for clip in clips:
        fitting = [one for one in videos if one.name == clip.name] or [
            one for one in videos if one.stem == clip.stem
        ]
        if len(fitting) == 1:
            pairs[clip] = fitting[0]
        else:
            notes.add(f"videos have no single namesake in {against}: shown alone", clip.name)
    return pairs


def key_frames(
    clip: Path,
    clips: list[Path],
    settings: PredictConfig,
    record: MapRecord,
    other: tuple[Path, Path] | None,
    notes: Notes,
) -> Iterator[Shown]:
    """Yield some predicted frames of a video, evenly spaced.

    Args:
        clip: the video.
        clips: all videos.
        settings: the settings of `test`.
        record: the record of its output folder.
        other: another version of the video, and its maps; None to show the frames alone.
        notes: notes of the page.
    """
    paths = outputs_of(clips, settings.output, settings.video_maps, settings.contours)[clip]
    path = paths.get("maps")
    if path is None or settings.video_maps not in READABLE or not path.exists():
        notes.add("videos have no key frames on the page, which needs --maps png or npz", clip.name)
        return
    if record.state(clip, paths, os.path.exists) is not State.UP_TO_DATE:
        notes.add("videos have no maps of this call: left out", clip.name)
        return
    maps, other_maps = stored_maps(path), {}
    if other and other[1].exists():
        other_maps = stored_maps(other[1])
        if not maps.keys() & other_maps.keys():
            notes.add("videos have no predicted frame in common: shown alone", clip.name)
            other_maps = {}
    numbers = sorted(maps.keys() & other_maps.keys() or maps)
    places = np.linspace(0, len(numbers) - 1, min(KEY_FRAMES, len(numbers))).round().astype(int)
    wanted = [numbers[place] for place in places]
    pictures = {}
    if other and other_maps and other[0] != clip:
        pictures = {number: frame for number, _, frame in frames_of(other[0], wanted)}
    for number, seconds, frame in frames_of(clip, wanted):
        name = f"{clip.name}, {seconds:.1f} s (frame {number})"
        saliency_map = maps[number]()
        own = view(frame, saliency_map, peaks(saliency_map, settings.peaks or POINTS), [])
        if number not in other_maps:
            yield Shown(name, own)
            continue
        other_map = other_maps[number]()
        points = peaks(other_map, settings.peaks or POINTS)
        found = view(pictures.get(number, frame), other_map, points, [])
        yield compared(name, own, found, saliency_map, other_map)


def frames_of(clip: Path, wanted: list[int]) -> Iterator[tuple[int, float, NDArray[np.uint8]]]:
    """Yield number, seconds and picture of the wanted frames of a video."""
    for number, (seconds, frame) in enumerate(open_clip(clip).frames()):
        if number in wanted:
            yield number, seconds, frame
        if not wanted or number >= wanted[-1]:
            return


def stored_maps(path: Path) -> dict[int, Callable[[], NDArray]]:
    """Return, by number of the frame, a function that reads its map, 0 to 1."""
    if path.is_dir():
        files = [one for one in path.glob("*.png") if one.stem.isdecimal()]
        return {int(one.stem): lambda one=one: read_map(one) for one in files}

    def read(name: str) -> NDArray:
        with ZipFile(path) as archive, archive.open(name) as file:
            values = array_of(file.read())
        return values.astype(np.float32) / (255 if values.dtype == np.uint8 else 1)

    with ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name[:-4].isdecimal()]
        return {int(name[:-4]): lambda name=name: read(name) for name in names}

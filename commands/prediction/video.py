"""What `test` does with a video: an overlay video, and the maps of its frames.

The video is read twice, side by side: for the network, which sees each N-th frame, and for the
overlay. So what goes on in time (smoothing, and the maps between) is done on the network's small
maps, and no frame waits for another's map: memory depends on the size of a frame, not on how many
there are.
"""

import math
import os
import re
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from glob import iglob
from itertools import chain, repeat
from pathlib import Path
from threading import BoundedSemaphore
from time import perf_counter
from typing import NamedTuple
from zipfile import ZIP_DEFLATED, ZipFile

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from commands.prediction import engines
from commands.prediction.engines import Engine
from commands.prediction.inputs import number
from commands.prediction.map_record import MapRecord, State, made_of_else, no_record
from commands.prediction.outputs import Outputs
from salience.pictures.headers import room
from salience.pictures.letterbox import Letterbox, postprocess
from salience.pictures.picture_files import overlay, to_8_bit
from salience.pictures.sample import VIDEO_SUFFIXES
from salience.pictures.video_files import Clip, Movie, add_sound, is_video, open_clip, steady
from salience.system.arrays import Array
from salience.system.errors import NotBegun, UserError, printable
from salience.system.files import make_folder, move, real_path, scratch
from salience.system.signals import heeded
from salience.system.terminal import REPORT_SECONDS, progress
from salience.system.threads import groups, in_order

# a cut changes hue, saturation and brightness by more, on average, between two frames; that of
# PySceneDetect's ContentDetector
CUT = 27.0
CUT_SIZE = 64, 48  # columns and rows that are enough to see it
REACH = 3  # standard deviations at which the Gaussian over time ends
# how many frames fewer than the file says are no loss: sound may be longer, and counts are guessed
UNSURE_SECONDS, UNSURE_SHARE = 0.25, 0.05


class Key(NamedTuple):
    """A frame that is predicted.

    Attributes:
        frame: its number, from 0.
        scene: the number of cuts before it.
        cells: its map on the network's grid, the maximum 1.
    """

    frame: int
    scene: int
    cells: Array


class Drawn(NamedTuple):
    """What is written of a frame.

    Attributes:
        picture: its overlay, BGR.
        saliency_map: [rows, columns], 0 to 1.
        times: how often it is shown, see `steady`.
        is_predicted: whether the network has seen it; else its map comes from those around it.
    """

    picture: NDArray[np.uint8]
    saliency_map: Array
    times: int
    is_predicted: bool


def apart(images: list[str], recursive: bool) -> tuple[list[Path], list[str]]:
    """Return the videos that are named, as files or by a glob, and what else is."""
    clips, rest = [], []
    for text in images:
        # unlike Path's, these answer for a name that is too long, too
        if os.path.isfile(text):  # noqa: PTH113
            (clips if is_video(Path(text)) else rest).append(text)
            continue
        matches = [] if os.path.isdir(text) else sorted(iglob(text, recursive=recursive))  # noqa: PTH112
        videos = [path for path in matches if Path(path).suffix.lower() in VIDEO_SUFFIXES]
        clips += [path for path in videos if os.path.isfile(path)]  # noqa: PTH113
        others = set(matches) - set(videos)
        if not videos or any(os.path.isfile(path) for path in others):  # noqa: PTH113
            rest.append(text)
    return [Path(text) for text in dict.fromkeys(clips)], rest


def outputs_of(clips: list[Path], output: Path, video_maps: str) -> dict[Path, dict[str, Path]]:
    """Return by video where its overlay and maps go.

    They are named like the video; where that is not unique the suffix stays in the name, and where
    that is not enough, a number made from its path is added.

    Raises:
        UserError: one of them is a video that is named.
    """
    stems = Counter(clip.stem for clip in clips)
    names = [clip.stem if stems[clip.stem] == 1 else clip.name for clip in clips]
    outputs = {}
    for clip, name in zip(clips, names, strict=True):
        unique = name if names.count(name) == 1 else f"{name}-{number(str(clip)):016x}"
        outputs[clip] = {"overlay": output / f"{unique}.overlay.mp4"}
        if video_maps != "none":
            suffix = MAPS[video_maps].suffix
            outputs[clip]["maps"] = output / f"{unique}.maps{suffix}"
    sources = {real_path(clip) for clip in clips}
    for clip, paths in outputs.items():
        for path in paths.values():
            if real_path(path) in sources:
                raise UserError(
                    f"{path}, which {clip} would be written to, is one of the videos. Choose "
                    "another folder with --output."
                )
    return outputs


def predict_videos(
    clips: list[Path],
    weights: Callable[[], Path],
    how: Outputs,
    say: Callable[[str], None],
    alone: bool,
    record: Callable[[], MapRecord],
) -> int:
    """Write the overlays and maps of videos; return how many are not there, or not whole.

    Args:
        clips: the videos.
        weights: returns the weights file; asked only where something is to be predicted.
        how: what is made of them, and where to.
        say: gets each line of news.
        alone: whether nothing else was named: then a single one that cannot be read is an error.
        record: returns that of what the outputs that are there were made of; needs the weights.

    Raises:
        UserError: that, or the weights are not usable, or nothing can be written.
        NotBegun: a signal came; of the video at hand nothing is kept.
    """
    settings, (part, parts) = how.settings, how.settings.part
    todo, failed = [], 0
    for clip, outputs in outputs_of(clips, settings.output, settings.video_maps).items():
        if number(str(clip)) % parts != part:
            continue
        is_there = any(map(os.path.exists, outputs.values()))
        state = record().state(clip, outputs, os.path.exists) if is_there else State.MISSING
        if state is State.KEPT and not settings.overwrite:
            say(f"{clip}: kept (--overwrite predicts it again)")
            continue
        if state is State.UNKNOWN and not settings.overwrite:
            failed += 1
            say(no_record(outputs["overlay"]))
            continue
        if state is State.OTHER:
            say(made_of_else(outputs["overlay"]))
        try:
            todo.append((open_clip(clip), outputs))
        except UserError as error:
            if alone and len(clips) == 1:
                raise
            failed += 1
            tqdm.write(f"skipped: {error}", file=sys.stderr)
    if not todo:
        return failed
    how.record = record()
    with heeded(say) as stop:
        name = engines.chosen(settings.engine)  # what is absent leaves no empty folder behind
        make_folder(settings.output)
        engine = engines.as_asked(name, weights(), settings.adaptation, settings.mirror, say)
        for clip, outputs in todo:
            try:
                failed += not write(clip, outputs, engine, how, say)
            except NotBegun:
                raise NotBegun(f"{stop.name}: of {clip.path}, nothing is kept") from None
            except MemoryError as error:
                raise UserError(
                    f"{clip.path} takes more memory than there is. Scale it down, or lower "
                    "--workers and --batch_size."
                ) from error
    return failed


def write(
    clip: Clip,
    outputs: dict[str, Path],
    engine: Engine,
    how: Outputs,
    say: Callable[[str], None],
) -> bool:
    """Write the outputs of a video, all or none; return whether all of it could be read.

    Raises:
        UserError: they cannot be written.
    """
    with scratch(how.settings.output) as folder:
        made = {
            "overlay": folder / "overlay.mp4",
            "maps": folder / f"maps{MAPS[how.settings.video_maps].suffix}",
        }
        began = perf_counter()
        count, varied = _make(clip, made, engine, how, say)
        rate = count / (perf_counter() - began)
        loud = folder / "loud.mp4"
        why_silent = add_sound(made["overlay"], clip.path, loud)
        if not why_silent:
            made["overlay"] = loud
        if how.record:
            how.record.begin(clip.path, outputs)
        for kind in reversed(outputs):  # the overlay last: it tells that all is done
            _put(made[kind], outputs[kind], folder)
        if how.record:
            how.record.end(clip.path, outputs)
    where = " and ".join(str(path) for path in outputs.values())
    say(f"{clip.path}: {count} frames written to {where} at {rate:.1f} frames/s")
    if why_silent:
        say(f"{clip.path}: sound, if it has any, is not in the overlay: {why_silent}")
    if varied:
        say(
            f"{clip.path}: its frames do not come at a constant rate; the overlay repeats some or "
            f"leaves some out, and keeps time at {clip.rate:g} a second"
        )
    missing = clip.count - count
    if missing <= max(clip.rate * UNSURE_SECONDS, clip.count * UNSURE_SHARE):
        return True
    say(
        f"{clip.path}: it says that it has {clip.count} frames, but {count} can be read: it is cut "
        "off, or its sound is longer. Copy or download it again"
    )
    return False


def _put(made: Path, path: Path, folder: Path) -> None:
    """Give an output its name; an earlier folder of maps goes.

    Raises:
        UserError: that folder holds what is no map of ours.
    """
    if made.is_dir() and path.is_dir():
        strange = [own.name for own in path.iterdir() if not re.fullmatch(r"\d+\.png", own.name)]
        if strange:
            raise UserError(
                f"{path} holds {printable(strange[0])}, which is no map of a frame: it would be "
                "lost. Choose another folder with --output, or move it away."
            )
        os.replace(path, folder / "earlier")
    move(made, path)


def _make(
    clip: Clip,
    made: dict[str, Path],
    engine: Engine,
    how: Outputs,
    say: Callable[[str], None],
) -> tuple[int, bool]:
    """Write a video's overlay and maps; return how many frames it has, and whether time varied."""
    settings = how.settings
    bar = progress(clip.count, printable(str(clip.path)), "frames")
    bar.total = clip.count or None
    news, varied = News(clip, bar, say), False
    with (
        bar,
        closing(Movie(made["overlay"], clip.shape, clip.rate)) as film,
        closing(MAPS[settings.video_maps](made["maps"], clip, settings.float_maps)) as maps,
        ThreadPoolExecutor(settings.workers + engine.at_once) as pool,
    ):
        for drawn in draw(clip, engine, pool, how):
            film.write(drawn.picture, drawn.times)
            maps.add(news.done, drawn)
            varied |= drawn.times != 1
            news.one_more()
        film.finish()
        maps.finish()
    return news.done, varied


class News:
    """How far a video is: a bar, or where none is shown, as in a log, a line a minute."""

    def __init__(self, clip: Clip, bar: tqdm, say: Callable[[str], None]) -> None:
        self.clip, self.bar, self.say = clip, bar, say
        self.done, self.told = 0, perf_counter()
        self.began = self.told

    def one_more(self) -> None:
        """Count a frame."""
        self.done += 1
        self.bar.update(1)
        now = perf_counter()
        if not self.bar.disable or now - self.told < REPORT_SECONDS:
            return
        self.told = now
        rate = self.done / (now - self.began)
        left = max(0.0, self.clip.count - self.done) / rate
        of = f" of {self.clip.count}" if left else ""
        eta = f", {tqdm.format_interval(left)} left" if left else ""
        self.say(f"{self.clip.path}: {self.done}{of} frames, {rate:.1f} frames/s{eta}")


def draw(clip: Clip, engine: Engine, pool: Executor, how: Outputs) -> Iterator[Drawn]:
    """Yield each frame's overlay and map."""
    settings, box = how.settings, Letterbox.fit(clip.shape, engine.input_shape)
    wanted = key_frames(clip, box, settings.every, settings.temporal_smoothing)
    keys = predicted(wanted, engine, pool, settings.batch_size)
    keys = smoothed(keys, settings.temporal_smoothing * clip.rate)

    def drawn(item: tuple) -> Drawn:
        (frame, times), (cells, is_predicted) = item
        with room(clip.shape):
            made = postprocess(cells, box, engine.grid, settings.smooth)
            saliency_map = how.finished(engine.adaptation.apply(made))
            picture = overlay(frame, saliency_map, settings.colormap)
        return Drawn(picture, saliency_map, times, is_predicted)

    frames = steady(clip.frames(), clip.rate)
    maps = between(keys)  # it goes on for ever
    for _, made in in_order(pool, drawn, zip(frames, maps, strict=False), settings.workers):
        yield made


def predicted(
    frames: Iterator[tuple[int, int, NDArray]], engine: Engine, pool: Executor, batch_size: int
) -> Iterator[Key]:
    """Yield the keys of a video, from its `key_frames`."""
    turns = BoundedSemaphore(engine.at_once)

    def maps(batch: list[tuple[int, int, NDArray]]) -> list[Array]:
        with turns:
            return [scaled(one) for one in engine.maps(np.stack([x for *_, x in batch]))]

    for batch, found in in_order(pool, maps, groups(frames, batch_size), engine.at_once):
        for (frame, scene, _), cells in zip(batch, found, strict=True):
            yield Key(frame, scene, cells)


def key_frames(
    clip: Clip, box: Letterbox, every: int, temporal_smoothing: float
) -> Iterator[tuple[int, int, NDArray]]:
    """Yield number, scene and network's input of each N-th frame, and the first after each cut."""
    if every == 1 and not temporal_smoothing:  # no frame heeds another
        for number, (_, frame) in enumerate(clip.frames()):
            yield number, 0, box.place(frame)
        return
    scene, before = 0, None
    for number, (_, frame) in enumerate(clip.frames()):
        small = colours(frame)
        is_cut = before is not None and cv2.absdiff(small, before).mean() > CUT
        scene, before = scene + is_cut, small
        if is_cut or number % every == 0:
            yield number, scene, box.place(frame)  # here, so that no large frame waits


def colours(frame: NDArray[np.uint8]) -> NDArray:
    """Return a frame's hue, saturation and brightness, coarsely: what a cut changes."""
    return cv2.cvtColor(
        cv2.resize(frame, CUT_SIZE, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2HSV
    )


def scaled(prediction: NDArray) -> Array:
    """Return a network's output as [rows, cols] with maximum 1, as frames are to be comparable.

    Networks tell where people look, not how much: two frames' maxima say nothing of each other.
    """
    cells = np.asarray(prediction, np.float32).reshape(prediction.shape[:2])
    return cells / max(float(cells.max()), 1e-12)


def smoothed(keys: Iterable[Key], sigma: float) -> Iterator[Key]:
    """Yield each key with the mean of the maps around it in time, weighted by a Gaussian.

    It looks both ways, so that nothing lags, and not over cuts; at the ends, over what is there.

    Args:
        keys: by frame.
        sigma: the standard deviation, frames; 0 changes nothing.
    """
    if not sigma:
        yield from keys
        return
    window: deque[Key] = deque()
    centre, reach = 0, REACH * sigma
    for new in chain(keys, [None]):
        if new:
            window.append(new)
        # a key is done once what comes is beyond its reach, or nothing does
        while centre < len(window) and (not new or new.frame - window[centre].frame > reach):
            yield mean_around(window[centre], window, sigma)
            centre += 1
        while new and window[0].frame < window[centre].frame - reach:
            window.popleft()
            centre -= 1


def mean_around(key: Key, window: Iterable[Key], sigma: float) -> Key:
    """Return a key with the weighted mean of the maps of its scene."""
    mean, total = np.zeros_like(key.cells), 0.0
    for other in window:
        steps = (other.frame - key.frame) / sigma
        if other.scene == key.scene and abs(steps) <= REACH:
            weight = math.exp(-0.5 * steps**2)
            mean += np.float32(weight) * other.cells
            total += weight
    return Key(key.frame, key.scene, mean / np.float32(total))


def between(keys: Iterable[Key]) -> Iterator[tuple[Array, bool]]:
    """Yield a map for every frame, and whether it is a key's.

    Between two keys of a scene one map goes over into the other in equal steps; before a cut, and
    after the last key, for ever, a map stays.
    """
    before = None
    for after in keys:
        if before:
            yield before.cells, True
            step = (after.cells - before.cells) / (after.frame - before.frame)
            for i in range(1, after.frame - before.frame):
                yield before.cells + (i * step if after.scene == before.scene else 0), False
        before = after
    if before:
        yield before.cells, True
        yield from repeat((before.cells, False))


class Maps:
    """Where a video's maps go: nowhere; other kinds below.

    Args:
        path: of what is written.
        clip: the video.
        as_float: float16 rather than 8 bits, where the kind of file has both.
    """

    suffix = ""

    def __init__(self, path: Path, clip: Clip, as_float: bool) -> None:
        pass

    def add(self, number: int, frame: Drawn) -> None:
        """Write the map of a frame; numbers begin at 0."""

    def finish(self) -> None:
        """Write what is left to write, and look whether all is there."""

    def close(self) -> None:
        """Close what is open."""


class PngMaps(Maps):
    """A folder of 8-bit PNGs of the predicted frames, named by their numbers."""

    def __init__(self, path: Path, clip: Clip, as_float: bool) -> None:
        self.folder = path
        path.mkdir()

    def add(self, number: int, frame: Drawn) -> None:
        """Write a file."""
        if frame.is_predicted:
            data = cv2.imencode(".png", to_8_bit(frame.saliency_map))[1]
            (self.folder / f"{number:06d}.png").write_bytes(data.tobytes())


class NpzMaps(Maps):
    """A .npz of arrays of the predicted frames, named by their numbers: uint8, or float16."""

    suffix = ".npz"

    def __init__(self, path: Path, clip: Clip, as_float: bool) -> None:
        self.as_float = as_float
        self.file = ZipFile(path, "w", ZIP_DEFLATED, compresslevel=1)

    def add(self, number: int, frame: Drawn) -> None:
        """Write an entry."""
        if frame.is_predicted:
            one = frame.saliency_map
            with self.file.open(f"{number:06d}.npy", "w") as entry:
                values = one.astype(np.float16) if self.as_float else to_8_bit(one)
                np.lib.format.write_array(entry, values, allow_pickle=False)

    def close(self) -> None:
        """Write the list of the entries."""
        self.file.close()

    finish = close


class VideoMaps(Maps):
    """A grey video of all frames' maps."""

    suffix = ".mp4"

    def __init__(self, path: Path, clip: Clip, as_float: bool) -> None:
        self.movie = Movie(path, clip.shape, clip.rate)

    def add(self, number: int, frame: Drawn) -> None:
        """Write a frame."""
        grey = cv2.cvtColor(to_8_bit(frame.saliency_map), cv2.COLOR_GRAY2BGR)
        self.movie.write(np.asarray(grey, np.uint8), frame.times)

    def finish(self) -> None:
        """Close the video, which can be read again."""
        self.movie.finish()

    def close(self) -> None:
        """Close the video, as it is."""
        self.movie.close()


# by `--maps`
MAPS = {"none": Maps, "png": PngMaps, "npz": NpzMaps, "video": VideoMaps}

"""Videos of `test`: writes an overlay video and the maps of its frames.

A video is read twice in parallel: for the network, which predicts every N-th frame, and for the
overlay. Smoothing over time and interpolation work on the network's small maps. So no full frame
waits for a map, and memory depends on the size of a frame, not on their number.
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
from commands.prediction.inputs import hash64
from commands.prediction.map_record import MapRecord, State, outdated_message, unrecorded_message
from commands.prediction.outputs import OutputWriter
from salience.pictures.headers import room
from salience.pictures.letterbox import Letterbox, postprocess
from salience.pictures.marks import draw_contours
from salience.pictures.picture_files import overlay, to_8_bit
from salience.pictures.video_files import (
    Clip,
    Movie,
    add_sound,
    has_video_suffix,
    is_video,
    open_clip,
    steady,
)
from salience.system.arrays import Array
from salience.system.errors import NotBegun, UserError, printable
from salience.system.files import is_clutter, make_folder, move, real_path, scratch
from salience.system.signals import heeded
from salience.system.terminal import REPORT_SECONDS, progress
from salience.system.threads import groups, in_order

# mean change of hue, saturation and brightness between two frames that counts as a cut; the
# default of PySceneDetect's ContentDetector
CUT_THRESHOLD = 27.0
CUT_SIZE = 64, 48  # columns and rows of the frames that are compared
NOT_OF_VIDEOS = ("density", "peaks", "crop", "mask", "side_by_side")  # settings for pictures only
TRUNCATE_SIGMAS = 3  # standard deviations at which the Gaussian over time is truncated
# tolerated number of missing frames: sound may be longer, and frame counts are estimates
TOLERATED_SECONDS, TOLERATED_SHARE = 0.25, 0.05


class KeyFrame(NamedTuple):
    """The prediction of a key frame.

    Attributes:
        frame: number of the frame, from 0.
        scene: number of cuts before the frame.
        cells: its map on the network's grid, [rows, columns], scaled to a maximum of 1.
    """

    frame: int
    scene: int
    cells: Array


class RenderedFrame(NamedTuple):
    """The overlay and the map of a frame.

    Attributes:
        picture: overlay, BGR, uint8 [rows, columns, 3].
        saliency_map: [rows, columns], 0 to 1.
        times: how often the frame is repeated in the video, see `steady`.
        is_predicted: whether the network has predicted the frame; else the map is interpolated.
        contours: the frame with contours, as the overlay; None if they are not wanted.
    """

    picture: NDArray[np.uint8]
    saliency_map: Array
    times: int
    is_predicted: bool
    contours: NDArray[np.uint8] | None = None


def split_videos(images: list[str], recursive: bool) -> tuple[list[Path], list[str]]:
    """Return the videos among files and globs, and all other arguments."""
    clips, rest = [], []
    for text in images:
        # Path.is_file raises an error for a name that is too long
        if os.path.isfile(text):  # noqa: PTH113
            (clips if is_video(Path(text)) else rest).append(text)
            continue
        matches = [] if os.path.isdir(text) else sorted(iglob(text, recursive=recursive))  # noqa: PTH112
        videos = [path for path in matches if has_video_suffix(Path(path))]
        clips += [path for path in videos if os.path.isfile(path)]  # noqa: PTH113
        others = set(matches) - set(videos)
        if not videos or any(os.path.isfile(path) for path in others):  # noqa: PTH113
            rest.append(text)
    return [Path(text) for text in dict.fromkeys(clips)], rest


def outputs_of(
    clips: list[Path], output: Path, video_maps: str, contours: bool = False
) -> dict[Path, dict[str, Path]]:
    """Return the paths of the overlay, the contours and the maps of each video.

    They are named like the video. If that name is not unique, the suffix stays in the name. If that
    is not enough, a hash of the video's path is added.

    Raises:
        UserError: an output would overwrite one of the videos.
    """
    stems = Counter(clip.stem for clip in clips)
    names = [clip.stem if stems[clip.stem] == 1 else clip.name for clip in clips]
    outputs = {}
    for clip, name in zip(clips, names, strict=True):
        unique = name if names.count(name) == 1 else f"{name}-{hash64(str(clip)):016x}"
        outputs[clip] = {"overlay": output / f"{unique}.overlay.mp4"}
        if contours:
            outputs[clip]["contours"] = output / f"{unique}.contours.mp4"
        if video_maps != "none":
            suffix = MAPS[video_maps].suffix
            outputs[clip]["maps"] = output / f"{unique}.maps{suffix}"
    sources = {real_path(clip) for clip in clips}
    for clip, paths in outputs.items():
        for path in paths.values():
            if real_path(path) in sources:
                raise UserError(
                    f"The output {path} of {clip} is itself one of the videos. Choose another "
                    "folder with --output."
                )
    return outputs


def predict_videos(
    clips: list[Path],
    weights: Callable[[], Path],
    writer: OutputWriter,
    say: Callable[[str], None],
    only_videos: bool,
    record: Callable[[], MapRecord],
) -> int:
    """Write the overlays and maps of videos; return how many are missing or incomplete.

    Args:
        clips: the videos.
        weights: returns the weights file; called only if a video must be predicted.
        writer: settings and post-processing of the maps.
        say: called with each message.
        only_videos: whether no pictures were named; then an unreadable single video is an error.
        record: returns the record of the output folder, which needs the weights.

    Raises:
        UserError: a single video cannot be read, the weights cannot be used, or an output cannot be
            written.
        NotBegun: a signal was received; nothing of the current video is kept.
    """
    settings, (part, parts) = writer.settings, writer.settings.part
    todo, failed = [], 0
    if ignored := [f"--{name}" for name in NOT_OF_VIDEOS if getattr(settings, name)]:
        say(f"note: {', '.join(ignored)}: of pictures only, not of videos (docs/VIDEO.md)")
    wanted = outputs_of(clips, settings.output, settings.video_maps, settings.contours)
    for clip, outputs in wanted.items():
        if hash64(str(clip)) % parts != part:
            continue
        is_there = any(map(os.path.exists, outputs.values()))
        state = record().state(clip, outputs, os.path.exists) if is_there else State.MISSING
        if state is State.UP_TO_DATE and not settings.overwrite:
            say(f"{clip}: kept (--overwrite predicts it again)")
            continue
        if state is State.UNRECORDED and not settings.overwrite:
            failed += 1
            say(unrecorded_message(outputs["overlay"]))
            continue
        if state is State.OUTDATED:
            say(outdated_message(outputs["overlay"]))
        refuse_foreign(outputs.get("maps"))
        try:
            todo.append((open_clip(clip), outputs))
        except UserError as error:
            if only_videos and len(clips) == 1:
                raise
            failed += 1
            tqdm.write(f"skipped: {error}", file=sys.stderr)
    if not todo:
        return failed
    writer.record = record()
    with heeded(say) as stop:
        name = engines.choose(settings.engine)  # before the folder: the engine may be missing
        make_folder(settings.output)
        engine = engines.load_adapted(
            name,
            weights(),
            settings.adaptation,
            settings.mirror,
            say,
            settings.of_set,
            smooth=settings.smooth,
        )
        for clip, outputs in todo:
            try:
                failed += not write(clip, outputs, engine, writer, say)
            except NotBegun:
                raise NotBegun(f"{stop.name}: nothing of {clip.path} is kept") from None
            except MemoryError as error:
                raise UserError(
                    f"{clip.path} needs more memory than is available. Scale it down, or lower "
                    "--workers and --batch_size."
                ) from error
    return failed


def write(
    clip: Clip,
    outputs: dict[str, Path],
    engine: Engine,
    writer: OutputWriter,
    say: Callable[[str], None],
) -> bool:
    """Write the outputs of a video, all or none; return True if all frames could be read.

    Raises:
        UserError: an output cannot be written.
    """
    with scratch(writer.settings.output) as folder:
        made = {
            "overlay": folder / "overlay.mp4",
            "contours": folder / "contours.mp4",
            "maps": folder / f"maps{MAPS[writer.settings.video_maps].suffix}",
        }
        began = perf_counter()
        count, written, varied = _make(clip, made, engine, writer, say)
        rate = count / (perf_counter() - began)
        why_silent = ""
        for kind in {"overlay", "contours"} & outputs.keys():
            with_sound = folder / f"{kind}_with_sound.mp4"
            why_silent = add_sound(made[kind], clip.path, with_sound)
            if not why_silent:
                made[kind] = with_sound
        if writer.record:
            writer.record.begin(clip.path, outputs)
        for kind in reversed(outputs):  # the overlay last: it marks the video as done
            _put(made[kind], outputs[kind], folder)
        if writer.record:
            writer.record.end(clip.path, outputs)
    where = " and ".join(str(path) for path in outputs.values())
    say(f"{clip.path}: {count} frames written to {where} at {rate:.1f} frames/s")
    if why_silent:
        say(f"{clip.path}: the overlay has no sound: {why_silent}")
    if varied:
        say(
            f"{clip.path}: the frame rate varies; the overlay repeats or omits frames to keep time "
            f"at {clip.rate:g} frames/s"
        )
    # some containers know the length alone, from which libav counts at the nominal rate
    missing = clip.count - max(count, written)
    if missing <= max(clip.rate * TOLERATED_SECONDS, clip.count * TOLERATED_SHARE):
        return True
    say(
        f"{clip.path}: the file claims {clip.count} frames, but {count} can be read: it is cut "
        "off, or its sound is longer. Copy or download it again"
    )
    return False


def _put(made: Path, path: Path, folder: Path) -> None:
    """Move an output to its final path; an earlier folder of maps is replaced.

    Raises:
        UserError: that folder holds files that are not maps.
    """
    if made.is_dir() and path.is_dir():
        refuse_foreign(path)
        os.replace(path, folder / "earlier")
    move(made, path)


def refuse_foreign(maps: Path | None) -> None:
    """Check that a folder of maps, which is to be replaced, holds nothing else.

    Raises:
        UserError: it does. Files that systems leave in every folder do not count.
    """
    if maps is None or not maps.is_dir():
        return
    foreign = [
        own.name
        for own in maps.iterdir()
        if not re.fullmatch(r"\d+\.png", own.name) and not is_clutter(own.name)
    ]
    if foreign:
        raise UserError(
            f"{maps} holds {printable(foreign[0])}, which is not a map of a frame and would be "
            "lost. Choose another folder with --output, or move the file."
        )


def _make(
    clip: Clip,
    made: dict[str, Path],
    engine: Engine,
    writer: OutputWriter,
    say: Callable[[str], None],
) -> tuple[int, int, bool]:
    """Write a video's outputs; return the frames read and written, and if the rate varied."""
    settings = writer.settings
    bar = progress(clip.count, printable(str(clip.path)), "frames")
    bar.total = clip.count or None
    counter, varied = FrameProgress(clip, bar, say), False
    with (
        bar,
        closing(Movie(made["overlay"], clip.shape, clip.rate)) as movie,
        closing(
            Movie(made["contours"], clip.shape, clip.rate) if settings.contours else NoMovie()
        ) as outlined,
        closing(MAPS[settings.video_maps](made["maps"], clip, settings.float_maps)) as maps,
        ThreadPoolExecutor(settings.workers + engine.at_once) as pool,
    ):
        for drawn in render_frames(clip, engine, pool, writer):
            movie.write(drawn.picture, drawn.times)
            if drawn.contours is not None:
                outlined.write(drawn.contours, drawn.times)
            maps.add(counter.done, drawn)
            varied |= drawn.times != 1
            counter.add_frame()
        movie.finish()
        outlined.finish()
        maps.finish()
    return counter.done, movie.count, varied


class NoMovie:
    """A video that is not wanted."""

    def write(self, frame: NDArray[np.uint8], times: int = 1) -> None:
        """Write nothing."""

    def finish(self) -> None:
        """Check nothing."""

    def close(self) -> None:
        """Close nothing."""


class FrameProgress:
    """Progress of a video: a bar, or a message every minute if no bar is shown."""

    def __init__(self, clip: Clip, bar: tqdm, say: Callable[[str], None]) -> None:
        self.clip, self.bar, self.say = clip, bar, say
        self.done, self.reported = 0, perf_counter()
        self.began = self.reported

    def add_frame(self) -> None:
        """Count a frame, and report the progress."""
        self.done += 1
        self.bar.update(1)
        now = perf_counter()
        if not self.bar.disable or now - self.reported < REPORT_SECONDS:
            return
        self.reported = now
        rate = self.done / (now - self.began)
        left = max(0.0, self.clip.count - self.done) / rate
        of = f" of {self.clip.count}" if left else ""
        eta = f", {tqdm.format_interval(left)} left" if left else ""
        self.say(f"{self.clip.path}: {self.done}{of} frames, {rate:.1f} frames/s{eta}")


def render_frames(
    clip: Clip, engine: Engine, pool: Executor, writer: OutputWriter
) -> Iterator[RenderedFrame]:
    """Yield each frame's overlay and map."""
    settings, box = writer.settings, Letterbox.fit(clip.shape, engine.input_shape)
    wanted = key_frames(clip, box, settings.every, settings.temporal_smoothing)
    keys = predict_keys(wanted, engine, pool, settings.batch_size)
    keys = smooth_over_time(keys, settings.temporal_smoothing * clip.rate)

    def render(item: tuple) -> RenderedFrame:
        (frame, times), (cells, is_predicted) = item
        with room(clip.shape):
            made = postprocess(cells, box, engine.grid, settings.smooth)
            saliency_map = writer.adjusted(engine.finish.apply(made))
            picture = overlay(frame, saliency_map, settings.colormap)
            outlined = draw_contours(frame, saliency_map) if settings.contours else None
        return RenderedFrame(picture, saliency_map, times, is_predicted, outlined)

    frames = steady(clip.frames(), clip.rate, clip.count / clip.rate)
    maps = interpolated(keys)  # an endless iterator
    for _, made in in_order(pool, render, zip(frames, maps, strict=False), settings.workers):
        yield made


def predict_keys(
    frames: Iterator[tuple[int, int, NDArray]], engine: Engine, pool: Executor, batch_size: int
) -> Iterator[KeyFrame]:
    """Yield the predictions of a video's `key_frames`."""
    slots = BoundedSemaphore(engine.at_once)

    def maps(batch: list[tuple[int, int, NDArray]]) -> list[Array]:
        with slots:
            return [
                normalised(prediction)
                for prediction in engine.maps(np.stack([x for *_, x in batch]))
            ]

    for batch, found in in_order(pool, maps, groups(frames, batch_size), engine.at_once):
        for (frame, scene, _), cells in zip(batch, found, strict=True):
            yield KeyFrame(frame, scene, cells)


def key_frames(
    clip: Clip, box: Letterbox, every: int, temporal_smoothing: float
) -> Iterator[tuple[int, int, NDArray]]:
    """Yield number, scene and network's input of every N-th frame and the first after each cut."""
    if every == 1 and not temporal_smoothing:  # frames are independent: no need to find cuts
        for number, (_, frame) in enumerate(clip.frames()):
            yield number, 0, box.place(frame)
        return
    scene, before = 0, None
    for number, (_, frame) in enumerate(clip.frames()):
        small = hsv_thumbnail(frame)
        is_cut = before is not None and cv2.absdiff(small, before).mean() > CUT_THRESHOLD
        scene, before = scene + is_cut, small
        if is_cut or number % every == 0:
            # scaled here, so that no large frame waits in memory
            yield number, scene, box.place(frame)


def hsv_thumbnail(frame: NDArray[np.uint8]) -> NDArray:
    """Return a small HSV copy of a BGR frame, for the detection of cuts."""
    return cv2.cvtColor(
        cv2.resize(frame, CUT_SIZE, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2HSV
    )


def normalised(prediction: NDArray) -> Array:
    """Return a network's output as [rows, columns], scaled to a maximum of 1.

    Only relative values within a frame have a meaning: the maxima of two frames cannot be compared.
    """
    cells = np.asarray(prediction, np.float32).reshape(prediction.shape[:2])
    return cells / max(float(cells.max()), 1e-12)


def smooth_over_time(keys: Iterable[KeyFrame], sigma: float) -> Iterator[KeyFrame]:
    """Yield the key frames with their maps smoothed over time by a Gaussian.

    The Gaussian is symmetric, so that maps do not lag, and it does not cross cuts. At both ends of
    a video it is truncated.

    Args:
        keys: key frames in order.
        sigma: standard deviation, frames; 0 for no smoothing.
    """
    if not sigma:
        yield from keys
        return
    window: deque[KeyFrame] = deque()
    centre, reach = 0, TRUNCATE_SIGMAS * sigma
    for new in chain(keys, [None]):
        if new:
            window.append(new)
        # a key frame is complete when the next is out of reach, or at the end
        while centre < len(window) and (not new or new.frame - window[centre].frame > reach):
            yield gaussian_mean(window[centre], window, sigma)
            centre += 1
        while new and window[0].frame < window[centre].frame - reach:
            window.popleft()
            centre -= 1


def gaussian_mean(key: KeyFrame, window: Iterable[KeyFrame], sigma: float) -> KeyFrame:
    """Return a key frame with the Gaussian-weighted mean of the maps of its scene."""
    mean, total = np.zeros_like(key.cells), 0.0
    for other in window:
        steps = (other.frame - key.frame) / sigma
        if other.scene == key.scene and abs(steps) <= TRUNCATE_SIGMAS:
            weight = math.exp(-0.5 * steps**2)
            mean += np.float32(weight) * other.cells
            total += weight
    return KeyFrame(key.frame, key.scene, mean / np.float32(total))


def interpolated(keys: Iterable[KeyFrame]) -> Iterator[tuple[Array, bool]]:
    """Yield a map for every frame, and whether the frame is a key frame.

    Maps between two key frames of a scene are interpolated linearly. Before a cut, and after the
    last key frame, the last map is repeated; the iterator is endless.
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
    """Writer of a video's maps; this base class writes nothing.

    Args:
        path: the file or folder to write.
        clip: the video.
        as_float: whether to write float16 instead of 8 bits, if the format has both.
    """

    suffix = ""

    def __init__(self, path: Path, clip: Clip, as_float: bool) -> None:
        pass

    def add(self, number: int, frame: RenderedFrame) -> None:
        """Write the map of a frame; numbers begin at 0."""

    def finish(self) -> None:
        """Complete the output, and check it."""

    def close(self) -> None:
        """Close all files."""


class PngMaps(Maps):
    """Writes predicted frames as a folder of 8-bit PNGs, named by frame number."""

    def __init__(self, path: Path, clip: Clip, as_float: bool) -> None:
        self.folder = path
        path.mkdir()

    def add(self, number: int, frame: RenderedFrame) -> None:
        """Write a file."""
        if frame.is_predicted:
            data = cv2.imencode(".png", to_8_bit(frame.saliency_map))[1]
            (self.folder / f"{number:06d}.png").write_bytes(data.tobytes())


class NpzMaps(Maps):
    """Writes predicted frames as arrays (uint8 or float16) of a .npz, named by frame number."""

    suffix = ".npz"

    def __init__(self, path: Path, clip: Clip, as_float: bool) -> None:
        self.as_float = as_float
        self.file = ZipFile(path, "w", ZIP_DEFLATED, compresslevel=1)

    def add(self, number: int, frame: RenderedFrame) -> None:
        """Write an array."""
        if frame.is_predicted:
            one = frame.saliency_map
            with self.file.open(f"{number:06d}.npy", "w") as entry:
                values = one.astype(np.float16) if self.as_float else to_8_bit(one)
                np.lib.format.write_array(entry, values, allow_pickle=False)

    def close(self) -> None:
        """Write the archive's directory and close it."""
        self.file.close()

    finish = close


class VideoMaps(Maps):
    """Writes the maps of all frames as a grey video."""

    suffix = ".mp4"

    def __init__(self, path: Path, clip: Clip, as_float: bool) -> None:
        self.movie = Movie(path, clip.shape, clip.rate)

    def add(self, number: int, frame: RenderedFrame) -> None:
        """Write a frame."""
        grey = cv2.cvtColor(to_8_bit(frame.saliency_map), cv2.COLOR_GRAY2BGR)
        self.movie.write(np.asarray(grey, np.uint8), frame.times)

    def finish(self) -> None:
        """Close the video and check that it can be read."""
        self.movie.finish()

    def close(self) -> None:
        """Close the video without a check."""
        self.movie.close()


# by `--maps`
MAPS = {"none": Maps, "png": PngMaps, "npz": NpzMaps, "video": VideoMaps}

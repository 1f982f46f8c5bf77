"""Video files: reading and writing of frames, and copying of the sound.

OpenCV's libav reads and writes; it applies the rotation that a file records. Only local files in
video formats are opened: no playlists, which name other files, and no text files, which libav would
render.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from salience.pictures.headers import header_shape
from salience.pictures.sample import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from salience.system.errors import UserError
from salience.system.files import open_regular, refusal_in, refused
from salience.system.quiet import variables

CONTAINERS = (
    "mov,matroska,avi,mpeg,mpegts,mpegvideo,flv,ogg,asf,mxf,nut,rm,dv,ivf,h264,hevc,m4v,mjpeg,"
    "yuv4mpegpipe,obu"
)
# OpenCV reads these each time that it opens a file
ONLY_FILES = {
    "OPENCV_FFMPEG_CAPTURE_OPTIONS": f"protocol_whitelist;file|format_whitelist;{CONTAINERS}",
    "OPENCV_FFMPEG_LOGLEVEL": "-8",  # for a bad video, our message replaces libav's
}
CODEC = "mp4v"  # MPEG-4 part 2, which OpenCV's wheels can write on every system
MOST_SIDE = 8190  # pixels, limit of that codec, even
RATES = 0.1, 1000.0  # frames a second
# seconds between two frames; in a video of unknown length, a longer pause is a damaged time stamp
LONGEST_PAUSE = 10.0
ROOM_BYTES = 2**20

Frame = TypeVar("Frame")


@dataclass(frozen=True)
class Clip:
    """A readable video.

    Attributes:
        path: the file.
        shape: rows and columns of the frames, after the recorded rotation.
        rate: frames a second; the average of a variable rate.
        count: number of frames, as recorded or estimated by libav; 0 if unknown.
    """

    path: Path
    shape: tuple[int, int]
    rate: float
    count: int

    def frames(self) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        """Yield each frame's time in seconds and BGR picture."""
        with _reader(self.path) as capture:
            while capture.grab():
                seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                yield seconds, self._of_one_shape(capture.retrieve()[1])

    def _of_one_shape(self, frame: NDArray) -> NDArray[np.uint8]:
        """Return a frame scaled to the clip's shape, since a stream may change its shape."""
        if frame.shape[:2] != self.shape:
            frame = cv2.resize(frame, self.shape[::-1], interpolation=cv2.INTER_AREA)
        return np.asarray(frame, np.uint8)


@contextmanager
def _reader(path: Path) -> Iterator[cv2.VideoCapture]:
    """Open a video with libav: OpenCV's other readers take names for patterns or numbers."""
    # an absolute path, since libav interprets text before a colon as a protocol
    with variables(ONLY_FILES):
        capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)  # noqa: PTH100
    try:
        yield capture
    finally:
        capture.release()


def has_video_suffix(path: Path) -> bool:
    """Return whether a path has the suffix of a video; the file need not exist."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def is_video(path: Path) -> bool:
    """Return whether to read a file as a video.

    A picture is not a video, under any name. For other files, the suffix decides, or whether libav
    can open the file.
    """
    if path.suffix.lower() in IMAGE_SUFFIXES or header_shape(path):
        return False
    if has_video_suffix(path):
        return True
    if not _nameable(path):
        return False
    with _reader(path) as capture:
        return capture.isOpened()


def _nameable(path: Path) -> bool:
    """Return whether a file's name is valid UTF-8, which OpenCV needs."""
    try:
        os.path.abspath(path).encode()  # noqa: PTH100
    except UnicodeEncodeError:
        return False
    return True


def open_clip(path: Path) -> Clip:
    """Open a video, and check that its first frame can be read.

    Raises:
        UserError: the file is missing, empty, not a video, or too large.
    """
    if not _nameable(path):
        raise UserError(f"{path}: OpenCV opens no video whose name is not UTF-8. Rename it.")
    try:
        with open_regular(path) as file:
            empty = not file.read(1)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    if empty:
        raise UserError(f"{path} is empty (0 bytes). Copy or download it again.")
    with _reader(path) as capture:
        if not capture.isOpened():
            raise UserError(
                f"{path} is not a video that can be read: truncated or of another type. If a "
                "player shows it, convert it: ffmpeg -i IN OUT.mp4."
            )
        sides = [capture.get(p) for p in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH)]
        _check_size(path, *map(int, sides))
        rate = capture.get(cv2.CAP_PROP_FPS)
        if not RATES[0] <= rate <= RATES[1]:
            raise UserError(
                f"{path} says that it has {rate:g} frames a second; {RATES[0]:g} to {RATES[1]:g} "
                "are read. Convert it: ffmpeg -i IN -r 25 OUT.mp4."
            )
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        there, frame = capture.read()
        if not there:
            raise UserError(f"{path} holds no frame that can be read. Copy or download it again.")
        _check_size(path, *frame.shape[:2])
        return Clip(path, frame.shape[:2], rate, max(0, int(count)))


def _check_size(path: Path, rows: int, cols: int) -> None:
    """Raise UserError if frames are too large for the codec of the overlay."""
    if max(rows, cols) > MOST_SIDE:
        raise UserError(
            f"{path} has frames of {cols} x {rows} pixels; at most {MOST_SIDE:,} a side are read. "
            "Scale it down: ffmpeg -i IN -vf scale=1920:-2 OUT.mp4."
        )


def steady(
    timed: Iterable[tuple[float, Frame]], rate: float, length: float = 0.0
) -> Iterator[tuple[Frame, int]]:
    """Yield each frame and its number of repetitions at a constant frame rate.

    The number is 1 if the rate is constant already, and 0 for a frame too close to another. Time
    stamps that are unknown, run backwards or jump beyond the end are ignored.

    Args:
        timed: times in seconds and frames.
        rate: constant rate, frames a second.
        length: of the video, seconds; 0 if unknown: then no pause is longer than LONGEST_PAUSE.

    >>> list(steady([(0.0, "a"), (0.1, "b"), (0.4, "c"), (0.42, "d")], 10.0))
    [('a', 1), ('b', 3), ('c', 0), ('d', 1)]
    """
    waiting: list[tuple[float, Frame]] = []  # the last frame, until the next one's time is known
    start, done = 0.0, 0
    for seconds, frame in timed:
        if waiting:
            before, last = waiting.pop()
            count = round((seconds - start) * rate) - done
            is_long = seconds - before >= LONGEST_PAUSE and seconds - start > length + 1
            if seconds <= before or is_long:
                count, start = 1, seconds - (done + 1) / rate
            yield last, count
            done += count
        else:
            start = seconds
        waiting.append((seconds, frame))
    yield from ((frame, 1) for _, frame in waiting)


class Movie:
    """A video that is being written.

    The codec needs even sides: the last row or column of an odd side is repeated.

    Args:
        path: the file, .mp4.
        shape: rows and columns of the frames.
        rate: frames a second.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: Path, shape: tuple[int, int], rate: float) -> None:
        self.path, self.count = path, 0
        self.shape = shape[0] + shape[0] % 2, shape[1] + shape[1] % 2
        # the codec's clock has 16 bits
        rate = round(rate, 3 if rate < 65 else 2 if rate < 655 else 1)
        self.writer = cv2.VideoWriter(
            os.path.abspath(path),  # noqa: PTH100
            cv2.CAP_FFMPEG,
            cv2.VideoWriter_fourcc(*CODEC),  # pyright: ignore[reportAttributeAccessIssue]
            rate,
            self.shape[::-1],
        )
        if not self.writer.isOpened():
            raise self._refused()

    def write(self, frame: NDArray[np.uint8], times: int = 1) -> None:
        """Write a BGR frame `times` times."""
        more = [side - own for side, own in zip(self.shape, frame.shape, strict=False)]
        if any(more):
            frame = np.asarray(
                cv2.copyMakeBorder(frame, 0, more[0], 0, more[1], cv2.BORDER_REPLICATE), np.uint8
            )
        for _ in range(times):
            self.writer.write(frame)
        self.count += times

    def finish(self) -> None:
        """Close the file, and check that all frames can be read.

        Raises:
            UserError: frames are missing.
        """
        self.writer.release()
        with _reader(self.path) as capture:
            # OpenCV does not report errors of writing, such as a full disk
            if capture.get(cv2.CAP_PROP_FRAME_COUNT) != self.count or not capture.read()[0]:
                raise self._refused()

    def close(self) -> None:
        """Close the file without a check."""
        self.writer.release()

    def _refused(self) -> UserError:
        """Return the error that explains why this file cannot be written."""
        error = refusal_in(self.path.parent, ROOM_BYTES)
        if error:
            return refused(f"Cannot write {self.path.name}", error)
        return UserError(f"Cannot write {self.path.name}: OpenCV's encoder ({CODEC}) failed.")


def add_sound(silent: Path, source: Path, made: Path) -> str:
    """Write a copy of a video with the sound of another, if any; return "" or why that failed.

    Args:
        silent: the video without sound.
        source: the video with the sound.
        made: the file to write; it is not usable after a failure.
    """
    program = shutil.which("ffmpeg")
    if not program:
        return "ffmpeg, which would copy it, is not installed"
    why = ""
    for codec in ("copy", "aac"):  # an .mp4 does not hold every sound as it is
        done = subprocess.run(
            [program, "-nostdin", "-y", "-loglevel", "error", *_input(silent), *_input(source),
             "-map", "0:v:0", "-map", "1:a?", "-c:v", "copy", "-c:a", codec, f"file:{made}"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        if not done.returncode and made.exists():
            return ""
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return f"ffmpeg cannot copy it: {why}"


def _input(path: Path) -> list[str]:
    """Return ffmpeg's arguments for an input file, restricted to local files in video formats."""
    name = os.path.abspath(path)  # noqa: PTH100
    return ["-protocol_whitelist", "file", "-format_whitelist", CONTAINERS, "-i", f"file:{name}"]

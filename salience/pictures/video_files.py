"""Videos in and out: frames read one by one, frames written, the sound carried over.

What `picture_files` is to pictures. OpenCV's own libav reads and writes; it turns frames as the
file says. Only files are opened, of formats that hold videos: never what a file names, as a
playlist does, and no text, which libav would draw.
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
    "OPENCV_FFMPEG_LOGLEVEL": "-8",  # a bad video gets our one line, not libav's
}
CODEC = "mp4v"  # MPEG-4 part 2: what OpenCV's wheels can write on every system
MOST_SIDE = 8190  # of that codec, even
RATES = 0.1, 1000.0  # frames a second
LONGEST_PAUSE = 10.0  # seconds between two frames; more is taken for a damaged time
ROOM_BYTES = 2**20

Frame = TypeVar("Frame")


@dataclass(frozen=True)
class Clip:
    """A video that can be read.

    Attributes:
        path: its file.
        shape: rows and columns of its frames, turned as the file says.
        rate: frames a second, on average where that varies.
        count: of frames, as the file says or libav guesses; 0 where that is not known.
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
        """Return a frame in the clip's shape: a stream may change its own on the way."""
        if frame.shape[:2] != self.shape:
            frame = cv2.resize(frame, self.shape[::-1], interpolation=cv2.INTER_AREA)
        return np.asarray(frame, np.uint8)


@contextmanager
def _reader(path: Path) -> Iterator[cv2.VideoCapture]:
    """Open a video by libav alone: OpenCV's other readers take a name for a pattern or a number."""
    # an absolute path, as libav takes what stands before a colon for a protocol
    with variables(ONLY_FILES):
        capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)  # noqa: PTH100
    try:
        yield capture
    finally:
        capture.release()


def is_video(path: Path) -> bool:
    """Return whether a file that was named is to be read as a video.

    A picture is none, whatever it is called; of the rest the suffix decides, or whether it opens.
    """
    if path.suffix.lower() in IMAGE_SUFFIXES or header_shape(path):
        return False
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return True
    if not _nameable(path):
        return False
    with _reader(path) as capture:
        return capture.isOpened()


def _nameable(path: Path) -> bool:
    """Return whether a file's name can be handed to OpenCV: it has no bytes that are no UTF-8."""
    try:
        os.path.abspath(path).encode()  # noqa: PTH100
    except UnicodeEncodeError:
        return False
    return True


def open_clip(path: Path) -> Clip:
    """Return a video, whose first frame has been read.

    Raises:
        UserError: it is missing, empty, no video, or too large.
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
    """Refuse frames that the overlay could not be written with."""
    if max(rows, cols) > MOST_SIDE:
        raise UserError(
            f"{path} has frames of {cols} x {rows} pixels; at most {MOST_SIDE:,} a side are read. "
            "Scale it down: ffmpeg -i IN -vf scale=1920:-2 OUT.mp4."
        )


def steady(timed: Iterable[tuple[float, Frame]], rate: float) -> Iterator[tuple[Frame, int]]:
    """Yield each frame and how many of a constant rate it stands for, so that time is kept.

    That is 1 where the rate is constant already, 0 for a frame that comes too soon after another.
    Times that are unknown, run backwards or leap are not heeded.

    Args:
        timed: frames and their times, seconds.
        rate: frames a second.

    >>> list(steady([(0.0, "a"), (0.1, "b"), (0.4, "c"), (0.42, "d")], 10.0))
    [('a', 1), ('b', 3), ('c', 0), ('d', 1)]
    """
    waiting: list[tuple[float, Frame]] = []  # the last frame, until the next one's time is known
    start, done = 0.0, 0
    for seconds, frame in timed:
        if waiting:
            before, last = waiting.pop()
            count = round((seconds - start) * rate) - done
            if not 0 < seconds - before < LONGEST_PAUSE:
                count, start = 1, seconds - (done + 1) / rate
            yield last, count
            done += count
        else:
            start = seconds
        waiting.append((seconds, frame))
    yield from ((frame, 1) for _, frame in waiting)


class Movie:
    """A video that is being written.

    Its sides are even, as the codec's are: an odd one ends with its last row or column twice.

    Args:
        path: its file, .mp4.
        shape: rows and columns of its frames.
        rate: frames a second.

    Raises:
        UserError: it cannot be written.
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
        """Write a BGR frame so many times."""
        more = [side - own for side, own in zip(self.shape, frame.shape, strict=False)]
        if any(more):
            frame = np.asarray(
                cv2.copyMakeBorder(frame, 0, more[0], 0, more[1], cv2.BORDER_REPLICATE), np.uint8
            )
        for _ in range(times):
            self.writer.write(frame)
        self.count += times

    def finish(self) -> None:
        """Close the file and look whether all that was written can be read again.

        Raises:
            UserError: it cannot.
        """
        self.writer.release()
        with _reader(self.path) as capture:
            # what refuses a frame, a full disk say, OpenCV does not tell
            if capture.get(cv2.CAP_PROP_FRAME_COUNT) != self.count or not capture.read()[0]:
                raise self._refused()

    def close(self) -> None:
        """Close the file, as it is."""
        self.writer.release()

    def _refused(self) -> UserError:
        """Return why this file cannot be written."""
        error = refusal_in(self.path.parent, ROOM_BYTES)
        if error:
            return refused(f"Cannot write {self.path.name}", error)
        return UserError(f"Cannot write {self.path.name}: OpenCV's encoder ({CODEC}) failed.")


def add_sound(silent: Path, source: Path, made: Path) -> str:
    """Write a video again with the sound of another, if that has any; return "" or why not.

    Args:
        silent: the video.
        source: the other one.
        made: what is written; where the answer is not "", it is of no use.
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
    """Return ffmpeg's words for a file that it reads, whatever that is called or names."""
    name = os.path.abspath(path)  # noqa: PTH100
    return ["-protocol_whitelist", "file", "-format_whitelist", CONTAINERS, "-i", f"file:{name}"]

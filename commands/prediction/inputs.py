"""Which pictures `test` predicts, and what their maps are called: folders, files, globs, lists.

Of a million pictures only numbers are held in memory, some tens of bytes each; their paths wait in
a temporary file. A picture's part of the work (`--shard`) and the name of its map follow from its
path and from which names the others have, not from their order, so every worker that is given the
same pictures comes to the same names, and what one writes no other does.
"""

import codecs
import os
import sys
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from glob import iglob
from hashlib import blake2b
from itertools import compress
from pathlib import Path, PurePath
from typing import IO

import numpy as np
from numpy.typing import NDArray

from config import PredictConfig
from salience.pictures.sample import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from salience.system.errors import UserError
from salience.system.files import is_clutter, lies_in_clutter, real_path, telling
from salience.system.terminal import tell

SPOOL_BYTES = 2**24  # the paths of more pictures than fit here go to the disk
STANDARD_INPUT = Path("-")
# by kind of output: what follows the name of a picture's map. A dot, since pictures are called
# cat_crop.jpg: a map makes way for whatever another picture could write
ENDINGS = {
    "map": ".png",
    "overlay": "_overlay.png",
    "float": ".npy",
    "contours": ".contours.png",
    "peaks": ".peaks.json",
    "crop": ".crop.png",
    "mask": ".mask.png",
    "side_by_side": ".side_by_side.png",
}
LONGEST_NAME = 255  # bytes that file systems take for a name
VIDEOS = "videos"
MOST_KINDS = 12  # of what is passed over; the rest is counted together
LONGEST_SUFFIX = 12  # what is longer is part of a name
# what a picture's own name may end with so that its map would be another's output
MARKS = tuple(end[:-4] for end in ENDINGS.values() if end.endswith(".png") and end != ".png")


@dataclass(frozen=True)
class Job:
    """A picture and the outputs asked for."""

    source: Path
    outputs: dict[str, Path]  # by kind, of ENDINGS
    # rows and columns of the picture where its EXIF data may tell otherwise (see `sample_image`)
    shape: tuple[int, int] | None = None

    @property
    def done(self) -> bool:
        """Whether every output is there."""
        # unlike Path.is_file, this answers for a name that is too long, too
        return all(os.path.isfile(path) for path in self.outputs.values())  # noqa: PTH113


class Tally:
    """How often each of many names occurs, at 8 bytes a name.

    >>> tally = Tally()
    >>> for name in ("a", "b", "a"):
    ...     tally.add(name)
    >>> tally["a"], tally["c"]
    (2, 0)
    """

    def __init__(self) -> None:
        self.added = array("Q")
        self.ordered = np.zeros(0, np.uint64)

    def add(self, name: str) -> None:
        """Count a name."""
        self.added.append(number(name))

    @property
    def numbers(self) -> NDArray[np.uint64]:
        """The names' numbers, in the order in which they came."""
        return np.frombuffer(self.added, np.uint64)

    def __getitem__(self, name: str) -> int:
        if len(self.ordered) != len(self.added):
            self.ordered = np.sort(self.numbers)
        key = np.uint64(number(name))
        first, last = (int(np.searchsorted(self.ordered, key, side)) for side in ("left", "right"))
        return last - first


def number(name: str) -> int:
    """Return a name's 64-bit number, the same on every machine.

    Two of a million names have the same with a chance of 3 in 100 million; then their maps keep
    the pictures' suffixes without need.
    """
    return int.from_bytes(blake2b(os.fsencode(name), digest_size=8).digest())


class Collection:
    """The pictures of one worker, with the names of their maps; to be closed after use.

    A map is named like its picture; where that is not unique the suffix stays in the name
    (a.jpg.png), and where that is not enough, or a listed picture would be written over, a number
    made from the picture's path is added.

    Args:
        images: folders, files or globs.
        settings: what to write and where; which list and which part.
        say: gets each line of news.

    Raises:
        UserError: an argument names nothing, a folder holds no picture, a list cannot be read, or
            the maps would go among the pictures.
    """

    def __init__(
        self, images: list[str], settings: PredictConfig, say: Callable[[str], None] = tell
    ) -> None:
        self.settings = settings
        self.output = os.path.realpath(settings.output)
        self.occupied = os.path.isdir(self.output)  # noqa: PTH112
        self._real_folder = lru_cache(4096)(os.path.realpath)
        self.stems, self.names, self.inside = Tally(), Tally(), Tally()
        self.paths: IO[bytes] = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115
        try:
            self.wanted = self._gather(images, say)
        except BaseException:
            self.close()
            raise

    def _gather(self, images: list[str], say: Callable[[str], None]) -> NDArray[np.bool_]:
        """Note the names of all pictures and the paths of this part's; return which to heed."""
        part, parts = self.settings.part
        sources, stems, names = Tally(), Tally(), Tally()
        for source, relative in found(
            images, self.settings.recursive, self.settings.listed, self.settings.output, say
        ):
            sources.add(source)
            stems.add(_claim(_stem(relative)))
            names.add(_claim(relative))
            if sources.added[-1] % parts == part:
                self._keep(f"{source}\0{relative}\0")
            if self.occupied:
                self._protect(source)
        # a picture that is named twice counts once, where it was named first
        first = np.zeros(len(sources.added), bool)
        first[np.unique(sources.numbers, return_index=True)[1]] = True
        for tally, of_all in ((self.stems, stems), (self.names, names)):
            tally.added.frombytes(of_all.numbers[first].tobytes())
        return first[sources.numbers % np.uint64(parts) == part]

    def _protect(self, source: str) -> None:
        """Note a picture that lies in the output folder, so that no output takes its place."""
        if _inside(real := self._real(source), self.output):
            self.inside.add(real)
        # a look at each of millions that a list names would be felt by a shared file system
        if not self.settings.listed and os.path.islink(source):  # noqa: PTH114
            self.inside.add(os.path.realpath(source))

    def _keep(self, fields: str) -> None:
        """Add fields to the temporary file."""
        with self._keeping():
            self.paths.write(os.fsencode(fields))

    def _keeping(self) -> AbstractContextManager:
        """Return what tells of a temporary file that cannot be written."""
        return telling(
            f"Cannot keep the paths of the pictures in {tempfile.gettempdir()}",
            "set TMPDIR to a folder with more room",
        )

    def __len__(self) -> int:
        return int(np.count_nonzero(self.wanted))

    def __iter__(self) -> Iterator[Job]:
        """Yield the jobs of this worker's part."""
        with self._keeping():  # the last of them may still have to be written
            self.paths.seek(0)
        fields = _split(self.paths)
        kinds = asked_for(self.settings)
        for source, relative in compress(zip(fields, fields, strict=True), self.wanted):
            outputs = self._outputs(self._name(source, relative))
            yield Job(Path(source), {kind: Path(outputs[kind]) for kind in kinds})

    def _name(self, source: str, relative: str) -> str:
        """Return the name of a picture's map without suffix, relative to the output folder."""
        stem = _stem(relative)
        if self.stems[_claim(stem)] == 1 and self._harmless(stem):
            return stem
        claim = _claim(relative)
        if not self.stems[claim] and self.names[claim] == 1 and self._harmless(relative):
            return relative
        while True:
            relative = _numbered(relative, source)
            claim = _claim(relative)
            if not self.stems[claim] and not self.names[claim] and self._harmless(relative):
                return relative

    def _harmless(self, name: str) -> bool:
        """Return whether no output of this name is one of the pictures."""
        if not len(self.inside.added):
            return True
        return not any(self.inside[self._real(path)] for path in self._outputs(name).values())

    def _outputs(self, name: str) -> dict[str, str]:
        """Return every file that a picture could write, whether asked for or not: names stay."""
        base = os.path.join(self.settings.output, name)  # noqa: PTH118
        return {kind: _fitting(base, ending) for kind, ending in ENDINGS.items()}

    def _real(self, path: str) -> str:
        """Return a path with the links of its folder followed; the file itself may be one."""
        folder, name = os.path.split(path)
        return os.path.join(self._real_folder(folder), name)  # noqa: PTH118

    def close(self) -> None:
        """Remove the temporary file."""
        self.paths.close()

    def __enter__(self) -> "Collection":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def asked_for(settings: PredictConfig) -> list[str]:
    """Return the kinds of output that the settings ask for.

    >>> asked_for(PredictConfig(peaks=3))
    ['map', 'peaks']
    """
    flags = {"map": True, "float": settings.float_maps}
    return [kind for kind in ENDINGS if flags.get(kind) or getattr(settings, kind, None)]


def _stem(name: str) -> str:
    """Return a path without its suffix."""
    return os.path.splitext(name)[0]  # noqa: PTH122, Path takes ten times as long


def _fitting(base: str, ending: str) -> str:
    """Return an output's path, cut where its name would be longer than file systems take.

    A number made from all of the name takes the place of what is cut.
    """
    folder, name = os.path.split(base)
    whole = os.fsencode(name)
    if len(whole) + len(ending) <= LONGEST_NAME:
        return base + ending
    end = LONGEST_NAME - len(_numbered("", name) + ending)
    while end and whole[end] & 0xC0 == 0x80:  # not amid the bytes of a letter
        end -= 1
    return os.path.join(folder, _numbered(os.fsdecode(whole[:end]), name) + ending)  # noqa: PTH118


def _numbered(name: str, source: str) -> str:
    """Return a name with the number of another, such as of a picture's path."""
    return f"{name}-{number(source):016x}"


def _claim(name: str) -> str:
    """Return what two names share whose outputs may be the same file: a's overlay is a_overlay."""
    while name.endswith(MARKS):
        name = next(name[: -len(mark)] for mark in MARKS if name.endswith(mark))
    return name


def _split(file: IO[bytes]) -> Iterator[str]:
    """Yield the fields of a file, each of which ends with a NUL."""
    rest = b""
    while block := file.read(2**16):
        *whole, rest = (rest + block).split(b"\0")
        yield from map(os.fsdecode, whole)


def found(
    images: list[str],
    recursive: bool,
    listed: Path | None,
    output: Path,
    say: Callable[[str], None],
) -> Iterator[tuple[str, str]]:
    """Yield (file, path relative to the output) of each picture; one may come more than once.

    Where the output folder lies inside a searched one, its files are left out, so that a second run
    over `.` does not predict the first one's maps.

    Raises:
        UserError: see `Collection`.
    """
    into = os.path.realpath(output)
    for text in images:
        path = Path(text)
        if text and os.path.isdir(text):  # noqa: PTH112
            # the maps of several folders go to a folder each
            root = real_path(path).name if len(images) > 1 else ""
            yield from in_folder(path, root, recursive, into, say)
        elif os.path.isfile(text):  # noqa: PTH113
            yield str(path), path.name
        else:
            matches = [str(Path(p)) for p in sorted(iglob(text, recursive=recursive))]
            inside = _inside(into, os.path.realpath("."))
            files = [
                p
                for p in matches
                if os.path.isfile(p)  # noqa: PTH113
                and _suffix(p) not in VIDEO_SUFFIXES  # done by `video.py`
                and not (inside and _in(p, into))
                and not lies_in_clutter(PurePath(*set(Path(p).parts) - set(path.parts)))
            ]
            if not text or not files:
                raise UserError(f"No picture or folder at '{text}'.")
            yield from ((p, PurePath(p).name) for p in files)
    if listed:
        yield from in_list(listed)


def in_folder(
    folder: Path, root: str, recursive: bool, output: str, say: Callable[[str], None]
) -> Iterator[tuple[str, str]]:
    """Yield (file, root / path in the folder) of each picture of a folder, by name.

    Raises:
        UserError: it holds none, or is the output folder.
    """
    real = os.path.realpath(folder)
    if real == output:
        raise UserError(
            f"--output {folder} is the folder of the pictures: the next run would take the "
            "maps for pictures. Choose another."
        )
    # only what lies in the output may be of an earlier run
    skip = output if _inside(output, real) else ""
    empty, passed = True, PassedOver(say)
    for path, relative in _walk(str(folder), root, recursive, skip, passed):
        empty = False
        yield path, relative
    passed.tell(folder)
    if empty:
        hint = "" if recursive else " Its sub-folders are searched with --recursive."
        raise UserError(f"No pictures in the folder {folder}.{hint}")


class PassedOver:
    """What a folder holds and nobody reads: how much of each kind, and the first of it.

    Args:
        say: gets a line for each folder that cannot be read, and one for all the rest.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, kind: str, path: str) -> None:
        """Note a file or folder."""
        if kind not in self.first and len(self.first) >= MOST_KINDS:
            kind = "others"
        self.counts[kind] += 1
        self.first[kind] = min(path, self.first.get(kind, path))

    def tell(self, folder: Path) -> None:
        """Say what there was, the most frequent first."""
        if videos := self.counts.pop(VIDEOS, 0):
            self.say(
                f"passed over: {videos} videos in {folder}; to predict one, name it: "
                f"{self.first[VIDEOS]}"
            )
        ordered = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        kinds = [f"{count} {kind} ({self.first[kind]})" for kind, count in ordered]
        if kinds:
            self.say(f"passed over in {folder}, with the first of each: {', '.join(kinds)}")


def _walk(
    folder: str, relative: str, recursive: bool, skip: str, passed: PassedOver
) -> Iterator[tuple[str, str]]:
    """Yield the pictures of a folder and their relative paths by name, but none of `skip`."""
    names, folders, links = [], set(), set()  # names alone, as a folder may hold a million
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_clutter(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.add(entry.name)
                elif kind := _unread(entry):
                    passed.add(kind, _path_in(folder, entry.name))
                    continue
                elif entry.is_symlink():
                    links.add(entry.name)
                names.append(entry.name)
    except OSError as error:
        passed.say(f"passed over: cannot read the folder {folder}: {error.strerror}")
    for name in sorted(names):
        path = _path_in(folder, name)
        inner = os.path.join(relative, name)  # noqa: PTH118
        if name in folders:
            if skip and os.path.realpath(path) == skip:
                continue
            if recursive:
                yield from _walk(path, inner, recursive, skip, passed)
            else:
                passed.add("folders, which --recursive searches", path)
        elif name in links and os.path.isdir(path):  # noqa: PTH112
            passed.add("links to folders", path)
        # a broken link is named when it is read
        elif name not in links or not (skip and _in(path, skip)):
            yield path, inner


def _unread(entry: os.DirEntry[str]) -> str:
    """Return of what kind a file is that is not read; empty for a picture, and a link to one."""
    suffix = _suffix(entry.name)
    if suffix in VIDEO_SUFFIXES:
        return VIDEOS
    if suffix not in IMAGE_SUFFIXES:
        return suffix if 1 < len(suffix) <= LONGEST_SUFFIX else "without a suffix"
    return "" if entry.is_symlink() or entry.is_file() else "pipes or devices"


def _path_in(folder: str, name: str) -> str:
    """Return the path of what lies in a folder that was named."""
    return os.path.join("" if folder == "." else folder, name)  # noqa: PTH118


def _suffix(name: str) -> str:
    """Return a path's suffix in small letters."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122, Path takes ten times as long


def _inside(path: str, folder: str) -> bool:
    """Return whether a path without links lies inside a folder without links."""
    return path.startswith(os.path.join(folder, ""))  # noqa: PTH118


def _in(path: str, folder: str) -> bool:
    """Return whether a file, or what it links to, lies inside a folder without links."""
    return _inside(os.path.realpath(path), folder)


def in_list(file: Path) -> Iterator[tuple[str, str]]:
    """Yield (file, path relative to the output) of each line of a list; `-` is standard input.

    Paths are relative to the current folder, as all others of a command are. A map lies under its
    picture's path, without the first slash where the path is absolute or leads upwards.

    Raises:
        UserError: it cannot be read, or names no picture.
    """
    count = 0
    try:
        with nullcontext(sys.stdin.buffer) if file == STANDARD_INPUT else file.open("rb") as lines:
            for index, line in enumerate(lines):
                # some editors begin a file with a mark of its encoding
                own = line if index else line.removeprefix(codecs.BOM_UTF8)
                text = os.fsdecode(own.rstrip(b"\r\n"))
                if "\0" in text:
                    raise UserError(f"--list {file} holds a NUL: one path a line is asked for.")
                if text.strip():
                    count += 1
                    path = PurePath(text)
                    yield str(path), _listed_name(path)
    except OSError as error:
        raise UserError(f"Cannot read --list {file}: {error.strerror}.") from error
    if not count:
        raise UserError(f"--list {file} names no picture.")


def _listed_name(path: PurePath) -> str:
    """Return where the map of a listed picture lies, relative to the output and with its suffix.

    >>> _listed_name(PurePath("a/b.jpg")), _listed_name(PurePath("/data/b.jpg"))
    ('a/b.jpg', 'data/b.jpg')
    """
    if ".." in path.parts:
        path = PurePath(os.path.abspath(path))  # noqa: PTH100
    return str(path.relative_to(path.anchor))

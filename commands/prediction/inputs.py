"""The pictures that `test` predicts (folders, files, globs, lists) and the names of their maps.

For a million pictures only hashes are held in memory, some tens of bytes each; the paths are in a
temporary file. A picture's shard (`--shard`) and the name of its map depend on its path and on the
names of the other pictures, not on their order. So all workers derive the same names, and no two
workers write the same file.
"""

import codecs
import os
import sys
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
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
from salience.system.terminal import counted, tell

SPOOL_BYTES = 2**24  # paths beyond this size are kept on disk
STANDARD_INPUT = Path("-")
# By kind of output: the ending of the file name. The dot prevents collisions with the maps of
# pictures such as cat_crop.jpg.
ENDINGS = {
    "map": ".png",
    "overlay": ".overlay.png",
    "float": ".npy",
    "density": ".density.npy",
    "contours": ".contours.png",
    "peaks": ".peaks.json",
    "crop": ".crop.png",
    "mask": ".mask.png",
    "side_by_side": ".side_by_side.png",
}
# endings of earlier versions: a file of such a name is kept, and made again under this name
EARLIER_ENDINGS = {"overlay": "_overlay.png"}
MAX_NAME_BYTES = 255  # limit of common file systems
VIDEOS = "videos"
MAX_KINDS = 12  # kinds of skipped files that are reported separately
MAX_SUFFIX = 12  # a longer text after a dot is part of the name
# a picture whose name ends so could have an output named like one of another picture: a.density's
# .npy is a's .density.npy
_ALL_ENDINGS = (*ENDINGS.values(), *EARLIER_ENDINGS.values())
MARKS = tuple(
    longer.removesuffix(shorter)
    for longer in _ALL_ENDINGS
    for shorter in ENDINGS.values()
    if longer != shorter and longer.endswith(shorter)
)


@dataclass(frozen=True)
class Job:
    """A picture and the paths of its outputs."""

    source: Path
    outputs: dict[str, Path]  # by kind, of ENDINGS
    # rows and columns of the picture, if its EXIF orientation is to be ignored (see `sample_image`)
    shape: tuple[int, int] | None = None

    @property
    def done(self) -> bool:
        """Whether every output exists."""
        # Path.is_file raises an error for a name that is too long
        return all(os.path.isfile(path) for path in self.outputs.values())  # noqa: PTH113


class Tally:
    """Counts names in 8 bytes per name.

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
        self.added.append(hash64(name))

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """The hashes of the names, in the order of their addition."""
        return np.frombuffer(self.added, np.uint64)

    def __getitem__(self, name: str) -> int:
        if len(self.ordered) != len(self.added):
            self.ordered = np.sort(self.hashes)
        key = np.uint64(hash64(name))
        first, last = (int(np.searchsorted(self.ordered, key, side)) for side in ("left", "right"))
        return last - first


def hash64(name: str) -> int:
    """Return a name's 64-bit hash, the same on every machine.

    Two of a million names collide with a probability of 3 in 100 million. Their maps then keep the
    pictures' suffixes without need.
    """
    return int.from_bytes(blake2b(os.fsencode(name), digest_size=8).digest())


class Collection:
    """The pictures of one worker, with the names of their maps; a context manager.

    A map is named like its picture. If that name is not unique, the picture's suffix stays in the
    name (a.jpg.png). If that is not enough, or if a listed picture would be overwritten, a hash of
    the picture's path is added.

    Args:
        images: folders, files or globs.
        settings: the kinds of output and their folder, the list and the shard.
        say: called with each message.

    Raises:
        UserError: an argument matches no file, a folder holds no picture, a list cannot be read, or
            the output folder is the folder of the pictures.
    """

    def __init__(
        self, images: list[str], settings: PredictConfig, say: Callable[[str], None] = tell
    ) -> None:
        self.settings = settings
        self.output = os.path.realpath(settings.output)
        self.output_exists = os.path.isdir(self.output)  # noqa: PTH112
        self._real_folder = lru_cache(4096)(os.path.realpath)
        self.stems, self.names, self.protected = Tally(), Tally(), Tally()
        self.paths: IO[bytes] = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115
        try:
            self.selection = self._gather(images, say)
        except BaseException:
            self.close()
            raise

    def _gather(self, images: list[str], say: Callable[[str], None]) -> NDArray[np.bool_]:
        """Record all names and the paths of this shard; return which paths are not duplicates."""
        part, parts = self.settings.part
        sources, stems, names = Tally(), Tally(), Tally()
        for source, relative in find_pictures(
            images, self.settings.recursive, self.settings.listed, self.settings.output, say
        ):
            sources.add(source)
            stems.add(_collision_key(_stem(relative)))
            names.add(_collision_key(relative))
            if sources.added[-1] % parts == part:
                self._spool(f"{source}\0{relative}\0")
            if self.output_exists:
                self._protect(source)
        # of duplicates, keep the first
        first = np.zeros(len(sources.added), bool)
        first[np.unique(sources.hashes, return_index=True)[1]] = True
        for tally, of_all in ((self.stems, stems), (self.names, names)):
            tally.added.frombytes(of_all.hashes[first].tobytes())
        return first[sources.hashes % np.uint64(parts) == part]

    def _protect(self, source: str) -> None:
        """Protect a picture in the output folder from being overwritten."""
        if _inside(real := self._real(source), self.output):
            self.protected.add(real)
        # not for lists: millions of calls would slow down a shared file system
        if not self.settings.listed and os.path.islink(source):  # noqa: PTH114
            self.protected.add(os.path.realpath(source))

    def _spool(self, fields: str) -> None:
        """Add fields to the temporary file."""
        with self._spool_errors():
            self.paths.write(os.fsencode(fields))

    def _spool_errors(self) -> AbstractContextManager:
        """Return a context that reports a temporary file that cannot be written."""
        return telling(
            f"Cannot keep the paths of the pictures in {tempfile.gettempdir()}",
            "set TMPDIR to a folder with more room",
        )

    def __len__(self) -> int:
        return int(np.count_nonzero(self.selection))

    def __iter__(self) -> Iterator[Job]:
        """Yield the jobs of this worker's shard."""
        with self._spool_errors():  # seek flushes the last paths
            self.paths.seek(0)
        fields = _split(self.paths)
        kinds = requested_kinds(self.settings)
        for source, relative in compress(zip(fields, fields, strict=True), self.selection):
            name = self._name(source, relative)
            outputs = self._outputs(name)
            if self.output_exists:
                outputs |= self._earlier(name, kinds)
            yield Job(Path(source), {kind: Path(outputs[kind]) for kind in kinds})

    def _name(self, source: str, relative: str) -> str:
        """Return the name of a picture's map without suffix, relative to the output folder."""
        stem = _stem(relative)
        if self.stems[_collision_key(stem)] == 1 and self._overwrites_nothing(stem):
            return stem
        key = _collision_key(relative)
        if not self.stems[key] and self.names[key] == 1 and self._overwrites_nothing(relative):
            return relative
        while True:
            relative = _with_hash(relative, source)
            key = _collision_key(relative)
            if not self.stems[key] and not self.names[key] and self._overwrites_nothing(relative):
                return relative

    def _overwrites_nothing(self, name: str) -> bool:
        """Return True if no output of this name would overwrite a picture."""
        if not len(self.protected.added):
            return True
        return not any(self.protected[self._real(path)] for path in self._outputs(name).values())

    def _outputs(self, name: str) -> dict[str, str]:
        """Return the paths of all kinds of output, so that names do not depend on the settings."""
        base = os.path.join(self.settings.output, name)  # noqa: PTH118
        return {kind: shortened(base, ending) for kind, ending in ENDINGS.items()}

    def _earlier(self, name: str, kinds: list[str]) -> dict[str, str]:
        """Return the paths of outputs that an earlier version wrote under another name.

        They stay where scripts of that time look for them.
        """
        base = os.path.join(self.settings.output, name)  # noqa: PTH118
        found = {
            kind: shortened(base, ending)
            for kind, ending in EARLIER_ENDINGS.items()
            if kind in kinds
        }
        return {
            kind: path
            for kind, path in found.items()
            if is_colour_png(path)  # a grey one is the map of another picture
            and not self.protected[self._real(path)]
            and not os.path.isfile(shortened(base, ENDINGS[kind]))  # noqa: PTH113
        }

    def _real(self, path: str) -> str:
        """Return a path with the links of its folder resolved; the file itself may be a link."""
        folder, name = os.path.split(path)
        return os.path.join(self._real_folder(folder), name)  # noqa: PTH118

    def close(self) -> None:
        """Remove the temporary file."""
        self.paths.close()

    def __enter__(self) -> "Collection":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def is_colour_png(path: str) -> bool:
    """Return whether a file is a PNG in colour, as overlays are."""
    with suppress(OSError), open(path, "rb") as file:  # noqa: PTH123
        head = file.read(26)
        return head.startswith(b"\x89PNG") and head[25:] in (b"\2", b"\3", b"\6")
    return False


def requested_kinds(settings: PredictConfig) -> list[str]:
    """Return the kinds of output that the settings request.

    >>> requested_kinds(PredictConfig(peaks=3))
    ['map', 'peaks']
    """
    # shares of regions are sums of the density
    flags = {"map": True, "float": settings.float_maps, "density": settings.regions is not None}
    return [kind for kind in ENDINGS if flags.get(kind) or getattr(settings, kind, None)]


def _stem(name: str) -> str:
    """Return a path without its suffix."""
    return os.path.splitext(name)[0]  # noqa: PTH122, Path takes ten times as long


def shortened(base: str, ending: str) -> str:
    """Return an output's path, with a name of at most `MAX_NAME_BYTES` bytes.

    A hash of the whole name replaces the part that is cut off.
    """
    folder, name = os.path.split(base)
    whole = os.fsencode(name)
    if len(whole) + len(ending) <= MAX_NAME_BYTES:
        return base + ending
    end = MAX_NAME_BYTES - len(_with_hash("", name) + ending)
    while end and whole[end] & 0xC0 == 0x80:  # do not split a UTF-8 character
        end -= 1
    return os.path.join(folder, _with_hash(os.fsdecode(whole[:end]), name) + ending)  # noqa: PTH118


def _with_hash(name: str, source: str) -> str:
    """Return a name followed by the hash of another name, such as a picture's path."""
    return f"{name}-{hash64(source):016x}"


def _collision_key(name: str) -> str:
    """Return a key that names share if their outputs may collide, as those of a and of a.mask."""
    while name.endswith(MARKS):
        name = next(name[: -len(mark)] for mark in MARKS if name.endswith(mark))
    return name


def _split(file: IO[bytes]) -> Iterator[str]:
    """Yield the NUL-terminated fields of a file."""
    rest = b""
    while block := file.read(2**16):
        *whole, rest = (rest + block).split(b"\0")
        yield from map(os.fsdecode, whole)


def find_pictures(
    images: list[str],
    recursive: bool,
    listed: Path | None,
    output: Path,
    say: Callable[[str], None],
) -> Iterator[tuple[str, str]]:
    """Yield (file, path relative to the output) of each picture; there may be duplicates.

    Files in the output folder are skipped if it lies inside a searched folder, so that a second run
    over `.` does not predict the maps of the first.

    Raises:
        UserError: see `Collection`.
    """
    into = os.path.realpath(output)
    for text in images:
        path = Path(text)
        if text and os.path.isdir(text):  # noqa: PTH112
            # maps of several folders are written to a sub-folder each
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
                and _suffix(p) not in VIDEO_SUFFIXES  # predicted by `video.py`
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
    """Yield (file, root / path in the folder) of each picture of a folder, sorted by name.

    Raises:
        UserError: the folder holds no picture, or is the output folder.
    """
    real = os.path.realpath(folder)
    if real == output:
        raise UserError(
            f"--output {folder} is the folder of the pictures: the next run would predict the "
            "maps, too. Choose another folder."
        )
    # maps of an earlier run can only lie in the output folder
    skip = output if _inside(output, real) else ""
    empty, skipped = True, SkippedFiles(say)
    for path, relative in _walk(str(folder), root, recursive, skip, skipped):
        empty = False
        yield path, relative
    skipped.report(folder)
    if empty:
        hint = "" if recursive else " Its sub-folders are searched with --recursive."
        raise UserError(f"No pictures in the folder {folder}.{hint}")


class SkippedFiles:
    """Counts the files of a folder that are not read, by kind.

    Args:
        say: called with a message for each unreadable folder, and one for all other files.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, kind: str, path: str) -> None:
        """Count a file or folder."""
        if kind not in self.first and len(self.first) >= MAX_KINDS:
            kind = "others"
        self.counts[kind] += 1
        self.first[kind] = min(path, self.first.get(kind, path))

    def report(self, folder: Path) -> None:
        """Report the counts, the most frequent kind first."""
        if videos := self.counts.pop(VIDEOS, 0):
            self.say(
                f"skipped: {counted(videos, 'video')} in {folder}; to predict one, name it: "
                f"{self.first[VIDEOS]}"
            )
        ordered = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        kinds = [f"{count} {kind} ({self.first[kind]})" for kind, count in ordered]
        if kinds:
            self.say(f"skipped in {folder}, with the first of each: {', '.join(kinds)}")


def _walk(
    folder: str, relative: str, recursive: bool, skip: str, skipped: SkippedFiles
) -> Iterator[tuple[str, str]]:
    """Yield the pictures of a folder and their relative paths, sorted by name; omit `skip`."""
    names, folders, links = [], set(), set()  # only names, as a folder may hold a million
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_clutter(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.add(entry.name)
                elif kind := _unread(entry):
                    skipped.add(kind, _path_in(folder, entry.name))
                    continue
                elif entry.is_symlink():
                    links.add(entry.name)
                names.append(entry.name)
    except OSError as error:
        skipped.say(f"skipped: cannot read the folder {folder}: {error.strerror}")
    for name in sorted(names):
        path = _path_in(folder, name)
        inner = os.path.join(relative, name)  # noqa: PTH118
        if name in folders:
            if skip and os.path.realpath(path) == skip:
                continue
            if recursive:
                yield from _walk(path, inner, recursive, skip, skipped)
            else:
                skipped.add("folders, which --recursive searches", path)
        elif name in links and os.path.isdir(path):  # noqa: PTH112
            skipped.add("links to folders", path)
        # a broken link is reported when it is read
        elif name not in links or not (skip and _in(path, skip)):
            yield path, inner


def _unread(entry: os.DirEntry[str]) -> str:
    """Return the kind of a file that is not read, or "" for a picture or a link to one."""
    suffix = _suffix(entry.name)
    if suffix in VIDEO_SUFFIXES:
        return VIDEOS
    if suffix not in IMAGE_SUFFIXES:
        return suffix if 1 < len(suffix) <= MAX_SUFFIX else "without a suffix"
    return "" if entry.is_symlink() or entry.is_file() else "pipes or devices"


def _path_in(folder: str, name: str) -> str:
    """Return the path of an entry of a folder."""
    return os.path.join("" if folder == "." else folder, name)  # noqa: PTH118


def _suffix(name: str) -> str:
    """Return a path's suffix in lower case."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122, Path takes ten times as long


def _inside(path: str, folder: str) -> bool:
    """Return True if a path lies inside a folder; both have no symbolic links."""
    return path.startswith(os.path.join(folder, ""))  # noqa: PTH118


def _in(path: str, folder: str) -> bool:
    """Return True if a file or the target of a link lies inside a folder without links."""
    return _inside(os.path.realpath(path), folder)


def in_list(file: Path) -> Iterator[tuple[str, str]]:
    """Yield (file, path relative to the output) of each line of a list; `-` is standard input.

    Paths are relative to the current folder. A map is written under its picture's path, without the
    first slash if the path is absolute. A path with `..` is made absolute.

    Raises:
        UserError: the list cannot be read or is empty.
    """
    count = 0
    try:
        with nullcontext(sys.stdin.buffer) if file == STANDARD_INPUT else file.open("rb") as lines:
            for index, line in enumerate(lines):
                # some editors write a byte-order mark
                own = line if index else line.removeprefix(codecs.BOM_UTF8)
                text = os.fsdecode(own.rstrip(b"\r\n"))
                if "\0" in text:
                    raise UserError(f"--list {file} holds a NUL: one path per line is expected.")
                if text.strip():
                    count += 1
                    path = PurePath(text)
                    yield str(path), _listed_name(path)
    except OSError as error:
        raise UserError(f"Cannot read --list {file}: {error.strerror}.") from error
    if not count:
        raise UserError(f"--list {file} names no picture.")


def _listed_name(path: PurePath) -> str:
    """Return the path of a listed picture relative to the output folder, with its suffix.

    >>> _listed_name(PurePath("a/b.jpg")), _listed_name(PurePath("/data/b.jpg"))
    ('a/b.jpg', 'data/b.jpg')
    """
    if ".." in path.parts:
        path = PurePath(os.path.abspath(path))  # noqa: PTH100
    return str(path.relative_to(path.anchor))

"""Archives: unpacked without trusting them, and written so that equal files give equal bytes."""

import gzip
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from salience.system.errors import UserError
from salience.system.files import (
    atomic,
    composed,
    lies_in_clutter,
    make_folder,
    move,
    open_regular,
    scratch,
    telling,
)
from salience.system.terminal import progress

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
LIMIT_BYTES, LIMIT_FILES = 64 * 2**30, 500_000  # several times the largest of the data sets
BLOCK = 2**20  # bytes held at once
LONGEST = 1000  # characters of a path
DEEPEST = 64  # folders: a file below thousands of them takes each system call thousands of steps
# what zipfile, tarfile and the decompressors raise on a damaged file: of an unknown compression,
# of a name that is no UTF-8, of a field that is no number
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError,
          EOFError, ValueError, NotImplementedError, RuntimeError, struct.error, IndexError,
          KeyError, OverflowError)  # fmt: skip


@dataclass(frozen=True)
class Member:
    """One entry of an archive, as the archive tells it; `trouble` is why it is no plain file."""

    name: str  # without the ./ that `tar czf X.tar.gz ./folder` puts before each
    size: int
    is_folder: bool
    trouble: str
    open: Callable[[], Any]
    position: int  # bytes of the archive before it, about


@contextmanager
def members(archive: Path) -> Iterator[Iterator[Member]]:
    """Give the entries of an archive, in their order; each can be read until the next is asked for.

    Raises:
        UserError: it is missing, of another type, damaged or truncated.
    """
    name = archive.name.lower()
    if not name.endswith(SUFFIXES):
        raise UserError(f"{archive} is no archive of a known type: {', '.join(SUFFIXES)}.")
    try:
        raw = open_regular(archive)
    except OSError as error:
        raise UserError(f"Cannot read {archive}: {error.strerror}.") from error
    opened = _zipped(raw) if name.endswith(".zip") else _tarred(raw, not name.endswith(".tar"))
    with raw, closing(opened) as entries:
        try:
            yield entries
        except DAMAGE as error:
            raise UserError(
                f"{archive} is damaged or truncated ({error}): download or make it again."
            ) from error


def _zipped(raw: IO[bytes]) -> Generator[Member, None, None]:
    """Yield the entries of a .zip."""
    with zipfile.ZipFile(raw) as file:
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where no Unix made it
            trouble = "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "is a link or a device"
            trouble = "is encrypted" if info.flag_bits & 1 else trouble
            reader = partial(file.open, info)
            name = info.orig_filename  # zipfile cuts `filename` at a null byte
            is_folder = name.endswith("/")
            yield Member(_plain(name), info.file_size, is_folder, trouble, reader, raw.tell())


def _plain(name: str) -> str:
    """Return the name of an entry without ./ and // in it, which say nothing."""
    # a longer one is refused
    return PurePosixPath(name).as_posix() if len(name) <= LONGEST else name


class _Blocks:
    """A file for tarfile, which would hold a header of any size in memory."""

    def __init__(self, file: Any) -> None:
        self.seek, self.tell, self._read, self.last = file.seek, file.tell, file.read, b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= BLOCK:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last = self._read(size)
        return self.last


def _tarred(raw: IO[bytes], packed: bool) -> Generator[Member, None, None]:
    """Yield the entries of a .tar, or of a .tar.gz."""
    blocks: Any = _Blocks(gzip.GzipFile(fileobj=raw) if packed else raw)
    with tarfile.open(fileobj=blocks, mode="r:") as file:
        for info in file:
            trouble = "" if info.isreg() or info.isdir() else "is a link or a device"
            reader = partial(file.extractfile, info)
            yield Member(_plain(info.name), info.size, info.isdir(), trouble, reader, raw.tell())
    # tarfile takes what breaks off between two entries, or goes on with rubbish, for the end
    if blocks.last != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it ends without an end mark")
    blocks.read(BLOCK)  # padding; at its end gzip compares the checksum of all


def extract(
    together: Sequence[Path],
    folder: Path,
    limit_bytes: int = LIMIT_BYTES,
    limit_files: int = LIMIT_FILES,
) -> Path:
    """Unpack archives side by side into a new folder, whole or not at all; return that folder.

    What is hidden, and what macOS and Windows add, is left out.

    Args:
        together: the archives, one or more: .zip, .tar, .tar.gz or .tgz.
        folder: is made.
        limit_bytes: of all files, unpacked.
        limit_files: entries, folders too.

    Raises:
        UserError: an archive is damaged, or they are too large; an entry leads out of the folder,
            is no plain file or takes another's place; the folder is there or cannot be written.
    """
    if folder.exists():
        names = " and ".join(archive.name for archive in together)
        raise UserError(f"{folder} is there already: remove it to unpack {names} again.")
    archive = together[0]
    kinds: dict[str, bool] = {}  # of all archives: what one holds, no other may take the place of
    count = size = 0
    with scratch(make_folder(folder.parent)) as temporary:
        made = temporary / "data"
        for archive in together:
            with (
                telling(f"Cannot unpack {archive} to {folder}"),
                members(archive) as entries,
                progress(archive.stat().st_size, f"unpacking {archive.name}", unit="B") as bar,
            ):
                made.mkdir(exist_ok=archive != together[0])
                for member in entries:
                    count, size = count + 1, size + member.size
                    if count > limit_files or size > limit_bytes:
                        limits = f"{limit_files} files and {limit_bytes} bytes"
                        problem = f"exceeds the limit of {limits}"
                    else:
                        problem = _refusal(member, kinds)
                    if problem:
                        name = member.name[:200]
                        raise UserError(f"{archive} is not unpacked: {name!r} {problem}.")
                    bar.update(member.position - bar.n)
                    _unpack(member, made)
        with telling(f"Cannot unpack {archive} to {folder}"):
            move(made, folder)
    return folder


def _refusal(member: Member, kinds: dict[str, bool]) -> str:
    """Return why an entry is not unpacked, or nothing; note in `kinds` what names are folders."""
    if len(member.name) > LONGEST:
        return f"has a name of {len(member.name)} characters"
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or PureWindowsPath(member.name).drive:
        return "leads out of the folder"
    if len(path.parts) > DEEPEST:
        return f"lies {len(path.parts)} folders deep"
    if "\\" in member.name or "\0" in member.name:
        return (
            "has a backslash or a null in its name, which systems read differently: unpack it "
            "yourself, and give --data the folder"
        )
    if member.trouble:
        return member.trouble
    if lies_in_clutter(path):
        return ""  # is not written, so each archive may have its own
    # upper and lower case, and two codings of an accent, are one name to some file systems
    own, *above = (composed(str(p)).casefold() for p in (path, *path.parents))
    clash = own in kinds and not (member.is_folder and kinds[own])
    kinds.setdefault(own, member.is_folder)
    clash = clash or not all(kinds.setdefault(folder, True) for folder in above)
    return "has the name of another, or differs from it in case alone" if clash else ""


def _unpack(member: Member, folder: Path) -> None:
    """Write one entry that was not refused below a folder."""
    path = PurePosixPath(member.name)
    if lies_in_clutter(path):
        return
    target = folder / path
    if member.is_folder:
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with member.open() as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, BLOCK)  # zipfile and tarfile give no byte beyond the size
        if file.tell() != member.size:
            raise tarfile.ReadError(f"{member.name!r} is not as long as it says")


def write_zip(path: Path, files: dict[str, Path]) -> None:
    """Write files into a .zip under the names given, whole or not at all.

    Names are sorted, and times and rights are left out, so equal files give equal archives. Nothing
    is compressed: pictures are already.
    """
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, file in sorted(files.items()):
            info = zipfile.ZipInfo(name)  # of 1980-01-01
            info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, file.read_bytes())

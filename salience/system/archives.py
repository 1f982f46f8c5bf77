"""Archives: safe extraction of untrusted archives, and reproducible .zip files."""

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
LIMIT_BYTES, LIMIT_FILES = 64 * 2**30, 500_000  # several times the largest data set
BLOCK = 2**20  # bytes in memory at once
LONGEST = 1000  # characters of a path
DEEPEST = 64  # folders: system calls on a file below thousands of folders are slow
# exceptions of zipfile, tarfile and the decompressors on a damaged file
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError,
          EOFError, ValueError, NotImplementedError, RuntimeError, struct.error, IndexError,
          KeyError, OverflowError)  # fmt: skip


@dataclass(frozen=True)
class Member:
    """One entry of an archive; `trouble` says why it is neither a plain file nor a folder."""

    name: str  # without the ./ that `tar czf X.tar.gz ./folder` puts before each
    size: int
    is_folder: bool
    trouble: str
    open: Callable[[], Any]
    position: int  # bytes of the archive before it, about


@contextmanager
def members(archive: Path) -> Iterator[Iterator[Member]]:
    """Yield an iterator over the entries of an archive; an entry is readable until the next one.

    Raises:
        UserError: the archive is missing, of another type, damaged or truncated.
    """
    name = archive.name.lower()
    if not name.endswith(SUFFIXES):
        raise UserError(f"{archive} is not an archive of a known type: {', '.join(SUFFIXES)}.")
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
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 if the archive is not from Unix
            trouble = "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "is a link or a device"
            trouble = "is encrypted" if info.flag_bits & 1 else trouble
            reader = partial(file.open, info)
            name = info.orig_filename  # zipfile cuts `filename` at a null byte
            is_folder = name.endswith("/")
            yield Member(_plain(name), info.file_size, is_folder, trouble, reader, raw.tell())


def _plain(name: str) -> str:
    """Return the name of an entry without redundant ./ and //."""
    # longer names are refused later
    return PurePosixPath(name).as_posix() if len(name) <= LONGEST else name


class _Blocks:
    """A file object for tarfile that limits the size of headers, which are read into memory."""

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
    # tarfile accepts an archive that breaks off between two entries, or continues with garbage
    if blocks.last != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it ends without an end mark")
    blocks.read(BLOCK)  # padding; at its end, gzip checks the checksum


def extract(
    together: Sequence[Path],
    folder: Path,
    limit_bytes: int = LIMIT_BYTES,
    limit_files: int = LIMIT_FILES,
) -> Path:
    """Unpack archives into one new folder, atomically, and return the folder.

    Hidden files, and files that macOS and Windows add, are left out.

    Args:
        together: the archives, one or more: .zip, .tar, .tar.gz or .tgz.
        folder: the folder, which must not exist.
        limit_bytes: most bytes of all unpacked files.
        limit_files: most entries, folders included.

    Raises:
        UserError: an archive is damaged or too large; an entry leads out of the folder, is not a
            plain file or has the name of another; or the folder exists or cannot be written.
    """
    if folder.exists():
        names = " and ".join(archive.name for archive in together)
        raise UserError(f"{folder} exists already: remove it to unpack {names} again.")
    archive = together[0]
    kinds: dict[str, bool] = {}  # names in all archives, since no entry may replace another's
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
    """Return why an entry is refused, or ""; record in `kinds` whether each name is a folder."""
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
        return ""  # not written, so several archives may have it
    # some file systems ignore case and the Unicode form of accents
    own, *above = (composed(str(p)).casefold() for p in (path, *path.parents))
    clash = own in kinds and not (member.is_folder and kinds[own])
    kinds.setdefault(own, member.is_folder)
    clash = clash or not all(kinds.setdefault(folder, True) for folder in above)
    return "has the name of another, or differs from it in case alone" if clash else ""


def _unpack(member: Member, folder: Path) -> None:
    """Write an accepted entry into a folder."""
    path = PurePosixPath(member.name)
    if lies_in_clutter(path):
        return
    target = folder / path
    if member.is_folder:
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with member.open() as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, BLOCK)  # zipfile and tarfile stop at the entry's size
        if file.tell() != member.size:
            raise tarfile.ReadError(f"{member.name!r} is not as long as its entry says")


def write_zip(path: Path, files: dict[str, Path]) -> None:
    """Write files into a .zip under the given names, atomically.

    Names are sorted, and times and permissions are constant, so that equal files give equal
    archives. Files are not compressed, since pictures already are.
    """
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, file in sorted(files.items()):
            info = zipfile.ZipInfo(name)  # of 1980-01-01
            info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, file.read_bytes())

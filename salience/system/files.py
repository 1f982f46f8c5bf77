"""Atomic writing of files: each output goes to a temporary name and is then renamed.

This module also reads and hashes files, and knows the folder of the program.
"""

import csv
import errno
import hashlib
import io
import itertools
import json
import math
import os
import re
import shutil
import stat
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from salience.system.errors import StorageError, UserError

HERE = Path(__file__).resolve().parents[2]  # the folder of the program
HDF5_SUFFIXES = (".hdf5", ".h5", ".hdf")


def is_installed() -> bool:
    """Return whether the program is installed as a package."""
    return HERE.name in ("site-packages", "dist-packages")


def in_program(path: Path) -> bool:
    """Return whether a path lies in the folder of an installed program, which updates replace."""
    return is_installed() and path.resolve().is_relative_to(HERE)


def how_to_install(extra: str, words: str) -> str:
    """Return the command that installs missing packages.

    Args:
        extra: extra of pyproject.toml, for an installed program; "" for the program itself.
        words: command for a program that is not installed.
    """
    if not is_installed():
        return words
    return f'pip install "{f".[{extra}]" if extra else "."}" in the folder of Salience'


# remedies for errors of the storage; other errors count as a broken disk
REMEDIES = {
    errno.ENOSPC: "Free space or files there (df -h, df -i)",
    errno.EDQUOT: "Free some of your quota there (quota -s)",
    errno.EROFS: "Have that disk mounted for writing",
    errno.EACCES: "See who may write there (ls -ld)",
    errno.EPERM: "See who may write there (ls -ld, lsattr -d)",
    errno.ENOENT: "See what removed the folder",
    errno.ESTALE: "See whether that disk is still mounted",
    errno.ENODEV: "See whether that disk is still mounted",
    errno.EIO: "Check that disk for errors (dmesg)",
    errno.EMFILE: "Raise the limit of open files (ulimit -n)",
    errno.ENFILE: "See which processes hold so many files open",
    errno.EFBIG: "Raise the limit of a file's size (ulimit -f)",
}
# errors of a name, not of the disk: an invalid name, or a file in place of a folder
MISNAMED = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG,
            errno.EINVAL, errno.ELOOP, errno.EILSEQ)  # fmt: skip
# errors of flushing a folder on systems that do not support it
NO_FOLDER_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM)
PARTIAL = re.compile(r"\.partial-\d+-\d+(\..*)?", re.DOTALL)  # names of temporary files
LEFT_SECONDS = 86400.0  # age at which a temporary file counts as abandoned
# files and folders that systems and archivers add, besides hidden ones
CLUTTER = ("__MACOSX", "Thumbs.db", "desktop.ini")
SMALL_FILE = 2**20  # bytes: as fast to read as to open
# Windows has no O_NONBLOCK, and needs O_BINARY
NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters of formulas in spreadsheets
HEAD_AND_TAIL = 2**16  # bytes at each end of a large file that its stamp includes


def error_number(error: BaseException) -> int | None:
    """Return the `errno` of a storage error, from its number or its text; None for other errors.

    HDF5 and TensorFlow report such errors only as text.

    >>> error_number(RuntimeError("(file write failed: error message = 'No space left on device')"))
    28
    """
    if isinstance(error, OSError) and error.errno:
        return error.errno
    text = str(error)
    return next((number for number in REMEDIES if os.strerror(number) in text), None)


def refused(what: str, error: BaseException, instead: str = "write elsewhere") -> UserError:
    """Return a one-line error: what failed, why, and the remedy.

    Args:
        what: the failed action with its path, such as "Cannot write a.png".
        error: exception of the system or of a library.
        instead: an alternative for the user.

    >>> refused("Cannot write a.png", OSError(errno.ENOTDIR, "Not a directory"))
    UserError('Cannot write a.png: Not a directory. Write elsewhere.')
    """
    number = error_number(error)
    # NumPy reports a short write without an errno
    why = os.strerror(number) if number else " ".join(str(error).split()) or type(error).__name__
    if number in MISNAMED:
        return UserError(f"{what}: {why}. {instead[0].upper()}{instead[1:]}.")
    remedy = REMEDIES.get(number or 0, REMEDIES[errno.EIO])
    return StorageError(f"{what}: {why}. {remedy}, or {instead}.")


@contextmanager
def telling(what: str, instead: str = "write elsewhere") -> Iterator[None]:
    """Turn storage errors in the block into the one-line error of `refused`."""
    try:
        yield
    except (UserError, BrokenPipeError):  # a broken pipe concerns standard output, not the storage
        raise
    except Exception as error:
        if not isinstance(error, OSError) and error_number(error) is None:
            raise
        raise refused(what, error, instead) from error


def make_folder(folder: Path, flag: str = "--output", inside: Path | None = None) -> Path:
    """Create a folder with its parents, remove abandoned temporary files in it, and return it.

    Args:
        folder: the folder.
        flag: flag that chooses another folder, for errors.
        inside: a parent that existed before. It is not created again if it was removed, since
            earlier outputs are then lost.

    Raises:
        StorageError: the folder cannot be created, or is not writable.
        UserError: the name is not valid for a folder.
    """
    with telling(f"Cannot create the folder {folder}", f"choose another with {flag}"):
        if inside is None:
            folder.mkdir(parents=True, exist_ok=True)
        for part in reversed((folder, *folder.parents)):
            if inside in part.parents:
                part.mkdir(exist_ok=True)
        folder.stat()  # raises if the folder was removed
    if not os.access(folder, os.W_OK):
        raise StorageError(f"The folder {folder} is not writable. Choose another with {flag}.")
    if folder not in _swept:
        _swept.add(folder)
        sweep(folder)
    return folder


_swept: set[Path] = set()
_numbers = itertools.count()


def aside(folder: Path, suffix: str = "") -> Path:
    """Return a temporary name in a folder, unique for each process and call."""
    return folder / f".partial-{os.getpid()}-{next(_numbers)}{suffix}"


def sweep(folder: Path, left_seconds: float = LEFT_SECONDS) -> None:
    """Remove temporary files and folders of killed processes from a folder.

    Args:
        folder: the folder.
        left_seconds: least age; younger files may belong to a running process, maybe on another
            host.
    """
    with suppress(OSError):
        for path in [Path(entry) for entry in os.scandir(folder) if PARTIAL.fullmatch(entry.name)]:
            changed = max(part.lstat().st_mtime for part in (path, *path.rglob("*")))
            if changed <= time.time() - left_seconds:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()


@contextmanager
def atomic(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` if the block succeeds.

    The temporary name keeps the suffixes, by which OpenCV and Keras choose the format. It keeps
    nothing else of the name, which may have the maximum length already. After an error, the
    temporary file is removed and `path` is unchanged.

    Args:
        path: the file to write.
        durable: whether to flush file and name to disk, to survive a power failure.

    Raises:
        StorageError: the file cannot be written (folder not writable, disk full).
        UserError: the name is not valid for a file.
    """
    temporary = aside(path.parent, "".join(path.suffixes[-2:])[-40:])
    try:
        with telling(f"Cannot write {path}"):
            yield temporary
            move(temporary, path, durable)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder inside another; it is removed after the block.

    Raises:
        StorageError: the folder cannot be created, or the block cannot write.
    """
    temporary = aside(folder)
    try:
        with telling(f"Cannot write into {folder}"):
            temporary.mkdir()
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def move(made: Path, path: Path, durable: bool = True) -> None:
    """Rename a temporary file or folder to its final path, after it is flushed to disk."""
    if durable and not made.is_dir():
        flush(made)
    elif durable and hasattr(os, "sync"):
        os.sync()  # one call, instead of a flush of each of thousands of files
    os.replace(made, path)
    if durable:
        flush_folder(path.parent)


def refusal_in(folder: Path, size: int) -> OSError | None:
    """Return the error of writing `size` bytes into a folder, or None if that succeeds.

    It explains failures of libraries that do not report why they could not write.
    """
    path = aside(folder)
    try:
        path.write_bytes(bytes(size))
        flush(path)
    except OSError as error:
        return error
    finally:
        with suppress(OSError):
            path.unlink()
    return None


def flush(path: Path) -> None:
    """Flush a file to disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, if the system supports it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows cannot open folders
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_FOLDER_FLUSH:
            raise
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic(path) as temporary:
        # the text may contain file names that are not valid UTF-8
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a binary file atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON atomically, with null for NaN."""
    text = json.dumps(without_nan(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def is_clutter(name: str) -> bool:
    """Return whether a file or folder is not data, but hidden or added by a system.

    >>> is_clutter("._a.jpg"), is_clutter("__MACOSX"), is_clutter("a.jpg")
    (True, True, False)
    """
    return name.startswith(".") or name in CLUTTER


def lies_in_clutter(path: PurePath) -> bool:
    """Return whether a part of a path is not data (see `is_clutter`).

    >>> lies_in_clutter(PurePath("__MACOSX/a/._a.jpg")), lies_in_clutter(PurePath("a/a.jpg"))
    (True, False)
    """
    return any(map(is_clutter, path.parts))


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC), in which names are compared.

    macOS returns decomposed names (NFD); archives and other systems return either form.

    >>> composed("e\u0301") == "\u00e9"
    True
    """
    return unicodedata.normalize("NFC", name)


def real_path(path: Path | str) -> Path:
    """Return an absolute path without links; a link to itself is returned unchanged.

    `Path.resolve` raises RuntimeError for a link to itself.
    """
    return Path(os.path.realpath(path))


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading.

    A pipe would block until a writer opens it, and a device may have no end.

    Raises:
        UserError: the path is a pipe, a device or a folder.
        OSError: the file cannot be opened.
    """
    # non-blocking, since a pipe would block already when opened
    handle = os.open(path, os.O_RDONLY | NO_WAIT)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UserError(f"{path} is not a file.")
    return os.fdopen(handle, "rb")


def read_bytes(path: Path) -> bytes:
    """Return the content of a regular file; raises as `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def read_text(path: Path, errors: str = "strict") -> str:
    """Return the content of a UTF-8 text file, without a byte-order mark.

    Args:
        path: the file.
        errors: treatment of invalid bytes, as in `bytes.decode`.

    Raises:
        UserError: the path is not a regular file.
        OSError: the file cannot be read.
        UnicodeDecodeError: the file is not UTF-8.
    """
    return read_bytes(path).decode("utf-8-sig", errors)


def content_stamp(path: Path) -> str:
    """Return a digest that changes with a file's content, fast for large files, too.

    A file of at most 1 MB is hashed whole. For a larger file, the digest includes size, time and
    both ends. Size and time are not enough, since archives and copies restore times.

    Raises:
        UserError: the path is not a regular file.
        OSError: the file cannot be read.
    """
    status = path.stat()
    return _stamp(path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def stamp_or_nothing(path: Path) -> str:
    """Return a file's `content_stamp`; "" if it cannot be read, which a later read reports."""
    try:
        return content_stamp(path)
    except (OSError, UserError):
        return ""


@lru_cache(2**9)  # recent files only, to limit memory for millions of pictures
def _stamp(path: Path, inode: int, size: int, time_ns: int, changed_ns: int) -> str:
    """Return the digest of `content_stamp`, cached for recent files."""
    with open_regular(path) as file:
        if size <= SMALL_FILE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(f"{size} {time_ns} ".encode() + file.read(HEAD_AND_TAIL))
        file.seek(-HEAD_AND_TAIL, os.SEEK_END)
        digest.update(file.read())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def without_nan(value: Any) -> Any:
    """Return nested values with None for NaN and infinities, which JSON does not support.

    >>> without_nan({"nss": [1.0, float("nan")]})
    {'nss': [1.0, None]}
    """
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        UserError: the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(read_text(path))
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}.") from error
    except RecursionError as error:
        raise UserError(f"{path} is not read: its JSON is nested a thousand deep.") from error


def as_csv(rows: list[dict[str, Any]]) -> str:
    r"""Return rows with equal keys as CSV text with a header.

    A text that a spreadsheet would evaluate as a formula, such as a picture's name, gets a leading
    quote.

    >>> as_csv([{"epoch": 1, "loss": -0.5}])
    'epoch,loss\n1,-0.5\n'
    >>> as_csv([{"name": "=1+1.jpg"}])
    "name\n'=1+1.jpg\n"
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([list(rows[0]), *(map(_as_cell, row.values()) for row in rows)])
    return text.getvalue()


def _as_cell(value: Any) -> Any:
    """Return a value that a spreadsheet does not evaluate as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def joined_pair(first: Path | str, second: Path | str) -> Path:
    """Return two HDF5 files as one path, with the separator of PATH between them.

    >>> split_pair(joined_pair("a.hdf5", "b.hdf5"))
    (PosixPath('a.hdf5'), PosixPath('b.hdf5'))
    """
    return Path(f"{first}{os.pathsep}{second}")


def split_pair(path: Path | str) -> tuple[Path, Path] | None:
    """Return the two files of `joined_pair`; None for any other path."""
    text = str(path)
    for at in (at for at, sign in enumerate(text) if sign == os.pathsep):
        first, second = text[:at], text[at + 1 :]
        if first.lower().endswith(HDF5_SUFFIXES) and second:
            return Path(first), Path(second)
    return None


def is_name(text: str) -> bool:
    """Return whether a text can name an adaptation, as a part of its file name.

    >>> is_name("eyecrowd"), is_name("runs/mine"), is_name("mine.json")
    (True, False, False)
    """
    return bool(re.fullmatch(r"[\w+-][\w.+-]{0,60}", text)) and not text.endswith(".json")

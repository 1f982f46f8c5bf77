"""Files written whole or not at all: every output goes to a temporary name and is then renamed.

Here are also reading and digests of files, and where the program lies.
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

HERE = Path(__file__).resolve().parents[2]  # the folder that the program lies in


def is_installed() -> bool:
    """Return whether the program lies among installed packages, not in a folder of its own."""
    return HERE.name in ("site-packages", "dist-packages")


def how_to_install(extra: str, words: str) -> str:
    """Return the words that install what is missing.

    Args:
        extra: of pyproject.toml, where the program is installed; empty for all that it needs.
        words: those in the program's folder.
    """
    if not is_installed():
        return words
    return f'pip install "{f".[{extra}]" if extra else "."}" in the folder of Salience'


# what the storage refuses, and what its owner can do; the rest of the errors come from a sick disk
REMEDIES = {
    errno.ENOSPC: "Free space or files there (df -h, df -i)",
    errno.EDQUOT: "Free some of your quota there (quota -s)",
    errno.EROFS: "Have that disk mounted for writing",
    errno.EACCES: "See who may write there (ls -ld)",
    errno.EPERM: "See who may write there (ls -ld, lsattr -d)",
    errno.ENOENT: "See what removed the folder",
    errno.ESTALE: "See whether that disk is still mounted",
    errno.ENODEV: "See whether that disk is still mounted",
    errno.EIO: "See what ails that disk (dmesg)",
    errno.EMFILE: "Raise the limit of open files (ulimit -n)",
    errno.ENFILE: "See which processes hold so many files open",
    errno.EFBIG: "Raise the limit of a file's size (ulimit -f)",
}
# no disk's fault: such a name, or a file where a folder should be
MISNAMED = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG,
            errno.EINVAL, errno.ELOOP, errno.EILSEQ)  # fmt: skip
# what a folder's flush ends with where the system knows no such thing, or may not look into it
NO_FOLDER_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM)
PARTIAL = re.compile(r"\.partial-\d+-\d+(\..*)?", re.DOTALL)  # the names of what is not finished
LEFT_SECONDS = 86400.0  # by then nobody works on it
# what systems and archives leave beside the data, besides what is hidden
CLUTTER = ("__MACOSX", "Thumbs.db", "desktop.ini")
SMALL_FILE = 2**20  # bytes: as fast to read as to open
# Windows knows no such pipes, and reads text unless it is told not to
NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that spreadsheets reckon out
HEAD_AND_TAIL = 2**16  # bytes of each end of a large file that its stamp depends on


def error_number(error: BaseException) -> int | None:
    """Return the `errno` of what the storage refused; None where an error tells of no such thing.

    HDF5 and TensorFlow tell it in words alone.

    >>> error_number(RuntimeError("(file write failed: error message = 'No space left on device')"))
    28
    """
    if isinstance(error, OSError) and error.errno:
        return error.errno
    text = str(error)
    return next((number for number in REMEDIES if os.strerror(number) in text), None)


def refused(what: str, error: BaseException, instead: str = "write elsewhere") -> UserError:
    """Return the error that says in one line what could not be written, why, and what to do.

    Args:
        what: could not be done, and where.
        error: of the system, or of a library that met it.
        instead: what else may help.

    >>> refused("Cannot write a.png", OSError(errno.ENOTDIR, "Not a directory"))
    UserError('Cannot write a.png: Not a directory. Write elsewhere.')
    """
    number = error_number(error)
    # NumPy says of a short write how much was asked for, and no more
    why = os.strerror(number) if number else " ".join(str(error).split()) or type(error).__name__
    if number in MISNAMED:
        return UserError(f"{what}: {why}. {instead[0].upper()}{instead[1:]}.")
    remedy = REMEDIES.get(number or 0, REMEDIES[errno.EIO])
    return StorageError(f"{what}: {why}. {remedy}, or {instead}.")


@contextmanager
def telling(what: str, instead: str = "write elsewhere") -> Iterator[None]:
    """Turn what the storage refuses inside the block into the one line of `refused`."""
    try:
        yield
    except (UserError, BrokenPipeError):  # of the latter, a pipe is to blame that we print into
        raise
    except Exception as error:
        if not isinstance(error, OSError) and error_number(error) is None:
            raise
        raise refused(what, error, instead) from error


def make_folder(folder: Path, flag: str = "--output", inside: Path | None = None) -> Path:
    """Create a folder with its parents and return it; what is left over in it is removed.

    Args:
        folder: the folder.
        flag: what chooses another.
        inside: a folder above it that was there before, and is not made again where it has gone:
            what was written into it has gone, too.

    Raises:
        StorageError: it cannot be created or written into.
        UserError: its name cannot be a folder's.
    """
    with telling(f"Cannot create the folder {folder}", f"choose another with {flag}"):
        if inside is None:
            folder.mkdir(parents=True, exist_ok=True)
        for part in reversed((folder, *folder.parents)):
            if inside in part.parents:
                part.mkdir(exist_ok=True)
        folder.stat()  # or it has gone
    if not os.access(folder, os.W_OK):
        raise StorageError(f"The folder {folder} is not writable. Choose another with {flag}.")
    if folder not in _swept:
        _swept.add(folder)
        sweep(folder)
    return folder


_swept: set[Path] = set()
_numbers = itertools.count()


def aside(folder: Path, suffix: str = "") -> Path:
    """Return a name in a folder for what is not finished; its number tells threads apart."""
    return folder / f".partial-{os.getpid()}-{next(_numbers)}{suffix}"


def sweep(folder: Path, left_seconds: float = LEFT_SECONDS) -> None:
    """Remove what processes that were killed have left unfinished in a folder.

    Args:
        folder: the folder.
        left_seconds: what changed since stays: another process, maybe on another host, may be at
            it.
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
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well.

    The temporary name keeps the suffixes, because OpenCV and Keras choose the format by them, and
    nothing else, because a name may be as long as the file system takes. After an error the
    temporary file is removed and `path` is as it was.

    Args:
        path: what is written.
        durable: wait until the disk has it, and its name, so that it survives a loss of power.

    Raises:
        StorageError: the file cannot be written (unwritable folder, full disk).
        UserError: its name cannot be a file's.
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
    """Yield a new folder inside another, for what is to be moved out of it; it is then removed.

    Raises:
        StorageError: it cannot be made, or what the block writes is refused.
    """
    temporary = aside(folder)
    try:
        with telling(f"Cannot write into {folder}"):
            temporary.mkdir()
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def move(made: Path, path: Path, durable: bool = True) -> None:
    """Give a file, or a folder, that was made aside its name, once the disk has all of it."""
    if durable and not made.is_dir():
        flush(made)
    elif durable and hasattr(os, "sync"):
        os.sync()  # a folder may hold thousands of files, each of which would be waited for
    os.replace(made, path)
    if durable:
        flush_folder(path.parent)


def refusal_in(folder: Path, size: int) -> OSError | None:
    """Return what refuses so many bytes in a folder, or None where there is room.

    For libraries that do not tell why they could not write.
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
    """Wait until the disk has what was written to a file."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder, where the system can do that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # so does Windows say that a folder is no file
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_FOLDER_FLUSH:
            raise
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    with atomic(path) as temporary:
        # a file name may hold bytes that are no UTF-8
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a binary file, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, NaN as null, whole or not at all."""
    text = json.dumps(without_nan(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def is_clutter(name: str) -> bool:
    """Return whether a file or folder of that name is nobody's data: hidden, or a system's own.

    >>> is_clutter("._a.jpg"), is_clutter("__MACOSX"), is_clutter("a.jpg")
    (True, True, False)
    """
    return name.startswith(".") or name in CLUTTER


def lies_in_clutter(path: PurePath) -> bool:
    """Return whether a path leads through, or to, what is nobody's data.

    >>> lies_in_clutter(PurePath("__MACOSX/a/._a.jpg")), lies_in_clutter(PurePath("a/a.jpg"))
    (True, False)
    """
    return any(map(is_clutter, path.parts))


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC), by which names are compared.

    macOS hands out decomposed names (NFD), archives and other systems either.

    >>> composed("e\u0301") == "\u00e9"
    True
    """
    return unicodedata.normalize("NFC", name)


def real_path(path: Path | str) -> Path:
    """Return an absolute path without links; one that links to itself stays as it is.

    `Path.resolve` raises RuntimeError for the latter.
    """
    return Path(os.path.realpath(path))


def open_regular(path: Path) -> io.BufferedReader:
    """Return a file that is open for reading, if it is a regular one.

    A pipe would wait for who writes, and a device may never end.

    Raises:
        UserError: it is a pipe, a device or a folder.
        OSError: it cannot be opened.
    """
    # not to wait where a pipe takes the file's place between a look and the opening
    handle = os.open(path, os.O_RDONLY | NO_WAIT)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UserError(f"{path} is not a file.")
    return os.fdopen(handle, "rb")


def read_bytes(path: Path) -> bytes:
    """Return what a file holds, if it is a regular one; raises what `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def read_text(path: Path, errors: str = "strict") -> str:
    """Return a text file of UTF-8, with or without a byte-order mark, as Windows writes one.

    Args:
        path: the file.
        errors: what becomes of bytes that are not UTF-8, as `bytes.decode` has it.

    Raises:
        UserError: it is no regular file.
        OSError: it cannot be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    return read_bytes(path).decode("utf-8-sig", errors)


def content_stamp(path: Path) -> str:
    """Return a digest that changes when a file's content does, quick for large files, too.

    A file of at most 1 MB is read whole. Of a larger one size, time and both ends count: archives
    and copies set times back, so that size and time alone tell little.

    Raises:
        UserError: it is no regular file.
        OSError: it cannot be read.
    """
    status = path.stat()
    return _stamp(path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def stamp_or_nothing(path: Path) -> str:
    """Return a file's `content_stamp`; "" where it cannot be read, which its reader tells."""
    try:
        return content_stamp(path)
    except (OSError, UserError):
        return ""


@lru_cache(2**9)  # what is at work now: a million pictures are not to be remembered
def _stamp(path: Path, inode: int, size: int, time_ns: int, changed_ns: int) -> str:
    """Return the digest of `content_stamp`; a file asked for again soon is not read again."""
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
    """Return nested values with None for NaN and infinities, which JSON does not know.

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
    r"""Return rows of equal keys as CSV text with a header.

    A text that a spreadsheet would take for a formula, as a picture's name may be, gets a quote
    before it.

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
    """Return a value as no spreadsheet reckons with it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def is_name(text: str) -> bool:
    """Return whether a text can name an adaptation: it becomes part of a file's name.

    >>> is_name("eyecrowd"), is_name("runs/mine"), is_name("mine.json")
    (True, False, False)
    """
    return bool(re.fullmatch(r"[\w+-][\w.+-]{0,60}", text)) and not text.endswith(".json")

"""Safe reading of HDF5 files from unknown sources, and writing of large ones.

The HDF5 library trusts the bytes of a file: a damaged file can crash its process or keep it busy
for ever. Therefore a child process reads the whole file first; this process opens the file only if
the child succeeds.
"""

import io
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from salience.system.errors import UserError
from salience.system.files import HERE, atomic, open_regular

# exceptions that h5py raises on a damaged file
DAMAGED = (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, OverflowError,
           MemoryError, RecursionError)  # fmt: skip
MOST_BYTES = 2**32  # of all arrays: seven times VGG16 with its classifier
MOST_ATTRIBUTE = 2**24  # bytes
MOST_EXPANSION = 1100  # bytes of data per byte of the file: zlib reaches 1032
# bytes of memory that the child may take: for the library, and for each byte of the file
LIBRARY_MEMORY, MEMORY_PER_BYTE = 2**27, 10
# the child process, which may start in any folder
CODE = "import sys; sys.path.insert(0, sys.argv[1]); from salience.data.hdf5 import main; main()"
# -P: no import from the current folder, which may hold untrusted files
CHILD = (sys.executable, "-P", "-c", CODE, str(HERE))
SECONDS, BYTES_A_SECOND = 30, 10**7  # time limit of the child on a busy machine with a slow disk


def open_checked(path: Path) -> h5py.File:
    """Open an HDF5 file after a child process has read it; the caller closes the file.

    Raises:
        OSError: the file is not HDF5.
        UserError: the path is a pipe, a device or a folder; or the child process crashed or timed
            out.
    """
    open_regular(path).close()  # the library would wait for a writer to a pipe
    status = path.stat()
    if h5py.is_hdf5(path) and not reads_safely(path, status.st_size, status.st_mtime_ns):
        raise UserError(f"{path} is damaged: the HDF5 library fails on it. Get the file again.")
    return h5py.File(path)


@lru_cache(256)
def reads_safely(path: Path, size: int, _time: int) -> bool:
    """Return whether a child process reads a file of `size` bytes within its limit of memory.

    Raises:
        UserError: it took too long; another call tries again.
    """
    seconds, name = SECONDS + size / BYTES_A_SECOND, os.fsencode(path.absolute())
    try:
        done = subprocess.run(
            CHILD, input=name.hex().encode(), capture_output=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{path} was not read within {seconds:.0f} s: it is damaged, or this machine is very "
            "busy. Try again; if it fails again, get the file again."
        ) from None
    return done.stdout.strip() == b"fine"


def read_everything(path: Path) -> None:
    """Read all data inside a file and ignore exceptions, which the later reader reports."""

    def read(_name: str, item: Any) -> None:
        with suppress(Exception):
            for name in item.attrs:
                with suppress(Exception):
                    read_attribute(item, name)
        with suppress(Exception):
            if isinstance(item, h5py.Group):
                list(item)
            elif item.dtype.kind in "OS":
                read_rows(item, "")
            else:
                read_numbers(item, "")

    with suppress(Exception), h5py.File(path) as file:
        read("/", file)
        file.visititems(read)


def get_child(group: Any, name: str) -> Any:
    """Return the group or dataset at a path inside a group, or None; no link is followed.

    A soft link may form a cycle; an external link opens any file of this machine that it names.
    """
    for part in name.encode(errors="surrogateescape").split(b"/"):
        if not isinstance(group, h5py.Group) or not group.id.links.exists(part):
            return None
        if group.id.links.get_info(part).type != h5py.h5l.TYPE_HARD:
            return None
        group = group[part]
    return group


def read_attribute(owner: Any, name: str) -> Any:
    """Return an attribute of a group or file; None if it is missing or too large."""
    if name not in owner.attrs:
        return None
    about = owner.attrs.get_id(name)
    size = math.prod(about.shape or ()) * about.dtype.itemsize
    return owner.attrs[name] if size <= MOST_ATTRIBUTE else None


def read_numbers(item: Any, where: str, left: int = MOST_BYTES) -> NDArray:
    """Return a numeric dataset whose data are inside the file.

    Args:
        item: the dataset.
        where: file and name of the dataset, for errors.
        left: most bytes that the array may take.

    Raises:
        UserError: the item is not a numeric dataset, its data are in another file, or it claims
            more values than the file can hold.
    """
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiu" or item.shape is None:
        raise UserError(f"{where} is not an array of numbers.")
    refuse_elsewhere(item, where)
    if item.nbytes > min(left, MOST_EXPANSION * item.id.get_storage_size()):
        raise UserError(f"{where} claims {item.size:,} values, more than the file can hold.")
    return np.asarray(item)


def read_rows(item: Any, where: str) -> list[Any]:
    """Return the texts, as bytes, or the arrays of numbers of any length, of a dataset.

    Rows may share their bytes in the file, so that a small file could claim endless data. All rows
    together may take as many bytes as the file has.

    Args:
        item: the dataset, [n].
        where: file and name of the dataset, for errors.

    Raises:
        UserError: the item is not such a dataset, its data are in another file, or it claims more
            than the file can hold.
    """
    if not isinstance(item, h5py.Dataset) or item.shape is None or len(item.shape) != 1:
        raise UserError(f"{where} is not a list.")
    base = h5py.check_vlen_dtype(item.dtype)
    if item.dtype.kind != "S" and not h5py.check_string_dtype(item.dtype) and (
        base is None or np.dtype(base).kind not in "fiu"
    ):  # fmt: skip
        raise UserError(f"{where} holds neither texts nor numbers.")
    refuse_elsewhere(item, where)
    left = int(item.file.id.get_filesize())
    if item.size > MOST_EXPANSION * item.id.get_storage_size():
        raise UserError(f"{where} claims {item.size:,} rows, more than the file can hold.")
    rows = []
    for i in range(item.size):
        row = item[i]
        left -= len(row) if isinstance(row, bytes) else row.nbytes
        if left < 0:
            raise UserError(f"{where} claims more than the file can hold.")
        rows.append(row)
    return rows


def refuse_elsewhere(item: h5py.Dataset, where: str) -> None:
    """Raise UserError if the data of a dataset are in another file."""
    if item.is_virtual or item.external:
        raise UserError(f"{where} stores its data in another file.")


class KeptError(io.RawIOBase):
    """A file for the HDF5 library that keeps an error of writing instead of raising it.

    The library tries again when it closes a file on a full disk, and then ends the process.

    Args:
        file: the file, open for reading and writing.

    Attributes:
        error: the first error of writing, or None. After it, nothing is written.
    """

    def __init__(self, file: io.FileIO) -> None:
        self.file, self.error = file, None

    def readinto(self, buffer: Any) -> int:
        """Read bytes into a buffer; return their number."""
        return self.file.readinto(buffer) or 0

    def write(self, data: Any) -> int:
        """Write all bytes, or keep the error; return their number."""
        view = memoryview(data).cast("B")
        try:
            at = 0
            while self.error is None and at < len(view):
                at += self.file.write(view[at:]) or 0
        except OSError as error:
            self.error = error
        return len(view)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a place of the file."""
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        """Return the place in the file."""
        return self.file.tell()

    def truncate(self, size: int | None = None) -> int:
        """Set the size of the file, or keep the error."""
        try:
            return self.file.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def flush(self) -> None:
        """Do nothing: the file has no buffer."""


@contextmanager
def writing(path: Path) -> Iterator[h5py.File]:
    """Yield a new HDF5 file, which gets its name after the block; its size is not limited.

    Raises:
        StorageError: the file cannot be written.
    """
    with atomic(path) as temporary, temporary.open("wb+", buffering=0) as raw:
        kept = KeptError(raw)
        try:
            with h5py.File(kept, "w") as file:
                yield file
        except (OSError, RuntimeError, ValueError):
            if kept.error is None:
                raise
        if kept.error is not None:
            raise kept.error


def memory() -> int:
    """Return the peak memory of this process, bytes; 0 if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Run the child process: read each file that standard input names, and print the outcome."""
    for line in sys.stdin.buffer:
        path, before = Path(os.fsdecode(bytes.fromhex(line.decode()))), memory()
        read_everything(path)
        allowed = LIBRARY_MEMORY + MEMORY_PER_BYTE * path.stat().st_size
        answer = "fine" if memory() - before <= allowed else "too much memory"
        os.write(1, f"{answer}\n".encode())
    os._exit(0)  # skip the library's clean-up, which a damaged file may have corrupted

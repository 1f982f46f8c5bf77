"""HDF5 files of others: what may be read of them, and a rehearsal that a damaged file cannot harm.

The HDF5 library is compiled and believes a file: damaged bytes can end its process, or keep it busy
for ever. So a process of its own first reads all there is, and only what it survives is read here.
"""

import math
import os
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from salience.system.errors import UserError
from salience.system.files import HERE, open_regular

# what h5py raises on a damaged file
DAMAGED = (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, OverflowError,
           MemoryError, RecursionError)  # fmt: skip
MOST_BYTES = 2**32  # of all arrays: seven times VGG16 with its classifier
MOST_ATTRIBUTE = 2**24  # bytes
PACKED = 1100  # bytes that one of a file may stand for: more than zlib can
ALLOWANCE, UNPACKED = 2**27, 10  # bytes of memory: for the library, and for a byte of the file
# the rehearsal's process, wherever it is started
CODE = (
    "import sys; sys.path.insert(0, sys.argv[1]); from salience.networks.hdf5 import main; main()"
)
# -P: nothing of the current folder is imported, where the files of strangers lie
CHILD = (sys.executable, "-P", "-c", CODE, str(HERE))
SECONDS, BYTES_A_SECOND = 30, 10**7  # that a rehearsal may take: a busy machine, a slow disk


def opened(path: Path) -> h5py.File:
    """Return a file that the HDF5 library can read, to be closed after use.

    Raises:
        OSError: it is no HDF5 file.
        UserError: it is a pipe, a device or a folder; or reading it ends the process, or comes to
            no end.
    """
    open_regular(path).close()  # the library would wait for who writes into a pipe
    status = path.stat()
    if h5py.is_hdf5(path) and not survives(path, status.st_size, status.st_mtime_ns):
        raise UserError(f"{path} is damaged: the HDF5 library fails on it. Get it again.")
    return h5py.File(path)


@lru_cache(256)
def survives(path: Path, size: int, _time: int) -> bool:
    """Return whether a process of its own comes to an end with a file of so many bytes."""
    seconds, name = SECONDS + size / BYTES_A_SECOND, os.fsencode(path.absolute())
    with suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            CHILD, input=name.hex().encode(), capture_output=True, timeout=seconds
        )
        return done.stdout.strip() == b"fine"
    return False


def rehearse(path: Path) -> None:
    """Read all that a file holds itself; what is raised is the reader's to tell."""

    def read(_name: str, item: Any) -> None:
        with suppress(Exception):
            for name in item.attrs:
                with suppress(Exception):
                    attribute(item, name)
        with suppress(Exception):
            (list(item) if isinstance(item, h5py.Group) else numbers(item, ""))

    with suppress(Exception), h5py.File(path) as file:
        read("/", file)
        file.visititems(read)


def inside(group: Any, name: str) -> Any:
    """Return what a group holds under a name or path, or None; no link is followed.

    A soft link may go in circles, an external one opens whatever file of this machine it names.
    """
    for part in name.encode(errors="surrogateescape").split(b"/"):
        if not isinstance(group, h5py.Group) or not group.id.links.exists(part):
            return None
        if group.id.links.get_info(part).type != h5py.h5l.TYPE_HARD:
            return None
        group = group[part]
    return group


def attribute(owner: Any, name: str) -> Any:
    """Return an attribute of a group or file; None where there is none, or one beyond reason."""
    if name not in owner.attrs:
        return None
    about = owner.attrs.get_id(name)
    size = math.prod(about.shape or ()) * about.dtype.itemsize
    return owner.attrs[name] if size <= MOST_ATTRIBUTE else None


def numbers(item: Any, where: str, left: int = MOST_BYTES) -> NDArray:
    """Return an array of numbers that an HDF5 file holds itself.

    Args:
        item: what lies there.
        where: what errors name.
        left: bytes that it may take.

    Raises:
        UserError: it is none, lies in another file, or claims more than the file can hold.
    """
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiu" or item.shape is None:
        raise UserError(f"{where} is no array of numbers.")
    if item.is_virtual or item.external:
        raise UserError(f"{where} lies in another file.")
    if item.nbytes > min(left, PACKED * item.id.get_storage_size()):
        raise UserError(f"{where} claims {item.size:,} values, more than the file can hold.")
    return np.asarray(item)


def memory() -> int:
    """Return the most bytes that this process has held; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Read the files that standard input names, and say of each whether that went well."""
    for line in sys.stdin.buffer:
        path, before = Path(os.fsdecode(bytes.fromhex(line.decode()))), memory()
        rehearse(path)
        allowed = ALLOWANCE + UNPACKED * path.stat().st_size
        answer = "fine" if memory() - before <= allowed else "too much memory"
        os.write(1, f"{answer}\n".encode())
    os._exit(0)  # what a damaged file left in the library is not asked again

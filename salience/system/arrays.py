"""Arrays as .npy and .npz files: written atomically, read without trust in their headers."""

import io
import lzma
import math
import os
import re
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, Literal
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from salience.system.files import atomic, open_regular, write_bytes

Array = NDArray[np.floating]
# errors of reading a damaged .npy or .npz: a flipped bit may select another compression (zlib,
# lzma), require a password (RuntimeError, as NotImplementedError is) or change a length
UNREADABLE = (OSError, ValueError, EOFError, BadZipFile, zlib.error, lzma.LZMAError, RuntimeError,
              struct.error, OverflowError, MemoryError)  # fmt: skip
MOST_BYTES = 2**32  # largest size of the arrays of a .npz, whose compression may be a thousandfold
LONGEST_HEADER = 10_000  # characters, NumPy's limit
MOST_BEGIN = 12 + LONGEST_HEADER  # bytes: signature, length and header
TRIES = 20  # of a header, if the interpreter fails
# Python 2 wrote (10L, 2L), which NumPy reads with a warning
LONG = re.compile(rb"(\d)L(?=[,)])")
_parsing = Lock()  # of headers, one at a time


def write_array(path: Path, array: NDArray) -> None:
    """Write an array as .npy, atomically."""
    made = io.BytesIO()  # in memory first: NumPy's own errors do not name a full disk
    np.save(made, array, allow_pickle=False)
    write_bytes(path, made.getbuffer())


def write_arrays(path: Path, arrays: dict[str, NDArray]) -> None:
    """Write arrays as .npz by name, atomically."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_array(path: Path, mapped: bool = False, table: bool = False) -> NDArray:
    """Return the array of a .npy file, in memory or memory-mapped.

    Args:
        path: the file.
        mapped: whether to map the file into memory instead of reading it.
        table: whether to accept a structured array, which has named columns.

    Raises:
        one of UNREADABLE: the file is missing or damaged, or holds anything but numbers or text.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        shape, kind, order, start = _header(file.read(MOST_BEGIN), size, table)
        if mapped and math.prod(shape):  # an empty array cannot be mapped
            return np.memmap(path, kind, "r", start, shape, order)
        file.seek(0)
        return array_of(file.read(size), table)


def read_arrays(path: Path) -> dict[str, NDArray]:
    """Return the arrays of a .npz file by name; see `arrays_in`."""
    with open_regular(path) as file:
        return arrays_in(file)


def arrays_in(raw: BinaryIO, most_bytes: int = 0) -> dict[str, NDArray]:
    """Return the arrays of an open .npz file by name.

    Args:
        raw: the file.
        most_bytes: largest size of all arrays; 0 for MOST_BYTES.

    Raises:
        one of UNREADABLE: the file is damaged, or holds anything but numbers or text.
    """
    found = {}
    with ZipFile(raw) as file:
        members = file.infolist()
        most = most_bytes or MOST_BYTES
        if sum(member.file_size for member in members) > most:
            raise ValueError(f"its arrays take more than {most} bytes")
        for member in members:  # read completely, which verifies the checksum
            found[member.filename.removesuffix(".npy")] = array_of(file.read(member))
    return found


def array_of(data: bytes, table: bool = False) -> NDArray:
    """Return the array in the bytes of a .npy file.

    Raises:
        one of UNREADABLE: the bytes are damaged, or hold anything but numbers or text.
    """
    shape, kind, order, start = _header(data[:MOST_BEGIN], len(data), table)
    return np.ndarray(shape, kind, bytearray(memoryview(data)[start:]), order=order)


def _header(
    begin: bytes, size: int, table: bool
) -> tuple[tuple[int, ...], np.dtype, Literal["C", "F"], int]:
    """Return shape, type and order of the array of a .npy file, and its offset in bytes.

    NumPy's `read_array` allocates the size in the header before it reads any data.

    Args:
        begin: the first MOST_BEGIN bytes of the file.
        size: size of the file, bytes.
        table: whether to accept named columns.

    Raises:
        ValueError: the header is damaged, or it claims objects or more data than the file has.
    """
    head = io.BytesIO(LONG.sub(rb"\1 ", begin))
    found, why = None, ""
    try:
        found = _parsed(head)
    except Exception as error:  # Python parses the header, which may raise many errors
        why = " ".join(str(error).split())[:200] or "it is nested too deep"
    if found is None:  # not raised from a MemoryError, which deep nesting causes
        raise ValueError(f"its header is damaged: {why}")
    shape, is_fortran, kind = found
    columns = [column[0].kind for column in (kind.fields or {}).values()] if table else []
    known = set(columns) <= set("biufUS") if columns else kind.kind in "biufcUS"
    left, needed = size - head.tell(), math.prod(shape) * max(kind.itemsize, 1)
    if not known or min(shape, default=0) < 0 or needed > left:
        raise ValueError(
            f"it claims {kind} of shape {shape}, but has {left} bytes of numbers or text"
        )
    return tuple(map(int, shape)), kind, "F" if is_fortran else "C", head.tell()


def _parsed(head: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return what NumPy reads of a header: shape, whether in Fortran's order, and type.

    NumPy makes a syntax tree of it. In Python 3.11, two threads that make some at the same time can
    raise a SystemError, whatever they read: see `code_digest._names`.
    """
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}

    def once() -> tuple[tuple[int, ...], bool, np.dtype]:
        head.seek(0)
        with _parsing:
            return readers[npy.read_magic(head)](head, LONGEST_HEADER)

    for _ in range(TRIES):
        with suppress(SystemError):  # by a thread of another library, which does not wait for ours
            return once()
    return once()


def joined(kind: str, arrays: Sequence[NDArray | None], empty: NDArray) -> dict[str, NDArray]:
    """Return arrays of different lengths as two arrays for a .npz: all values, and the lengths.

    Args:
        kind: prefix of the two names.
        arrays: one array [n, ...] per picture. None and length 0 stay distinct in `divided`.
        empty: an array of length 0 with the same type and further axes.
    """
    present = [array for array in arrays if array is not None]
    lengths = [-1 if array is None else len(array) for array in arrays]
    return {
        f"{kind}_values": np.concatenate([empty, *present]),
        f"{kind}_lengths": np.array(lengths, np.int64),
    }


def divided(kind: str, arrays: dict[str, NDArray]) -> list[Any]:
    """Return the arrays that were passed to `joined`.

    >>> divided("x", joined("x", [np.ones(2), None, np.zeros(0)], np.zeros(0)))
    [array([1., 1.]), None, array([], dtype=float64)]

    Raises:
        KeyError: there are no arrays of this kind.
        ValueError: values and lengths are inconsistent.
    """
    values, lengths = arrays[f"{kind}_values"], arrays[f"{kind}_lengths"]
    if lengths.dtype != np.int64 or lengths.ndim != 1 or not values.ndim:
        raise ValueError(f"the lengths of {kind} are not a list of whole numbers")
    if any(not -1 <= length <= len(values) for length in lengths.tolist()):
        raise ValueError(f"the lengths of {kind} do not fit its values")
    ends = np.cumsum(np.maximum(lengths, 0))
    return [
        None if length < 0 else values[end - length : end]
        for length, end in zip(lengths.tolist(), ends.tolist(), strict=True)
    ]

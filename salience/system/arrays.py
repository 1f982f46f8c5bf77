"""Arrays as .npy and .npz files: written whole or not at all, read with no trust in headers."""

import io
import lzma
import math
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from salience.system.files import atomic, open_regular, write_bytes

Array = NDArray[np.floating]
# what reading a damaged .npy or .npz raises: a flipped bit may ask for any compression (zlib, lzma,
# NotImplementedError) or a password (RuntimeError, of which that is one), or spoil a length
UNREADABLE = (OSError, ValueError, EOFError, BadZipFile, zlib.error, lzma.LZMAError, RuntimeError,
              struct.error, OverflowError, MemoryError)  # fmt: skip
MOST_BYTES = 2**32  # of the arrays of a .npz, which may be packed a thousandfold
LONGEST_HEADER = 10_000  # bytes, as NumPy has it
# the header of a .npy file is a Python dictionary; what it says is picked out rather than evaluated
KIND = re.compile(rb"""['"]descr['"]\s*:\s*['"]([<>|=]?[biufcUS]\d{1,9})['"]""")
# of a table, whose columns have names
FIELD = re.compile(rb"\('(\w{1,64})', '([<>|=]?[biufUS]\d{1,9})'\)")
FIELDS = re.compile(rb"'descr': \[(%s(?:, %s){0,63})\]" % (FIELD.pattern, FIELD.pattern))
ORDER = re.compile(rb"""['"]fortran_order['"]\s*:\s*(True|False)""")
SHAPE = re.compile(rb"""['"]shape['"]\s*:\s*\(([\d\s,L]{0,400})\)""")


def write_array(path: Path, array: NDArray) -> None:
    """Write an array as .npy, whole or not at all."""
    made = io.BytesIO()  # into a file, NumPy writes past Python, and of a full disk says not why
    np.save(made, array, allow_pickle=False)
    write_bytes(path, made.getbuffer())


def write_arrays(path: Path, arrays: dict[str, NDArray]) -> None:
    """Write arrays as .npz by their names, whole or not at all."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_array(path: Path, mapped: bool = False, table: bool = False) -> NDArray:
    """Return the array of a .npy file, in memory or mapped.

    Args:
        path: the file.
        mapped: whether it stays on disk until it is used.
        table: whether it may be one of named columns, NumPy's structured array.

    Raises:
        one of UNREADABLE: it is missing or damaged, or holds anything but numbers or text.
    """
    with open_regular(path) as file:
        size = path.stat().st_size
        shape, kind, order = _header(file, size, table)
        if not mapped or not math.prod(shape):  # nothing cannot be mapped
            file.seek(0)
            return _array_of(file, size, table)
        return np.memmap(path, kind, "r", file.tell(), shape, order)


def read_arrays(path: Path) -> dict[str, NDArray]:
    """Return the arrays of a .npz file by their names.

    Raises:
        one of UNREADABLE: it is missing or damaged, or holds anything but numbers or text.
    """
    found = {}
    with open_regular(path) as raw, ZipFile(raw) as file:
        members = file.infolist()
        if sum(member.file_size for member in members) > MOST_BYTES:
            raise ValueError(f"its arrays take more than {MOST_BYTES} bytes")
        for member in members:
            with file.open(member) as array:
                found[member.filename.removesuffix(".npy")] = _array_of(array, member.file_size)
                if array.read(1):  # at its end the checksum is compared
                    raise ValueError(f"{member.filename} goes on after its array")
    return found


def _array_of(file: IO[bytes], size: int, table: bool = False) -> NDArray:
    """Return the array of an open .npy file of so many bytes."""
    shape, kind, order = _header(file, size, table)
    size = math.prod(shape) * kind.itemsize
    data = file.read(size)
    if len(data) < size:  # of a member that claims more than it has
        raise ValueError("its array is cut off")
    return np.ndarray(shape, kind, bytearray(data), order=order)


def _header(
    file: IO[bytes], size: int, table: bool = False
) -> tuple[tuple[int, ...], np.dtype, Literal["C", "F"]]:
    """Return the shape, type and order of the array that follows in a .npy file.

    NumPy's own reader has Python parse the header, whose parser fails in many ways, and takes the
    memory for all that is claimed before it reads any.
    """
    begin = file.read(8)
    width = {b"\1\0": 2, b"\2\0": 4, b"\3\0": 4}.get(begin[6:])
    if begin[:6] != b"\x93NUMPY" or width is None:
        raise ValueError("no .npy file")
    text = file.read(min(int.from_bytes(file.read(width), "little"), LONGEST_HEADER))
    fields = FIELDS.search(text) if table else None
    found = [pattern.search(text) for pattern in (FIELDS if fields else KIND, ORDER, SHAPE)]
    if None in found:
        raise ValueError(f"its header is damaged, or tells of objects: {text[:200]!r}")
    name, order, sides = (match[1].decode() for match in found if match)
    pairs = FIELD.findall(fields[1]) if fields else []
    try:
        kind = np.dtype([(column.decode(), of.decode()) for column, of in pairs] or name)
    except TypeError as error:
        raise ValueError(f"it holds {name}") from error
    shape, left = tuple(int(side) for side in re.findall(r"\d+", sides)), size - file.tell()
    known = bool(pairs) or kind.kind in "biufcUS"
    if not known or math.prod(shape) * max(kind.itemsize, 1) > left:
        raise ValueError(
            f"it claims {kind} of shape {shape}, but has {left} bytes of numbers or text"
        )
    return shape, kind, "F" if order == "True" else "C"


def joined(kind: str, arrays: Sequence[NDArray | None], empty: NDArray) -> dict[str, NDArray]:
    """Return arrays of any lengths as two, as a .npz holds them: all values, and each length.

    Args:
        kind: what they are; the names of the two begin with it.
        arrays: one a picture, [n, ...]; None where there is none, which `divided` keeps apart from
            one of length 0.
        empty: such an array of length 0.
    """
    present = [array for array in arrays if array is not None]
    lengths = [-1 if array is None else len(array) for array in arrays]
    return {
        f"{kind}_values": np.concatenate([empty, *present]),
        f"{kind}_lengths": np.array(lengths, np.int64),
    }


def divided(kind: str, arrays: dict[str, NDArray]) -> list[Any]:
    """Return the arrays that `joined` was given, None for None.

    >>> divided("x", joined("x", [np.ones(2), None, np.zeros(0)], np.zeros(0)))
    [array([1., 1.]), None, array([], dtype=float64)]

    Raises:
        KeyError: the arrays hold nothing of this kind.
        ValueError: they do not fit together.
    """
    values, lengths = arrays[f"{kind}_values"], arrays[f"{kind}_lengths"]
    if lengths.dtype != np.int64 or lengths.ndim != 1 or not values.ndim:
        raise ValueError(f"the lengths of {kind} are no whole numbers")
    if any(not -1 <= length <= len(values) for length in lengths.tolist()):
        raise ValueError(f"the lengths of {kind} are not those of what is there")
    ends = np.cumsum(np.maximum(lengths, 0))
    return [
        None if length < 0 else values[end - length : end]
        for length, end in zip(lengths.tolist(), ends.tolist(), strict=True)
    ]

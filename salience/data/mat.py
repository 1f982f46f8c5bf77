"""What a .mat file claims, checked before SciPy reads it.

SciPy's reader is compiled and believes the file: an unknown type of number ends the process, and a
length is allocated before it is read. So the elements are gone through here, and SciPy is handed
the variables that are wanted, unpacked, with nothing in them but numbers, text, cells and structs.
"""

import io
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy.io import loadmat

from salience.system.errors import UserError
from salience.system.files import read_bytes

HEAD = 128  # bytes before the first element
MOST_BYTES = 2**30  # of the variables, unpacked
DEEPEST = 20  # cells in cells
MATRIX, PACKED = 14, 15
# bytes of a number or a character, by the type that an element states
WIDTH = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}
TEXT = {1, 2, 4, 16, 17, 18}
CELL, STRUCT, CHAR, SPARSE = 1, 2, 4, 5
NUMBERS = range(6, 16)
LONGEST_NAME = 64
MOST_BARE = 1000  # structs without a field, which take no bytes
REFUSED = {3: "an object", 16: "a function handle", 17: "an object"}
WIDTH_4 = (8, 4, 4, 2, 2, 1)  # bytes of a number in version 4, by the type that is stated


class Damaged(ValueError):
    """The file contradicts itself."""


def read(path: Path, names: Sequence[str] | None) -> dict[str, Any]:
    """Return the variables of a .mat file that are wanted, by their names.

    Args:
        path: the file.
        names: of the variables; None for all.

    Raises:
        Damaged: it cannot be read.
        UserError: it is no regular file, or a variable is of a class that is not read.
    """
    try:
        content = loadmat(checked(read_bytes(path), names, path), variable_names=names)
    except UserError:
        raise
    except Exception as error:  # scipy raises many types on a damaged file
        raise Damaged(f"{type(error).__name__}: {error}") from error
    return {name: values for name, values in content.items() if not name.startswith("__")}


def checked(data: bytes, names: Sequence[str] | None, where: object) -> io.BytesIO:
    """Return a .mat file of those variables of another that are wanted, found in order.

    Args:
        data: what the file holds, of MATLAB's version 4 to 7.
        names: of the variables; None for all.
        where: what errors name.

    Raises:
        ValueError: it contradicts itself, or takes too much memory.
        UserError: a variable is of a class that is not read.
    """
    if 0 in data[:4]:
        _check_4(data)
        return io.BytesIO(data)
    order = {b"IM": "<", b"MI": ">"}.get(data[126:HEAD], "")
    if not order:
        raise Damaged("no .mat file")
    if data[124:126] in (b"\0\2", b"\2\0"):
        raise Damaged("of MATLAB's version 7.3: save it with -v7")
    kept, left, at = [data[:HEAD]], MOST_BYTES, HEAD
    while at < len(data):
        kind, _, stop, following = _element(data, at, len(data), order)
        # what is packed is not padded to eighths
        element, at = data[at:stop], stop if kind == PACKED else following
        if kind == PACKED:
            element = _unpacked(element[8:], names, order, left)
        if element:
            name = _name(element, order)
            if names is None or name in names:
                _check(element, 0, len(element), order, 0, f"{where}: '{name}'", name)
                kept.append(element + bytes(-len(element) % 8))
                left -= len(element)
    return io.BytesIO(b"".join(kept))


def _element(data: bytes, at: int, end: int, order: str) -> tuple[int, int, int, int]:
    """Return an element's type, where its content begins and ends, and where the next begins."""
    if end - at < 8:
        raise Damaged("it ends within an element")
    kind, size = struct.unpack_from(order + "II", data, at)
    if kind >> 16:  # a short one: its size, type and content share eight bytes
        start, size, kind, following = at + 4, kind >> 16, kind & 0xFFFF, at + 8
        if size > 4:
            raise Damaged(f"a short element of {size} bytes")
    else:
        start = at + 8
        following = start + size + -size % 8
    if start + size > end:
        raise Damaged(f"an element claims {size} bytes, but {end - start} are left")
    return kind, start, start + size, min(following, end)


def _unpacked(packed: bytes, names: Sequence[str] | None, order: str, left: int) -> bytes:
    """Return a variable that was packed; nothing where it is not wanted."""
    head = zlib.decompressobj().decompress(packed, 1024)  # dimensions and name lie there
    if names is not None and _name(head, order) not in names:
        return b""
    unpacker = zlib.decompressobj()
    element = unpacker.decompress(packed, max(left, 1))
    if not unpacker.eof:
        raise Damaged(f"what is packed is not whole, or takes more than {MOST_BYTES} bytes")
    return element


def _name(element: bytes, order: str) -> str:
    """Return the name of a variable, of which the begin is enough."""
    kind = struct.unpack_from(order + "I", element.ljust(8, b"\0"))[0]
    if kind != MATRIX:
        raise Damaged(f"an element of type {kind} where a variable is expected")
    at = 8
    for _ in range(2):  # flags and dimensions
        at = _element(element, at, len(element), order)[3]
    _, start, stop, _ = _element(element, at, len(element), order)
    return element[start:stop].decode("latin-1")


def _check(data: bytes, at: int, end: int, order: str, depth: int, where: str, name: str) -> int:
    """Check a matrix; return where the next element begins."""
    kind, at, stop, following = _element(data, at, end, order)
    if kind != MATRIX:
        raise Damaged(f"an element of type {kind} where a matrix is expected")
    if at == stop:  # an empty one, in a cell
        return following
    if depth > DEEPEST:
        raise Damaged(f"cells and structs are nested more than {DEEPEST} deep")
    kind, start, ends, at = _element(data, at, stop, order)
    if kind != 6 or ends - start != 8:
        raise Damaged("a matrix without flags")
    flags = struct.unpack_from(order + "I", data, start)[0]
    form, parts = flags & 0xFF, 2 if flags & 0x800 else 1
    kind, start, ends, at = _element(data, at, stop, order)
    count, odd = divmod(ends - start, 4)
    if kind != 5 or odd or not 2 <= count <= 32:
        raise Damaged("a matrix without dimensions")
    sides = struct.unpack_from(f"{order}{count}i", data, start)
    size = math.prod(sides)
    if min(sides) < 0 or max(sides) > MOST_BYTES:
        raise Damaged(f"a matrix of {sides}")
    kind, start, ends, at = _element(data, at, stop, order)
    if kind not in (1, 2, 16) or ends - start > LONGEST_NAME:
        raise Damaged("a matrix without a name")
    if form in NUMBERS:
        for _ in range(parts):
            kind, start, ends, at = _element(data, at, stop, order)
            if kind not in WIDTH or ends - start != size * WIDTH[kind]:
                raise Damaged(f"{ends - start} bytes of type {kind} for {size} numbers")
        return following
    if form == CHAR:
        kind, start, ends, at = _element(data, at, stop, order)
        if kind not in TEXT or size > ends - start:
            raise Damaged(f"{ends - start} bytes of type {kind} for {size} characters")
        return following
    if form == SPARSE:
        raise UserError(f"{where} is sparse. Save it with MATLAB's full({name}).")
    if form not in (CELL, STRUCT):
        raise UserError(f"{where} holds {REFUSED.get(form, f'class {form}')}, which is not read.")
    fields = 1
    if form == STRUCT:
        fields, at = _fields(data, at, stop, order)
    if size * fields * 8 > stop - at or size > max(stop - at, MOST_BARE):
        raise Damaged(f"{size} cells or structs in {stop - at} bytes")
    for _ in range(size * fields):
        at = _check(data, at, stop, order, depth + 1, where, name)
    return following


def _fields(data: bytes, at: int, stop: int, order: str) -> tuple[int, int]:
    """Return how many fields a struct has, and where the first value begins."""
    kind, start, ends, at = _element(data, at, stop, order)
    if kind != 5 or ends - start != 4:
        raise Damaged("a struct without a length of names")
    length = struct.unpack_from(order + "i", data, start)[0]
    kind, start, ends, at = _element(data, at, stop, order)
    if not 1 <= length <= LONGEST_NAME or kind not in (1, 2) or (ends - start) % length:
        raise Damaged(f"{ends - start} bytes of names of {length}")
    return (ends - start) // length, at


def _check_4(data: bytes) -> None:
    """Check a file of version 4: matrices one after the other, with 20 bytes before each."""
    at = 0
    while at < len(data):
        if len(data) - at < 20:
            raise Damaged("it ends within a matrix")
        order = "<" if 0 <= struct.unpack_from("<i", data, at)[0] < 5000 else ">"
        form, rows, cols, imaginary, length = struct.unpack_from(order + "5i", data, at)
        number, kind = divmod(form % 100, 10)
        if form // 1000 != (order == ">") or number >= len(WIDTH_4) or kind > 1 or form // 100 % 10:
            raise Damaged(f"a matrix of form {form}")
        if min(rows, cols) < 0 or imaginary not in (0, 1) or not 1 <= length <= LONGEST_NAME:
            raise Damaged(f"a matrix of {rows} x {cols}")
        at += 20 + length + rows * cols * WIDTH_4[number] * (1 + imaginary)
        if at > len(data):
            raise Damaged(f"a matrix claims {rows} x {cols} numbers")

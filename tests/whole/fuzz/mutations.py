"""What damages files: by bytes, whatever they are, and by what a format means.

All that is random comes from `pick`, a `random.Random`: Hypothesis brings one whose draws it can
shrink, the long run one of a number.
"""

import io
import json
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np

MOST = 2**15  # bytes of an input
# what lengths, counts and offsets break at
NUMBERS = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1,
           2**31, 2**32 - 1, 2**32, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
SIZES = (0, 1, 2, 3, 5, 48, 64, 1000, 65536, 10**6, 10**9, 2**31, 2**40, 2**62)
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 480, 2**31, 2**63, 10**30, -(10**400), 0.5, -0.0, 1e308, -1e-308,
    float("nan"), float("inf"), "", "a", "480", "\ud800", "a\nb", "\0", "../../x", "x" * 3000, "é",
    [], {}, [[]], [None], [1, 2], [[1, 2]], [[1, 2], [3]], [[1, "2"]], [[1e400, 1]], {"": 0},
    {"id": 1}, {"x": [{}]}, ["train"], [2**70, 2**70],
)  # fmt: skip
ODD_NAMES = ("a.jpg", "A.JPG", "in/b.jpg", "in", "in/", "", ".", "..", "/", "/etc/x", "../x",
             "a/../b", "a/./b", "a//b", "C:x",
             "C:\\x", "a\\b", "a\0b", "a\nb", "é.jpg", "é.jpg", "x" * 255,
             "x" * 300, "y/" * 400, "y/" * 600, "__MACOSX/a", ".DS_Store", "con", "\udc80", " ",
             "-rf",              "a.jpg/b", "~/x", "\u202egpj.exe")  # fmt: skip


def damaged(data: bytes, pick: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """Return bytes after a few edits that know nothing of them.

    Args:
        data: what to damage.
        pick: what chooses.
        others: whose bytes may take the place of some.
    """
    edited = bytearray(data)
    for _ in range(pick.choice((1, 1, 1, 2, 3, 8))):
        edited = bytearray(pick.choice(EDITS)(edited, pick, others))[:MOST]
    return bytes(edited)


def _flip(data: bytearray, pick: random.Random, others: Sequence[bytes]) -> bytearray:
    if data:
        data[pick.randrange(len(data))] ^= 1 << pick.randrange(8)
    return data


def _overwrite(data: bytearray, pick: random.Random, others: Sequence[bytes]) -> bytearray:
    if data:
        data[pick.randrange(len(data))] = pick.randrange(256)
    return data


def _number(data: bytearray, pick: random.Random, others: Sequence[bytes]) -> bytearray:
    """A number that a file states, in either order of bytes, becomes another."""
    width, order = pick.choice((1, 2, 4, 4, 8, 8)), pick.choice(("little", "little", "big"))
    value = (pick.choice(NUMBERS) + pick.choice((0, 0, 0, -1, 1))) % 256**width
    step = pick.choice((1, width))  # most formats align theirs
    at = pick.randrange(max(1, len(data) // step)) * step
    data[at : at + width] = value.to_bytes(width, order)
    return data


def _digits(data: bytearray, pick: random.Random, others: Sequence[bytes]) -> bytearray:
    """A number that is written out becomes another."""
    start = pick.randrange(max(1, len(data)))
    at = next((i for i in range(start, len(data)) if 48 <= data[i] <= 57), None)
    if at is not None:
        end = next((i for i in range(at, len(data)) if not 48 <= data[i] <= 57), len(data))
        data[at:end] = str(pick.choice(NUMBERS) * pick.choice((1, 1, -1))).encode()
    return data


def _cut(data: bytearray, pick: random.Random, others: Sequence[bytes]) -> bytearray:
    return data[: pick.randrange(len(data) + 1)]


def _delete(data: bytearray, pick: random.Random, others: Sequence[bytes]) -> bytearray:
    at = pick.randrange(len(data) + 1)
    del data[at : at + pick.choice((1, 2, 4, 8, 64, 512))]
    return data


def _repeat(data: bytearray, pick: random.Random, others: Sequence[bytes]) -> bytearray:
    at, length = pick.randrange(len(data) + 1), pick.choice((1, 4, 8, 16, 64, 512))
    return data[:at] + data[at : at + length] * pick.choice((2, 2, 3, 60)) + data[at + length :]


def _splice(data: bytearray, pick: random.Random, others: Sequence[bytes]) -> bytearray:
    other = pick.choice(others) if others else bytes(data)
    at, there, length = (pick.randrange(len(part) + 1) for part in (data, other, other))
    keep = pick.choice((0, length))  # inserted, or written over what is there
    return data[:at] + other[there : there + length] + data[at + keep :]


EDITS = (_flip, _flip, _overwrite, _overwrite, _number, _number, _number, _digits, _cut, _delete,
         _repeat, _splice)  # fmt: skip


def odd_json(data: bytes, pick: random.Random) -> bytes:
    """Return a JSON text with some of its values exchanged, or nested beyond reason."""
    if pick.randrange(20) == 0:
        deep = pick.choice((500, 5000, MOST))
        return (pick.choice(("[", '{"a":', '[{"a":')) * deep)[:MOST].encode()
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return damaged(data, pick)
    for _ in range(pick.choice((1, 1, 2, 4))):
        value = _exchanged(value, pick)
    try:
        return json.dumps(value).encode()[:MOST]
    except (RecursionError, ValueError):
        return data


def _exchanged(value: Any, pick: random.Random) -> Any:
    """Return a value with something in it exchanged."""
    if not isinstance(value, dict | list) or not value or pick.randrange(6) == 0:
        return pick.choice(ODD_VALUES)
    if isinstance(value, list):
        at = pick.randrange(len(value))
        changed = [_exchanged(value[at], pick)] if pick.randrange(4) else []
        return value[:at] + changed + value[at + 1 :]
    key = pick.choice(sorted(value))
    what = pick.randrange(6)
    if what == 0:
        return {k: v for k, v in value.items() if k != key}
    if what == 1:
        return value | {pick.choice(("", "a\nb", "model", "rows", "id", "x" * 300)): value[key]}
    return value | {key: _exchanged(value[key], pick)}


DTYPES = ("|u1", "|b1", "<i8", "<f4", "<f8", ">f8", "<f2", "<c16", "|O", "<U9", "|S0", "|V8",
          "<U999999999",           "<M8[s]", "('<f4', (1000000,))", "[('a', '<f4'), ('b', '|O')]",
          "__import__('os')")  # fmt: skip


def odd_npy(pick: random.Random, body: bytes = bytes(96)) -> bytes:
    """Return a .npy file that claims some type and shape."""
    shape = [pick.choice(SIZES) * pick.choice((1, 1, 1, -1)) for _ in range(pick.randrange(5))]
    written = str(tuple(shape)) if pick.randrange(12) else pick.choice(("()", "5", "(1e3,)", "[4]"))
    kind = pick.choice(DTYPES)
    kind = kind if kind[0] in "([_" else repr(kind)
    order = pick.choice(("False", "True", "None", "1"))
    header = f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {written}, }}"
    if pick.randrange(20) == 0:
        header = pick.choice(
            ("(" * 300, "{" * 90, "[" * 3000, "-" * 9000 + "1", header + "\n" * 9000)
        )
    version = pick.choice((1, 1, 1, 2, 3, 4))
    length = struct.pack("<H" if version == 1 else "<I", min(len(header), 65535))
    return b"\x93NUMPY" + bytes((version, 0)) + length + header.encode() + body


def odd_zip(members: Sequence[tuple[str, bytes]], pick: random.Random) -> bytes:
    """Return a .zip whose sums are right, however odd its members are."""
    buffer = io.BytesIO()
    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members:
            info = zipfile.ZipInfo("x")
            info.filename = name.encode(errors="replace").decode()
            info.compress_type = pick.choice(kinds)
            mode = pick.choice((0, 0, 0o100644, 0o100644, 0o40755, 0o120777, 0o20644, 0o104755))
            info.external_attr = mode << 16
            file.writestr(info, data)
    return buffer.getvalue()


def odd_tar(members: Sequence[tuple[str, bytes]], pick: random.Random) -> bytes:
    """Return a .tar with odd names and types, and links out of it."""
    buffer = io.BytesIO()
    form = pick.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    kinds = (tarfile.REGTYPE,) * 8 + (tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE,
             tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE,
             tarfile.AREGTYPE, b"X", b"z", b"V")  # fmt: skip
    file = tarfile.TarFile(fileobj=buffer, mode="w", format=form)
    for name, data in members:
        info = tarfile.TarInfo(name)
        info.size, info.type = len(data), pick.choice(kinds)
        info.linkname = pick.choice(("", "a.jpg", "../x", "/etc/passwd"))
        if form == tarfile.PAX_FORMAT and pick.randrange(3) == 0:
            field = pick.choice(("size", "path", "GNU.sparse.map", "GNU.sparse.size", "hdrcharset",
                                 "GNU.sparse.major", "linkpath", "mtime"))  # fmt: skip
            info.pax_headers = {field: str(pick.choice(ODD_NAMES + NUMBERS)).replace("\udc80", "")}
        try:
            file.addfile(info, io.BytesIO(data))
        except (ValueError, UnicodeError):  # this format cannot say so
            continue
    file.close()
    return buffer.getvalue()


def with_tar_sums(data: bytes) -> bytes:
    """Return a .tar in which whatever looks like a header has its right sum."""
    mended = bytearray(data)
    for at in range(0, len(mended) - 511, 512):
        if mended[at + 257 : at + 262] == b"ustar":
            mended[at + 148 : at + 156] = b" " * 8
            mended[at + 148 : at + 156] = b"%06o\0 " % sum(mended[at : at + 512])
    return bytes(mended)


def with_png_sums(data: bytes) -> bytes:
    """Return a PNG whose chunks have their right sums."""
    mended, at = bytearray(data), 8
    while at + 12 <= len(mended):
        length = int.from_bytes(mended[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(mended):
            break
        mended[end : end + 4] = zlib.crc32(mended[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(mended)


def odd_mat(data: bytes, pick: random.Random, others: Sequence[bytes]) -> bytes:
    """Return a .mat file of version 5 damaged where its elements begin, or in what is packed."""
    edited = bytearray(data)
    for _ in range(pick.choice((1, 1, 2, 4))):  # elements and their parts begin at eighths
        at = 128 + 8 * pick.randrange(max(1, (len(edited) - 128) // 8))
        what = pick.randrange(4)
        if what == 0:  # a type
            edited[at : at + 4] = struct.pack("<I", pick.choice((*range(20), 0x10001, 0x40005)))
        elif what == 1:  # a length
            edited[at + 4 : at + 8] = struct.pack("<I", pick.choice(NUMBERS) % 2**32)
        elif what == 2:  # the flags of an array: its class
            edited[at : at + 8] = struct.pack("<II", pick.randrange(20) | pick.choice((0, 2048)), 0)
        else:
            edited = bytearray(damaged(bytes(edited), pick, others))
    if pick.randrange(3) == 0:
        packed = zlib.compress(bytes(edited[128:]), 1)
        length = pick.choice((len(packed), len(packed), len(packed), pick.choice(NUMBERS) % 2**32))
        edited[128:] = struct.pack("<II", 15, length) + packed
    return bytes(edited[:MOST])


def odd_hdf5(pick: random.Random) -> bytes:
    """Return an HDF5 file in one of the layouts of weights, with something odd in most of them."""
    with h5py.File("x", "w", driver="core", backing_store=False) as file:
        layout = pick.choice(("ours", "keras", "keras", "model_weights", "layer_N"))
        names = ["conv", "prior"] if layout != "layer_N" else ["layer_1", "layer_3"]
        root = file.create_group("model_weights") if layout == "model_weights" else file
        if layout == "ours":
            file.attrs["card"] = json.dumps({"config": {"model": "mlnet", "rows": 48, "cols": 64}})
            root = file.create_group("layers")
        root.attrs["layer_names"] = [name.encode() for name in names]
        for name in names:
            group = root.create_group(name)
            group.attrs["weight_names"] = [b"param_0", b"param_1"]
            group.attrs["nb_params"] = 2
            for place in ("param_0", "param_1"):
                _odd_item(group, place, pick)
        for _ in range(pick.randrange(3)):
            group = pick.choice(
                [file, root, *(g for g in root.values() if isinstance(g, h5py.Group))]
            )
            _odd_attribute(group, pick)
        file.flush()
        return file.id.get_file_image()


def _odd_item(group: h5py.Group, name: str, pick: random.Random) -> None:
    """Put a weight of a name into a group: mostly an array, sometimes what leads elsewhere."""
    what = pick.randrange(16)
    shape = tuple(pick.choice((1, 2, 3, 6, 8, 64)) for _ in range(pick.choice((1, 2, 4, 4))))
    if what == 0:
        group[name] = h5py.SoftLink(pick.choice(("/nowhere", "/", f"{group.name}/{name}", ".")))
    elif what == 1:
        group[name] = h5py.ExternalLink(pick.choice(("/dev/zero", "/etc/passwd", "x", ".")), "/x")
    elif what == 2:
        rows = pick.choice((8, 10**6))
        place = pick.choice(("/dev/zero", "/etc/passwd", "/nowhere"))
        group.create_dataset(name, (rows,), "f4", external=[(place, 0, 4 * rows)])
    elif what == 3:
        layout = h5py.VirtualLayout((4,) * len(shape), "f4")
        layout[...] = h5py.VirtualSource(
            pick.choice(("x", ".", "/dev/zero")), "y", (4,) * len(shape)
        )
        group.create_virtual_dataset(name, layout)
    elif what == 4:
        great = tuple(
            pick.choice((1, 3, 10**4, 10**6, 10**9)) for _ in range(pick.choice((1, 2, 4)))
        )
        chunks = tuple(min(length, 64) for length in great)
        group.create_dataset(name, great, pick.choice(("f4", "f8", "u1")), chunks=chunks,
                             compression=pick.choice((None, "gzip")))  # fmt: skip
    elif what == 5:
        kind = pick.choice((h5py.string_dtype(), h5py.vlen_dtype(np.int32), h5py.ref_dtype, "S5",
                            "V4", [("a", "f4")], np.dtype(("f4", (2,))),
                            h5py.enum_dtype({"A": 1}), "c8",
                            "b1", "f2"))  # fmt: skip
        group.create_dataset(name, (3,), kind)
    elif what == 6:
        group.create_dataset(name, data=h5py.Empty("f4"))
    elif what == 7:
        group.create_group(name)
    elif what == 8:
        group[name] = group  # a circle
    else:
        data = np.ones(shape, pick.choice(("f4", "f4", "f8", "i4")))[..., :8]
        keep = pick.choice((None, None, "gzip", "lzf"))
        group.create_dataset(
            name, data=data, compression=keep, shuffle=bool(keep and pick.randrange(2))
        )


def _odd_attribute(group: h5py.Group, pick: random.Random) -> None:
    """Give an attribute of one of the names that are read an odd value."""
    name = pick.choice(
        ("layer_names", "weight_names", "nb_params", "backend", "card", "keras_version")
    )
    values: tuple[Any, ...] = (
        -1, 2**62, 1.5, float("nan"), b"theano", "tensorflow", "[", "{}", "[]", b"\xff\xfe", "",
        json.dumps({"config": {"rows": 10**9, "cols": 10**9}}), "[" * 5000, np.ones(3),
        np.ones((2, 2)), np.array([b"conv", b"conv"]), np.array([b"\xff", b".."]), h5py.Empty("f4"),
        np.zeros(2, [("a", "i4")]),
        np.array([b"conv"] * 500), b"/", b"../conv", [b"conv/param_0"], True, np.float16(2),
    )  # fmt: skip
    if name in group.attrs:
        del group.attrs[name]
    if pick.randrange(6):
        group.attrs[name] = pick.choice(values)

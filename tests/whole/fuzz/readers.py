"""What reads files of others: for each reader valid files, what makes hostile ones, how it reads.

A reader returns a value or raises UserError in one line. Nothing else, whatever the file is.
"""

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import cv2
import h5py
import layouts
import numpy as np
import rehearsal
from mutations import (
    ODD_NAMES,
    damaged,
    odd_hdf5,
    odd_json,
    odd_mat,
    odd_npy,
    odd_tar,
    odd_zip,
    with_png_sums,
    with_tar_sums,
)
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_matrix

import config
from commands.evaluation.score_log import ScoreLog
from commands.preflight import from_tf_config
from salience.data import feature_store, fixation_files, hdf5, plan, store, tables
from salience.data import points as _points
from salience.data.recordings import exports, formats
from salience.data.sets import cat2000, folder, npy, osie, pysaliency, salicon, toronto
from salience.measures import adaptation
from salience.measures.adaptation import Adaptation
from salience.networks import foreign_weights, weight_files
from salience.pictures import headers, picture_files
from salience.system import archives, arrays, files
from salience.system.cache import Cache, Shelf
from salience.system.errors import UserError


@dataclass(frozen=True)
class Reader:
    """What reads a kind of file.

    Attributes:
        seeds: valid files of the kind; each is read without a refusal.
        make: from a file, what chooses and all seeds to a hostile file.
        read: reads bytes, by way of files in an empty folder where it takes files.
        megabytes: that an input may take of memory.
    """

    seeds: Callable[[], tuple[bytes, ...]]
    make: Callable[[bytes, random.Random, tuple[bytes, ...]], bytes]
    read: Callable[[bytes, Path], object]
    megabytes: int = 256


def saved(function: Callable, *values: object, **options: object) -> bytes:
    """Return what a function writes into a file."""
    buffer = io.BytesIO()
    function(buffer, *values, **options)
    return buffer.getvalue()


def in_file(path: Path, data: bytes) -> Path:
    """Return a file that holds some bytes."""
    path.write_bytes(data)
    return path


# pictures


@cache
def picture_seeds() -> tuple[bytes, ...]:
    grey = np.random.default_rng(0).integers(0, 256, (32, 36, 1), dtype=np.uint8)
    noise = np.repeat(grey, 3, axis=2)  # in three channels, which maps may have as well
    kinds = ((".png", []), (".jpg", []), (".bmp", []), (".tiff", []), (".webp", []), (".ppm", []),
             (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]), (".jp2", []))  # fmt: skip
    found = [cv2.imencode(suffix, noise, options)[1].tobytes() for suffix, options in kinds]
    found += [cv2.imencode(".png", noise[..., 0].astype(np.uint16) * 257)[1].tobytes()]
    found += [cv2.imencode(".tiff", noise[..., 0].astype(np.float32))[1].tobytes()]
    # OpenCV's own colours of a GIF are few, and none of them grey
    found += [saved(Image.fromarray(grey[..., 0]).save, format="gif")]
    turned = Image.Exif()
    turned[headers.ORIENTATION] = 6
    found += [saved(Image.fromarray(noise).save, format="jpeg", exif=turned)]
    found += [saved(Image.fromarray(noise).convert("CMYK").save, format="jpeg")]
    return tuple(found)


def make_picture(data: bytes, pick: random.Random, seeds: tuple[bytes, ...]) -> bytes:
    made = damaged(data, pick, seeds)
    return with_png_sums(made) if made[1:4] == b"PNG" and pick.randrange(4) else made


def read_picture(data: bytes, room: Path) -> None:
    path = in_file(room / "picture", data)
    headers.header_shape(path)
    for read in (
        picture_files.read_image,
        picture_files.read_stored_map,
        picture_files.whole_picture,
        _points.looks_of_picture,
        partial(picture_files.read_image, reduction=2),
    ):
        with contextlib.suppress(UserError):
            read(path)
    picture_files.read_map(path)


# .mat


@cache
def mat_seeds() -> tuple[bytes, ...]:
    points = layouts.points_of(0)
    mask = layouts.mask_of(layouts.points_of(0, (6, 9)), (6, 9))
    look = layouts.struct(fix_x=points[:, :1].T, fix_y=points[:, 1:].T, fix_duration=points[:, :1])
    picture = layouts.struct(img="1001.jpg", subjects=layouts.cells([look, look]))
    contents = (
        layouts.salicon_mat("a", points, columns=False),
        layouts.salicon_mat("a", points, columns=True),
        {"fixLocs": mask},
        {"fixations": points},
        {"fixations": layouts.cells([picture, picture])},
        {"white": layouts.cells([mask * 1.0, mask])},
    )
    found = [saved(savemat, content) for content in contents]
    found += [saved(savemat, contents[3], do_compression=True)]
    found += [saved(savemat, {"fixations": points}, format="4")]
    found += [saved(savemat, contents[2])[:116] + bytes(8) + saved(savemat, contents[2])[124:]]
    return tuple(found)


@cache
def mat_others() -> tuple[bytes, ...]:
    """Return what a .mat file may hold besides, for its parts."""
    sparse = {"fixLocs": csc_matrix(np.eye(5)), "fixations": "text", "gaze": True, "white": 1j}
    return mat_seeds() + (saved(savemat, sparse), odd_hdf5(random.Random(0)))


def make_mat(data: bytes, pick: random.Random, seeds: tuple[bytes, ...]) -> bytes:
    return pick.choice((odd_mat, odd_mat, damaged))(data, pick, mat_others())


# by the variable that a parser asks for; what is packed may hold any
MAT_PARSERS: tuple[tuple[bytes, Callable], ...] = (
    (b"gaze", salicon.parse_mat),
    (b"white", toronto.parse_mat),
    (b"fixLocs", cat2000.parse_mat),
    (b"img", osie.parse),
)


def read_mat(data: bytes, room: Path) -> None:
    path = in_file(room / "x.mat", data)
    asked = [parser for name, parser in MAT_PARSERS if name in data]
    if not asked and b"fixations" not in data:
        asked = [MAT_PARSERS[zlib.crc32(data) % len(MAT_PARSERS)][1]]
    for parser in asked:
        with contextlib.suppress(UserError):
            parser(path)
    if not asked:
        fixation_files.parse(path, room / "picture.png")


# .npy and .npz


@cache
def npy_seeds() -> tuple[bytes, ...]:
    points, rgb = layouts.points_of(0), np.zeros((2, 6, 9, 3), np.uint8)
    arrays = (points, rgb, rgb.transpose(0, 3, 1, 2), rgb[..., :1] / 255, (rgb - 0.45) / 0.22,
              np.asfortranarray(rgb[0]), rgb[0, ..., 0] > 1, points.astype(">f8"))  # fmt: skip
    return tuple(saved(np.save, array) for array in arrays)


def make_npy(data: bytes, pick: random.Random, seeds: tuple[bytes, ...]) -> bytes:
    return odd_npy(pick) if pick.randrange(3) == 0 else damaged(data, pick, seeds)


def read_npy(data: bytes, room: Path) -> None:
    path = in_file(room / "images.npy", data)
    in_cache(data, room).get("xx", lambda: np.zeros(1))
    for read in (
        lambda: fixation_files.parse(path, room / "picture.png"),
        lambda: picture_files.read_stored_map(path),
        lambda: npy.read_map(path, -1),
        lambda: npy.read_picture("RGB from 0 to 1", path, 0),
        lambda: npy.read_picture("ImageNet-normalised RGB", path, -1),
    ):
        with contextlib.suppress(UserError):
            read()
    if len(npy.opened(path)):
        npy.form_of({"a": (path, 0)})


def in_cache(data: bytes, room: Path, name: str = "xx.npz") -> Shelf:
    """Return a shelf that holds some bytes under a name."""
    shelf = Cache(room).shelf("shelf")
    shelf.path(name).parent.mkdir(parents=True, exist_ok=True)
    in_file(shelf.path(name), data)
    return shelf


@cache
def npz_seeds() -> tuple[bytes, ...]:
    points, who = layouts.points_of(0), np.arange(5, dtype=np.int32)
    kept = arrays.joined("fixations", [points, None], points[:0])
    kept |= arrays.joined("subjects", [who, None], who[:0])
    looks = {"a": _points.Looks(points, who, (48, 64)), "b": _points.Looks(points)}
    return (
        saved(np.savez, fixations=points, subjects=who),
        saved(np.savez_compressed, fixations=points),
        saved(np.savez, **kept),
        saved(np.savez_compressed, **kept),
        saved(np.savez, **_points._packed(looks)),
    )


def make_npz(data: bytes, pick: random.Random, seeds: tuple[bytes, ...]) -> bytes:
    if pick.randrange(2):
        return damaged(data, pick, seeds)
    arrays = []
    with contextlib.suppress(Exception), zipfile.ZipFile(io.BytesIO(data)) as file:
        arrays = [(name, file.read(name)) for name in file.namelist()[:8]]
    if not arrays or pick.randrange(6) == 0:
        arrays = [("fixations.npy", b""), ("subjects.npy", b"")]
    changed = pick.randrange(len(arrays))
    name, array = arrays[changed]
    great = bytes(pick.choice((96, 96, 96, 10**6)))  # that pack well
    array = odd_npy(pick, great) if pick.randrange(2) else damaged(array, pick)
    arrays[changed] = (pick.choice((name, name, name, "x", "fixations")), array)
    return odd_zip(arrays, pick)


def read_npz(data: bytes, room: Path) -> None:
    path = in_file(room / "x.npz", data)
    kept = in_cache(data, room).recall("xx")
    with contextlib.suppress(UserError):
        fixation_files.parse(path, room / "picture.png")
    if kept is None or "fixations" not in kept:
        store.read_points(path, 2, "Repair it.")


# tables


@cache
def table_seeds() -> tuple[bytes, ...]:
    return (
        b"x,y,subject\n1,2,ann\n3.5,4,bob\n",
        "\ufeffimage;x;y\r\na.jpg;1,5;2\r\nb.jpg;3;4\r\n".encode(),
        "Image\tX\tY\tduration\nimages/a.jpg\t1\t2\t90\n".encode("utf-16"),
        b'sep=;\n# "x";"y"\n1;2\n\n',
    )


def read_table(data: bytes, room: Path) -> None:
    path = in_file(room / "fixations.csv", data)
    with contextlib.suppress(UserError):
        fixation_files.parse(path, room / "picture.png")
    with contextlib.suppress(UserError):
        tables.parse_all(path)
    tables.columns_of(path)
    tables.read(path)


# exports of eye trackers


@cache
def export_seeds() -> tuple[bytes, ...]:
    texts = (
        """\
RECORDING_SESSION_LABEL|image|CURRENT_FIX_START|CURRENT_FIX_X|CURRENT_FIX_Y
ann|a.png|4|30,5|25
ann|a.png|9|.|.
""",
        """\
Recording timestamp|Eye movement type|Eye movement type index|Fixation point X|Fixation point Y|\
Presented Stimulus name|Validity left
1000|Fixation|1|30|25|a|Valid
1004|Fixation|1|30|25|a|Invalid
""",
        """\
## x
Subject:|ann
Event Type|Trial|Number|Start|End|Duration|Location X|Location Y
UserEvent|1|1|5|# Message: a.png
Fixation L|1|1|9|99|90|3|4
""",
    )
    tabbed = [text.replace("|", "\t") for text in texts]
    commas = (
        "MEDIA_NAME,FPOGX,FPOGY,FPOGS,FPOGD,FPOGID,FPOGV,\na,0.5,0.5,1,.2,1,1,\na,0,0,1,,1,0,\n"
    )
    surface = "fixation_id,norm_pos_x,norm_pos_y,on_surf\n1,0.2,0.3,True\n1,0.2,0.4,True\n"
    return (
        *(text.encode() for text in (*tabbed, commas, surface, "image;x;y;t\na;1,5;2;3\n")),
        tabbed[1].encode("utf-16"),
    )


def read_recordings(data: bytes, room: Path) -> None:
    path = in_file(room / "fixations_on_surface_a.csv", data)
    errors = []
    for program in formats.FORMATS:
        try:
            found = exports.read_export(path, program)
        except UserError as error:
            errors.append(error)
        else:
            assert found.rows == len(found.fixations) + found.skipped.total()
    if len(errors) == len(formats.FORMATS):
        raise errors[0]


# JSON


@cache
def json_seeds() -> tuple[bytes, ...]:
    names = {f"{name}.jpg": layouts.points_of(i) for i, name in enumerate("ab")}
    texts = (
        layouts.salicon_json(names),
        {"pictures": {"a.jpg": {"sigma_pixels": 2, "category": "Art", "shape": [48, 64]}}},
        {"train": ["a.jpg"], "val": ["b.jpg"], "test": []},
        {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}},
        ["key", "a.jpg", {"nss": 1.5, "cc": None}, ["note"]],
    )
    return tuple(json.dumps(text).encode() for text in texts)


def make_json(data: bytes, pick: random.Random, seeds: tuple[bytes, ...]) -> bytes:
    return odd_json(data, pick) if pick.randrange(3) else damaged(data, pick, seeds)


def read_json(data: bytes, room: Path) -> None:
    path = in_file(room / "x.json", data)
    for read in (
        lambda: salicon.parse_json(path),
        lambda: folder.read_card(path),
        lambda: osie._names(path, {"a.jpg", "b.jpg"}),
        lambda: from_tf_config(data.decode(errors="replace")),
    ):
        with contextlib.suppress(UserError):
            read()
    ScoreLog(path)
    files.read_json(in_file(path, data))


@cache
def config_seeds() -> tuple[bytes, ...]:
    full = [config.to_json(config.resolve({"model": model})) for model in config.SYSTEMS]
    return tuple(
        json.dumps(fields).encode() for fields in ({"rows": 240, "dataset": "osie"}, *full)
    )


def read_config(data: bytes, room: Path) -> None:
    config.resolve({}, in_file(room / "config.json", data))


@cache
def manifest_seeds() -> tuple[bytes, ...]:
    settings = {"dataset": "folder", "out_of_bounds": "drop", "rows": 8, "cols": 16, "stride": 8,
                "crop": 0, "sigma_pixels": None,
                **store.plan_settings(plan.BY_SHARES)}  # fmt: skip
    image = {"path": "a.jpg", "size": 1, "mtime_ns": 1, "sha256": "0" * 64}
    entry = {"name": "a.jpg", "image": image, "map": None, "shape": [8, 16], "sigma_pixels": 2.0,
             "category": "", "outside": 0, "truth_crc32": 0,
             "pictures_crc32": zlib.crc32(bytes(384))}  # fmt: skip
    own_map = image | {"copy": "maps/a.npy", "copy_sha256": "0" * 64}
    manifest = {"version": store.VERSION, "model": "mlnet", "source": "nowhere", "inventory": "",
                "left_out": {"val": "No pictures."}, "settings": settings,
                "splits": {"train": [entry, entry | {"map": own_map}]}}  # fmt: skip
    return (json.dumps(manifest).encode(),)


def read_manifest(data: bytes, room: Path) -> None:
    in_file(room / store.MANIFEST, data)
    os.chdir(room)  # a manifest may name any folder as its source
    points = [layouts.points_of(0), None]
    kept = arrays.joined("fixations", points, points[0][:0])
    kept |= arrays.joined("subjects", [None, None], np.zeros(0, np.int32))
    if not (room / "train.points.npz").exists():
        in_file(room / "train.points.npz", saved(np.savez, **kept))
        np.save(room / "train.pictures.npy", np.zeros((2, 8, 16, 3), np.uint8))
    for split in ("val", "train"):
        with contextlib.suppress(UserError):
            found = store.load(
                room, "folder", split, plan.BY_SHARES, "drop", lambda root, columns: []
            )
            for sample in found:
                with contextlib.suppress(UserError):
                    sample.prepared.picture()
    store.load(room, "folder", "train", plan.BY_SHARES, "drop", lambda root, columns: [])


# HDF5


@cache
def hdf5_seeds() -> tuple[bytes, ...]:
    found = []
    for root, backend in (("/", b"tensorflow"), ("model_weights", b"theano")):
        with h5py.File("x", "w", driver="core", backing_store=False) as file:
            group = file.require_group(root)
            group.attrs["layer_names"] = [b"conv", b"drop", b"prior"]
            group.attrs["backend"] = backend
            for name, shapes in (("conv", [(3, 3, 3, 4), (4,)]), ("drop", []), ("prior", [(6, 8)])):
                layer = group.create_group(name)
                layer.attrs["weight_names"] = [f"w{i}".encode() for i in range(len(shapes))]
                for i, shape in enumerate(shapes):
                    layer[f"w{i}"] = np.ones(shape, np.float32)
            file.flush()
            found.append(file.id.get_file_image())
    with h5py.File("x", "w", driver="core", backing_store=False) as file:
        file.attrs["card"] = json.dumps({"config": {"model": "mlnet", "rows": 48, "cols": 64}})
        file.create_dataset("layers/conv/vars/0", data=np.ones((3, 3, 3, 4), np.float32))
        file.flush()
        found.append(file.id.get_file_image())
    return tuple(found)


def make_hdf5(data: bytes, pick: random.Random, seeds: tuple[bytes, ...]) -> bytes:
    made = odd_hdf5(pick) if pick.randrange(4) == 0 else data
    return made if made is not data and pick.randrange(2) else damaged(made, pick, seeds)


def read_hdf5(data: bytes, room: Path) -> None:
    path = in_file(room / "x.weights.h5", data)
    survived = rehearsal.survives(path)
    with mock.patch.object(hdf5, "reads_safely", lambda *_: survived):
        _read_hdf5(path)


def _read_hdf5(path: Path) -> None:
    for read in (weight_files.read_card, foreign_weights.card):
        with contextlib.suppress(UserError):
            read(path)
    with contextlib.suppress(*hdf5.DAMAGED):  # `load` says of what these are errors
        weight_files._shapes(path)
    with contextlib.suppress(UserError):
        foreign_weights.read(path)
    weight_files.read_card(path)


# pysaliency's files of stimuli and of fixations, one of which is hostile


@cache
def pysaliency_seeds() -> tuple[bytes, ...]:
    found = []
    for kind in ("Stimuli", "FileStimuli", "Fixations", "FixationTrains", "Scanpaths"):
        with h5py.File("x", "w", driver="core", backing_store=False) as file:
            file.attrs["type"], file.attrs["version"] = np.bytes_(kind), np.bytes_("1.0")
            file.attrs["size"] = 2
            if kind == "Stimuli":
                for name in "01":
                    file.create_dataset(name, data=np.ones((6, 8, 3), np.uint8), compression="gzip")
                file.create_dataset("split", data=["test"] * 2, dtype=h5py.string_dtype())
            elif kind == "FileStimuli":
                file.create_dataset("filenames", data=["a.png", "b.png"], dtype=h5py.string_dtype())
                shapes = file.create_dataset("shapes", (2,), h5py.vlen_dtype(np.int64))
                shapes[0] = shapes[1] = np.array([6, 8, 3])
            elif kind == "Fixations":
                for name in ("x", "y", "t", "n", "subjects"):
                    file[name] = np.array([0.0, 1.0, 1.0])
            else:
                before = "train_" if kind == "FixationTrains" else ""
                for name in ("xs", "ys", *(["ts"] if before else [])):
                    file[f"{before}{name}"] = np.array([[1.0, np.nan], [2.0, 3.0]])
                file["train_ns" if before else "n"] = [0, 1]
                file["train_subjects" if before else "scanpath_attributes/subject"] = [4, 5]
                file["lengths"] = [1, 2]
            file.flush()
            found.append(file.id.get_file_image())
    return tuple(found)


def read_pysaliency(data: bytes, room: Path) -> None:
    seeds = pysaliency_seeds()
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(room / name), np.ones((6, 8, 3), np.uint8))
    path, other = in_file(room / "x.hdf5", data), in_file(room / "y.hdf5", seeds[1])
    survived = rehearsal.survives(path)
    with mock.patch.object(hdf5, "reads_safely", lambda one, *_: survived or one == other):
        with contextlib.suppress(UserError):
            pysaliency.parse(path, other)
        with contextlib.suppress(UserError):
            pysaliency.read_picture(path, 1)
        try:
            pysaliency.listed_in(path)
        except UserError:
            pysaliency.parse(path, other)  # a seed is one of the two


# archives


@cache
def archive_seeds() -> tuple[bytes, ...]:
    files = [("in/a.jpg", b"a" * 700), ("in/b.txt", b""), ("c.jpg", b"c" * 20)]
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files:
            file.writestr(name, data)
    tars = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        tarred = io.BytesIO()
        with tarfile.TarFile(fileobj=tarred, mode="w", format=form) as file:
            for name, data in [*files, ("é" * 45 + "/" + "é" * 40, b"x")]:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
        tars.append(tarred.getvalue())
    return zipped.getvalue(), *tars, zlib_gzip(tars[0])


def zlib_gzip(data: bytes) -> bytes:
    """Return bytes as gzip packs them."""
    packer = zlib.compressobj(1, wbits=31)
    return packer.compress(data) + packer.flush()


def make_archive(data: bytes, pick: random.Random, seeds: tuple[bytes, ...]) -> bytes:
    if pick.randrange(2):
        sizes = (0, 0, 1, 20, 512, 513, 3000)
        files = [
            (pick.choice(ODD_NAMES), b"x" * pick.choice(sizes)) for _ in range(pick.randrange(1, 5))
        ]
        if pick.randrange(40) == 0:  # what packs well
            files.append(("great", bytes(2 * 10**6)))
        data = pick.choice((odd_zip, odd_tar))(files, pick)
        if pick.randrange(2):
            return zlib_gzip(data) if data[:2] != b"PK" and pick.randrange(2) else data
    plain = data
    if data[:2] == b"\x1f\x8b" and pick.randrange(4):
        with contextlib.suppress(zlib.error):
            plain = zlib.decompressobj(31).decompress(data, 10**5)
    made = damaged(plain, pick, seeds)
    if made[:2] not in (b"PK", b"\x1f\x8b") and pick.randrange(8):
        made = with_tar_sums(made)
    return zlib_gzip(made) if plain is not data else made


def read_archive(data: bytes, room: Path) -> None:
    suffix = {b"PK": ".zip", b"\x1f\x8b": ".tar.gz"}.get(data[:2], ".tar")
    path = in_file(room / f"x{suffix}", data)
    inner = room / "in"
    inner.mkdir(exist_ok=True)
    before = sorted(room.iterdir())
    try:
        archives.extract([path], inner / "out", limit_bytes=10**6, limit_files=20)
        for found in inner.rglob("*"):
            assert not found.is_symlink() and (found.is_dir() or found.is_file()), found
            assert found.resolve().is_relative_to(inner.resolve()), found
    except UserError:
        assert not any(inner.iterdir()), "something was left"
        raise
    finally:
        shutil.rmtree(inner / "out", ignore_errors=True)
        path.unlink()
    assert sorted(room.iterdir()) == [p for p in before if p != path], "something lies outside"


# features


FEATURES = [np.zeros((2, 3), np.float16), np.zeros((2, 2), np.float32)]


@cache
def feature_seeds() -> tuple[bytes, ...]:
    dense = [np.ones_like(array) for array in FEATURES]
    return feature_store.pack(FEATURES), feature_store.pack(dense)


def make_features(data: bytes, pick: random.Random, seeds: tuple[bytes, ...]) -> bytes:
    made, at = bytearray(damaged(data, pick, seeds)), len(feature_store.MAGIC)
    for _ in FEATURES if pick.randrange(4) else ():
        if len(made) < at + feature_store.HEAD.size:
            break
        kind, _sum, length = feature_store.HEAD.unpack_from(made, at)
        start = at + feature_store.HEAD.size
        right = zlib.crc32(made[start : start + length])
        with contextlib.suppress(struct.error):
            feature_store.HEAD.pack_into(made, at, kind, right, length)
        at = start + length
    return bytes(made)


def read_features(data: bytes, room: Path) -> None:
    in_cache(data, room, feature_store.PICTURES)
    kept = feature_store.FeatureStore(in_cache(data, room, f"xx{feature_store.SUFFIX}"))
    if not kept.read("xx", [array.copy() for array in FEATURES]):
        raise UserError("absent")  # that is how it refuses


# adaptations


@cache
def adaptation_seeds() -> tuple[bytes, ...]:
    bound = {"name": "w.weights.h5", "sha256": hashlib.sha256(b"weights").hexdigest()}
    found = []
    for made in (
        Adaptation(),
        Adaptation(contrast=2, blur=0.02, centre_power=-1, centre_share=0.3),
    ):
        card = {"format": adaptation.FORMAT, "parameters": asdict(made), "weights": bound}
        found.append(json.dumps({**card, "n": 50}).encode())
    return tuple(found)


def read_adaptation(data: bytes, room: Path) -> None:
    weights = in_file(room / "w.weights.h5", b"weights")
    found = adaptation.load(in_file(room / "w.x.adapt.json", data), weights)
    made = found.apply(np.eye(6, 8))
    assert np.isfinite(made).all()
    assert made.min() >= 0


READERS = {
    "adaptation": Reader(adaptation_seeds, make_json, read_adaptation),
    "picture": Reader(picture_seeds, make_picture, read_picture, 2048),
    "mat": Reader(mat_seeds, make_mat, read_mat),
    "npy": Reader(npy_seeds, make_npy, read_npy),
    "table": Reader(table_seeds, damaged, read_table),
    "recordings": Reader(export_seeds, damaged, read_recordings),
    "npz": Reader(npz_seeds, make_npz, read_npz),
    "json": Reader(json_seeds, make_json, read_json),
    "config": Reader(config_seeds, make_json, read_config),
    "manifest": Reader(manifest_seeds, make_json, read_manifest),
    "hdf5": Reader(hdf5_seeds, make_hdf5, read_hdf5),
    "pysaliency": Reader(pysaliency_seeds, damaged, read_pysaliency),
    "archive": Reader(archive_seeds, make_archive, read_archive),
    "features": Reader(feature_seeds, make_features, read_features),
}


@contextlib.contextmanager
def a_room():
    """Give an empty folder, in memory where that can be."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None, prefix="fuzz-") as room:
        yield Path(room)

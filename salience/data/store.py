"""A store: a data set prepared for one network, in a few memory-mapped files.

A store is a folder with, for each split, `SPLIT.pictures.npy` (uint8 [n, rows, cols, 3], BGR,
letterboxed), `SPLIT.truth.npy` (float32 [n, map rows, map cols, 2]) and `SPLIT.points.npz`
(fixations and observers). If the data set has its own maps, `maps/` has copies of them. The
manifest `store.json` is written last; a store without it is unfinished. `prepare.py` writes stores.
"""

import hashlib
import os
import shlex
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salience.data.plan import Plan
from salience.pictures.picture_files import read_map
from salience.pictures.sample import Sample, Stored
from salience.system.arrays import (
    UNREADABLE,
    divided,
    joined,
    read_array,
    read_arrays,
    write_arrays,
)
from salience.system.errors import UserError
from salience.system.files import file_digest, read_json, real_path
from salience.system.terminal import PROGRAM

VERSION = 1
MANIFEST, PREPARING, JOURNAL = "store.json", "preparing.json", "journal.jsonl"
KINDS = {"pictures": np.uint8, "truth": np.float32}
# settings that every manifest must have
SETTINGS = ("dataset", "out_of_bounds", "rows", "cols", "stride", "crop", "split_seed", "val_share",
            "test_share", "folds", "fold")  # fmt: skip
LARGEST_SIDE, LARGEST_PICTURE = 2**14, 2**30  # pixels: side of an input, area of an original
# fields of a manifest with their types, and fields of each picture
WHOLE = {"model": str, "source": str, "inventory": str, "left_out": dict, "settings": dict}
SOURCE = {"path": str, "size": int, "mtime_ns": int, "sha256": str}
COPY = {"copy": str, "copy_sha256": str}
ENTRY = {"name": str, "image": dict, "map": dict | None, "shape": list, "outside": int,
         "sigma_pixels": int | float, "category": str, "pictures_crc32": int,
         "truth_crc32": int}  # fmt: skip
OTHER_SETTINGS = {"stride": "map cells of {} pixels", "crop": "a map border of {} pixels"}


def is_store(folder: Path) -> bool:
    """Return True if a folder is a store, finished or unfinished."""
    return any((folder / name).exists() for name in (MANIFEST, PREPARING))


def load(
    folder: Path,
    dataset: str,
    split: str,
    plan: Plan,
    out_of_bounds: str,
    originals: Callable[..., list[Sample]],
    columns: str = "",
) -> list[Sample]:
    """Return the samples of a split from a store.

    Args:
        folder: folder of the store.
        dataset: expected name of the data set.
        split: train, val or test.
        plan: expected division of the pictures into splits.
        out_of_bounds: expected treatment of fixations outside their picture.
        originals: function from the source folder to the same samples, with the keyword `columns`.
        columns: expected names of the columns of tables; "" for those of the store.

    Raises:
        UserError: the store is unfinished or damaged, was prepared with other settings, or its
            sources have changed.
    """
    found = Store.open(folder)
    asked = {"dataset": dataset, **plan_settings(plan), "out_of_bounds": out_of_bounds}
    found.require(**asked, **({"columns": columns} if columns else {}))
    if split not in found.splits:
        why = found.manifest["left_out"].get(split, "")
        raise UserError(f"{folder} was prepared without a '{split}' split. {why}".rstrip())
    samples = StoredSplit(found, split).samples(with_sources=found.has_source)
    if found.has_source and inventory(found.source, folder) != found.manifest["inventory"]:
        found.refuse_if_changed(split, samples, originals)
    return samples


def plan_settings(plan: Plan) -> dict[str, Any]:
    """Return a plan as settings of a store, named like the flags."""
    return {
        "split_seed": plan.seed,
        "val_share": plan.val,
        "test_share": plan.test,
        "folds": plan.folds,
        "fold": plan.fold,
    }


@dataclass(frozen=True)
class Store:
    """A finished store: its folder and its manifest."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """Return the store of a folder.

        Raises:
            UserError: the store is unfinished, damaged, or of another version.
        """
        if not (folder / MANIFEST).exists():
            raise UserError(
                f"{folder} is an unfinished store. Run the same `{PROGRAM} data prepare` again to "
                "continue it."
            )
        return cls(folder, read_manifest(folder / MANIFEST))

    @property
    def splits(self) -> dict[str, list[dict[str, Any]]]:
        """The manifest's entries of pictures, by split."""
        return self.manifest["splits"]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the preparation."""
        return self.manifest["settings"]

    @property
    def source(self) -> Path:
        """The folder of the original data set."""
        return Path(self.manifest["source"])

    @cached_property
    def has_source(self) -> bool:
        """Whether the source folder exists and is readable.

        An empty folder counts as missing: it is a mount point without its disk.
        """
        try:
            return self.source.is_dir() and any(self.source.iterdir())
        except OSError:
            return False

    def command(self, changes: dict[str, Any], output: str) -> str:
        """Return the command that prepares this store with changed settings.

        Args:
            changes: settings to change.
            output: folder of the new store.
        """
        settings = self.settings | changes
        # the user must choose a system with such a map
        model = "MODEL" if changes.keys() & OTHER_SETTINGS.keys() else self.manifest["model"]
        words = {"data": self.source, "model": model, **settings, "output": output}
        flags = [
            word
            for name, value in words.items()
            if name not in OTHER_SETTINGS and value is not None
            for word in (f"--{name}", str(value))
        ]
        return shlex.join([PROGRAM, "data", "prepare", *flags])

    @property
    def remedy(self) -> str:
        """Instruction for repairing the store, for errors."""
        return f"Repair it with: {self.command({}, str(self.folder))}"

    def require(self, **asked: object) -> None:
        """Raise UserError if the store was prepared with other settings."""
        own = {"columns": "", **self.settings}
        changes = {name: value for name, value in asked.items() if own[name] != value}
        if changes:
            before = preparation_text({name: own[name] for name in changes})
            raise UserError(
                f"{self.folder} was prepared with {before}, but "
                f"{preparation_text(changes)} is requested. To prepare another store: "
                f"{self.command(changes, 'OTHER')}"
            )

    def refuse_if_changed(
        self, split: str, samples: list[Sample], originals: Callable[..., list[Sample]]
    ) -> None:
        """Raise UserError if the samples differ from those in the sources now.

        Called if a source file was touched, added or removed, which may not matter.

        Args:
            split: train, val or test.
            samples: samples of the store.
            originals: function from the source folder to the same samples, with the keyword
                `columns`.
        """
        try:
            now = originals(self.source, columns=self.settings.get("columns", ""))
            change = first_change(samples, self.splits[split], now, self.source)
        except UserError as error:
            change = str(error)
        if change:
            raise UserError(
                f"{self.source} has changed since {self.folder} was prepared from it: {change} Run "
                f"again: {self.command({}, str(self.folder))}"
            )


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a store, or of an unfinished store.

    Args:
        path: MANIFEST, or PREPARING, which has no entries of pictures.

    Raises:
        UserError: the file is missing, damaged, or of another version.
    """
    manifest = read_json(path)
    version = manifest.get("version") if isinstance(manifest, dict) else None
    if version != VERSION:
        raise UserError(
            f"{path} is of version {version}, {VERSION} is needed: prepare the data set again, "
            f"with `{PROGRAM} data prepare` and --overwrite True."
        )
    wanted = {"model", "source", "inventory", "left_out", "settings"}
    wanted |= {"splits"} if path.name == MANIFEST else set()
    missing = sorted(wanted - manifest.keys())
    if missing:
        raise UserError(
            f"{path} is damaged: it has no '{missing[0]}'. Prepare the data set again, with "
            f"`{PROGRAM} data prepare` and --overwrite True."
        )
    invalid = _invalid_field(manifest)
    if invalid:
        raise UserError(
            f"{path} is damaged: {invalid} is not what a preparation writes. Prepare the data set "
            f"again, with `{PROGRAM} data prepare` and --overwrite True."
        )
    return manifest


def _invalid_field(manifest: dict[str, Any]) -> str:
    """Return the name of the first invalid field of a manifest, or ""."""
    for name, kind in WHOLE.items():
        if not isinstance(manifest[name], kind):
            return f"'{name}'"
    for name in SETTINGS:
        if name not in manifest["settings"]:
            return f"'settings' without '{name}'"
    for name, least in (("rows", 1), ("cols", 1), ("stride", 1), ("crop", 0)):
        value = manifest["settings"][name]
        if type(value) is not int or not least <= value <= LARGEST_SIDE:
            return f"{name} {value!r}"
    splits = manifest.get("splits", {})
    if not isinstance(splits, dict):
        return "'splits'"
    for split, entries in splits.items():
        if not isinstance(entries, list):
            return f"'splits', {split!r}"
        for index, entry in enumerate(entries):
            if not _is_entry(entry):
                return f"picture {index} of {split!r}"
    return ""


def _is_entry(entry: Any) -> bool:
    """Return True if a manifest's entry of a picture has the right types."""
    if not _has_types(entry, ENTRY) or not _has_types(entry["image"], SOURCE):
        return False
    own_map, shape = entry["map"], entry["shape"]
    if own_map is not None and not _has_types(own_map, SOURCE | COPY):
        return False
    sides = len(shape) == 2 and all(type(side) is int and side > 0 for side in shape)
    return sides and shape[0] * shape[1] <= LARGEST_PICTURE and entry["sigma_pixels"] > 0


def _has_types(value: Any, kinds: dict[str, Any]) -> bool:
    """Return True if a value is a JSON object whose fields have given types."""
    return isinstance(value, dict) and all(
        name in value and isinstance(value[name], kind) for name, kind in kinds.items()
    )


def preparation_text(settings: dict[str, Any]) -> str:
    """Return settings as flags; those without a flag in words.

    >>> preparation_text({"rows": 240, "stride": 8, "sigma_pixels": None})
    "--rows 240, map cells of 8 pixels and the data set's own --sigma_pixels"
    """
    words = []
    for name, value in settings.items():
        if name in OTHER_SETTINGS:
            words.append(OTHER_SETTINGS[name].format(value))
        else:
            own = value is None
            words.append(f"the data set's own --{name}" if own else f"--{name} {value}")
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


@dataclass(frozen=True)
class Packed:
    """The arrays of one kind in a memory-mapped file, with checksums verified on reading.

    Attributes:
        path: the file.
        kind: pictures or truth.
        shape: shape of all arrays together: number, rows, columns, channels.
        sums: CRC-32 of each array.
        names: name of each picture, for errors.
        remedy: instruction for repairing the store, for errors.
    """

    path: Path
    kind: str
    shape: tuple[int, ...]
    sums: list[int]
    names: list[str]
    remedy: str

    @cached_property
    def rows(self) -> NDArray:
        """All arrays, memory-mapped."""
        try:
            rows = read_array(self.path, mapped=True)
        except UNREADABLE as error:
            raise UserError(
                f"{self.path} is missing, damaged or truncated ({error}). {self.remedy}"
            ) from error
        if rows.shape != self.shape or rows.dtype != KINDS[self.kind]:
            raise UserError(
                f"{self.path} holds {rows.dtype} of shape {rows.shape}; {KINDS[self.kind].__name__}"
                f" of shape {self.shape} is expected. {self.remedy}"
            )
        return np.asarray(rows)

    def read(self, index: int) -> NDArray:
        """Return one array.

        Raises:
            UserError: its checksum is wrong.
        """
        array = self.rows[index]
        if zlib.crc32(array) != self.sums[index]:
            raise UserError(
                f"{self.path}: the data of {self.names[index]} is damaged (checksum). {self.remedy}"
            )
        return array


class StoredSplit:
    """A split of a store.

    Args:
        store: the store.
        name: train, val or test.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name, self.entries = store, name, store.splits[name]
        names = [entry["name"] for entry in self.entries]
        self.pictures, self.truths = (
            Packed(
                packed_path(store.folder, name, kind),
                kind,
                packed_shape(store.settings, kind, len(names)),
                [entry[f"{kind}_crc32"] for entry in self.entries],
                names,
                store.remedy,
            )
            for kind in KINDS
        )

    def samples(self, with_sources: bool) -> list[Sample]:
        """Return the samples of the split.

        Args:
            with_sources: whether to use the original pictures; if not, stored inputs are enlarged.
        """
        folder = self.store.folder
        points = read_points(points_path(folder, self.name), len(self.entries), self.store.remedy)
        samples = []
        for index, (entry, (fixations, subjects)) in enumerate(
            zip(self.entries, points, strict=True)
        ):
            kept = Kept(self, index)
            # pictures in an array file need their data set's reader, which a store does not have
            has_file = with_sources and "index" not in entry["image"]
            image = kept.file if has_file else partial(kept.enlarged)
            own_map = entry["map"]
            if own_map:
                reader = Copied(own_map["copy_sha256"], self.store.remedy)
                own_map = Stored(folder / own_map["copy"], 0, reader)
            rows, cols = entry["shape"]
            samples.append(
                Sample(
                    entry["name"],
                    image,
                    own_map,
                    fixations,
                    subjects,
                    entry["sigma_pixels"],
                    entry["category"],
                    (rows, cols),
                    entry["outside"],
                    kept,
                    turned=entry["image"].get("turned") is not False,
                )
            )
        return samples


@dataclass(frozen=True)
class Kept:
    """The data of one picture in a store."""

    split: StoredSplit
    index: int

    @property
    def entry(self) -> dict[str, Any]:
        """The picture's entry in the manifest."""
        return self.split.entries[self.index]

    @property
    def input_shape(self) -> tuple[int, int]:
        """Rows and columns of the stored network input, pixels."""
        return self.split.store.settings["rows"], self.split.store.settings["cols"]

    @property
    def file(self) -> Path:
        """The file of the original picture."""
        return self.split.store.source / self.entry["image"]["path"]

    @property
    def origin(self) -> str:
        """File of the original picture, and its index in an array file."""
        return f"{self.file} {self.entry['image'].get('index', '')}"

    @property
    def stored(self) -> int:
        """Checksum of the stored network input."""
        return self.entry["pictures_crc32"]

    @property
    def digest(self) -> str:
        """A digest of the original picture and map."""
        own_map = self.entry["map"]
        return self.entry["image"]["sha256"] + (own_map["sha256"] if own_map else "")

    def require(self, **asked: object) -> None:
        """Raise UserError if the picture was prepared with other settings."""
        self.split.store.require(**asked)

    def picture(self) -> NDArray[np.uint8]:
        """Return the network's input, uint8 [rows, cols, 3] in BGR."""
        return self.split.pictures.read(self.index)

    def truth(self) -> NDArray[np.floating]:
        """Return the network-sized truth, float32 [map rows, map cols, 2]."""
        return self.split.truths.read(self.index)

    def enlarged(self) -> NDArray[np.uint8]:
        """Return the picture scaled to its original size, for display without its file."""
        import cv2  # imported here: most users of a store do not display pictures

        from salience.pictures.letterbox import Letterbox

        rows, cols = self.entry["shape"]
        box = Letterbox.fit((rows, cols), self.input_shape)
        height, width = box.scaled_shape
        inner = self.picture()[box.top : box.top + height, box.left : box.left + width]
        return cv2.resize(inner, (cols, rows), interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]


@dataclass(frozen=True)
class Copied:
    """Reader of the copy of a map, which verifies the copy's digest on reading.

    Attributes:
        digest: SHA-256 of the copy.
        remedy: instruction for repairing the store, for errors.
    """

    digest: str
    remedy: str

    def __call__(self, path: Path, index: int) -> NDArray:
        """Return the map.

        Args:
            path: the copy: a picture, or .npy for a map from an array file.
            index: not used: the file holds one map.

        Raises:
            UserError: the file is missing or has another digest.
        """
        if not path.exists() or sha256(path) != self.digest:
            raise UserError(f"{path} is damaged or missing. {self.remedy}")
        return read_array(path) if path.suffix == ".npy" else read_map(path)


def packed_path(folder: Path, split: str, kind: str) -> Path:
    """Return the path of the arrays of a kind (pictures or truth)."""
    return folder / f"{split}.{kind}.npy"


def packed_shape(settings: dict[str, Any], kind: str, count: int) -> tuple[int, ...]:
    """Return the shape of all arrays of a kind together."""
    rows, cols = settings["rows"], settings["cols"]
    if kind == "pictures":
        return count, rows, cols, 3
    stride, border = settings["stride"], 2 * settings["crop"]
    return count, (rows - border) // stride, (cols - border) // stride, 2


def points_path(folder: Path, split: str) -> Path:
    """Return the path of the fixations of a split."""
    return folder / f"{split}.points.npz"


def write_points(path: Path, samples: Sequence[Sample]) -> None:
    """Write the fixations and observers of each sample, atomically."""
    fixations = joined("fixations", [s.fixations for s in samples], np.zeros((0, 2), np.float32))
    subjects = joined("subjects", [s.subjects for s in samples], np.zeros(0, np.int32))
    write_arrays(path, fixations | subjects)


def read_points(
    path: Path, count: int, remedy: str
) -> list[tuple[NDArray | None, NDArray[np.int32] | None]]:
    """Return (fixations, subjects) of each picture of a split.

    Args:
        path: the file, see `points_path`.
        count: expected number of pictures.
        remedy: instruction for repairing the store, for errors.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        arrays = read_arrays(path)
        kinds = (divided(kind, arrays) for kind in ("fixations", "subjects"))
        points = list(zip(*kinds, strict=True))
        if len(points) != count:
            raise ValueError(f"{len(points)} pictures instead of {count}")
        if any(looks is not None and looks.shape[1:] != (2,) for looks, _ in points):
            raise ValueError("fixations that are not [n, 2]")
    except (*UNREADABLE, KeyError) as error:
        raise UserError(f"{path} is missing or damaged ({error}). {remedy}") from error
    return points


def inventory(root: Path, besides: Path) -> str:
    """Return a digest of the names, sizes and times of all files below a folder.

    The times include that of the last status change, which programs cannot set back. Files of equal
    inventories need not be compared, however large the data set is. Hidden files are ignored.

    Args:
        root: the folder; links to folders are followed.
        besides: a folder below it to exclude: the store itself.
    """
    digest = hashlib.sha256()
    seen = {os.path.realpath(besides)}
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # the store, or a link to a folder seen before
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and path.exists():
                status = path.stat()
                known = (
                    path.relative_to(root).as_posix(),
                    *size_and_time(path),
                    status.st_ctime_ns,
                )
                digest.update(repr(known).encode(errors="surrogateescape"))
    return digest.hexdigest()


def size_and_time(path: Path) -> tuple[int, int]:
    """Return a file's size in bytes and its modification time in nanoseconds."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def source_entry(source: Path | Stored, root: Path) -> dict[str, Any]:
    """Return the manifest's entry of a source: path, size, modification time and digest.

    Args:
        source: a file, or one picture or map in an array file.
        root: the data set's folder.
    """
    path = real_path(source.file if isinstance(source, Stored) else source)
    size, time = size_and_time(path)
    inside = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
    place = {"index": source.index} if isinstance(source, Stored) else {}
    return {"path": inside, **place, "size": size, "mtime_ns": time, "sha256": sha256(source)}


def sha256(source: Path | Stored) -> str:
    """Return the SHA-256 of a file, or of one picture or map in an array file."""
    if isinstance(source, Stored):
        return hashlib.sha256(np.ascontiguousarray(source()).tobytes()).hexdigest()
    try:
        return file_digest(source)
    except OSError as error:
        raise UserError(f"Cannot read {source}: {error.strerror}.") from error


def first_change(
    samples: list[Sample], entries: list[dict[str, Any]], now: list[Sample], root: Path
) -> str:
    """Return a description of the first difference of a split from its sources, or "".

    Args:
        samples: samples of the store.
        entries: the manifest's entries of the same pictures.
        now: samples of the sources now.
        root: source folder.
    """
    was, are = [s.name for s in samples], [s.name for s in now]
    if was != are:
        lost, new = sorted(set(was) - set(are)), sorted(set(are) - set(was))
        change = f"{new[0]} is new" if new else "the order is new"
        found = f"{lost[0]} is missing" if lost else change
        return f"its pictures were {len(was)} and are {len(are)}; {found}."
    for sample, entry, other in zip(samples, entries, now, strict=True):
        for what in ("fixations", "subjects", "sigma_pixels", "category"):
            if not _equal(getattr(sample, what), getattr(other, what)):
                return f"the {what} of {sample.name} differ."
        for kind, source in (("image", other.image), ("map", other.map)):
            if (entry[kind] is None) != (source is None):
                return f"the {kind} of {sample.name} was added or removed."
            if isinstance(source, Path | Stored) and _differs(source, entry[kind]):
                return f"{str(source).removeprefix(f'{root}{os.sep}')} differs."
    return ""


def _equal(a: Any, b: Any) -> bool:
    """Return True if two values or arrays are equal."""
    if a is None or b is None:
        return a is b
    return np.array_equal(a, b)


def _differs(source: Path | Stored, entry: dict[str, Any]) -> bool:
    """Return True if a source has another digest; size and time may be equal."""
    return sha256(source) != entry["sha256"]

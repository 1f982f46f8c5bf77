"""The command `data prepare`: packs resized pictures and density maps into a store (`store.py`).

A journal lists the finished pictures with their checksums, which a resumed run verifies. The
manifest is written last.
"""

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from commands.settings import PrepareConfig
from config import BUILT_IN
from model import grid_of, system_module
from salience.data import loading, store
from salience.data.plan import SPLITS
from salience.data.store import JOURNAL, KINDS, MANIFEST, PREPARING
from salience.pictures.letterbox import OutputGrid
from salience.pictures.network_inputs import make_truth, network_input
from salience.pictures.sample import Sample, Stored
from salience.system import archives
from salience.system.arrays import UNREADABLE, read_array, write_array
from salience.system.errors import StorageError, UserError
from salience.system.files import (
    PARTIAL,
    atomic,
    content_stamp,
    make_folder,
    read_text,
    real_path,
    telling,
    write_json,
    write_text,
)
from salience.system.terminal import progress, tell

AHEAD = 8  # pictures per thread that may wait to be written
Place = tuple[str, int]  # a split, and the index of a picture in it


def run(settings: PrepareConfig) -> bool:
    """Run the command `data prepare`."""
    prepare(settings)
    return True


def prepare(settings: PrepareConfig, say: Callable[[str], None] = tell) -> None:
    """Prepare a data set for a network, or resume its preparation.

    Args:
        settings: the data set, the network and the output folder.
        say: called with each message.

    Raises:
        UserError: the data cannot be used, the folder holds other files, the disk is too small, or
            the data set changed during the preparation.
    """
    if settings.output is None:
        raise UserError("--output is required: the folder for the store.")
    if settings.dataset in BUILT_IN:
        raise UserError(f"{settings.dataset} is built in and has no files to prepare.")
    folder = settings.output
    # resolve ".", which has no name
    kept = real_path(folder)
    root = source_folder(settings.data, kept.with_name(f"{kept.name}.source"))
    splits, left_out = loading.load_splits(
        settings.dataset, root, settings.plan, settings.out_of_bounds, settings.columns
    )
    assert root is not None  # a data set with files was loaded from it
    network = settings.network
    # only the shape of the output is needed, so few channels suffice
    model = system_module(network.model).build(replace(network, width=0.01))
    grid = grid_of(model)
    header = {
        "version": store.VERSION,
        "model": network.model,
        "source": str(real_path(root)),
        "inventory": store.inventory(root, folder),
        "left_out": left_out,
        "settings": {
            "dataset": settings.dataset,
            "rows": network.rows,
            "cols": network.cols,
            "stride": grid.stride,
            "crop": grid.crop,
            "sigma_pixels": settings.gaussian_pixels,
            **store.plan_settings(settings.plan),
            "out_of_bounds": settings.out_of_bounds,
            **({"columns": settings.columns} if settings.columns else {}),
        },
    }
    for line in loading.remarks(settings.dataset, root, columns=settings.columns):
        say(f"note: {line}")
    for split, why in left_out.items():
        say(f"left out: the {split} split. {why}")
    work = Preparation(folder, header, splits, grid, settings.workers)
    work.keep_good(earlier_work(folder, header, settings.overwrite, say))
    if work.is_finished:
        say(f"{folder} is finished; the checksums of all {work.count} pictures are correct")
        return
    say(
        f"{work.count} pictures at {network.rows}x{network.cols}, {work.size / 1e6:.0f} MB"
        + (f"; {len(work.entries)} of them are done" if work.entries else "")
    )
    work.run()
    parts = ", ".join(f"{len(samples)} {split}" for split, samples in splits.items())
    say(
        f"wrote {folder}: {parts}. To train on it: --model {network.model} --dataset "
        f"{settings.dataset} --data {folder} --rows {network.rows} --cols {network.cols}"
    )


def source_folder(data: Sequence[Path], keep: Path) -> Path | None:
    """Return the folder of the original files; archives are unpacked once into a permanent folder.

    Raises:
        UserError: the archives cannot be used, or the data is a store instead of original files.
    """
    if not loading.are_archives(data):
        loading.refuse_store(data[0] if data else None)
        return data[0] if data else None
    paths = sorted(data)
    stamps = repr([(path.name, content_stamp(path)) for path in paths])
    # the digest keeps other archives of the same names apart
    unpacked = keep / f"{paths[0].name}-{sha256(stamps.encode()).hexdigest()[:8]}"
    return unpacked if unpacked.is_dir() else archives.extract(paths, unpacked)


def earlier_work(
    folder: Path, header: dict[str, Any], overwrite: bool, say: Callable[[str], None]
) -> dict[Place, dict[str, Any]]:
    """Return the entries of an earlier preparation to resume; remove an outdated one.

    Raises:
        UserError: the folder holds other files, or a store with other settings.
    """
    make_folder(folder)
    # a killed run may have left a journal, which is written first, and temporary files
    if all(path.name == JOURNAL or PARTIAL.fullmatch(path.name) for path in folder.iterdir()):
        return {}
    if not store.is_store(folder):
        raise UserError(f"{folder} holds other files than a store. Choose another --output.")
    finished = (folder / MANIFEST).exists()
    try:
        earlier = store.read_manifest(folder / (MANIFEST if finished else PREPARING))
    except UserError:
        if not overwrite:
            raise
        clear(folder)
        return {}
    own = {"data": earlier["source"], **earlier["settings"]}
    requested = {"data": header["source"], **header["settings"]}
    if own != requested and not overwrite:
        names = [name for name in own | requested if own.get(name) != requested.get(name)]
        before = store.preparation_text({name: own.get(name) for name in names})
        now = store.preparation_text({name: requested.get(name) for name in names})
        raise UserError(
            f"{folder} was prepared with {before}, now {now} is requested. Choose another "
            "--output, or replace it with --overwrite True."
        )
    if own == requested and earlier["inventory"] == header["inventory"]:
        return entries_of(earlier) if finished else read_journal(folder / JOURNAL)
    if own == requested:
        say(f"{header['source']} has changed since {folder} was begun: it is prepared again")
    clear(folder)
    return {}


def entries_of(manifest: dict[str, Any]) -> dict[Place, dict[str, Any]]:
    """Return the entries of a manifest by place."""
    return {
        (split, index): entry
        for split, entries in manifest["splits"].items()
        for index, entry in enumerate(entries)
    }


def read_journal(path: Path) -> dict[Place, dict[str, Any]]:
    """Return the entries of a journal by place; its last line may be cut off."""
    entries = {}
    lines = read_text(path, errors="replace").splitlines() if path.exists() else []
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            split, index, entry = json.loads(line)
            entries[split, index] = entry
    return entries


def clear(folder: Path) -> None:
    """Remove the files of a store, and nothing else."""
    # in this order, a killed run leaves a folder that is known as an unfinished store
    with telling(f"Cannot clear {folder}", "choose another --output"):
        if (folder / MANIFEST).exists():
            os.replace(folder / MANIFEST, folder / PREPARING)
        for split in SPLITS:
            for path in (
                store.points_path(folder, split),
                *(store.packed_path(folder, split, kind) for kind in KINDS),
            ):
                path.unlink(missing_ok=True)
        shutil.rmtree(folder / "maps", ignore_errors=True)
        for name in (JOURNAL, PREPARING):
            (folder / name).unlink(missing_ok=True)


@dataclass
class Preparation:
    """The preparation of one store.

    Args:
        folder: folder of the store.
        header: manifest without the entries of pictures.
        splits: samples by split.
        grid: position of the network's output cells on its input.
        workers: threads that read pictures.
    """

    folder: Path
    header: dict[str, Any]
    splits: dict[str, list[Sample]]
    grid: OutputGrid
    workers: int

    def __post_init__(self) -> None:
        self.entries: dict[Place, dict[str, Any]] = {}
        self.arrays = {
            (split, kind): (
                store.packed_path(self.folder, split, kind),
                store.packed_shape(self.header["settings"], kind, len(samples)),
            )
            for split, samples in self.splits.items()
            for kind in KINDS
        }

    @property
    def count(self) -> int:
        """The number of pictures."""
        return sum(map(len, self.splits.values()))

    @cached_property
    def size(self) -> int:
        """The approximate size of the finished store, bytes."""
        maps = [s.map for samples in self.splits.values() for s in samples if s.map]
        return sum(map(size_of, maps)) + sum(
            int(np.prod(shape)) * np.dtype(KINDS[kind]).itemsize
            for (_, kind), (_, shape) in self.arrays.items()
        )

    def keep_good(self, known: dict[Place, dict[str, Any]]) -> None:
        """Keep the entries of an earlier preparation whose checksums are correct."""
        rows = {}
        for (split, kind), (path, shape) in self.arrays.items():
            with contextlib.suppress(*UNREADABLE):
                found = read_array(path, mapped=True)
                if found.shape == shape and found.dtype == KINDS[kind]:
                    rows[split, kind] = found
        bar = progress(len(known), "verifying")
        for place, entry in known.items():
            bar.update()
            if all(
                (place[0], kind) in rows
                and zlib.crc32(rows[place[0], kind][place[1]]) == entry[f"{kind}_crc32"]
                for kind in KINDS
            ) and self._has_map(entry):
                self.entries[place] = entry
        bar.close()

    def _has_map(self, entry: dict[str, Any]) -> bool:
        """Return True if a picture's map is unchanged, or if it has no map."""
        if entry["map"] is None:
            return True
        copy = self.folder / entry["map"]["copy"]
        return copy.exists() and store.sha256(copy) == entry["map"]["copy_sha256"]

    @property
    def is_finished(self) -> bool:
        """Whether the store is complete."""
        if len(self.entries) < self.count or not (self.folder / MANIFEST).exists():
            return False
        try:
            for split, samples in self.splits.items():
                store.read_points(store.points_path(self.folder, split), len(samples), "")
        except UserError:
            return False
        return True

    def run(self) -> None:
        """Make all missing pictures, then write the manifest."""
        pending = [
            (split, index)
            for split, samples in self.splits.items()
            for index in range(len(samples))
            if (split, index) not in self.entries
        ]
        remedy = "choose another --output; the same command resumes the preparation"
        with telling(f"Cannot write {self.folder}", remedy):
            self.check_free_space()
            # in this order, a killed run can be resumed at any point
            lines = [journal_line(*item) for item in self.entries.items()]
            write_text(self.folder / JOURNAL, "".join(lines))
            write_json(self.folder / PREPARING, self.header)
            (self.folder / MANIFEST).unlink(missing_ok=True)
            self.make(pending)
            self.finish()

    def check_free_space(self) -> None:
        """Raise StorageError if the disk has too little space for the missing data."""
        # blocks, since an unfinished array is a sparse file
        there = sum(p.stat().st_blocks * 512 for p in self.folder.rglob("*") if p.is_file())
        free = shutil.disk_usage(self.folder).free
        if self.size - there > free:
            raise StorageError(
                f"{self.folder} needs {(self.size - there) / 1e6:.0f} MB more, but its disk has "
                f"{free / 1e6:.0f} MB left. Choose another --output, or smaller --rows and --cols."
            )

    def make(self, pending: list[Place]) -> None:
        """Make pictures and their density maps, and add each to the journal once it is written."""
        bar = progress(len(pending) + len(self.entries), "preparing")
        bar.update(len(self.entries))
        with (
            bar,
            contextlib.ExitStack() as stack,
            (self.folder / JOURNAL).open("a", encoding="utf-8") as journal,
            ThreadPoolExecutor(self.workers) as pool,
        ):
            files = {
                key: stack.enter_context(opened(path, shape, KINDS[key[1]]))
                for key, (path, shape) in self.arrays.items()
            }
            step = AHEAD * self.workers
            for chunk in (pending[i : i + step] for i in range(0, len(pending), step)):
                for place, (arrays, entry) in zip(
                    chunk, pool.map(self.prepare_one, chunk), strict=True
                ):
                    for kind, array in arrays.items():
                        file, start = files[place[0], kind]
                        file.seek(start + place[1] * array.nbytes)
                        file.write(array.tobytes())
                        file.flush()
                    self.entries[place] = entry
                    journal.write(journal_line(place, entry))
                    journal.flush()
                    bar.update()
            for file, _ in files.values():
                os.fsync(file.fileno())

    def prepare_one(self, place: Place) -> tuple[dict[str, NDArray], dict[str, Any]]:
        """Return the arrays of a picture, and its entry in the manifest."""
        split, index = place
        sample, settings = self.splits[split][index], self.header["settings"]
        x, box = network_input(sample, (settings["rows"], settings["cols"]))
        truth = make_truth(sample, box, self.grid, settings["sigma_pixels"])
        arrays = {"pictures": np.ascontiguousarray(x), "truth": np.ascontiguousarray(truth)}
        assert isinstance(sample.image, Path | Stored)  # built-in sets are not prepared
        entry = {
            "name": sample.name,
            "category": sample.category,
            "shape": box.image_shape,
            "sigma_pixels": float(sample.sigma_pixels),
            "outside": sample.outside,
            "image": {
                **store.source_entry(sample.image, Path(self.header["source"])),
                **({} if sample.turned else {"turned": False}),
            },
            "map": self._copied_map(sample.map, place) if sample.map else None,
            **{f"{kind}_crc32": zlib.crc32(array) for kind, array in arrays.items()},
        }
        return arrays, entry

    def _copied_map(self, source: Path | Stored, place: Place) -> dict[str, Any]:
        """Copy a map of the data set, which scoring needs at its original size."""
        suffix = source.suffix if isinstance(source, Path) else ".npy"
        name = Path("maps", place[0], f"{place[1]:06d}{suffix}")
        copy = make_folder((self.folder / name).parent, inside=self.folder) / name.name
        if isinstance(source, Path):
            with atomic(copy) as temporary:
                shutil.copyfile(source, temporary)
        else:
            write_array(copy, source())
        entry = store.source_entry(source, Path(self.header["source"]))
        return {**entry, "copy": name.as_posix(), "copy_sha256": store.sha256(copy)}

    def finish(self) -> None:
        """Write the points and the manifest, and remove the files of the unfinished store."""
        root = Path(self.header["source"])
        if store.inventory(root, self.folder) != self.header["inventory"]:
            raise UserError(f"{root} changed during the preparation: run the same command again.")
        for split, samples in self.splits.items():
            store.write_points(store.points_path(self.folder, split), samples)
        manifest = {
            **self.header,
            "splits": {
                split: [self.entries[split, index] for index in range(len(samples))]
                for split, samples in self.splits.items()
            },
        }
        write_json(self.folder / MANIFEST, manifest)
        for name in (PREPARING, JOURNAL):
            (self.folder / name).unlink(missing_ok=True)


def size_of(source: Path | Stored) -> int:
    """Return the size of a copy of a map, bytes."""
    return source.stat().st_size if isinstance(source, Path) else source().nbytes


def journal_line(place: Place, entry: dict[str, Any]) -> str:
    """Return the journal's line for a finished picture."""
    return json.dumps([*place, entry]) + "\n"


@contextlib.contextmanager
def opened(path: Path, shape: tuple[int, ...], dtype: type) -> Iterator[tuple[IO[bytes], int]]:
    """Yield an array's file and the offset of its first row; an invalid file is made again.

    The file is written directly, as a full disk is then an error. With a memory map, it would kill
    the process.
    """
    try:
        rows = read_array(path, mapped=True)
        is_valid = rows.shape == shape and rows.dtype == dtype
    except UNREADABLE:
        is_valid = False
    if not is_valid:
        rows = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    start = int(rows.offset)  # type: ignore[attr-defined]
    del rows
    with path.open("r+b") as file:
        yield file, start

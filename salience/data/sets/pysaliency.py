"""Data of pysaliency: its HDF5 file of stimuli, and its HDF5 file of fixations.

`--data STIMULI.hdf5 FIXATIONS.hdf5`, or a folder that holds `stimuli.hdf5` and `fixations.hdf5`, as
pysaliency's own data sets are stored. h5py reads them; pysaliency is not needed. Files may come
from strangers, so the rules of `salience.data.hdf5` hold.

Stimuli are of the type `Stimuli`, with the pixels (RGB or grey) inside, or `FileStimuli`, with the
names of picture files relative to the HDF5 file. pysaliency opens those without their EXIF
rotation, and their shapes are of that orientation. Fixations are of the type `Fixations`,
`FixationTrains` (pysaliency 0.2), `ScanpathFixations` or `Scanpaths` (0.3).

Coordinates: pysaliency takes the pixel `int(x)` for a fixation at x, so the first pixel is from 0
to 1 and its centre is 0.5. Ours are pixel centres: 0.5 less. Rounded to float32, a fixation keeps
its pixel.

Times and durations are seconds in pysaliency's data sets, and milliseconds here. Many of those sets
have the index of the fixation instead of a time: this is no time. The observer -1 means "unknown".
What `data export` adds to the stimuli (split, and the Gaussian in pixels) is used if it is there.
"""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from salience.data import hdf5
from salience.data.parts import FileGroup, load_parts, offer
from salience.data.plan import BY_SHARES, SPLITS, Plan
from salience.data.points import Looks, Read, observers_of, read_table
from salience.pictures.headers import LARGEST_OTHER
from salience.pictures.picture_files import as_bgr
from salience.pictures.sample import IMAGE_SUFFIXES, Sample, Stored
from salience.system.errors import UserError
from salience.system.files import composed, split_pair

NEEDS_FILES = TAKES_PAIR = True
STIMULI, FIXATIONS = "stimuli.hdf5", "fixations.hdf5"
SOURCE = (
    "Name what pysaliency's to_hdf5 wrote: --data STIMULI.hdf5 FIXATIONS.hdf5, or a folder with "
    f"{STIMULI} and {FIXATIONS}."
)
SIGMA_PIXELS = 24.0
SIGMA_FROM = "the default for own data, whose degree is not known"
HALF = 0.5  # from pysaliency's corner of a pixel to its centre
MILLISECONDS = 1000  # of a second
UNKNOWN = -1  # observer of fixations whose observer is not known
MOST_PICTURES = 10**6
# attributes of the stimuli that `data export` writes
SPLIT, SIGMA = "split", "sigma_pixels"
STIMULI_TYPES = ("Stimuli", "FileStimuli")
FIXATION_TYPES = ("Fixations", "FixationTrains", "ScanpathFixations", "Scanpaths")


@dataclass(frozen=True)
class Listed:
    """The stimuli of a file, in its order.

    Attributes:
        keys: names without suffix, see `keys_of`.
        files: names of the picture files as stored; () if the pixels are inside.
        shapes: rows and columns of each picture.
        splits: split of each picture; () if the file has none.
        sigmas: standard deviation of the Gaussian for each picture; () if the file has none.
    """

    keys: tuple[str, ...]
    files: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    splits: tuple[str, ...] = ()
    sigmas: tuple[float, ...] = ()


def load(root: Path, split: str, plan: Plan = BY_SHARES) -> list[Sample]:
    """Return the samples of a split: the stored one, or a share that the plan divides.

    Raises:
        UserError: a file is missing, damaged or of another type, or both do not match.
    """
    return load_parts(parts(root), root, split, plan)


def parts(root: Path) -> list[FileGroup]:
    """Return the file groups of the data set.

    Raises:
        UserError: a file is missing, damaged or of another type.
    """
    stimuli, fixations = files_of(root)
    listed = listed_in(stimuli)
    images: dict[str, Path | Stored] = {}
    for index, key in enumerate(listed.keys):
        images[key] = (
            stimuli.parent / listed.files[index]
            if listed.files
            else Stored(stimuli, index, read_picture, shape_of)
        )
    groups = []
    for split in SPLITS if listed.splits else ("",):
        own = [
            key
            for index, key in enumerate(listed.keys)
            if not listed.splits or listed.splits[index] == split
        ]
        if own:
            groups.append(
                FileGroup(
                    split or "all",
                    split,
                    stimuli,
                    {key: images[key] for key in own},
                    read=partial(read, fixations, stimuli, frozenset(own)),
                    sigma_pixels=SIGMA_PIXELS,
                    sigmas=dict(zip(listed.keys, listed.sigmas, strict=False)),
                    turned=False,  # pysaliency does not turn them
                    sought=fixations.name,
                    known=(stimuli, fixations),
                )
            )
    return groups


def sigma_from(root: Path) -> str:
    """Return where the Gaussian comes from, as text."""
    known = listed_in(files_of(root)[0]).sigmas
    return f"the file of stimuli ({SIGMA})" if known else SIGMA_FROM


def files_of(root: Path) -> tuple[Path, Path]:
    """Return the files of the stimuli and of the fixations.

    Raises:
        UserError: the folder has none.
    """
    stimuli, fixations = split_pair(root) or (root / STIMULI, root / FIXATIONS)
    for path in (stimuli, fixations):
        if not path.is_file():
            raise UserError(f"{path}: no such file. {offer(SOURCE)}")
    return stimuli, fixations


def read(fixations: Path, stimuli: Path, own: frozenset[str]) -> Read:
    """Return the fixations of some of the pictures; raises as `parse`."""
    found = read_table(fixations, parse, stimuli)
    return Read({key: looks for key, looks in found.looks.items() if key in own})


class Opened:
    """An open HDF5 file of pysaliency, whose errors name the file.

    Args:
        path: the file.
        types: pysaliency's types that are expected.

    Raises:
        UserError: the file is missing, damaged, not HDF5, or of another type.
    """

    def __init__(self, path: Path, types: tuple[str, ...]) -> None:
        self.path, self.types = path, types

    def __enter__(self) -> "Opened":
        try:
            self.file = hdf5.open_checked(self.path)
        except hdf5.DAMAGED as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"{self.path} is not a file in HDF5, or is damaged. {SOURCE}"
            ) from error
        try:
            self.type = self.type_of(self.file)
            if self.type not in self.types:
                raise UserError(
                    f"{self.path} holds {self.type or 'no type of pysaliency'}, but "
                    f"{' or '.join(self.types)} is expected. {SOURCE}"
                )
        except Exception as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, _trace: object) -> None:
        self.file.close()
        if isinstance(error, hdf5.DAMAGED) and not isinstance(error, UserError):
            raise UserError(f"{self.path} is damaged, or not of pysaliency ({error}).") from error

    def type_of(self, group: Any) -> str:
        """Return the type of a group, as pysaliency notes it; "" without one."""
        text = hdf5.read_attribute(group, "type")
        return text.decode(errors="replace") if isinstance(text, bytes) else str(text or "")

    def item(self, *names: str, group: Any = None) -> Any:
        """Return the first existing item of several names.

        Raises:
            UserError: there is none.
        """
        found = self.maybe(*names, group=group)
        if found is None:
            raise UserError(f"{self.path} has no '{names[0]}', which {self.type} needs.")
        return found

    def maybe(self, *names: str, group: Any = None) -> Any:
        """Return the first existing item of several names, or None."""
        where = self.file if group is None else group
        found = (hdf5.get_child(where, name) for name in names)
        return next((item for item in found if item is not None), None)

    def numbers(self, item: Any, ndim: int = 1) -> NDArray:
        """Return an array of numbers with `ndim` dimensions.

        Raises:
            UserError: the item is not so.
        """
        name = str(getattr(item, "name", None) or "?")
        values = hdf5.read_numbers(item, f"{self.path}: {name}")
        if values.ndim != ndim:
            raise UserError(
                f"{self.path}: {name} has the shape {values.shape}; {ndim} dimensions are expected."
            )
        return values

    def texts(self, item: Any) -> list[str]:
        """Return a list of texts.

        Raises:
            UserError: the item is not so.
        """
        where = f"{self.path}: {item.name}"
        rows = hdf5.read_rows(item, where)
        if not all(isinstance(row, bytes) for row in rows):
            raise UserError(f"{where} does not hold texts.")
        try:
            return [row.decode() for row in rows]
        except UnicodeDecodeError as error:
            raise UserError(f"{where} holds text that is not UTF-8.") from error


# stimuli


def listed_in(path: Path) -> Listed:
    """Return the stimuli that a file lists, without their pixels.

    Raises:
        UserError: the file is missing, damaged, or has no stimuli; or two have one name.
    """
    with Opened(path, STIMULI_TYPES) as opened:
        inside = opened.type == "Stimuli"
        names = opened.maybe("filenames")
        if inside:
            count = hdf5.read_attribute(opened.file, "size")
            if not isinstance(count, int | np.integer) or not 0 <= count <= MOST_PICTURES:
                raise UserError(f"{path} has no 'size', the number of its stimuli.")
            shapes = tuple(pixels_shape(opened, index) for index in range(int(count)))
            files = opened.texts(names) if names is not None else []
            files = files or [f"stimulus_{index:05d}.png" for index in range(int(count))]
        else:
            files = opened.texts(opened.item("filenames"))
            rows = hdf5.read_rows(opened.item("shapes"), f"{path}: shapes")
            shapes = tuple(shape_in(row, path) for row in rows)
        if len(files) != len(shapes):
            raise UserError(f"{path} has {len(files)} file names but {len(shapes)} pictures.")
        if not shapes:
            raise UserError(f"{path} holds no stimuli.")
        splits = splits_in(opened, len(shapes))
        sigmas = sigmas_in(opened, len(shapes))
    for name in () if inside else files:
        if PurePosixPath(name).suffix.lower() not in IMAGE_SUFFIXES or "\0" in name:
            raise UserError(f"{path} names {name!r}, which is no picture file.")
        if not (path.parent / name).is_file():
            raise UserError(
                f"{path} names {name}, which is not at {path.parent / name}. Names are relative to "
                "the HDF5 file: move it to its pictures, or export it again."
            )
    keys = keys_by_split(files, splits)
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UserError(f"{path} has two stimuli of the name {twice}; names must differ.")
    return Listed(tuple(keys), () if inside else tuple(files), shapes, splits, sigmas)


def keys_by_split(files: list[str], splits: tuple[str, ...]) -> list[str]:
    """Return the keys of picture files; the folder of a split is part of them only if need be."""
    found: dict[str, list[str]] = {}
    for name, split in zip(files, splits, strict=False):
        found.setdefault(split, []).append(name)
    made = {split: iter(keys_of(names)) for split, names in found.items()}
    keys = [next(made[split]) for split in splits]
    return keys if splits and len(set(keys)) == len(keys) else keys_of(files)


def keys_of(files: list[str]) -> list[str]:
    """Return the keys of picture files: without suffix and without the folders they share.

    >>> keys_of(["../stimuli/Action/001.jpg", "../stimuli/Art/001.jpg"])
    ['Action/001', 'Art/001']
    """
    paths = [PurePosixPath(os.path.normpath(name)) for name in files]
    folders = [path.parts[:-1] for path in paths]
    shared = 0
    while all(len(one) > shared and one[shared] == folders[0][shared] for one in folders):
        shared += 1
    return [
        # outputs are named so: no way out of their folder
        composed("/".join([*(one for one in own[shared:] if one not in ("..", "/")), path.stem]))
        for own, path in zip(folders, paths, strict=True)
    ]


def splits_in(opened: Opened, count: int) -> tuple[str, ...]:
    """Return the split of each stimulus, if the file has that attribute; else ()."""
    item = opened.maybe(SPLIT)
    if item is None or item.dtype.kind not in "OS":
        return ()
    found = tuple(opened.texts(item))
    return found if len(found) == count and set(found) <= set(SPLITS) else ()


def sigmas_in(opened: Opened, count: int) -> tuple[float, ...]:
    """Return the Gaussian of each stimulus, if the file has them all; else ()."""
    item = opened.maybe(SIGMA)
    if item is None or item.dtype.kind != "f":
        return ()
    values = opened.numbers(item)
    usable = len(values) == count and bool(((values >= 0.1) & (values <= 1000)).all())
    return tuple(values.tolist()) if usable else ()


def shape_in(row: Any, path: Path) -> tuple[int, int]:
    """Return rows and columns of a stored shape; raises UserError."""
    values = [] if isinstance(row, bytes) else np.ravel(row).tolist()
    if len(values) not in (2, 3) or min(values) < 1 or values[0] * values[1] > LARGEST_OTHER:
        raise UserError(f"{path}: {values} is not the shape of a picture.")
    return int(values[0]), int(values[1])


def pixels_shape(opened: Opened, index: int) -> tuple[int, int]:
    """Return rows and columns of a stimulus inside a file; raises UserError."""
    item = opened.item(str(index))
    if not isinstance(item, h5py.Dataset) or not item.shape or len(item.shape) not in (2, 3):
        raise UserError(f"{opened.path}: {index} is not a picture.")
    return shape_in(item.shape, opened.path)


def shape_of(path: Path, index: int) -> tuple[int, int]:
    """Return rows and columns of one stimulus inside a file; raises as `read_picture`."""
    with Opened(path, ("Stimuli",)) as opened:
        return pixels_shape(opened, index)


def read_picture(path: Path, index: int) -> NDArray[np.uint8]:
    """Return one stimulus inside a file as uint8 [rows, columns, 3] in BGR.

    Raises:
        UserError: the file is damaged, or the values are not a picture.
    """
    with Opened(path, ("Stimuli",)) as opened:
        pixels_shape(opened, index)  # before the pixels are read
        item = opened.item(str(index))
        values = hdf5.read_numbers(item, f"{path}: stimulus {index}")
    try:
        return as_bgr(values, rgb=True)
    except UserError as error:
        raise UserError(f"{path}: stimulus {index}: {error}") from error


# fixations


@dataclass(frozen=True)
class Table:
    """The fixations of a file, one row each.

    Attributes:
        x, y: pysaliency's coordinates.
        n: index of the stimulus.
        subjects: observers, or None.
        t: seconds; NaN where unknown, or None.
        durations: seconds; NaN where unknown, or None.
    """

    x: NDArray
    y: NDArray
    n: NDArray
    subjects: NDArray | None
    t: NDArray | None
    durations: NDArray | None


def parse(path: Path, stimuli: Path) -> dict[str, Looks]:
    """Return the fixations of all pictures by key.

    Args:
        path: file of the fixations.
        stimuli: file of the stimuli.

    Raises:
        UserError: a file is damaged or of another type, or fixations are of no stimulus.
    """
    listed = listed_in(stimuli)
    table = table_of(path)
    n, count = table.n, len(listed.keys)
    if n.dtype.kind not in "iu" and (~np.isfinite(n) | (n % 1 != 0)).any():
        raise UserError(f"{path}: the indices of stimuli are not whole numbers.")
    if len(n) and not (n.min() >= 0 and n.max() < count):
        odd = int(n.max() if n.max() >= count else n.min())
        raise UserError(
            f"{path} has fixations on stimulus {odd}, but {stimuli} has the stimuli 0 to "
            f"{count - 1}. Do both belong together?"
        )
    points = np.stack([centres(table.x), centres(table.y)], axis=1)
    order = np.argsort(n, kind="stable")
    ends = np.searchsorted(n[order], np.arange(count + 1))
    who = None
    if table.subjects is not None:
        who = observers_of(table.subjects, len(n), path)
        who = None if (who == UNKNOWN).all() else who
    times, durations = (in_milliseconds(values) for values in (table.t, table.durations))
    found = {}
    for index, (key, shape) in enumerate(zip(listed.keys, listed.shapes, strict=True)):
        own = order[ends[index] : ends[index + 1]]
        found[key] = Looks(
            points[own],
            None if who is None or (len(own) and (who[own] == UNKNOWN).all()) else who[own],
            shape,
            known(times, own),
            known(durations, own),
        )
    return found


def centres(values: NDArray) -> NDArray[np.float32]:
    """Return pysaliency's coordinates as pixel centres, float32, each in the same pixel.

    >>> centres(np.array([3.0, 3.9999999999])).tolist()
    [2.5, 3.499999761581421]
    """
    wide = np.asarray(values, np.float64) - HALF
    with np.errstate(over="ignore"):  # infinite: outside of every picture
        made = wide.astype(np.float32)
    # rounding to float32 must not reach the next pixel
    over = np.floor(made.astype(np.float64) + HALF) > np.floor(wide + HALF)
    return np.where(over, np.nextafter(made, np.float32(-np.inf)), made)


def in_milliseconds(seconds: NDArray | None) -> NDArray[np.float32] | None:
    """Return times or durations in milliseconds, float32; None if none is known."""
    if seconds is None or np.isnan(seconds).all():
        return None
    with np.errstate(over="ignore"):
        return (np.asarray(seconds, np.float64) * MILLISECONDS).astype(np.float32)


def known(values: NDArray | None, own: NDArray) -> NDArray | None:
    """Return the values of a picture; None if none of them is known."""
    if values is None or (len(own) and np.isnan(values[own]).all()):
        return None
    return values[own]


def table_of(path: Path) -> Table:
    """Return the fixations of a file.

    Raises:
        UserError: the file is damaged or of another type, or its arrays differ in length.
    """
    with Opened(path, FIXATION_TYPES) as opened:
        if opened.type == "Fixations":
            return listed_fixations(opened)
        if opened.type == "FixationTrains":
            return of_trains(
                opened,
                {name: opened.item(f"train_{name}") for name in ("xs", "ys")},
                opened.item("train_ns"),
                opened.maybe("train_subjects"),
                opened.maybe("train_ts"),
                opened.maybe(*DURATIONS, group=opened.maybe("scanpath_fixation_attributes")),
            )
        group = opened.item("scanpaths") if opened.type == "ScanpathFixations" else opened.file
        observers = opened.maybe("scanpath_attributes", group=group)
        attributes = opened.maybe("fixation_attributes", group=group)
        return of_trains(
            opened,
            {name: opened.item(name, group=group) for name in ("xs", "ys")},
            opened.item("n", group=group),
            opened.maybe("subject", "subjects", group=observers) if observers else None,
            opened.maybe("ts", group=attributes) if attributes else None,
            opened.maybe(*DURATIONS, group=attributes) if attributes else None,
            opened.item("lengths", "length", group=group),
        )


DURATIONS = ("durations", "duration")


def listed_fixations(opened: Opened) -> Table:
    """Return the fixations of the type `Fixations`; raises as `table_of`."""
    x, y, n = (opened.numbers(opened.item(name)) for name in ("x", "y", "n"))
    subjects = observers_in(opened, opened.maybe("subjects", "subject"))
    t, durations = (
        opened.numbers(item) if item is not None else None
        for item in (opened.maybe("t"), opened.maybe(*DURATIONS))
    )
    refuse_lengths(opened.path, x=x, y=y, n=n, subjects=subjects, t=t, durations=durations)
    return Table(x, y, n, subjects, times_or_none(t, n), durations)


def times_or_none(t: NDArray | None, n: NDArray) -> NDArray | None:
    """Return times; None for what pysaliency writes without them: zeros, or a fixation's index.

    Args:
        t: of each fixation, seconds.
        n: stimulus of each fixation.
    """
    if t is None:
        return None
    _, own, counts = np.unique(n, return_inverse=True, return_counts=True)
    is_index = bool(((t % 1 == 0) & (t >= 0) & (t < counts[own])).all())
    return None if is_index else t


def of_trains(
    opened: Opened,
    places: dict[str, Any],
    n: Any,
    subjects: Any,
    t: Any,
    durations: Any,
    lengths: Any = None,
) -> Table:
    """Return the fixations of scan paths, each of which is a row of arrays; raises as `table_of`.

    Args:
        opened: the file.
        places: the arrays xs and ys, [paths, most fixations], with NaN behind a path's end.
        n: index of each path's stimulus.
        subjects: observer of each path, or None.
        t: times, as `places`, or None.
        durations: durations, as `places`, or None.
        lengths: number of fixations of each path; None: up to the NaNs.
    """
    arrays = {name: opened.numbers(item, 2) for name, item in places.items()}
    for name, item in (("ts", t), ("durations", durations)):
        if item is not None:
            arrays[name] = opened.numbers(item, 2)
    ns = opened.numbers(n)
    who = observers_in(opened, subjects)
    xs = arrays["xs"]
    for name, values in arrays.items():
        if values.shape != xs.shape:
            raise UserError(
                f"{opened.path}: {name} has the shape {values.shape}, but xs {xs.shape}."
            )
    columns = np.arange(xs.shape[1])
    if lengths is None:
        ends = np.where(np.isnan(xs), 0, columns + 1).max(axis=1, initial=0)
    else:
        ends = opened.numbers(lengths)
    refuse_lengths(opened.path, xs=xs, n=ns, subjects=who, lengths=ends)
    inside = columns < ends[:, None]
    path_of = np.nonzero(inside)[0]
    times = arrays["ts"][inside] if "ts" in arrays else None
    return Table(
        xs[inside],
        arrays["ys"][inside],
        ns[path_of],
        None if who is None else who[path_of],
        times_or_none(times, ns[path_of]),
        arrays["durations"][inside] if "durations" in arrays else None,
    )


def observers_in(opened: Opened, item: Any) -> NDArray | None:
    """Return observers as numbers or names, or None; raises UserError."""
    if item is None:
        return None
    if isinstance(item, h5py.Dataset) and item.dtype.kind in "OS":
        return np.array(opened.texts(item), np.str_)
    return opened.numbers(item)


def refuse_lengths(path: Path, **arrays: NDArray | None) -> None:
    """Raise UserError if arrays differ in length."""
    counts = {name: len(values) for name, values in arrays.items() if values is not None}
    first, *others = counts
    for name in others:
        if counts[name] != counts[first]:
            raise UserError(
                f"{path}: {first} has {counts[first]} rows, but {name} {counts[name]}. They must "
                "be equal."
            )

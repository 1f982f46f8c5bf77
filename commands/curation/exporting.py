"""The command `data export`: writes a data set in the files of another program.

pysaliency reads a file of stimuli and a file of fixations, both HDF5. `sets/pysaliency.py`
describes them and reads them back: fixations, observers, times, durations, the split and the
Gaussian are then the same to the bit. Density maps have no place in these files.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from commands.curation.subset import copy
from commands.settings import DataExportConfig
from salience.data import hdf5, loading
from salience.data.plan import ALL_SPLITS
from salience.data.sets.pysaliency import (
    FIXATIONS,
    HALF,
    MILLISECONDS,
    SIGMA,
    SPLIT,
    STIMULI,
    UNKNOWN,
)
from salience.pictures.headers import opened_by_pillow, read_header
from salience.pictures.picture_files import write_image
from salience.pictures.reading import sample_image
from salience.pictures.sample import Sample
from salience.system.errors import UserError
from salience.system.files import make_folder, move, real_path, scratch, telling
from salience.system.terminal import counted, progress, tell

PICTURES = "pictures"  # folder of pictures that are written
TEXT = h5py.string_dtype()
# by Pillow's names: what pysaliency reads as the picture that it is, with one and three channels
FORMATS, MODES = ("JPEG", "PNG", "BMP"), {"L": (), "RGB": (3,)}


def run(settings: DataExportConfig) -> bool:
    """Run the command `data export`."""
    export(settings)
    return True


def export(settings: DataExportConfig, say: Callable[[str], None] = tell) -> None:
    """Write the stimuli and the fixations of a data set as pysaliency's HDF5 files.

    Args:
        settings: the data set, its split, the kind of stimuli and the output folder.
        say: called with each message.

    Raises:
        UserError: the data cannot be used or have no fixations, or the folder exists.
    """
    folder = settings.output
    if folder is None:
        raise UserError("--output is required: the folder for the exported files.")
    if folder.exists():
        raise UserError(f"{folder} exists. Choose another --output.")
    loading.refuse_store(settings.data)
    splits = splits_of(settings, say)
    pairs = [(split, sample) for split, samples in splits.items() for sample in samples]
    note_losses([sample for _, sample in pairs], say)
    parent = make_folder(folder.parent)
    with scratch(parent) as room, telling(f"Cannot write {folder}"):
        made = room / "data"
        made.mkdir()
        write_stimuli(made, real_path(parent) / folder.name, pairs, settings.stimuli == "pixels")
        count, kind = write_fixations(made / FIXATIONS, [sample for _, sample in pairs])
        move(made, folder)
    parts = ", ".join(f"{len(samples)} {split}" for split, samples in splits.items())
    say(
        f"wrote {folder}/{STIMULI} and {FIXATIONS}: {parts}; {count:,} fixations as {kind}. To use "
        f"them here: --dataset pysaliency --data {folder}"
    )


def splits_of(settings: DataExportConfig, say: Callable[[str], None]) -> dict[str, list[Sample]]:
    """Return the samples of the chosen splits; a split that cannot be used is told."""
    name, root, plan = settings.dataset, settings.data, settings.plan
    outside, columns = settings.out_of_bounds, settings.columns
    if settings.split != ALL_SPLITS:
        samples = loading.load(name, root, settings.split, plan, outside, columns=columns)
        return {settings.split: samples}
    splits, left_out = loading.load_splits(name, root, plan, outside, columns)
    for split, why in left_out.items():
        say(f"left out: the {split} split. {why}")
    return splits


def note_losses(samples: list[Sample], say: Callable[[str], None]) -> None:
    """Report what is not written.

    Raises:
        UserError: no sample has fixations.
    """
    bare = [sample for sample in samples if sample.fixations is None]
    if len(bare) == len(samples):
        raise UserError("The data set has maps but no fixations, which pysaliency's files need.")
    if bare:
        say(f"note: {counted(len(bare), 'picture')} without fixations, first: {bare[0].name}")
    if any(sample.map is not None for sample in samples):
        say("note: density maps are not written, since pysaliency makes its own of the fixations")
    if outside := sum(sample.outside for sample in samples):
        say(
            f"note: {outside:,} fixations outside their picture are dropped or clipped "
            "(--out_of_bounds), since pysaliency cannot score them"
        )


# stimuli


def write_stimuli(made: Path, final: Path, pairs: list[tuple[str, Sample]], inside: bool) -> None:
    """Write the file of stimuli, and the pictures that need a file of their own.

    Args:
        made: the temporary folder.
        final: the folder's final path, which file names are relative to.
        pairs: split and sample of each stimulus.
        inside: write the pixels into the file (`Stimuli`), not the names (`FileStimuli`).
    """
    samples = [sample for _, sample in pairs]
    attributes: dict[str, Any] = {
        SPLIT: texts([split for split, _ in pairs]),
        SIGMA: np.array([sample.sigma_pixels for sample in samples], np.float64),
    }
    with hdf5.writing(made / STIMULI) as file, progress(len(pairs), "stimuli") as bar:
        if inside:
            for index, sample in enumerate(samples):
                rgb = sample_image(sample)[..., ::-1]
                file.create_dataset(str(index), data=rgb, compression="gzip", shuffle=True)
                bar.update()
            # for pysaliency's HDF5Model
            attributes["filenames"] = texts([sample.name for sample in samples])
        else:
            write_names(file, named_pictures(samples, made, final))
        for name, values in attributes.items():
            file.create_dataset(name, data=values, dtype=TEXT if values.dtype == object else None)
        file.attrs["type"] = np.bytes_("Stimuli" if inside else "FileStimuli")
        file.attrs["version"] = np.bytes_("1.1" if inside else "2.1")
        file.attrs["__attributes__"] = np.bytes_(json.dumps(list(attributes)))
        file.attrs["size"] = len(pairs)


def write_names(file: h5py.File, pictures: list[tuple[str, tuple[int, ...]]]) -> None:
    """Write the names and shapes of picture files."""
    file.create_dataset("filenames", data=texts([name for name, _ in pictures]), dtype=TEXT)
    rows = file.create_dataset("shapes", (len(pictures),), h5py.vlen_dtype(np.int64))
    for index, (_, shape) in enumerate(pictures):
        rows[index] = np.array(shape, np.int64)


def texts(values: list[str]) -> NDArray[np.object_]:
    """Return texts as bytes in UTF-8.

    Raises:
        UserError: a name is not valid Unicode.
    """
    try:
        return np.array([value.encode() for value in values], object)
    except UnicodeEncodeError as error:
        raise UserError(f"{error.object!r} is not valid Unicode. Rename the file.") from error


def named_pictures(
    samples: list[Sample], made: Path, final: Path
) -> list[tuple[str, tuple[int, ...]]]:
    """Return the file name of each stimulus, relative to the folder, and its shape.

    Where pysaliency reads all files as we do, they stay where they are. Otherwise all pictures are
    written into the folder, since pysaliency's HDF5Model expects all names to be equally deep.
    """
    shapes = [plain_shape(sample) for sample in samples]
    if None not in shapes:
        return [
            (relative(sample.image, final), shape)
            for sample, shape in zip(samples, shapes, strict=True)
            if shape and isinstance(sample.image, Path)
        ]
    return [written(sample, shape, made) for sample, shape in zip(samples, shapes, strict=True)]


def relative(image: Path, folder: Path) -> str:
    """Return the path of a picture relative to a folder."""
    try:
        return os.path.relpath(real_path(image), folder).replace(os.sep, "/")
    except ValueError:  # another drive of Windows
        return str(real_path(image))


def written(
    sample: Sample, shape: tuple[int, ...] | None, made: Path
) -> tuple[str, tuple[int, ...]]:
    """Write a picture into the folder; return its name and shape.

    A file that pysaliency reads as we do is copied; any other picture becomes a PNG.
    """
    path = made / PICTURES / sample.name
    if shape and isinstance(sample.image, Path):
        path = path.with_suffix(sample.image.suffix)
        make_folder(path.parent, inside=made)
        copy(sample.image, path)
        return path.relative_to(made).as_posix(), shape
    if path.suffix.lower() != ".png":
        path = path.with_name(f"{path.name}.png")
    make_folder(path.parent, inside=made)
    picture = sample_image(sample)
    write_image(path, picture)
    return path.relative_to(made).as_posix(), picture.shape


def plain_shape(sample: Sample) -> tuple[int, ...] | None:
    """Return the shape of a picture file that pysaliency reads as we do; None for any other.

    pysaliency does not apply an EXIF rotation, and reads palettes and further frames as they are.
    """
    path = sample.image
    header = read_header(path) if isinstance(path, Path) else None
    if not isinstance(path, Path) or header is None or header.format not in FORMATS:
        return None
    if header.orientation != 1 and sample.shape in (None, header.shape):
        return None
    with path.open("rb") as file, opened_by_pillow(file) as picture:
        if picture.mode not in MODES or getattr(picture, "n_frames", 1) != 1:
            return None
        cols, rows = picture.size
        return (rows, cols, *MODES[picture.mode])


# fixations


def write_fixations(path: Path, samples: list[Sample]) -> tuple[int, str]:
    """Write the file of fixations; return their number and pysaliency's type.

    `FixationTrains` has a scan path for each observer of a picture. Where the observers of a
    picture are not known, the type is `Fixations`, which has none.
    """
    looked = [(n, sample) for n, sample in enumerate(samples) if sample.fixations is not None]
    by_observer = all(sample.subjects is not None for _, sample in looked)
    columns = joined([columns_of(n, sample) for n, sample in looked])
    with hdf5.writing(path) as file:
        file.attrs["version"] = np.bytes_("1.2" if by_observer else "1.0")
        file.attrs["type"] = np.bytes_("FixationTrains" if by_observer else "Fixations")
        (write_trains if by_observer else write_list)(file, columns)
    return len(columns["x"]), "FixationTrains" if by_observer else "Fixations"


def columns_of(n: int, sample: Sample) -> dict[str, NDArray]:
    """Return the fixations of a picture in pysaliency's units, the paths of observers in a row.

    Args:
        n: index of the stimulus.
        sample: the picture, with fixations.
    """
    points = np.asarray(sample.fixations, np.float64) + HALF
    count = len(points)
    who = np.full(count, UNKNOWN) if sample.subjects is None else sample.subjects
    # observers in their order; of each, the fixations in theirs
    _, first, places = np.unique(who, return_index=True, return_inverse=True)
    order = np.argsort(first[places], kind="stable")

    def seconds(values: NDArray | None) -> NDArray:
        return (
            np.full(count, np.nan) if values is None else values.astype(np.float64) / MILLISECONDS
        )

    columns = {
        "x": points[:, 0],
        "y": points[:, 1],
        "n": np.full(count, n),
        "subjects": np.asarray(who, np.int64),
        "t": seconds(sample.times),
        "durations": seconds(sample.durations),
    }
    return {name: values[order] for name, values in columns.items()}


def joined(pictures: list[dict[str, NDArray]]) -> dict[str, NDArray]:
    """Return the columns of all pictures, one after the other."""
    return {name: np.concatenate([one[name] for one in pictures]) for name in pictures[0]}


def write_list(file: h5py.File, columns: dict[str, NDArray]) -> None:
    """Write the type `Fixations`: one row a fixation, without a history."""
    count = len(columns["x"])
    attributes = ["subjects"]
    if not np.isnan(columns["durations"]).all():
        attributes.append("duration")
        file["duration"] = columns["durations"]
    unknown = np.isnan(columns["t"]).all()
    file["t"] = np.zeros(count) if unknown else columns["t"]
    for name in ("x", "y", "n", "subjects"):
        file[name] = columns[name]
    for name in ("x_hist", "y_hist", "t_hist"):
        file[name] = np.full((count, 1), np.nan)
    file.attrs["__attributes__"] = np.bytes_(json.dumps(attributes))


def write_trains(file: h5py.File, columns: dict[str, NDArray]) -> None:
    """Write the type `FixationTrains`: one row a scan path, with NaN behind its end."""
    starts = np.ones(len(columns["x"]), bool)
    starts[1:] = (np.diff(columns["n"]) != 0) | (np.diff(columns["subjects"]) != 0)
    paths = np.cumsum(starts) - 1
    first = np.flatnonzero(starts)
    index = np.arange(len(paths)) - first[paths]
    shape = (len(first), int(index.max(initial=-1)) + 1)

    def padded(values: NDArray) -> NDArray[np.float64]:
        rows = np.full(shape, np.nan)
        rows[paths, index] = values
        return rows

    # pysaliency's own sets have the index where no time is known
    times = index if np.isnan(columns["t"]).all() else columns["t"]
    for name, values in (("xs", columns["x"]), ("ys", columns["y"]), ("ts", times)):
        file[f"train_{name}"] = padded(values)
    file["train_ns"], file["train_subjects"] = columns["n"][first], columns["subjects"][first]
    file.attrs["__attributes__"] = np.bytes_(json.dumps([]))
    own = {} if np.isnan(columns["durations"]).all() else {"durations": columns["durations"]}
    mapping = dict.fromkeys(own, "duration")
    file.attrs["scanpath_attribute_mapping"] = np.bytes_(json.dumps(mapping))
    for group, values in (("scanpath_attributes", {}), ("scanpath_fixation_attributes", own)):
        made = file.create_group(group)
        made.attrs["__attributes__"] = np.bytes_(json.dumps(list(values)))
        for name, column in values.items():
            made[name] = padded(column)

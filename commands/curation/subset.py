"""The command `data subset`: copies random pictures of each split with their ground truth.

The copy has the layout of `salience/data/sets/folder.py` and is independent of the data set.
"""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from commands.settings import SubsetConfig
from salience.data import loading
from salience.data.plan import SPLITS
from salience.data.sets.folder import CARD
from salience.pictures.picture_files import read_image, write_image
from salience.pictures.reading import sample_image
from salience.pictures.sample import Sample
from salience.system import archives
from salience.system.arrays import write_arrays
from salience.system.errors import UserError
from salience.system.files import make_folder, move, scratch, telling, write_bytes, write_json
from salience.system.terminal import progress, tell


def run(settings: SubsetConfig) -> bool:
    """Run the command `data subset`."""
    subset(settings)
    return True


def subset(settings: SubsetConfig, say: Callable[[str], None] = tell) -> None:
    """Copy random pictures of a data set with their ground truth.

    Args:
        settings: the data set, the number of pictures and the output folder.
        say: called with each message.

    Raises:
        UserError: the data cannot be used or has too few pictures, or the folder exists.
    """
    folder = settings.output
    if folder is None:
        raise UserError("--output is required: the folder for the copy.")
    if folder.exists():
        raise UserError(f"{folder} exists. Choose another --output.")
    parent = make_folder(folder.parent)
    with ExitStack() as stack:
        root = settings.data[0] if settings.data else None
        if loading.are_archives(settings.data):
            root = archives.extract(settings.data, stack.enter_context(scratch(parent)) / "data")
        loading.refuse_store(root)
        splits, left_out = loading.load_splits(
            settings.dataset, root, settings.plan, "keep", settings.columns
        )
        for line in loading.remarks(settings.dataset, root, columns=settings.columns):
            say(f"note: {line}")
        for split, why in left_out.items():
            say(f"left out: the {split} split. {why}")
        chosen = draw_samples(splits, settings.n, settings.seed)
        # atomic: a temporary name until the copy is complete
        made = stack.enter_context(scratch(parent)) / "data"
        with telling(f"Cannot write {folder}"):
            made.mkdir()
            write(made, chosen, settings.dataset, settings.n, settings.seed)
            move(made, folder)
    parts = ", ".join(f"{len(samples)} {split}" for split, samples in chosen.items())
    say(f"wrote {folder}: {parts}. To use it: --dataset folder --data {folder}")


def draw_samples(splits: dict[str, list[Sample]], n: int, seed: int) -> dict[str, list[Sample]]:
    """Return n random samples, stratified by split and category, in their original order.

    Raises:
        UserError: there are fewer than n samples.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for split, samples in splits.items():
        for index, sample in enumerate(samples):
            groups.setdefault((split, sample.category), []).append(index)
    sizes = {key: len(group) for key, group in groups.items()}
    if n > sum(sizes.values()):
        raise UserError(
            f"--n {n}: the data set has {sum(sizes.values())} pictures with ground truth."
        )
    by_split = allocate({split: len(samples) for split, samples in splits.items()}, n)
    result = {}
    for split, count in by_split.items():
        shares = allocate({key: size for key, size in sizes.items() if key[0] == split}, count)
        indices = [
            index
            for number, (key, share) in enumerate(shares.items())
            for index in np.random.default_rng((seed, SPLITS.index(split), number)).permutation(
                groups[key]
            )[:share]
        ]
        if indices:
            result[split] = [splits[split][index] for index in sorted(indices)]
    return result


def allocate(sizes: dict[Any, int], n: int) -> dict[Any, int]:
    """Return the share of n for each group: proportional, but at least one if n is large enough.

    >>> allocate({"train": 450, "val": 50, "test": 200}, 7)
    {'train': 4, 'val': 1, 'test': 2}
    """
    total = sum(sizes.values())
    exact = {key: n * size / total for key, size in sizes.items()}
    least = 1 if n >= len(sizes) else 0
    counts = {key: max(least, int(share)) for key, share in exact.items()}
    # largest remainder: add where rounding cut most, or remove where it added most
    while (left := n - sum(counts.values())) != 0:
        step = 1 if left > 0 else -1
        able = [k for k in counts if (counts[k] < sizes[k] if step > 0 else counts[k] > least)]
        counts[max(able, key=lambda key: step * (exact[key] - counts[key]))] += step
    return counts


def write(folder: Path, splits: dict[str, list[Sample]], dataset: str, n: int, seed: int) -> None:
    """Write the pictures, their maps and fixations, and a card with their other properties."""
    entries: dict[str, dict[str, Any]] = {}
    bar = progress(sum(map(len, splits.values())), "copying")
    for split, samples in splits.items():
        for kind in ("maps", "fixations"):
            attribute = kind.removesuffix("s") if kind == "maps" else kind
            bare = [s.name for s in samples if getattr(s, attribute) is None]
            if 0 < len(bare) < len(samples):
                raise UserError(
                    f"{len(samples) - len(bare)} of {len(samples)} {split} pictures have {kind}, "
                    "which the layout of --dataset folder does not support; first without: "
                    f"{bare[0]}."
                )
        taken: set[str] = set()
        for sample in samples:
            name = write_sample(folder, split, sample, taken)
            entries[f"{split}/{name}"] = card_entry(sample)
            bar.update()
    bar.close()
    about = {"dataset": dataset, "n": n, "seed": seed}
    write_json(folder / CARD, {"drawn_from": about, "pictures": entries})


def card_entry(sample: Sample) -> dict[str, Any]:
    """Return the entry of a picture in the card."""
    entry: dict[str, Any] = {"sigma_pixels": float(sample.sigma_pixels)}
    if sample.category:
        entry["category"] = sample.category
    if sample.shape:
        entry["shape"] = list(sample.shape)
    return entry


def write_sample(folder: Path, split: str, sample: Sample, taken: set[str]) -> str:
    """Write a picture, its map and its fixations; return the picture's file name.

    Args:
        folder: folder of the copy.
        split: split of the picture.
        sample: the picture.
        taken: names (without suffix) in use; the new name is added.
    """
    # the layout has no sub-folders, and matches files by their name without suffix
    plain = sample.name.replace("/", "-")
    base, suffix = Path(plain).stem, Path(plain).suffix
    stem, number = base, 2
    while stem in taken:
        stem, number = f"{base}-{number}", number + 1
    taken.add(stem)

    def path(kind: str, suffix: str) -> Path:
        return make_folder(folder / kind / split, inside=folder) / f"{stem}{suffix}"

    if isinstance(sample.image, Path) and (sample.turned or not turns(sample.image)):
        suffix = sample.image.suffix
        copy(sample.image, path("images", suffix))
    else:
        suffix = ".png"  # lossless
        write_image(path("images", suffix), sample_image(sample))
    if isinstance(sample.map, Path):
        copy(sample.map, path("maps", sample.map.suffix))
    elif sample.map is not None:
        values = np.asarray(sample.map(), np.float32)
        write_bytes(path("maps", ".tif"), cv2.imencode(".tif", values)[1].tobytes())
    if sample.fixations is not None:
        arrays = {
            "fixations": sample.fixations,
            "subjects": sample.subjects,
            "t": sample.times,
            "duration": sample.durations,
        }
        present = {kind: array for kind, array in arrays.items() if array is not None}
        write_arrays(path("fixations", ".npz"), present)
    return f"{stem}{suffix}"


def turns(path: Path) -> bool:
    """Return whether the EXIF rotation of a picture's file changes it."""
    return not np.array_equal(read_image(path), read_image(path, turn=False))


def copy(source: Path, target: Path) -> None:
    """Copy a file's content."""
    with telling(f"Cannot copy {source}"):
        shutil.copyfile(source, target)

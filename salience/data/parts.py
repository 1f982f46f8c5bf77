"""What is on disk of a data set, before it is asked whether it fits together; and its division.

Each loader describes its layout once, as a list of `FileGroup`. `load` refuses parts that do not
fit together, in one line; `data check` lists all that is wrong with them.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from salience.data.plan import SPLITS, Plan
from salience.data.points import Looks, Read
from salience.pictures.headers import header_shape
from salience.pictures.sample import Sample, Stored
from salience.system.errors import UserError
from salience.system.files import is_clutter

DEPTH = 2  # folders below --data that a data set may lie in, as archives unpack


@dataclass(frozen=True)
class FileGroup:
    """The files of one part of a data set, by the key that pairs them.

    A key names a picture within the data set, with forward slashes and without suffix.

    Attributes:
        title: what reports call it.
        split: train, val or test; empty for pictures that a plan divides; None for those that come
            without truth, to be predicted alone.
        where: the folder, as errors name it.
        images: the pictures.
        maps: the density maps.
        read: returns the fixations.
        sigma_pixels: the data set's own Gaussian.
        published: how many pictures there are, in each set of this layout; empty where unknown.
        sought: where the truth should be, as errors name it; empty where none is published.
        by_category: whether a key begins with the picture's category, as in Action/001.
        shape_of: from a key to the picture's shape, where no fixations tell.
        clashes: what two files of one name make impossible to pair.
        remarks: what a user should know of how the files were understood.
        twins: by the key of a picture, an equal one's that its split follows.
    """

    title: str
    split: str | None
    where: Path
    images: dict[str, Path] | dict[str, Stored]
    maps: dict[str, Path] | dict[str, Stored] = field(default_factory=dict)
    read: Callable[[], Read] = Read
    sigma_pixels: float = 24.0
    published: tuple[int, ...] = ()
    sought: str = ""
    by_category: bool = False
    shape_of: Callable[[str], tuple[int, int] | None] | None = None
    clashes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    twins: dict[str, str] = field(default_factory=dict)

    def name(self, key: str) -> str:
        """Return a picture's name within the data set."""
        image = self.images.get(key)
        return f"{key}{image.suffix}" if isinstance(image, Path) else f"{key}.png"

    def category(self, key: str) -> str:
        """Return a picture's category, or nothing."""
        return key.split("/")[0] if self.by_category else ""


def unpaired(part: FileGroup, looks: Iterable[str]) -> list[tuple[str, int, list[str]]]:
    """Return for each kind of truth how much of it there is, and the keys that have no partner."""
    return [
        (label, len(truth), sorted(part.images.keys() ^ truth.keys()))
        for label, truth in (("maps", part.maps), ("fixation records", dict.fromkeys(looks)))
        if truth
    ]


def samples(part: FileGroup) -> list[Sample]:
    """Return the samples of a part.

    Raises:
        UserError: files that cannot be read or do not pair up; the first is named.
    """
    for clash in part.clashes:
        raise UserError(clash)
    read = part.read()
    for failure in read.failures.values():
        raise UserError(failure)
    for label, count, keys in unpaired(part, read.looks):
        if keys:
            raise UserError(
                f"{len(part.images)} images but {count} {label} in {part.where}; first unpaired: "
                f"{keys[0]}."
            )
    return [sample(part, key, read.looks.get(key)) for key in sorted(part.images)]


def sample(part: FileGroup, key: str, looks: Looks | None) -> Sample:
    """Return one sample of a part."""
    image = part.images[key]
    shape = looks.shape if looks else None
    if shape is None and part.shape_of:
        shape = part.shape_of(key)
    return Sample(
        name=part.name(key),
        image=image,
        map=part.maps.get(key),
        fixations=looks.fixations if looks else None,
        subjects=looks.subjects if looks else None,
        sigma_pixels=part.sigma_pixels,
        category=part.category(key),
        shape=shape,
    )


def load_parts(parts: list[FileGroup], root: Path, split: str, plan: Plan) -> list[Sample]:
    """Return the samples of a split: the part of that name, or a share of the one to be divided.

    Raises:
        UserError: there is no such part, or it does not fit together.
    """
    by_split = {part.split: part for part in parts}
    if split in by_split:
        return samples(by_split[split])
    if "" not in by_split:
        there = ", ".join(part.split for part in parts if part.split)
        has = f"the splits {there}" if there else "pictures without truth alone"
        raise UserError(f"{root} has {has}, but no '{split}' with images.")
    part = by_split[""]
    found = {sample.name: sample for sample in samples(part)}
    leaders = [key for key in sorted(part.images) if key not in part.twins]
    # equal pictures stay together: one that is trained on must not test
    followers: dict[str, list[str]] = {}
    for key, leader in part.twins.items():
        followers.setdefault(part.name(leader), []).append(part.name(key))
    names = divided(
        [part.name(key) for key in leaders], split, plan, [part.category(key) for key in leaders]
    )
    chosen = sorted(name for leader in names for name in (leader, *followers.get(leader, [])))
    return [found[name] for name in chosen]


def by_stem(folder: Path, suffixes: Iterable[str], clashes: list[str]) -> dict[str, Path]:
    """Return the files of a folder by their name without suffix; two of one name are a clash."""
    found: dict[str, Path] = {}
    for path in files_of(folder, suffixes):
        if path.stem in found:
            clashes.append(
                f"{path} and {found[path.stem].name} have one name: pairing by name needs them to "
                "differ."
            )
        found.setdefault(path.stem, path)
    return found


def files_of(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """Return the files of a folder that end so, sorted; none where there is no folder."""
    wanted = set(suffixes)
    return _inside(
        folder,
        # macOS writes a ._name beside each name on a foreign disk
        lambda path: path.suffix.lower() in wanted and not is_clutter(path.name) and path.is_file(),
    )


def folders_of(folder: Path) -> list[Path]:
    """Return the sub-folders of a folder, sorted, without what archives leave beside the data."""
    return _inside(folder, lambda path: path.is_dir() and not is_clutter(path.name))


def _inside(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    """Return what is wanted of a folder, sorted; nothing where it is missing or not readable."""
    try:
        return sorted(path for path in folder.iterdir() if wanted(path))
    except OSError:
        return []


def find_root(root: Path, holds: Callable[[Path], bool]) -> Path | None:
    """Return the folder that holds a data set: the one given, or the first of those below it."""
    level = [root]
    for _ in range(DEPTH + 1):
        for folder in level:
            with suppress(OSError):  # one that may not be looked into holds nothing
                if holds(folder):
                    return folder
        level = [inner for folder in level for inner in folders_of(folder)]
    return None


def split_of(name: str) -> str | None:
    """Return the split that a file's or folder's name begins with.

    >>> split_of("train2014examples"), split_of("COCO_val2014_000000000042"), split_of("a")
    ('train', 'val', None)
    """
    word = name.lower().removeprefix("coco_")
    return next((split for split in SPLITS if word.startswith(split)), None)


def stored_shape(path: Path) -> tuple[int, int] | None:
    """Return a picture's rows and columns as they are stored, whatever its EXIF data say."""
    return header_shape(path, turn=False)


def equal_files(paths: dict[str, Path]) -> dict[str, str]:
    """Return for each file that repeats an earlier one byte by byte the key of that one."""
    by_size: dict[int, list[str]] = {}
    for key in sorted(paths):
        by_size.setdefault(paths[key].stat().st_size, []).append(key)
    twins = {}
    for keys in by_size.values():
        first: dict[bytes, str] = {}
        for key in keys if len(keys) > 1 else []:
            leader = first.setdefault(paths[key].read_bytes(), key)
            if leader != key:
                twins[key] = leader
    return twins


def offer(source: str) -> str:
    """Return what a user without the data can do."""
    return f"{source} To try without data: --dataset synthetic."


def divided(names: Sequence[str], split: str, plan: Plan, categories: Sequence[str] = ()) -> list:
    """Return the names of a split, drawn once by the plan's seed, sorted.

    Args:
        names: of all pictures, in any order.
        split: train, val or test.
        plan: the shares, or the folds.
        categories: of each picture; each category is then divided by itself.

    >>> [len(divided([str(i) for i in range(10)], s, Plan())) for s in ("train", "val", "test")]
    [7, 1, 2]
    """
    groups: dict[str, list[str]] = {}
    for name, category in zip(names, categories or [""] * len(names), strict=True):
        groups.setdefault(category, []).append(name)
    return sorted(
        name
        for category in sorted(groups)
        for name in _drawn(sorted(groups[category]), split, plan)
    )


def _drawn(names: list[str], split: str, plan: Plan) -> list[str]:
    """Return the names of a split of one category."""
    order = np.random.default_rng(plan.seed).permutation(len(names))
    if plan.folds:
        parts = np.array_split(order, plan.folds)
        test = parts[plan.fold]
        rest = np.concatenate([p for i, p in enumerate(parts) if i != plan.fold])
        first_val = round(len(rest) * (1 - plan.val))
        train, val = rest[:first_val], rest[first_val:]
    else:
        # where all pictures test, none is left to validate
        first_val = max(0, round(len(names) * round(1 - plan.val - plan.test, 9)))
        first_test = round(len(names) * round(1 - plan.test, 9))
        train, val, test = np.split(order, [first_val, first_test])
    return [names[i] for i in {"train": train, "val": val, "test": test}[split]]

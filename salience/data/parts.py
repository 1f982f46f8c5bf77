"""What is on disk of a data set, before it is asked whether it fits together; and its division.

Each loader describes its layout once, as a list of `FileGroup`. `load` refuses parts that do not
fit together, in one line; `data check` lists all that is wrong with them.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from salience.data.plan import SPLITS, Plan
from salience.data.points import Looks, Read
from salience.pictures.headers import header_shape
from salience.pictures.sample import IMAGE_SUFFIXES, Sample, Stored
from salience.system.errors import UserError
from salience.system.files import composed, is_clutter, real_path

DEPTH = 2  # folders below --data that a data set may lie in, as archives unpack
MOST_ENTRIES = 200_000  # files and folders below --data that are looked at for unread ones
MOST_KINDS = 8  # kinds of unread files that are told
# what people keep truth in, which matters more than other files
TRUTH_SUFFIXES = {*IMAGE_SUFFIXES, ".npy", ".npz", ".mat", ".csv", ".tsv", ".txt", ".json", ".h5",
                  ".hdf5", ".pkl", ".xlsx", ".pfm", ".exr", ".asc", ".edf"}  # fmt: skip
# papers beside the data, which nobody expects to be read
PAPERS = re.compile(r"(readme|licen[cs]e|copying|citation|authors|notice|changelog)\b.*", re.I)


@dataclass(frozen=True)
class FileGroup:
    """The files of one part of a data set, by the key that pairs them.

    A key names a picture within the data set, with forward slashes, without suffix, and composed
    (`files.composed`), since systems write an accent in two ways.

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
        known: files, and folders, that the layout takes besides pictures and maps, or passes over
            knowingly.
    """

    title: str
    split: str | None
    where: Path
    images: Mapping[str, Path | Stored]
    maps: Mapping[str, Path | Stored] = field(default_factory=dict)
    read: Callable[[], Read] = Read
    sigma_pixels: float = 24.0
    published: tuple[int, ...] = ()
    sought: str = ""
    by_category: bool = False
    shape_of: Callable[[str], tuple[int, int] | None] | None = None
    clashes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    twins: dict[str, str] = field(default_factory=dict)
    known: tuple[Path, ...] = ()

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
        key = composed(path.stem)
        if key in found:
            clashes.append(
                f"{path} and {found[key].name} have one name: pairing by name needs them to differ."
            )
        found.setdefault(key, path)
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
        return sorted(path for path in unpacked(folder).iterdir() if wanted(path))
    except OSError:
        return []


def unpacked(folder: Path) -> Path:
    """Return a folder, or the one of its name in it that is all it holds, as archives unpack."""
    inner = folder / folder.name
    with suppress(OSError):
        others = (path.name for path in folder.iterdir() if path.name != folder.name)
        if inner.is_dir() and all(is_clutter(name) or PAPERS.fullmatch(name) for name in others):
            return inner
    return folder


def find_root(root: Path, holds: Callable[[Path], bool]) -> Path | None:
    """Return the folder that holds a data set: the one given, or the first of those below it."""
    level = [root]
    for _ in range(DEPTH + 1):
        for folder in dict.fromkeys(way for own in level for way in (own, unpacked(own))):
            with suppress(OSError):  # one that may not be looked into holds nothing
                if holds(folder):
                    return folder
        level = [inner for folder in level for inner in folders_of(folder)]
    return None


def unread(
    root: Path, parts: Sequence[FileGroup], is_other: Callable[[Path], bool] = lambda folder: False
) -> list[str]:
    """Return a line for each kind of file below a data set's folder that no part takes.

    Args:
        root: the folder.
        parts: what was found in it.
        is_other: whether a folder holds something that is no part of the data set.
    """
    taken = {path for part in parts for path in part.known}
    for part in parts:
        for source in (*part.images.values(), *part.maps.values()):
            taken.add(source if isinstance(source, Path) else source.file)
    kinds: dict[tuple[Path, str], list[str]] = {}
    lines, last = [], ""
    for count, path in enumerate(_below(root, taken, is_other)):
        if count == MOST_ENTRIES:
            last = f"of the other files in {root}, the first {count:,} were looked at alone"
            break
        if not PAPERS.fullmatch(path.name):
            kinds.setdefault((path.parent, path.suffix.lower()), []).append(path.name)
    # of truth first, and where there is most of it
    order = sorted(kinds, key=lambda kind: (kind[1] not in TRUTH_SUFFIXES, -len(kinds[kind]), kind))
    sought = next((part.sought for part in parts if part.sought), "")
    for folder, suffix in order[:MOST_KINDS]:
        names = kinds[folder, suffix]
        where = folder.relative_to(root).as_posix()
        few = f"{names[0]}{', ...' if len(names) > 1 else ''}"
        line = f"not read: {len(names):,} {suffix or 'without suffix'} in {where}/ ({few})"
        told = sought and suffix in TRUTH_SUFFIXES and not any(sought in line for line in lines)
        lines.append(f"{line}; truth is read from {sought}" if told else line)
    rest = sum(len(kinds[kind]) for kind in order[MOST_KINDS:])
    lines += [f"not read: {rest:,} files of other kinds and folders"] if rest else []
    return [*lines, last] if last else lines


def _below(root: Path, taken: set[Path], is_other: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield the files below a folder, a folder's in order, but no clutter and nothing in `taken`.

    Links to folders are followed, but not back up, which would have no end.
    """
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = folder / entry.name
                if is_clutter(entry.name) or path in taken:
                    continue
                if not path.is_dir():
                    yield path
                    continue
                leads_up = entry.is_symlink() and real_path(folder).is_relative_to(real_path(path))
                if not leads_up and not is_other(path):
                    waiting.append(path)


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

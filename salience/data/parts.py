"""File groups of data sets, their samples, and the division into splits.

Each loader describes its layout as a list of `FileGroup`. `load` raises at the first inconsistency
of the files; `data check` lists all of them.
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

DEPTH = 2  # levels below --data that are searched for a data set: archives add folders
MOST_ENTRIES = 200_000  # files and folders below --data that are checked for unread files
MOST_KINDS = 8  # kinds of unread files that are reported
# suffixes that truth may have: such unread files are reported first
TRUTH_SUFFIXES = {*IMAGE_SUFFIXES, ".npy", ".npz", ".mat", ".csv", ".tsv", ".txt", ".json", ".h5",
                  ".hdf5", ".pkl", ".xlsx", ".pfm", ".exr", ".asc", ".edf"}  # fmt: skip
# documents beside the data, which are not reported as unread
PAPERS = re.compile(r"(readme|licen[cs]e|copying|citation|authors|notice|changelog)\b.*", re.I)


@dataclass(frozen=True)
class FileGroup:
    """The files of one part of a data set, by the key that pairs them.

    A key names a picture within the data set, with forward slashes and without suffix. It is in
    Unicode's composed form (`files.composed`), since systems write accents in two forms.

    Attributes:
        title: name of the part in reports.
        split: train, val or test; "" for pictures that a plan divides; None for pictures without
            truth, which are only predicted.
        where: the folder, for errors.
        images: the pictures by key.
        maps: the density maps by key.
        read: function that reads the fixations.
        sigma_pixels: published Gaussian of the data set.
        sigmas: the Gaussians of single pictures by key, where they differ.
        turned: whether the EXIF rotation of the pictures' files applies.
        published: published numbers of pictures, one for each set of this layout; () if unknown.
        sought: expected place of the truth, for errors; "" if no truth is published.
        by_category: whether keys begin with a category, as in Action/001.
        shape_of: function from a key to the picture's shape, if fixations do not record it.
        clashes: errors of files whose equal names cannot be paired.
        remarks: remarks for the user about the interpretation of the files.
        twins: for the key of a duplicate picture, the key whose split it shares.
        known: other files and folders that the layout uses or deliberately ignores.
    """

    title: str
    split: str | None
    where: Path
    images: Mapping[str, Path | Stored]
    maps: Mapping[str, Path | Stored] = field(default_factory=dict)
    read: Callable[[], Read] = Read
    sigma_pixels: float = 24.0
    sigmas: Mapping[str, float] = field(default_factory=dict)
    turned: bool = True
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
        """Return a picture's category, or ""."""
        return key.split("/")[0] if self.by_category else ""


def unpaired(part: FileGroup, looks: Iterable[str]) -> list[tuple[str, int, list[str]]]:
    """Return the name and number of each kind of truth, and the keys without a partner."""
    return [
        (label, len(truth), sorted(part.images.keys() ^ truth.keys()))
        for label, truth in (("maps", part.maps), ("fixation records", dict.fromkeys(looks)))
        if truth
    ]


def samples(part: FileGroup) -> list[Sample]:
    """Return the samples of a part.

    Raises:
        UserError: a file cannot be read or has no partner; the message names the first.
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
        sigma_pixels=part.sigmas.get(key, part.sigma_pixels),
        category=part.category(key),
        shape=shape,
        times=looks.times if looks else None,
        durations=looks.durations if looks else None,
        turned=part.turned,
    )


def load_parts(parts: list[FileGroup], root: Path, split: str, plan: Plan) -> list[Sample]:
    """Return the samples of a split: a published part, or a share of the part that is divided.

    Raises:
        UserError: there is no such part, or its files are inconsistent.
    """
    by_split = {part.split: part for part in parts}
    if split in by_split:
        return samples(by_split[split])
    if "" not in by_split:
        there = ", ".join(part.split for part in parts if part.split)
        has = f"the splits {there}" if there else "only pictures without truth"
        raise UserError(f"{root} has {has}, but no '{split}' with images.")
    part = by_split[""]
    found = {sample.name: sample for sample in samples(part)}
    leaders = [key for key in sorted(part.images) if key not in part.twins]
    # duplicates stay in one split: a training picture must not be a test picture
    followers: dict[str, list[str]] = {}
    for key, leader in part.twins.items():
        followers.setdefault(part.name(leader), []).append(part.name(key))
    names = divided(
        [part.name(key) for key in leaders], split, plan, [part.category(key) for key in leaders]
    )
    chosen = sorted(name for leader in names for name in (leader, *followers.get(leader, [])))
    return [found[name] for name in chosen]


def by_stem(folder: Path, suffixes: Iterable[str], clashes: list[str]) -> dict[str, Path]:
    """Return the files of a folder by name without suffix; equal names are added to `clashes`."""
    found: dict[str, Path] = {}
    for path in files_of(folder, suffixes):
        key = composed(path.stem)
        if key in found:
            clashes.append(
                f"{path} and {found[key].name} have one name, but pairing needs different names."
            )
        found.setdefault(key, path)
    return found


def files_of(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """Return the files of a folder with given suffixes, sorted; [] without a folder."""
    wanted = set(suffixes)
    return _inside(
        folder,
        # macOS adds a file ._name for each file on other file systems
        lambda path: path.suffix.lower() in wanted and not is_clutter(path.name) and path.is_file(),
    )


def folders_of(folder: Path) -> list[Path]:
    """Return the sub-folders of a folder, sorted, without folders that archivers add."""
    return _inside(folder, lambda path: path.is_dir() and not is_clutter(path.name))


def _inside(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    """Return the wanted entries of a folder, sorted; [] if it is missing or unreadable."""
    try:
        return sorted(path for path in unpacked(folder).iterdir() if wanted(path))
    except OSError:
        return []


def unpacked(folder: Path) -> Path:
    """Return a folder, or its only sub-folder if that has the same name, as after unpacking."""
    inner = folder / folder.name
    with suppress(OSError):
        others = (path.name for path in folder.iterdir() if path.name != folder.name)
        if inner.is_dir() and all(is_clutter(name) or PAPERS.fullmatch(name) for name in others):
            return inner
    return folder


def find_root(root: Path, holds: Callable[[Path], bool]) -> Path | None:
    """Return the folder of a data set: `root`, or the first match below it; None without one."""
    level = [root]
    for _ in range(DEPTH + 1):
        for folder in dict.fromkeys(way for own in level for way in (own, unpacked(own))):
            with suppress(OSError):  # unreadable folders are skipped
                if holds(folder):
                    return folder
        level = [inner for folder in level for inner in folders_of(folder)]
    return None


def unread(
    root: Path, parts: Sequence[FileGroup], is_other: Callable[[Path], bool] = lambda folder: False
) -> list[str]:
    """Return a line for each kind of file below a data set's folder that no part uses.

    Args:
        root: the folder.
        parts: file groups of the data set.
        is_other: function that returns whether a folder does not belong to the data set.
    """
    taken = {path for part in parts for path in part.known}
    for part in parts:
        for source in (*part.images.values(), *part.maps.values()):
            taken.add(source if isinstance(source, Path) else source.file)
    kinds: dict[tuple[Path, str], list[str]] = {}
    lines, last = [], ""
    for count, path in enumerate(_below(root, taken, is_other)):
        if count == MOST_ENTRIES:
            last = f"of the other files in {root}, only the first {count:,} were checked"
            break
        if not PAPERS.fullmatch(path.name):
            kinds.setdefault((path.parent, path.suffix.lower()), []).append(path.name)
    # possible truth first, then the most frequent kinds
    order = sorted(kinds, key=lambda kind: (kind[1] not in TRUTH_SUFFIXES, -len(kinds[kind]), kind))
    sought = next((part.sought for part in parts if part.sought), "")
    for folder, suffix in order[:MOST_KINDS]:
        names = kinds[folder, suffix]
        where = folder.relative_to(root).as_posix()
        few = f"{names[0]}{', ...' if len(names) > 1 else ''}"
        line = f"not read: {len(names):,} {suffix or 'without suffix'} in {where}/ ({few})"
        is_named = any(sought in line for line in lines)
        name_truth = sought and suffix in TRUTH_SUFFIXES and not is_named
        lines.append(f"{line}; truth is read from {sought}" if name_truth else line)
    rest = sum(len(kinds[kind]) for kind in order[MOST_KINDS:])
    lines += [f"not read: {rest:,} files of other kinds and folders"] if rest else []
    return [*lines, last] if last else lines


def _below(root: Path, taken: set[Path], is_other: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield the files below a folder, sorted by folder, without clutter and `taken` paths.

    Links to folders are followed, except those to a parent, which would form a cycle.
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
    """Return the split with which the name of a file or folder begins, or None.

    >>> split_of("train2014examples"), split_of("COCO_val2014_000000000042"), split_of("a")
    ('train', 'val', None)
    """
    word = name.lower().removeprefix("coco_")
    return next((split for split in SPLITS if word.startswith(split)), None)


def stored_shape(path: Path) -> tuple[int, int] | None:
    """Return a picture's stored rows and columns, without its EXIF rotation."""
    return header_shape(path, turn=False)


def equal_files(paths: dict[str, Path]) -> dict[str, str]:
    """Return the keys of duplicate files, each with the key of the first equal file."""
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


TRIAL = "To try without data: --dataset synthetic."


def offer(source: str) -> str:
    """Return the source of a data set, with an alternative for users without the data."""
    return f"{source} {TRIAL}"


def divided(names: Sequence[str], split: str, plan: Plan, categories: Sequence[str] = ()) -> list:
    """Return the names of a split, drawn with the plan's seed, sorted.

    Args:
        names: names of all pictures, in any order.
        split: train, val or test.
        plan: shares or folds.
        categories: category of each picture, for a stratified split; () for none.

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
        # no validation pictures remain if all pictures are test pictures
        first_val = max(0, round(len(names) * round(1 - plan.val - plan.test, 9)))
        first_test = round(len(names) * round(1 - plan.test, 9))
        train, val, test = np.split(order, [first_val, first_test])
    return [names[i] for i in {"train": train, "val": val, "test": test}[split]]

"""OSIE: 700 pictures of 800 x 600, 15 observers, 3 s each; Xu et al., Journal of Vision 2014.

File format: `data/eye/fixations.mat`, variable `fixations`, 700 cells of a struct with
`img` and `subjects`, 15 cells of a struct with rows `fix_x`, `fix_y`, `fix_duration`. Coordinates
are MATLAB's, 1-based pixel centres, fractional, x along the width. The first fixation of each
observer is in the file and is kept. EyeCrowd (`eyecrowd.py`) has the same layout. 1279.jpg and
1374.jpg are the same picture, which a remark reports: a drawn split keeps both together, and of
`split.json` the one is left out whose copy is a training picture. Pictures may be kept smaller,
with their coordinates; the Gaussian follows their width.
"""

import dataclasses
from collections.abc import Container
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from salience.data.parts import (
    FileGroup,
    by_stem,
    find_root,
    load_parts,
    offer,
    samples,
    unpacked,
)
from salience.data.plan import BY_SHARES, SPLITS, Plan
from salience.data.points import Looks, as_points, gathered_looks, read_mat, read_table
from salience.pictures.headers import header_shape
from salience.pictures.sample import Sample
from salience.system.errors import UserError
from salience.system.files import composed, read_json

NEEDS_FILES = True
SOURCE = (
    "Get it from https://github.com/NUS-VIP/predicting-human-gaze-beyond-pixels and point --data "
    "at the folder that holds data/stimuli and data/eye/fixations.mat."
)
SIGMA_PIXELS, COLS = 24.0, 800  # of the authors' maps, and the width that those are for
SIGMA_FROM = "the authors' maps"
PUBLISHED = {"all": (700, 500)}  # EyeCrowd has the same file names
FIXED = "split.json"
# the same picture, saved twice; the split was drawn before this was known
TWINS = ("1279", "1374")


def load(root: Path, split: str, plan: Plan = BY_SHARES) -> list[Sample]:
    """Return the samples of a split, from `split.json` beside `data/` if it exists, else seeded.

    Raises:
        UserError: the stimuli or the fixations are missing, or do not match.
    """
    return load_part(parts(root)[0], root, split, plan)


def load_part(part: FileGroup, root: Path, split: str, plan: Plan) -> list[Sample]:
    """Return the samples of a split of a data set in this layout; raises as `load`."""
    fixed = part.where / FIXED
    if not fixed.exists():
        return load_parts([part], root, split, plan)
    found = {sample.name: sample for sample in samples(part)}
    chosen = _names(fixed, found)
    if split not in chosen:
        raise UserError(f"{fixed} has no list '{split}' of file names.")
    copies = set() if split == "train" else _copies(part, chosen.get("train", []))
    return [found[name] for name in chosen[split] if name not in copies]


def _copies(part: FileGroup, trained: list[str]) -> set[str]:
    """Return the names of pictures whose copy is a training picture."""
    pairs = [(part.name(one), part.name(other)) for one, other in part.twins.items()]
    return {
        copy
        for pair in pairs
        for copy, other in (pair, pair[::-1])
        if other in trained and copy not in trained
    }


def parts(root: Path) -> list[FileGroup]:
    """Return the file groups of the data set.

    Raises:
        UserError: the stimuli or the fixations are missing.
    """
    part = part_at(root, "OSIE", SOURCE, PUBLISHED["all"])
    part = dataclasses.replace(part, sigma_pixels=sigma_of(part, SIGMA_PIXELS, COLS))
    if not all(key in part.images for key in TWINS) or len(part.images) != PUBLISHED["all"][0]:
        return [part]
    remark = (
        f"{TWINS[0]}.jpg and {TWINS[1]}.jpg are the same picture: where {FIXED} trains on one of "
        "them, the other is left out of the scores (of 200 test pictures, 199 count)"
    )
    return [
        dataclasses.replace(
            part, remarks=(*part.remarks, remark), twins={**part.twins, TWINS[0]: TWINS[1]}
        )
    ]


def part_at(root: Path, title: str, source: str, published: tuple[int, ...]) -> FileGroup:
    """Return the file group of a data set in this layout; raises as `parts`."""
    base = find_root(root, lambda folder: any(path.exists() for path in _places(folder))) or root
    stimuli, eye = _places(base)
    for path in (stimuli, eye):
        if not path.exists():
            raise UserError(
                f"{path} is missing, so {root} is not {title}'s folder. {offer(source)}"
            )
    clashes: list[str] = []
    return FileGroup(
        "all",
        "",
        base,
        by_stem(stimuli, {".jpg"}, clashes),
        read=lambda: read_table(eye, parse),
        sigma_pixels=SIGMA_PIXELS,
        published=published,
        clashes=tuple(clashes),
        known=(eye, base / FIXED),
    )


def sigma_of(part: FileGroup, sigma_pixels: float, cols: int) -> float:
    """Return the Gaussian of a data set, pixels, whose pictures may be kept at another size.

    Args:
        part: the file group of the data set.
        sigma_pixels: standard deviation of the authors' own maps, pixels.
        cols: width of the pictures that it is for, pixels.
    """
    first = next(iter(part.images.values()), None)
    shape = header_shape(first) if isinstance(first, Path) else None
    return sigma_pixels * shape[1] / cols if shape else sigma_pixels


def _places(base: Path) -> tuple[Path, Path]:
    """Return the expected paths of the stimuli and of the fixations."""
    return base / "data" / "stimuli", unpacked(base / "data" / "eye") / "fixations.mat"


def _names(fixed: Path, known: Container[str]) -> dict[str, list[str]]:
    """Return the picture names of each split in a split file."""
    chosen = read_json(fixed)
    if not isinstance(chosen, dict):
        raise UserError(f"{fixed} holds no splits: a JSON object of lists of names is expected.")
    placed: dict[str, str] = {}
    for part in (part for part in SPLITS if part in chosen):
        names = chosen[part]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{fixed} has no list '{part}' of file names as texts.")
        for name in map(composed, names):
            if name not in known:
                raise UserError(f"{fixed} names {name}, which is not in data/stimuli.")
            if name in placed:
                where = (
                    f"'{part}' twice" if placed[name] == part else f"'{placed[name]}' and '{part}'"
                )
                raise UserError(f"{fixed} names {name} in {where}; list each picture once.")
            placed[name] = part
    return {part: [composed(name) for name in chosen[part]] for part in SPLITS if part in chosen}


def parse(path: Path) -> dict[str, Looks]:
    """Return the fixations of all pictures from a .mat file in OSIE's layout.

    Raises:
        UserError: the file is damaged or has another layout.
    """
    cells, _ = read_mat(path, ("fixations",), "OSIE's fixations")
    try:
        return {
            composed(Path(str(cell["img"][0, 0][0])).stem): _picture(cell["subjects"][0, 0])
            for cell in cells.flat
        }
    except (ValueError, IndexError, TypeError) as error:
        raise UserError(f"{path} is not of OSIE's layout ({error}).") from error


def _picture(subjects: NDArray) -> Looks:
    """Return the fixations of one picture with their observers."""
    records = [cell[0, 0] for cell in subjects.flat]
    return gathered_looks(
        [
            as_points(np.stack([record["fix_x"].ravel(), record["fix_y"].ravel()], axis=1))
            for record in records
        ]
    )

"""Toronto: 120 pictures of 681 x 511, 20 observers, 4 s each; Bruce and Tsotsos, 2005.

`origfixdata.mat`, variable `white`: 1 x 120 cells, each the picture-sized mask of all observers'
fixations on the picture of that number, `1.jpg` to `120.jpg`. A mask counts from zero, tells no
observers, and holds two fixations of one pixel once. The pictures lie in
`Original Image Set/`, or wherever else beside it, or in --data itself.

Several pictures are there twice. Files that are equal byte by byte go into the same split, so that
what is trained on does not test; `data check` names them.
"""

import re
from pathlib import Path

from salience.data.parts import (
    FileGroup,
    by_stem,
    equal_files,
    find_root,
    folders_of,
    load_parts,
    offer,
)
from salience.data.plan import BY_SHARES, Plan
from salience.data.points import Looks, mask_of, read_mat, read_table
from salience.pictures.sample import IMAGE_SUFFIXES, Sample
from salience.system.errors import UserError

NEEDS_FILES = True
SOURCE = (
    "Get eyetrackingdata.zip from http://www-sop.inria.fr/members/Neil.Bruce/ and point --data at "
    "the folder that holds origfixdata.mat and the pictures 1.jpg to 120.jpg."
)
SIGMA_PIXELS = 22.0
SIGMA_FROM = "our estimate of one degree: the authors publish none"
PUBLISHED = {"all": (120,)}


def load(root: Path, split: str, plan: Plan = BY_SHARES) -> list[Sample]:
    """Return the samples of a split.

    Raises:
        UserError: the pictures or the fixations are missing, or do not fit together.
    """
    return load_parts(parts(root), root, split, plan)


def parts(root: Path) -> list[FileGroup]:
    """Return the file groups of the data set.

    Raises:
        UserError: the pictures or the fixations are missing.
    """
    base = find_root(root, lambda folder: (folder / "origfixdata.mat").is_file())
    if base is None:
        raise UserError(f"There is no origfixdata.mat in {root}. {offer(SOURCE)}")
    clashes: list[str] = []
    images = _numbered(_pictures_folder(base, root), clashes)
    twins = equal_files(images)
    remarks = (f"{len(twins)} pictures repeat another one: they share its split",) if twins else ()
    return [
        FileGroup(
            "all",
            "",
            base,
            images,
            read=lambda: read_table(base / "origfixdata.mat", parse_mat),
            sigma_pixels=SIGMA_PIXELS,
            published=PUBLISHED["all"],
            sought="origfixdata.mat",
            clashes=tuple(clashes),
            remarks=remarks,
            twins=twins,
            known=(base / "origfixdata.mat",),
        )
    ]


def _pictures_folder(base: Path, root: Path) -> Path:
    """Return the folder of the numbered pictures.

    Raises:
        UserError: there is none, or several and none of them has the authors' name.
    """
    named = base / "Original Image Set"
    there = [folder for folder in dict.fromkeys((named, base, *folders_of(base), root))
             if _numbered(folder, [])]  # fmt: skip
    if not there:
        raise UserError(f"No pictures named 1.jpg to 120.jpg in {base}. {offer(SOURCE)}")
    if len(there) > 1 and there[0] != named:
        raise UserError(
            f"Both {there[0]} and {there[1]} hold pictures named 1.jpg to 120.jpg. Call the "
            f"folder of those that were shown {named}."
        )
    return there[0]


def _numbered(folder: Path, clashes: list[str]) -> dict[str, Path]:
    """Return the pictures of a folder that are named by a number."""
    found = by_stem(folder, IMAGE_SUFFIXES, clashes)
    return {key: path for key, path in found.items() if re.fullmatch(r"\d+", key)}


def parse_mat(path: Path) -> dict[str, Looks]:
    """Return the fixations of all pictures.

    Raises:
        UserError: the file is damaged, or of another layout.
    """
    white, _ = read_mat(path, ("white",), "Toronto's fixations")
    looks = {}
    for i, mask in enumerate(white.ravel() if white.dtype == object else []):
        looks[str(i + 1)] = mask_of(mask, f"{path}, cell {i + 1} of 'white',")
    if not looks:
        raise UserError(f"{path}: 'white' is {white.dtype} of shape {white.shape}, not cells.")
    return looks

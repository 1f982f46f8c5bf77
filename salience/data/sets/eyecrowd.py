"""EyeCrowd: 500 pictures of crowds, 16 observers; Jiang, Xu and Zhao, ECCV 2014.

Its files are in OSIE's layout (see `osie.py`), 1-based pixel centres again. The pictures were shown
at 1024 x 768 and may be kept smaller, with their coordinates; the Gaussian follows their width.
"""

import dataclasses
from pathlib import Path

from salience.data.parts import FileGroup
from salience.data.plan import BY_SHARES, Plan
from salience.data.sets import osie
from salience.pictures.sample import Sample

NEEDS_FILES = True
SOURCE = (
    "Get it from https://github.com/NUS-VIP/saliency-in-crowd and point --data at the folder that "
    "holds data/stimuli and data/eye/fixations.mat."
)
SIGMA_PIXELS, COLS = 26.0, 1024  # the authors' own maps, and the width that those are for
SIGMA_FROM = "the authors' maps, scaled to the pictures' width"
PUBLISHED = {"all": (500,)}


def load(root: Path, split: str, plan: Plan = BY_SHARES) -> list[Sample]:
    """Return the samples of a split: `split.json` beside `data/` if there, else a seeded one.

    Raises:
        UserError: the stimuli or the fixations are missing, or do not pair up.
    """
    return osie.load_part(parts(root)[0], root, split, plan)


def parts(root: Path) -> list[FileGroup]:
    """Return the file groups of the data set.

    Raises:
        UserError: the stimuli or the fixations are missing.
    """
    part = osie.part_at(root, "EyeCrowd", SOURCE, PUBLISHED["all"])
    return [dataclasses.replace(part, sigma_pixels=osie.sigma_of(part, SIGMA_PIXELS, COLS))]

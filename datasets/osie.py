"""OSIE: 700 pictures of 800 x 600, 15 observers, 3 s each; Xu et al., Journal of Vision 2014.

What its files hold: `data/eye/fixations.mat`, variable `fixations`, 700 cells of a struct with
`img` and `subjects`, 15 cells of a struct with rows `fix_x`, `fix_y`, `fix_duration`. Coordinates
are MATLAB's, 1-based pixel centres, fractional, x along the width. The first fixation of each
observer is in the file and is kept. EyeCrowd (Jiang et al., ECCV 2014) comes in the same layout.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from config import BY_SHARES, Plan
from datasets import divided, offer
from errors import UserError
from files import read_json
from sample import Sample

NEEDS_FILES = True
SOURCE = (
    "Get it from https://github.com/NUS-VIP/predicting-human-gaze-beyond-pixels and point --data "
    "at the folder that holds data/stimuli and data/eye/fixations.mat."
)
SIGMA_PIXELS = 24.0  # the authors' own maps


def load(root: Path, split: str, plan: Plan = BY_SHARES) -> list[Sample]:
    """Return the samples of a split: `split.json` beside `data/` if there, else a seeded one.

    Raises:
        UserError: the stimuli or the fixations are missing, or do not pair up.
    """
    stimuli, eye = root / "data" / "stimuli", root / "data" / "eye" / "fixations.mat"
    for path in (stimuli, eye):
        if not path.exists():
            raise UserError(f"{path} is missing, so {root} is not OSIE's folder. {offer(SOURCE)}")
    fixations = read_fixations(eye)
    images = {path.name: path for path in stimuli.iterdir() if path.suffix == ".jpg"}
    unpaired = sorted(images.keys() ^ fixations.keys())
    if unpaired:
        raise UserError(
            f"{root}: {len(images)} images but {len(fixations)} fixation records; "
            f"first unpaired: {unpaired[0]}."
        )
    return [
        Sample(name, images[name], None, *fixations[name], sigma_pixels=SIGMA_PIXELS)
        for name in _names(root, sorted(images), split, plan)
    ]


def _names(root: Path, names: list[str], split: str, plan: Plan) -> list[str]:
    """Return the file names of a split."""
    fixed = root / "split.json"
    if not fixed.exists():
        return divided(names, split, plan)
    chosen = read_json(fixed)
    if not isinstance(chosen, dict) or not isinstance(chosen.get(split), list):
        raise UserError(f"{fixed} has no list '{split}' of file names.")
    missing = [name for name in chosen[split] if name not in set(names)]
    if missing:
        raise UserError(f"{fixed} names {missing[0]}, which is not in {root / 'data/stimuli'}.")
    return chosen[split]


@lru_cache(maxsize=2)
def read_fixations(path: Path) -> dict[str, tuple[NDArray[np.floating], NDArray[np.int32]]]:
    """Return (fixations, subjects) by picture name from a .mat file in OSIE's layout."""
    try:
        cells = loadmat(path)["fixations"]
        return {str(cell["img"][0, 0][0]): _picture(cell["subjects"][0, 0]) for cell in cells.flat}
    except UserError:
        raise
    except Exception as error:  # scipy raises many types on a damaged file
        raise UserError(
            f"{path} cannot be read as OSIE's fixations ({type(error).__name__}: {error}). "
            "Download it again."
        ) from error


def _picture(subjects: NDArray) -> tuple[NDArray[np.floating], NDArray[np.int32]]:
    """Return one picture's fixations and who made each."""
    records = [cell[0, 0] for cell in subjects.flat]
    points = [
        np.stack([record["fix_x"].ravel(), record["fix_y"].ravel()], axis=1) for record in records
    ]
    who = np.repeat(np.arange(len(points)), [len(p) for p in points])
    # the .mat file counts pixels from one
    return (np.concatenate(points) - 1).astype(np.float32), who.astype(np.int32)

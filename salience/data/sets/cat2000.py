"""CAT2000: 2,000 + 2,000 pictures of 1920 x 1080 in 20 categories; Borji and Itti, 2015.

`trainSet/Stimuli/CATEGORY/*.jpg`, whose sub-folder `Output/` holds maps and no stimuli,
`trainSet/FIXATIONMAPS/CATEGORY/*.jpg`, and `trainSet/FIXATIONLOCS/CATEGORY/*.mat`: a binary mask
[rows, columns] in `fixLocs` (`fixations` in the benchmark's other sets). A mask counts from zero,
tells no observers, and holds two fixations of one pixel once. `testSet/Stimuli` has no truth.

Train, val and test are drawn from the training set, each category by itself. `Pattern/134.jpg` says
by EXIF that it is to be turned; it was not: a picture's size is its mask's or map's, and without
those the one that it is stored in.
"""

from pathlib import Path

from salience.data.parts import (
    FileGroup,
    by_stem,
    find_root,
    folders_of,
    load_parts,
    offer,
    samples,
    stored_shape,
)
from salience.data.plan import BY_SHARES, Plan
from salience.data.points import Looks, Read, mask_of, read_files, read_mat
from salience.pictures.headers import header_shape
from salience.pictures.sample import IMAGE_SUFFIXES, Sample
from salience.system.errors import UserError
from salience.system.files import composed

NEEDS_FILES = True
SOURCE = (
    "Get trainSet.zip and testSet.zip from http://saliency.mit.edu/results_cat2000.html and point "
    "--data at the folder that holds trainSet/ and testSet/."
)
SIGMA_PIXELS = 38.0
SIGMA_FROM = "about one degree, the value in general use"
PUBLISHED = {"trainSet": (2_000,), "testSet": (2_000,)}
WITHOUT_TRUTH = ("testSet",)


def load(root: Path, split: str, plan: Plan = BY_SHARES) -> list[Sample]:
    """Return the samples of a split of the training set.

    Raises:
        UserError: no pictures, or truth that does not fit them.
    """
    return load_parts(parts(root), root, split, plan)


def submission_pictures(root: Path) -> list[Sample]:
    """Return the pictures of the test set, whose truth the benchmark does not publish."""
    found = [part for part in parts(root) if part.split is None]
    if not found:
        raise UserError(f"{root} has no testSet/Stimuli. {offer(SOURCE)}")
    return samples(found[0])


def parts(root: Path) -> list[FileGroup]:
    """Return the file groups of the training set and of the test set.

    Raises:
        UserError: neither is there.
    """
    found = []
    for name in PUBLISHED:
        base = find_root(root, lambda folder, name=name: (folder / name / "Stimuli").is_dir())
        if base:
            found.append(_part(base / name))
    if not any(part.images for part in found):
        raise UserError(f"No pictures in {root / 'trainSet' / 'Stimuli'}. {offer(SOURCE)}")
    return found


def _part(folder: Path) -> FileGroup:
    """Return the training set, or the test set."""
    clashes: list[str] = []
    images = _by_category(folder / "Stimuli", IMAGE_SUFFIXES, clashes)
    maps = _by_category(folder / "FIXATIONMAPS", IMAGE_SUFFIXES, clashes)
    masks = _by_category(folder / "FIXATIONLOCS", {".mat"}, clashes)
    files = {key: (path,) for key, path in masks.items()}

    def shape_of(key: str) -> tuple[int, int] | None:
        return header_shape(maps[key]) if key in maps else stored_shape(images[key])

    truthless = folder.name in WITHOUT_TRUTH
    return FileGroup(
        folder.name,
        None if truthless else "",
        folder,
        images,
        maps,
        (lambda: read_files(files, parse_mat)) if files else Read,
        SIGMA_PIXELS,
        published=PUBLISHED[folder.name],
        sought="" if truthless else "FIXATIONMAPS, FIXATIONLOCS",
        by_category=True,
        shape_of=shape_of,
        clashes=tuple(clashes),
        known=(*masks.values(), *(inner / "Output" for inner in folders_of(folder / "Stimuli"))),
    )


def _by_category(folder: Path, suffixes: set[str], clashes: list[str]) -> dict[str, Path]:
    """Return the files of each category's folder by Category/name; `Output/` lies deeper."""
    return {
        f"{composed(inner.name)}/{stem}": path
        for inner in folders_of(folder)
        for stem, path in by_stem(inner, suffixes, clashes).items()
    }


def parse_mat(path: Path) -> Looks:
    """Return the fixations of a picture's mask.

    Raises:
        UserError: it is damaged, or holds no mask.
    """
    mask, _ = read_mat(path, ("fixLocs", "fixations"), "a mask of fixations")
    return mask_of(mask, path)

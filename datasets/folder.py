"""One's own data: `images/` and `maps/` and/or `fixations/`, paired by file name.

Either `ROOT/images/...`, or with the split spelt out `ROOT/train/images/...` or
`ROOT/images/train/...` (and val, and test if there is one); else a seeded split. A map is a grey
picture of the image's size. Fixations are either points or a picture-sized mask of counts: `.npy`
holds 0-based (x, y) points [n, 2] or a mask; `.mat` holds 1-based (x, y) points, as MATLAB counts,
in `fixations`, or a mask in `fixLocs` or `fixations`.
"""

from pathlib import Path

import numpy as np

from config import BY_SHARES, SPLITS, Plan
from datasets import offer
from datasets._parts import Part, by_stem, load_parts
from datasets._points import Looks, Read, points_of_mask, read_files, read_mat
from errors import UserError
from pictures import header_shape
from sample import IMAGE_SUFFIXES, Sample

NEEDS_FILES = True
SOURCE = "Point --data at a folder with images/ and maps/ (grey PNG) or fixations/ (.npy, .mat)."
FIXATION_SUFFIXES = {".npy", ".mat"}


def load(root: Path, split: str, plan: Plan = BY_SHARES) -> list[Sample]:
    """Return the samples of a split.

    Raises:
        UserError: no images, no truth, or images and truth that do not pair up.
    """
    return load_parts(parts(root), root, split, plan)


def parts(root: Path) -> list[Part]:
    """Return what is there of each split, or of all pictures.

    Raises:
        UserError: there are no images, or neither maps nor fixations.
    """
    by_split = {split: _folders(root, split) for split in SPLITS}
    there = {split: folders for split, folders in by_split.items() if folders["images"].is_dir()}
    return [_part(root, *found) for found in (there or {"": _folders(root, None)}).items()]


def _folders(root: Path, split: str | None) -> dict[str, Path]:
    """Return the folders of images, maps and fixations, in either order of nesting."""
    kinds = ("images", "maps", "fixations")
    if split is None:
        return {kind: root / kind for kind in kinds}
    if (root / split / "images").is_dir():
        return {kind: root / split / kind for kind in kinds}
    return {kind: root / kind / split for kind in kinds}


def _part(root: Path, split: str, folders: dict[str, Path]) -> Part:
    """Return what one set of folders holds."""
    clashes: list[str] = []
    images = by_stem(folders["images"], IMAGE_SUFFIXES, clashes)
    if not images:
        raise UserError(f"No images in {folders['images']}. {offer(SOURCE)}")
    maps = by_stem(folders["maps"], IMAGE_SUFFIXES, clashes)
    points = by_stem(folders["fixations"], FIXATION_SUFFIXES, clashes)
    if not maps and not points:
        raise UserError(f"{root} has images but neither maps nor fixations. {offer(SOURCE)}")
    # a mask is told from points by its picture's size; one without picture is reported as unpaired
    files = {key: (path, images[key]) for key, path in points.items() if key in images}
    alone = dict.fromkeys(points.keys() - files.keys(), Looks(np.zeros((0, 2), np.float32)))

    def read() -> Read:
        found = read_files(files, parse)
        return Read({**found.looks, **alone}, found.failures)

    return Part(
        split or "all",
        split,
        folders["images"].parent,
        images,
        maps,
        read if points else Read,
        clashes=tuple(clashes),
    )


def parse(path: Path, image: Path) -> Looks:
    """Return the fixations of a .npy or .mat file.

    Args:
        path: the file.
        image: its picture, whose size tells a mask from points.

    Raises:
        UserError: the file cannot be read, or holds neither points nor a mask of that picture.
    """
    if path.suffix.lower() == ".npy":
        first_pixel = 0
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path} cannot be read as an array: {error}") from error
    else:
        values, _ = read_mat(path, ("fixLocs", "fixations"), "fixations")
        first_pixel = 1  # MATLAB counts pixels from one
    if values.dtype.kind not in "buif" or values.ndim != 2:
        raise UserError(
            f"{path} holds {values.dtype} of shape {values.shape}; points [n, 2] or a mask "
            "[rows, columns] are expected."
        )
    if not np.isfinite(values).all():
        raise UserError(f"{path} holds values that are not finite.")
    if not values.size:  # MATLAB's [] is 0 x 0
        return Looks(np.zeros((0, 2), np.float32))
    if values.shape[1] == 2:
        return Looks((values - float(first_pixel)).astype(np.float32))
    shape = header_shape(image)
    if values.shape != shape:  # (x, y, duration) would else pass for a mask, three pixels wide
        of = f"{shape[0]} rows and {shape[1]} columns" if shape else "a damaged header"
        raise UserError(
            f"{path} holds {values.shape[0]} x {values.shape[1]} numbers: neither points [n, 2] "
            f"nor a mask of {image.name}, which has {of}."
        )
    return Looks(points_of_mask(values, path), None, shape)

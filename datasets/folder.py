"""One's own data: `images/` and `maps/` and/or `fixations/`, paired by file name.

Either `ROOT/images/...`, or with the split spelt out `ROOT/train/images/...` or
`ROOT/images/train/...` (and val, and test if there is one); else a seeded split. A map is a grey
picture of the image's size. Fixations are either points or a picture-sized mask of counts: `.npy`
holds 0-based (x, y) points [n, 2] or a mask; `.mat` holds 1-based (x, y) points, as MATLAB counts,
in `fixations`, or a mask in `fixLocs` or `fixations`.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from config import BY_SHARES, Plan
from datasets import divided, offer
from errors import UserError
from pictures import read_image
from sample import IMAGE_SUFFIXES, Sample

NEEDS_FILES = True
SOURCE = "Point --data at a folder with images/ and maps/ (grey PNG) or fixations/ (.npy, .mat)."
FIXATION_SUFFIXES = {".npy", ".mat"}


def load(root: Path, split: str, plan: Plan = BY_SHARES) -> list[Sample]:
    """Return the samples of a split.

    Raises:
        UserError: no images, no truth, or images and truth that do not pair up.
    """
    split_folders = {
        part: folders
        for part in ("train", "val", "test")
        if (folders := _folders(root, part))["images"].is_dir()
    }
    if not split_folders:
        samples = _samples(_folders(root, None), root)
        chosen = set(divided([s.name for s in samples], split, plan))
        return [s for s in samples if s.name in chosen]
    if split not in split_folders:
        raise UserError(
            f"{root} has the splits {', '.join(split_folders)}, but no '{split}' with images."
        )
    return _samples(split_folders[split], root)


def _folders(root: Path, split: str | None) -> dict[str, Path]:
    """Return the folders of images, maps and fixations, in either order of nesting."""
    kinds = ("images", "maps", "fixations")
    if split is None:
        return {kind: root / kind for kind in kinds}
    if (root / split / "images").is_dir():
        return {kind: root / split / kind for kind in kinds}
    return {kind: root / kind / split for kind in kinds}


def _samples(folders: dict[str, Path], root: Path) -> list[Sample]:
    """Return the samples of one set of folders."""
    images = _by_stem(folders["images"], IMAGE_SUFFIXES)
    if not images:
        raise UserError(f"No images in {folders['images']}. {offer(SOURCE)}")
    maps = _by_stem(folders["maps"], IMAGE_SUFFIXES)
    points = _by_stem(folders["fixations"], FIXATION_SUFFIXES)
    if not maps and not points:
        raise UserError(f"{root} has images but neither maps nor fixations. {offer(SOURCE)}")
    for label, truth in (("maps", maps), ("fixation files", points)):
        unpaired = sorted(images.keys() ^ truth.keys())
        if truth and unpaired:
            raise UserError(
                f"{len(images)} images but {len(truth)} {label} in {folders['images'].parent}; "
                f"first unpaired: {unpaired[0]}."
            )
    return [
        Sample(
            name=path.name,
            image=path,
            map=maps.get(stem),
            fixations=read_fixations(points[stem], path) if points else None,
        )
        for stem, path in sorted(images.items())
    ]


def _by_stem(folder: Path, suffixes: set[str]) -> dict[str, Path]:
    """Return the files of a folder by their name without suffix."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix.lower() not in suffixes or not path.is_file():
            continue
        if path.stem in found:
            raise UserError(f"{path} and {found[path.stem].name} have one name: pairing by name "
                            "needs them to differ.")  # fmt: skip
        found[path.stem] = path
    return found


def read_fixations(path: Path, image: Path) -> NDArray[np.floating]:
    """Return the fixations of a .npy or .mat file as 0-based (x, y), float32 [n, 2].

    Args:
        path: the file.
        image: its picture, which is read for its size where the file holds a mask.

    Raises:
        UserError: the file cannot be read, or holds neither points nor a mask of that picture.
    """
    try:
        if path.suffix.lower() == ".npy":
            values, first_pixel = np.load(path, allow_pickle=False), 0
        else:
            content = loadmat(path)
            name = next((n for n in ("fixLocs", "fixations") if n in content), None)
            if name is None:
                raise UserError(f"{path} has no variable 'fixations' or 'fixLocs'.")
            values, first_pixel = content[name], 1  # MATLAB counts pixels from one
    except UserError:
        raise
    except Exception as error:  # numpy and scipy raise many types on a damaged file
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}).") from error
    values = np.asarray(values)
    if values.dtype.kind not in "buif" or values.ndim != 2:
        raise UserError(
            f"{path} holds {values.dtype} of shape {values.shape}; points [n, 2] or a mask "
            "[rows, columns] are expected."
        )
    if not np.isfinite(values).all():
        raise UserError(f"{path} holds values that are not finite.")
    if not values.size:  # MATLAB's [] is 0 x 0
        return np.zeros((0, 2), np.float32)
    if values.shape[1] == 2:
        return (values - float(first_pixel)).astype(np.float32)
    return _points_of_mask(values, path, image)


def _points_of_mask(mask: NDArray, path: Path, image: Path) -> NDArray[np.floating]:
    """Return the points of a mask of counts, one for each count."""
    shape = read_image(image).shape[:2]
    if mask.shape != shape:  # (x, y, duration) would else pass for a mask, three pixels wide
        raise UserError(
            f"{path} holds {mask.shape[0]} x {mask.shape[1]} numbers: neither points [n, 2] nor a "
            f"mask of {image.name}, which has {shape[0]} rows and {shape[1]} columns."
        )
    counts = mask.astype(np.float64)
    if counts.max() > 100:
        counts = (counts > 0) * 1.0  # a mask of 0 and 255
    if counts.min() < 0 or (counts % 1).any():
        raise UserError(f"{path} is a mask of counts, but not all of them are 0, 1, 2 and so on.")
    rows, columns = np.nonzero(counts)
    points = np.stack([columns, rows], axis=1)
    return np.repeat(points, counts[rows, columns].astype(int), axis=0).astype(np.float32)

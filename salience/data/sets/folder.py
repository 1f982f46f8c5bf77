"""The user's own data: `images/` and `maps/` and/or `fixations/`, paired by file name.

Either `ROOT/images/...`, or with the split spelt out `ROOT/train/images/...` or
`ROOT/images/train/...` (and val, and test if there is one); else a seeded split. A map is a grey
picture of the image's size, or `.npy` [rows, columns] of numbers that are 0 or more. Fixations are
points (x, y), or a mask of the picture's size. Points count pixels from 0, and in `.mat` from 1, as
MATLAB does. `fixations/` has of each picture one of:

* `.npy`: points [n, 2], or [n, 3] with who made each, or columns named x, y and subject, or a mask;
* `.npz`: points or a mask in `fixations`, and who made each point in `subjects` [n];
* `.mat`: points in `fixations`, who made each in `subjects`, or a mask in `fixLocs` or `fixations`;
* `.csv` or `.tsv`: columns x, y, and maybe subject, named in the first line;
* `.png` or another picture: a mask, 0 and 255 or counts.

Or one table is about all pictures: `fixations.csv`, or any in `fixations/` that is called like no
picture, with a column `image`, too.

`ROOT/dataset.json` may say more, as that of `data subset` does: `{"pictures": {"train/a.jpg":
{"sigma_pixels": 24, "category": "Indoor", "shape": [600, 800]}}}`, each of them if it is known.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salience.data.fixation_files import FORMS, found_in
from salience.data.parts import FileGroup, by_stem, find_root, load_parts, offer, unpacked
from salience.data.plan import BY_SHARES, SPLITS, Plan
from salience.data.points import Read
from salience.pictures.picture_files import read_stored_map
from salience.pictures.sample import IMAGE_SUFFIXES, Sample, Stored
from salience.system.errors import UserError
from salience.system.files import composed, read_json

NEEDS_FILES = True
SOURCE = (
    "Point --data at a folder with images/ and maps/ (grey PNG) or fixations/: .npy, .npz or .csv "
    "with (x, y) in pixels counted from 0, .mat counted from 1, or masks as .png."
)
MAP_SUFFIXES = {*IMAGE_SUFFIXES, ".npy"}
CARD = "dataset.json"


def load(root: Path, split: str, plan: Plan = BY_SHARES) -> list[Sample]:
    """Return the samples of a split.

    Raises:
        UserError: no images, no truth, or images and truth that do not pair up.
    """
    samples = load_parts(parts(root), root, split, plan)
    told = {composed(name): fields for name, fields in read_card(_base(root) / CARD).items()}
    return [
        dataclasses.replace(s, **told.get(f"{split}/{s.name}", told.get(s.name, {})))
        for s in samples
    ]


def read_card(path: Path) -> dict[str, dict[str, Any]]:
    """Return further fields of each sample, from the card of the folder.

    Raises:
        UserError: it holds anything else.
    """
    if not path.exists():
        return {}
    card = read_json(path)
    told = card.get("pictures") if isinstance(card, dict) else None
    if not isinstance(told, dict):
        raise UserError(f'{path} has no object "pictures" with what is known of each.')
    return {name: _fields(values, f"{path}: {name}") for name, values in told.items()}


def _fields(values: Any, about: str) -> dict[str, Any]:
    """Return a card's fields of a picture, checked for their types."""
    fields = {}
    for name, value in values.items() if isinstance(values, dict) else [("", values)]:
        if name == "sigma_pixels" and isinstance(value, int | float) and 0 < value < np.inf:
            fields[name] = float(value)
        elif name == "category" and isinstance(value, str):
            fields[name] = value
        elif name == "shape" and isinstance(value, list) and [type(n) for n in value] == [int, int]:
            fields[name] = tuple(value)
        else:
            raise UserError(
                f'{about} has {name or "no object, but"} {value!r}; "sigma_pixels" (above 0), '
                '"category" (text) and "shape" (rows, columns) are expected.'
            )
    return fields


def parts(root: Path) -> list[FileGroup]:
    """Return the file group of each split, or of all pictures.

    Raises:
        UserError: there are no images, or neither maps nor fixations.
    """
    base = _base(root)
    found = _parts(base)
    named: dict[str, dict[str, Any]] = {}
    with suppress(UserError):  # `load` reports the error
        named = read_card(base / CARD)
    if strange := _of_no_picture(named, found):
        line = f"{CARD}: {len(strange)} entries name no picture ({strange[0]}): they count for none"
        found[0] = dataclasses.replace(found[0], remarks=(*found[0].remarks, line))
    return found


def _of_no_picture(named: Iterable[str], parts: list[FileGroup]) -> list[str]:
    """Return the entries of a card without a picture, with or without a split."""
    names = list(named)
    if not names:
        return []
    known = set()
    for part in parts:
        splits = [part.split] if part.split else SPLITS
        for own in map(part.name, part.images):
            known |= {own, *(f"{split}/{own}" for split in splits)}
    return [name for name in names if composed(name) not in known]


def _parts(base: Path) -> list[FileGroup]:
    """Return the same of the folder that holds images/, or the splits that do."""
    by_split = {split: _folders(base, split) for split in SPLITS}
    there = {split: folders for split, folders in by_split.items() if folders["images"].is_dir()}
    if not there:
        return [_part(base, "", _folders(base, None))]
    keys = {
        split: by_stem(folders["images"], IMAGE_SUFFIXES, []) for split, folders in there.items()
    }
    return [
        _part(base, split, folders, [key for of, own in keys.items() if of != split for key in own])
        for split, folders in there.items()
    ]


def _base(root: Path) -> Path:
    """Return the folder that holds images/, or the splits that do."""

    def holds(folder: Path) -> bool:
        ways = (folder, *(unpacked(folder / split) for split in SPLITS))
        return any((way / "images").is_dir() for way in ways)

    return find_root(root, holds) or root


def _folders(root: Path, split: str | None) -> dict[str, Path]:
    """Return the folders of images, maps and fixations, in either order of nesting."""
    kinds = ("images", "maps", "fixations")
    if split is None:
        return {kind: root / kind for kind in kinds}
    own = unpacked(root / split)
    if (own / "images").is_dir():
        return {kind: own / kind for kind in kinds}
    return {kind: unpacked(root / kind) / split for kind in kinds}


def _part(
    root: Path, split: str, folders: dict[str, Path], others: Sequence[str] = ()
) -> FileGroup:
    """Return one set of folders; `others` are keys of other splits' pictures."""
    clashes: list[str] = []
    images = by_stem(folders["images"], IMAGE_SUFFIXES, clashes)
    if not images:
        raise UserError(f"No images in {folders['images']}. {offer(SOURCE)}")
    maps = by_stem(folders["maps"], MAP_SUFFIXES, clashes)
    found = found_in(
        folders["fixations"],
        images,
        clashes,
        (folders["images"].parent, root, root / "fixations"),
        others,
    )
    if not maps and not found.read:
        raise UserError(f"{root} has images but neither maps nor fixations. {offer(SOURCE)}")
    shown = {kind: folder.relative_to(root).as_posix() for kind, folder in folders.items()}
    forms = ", ".join(sorted({*FORMS[0], *FORMS[1], ".png"}))
    return FileGroup(
        split or "all",
        split,
        folders["images"].parent,
        images,
        {key: _map_source(path) for key, path in maps.items()},
        found.read or Read,
        sought=f"{shown['maps']}/ (grey pictures, .npy) and {shown['fixations']}/ ({forms})",
        clashes=tuple(clashes),
        remarks=found.remarks,
        known=(*found.files, root / CARD),
    )


def _map_source(path: Path) -> Path | Stored:
    """Return a map as a sample takes it: the file of a picture, or the reader of an array."""
    return Stored(path, -1, read_array_map) if path.suffix.lower() == ".npy" else path


def read_array_map(path: Path, index: int = -1) -> NDArray[np.floating]:
    """Return the map of a .npy file as float32 [rows, columns].

    Args:
        path: the file.
        index: not used: the file holds one map.

    Raises:
        UserError: it is no map of finite numbers, 0 or more.
    """
    values = read_stored_map(path)
    if values.size and values.min() < 0:
        raise UserError(f"{path} holds values below 0, down to {values.min():g}: no density map.")
    return values.astype(np.float32)

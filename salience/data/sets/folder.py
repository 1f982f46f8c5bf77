"""The user's own data: `images/` with `maps/`, `fixations/` or both, paired by file name.

Splits may be named, as `ROOT/train/images/...` or `ROOT/images/train/...`, with val and optionally
test. Without them, as `ROOT/images/...`, the plan divides the pictures. A map is a grey
picture of the image's size, or `.npy` [rows, columns] of numbers that are 0 or more. Fixations are
points (x, y), or a mask of the picture's size. Points count pixels from 0, and in `.mat` from 1, as
MATLAB does. `fixations/` has one of these files per picture:

* `.npy`: points [n, 2], or [n, 3] with the observer, or columns named x, y and subject, or a mask;
* `.npz`: points or a mask in `fixations`, and the observer of each point in `subjects` [n]. Both
  NumPy forms may have `t` and `duration` [n] in milliseconds;
* `.mat`: points in `fixations`, observers in `subjects`, or a mask in `fixLocs` or `fixations`;
* `.csv` or `.tsv`: columns x, y and optionally subject, named in the first line;
* `.png` or another picture: a mask, 0 and 255 or counts.

Alternatively, one table holds all pictures, with a further column `image`: `fixations.csv` or
`fixations.tsv`, or a table in `fixations/` whose name is not that of a picture. Tables may also
have `t` and `duration` in milliseconds, and `order`, which sorts (`data/tables.py`).

`ROOT/dataset.json`, as from `data subset`, may add optional fields: `{"pictures": {"train/a.jpg":
{"sigma_pixels": 24, "category": "Indoor", "shape": [600, 800]}}}`.
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

NEEDS_FILES = READS_TABLES = True
SOURCE = (
    "Point --data at a folder with images/ and maps/ (grey PNG) or fixations/: .npy, .npz or .csv "
    "with (x, y) in pixels counted from 0, .mat counted from 1, or masks as .png."
)
SIGMA_FROM = "dataset.json where it names one, else the default for own data"
MAP_SUFFIXES = {*IMAGE_SUFFIXES, ".npy"}
CARD = "dataset.json"
REPORTS = ("check.png", "import.json")  # written by `data import`, not read


def load(root: Path, split: str, plan: Plan = BY_SHARES, columns: str = "") -> list[Sample]:
    """Return the samples of a split.

    Args:
        root: the folder.
        split: train, val or test.
        plan: division of the pictures without named splits.
        columns: names of tables' columns, see `columns.parse_columns`.

    Raises:
        UserError: there are no images or no truth, or they do not match.
    """
    samples = load_parts(parts(root, columns), root, split, plan)
    card = read_card(_base(root) / CARD)
    fields_by_name = {composed(name): fields for name, fields in card.items()}
    return [
        dataclasses.replace(
            s, **fields_by_name.get(f"{split}/{s.name}", fields_by_name.get(s.name, {}))
        )
        for s in samples
    ]


def sigma_from(root: Path) -> str:
    """Return where the Gaussian of the pictures in a folder comes from, as text."""
    path = _base(root) / CARD
    if not any("sigma_pixels" in fields for fields in read_card(path).values()):
        return "the default for own data, whose degree is not known"
    about = read_json(path).get("imported_from")
    degree = about.get("degree") if isinstance(about, dict) else None
    return f"{CARD}: one degree, by {degree}" if isinstance(degree, str) else CARD


def read_card(path: Path) -> dict[str, dict[str, Any]]:
    """Return further fields of each sample by name, from `dataset.json`.

    Args:
        path: the file; no fields if it does not exist.

    Raises:
        UserError: the file has another format.
    """
    if not path.exists():
        return {}
    card = read_json(path)
    pictures = card.get("pictures") if isinstance(card, dict) else None
    if not isinstance(pictures, dict):
        raise UserError(f'{path} has no object "pictures" with the fields of each picture.')
    return {name: _fields(values, f"{path}: {name}") for name, values in pictures.items()}


def _fields(values: Any, about: str) -> dict[str, Any]:
    """Return the validated fields of one picture; `about` names it in errors."""
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


def parts(root: Path, columns: str = "") -> list[FileGroup]:
    """Return the file group of each split, or of all pictures.

    Args:
        root: the folder.
        columns: names of tables' columns, see `columns.parse_columns`.

    Raises:
        UserError: there are no images, or neither maps nor fixations.
    """
    base = _base(root)
    found = _parts(base, columns)
    named: dict[str, dict[str, Any]] = {}
    with suppress(UserError):  # `load` reports the error
        named = read_card(base / CARD)
    if strange := _of_no_picture(named, found):
        line = f"{CARD}: {len(strange)} entries name no picture ({strange[0]}) and are ignored"
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


def _parts(base: Path, columns: str) -> list[FileGroup]:
    """Return the file groups in the folder with images/, or with the splits."""
    by_split = {split: _folders(base, split) for split in SPLITS}
    there = {split: folders for split, folders in by_split.items() if folders["images"].is_dir()}
    if not there:
        return [_part(base, "", _folders(base, None), columns)]
    keys = {
        split: by_stem(folders["images"], IMAGE_SUFFIXES, []) for split, folders in there.items()
    }
    others = {
        split: [key for of, own in keys.items() if of != split for key in own] for split in there
    }
    return [_part(base, split, folders, columns, others[split]) for split, folders in there.items()]


def _base(root: Path) -> Path:
    """Return the folder with images/, or with the splits."""

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
    root: Path, split: str, folders: dict[str, Path], columns: str, others: Sequence[str] = ()
) -> FileGroup:
    """Return the file group of one split; `others` are keys of the other splits' pictures."""
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
        columns,
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
        known=(*found.files, *(root / name for name in (CARD, *REPORTS))),
    )


def _map_source(path: Path) -> Path | Stored:
    """Return the source of a map: the file of a picture, or a reader of an array."""
    return Stored(path, -1, read_array_map) if path.suffix.lower() == ".npy" else path


def read_array_map(path: Path, index: int = -1) -> NDArray[np.floating]:
    """Return the map of a .npy file as float32 [rows, columns].

    Args:
        path: the file.
        index: not used: the file holds one map.

    Raises:
        UserError: the values are not finite numbers that are 0 or more.
    """
    values = read_stored_map(path)
    if values.size and values.min() < 0:
        raise UserError(
            f"{path} holds values below 0, down to {values.min():g}: it is not a density map."
        )
    return values.astype(np.float32)

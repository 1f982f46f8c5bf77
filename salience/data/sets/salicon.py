"""SALICON: 10,000 + 5,000 + 5,000 COCO pictures of 640 x 480; Jiang et al., CVPR 2015.

`images/{train,val,test}/*.jpg` (or all in `images/`, where their names tell the split, or in
folders such as the API's `images/train2014examples/`), `maps/{train,val}/*.png`, and fixations in
any one form:

* `fixations/{train,val}/*.mat`, editions of 2015 and 2017: `gaze`, an array of one struct an
  observer (a column in one edition, a row in the other), whose `fixations` are [m, 2] in (x, y),
  1-based as MATLAB counts; `location` is the mouse's whole way and is not read. Copies of others
  hold a mask in `I` instead, without observers.
* `fixations/{train,val}/*.png`: masks of 0 and 255, hence 0-based, without observers.
* `fixations_train2014*.json`, also in `annotations/`, of the API: **[row, column]**, 1-based.

Observers moved a mouse; no eye was tracked. The published maps are the fixations blurred by a
Gaussian of 19 pixels. The test pictures come without truth. Where only the training split is there,
as in the API's sample, it is divided by the plan.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from salience.data.parts import (
    FileGroup,
    by_stem,
    files_of,
    find_root,
    folders_of,
    load_parts,
    offer,
    samples,
    split_of,
)
from salience.data.plan import BY_SHARES, Plan
from salience.data.points import (
    Looks,
    Read,
    as_points,
    gathered_looks,
    looks_of_picture,
    mask_of,
    read_files,
    read_mat,
    read_table,
)
from salience.pictures.sample import IMAGE_SUFFIXES, Sample
from salience.system.errors import UserError
from salience.system.files import composed, read_json

NEEDS_FILES = True
SOURCE = (
    "Get images, maps and fixations from http://salicon.net/challenge-2017/ and point --data at "
    "the folder that holds images/, maps/ and fixations/."
)
SIGMA_PIXELS = 19.0
SIGMA_FROM = "the published maps, which are exactly this"
PUBLISHED = {"train": (10_000,), "val": (5_000,), "test": (5_000,)}
WITHOUT_TRUTH = ("test",)


def load(root: Path, split: str, plan: Plan = BY_SHARES) -> list[Sample]:
    """Return the samples of a split.

    Raises:
        UserError: no pictures, or truth that does not fit them.
    """
    return load_parts(parts(root), root, split, plan)


def submission_pictures(root: Path) -> list[Sample]:
    """Return the test pictures, whose truth the benchmark does not publish."""
    found = [part for part in parts(root) if part.split == "test"]
    if not found:
        raise UserError(f"{root} has no images/test. {offer(SOURCE)}")
    return samples(found[0])


def parts(root: Path) -> list[FileGroup]:
    """Return the file groups of each split.

    Raises:
        UserError: there are no pictures at all.
    """
    base = find_root(root, lambda folder: (folder / "images").is_dir())
    clashes: list[str] = []
    images = _by_split(base / "images", IMAGE_SUFFIXES, clashes) if base else {}
    if base is None or not images:
        raise UserError(
            f"No pictures in {root / 'images'}, its train/, val/ and test/. {offer(SOURCE)}"
        )
    maps = _by_split(base / "maps", IMAGE_SUFFIXES, clashes)
    found = [
        _part(base, split, images[split], maps.get(split, {}), tuple(clashes))
        for split in PUBLISHED
        if split in images
    ]
    if [part.split for part in found] == ["train"]:
        remark = "only the train split is there: it is divided by --val_share and --test_share"
        found = [dataclasses.replace(found[0], split="", remarks=(*found[0].remarks, remark))]
    return found


def _part(
    base: Path, split: str, images: dict[str, Path], maps: dict[str, Path], clashes: tuple[str, ...]
) -> FileGroup:
    """Return one split, with its fixations from the most detailed files."""
    mats = _by_split(base / "fixations", {".mat"}, []).get(split, {})
    masks = _by_split(base / "fixations", IMAGE_SUFFIXES, []).get(split, {})
    tables = [
        path
        for folder in (base, base / "annotations", base / "fixations")
        for path in files_of(folder, {".json"})
        if path.name.startswith(f"fixations_{split}2014")
    ]
    forms = {
        ".mat files": mats and (lambda: read_files(_singly(mats), parse_mat)),
        "JSON": tables and (lambda: read_table(tables[0], parse_json)),
        "masks": masks and (lambda: read_files(_singly(masks), looks_of_picture)),
    }
    there = [form for form, read in forms.items() if read]
    remarks = []
    if len(there) > 1:
        remarks.append(f"{split}: fixations as {' and '.join(there)}; the {there[0]} are read")
    if len(tables) > 1 and there[0] == "JSON":
        first, *others = (path.relative_to(base).as_posix() for path in tables)
        remarks.append(f"{split}: {first} is read; {' and '.join(others)} is left aside")
    return FileGroup(
        split,
        split,
        base,
        images,
        maps,
        forms[there[0]] if there else Read,
        SIGMA_PIXELS,
        published=PUBLISHED[split],
        sought="" if split in WITHOUT_TRUTH else f"maps/{split}, fixations/{split} or "
        f"fixations_{split}2014.json",
        clashes=clashes,
        remarks=tuple(remarks),
        known=(*mats.values(), *masks.values(), *tables),
    )  # fmt: skip


def _singly(files: dict[str, Path]) -> dict[str, tuple[Path]]:
    """Return files as arguments of a parser of one file."""
    return {key: (path,) for key, path in files.items()}


def _by_split(folder: Path, suffixes: set[str], clashes: list[str]) -> dict[str, dict[str, Path]]:
    """Return the files of a folder and its sub-folders, by split and name.

    A sub-folder's name tells the split of all that it holds, else each file's own name does.
    """
    found: dict[str, dict[str, Path]] = {}
    for inner in (folder, *folders_of(folder)):
        of_folder = split_of(inner.name) if inner != folder else None
        for stem, path in by_stem(inner, suffixes, clashes).items():
            split = of_folder or split_of(stem)
            if split:
                found.setdefault(split, {})[stem] = path
    return found


def parse_mat(path: Path) -> Looks:
    """Return the fixations of a picture's .mat file.

    Raises:
        UserError: it is damaged, or of another layout.
    """
    gaze, content = read_mat(path, ("gaze", "I"), "SALICON's fixations", ("resolution",))
    if "gaze" not in content:
        return mask_of(gaze, path)
    try:
        observers = [as_points(_field(record, "fixations")) for record in gaze.ravel()]
        # every picture lies, so the lesser number is the rows, in whichever order they are stored
        sides = sorted(int(side) for side in np.ravel(content.get("resolution", [])))
    except (ValueError, IndexError, TypeError) as error:
        raise UserError(f"{path} is not of SALICON's layout ({error}).") from error
    return gathered_looks(observers, (sides[0], sides[1]) if len(sides) == 2 else None)


def _field(record: Any, name: str) -> Any:
    """Return a field of a struct, which may be inside a cell."""
    value = record[name]
    while value.dtype == object:
        value = value.flat[0]
    return value


def parse_json(path: Path) -> dict[str, Looks]:
    """Return the fixations of all pictures of the API's JSON; hundreds of megabytes are usual.

    Raises:
        UserError: it is damaged, or of another layout.
    """
    content = read_json(path)
    try:
        observers: dict[int, dict[Any, list]] = {image["id"]: {} for image in content["images"]}
        for annotation in content["annotations"]:
            workers = observers[annotation["image_id"]]
            # a worker may occur twice
            workers.setdefault(annotation["worker_id"], []).extend(annotation["fixations"])
        return {
            composed(Path(image["file_name"]).stem): gathered_looks(
                # the file has (row, column), counted from 1
                [as_points(np.array(own))[:, ::-1] for own in observers[image["id"]].values()],
                (int(image["height"]), int(image["width"])),
            )
            for image in content["images"]
        }
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path} is not of the SALICON API's layout ({type(error).__name__}: {error})."
        ) from error

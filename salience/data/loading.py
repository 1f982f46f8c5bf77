"""Loading of data sets: each is a file of `sets` with `load(root, split, plan) -> [Sample]`.

The name of the file is the value of --dataset. Each loader documents the layout of its files and
converts them to `Sample`.
"""

import dataclasses
import importlib
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np

from salience.data import store
from salience.data.parts import TRIAL, FileGroup, offer, unread
from salience.data.plan import ALL_SPLITS, BY_SHARES, SPLITS, Plan
from salience.pictures.fixations import are_within
from salience.pictures.reading import known_shape
from salience.pictures.sample import Sample
from salience.system.errors import UserError
from salience.system.files import real_path, split_pair
from salience.system.terminal import PROGRAM

# Fixations count as relative coordinates, 0 to 1, if this share of them is in that range ...
MOST_SHARES = 0.95
LEAST_SIDE = 16  # ... and pictures have at least this many pixels a side


def load(
    name: str,
    root: Path | None,
    split: str,
    plan: Plan = BY_SHARES,
    out_of_bounds: str = "drop",
    truth: bool = True,
    columns: str = "",
) -> list[Sample]:
    """Return the samples of a split of a data set.

    Args:
        name: name of a file in `salience/data/sets`.
        root: folder of the data set, or a store of `data prepare`; None for built-in sets.
        split: train, val or test.
        plan: split of a data set without a published split.
        out_of_bounds: "drop" fixations outside their picture, "clip" them to its border, or "keep"
            them.
        truth: whether to refuse pictures without a map and fixations.
        columns: names of the columns of the user's own tables, see `columns.parse_columns`; other
            data sets ignore it.

    Raises:
        UserError: the folder or a part of it is missing (the message says how to get it); or a
            store was prepared with other settings, or its sources have changed.
    """
    module = module_of(name, root)
    originals = partial(
        _originals, module, split=split, plan=plan, out_of_bounds=out_of_bounds, columns=columns
    )
    if module.NEEDS_FILES and root is not None and store.is_store(root):
        named = _options(module, columns).get("columns", "")
        return store.load(root, name, split, plan, out_of_bounds, originals, named)
    samples = originals(root)
    if not samples and split == "test" and plan.test == 0 and not plan.folds:
        raise UserError(
            f"{name} at {root} has no pictures to test on: none are kept for that (--test_share 0, "
            "as the weights' training had it). --test_share 0.2 draws some, which weights so "
            "trained may have learnt from."
        )
    if not samples:
        raise UserError(
            f"{name} at {root} has no pictures in its {split} split. Too few pictures for "
            "--val_share, --test_share or --folds?"
        )
    if plan.folds:
        following = dataclasses.replace(plan, fold=(plan.fold + 1) % plan.folds)
        other = module.load(root, split, following, **_options(module, columns))
        if [s.name for s in samples] == [s.name for s in other]:
            raise UserError(
                f"{name} at {root} brings its own split, which --folds does not divide: leave "
                "--folds away."
            )
    if truth and all(sample.map is None and sample.fixations is None for sample in samples):
        raise UserError(
            f"The {split} split of {name} comes without maps and fixations: it can neither train "
            f"nor be scored here. {_remedy(name, root, split)}"
        )
    return samples


def load_splits(
    name: str, root: Path | None, plan: Plan, out_of_bounds: str, columns: str = ""
) -> tuple[dict[str, list[Sample]], dict[str, str]]:
    """Return the samples of each split, and the error of each split that cannot be used.

    The arguments are those of `load`.

    Raises:
        UserError: no split can be used.
    """
    splits, left_out = {}, {}
    for split in SPLITS:
        try:
            splits[split] = load(name, root, split, plan, out_of_bounds, columns=columns)
        except UserError as error:
            left_out[split] = str(error)
    if not splits:
        raise UserError(left_out[SPLITS[0]])
    return splits, left_out


def load_to_score(
    name: str,
    root: Path | None,
    split: str,
    plan: Plan,
    out_of_bounds: str,
    columns: str = "",
) -> tuple[list[Sample], dict[str, str]]:
    """Return the samples of one split or of all, and the error of each split that is left out.

    The arguments are those of `load`. If a name occurs in several splits, the split is put in
    front.

    Raises:
        UserError: the split, or all of them, cannot be used.
    """
    if split != ALL_SPLITS:
        return load(name, root, split, plan, out_of_bounds, columns=columns), {}
    splits, left_out = load_splits(name, root, plan, out_of_bounds, columns)
    counts = Counter(sample.name for samples in splits.values() for sample in samples)
    found = [
        dataclasses.replace(sample, name=f"{part}/{sample.name}")
        if counts[sample.name] > 1
        else sample
        for part, samples in splits.items()
        for sample in samples
    ]
    return found, left_out


def sigma_origin(name: str, root: Path | None = None) -> str:
    """Return where the Gaussian of a data set comes from, as text.

    Args:
        name: name of the data set.
        root: folder of the data set, whose files may say more.
    """
    module = importlib.import_module(f"salience.data.sets.{name}")
    own = getattr(module, "sigma_from", None)
    return own(root) if own and root and not store.is_store(root) else module.SIGMA_FROM


def submission_pictures(name: str, root: Path | None) -> list[Sample]:
    """Return the test pictures of a benchmark that does not publish their truth.

    Raises:
        UserError: the folder or a part of it is missing; the message says how to get it.
    """
    try:
        return module_of(name, root).submission_pictures(root)
    except UserError as error:  # a benchmark's pictures have no substitute
        raise UserError(str(error).removesuffix(f" {TRIAL}")) from None


def module_of(name: str, root: Path | None) -> ModuleType:
    """Return the module of a data set, after a check of its folder or its pair of files.

    Raises:
        UserError: no folder is given, or it does not exist.
    """
    module = importlib.import_module(f"salience.data.sets.{name}")
    takes_pair = getattr(module, "TAKES_PAIR", False)
    pair = split_pair(root) if root is not None else None
    if pair and not takes_pair:
        raise UserError(
            f"--data names two files, {pair[0]} and {pair[1]}, but {name} is a folder. Two HDF5 "
            "files are for --dataset pysaliency."
        )
    if pair:
        for path in pair:
            if not path.is_file():
                raise UserError(f"{path}: no such file. {module.SOURCE}")
        return module
    if takes_pair and root is not None and root.is_file():
        raise UserError(f"--data {root} is one file, but {name} has two. {module.SOURCE}")
    if module.NEEDS_FILES and root is None:
        raise UserError(f"--data is needed: the folder of {name}. {offer(module.SOURCE)}")
    if module.NEEDS_FILES and root is not None and root.is_file():
        raise UserError(
            f"--data {root} is a file; the folder of {name} is needed. If it is the archive that "
            f"the data set came in: `{PROGRAM} data prepare` unpacks it."
        )
    if module.NEEDS_FILES and root is not None and not root.is_dir():
        raise UserError(f"The {name} data set is not at {root}: no such folder. "
                        f"{offer(module.SOURCE)}")  # fmt: skip
    return module


def _remedy(name: str, root: Path | None, split: str) -> str:
    """Return the remedy for a split without truth."""
    for part in parts(name, root):
        if part.split in (split, "") and part.sought:
            return f"They should be in {part.where}: {part.sought}."
    return "Take another --split."


def _options(module: ModuleType, columns: str) -> dict[str, str]:
    """Return the names of columns as an argument, for a data set that reads the user's tables."""
    return {"columns": columns} if columns and getattr(module, "READS_TABLES", False) else {}


def parts(name: str, root: Path | None, columns: str = "") -> list[FileGroup]:
    """Return the file groups of a data set on disk; [] for a built-in set.

    Args:
        name: name of the data set.
        root: folder of the data set.
        columns: names of the columns of the user's own tables, see `columns.parse_columns`; other
            data sets ignore it.

    Raises:
        UserError: the folder is missing, has no pictures, or is a store.
    """
    module = module_of(name, root)
    refuse_store(root)
    return module.parts(root, **_options(module, columns)) if module.NEEDS_FILES else []


def remarks(
    name: str, root: Path | None, apart: Sequence[Path | None] = (), columns: str = ""
) -> list[str]:
    """Return remarks about the interpretation of a data set's files.

    Args:
        name: name of the data set.
        root: folder of the data set.
        apart: folders that do not belong to the data set.
        columns: names of the columns of the user's own tables, see `columns.parse_columns`; other
            data sets ignore it.
    """
    if root is not None and store.is_store(root):
        return []  # `data prepare` has printed them
    found = parts(name, root, columns)
    read = [remark for part in found for remark in part.remarks]
    return read + not_read(root, found, apart)


def not_read(
    root: Path | None, found: list[FileGroup], apart: Sequence[Path | None] = ()
) -> list[str]:
    """Return a line for each kind of file in a data set's folder that is not read.

    Args:
        root: the folder; stores inside it are skipped.
        found: file groups of the data set; [] for a built-in set.
        apart: folders that do not belong to the data set.
    """
    others = {real_path(path) for path in apart if path is not None}

    def is_other(folder: Path) -> bool:
        return store.is_store(folder) or real_path(folder) in others

    return unread(root, found, is_other) if root is not None and found else []


def splits_of(name: str, root: Path | None, columns: str = "") -> tuple[dict[str, str], list[str]]:
    """Return the split of each picture under the default plan, and the errors of unusable splits.

    The arguments are those of `parts`.

    Raises:
        UserError: the folder is missing, has no pictures, or is a store.
    """
    there = {part.split for part in parts(name, root, columns)}
    by_name: dict[str, str] = {}
    refused: list[str] = []
    for split in SPLITS:
        if split not in there and "" not in there:
            continue
        try:
            samples = _originals(module_of(name, root), root, split, BY_SHARES, "drop", columns)
        except UserError as error:
            refused.append(str(error))
        else:
            by_name |= {sample.name: split for sample in samples}
    return by_name, list(dict.fromkeys(refused))


def are_archives(data: Sequence[Path]) -> bool:
    """Return whether --data names archives, which are unpacked together, rather than a folder.

    Raises:
        UserError: there are several paths, and one is not a file.
    """
    others = [path for path in data if not path.is_file()]
    if len(data) > 1 and others:
        raise UserError(
            f"--data takes one folder, or one or several archives; {others[0]} is no file."
        )
    return bool(data) and not others


def refuse_store(root: Path | None) -> None:
    """Raise UserError if the folder is a store, where original files are needed."""
    if root is not None and store.is_store(root):
        raise UserError(f"--data {root} is a store. Name the data set's own folder.")


def _originals(
    module: ModuleType,
    root: Path | None,
    split: str,
    plan: Plan,
    out_of_bounds: str,
    columns: str,
) -> list[Sample]:
    """Return the samples of a split from the original files of the data set.

    Raises:
        UserError: a file cannot be read, or fixations are not in pixels of the pictures.
    """
    stored = module.load(root, split, plan, **_options(module, columns))
    samples = [bounded(sample, out_of_bounds) for sample in stored]
    if out_of_bounds != "keep":
        refuse_points_elsewhere(stored, samples, split)
    return samples


def refuse_points_elsewhere(stored: list[Sample], samples: list[Sample], split: str) -> None:
    """Raise UserError if the fixations of a whole split are not in pixels of the pictures.

    Args:
        stored: the samples as stored in the files.
        samples: the same samples after `bounded`.
        split: name of the split.
    """
    seen = [(own, sample) for own, sample in zip(stored, samples, strict=True)
            if own.fixations is not None and sample.shape is not None]  # fmt: skip
    points = [own.fixations for own, _ in seen if own.fixations is not None and len(own.fixations)]
    count = sum(map(len, points))
    outside = sum(sample.outside for _, sample in seen)
    if not count:
        if seen and all(sample.map is None for sample in samples):
            raise UserError(
                f"The {split} split has no fixation: the records of all {len(seen)} pictures are "
                "empty, and there are no maps."
            )
        return
    corner = sum(int((np.abs(own) <= 1).all(axis=1).sum()) for own in points)
    # integers are pixels; in tiny pictures, pixels can be in this range
    shares = corner >= MOST_SHARES * count and any((own % 1 != 0).any() for own in points)
    if shares and min(min(sample.shape or ()) for _, sample in seen) >= LEAST_SIDE:
        raise UserError(
            f"The {split} split's fixations lie between -1 and 1, {corner:,} of {count:,} of them: "
            "shares of the picture rather than pixels? Multiply x by the columns and y by the rows."
        )
    if outside == count:
        name, own = next((s.name, own.fixations) for own, s in seen if s.outside)
        shape = next(s.shape for _, s in seen if s.outside)
        assert own is not None
        assert shape is not None
        raise UserError(
            f"None of the {split} split's {count:,} fixations lies in its picture; first: "
            f"({own[0, 0]:g}, {own[0, 1]:g}) on {name}, which has {shape[1]} columns and "
            f"{shape[0]} rows. Give (x, y) in pixels of the picture, not of the screen."
        )


def bounded(sample: Sample, out_of_bounds: str) -> Sample:
    """Return a sample with all fixations inside its picture, and the number of those outside.

    If the picture's shape is unknown, the sample is returned unchanged: a later read reports why.
    """
    if sample.fixations is None or out_of_bounds == "keep":
        return sample
    shape = known_shape(sample)
    if shape is None:
        return sample
    inside = are_within(sample.fixations, shape)
    points = sample.fixations
    own = {name: getattr(sample, name) for name in ("subjects", "times", "durations")}
    # values that are not finite cannot be clipped
    kept = np.isfinite(points).all(axis=1) if out_of_bounds == "clip" else inside
    if not kept.all():
        points = points[kept]
        own = {name: None if values is None else values[kept] for name, values in own.items()}
    if not inside.all() and out_of_bounds == "clip":
        points = np.clip(points, 0, np.array([shape[1] - 1, shape[0] - 1], np.float32))
    return dataclasses.replace(
        sample,
        fixations=points,
        **own,
        shape=shape,
        outside=int(np.count_nonzero(~inside)),
    )

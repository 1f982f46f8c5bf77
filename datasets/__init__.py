"""Data sets: one file each, `load(root, split, seed) -> [Sample]`; the file's name is the choice.

No network code. Each loader says what its files hold and converts it to the contract of `Sample`.
"""

import importlib
from pathlib import Path

import numpy as np

from errors import UserError
from sample import Sample


def load(name: str, root: Path | None, split: str, seed: int = 0) -> list[Sample]:
    """Return the samples of a split of a data set.

    Args:
        name: a file of this folder.
        root: the data set's folder; built-in sets need none.
        split: train, val or test.
        seed: of the split, where the data set brings none of its own.

    Raises:
        UserError: the folder or a part of it is missing; the message says how to get it.
    """
    module = importlib.import_module(f"datasets.{name}")
    if module.NEEDS_FILES and root is None:
        raise UserError(f"--data is needed: the folder of {name}. {offer(module.SOURCE)}")
    if module.NEEDS_FILES and root is not None and not root.is_dir():
        raise UserError(f"The {name} data set is not at {root}: no such folder. "
                        f"{offer(module.SOURCE)}")  # fmt: skip
    samples = module.load(root, split, seed)
    if not samples:
        raise UserError(
            f"{name} at {root} has no pictures in its {split} split. A seeded split of 70, 10 and "
            "20 % needs 6 pictures or more."
        )
    return samples


def offer(source: str) -> str:
    """Return what a user without the data can do."""
    return f"{source} To try without data: --dataset synthetic."


def seeded_split(names: list[str], split: str, seed: int) -> list[str]:
    """Return the names of a split, drawn once by a seed: 70 % train, 10 % val, 20 % test.

    >>> [len(seeded_split([str(i) for i in range(10)], s, 0)) for s in ("train", "val", "test")]
    [7, 1, 2]
    """
    order = np.random.default_rng(seed).permutation(len(names))
    val, test = round(len(names) * 0.7), round(len(names) * 0.8)
    parts = {"train": order[:val], "val": order[val:test], "test": order[test:]}
    return sorted(sorted(names)[i] for i in parts[split])

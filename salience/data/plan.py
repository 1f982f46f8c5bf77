"""The split plan of data sets without a published split; a fast import, for `--help`."""

from dataclasses import dataclass

SPLITS = ("train", "val", "test")
ALL_SPLITS = "all"  # all three, in commands that only score


@dataclass(frozen=True)
class Plan:
    """The split of a data set without a published split.

    Attributes:
        seed: seed of the draw.
        val, test: shares of the pictures, 0 to 1.
        folds: number of parts for cross-validation, one of which is the test split; `val` is then
            the share of the rest. 0 splits by `val` and `test`.
        fold: index of the test part, from 0.
    """

    seed: int = 0
    val: float = 0.1
    test: float = 0.2
    folds: int = 0
    fold: int = 0


BY_SHARES = Plan()

"""How a data set that brings no split of its own is divided; imported by `--help`, so quickly."""

from dataclasses import dataclass

SPLITS = ("train", "val", "test")
ALL_SPLITS = "all"  # what commands that only score call them together


@dataclass(frozen=True)
class Plan:
    """How a data set that brings no split of its own is divided.

    Attributes:
        seed: of the draw.
        val, test: shares of the pictures.
        folds: where above 1, the pictures are divided into so many parts, of which one is the test
            split; `val` is then the share of the rest that validates.
        fold: which of them, from 0.
    """

    seed: int = 0
    val: float = 0.1
    test: float = 0.2
    folds: int = 0
    fold: int = 0


BY_SHARES = Plan()

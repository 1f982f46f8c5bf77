"""Draw the table "What helped" of docs/RESULTS.md.

    python examples/draw_what_helped.py docs/RESULTS.md docs/pictures/what_helped.png

A row without a number shows its words instead of a bar. Brackets with an interval become error
bars.
"""

import re
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

HEADING = "## What helped"
LABEL_WIDTH = 33  # characters
COLUMNS = ("OSIE: IG, bits", "OSIE: NSS", "EyeCrowd, unseen: IG, bits", "EyeCrowd, unseen: NSS")


class Cell(NamedTuple):
    """A value of the table with its interval, NaN where there is none; or its words."""

    mean: float
    low: float
    high: float
    words: str = ""


def rows_of(text: str) -> dict[str, list[Cell]]:
    r"""Return the cells of each row of the table, by the row's name.

    >>> rows_of("## What helped\n| step | IG |\n|---|--:|\n| **a** | **1.5** (1.0 to 2.0) |\n")
    {'a': [Cell(mean=1.5, low=1.0, high=2.0, words='')]}
    """
    part = re.split(r"\n##+ ", text.partition(HEADING)[2])[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    found = {}
    for line in lines[2:]:
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        found[name.replace("**", "").replace("`", "")] = [
            cell_of(cell) for cell in cells[: len(COLUMNS)]
        ]
    return found


def cell_of(text: str) -> Cell:
    """Return a cell; NaN for words."""
    numbers = [float(x) for x in re.findall(r"-?\d+\.\d+", text)]
    mean, low, high, *_ = [*numbers, *[float("nan")] * 3]
    return Cell(mean, low, high, "" if numbers else text)


def main(table: Path, file: Path) -> None:
    """Draw the table of a file as bars."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = rows_of(table.read_text(encoding="utf-8"))
    names = list(rows)[::-1]
    labels = ["\n".join(textwrap.wrap(name, LABEL_WIDTH)) for name in names]
    figure, axes = plt.subplots(1, len(COLUMNS), figsize=(11, 0.45 * len(names) + 1), sharey=True)
    for i, (axis, title) in enumerate(zip(axes, COLUMNS, strict=True)):
        cells = [rows[name][i] for name in names]
        # people come last in the table, which is the first bar from below
        colours = ["#888888" if name.startswith("people") else "#2b6ca3" for name in names]
        axis.barh(labels, [cell.mean for cell in cells], color=colours)
        for place, cell in enumerate(cells):
            if cell.mean != cell.mean:
                axis.text(0.0, place, f" {cell.words}", va="center", fontsize=8, color="#555555")
            elif cell.low == cell.low:
                axis.plot([cell.low, cell.high], [place, place], color="black", linewidth=1)
        axis.set_title(title, fontsize=10)
        axis.tick_params(axis="y", length=0)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

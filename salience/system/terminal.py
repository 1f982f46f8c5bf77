"""Terminal output: lines, columns, progress bars, and the standard streams."""

import os
import sys
from pathlib import Path

from tqdm import tqdm

from salience.system.errors import printable

# an installed program has its own name
PROGRAM = "salience" if Path(sys.argv[0]).stem == "salience" else "main.py"
COMMAND_LINE = ("salience",) if PROGRAM == "salience" else ("python", "main.py")
REPORT_SECONDS = 60.0  # between two progress lines, if no bar is shown


def tell(text: str) -> None:
    r"""Print lines, with control characters escaped, which file names may contain.

    >>> tell("two\nlines of caf\xe9\x1b[31m\udcff")
    two
    lines of café\x1b[31m\udcff
    """
    print("\n".join(map(printable, text.split("\n"))))


def progress(total: int, label: str, unit: str = "images", shown: bool = True) -> tqdm:
    """Return a progress bar that counts pictures, or bytes for the unit "B".

    The bar is hidden if standard error is not a terminal.
    """
    return tqdm(
        total=total,
        desc=label,
        unit=unit,
        unit_scale=unit == "B",
        leave=False,
        disable=not (shown and sys.stderr.isatty()),
        bar_format="{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} "
        "{rate_fmt} ETA {remaining}{postfix}",
    )


def aligned(lines: list[list[str]]) -> str:
    """Return a table of cells as text: the first column left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]).rstrip()
        for first, *rest in lines
    )


def open_closed_streams() -> None:
    """Open standard streams that the caller has closed (`>&-`) on the null device.

    Otherwise the next file gets the number of the stream, and libraries print into the file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


def drop_output() -> None:
    """Discard buffered output, which Python would otherwise try to write again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

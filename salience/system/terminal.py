"""Terminal output: lines, columns, progress bars, and the standard streams."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from tqdm import tqdm

from salience.system.errors import printable

# an installed program has its own name
PROGRAM = "salience" if Path(sys.argv[0]).stem == "salience" else "main.py"
COMMAND_LINE = ("salience",) if PROGRAM == "salience" else ("python", "main.py")
REPORT_SECONDS = 60.0  # between two progress lines, if no bar is shown
WIDTH = 100  # characters of a line of a table


def tell(text: str) -> None:
    r"""Print lines, with control characters escaped, which file names may contain.

    >>> tell("two\nlines of caf\xe9\x1b[31m\udcff")
    two
    lines of café\x1b[31m\udcff
    """
    print("\n".join(map(printable, text.split("\n"))))


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1.

    >>> counted(1, "map"), counted(2000, "map")
    ('1 map', '2,000 maps')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


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


@contextmanager
def waiting(label: str, seconds: float) -> Iterator[None]:
    """Show a bar of the time that has passed, while a block runs that cannot tell its progress.

    Args:
        label: text before the bar.
        seconds: expected duration; a longer block leaves the bar full.
    """
    bar, done = progress(round(seconds), label, "s"), threading.Event()

    def advance() -> None:
        began = time.monotonic()
        while not done.wait(0.5):
            bar.update(min(round(time.monotonic() - began), bar.total) - bar.n)

    thread = None if bar.disable else threading.Thread(target=advance, daemon=True)
    with bar:
        if thread:
            thread.start()
        try:
            yield
        finally:
            done.set()
            if thread:
                thread.join()


def aligned(lines: list[list[str]], width: int = WIDTH) -> str:
    """Return a table of cells as text: the first column left-aligned, the others right-aligned.

    Columns that do not fit follow below in further blocks, each with the first column again.

    Args:
        lines: cells of each line, of equal number.
        width: most characters of a line.

    >>> print(aligned([["", "mean", "best"], ["CC", "0.5", "0.75"]], width=9))
        mean
    CC   0.5
    <BLANKLINE>
        best
    CC  0.75
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    starts, used = [1], widths[0]
    for place in range(1, len(widths)):
        if used + 2 + widths[place] > width and place > starts[-1]:
            starts.append(place)
            used = widths[0]
        used += 2 + widths[place]
    blocks = [
        "\n".join(
            "  ".join(
                [first.ljust(widths[0]), *map(str.rjust, rest[a - 1 : b - 1], widths[a:b])]
            ).rstrip()
            for first, *rest in lines
        )
        for a, b in pairwise([*starts, max(len(widths), 2)])
    ]
    return "\n\n".join(blocks)


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

"""The terminal: lines, columns, the progress bar of long work, and the standard streams.

A bar is shown only where somebody watches.
"""

import os
import sys
from pathlib import Path

from tqdm import tqdm

from salience.system.errors import printable

# installed, the program is started by its own name
PROGRAM = "salience" if Path(sys.argv[0]).stem == "salience" else "main.py"
COMMAND_LINE = ("salience",) if PROGRAM == "salience" else ("python", "main.py")
NEWS_SECONDS = 60.0  # between two lines of news, where no bar is shown


def tell(text: str) -> None:
    r"""Print lines, in which nothing that a file is called or holds reaches the terminal's senses.

    >>> tell("two\nlines of caf\xe9\x1b[31m\udcff")
    two
    lines of café\x1b[31m\udcff
    """
    print("\n".join(map(printable, text.split("\n"))))


def progress(total: int, label: str, unit: str = "images", shown: bool = True) -> tqdm:
    """Return a bar counting pictures, or bytes ("B"); silent where no terminal shows it."""
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
    """Return cells as columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]).rstrip()
        for first, *rest in lines
    )


def open_closed_streams() -> None:
    """Open what the caller has closed of the standard streams (`>&-`), to nowhere.

    Else the next file that is opened takes its number, and gets what libraries print.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


def drop_output() -> None:
    """Send to nowhere what is still to be printed, which Python would try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

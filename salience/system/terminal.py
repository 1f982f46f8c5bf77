"""What is said on the way: lines, and the progress bar of long work, none where nobody watches."""

import sys

from tqdm import tqdm

from salience.system.errors import printable

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

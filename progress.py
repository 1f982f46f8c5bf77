"""The progress bar of long work: pictures done, rate, time left; none where nobody watches."""

import sys

from tqdm import tqdm


def progress(total: int, label: str) -> tqdm:
    """Return a bar counting pictures; it is silent where standard error is not a terminal."""
    return tqdm(
        total=total,
        desc=label,
        unit="images",
        leave=False,
        disable=not sys.stderr.isatty(),
        bar_format="{desc} {percentage:3.0f}% |{bar}| {n}/{total} "
        "{rate_fmt} ETA {remaining}{postfix}",
    )

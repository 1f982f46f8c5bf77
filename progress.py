"""The progress bar of long work: what is done, rate, time left; none where nobody watches."""

import sys

from tqdm import tqdm


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

"""What regions of a picture get: of a predicted density, and of the fixations of observers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from salience.data.regions import Window
from salience.pictures.fixations import are_within

NAN = float("nan")


@dataclass(frozen=True)
class Predicted:
    """What a region gets of a predicted density.

    Attributes:
        share: share of the density, 0 to 1.
        area: share of the picture's pixels: what a uniform density would give.
        peak: greatest density in the region, as a share of the picture's greatest, 0 to 1; NaN for
            a region without a pixel.
        x, y: column and row of that pixel; -1 without one.
    """

    share: float
    area: float
    peak: float
    x: int
    y: int


def predicted(density: NDArray, window: Window) -> Predicted:
    """Return what a region gets of a density.

    Args:
        density: [rows, columns], 0 or more, sum 1.
        window: pixels of the region.

    >>> half = Window(0, 0, np.ones((1, 1), bool))
    >>> predicted(np.array([[0.25, 0.75]]), half)
    Predicted(share=0.25, area=0.5, peak=0.3333333333333333, x=0, y=0)
    """
    values = np.where(window.inside, window.of(density), -1.0)
    count = int(np.count_nonzero(window.inside))
    if not count:
        return Predicted(0.0, 0.0, NAN, -1, -1)
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    return Predicted(
        float(values.sum(where=window.inside, dtype=np.float64)),
        count / density.size,
        float(values[row, column] / density.max()),
        window.left + int(column),
        window.top + int(row),
    )


def ranks(peaks: Sequence[float]) -> list[int | None]:
    """Return the rank of each region by its peak, from 1 for the greatest; None for NaN.

    Equal peaks, as of a region inside another, share the better rank.

    >>> ranks([0.2, 1.0, float("nan"), 1.0])
    [3, 1, None, 1]
    """
    known = sorted((peak for peak in peaks if not np.isnan(peak)), reverse=True)
    return [None if np.isnan(peak) else known.index(peak) + 1 for peak in peaks]


@dataclass(frozen=True)
class FixatedPixels:
    """The fixations on a picture, without those outside.

    Attributes:
        cells: (row, column) of each fixation's pixel, [n, 2].
        subjects: observer of each fixation, [n], or None.
        times: start of each fixation since the picture appeared, [n], milliseconds; or None.
        durations: duration of each fixation, [n], milliseconds; or None.
    """

    cells: NDArray[np.intp]
    subjects: NDArray | None = None
    times: NDArray | None = None
    durations: NDArray | None = None

    @classmethod
    def on_picture(
        cls,
        shape: tuple[int, int],
        fixations: NDArray,
        subjects: NDArray | None = None,
        times: NDArray | None = None,
        durations: NDArray | None = None,
    ) -> "FixatedPixels":
        """Return the fixations of a sample that fall on a picture of a shape (rows, columns).

        Args:
            shape: rows and columns of the picture.
            fixations: [n, 2], (x, y), 0-based pixel centres.
            subjects: observer of each fixation, [n], or None.
            times: start of each fixation, [n], milliseconds; or None.
            durations: duration of each fixation, [n], milliseconds; or None.
        """
        inside = are_within(fixations, shape)
        cells = np.floor(np.asarray(fixations[inside], np.float64)[:, ::-1] + 0.5).astype(np.intp)
        kept = [None if one is None else one[inside] for one in (subjects, times, durations)]
        return cls(cells, *kept)


@dataclass(frozen=True)
class Observed:
    """What a region gets of the fixations on its picture; NaN for what is not known.

    Attributes:
        share: share of the fixations, 0 to 1.
        looked: share of the observers of the picture with a fixation in the region, 0 to 1.
        first_ms: start of the first fixation in the region since the picture appeared, mean over
            the observers who looked, milliseconds.
        dwell_ms: summed duration of the fixations in the region, mean over all observers of the
            picture, milliseconds; an observer who did not look counts as 0.
    """

    share: float = NAN
    looked: float = NAN
    first_ms: float = NAN
    dwell_ms: float = NAN


def observed(fixated: FixatedPixels, window: Window) -> Observed:
    """Return what a region gets of the fixations on its picture.

    Args:
        fixated: the fixations.
        window: pixels of the region.
    """
    inside = window.holds(fixated.cells)
    if not inside.size:
        return Observed()
    share = float(inside.mean())
    if fixated.subjects is None:
        return Observed(share)
    observers = [fixated.subjects == who for who in np.unique(fixated.subjects)]
    return Observed(
        share,
        float(np.mean([bool(inside[own].any()) for own in observers])),
        _mean([_least(fixated.times, own & inside) for own in observers]),
        _mean([_total(fixated.durations, own, inside) for own in observers]),
    )


def _least(times: NDArray | None, own: NDArray[np.bool_]) -> float:
    """Return the least known time of some fixations, NaN without one."""
    known = [] if times is None else times[own][~np.isnan(times[own])]
    return float(min(known)) if len(known) else NAN


def _total(durations: NDArray | None, own: NDArray[np.bool_], inside: NDArray[np.bool_]) -> float:
    """Return the summed duration in the region of one observer, NaN if no duration is known."""
    if durations is None or np.isnan(durations[own]).all():
        return NAN
    return float(np.nansum(durations[own & inside], dtype=np.float64))


def _mean(values: Sequence[float]) -> float:
    """Return the mean of the values that are known, NaN without one."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else NAN

"""Fit of the numbers of a data set inside a network, such as a row of the table of `multiscale`.

The trunk sees each picture once. From its features the network's own last layer makes a density for
each row of numbers, so that the fit optimises exactly what the network does. The row starts at the
mean of the rows that the network was trained with, and the distance from it is penalised.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from salience.measures.adaptation import (
    OBJECTIVES,
    PENALTY,
    Adaptation,
    Fitting,
    SetNumbers,
)
from salience.measures.metrics import as_distribution

DIFFERENCE = 0.02  # of finite differences, in steps: single precision needs this
FURTHEST = 8.0  # steps that a number may be away from the mean


class Rows(Protocol):
    """The rows of numbers that a network can have.

    Attributes:
        mean: place of the mean of the network's rows; a place has a coordinate for each number, in
            units of an ordinary difference of two data sets (a step).
    """

    mean: NDArray

    def densities(self, features: Sequence[NDArray], places: NDArray) -> Iterator[NDArray]:
        """Yield the densities of each picture by several rows, [n, rows, columns]."""
        ...

    def numbers(self, place: NDArray) -> SetNumbers:
        """Return the numbers at a place."""
        ...

    def place(self, numbers: SetNumbers) -> NDArray:
        """Return the place of numbers."""
        ...


class FeaturesAndTruth(NamedTuple):
    """What the network's last layer is given of a picture, and its truth.

    Attributes:
        features: [rows, columns, channels].
        truth: fixation counts or density map on the cells of the density, [rows, columns].
    """

    features: NDArray
    truth: NDArray


def in_network(rows: Rows) -> Fitting:
    """Return how numbers are fitted inside a network, for `fit_adaptation`."""
    return Fitting(partial(best_numbers, rows), partial(row_values, rows))


def best_numbers(
    rows: Rows,
    pictures: Sequence[FeaturesAndTruth],
    start: SetNumbers | None = None,
    objective: str = "ig",
) -> SetNumbers:
    """Return the numbers that maximise an objective on pictures.

    A step away from the mean costs PENALTY for the sum over all pictures, so that numbers stay at
    the mean if the pictures do not determine them.

    Args:
        rows: the rows that the network can have.
        pictures: at least one.
        start: first numbers of the search; None for the mean.
        objective: key of OBJECTIVES.
    """
    from scipy.optimize import minimize  # here: `test`, which fits nothing, starts in a second

    count = len(rows.mean)
    beside = np.vstack([np.zeros(count), DIFFERENCE * np.eye(count)])

    def loss(place: NDArray) -> tuple[float, NDArray]:
        places = place + beside
        away = ((places - rows.mean) ** 2).sum(axis=1)
        losses = (PENALTY * away - at_places(rows, pictures, places, objective).sum(axis=0)) / len(
            pictures
        )
        return float(losses[0]), (losses[1:] - losses[0]) / DIFFERENCE

    first = rows.mean if start is None else rows.place(start)
    limits = np.stack([rows.mean - FURTHEST, rows.mean + FURTHEST], axis=1)
    found = minimize(
        loss, first, jac=True, method="L-BFGS-B", bounds=limits,
        options={"maxiter": 50, "ftol": 1e-5},
    )  # fmt: skip
    return rows.numbers(found.x)


def row_values(
    rows: Rows,
    numbers: SetNumbers | Adaptation,
    pictures: Sequence[FeaturesAndTruth],
    objective: str = "ig",
) -> NDArray[np.float64]:
    """Return the objective of each picture by a row of numbers; the mean row for the identity."""
    place = rows.place(numbers) if isinstance(numbers, SetNumbers) else rows.mean
    return at_places(rows, pictures, place[None], objective)[:, 0]


def at_places(
    rows: Rows, pictures: Sequence[FeaturesAndTruth], places: NDArray, objective: str
) -> NDArray[np.float64]:
    """Return the objective of each picture by several rows, [pictures, n].

    Cells outside the picture, whose density is 0, are left out.
    """
    function = OBJECTIVES[objective].function
    found = np.zeros((len(pictures), len(places)))
    densities = rows.densities([picture.features for picture in pictures], places)
    for own, picture, density in zip(found, pictures, densities, strict=True):
        inside = density[0] > 0
        cells = np.ix_(inside.any(axis=1), inside.any(axis=0))
        truth = as_distribution(picture.truth[cells])
        own[:] = function(density[:, *cells].astype(np.float64), truth)
    return found

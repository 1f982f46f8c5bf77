"""Ridge regression from sums: one pass over any number of pictures, exact, with memory of the sums.

What is added is forgotten; kept are the second moments of features and targets, in double
precision. Training and validation sums alone give the solution and the error of every penalty.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# In units of a standardised feature's variance: the objective is the mean squared error plus
# penalty * |weights|^2. From next to none to more than any feature can overcome, two a decade.
PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(-12, 5))
# of a feature's mean square about the sums' origin: below, its variance is rounding alone
CONSTANT = 1e-12


class Moments:
    """Sums of features x and targets y, from which their means and covariances follow.

    The sums are about the mean of the first batch, so that little is lost where means are large
    beside deviations.

    Args:
        features: how many.
        targets: how many.
    """

    def __init__(self, features: int, targets: int = 1) -> None:
        self.count = 0
        self.x_origin, self.y_origin = np.zeros(features), np.zeros(targets)
        self.x, self.y = np.zeros(features), np.zeros(targets)
        self.xx = np.zeros((features, features))
        self.xy = np.zeros((features, targets))
        self.yy = np.zeros(targets)

    def add(self, x: NDArray, y: NDArray) -> None:
        """Add observations: x [n, features] and y [n, targets], n above 0."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if not self.count:
            self.x_origin, self.y_origin = x.mean(axis=0), y.mean(axis=0)
        x, y = x - self.x_origin, y - self.y_origin
        self.count += len(x)
        self.x += x.sum(axis=0)
        self.y += y.sum(axis=0)
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.yy += np.einsum("nt,nt->t", y, y)

    def block(self, features: slice) -> "Moments":
        """Return the sums of some of the features, as if they had been added alone."""
        part = Moments(0)
        part.count, part.y_origin, part.y, part.yy = self.count, self.y_origin, self.y, self.yy
        part.x_origin, part.x = self.x_origin[features], self.x[features]
        part.xx, part.xy = self.xx[features, features], self.xy[features]
        return part

    @property
    def means(self) -> tuple[Array, Array]:
        """The means of features and targets."""
        return self.x_origin + self.x / self.count, self.y_origin + self.y / self.count

    def about(self, x_point: Array, y_point: Array) -> tuple[Array, Array, Array]:
        """Return the mean products about a point: xx, xy, and yy of each target."""
        dx, dy = x_point - self.x_origin, y_point - self.y_origin
        x, y = self.x / self.count, self.y / self.count
        xx = self.xx / self.count - np.outer(x, dx) - np.outer(dx, x) + np.outer(dx, dx)
        xy = self.xy / self.count - np.outer(x, dy) - np.outer(dx, y) + np.outer(dx, dy)
        return xx, xy, self.yy / self.count - 2 * y * dy + dy * dy


@dataclass(frozen=True)
class RidgeFit:
    """A linear read-out, y = x @ kernel + intercept, and how its penalty was chosen.

    Attributes:
        kernel: [features, targets], of features as they come.
        intercept: [targets].
        penalty: the one of least validation error.
        errors: the mean squared validation error of each of the penalties.
        explained: 1 minus the least error over that of the training mean; 0 is nothing, 1 all.
    """

    kernel: Array
    intercept: Array
    penalty: float
    errors: tuple[float, ...]
    explained: float


def solve(
    train: Moments, validation: Moments, penalties: tuple[float, ...] = PENALTIES
) -> RidgeFit:
    """Return the ridge solution of the training sums whose penalty suits the validation sums best.

    Features are standardised by the training sums, so that a penalty means the same for all; a
    feature that is constant gets no weight. One eigendecomposition serves all penalties.

    Source: Hoerl and Kennard, Technometrics 1970; the intercept is not penalised.

    >>> x, sums = np.arange(6.0)[:, None], Moments(1)
    >>> sums.add(x, 2 * x + 1)
    >>> fit = solve(sums, sums, (0.0,))
    >>> round(fit.kernel.item(), 9), round(fit.intercept.item(), 9)
    (2.0, 1.0)
    """
    x_mean, y_mean = train.means
    xx, xy, _ = train.about(x_mean, y_mean)
    spread = np.diag(xx).copy()
    varies = spread > CONSTANT * np.maximum(np.diag(train.xx) / train.count, CONSTANT)
    scale = np.where(varies, 1 / np.sqrt(np.where(varies, spread, 1)), 0)
    values, vectors = np.linalg.eigh(xx * scale[:, None] * scale)
    values = np.maximum(values, 0)  # rounding
    along = vectors.T @ (xy * scale[:, None])
    seen_xx, seen_xy, seen_yy = validation.about(x_mean, y_mean)
    # the validation error in the same axes, each solution of which is a division
    seen_xx = vectors.T @ (seen_xx * scale[:, None] * scale) @ vectors
    seen_xy = vectors.T @ (seen_xy * scale[:, None])
    nothing, errors, solutions = seen_yy.mean(), [], []
    for penalty in penalties:
        divisor = (values + penalty)[:, None]
        # a direction without spread and without penalty has no solution: none of it is the least
        weights = np.divide(along, divisor, out=np.zeros_like(along), where=divisor > 1e-12)
        products = -2 * seen_xy + seen_xx @ weights
        errors.append(float(nothing + (weights * products).sum() / len(seen_yy)))
        solutions.append(weights)
    best = int(np.argmin(errors))
    kernel = scale[:, None] * (vectors @ solutions[best])
    explained = 1 - errors[best] / nothing if nothing > 0 else float("nan")
    return RidgeFit(
        kernel, y_mean - x_mean @ kernel, penalties[best], tuple(errors), float(explained)
    )

"""Exact ridge regression from second moments, in one pass over any number of pictures.

Only the sums of products of features and targets are kept, in double precision. The sums of the
training and validation pictures determine the solution and the validation error of every penalty.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# The objective is the mean squared error plus penalty * |weights|^2, for standardised features.
# Penalties go from negligible to dominant, two a decade.
PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(-12, 5))
# share of a feature's mean square about the origin; a lower variance is only rounding
CONSTANT = 1e-12


class Moments:
    """Sums of features x, targets y and their products, which give means and covariances.

    The sums are taken about the mean of the first batch, which avoids cancellation if means are
    large compared with deviations.

    Args:
        features: number of features.
        targets: number of targets.
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
        """Return the sums for a subset of the features."""
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
        """Return the mean products about a point: xx [f, f], xy [f, t], and yy [t]."""
        dx, dy = x_point - self.x_origin, y_point - self.y_origin
        x, y = self.x / self.count, self.y / self.count
        xx = self.xx / self.count - np.outer(x, dx) - np.outer(dx, x) + np.outer(dx, dx)
        xy = self.xy / self.count - np.outer(x, dy) - np.outer(dx, y) + np.outer(dx, dy)
        return xx, xy, self.yy / self.count - 2 * y * dy + dy * dy


@dataclass(frozen=True)
class RidgeFit:
    """A linear read-out, y = x @ kernel + intercept, with its validation errors.

    Attributes:
        kernel: [features, targets], for features that are not standardised.
        intercept: [targets].
        penalty: the penalty with the least validation error.
        errors: mean squared validation error of each penalty.
        explained: explained variance, 1 - least error / error of the training mean; 1 is best, 0
            equals the mean.
    """

    kernel: Array
    intercept: Array
    penalty: float
    errors: tuple[float, ...]
    explained: float


def solve(
    train: Moments, validation: Moments, penalties: tuple[float, ...] = PENALTIES
) -> RidgeFit:
    """Return the ridge solution of the training sums with the least validation error.

    Features are standardised by the training sums, so that the penalty acts equally on all; a
    constant feature gets weight 0. One eigendecomposition yields the solutions of all penalties.

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
    # the validation error in the eigenbasis, in which each solution is a division
    seen_xx = vectors.T @ (seen_xx * scale[:, None] * scale) @ vectors
    seen_xy = vectors.T @ (seen_xy * scale[:, None])
    nothing, errors, solutions = seen_yy.mean(), [], []
    for penalty in penalties:
        divisor = (values + penalty)[:, None]
        # without variance and penalty, the solution is not unique: take the one of least norm
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

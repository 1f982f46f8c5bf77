"""The gold standard: what the other observers of a picture tell about where one observer looks.

Each observer is predicted by a density of three parts: a Gaussian kernel density of the other
observers' fixations on the picture, the centre bias of the other pictures, and a uniform density.
Its bandwidth and its shares maximise the likelihood of the left-out observers' fixations. They are
fitted in closed form, at the fixations only, without a map.

Sources: Kümmerer, Wallis and Bethge, PNAS 2015 (the gold standard); Kümmerer et al., arXiv
2505.10169, and arXiv 2605.03885 (parameters of each picture).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import ndtr, softmax

from salience.pictures.fixations import are_within, pixels

LEAST_PIXELS = 1.0  # of a bandwidth: a narrower Gaussian would be more than 1 at its pixel
BANDWIDTHS = 2.0 ** np.arange(-4, 5)  # where the search begins, multiples of the picture's sigma
NEAR = 2.0 ** np.arange(-2, 3)  # the same, multiples of the set's bandwidth
TOLERANCE = 1e-3  # of the logarithm of the bandwidth; the likelihood then has six digits
FARTHEST = 15.0  # greatest logarithm of the ratio of two shares
MOST_PAIRS = 10**7  # pairs of fixations in the fit of a set, eighty megabytes

Shares = NDArray[np.float64]  # [3], sum 1: the other observers, the centre bias, the uniform


@dataclass(frozen=True)
class GoldStandard:
    """The parameters of the density that predicts an observer.

    Attributes:
        bandwidth: standard deviation of the kernel, as a multiple of the picture's sigma.
        humans, centre, uniform: shares of the other observers' fixations, of the centre bias, and
            of the uniform density; their sum is 1.
        log_likelihood: mean log-likelihood of the left-out fixations that it was fitted to, nats
            per fixation.
    """

    bandwidth: float
    humans: float
    centre: float
    uniform: float
    log_likelihood: float = float("nan")

    def bandwidth_pixels(self, sigma_pixels: float) -> float:
        """Return the standard deviation of the kernel on a picture, pixels.

        >>> GoldStandard(0.5, 0.9, 0.05, 0.05).bandwidth_pixels(24.0)
        12.0
        """
        return kernel_pixels(self.bandwidth, sigma_pixels)


def kernel_pixels(bandwidth: float, sigma_pixels: float) -> float:
    """Return the standard deviation of a kernel whose bandwidth is a multiple of sigma, pixels."""
    return max(LEAST_PIXELS, bandwidth * sigma_pixels)


class LeftOut:
    """The fixations of a picture, each of which the other observers predict.

    Fixations count at the centres of their pixels, as in maps.

    Args:
        fixations: [n, 2], (x, y), pixels; those outside the picture are left out.
        subjects: [n], the observer of each fixation.
        shape: rows and columns of the picture.
        sigma_pixels: the picture's sigma, which is the unit of the bandwidth.
        centre: [rows, columns], the centre bias of the other pictures, sum 1.
    """

    def __init__(
        self,
        fixations: NDArray,
        subjects: NDArray,
        shape: tuple[int, int],
        sigma_pixels: float,
        centre: NDArray,
    ) -> None:
        cells = pixels(fixations, shape)
        _, self.owners = np.unique(subjects[are_within(fixations, shape)], return_inverse=True)
        self.shape, self.sigma_pixels = shape, sigma_pixels
        self.points = cells[:, ::-1].astype(np.float64)
        self.squares = ((self.points[:, None] - self.points) ** 2).sum(axis=-1)
        self.squares[self.owners[:, None] == self.owners] = np.inf  # nobody predicts himself
        self.centre = np.asarray(centre, np.float64)[cells[:, 0], cells[:, 1]]

    def __len__(self) -> int:
        """Return the number of fixations."""
        return len(self.points)

    def kernel_densities(self, bandwidth: float) -> NDArray[np.float64]:
        """Return the density of the other observers' fixations at each fixation, [n], per pixel.

        Args:
            bandwidth: standard deviation of the Gaussian, as a multiple of sigma.
        """
        wide = kernel_pixels(bandwidth, self.sigma_pixels)
        heights = np.exp(self.squares * (-0.5 / wide**2)).sum(axis=1) / (2 * np.pi * wide**2)
        # mass of each kernel inside the picture, whose edges lie half a pixel outside the centres
        ends = (np.array(self.shape[::-1]) - 0.5 - self.points) / wide
        inside = (ndtr(ends) - ndtr((-0.5 - self.points) / wide)).prod(axis=1)
        own = np.bincount(self.owners, inside)
        return heights / (inside.sum() - own)[self.owners]

    def likelihoods(self, bandwidth: float) -> NDArray[np.float64]:
        """Return each fixation's density under the three parts of the mixture, [n, 3]."""
        uniform = np.full(len(self), 1 / np.prod(self.shape))
        return np.stack([self.kernel_densities(bandwidth), self.centre, uniform], axis=1)


def fit_gold_standard(
    pictures: Sequence[LeftOut], near: GoldStandard | None = None
) -> GoldStandard:
    """Return the gold standard that maximises the mean log-likelihood of left-out fixations.

    For each bandwidth the best shares are found, a convex problem. The bandwidth is found by
    Brent's method between the neighbours of the best of a few.

    Args:
        pictures: the pictures, each with fixations of at least two observers.
        near: gold standard of many pictures, near which the search begins.

    >>> at = np.array([[10.0, 10.0], [12.0, 10.0], [10.0, 13.0], [12.0, 12.0]])
    >>> picture = LeftOut(at, np.array([0, 0, 1, 1]), (32, 32), 2.0, np.full((32, 32), 1 / 1024))
    >>> 1 < fit_gold_standard([picture]).bandwidth_pixels(2.0) < 3
    True
    """
    tried: dict[float, tuple[float, Shares]] = {}

    def loss(log_bandwidth: float) -> float:
        seen = [picture.likelihoods(math.exp(log_bandwidth)) for picture in pictures]
        tried[log_bandwidth] = likeliest_shares(np.concatenate(seen))
        return -tried[log_bandwidth][0]

    grid = np.log(near.bandwidth * NEAR if near else BANDWIDTHS).tolist()
    losses = [loss(place) for place in grid]
    at = losses.index(min(losses))
    ends = grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)]
    minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": TOLERANCE})
    best = max(tried, key=lambda place: tried[place][0])
    value, shares = tried[best]
    humans, centre, uniform = shares.tolist()
    return GoldStandard(math.exp(best), humans, centre, uniform, value)


def likeliest_shares(likelihoods: NDArray) -> tuple[float, Shares]:
    """Return the greatest mean log-likelihood of a mixture, and its shares.

    Args:
        likelihoods: [n, k], the density of each of n observations under each of k parts; the last
            part has none of 0.

    >>> value, shares = likeliest_shares(np.array([[1.0, 0.5], [0.1, 0.5]]))
    >>> bool(value >= np.log(0.5)), shares.round(3).tolist()
    (True, [0.125, 0.875])
    """

    def loss(logits: NDArray) -> tuple[float, NDArray]:
        shares = softmax(np.append(logits, 0.0))
        mixture = likelihoods @ shares
        slopes = shares * ((1 / mixture) @ likelihoods / len(mixture) - 1)
        return -float(np.log(mixture).mean()), -slopes[:-1]

    # from equal shares: near a share of 0 the slope vanishes, and the search would not leave it
    count = likelihoods.shape[1] - 1
    found = minimize(
        loss,
        np.zeros(count),
        bounds=[(-FARTHEST, FARTHEST)] * count,
        jac=True,
        method="L-BFGS-B",
        options={"ftol": 1e-12, "gtol": 1e-7},
    )
    return -float(found.fun), softmax(np.append(found.x, 0.0))

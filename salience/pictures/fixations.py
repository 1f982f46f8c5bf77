"""Fixations: density maps, count maps, rescaling, the centre bias and mixtures of densities.

Fixations are float32 [n, 2] in (x, y), 0-based pixel-centre coordinates of the original picture.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.floating]


def pixels(fixations: NDArray, shape: tuple[int, int]) -> NDArray[np.intp]:
    """Return the (row, column) of each fixation's pixel, without fixations outside the picture.

    Args:
        fixations: [n, 2], (x, y), pixels.
        shape: rows and columns of the picture.

    Returns:
        Integers [m, 2], m at most n. Two fixations at one pixel give two rows.

    >>> pixels(np.array([[2.4, 0.0], [9.0, 0.0]]), (4, 8)).tolist()
    [[0, 2]]
    """
    # a pixel reaches half a pixel to each side of its centre
    cells = np.floor(np.asarray(within(fixations, shape), np.float64)[:, ::-1] + 0.5)
    return cells.astype(np.intp)


def within(fixations: NDArray, shape: tuple[int, int]) -> NDArray:
    """Return the fixations that fall on a pixel of the picture, in their order."""
    return fixations[are_within(fixations, shape)]


def are_within(fixations: NDArray, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a mask, [n], of the fixations that fall on a pixel of the picture."""
    x, y = fixations.T
    return (x >= -0.5) & (y >= -0.5) & (x < shape[1] - 0.5) & (y < shape[0] - 0.5)


def count_map(fixations: NDArray, shape: tuple[int, int]) -> Array:
    """Return the number of fixations in each pixel, [rows, columns]."""
    counts = np.zeros(shape, np.float32)
    cells = pixels(fixations, shape)
    np.add.at(counts, (cells[:, 0], cells[:, 1]), 1)
    return counts


def density_map(fixations: NDArray, shape: tuple[int, int], sigma_pixels: float) -> Array:
    """Return the fixations blurred by a Gaussian, [rows, columns], scaled to a maximum of 1.

    A picture without fixations gives zeros. The border is padded with zeros, not mirrored.

    Args:
        fixations: [n, 2], (x, y), pixels.
        shape: rows and columns of the picture.
        sigma_pixels: standard deviation of the Gaussian, pixels.

    >>> density_map(np.array([[3.0, 2.0]]), (5, 8), 1.0).argmax() == 2 * 8 + 3
    np.True_
    """
    density = blurred(count_map(fixations, shape), sigma_pixels)
    peak = density.max()
    if peak > 0:
        density /= peak
    return density


def blurred(counts: NDArray, sigma_pixels: float) -> Array:
    """Return a map blurred by a Gaussian that is truncated at 4 sigma; borders are padded with 0.

    OpenCV's separable filter equals SciPy's up to rounding, in a quarter of the time.

    >>> round(float(blurred(np.ones((1, 1)), 1.0)[0, 0]), 4)  # 1 / (2 pi)
    0.1592
    """
    import cv2  # here, since metrics.py imports this module and needs only NumPy and SciPy

    reach = int(4 * sigma_pixels + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_pixels) ** 2)
    kernel /= kernel.sum()
    return cv2.sepFilter2D(  # type: ignore[return-value]
        np.asarray(counts, np.float32), cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_CONSTANT
    )


def blurred_fixations(fixations: NDArray, shape: tuple[int, int], sigma_pixels: float) -> Array:
    """Return `blurred` of the count map of fixations, up to rounding, faster for some hundreds.

    The Gaussian is separable: the map is the product of two narrow matrices, which hold each
    fixation's Gaussian along the rows and along the columns.

    Args:
        fixations: [n, 2], (x, y), pixels.
        shape: rows and columns of the picture.
        sigma_pixels: standard deviation of the Gaussian, pixels.

    >>> round(float(blurred_fixations(np.zeros((1, 2)), (1, 1), 1.0)[0, 0]), 4)  # 1 / (2 pi)
    0.1592
    """
    cells = pixels(fixations, shape)
    reach = int(4 * sigma_pixels + 0.5)
    if len(cells) > 4 * reach:  # the filter takes less time
        return blurred(count_map(fixations, shape), sigma_pixels)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_pixels) ** 2)
    kernel = np.pad(kernel / kernel.sum(), 1).astype(np.float32)  # 0 beyond its reach
    rows, columns = (
        kernel[np.clip(np.arange(length) - at[:, None], -reach - 1, reach + 1) + reach + 1]
        for length, at in zip(shape, cells.T, strict=True)
    )
    return rows.T @ columns


def density_of_fixations(fixations: NDArray, shape: tuple[int, int], sigma_pixels: float) -> Array:
    """Return `density_map` by `blurred_fixations`: equal up to rounding, for scoring.

    >>> density_of_fixations(np.array([[3.0, 2.0]]), (5, 8), 1.0).argmax() == 2 * 8 + 3
    np.True_
    """
    density = blurred_fixations(fixations, shape, sigma_pixels)
    return density / max(float(density.max()), np.finfo(np.float32).tiny)


def centre_bias(
    pictures: Iterable[tuple[NDArray, tuple[int, int]]], shape: tuple[int, int], sigma: float
) -> Array:
    """Return the centre bias: the density of all fixations, scaled to one shape.

    Args:
        pictures: (fixations, shape of their picture) of each training picture.
        shape: rows and columns of the map.
        sigma: standard deviation of the Gaussian, pixels of the map.

    Source: the baseline of Tatler, Journal of Vision, 2007.
    """
    return density_map(gathered(pictures, shape), shape, sigma)


def gathered(
    pictures: Iterable[tuple[NDArray, tuple[int, int]]], shape: tuple[int, int]
) -> NDArray:
    """Return the fixations of many pictures, all scaled to one shape, [n, 2].

    Args:
        pictures: (fixations, shape of their picture) of each picture.
        shape: rows and columns of the common shape.
    """
    scaled = [rescaled(points, old, shape) for points, old in pictures]
    return np.concatenate(scaled or [np.zeros((0, 2))])


def rescaled(fixations: NDArray, old: tuple[int, int], new: tuple[int, int]) -> NDArray:
    """Return the fixations of a picture that is scaled from the shape `old` to `new`.

    >>> rescaled(np.array([[0.0, 0.0]]), (2, 2), (4, 4)).tolist()
    [[0.5, 0.5]]
    """
    # coordinates are pixel centres, but scaling is relative to the corner: hence the halves
    return (np.asarray(fixations, np.float64) + 0.5) * (new[1] / old[1], new[0] / old[0]) - 0.5


def other_fixations(
    pictures: Sequence[tuple[NDArray, tuple[int, int]]],
    index: int,
    count: int | None = None,
    seed: int | Sequence[int] = 0,
) -> NDArray:
    """Return the fixations of the other pictures, scaled to one picture: sAUC's negatives.

    Args:
        pictures: (fixations, shape of their picture) of each picture of the data set.
        index: index of the picture that is scored.
        count: number of other pictures to draw; None takes all.
        seed: seed of the draw.

    >>> two = [(np.zeros((1, 2)), (2, 2)), (np.zeros((3, 2)), (4, 4))]
    >>> other_fixations(two, 1).tolist()
    [[0.5, 0.5]]
    """
    chosen = [i for i in range(len(pictures)) if i != index]
    if count is not None and count < len(chosen):
        chosen = np.random.default_rng(seed).choice(chosen, count, replace=False).tolist()
    return gathered([pictures[i] for i in chosen], pictures[index][1])


def kernel_density(points: NDArray, at: NDArray, shape: tuple[int, int], sigma: float) -> NDArray:
    """Return the kernel density estimate of points, at given positions, per pixel.

    It equals the map of `blurred`, scaled to sum 1 over the picture, at these positions only.

    Args:
        points: [n, 2], (x, y), pixels; n at least 1.
        at: positions, [m, 2], (x, y), pixels.
        shape: rows and columns of the picture.
        sigma: standard deviation of the Gaussian, pixels.

    Returns:
        [m], 0 or more.

    >>> value = kernel_density(np.array([[50.0, 50.0]]), np.array([[50.0, 50.0]]), (101, 101), 2.0)
    >>> round(float(value[0]), 4)  # 1 / (2 pi 2^2)
    0.0398
    """
    squares = ((at[:, None] - points) ** 2).sum(axis=-1)
    heights = np.exp(-0.5 * squares / sigma**2) / (2 * np.pi * sigma**2)
    # mass of each Gaussian inside the picture, whose edges are half a pixel beyond pixel centres
    inside = np.prod(
        [
            ndtr((side - 0.5 - points[:, i]) / sigma) - ndtr((-0.5 - points[:, i]) / sigma)
            for i, side in enumerate(shape[::-1])
        ],
        axis=0,
    )
    return heights.sum(axis=1) / inside.sum()


def mixture_weights(likelihoods: NDArray, rounds: int = 200) -> NDArray[np.float64]:
    """Return the maximum-likelihood weights of a mixture of densities, by expectation maximisation.

    The problem is convex, so the start does not matter.

    Args:
        likelihoods: [n, k], the density of each of n observations under each of k components.
        rounds: number of iterations.

    Returns:
        [k], 0 or more, with sum 1; equal weights without observations.

    Source: Dempster, Laird and Rubin, JRSS B 1977.

    >>> mixture_weights(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])).tolist()
    [0.75, 0.25]
    """
    # observations with density 0 under all components do not determine the weights
    seen = np.asarray(likelihoods, np.float64)[np.any(likelihoods, axis=1)]
    weights = np.full(likelihoods.shape[1], 1 / likelihoods.shape[1])
    for _ in range(rounds if len(seen) else 0):
        shares = seen * weights
        weights = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
    return weights

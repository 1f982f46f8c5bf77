"""Points to maps and back: density maps, fixation maps, counts on a grid, the centre bias.

Fixations are float32 [n, 2] in (x, y), 0-based pixel-centre coordinates of the original picture.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Array = NDArray[np.floating]


def pixels(fixations: NDArray, shape: tuple[int, int]) -> NDArray[np.intp]:
    """Return the (row, column) of each fixation's pixel; those outside the picture are left out.

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
    x, y = fixations.T
    return fixations[(x >= -0.5) & (y >= -0.5) & (x < shape[1] - 0.5) & (y < shape[0] - 0.5)]


def count_map(fixations: NDArray, shape: tuple[int, int]) -> Array:
    """Return how many fixations fall into each pixel, [rows, columns]."""
    counts = np.zeros(shape, np.float32)
    cells = pixels(fixations, shape)
    np.add.at(counts, (cells[:, 0], cells[:, 1]), 1)
    return counts


def density_map(fixations: NDArray, shape: tuple[int, int], sigma_pixels: float) -> Array:
    """Return the fixations blurred by a Gaussian, [rows, columns], scaled to a maximum of 1.

    A picture without fixations gives zeros. Outside the picture there is nothing, so density near
    the border is not mirrored back into it.

    Args:
        fixations: [n, 2], (x, y), pixels.
        shape: rows and columns of the picture.
        sigma_pixels: standard deviation of the Gaussian, pixels.

    >>> density_map(np.array([[3.0, 2.0]]), (5, 8), 1.0).argmax() == 2 * 8 + 3
    np.True_
    """
    density = gaussian_filter(count_map(fixations, shape), sigma_pixels, mode="constant")
    peak = density.max()
    return density / peak if peak > 0 else density


def centre_bias(
    pictures: Iterable[tuple[NDArray, tuple[int, int]]], shape: tuple[int, int], sigma: float
) -> Array:
    """Return where people look whatever the picture: all fixations, scaled to one shape, blurred.

    Args:
        pictures: (fixations, shape of their picture) of each training picture.
        shape: rows and columns of the map.
        sigma: standard deviation of the Gaussian, pixels of the map.

    Source: the baseline that Tatler (Journal of Vision, 2007) asks every model to beat.
    """
    scaled = [rescaled(points, old, shape) for points, old in pictures]
    return density_map(np.concatenate(scaled or [np.zeros((0, 2))]), shape, sigma)


def rescaled(fixations: NDArray, old: tuple[int, int], new: tuple[int, int]) -> NDArray:
    """Return the fixations of a picture as they lie when it is scaled to another shape.

    >>> rescaled(np.array([[0.0, 0.0]]), (2, 2), (4, 4)).tolist()
    [[0.5, 0.5]]
    """
    # pixel centres, not corners, are what a scale keeps in place: hence the halves
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
        index: which of them is scored.
        count: how many of the others to draw; None takes all.
        seed: of the draw.

    >>> two = [(np.zeros((1, 2)), (2, 2)), (np.zeros((3, 2)), (4, 4))]
    >>> other_fixations(two, 1).tolist()
    [[0.5, 0.5]]
    """
    chosen = [i for i in range(len(pictures)) if i != index]
    if count is not None and count < len(chosen):
        chosen = np.random.default_rng(seed).choice(chosen, count, replace=False).tolist()
    shape = pictures[index][1]
    scaled = [rescaled(*pictures[i], shape) for i in chosen]
    return np.concatenate(scaled or [np.zeros((0, 2))])

"""Marks from a saliency map: peaks, contours, best crop, mask of the most salient area.

The functions take a map, float32 [rows, columns] from 0 to 1, and a BGR picture, uint8 [rows,
columns, 3], of the same size. Drawing functions return a new picture. No files are written here.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from salience.system.errors import UserError

APART = 0.07  # share of the picture's diagonal; about three degrees as viewed in OSIE
LEVELS = (0.05, 0.1, 0.2)  # shares of a picture's area
# BGR, from the most salient share outwards: yellow, pink, light blue, which are rare in photographs
LEVEL_COLOURS = ((60, 240, 255), (190, 110, 255), (255, 215, 95))
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
DISC = 0.022  # radius of a numbered disc, of the picture's diagonal
RING = 0.6  # radius of the ring around a peak, of the disc's
# distances of a disc from its peak that are tried, of the disc's radius, and directions
DISTANCES, DIRECTIONS = (2.4, 3.2, 4.2, 5.5), 16
DIGIT = 0.76  # height of OpenCV's digits, of the height that it tells of a text
LINE = 0.003  # width of a contour, likewise
GAP = 0.01  # between two pictures, of their height
ASPECT = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(?::(\d{1,9}(?:\.\d{1,9})?))?", re.ASCII)


@dataclass(frozen=True)
class Peak:
    """A local maximum of the saliency map.

    Attributes:
        x, y: 0-based pixel centre in the original picture.
        strength: the map's value there over its maximum.
        rank: from 1, the strongest.
    """

    x: int
    y: int
    strength: float
    rank: int


def peaks(saliency_map: NDArray, count: int, apart: float | None = None) -> list[Peak]:
    """Return the strongest local maxima, the strongest first; equal ones from top to bottom.

    A plateau counts once, at its pixel nearest to its middle. A constant map has no peak, and
    neither has what is zero.

    Args:
        saliency_map: [rows, columns], 0 and up.
        count: how many at most.
        apart: pixels between any two, at least; by default 7 % of the diagonal.

    >>> peaks(np.array([[0, 0, 0], [0, 8, 0], [0, 0, 0], [4, 0, 0]]), 2, apart=1)
    [Peak(x=1, y=1, strength=1.0, rank=1), Peak(x=0, y=3, strength=0.5, rank=2)]
    """
    values = np.asarray(saliency_map, np.float32)
    if values.max() <= max(values.min(), 0):
        return []
    x, y = _local_maxima(values)
    strength = values[y, x] / values.max()
    order = np.lexsort((x, y, -strength))
    x, y, strength = x[order], y[order], strength[order]
    least = APART * math.hypot(*values.shape) if apart is None else apart
    found: list[Peak] = []
    while len(x) and len(found) < count:
        found.append(Peak(int(x[0]), int(y[0]), float(strength[0]), len(found) + 1))
        far = np.hypot(x - x[0], y - y[0]) >= least
        far[0] = False
        x, y, strength = x[far], y[far], strength[far]
    return found


def _local_maxima(values: NDArray) -> tuple[NDArray, NDArray]:
    """Return x and y of each local maximum above zero; a plateau gives one point."""
    around = np.ones((3, 3), np.uint8)
    tops = (values == cv2.dilate(values, around)) & (values > 0)
    # a flat part of a slope is not a maximum: one of its pixels has a higher neighbour
    terraces = tops & (cv2.dilate(np.where(tops, -1, values), around) == values)
    count, labels, _, middles = cv2.connectedComponentsWithStats(tops.astype(np.uint8))
    real = np.ones(count, bool)
    real[labels[terraces]] = False
    y, x = np.nonzero(tops & real[labels])
    label = labels[y, x]
    from_middle = np.hypot(x - middles[label, 0], y - middles[label, 1])
    order = np.lexsort((x, y, from_middle, label))
    first = order[np.unique(label[order], return_index=True)[1]]
    return x[first], y[first]


def disc_radius(shape: tuple[int, ...]) -> int:
    """Return the radius of numbered discs in pixels for a picture of rows and columns."""
    rows, cols = shape[:2]
    return min(max(9, round(DISC * math.hypot(rows, cols))), (min(rows, cols) - 1) // 2)


def number_places(peaks: Sequence[Peak], shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return the middle (x, y) of each peak's numbered disc, in pixels, in the order of the peaks.

    A disc stands beside its peak, so that it does not cover what it marks, and whole inside the
    picture. It avoids the other peaks and the other discs where there is room; the strongest peak
    chooses first.

    Args:
        peaks: the peaks.
        shape: rows and columns of the picture.
    """
    rows, cols = shape[:2]
    radius = disc_radius(shape)
    reach = min(radius + 1, (min(rows, cols) - 1) // 2)  # with the smoothed edge
    turns = 2 * np.pi * (np.arange(DIRECTIONS) + 0.5) / DIRECTIONS - np.pi / 2  # upwards first
    offsets = np.concatenate(
        [far * radius * np.stack([np.cos(turns), np.sin(turns)], axis=1) for far in DISTANCES]
    )
    points = np.array([(peak.x, peak.y) for peak in peaks], float).reshape(-1, 2)
    places = np.full(points.shape, np.inf)
    for i in sorted(range(len(peaks)), key=lambda i: peaks[i].rank):
        tried = np.clip(points[i] + offsets, reach, np.array([cols, rows]) - 1 - reach)
        near = 1.3 * RING * radius + radius  # a disc nearer than this touches a ring
        crowding = np.maximum(near - _distances(tried, points), 0).sum(axis=1)
        crowding += np.maximum(2.2 * radius - _distances(tried, places), 0).sum(axis=1)
        places[i] = tried[np.argmin(np.round(crowding, 3))]
    return [(round(x), round(y)) for x, y in places.tolist()]


def _distances(places: NDArray, others: NDArray) -> NDArray:
    """Return the distance of each place to each other one, [places, others]."""
    return np.hypot(*(places[:, None] - others[None]).transpose(2, 0, 1))


def draw_peaks(picture: NDArray[np.uint8], peaks: Sequence[Peak]) -> NDArray[np.uint8]:
    """Return the picture with a ring on each peak, and a line to its number beside it.

    The peak itself stays visible. Sizes grow with the picture. The strongest peak is on top.
    """
    drawn = picture.copy()
    radius = disc_radius(picture.shape)
    line = max(1, round(radius / 8))
    places = number_places(peaks, picture.shape)
    for place, peak in sorted(zip(places, peaks, strict=True), key=lambda pair: -pair[1].rank):
        at, ring = (peak.x, peak.y), max(round(RING * radius), 1)
        apart = max(math.dist(at, place), 1e-9)
        start = tuple(round(a + (b - a) * ring / apart) for a, b in zip(at, place, strict=True))
        # white between black is visible on any background
        for width, colour in ((3 * line, BLACK), (line, WHITE)):
            cv2.circle(drawn, at, ring, colour, width, cv2.LINE_AA)
            if apart > ring:
                cv2.line(drawn, start, place, colour, width, cv2.LINE_AA)
        for smaller, colour in ((0, BLACK), (line, WHITE), (2 * line, BLACK)):
            cv2.circle(drawn, place, max(radius - smaller, 0), colour, cv2.FILLED, cv2.LINE_AA)
        _write_centred(drawn, str(peak.rank), place, radius - 2 * line)
    return drawn


def _write_centred(picture: NDArray[np.uint8], text: str, at: tuple[int, int], radius: int) -> None:
    """Write white text into a disc of a picture."""
    font, thickness = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(radius / 8))
    (width, height), _ = cv2.getTextSize(text, font, 1.0, thickness)
    scale = 1.6 * radius / math.hypot(width, DIGIT * height)  # its diagonal fits into the disc
    (width, height), _ = cv2.getTextSize(text, font, scale, thickness)
    origin = (at[0] - round(width / 2), at[1] + round(DIGIT * height / 2))
    cv2.putText(picture, text, origin, font, scale, WHITE, thickness, cv2.LINE_AA)


def thresholded(saliency_map: NDArray, share: float) -> NDArray[np.bool_]:
    """Return a mask of the highest values, which cover at most this share of the area.

    Equal values are in or out together. The mask of a map with large plateaus may therefore be
    smaller; that of a constant map is empty unless `share` is 1.

    >>> thresholded(np.array([[0.1, 0.4], [0.3, 0.2]]), 0.5).tolist()
    [[False, True], [True, False]]
    """
    values = np.asarray(saliency_map)
    most = math.floor(share * values.size + 1e-9)
    if most >= values.size:
        return np.ones(values.shape, bool)
    below = values.size - 1 - most
    return values > np.partition(values, below, axis=None)[below]


def contours(
    saliency_map: NDArray, levels: Sequence[float] = LEVELS
) -> list[list[NDArray[np.int32]]]:
    """Return the contours of the most salient share of the area, for each level.

    Args:
        saliency_map: [rows, columns].
        levels: shares of the area, 0 to 1 (see `thresholded`): 0.05 encloses the top 5 %.

    Returns:
        for each level its lines, of holes also, as pixels (x, y), [n, 2], on the share's border.
    """
    found = []
    for level in levels:
        mask = thresholded(saliency_map, level).astype(np.uint8)
        lines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
        found.append([line[:, 0].astype(np.int32) for line in lines])
    return found


def draw_contours(
    picture: NDArray[np.uint8], saliency_map: NDArray, levels: Sequence[float] = LEVELS
) -> NDArray[np.uint8]:
    """Return the picture with contours of the most salient shares of its area.

    The smallest share is drawn last and widest, in yellow; the next is pink, all others light blue.
    Lines have a black edge, which is visible on any background. Contours smaller than their line
    are left out.
    """
    drawn = picture.copy()
    width = max(1, round(LINE * math.hypot(*picture.shape[:2])))
    for i, found in reversed(list(enumerate(contours(saliency_map, sorted(levels))))):
        colour = LEVEL_COLOURS[min(i, len(LEVEL_COLOURS) - 1)]
        own = width if i else round(1.5 * width)
        lines = [line for line in found if cv2.contourArea(line) > (2 * own) ** 2]
        for thickness, shade in ((own + 2 * math.ceil(width / 3), BLACK), (own, colour)):
            cv2.polylines(drawn, lines, True, shade, thickness, cv2.LINE_AA)
    return drawn


def parse_aspect(text: str) -> float:
    """Return an aspect ratio, width over height.

    Raises:
        UserError: the text is neither W:H nor a number, or not above 0.

    >>> parse_aspect("16:9") == 16 / 9, parse_aspect("1:1"), parse_aspect("1.91")
    (True, 1.0, 1.91)
    """
    found = ASPECT.fullmatch(text.strip())
    width, height = (float(found[1]), float(found[2] or 1)) if found else (0.0, 0.0)
    if not width or not height:
        raise UserError(
            f"'{text}' is no aspect ratio: expected two numbers above 0, width and height, such "
            "as 16:9, or one, such as 1.91."
        )
    return width / height


def best_crop(saliency_map: NDArray, aspect: float) -> tuple[int, int, int, int]:
    """Return x, y, width and height of the largest crop with the most saliency.

    The crop has the picture's full width or height, and the nearest aspect ratio in whole pixels.
    Of crops with equal saliency, the one nearest to the middle is taken.

    Args:
        saliency_map: [rows, columns], 0 and up.
        aspect: width over height.

    >>> best_crop(np.array([[0, 0, 0, 1, 2, 0]]), 2)
    (3, 0, 2, 1)
    """
    rows, cols = saliency_map.shape
    if rows * aspect <= cols:
        width, height = max(1, round(rows * aspect)), rows
        return _best_stretch(saliency_map.sum(axis=0, dtype=float), width), 0, width, height
    width, height = cols, min(rows, max(1, round(cols / aspect)))
    return 0, _best_stretch(saliency_map.sum(axis=1, dtype=float), height), width, height


def _best_stretch(sums: NDArray, length: int) -> int:
    """Return the start of the window with the largest sum; of equal ones, the most central."""
    upto = np.concatenate([[0.0], np.cumsum(sums)])
    kept = upto[length:] - upto[:-length]
    best = np.flatnonzero(kept >= kept.max() - 1e-9 * upto[-1])  # equal but for rounding
    return int(best[np.argmin(np.abs(best - (len(sums) - length) / 2))])


def side_by_side(*pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pictures side by side with a thin white gap, all scaled to the height of the first.

    Args:
        pictures: BGR [rows, columns, 3], or grey [rows, columns]; at least one.
    """
    rows = pictures[0].shape[0]
    gap = np.full((rows, max(2, round(GAP * rows)), 3), 255, np.uint8)
    row: list[NDArray] = []
    for picture in pictures:
        colour = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR) if picture.ndim == 2 else picture
        if colour.shape[0] != rows:
            width = max(1, round(colour.shape[1] * rows / colour.shape[0]))
            method = cv2.INTER_AREA if rows < colour.shape[0] else cv2.INTER_LINEAR
            colour = cv2.resize(colour, (width, rows), interpolation=method)
        row += [gap, colour]
    return np.hstack(row[1:])


def matched(saliency_map: NDArray, reference: NDArray) -> NDArray[np.float32]:
    """Return the map matched to the reference's histogram, with the same order of pixels.

    Equal pixels stay equal: they get the mean of the reference's values at their ranks. The mean of
    the result is therefore the reference's mean; a constant map becomes this mean.

    Args:
        saliency_map: [rows, columns].
        reference: a map of any shape; only its values count, so those of many maps will do.

    >>> matched(np.array([[1, 2], [3, 3]]), np.array([0, 0.2, 0.6, 1])).tolist()
    [[0.0, 0.20000000298023224], [0.800000011920929, 0.800000011920929]]
    """
    wanted = np.sort(np.asarray(reference, float), axis=None)
    # what the reference's lowest values add up to, as a function of the share of its pixels
    shares = np.arange(len(wanted) + 1) / len(wanted)
    sums = np.concatenate([[0.0], np.cumsum(wanted)]) / len(wanted)
    values = np.asarray(saliency_map)
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.concatenate([[0], np.cumsum(counts)]) / values.size
    levels = np.diff(np.interp(ends, shares, sums)) / np.diff(ends)
    # but for rounding they are within the reference, and ascend
    levels = np.maximum.accumulate(np.clip(levels, wanted[0], wanted[-1]))
    return levels.astype(np.float32)[which].reshape(values.shape)

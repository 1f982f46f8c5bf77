"""Tells pictures of screens (web pages, text, programs) from photographs, without a network."""

import cv2
import numpy as np
from numpy.typing import NDArray

LOOK = "like screenshots"  # in notes, after the number of pictures
STEP = 32  # grey levels between two neighbours: a sharp edge
FLAT = np.ones((3, 3), np.uint8)  # pixels without any step: a flat place
NEAR = np.ones((9, 9), np.uint8)  # within four pixels of a flat place
SIDES = 3.4  # length of sharp edges beside flat places that makes a screen, sides of the picture


def edges_on_flat_ground(picture: NDArray[np.uint8]) -> float:
    """Return the length of sharp edges beside perfectly flat places, in sides of the picture.

    Text and boxes on a screen stand on ground of one colour. Lenses, noise and JPEG leave no such
    ground beside the edges of a photograph. A side is the root of the number of pixels.

    Args:
        picture: BGR uint8 [rows, columns, 3] at the size of a network's input, without padding.

    >>> edges_on_flat_ground(np.zeros((60, 80, 3), np.uint8))
    0.0
    """
    green = cv2.extractChannel(np.ascontiguousarray(picture), 1)
    if min(green.shape) < 2:
        return 0.0
    corner = green[:-1, :-1]
    step = cv2.max(cv2.absdiff(green[:-1, 1:], corner), cv2.absdiff(green[1:, :-1], corner))
    even = cv2.threshold(step, 0, 255, cv2.THRESH_BINARY_INV)[1]
    sharp = cv2.threshold(step, STEP, 255, cv2.THRESH_BINARY)[1]
    near_flat = cv2.dilate(cv2.erode(even, FLAT), NEAR)
    return cv2.countNonZero(cv2.bitwise_and(sharp, near_flat)) / float(np.sqrt(step.size))


def is_like_a_screen(picture: NDArray[np.uint8]) -> bool:
    """Return whether a picture looks like a screenshot, as a rule of thumb.

    Measured by `benchmarks/measures/screenshots.py`: none of 1210 photographs (OSIE's 700,
    EyeCrowd's 500, 10 of SALICON's), each also at a quarter of its size, is taken for one at
    240x320, 288x384 or 480x640; the greatest value is 2.9. Of 126 rendered pages at 288x384, 120
    are as PNG and as JPEG 90, 119 as JPEG 75. Those missed are forms on even ground.

    Args:
        picture: see `edges_on_flat_ground`.
    """
    return edges_on_flat_ground(picture) > SIDES

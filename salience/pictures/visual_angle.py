"""Degrees of visual angle as pixels of a screen; a fast import, for settings."""

import math
import re

from salience.system.errors import UserError

LEAST, MOST = 1, 1000  # pixels per degree that any set-up may have
SQUARE = 0.03  # largest relative difference between width and height of a pixel
SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
LENGTHS = re.compile(r"(\d{1,4}(?:\.\d+)?)(?:x(\d{1,4}(?:\.\d+)?))?")


def parse_screen(text: str) -> tuple[int, int]:
    """Return width and height of a screen such as 1920x1080, pixels.

    Raises:
        UserError: the text is no size.
    """
    match = SIZE.fullmatch(text.lower().replace(" ", ""))
    if not match or not (int(match[1]) and int(match[2])):
        raise UserError(f"--screen {text}: width and height in pixels are expected: 1920x1080.")
    return int(match[1]), int(match[2])


def parse_lengths(text: str) -> tuple[float, float | None]:
    """Return width and height of a screen such as 53.1x29.9, centimetres; None for no height.

    Raises:
        UserError: the text is neither a width nor a size.
    """
    match = LENGTHS.fullmatch(text.lower().replace(" ", ""))
    if not match or not float(match[1]) or (match[2] and not float(match[2])):
        raise UserError(
            f"--screen_cm {text}: the width of the screen in centimetres is expected, or width and "
            "height: 53.1x29.9."
        )
    return float(match[1]), float(match[2]) if match[2] else None


def pixels_per_degree(distance_cm: float, screen_cm: str, screen: str) -> float:
    """Return the pixels that one degree of visual angle spans in the middle of a screen.

    A degree spans 2 d tan(0.5°) at a distance d, measured to the middle of the screen. At its edges
    a degree spans more pixels.

    Args:
        distance_cm: distance of the eyes from the screen, centimetres.
        screen_cm: width of the screen, or width and height, centimetres.
        screen: width and height of the screen, pixels.

    Raises:
        UserError: a text is no size, width and height give pixels that are not square, or the
            result is none that a set-up can have.

    >>> round(pixels_per_degree(57.3, "50", "1000x800"), 2)  # about one centimetre
    20.0
    """
    (width, height), (width_cm, height_cm) = parse_screen(screen), parse_lengths(screen_cm)
    per_cm = width / width_cm
    if height_cm and abs(height / height_cm / per_cm - 1) > SQUARE:
        raise UserError(
            f"--screen_cm {screen_cm} and --screen {screen}: {per_cm:.1f} pixels per centimetre of "
            f"width but {height / height_cm:.1f} of height. Measure the visible picture, without "
            "the frame, and name the resolution that was set."
        )
    found = per_cm * 2 * distance_cm * math.tan(math.radians(0.5))
    if not LEAST <= found <= MOST:
        raise UserError(
            f"--distance_cm {distance_cm:g}, --screen_cm {screen_cm} and --screen {screen} give "
            f"{found:.4g} pixels per degree. Are the lengths in centimetres?"
        )
    return found


def degree_of(
    named: float | None, distance_cm: float | None, screen_cm: str | None, screen: str | None
) -> tuple[float, str] | None:
    """Return the pixels per degree that flags give, and the flags as text; None without any.

    Args:
        named: value of --pixels_per_degree.
        distance_cm: value of --distance_cm.
        screen_cm: value of --screen_cm.
        screen: value of --screen; alone it says nothing of degrees.

    Raises:
        UserError: some flags are missing, or both ways are named.

    >>> degree_of(35.0, None, None, None)
    (35.0, '--pixels_per_degree 35')
    """
    if distance_cm is None and screen_cm is None:
        return (named, f"--pixels_per_degree {named:g}") if named is not None else None
    if named is not None:
        raise UserError(
            f"--pixels_per_degree {named:g} says all: leave out --distance_cm and --screen_cm."
        )
    if distance_cm is None or screen_cm is None or screen is None:
        flags = {"distance_cm": distance_cm, "screen_cm": screen_cm, "screen": screen}
        missing = " and ".join(f"--{name}" for name, value in flags.items() if value is None)
        raise UserError(f"--distance_cm, --screen_cm and --screen belong together; add {missing}.")
    found = pixels_per_degree(distance_cm, screen_cm, screen)
    return found, f"--distance_cm {distance_cm:g} --screen_cm {screen_cm} --screen {screen}"

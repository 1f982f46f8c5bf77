"""The place of a picture on the screen, and the way from the screen's coordinates to the picture's.

Pixels are 0-based pixel centres: a screen of w pixels reaches from -0.5 to w - 0.5.
"""

from dataclasses import dataclass

from salience.system.errors import UserError

CENTRE = "centre"
Shape = tuple[int, int]


@dataclass(frozen=True)
class Placement:
    """The place of pictures on the screen.

    Attributes:
        screen: width and height of the screen, pixels; None if unknown.
        box: left, top, width and height of each picture on the screen, pixels; None for pictures
            that are shown at their own size, in the centre.
    """

    screen: Shape | None = None
    box: tuple[float, float, float, float] | None = None

    def box_of(self, shape: Shape) -> tuple[float, float, float, float]:
        """Return left, top, width and height of a picture on the screen, pixels.

        Args:
            shape: rows and columns of the picture.

        Raises:
            UserError: the screen is unknown, or smaller than the picture.
        """
        if self.box:
            return self.box
        rows, columns = shape
        if self.screen is None:
            raise UserError(
                "The export's coordinates are the screen's: --screen is needed, such as 1920x1080, "
                "or --placed X,Y,W,H."
            )
        width, height = self.screen
        if columns > width or rows > height:
            raise UserError(
                f"A picture of {columns} x {rows} pixels was not shown at its own size on a screen "
                f"of {width} x {height}: name its place with --placed X,Y,W,H."
            )
        return (width - columns) / 2, (height - rows) / 2, columns, rows

    def to_picture(self, x: float, y: float, shape: Shape) -> tuple[float, float]:
        """Return a place on the screen as a place in the picture, pixels.

        Args:
            x: pixels of the screen, from its left.
            y: pixels of the screen, from its top.
            shape: rows and columns of the picture.

        >>> Placement((1920, 1080)).to_picture(959.5, 539.5, (600, 800))
        (399.5, 299.5)
        >>> Placement(box=(100, 50, 400, 300)).to_picture(100, 50, (600, 800))
        (0.5, 0.5)
        """
        rows, columns = shape
        left, top, width, height = self.box_of(shape)
        return (
            (x + 0.5 - left) * columns / width - 0.5,
            (y + 0.5 - top) * rows / height - 0.5,
        )


def from_shares(x: float, y: float, width: float, height: float) -> tuple[float, float]:
    """Return shares of a screen or a picture as pixels.

    >>> from_shares(0.5, 0, 100, 50)
    (49.5, -0.5)
    """
    return x * width - 0.5, y * height - 0.5


def parse_placed(text: str) -> tuple[float, float, float, float] | None:
    """Return left, top, width and height of pictures on the screen; None for `centre`.

    Raises:
        UserError: the text is neither.
    """
    if text.strip().lower() in (CENTRE, "center"):
        return None
    try:
        left, top, width, height = map(float, text.split(","))
    except ValueError:
        width = height = left = top = 0.0
    # larger numbers and those that are not finite are no pixels
    if not (max(abs(left), abs(top)) < 1e5 and 0 < width < 1e5 and 0 < height < 1e5):
        raise UserError(
            f"--placed {text}: '{CENTRE}', or X,Y,W,H in pixels of the screen is expected, such as "
            "560,240,800,600."
        )
    return left, top, width, height

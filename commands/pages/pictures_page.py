"""Renders the maps of `test` as one self-contained HTML page: overlay, map, contours and points.

The input is plain numbers, texts and encoded pictures; no other files and no internet are needed.
"""

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from commands.pages.figures import shrink
from commands.pages.regions_page import cell, precise, svg_points
from commands.pages.report import environment, map_png, number, plain, script_of, style_of
from salience.pictures.marks import LEVELS, Peak, contours, disc_radius, number_places
from salience.pictures.picture_files import in_colours
from salience.system.files import write_text

Row = dict[str, Any]

LONGEST = 800  # pixels of a picture on the page
MAP_LONGEST = 160  # pixels of its map; the page scales it up smoothly
FIGURES_LONGEST = 640  # pixels of the map that figures and contours are computed from
WEBP_QUALITY = 70
ROUGHNESS = 0.0015  # largest error of a contour on the page, of the picture's diagonal
MOST_NAMES = 20  # regions by whose share the page sorts; the dialog shows all
# figures of a map: key, title, explanation, kind of number (see `regions_page.cell`)
FIGURES = (
    ("half", "Area of half the map", "smallest part of the area with half of the map", "percent"),
    ("entropy", "Concentration, bits", "bits below a uniform map: 0 for an even map", "times"),
    ("peak", "Peak over mean", "greatest value divided by the mean", "times"),
    ("off_centre", "Off centre", "picture's to map's centre, share of the diagonal", "percent"),
)  # fmt: skip
# figures of two maps
DIFFERENCES = (
    ("moved", "Moved", "part of the map that lies elsewhere: 0 equal, 100 % disjoint", "percent"),
    ("cc", "Correlation", "of the two maps, over pixels: 1 if they are equal", "times"),
)


@dataclasses.dataclass(frozen=True)
class View:
    """A picture and its map, as the page shows them.

    Attributes:
        width, height: columns and rows of the picture.
        image: the picture, as WebP.
        map: the map, as a small grey PNG.
        levels: for each contour level the polygons, as attributes of SVG.
        radius: radius of numbered discs, pixels of the picture.
        points: the peaks, each with the place of its number.
        regions: outlines of regions with their shares, see `regions.measured.outline`.
        figures: figures of the map by key of FIGURES; None for a constant map of 0.
    """

    width: int
    height: int
    image: bytes
    map: bytes
    levels: list[list[str]]
    radius: int
    points: list[Row]
    regions: list[Row]
    figures: dict[str, float | None]


@dataclasses.dataclass(frozen=True)
class Shown:
    """A picture of the page, and its other version if there is one.

    Attributes:
        name: its name.
        own, other: the picture with its map, and the other version.
        differences: figures of the two maps by key of DIFFERENCES.
        greatest: greatest absolute difference of the two maps, each with a maximum of 1.
    """

    name: str
    own: View
    other: View | None = None
    differences: dict[str, float | None] = dataclasses.field(default_factory=dict)
    greatest: float = 0.0


def view(picture: NDArray, saliency_map: NDArray, points: list[Peak], regions: list[Row]) -> View:
    """Return what the page shows of a picture.

    Args:
        picture: BGR, uint8 [rows, columns, 3].
        saliency_map: [rows, columns], 0 or more.
        points: its peaks.
        regions: outlines of its regions.
    """
    shape = saliency_map.shape
    places = number_places(points, shape)
    small = shrink(saliency_map.astype(np.float32), FIGURES_LONGEST)
    return View(
        width=shape[1],
        height=shape[0],
        image=webp(picture),
        map=map_png(saliency_map, MAP_LONGEST),
        levels=contour_lines(small, shape),
        radius=disc_radius(shape),
        points=[
            {"rank": peak.rank, "x": peak.x, "y": peak.y, "strength": round(peak.strength, 4),
             "left": left, "top": top}
            for peak, (left, top) in zip(points, places, strict=True)
        ],
        regions=[
            {**region, "polygons": [svg_points(polygon) for polygon in region["polygons"]]}
            for region in regions
        ],
        figures=figures(small),
    )  # fmt: skip


def compared(name: str, own: View, other: View, own_map: NDArray, other_map: NDArray) -> Shown:
    """Return a picture with its other version; both maps are compared at the first one's shape."""
    a = shrink(own_map.astype(np.float32), FIGURES_LONGEST)
    b = cv2.resize(other_map.astype(np.float32), a.shape[::-1], interpolation=cv2.INTER_AREA)
    flat = np.ptp(a) == 0 or np.ptp(b) == 0
    moved = 0.5 * np.abs(a / a.sum() - b / b.sum()).sum() if a.any() and b.any() else None
    found = {
        "moved": None if moved is None else float(moved),
        "cc": None if flat else float(np.corrcoef(a.ravel(), b.ravel())[0, 1]),
    }
    greatest = np.abs(a / max(a.max(), 1e-9) - b / max(b.max(), 1e-9)).max()
    return Shown(name, own, other, found, float(greatest))


def figures(saliency_map: NDArray) -> dict[str, float | None]:
    """Return the figures of a map, [rows, columns], 0 or more, by key of FIGURES.

    >>> figures(np.ones((4, 5)))["half"], figures(np.eye(2))["entropy"]
    (0.5, 1.0)
    """
    values = np.asarray(saliency_map, float)
    total = values.sum()
    if not total > 0:
        return dict.fromkeys(key for key, *_ in FIGURES)
    shares = np.sort(values, axis=None)[::-1] / total
    above = shares[shares > 0]
    rows, columns = values.shape
    y, x = (values.sum(axis=axis) @ np.arange(n) / total for axis, n in ((1, rows), (0, columns)))
    off = np.hypot(y - (rows - 1) / 2, x - (columns - 1) / 2) / np.hypot(rows, columns)
    held = int(np.searchsorted(np.cumsum(shares), 0.5 - 1e-9)) + 1
    return {
        "half": held / values.size,
        "entropy": float(np.log2(values.size) + above @ np.log2(above)) + 0.0,
        "peak": float(values.max() / values.mean()),
        "off_centre": float(off),
    }


def contour_lines(saliency_map: NDArray, shape: tuple[int, ...]) -> list[list[str]]:
    """Return the contours of a map as attributes of SVG polygons in a picture of another shape."""
    rows, columns = saliency_map.shape
    scale = np.array([shape[1] / columns, shape[0] / rows])
    rough = ROUGHNESS * float(np.hypot(rows, columns))
    found = []
    for lines in contours(saliency_map):
        smooth = [cv2.approxPolyDP(line[:, None], rough, True)[:, 0] for line in lines]
        found.append([
            svg_points(np.round((line + 0.5) * scale, 1).ravel().tolist())
            for line in smooth if len(line) > 2
        ])  # fmt: skip
    return found


def webp(picture: NDArray, longest: int = LONGEST) -> bytes:
    """Return a picture, BGR uint8 [rows, columns, 3], as a small WebP."""
    small = shrink(picture, longest)
    return cv2.imencode(".webp", small, [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY])[1].tobytes()


def write_pictures_page(path: Path, found: dict[str, Any]) -> None:
    """Write the page of pictures atomically as one HTML file.

    Args:
        path: the HTML file.
        found: `shown` (a list of `Shown`), `labels` (names of the two versions; one without another
            version), `colormap`, `notes`, `date` and `command`. All texts are escaped.

    Raises:
        UserError: the file cannot be written.
    """
    write_text(path, render_pictures(found))


def render_pictures(found: dict[str, Any]) -> str:
    """Return the HTML of the page of pictures."""
    shown = found["shown"]
    values = plain({**found, "shown": [dataclasses.asdict(one) for one in shown]})
    columns = figure_columns(values["shown"])
    greatest = max((one.greatest for one in shown), default=0)
    ramp = in_colours(np.linspace(0, 1, 33)[None], found["colormap"])[0, :, ::-1]
    colours = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in ramp.tolist()]
    script, digest = script_of("shared.js", "pictures.js", "theme.js")
    return environment().get_template("pictures.html").render(
        **{**values, "shown": len(shown)},
        title="Saliency maps",
        sentence=sentence(values["shown"]),
        columns=columns,
        colours=colours,
        levels=[f"{100 * level:g}" for level in LEVELS],
        has_points=any(one["own"]["points"] for one in values["shown"]),
        has_regions=any(one["own"]["regions"] for one in values["shown"]),
        limit=number(greatest, 2),
        script=script,
        script_hash=digest,
        style=style_of("report.css", "regions.css", "pictures.css"),
        payload={
            "colours": colours,
            "columns": [{"name": column[1], "about": column[2]} for column in columns],
            "labels": values["labels"],
            "limit": greatest or 1,
            "pictures": [_picture(one, columns) for one in values["shown"]],
        },
    )  # fmt: skip


def figure_columns(shown: list[Row]) -> list[tuple[str, str, str, str]]:
    """Return the figures of the page: those of maps, of two maps, and shares of regions."""
    names = dict.fromkeys(region["name"] for one in shown for region in one["own"]["regions"])
    regions = [
        (f"region:{name}", f"Region: {name}", "its share of the predicted density", "percent")
        for name in list(names)[:MOST_NAMES]
    ]
    both = DIFFERENCES if any(one["other"] for one in shown) else ()
    return [*FIGURES, *both, *regions]  # fmt: skip


def _picture(one: Row, columns: list[tuple[str, str, str, str]]) -> Row:
    """Return a picture for the page's script, with each figure as a number and as text."""
    values = {**one["own"]["figures"], **one["differences"]}
    values |= {f"region:{region['name']}": region["share"] for region in one["own"]["regions"]}
    sides = [side for side in (one["own"], one["other"]) if side]
    return {
        "name": one["name"],
        "figures": [
            [None if values.get(key) is None else float(f"{values[key]:.6g}"),
             cell(values.get(key), kind)]
            for key, _, _, kind in columns
        ],
        "sides": [
            {**{key: value for key, value in side.items() if key != "figures"},
             "regions": [{**region, "text": precise(region["share"])}
                         for region in side["regions"]]}
            for side in sides
        ],
    }  # fmt: skip


def sentence(shown: list[Row]) -> str:
    """Return the result in a sentence or two."""
    changed = [one for one in shown if one["differences"].get("moved") is not None]
    if changed:
        parts = [(one["differences"]["moved"], one["name"]) for one in changed]
        (most, name), (least, other) = max(parts), min(parts)
        share = cell(most, "percent")
        text = f"The two maps differ most on {name}: {share} of the map lies elsewhere."
        if len(changed) > 1:
            text += f" They differ least on {other}: {cell(least, 'percent')}."
        return text
    known = [one for one in shown if one["own"]["figures"]["half"] is not None]
    if not known:
        return "No map has any structure." if shown else "No picture has a map."
    parts = [(one["own"]["figures"]["half"], one["name"]) for one in known]
    (least, name), (most, other) = min(parts), max(parts)
    text = (
        f"The map of {name} is the most concentrated: half of it lies in "
        f"{cell(least, 'percent')} of the area."
    )
    if len(known) > 1:
        text += f" That of {other} is the widest, with {cell(most, 'percent')}."
    return text

"""Renders the measurements of `regions` as one self-contained HTML page.

The input is the content of `regions.json` with pictures; no other files and no internet are needed.
"""

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from commands.pages.figures import shrink
from commands.pages.report import (
    DASH,
    MAP_LEVELS,
    THIN_SPACE,
    environment,
    number,
    plain,
    script_of,
    style_of,
)
from salience.system.files import write_text

Row = dict[str, Any]

MOST_ROWS = 2000  # of the table; regions.csv has all
OPACITY = 0.9  # of the greatest density in the heat map
# columns of the table: key, title, explanation, kind of number
COLUMNS = (
    ("share", "Predicted", "share of the predicted density", "percent"),
    ("area", "By area", "what its area alone would get", "percent"),
    ("times", "Times area", "predicted, divided by area", "times"),
    ("peak", "Peak", "of the greatest density", "percent"),
    ("rank", "Rank", "by peak", "count"),
    ("observed_share", "Observed", "share of the fixations", "percent"),
    ("observed_looked", "Looked", "share of the observers", "percent"),
    ("observed_first_ms", "First look", "mean, ms", "count"),
    ("observed_dwell_ms", "Dwell", "mean, ms", "count"),
    ("against_share", "Against", "predicted, other version", "percent"),
    ("difference", "Difference", "percentage points", "points"),
)


def write_regions_page(path: Path, found: dict[str, Any]) -> None:
    """Write the results of `regions` atomically as one HTML file.

    Args:
        path: the HTML file.
        found: the content of `regions.json`, and `shown`: for each picture a list of what the page
            shows of it and of its other version (`commands/regions/measured.py`, `Shown`); [] for a
            picture that is only in the table. All texts are escaped.

    Raises:
        UserError: the file cannot be written.
    """
    write_text(path, render_regions(found))


def render_regions(found: dict[str, Any]) -> str:
    """Return the HTML page of the results of `regions`."""
    shown = [[dataclasses.asdict(one) for one in versions] for versions in found["shown"]]
    values = plain({**found, "shown": shown})
    rows = table_rows(values)
    script, digest = script_of("shared.js", "regions.js", "theme.js")
    return environment().get_template("regions.html").render(
        values,
        title="Attention to regions",
        sentence=sentence(rows, values["failing"]),
        columns=[
            column for column in COLUMNS if any(row.get(column[0]) is not None for row in rows)
        ],
        rows=rows[:MOST_ROWS],
        rows_in_all=len(rows),
        widest=max((row["share"] for row in rows), default=0) or 1.0,
        cards=cards(values),
        script=script,
        script_hash=digest,
        style=style_of("report.css", "regions.css"),
        cell=cell,
        precise=precise,
        points=points,
    )  # fmt: skip


def table_rows(values: Row) -> list[Row]:
    """Return a row for each region of each picture, with its places on the page."""
    failing = {(one["image"], one["name"]): one["least"] for one in values["failing"]}
    return [
        {
            **region,
            "image": picture["image"],
            "anchor": f"picture-{place}" if values["shown"][place] else None,
            "outline": f"{place}-{index}",
            "least": failing.get((picture["image"], region["name"])),
        }
        for place, picture in enumerate(values["pictures"])
        for index, region in enumerate(picture["regions"])
    ]


def cards(values: Row) -> list[Row]:
    """Return what the page shows of each picture: its versions, each with outlines and labels."""
    made = []
    for place, (picture, shown) in enumerate(zip(values["pictures"], values["shown"], strict=True)):
        indices = {region["name"]: i for i, region in enumerate(picture["regions"])}
        names = [picture["image"], (picture.get("against") or {}).get("image")]
        versions = []
        for one, name, kind in zip(shown, names, ("this version", "against"), strict=False):
            outlines = [
                {
                    **outline,
                    "id": f"{place}-{indices.get(outline['name'], 'other')}",
                    "points": [svg_points(polygon) for polygon in outline["polygons"]],
                }
                for outline in one["outlines"]
            ]
            versions.append({**one, "name": name, "kind": kind, "outlines": outlines})
        if versions:
            made.append({"id": f"picture-{place}", "name": names[0], "versions": versions})
    return made


def svg_points(polygon: list[float]) -> str:
    """Return x, y, x, y, ... as the attribute of an SVG polygon.

    >>> svg_points([0.0, 0.5, 2.0, 1.0])
    '0,0.5 2,1'
    """
    return " ".join(f"{x:g},{y:g}" for x, y in zip(polygon[::2], polygon[1::2], strict=True))


def cell(value: float | None, kind: str) -> str:
    """Return a value of the table as text.

    >>> cell(0.123, "percent") == f"12.3{THIN_SPACE}%", cell(None, "count") == DASH
    (True, True)
    """
    if value is None:
        return DASH
    if kind == "percent":
        return precise(value)
    return points(value) if kind == "points" else number(value, 2 if kind == "times" else 0)


def precise(value: float | None) -> str:
    """Return a share as text in per cent with one decimal, or a dash if it is missing."""
    return DASH if value is None else f"{number(100 * value, 1)}{THIN_SPACE}%"


def points(value: float | None) -> str:
    """Return a difference of shares as text in percentage points, or a dash if it is missing."""
    return DASH if value is None else number(100 * value, 1, signed=True)


def sentence(rows: list[Row], failing: list[Row]) -> str:
    """Return the result in a sentence or two."""
    if failing:
        count = len(failing)
        return (
            f"{count} region{'s get' if count > 1 else ' gets'} less than --fail_below asks: "
            + "; ".join(
                f"“{one['name']}” of {one['image']} {precise(one['share'])}, "
                f"limit {precise(one['least'])}"
                for one in failing[:3]
            )
            + ("; …" if count > 3 else ".")
        )
    changed = [row for row in rows if row.get("difference") is not None]
    if changed:
        row = max(changed, key=lambda row: abs(row["difference"]))
        return (
            f"“{row['name']}” of {row['image']} changed most: {precise(row['share'])} of the "
            f"predicted attention, {precise(row['against_share'])} in the other version."
        )
    row = max(rows, key=lambda row: row["times"] or 0)
    return (
        f"“{row['name']}” of {row['image']} stands out most: it gets {precise(row['share'])} of "
        f"the predicted attention with {precise(row['area'])} of the area."
    )


def heat_png(density: NDArray, longest: int = 256) -> bytes:
    """Return the square root of a density as a PNG in colours, more opaque where it is higher.

    Args:
        density: [rows, columns], 0 or more, not all 0.
        longest: rows or columns of the PNG, pixels.
    """
    small = shrink(np.asarray(density / density.max(), np.float32), longest)
    levels = np.round(np.sqrt(small / small.max()) * (MAP_LEVELS - 1)) / (MAP_LEVELS - 1)
    colours = cv2.applyColorMap((255 * levels).astype(np.uint8), cv2.COLORMAP_INFERNO)
    alpha = (255 * OPACITY * levels**0.6).astype(np.uint8)
    return cv2.imencode(".png", np.dstack([colours, alpha]), [cv2.IMWRITE_PNG_COMPRESSION, 9])[
        1
    ].tobytes()

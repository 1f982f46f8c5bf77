"""Measuring: the rows of `regions` for each picture, with what the page shows of it."""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commands.pages.regions_page import heat_png
from commands.pages.report import thumbnail_jpeg
from commands.prediction.engines import Engine
from commands.regions.pairs import Pair, Version
from salience.data.regions import SAME_ASPECT, Region, Window
from salience.measures.density import log_density
from salience.measures.region_shares import FixatedPixels, observed, predicted, ranks
from salience.pictures.headers import room
from salience.pictures.letterbox import postprocess, read_input
from salience.pictures.reading import sample_image
from salience.pictures.sample import Sample
from salience.pictures.screens import LOOK
from salience.system.errors import UserError
from salience.system.notes import Notes
from salience.system.threads import in_order

LONGEST = 1000  # pixels of a picture on the page
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Shown:
    """What the page shows of a picture: JPEG, heat map as PNG, and the outlines of its regions."""

    width: int
    height: int
    image: bytes
    heat: bytes
    outlines: list[Row]


@dataclasses.dataclass(frozen=True)
class Measured:
    """The measurements of a picture.

    Attributes:
        image: its name.
        other: name of the other version, or None.
        shape, other_shape: rows and columns; None without another version.
        rows: the measurements of its regions.
        shown: what the page shows of it, and of its other version; [] beyond the gallery.
    """

    image: str
    other: str | None
    shape: tuple[int, int]
    other_shape: tuple[int, int] | None
    rows: list[Row]
    shown: list[Shown]


def measure_all(
    pairs: list[Pair],
    engine: Engine,
    smooth: float,
    workers: int,
    gallery: int,
    notes: Notes,
) -> Iterator[Measured | UserError]:
    """Yield the measurements of each picture in order, or why it cannot be measured.

    Args:
        pairs: the pictures.
        engine: the network, with its calibration.
        smooth: blur of the maps, pixels.
        workers: threads that read and measure.
        gallery: number of pictures whose maps the page shows.
        notes: receives regions that lie outside their picture.
    """
    slots = BoundedSemaphore(engine.at_once)

    def density(sample: Sample) -> NDArray[np.float64]:
        x, box = read_input(sample, engine.input_shape, notes)
        if engine.is_outside_limits(x, box):
            notes.add(f"pictures {LOOK}. The weights' card: {engine.limits}", sample.name)
        with slots:
            prediction = engine.maps(x[None])[0]
        with room(box.image_shape):
            saliency_map = postprocess(prediction, box, engine.grid, smooth)
            return np.exp(log_density(saliency_map, engine.calibration), dtype=np.float64)

    def measured(numbered: tuple[int, Pair]) -> Measured | UserError:
        place, pair = numbered
        try:
            return measure(pair, density, place < gallery, notes)
        except UserError as error:
            return error
        except MemoryError:
            name = pair.own.sample.name
            return UserError(f"{name} needs more memory than is available. Scale it down.")

    with ThreadPoolExecutor(workers) as pool:
        for _, found in in_order(pool, measured, enumerate(pairs), workers):
            yield found


def measure(
    pair: Pair, density_of: Callable[[Sample], NDArray], is_shown: bool, notes: Notes
) -> Measured:
    """Return the measurements of a picture and of its other version.

    Args:
        pair: the picture and its other version.
        density_of: function of a sample that returns its density, [rows, columns], sum 1.
        is_shown: whether to make the pictures of the page.
        notes: receives regions that lie outside their picture.

    Raises:
        UserError: a picture cannot be read.
    """
    density = density_of(pair.own.sample)
    shape = density.shape[0], density.shape[1]
    version = on_picture(pair.own, shape, notes)
    windows = windows_of(version, shape, notes)
    rows = predicted_rows(density, windows)
    if pair.own.sample.fixations is not None:
        add_observed(rows, pair.own.sample, shape, windows)
    shown = [picture(version, density, rows)] if is_shown else []
    if pair.other is None:
        return Measured(pair.own.sample.name, None, shape, None, rows, shown)
    density = density_of(pair.other.sample)
    other_shape = density.shape[0], density.shape[1]
    version = on_picture(of_other(pair, shape, other_shape, notes), other_shape, notes)
    windows = windows_of(version, other_shape, notes)
    others = predicted_rows(density, windows)
    shown += [picture(version, density, others)] if is_shown else []
    by_name = {row["name"]: row for row in others}
    for row in rows:
        other = by_name.get(row["name"], {})
        row |= {f"against_{key}": other.get(key) for key in ("share", "area", "peak", "rank")}
        row["difference"] = row["share"] - other["share"] if other else None
        if not other:
            notes.add(f"regions '{row['name']}' are not in the other version", pair.own.sample.name)
    for name in by_name.keys() - {row["name"] for row in rows}:
        notes.add(f"regions '{name}' are in the other version only: left out",
                  pair.other.sample.name)  # fmt: skip
    return Measured(pair.own.sample.name, pair.other.sample.name, shape, other_shape, rows, shown)


def on_picture(version: Version, shape: tuple[int, int], notes: Notes) -> Version:
    """Return a picture with its regions in its own pixels, with a note on those that are scaled.

    Raises:
        UserError: a region was drawn on a picture of another aspect.
    """
    made = tuple(region.on(shape) for region in version.regions)
    if any(new is not old for new, old in zip(made, version.regions, strict=True)):
        notes.add("regions drawn at another size are scaled to the picture", version.sample.name)
    return Version(version.sample, made)


def of_other(
    pair: Pair, shape: tuple[int, int], other_shape: tuple[int, int], notes: Notes
) -> Version:
    """Return the other version; regions that were named for the first are in the first's pixels.

    They are not scaled to another aspect: a longer page begins with the same pixels.
    """
    assert pair.other
    if pair.other.regions is not pair.own.regions or shape == other_shape:
        return pair.other
    if abs(shape[0] * other_shape[1] / (shape[1] * other_shape[0]) - 1) > SAME_ASPECT - 1:
        notes.add("pictures and their other version differ in aspect: regions are at the same "
                  "pixels of both", pair.other.sample.name)  # fmt: skip
        return pair.other
    own = (dataclasses.replace(one, size=one.size or shape) for one in pair.other.regions)
    return Version(pair.other.sample, tuple(own))


def windows_of(version: Version, shape: tuple[int, int], notes: Notes) -> dict[str, Window]:
    """Return the pixels of each region by name, with notes on what lies outside the picture."""
    windows = {}
    for region in version.regions:
        windows[region.name] = window = region.window(shape)
        outside, name = region.outside(shape), f"{version.sample.name}: {region.name}"
        if not window.inside.any():
            kind = "outside their picture" if outside == 1 else "without the centre of any pixel"
            notes.add(f"regions {kind}: they get nothing", name)
        elif outside:
            notes.add(
                "regions reach outside their picture: only the part inside counts",
                f"{name}, {100 * outside:.3g} % outside",
            )
    return windows


def predicted_rows(density: NDArray, windows: dict[str, Window]) -> list[Row]:
    """Return a row for each region with what it gets of a density."""
    found = [predicted(density, window) for window in windows.values()]
    order = ranks([one.peak for one in found])
    return [
        {
            "name": name,
            "share": one.share,
            "area": one.area,
            "times": one.share / one.area if one.area else None,
            "peak": one.peak,
            "peak_x": one.x if one.x >= 0 else None,
            "peak_y": one.y if one.y >= 0 else None,
            "rank": rank,
        }
        for name, one, rank in zip(windows, found, order, strict=True)
    ]


def add_observed(
    rows: list[Row], sample: Sample, shape: tuple[int, int], windows: dict[str, Window]
) -> None:
    """Add to each row what its region gets of the observed fixations."""
    assert sample.fixations is not None
    fixated = FixatedPixels.on_picture(
        shape, sample.fixations, sample.subjects, sample.times, sample.durations
    )
    for row, window in zip(rows, windows.values(), strict=True):
        found = dataclasses.asdict(observed(fixated, window))
        row |= {f"observed_{name}": value for name, value in found.items()}


def picture(version: Version, density: NDArray, rows: list[Row]) -> Shown:
    """Return what the page shows of a picture."""
    shares = {row["name"]: row["share"] for row in rows}
    return Shown(
        density.shape[1],
        density.shape[0],
        thumbnail_jpeg(sample_image(version.sample), LONGEST),
        heat_png(density),
        [outline(region, shares[region.name], density.shape) for region in version.regions],
    )


def outline(region: Region, share: float, shape: tuple[int, ...]) -> Row:
    """Return the outline of a region as JSON values, with the place of its label.

    Polygons are lists of x, y in pixels. `left`, `top`, `right` and `bottom` are the limits of the
    region inside the picture, in per cent of the picture.
    """
    corners, size = np.concatenate(region.polygons), (shape[1], shape[0])
    left, top = np.clip(corners.min(axis=0) / size, 0, 1) * 100
    right, bottom = np.clip(corners.max(axis=0) / size, 0, 1) * 100
    return {
        "name": region.name,
        "share": share,
        "polygons": [
            [round(float(value), 2) for value in polygon.ravel()] for polygon in region.polygons
        ],
        "left": float(left),
        "top": float(top),
        "right": float(right),
        "bottom": float(bottom),
    }


def with_keys(rows: list[Row]) -> list[Row]:
    """Return rows with equal keys, in order of their first occurrence; missing values are None."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    ordered = [key for key in keys if not key.startswith(("against_", "difference"))]
    ordered += [key for key in keys if key not in ordered]
    return [{key: row.get(key) for key in ordered} for row in rows]

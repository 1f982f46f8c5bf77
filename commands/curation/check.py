"""The command `data check`: reports what is present, missing or wrong in a data set.

It reads the same parts (`salience.data.parts`) as the loaders, which stop at the first error, but
lists all errors.
"""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from commands.pages import figures
from commands.settings import CheckConfig
from salience.data import loading
from salience.data.parts import FileGroup, equal_files, unpaired
from salience.data.points import Looks, Read
from salience.pictures.fixations import are_within, density_map, gathered
from salience.pictures.headers import JPEG, header_shape, read_header
from salience.pictures.picture_files import read_image, read_map, whole_picture
from salience.pictures.sample import Stored
from salience.system.errors import UserError
from salience.system.files import make_folder, write_json
from salience.system.notes import Notes
from salience.system.terminal import aligned, progress, tell

Shape = tuple[int, int]
THUMBNAIL = (120, 160)  # rows and columns at which maps are averaged
SIDE = 32  # side of the square thumbnails that are compared, pixels
# High-pass correlation above which two pictures count as the same. OSIE's duplicate pair has 1.00;
# no other pair of OSIE or EyeCrowd has more than 0.49.
MIN_CORRELATION = 0.9
MIN_CONTRAST = 1.0  # grey levels; pictures with less cannot be compared
BLOCK = 256  # pictures per block of comparisons


@dataclass
class Findings:
    """Problems of a data set, and harmless remarks."""

    problems: Notes = field(default_factory=Notes)
    remarks: Notes = field(default_factory=Notes)


@dataclass(frozen=True)
class Examined:
    """The result of checking one picture.

    Attributes:
        shape: rows and columns in the orientation of its ground truth; None for an unreadable file.
        fixations: fixations inside the picture, [n, 2], (x, y); None without a record.
        outside: number of fixations outside the picture.
        observers: number of observers; None if unknown.
        thumbnail: its density map at a small size; None without a map.
        descriptor: unit vector for comparing pictures; None without contrast.
        name: name of the picture.
        split: split of its part; empty if a plan divides the data set.
    """

    shape: Shape | None
    fixations: NDArray | None = None
    outside: int = 0
    observers: int | None = None
    thumbnail: NDArray | None = None
    descriptor: NDArray | None = None
    name: str = ""
    split: str = ""


def check(settings: CheckConfig, say: Callable[[str], None] = tell) -> bool:
    """Check the files of a data set; print and write the results; return True without problems.

    Args:
        settings: the data set and the output folder.
        say: called with each message.

    Raises:
        UserError: there is no such folder, it holds no pictures, or the data set is built in.
    """
    name, root = settings.dataset, settings.data
    parts = loading.parts(name, root, settings.columns)
    if not parts:
        raise UserError(f"{name} is built in: it has no files to check.")
    make_folder(settings.output)
    findings, rows, pictures = Findings(), [], []
    for part in parts:
        examined = examine_part(part, findings, settings.workers)
        rows.append(row_of(part, examined))
        pictures += examined
    note_absent(settings.dataset, settings.data, {part.title for part in parts}, findings)
    splits, refused = loading.splits_of(name, root, settings.columns)
    note_duplicates(pictures, splits, findings.remarks)
    for line in loading.not_read(root, parts):
        findings.remarks.explain(line)
    if not findings.problems.lines():  # otherwise they would be reported twice
        for line in refused:
            findings.problems.explain(line)
    say(f"{name} at {root}\n{file_table(rows)}")
    for label, notes in (("problem", findings.problems), ("note", findings.remarks)):
        for names in notes.found.values():
            names.sort()  # threads add names in any order
        for line in notes.lines():
            say(f"{label}: {line}")
    well = not findings.problems.lines()
    say("no problems" if well else "problems were found")
    drawn = draw(name, parts[0].sigma_pixels, pictures, settings.output / "check.png")
    write_json(
        settings.output / "check.json",
        {
            "dataset": name,
            "data": str(root),
            "well": well,
            "parts": rows,
            "problems": as_json(findings.problems),
            "notes": as_json(findings.remarks),
        },
    )
    say(f"wrote {settings.output}/check.json" + (" and check.png" if drawn else ""))
    return well


def as_json(notes: Notes) -> dict[str, Any]:
    """Return notes as JSON values, with all names."""
    return {**notes.found, "remarks": notes.remarks}


def note_absent(dataset: str, data: Path | None, there: set[str], findings: Findings) -> None:
    """Note the published parts of a data set that are missing."""
    module = loading.module_of(dataset, data)
    for title, counts in getattr(module, "PUBLISHED", {}).items():
        if title in there:
            continue
        line = f"{title}: no pictures ({counts[0]:,} are published)"
        if title in getattr(module, "WITHOUT_TRUTH", ()):
            findings.remarks.explain(
                f"{line}; they have no ground truth and are only for submissions"
            )
        else:
            findings.problems.explain(line)


def note_duplicates(pictures: list[Examined], splits: dict[str, str], remarks: Notes) -> None:
    """Note pictures that look like another one, which may leak training data into the test split.

    Args:
        pictures: all pictures of the data set.
        splits: split by picture name, if a plan divides the data set.
        remarks: receives the notes.
    """
    comparable = [one for one in pictures if one.descriptor is not None]
    descriptors = np.array([one.descriptor for one in comparable], np.float32)
    for start in range(0, len(comparable), BLOCK):
        alike = (
            descriptors[start : start + BLOCK] @ descriptors[: start + BLOCK].T >= MIN_CORRELATION
        )
        first = alike.argmax(axis=1)  # each picture matches itself
        for row in np.flatnonzero(first < np.arange(start, start + len(alike))):
            pair = comparable[first[row]], comparable[start + row]
            where = [one.split or splits.get(one.name, "") for one in pair]
            description = " = ".join(
                f"{one.name} in {split}" if split else one.name
                for one, split in zip(pair, where, strict=True)
            )
            crosses_splits = all(where) and where[0] != where[1]
            remarks.add(
                "pictures of one split that look like one of another, which makes scores too high"
                if crosses_splits
                else "pictures that look like another",
                description,
            )


def descriptor_of(image: Path | Stored, shape: Shape) -> NDArray[np.floating] | None:
    """Return a unit vector for comparing a picture with others; None without contrast.

    The vector is a small, high-pass filtered grey copy. Compression and scaling change it little.
    """
    if isinstance(image, Stored):
        picture = image()
    else:
        header = read_header(image)
        fitting = [r for r in (8, 4, 2) if min(shape) // r >= 2 * SIDE]
        jpeg = header is not None and header.format in JPEG
        picture = read_image(image, turn=False, reduction=fitting[0] if fitting and jpeg else 1)
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.float32)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    high_pass = small - cv2.GaussianBlur(small, (0, 0), SIDE / 8)
    if high_pass.std() < MIN_CONTRAST:
        return None
    return high_pass.ravel() / np.linalg.norm(high_pass)


def examine_part(part: FileGroup, findings: Findings, workers: int) -> list[Examined]:
    """Check all pictures of a part; note problems and remarks."""
    problems, remarks = findings.problems, findings.remarks
    try:
        read = part.read()
    except UserError as error:  # a file with the fixations of all pictures
        problems.explain(str(error))
        read = Read()
    for line in (*part.clashes, *list(read.failures.values())[:1]):
        problems.explain(line)
    for key in read.failures:
        problems.add(f"{part.title}: fixation files that cannot be read", key)
    for label, _, keys in unpaired(part, read.looks.keys() | read.failures.keys()):
        for key in keys:
            lacking = (
                f"pictures without {label}" if key in part.images else f"{label} without a picture"
            )
            problems.add(f"{part.title}: {lacking}", key)
    if part.sought and not part.maps and not read.looks:
        problems.explain(f"{part.title}: neither maps nor fixations; searched in {part.sought}")
    if part.published and len(part.images) not in part.published:
        problems.explain(
            f"{part.title}: {len(part.images):,} pictures instead of {published(part)}"
        )
    for remark in part.remarks:
        remarks.explain(remark)
    files = {key: image for key, image in part.images.items() if isinstance(image, Path)}
    for key, first in equal_files(files).items():
        remarks.add(f"{part.title}: pictures that repeat another", f"{key} = {first}")
    keys = sorted(part.images)
    with progress(len(keys), part.title) as bar, ThreadPoolExecutor(workers) as pool:

        def one(key: str) -> Examined:
            found = examine(part, key, read.looks.get(key), findings)
            bar.update()
            return found

        return list(pool.map(one, keys))


def examine(part: FileGroup, key: str, looks: Looks | None, findings: Findings) -> Examined:
    """Check one picture, its map and its fixations; note problems and remarks."""
    problems, remarks = findings.problems, findings.remarks
    name, shapes = part.name(key), shapes_of(part, key, findings)
    saliency_map = map_of(part, key, findings)
    truths = {
        "fixations": looks.shape if looks else None,
        "map": None if saliency_map is None else (saliency_map.shape[0], saliency_map.shape[1]),
    }
    for label, other in truths.items():
        if shapes and other and other not in shapes:
            problems.add(f"{part.title}: pictures of another size than their {label}", name)
    if len(set(shapes)) > 1:
        remarks.add(
            f"{part.title}: pictures with an EXIF rotation; read in the orientation of their truth",
            name,
        )
    shape = next((other for other in (*truths.values(), *shapes) if other in shapes), None)
    inside, outside = split_fixations(looks, shape)
    if outside:
        remarks.add(f"{part.title}: pictures with fixations outside (see --out_of_bounds)",
                    f"{name}: {outside}")  # fmt: skip
    if inside is not None and not len(inside):
        remarks.add(f"{part.title}: pictures without a fixation", name)
    thumbnail = None
    if saliency_map is not None and looks is None:
        thumbnail = cv2.resize(saliency_map, THUMBNAIL[::-1], interpolation=cv2.INTER_AREA)
    observers, descriptor = None, None
    if shapes:
        with suppress(UserError):  # already noted
            descriptor = descriptor_of(part.images[key], shapes[-1])
    if looks is not None and looks.subjects is not None:
        observers = len(np.unique(looks.subjects))
    split = part.title if part.split is None else part.split
    return Examined(shape, inside, outside, observers, thumbnail, descriptor, name, split)


def shapes_of(part: FileGroup, key: str, findings: Findings) -> list[Shape]:
    """Return the shapes of a picture: with its EXIF rotation, and as stored.

    The list is empty for an unreadable picture, which is noted.
    """
    image = part.images[key]
    try:
        if isinstance(image, Stored):
            rows, columns = image().shape[:2]
            return [(rows, columns)]
        stored, grey, remark = whole_picture(image)
    except UserError:
        findings.problems.add(f"{part.title}: pictures that cannot be read", part.name(key))
        return []
    if grey:
        findings.remarks.add(f"{part.title}: grey pictures", part.name(key))
    if remark:
        findings.remarks.add(f"{part.title}: pictures {remark}", part.name(key))
    return [header_shape(image) or stored, stored]


def map_of(part: FileGroup, key: str, findings: Findings) -> NDArray | None:
    """Return the density map of a picture, or None; note an unreadable or constant map."""
    source = part.maps.get(key)
    if source is None:
        return None
    try:
        if isinstance(source, Path):
            whole_picture(source)
        saliency_map = read_map(source) if isinstance(source, Path) else source()
    except UserError as error:
        unread = f"{part.title}: maps that cannot be read"
        # the reason of the first only: the others mostly have the same
        if unread not in findings.problems.found:
            findings.problems.explain(str(error))
        findings.problems.add(unread, part.name(key))
        return None
    if not np.ptp(saliency_map):
        findings.remarks.add(f"{part.title}: constant maps", part.name(key))
    return saliency_map


def split_fixations(looks: Looks | None, shape: Shape | None) -> tuple[NDArray | None, int]:
    """Return the fixations inside a picture, and the number outside."""
    if looks is None or shape is None:
        return (None if looks is None else looks.fixations), 0
    inside = are_within(looks.fixations, shape)
    return looks.fixations[inside], int(np.count_nonzero(~inside))


def row_of(part: FileGroup, examined: list[Examined]) -> dict[str, Any]:
    """Return the counts of a part as JSON values."""
    counts = [len(one.fixations) for one in examined if one.fixations is not None]
    observers = [one.observers for one in examined if one.observers]
    shapes = Counter(one.shape for one in examined if one.shape)
    return {
        "part": part.title,
        "where": str(part.where),
        "pictures": len(examined),
        "published": list(part.published),
        "maps": len(part.maps),
        "fixation_records": len(counts),
        "fixations": sum(counts),
        "outside": sum(one.outside for one in examined),
        "median_fixations": median(counts) if counts else None,
        "median_observers": median(observers) if observers else None,
        "sizes": {f"{cols} x {rows}": n for (rows, cols), n in shapes.most_common()},
    }


def published(part: FileGroup) -> str:
    """Return the published number of pictures as text."""
    return " or ".join(f"{count:,}" for count in part.published)


def file_table(rows: list[dict[str, Any]]) -> str:
    """Return a table of text with a line per part."""
    lines = [["", "pictures", "published", "maps", "with fixations", "fixations",
              "median", "observers", "size"]]  # fmt: skip
    for row in rows:
        sizes = list(row["sizes"])
        lines.append(
            [
                row["part"],
                f"{row['pictures']:,}",
                " or ".join(f"{count:,}" for count in row["published"]) or "-",
                f"{row['maps']:,}",
                f"{row['fixation_records']:,}",
                f"{row['fixations']:,}",
                f"{row['median_fixations']:g}" if row["fixation_records"] else "-",
                f"{row['median_observers']:g}" if row["median_observers"] else "-",
                sizes[0] if len(sizes) == 1 else f"{len(sizes)} sizes",
            ]
        )
    return aligned(lines)


def draw(name: str, sigma_pixels: float, pictures: list[Examined], path: Path) -> bool:
    """Draw the mean density map and a histogram of fixations; return False without truth."""
    located = [(one.fixations, one.shape) for one in pictures
            if one.fixations is not None and one.shape]  # fmt: skip
    counts = [len(points) for points, _ in located]
    thumbnails = [one.thumbnail for one in pictures if one.thumbnail is not None]
    if any(counts):
        [(shape, _)] = Counter(shape for _, shape in located).most_common(1)
        mean = density_map(gathered(located, shape), shape, sigma_pixels)
        caption = f"{sum(counts):,} fixations on {len(located):,} pictures"
    elif thumbnails:
        mean = np.mean(thumbnails, axis=0)
        caption = f"mean of {len(thumbnails):,} maps"
    else:
        return False
    figures.overview(mean / max(float(mean.max()), 1e-12), counts, path, name, caption)
    return True

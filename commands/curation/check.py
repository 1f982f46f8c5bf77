"""What `data check` does: it says what is there of a data set, what is missing and what is wrong.

It goes through the same parts (`salience.data.parts`) that loading does, but lists all that it
finds where loading refuses the first.
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
SIDE = 32  # of the square that pictures are compared at, pixels
# correlation, without what is smooth, from which two pictures are one: OSIE's pair that was saved
# twice has 1.00, no other pair of OSIE or of EyeCrowd more than 0.49
ALIKE = 0.9
LEAST_CONTRAST = 1.0  # grey levels; of less nothing can be told
BLOCK = 256  # pictures compared with all others at a time


@dataclass
class Findings:
    """What is wrong with a data set, and what should merely be known."""

    problems: Notes = field(default_factory=Notes)
    remarks: Notes = field(default_factory=Notes)


@dataclass(frozen=True)
class Examined:
    """One picture, read to its end.

    Attributes:
        shape: rows and columns, as its truth sees it; None where the picture cannot be read.
        fixations: [n, 2], (x, y), those inside the picture; None where there is no record.
        outside: how many lie outside.
        observers: how many there are; None where that is not told.
        thumbnail: its map at a small size; None where there is none.
        look: of the picture, what is compared with others, of unit length; None without contrast.
        name: the picture's.
        split: that of its part; empty where a plan divides.
    """

    shape: Shape | None
    fixations: NDArray | None = None
    outside: int = 0
    observers: int | None = None
    thumbnail: NDArray | None = None
    look: NDArray | None = None
    name: str = ""
    split: str = ""


def check(settings: CheckConfig, say: Callable[[str], None] = tell) -> bool:
    """Look through a data set, print and write what was found; return whether all is well.

    Args:
        settings: the data set and where to write.
        say: gets each line of news.

    Raises:
        UserError: there is no such folder, it holds no pictures, or the data set is built in.
    """
    name, root = settings.dataset, settings.data
    parts = loading.parts(name, root)
    if not parts:
        raise UserError(f"{name} is built in: it has no files to check.")
    make_folder(settings.output)
    findings, rows, pictures = Findings(), [], []
    for part in parts:
        examined = examine_part(part, findings, settings.workers)
        rows.append(row_of(part, examined))
        pictures += examined
    note_absent(settings.dataset, settings.data, {part.title for part in parts}, findings)
    splits, refused = loading.splits_of(name, root)
    note_alike(pictures, splits, findings.remarks)
    for line in loading.not_read(root, parts):
        findings.remarks.explain(line)
    if not findings.problems.lines():  # else they would be told twice, in other words
        for line in refused:
            findings.problems.explain(line)
    say(f"{name} at {root}\n{file_table(rows)}")
    for label, notes in (("problem", findings.problems), ("note", findings.remarks)):
        for names in notes.found.values():
            names.sort()  # threads find them in any order
        for line in notes.lines():
            say(f"{label}: {line}")
    well = not findings.problems.lines()
    say("all is well" if well else "not all is well")
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
    """Return findings with all their names."""
    return {**notes.found, "remarks": notes.remarks}


def note_absent(dataset: str, data: Path | None, there: set[str], findings: Findings) -> None:
    """Note the published parts of a data set of which nothing is there."""
    module = loading.module_of(dataset, data)
    for title, counts in getattr(module, "PUBLISHED", {}).items():
        if title in there:
            continue
        line = f"{title}: no pictures ({counts[0]:,} are published)"
        if title in getattr(module, "WITHOUT_TRUTH", ()):
            findings.remarks.explain(f"{line}; they have no truth and serve submissions alone")
        else:
            findings.problems.explain(line)


def note_alike(pictures: list[Examined], splits: dict[str, str], remarks: Notes) -> None:
    """Note pictures that look like another one, which may train where that one tests.

    Args:
        pictures: all of the data set.
        splits: by the picture's name, its split, where a plan divides.
        remarks: gets the findings.
    """
    seen = [one for one in pictures if one.look is not None]
    looks = np.array([one.look for one in seen], np.float32)
    for start in range(0, len(seen), BLOCK):
        alike = looks[start : start + BLOCK] @ looks[: start + BLOCK].T >= ALIKE
        first = alike.argmax(axis=1)  # each picture is like itself
        for row in np.flatnonzero(first < np.arange(start, start + len(alike))):
            pair = seen[first[row]], seen[start + row]
            where = [one.split or splits.get(one.name, "") for one in pair]
            told = " = ".join(
                f"{one.name} in {split}" if split else one.name
                for one, split in zip(pair, where, strict=True)
            )
            apart = all(where) and where[0] != where[1]
            remarks.add(
                "pictures of one split that look like one of another, as if trained on what tests"
                if apart
                else "pictures that look like another",
                told,
            )


def look_of(image: Path | Stored, shape: Shape) -> NDArray[np.floating] | None:
    """Return what a picture is compared by, of unit length; None where it has no contrast.

    Compression and scaling change little of it: a small grey copy, less what is smooth in it.
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
    rough = small - cv2.GaussianBlur(small, (0, 0), SIDE / 8)
    if rough.std() < LEAST_CONTRAST:
        return None
    return rough.ravel() / np.linalg.norm(rough)


def examine_part(part: FileGroup, findings: Findings, workers: int) -> list[Examined]:
    """Return what each picture of a part is like; note what does not fit together."""
    problems, remarks = findings.problems, findings.remarks
    try:
        read = part.read()
    except UserError as error:  # one file about all pictures
        problems.explain(str(error))
        read = Read()
    for line in (*part.clashes, *list(read.failures.values())[:1]):
        problems.explain(line)
    for key in read.failures:
        problems.add(f"{part.title}: fixation files that cannot be read", key)
    for label, _, keys in unpaired(part, read.looks.keys() | read.failures.keys()):
        for key in keys:
            lacking = f"pictures without {label}" if key in part.images else f"{label} alone"
            problems.add(f"{part.title}: {lacking}", key)
    if part.sought and not part.maps and not read.looks:
        problems.explain(f"{part.title}: neither maps nor fixations; sought in {part.sought}")
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
    """Return what one picture is like; note what is wrong with it, its map or its fixations."""
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
        remarks.add(f"{part.title}: pictures that EXIF data turn; read as their truth lies", name)
    shape = next((other for other in (*truths.values(), *shapes) if other in shapes), None)
    inside, outside = settled(looks, shape)
    if outside:
        remarks.add(f"{part.title}: pictures with fixations outside, which --out_of_bounds settles",
                    f"{name}: {outside}")  # fmt: skip
    if inside is not None and not len(inside):
        remarks.add(f"{part.title}: pictures without a fixation", name)
    thumbnail = None
    if saliency_map is not None and looks is None:
        thumbnail = cv2.resize(saliency_map, THUMBNAIL[::-1], interpolation=cv2.INTER_AREA)
    observers, look = None, None
    if shapes:
        with suppress(UserError):  # which is noted already
            look = look_of(part.images[key], shapes[-1])
    if looks is not None and looks.subjects is not None:
        observers = len(np.unique(looks.subjects))
    split = part.title if part.split is None else part.split
    return Examined(shape, inside, outside, observers, thumbnail, look, name, split)


def shapes_of(part: FileGroup, key: str, findings: Findings) -> list[Shape]:
    """Return the shapes that a picture can be read in: as EXIF data turn it, and as it is stored.

    Empty where it cannot be read, which is noted.
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
        findings.remarks.add(f"{part.title}: pictures that {remark}", part.name(key))
    return [header_shape(image) or stored, stored]


def map_of(part: FileGroup, key: str, findings: Findings) -> NDArray | None:
    """Return the density map of a picture; note one that cannot be read or says nothing."""
    source = part.maps.get(key)
    if source is None:
        return None
    try:
        if isinstance(source, Path):
            whole_picture(source)
        saliency_map = read_map(source) if isinstance(source, Path) else source()
    except UserError as error:
        unread = f"{part.title}: maps that cannot be read"
        if unread not in findings.problems.found:  # of one, why: the others are mostly like it
            findings.problems.explain(str(error))
        findings.problems.add(unread, part.name(key))
        return None
    if not np.ptp(saliency_map):
        findings.remarks.add(f"{part.title}: maps of one value", part.name(key))
    return saliency_map


def settled(looks: Looks | None, shape: Shape | None) -> tuple[NDArray | None, int]:
    """Return the fixations inside the picture, and how many are not."""
    if looks is None or shape is None:
        return (None if looks is None else looks.fixations), 0
    inside = are_within(looks.fixations, shape)
    return looks.fixations[inside], int(np.count_nonzero(~inside))


def row_of(part: FileGroup, examined: list[Examined]) -> dict[str, Any]:
    """Return the counts of a part."""
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
    """Return how many pictures are published."""
    return " or ".join(f"{count:,}" for count in part.published)


def file_table(rows: list[dict[str, Any]]) -> str:
    """Return a line for each part."""
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
    """Draw where people look on all pictures, and how often; return whether there is truth to."""
    seen = [(one.fixations, one.shape) for one in pictures
            if one.fixations is not None and one.shape]  # fmt: skip
    counts = [len(points) for points, _ in seen]
    thumbnails = [one.thumbnail for one in pictures if one.thumbnail is not None]
    if any(counts):
        [(shape, _)] = Counter(shape for _, shape in seen).most_common(1)
        mean = density_map(gathered(seen, shape), shape, sigma_pixels)
        caption = f"{sum(counts):,} fixations on {len(seen):,} pictures"
    elif thumbnails:
        mean = np.mean(thumbnails, axis=0)
        caption = f"mean of {len(thumbnails):,} maps"
    else:
        return False
    figures.overview(mean / max(float(mean.max()), 1e-12), counts, path, name, caption)
    return True

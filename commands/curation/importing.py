"""The command `data import`: makes a data set of what eye trackers' programs export.

The set has the layout of `salience/data/sets/folder.py`: the pictures, one `fixations.csv`, and a
card with one degree of visual angle, where flags tell it. Fixations outside their picture are
written, too: `--out_of_bounds` of the commands that read the set decides about them.
"""

import csv
import io
import math
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from commands.pages import figures
from commands.settings import ImportConfig
from salience.data.fixation_files import finder
from salience.data.parts import by_stem
from salience.data.recordings.exports import Export, Fixation, read_export
from salience.data.recordings.formats import FORMATS, PICTURE, SCREEN, Format
from salience.data.recordings.placing import Placement, from_shares, parse_placed
from salience.data.sets.folder import CARD, REPORTS
from salience.pictures.fixations import are_within
from salience.pictures.headers import header_shape
from salience.pictures.picture_files import read_image
from salience.pictures.sample import IMAGE_SUFFIXES
from salience.pictures.visual_angle import parse_screen
from salience.system.errors import UserError
from salience.system.files import make_folder, move, scratch, telling, write_json, write_text
from salience.system.terminal import aligned, counted, progress, tell

TABLE = "fixations.csv"
COLUMNS = ("image", "subject", "order", "x", "y", "t", "duration")
DRAWN = 6  # pictures in check.png
NAMED = 3  # names in a line
MANY = 0.5  # share of fixations outside their picture that deserves a warning
OTHER_EYE, UNKNOWN = "of the other eye", "on something that is no picture of --images"


@dataclass(frozen=True)
class Placed:
    """A fixation on one of the pictures.

    Attributes:
        name: file name of the picture.
        subject: observer.
        x: pixels of the picture, 0-based pixel centres.
        y: likewise.
        is_inside: whether it falls on a pixel of the picture.
        source: the fixation of the export.
    """

    name: str
    subject: str
    x: float
    y: float
    is_inside: bool
    source: Fixation


@dataclass
class Recordings:
    """The fixations of all exports.

    Attributes:
        found: fixations on pictures, or beside them.
        rows: number of rows of the exports.
        skipped: number of rows that are left out, by reason.
        unknown: number of fixations by name of something that is no picture.
        bare: pictures without a fixation.
    """

    found: list[Placed]
    rows: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    bare: list[str] = field(default_factory=list)


def run(settings: ImportConfig) -> bool:
    """Run the command `data import`."""
    import_recordings(settings)
    return True


def import_recordings(settings: ImportConfig, say: Callable[[str], None] = tell) -> None:
    """Write the data set of eye trackers' exports.

    Args:
        settings: the exports, the pictures and the output folder.
        say: called with each message.

    Raises:
        UserError: a file or a flag cannot be used, the folder exists, or no fixation lies on a
            picture.
    """
    folder, degree = settings.output, settings.degree
    if folder is None or settings.images is None:
        missing = "--output" if folder is None else "--images"
        raise UserError(f"{missing} is required; see `data import --help`.")
    if folder.exists():
        raise UserError(f"{folder} exists. Choose another --output.")
    images = pictures_in(settings.images)
    shapes = {key: shape_of(path) for key, path in images.items()}
    exports = read_all(settings)
    for export in exports:
        for remark in dict.fromkeys(export.remarks):
            say(f"note: {export.path}: {remark}")
    read = place_all(settings, exports, images, shapes)
    refuse_nothing(read, settings)
    say_found(read, len(exports), say)
    sigmas = {}
    if degree:
        by_name = {images[key].name: shape for key, shape in shapes.items()}
        sigmas = {
            name: round(degree[0] * scale_of(settings, group, by_name[name]), 3)
            for name, group in grouped(read.found).items()
        }
        say(degree_line(list(sigmas.values()), degree[1]))
    parent = make_folder(folder.parent)
    with scratch(parent) as room, telling(f"Cannot write {folder}"):
        made = room / "data"
        made.mkdir()
        write(made, read, settings, {path.name: path for path in images.values()}, sigmas)
        move(made, folder)
    say(f"wrote {folder}, with check.png. To use it: --dataset folder --data {folder}")


def say_found(read: Recordings, files: int, say: Callable[[str], None]) -> None:
    """Tell what was read, what was left out, and the sums by observer."""
    fixations = counted(len(read.found), "fixation")
    say(f"{counted(read.rows, 'row')} of {counted(files, 'file')}: {fixations} on pictures")
    for reason, count in read.skipped.most_common():
        say(f"left out: {counted(count, 'row')} {reason}")
    if read.unknown:
        say(f"no picture of --images: {some(read.unknown)}")
    if read.bare:
        more = ", ..." if len(read.bare) > NAMED else ""
        names = ", ".join(read.bare[:NAMED])
        say(f"left out: {counted(len(read.bare), 'picture')} without a fixation ({names}{more})")
    say(aligned(subject_table(read.found)))
    say_outside(read.found, say)


def degree_line(sigmas: list[float], how: str) -> str:
    """Return a sentence about the pixels of one degree, which become the set's Gaussian."""
    low, high = min(sigmas), max(sigmas)
    spans = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    return f"one degree is {spans} pixels of the pictures ({how}): the set's Gaussian"


def write(
    made: Path,
    read: Recordings,
    settings: ImportConfig,
    paths: Mapping[str, Path],
    sigmas: Mapping[str, float],
) -> None:
    """Write the files of the data set.

    Args:
        made: an empty folder.
        read: the fixations.
        settings: the command's settings, for the report.
        paths: file of each picture by its name.
        sigmas: pixels of one degree by the picture's name; empty if unknown.
    """
    found = read.found
    groups = grouped(found)
    target = make_folder(made / "images", inside=made)
    with progress(len(groups), "copying") as bar:
        for name in groups:
            with telling(f"Cannot copy {paths[name]}"):
                shutil.copyfile(paths[name], target / name)
            bar.update()
    write_text(made / TABLE, as_table(found))
    about = {
        "format": settings.format,
        "exports": [str(path) for path in settings.exports],
        **{name: getattr(settings, name) for name in ("columns", "eye", "screen", "placed")},
        "degree": settings.degree[1] if settings.degree else None,
    }
    cards = {name: {"sigma_pixels": sigma} for name, sigma in sigmas.items()}
    write_json(made / CARD, {"imported_from": about, "pictures": cards})
    report = {
        **about,
        "rows": read.rows,
        "fixations": len(found),
        "outside": sum(not one.is_inside for one in found),
        "left_out": dict(read.skipped),
        "no_picture": dict(read.unknown),
        "pictures_without_fixation": read.bare,
        "observers": dict(sorted(Counter(one.subject for one in found).items())),
    }
    write_json(made / REPORTS[1], report)
    draw(groups, paths, made / REPORTS[0])


def pictures_in(folder: Path) -> dict[str, Path]:
    """Return the pictures of a folder by their key.

    Raises:
        UserError: there are none, or two have one name.
    """
    if not folder.is_dir():
        raise UserError(f"--images {folder}: no such folder.")
    clashes: list[str] = []
    images = by_stem(folder, IMAGE_SUFFIXES, clashes)
    for clash in clashes:
        raise UserError(clash)
    if not images:
        raise UserError(f"--images {folder} has no pictures.")
    return images


def shape_of(path: Path) -> tuple[int, int]:
    """Return a picture's rows and columns, as it is shown.

    Raises:
        UserError: its header cannot be read.
    """
    shape = header_shape(path)
    if shape is None:
        raise UserError(f"{path} cannot be read as a picture.")
    return shape


def read_all(settings: ImportConfig) -> list[Export]:
    """Return the content of all exports; raises as `read_export`."""
    twice = [path for path, count in Counter(settings.exports).items() if count > 1]
    if twice:
        raise UserError(f"{twice[0]} is named twice.")
    # where a program exports both, the picture's own coordinates need no place on the screen
    on_screen = settings.placed is not None
    forms: Sequence[Format] = sorted(
        FORMATS[settings.format], key=lambda form: (form.space == SCREEN) != on_screen
    )
    with progress(len(settings.exports), "reading", "files") as bar:
        exports = []
        for path in settings.exports:
            exports.append(read_export(path, settings.format, settings.columns, forms))
            bar.update()
    return exports


def place_all(
    settings: ImportConfig,
    exports: list[Export],
    images: Mapping[str, Path],
    shapes: Mapping[str, tuple[int, int]],
) -> Recordings:
    """Return the fixations that lie on pictures, or beside them.

    Args:
        settings: the screen, the place of the pictures and the eye.
        exports: the fixations.
        images: the pictures by key.
        shapes: rows and columns by key.

    Raises:
        UserError: the place of the pictures on the screen is unknown, or two exports have the same
            fixations.
    """
    find = finder(images)
    lower = {key.casefold(): key for key in images}
    chosen = eyes(settings.eye, exports)
    read = Recordings([], sum(export.rows for export in exports))
    seen: dict[tuple, Path] = {}
    for export in exports:
        read.skipped += export.skipped
        for one in export.fixations:
            key = find(one.image)
            key = key if key in images else lower.get(key.casefold(), key)
            if one.eye and one.eye not in chosen[one.subject]:
                read.skipped[OTHER_EYE] += 1
            elif key not in images:
                read.skipped[UNKNOWN] += 1
                read.unknown[one.image] += 1
            else:
                x, y = to_picture(settings, export, one, shapes[key])
                same = (key, one.subject, one.eye, one.t, one.x, one.y)
                if math.isfinite(one.t) and seen.setdefault(same, export.path) != export.path:
                    raise UserError(
                        f"{export.path} has fixations of {one.subject} on {one.image} that "
                        f"{seen[same]} has, too. Name one of the two files."
                    )
                inside = bool(are_within(np.array([[x, y]]), shapes[key])[0])
                read.found.append(Placed(images[key].name, one.subject, x, y, inside, one))
    read.found.sort(key=lambda one: (one.name, one.subject, _order(one.source.order)))
    names = {one.name for one in read.found}
    read.bare = sorted(path.name for path in images.values() if path.name not in names)
    return read


def _order(value: float) -> float:
    """Return a fixation's order; those without one stay in the order of the file."""
    return value if math.isfinite(value) else 0.0


def eyes(eye: str, exports: list[Export]) -> dict[str, str]:
    """Return the letters of the eyes to keep, by observer."""
    counts = Counter((one.subject, one.eye) for export in exports for one in export.fixations)
    subjects = {subject for subject, _ in counts}
    if eye != "auto":
        return dict.fromkeys(subjects, {"left": "L", "right": "R", "both": "LR"}[eye])
    # equal numbers: the right eye, the usual choice of monocular recordings
    return {s: "L" if counts[s, "L"] > counts[s, "R"] else "R" for s in subjects}


def placement_of(settings: ImportConfig, fixation: Fixation) -> Placement:
    """Return the place of a fixation's picture on the screen: the flags', else the export's."""
    screen = parse_screen(settings.screen) if settings.screen else fixation.screen
    if settings.placed is not None:
        return Placement(screen, parse_placed(settings.placed))
    return Placement(screen, fixation.box)


def to_picture(
    settings: ImportConfig, export: Export, fixation: Fixation, shape: tuple[int, int]
) -> tuple[float, float]:
    """Return x and y of a fixation in pixels of its picture.

    Raises:
        UserError: the place of the picture on the screen is unknown.
    """
    form = export.form
    # a table of no program counts in the picture, unless pictures are placed; --screen alone may
    # be named for the degrees
    is_own = settings.format == "csv" and settings.placed is None
    if form.space == PICTURE and settings.placed is not None:
        raise UserError(
            f"--placed {settings.placed}: the coordinates in {export.path} are the pictures' own, "
            "wherever these were on the screen. Leave it out."
        )
    if form.space == PICTURE and form.shares:
        return from_shares(fixation.x, fixation.y, shape[1], shape[0])
    if form.space == PICTURE or is_own:
        return fixation.x, fixation.y
    placement = placement_of(settings, fixation)
    x, y = fixation.x, fixation.y
    if form.shares:
        if placement.screen is None:
            raise UserError(
                f"{export.path} has shares of the screen: --screen is needed, such as 1920x1080."
            )
        x, y = from_shares(x, y, *placement.screen)
    return placement.to_picture(x, y, shape)


def scale_of(settings: ImportConfig, group: list[Placed], shape: tuple[int, int]) -> float:
    """Return the pixels of a picture per pixel of the screen.

    Args:
        settings: the screen and the place of the pictures.
        group: the fixations on the picture.
        shape: its rows and columns.
    """
    placement = placement_of(settings, group[0].source)
    return shape[1] / placement.box[2] if placement.box else 1.0


def grouped(found: list[Placed]) -> dict[str, list[Placed]]:
    """Return fixations by picture."""
    groups: dict[str, list[Placed]] = {}
    for one in found:
        groups.setdefault(one.name, []).append(one)
    return groups


def refuse_nothing(read: Recordings, settings: ImportConfig) -> None:
    """Raise UserError if no fixation lies on a picture."""
    if not read.found:
        reasons = "; ".join(
            f"{counted(n, 'row')} {reason}" for reason, n in read.skipped.most_common()
        )
        names = f" The exports name {some(read.unknown)}." if read.unknown else ""
        raise UserError(
            f"No fixation on a picture of {settings.images}: {reasons or 'no rows'}.{names}"
        )
    if not any(one.is_inside for one in read.found):
        one = read.found[0]
        raise UserError(
            f"None of {len(read.found):,} fixations lies in its picture; first: ({one.x:.1f}, "
            f"{one.y:.1f}) on {one.name}. Check --screen and --placed."
        )


def some(names: Counter[str]) -> str:
    """Return the most frequent names with their numbers of fixations."""
    shown = ", ".join(f"{name} ({count:,})" for name, count in names.most_common(NAMED))
    return f"{shown} and {len(names) - NAMED} more" if len(names) > NAMED else shown


def subject_table(found: list[Placed]) -> list[list[str]]:
    """Return the lines of a table with a line per observer, and their sum."""
    lines = [["observer", "pictures", "fixations", "outside", "median duration in ms"]]
    subjects = sorted({one.subject for one in found})
    groups: dict[str, list[Placed]] = {subject: [] for subject in subjects}
    for one in found:
        groups[one.subject].append(one)
    for name, group in [*groups.items(), (f"{len(subjects)} observers", found)]:
        durations = [d for one in group if math.isfinite(d := one.source.duration)]
        lines.append(
            [
                name,
                f"{len({one.name for one in group}):,}",
                f"{len(group):,}",
                f"{sum(not one.is_inside for one in group):,}",
                f"{median(durations):.0f}" if durations else "-",
            ]
        )
    return lines


def say_outside(found: list[Placed], say: Callable[[str], None]) -> None:
    """Tell how many fixations lie outside their picture."""
    outside = [one for one in found if not one.is_inside]
    if outside:
        pictures = sorted({one.name for one in outside})
        warning = "WARNING: " if len(outside) > MANY * len(found) else ""
        advice = "; check --screen and --placed" if warning else ""
        say(
            f"{warning}{len(outside):,} of {len(found):,} fixations lie outside their picture, on "
            f"{counted(len(pictures), 'picture')} ({', '.join(pictures[:NAMED])}); they are in "
            f"{TABLE}, and --out_of_bounds decides about them{advice}"
        )


def as_table(found: list[Placed]) -> str:
    """Return the text of `fixations.csv`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    orders: Counter[tuple[str, str]] = Counter()
    for one in found:
        orders[one.name, one.subject] += 1
        t, duration = one.source.t, one.source.duration
        place = orders[one.name, one.subject]
        writer.writerow([one.name, one.subject, place, *map(_number, (one.x, one.y, t, duration))])
    return text.getvalue()


def _number(value: float) -> str:
    """Return a number with at most three decimals; "" if it is unknown."""
    return f"{value:.3f}".rstrip("0").rstrip(".") if math.isfinite(value) else ""


def draw(groups: dict[str, list[Placed]], paths: Mapping[str, Path], path: Path) -> None:
    """Draw the fixations over some pictures, evenly chosen by name."""
    names = sorted(groups)
    step = max(1, math.ceil(len(names) / DRAWN))
    rows: list[Any] = []
    for name in names[::step]:
        points = np.array([(one.x, one.y) for one in groups[name]])
        who = [one.subject for one in groups[name]]
        rows.append((name, read_image(paths[name]), points, who))
    count = sum(map(len, groups.values()))
    figures.fixations_over(rows, path, f"{count:,} fixations on {len(names):,} pictures")

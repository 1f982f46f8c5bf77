"""Reading of eye trackers' exports, row by row, into fixations; every row that is left out counts.

An export may hold gigabytes of gaze rows among its fixations, so it is not read as a whole.
"""

import csv
import io
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from salience.data.columns import parse_columns
from salience.data.recordings.formats import FORMATS, UNITS, Format, find_column, plain
from salience.data.tables import DELIMITERS, UTF_16, file_name, named, number
from salience.pictures.sample import IMAGE_SUFFIXES
from salience.system.errors import UserError
from salience.system.files import open_regular

HEAD = 200  # lines before the one that names the columns, at most
SHOWN = 40  # columns that an error lists, at most
STEPS = 1000  # rows whose times tell the unit of a clock
# milliseconds between samples are at most 100, microseconds at least 400
LEAST_MICROSECONDS = 200
LEAST_RATIO = 50  # of the steps between fixations to their durations
SUBJECT = re.compile(r"(?:##\s*)?Subject:\s*(.+)")  # SMI, before the first table
MESSAGE = re.compile(r"#\s*Message:\s*(.+)")  # SMI
# what Gazepoint appends to the observer
ENDINGS = re.compile(r"[_ -]?(fixations|all_gaze)$", re.I)
# reasons for which a row is left out
OTHER, LATER, BARE, PLACELESS, BEFORE = (
    "without a fixation",
    "of a fixation that is counted already",
    "without a picture",
    "without coordinates",
    "of a fixation that began before its picture",
)
Box = tuple[float, float, float, float]


@dataclass(slots=True)
class Fixation:
    """One fixation of an export.

    Attributes:
        image: picture's name, without folders.
        subject: observer.
        x, y: pixels or shares, as `Export.form` says.
        t: start, milliseconds since the picture appeared; NaN where unknown.
        duration: milliseconds; NaN where unknown.
        eye: "L", "R", or "" where the export does not say or has the mean of both.
        box: left, top, width and height of the picture on the screen, pixels, where the export
            tells.
        screen: width and height of the screen, pixels, where the export tells.
        order: place among the observer's fixations on the picture; NaN where unknown.
    """

    image: str
    subject: str
    x: float
    y: float
    t: float
    duration: float
    eye: str = ""
    box: Box | None = None
    screen: tuple[int, int] | None = None
    order: float = math.nan


@dataclass
class Export:
    """The fixations of a file.

    Attributes:
        path: the file.
        form: how it was read.
        fixations: in the order of the file.
        rows: number of rows with content below the header.
        skipped: number of rows that are no fixation of their own, by reason.
        remarks: how the file was understood.
    """

    path: Path
    form: Format
    fixations: list[Fixation] = field(default_factory=list)
    rows: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Header:
    """The line of an export that names its columns.

    Attributes:
        form: the format that it belongs to.
        names: the columns.
        places: index of the column of each role.
        delimiter: separator of columns.
        lines: number of lines up to this one, with it.
        subject: observer that the lines before it name, or "".
    """

    form: Format
    names: list[str]
    places: dict[str, int]
    delimiter: str
    lines: int
    subject: str

    def unit_ms(self, role: str, default: float | None) -> float | None:
        """Return the milliseconds in the unit of a column."""
        place = self.places.get(role)
        return UNITS.get(plain(self.names[place])[1], default) if place is not None else default


def read_export(
    path: Path, program: str, columns: str = "", forms: Sequence[Format] = ()
) -> Export:
    """Return the fixations of an export.

    Args:
        path: the file.
        program: key of FORMATS.
        columns: names of columns, see `parse_columns`.
        forms: the program's formats in order of preference, if not that of FORMATS.

    Raises:
        UserError: the file cannot be read, a column is missing, or a row is damaged; the message
            has the line.
    """
    with _opened(path) as lines:
        header = _header(lines, path, program, parse_columns(columns), forms or FORMATS[program])
        return _Reader(path, header).read(lines)


@contextmanager
def _opened(path: Path) -> Iterator[io.TextIOWrapper]:
    """Yield the text of a file, decoded by its byte-order mark or else as UTF-8."""
    try:
        with open_regular(path) as file:
            encoding = "utf-16" if file.read(2) in UTF_16 else "utf-8-sig"
            file.seek(0)
            yield io.TextIOWrapper(file, encoding, newline="")
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    except UnicodeError as error:
        raise UserError(f"{path} is no text in UTF-8 or UTF-16: export it as such.") from error


def _header(
    lines: io.TextIOWrapper,
    path: Path,
    program: str,
    chosen: dict[str, str],
    forms: Sequence[Format],
) -> Header:
    """Return the header of an export, and leave the text at its first row."""
    widest: list[str] = []
    subject = ""
    for count in range(1, HEAD + 1):
        line = lines.readline()
        if not line:
            break
        if match := SUBJECT.match(line.strip()):
            subject = match[1].strip()
        found: list[Header] = []
        for delimiter, form in itertools.product(DELIMITERS, forms):
            names = named(line, delimiter)
            widest = max(widest, names, key=len)
            places = _places(names, form, chosen)
            if {"x", "y"} <= places.keys():
                found.append(Header(form, names, places, delimiter, count, subject))
        if found:
            header = found[0]  # x and y are found by one delimiter alone
            _refuse_missing(header, path, chosen)
            return header
    there = ", ".join(repr(name) for name in widest[:SHOWN] if name)
    more = f" and {len(widest) - SHOWN} more" if len(widest) > SHOWN else ""
    wanted = " or ".join(
        f"'{chosen.get('x', form.columns['x'][0])}' and '{chosen.get('y', form.columns['y'][0])}'"
        for form in forms
    )
    raise UserError(
        f"{path}: none of its first {HEAD} lines names the columns {wanted} of {program}. The "
        f"widest has {there or 'nothing'}{more}. Name the columns with --columns x=NAME,y=NAME, or "
        "take another --format."
    )


def _places(names: list[str], form: Format, chosen: dict[str, str]) -> dict[str, int]:
    """Return the index of the column of each role that is there."""
    lower = [name.casefold() for name in names]
    found = {role: find_column(names, accepted) for role, accepted in form.columns.items()}
    for role, name in chosen.items():
        wanted = name.casefold()
        found[role] = lower.index(wanted) if wanted in lower else None
    return {role: place for role, place in found.items() if place is not None}


def _refuse_missing(header: Header, path: Path, chosen: dict[str, str]) -> None:
    """Raise UserError if a column that was named is missing, or pictures are not named."""
    there = ", ".join(repr(name) for name in header.names[:SHOWN] if name)
    for role, name in chosen.items():
        if role not in header.places:
            raise UserError(
                f"{path} has no column '{name}' (--columns {role}={name}), but {there}."
            )
    form = header.form
    if "image" in header.places or form.messages:
        return
    if form.named:
        if not re.fullmatch(form.named, path.name, re.I):
            raise UserError(
                f"{path} does not name its picture: call it fixations_on_surface_PICTURE.csv, or "
                f"name a column with --columns image=NAME. It has {there}."
            )
        return
    raise UserError(
        f"{path} has no column that names the pictures ({', '.join(form.columns['image'])}), but "
        f"{there}. Name it: --columns image=NAME."
    )


def subject_of(path: Path, named_by_folder: bool) -> str:
    """Return the observer that an export's path names.

    Args:
        path: the export.
        named_by_folder: whether the file's name is a picture's.

    >>> subject_of(Path("User 1_fixations.csv"), False)
    'User 1'
    >>> subject_of(Path("2026_11_02/003/exports/000/surfaces/fixations_on_surface_a.csv"), True)
    '2026_11_02/003'
    """
    if not named_by_folder:
        return ENDINGS.sub("", path.stem) or path.stem
    folders = path.absolute().parent.parts
    if "exports" in folders:
        end = len(folders) - 1 - folders[::-1].index("exports")
        return "/".join(folders[max(end - 2, 1) : end])
    return folders[-1]


class _Reader:
    """Reads the rows of one export."""

    def __init__(self, path: Path, header: Header) -> None:
        self.header, self.form = header, header.form
        self.export = Export(path, header.form)
        match = re.fullmatch(self.form.named, path.name, re.I) if self.form.named else None
        self.image = match[1] if match else ""
        self.subject = header.subject or subject_of(path, bool(match))
        self.line = header.lines
        self.presented: tuple[str, str, str] | None = None
        self.onset = math.nan  # in the unit of `t`
        self.last: tuple | None = None  # subject, recording and id of the last fixation's rows
        self.last_image = ""
        self.merging: Fixation | None = None
        self.together = 0  # rows of the fixation that is merged
        self.clock: list[float] = []

    def read(self, lines: io.TextIOWrapper) -> Export:
        """Return the fixations; raises as `read_export`."""
        # programs that separate by tabs do not quote, and texts of theirs may begin with a quote
        quoting = csv.QUOTE_NONE if self.header.delimiter == "\t" else csv.QUOTE_MINIMAL
        rows = csv.reader(lines, delimiter=self.header.delimiter, quoting=quoting)
        try:
            for row in rows:
                self.line = self.header.lines + rows.line_num
                first = row[0].strip() if row else ""
                is_head = first.startswith(("##", "Table Header")) or first == "Event Type"
                if not is_head and any(cell.strip() for cell in row):
                    self.export.rows += 1
                    if reason := self.take(row):
                        self.export.skipped[reason] += 1
        except csv.Error as error:
            raise self.error(str(error)) from error
        self.scale()
        return self.export

    def error(self, what: str) -> UserError:
        """Return the error for the row that is read."""
        return UserError(f"{self.export.path}, line {self.line}: {what}.")

    def text(self, row: list[str], role: str) -> str:
        """Return the text of a role's cell; "" without such a column or cell."""
        place = self.header.places.get(role)
        if place is None or place >= len(row):
            return ""
        return row[place].strip().strip('"').strip()

    def number(self, row: list[str], role: str) -> float:
        """Return the number of a role's cell; NaN where it is missing."""
        text = self.text(row, role)
        try:
            return number(text, self.header.delimiter, place=False)
        except ValueError as error:
            name = self.header.names[self.header.places[role]]
            raise self.error(f"'{name}' is {text[:40]!r}, which is no number") from error

    def take(self, row: list[str]) -> str:
        """Take a row; return the reason if it is no fixation of its own, else ""."""
        subject = self.text(row, "subject") or self.subject
        recording, event = self.text(row, "recording"), self.text(row, "event")
        if "image" in self.header.places:
            image = self.text(row, "image")
            self.image = "" if image in (".", "-") else file_name(image)
        elif self.form.messages:
            self.see_message(row, event)
        presented = (subject, recording, self.image)
        if presented != self.presented:
            self.presented = presented
            self.onset = self.number(row, "t")
        if self.form.t_ms is None and len(self.clock) < STEPS:
            self.clock.append(self.number(row, "t"))
        if self.form.fixation and not event.casefold().startswith(self.form.fixation):
            return OTHER
        return self.take_fixation(row, subject, recording, event)

    def take_fixation(self, row: list[str], subject: str, recording: str, event: str) -> str:
        """Take a row of a fixation; return as `take`."""
        width = len(self.header.names)
        needed = 1 + max(self.header.places.values())
        if len(row) < needed or any(cell.strip() for cell in row[width:]):
            raise self.error(f"{len(row)} values for {width} columns: the file may be cut off")
        key = (subject, recording, self.text(row, "id"))
        if not (self.form.merged and key[2]) or key != self.last:
            self.last, self.last_image, self.merging = key, self.image, None
        if not self.image:
            return BARE
        if self.image != self.last_image:
            return BEFORE
        if reason := self.invalid(row):
            return reason
        x, y = self.number(row, "x"), self.number(row, "y")
        if math.isnan(x) or math.isnan(y):
            return PLACELESS
        if self.form.from_bottom:
            y = 1 - y
        if self.merging:
            self.merge(row, x, y)
            return LATER
        t = self.number(row, "t")
        if not self.form.of_picture:
            t -= self.onset
            if t < 0:
                return BEFORE
        eye = self.text(row, "eye")[:1].upper() or event[-2:].strip()
        fixation = Fixation(
            self.image, subject, x, y, t, self.number(row, "duration"), eye if eye in "LR" else ""
        )
        fixation.order = self.number(row, "order")
        self.place(row, fixation)
        self.export.fixations.append(fixation)
        self.merging, self.together = fixation, 1
        return ""

    def see_message(self, row: list[str], event: str) -> None:
        """Take the picture from a message that names one (SMI)."""
        if event.casefold() == "userevent":
            match = next((m for cell in row if (m := MESSAGE.search(cell))), None)
            name = file_name(match[1].strip()) if match else ""
            if Path(name).suffix.lower() in IMAGE_SUFFIXES:
                self.image, self.presented = name, None

    def invalid(self, row: list[str]) -> str:
        """Return why the flags of a row say that it does not count, or ""."""
        columns = [role for role in ("valid", "valid_right") if role in self.header.places]
        if not columns:
            return ""
        flags = [_flag(self.text(row, role)) for role in columns]
        if self.form.valid and flags[0] not in self.form.valid:
            name = self.header.names[self.header.places["valid"]]
            return f"whose {name} is {self.text(row, 'valid') or 'blank'}"
        if self.form.invalid and all(flag in self.form.invalid for flag in flags):
            return "of which no eye is valid"
        return ""

    def merge(self, row: list[str], x: float, y: float) -> None:
        """Add a further row of the last fixation."""
        found = self.merging
        assert found is not None
        self.together += 1
        if self.form.merged == "mean":
            found.x += (x - found.x) / self.together
            found.y += (y - found.y) / self.together
        elif self.form.merged == "last":
            found.x, found.y, found.duration = x, y, self.number(row, "duration")

    def place(self, row: list[str], fixation: Fixation) -> None:
        """Add the place of the picture on the screen, where the export tells it."""
        box = [self.number(row, role) for role in ("left", "top", "width", "height")]
        if all(map(math.isfinite, box)) and min(box[2:]) > 0:
            fixation.box = (box[0], box[1], box[2], box[3])
        screen = [self.number(row, role) for role in ("screen_width", "screen_height")]
        if all(map(math.isfinite, screen)) and min(screen) > 0:
            fixation.screen = (round(screen[0]), round(screen[1]))

    def scale(self) -> None:
        """Give all times in milliseconds."""
        t_ms = self.header.unit_ms("t", self.form.t_ms)
        duration_ms = self.header.unit_ms("duration", self.form.duration_ms)
        if t_ms is None and "t" in self.header.places:
            micro, by = self.is_in_microseconds(duration_ms or 1.0)
            t_ms = 1e-3 if micro else 1.0
            name = self.header.names[self.header.places["t"]]
            unit = "microseconds" if micro else "milliseconds"
            self.export.remarks.append(f"'{name}' is read as {unit}, by {by}")
        for fixation in self.export.fixations:
            fixation.t *= t_ms or 1.0
            fixation.duration *= duration_ms or 1.0
        if not self.form.of_picture and "t" in self.header.places and not self.form.fixation:
            self.export.remarks.append(
                "times count from the first row of each observer on each picture: the export does "
                "not tell when the picture appeared"
            )

    def is_in_microseconds(self, duration_ms: float) -> tuple[bool, str]:
        """Return whether times are in microseconds, and what says so.

        Fixations begin little more than their duration apart. Without durations, rows are samples
        of some milliseconds.
        """
        found = self.export.fixations
        ratios = [
            (b.t - a.t) / (a.duration * duration_ms)
            for a, b in itertools.pairwise(found)
            if b.t > a.t and a.duration > 0
        ]
        if ratios:
            return median(ratios) >= LEAST_RATIO, "the durations of its fixations"
        steps = [b - a for a, b in itertools.pairwise(self.clock) if b > a]
        micro = bool(steps) and median(steps) >= LEAST_MICROSECONDS
        return micro, "the steps between its rows"


def _flag(text: str) -> str:
    """Return a flag in lower case, as a whole number if it is a number.

    >>> _flag("1.00000"), _flag("True")
    ('1', 'true')
    """
    try:
        return str(int(float(text.replace(",", "."))))
    except (ValueError, OverflowError):
        return text.casefold()

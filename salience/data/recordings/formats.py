"""Exports of eye trackers' programs: a table of their columns, units, origins and filters.

Pixels are 0-based pixel centres. A share of a screen or a picture is 0 at its outer edge, so that
share s of w pixels is the pixel centre s w - 0.5. The sources are the programs' manuals, and the
headers of exports that published code reads.

eyelink: EyeLink Data Viewer, fixation report (SR Research, EyeLink Data Viewer User Manual). One
    row a fixation, tab separated, '.' for a missing value, decimal commas on some systems.
    CURRENT_FIX_X and _Y are screen pixels, the origin at the top left (DISPLAY_COORDS 0 0 1919
    1079). CURRENT_FIX_START counts milliseconds from the start of the trial. The picture's name is
    a variable of the experiment and has no fixed name.
tobii: Tobii Pro Lab, data export as .tsv (Tobii Pro Lab User Manual). One row a gaze sample, and
    rows of events; UTF-8 or UTF-16 with a byte-order mark; decimal commas on some systems. All rows
    of a fixation share `Eye movement type index` and repeat its position. `Fixation point X` is in
    screen pixels; `(MCSnorm)` or `[MCS norm]` is a share of the presented medium, from its top left
    corner. Durations are milliseconds. Timestamps are milliseconds or microseconds, by a setting
    that only newer exports name in the header. Newer exports call the duration `Eye movement event
    duration`. Validity is Valid or Invalid, formerly 0 (found) to 4 (not found). A fixation can go
    on from one stimulus to the next: it belongs to the first. Tobii Studio's export
    (`FixationPointX (MCSpx)`) is in pixels of the medium.
pupil: Pupil Core, Pupil Player's `surfaces/fixations_on_surface_NAME.csv` (Pupil Core
    documentation, Surface Tracker). One row for each frame of the scene video that a fixation
    spans, each mapped anew, so positions differ a little: their mean counts. norm_pos_x and _y are
    shares of the surface, the origin at the BOTTOM left. The surface's name is in the file's name
    alone, to which older versions append a time; the observer is in the folder's name alone. Neon
    Player and Pupil Cloud (`fixation x [normalized]`, Marker Mapper) count from the TOP left.
gazepoint: Gazepoint Analysis, `User 1_fixations.csv` or `User 1_all_gaze.csv` (Gazepoint, Open Gaze
    API, fixation point of gaze). FPOGX and FPOGY are shares of the screen, the origin at the top
    left; FPOGS and FPOGD are seconds; FPOGV is 1 for valid data. In all_gaze, the rows of a
    fixation share FPOGID and its last one has the whole duration. The header may end in a comma.
smi: SMI BeGaze, event statistics (BeGaze Manual), and the IDF event export `*_Events.txt`.
    Fixations of both eyes are rows of their own ("Fixation L", "Fixation R"; or "Left", "Right" in
    `Eye L/R`); glasses call them "Visual Intake". '-' is a missing value. Comments begin with ##.
    Event statistics name the stimulus in each row, with milliseconds of the trial. IDF events hold
    several tables, one a kind of event, with microseconds of the recording's clock; the picture is
    the last message of a "UserEvent" that names one.
csv: any table with named columns, one row a fixation: see `columns.ROLES` and --columns.
"""

import re
from dataclasses import dataclass

from salience.data.columns import ROLES

SCREEN, PICTURE = "screen", "picture"
# milliseconds in a unit that a header names
UNITS = {"s": 1e3, "ms": 1.0, "μs": 1e-3, "µs": 1e-3, "us": 1e-3, "ns": 1e-6}
UNIT = re.compile(r"(.*?)\s*[\[(]([^\])]*)[\])]")
NOT_OF_SCREEN = ("mcs", "norm")  # in units of coordinates that are not the screen's


@dataclass(frozen=True)
class Format:
    """How a program exports fixations.

    Attributes:
        columns: accepted names of the column of each role, in order of preference, in lower case;
            a name without a unit accepts any unit of the screen. Roles besides those of
            `columns.ROLES`: `event`, kind of the row; `valid`, and `valid_right` for a second eye;
            `id` of the fixation; `recording`; `eye`; `left`, `top`, `width` and `height` of the
            picture on the screen; `screen_width` and `screen_height`.
        space: what coordinates refer to, SCREEN or PICTURE.
        shares: whether coordinates are shares, 0 to 1, rather than pixels.
        from_bottom: whether y counts from the bottom.
        fixation: beginnings of the events that are fixations; () if all rows are.
        valid: values of `valid` that count; () if all do.
        invalid: values of `valid` that do not count.
        merged: which of several rows of a fixation counts: "first", "last" or their "mean".
        t_ms: milliseconds in the unit of `t`, if the header does not name one; None if unknown.
        duration_ms: likewise of `duration`.
        of_picture: whether `t` counts from the picture's onset rather than by a clock.
        named: pattern of a file name whose first group is the picture.
        messages: whether rows of events name the picture that follows.
    """

    columns: dict[str, tuple[str, ...]]
    space: str = SCREEN
    shares: bool = False
    from_bottom: bool = False
    fixation: tuple[str, ...] = ()
    valid: tuple[str, ...] = ()
    invalid: tuple[str, ...] = ()
    merged: str = ""
    t_ms: float | None = 1.0
    duration_ms: float = 1.0
    of_picture: bool = False
    named: str = ""
    messages: bool = False


TOBII = {
    "image": ("presented stimulus name", "presented media name"),
    "subject": ("participant name",),
    "recording": ("recording name",),
    "event": ("eye movement type",),
    "id": ("eye movement type index",),
    "t": ("recording timestamp",),
    "duration": ("gaze event duration", "eye movement event duration"),
    "valid": ("validity left",),
    "valid_right": ("validity right",),
    "left": ("presented media position x",),
    "top": ("presented media position y",),
    "width": ("presented media width",),
    "height": ("presented media height",),
    "screen_width": ("recording resolution width",),
    "screen_height": ("recording resolution height",),
}
SURFACE = r"fixations_on_surface_?(.+?)(?:_\d{9,}\.\d+)?\.csv"
SMI = {
    "image": ("stimulus",),
    "subject": ("participant",),
    "event": ("event type", "category"),
    "eye": ("eye l/r", "eye"),
}
# the first of a program's formats whose x and y are in the header is read
FORMATS: dict[str, tuple[Format, ...]] = {
    "eyelink": (
        Format(
            {
                "image": (
                    *ROLES["image"], "image_name", "imagename", "image_file", "imagefile", "img",
                    "picture_name", "stimulus_name",
                ),
                "x": ("current_fix_x",),
                "y": ("current_fix_y",),
                "subject": ("recording_session_label",),
                "t": ("current_fix_start",),
                "duration": ("current_fix_duration",),
                "eye": ("eye_reported", "eye_used"),
            },
            of_picture=True,
        ),
    ),
    "tobii": (
        Format(
            {**TOBII, "x": ("fixation point x [mcsnorm]",), "y": ("fixation point y [mcsnorm]",)},
            space=PICTURE,
            shares=True,
            fixation=("fixation",),
            invalid=("invalid", "2", "3", "4"),
            merged="first",
            t_ms=None,
        ),
        Format(
            {
                **TOBII,
                "x": ("fixation point x",),
                "y": ("fixation point y",),
            },
            fixation=("fixation",),
            invalid=("invalid", "2", "3", "4"),
            merged="first",
            t_ms=None,
        ),
        Format(
            {
                "image": ("medianame",),
                "subject": ("participantname",),
                "recording": ("recordingname",),
                "event": ("gazeeventtype",),
                "id": ("fixationindex",),
                "x": ("fixationpointx [mcspx]",),
                "y": ("fixationpointy [mcspx]",),
                "t": ("recordingtimestamp",),
                "duration": ("gazeeventduration",),
                "valid": ("validityleft",),
                "valid_right": ("validityright",),
            },
            space=PICTURE,
            fixation=("fixation",),
            invalid=("invalid", "2", "3", "4"),
            merged="first",
        ),
    ),
    "pupil": (
        Format(
            {
                "x": ("norm_pos_x",),
                "y": ("norm_pos_y",),
                "id": ("fixation_id",),
                "valid": ("on_surf",),
                "t": ("start_timestamp",),
                "duration": ("duration",),
            },
            space=PICTURE,
            shares=True,
            from_bottom=True,
            valid=("true", "1"),
            merged="mean",
            t_ms=1e3,
            named=SURFACE,
        ),
        Format(
            {
                "x": ("fixation x [normalized]",),
                "y": ("fixation y [normalized]",),
                "subject": ("recording id",),
                "id": ("fixation id",),
                "valid": ("fixation detected on surface",),
                "t": ("start timestamp",),
                "duration": ("duration",),
            },
            space=PICTURE,
            shares=True,
            valid=("true", "1"),
            merged="mean",
            t_ms=1e-6,
            named=SURFACE,
        ),
    ),
    "gazepoint": (
        Format(
            {
                "image": ("media_name",),
                "x": ("fpogx",),
                "y": ("fpogy",),
                "id": ("fpogid",),
                "valid": ("fpogv",),
                "t": ("fpogs",),
                "duration": ("fpogd",),
            },
            shares=True,
            valid=("1",),
            merged="last",
            t_ms=1e3,
            duration_ms=1e3,
        ),
    ),
    "smi": (
        Format(
            {
                **SMI,
                "x": ("fixation position x", "visual intake position x"),
                "y": ("fixation position y", "visual intake position y"),
                "t": ("event start trial time",),
                "duration": ("event duration", "duration"),
            },
            fixation=("fixation", "visual intake"),
            of_picture=True,
        ),
        Format(
            {
                **SMI,
                "x": ("location x",),
                "y": ("location y",),
                "t": ("start",),
                "duration": ("duration",),
            },
            fixation=("fixation",),
            t_ms=1e-3,
            duration_ms=1e-3,
            messages=True,
        ),
    ),
    "csv": (Format(dict(ROLES), of_picture=True),),
}  # fmt: skip


def plain(name: str) -> tuple[str, str]:
    """Return a column's name in lower case and its unit, without spaces, or "".

    >>> plain("Fixation point X [MCS norm]")
    ('fixation point x', 'mcsnorm')
    """
    text = " ".join(name.casefold().split())
    match = UNIT.fullmatch(text)
    return (match[1], match[2].replace(" ", "")) if match else (text, "")


def find_column(names: list[str], accepted: tuple[str, ...]) -> int | None:
    """Return the index of the first accepted name among a header's, or None.

    Args:
        names: the header.
        accepted: names as in `Format.columns`.
    """
    header = [plain(name) for name in names]
    for wanted in accepted:
        base, unit = plain(wanted)
        for index, (own, own_unit) in enumerate(header):
            fits = own_unit == unit if unit else not any(w in own_unit for w in NOT_OF_SCREEN)
            if own == base and fits:
                return index
    return None

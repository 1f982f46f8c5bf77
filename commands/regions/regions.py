"""The command `regions`: how much predicted and observed attention regions of pictures get.

The outputs are `regions.csv`, `regions.json` and `index.html`, a self-contained page.
"""

import dataclasses
import shlex
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tqdm import tqdm

from commands.pages.regions_page import write_regions_page
from commands.prediction import engines
from commands.regions.measured import Measured, Row, measure_all, with_keys
from commands.regions.pairs import Pair, pairs
from commands.settings import RegionsConfig
from salience.measures.significance import compare_metrics, mean_interval
from salience.networks import weight_files
from salience.system.errors import UserError, did_you_mean
from salience.system.files import (
    as_csv,
    make_folder,
    real_path,
    without_nan,
    write_json,
    write_text,
)
from salience.system.flags import typed_flags
from salience.system.notes import Notes
from salience.system.terminal import COMMAND_LINE, aligned, counted, progress, tell

PRINTED = 40  # rows of the printed table
TABLE, RECORD, PAGE = "regions.csv", "regions.json", "index.html"


def run(settings: RegionsConfig) -> bool:
    """Run the command; return True if all pictures were measured and no region fails."""
    found = measure_regions(settings)
    return not found["failing"] and not found["left_out"]


def measure_regions(settings: RegionsConfig, say: Callable[[str], None] = tell) -> dict[str, Any]:
    """Measure the regions of pictures; print and write the results.

    Args:
        settings: the pictures, the regions, the data set and the output folder.
        say: called with each message.

    Returns:
        The content of `regions.json`.

    Raises:
        UserError: the regions, the pictures or the weights cannot be used, or the output cannot be
            written.
    """
    notes = Notes()
    refuse_own_output(settings)
    found = pairs(settings, notes, say)
    check_limits(settings, found)
    engine = load_engine(settings, notes, say)
    make_folder(settings.output)
    measured: list[Measured] = []
    left_out = []
    with progress(len(found), "regions") as bar:
        for one in measure_all(
            found, engine, settings.smooth, settings.workers, settings.gallery, notes
        ):
            bar.update()
            if isinstance(one, UserError):
                left_out.append(str(one))
                tqdm.write(f"skipped: {one}", file=sys.stderr)
            else:
                measured.append(one)
    if not measured:
        raise UserError(f"None of the {len(found)} pictures with regions could be measured.")
    results = results_of(settings, measured, left_out, notes)
    say(table(measured))
    for line in summary_lines(results["summary"]):
        say(line)
    for note in results["notes"]:
        say(f"note: {note}")
    for one in results["failing"]:
        say(
            f"failing: {one['image']}: '{one['name']}' gets {one['share']:.4f} of the predicted "
            f"density, less than {one['least']:g}"
        )
    write_text(settings.output / TABLE, as_csv(csv_rows(measured)))
    write_json(settings.output / RECORD, without_nan(results))
    write_regions_page(settings.output / PAGE, {**results, "shown": [m.shown for m in measured]})
    say(f"wrote {settings.output}/{PAGE}, {RECORD} and {TABLE}")
    return results


def refuse_own_output(settings: RegionsConfig) -> None:
    """Raise UserError if an output would replace a file of regions."""
    for file in (settings.regions, settings.against_regions):
        if file and real_path(file) in [real_path(settings.output / n) for n in (TABLE, RECORD)]:
            raise UserError(f"--output {settings.output} would replace {file}: name another.")


def check_limits(settings: RegionsConfig, found: list[Pair]) -> None:
    """Raise UserError if --fail_below names a region that no picture has."""
    names = dict.fromkeys(region.name for pair in found for region in pair.own.regions)
    for name in settings.limits:
        if name not in names:
            raise UserError(
                f"--fail_below {name}: no picture has this region. {did_you_mean(name, names)}"
            )


def load_engine(
    settings: RegionsConfig, notes: Notes, say: Callable[[str], None]
) -> engines.Engine:
    """Return the network with what turns its maps into densities.

    Raises:
        UserError: the engine, the weights, their calibration or the adaptation cannot be used.
    """
    weights = weight_files.choose(settings.weights, settings.weights_dir, say)
    name = engines.choose(settings.engine)
    engine = engines.load_adapted(
        name, weights, settings.adaptation, settings.mirror, say, only_densities=True
    )
    if engine.finish.calibration is not None:  # the engine's, too
        return engine
    return dataclasses.replace(engine, calibration=engines.calibration(weights, notes.explain))


def results_of(
    settings: RegionsConfig, measured: list[Measured], left_out: list[str], notes: Notes
) -> dict[str, Any]:
    """Return the content of `regions.json`."""
    pictures = []
    for one in measured:
        rows, columns = one.shape
        entry = {"image": one.image, "width": columns, "height": rows}
        if one.other_shape:
            entry |= {"against": {
                "image": one.other, "width": one.other_shape[1], "height": one.other_shape[0],
            }}  # fmt: skip
        pictures.append({**entry, "regions": with_keys(one.rows)})
    failing = [
        {"image": one.image, "name": row["name"], "share": row["share"], "least": least}
        for one in measured
        for row in one.rows
        if (least := settings.limits.get(row["name"])) is not None and row["share"] < least
    ]
    return {
        "pictures": pictures,
        "summary": summary(measured, settings.seed),
        "limits": settings.limits,
        "failing": failing,
        "left_out": left_out,
        "notes": notes.lines(),
        "regions": str(settings.regions),
        "against": settings.against,
        "fixations": data_set(settings),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([*COMMAND_LINE, "regions", *typed_flags(settings)]),
    }


def data_set(settings: RegionsConfig) -> str | None:
    """Return the data set with the fixations as text, or None without one."""
    if settings.data:
        return f"{settings.dataset} at {settings.data}"
    return settings.dataset if settings.dataset != RegionsConfig.dataset else None


def summary(measured: list[Measured], seed: int) -> list[Row]:
    """Return, for each region of several pictures, its mean shares and their intervals.

    With other versions, each row also has the mean difference, its interval, and the p value of a
    sign-flip test, corrected for the number of regions.
    """
    by_name: dict[str, list[Row]] = {}
    for one in measured:
        for row in one.rows:
            by_name.setdefault(row["name"], []).append(row)
    repeated = {name: rows for name, rows in by_name.items() if len(rows) > 1}
    both = {
        name: kept
        for name, rows in repeated.items()
        if len(kept := [row for row in rows if row.get("difference") is not None]) > 1
    }
    differences = compare_metrics(
        {name: [row["against_share"] for row in rows] for name, rows in both.items()},
        {name: [row["share"] for row in rows] for name, rows in both.items()},
        dict.fromkeys(both, True),
        seed,
    )
    lines = []
    for name, rows in repeated.items():
        line: Row = {"name": name, "pictures": len(rows)}
        for key in ("share", "area", "observed_share"):
            if any(row.get(key) is not None for row in rows):
                values = [float("nan") if row.get(key) is None else row[key] for row in rows]
                line[key] = dataclasses.asdict(mean_interval(values, seed))
        if name in differences:
            found = dataclasses.asdict(differences[name])
            line["difference"] = {key: found[key] for key in (
                "difference", "low", "high", "p", "p_corrected", "pictures"
            )}  # fmt: skip
        lines.append(line)
    return lines


def csv_rows(measured: list[Measured]) -> list[Row]:
    """Return the rows of `regions.csv`; missing values are empty."""
    rows = with_keys([{"image": m.image, **row} for m in measured for row in m.rows])
    if any(one.other for one in measured):
        names = [one.other for one in measured for _ in one.rows]
        rows = [{**row, "against_image": other} for row, other in zip(rows, names, strict=True)]
    return [
        {key: "" if value is None or value != value else value for key, value in row.items()}
        for row in rows
    ]


def table(measured: list[Measured]) -> str:
    """Return the measurements as text, the first rows if there are many."""
    rows = with_keys([{"image": m.image, **row} for m in measured for row in m.rows])
    columns = {
        "share": ("predicted", "{:.1%}"),
        "area": ("area", "{:.1%}"),
        "times": ("times area", "{:.2f}"),
        "rank": ("rank", "{}"),
        "observed_share": ("observed", "{:.1%}"),
        "observed_looked": ("looked", "{:.0%}"),
        "observed_first_ms": ("first, ms", "{:.0f}"),
        "observed_dwell_ms": ("dwell, ms", "{:.0f}"),
        "against_share": ("against", "{:.1%}"),
        "difference": ("points", "{:+.1f}"),
    }
    there = {
        key: column
        for key, column in columns.items()
        if any(row.get(key) is not None and row[key] == row[key] for row in rows)
    }
    lines = [["region", *(title for title, _ in there.values())]]
    for row in rows[:PRINTED]:
        cells = [shown(key, row[key], form) for key, (_, form) in there.items()]
        lines.append([f"{row['image']}: {row['name']}", *cells])
    text = aligned(lines)
    more = len(rows) - PRINTED
    return f"{text}\n... and {more} more in {TABLE}" if more > 0 else text


def shown(key: str, value: float | None, form: str) -> str:
    """Return a value of the table as text; differences are in percentage points."""
    if value is None or value != value:
        return "-"
    return form.format(100 * value if key == "difference" else value)


def summary_lines(lines: list[Row]) -> list[str]:
    """Return a line for each region of several pictures."""
    texts = []
    for line in lines:
        share, gap = line["share"], line.get("difference")
        text = (
            f"{line['name']}: {share['mean']:.1%} of the predicted density on average "
            f"[{share['low']:.1%}, {share['high']:.1%}], {counted(line['pictures'], 'picture')}"
        )
        if gap:
            low, mean, high = (100 * gap[key] for key in ("low", "difference", "high"))
            text += f"; {mean:+.1f} points [{low:+.1f}, {high:+.1f}] against the other version"
        texts.append(text)
    return texts

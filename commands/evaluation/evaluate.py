"""The command `evaluate`: scores a model or a folder of maps, and the references."""

import shlex
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from commands.evaluation.map_sources import FolderMaps, ModelMaps, Source, engine_for, maps_to_fit
from commands.evaluation.rows import (
    Evaluation,
    Row,
    adapted_row,
    all_reference_rows,
    model_row,
    note_reading,
    optimal_row,
    score_rows,
    scoring_line,
)
from commands.evaluation.score_log import LOG, ScoreLog
from commands.evaluation.scored_split import load_split, note_training_pictures, truth_of
from commands.evaluation.tables import category_table, score_table, write
from commands.settings import EvaluateConfig
from salience.data.plan import ALL_SPLITS
from salience.measures.adaptation import (
    IDENTITY,
    LEAST_PICTURES,
    fit_adaptation,
    fit_line,
)
from salience.measures.finish import UNFINISHED, finish_of
from salience.measures.references import TruthSplit
from salience.system.errors import UserError
from salience.system.files import make_folder, real_path
from salience.system.flags import to_json, typed_flags
from salience.system.notes import Notes
from salience.system.terminal import COMMAND_LINE, tell


def run(settings: EvaluateConfig) -> bool:
    """Run the command `evaluate`; return True if every picture has a map."""
    return not evaluate(settings).left_out


def evaluate(settings: EvaluateConfig, say: Callable[[str], None] = tell) -> Evaluation:
    """Score a model or a folder of maps, and the references; print and write the table.

    Args:
        settings: the maps, the data and the output folder.
        say: called with each message.

    Returns:
        The rows; `left_out` lists the pictures without a usable map.

    Raises:
        UserError: the data, the weights or the maps cannot be used, or the output cannot be
            written.
    """
    notes = Notes()
    split = load_split(settings, settings.split, notes)
    if settings.output:
        make_folder(settings.output)
    source = source_of(settings, split, notes, say)
    if isinstance(source, ModelMaps):
        note_training_pictures(source.config, settings, split.samples, notes, source.weights)
    rows = [model_row(source, split)]
    if settings.tune:
        rows.append(tuned_row(settings, source, split, notes, say))
    if settings.optimal:
        rows += density_rows(settings, source, split, say)
    rows += all_reference_rows(split, notes)
    log = ScoreLog(settings.output and settings.output / LOG, settings.overwrite)
    say(scoring_line(split, rows))
    evaluation = score_rows(split, rows, log, notes, settings.seed, settings.workers)
    note_reading(evaluation)
    splits = "all splits" if settings.split == ALL_SPLITS else f"{settings.split} split"
    say(score_table(evaluation, f"{settings.dataset}, {splits}"))
    for lines in category_table(evaluation):
        say(lines)
    for line in notes.lines():
        say(f"note: {line}")
    if settings.output:
        ran = {"engine": source.engine.name if isinstance(source, ModelMaps) else None}
        write(settings.output, evaluation, to_json(settings) | ran, truth_of(split, settings))
        say(f"wrote {settings.output}/metrics.json and {settings.output}/per_image.csv")
        write_own_page(settings, evaluation, source, split, say)
    return evaluation


def write_own_page(
    settings: EvaluateConfig,
    evaluation: Evaluation,
    source: Source,
    split: TruthSplit,
    say: Callable[[str], None],
) -> None:
    """Write the page of the scores, as that of `compare`."""
    from commands.evaluation import compare  # here: pages take a second to import
    from commands.pages.report import write_page

    assert settings.output
    models = [row for row in evaluation.rows if row.kind == "model"]
    if all(np.isnan(mean.mean) for row in models for mean in row.means.values()):
        return  # nothing to show
    values = compare.page_values(evaluation, [row.name for row in models], settings)
    shown = compare.gallery_pictures(values, evaluation, settings.gallery)
    write_page(settings.output / "index.html", {
        **values,
        "command": shlex.join([*COMMAND_LINE, "evaluate", *typed_flags(settings)]),
        "rows": compare.page_rows(evaluation),
        "gallery": list(compare.gallery(shown, split, {source.name: source})),
    })  # fmt: skip
    say(f"wrote {settings.output}/index.html: the scores as a page")


def source_of(
    settings: EvaluateConfig, split: TruthSplit, notes: Notes, say: Callable[[str], None]
) -> Source:
    """Return the source of the maps: the folder of `--maps`, else a model."""
    if settings.maps:
        name = real_path(settings.maps).name
        return FolderMaps(
            settings.maps,
            name,
            split.samples,
            notes,
            settings.smooth,
            settings.stretch,
            settings.optimal,
        )
    from salience.networks import weight_files  # here: a folder of maps needs no network

    weights = weight_files.choose(settings.weights, settings.weights_dir, say)
    name = weight_files.card_path(weights).stem
    return ModelMaps(
        weights,
        name,
        settings.batch_size,
        settings.workers,
        settings.smooth,
        settings.mirror,
        finish_of(
            weight_files.read_card(weights),
            weights,
            settings.adaptation,
            settings.of_set,
            settings.smooth,
            say,
        ),
        keep=settings.optimal,  # maps and densities come from one prediction
        engine=engine_for(settings.engine, len(split.samples), [weights], say),
        say=say,
    )


def density_rows(
    settings: EvaluateConfig, source: Source, split: TruthSplit, say: Callable[[str], None]
) -> list[Row]:
    """Return the row of a network's densities, and the row of each metric's best map under them.

    The row of densities is left out where it would repeat that of the maps: for finished densities,
    for an adaptation, and without a calibration and a blur of maps.
    """
    if not isinstance(source, ModelMaps):
        return [optimal_row(source, split, IDENTITY)]
    from commands.prediction.engines import calibration  # here: finished maps need no network

    own = source.finished(UNFINISHED)
    found = source.finish.calibration or calibration(source.weights, say)
    rows = [optimal_row(own, split, found)]
    if source.finish != replace(source.finish, adaptation=found, map_blur=0.0):
        rows.insert(0, adapted_row(f"{source.name}, density", own, split, found))
    return rows


def tuned_row(
    settings: EvaluateConfig,
    source: Source,
    split: TruthSplit,
    notes: Notes,
    say: Callable[[str], None],
) -> Row:
    """Return a row of the maps, adapted to the validation pictures."""
    if settings.split != "test":
        raise UserError(
            "--tune fits on the val split, so it can be scored on test only, not on "
            f"{settings.split}."
        )
    val_notes = Notes()
    validation = load_split(settings, "val", val_notes)
    val_source = source
    if settings.maps:
        if not settings.val_maps:
            raise UserError(
                "--tune needs the maps of the validation pictures: name their folder with "
                "--val_maps."
            )
        val_source = FolderMaps(
            settings.val_maps,
            source.name,
            validation.samples,
            val_notes,
            settings.smooth,
            settings.stretch,
        )
    found = maps_to_fit(val_source, validation.samples, settings.gaussian_pixels)
    usable = [picture for picture in found if picture is not None]
    if len(usable) < LEAST_PICTURES:
        raise UserError(
            f"--tune needs {LEAST_PICTURES} validation pictures with a usable map and fixations; "
            f"there are {len(usable)}."
        )
    fit = fit_adaptation(usable, settings.seed)
    notes.merge(val_notes, "validation")
    say(f"tuned on {len(usable)} of {len(found)} validation pictures: {fit_line(fit)}")
    return adapted_row(f"{source.name}, tuned", source, split, fit.adaptation)

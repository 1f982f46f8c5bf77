"""What `evaluate` does: score a model or a folder of maps on a split, beside the references."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config import EvaluateConfig, data_of
from errors import UserError
from files import make_folder
from fixations import mixture_weights, pixels
from notes import Notes
from progress import progress, tell
from references import CentreBias, Split
from scoring import (
    LOG,
    Evaluation,
    Row,
    ScoreLog,
    all_reference_rows,
    category_table,
    key_of,
    load_split,
    metric_names,
    model_row,
    note_reading,
    note_training_pictures,
    score_rows,
    table,
    write,
)
from sources import FolderMaps, ModelMaps, PostProcessing, Source, spread

BLURS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)  # what --tune tries, in sigmas of the data set


def settings_of(flags: dict[str, Any]) -> EvaluateConfig:
    """Return the settings: the data set and the split of the model's training, unless flags say.

    Raises:
        UserError: the weights are not usable, or a value is out of range.
    """
    settings = EvaluateConfig(**flags)
    metric_names(settings.metrics)  # a mistyped name is told before files are looked for
    if settings.maps:
        return settings
    import weight_files  # here: scoring maps of a folder needs no network

    weights = weight_files.choose(settings.weights, settings.weights_dir, lambda line: None)
    trained = weight_files.trained_config(weights)
    return EvaluateConfig(**{**data_of(trained, flags), **flags})


def evaluate(settings: EvaluateConfig, say: Callable[[str], None] = tell) -> Evaluation:
    """Score a model, or a folder of maps, beside the references, and print the table.

    Args:
        settings: the maps, the data and where to write.
        say: gets each line of news.

    Returns:
        The rows; `left_out` names the pictures that had no usable map.

    Raises:
        UserError: the data, the weights or the maps are not usable, or the output cannot be
            written.
    """
    notes = Notes()
    split = load_split(settings, settings.split, notes)
    if settings.output:
        make_folder(settings.output)
    source = source_of(settings, split, notes, say)
    if isinstance(source, ModelMaps):
        note_training_pictures(source.config, settings, split, notes)
    rows = [model_row(source, split)]
    if settings.tune:
        rows.append(tuned_row(settings, source, split, notes, say))
    rows += all_reference_rows(split)
    log = ScoreLog(settings.output and settings.output / LOG, settings.overwrite)
    evaluation = score_rows(split, rows, log, notes, settings)
    note_reading(evaluation)
    say(table(evaluation, f"{settings.dataset}, {settings.split} split"))
    for lines in category_table(evaluation):
        say(lines)
    for line in notes.lines():
        say(f"note: {line}")
    if settings.output:
        write(settings.output, evaluation, settings)
        say(f"wrote {settings.output}/metrics.json and {settings.output}/per_image.csv")
    return evaluation


def source_of(
    settings: EvaluateConfig, split: Split, notes: Notes, say: Callable[[str], None]
) -> Source:
    """Return where the maps come from: the folder asked for, else a model."""
    if settings.maps:
        name = settings.maps.resolve().name
        return FolderMaps(settings.maps, name, split.samples, notes, settings.smooth)
    import weight_files  # here: scoring maps of a folder needs no network

    weights = weight_files.choose(settings.weights, settings.weights_dir, say)
    name = weight_files.card_path(weights).stem
    return ModelMaps(
        weights, name, settings.batch_size, settings.workers, settings.smooth, settings.mirror
    )


def tuned_row(
    settings: EvaluateConfig,
    source: Source,
    split: Split,
    notes: Notes,
    say: Callable[[str], None],
) -> Row:
    """Return the row of the same maps, post-processed as suits the validation pictures best."""
    if settings.split != "test":
        raise UserError(
            f"--tune fits on the val split and takes the centre bias of train, so it can be scored "
            f"on test alone, not on {settings.split}."
        )
    about_val = Notes()
    validation = load_split(settings, "val", about_val)
    training = load_split(settings, "train", Notes())
    if not training.centre.count or not validation.centre.count:
        raise UserError(f"--tune needs fixations, and {settings.dataset} has none.")
    val_source = source
    if settings.maps:
        if not settings.val_maps:
            raise UserError(
                "--tune needs the maps of the validation pictures: name their folder with "
                "--val_maps."
            )
        val_source = FolderMaps(
            settings.val_maps, source.name, validation.samples, about_val, settings.smooth
        )
    post, count = fitted_post_processing(val_source, validation, training.centre)
    notes.merge(about_val, "validation")
    own, bias, uniform = post.weights
    say(
        f"post-processing fitted on {count} of {len(validation.samples)} validation pictures: blur "
        f"{post.blur * validation.sigma(0):g} px, {own:.1%} map, {bias:.1%} centre bias, "
        f"{uniform:.1%} uniform"
    )
    about = f"{source.fingerprint()} {post} {training.fingerprint}"
    return Row(
        f"{source.name}, tuned",
        "model",
        key_of(split, about),
        lambda truth, values: truth.score(
            post.apply(values, training.centre.everywhere(truth.shape), truth.sigma_pixels)
        ),
        source,
    )


def fitted_post_processing(
    source: Source, validation: Split, training: CentreBias
) -> tuple[PostProcessing, int]:
    """Return the blur and shares that make the validation fixations likeliest, and on how many.

    Args:
        source: of the maps of the validation pictures.
        validation: these pictures.
        training: the centre bias of the training pictures.

    Raises:
        UserError: no validation picture has both a map and fixations.
    """
    likelihoods: dict[float, list[NDArray]] = {blur: [] for blur in BLURS}
    shapes = [shape for _, shape in validation.pictures]
    bar = progress(len(shapes), "fitting on validation")
    for i, saliency_map in enumerate(source.maps(validation.samples, shapes)):
        bar.update()
        fixations, shape = validation.pictures[i]
        cells = pixels(fixations, shape)
        if saliency_map is None or not len(cells):
            continue
        at = tuple(cells.T)
        centre = training.everywhere(shape)[at]
        uniform = np.full(len(centre), 1 / np.prod(shape))
        for blur, rows in likelihoods.items():
            own = spread(saliency_map, blur * validation.sigma(i))[at]
            rows.append(np.stack([own, centre, uniform], axis=1))
    bar.close()
    count = len(likelihoods[BLURS[0]])
    if not count:
        raise UserError("--tune: no validation picture has both a usable map and fixations.")
    best = (-np.inf, 0.0, np.zeros(3))
    for blur, rows in likelihoods.items():
        seen = np.concatenate(rows)
        weights = mixture_weights(seen)
        best = max(best, (float(np.log(seen @ weights).mean()), blur, weights), key=lambda b: b[0])
    own, bias, uniform_share = best[2].tolist()
    return PostProcessing(best[1], (own, bias, uniform_share)), count

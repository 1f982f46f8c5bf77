"""The command `adapt`: adapts a network's maps to a data set's bias, and scores the gain.

The weights stay unchanged, and the network sees each picture once. The numbers are fitted in the
network, if it has numbers of data sets (`row_fit.py`), or on finished maps; `adaptation.py` chooses
between the fit and nothing. Pictures are drawn from the train split, and scores are computed on the
test split.
"""

import dataclasses
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from commands.evaluation.map_sources import (
    ModelMaps,
    RowMaps,
    engine_for,
    maps_to_fit,
    of_one_precision,
)
from commands.evaluation.rows import Evaluation, adapted_row, model_row, score_rows
from commands.evaluation.score_log import LOG, ScoreLog
from commands.evaluation.scored_split import (
    load_part,
    load_split,
    note_training_pictures,
    pictures_of_training,
    truth_of,
)
from commands.evaluation.tables import DIGITS, metric_definitions, write_per_image
from commands.pages import figures
from commands.pages.report import verdict
from commands.prediction.engines import finish_for
from commands.settings import AUTO, MAPS, NETWORK, AdaptConfig
from config import trained_config
from salience.measures.adaptation import (
    IDENTITY,
    LEAST_PICTURES,
    ON_MAPS,
    AdaptationFit,
    fit_adaptation,
    fit_line,
    path_of,
    save,
)
from salience.measures.finish import UNFINISHED
from salience.measures.metrics import Metric
from salience.measures.row_fit import in_network
from salience.measures.significance import Interval, mean_interval
from salience.networks import weight_files
from salience.pictures.sample import Sample
from salience.system.errors import UserError
from salience.system.files import as_csv, make_folder, write_json, write_text
from salience.system.flags import to_json, typed_flags
from salience.system.notes import Notes
from salience.system.terminal import COMMAND_LINE, aligned, counted, progress, tell

BEFORE, ALL, REFERENCE = "before", "all", "reference"
MOST_PICTURES = 400  # whose features are kept in memory: a dozen numbers need no more
GAIN, LOSS, UNCLEAR = "gain", "loss", "unclear"


@dataclass(frozen=True)
class AdaptedGroup:
    """Rows that are scored together: unadapted maps, or maps adapted to a number of pictures.

    Attributes:
        name: before, a number of pictures, all, or reference.
        fits: one fit per draw of the pictures; empty without a fit.
    """

    name: str
    fits: tuple[AdaptationFit, ...] = ()

    @property
    def rows(self) -> tuple[str, ...]:
        """The names of the rows, one per draw."""
        return tuple(f"{self.name}, draw {i}" for i in range(len(self.fits))) or (self.name,)


def run(settings: AdaptConfig) -> bool:
    """Run the command `adapt`; return True if every picture has a map."""
    return not adapt(settings)["left_out"]


def adapt(settings: AdaptConfig, say: Callable[[str], None] = tell) -> dict[str, Any]:
    """Fit and score adaptations, and write the results; return the content of adapt.json.

    Args:
        settings: the weights, the data and the numbers of pictures.
        say: called with each message.

    Raises:
        UserError: the weights or the data cannot be used, there are fewer pictures than requested,
            or the output cannot be written.
    """
    notes = Notes()
    weights = weight_files.choose(settings.weights, settings.weights_dir, say)
    split = load_split(settings, settings.split, notes)
    training = load_part(settings, "train")
    if max(settings.n) > len(training):
        raise UserError(
            f"--n {max(settings.n)}: the train split of {settings.dataset} has {len(training)} "
            f"pictures. Fit on fewer, such as --n {len(training)}."
        )
    make_folder(settings.output)

    named = {BEFORE: weights} | ({REFERENCE: settings.reference} if settings.reference else {})
    where = where_of(settings, weights)

    def maps_by(engine: str) -> dict[str, ModelMaps]:
        return {
            name: RowMaps(file, name, settings.batch_size, settings.workers)
            if where == NETWORK and name == BEFORE
            else ModelMaps(file, name, settings.batch_size, settings.workers, keep=True,
                           engine=engine, say=say)
            for name, file in named.items()
        }  # fmt: skip

    pictures = len(split.samples) + min(len(training), max(settings.n) * settings.draws)
    files = list(named.values())
    engine = "keras" if where == NETWORK else engine_for(settings.engine, pictures, files, say)
    sources = of_one_precision(maps_by, engine)
    source = sources[BEFORE]
    # numbers are fitted on the network's own maps, and compared with the maps that `test` writes
    by_card = {
        name: one.finished(finish_for(one.weights, None, None, 0.0, lambda line: None))
        for name, one in sources.items()
    }
    for name, one in by_card.items():
        note_training_pictures(one.config, settings, split.samples, notes, one.weights)
        if one.finish != UNFINISHED:
            notes.explain(f"{name}: the maps that `test` writes, as the card of the weights says")
    groups = [AdaptedGroup(BEFORE), *fitted_groups(settings, source, training, notes, say)]
    rows = [model_row(by_card[BEFORE], split)]
    for group in groups:
        for name, fit in zip(group.rows, group.fits, strict=False):
            changed = by_card[BEFORE] if fit.adaptation == IDENTITY else source
            rows.append(adapted_row(name, changed, split, fit.adaptation))
    if settings.reference:
        groups.append(AdaptedGroup(REFERENCE))
        rows.append(model_row(by_card[REFERENCE], split))
    log = ScoreLog(settings.output / LOG, settings.overwrite)
    evaluation = score_rows(split, rows, log, notes, settings.seed, settings.workers)
    lines = summary(evaluation, groups, settings.seed)
    say(adaptation_table(evaluation, groups, lines, f"{settings.dataset}, {settings.split} split"))
    for line in (*effect_lines(evaluation, lines), *(f"note: {note}" for note in notes.lines())):
        say(line)
    truth = truth_of(split, settings)
    return write_results(settings, weights, evaluation, truth, groups, lines, say)


def where_of(settings: AdaptConfig, weights: Path) -> str:
    """Return where numbers are fitted, NETWORK or MAPS.

    Raises:
        UserError: the network has no numbers of data sets, or there are too many pictures.
    """
    trained = trained_config(weights)
    has_numbers = trained.own.has_numbers
    if settings.numbers == NETWORK and not has_numbers:
        raise UserError(
            f"--numbers {NETWORK}: {trained.model} has no numbers of data sets. Leave it out, or "
            "name weights of multiscale."
        )
    where = NETWORK if has_numbers and settings.numbers in (AUTO, NETWORK) else MAPS
    if where == NETWORK and max(settings.n) > MOST_PICTURES:
        raise UserError(
            f"--n {max(settings.n)}: numbers in the network are fitted on at most {MOST_PICTURES} "
            f"pictures. Name fewer, or --numbers {MAPS}."
        )
    return where


def fitted_groups(
    settings: AdaptConfig,
    source: ModelMaps,
    training: list[Sample],
    notes: Notes,
    say: Callable[[str], None],
) -> list[AdaptedGroup]:
    """Return the fits for each number of pictures, and for all pictures if several are compared.

    A draw takes the first pictures of a random order, so that larger draws contain smaller ones.

    Raises:
        UserError: too few of the pictures have fixations.
    """
    orders = [
        np.random.default_rng((settings.seed, draw)).permutation(len(training)).tolist()
        for draw in range(settings.draws)
    ]
    numbers = sorted(set(settings.n))
    parts = {str(n): [order[:n] for order in orders] for n in numbers}
    if len(numbers) > 1:  # the upper limit for more pictures
        parts[ALL] = [orders[0][:MOST_PICTURES] if isinstance(source, RowMaps) else orders[0]]
        if len(parts[ALL][0]) < len(training):
            notes.explain(
                f"{ALL}: {MOST_PICTURES} of {len(training)} pictures, whose features fit in memory"
            )
    needed = sorted({i for drawn in parts.values() for order in drawn for i in order})
    known_pictures = pictures_of_training(
        source.config, settings, [training[i] for i in needed], source.weights
    )["train"]
    if known_pictures:
        notes.explain(
            f"The network was trained on {len(known_pictures)} of the {len(needed)} pictures to "
            "fit on. Its maps are better there than on new pictures, so the numbers fit those less."
        )
    samples, about = [training[i] for i in needed], (settings.gaussian_pixels, settings.objective)
    found: list[Any]
    if isinstance(source, RowMaps):
        found, fitting = source.to_fit(samples, *about), in_network(source.rows)
    else:
        found, fitting = maps_to_fit(source, samples, *about), ON_MAPS
    known = dict(zip(needed, found, strict=True))
    groups = []
    bar = progress(sum(map(len, parts.values())), "fitting", "fits")
    with bar:
        for name, drawn in parts.items():
            fits = []
            for order in drawn:
                usable = [picture for i in order if (picture := known[i]) is not None]
                if len(usable) < LEAST_PICTURES:
                    raise UserError(
                        f"{len(usable)} of {len(order)} drawn pictures have fixations: at least "
                        f"{LEAST_PICTURES} are needed."
                    )
                fits.append(fit_adaptation(usable, settings.seed, settings.objective, fitting))
                bar.update()
            groups.append(AdaptedGroup(name, tuple(fits)))
            bar.clear()  # else the line would follow the bar on its line
            say(f"{name} pictures{', first draw' * (len(drawn) > 1)}: {fit_line(fits[0])}")
    return groups


def summary(evaluation: Evaluation, groups: list[AdaptedGroup], seed: int) -> list[dict[str, Any]]:
    """Return a line per group and metric: the mean, the gain and the share of each gap closed.

    The score of a picture is its mean over the draws, so that intervals are over pictures.
    """
    scores = {
        group.name: {
            metric: np.mean(
                [[picture[metric] for picture in evaluation.row(row).scores] for row in group.rows],
                axis=0,
            )
            for metric in evaluation.metrics
        }
        for group in groups
    }
    lines: list[dict[str, Any]] = []
    for group in groups:
        for metric, own in scores[group.name].items():
            mean = mean_interval(own, seed)
            gain = mean_interval(own - scores[BEFORE][metric], seed)
            line = {
                "fitted_on": group.name,
                "draws": len(group.fits),
                "metric": metric,
                "mean": mean.mean,
                "low": mean.low,
                "high": mean.high,
                "gain": gain.mean,
                "gain_low": gain.low,
                "gain_high": gain.high,
                "effect": effect(gain, evaluation.metrics[metric], DIGITS.get(metric, 3)),
            }
            lines.append(line)
    by_place = {(line["fitted_on"], line["metric"]): line for line in lines}
    for target in (name for name in (ALL, REFERENCE) if name in scores):
        for line in lines:
            before, there = (by_place[name, line["metric"]] for name in (BEFORE, target))
            share = closed_share(before["mean"], line["mean"], there["mean"])
            line[f"closed_to_{target}"] = share if there["effect"] == GAIN else float("nan")
    return lines


def effect(gain: Interval, metric: Metric, digits: int = 3) -> str:
    """Return the kind of a change of a metric: gain, loss or unclear.

    A change is unclear if it is not significant or rounds to zero.

    >>> from salience.measures.metrics import METRICS
    >>> effect(Interval(0.2, 0.1, 0.3, 9), METRICS["cc"])
    'gain'
    >>> effect(Interval(0.2, 0.1, 0.3, 9), METRICS["kld"])
    'loss'
    """
    row = {"difference": gain.mean, "low": gain.low, "high": gain.high}
    found = verdict(row, {"higher_is_better": metric.higher_is_better}, digits)
    return {"better": GAIN, "worse": LOSS}.get(found, UNCLEAR)


def closed_share(before: float, own: float, target: float) -> float:
    """Return the share of the gap between two scores that a third one closes; NaN without a gap.

    >>> closed_share(1.0, 1.75, 2.0)
    0.75
    """
    gap = target - before
    return (own - before) / gap + 0.0 if gap else float("nan")  # + 0.0 avoids "-0 %"


def adaptation_table(
    evaluation: Evaluation, groups: list[AdaptedGroup], lines: list[dict[str, Any]], caption: str
) -> str:
    """Return the scores as text: a line per metric, a column per group."""
    by_place = {(line["metric"], line["fitted_on"]): line for line in lines}
    cells = [["", *(group.name for group in groups)]]
    for key, metric in evaluation.metrics.items():
        row = [metric.name + ("" if metric.higher_is_better else " (lower is better)")]
        for group in groups:
            line, digits = by_place[key, group.name], DIGITS.get(key, 3)
            interval = f"[{line['low']:.{digits}f}, {line['high']:.{digits}f}]"
            share = line.get(f"closed_to_{REFERENCE}", line.get(f"closed_to_{ALL}", np.nan))
            share_text = f" {share:4.0%}" if group.fits and np.isfinite(share) else ""
            share_text = " loss" if group.fits and line["effect"] == LOSS else share_text
            row.append(f"{line['mean']:.{digits}f} {interval}{share_text}")
        cells.append(row)
    names = [group.name for group in groups]
    target = next((name for name in (REFERENCE, ALL) if name in names), None)
    of = f"; %: share of the gap to {target} that is closed" if target else ""
    return (
        f"{caption}: {counted(len(evaluation.pictures), 'picture')}, means [bootstrap 95 %] by the "
        f"number of pictures fitted on{of}\n{aligned(cells)}"
    )


def effect_lines(evaluation: Evaluation, lines: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the metrics that gained or lost, a line per number of pictures."""
    fitted_on = dict.fromkeys(
        line["fitted_on"] for line in lines if line["fitted_on"] not in (BEFORE, REFERENCE)
    )
    for name in fitted_on:
        own = [line for line in lines if line["fitted_on"] == name]
        if not any(line["gain_low"] or line["gain_high"] for line in own):
            yield f"fitted on {name} pictures: no score changes"
            continue
        parts_of_line = []
        for kind, words in ((GAIN, "gains in"), (LOSS, "loses in"), (UNCLEAR, "unclear in")):
            found = []
            for line in own:
                if line["effect"] == kind:
                    metric, d = evaluation.metrics[line["metric"]], DIGITS.get(line["metric"], 3)
                    low = "" if metric.higher_is_better else " (lower is better)"
                    found.append(f"{metric.name} {round(line['gain'], d) + 0.0:+.{d}f}{low}")
            parts_of_line += [f"{words} {', '.join(found)}"] if found else []
        yield f"fitted on {name} pictures: {'; '.join(parts_of_line)}"


def write_results(
    settings: AdaptConfig,
    weights: Path,
    evaluation: Evaluation,
    truth: dict[str, Any],
    groups: list[AdaptedGroup],
    lines: list[dict[str, Any]],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Write the adaptation beside its weights, and the scores; return the content of adapt.json."""
    command = shlex.join([*COMMAND_LINE, "adapt", *typed_flags(settings)])
    chosen = next(group for group in groups if group.name == str(max(settings.n)))
    fit = chosen.fits[0]
    means = {
        row: {metric: found.mean for metric, found in evaluation.row(row).means.items()}
        for row in (BEFORE, chosen.rows[0])
    }
    name = settings.name or settings.dataset
    path = path_of(Path(name), weights)
    about = {
        "dataset": settings.dataset,
        "data": None if settings.data is None else str(settings.data),
        "n": max(settings.n),
        "seed": settings.seed,
        "kept": fit.kept,
        "objective": fit.objective,
        "gain": dataclasses.asdict(fit.gain),
        "command": command,
        "scores": {"split": settings.split, "pictures": len(evaluation.pictures),
                   "before": means[BEFORE], "after": means[chosen.rows[0]]},
    }  # fmt: skip
    make_folder(path.parent)
    save(path, fit.adaptation, weights, about)
    found = {
        "settings": to_json(settings),
        "command": command,
        "weights": str(weights),
        "pictures": len(evaluation.pictures),
        "left_out": evaluation.left_out,
        "metrics": metric_definitions(evaluation.metrics),
        "truth": truth,
        "summary": lines,
        "fits": [
            {"fitted_on": group.name, "draw": i, **dataclasses.asdict(fit)}
            for group in groups for i, fit in enumerate(group.fits)
        ],
        "notes": evaluation.notes.lines(),
    }  # fmt: skip
    write_json(settings.output / "adapt.json", found)
    write_text(settings.output / "adapt.csv", as_csv(lines))
    write_per_image(settings.output / "per_image.csv", evaluation)
    draws = {
        group.name: [evaluation.row(row).means for row in group.rows] for group in groups
    }  # fmt: skip
    figures.adaptation(lines, draws, evaluation.metrics, settings.output / "adapt.png")
    say(f"wrote {path}: test and evaluate use it with --adaptation {name}")
    say(f"wrote {settings.output}/adapt.json, adapt.csv, per_image.csv and adapt.png")
    return found

"""The split of a data set that a command scores, with notes on its fixations and its training."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from commands.settings import ScoringConfig
from config import Config, is_same_data, lineage
from salience.data import loading
from salience.data.plan import Plan
from salience.measures.metrics import metric_names
from salience.measures.references import TruthSplit
from salience.pictures.fixations import are_within
from salience.pictures.sample import Sample, Stored
from salience.system.errors import UserError
from salience.system.notes import Notes


def load_split(settings: ScoringConfig, split: str, notes: Notes) -> TruthSplit:
    """Return the pictures of a split, with notes on their fixations.

    Raises:
        UserError: the data set or a metric is unknown or unusable.
    """
    names = metric_names(settings.metrics)
    samples, left_out = loading.load_to_score(
        settings.dataset,
        settings.data,
        split,
        settings.plan,
        settings.out_of_bounds,
        settings.columns,
    )
    for part, why in left_out.items():
        notes.explain(f"The {part} split is left out: {why}")
    apart = [getattr(settings, name, None) for name in ("maps", "val_maps", "output")]
    for remark in loading.remarks(settings.dataset, settings.data, apart, settings.columns):
        notes.explain(remark)
    found = TruthSplit(
        samples,
        names,
        settings.gaussian_pixels,
        settings.profile,  # type: ignore[arg-type]
        settings.seed,
        settings.workers,
        settings.human,
        settings.gold_bandwidth == "picture",
    )
    notes.explain(truth_line(truth_of(found, settings)))
    for sample, (fixations, shape) in zip(samples, found.pictures, strict=True):
        inside = are_within(fixations, shape)
        if sample.outside:
            done = "clipped to its border" if settings.out_of_bounds == "clip" else "left out"
            notes.add(f"pictures with fixations outside: those are {done}", sample.name)
        if not inside.any():
            without = "fixations" if sample.map else "fixations or a map"
            counted = "only metrics from maps count" if sample.map else "no metric counts"
            notes.add(f"pictures without {without}: {counted} them", sample.name)
    return found


def load_part(settings: ScoringConfig, split: str, plan: Plan | None = None) -> list[Sample]:
    """Return the samples of a split of the data set, to fit on or to compare with.

    Args:
        settings: the data set, its folder and how its files are read.
        split: train, val or test.
        plan: division into splits; default: that of the settings.

    Raises:
        UserError: the data set or the split cannot be used.
    """
    return loading.load(
        settings.dataset,
        settings.data,
        split,
        plan or settings.plan,
        settings.out_of_bounds,
        columns=settings.columns,
    )


def truth_of(split: TruthSplit, settings: ScoringConfig) -> dict[str, Any]:
    """Return the origin of a split's density maps, for the files.

    Args:
        split: the scored pictures.
        settings: settings of the scoring.

    Returns:
        own_maps: pictures scored against the data set's own map.
        made_maps: pictures whose map is made of their fixations.
        sigma_pixels: standard deviation of the Gaussian for maps made of fixations, including the
            references; a list if it differs between pictures.
        sigma_from: where it comes from: flags, or the data set.
    """
    own = [s.map is not None and (split.sigma_pixels is None or s.fixations is None)
           for s in split.samples]  # fmt: skip
    sigmas = sorted({float(split.sigma(i)) for i in range(len(own))})
    return {
        "own_maps": sum(own),
        "made_maps": len(own) - sum(own),
        "sigma_pixels": sigmas[0] if len(sigmas) == 1 else sigmas,
        "sigma_from": settings.gaussian_origin
        or f"{settings.dataset}: {loading.sigma_origin(settings.dataset, settings.data)}",
    }


def truth_line(truth: dict[str, Any]) -> str:
    """Return the origin of the density maps as a sentence; every score depends on the Gaussian."""
    found = truth["sigma_pixels"]
    sigma = f"{found:g}" if isinstance(found, float) else f"{found[0]:g} to {found[-1]:g}"
    made = f"made from fixations with a Gaussian of {sigma} pixels ({truth['sigma_from']})"
    see = "; CC, SIM, KLD and EMD depend on it: docs/EVALUATING.md"
    if not truth["made_maps"]:
        return f"density maps: the data set's own; only references are {made}{see}"
    if not truth["own_maps"]:
        return f"density maps: {made}{see}"
    own, count = truth["own_maps"], truth["made_maps"]
    return f"density maps: {own} the data set's own, {count} {made}{see}"


# no warning for --split val: the user has chosen the validation pictures
USES = {"train": "that a model was trained on", "val": "that a model's epoch was chosen on"}


def note_training_pictures(
    trained: Config,
    settings: ScoringConfig,
    samples: Sequence[Sample],
    notes: Notes,
    weights: Path | None = None,
) -> None:
    """Note how many of the scored pictures a model was trained on.

    Args:
        trained: settings of the training.
        settings: settings of the scoring, with the data set's current folder.
        samples: the scored pictures.
        notes: receives the result.
        weights: weights file; its card also identifies pictures in a copy or a subset.
    """
    for part, seen in pictures_of_training(trained, settings, samples, weights).items():
        if part == "val" and settings.split == "val":
            continue
        for sample in seen:
            notes.add(warning(USES[part]), sample.name)
    if unknown := lineage(trained)[1]:
        notes.explain(
            f"Training began with {unknown}, which was removed or replaced since: it is unknown "
            "whether these pictures were among its training pictures."
        )
    if any(notes.found.get(warning(use)) for use in USES.values()):
        notes.explain(
            "Scores on pictures that a model has seen are too good. Score --split test, or other "
            "pictures: docs/EVALUATING.md"
        )


def warning(use: str) -> str:
    """Return the kind of a note on scored pictures of a training; `use` is a value of USES."""
    return f"WARNING: scored pictures {use}"


def pictures_of_training(
    trained: Config,
    where: ScoringConfig,
    samples: Sequence[Sample],
    weights: Path | None = None,
) -> dict[str, list[Sample]]:
    """Return those of some pictures that a training, or one that it began with, has seen.

    They are found by path in the splits of the training, and by content in the card of the weights.

    Args:
        trained: settings of the training.
        where: the data set of the pictures, with its current folder.
        samples: the pictures.
        weights: weights file; None to look for paths only.

    Returns:
        The pictures by part, a key of USES.
    """
    from salience.networks import provenance, weight_files

    card = weight_files.read_card(weights) if weights else {}
    known = {part: provenance.hashes_in_card(card, part) for part in USES}
    found: list[bytes | None] = [None] * len(samples)
    if any(known.values()):
        found = provenance.hashes(samples, where.workers)
    trainings = lineage(trained)[0]
    plans = {one.plan for one in trainings if is_same_data(one, where.dataset, where.data)}
    seen = {}
    for part in USES:
        used: set[Path | Stored | str] = set()
        for plan in plans:
            with suppress(UserError):  # the part has no pictures here
                used |= {identity(sample) for sample in load_part(where, part, plan)}
        seen[part] = [
            sample
            for sample, own in zip(samples, found, strict=True)
            if identity(sample) in used or own in known[part]
        ]
    return seen


def identity(sample: Sample) -> Path | Stored | str:
    """Return what two samples of the same picture of a data set have in common."""
    if sample.prepared:  # both samples are of the same store
        return sample.prepared.origin
    # the path, as two splits may each have a 0.png; built-in scenes have unique names and no file
    return sample.image if isinstance(sample.image, Path | Stored) else sample.name

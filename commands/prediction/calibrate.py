"""The command `calibrate`: fits what becomes of a network's maps, into its weights' card.

From one data set: the calibration, which turns maps into densities. From several: the general
adaptation, for pictures of none of them. From both: the blur of maps (`measures/finish.py`).
`train` fits the same at its end, for its best weights, on validation pictures.
"""

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, NamedTuple

from commands.evaluation.map_sources import ModelMaps
from commands.settings import CalibrateConfig
from config import is_same_data, trained_config
from salience.data import loading
from salience.measures.adaptation import (
    LEAST_PICTURES,
    Adaptation,
    LowResolutionMaps,
    fit_adaptation,
    fit_line,
    low_resolution_maps,
)
from salience.measures.density import CALIBRATION, calibration_entry
from salience.measures.finish import (
    GENERAL,
    MAP_BLUR,
    MapAndTruth,
    blur_entry,
    blur_line,
    finish_of,
    fit_general,
    fit_map_blur,
    general_entry,
    general_line,
    map_and_truth,
)
from salience.measures.metrics import as_distribution
from salience.networks import weight_files
from salience.pictures.reading import sample_density, sample_shape
from salience.pictures.sample import Sample
from salience.system.errors import UserError
from salience.system.files import in_program
from salience.system.terminal import counted, progress, tell

MOST_PICTURES = 100  # some thousand fixations determine nine numbers


class PicturesToFit(NamedTuple):
    """Maps and truth of a data set's pictures.

    Attributes:
        low: for densities.
        maps: for the metrics of maps.
    """

    low: list[LowResolutionMaps]
    maps: list[MapAndTruth]


def run(settings: CalibrateConfig) -> bool:
    """Run the command `calibrate`; return True."""
    weights = weight_files.choose(settings.weights, settings.weights_dir, tell)
    card = weight_files.read_card(weights)
    if "versions" not in card:
        raise UserError(f"{weights} is a file of another program: `convert` it first.")
    if in_program(weights):
        raise UserError(
            f"{weights} belongs to the installed program, and an update would replace it. Copy the "
            f"file and {weight_files.card_path(weights).name} to a folder of your own, and name "
            "the copy: --weights FILE."
        )
    trained = trained_config(weights)
    same = {name: is_same_data(trained, name, root) for name, root in settings.sets}
    sets = {
        name: loading.load(
            name, root, settings.split, settings.plan, "drop",
            columns=trained.columns if same[name] else "",
        )
        for name, root in settings.sets
    }  # fmt: skip
    source = ModelMaps(
        weights, weight_files.name_of(weights), settings.batch_size, settings.workers, keep=True
    )
    about = {"dataset": "+".join(sets), "split": settings.split}
    before = finish_of(card, weights).adaptation
    found = fitted(
        source, sets, about, settings.seed, tell, before, calibrates=len(sets) == 1,
        sigma_pixels=trained.gaussian_pixels if all(same.values()) else None,
    )  # fmt: skip
    weight_files.amend(weights, found)
    tell(f"wrote {' and '.join(found)} into {weights} and {weight_files.card_path(weights)}")
    return True


def fitted(
    source: ModelMaps,
    sets: Mapping[str, list[Sample]],
    about: dict[str, Any],
    seed: int,
    say: Callable[[str], None],
    before: Adaptation,
    calibrates: bool = True,
    sigma_pixels: float | None = None,
) -> dict[str, Any]:
    """Return the fields of a card that are fitted to fixations, and report them.

    Of many pictures of a set, MOST_PICTURES are taken, evenly spread.

    Args:
        source: maps of the network.
        sets: the pictures to fit on, by data set; those without fixations are left out. Of several
            sets, a general adaptation is fitted.
        about: further fields of each field of the card.
        seed: seed of the bootstrap intervals.
        say: called with each message.
        before: general adaptation of maps that the card has already.
        calibrates: whether to fit a calibration.
        sigma_pixels: standard deviation of the Gaussian for density maps; None for the data set's.

    Raises:
        UserError: too few pictures have fixations, or a picture cannot be predicted.
    """
    pictures = {
        name: pictures_to_fit(source, samples, sigma_pixels) for name, samples in sets.items()
    }
    low = list(chain.from_iterable(own.low for own in pictures.values()))
    maps = list(chain.from_iterable(own.maps for own in pictures.values()))
    enough = {name: own for name, own in pictures.items() if len(own.low) >= LEAST_PICTURES}
    if len(low) < LEAST_PICTURES:
        raise UserError(
            f"{len(low)} of {sum(map(len, sets.values()))} pictures have fixations; a calibration "
            f"needs {LEAST_PICTURES}. Name a data set with fixations."
        )
    about = {**about, "pictures": len(low)}
    found: dict[str, Any] = {}
    if calibrates:
        fit = fit_adaptation(low, seed)
        say(f"calibration for densities, on {counted(len(low), 'picture')}: {fit_line(fit)}")
        found[CALIBRATION] = calibration_entry(fit, about)
    if len(enough) > 1:
        general = fit_general(
            {name: own.low for name, own in enough.items()},
            {name: own.maps for name, own in enough.items()},
            seed,
        )
        say(general_line(general))
        found[GENERAL] = general_entry(general, about)
        before = general.adaptation
    blur = fit_map_blur(maps, before)
    say(blur_line(blur))
    return {**found, MAP_BLUR: blur_entry(blur, about)}


def pictures_to_fit(
    source: ModelMaps, samples: list[Sample], sigma_pixels: float | None
) -> PicturesToFit:
    """Return maps and truth of those pictures of a data set that have fixations."""
    usable = [sample for sample in samples if sample.fixations is not None]
    taken = usable[:: max(1, -(-len(usable) // MOST_PICTURES))]
    shapes = [sample_shape(sample) for sample in taken]
    found = PicturesToFit([], [])
    with progress(len(taken), "maps to fit on") as bar:
        for sample, shape, saliency_map in zip(
            taken, shapes, source.maps(taken, shapes), strict=True
        ):
            bar.update()
            if saliency_map is None or sample.fixations is None:
                continue
            low = low_resolution_maps(as_distribution(saliency_map), sample.fixations)
            density = sample_density(sample, shape, sigma_pixels)
            own = map_and_truth(saliency_map, sample.fixations, density)
            if low is not None and own is not None:
                found.low.append(low)
                found.maps.append(own)
    return found

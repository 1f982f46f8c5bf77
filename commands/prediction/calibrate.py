"""The command `calibrate`: fits what turns a network's maps into densities, into its weights' card.

`train` fits the same at its end, for its best weights. The fit is that of `adapt`, on validation
pictures.
"""

from collections.abc import Callable
from typing import Any

from commands.evaluation.map_sources import ModelMaps, maps_to_fit
from commands.settings import CalibrateConfig
from salience.data import loading
from salience.measures.adaptation import LEAST_PICTURES, fit_adaptation, fit_line
from salience.measures.density import CALIBRATION, calibration_entry
from salience.networks import weight_files
from salience.pictures.sample import Sample
from salience.system.errors import UserError
from salience.system.terminal import tell

MOST_PICTURES = 100  # some thousand fixations determine nine numbers


def run(settings: CalibrateConfig) -> bool:
    """Run the command `calibrate`; return True."""
    weights = weight_files.choose(settings.weights, settings.weights_dir, tell)
    if "versions" not in weight_files.read_card(weights):
        raise UserError(f"{weights} is a file of another program: `convert` it first.")
    samples = loading.load(settings.dataset, settings.data, settings.split, settings.plan, "drop")
    source = ModelMaps(
        weights, weight_files.name_of(weights), settings.batch_size, settings.workers, keep=True
    )
    about = {"dataset": settings.dataset, "split": settings.split}
    entry = fitted(source, samples, about, settings.seed, tell)
    weight_files.amend(weights, {CALIBRATION: entry})
    tell(f"wrote the calibration into {weights} and {weight_files.card_path(weights)}")
    return True


def fitted(
    source: ModelMaps,
    samples: list[Sample],
    about: dict[str, Any],
    seed: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Return the calibration of a network, as its card holds it, and report it.

    Of many pictures, MOST_PICTURES are taken, evenly spread.

    Args:
        source: maps of the network.
        samples: the pictures to fit on; those without fixations are left out.
        about: further fields of the card.
        seed: seed of the bootstrap interval of the gain.
        say: called with the message.

    Raises:
        UserError: too few pictures have fixations, or a picture cannot be predicted.
    """
    usable = [sample for sample in samples if sample.fixations is not None]
    taken = usable[:: max(1, -(-len(usable) // MOST_PICTURES))]
    found = [picture for picture in maps_to_fit(source, taken, None) if picture is not None]
    if len(found) < LEAST_PICTURES:
        raise UserError(
            f"{len(found)} of {len(samples)} pictures have fixations; a calibration needs "
            f"{LEAST_PICTURES}. Name a data set with fixations."
        )
    fit = fit_adaptation(found, seed)
    say(f"calibration for densities, on {len(found)} pictures: {fit_line(fit)}")
    return calibration_entry(fit, {**about, "pictures": len(found)})

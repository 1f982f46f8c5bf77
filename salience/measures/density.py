"""Densities: a saliency map as the probability of a fixation at each pixel.

A network's map is not a density. `log_density` makes one with a *calibration*: the nine numbers of
an `Adaptation`, fitted to the fixations of validation pictures by their likelihood. The card of a
weights file holds the calibration (field CALIBRATION). `density_kind` recognises densities and
log-densities among the maps of other programs.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salience.measures.adaptation import BOUNDS, IDENTITY, Adaptation, AdaptationFit
from salience.system.errors import UserError

CALIBRATION = "calibration"  # field of a weights card
TOLERANCE = 1e-3  # of a density's sum, and of the logarithm of a log-density's sum
TOLERANCE_HALF = 0.05  # of half floats, which round logarithms to 0.01
DENSITY, LOG_DENSITY = "densities", "log-densities"


def log_density(saliency_map: NDArray, calibration: Adaptation = IDENTITY) -> NDArray[np.float32]:
    """Return the natural logarithm of a map's density; the sum of its exponentials is 1.

    It is computed in double precision. Rounding to float32 changes the sum by less than 1e-5.

    Args:
        saliency_map: [rows, columns], 0 or more; an all-zero map becomes uniform.
        calibration: turns the map into a density; the identity only scales the map to sum 1.

    Returns:
        float32 [rows, columns]; minus infinity where the density is 0.

    >>> np.exp(log_density(np.array([[1.0, 3.0]]))).tolist()
    [[0.25, 0.75]]
    """
    density = calibration.density(np.asarray(saliency_map, np.float64))
    total = float(density.sum())
    with np.errstate(divide="ignore"):  # the logarithm of a density of 0
        np.log(density, out=density)
    density -= math.log(total)
    return density.astype(np.float32)


def density_kind(values: NDArray) -> str | None:
    """Return DENSITY or LOG_DENSITY if the values are so, else None.

    A density is 0 or more with sum 1. The exponentials of a log-density have sum 1, and its values
    are finite or minus infinity. A map that was stored in integers is neither.

    Args:
        values: [rows, columns].

    >>> density_kind(np.full((2, 2), 0.25)), density_kind(np.log(np.full((2, 2), 0.25)))
    ('densities', 'log-densities')
    """
    if values.dtype.kind != "f" or not values.size:
        return None
    least, greatest = float(values.min()), float(values.max())
    tolerance = TOLERANCE_HALF if values.dtype.itemsize == 2 else TOLERANCE
    if least >= 0 and math.isfinite(greatest):
        return DENSITY if abs(float(values.sum(dtype=np.float64)) - 1) <= tolerance else None
    if not -math.inf < greatest <= tolerance:  # NaN is not either
        return None
    wide = np.asarray(values, np.float64)
    logarithm = greatest + math.log(float(np.exp(wide - greatest).sum()))
    return LOG_DENSITY if abs(logarithm) <= tolerance else None


def calibration_entry(fit: AdaptationFit, about: dict[str, Any]) -> dict[str, Any]:
    """Return the field CALIBRATION of a card: the parameters of a fit, and further fields."""
    return {
        "parameters": dataclasses.asdict(fit.adaptation),
        "gain": dataclasses.asdict(fit.gain),
        "kept": fit.kept,
        **about,
    }


def calibration_of(card: dict[str, Any], where: object) -> Adaptation | None:
    """Return the calibration in the card of a weights file; None if it has none.

    Raises:
        UserError: the field is not a calibration.
    """
    return parameters_of(card, CALIBRATION, where)


def parameters_of(card: dict[str, Any], field: str, where: object) -> Adaptation | None:
    """Return the parameters in a field of the card of a weights file; None without the field.

    Args:
        card: the card.
        field: CALIBRATION, or another field with `parameters`.
        where: the weights file, for the error.

    Raises:
        UserError: the field has no usable parameters.
    """
    entry = card.get(field)
    if entry is None:
        return None
    named = field if field == CALIBRATION else f"{field} adaptation"
    parameters = entry.get("parameters") if isinstance(entry, dict) else None
    if not isinstance(parameters, dict) or parameters.keys() != BOUNDS.keys():
        raise UserError(
            f"{where}: the {named} of its card has not the parameters {', '.join(BOUNDS)}. "
            "Fit it again with `calibrate`."
        )
    try:
        return Adaptation(**parameters)
    except UserError as error:
        raise UserError(f"{where}: the {named} of its card: {error}") from error


def calibration_or_identity(
    card: dict[str, Any], where: object, say: Callable[[str], None]
) -> Adaptation:
    """Return the calibration in the card of a weights file; the identity, and a message, without.

    Args:
        card: the card.
        where: the weights file, for messages.
        say: called with the message.

    Raises:
        UserError: the field is not a calibration.
    """
    found = calibration_of(card, where)
    if found is None:
        say(
            f"{where} has no calibration, so densities are its maps scaled to a sum of 1 "
            "(`calibrate` fits one to fixations)"
        )
    return found or IDENTITY

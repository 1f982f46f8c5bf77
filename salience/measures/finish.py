"""What a weights file's card does to finished maps: the general adaptation and the blur of maps.

Fixations depend on how a data set was recorded. The *general adaptation* is fitted on several data
sets together. It is kept only if it helps each of them when it is fitted on the others, since the
pictures of a user belong to none: fixations must be predicted better, and the metrics of maps must
not lose. The *blur of maps* concerns maps alone: a network that is trained by the
likelihood of fixations makes densities that are sharper than the blurred truth of CC, SIM and KLD.
Densities are never blurred.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from salience.measures.adaptation import (
    BOUNDS,
    IDENTITY,
    LEAST_GAIN,
    Adaptation,
    LowResolutionMaps,
    SetNumbers,
    best_parameters,
    load_named,
    objective_values,
)
from salience.measures.density import parameters_of
from salience.measures.metrics import EPSILON, as_distribution, cc, kld, sim
from salience.pictures.fixations import count_map, rescaled, within
from salience.system.errors import UserError

if TYPE_CHECKING:
    from salience.measures.significance import Interval

GENERAL, MAP_BLUR = "general", "map_blur"  # fields of a weights card
MEAN = "mean"  # value of --set that is no data set
NONE = "none"  # value of --adaptation: the network's own maps
SHARES = (1.0, 0.5, 0.25)  # of the way from the identity to the fitted parameters
LEAST_SETS = 2
SIDE = 256  # pixels along the longer side of the maps on which a blur is chosen
BLURS = (0.004, 0.006, 0.008, 0.01, 0.012, 0.016, 0.02)  # that are tried, in diagonals
LARGEST_LOSS = 0.03  # bits a fixation that a blur of maps may cost


@dataclass(frozen=True)
class Finish:
    """What is done to a finished map, and the numbers of the network that makes it.

    Attributes:
        adaptation: adaptation of the map to a data set's bias, or the general one.
        map_blur: standard deviation of the blur that follows, in diagonals of the picture.
        calibration: what turns a map into a density instead of the card's calibration; None for
            the card's.
        numbers: the data set whose numbers the network uses, or fitted numbers; None for the mean.
    """

    adaptation: Adaptation = IDENTITY
    map_blur: float = 0.0
    calibration: Adaptation | None = None
    numbers: str | SetNumbers | None = None

    def apply(self, saliency_map: NDArray) -> NDArray[np.floating]:
        """Return a map [rows, columns] as it is written and scored, with maximum 1.

        >>> values = np.array([[0.25, 1.0]])
        >>> Finish().apply(values) is values
        True
        """
        adapted = self.adaptation.apply(saliency_map)
        return Adaptation(blur=self.map_blur).apply(adapted) if self.map_blur else adapted


UNFINISHED = Finish()


def finish_of(
    card: dict[str, Any],
    weights: Path,
    adaptation: Path | str | None = None,
    of_set: str | SetNumbers | None = None,
    smooth: float = 0.0,
    say: Callable[[str], None] = lambda line: None,
    only_densities: bool = False,
    has_flag: bool = True,
) -> Finish:
    """Return what is done to the maps of weights, and report it in one line, if anything is.

    An adaptation with numbers in the network replaces those of a data set. What the network then
    makes is the density, so that no calibration follows.

    Args:
        card: the card of the weights.
        weights: the weights file.
        adaptation: a file of `adapt`, or its name: nothing else is done then, unless it changes
            nothing. NONE: nothing is done. GENERAL or None: what the card says.
        of_set: the data set whose numbers the network uses, or fitted numbers: the general
            adaptation is left out.
        smooth: the user's own blur, which replaces that of the card.
        say: called with the message.
        only_densities: whether maps are of no use, so that the message leaves them out.
        has_flag: whether the user may leave this out with `--adaptation`.

    Raises:
        UserError: the adaptation or a field of the card cannot be used, or `adaptation` is GENERAL
            and the card has none; or both `of_set` and the adaptation are numbers in the network.
    """
    name = None if adaptation is None else str(adaptation)
    if name == NONE:
        return Finish(numbers=of_set)
    if name not in (None, GENERAL):
        own = load_named(Path(name), weights, say)
        if own == IDENTITY:  # of a fit that gained nothing
            say("this adaptation changes nothing: maps are as without it")
            return finish_of(card, weights, None, of_set, smooth, say, only_densities, has_flag)
        if isinstance(own, Adaptation):
            return Finish(own, calibration=own, numbers=of_set)
        if of_set is not None:
            raise UserError(
                f"--adaptation {name} has numbers in the network, which replace those of --set "
                f"{of_set}: leave one of them out."
            )
        return Finish(calibration=IDENTITY, numbers=own)
    general = None if of_set not in (None, MEAN) else general_of(card, weights)
    if name == GENERAL and of_set not in (None, MEAN):
        raise UserError(
            f"--adaptation {GENERAL} is for pictures of no known data set, but --set {of_set} "
            "names one: leave one of them out."
        )
    if name == GENERAL and general is None:
        raise UserError(
            f"--adaptation {GENERAL}: {weights} has no general adaptation that helps. Fit one with "
            "`calibrate` on several data sets, or leave it out."
        )
    width = 0.0 if smooth else map_blur_of(card, weights)
    which = "densities" if only_densities else "maps and densities"
    parts = [f"{which} get its general adaptation"] if general else []
    blurred = width and not only_densities
    parts += [f"maps get a blur of {width:.1%} of the diagonal"] if blurred else []
    hint = f" (--adaptation {NONE} leaves them as they are)" if has_flag else ""
    if parts:
        say(f"{weights}: {', '.join(parts)}{hint}")
    return Finish(general or IDENTITY, width, general, of_set)


def general_of(card: dict[str, Any], where: object) -> Adaptation | None:
    """Return the general adaptation in the card of a weights file; None if it has none that helps.

    Raises:
        UserError: the field is damaged.
    """
    found = parameters_of(card, GENERAL, where)
    return None if found == IDENTITY else found


def map_blur_of(card: dict[str, Any], where: object) -> float:
    """Return the blur of maps in the card of a weights file, in diagonals; 0 if it has none.

    Raises:
        UserError: the field is damaged.
    """
    entry = card.get(MAP_BLUR)
    if entry is None:
        return 0.0
    value = entry.get("blur") if isinstance(entry, dict) else None
    high = BOUNDS["blur"].high
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= high:
        raise UserError(
            f"{where}: the {MAP_BLUR} of its card has no number `blur` from 0 to {high:g}. Fit it "
            "again with `calibrate`."
        )
    return float(value)


class MapAndTruth(NamedTuple):
    """The map of a picture with its truth, for the metrics of maps.

    Attributes:
        saliency_map: prediction, [rows, columns], 0 or more.
        density_map: blurred fixations, of the same shape, sum 1.
        fixations: share of the fixations in each pixel, of the same shape, sum 1.
    """

    saliency_map: NDArray
    density_map: NDArray[np.float64]
    fixations: NDArray[np.float64]


def map_and_truth(
    saliency_map: NDArray, fixations: NDArray, density_map: NDArray
) -> MapAndTruth | None:
    """Return a picture's map and truth with at most SIDE pixels a side; None without fixations.

    Args:
        saliency_map: [rows, columns] of the picture.
        fixations: [n, 2], (x, y), pixels of the picture.
        density_map: [rows, columns] of the picture.
    """
    shape = saliency_map.shape[0], saliency_map.shape[1]
    scale = min(1.0, SIDE / max(shape))
    small = max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))
    counts = count_map(rescaled(within(fixations, shape), shape, small), small)
    if not counts.any():
        return None
    reduced = [
        cv2.resize(np.asarray(x, np.float32), small[::-1], interpolation=cv2.INTER_AREA)
        for x in (saliency_map, density_map)
    ]
    return MapAndTruth(reduced[0], as_distribution(reduced[1]), as_distribution(counts))


def map_scores(picture: MapAndTruth, finish: Finish) -> tuple[float, float]:
    """Return CC + SIM - KLD of a finished map, and its bits a fixation above uniform."""
    made = finish.apply(picture.saliency_map)
    value = cc(made, picture.density_map) + sim(made, picture.density_map)
    density = as_distribution(made)
    bits = (picture.fixations * np.log2((EPSILON + density) * density.size)).sum()
    return value - kld(made, picture.density_map), float(bits)


@dataclass(frozen=True)
class GeneralFit:
    """The result of `fit_general`.

    Attributes:
        adaptation: the parameters; the identity if a set does not gain.
        share: their share of the way from the identity.
        gains: the gain of each set, in bits a fixation, by parameters fitted on the other sets.
        map_gains: the gain of each set in CC + SIM - KLD of its maps, likewise.
        kept: whether each mean gain in bits is at least LEAST_GAIN, and no set's maps lose.
    """

    adaptation: Adaptation
    share: float
    gains: "dict[str, Interval]"
    map_gains: "dict[str, Interval]"
    kept: bool


def fit_general(
    sets: Mapping[str, Sequence[LowResolutionMaps]],
    maps: Mapping[str, Sequence[MapAndTruth]],
    seed: int = 0,
) -> GeneralFit:
    """Return the adaptation that is fitted on several data sets, if it helps sets left out.

    For each set, parameters are fitted on the others and scored on it. Of SHARES, the one with the
    greatest least gain over the sets is taken. Sets count equally: each is cut to the smallest.

    Args:
        sets: maps and truth of pictures of at least LEAST_SETS data sets, to fit on.
        maps: the same for the metrics of maps.
        seed: seed of the bootstrap.
    """
    from salience.measures.significance import mean_interval  # here: it imports SciPy

    count = min(map(len, sets.values()))
    equal = {name: list(pictures)[:count] for name, pictures in sets.items()}

    def fitted(without: str | None = None) -> Adaptation:
        return best_parameters(
            [picture for name, own in equal.items() if name != without for picture in own]
        )

    others = {name: fitted(name) for name in sets}
    gains = {
        share: {
            name: objective_values(others[name].shrunk(share), pictures)
            - objective_values(IDENTITY, pictures)
            for name, pictures in sets.items()
        }
        for share in SHARES
    }
    share = max(SHARES, key=lambda share: min(own.mean() for own in gains[share].values()))
    found = {name: mean_interval(own, seed) for name, own in gains[share].items()}
    own_maps = {
        name: mean_interval(
            [
                map_scores(picture, Finish(others[name].shrunk(share)))[0]
                - map_scores(picture, Finish())[0]
                for picture in pictures
            ],
            seed,
        )
        for name, pictures in maps.items()
    }
    gains_bits = min(gain.mean for gain in found.values()) >= LEAST_GAIN
    kept = gains_bits and min(gain.mean for gain in own_maps.values()) >= 0
    whole = fitted().shrunk(share) if kept else IDENTITY
    return GeneralFit(whole, share, found, own_maps, kept)


def general_line(fit: GeneralFit) -> str:
    """Return the result of `fit_general` as text."""

    def listed(gains: "dict[str, Interval]") -> str:
        return ", ".join(
            f"{name} {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
            for name, gain in gains.items()
        )

    own = fit.adaptation
    done = (
        f"kept: contrast {own.contrast:.2f}, {own.centre_share:.1%} of a centre bias added, "
        f"{own.uniform_share:.1%} uniform ({fit.share:g} of the fitted way)"
        if fit.kept
        else "not kept, since not every set gains in both"
    )
    return (
        f"general adaptation {done}; gain of each set, fitted on the others: bits "
        f"{listed(fit.gains)}; CC + SIM - KLD of maps {listed(fit.map_gains)}"
    )


def general_entry(fit: GeneralFit, about: dict[str, Any]) -> dict[str, Any]:
    """Return the field GENERAL of a card: the parameters of a fit, and further fields."""
    return {
        "parameters": dataclasses.asdict(fit.adaptation),
        "share": fit.share,
        "gains_left_out": {name: dataclasses.asdict(gain) for name, gain in fit.gains.items()},
        "map_gains_left_out": {
            name: dataclasses.asdict(gain) for name, gain in fit.map_gains.items()
        },
        "kept": fit.kept,
        **about,
    }


@dataclass(frozen=True)
class BlurFit:
    """The result of `fit_map_blur`.

    Attributes:
        blur: standard deviation, in diagonals of the picture; 0 if nothing is gained.
        gain: mean gain in CC + SIM - KLD.
        bits: mean change in bits a fixation.
    """

    blur: float
    gain: float
    bits: float


def fit_map_blur(pictures: Sequence[MapAndTruth], adaptation: Adaptation = IDENTITY) -> BlurFit:
    """Return the blur of maps with the best sum of CC + SIM - KLD and bits a fixation.

    Blurs that cost more than LARGEST_LOSS bits are not considered. If the sum gains less than
    LEAST_GAIN, the blur is 0.

    Args:
        pictures: maps and truth of at least one picture.
        adaptation: is applied to the maps before.
    """

    def mean_scores(blur: float) -> NDArray[np.float64]:
        return np.mean([map_scores(one, Finish(adaptation, blur)) for one in pictures], axis=0)

    before = mean_scores(0.0)
    best = BlurFit(0.0, 0.0, 0.0)
    for blur in BLURS:
        gain, bits = (mean_scores(blur) - before).tolist()
        if bits >= -LARGEST_LOSS and gain + bits >= max(LEAST_GAIN, best.gain + best.bits):
            best = BlurFit(blur, gain, bits)
    return best


def blur_line(fit: BlurFit) -> str:
    """Return the result of `fit_map_blur` as text."""
    if not fit.blur:
        return "blur of maps: none, since nothing is gained"
    return (
        f"blur of maps: {fit.blur:.1%} of the diagonal, CC + SIM - KLD {fit.gain:+.3f}, "
        f"{fit.bits:+.3f} bits a fixation"
    )


def blur_entry(fit: BlurFit, about: dict[str, Any]) -> dict[str, Any]:
    """Return the field MAP_BLUR of a card: the result of a fit, and further fields."""
    return {**dataclasses.asdict(fit), **about}

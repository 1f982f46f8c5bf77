"""What a data set asks of a network's maps: nine parameters, fitted on few of its pictures.

Where people look depends on the set, too: on how long they look, how far they sit, what was put in
the middle. `Adaptation` gives a map the set's contrast, blur and centre bias, whatever network made
it and whatever ran it; `fitted` finds the parameters; `save` and `load` keep them beside the
weights that they belong to, and are refused with any others.

After Kümmerer, Khanuja and Bethge, "Modeling saliency dataset bias" (arXiv 2505.10169), who adapt
the scales inside a network as well; here the network stays as it is.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from salience.measures.metrics import EPSILON, as_distribution
from salience.pictures.fixations import blurred, count_map, rescaled, within
from salience.system.errors import UserError
from salience.system.files import file_digest, is_name, read_json, write_json
from salience.system.terminal import PROGRAM

if TYPE_CHECKING:
    from salience.measures.significance import Interval

SUFFIX = ".adapt.json"
FORMAT = "saliency adaptation 1"
LARGEST_FILE = 1_000_000  # bytes; a file has some thousand
SIDE = 64  # cells of the longer side of the maps that parameters are fitted on
SHARP = 8.0  # pixels; a wider blur is computed on averages of pixels, with that of so many
# both in the objective's unit, bits by default
PENALTY = 0.1  # over one picture, that a step of one `scale` from the identity must be worth
LEAST_GAIN = 0.01  # what wins less is not worth changing the maps for
LEAST = 2  # pictures; a single one cannot say whether what it taught holds for another
FOLDS = 5  # a fit is tried on each of so many parts of its pictures, fitted on the others


class Bounds(NamedTuple):
    """What a parameter may be, and how far it is a matter of course that it moves.

    Attributes:
        low, high: its least and greatest value.
        scale: an ordinary distance from the identity; of the logarithm, where that is what moves.
        start: where a fit begins: at the identity some parameters make no difference.
        logarithmic: whether twice as much and half as much are equally far.
    """

    low: float
    high: float
    scale: float
    start: float
    logarithmic: bool = False


BOUNDS = {
    "contrast": Bounds(0.1, 10.0, 0.5, 1.0, logarithmic=True),
    "blur": Bounds(0.0, 0.1, 0.02, 0.01),
    "centre_x": Bounds(0.0, 1.0, 0.1, 0.5),
    "centre_y": Bounds(0.0, 1.0, 0.1, 0.5),
    "centre_width": Bounds(0.05, 2.0, 0.5, 0.25, logarithmic=True),
    "centre_height": Bounds(0.05, 2.0, 0.5, 0.25, logarithmic=True),
    "centre_power": Bounds(-2.0, 4.0, 0.5, 0.2),
    "centre_share": Bounds(0.0, 0.95, 0.2, 0.1),
    "uniform_share": Bounds(0.0, 0.95, 0.2, 0.02),
}


@dataclass(frozen=True)
class Adaptation:
    """The parameters of a data set; the defaults change nothing.

    With m the map over its maximum and blurred, and g the Gaussian of the centre, the density is
    (1 - centre_share) ((1 - uniform_share) m^contrast g^centre_power + uniform_share uniform)
    + centre_share g, each part scaled to a sum of 1.

    Attributes:
        contrast: exponent of the map: above 1 its peaks stand out, below 1 it evens out.
        blur: standard deviation of the Gaussian, in diagonals of the picture.
        centre_x, centre_y: middle of the centre bias, 0 to 1 from the left and from the top.
        centre_width, centre_height: its standard deviations, in widths and heights.
        centre_power: how much of it multiplies the map; below 0 takes away what the network learnt.
        centre_share: how much of it is added.
        uniform_share: how much of the rest is spread evenly.

    Raises:
        UserError: a value is no number, or out of its bounds.
    """

    contrast: float = 1.0
    blur: float = 0.0
    centre_x: float = 0.5
    centre_y: float = 0.5
    centre_width: float = 0.25
    centre_height: float = 0.25
    centre_power: float = 0.0
    centre_share: float = 0.0
    uniform_share: float = 0.0

    def __post_init__(self) -> None:
        for name, bounds in BOUNDS.items():
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not bounds.low <= value <= bounds.high:  # NaN is neither
                raise UserError(
                    f"The adaptation's {name} is {str(value)[:40]!r}; a number of {bounds.low:g} "
                    f"to {bounds.high:g} is expected."
                )

    def apply(self, saliency_map: NDArray) -> NDArray[np.floating]:
        """Return a map [rows, columns] with the data set's bias, float32, the maximum 1.

        The map itself where nothing changes, and where it is zero everywhere.

        >>> values = np.array([[0.25, 1.0]])
        >>> Adaptation().apply(values) is values
        True
        >>> Adaptation(contrast=2.0).apply(values).tolist()
        [[0.0625, 1.0]]
        """
        if self == IDENTITY or not saliency_map.any():
            return saliency_map
        density = self.density(np.asarray(saliency_map, np.float32))
        density /= max(float(density.max()), np.finfo(np.float32).tiny)
        return density

    def density(self, maps: NDArray) -> NDArray[np.floating]:
        """Return maps [..., rows, columns], 0 or more, as densities, each of sum 1."""
        rows, columns = maps.shape[-2:]
        made = self._blurred(maps)
        peaks = made.max(axis=(-2, -1), keepdims=True)
        made /= np.where(peaks > 0, peaks, 1)
        made += peaks <= 0  # what says nothing is uniform
        if self.contrast != 1:
            np.power(made, self.contrast, out=made)
        if self.centre_power:
            made *= self._centre(rows, columns, self.centre_power, made.dtype)
        total = made.sum(axis=(-2, -1), keepdims=True, dtype=np.float64)
        own = (1 - self.centre_share) * (1 - self.uniform_share)
        made *= np.divide(own, total, out=np.zeros_like(total), where=total > 0).astype(made.dtype)
        made += (1 - self.centre_share) * self.uniform_share / (rows * columns)
        if self.centre_share:
            centre = self._centre(rows, columns, 1.0, made.dtype)
            centre *= (self.centre_share / centre.sum(dtype=np.float64)).astype(made.dtype)
            made += centre
        return made

    def _centre(self, rows: int, columns: int, power: float, dtype: Any) -> NDArray:
        """Return a power of the centre bias's Gaussian, [rows, columns], the maximum 1."""
        down = _gaussian(rows, self.centre_y, self.centre_height, power).astype(dtype)
        across = _gaussian(columns, self.centre_x, self.centre_width, power).astype(dtype)
        return np.outer(down, across)

    def _blurred(self, maps: NDArray) -> NDArray:
        """Return a copy of maps [..., rows, columns], blurred."""
        if not self.blur:
            return maps.copy()
        pixels = self.blur * math.hypot(*maps.shape[-2:])
        flat = maps.reshape(-1, *maps.shape[-2:])
        return np.stack([_wide_blur(one, pixels) for one in flat]).reshape(maps.shape)


IDENTITY = Adaptation()


def _wide_blur(saliency_map: NDArray, sigma_pixels: float) -> NDArray:
    """Return a map blurred by a Gaussian of any width, in a time that does not grow with it."""
    rows, columns = saliency_map.shape
    times = int(sigma_pixels / SHARP)
    if times < 2:
        return blurred(saliency_map, sigma_pixels)
    small = cv2.resize(
        saliency_map, (-(-columns // times), -(-rows // times)), interpolation=cv2.INTER_AREA
    )
    made = blurred(small, sigma_pixels * small.shape[1] / columns)
    return cv2.resize(made, (columns, rows), interpolation=cv2.INTER_LINEAR)


def _gaussian(count: int, middle: float, width: float, power: float) -> NDArray[np.float64]:
    """Return a power of a Gaussian over `count` pixels of a side of length 1, the maximum 1."""
    places = (np.arange(count) + 0.5) / count
    exponent = -0.5 * power * ((places - middle) / width) ** 2
    return np.exp(exponent - exponent.max())


class LowResolutionMaps(NamedTuple):
    """A picture that parameters are fitted on, at low resolution.

    Attributes:
        saliency_map: the network's, [rows, columns], 0 or more.
        looks: the share of the fixations that fell into each cell, or of the density map that is
            there, [rows, columns], sum 1.
    """

    saliency_map: NDArray
    looks: NDArray[np.float64]


def low_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """Return the shape of the map that is fitted on, of a picture's.

    >>> low_shape((600, 800))
    (48, 64)
    """
    scale = min(1.0, SIDE / max(shape))
    rows, columns = (max(1, round(side * scale)) for side in shape)
    return rows, columns


def low_resolution_maps(
    saliency_map: NDArray, fixations: NDArray | None, density_map: NDArray | None = None
) -> LowResolutionMaps | None:
    """Return a picture as it is fitted on; None where nobody looked at it.

    Args:
        saliency_map: at the picture's shape, or at `low_shape` of it.
        fixations: [n, 2], (x, y), pixels of the map given; None where there are none to be had.
        density_map: of the map's shape, taken where there are no fixations.
    """
    shape = saliency_map.shape[0], saliency_map.shape[1]
    low = low_shape(shape)
    small = cv2.resize(
        np.asarray(saliency_map, np.float32), low[::-1], interpolation=cv2.INTER_AREA
    )
    if fixations is not None:
        looks = count_map(rescaled(within(fixations, shape), shape, low), low)
    elif density_map is not None:
        looks = cv2.resize(
            np.asarray(density_map, np.float32), low[::-1], interpolation=cv2.INTER_AREA
        )
    else:
        return None
    return LowResolutionMaps(small, as_distribution(looks)) if looks.any() else None


def _bits(density: NDArray, looks: NDArray) -> NDArray[np.float64]:
    """Return the log-likelihood of the fixations, bits above the uniform density."""
    size = density.shape[-2] * density.shape[-1]
    return (looks * (np.log2(EPSILON + density) + math.log2(size))).sum(axis=(-2, -1))


def _standardised(values: NDArray) -> NDArray[np.float64]:
    """Return maps of mean 0 and standard deviation 1; of a constant one zeros."""
    centred = values - values.mean(axis=(-2, -1), keepdims=True)
    spread = np.sqrt((centred**2).mean(axis=(-2, -1), keepdims=True))
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)


def _nss(density: NDArray, looks: NDArray) -> NDArray[np.float64]:
    """Return the mean standardised density at the fixations."""
    return (looks * _standardised(density)).sum(axis=(-2, -1))


def _cc(density: NDArray, looks: NDArray) -> NDArray[np.float64]:
    """Return the linear correlation with the density map."""
    return (_standardised(density) * _standardised(looks)).mean(axis=(-2, -1))


def _minus_kld(density: NDArray, looks: NDArray) -> NDArray[np.float64]:
    """Return the negative divergence from the density map."""
    return -(looks * np.log(EPSILON + looks / (EPSILON + density))).sum(axis=(-2, -1))


class Objective(NamedTuple):
    """What parameters are fitted for.

    Attributes:
        function: from adapted densities and looks, [pictures, rows, columns], to [pictures]; the
            more, the better.
        unit: of a gain.
        from_map: whether looks are the density map rather than the fixations.
    """

    function: Callable[[NDArray, NDArray], NDArray[np.float64]]
    unit: str
    from_map: bool = False


OBJECTIVES = {
    "ig": Objective(_bits, "bits a fixation"),
    "cc": Objective(_cc, "CC", from_map=True),
    "nss": Objective(_nss, "NSS"),
    "kld": Objective(_minus_kld, "nats of KLD less", from_map=True),
}


def information(
    adaptation: Adaptation, pictures: Sequence[LowResolutionMaps], objective: str = "ig"
) -> NDArray[np.float64]:
    """Return how well adapted maps do on each picture; by default in bits above the uniform one.

    >>> looks = np.array([[1.0, 0.0]])
    >>> pictures = [LowResolutionMaps(np.ones((1, 2)), looks), LowResolutionMaps(looks, looks)]
    >>> np.abs(information(IDENTITY, pictures)).round(6).tolist()
    [0.0, 1.0]
    """
    found = np.empty(len(pictures))
    for indices, maps, looks in _stacks(pictures):
        found[indices] = OBJECTIVES[objective].function(adaptation.density(maps), looks)
    return found


def _stacks(pictures: Sequence[LowResolutionMaps]) -> list[tuple[list[int], NDArray, NDArray]]:
    """Return the pictures of each shape: their indices, maps and looks, [pictures, rows, cols]."""
    shapes: dict[tuple[int, ...], list[int]] = {}
    for i, picture in enumerate(pictures):
        shapes.setdefault(picture.saliency_map.shape, []).append(i)
    return [
        (
            indices,
            np.stack([pictures[i].saliency_map for i in indices]).astype(np.float64),
            np.stack([pictures[i].looks for i in indices]),
        )
        for indices in shapes.values()
    ]


def most_likely(
    pictures: Sequence[LowResolutionMaps],
    start: Adaptation | None = None,
    objective: str = "ig",
) -> Adaptation:
    """Return the parameters under which the fixations of pictures are likeliest.

    Or those that do best by another of OBJECTIVES.

    A step away from the identity must be worth a little (`PENALTY`), so that what few pictures say
    nothing of stays as it is.

    Args:
        pictures: at least one.
        start: where to begin; default: where all parameters make a difference.
        objective: of OBJECTIVES.
    """
    from scipy.optimize import minimize  # here: `test`, which fits nothing, starts in a second

    stacks, function = _stacks(pictures), OBJECTIVES[objective].function
    origin = _coordinates(IDENTITY)

    def loss(place: NDArray) -> float:
        adaptation = _at(place)
        total = sum(function(adaptation.density(maps), looks).sum() for _, maps, looks in stacks)
        return (PENALTY * float(((place - origin) ** 2).sum()) - float(total)) / len(pictures)

    first = start or Adaptation(**{name: bounds.start for name, bounds in BOUNDS.items()})
    limits = list(
        zip(
            _coordinates({name: bounds.low for name, bounds in BOUNDS.items()}),
            _coordinates({name: bounds.high for name, bounds in BOUNDS.items()}),
            strict=True,
        )
    )
    found = minimize(
        loss, _coordinates(first), method="L-BFGS-B", bounds=limits,
        # maps are blurred in single precision, so a difference needs some distance
        options={"eps": 1e-3, "maxiter": 100, "ftol": 1e-5},
    )  # fmt: skip
    return _at(found.x) if found.fun < loss(origin) else IDENTITY


def _coordinates(parameters: Adaptation | dict[str, float]) -> NDArray[np.float64]:
    """Return parameters as what a search moves in: each in its own scale."""
    values = parameters if isinstance(parameters, dict) else dataclasses.asdict(parameters)
    return np.array(
        [
            (math.log(values[name]) if bounds.logarithmic else values[name]) / bounds.scale
            for name, bounds in BOUNDS.items()
        ]
    )


def _at(place: NDArray) -> Adaptation:
    """Return the parameters at a place of the search, within their bounds."""
    values = {}
    for (name, bounds), coordinate in zip(BOUNDS.items(), place.tolist(), strict=True):
        value = coordinate * bounds.scale
        value = math.exp(value) if bounds.logarithmic else value
        values[name] = min(max(value, bounds.low), bounds.high)
    return Adaptation(**values)


@dataclass(frozen=True)
class AdaptationFit:
    """What came of a fit.

    Attributes:
        adaptation: the parameters; the identity where the fit did no good.
        gain: what fits won on pictures that they had not seen, with its interval.
        kept: whether its mean is at least LEAST_GAIN.
        objective: what was fitted for, and in whose unit the gain is.
    """

    adaptation: Adaptation
    gain: "Interval"
    kept: bool
    objective: str = "ig"


def fitted(
    pictures: Sequence[LowResolutionMaps], seed: int = 0, objective: str = "ig"
) -> AdaptationFit:
    """Return the likeliest parameters, if they do good on pictures that they were not fitted on.

    Each part of the pictures is tried with what was fitted on the others, so no picture is needed
    besides. Where the mean gain is less than LEAST_GAIN, nothing is changed.

    Args:
        pictures: at least two.
        seed: of the resampling.
        objective: of OBJECTIVES.
    """
    from salience.measures.significance import mean_interval  # here, as above

    whole = most_likely(pictures, None, objective)
    gains = np.zeros(len(pictures))
    parts = np.array_split(np.arange(len(pictures)), min(FOLDS, len(pictures)))
    for part in parts:
        others = [picture for i, picture in enumerate(pictures) if i not in part]
        tried = [pictures[i] for i in part]
        for sign, own in ((1, most_likely(others, whole, objective)), (-1, IDENTITY)):
            gains[part] += sign * information(own, tried, objective)
    gain = mean_interval(gains, seed)
    kept = gain.mean >= LEAST_GAIN
    return AdaptationFit(whole if kept else IDENTITY, gain, kept, objective)


def told(fit: AdaptationFit) -> str:
    """Return what came of a fit as text."""
    gain = fit.gain
    unit = OBJECTIVES[fit.objective].unit
    won = f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] {unit} on unseen pictures"
    if not fit.kept:
        return f"nothing is gained ({won}), so the maps stay as they are"
    own = fit.adaptation
    return (
        f"contrast {own.contrast:.2f}, blur {own.blur:.1%} of the diagonal, centre bias at "
        f"({own.centre_x:.2f}, {own.centre_y:.2f}) of {own.centre_width:.2f} x "
        f"{own.centre_height:.2f}, {own.centre_share:.1%} added, power {own.centre_power:.2f}, "
        f"{own.uniform_share:.1%} uniform: {won}"
    )


def path_of(name: str | Path, weights: Path) -> Path:
    """Return the file of an adaptation: the one named, or that of a name beside the weights.

    >>> path_of("eyecrowd", Path("weights/mlnet-frozen-osie.weights.h5")).name
    'mlnet-frozen-osie.eyecrowd.adapt.json'

    Raises:
        UserError: it is neither.
    """
    if str(name).endswith(".json"):
        return Path(name)
    if not is_name(str(name)):
        raise UserError(
            f"--adaptation {name}: a file that ends in .json is expected, or the name that adapt "
            "gave."
        )
    return weights.with_name(f"{weights.name.removesuffix('.weights.h5')}.{name}{SUFFIX}")


def asked_for(name: Path | None, weights: Path, say: Callable[[str], None]) -> Adaptation:
    """Return the adaptation that a flag names for some weights, and say from which file it is.

    Raises:
        UserError: the file is not usable, or belongs to other weights.
    """
    if name is None:
        return IDENTITY
    path = path_of(name, weights)
    adaptation = load(path, weights)
    say(f"maps adapted by {path}")
    return adaptation


def save(path: Path, adaptation: Adaptation, weights: Path, about: dict[str, Any]) -> None:
    """Write an adaptation and what is known of it, bound to its weights, whole or not at all."""
    card = {
        "format": FORMAT,
        "parameters": dataclasses.asdict(adaptation),
        "weights": {"name": weights.name, "sha256": file_digest(weights)},
    }
    write_json(path, {**card, **about})


def load(path: Path, weights: Path) -> Adaptation:
    """Return the adaptation of a file.

    Raises:
        UserError: it is missing, is no adaptation, or belongs to other weights.
    """
    if not path.is_file():
        raise UserError(f"No adaptation at {path}. `adapt` writes one, or name another.")
    if path.stat().st_size > LARGEST_FILE:
        raise UserError(f"{path} is too large to be an adaptation that `adapt` wrote.")
    card = read_json(path)
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise UserError(f"{path} is no adaptation that `adapt` wrote (format '{FORMAT}').")
    parameters, bound = card.get("parameters"), card.get("weights")
    if not isinstance(parameters, dict) or parameters.keys() != BOUNDS.keys():
        raise UserError(f"{path}: its parameters are not {', '.join(BOUNDS)}.")
    if not isinstance(bound, dict) or bound.get("sha256") != file_digest(weights):
        name = str(bound.get("name"))[:80] if isinstance(bound, dict) else "others"
        raise UserError(
            f"{path} was fitted to the maps of other weights ({name}) than {weights}. Run "
            f"{PROGRAM} adapt with these."
        )
    try:
        return Adaptation(**parameters)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error

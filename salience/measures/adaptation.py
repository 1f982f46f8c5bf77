"""Adaptation to the bias of a data set: a dozen numbers, fitted on a few of its pictures.

Fixations also depend on the data set: on viewing time, distance and the photographers' habits.
The numbers are on the map or in the network. An `Adaptation` changes contrast, blur and centre bias
of a finished map, from any network and engine. `SetNumbers` are used inside a network that has
numbers of each data set (`networks/multiscale.py`). `fit_adaptation` finds either. `save` and
`load` keep them in a file beside their weights; `load` rejects other weights.

After Kümmerer, Khanuja and Bethge, "Modeling saliency dataset bias" (arXiv 2505.10169).
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from salience.measures.metrics import EPSILON, as_distribution
from salience.pictures.fixations import blurred, count_map, rescaled, within
from salience.system.errors import UserError
from salience.system.files import file_digest, in_program, is_name, read_json, write_json
from salience.system.terminal import PROGRAM

if TYPE_CHECKING:
    from salience.measures.significance import Interval

ON_MAP, IN_NETWORK = "parameters", "numbers"  # fields of a file: it has one of them
SUFFIX = ".adapt.json"
FORMAT = "saliency adaptation 1"
LARGEST_FILE = 1_000_000  # bytes; a file has a few thousand
SIDE = 64  # cells along the longer side of the maps for fitting
SHARP = 8.0  # pixels; a map is reduced before a wider blur, until its blur is about this wide
# both in the unit of the objective, which is bits by default
PENALTY = 0.1  # cost of one `scale` away from the identity, for the sum over all pictures
LEAST_GAIN = 0.01  # a smaller mean gain does not justify a change of the maps
LEAST_PICTURES = 2  # cross-validation needs a second picture
FOLDS = 5  # parts of the cross-validation
MOST_NUMBERS = 100  # of a data set inside a network, in a file


class Bounds(NamedTuple):
    """The range of a parameter, and its scale in the search.

    Attributes:
        low, high: least and greatest value.
        scale: typical distance from the identity; of the logarithm if `logarithmic`.
        start: first value of a fit. At the identity, the gradient of some parameters is zero.
        logarithmic: whether the search moves in the logarithm.
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
    """The parameters of an adaptation; the defaults are the identity.

    Let m be the blurred map divided by its maximum, and g the Gaussian of the centre bias. The
    density is (1 - centre_share) ((1 - uniform_share) m^contrast g^centre_power + uniform_share
    uniform) + centre_share g, where each part is scaled to sum 1.

    Attributes:
        contrast: exponent of the map; above 1 sharpens peaks, below 1 flattens them.
        blur: standard deviation of the Gaussian blur, in diagonals of the picture.
        centre_x, centre_y: centre of the centre bias, 0 to 1 from the left and from the top.
        centre_width, centre_height: standard deviations of the centre bias, in widths and heights.
        centre_power: exponent with which the centre bias multiplies the map; below 0 removes a
            bias that the network has learnt.
        centre_share: share of the centre bias that is added.
        uniform_share: share of the rest that is uniform.

    Raises:
        UserError: a value is not a number, or is out of its bounds.
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
                    f"The adaptation's {name} is {str(value)[:40]!r}; expected a number from "
                    f"{bounds.low:g} to {bounds.high:g}."
                )

    def apply(self, saliency_map: NDArray) -> NDArray[np.floating]:
        """Return a map [rows, columns] adapted to the data set, float32, with maximum 1.

        The identity and an all-zero map return the map itself.

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

    def shrunk(self, share: float) -> "Adaptation":
        """Return the adaptation at a share of its way from the identity, 0 to 1.

        Contrast and widths move in the logarithm, as in a fit.

        >>> Adaptation(contrast=4.0, centre_share=0.2).shrunk(0.5).contrast
        2.0
        """
        origin, place = _coordinates(IDENTITY), _coordinates(self)
        return _at(origin + share * (place - origin))

    def density(self, maps: NDArray) -> NDArray[np.floating]:
        """Return adapted maps [..., rows, columns], 0 or more, as densities of sum 1."""
        rows, columns = maps.shape[-2:]
        made = self._blurred(maps)
        peaks = made.max(axis=(-2, -1), keepdims=True)
        made /= np.where(peaks > 0, peaks, 1)
        made += peaks <= 0  # an all-zero map becomes uniform
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
        """Return a power of the Gaussian of the centre bias, [rows, columns], with maximum 1."""
        down = _gaussian(rows, self.centre_y, self.centre_height, power).astype(dtype)
        across = _gaussian(columns, self.centre_x, self.centre_width, power).astype(dtype)
        return np.outer(down, across)

    def _blurred(self, maps: NDArray) -> NDArray:
        """Return a copy of maps [..., rows, columns], blurred."""
        if not self.blur:
            return maps.copy()
        pixels = self.blur * math.hypot(*maps.shape[-2:])
        flat = maps.reshape(-1, *maps.shape[-2:])
        made = np.stack([_wide_blur(one, pixels) for one in flat]).reshape(maps.shape)
        return made.astype(maps.dtype, copy=False)  # powers of small values need the precision


IDENTITY = Adaptation()


@dataclass(frozen=True)
class SetNumbers:
    """Numbers of a data set inside a network, in place of those of a set of its training.

    Attributes:
        values: value by name; the names are those of the network's own numbers.

    Raises:
        UserError: a value is not a finite number, or there are too many.
    """

    values: dict[str, float] = field(hash=False)

    def __post_init__(self) -> None:
        if len(self.values) > MOST_NUMBERS:
            raise UserError(f"The adaptation has {len(self.values)} numbers of a data set.")
        for name, value in self.values.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value):
                raise UserError(
                    f"The adaptation's {name[:40]} is {str(value)[:40]!r}; expected a number."
                )


def _wide_blur(saliency_map: NDArray, sigma_pixels: float) -> NDArray:
    """Return a map blurred by a Gaussian, in a time that does not grow with its width."""
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
    """Return a power of a Gaussian at `count` pixels of a side of length 1, with maximum 1."""
    places = (np.arange(count) + 0.5) / count
    exponent = -0.5 * power * ((places - middle) / width) ** 2
    return np.exp(exponent - exponent.max())


class LowResolutionMaps(NamedTuple):
    """The maps of a picture for fitting, at low resolution.

    Attributes:
        saliency_map: prediction, [rows, columns], 0 or more.
        truth: share of the fixations, or of the density map, in each cell, [rows, columns], sum 1.
    """

    saliency_map: NDArray
    truth: NDArray[np.float64]


def low_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """Return the shape of the low-resolution maps of a picture.

    >>> low_shape((600, 800))
    (48, 64)
    """
    scale = min(1.0, SIDE / max(shape))
    rows, columns = (max(1, round(side * scale)) for side in shape)
    return rows, columns


def low_resolution_maps(
    saliency_map: NDArray, fixations: NDArray | None, density_map: NDArray | None = None
) -> LowResolutionMaps | None:
    """Return the low-resolution maps of a picture; None without truth.

    Args:
        saliency_map: [rows, columns], of the picture's shape or of its `low_shape`.
        fixations: [n, 2], (x, y), pixels of `saliency_map`; None if the data set has none.
        density_map: [rows, columns], of the map's shape; used without fixations.
    """
    shape = saliency_map.shape[0], saliency_map.shape[1]
    low = low_shape(shape)
    small = cv2.resize(
        np.asarray(saliency_map, np.float32), low[::-1], interpolation=cv2.INTER_AREA
    )
    if fixations is not None:
        truth = count_map(rescaled(within(fixations, shape), shape, low), low)
    elif density_map is not None:
        truth = cv2.resize(
            np.asarray(density_map, np.float32), low[::-1], interpolation=cv2.INTER_AREA
        )
    else:
        return None
    return LowResolutionMaps(small, as_distribution(truth)) if truth.any() else None


def _bits(density: NDArray, truth: NDArray) -> NDArray[np.float64]:
    """Return the log-likelihood of the fixations, in bits above the uniform density."""
    size = density.shape[-2] * density.shape[-1]
    return (truth * (np.log2(EPSILON + density) + math.log2(size))).sum(axis=(-2, -1))


def _standardised(values: NDArray) -> NDArray[np.float64]:
    """Return maps with mean 0 and standard deviation 1; a constant map becomes zeros."""
    centred = values - values.mean(axis=(-2, -1), keepdims=True)
    spread = np.sqrt((centred**2).mean(axis=(-2, -1), keepdims=True))
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)


def _nss(density: NDArray, truth: NDArray) -> NDArray[np.float64]:
    """Return the mean standardised density at the fixations."""
    return (truth * _standardised(density)).sum(axis=(-2, -1))


def _cc(density: NDArray, truth: NDArray) -> NDArray[np.float64]:
    """Return Pearson's linear correlation with the density map."""
    return (_standardised(density) * _standardised(truth)).mean(axis=(-2, -1))


def _minus_kld(density: NDArray, truth: NDArray) -> NDArray[np.float64]:
    """Return the negative Kullback-Leibler divergence from the density map."""
    return -(truth * np.log(EPSILON + truth / (EPSILON + density))).sum(axis=(-2, -1))


class Objective(NamedTuple):
    """An objective of the fit.

    Attributes:
        function: maps adapted densities and truth, [pictures, rows, columns], to [pictures];
            higher is better.
        unit: unit of a gain.
        from_map: whether the truth is the density map rather than the fixations.
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


def objective_values(
    adaptation: Adaptation, pictures: Sequence[LowResolutionMaps], objective: str = "ig"
) -> NDArray[np.float64]:
    """Return the objective of adapted maps for each picture; "ig" is in bits above uniform.

    >>> truth = np.array([[1.0, 0.0]])
    >>> pictures = [LowResolutionMaps(np.ones((1, 2)), truth), LowResolutionMaps(truth, truth)]
    >>> np.abs(objective_values(IDENTITY, pictures)).round(6).tolist()
    [0.0, 1.0]
    """
    found = np.empty(len(pictures))
    for indices, maps, truths in _stacks(pictures):
        found[indices] = OBJECTIVES[objective].function(adaptation.density(maps), truths)
    return found


def _stacks(pictures: Sequence[LowResolutionMaps]) -> list[tuple[list[int], NDArray, NDArray]]:
    """Return indices, maps and truths of the pictures of each shape, [pictures, rows, columns]."""
    shapes: dict[tuple[int, ...], list[int]] = {}
    for i, picture in enumerate(pictures):
        shapes.setdefault(picture.saliency_map.shape, []).append(i)
    return [
        (
            indices,
            np.stack([pictures[i].saliency_map for i in indices]).astype(np.float64),
            np.stack([pictures[i].truth for i in indices]),
        )
        for indices in shapes.values()
    ]


def best_parameters(
    pictures: Sequence[LowResolutionMaps],
    start: Adaptation | None = None,
    objective: str = "ig",
) -> Adaptation:
    """Return the parameters that maximise an objective on pictures.

    The distance from the identity is penalised (`PENALTY`), so that parameters stay at the identity
    if the pictures do not determine them.

    Args:
        pictures: at least one.
        start: first parameters of the search; None for the `start` values of BOUNDS.
        objective: key of OBJECTIVES; "ig" maximises the likelihood of the fixations.
    """
    from scipy.optimize import minimize  # here: `test`, which fits nothing, starts in a second

    stacks, function = _stacks(pictures), OBJECTIVES[objective].function
    origin = _coordinates(IDENTITY)

    def loss(place: NDArray) -> float:
        adaptation = _at(place)
        total = sum(function(adaptation.density(maps), truth).sum() for _, maps, truth in stacks)
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
        # finite differences need this step, since maps are blurred in single precision
        options={"eps": 1e-3, "maxiter": 100, "ftol": 1e-5},
    )  # fmt: skip
    return _at(found.x) if found.fun < loss(origin) else IDENTITY


def _coordinates(parameters: "Adaptation | dict[str, float]") -> NDArray[np.float64]:
    """Return parameters as coordinates of the search, each in units of its scale."""
    values = parameters if isinstance(parameters, dict) else dataclasses.asdict(parameters)
    return np.array(
        [
            (math.log(values[name]) if bounds.logarithmic else values[name]) / bounds.scale
            for name, bounds in BOUNDS.items()
        ]
    )


def _at(place: NDArray) -> Adaptation:
    """Return the parameters at coordinates of the search, within their bounds."""
    values = {}
    for (name, bounds), coordinate in zip(BOUNDS.items(), place.tolist(), strict=True):
        value = coordinate * bounds.scale
        value = math.exp(value) if bounds.logarithmic else value
        values[name] = min(max(value, bounds.low), bounds.high)
    return Adaptation(**values)


@dataclass(frozen=True)
class AdaptationFit:
    """The result of a fit.

    Attributes:
        adaptation: the parameters, or the numbers in the network; the identity if the gain is too
            small.
        gain: cross-validated gain in the objective, with its interval.
        kept: whether the mean gain is at least LEAST_GAIN.
        objective: key of OBJECTIVES.
    """

    adaptation: "Adaptation | SetNumbers"
    gain: "Interval"
    kept: bool
    objective: str = "ig"


class Fitting(NamedTuple):
    """Where numbers are fitted, and how.

    Attributes:
        best: from pictures, a start or None, and the objective to the best numbers.
        values: from numbers (the identity: nothing is adapted), pictures and the objective to the
            objective's value of each picture.
    """

    best: Callable[[Sequence[Any], Any, str], "Adaptation | SetNumbers"]
    values: Callable[[Any, Sequence[Any], str], NDArray[np.float64]]


ON_MAPS = Fitting(best_parameters, objective_values)


def fit_adaptation(
    pictures: Sequence[Any], seed: int = 0, objective: str = "ig", fitting: Fitting = ON_MAPS
) -> AdaptationFit:
    """Return the best numbers if cross-validation shows a gain, else the identity.

    Numbers fitted on four fifths of the pictures are scored on the rest. If the mean gain is below
    LEAST_GAIN, the result is the identity.

    Args:
        pictures: at least two, each as `fitting` needs it: `LowResolutionMaps` for maps.
        seed: seed of the bootstrap.
        objective: key of OBJECTIVES.
        fitting: where the numbers are: on finished maps, or in a network (see `row_fit.py`).
    """
    from salience.measures.significance import mean_interval  # here, as above

    whole = fitting.best(pictures, None, objective)
    gains = np.zeros(len(pictures))
    parts = np.array_split(np.arange(len(pictures)), min(FOLDS, len(pictures)))
    for part in parts:
        others = [picture for i, picture in enumerate(pictures) if i not in part]
        tried = [pictures[i] for i in part]
        for sign, own in ((1, fitting.best(others, whole, objective)), (-1, IDENTITY)):
            gains[part] += sign * fitting.values(own, tried, objective)
    gain = mean_interval(gains, seed)
    kept = gain.mean >= LEAST_GAIN
    return AdaptationFit(whole if kept else IDENTITY, gain, kept, objective)


def fit_line(fit: AdaptationFit) -> str:
    """Return the result of a fit as text."""
    gain = fit.gain
    unit = OBJECTIVES[fit.objective].unit
    won = f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] {unit} on pictures left out"
    if not fit.kept:
        return f"nothing is gained ({won}), so the maps are not adapted"
    own = fit.adaptation
    if isinstance(own, SetNumbers):
        listed = ", ".join(f"{name} {value:.3g}" for name, value in own.values.items())
        return f"numbers in the network: {listed}: {won}"
    return (
        f"contrast {own.contrast:.2f}, blur {own.blur:.1%} of the diagonal, centre bias at "
        f"({own.centre_x:.2f}, {own.centre_y:.2f}) of {own.centre_width:.2f} x "
        f"{own.centre_height:.2f}, {own.centre_share:.1%} added, power {own.centre_power:.2f}, "
        f"{own.uniform_share:.1%} uniform: {won}"
    )


def path_of(name: str | Path, weights: Path) -> Path:
    """Return the file of an adaptation, from its path or from a name beside the weights.

    For the included weights of an installed program, it is in the working folder's `weights/`.

    >>> path_of("eyecrowd", Path("weights/mlnet-frozen-osie.weights.h5")).name
    'mlnet-frozen-osie.eyecrowd.adapt.json'

    Raises:
        UserError: `name` is neither.
    """
    if str(name).endswith(".json"):
        return Path(name)
    if not is_name(str(name)):
        raise UserError(
            f"--adaptation {name}: expected a file that ends in .json, or the name that adapt "
            "printed."
        )
    folder = Path(weights.parent.name) if in_program(weights) else weights.parent
    return folder / f"{weights.name.removesuffix('.weights.h5')}.{name}{SUFFIX}"


def load_named(
    name: Path | None, weights: Path, say: Callable[[str], None]
) -> Adaptation | SetNumbers:
    """Return the adaptation that a flag names, and report its file; the identity for None.

    Raises:
        UserError: the file cannot be read, or belongs to other weights.
    """
    if name is None:
        return IDENTITY
    path = path_of(name, weights)
    adaptation = load(path, weights)
    say(f"maps adapted by {path}")
    return adaptation


def save(
    path: Path, adaptation: Adaptation | SetNumbers, weights: Path, about: dict[str, Any]
) -> None:
    """Write an adaptation, the hash of its weights and further fields to a file, atomically."""
    in_network = isinstance(adaptation, SetNumbers)
    card = {
        "format": FORMAT,
        **(
            {IN_NETWORK: dict(adaptation.values)}
            if in_network
            else {ON_MAP: dataclasses.asdict(adaptation)}
        ),
        "weights": {"name": weights.name, "sha256": file_digest(weights)},
    }
    write_json(path, {**card, **about})


def load(path: Path, weights: Path) -> Adaptation | SetNumbers:
    """Return the adaptation in a file: parameters of a map, or numbers in the network.

    Raises:
        UserError: the file is missing, is not an adaptation, or belongs to other weights.
    """
    if not path.is_file():
        raise UserError(f"No adaptation at {path}. Run `adapt` to write one, or name another file.")
    if path.stat().st_size > LARGEST_FILE:
        raise UserError(f"{path} is too large to be an adaptation that `adapt` wrote.")
    card = read_json(path)
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise UserError(f"{path} is not an adaptation that `adapt` wrote (format '{FORMAT}').")
    parameters, numbers, bound = card.get(ON_MAP), card.get(IN_NETWORK), card.get("weights")
    found = parameters if isinstance(parameters, dict) else numbers
    of_map = found is parameters
    if not isinstance(found, dict) or (of_map and found.keys() != BOUNDS.keys()):
        raise UserError(f"{path}: its parameters are not {', '.join(BOUNDS)}.")
    if not isinstance(bound, dict) or bound.get("sha256") != file_digest(weights):
        name = str(bound.get("name"))[:80] if isinstance(bound, dict) else "others"
        raise UserError(
            f"{path} was fitted to maps of other weights ({name}) than {weights}. Run "
            f"{PROGRAM} adapt with --weights {weights}."
        )
    try:
        return Adaptation(**found) if of_map else SetNumbers(found)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error

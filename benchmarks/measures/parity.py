"""Our metrics compared with pysaliency's and scikit-learn's on the same maps and fixations.

pysaliency 0.2.22 needs a temporary environment of its own:

    python3 -m venv /tmp/parity
    /tmp/parity/bin/pip install "setuptools<80" wheel cython "numpy<2.4" scikit-learn
    /tmp/parity/bin/pip install --no-build-isolation pysaliency==0.2.22
    /tmp/parity/bin/python benchmarks/measures/parity.py --data PATH/TO/osie

prints a table and writes parity_seeded.json and, with --data, parity_osie.json into
tests/measures/golden. The files hold only scores, because maps are computed from seeds and
fixations. tests/measures/test_parity.py scores the same maps and compares; it needs neither
library.

Three conventions are aligned, which are not differences of the definitions. pysaliency's pixel i
reaches from i to i + 1 and ours from i - 0.5 to i + 0.5, so it gets coordinates larger by half a
pixel. It computes in the type of the map and we in 64 bits, so maps are 64-bit here. It takes log
densities for IG, so maps are positive if IG is compared.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if not __package__:  # run as a file: the program is not in this folder
    sys.path[0] = str(ROOT)

import numpy as np
from numpy.typing import NDArray

from salience.measures.metrics import PROFILES, Profile, as_distribution, score, unit_range
from salience.pictures.fixations import centre_bias, density_map, other_fixations, pixels

GOLDEN = ROOT / "tests/measures/golden"
TOLERANCE = 1e-6
OSIE_PICTURES = 6
OSIE_SIGMA = 24.0
# metrics of each profile in pysaliency; the others of "mit" are random or have no counterpart
COMPARED: dict[Profile, tuple[str, ...]] = {
    "tuebingen": ("auc_judd", "sauc", "nss", "cc", "sim", "kld", "ig"),
    "mit": ("auc_judd", "nss", "cc", "sim", "kld"),
}
CORNERS = "tied values: thresholds only at fixations cut corners; ours breaks ties by jitter"
ZEROS = "no epsilon: a density of zero or near zero costs more bits than ours"
EXPLAINED: dict[tuple[str, Profile, str], str] = {
    (
        "constant",
        "tuebingen",
        "nss",
    ): "the mean of equal values is rounded, so their spread is not 0",
    ("constant", "mit", "nss"): "the mean of equal values is rounded, so their spread is not 0",
    ("all zero", "mit", "auc_judd"): CORNERS,
    ("constant", "mit", "auc_judd"): CORNERS,
    ("half of it zero", "mit", "auc_judd"): CORNERS,
    ("sixteen levels", "mit", "auc_judd"): CORNERS,
    ("steep", "mit", "auc_judd"): "jitter of 1e-7 reorders values that are closer than 1e-7",
    ("half of it zero", "tuebingen", "ig"): ZEROS,
    ("steep", "tuebingen", "ig"): ZEROS,
}


@dataclass(frozen=True)
class Scene:
    """A picture to be scored: its name, maps [rows, columns] and fixations [n, 2]."""

    name: str
    saliency_map: NDArray[np.float64]
    density_map: NDArray[np.float64]
    fixations: NDArray
    baseline: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.saliency_map.shape  # type: ignore[return-value]


def seeded_scenes() -> list[Scene]:
    """Return seeded scenes of several sizes: smooth, tied, constant, zero, negative."""
    changes: dict[str, Callable[[NDArray], NDArray]] = {
        "smooth": lambda m: m,
        "sixteen levels": lambda m: np.round(m / m.max() * 15) + 1,
        "constant": lambda m: np.full(m.shape, 0.3),
        "all zero": np.zeros_like,
        "half of it zero": lambda m: np.maximum(m - np.median(m), 0),
        "from minus one": lambda m: m / m.max() - 1,
        "steep": lambda m: np.exp(30 * m / m.max()),
    }
    return [_seeded(name, seed, change) for seed, (name, change) in enumerate(changes.items())]


def _seeded(name: str, seed: int, change: Callable[[NDArray], NDArray]) -> Scene:
    """Return a scene of blobs with 60 fixations, some of which share a pixel."""
    rng = np.random.default_rng(seed)
    rows, columns = 90 + 10 * seed, 160 - 10 * seed
    points = rng.normal((columns / 2, rows / 3), (columns / 6, rows / 8), (50, 2))
    points = np.concatenate([points, points[:10]]).clip(0, (columns - 1, rows - 1))
    seen = density_map(points[::2], (rows, columns), 5.0).astype(np.float64)
    noise = rng.random((rows, columns))
    centre = np.array([[columns / 2, rows / 2]])
    return Scene(
        name,
        change(seen + 0.3 * noise),
        density_map(points, (rows, columns), 5.0).astype(np.float64),
        points,
        density_map(centre, (rows, columns), rows / 4).astype(np.float64) + 0.05,
    )


def osie_scenes(root: Path) -> list[Scene]:
    """Return the first pictures of OSIE's test split, with maps made from every other fixation.

    Noise of 2 % keeps the map above zero and free of ties. The baseline is the centre bias of the
    first 50 training pictures, mixed with 1 % of a uniform density.
    """
    from salience.data.sets.osie import parse

    looks = parse(root / "data" / "eye" / "fixations.mat")
    split = json.loads((root / "split.json").read_text())
    shape = (600, 800)  # of all OSIE pictures
    training = [(looks[Path(name).stem].fixations, shape) for name in split["train"][:50]]
    bias = as_distribution(centre_bias(training, shape, OSIE_SIGMA))
    scenes = []
    for seed, name in enumerate(split["test"][:OSIE_PICTURES]):
        points = looks[Path(name).stem].fixations
        seen = density_map(points[::2], shape, OSIE_SIGMA).astype(np.float64)
        noise = np.random.default_rng(seed).random(shape)
        scenes.append(
            Scene(
                name,
                seen + 0.02 * noise + 1e-3,
                density_map(points, shape, OSIE_SIGMA).astype(np.float64),
                points,
                0.99 * bias + 0.01 / bias.size,
            )
        )
    return scenes


def ours(scenes: list[Scene], profile: Profile = "tuebingen") -> list[dict[str, float]]:
    """Return our scores of each scene, sAUC's negatives being the fixations of all the others."""
    pictures = [(scene.fixations, scene.shape) for scene in scenes]
    return [
        score(
            scene.saliency_map,
            scene.density_map,
            scene.fixations,
            COMPARED[profile],
            others=other_fixations(pictures, index),
            baseline=scene.baseline,
            profile=profile,
        )
        for index, scene in enumerate(scenes)
    ]


def import_pysaliency() -> ModuleType:
    """Return pysaliency, without PyTorch, which it would import for a model of its own."""
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = ModuleType("torch")
    import pysaliency  # type: ignore[import-not-found]

    if absent:
        del sys.modules["torch"]  # SciPy checks for PyTorch arrays
    return pysaliency


def theirs(scenes: list[Scene]) -> list[dict[str, float]]:
    """Return pysaliency's scores of each scene, by its models if possible."""
    pysaliency = import_pysaliency()
    np.seterr(divide="ignore")  # pysaliency computes logarithms of zero
    from pysaliency.metrics import (  # type: ignore[import-not-found]
        CC,
        SIM,
        MIT_KLDiv,
        convert_saliency_map_to_density,
    )

    # the index as pixel value: pysaliency caches maps by the picture's content
    stimuli = pysaliency.Stimuli(
        [np.full((*scene.shape, 3), index, np.uint8) for index, scene in enumerate(scenes)]
    )
    fixations = _as_their_fixations(pysaliency, [scene.fixations for scene in scenes])

    class Maps(pysaliency.SaliencyMapModel):
        def _saliency_map(self, stimulus: NDArray) -> NDArray:
            return scenes[stimulus.flat[0]].saliency_map

    class Densities(pysaliency.Model):
        def __init__(self, attribute: str) -> None:
            super().__init__()
            self.attribute = attribute

        def _log_density(self, stimulus: NDArray) -> NDArray:
            values = getattr(scenes[stimulus.flat[0]], self.attribute).copy()
            return np.log(convert_saliency_map_to_density(values))

    maps = Maps()
    gains = Densities("saliency_map").information_gains(stimuli, fixations, Densities("baseline"))
    nss = maps.NSSs(stimuli, fixations)
    by_picture = {
        "auc_judd": maps.AUC_per_image(stimuli, fixations),
        "sauc": maps.AUC_per_image(stimuli, fixations, nonfixations="shuffled"),
        "nss": [nss[fixations.n == index].mean() for index in range(len(scenes))],
        "cc": [CC(s.saliency_map, s.density_map) for s in scenes],
        "sim": [SIM(s.saliency_map.copy(), s.density_map.copy()) for s in scenes],
        "kld": [MIT_KLDiv(s.saliency_map.copy(), s.density_map.copy()) for s in scenes],
        "ig": [gains[fixations.n == index].mean() for index in range(len(scenes))],
    }
    return _rows(by_picture)


def theirs_by_the_mit_definitions(scenes: list[Scene]) -> list[dict[str, float]]:
    """Return scores by the MIT code's definitions, composed from pysaliency's functions.

    Fixations in one pixel are merged. AUC-Judd uses unfixated pixels as negatives and thresholds at
    the fixations. NSS is converted from n to n - 1. SIM gets min-max maps. Jitter has no
    counterpart.
    """
    pysaliency = import_pysaliency()
    from pysaliency.metrics import CC, NSS, SIM, MIT_KLDiv  # type: ignore[import-not-found]

    stimuli = pysaliency.Stimuli(
        [np.full((*scene.shape, 3), index, np.uint8) for index, scene in enumerate(scenes)]
    )
    cells = [np.unique(pixels(scene.fixations, scene.shape), axis=0)[:, ::-1] for scene in scenes]
    fixations = _as_their_fixations(pysaliency, cells)

    class Maps(pysaliency.SaliencyMapModel):
        def _saliency_map(self, stimulus: NDArray) -> NDArray:
            return scenes[stimulus.flat[0]].saliency_map

    sizes = [scene.saliency_map.size for scene in scenes]
    by_picture = {
        "auc_judd": Maps().AUC_per_image(
            stimuli, fixations, nonfixations="unfixated", thresholds="fixations"
        ),
        "nss": [
            NSS(s.saliency_map, *c.T).mean() * np.sqrt((size - 1) / size)
            for s, c, size in zip(scenes, cells, sizes, strict=True)
        ],
        "cc": [CC(s.saliency_map, s.density_map) for s in scenes],
        "sim": [SIM(unit_range(s.saliency_map), unit_range(s.density_map)) for s in scenes],
        "kld": [MIT_KLDiv(s.saliency_map.copy(), s.density_map.copy()) for s in scenes],
    }
    return _rows(by_picture)


def scikit_learns(scenes: list[Scene]) -> list[dict[str, float]]:
    """Return scikit-learn's area under the curve of each scene, for the two exact AUCs."""
    from sklearn.metrics import roc_auc_score  # type: ignore[import-not-found]

    def area(positives: NDArray, negatives: NDArray) -> float:
        labels = np.repeat([1, 0], [len(positives), len(negatives)])
        return roc_auc_score(labels, np.concatenate([positives, negatives]))

    pictures = [(scene.fixations, scene.shape) for scene in scenes]
    rows = []
    for index, scene in enumerate(scenes):
        here, away = (
            scene.saliency_map[tuple(pixels(points, scene.shape).T)]
            for points in (scene.fixations, other_fixations(pictures, index))
        )
        rows.append({"auc_judd": area(here, scene.saliency_map.ravel()), "sauc": area(here, away)})
    return rows


def _as_their_fixations(pysaliency: Any, points: list[NDArray]) -> Any:
    """Return the fixations of each picture as pysaliency's object, in its coordinates."""
    x, y = (np.concatenate(points).astype(np.float64) + 0.5).T
    numbers = np.repeat(np.arange(len(points)), [len(p) for p in points])
    return pysaliency.Fixations.create_without_history(x, y, numbers)


def _rows(by_picture: dict[str, Any]) -> list[dict[str, float]]:
    """Return columns of scores as one row per picture."""
    return [
        {name: float(value) for name, value in zip(by_picture, values, strict=True)}
        for values in zip(*by_picture.values(), strict=True)
    ]


def versions() -> dict[str, str]:
    """Return the versions of the libraries."""
    from importlib.metadata import version

    return {name: version(name) for name in ("pysaliency", "scikit-learn", "numpy", "scipy")}


def compare(
    title: str, scenes: list[Scene], golden: dict[str, list[dict[str, float]]]
) -> tuple[list[str], list[str]]:
    """Return a line for each metric, and one for each explained difference."""
    table, explained = [], []
    for source, rows in golden.items():
        profile: Profile = "mit" if source.endswith("mit") else "tuebingen"
        library = source.removesuffix(", mit")
        mine = ours(scenes, profile)
        for name in rows[0]:
            label = f"| {title} | {profile} | {PROFILES[profile][name].name} | {library} |"
            pairs = []
            for scene, our, their in zip(scenes, mine, rows, strict=True):
                reason = EXPLAINED.get((scene.name, profile, name))
                if reason and library == "pysaliency":
                    numbers = f"{our[name]:.6f} | {their[name]:.6f}"
                    explained.append(f"| {scene.name} | {label[2:]} {numbers} | {reason} |")
                else:
                    pairs.append((our[name], their[name]))
            difference = np.abs(np.subtract(*np.transpose(pairs))).max()
            means = " | ".join(f"{mean:.6f}" for mean in np.mean(pairs, axis=0))
            table.append(f"{label} {len(pairs)} | {means} | {difference:.1e} |")
    return table, explained


def main() -> None:
    """Print the tables and write the golden files."""
    parser = argparse.ArgumentParser(description="Compare our metrics with pysaliency's.")
    parser.add_argument(
        "--data", type=Path, help="folder of OSIE, which holds data/ and split.json"
    )
    data = parser.parse_args().data
    sets = {"seeded": seeded_scenes()} | ({"osie": osie_scenes(data)} if data else {})
    table, explained = [], []
    for title, scenes in sets.items():
        golden = {
            "pysaliency": theirs(scenes),
            "pysaliency, mit": theirs_by_the_mit_definitions(scenes),
            "scikit-learn": scikit_learns(scenes),
        }
        lines = compare(title, scenes, golden)
        table += lines[0]
        explained += lines[1]
        write_golden(title, scenes, golden)
    print("| maps | profile | metric | against | pictures | ours | theirs | greatest difference |")
    print("| --- | --- | --- | --- | ---: | ---: | ---: | ---: |")
    print("\n".join(table))
    print("\nDifferences that are explained:\n")
    print("| map | maps | profile | metric | against | ours | theirs | why |")
    print("| --- | --- | --- | --- | --- | ---: | ---: | --- |")
    print("\n".join(explained))


def write_golden(
    title: str, scenes: list[Scene], golden: dict[str, list[dict[str, float]]]
) -> None:
    """Write the libraries' scores; infinities, which JSON lacks, as null."""
    stored = {
        "made_by": "benchmarks/measures/parity.py",
        "versions": versions(),
        "pictures": [scene.name for scene in scenes],
        "scores": {
            source: [{k: v if np.isfinite(v) else None for k, v in row.items()} for row in rows]
            for source, rows in golden.items()
        },
    }
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / f"parity_{title}.json").write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()

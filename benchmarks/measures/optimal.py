"""Our best maps under a density, compared with pysaliency's on OSIE pictures.

pysaliency 0.2.22 needs an environment of its own (see parity.py), with OpenCV and h5py, too:

    /tmp/parity/bin/pip install opencv-python-headless h5py
    /tmp/parity/bin/python benchmarks/measures/optimal.py --data PATH/TO/osie [--maps FOLDER]

prints the scores of each metric on its best map and writes parity_optimal.json into
tests/measures/golden. The densities are those of parity.py's scenes. With --maps FOLDER, it also
compares IG and log-likelihood of the log-densities in a folder of `test --density`, over the
pictures of the test split.

pysaliency optimises SIM's map by gradient descent in PyTorch (pip install torch). It is compared by
the expected SIM on pictures of a quarter of the size, since that takes minutes for each picture.
pysaliency's blur mirrors nothing here: mode="constant", as the density maps are made.
"""

import argparse
import importlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if not __package__:  # run as a file: the program is not in this folder
    sys.path[0] = str(ROOT)

import numpy as np
from numpy.typing import NDArray

from benchmarks.measures.parity import OSIE_SIGMA, Scene, import_pysaliency, osie_scenes
from salience.measures.metrics import as_distribution, score
from salience.measures.optimal import (
    best_for_cc_and_kld,
    best_for_sauc,
    best_for_sim,
    simulated_truths,
)
from salience.pictures.fixations import other_fixations

GOLDEN = ROOT / "tests/measures/golden" / "parity_optimal.json"
TOLERANCE = 1e-3
COMPARED = ("nss", "auc_judd", "sauc", "ig", "cc", "kld")
QUARTER = 4  # factor by which pictures are reduced for SIM
FIXATIONS = 100  # of each simulated picture for SIM


def ours(scenes: list[Scene]) -> list[dict[str, float]]:
    """Return our score of each metric on its best map, for each scene."""
    pictures = [(scene.fixations, scene.shape) for scene in scenes]
    rows = []
    for index, scene in enumerate(scenes):
        density = as_distribution(scene.saliency_map)
        expected = best_for_cc_and_kld(density, OSIE_SIGMA)
        maps = dict.fromkeys(COMPARED, density) | {"cc": expected, "kld": expected}
        maps["sauc"] = best_for_sauc(density, as_distribution(scene.baseline))
        others = other_fixations(pictures, index)
        rows.append(
            {
                name: score(
                    saliency_map, scene.density_map, scene.fixations, (name,),
                    others=others, baseline=scene.baseline,
                )[name]
                for name, saliency_map in maps.items()
            }
        )  # fmt: skip
    return rows


def theirs(scenes: list[Scene]) -> list[dict[str, float]]:
    """Return pysaliency's score of each metric on its own best map, for each scene."""
    pysaliency = import_pysaliency()
    from pysaliency.metrics import CC, MIT_KLDiv  # type: ignore[import-not-found]
    from pysaliency.models import ShuffledAUCSaliencyMapModel  # type: ignore[import-not-found]
    from pysaliency.saliency_map_models import (  # type: ignore[import-not-found]
        BluringSaliencyMapModel,
        DensitySaliencyMapModel,
    )

    # the index as pixel value: pysaliency caches maps by the picture's content
    stimuli = pysaliency.Stimuli(
        [np.full((*scene.shape, 3), index, np.uint8) for index, scene in enumerate(scenes)]
    )
    fixations = their_fixations(pysaliency, [scene.fixations for scene in scenes])
    densities = their_model(
        pysaliency, lambda picture: np.log(as_distribution(scenes[picture.flat[0]].saliency_map))
    )
    centre = their_model(
        pysaliency, lambda picture: np.log(as_distribution(scenes[picture.flat[0]].baseline))
    )
    maps = DensitySaliencyMapModel(densities)
    expected = BluringSaliencyMapModel(maps, OSIE_SIGMA, mode="constant")
    ratio = ShuffledAUCSaliencyMapModel(densities, centre)
    gains = densities.information_gains(stimuli, fixations, centre)
    nss = maps.NSSs(stimuli, fixations)
    columns = {
        "nss": [nss[fixations.n == i].mean() for i in range(len(scenes))],
        "auc_judd": maps.AUC_per_image(stimuli, fixations),
        "sauc": ratio.AUC_per_image(stimuli, fixations, nonfixations="shuffled"),
        "ig": [gains[fixations.n == i].mean() for i in range(len(scenes))],
        "cc": [CC(expected.saliency_map(stimuli[i]), s.density_map) for i, s in enumerate(scenes)],
        "kld": [
            MIT_KLDiv(expected.saliency_map(stimuli[i]).copy(), s.density_map.copy())
            for i, s in enumerate(scenes)
        ],
    }
    return [{name: float(columns[name][i]) for name in COMPARED} for i in range(len(scenes))]


def their_model(pysaliency: Any, log_density: Any) -> Any:
    """Return a pysaliency model from a function of a picture's pixels to its log-density."""

    class Model(pysaliency.Model):
        def _log_density(self, stimulus: NDArray) -> NDArray:
            return log_density(stimulus)

    return Model()


def their_fixations(pysaliency: Any, points: list[NDArray]) -> Any:
    """Return the fixations of each picture as pysaliency's object, in its coordinates."""
    x, y = (np.concatenate(points).astype(np.float64) + 0.5).T
    numbers = np.repeat(np.arange(len(points)), [len(p) for p in points])
    return pysaliency.Fixations.create_without_history(x, y, numbers)


def sim_lines(scenes: list[Scene]) -> list[str]:
    """Return the expected SIM of our map and pysaliency's, for the first scenes, reduced."""
    optimizer = importlib.import_module("torch.optim.optimizer")
    if not hasattr(optimizer, "required"):  # newer PyTorch has it no more
        optimizer.required = object()  # type: ignore[attr-defined]
    from pysaliency.metric_optimization_torch import (  # type: ignore[import-not-found]
        maximize_expected_sim,
    )

    lines = ["", "expected SIM: the blurred density, pysaliency's map, ours, theirs begun at ours"]
    for scene in scenes[:2]:
        rows, columns = (side // QUARTER for side in scene.shape)
        cells = scene.saliency_map.reshape(rows, QUARTER, columns, QUARTER).sum(axis=(1, 3))
        density, sigma = as_distribution(cells), OSIE_SIGMA / QUARTER
        found, _ = maximize_expected_sim(
            np.log(density), sigma, train_samples_per_epoch=500, val_samples=200,
            fixation_count=FIXATIONS, verbose=False, max_iter=30, truncate_gaussian=4,
        )  # fmt: skip
        own = best_for_sim(density, sigma, FIXATIONS)
        further, _ = maximize_expected_sim(
            np.log(density), sigma, train_samples_per_epoch=500, val_samples=200,
            fixation_count=FIXATIONS, verbose=False, max_iter=3, truncate_gaussian=4,
            initial_saliency_map=own.copy(), initial_learning_rate=1e-6,
        )  # fmt: skip
        unseen = simulated_truths(density, sigma, FIXATIONS, 500, seed=99)
        values = [
            float(np.minimum(unseen, as_distribution(one)[None]).sum(axis=(1, 2)).mean())
            for one in (best_for_cc_and_kld(density, sigma), found, own, further)
        ]
        lines.append(f"{scene.name}: " + ", ".join(f"{value:.4f}" for value in values))
    return lines


def gain_lines(root: Path, folder: Path) -> list[str]:
    """Return IG and log-likelihood of a folder's log-densities on OSIE's test split, by both."""
    from salience.data import loading
    from salience.data.plan import Plan
    from salience.measures.references import TruthSplit
    from salience.system.arrays import read_array

    pysaliency = import_pysaliency()
    samples = loading.load("osie", root, "test", Plan(), "drop")
    split = TruthSplit(samples, ("ig", "ll"), human=False)
    logs = [
        np.asarray(read_array(folder / f"{Path(sample.name).stem}.density.npy"), np.float64)
        for sample in samples
    ]
    own: list[dict[str, float]] = []
    gains, likelihoods = [], []
    for i, log in enumerate(logs):
        truth = split.truth(i)
        own.append(truth.score(np.exp(log)))
        picture = pysaliency.Stimuli([np.zeros((*truth.shape, 3), np.uint8)])
        fixations = their_fixations(pysaliency, [np.asarray(truth.fixations)])
        model = their_model(pysaliency, lambda _, log=log: log)
        centre = their_model(pysaliency, lambda _, t=truth: np.log(np.asarray(t.baseline)))
        uniform = pysaliency.UniformModel()
        gains.append(model.information_gain(picture, fixations, centre))
        likelihoods.append(model.information_gain(picture, fixations, uniform))
    lines = ["", f"log-densities of {len(logs)} pictures: ours, pysaliency's, greatest difference"]
    for name, column in (("ig", gains), ("ll", likelihoods)):
        mine = [row[name] for row in own]
        apart = float(np.max(np.abs(np.subtract(mine, column))))
        lines.append(f"{name}: {np.mean(mine):.6f}, {np.mean(column):.6f}, {apart:.1e}")
    return lines


def main() -> None:
    """Compare, print the tables and write the golden file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="OSIE's folder")
    parser.add_argument("--maps", type=Path, help="log-densities of its test pictures")
    words = parser.parse_args()
    scenes = osie_scenes(words.data)
    mine, other = ours(scenes), theirs(scenes)
    print("metric on its best map: ours, pysaliency's, greatest difference of a picture")
    for name in COMPARED:
        a, b = ([row[name] for row in rows] for rows in (mine, other))
        apart = float(np.max(np.abs(np.subtract(a, b))))
        print(f"{name}: {np.mean(a):.6f}, {np.mean(b):.6f}, {apart:.1e}")
    for line in sim_lines(scenes) if find_spec("torch") else []:
        print(line)
    for line in gain_lines(words.data, words.maps) if words.maps else []:
        print(line)
    from importlib.metadata import version

    found = {
        "source": "pysaliency, by benchmarks/measures/optimal.py",
        "versions": {name: version(name) for name in ("pysaliency", "numpy", "scipy")},
        "pictures": [scene.name for scene in scenes],
        "scores": other,
    }
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""pysaliency's cross-validated centre bias and gold standard on a miniature, as golden numbers.

pysaliency 0.2.22 needs an environment of its own (see parity.py), with platformdirs and tqdm:

    /tmp/parity/bin/python benchmarks/measures/gold_standard.py

writes parity_gold_standard.json into tests/measures/golden. The file holds only likelihoods,
because the miniature is made from a seed. tests/measures/test_gold_standard.py compares ours.

* `CrossvalidatedBaselineModel` is the centre bias of the other pictures, mixed with a uniform
  density.
* `KDEGoldModel` is the kernel density of all fixations of a picture.
* `GeneralMixtureKernelDensityEstimator`, cross-validated over the observers of each picture, is the
  likelihood of left-out observers under a mixture of the kernel density of the others, the centre
  bias and a uniform density.

The fixations keep away from the borders, which differ: pysaliency mirrors the centre bias there,
and its mixture does not scale kernels to their mass inside the picture.
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if not __package__:  # run as a file: the program is not in this folder
    sys.path[0] = str(ROOT)

import numpy as np
from numpy.typing import NDArray

from benchmarks.measures.parity import import_pysaliency

GOLDEN = ROOT / "tests/measures/golden" / "parity_gold_standard.json"
SIDE = 64  # rows and columns: pysaliency's bandwidths are fractions of both
SIGMA_PIXELS = 4.0  # of the centre bias, and the unit of the bandwidths
UNIFORM_SHARE = 0.05  # pysaliency's eps of the centre bias, of one fixation's weight
OBSERVERS, PICTURES, EACH = 4, 5, 6
# bandwidth in multiples of SIGMA_PIXELS, and the shares of the centre bias and the uniform density
SETTINGS = [
    (bandwidth, centre, uniform)
    for bandwidth in (0.3, 0.5, 0.8)
    for centre in (0.1, 0.3)
    for uniform in (0.01, 0.1)
]


def miniature() -> tuple[list[NDArray], list[NDArray]]:
    """Return the fixations of each picture, [n, 2], at pixel centres, and their observers, [n].

    Observers look near two places of each picture.
    """
    rng = np.random.default_rng(21)
    fixations = []
    for _ in range(PICTURES):
        places = rng.uniform(26, 38, (2, 2))
        chosen = places[rng.integers(0, 2, OBSERVERS * EACH)]
        fixations.append(rng.normal(chosen, 2.0).round().clip(20, 44))
    return fixations, [np.repeat(np.arange(OBSERVERS), EACH)] * PICTURES


def theirs() -> dict[str, Any]:
    """Return pysaliency's likelihoods, natural logarithms, for each fixation or in sum."""
    pysaliency = import_pysaliency()
    from pysaliency.baseline_utils import (  # type: ignore[import-not-found]
        CrossvalidatedBaselineModel,
        GeneralMixtureKernelDensityEstimator,
        KDEGoldModel,
        ScikitLearnImageSubjectCrossValidationGenerator,
        fixations_to_scikit_learn,
    )
    from sklearn.model_selection import cross_val_score  # type: ignore[import-not-found]

    points, observers = miniature()
    x, y = (np.concatenate(points) + 0.5).T  # its pixel i reaches from i to i + 1
    numbers = np.repeat(np.arange(PICTURES), OBSERVERS * EACH)
    fixations = pysaliency.Fixations.create_without_history(
        x, y, numbers, subjects=np.concatenate(observers)
    )
    # the index as pixel value: pysaliency caches maps by the picture's content
    stimuli = pysaliency.Stimuli(
        [np.full((SIDE, SIDE, 3), index, np.uint8) for index in range(PICTURES)]
    )
    bandwidth = SIGMA_PIXELS / SIDE
    centre = CrossvalidatedBaselineModel(stimuli, fixations, bandwidth, eps=UNIFORM_SHARE)
    kernels = KDEGoldModel(stimuli, fixations, bandwidth, eps=0)
    centre_bias, gold = (
        np.concatenate(
            [
                model.log_density(stimuli[i])[tuple(points[i].astype(int).T[::-1])]
                for i in range(PICTURES)
            ]
        )
        for model in (centre, kernels)
    )
    uniform = np.full(len(centre_bias), -2 * np.log(SIDE))
    table = fixations_to_scikit_learn(fixations, add_fixation_number=True)
    folds = list(ScikitLearnImageSubjectCrossValidationGenerator(stimuli, fixations))
    left_out = [
        cross_val_score(
            GeneralMixtureKernelDensityEstimator(
                width * SIGMA_PIXELS, [c, u], np.stack([centre_bias, uniform], axis=1)
            ),
            table,
            cv=folds,
        ).sum()
        for width, c, u in SETTINGS
    ]
    return {
        "centre_bias": centre_bias.tolist(),
        "kernel_density": gold.tolist(),
        "left_out": [float(value) for value in left_out],
    }


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(theirs(), indent=1) + "\n")
    print(f"wrote {GOLDEN}")

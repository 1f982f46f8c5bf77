"""Effect of the metrics' definitions on scores: the two profiles, and maps stored in 8 bits.

    python benchmarks/measures/variants.py --data PATH/TO/osie

The maps are blurred fixations of seven observers plus a tenth of the centre bias. The truth is the
fixations of the other eight, on the first pictures of OSIE's test split.
"""

import argparse
import json
import sys
from pathlib import Path

if not __package__:  # run as a file: the program is not in this folder
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
from numpy.typing import NDArray

from salience.data.sets.osie import SIGMA_PIXELS, parse
from salience.measures.metrics import (
    METRICS,
    PROFILES,
    SHUFFLED_PICTURES,
    Profile,
    from_8bit,
    mean_scores,
    score,
)
from salience.pictures.fixations import centre_bias, density_map, other_fixations

SHAPE = (600, 800)
PICTURES = 40
OBSERVERS = 7  # observers whose fixations make the maps


class Scenes:
    """The first pictures of OSIE's test split, and the centre bias of its training split."""

    def __init__(self, root: Path) -> None:
        looks = parse(root / "data" / "eye" / "fixations.mat")
        split = json.loads((root / "split.json").read_text())
        pictures = [looks[Path(name).stem] for name in split["test"][:PICTURES]]
        self.seen = [one.fixations[np.asarray(one.subjects) < OBSERVERS] for one in pictures]
        self.truths = [one.fixations[np.asarray(one.subjects) >= OBSERVERS] for one in pictures]
        training = [(looks[Path(name).stem].fixations, SHAPE) for name in split["train"]]
        self.bias = centre_bias(training, SHAPE, SIGMA_PIXELS)

    def saliency_map(self, index: int) -> NDArray:
        """Return the map of a picture, with maximum 1."""
        blurred = 0.9 * density_map(self.seen[index], SHAPE, SIGMA_PIXELS) + 0.1 * self.bias
        return blurred / blurred.max()

    def scores(self, index: int, saliency_map: NDArray, profile: Profile) -> dict[str, float]:
        """Return all metrics of a map of a picture."""
        pictures = [(points, SHAPE) for points in self.truths]
        points = self.truths[index]
        return score(
            saliency_map,
            density_map(points, SHAPE, SIGMA_PIXELS),
            points,
            others=other_fixations(pictures, index, SHUFFLED_PICTURES[profile], index),
            baseline=self.bias,
            seed=index,
            profile=profile,
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Show the effect of the metrics' definitions.")
    parser.add_argument("--data", type=Path, required=True, help="folder of OSIE")
    scenes = Scenes(parser.parse_args().data)
    columns: dict[str, list[dict[str, float]]] = {
        name: [] for name in ("tuebingen", "mit", "8 bits as they are", "8 bits and half a step")
    }
    for index in range(PICTURES):
        in_floats = scenes.saliency_map(index)
        stored = np.round(255 * in_floats).astype(np.uint8)
        maps = (in_floats, in_floats, stored, from_8bit(stored))
        for (name, rows), values in zip(columns.items(), maps, strict=True):
            profile = "mit" if name == "mit" else "tuebingen"
            rows.append(scenes.scores(index, values, profile))
    means = {name: mean_scores(rows) for name, rows in columns.items()}
    print(f"| metric | {' | '.join(means)} | variant | variant in mit |")
    print("| --- | " + "---: | " * len(means) + "--- | --- |")
    for name, metric in METRICS.items():
        numbers = " | ".join(f"{mean[name]:.4f}" for mean in means.values())
        print(f"| {metric.name} | {numbers} | {metric.variant} | {PROFILES['mit'][name].variant} |")


if __name__ == "__main__":
    main()

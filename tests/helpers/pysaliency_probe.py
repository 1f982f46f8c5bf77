"""What pysaliency makes of files, as JSON; runs in pysaliency's environment, not in ours.

python pysaliency_probe.py rewrite FOLDER TARGET
python pysaliency_probe.py score FOLDER DENSITIES BASELINE SPLIT
python pysaliency_probe.py model FOLDER DENSITIES WEIGHTS PROJECT
"""

import json
import sys
from pathlib import Path

import numpy as np

# NumPy 2 dropped the name that pysaliency 0.2.22 writes with
setattr(np, "string_", np.bytes_)  # noqa: B010

import pysaliency  # noqa: E402
from pysaliency.datasets import create_subset, read_hdf5  # noqa: E402
from pysaliency.precomputed_models import HDF5Model  # noqa: E402
from pysaliency.saliency_map_models import DensitySaliencyMapModel  # noqa: E402


def data_of(folder, split=None):
    stimuli, fixations = (read_hdf5(f"{folder}/{name}.hdf5") for name in ("stimuli", "fixations"))
    if split:
        chosen = np.flatnonzero(np.array(stimuli.attributes["split"]) == split)
        stimuli, fixations = create_subset(stimuli, fixations, chosen)
    return stimuli, fixations


def rewrite(folder, target):
    stimuli, fixations = data_of(folder)
    Path(target).mkdir()
    stimuli.to_hdf5(f"{target}/stimuli.hdf5")
    fixations.to_hdf5(f"{target}/fixations.hdf5")
    return {
        "stimuli": type(stimuli).__name__,
        "fixations": type(fixations).__name__,
        "shapes": [list(map(int, shape)) for shape in stimuli.shapes],
        "read": [list(map(int, np.shape(stimuli.stimuli[n]))) for n in range(len(stimuli))],
        "x": fixations.x.tolist(),
        "y": fixations.y.tolist(),
        "pixels": np.stack([fixations.x_int, fixations.y_int], axis=1).tolist(),
    }


def score(folder, densities, baseline, split):
    stimuli, fixations = data_of(folder, split)
    model, base = HDF5Model(stimuli, densities), HDF5Model(stimuli, baseline)
    maps = DensitySaliencyMapModel(model)
    return {
        "pictures": len(stimuli),
        "ig": by_picture(model.information_gains(stimuli, fixations, base), fixations),
        "ll": by_picture(model.information_gains(stimuli, fixations), fixations),
        "nss": by_picture(maps.NSSs(stimuli, fixations), fixations),
        "auc": by_picture(maps.AUCs(stimuli, fixations), fixations),
    }


def by_picture(values, fixations):
    """Return the mean of the pictures' means, which average="image" needs pandas for."""
    sums, counts = (np.bincount(fixations.n, weights) for weights in (values, None))
    return float((sums[counts > 0] / counts[counts > 0]).mean())


def model(folder, densities, weights, project):
    sys.path.insert(0, project)
    from model import PysaliencyModel

    stimuli, _ = data_of(folder, "test")
    stored, own = HDF5Model(stimuli, densities), PysaliencyModel(weights)
    found = [np.abs(own.log_density(s) - stored.log_density(s)).max() for s in stimuli]
    return {"is_model": isinstance(own, pysaliency.Model), "difference": float(max(found))}


if __name__ == "__main__":
    task, *words = sys.argv[1:]
    answer = {"rewrite": rewrite, "score": score, "model": model}[task](*words)
    print(json.dumps(answer))

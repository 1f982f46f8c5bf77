"""Scores and cost of the included weights at another input size.

    python benchmarks/measures/input_size.py --data PATH/TO/osie

The network is built at each size and scored on OSIE's validation pictures. Processor time is that
of `predict` with Keras, without reading the picture; the sizes take turns for each picture.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
if not __package__:  # run as a file: the program is not in this folder
    sys.path[0] = str(HERE)

import numpy as np

from salience.system import quiet

quiet.import_keras()

from config import trained_config
from model import predict, system_module
from salience.data import loading
from salience.measures import metrics
from salience.networks import weight_files
from salience.pictures.reading import sample_density, sample_image

# the learned prior has the same shape for both
SIZES = ((288, 384), (240, 320))  # rows, columns


def main() -> None:
    """Score and print a line for each size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of OSIE")
    words = parser.parse_args()
    trained = trained_config(weight_files.SHIPPED)
    models = {}
    for rows, cols in SIZES:
        name, sized = f"{rows}x{cols}", replace(trained, rows=rows, cols=cols)
        models[name] = system_module(trained.model).build(sized)
        weight_files.load(models[name], weight_files.SHIPPED)
        predict(models[name], np.zeros((rows, cols, 3), np.uint8))  # compiles
    scores: dict[str, list[tuple[float, ...]]] = {name: [] for name in models}
    for sample in loading.load("osie", words.data, "val"):
        assert sample.fixations is not None  # all OSIE pictures have fixations
        image = sample_image(sample)
        density = sample_density(sample, image.shape[:2], sigma_pixels=None)
        for name, model in models.items():
            begun = time.process_time()
            found = predict(model, image)
            seconds = time.process_time() - begun
            cc = metrics.cc(found, density)
            scores[name].append((cc, metrics.nss(found, sample.fixations), seconds))
    print(f"{'':9}      CC     NSS  processor s a picture")
    for name, rows in scores.items():
        cc, nss, seconds = np.mean(rows, axis=0)
        print(f"{name:9} {cc:7.4f} {nss:7.4f} {seconds:10.2f}")


if __name__ == "__main__":
    main()

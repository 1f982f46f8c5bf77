"""What the weights in the box score, and cost, at another input size, and with mirrored pictures.

    python benchmarks/input_size.py --data PATH/TO/osie

The network is built at each size and scored on OSIE's validation pictures; `mirrored` is the mean
of a picture's map and of that of its mirror image, turned back. Processor seconds are those of
`predict` with Keras, reading excluded; sizes take turns, picture by picture.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
if not __package__:  # run as a file, this folder's engines.py would hide the program's
    sys.path[0] = str(HERE)

import numpy as np

import quiet

quiet.import_keras()

import architectures
import datasets
import metrics
import weight_files
from model import predict
from pictures import sample_density, sample_image

# the learned prior is of one shape for both
SIZES = {"288x384": (288, 384), "240x320": (240, 320)}


def main() -> None:
    """Score and print a line for each size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of OSIE")
    words = parser.parse_args()
    trained = weight_files.trained_config(weight_files.SHIPPED)
    models = {}
    for name, (rows, cols) in SIZES.items():
        models[name] = architectures.get(trained.model).build(
            replace(trained, rows=rows, cols=cols)
        )
        weight_files.load(models[name], weight_files.SHIPPED)
        predict(models[name], np.zeros((rows, cols, 3), np.uint8))  # compiles
    scores: dict[str, list[tuple[float, ...]]] = {
        name: [] for size in SIZES for name in (size, f"{size} mirrored")
    }
    for sample in datasets.load("osie", words.data, "val"):
        assert sample.fixations is not None  # OSIE has them
        image = sample_image(sample)
        density = sample_density(sample, image.shape[:2], sigma_pixels=None)
        for name, model in models.items():
            begun = time.process_time()
            seen = predict(model, image)
            once = time.process_time() - begun
            both = seen + predict(model, np.ascontiguousarray(image[:, ::-1]))[:, ::-1]
            for row, found, seconds in ((name, seen, once), (f"{name} mirrored", both, 2 * once)):
                cc = metrics.cc(found, density)
                scores[row].append((cc, metrics.nss(found, sample.fixations), seconds))
    print(f"{'':18}      CC     NSS  processor s a picture")
    for name, rows in scores.items():
        cc, nss, seconds = np.mean(rows, axis=0)
        print(f"{name:18} {cc:7.4f} {nss:7.4f} {seconds:10.2f}")


if __name__ == "__main__":
    main()

"""Train and predict again and again in one process, on the backend of KERAS_BACKEND.

The first argument is an empty folder, the second how often. Prints as JSON what the process had
after each time.
"""

import gc
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.leaks import look, make_data, make_pictures
from commands.prediction.predict import predict
from commands.training.train import train
from config import Config, PredictConfig
from salience.networks import weight_files


def silent(line):
    """Take a line of news."""


def main():
    """Print the looks."""
    folder, times = Path(sys.argv[1]), int(sys.argv[2])
    make_data(folder / "data")
    make_pictures(folder / "pictures", 3)
    config = Config(
        dataset=("folder",), data=(folder / "data",), rows=48, cols=64, width=0.05,
        backbone_weights="none", batch_size=2, epochs=1, loss="kld", optimizer="adam",
        workers=2, overwrite=True, output=folder / "run", weights_dir=folder / "weights",
    )  # fmt: skip
    settings = PredictConfig(
        weights_dir=folder / "weights", output=folder / "maps", overwrite=True, engine="keras"
    )
    included, looks = folder / f"included{weight_files.SUFFIX}", []
    for _ in range(times):
        run = train(config, say=silent)
        # trainings score the included network: here a tiny one, which takes a tenth of the time
        weight_files.SHIPPED = included
        shutil.copyfile(run.path("best.weights.h5"), included)
        assert predict(replace(settings, images=(str(folder / "pictures"),)), say=silent) == 0
        gc.collect()
        looks.append(look("self"))
    print(json.dumps(looks))


if __name__ == "__main__":
    main()

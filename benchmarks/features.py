"""Speed-up of an epoch by cached features of the frozen layers.

    python benchmarks/features.py --data PATH/TO/osie --backbone_weights PATH

ML-Net with a frozen VGG16 is trained as by `train` (same batches and step, no validation) on OSIE's
first training pictures with flips. The cache is filled by the same epochs before they are timed.
Both ways take turns, one epoch each. A matrix product is timed between them, since the speed of the
host varies. The table shows medians of wall time and processor time. Then the size of the cache and
the time of reading it are printed.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

if not __package__:  # run as a file: the program is not in this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from salience.system.quiet import import_keras

import_keras()

import keras
import numpy as np

from commands.training import backends, feature_cache, objective, train
from config import Config
from model import grid_of, system_module
from salience.data.feature_store import pack, unpack

PLACES = ("on disk", "and in memory")


def timed(work) -> tuple[float, float]:
    """Return the wall time and the processor time of a function, seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


class Way:
    """A network compiled for training, on pictures or on cached features.

    Args:
        config: settings of the training.
        pictures: number of pictures.
        in_memory: whether cached features are also kept in memory.
    """

    def __init__(self, config: Config, pictures: int, in_memory: bool = False) -> None:
        backends.make_deterministic(config.seed)
        model = system_module(config.model).build(config)
        train.load_start(model, config, say=print)
        grid = grid_of(model)
        self.batches = train.batches(config, "train", grid)
        self.batches.samples = self.batches.samples[:pictures]
        self.batches.sizes = self.batches.counts = [len(self.batches.samples)]
        validation = train.batches(config, "val", grid)
        validation.samples = []
        kept = feature_cache.attach(model, self.batches, validation, config)
        self.fitted = kept.fitted
        print(kept.message or "feature cache: off")
        if self.batches.features:
            self.batches.features.store.in_memory = in_memory  # type: ignore[attr-defined]
        objective.set_up(self.fitted, config, len(self.batches))
        self.losses: list[float] = []

    def epoch(self, number: int) -> None:
        """Train for an epoch."""
        self.batches.epoch = number
        done = self.fitted.fit(self.batches, epochs=1, shuffle=False, verbose=0)
        self.losses += done.history["loss"]


def product() -> float:
    """Return the GFLOP of a matrix product per second of processor time."""
    a = keras.ops.ones((1500, 1500))

    def work() -> None:
        for _ in range(5):
            keras.ops.convert_to_numpy(keras.ops.matmul(a, a))

    return 5 * 2 * 1500**3 / timed(work)[1] / 1e9


def entry(features: np.ndarray) -> dict[str, float]:
    """Return the time of packing and unpacking a picture's features, and their sizes."""
    data, place = pack([features]), np.empty_like(features)
    repeats = 20
    packing = timed(lambda: [pack([features]) for _ in range(repeats)])[1] / repeats
    unpacking = timed(lambda: [unpack(data, [place]) for _ in range(repeats)])[1] / repeats
    return {
        "dense MB": features.nbytes / 1e6,
        "kept MB": len(data) / 1e6,
        "zeros": float((features == 0).mean()),
        "largest": float(np.abs(features.astype(np.float32)).max()),
        "ms to write": 1e3 * packing,
        "ms to read": 1e3 * unpacking,
    }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Time an epoch with and without cached features.")
    parser.add_argument("--data", type=Path, required=True, help="folder of OSIE")
    parser.add_argument("--backbone_weights", help="VGG16's ImageNet weights")
    parser.add_argument("--rows", type=int, default=240)
    parser.add_argument("--cols", type=int, default=320)
    parser.add_argument(
        "--pictures", type=int, default=60, help="pictures of OSIE's training split"
    )
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each way")
    parser.add_argument("--precisions", nargs="+", default=["float16", "float32"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["SALIENCY_CACHE"] = scratch
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """Time both ways in turn."""
    config = {
        "data": (arguments.data,),
        "backbone_weights": arguments.backbone_weights,
        "rows": arguments.rows,
        "cols": arguments.cols,
        "flip": True,
    }
    ways = {"pictures": Way(Config(feature_cache="off", **config), arguments.pictures)}
    for precision in arguments.precisions:
        for place in PLACES:
            ways[f"{precision}, {place}"] = Way(
                Config(feature_cache="on", feature_precision=precision, **config),
                arguments.pictures,
                in_memory=place == PLACES[1],
            )
    filling = {
        name: sum(timed(lambda way=way, n=n: way.epoch(n))[1] for n in range(arguments.epochs))
        for name, way in ways.items()
        if name != "pictures"
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    ways["pictures"].epoch(0)  # compile before timing; the others are compiled already
    speeds = []
    for number in range(arguments.epochs):
        for name, way in ways.items():
            speeds.append(product())
            times[name].append(timed(lambda way=way, number=number: way.epoch(number)))
    count = arguments.pictures
    medians = {n: [median(v) for v in zip(*t, strict=True)] for n, t in times.items()}
    print(
        f"\n{keras.backend.backend()}, {arguments.rows}x{arguments.cols}, batch 10, {count} "
        f"pictures; a matrix product between: {min(speeds):.0f} to {max(speeds):.0f} GFLOP a "
        "processor second\n"
    )
    print("| features | images/s | processor ms an image | times faster, wall | processor | loss |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, (wall, processor) in medians.items():
        faster = [a / b for a, b in zip(medians["pictures"], (wall, processor), strict=True)]
        print(
            f"| {'none kept' if name == 'pictures' else name} | {count / wall:.2f} | "
            f"{1e3 * processor / count:.1f} | {faster[0]:.1f} | {faster[1]:.1f} | "
            f"{ways[name].losses[0]:.5f} |"
        )
    print()
    for name in arguments.precisions:
        batches = ways[f"{name}, {PLACES[0]}"].batches
        folder = batches.features.store.shelf.folder  # type: ignore[union-attr]
        filled = filling[f"{name}, {PLACES[0]}"]
        kept = [path.stat().st_size for path in folder.rglob("*.features")]
        about = ", ".join(f"{k} {v:.4g}" for k, v in entry(batches[0][0][0]).items())
        print(
            f"{name}: {len(kept)} entries, {sum(kept) / len(kept) / 1e6:.3g} MB each; of one: "
            f"{about}; the {arguments.epochs} epochs that filled it took "
            f"{1e3 * filled / count / arguments.epochs:.0f} processor ms an image"
        )


if __name__ == "__main__":
    main()

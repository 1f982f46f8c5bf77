"""How fast pictures and truth are fed: decoded each epoch, or from a store of `data prepare`.

    python benchmarks/feed.py --data ../shared/data/osie

Batches alone are made, without a network, of OSIE's training split, shuffled and flipped as in
training. Both ways take turns in one process, an epoch each; the truth of the first way is in the
cache before it is timed. Shown is the median over the epochs, in wall and in processor time.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

if not __package__:  # run as a file, this folder's metrics.py would hide the program's
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

import datasets
from cache import ArrayCache
from config import PrepareConfig
from prepare import prepare
from utilities import OutputGrid, SaliencyBatches

SIZES = ((240, 320), (480, 640))


def epoch(batches: SaliencyBatches, number: int) -> tuple[float, float]:
    """Return the wall and the processor seconds of an epoch."""
    batches.epoch = number
    wall, processor = time.perf_counter(), time.process_time()
    for index in range(len(batches)):
        batches[index]
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Time the feeding of pictures and truth.")
    parser.add_argument("--data", type=Path, required=True, help="folder of OSIE")
    parser.add_argument("--epochs", type=int, default=5, help="of each way")
    arguments = parser.parse_args()
    print("| size | feed | images/s | ms of processor an image | times faster, wall | processor |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for rows, cols in SIZES:
        with tempfile.TemporaryDirectory() as scratch:
            stored = Path(scratch, "store")
            prepare(
                PrepareConfig(data=(arguments.data,), rows=rows, cols=cols, output=stored),
                say=lambda line: None,
            )
            cache = ArrayCache(Path(scratch, "cache"))
            feeds = {
                name: SaliencyBatches(
                    datasets.load("osie", root, "train"),
                    (rows, cols),
                    10,
                    grid=OutputGrid(),
                    shuffle=True,
                    flip=True,
                    cache=cache,
                )
                for name, root in (("originals", arguments.data), ("store", stored))
            }
            for first, second in zip(feeds["originals"], feeds["store"], strict=True):
                for a, b in zip(first, second, strict=True):
                    np.testing.assert_array_equal(a, b)
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in feeds}
            for number in range(arguments.epochs):
                for name, batches in feeds.items():
                    times[name].append(epoch(batches, number))
        medians = {n: [median(v) for v in zip(*t, strict=True)] for n, t in times.items()}
        for name, (wall, processor) in medians.items():
            count = feeds[name].count
            faster = [a / b for a, b in zip(medians["originals"], (wall, processor), strict=True)]
            print(
                f"| {rows}x{cols} | {name} | {count / wall:.0f} | {1e3 * processor / count:.2f} | "
                f"{faster[0]:.1f} | {faster[1]:.1f} |"
            )


if __name__ == "__main__":
    main()

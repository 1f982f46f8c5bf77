"""Speed of feeding pictures and truth: decoded in each epoch, or from a store of `data prepare`.

    python benchmarks/feed.py --data PATH/TO/osie

Batches of OSIE's training split are made without a network, shuffled and flipped as in training.
Both ways take turns in one process, one epoch each; the truth of the first way is cached before it
is timed. The table shows the median over the epochs, in wall time and in processor time.

Then large JPEGs, tiled from the same pictures, are read into 240x320: decoded in full, and decoded
at a reduced size, as the generators do (1 if a reduction would be too coarse). The table shows the
processor time of both, and the difference of the two inputs in grey levels.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

if not __package__:  # run as a file: the program is not in this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import cv2
import numpy as np

from commands.curation.prepare import prepare
from commands.settings import PrepareConfig
from salience.data import loading
from salience.pictures.letterbox import OutputGrid, preprocess
from salience.pictures.network_inputs import network_input
from salience.pictures.picture_files import read_image
from salience.pictures.reading import sample_image
from salience.pictures.sample import Sample
from salience.system.cache import Cache
from utilities import SaliencyBatches

SIZES = ((240, 320), (480, 640))
JPEGS = ((800, 600), (1280, 960), (1600, 1200), (1920, 1080), (4000, 3000))  # columns and rows
JPEG_PICTURES = 10


def epoch(batches: SaliencyBatches, number: int) -> tuple[float, float]:
    """Return the wall time and the processor time of an epoch, seconds."""
    batches.epoch = number
    wall, processor = time.perf_counter(), time.process_time()
    for index in range(len(batches)):
        batches[index]
    return time.perf_counter() - wall, time.process_time() - processor


def reduced(pictures: list[Path], rounds: int) -> None:
    """Print the speed-up of decoding JPEGs at a reduced size, and the difference of the inputs."""
    print("\n| JPEG | decoded at 1/ | full, ms | so, ms | times faster | mean difference | worst |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for cols, rows in JPEGS:
        with tempfile.TemporaryDirectory() as scratch:
            samples = []
            for picture in pictures:
                image = read_image(picture)
                tiles = np.tile(image, (-(-rows // len(image)), -(-cols // image.shape[1]), 1))
                cv2.imwrite(str(path := Path(scratch, picture.name)), tiles[:rows, :cols])
                samples.append(Sample(picture.name, path))
            times, off = [], []
            for _ in range(rounds):
                for sample in samples:
                    start = time.process_time()
                    x, box = preprocess(sample_image(sample), SIZES[0])
                    middle = time.process_time()
                    smaller, box = network_input(sample, SIZES[0])
                    times.append((middle - start, time.process_time() - middle))
                    off.append(np.abs(x.astype(int) - smaller).mean())
        full, so = (1e3 * median(t[i] for t in times) for i in range(2))
        faster = median(a / b for a, b in times)
        print(
            f"| {cols}x{rows} | {box.reduction} | {full:.1f} | {so:.1f} | {faster:.1f} | "
            f"{np.mean(off):.2f} | {max(off):.2f} |",
            flush=True,
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Time the feeding of pictures and truth.")
    parser.add_argument("--data", type=Path, required=True, help="folder of OSIE")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of each way")
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
            cache = Cache(Path(scratch, "cache"))
            feeds = {
                name: SaliencyBatches(
                    loading.load("osie", root, "train"),
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
    samples = loading.load("osie", arguments.data, "train")[:JPEG_PICTURES]
    reduced([Path(str(sample.image)) for sample in samples], arguments.epochs)


if __name__ == "__main__":
    main()

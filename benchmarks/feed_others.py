"""Our feed compared with tf.data and PyTorch: the same arrays from the same files.

    python benchmarks/feed_others.py --data PATH/TO/osie

OSIE's JPEGs of 800x600 become batches of ten at 480x640, with their truth from .npy files: by
`SaliencyBatches` in threads, by tf.data (own decoder, resizing with padding), and by PyTorch's
DataLoader, whose processes use OpenCV as our threads do. The feeds take turns, one epoch each, with
one worker and with more. The table shows medians over the rounds, and of the ratios of consecutive
epochs; processor time includes PyTorch's processes. Then ML-Net's step with a frozen backbone is
timed, which a feed must keep busy. Linux only (/proc); without PyTorch, its row is omitted.
"""

import argparse
import importlib.util
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import cv2
import numpy as np

SIZE = (480, 640)
BATCH = 10
NPY_HEADER = 128  # size of the header of the truth's files, bytes


@dataclass(frozen=True)
class Files:
    """The pictures and their truth as a data set for PyTorch's DataLoader."""

    pairs: list[tuple[Path, Path]]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        picture, truth = self.pairs[index]
        image = np.asarray(cv2.imdecode(np.fromfile(picture, np.uint8), cv2.IMREAD_COLOR))
        scale = min(SIZE[0] / image.shape[0], SIZE[1] / image.shape[1])
        rows, cols = round(image.shape[0] * scale), round(image.shape[1] * scale)
        top, left = (SIZE[0] - rows) // 2, (SIZE[1] - cols) // 2
        placed = np.zeros((*SIZE, 3), np.uint8)
        placed[top : top + rows, left : left + cols] = cv2.resize(
            image, (cols, rows), interpolation=cv2.INTER_AREA
        )
        return placed, np.load(truth, allow_pickle=False)


def one_thread(worker: int) -> None:
    """Keep OpenCV from starting threads in each of several processes."""
    cv2.setNumThreads(1)


def processor_seconds() -> float:
    """Return the processor time of this process and of its living children."""
    ticks = os.sysconf("SC_CLK_TCK")
    total = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def epoch(feed: Callable[[], Iterator[Any]]) -> tuple[float, float]:
    """Return the wall and processor seconds of an epoch."""
    wall, processor = time.perf_counter(), processor_seconds()
    for _ in feed():
        pass
    return time.perf_counter() - wall, processor_seconds() - processor


def ours(batches: Any, workers: int) -> Callable[[], Iterator[Any]]:
    """Return a function that yields an epoch of our batches, made in threads as by Keras."""

    def feed() -> Iterator[Any]:
        with ThreadPoolExecutor(workers) as pool:
            yield from pool.map(batches.__getitem__, range(len(batches)))

    return feed


def of_tensorflow(pairs: list[tuple[Path, Path]], workers: int) -> Callable[[], Iterator[Any]]:
    """Return a function that yields an epoch of tf.data."""
    import tensorflow as tf

    grid = (SIZE[0] // 8, SIZE[1] // 8, 2)

    def read(picture: Any, truth: Any) -> tuple[Any, Any]:
        image = tf.io.decode_jpeg(
            tf.io.read_file(picture), channels=3, dct_method="INTEGER_ACCURATE"
        )
        placed = tf.image.resize_with_pad(image, *SIZE, method=tf.image.ResizeMethod.AREA)
        values = tf.io.decode_raw(
            tf.strings.substr(tf.io.read_file(truth), NPY_HEADER, -1), "float32"
        )
        return tf.cast(tf.round(placed), tf.uint8)[..., ::-1], tf.reshape(values, grid)

    paths = tuple([str(pair[i]) for pair in pairs] for i in range(2))
    made = tf.data.Dataset.from_tensor_slices(paths).map(read, num_parallel_calls=workers)
    options = tf.data.Options()
    options.threading.private_threadpool_size = workers
    made = made.batch(BATCH).prefetch(4).with_options(options)
    return lambda: iter(made.as_numpy_iterator())


def of_torch(pairs: list[tuple[Path, Path]], workers: int) -> Callable[[], Iterator[Any]]:
    """Return a function that yields an epoch of PyTorch's DataLoader with persistent workers."""
    from torch.utils.data import DataLoader  # pyright: ignore[reportMissingImports]

    loader = DataLoader(
        Files(pairs),  # type: ignore[arg-type]
        batch_size=BATCH,
        num_workers=workers,
        worker_init_fn=one_thread,
        persistent_workers=True,
        # the threads of OpenCV and TensorFlow do not survive a fork
        multiprocessing_context="spawn",
    )
    return lambda: iter(loader)


def device_rate(batch: int, steps: int) -> float:
    """Return the images/s of ML-Net's training step with a frozen backbone."""
    from commands.training.objective import set_up
    from config import resolve
    from model import system_module

    config = resolve({"model": "mlnet", "freeze_backbone": True, "backbone_weights": "none"})
    model = system_module(config.model).build(config)
    set_up(model, config, steps)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (batch, *SIZE, 3), dtype=np.uint8)
    y = rng.random((batch, SIZE[0] // 8, SIZE[1] // 8, 2), dtype=np.float32)
    model.train_on_batch(x, y)  # compiles
    started = time.perf_counter()
    for _ in range(steps):
        model.train_on_batch(x, y)
    return batch * steps / (time.perf_counter() - started)


def main() -> None:
    """Print the table, and the feed over the device."""
    parser = argparse.ArgumentParser(description="Time our feed and others.")
    parser.add_argument("--data", type=Path, required=True, help="folder of OSIE")
    parser.add_argument("--pictures", type=int, default=100, help="pictures per epoch")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each feed")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, os.cpu_count() or 2])
    parser.add_argument("--step_batch", type=int, default=BATCH, help="pictures per training step")
    parser.add_argument("--steps", type=int, default=2, help="training steps that are timed")
    arguments = parser.parse_args()

    from salience.system.quiet import import_keras

    import_keras()
    from salience.data import loading
    from salience.system.cache import Cache
    from utilities import SaliencyBatches

    cv2.setNumThreads(1)  # one thread per worker for all feeds
    samples = loading.load("osie", arguments.data, "train")[: arguments.pictures]
    torch = importlib.util.find_spec("torch") is not None
    best = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        cache = Cache(Path(scratch))
        batches = SaliencyBatches(samples, SIZE, BATCH, cache=cache)
        expected = [batches[i] for i in range(len(batches))]
        pairs = []
        for index, sample in enumerate(samples):
            truth = Path(scratch, f"{index}.npy")
            np.save(truth, expected[index // BATCH][1][index % BATCH])
            pairs.append((Path(str(sample.image)), truth))
        print("| workers | feed | images/s | ms of processor an image | wall | processor |")
        print("| ---: | --- | ---: | ---: | ---: | ---: |", flush=True)
        for workers in arguments.workers:
            feeds = {"ours": ours(batches, workers), "tf.data": of_tensorflow(pairs, workers)}
            if torch:
                feeds["PyTorch's DataLoader"] = of_torch(pairs, workers)
            for name, feed in feeds.items():  # warm-up epoch; checks that all feeds give the same
                worst = max(
                    np.abs(np.asarray(x, int) - a).mean() + 1e3 * np.abs(np.asarray(y) - b).max()
                    for (x, y), (a, b) in zip(feed(), expected, strict=True)
                )
                if worst > (1.0 if name == "tf.data" else 0.0):
                    raise SystemExit(f"{name} makes different batches: {worst:.2f} grey levels off")
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in feeds}
            for _ in range(arguments.rounds):
                for name, feed in feeds.items():
                    times[name].append(epoch(feed))
            for name, rounds in times.items():
                wall, processor = (median(r[i] for r in rounds) for i in range(2))
                ratios = [
                    median(r[i] / o[i] for r, o in zip(rounds, times["ours"], strict=True))
                    for i in range(2)
                ]
                rate = len(samples) / wall
                best = max(best, rate if name == "ours" else 0)
                print(
                    f"| {workers} | {name} | {rate:.0f} | {1e3 * processor / len(samples):.2f} | "
                    f"{ratios[0]:.2f} | {ratios[1]:.2f} |",
                    flush=True,
                )
            del feeds, feed  # ends PyTorch's processes
    print("\nwall, processor: times our feed's")
    device = device_rate(arguments.step_batch, arguments.steps)
    print(
        f"frozen step, batch {arguments.step_batch}: {device:.2f} images/s; "
        f"our feed gives {best / device:.0f} times as many"
    )


if __name__ == "__main__":
    main()

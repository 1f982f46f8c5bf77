"""Memory of `test` for large collections: listing and predicting pictures.

    python benchmarks/big_collection.py

First, a list of a million paths is gathered, whole and as one of eight shards, in a process each;
no picture is opened. The table shows the time and the additional memory per path, at its peak and
afterwards. Then a tiny network predicts 100,000 pictures of 32x24 (ten files under many names), and
the memory of the process is printed. Linux only, as memory is read from /proc.
"""

import argparse
import contextlib
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from commands.prediction.inputs import Collection
from config import Config, PredictConfig

FOLDER = 1000  # pictures per folder
FILES = 10  # a file can have at most about 65,000 hard links


def memory_kb(what: str) -> int:
    """Return the memory of the process, KiB: VmRSS for the current, VmHWM for the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1])
    raise SystemExit(f"/proc/self/status has no {what}")


def name(index: int) -> str:
    """Return a typical path of a data set."""
    return f"collection/train/{index // FOLDER:05d}/COCO_train2014_{index:012d}.jpg"


def gather(listed: Path, shard: str) -> None:
    """Gather a list and print its time and memory."""
    before, started = memory_kb("VmRSS"), time.perf_counter()
    with Collection([], PredictConfig(listed=listed, shard=shard)) as jobs:
        seconds, peak = time.perf_counter() - started, memory_kb("VmHWM") - before
        after = memory_kb("VmRSS") - before
        paths = listed.read_bytes().count(b"\n")
        total = sum(1 for _ in jobs)
        drawn = time.perf_counter() - started - seconds
    print(
        f"| {paths:,} | {shard} | {total:,} | {seconds:.1f} | {drawn:.1f} | "
        f"{1024 * peak / paths:.0f} | {1024 * after / paths:.0f} |",
        flush=True,
    )


def list_many(scratch: Path, paths: int) -> None:
    """Print the time and memory of listing, with a process per row."""
    listed = scratch / "list.txt"
    with listed.open("w") as file:
        file.writelines(f"{name(i)}\n" for i in range(paths))
    print(
        "| paths | part | pictures in it | s to gather | s to name | bytes a path, peak | after |"
    )
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for shard in ("1/1", "1/8"):
        subprocess.run([sys.executable, __file__, "--gather", str(listed), shard], check=True)


def make_pictures(folder: Path, count: int) -> None:
    """Fill a folder with small JPEGs, each under many names."""
    import cv2

    rng = np.random.default_rng(0)
    for index in range(FILES):
        noise = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{index}.jpg"), cv2.GaussianBlur(noise, (0, 0), 3))
    for index in range(count):
        path = folder / name(index)
        if index % FOLDER == 0:
            path.parent.mkdir(parents=True)
        path.hardlink_to(folder / f"{index % FILES}.jpg")


def tiny_weights(scratch: Path) -> Path:
    """Train a tiny network and return its weights file."""
    from commands.training.train import train

    config = Config(
        dataset=("synthetic",), rows=24, cols=32, width=0.02, backbone_weights="none", epochs=1,
        loss="kld", optimizer="adam", output=scratch / "run", weights_dir=scratch / "weights",
    )  # fmt: skip
    return train(config, say=lambda line: None).path("best.weights.h5")


def predict_many(scratch: Path, count: int, batch_size: int) -> None:
    """Print the memory while a tiny network predicts many small pictures."""
    from commands.prediction import predict

    weights = tiny_weights(scratch)
    make_pictures(scratch, count)
    marks = [max(1, count * share // 100) for share in (1, 10, 25, 50, 75, 100)]
    print("\n| pictures done | memory, MiB | images/s |\n| ---: | ---: | ---: |")

    def print_row(line: str) -> None:
        """Print a row after each of `marks`."""
        words = line.split()
        if words[1:2] == ["of"] and int(words[0]) >= marks[0]:
            marks.pop(0)
            print(
                f"| {int(words[0]):,} | {memory_kb('VmRSS') / 1024:.0f} | {words[-2]} |", flush=True
            )

    predict.REPORT_SECONDS = 0.0  # a message per batch
    settings = PredictConfig(
        images=(str(scratch / "collection"),),
        weights=weights,
        output=scratch / "maps",
        recursive=True,
        batch_size=batch_size,
    )
    started = time.perf_counter()
    # without a terminal there is no progress bar, but messages
    with contextlib.redirect_stderr(io.StringIO()):
        failed = predict.predict(settings, print_row)
    first = time.perf_counter() - started
    started = time.perf_counter()
    predict.predict(settings, lambda line: None)
    again = time.perf_counter() - started
    print(
        f"\n{count:,} pictures in {first:.0f} s, {failed} failed; a second run, for which "
        f"all maps exist, takes {again:.1f} s."
    )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="Measure the memory of large collections.")
    parser.add_argument("--paths", type=int, default=1_000_000, help="paths in the list")
    parser.add_argument("--pictures", type=int, default=100_000, help="pictures to predict")
    parser.add_argument("--batch_size", type=int, default=32, help="pictures per batch")
    parser.add_argument("--gather", nargs=2, metavar=("LIST", "I/N"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.gather:
        gather(Path(arguments.gather[0]), arguments.gather[1])
        return
    with tempfile.TemporaryDirectory() as scratch:
        list_many(Path(scratch), arguments.paths)
        from salience.system.quiet import import_keras

        import_keras()
        predict_many(Path(scratch), arguments.pictures, arguments.batch_size)


if __name__ == "__main__":
    main()

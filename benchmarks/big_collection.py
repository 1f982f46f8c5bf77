"""What `test` costs in memory as the pictures grow in number: to list them, and to predict them.

    python benchmarks/big_collection.py

First a list of a million paths is gathered, whole and as one part of eight, in a process each; no
picture is opened. Shown are the time, and the memory that it added, at its peak and afterwards, a
path. Then a tiny network predicts 100,000 pictures of 32x24 (ten files under many names), and the
process's memory is shown as it goes. Linux only: memory is read from /proc.
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

FOLDER = 1000  # pictures in one
FILES = 10  # one file takes some 65,000 names at the most


def memory_kb(what: str) -> int:
    """Return the process's memory: VmRSS is what it has, VmHWM the most that it had."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1])
    raise SystemExit(f"/proc/self/status has no {what}")


def name(index: int) -> str:
    """Return a path as data sets have them."""
    return f"collection/train/{index // FOLDER:05d}/COCO_train2014_{index:012d}.jpg"


def gather(listed: Path, shard: str) -> None:
    """Gather a list and print what that took."""
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
    """Print what listing takes, a process a row."""
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
    """Train a tiny network and return its weights."""
    from commands.training.train import train

    config = Config(
        dataset=("synthetic",), rows=24, cols=32, width=0.02, backbone_weights="none", epochs=1,
        loss="kld", optimizer="adam", output=scratch / "run", weights_dir=scratch / "weights",
    )  # fmt: skip
    return train(config, say=lambda line: None).path("best.weights.h5")


def predict_many(scratch: Path, count: int, batch_size: int) -> None:
    """Print the memory as a tiny network predicts many small pictures."""
    from commands.prediction import predict

    weights = tiny_weights(scratch)
    make_pictures(scratch, count)
    marks = [max(1, count * share // 100) for share in (1, 10, 25, 50, 75, 100)]
    print("\n| pictures done | memory, MiB | images/s |\n| ---: | ---: | ---: |")

    def heard(line: str) -> None:
        """Print a row where the next mark is passed."""
        words = line.split()
        if words[1:2] == ["of"] and int(words[0]) >= marks[0]:
            marks.pop(0)
            print(
                f"| {int(words[0]):,} | {memory_kb('VmRSS') / 1024:.0f} | {words[-2]} |", flush=True
            )

    predict.REPORT_SECONDS = 0.0  # a line a batch
    asked = PredictConfig(
        images=(str(scratch / "collection"),),
        weights=weights,
        output=scratch / "maps",
        recursive=True,
        batch_size=batch_size,
    )
    started = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):  # where there is a bar, there are no lines
        failed = predict.predict(asked, heard)
    first = time.perf_counter() - started
    started = time.perf_counter()
    predict.predict(asked, lambda line: None)
    again = time.perf_counter() - started
    print(
        f"\n{count:,} pictures in {first:.0f} s, {failed} failed; a second run, which finds all "
        f"maps there, takes {again:.1f} s."
    )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="Measure the memory of large collections.")
    parser.add_argument("--paths", type=int, default=1_000_000, help="in the list")
    parser.add_argument("--pictures", type=int, default=100_000, help="to predict")
    parser.add_argument("--batch_size", type=int, default=32, help="pictures a step")
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

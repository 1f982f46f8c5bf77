"""Resource leaks of long runs: memory, open files, threads, child processes.

    python benchmarks/leaks.py                      (500 epochs, then 20,000 pictures)
    python benchmarks/leaks.py --epochs 0 --pictures 100000

The command line runs on tiny pictures with a tiny network, and its process is sampled from outside
until it ends. Lines are fitted to the memory after the first quarter, in which libraries still
allocate. `tests/whole/test_leaks.py` does the same for shorter runs. Linux only, as it reads /proc.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parent.parent
if not __package__:  # run as a file: the program is not in this folder
    sys.path[0] = str(PROJECT)

import cv2
import numpy as np

SECONDS = 0.25  # between two samples
WARM_UP = 0.25  # share of a run
PARTS = 5  # of what comes after
FILES = 10  # different pictures; all others are links to them
TINY = ("--rows", "48", "--cols", "64", "--width", "0.05", "--backbone_weights", "none",
        "--batch_size", "2", "--loss", "kld", "--optimizer", "adam", "--patience", "100000",
        "--workers", "1")  # fmt: skip


class Look(NamedTuple):
    """A sample of a process's resources.

    Attributes:
        done: finished epochs or pictures.
        memory: resident memory, MiB.
        files: number of open descriptors.
        threads: number of threads.
        children: number of child processes that have not been waited for.
    """

    done: int
    memory: float
    files: int
    threads: int
    children: int


def look(pid: int | str, done: int = 0) -> Look:
    """Return a sample of a process's resources.

    Raises:
        OSError: the process has ended.
    """
    process = Path("/proc", str(pid))
    fields = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    if "VmRSS" not in fields:
        raise ProcessLookupError(f"process {pid} has ended")
    tasks = list((process / "task").iterdir())
    return Look(
        done,
        int(fields["VmRSS"].split()[0]) / 1024,
        len(list((process / "fd").iterdir())),
        len(tasks),
        sum(len((task / "children").read_text().split()) for task in tasks),
    )


def watched(words: list[str], folder: Path, done: Callable[[], int], **more: str) -> list[Look]:
    """Run a command of main.py and return samples of its process.

    Args:
        words: the command.
        folder: the working folder.
        done: returns the number of finished epochs or pictures.
        more: environment variables.

    Raises:
        SystemExit: the command failed.
    """
    looks: list[Look] = []
    with (folder / "said.txt").open("w+") as said:
        command = [sys.executable, str(PROJECT / "main.py"), *words]
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **more}, stdout=said, stderr=said
        )
        while process.poll() is None:
            with suppress(OSError):  # the process or one of its threads has just ended
                looks.append(look(process.pid, done()))
            time.sleep(SECONDS)
        if process.wait():
            said.seek(0)
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {said.read()}")
    return looks


def at_work(looks: list[Look]) -> list[Look]:
    """Return the samples after the warm-up and before the end."""
    last = looks[-1].done
    return [one for one in looks if WARM_UP * last <= one.done < last]


def slope(looks: list[Look]) -> float:
    """Return the growth of the memory after the warm-up, KiB per epoch or picture.

    The median of the growth in five parts of the run: a leak grows in all of them. Objects that the
    garbage collector frees late, such as figures, add some MiB in one or two.
    """
    done, memory = np.array([(one.done, one.memory) for one in at_work(looks)]).T
    ends = np.linspace(done[0], done[-1], PARTS + 1)
    parts = [(start <= done) & (done <= end) for start, end in pairwise(ends)]
    return float(1024 * np.median([np.polyfit(done[part], memory[part], 1)[0] for part in parts]))


def make_pictures(folder: Path, count: int) -> None:
    """Fill a folder with small grey pictures, which can also be used as maps."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for index in range(count):
        path = folder / f"{index:06d}.png"
        if index < FILES:
            noise = rng.integers(0, 256, (24, 32), dtype=np.uint8)
            cv2.imwrite(str(path), cv2.GaussianBlur(noise, (0, 0), 3))
        else:
            path.hardlink_to(folder / f"{index % FILES:06d}.png")


def make_data(folder: Path) -> None:
    """Make a data set of four training pictures and two validation pictures."""
    for split, count in (("train", 4), ("val", 2)):
        make_pictures(folder / split / "images", count)
        make_pictures(folder / split / "maps", count)


def train(folder: Path, epochs: int, **more: str) -> list[Look]:
    """Train in an empty folder; return samples of the process."""
    make_data(folder / "data")
    history = folder / "run" / "history.csv"

    def done() -> int:
        return history.read_text().count("\n") - 1 if history.exists() else 0

    words = ["train", "--dataset", "folder", "--data", "data", *TINY, "--epochs", str(epochs),
             "--output", "run", "--weights_dir", "weights"]  # fmt: skip
    return watched(words, folder, done, **more)


def predict(folder: Path, pictures: int, engine: str = "auto") -> list[Look]:
    """Predict in a folder that `train` has used; return samples of the process."""
    make_pictures(folder / "pictures", pictures)
    maps = folder / "predictions"

    def done() -> int:
        return sum(1 for _ in maps.iterdir()) if maps.exists() else 0

    words = ["test", "pictures", "--weights_dir", "weights", "--engine", engine]
    return watched(words, folder, done)


def show(title: str, looks: list[Look]) -> None:
    """Print the table of a run."""
    print(f"\n| {title} | memory, MiB | open files | threads | children |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    last = looks[-1].done
    for share in (0.1, 0.25, 0.5, 0.75, 0.95):
        one = next(one for one in looks if one.done >= share * last)
        print(f"| {one.done:,} | {one.memory:.0f} | {one.files} | {one.threads} | {one.children} |")
    print(f"\nthe memory grows by {slope(looks):.3f} KiB each", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="Look for resource leaks of long runs.")
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--engine", default="auto", help="of `test`")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        looks = train(Path(scratch), options.epochs or 1)
        if options.epochs:
            show("epochs", looks)
        if options.pictures:
            show("pictures", predict(Path(scratch), options.pictures, options.engine))


if __name__ == "__main__":
    main()

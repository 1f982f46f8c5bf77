"""Time and scores of `evaluate`, of this checkout and of another one.

    python benchmarks/measures/evaluate.py --main PATH/TO/ANOTHER/CHECKOUT --data PATH/TO/osie

Both compute the truth of the same pictures and score each row on them, in turn, on one thread. The
table shows processor time a picture, the median over the rounds. A first evaluation needs all
parts. With other weights, the rows that are kept cost nothing: the humans' before, all but that of
the map now. The network is not in it.

    python benchmarks/measures/evaluate.py --commands ... (as above)

runs the whole command instead. Both score the same weights on a split of OSIE, in turn, each with a
cache of its own that is empty at first, and then other weights: the same ones in a file with
another card. So the first evaluation contains what is computed once a data set, and the making of
the network's copy. Wall time, and processor time of all processes, are from the start of the
command to its end. The scores of all pictures are compared. `--engine NAME` adds a third side, this
checkout with that engine.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median

HERE = Path(__file__).resolve().parents[2]
PARTS = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import cv2
import numpy as np
from salience.data import loading
from salience.measures.references import TruthSplit, references

cv2.setNumThreads(1)
data, split, metrics, count = sys.argv[2:]
samples = loading.load("osie", Path(data), split)
truths = TruthSplit(samples[: int(count) + 4], tuple(metrics.split(",")), workers=1)
rows = references(truths)
saliency_map = cv2.resize(np.random.default_rng(0).random((60, 80), np.float32), (800, 600))
truths.truth(0)
times, found = {}, []

def timed(name, function):
    start = time.process_time()
    made = [function(i) for i in range(int(count))]
    times[name] = 1000 * (time.process_time() - start) / int(count)
    return made

made = timed("truth", truths.truth)
found.append(timed("map", lambda i: made[i].score(saliency_map)))
for name, score in rows.items():
    found.append(timed(name, lambda i: score(made[i])))
values = [value for row in found for scores in row for value in scores.values()]
print(json.dumps([times, values]))
"""
OTHER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from salience.networks import weight_files
weight_files.amend(Path(sys.argv[2]), {"copy": "of the benchmark"})
"""


def timed(checkout: Path, words: list[str], cache: Path) -> tuple[float, float]:
    """Run a command of a checkout; return its wall time and its processor time, seconds."""
    environment = {**os.environ, "SALIENCY_CACHE": str(cache)}
    before, start = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, str(checkout / "main.py"), *words]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, getrusage(RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare_parts(given: argparse.Namespace, checkouts: dict[str, Path]) -> None:
    """Print the processor time of each part of scoring, and the sums over those that are needed."""
    times: dict[str, list[dict[str, float]]] = {side: [] for side in checkouts}
    found: dict[str, list[float]] = {}
    for _ in range(given.rounds):
        for side, checkout in checkouts.items():
            words = [str(checkout), str(given.data), given.split, given.metrics,
                     str(given.pictures)]  # fmt: skip
            done = subprocess.run([sys.executable, "-c", PARTS, *words], check=True, text=True,
                                  env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                                  capture_output=True)  # fmt: skip
            took, found[side] = json.loads(done.stdout)
            kept = [name for name in took if name.startswith("humans")]
            kept += ["centre bias", "uniform"] if side == "now" else []
            took["first evaluation"] = sum(took.values())
            took["with other weights"] = took["first evaluation"] - sum(took[name] for name in kept)
            times[side].append(took)
    print("| processor ms a picture | before | now | times faster |\n| --- | ---: | ---: | ---: |")
    for name in times["now"][0]:
        before, now = ([took[name] for took in times[side]] for side in checkouts)
        ratio = median(b / n for b, n in zip(before, now, strict=True))
        print(f"| {name} | {median(before):.0f} | {median(now):.0f} | {ratio:.2f} |")
    pairs = zip(found["before"], found["now"], strict=True)
    apart = max(abs(one - other) for one, other in pairs if one == one)
    print(f"greatest difference of a score: {apart:.1e}")


def scores(path: Path, name: str) -> list[float]:
    """Return all scores of per_image.csv, in its order, without those of other weights' name."""
    rows = csv.DictReader(path.read_text().splitlines())
    found = []
    for row in rows:
        for value in row.values():
            try:
                found.append(float(value))
            except ValueError:
                continue  # a name
    assert found, f"{name}: no scores"
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="Time evaluate, beside another checkout.")
    parser.add_argument("--main", type=Path, required=True, help="the other checkout")
    parser.add_argument("--data", type=Path, required=True, help="folder of OSIE")
    parser.add_argument("--split", default="test")
    parser.add_argument("--metrics", default="cc,nss,auc_judd")
    parser.add_argument("--weights", type=Path, default=HERE / "weights/mlnet-osie.weights.h5")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--commands", action="store_true", help="time the whole command")
    parser.add_argument("--engine", help="with --commands: this checkout with an engine, too")
    given = parser.parse_args()
    checkouts = {"before": given.main.resolve(), "now": HERE}
    if given.commands:
        compare_commands(given, checkouts)
    else:
        compare_parts(given, checkouts)


def compare_commands(given: argparse.Namespace, checkouts: dict[str, Path]) -> None:
    """Print the times of the first evaluation and of that of other weights."""
    sides = {side: (checkout, []) for side, checkout in checkouts.items()}
    if given.engine:
        sides[f"now, {given.engine}"] = HERE, ["--engine", given.engine]
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    gaps: dict[str, list[float]] = {}
    for _ in range(given.rounds):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            for kind in ("first", "other weights"):
                weights = place / f"{kind.split()[0]}.weights.h5"
                weights.write_bytes(given.weights.read_bytes())
                if kind != "first":
                    subprocess.run([sys.executable, "-c", OTHER, str(HERE), str(weights)],
                                   check=True)  # fmt: skip
                found = {}
                for side, (checkout, engine) in sides.items():
                    output = place / f"{side} {kind}"
                    words = ["evaluate", "--dataset", "osie", "--data", str(given.data.resolve()),
                             "--split", given.split, "--metrics", given.metrics, "--weights",
                             str(weights), "--output", str(output), *engine]  # fmt: skip
                    took = timed(checkout, words, place / f"cache {side}")
                    times.setdefault((kind, side), []).append(took)
                    found[side] = scores(output / "per_image.csv", side)
                    print(f"{kind}, {side}: {took[0]:.1f} s, {took[1]:.1f} processor s", flush=True)
                for side in found.keys() - {"before"}:
                    pairs = zip(found["before"], found[side], strict=True)
                    gaps.setdefault(side, []).extend(b - a for a, b in pairs if a == a)
    print("| evaluation | | wall, s | processor s | times faster, wall | processor |\n"
          "| --- | --- | ---: | ---: | ---: | ---: |")  # fmt: skip
    for (kind, side), took in times.items():
        ratios = [
            median(b[i] / n[i] for b, n in zip(times[kind, "before"], took, strict=True))
            for i in range(2)
        ]
        wall, processor = (median(one[i] for one in took) for i in range(2))
        print(f"| {kind} | {side} | {wall:.1f} | {processor:.1f} "
              f"| {ratios[0]:.2f} | {ratios[1]:.2f} |")  # fmt: skip
    for side, found in gaps.items():
        print(f"{side}: a picture's scores differ by {max(map(abs, found)):.1e} at most, on "
              f"average by {sum(found) / len(found):+.1e}")  # fmt: skip


if __name__ == "__main__":
    main()

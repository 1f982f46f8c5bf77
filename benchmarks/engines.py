"""Speed of `test` from picture files to maps, by engine, compared with a plain loop over Keras.

    python benchmarks/engines.py --data PATH/TO/osie

ML-Net at full width predicts the same OSIE pictures, one at a time: in a plain loop (read,
`model.predict`, write) and by `test` with each engine. Each side runs in a process of its own, and
the sides take turns. A float32 matrix product on all cores is timed before and after each turn,
since the speed of the host varies. `share` is the network's FLOP/s relative to that of the product,
so it can be compared between hosts. The table shows medians over the rounds; `ratio` is the median
of a round's share relative to the plain loop. A start is `main.py test` with one picture (or the
plain loop), the minimum of three; the first start exports the network. The weights are random,
which does not affect the speed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median

HERE = Path(__file__).resolve().parent.parent
if not __package__:  # run as a file: the program is not in this folder
    sys.path[0] = str(HERE)

import numpy as np

PLAIN = "plain loop"
SIDE = 2048  # rows and columns of the matrices


def gflops() -> float:
    """Return the speed of a float32 matrix product, GFLOP/s."""
    a = np.ones((SIDE, SIDE), np.float32)
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        np.matmul(a, a)
        best = max(best, 2 * SIDE**3 / (time.perf_counter() - start) / 1e9)
    return best


def plain_loop(weights: Path):
    """Return a function that writes the maps of pictures in a plain loop over Keras."""
    from salience.system.quiet import import_keras

    import_keras()
    import cv2

    from model import grid_of, load_model
    from salience.pictures.letterbox import postprocess, preprocess

    model = load_model(weights)

    def work(pictures: list[Path], output: Path) -> None:
        for path in pictures:
            picture = np.asarray(cv2.imread(str(path)), np.uint8)
            x, box = preprocess(picture, model.input_shape[1:3])
            prediction = model.predict(x[None], verbose=0)[0]
            saliency_map = postprocess(prediction, box, grid_of(model))
            cv2.imwrite(str(output / f"{path.stem}.png"), np.round(saliency_map * 255))

    return work


def by_engine(name: str, weights: Path):
    """Return a function that writes the maps of pictures as `test` does."""
    from commands.prediction import engines
    from commands.prediction.inputs import Collection
    from commands.prediction.outputs import OutputWriter
    from commands.prediction.predict import PendingJobs, predict_and_write
    from config import PredictConfig

    engine = engines.load(name, weights, silent)

    def work(pictures: list[Path], output: Path) -> None:
        settings = PredictConfig(output=output)
        with Collection([str(path) for path in pictures], settings, silent) as jobs:
            assert (
                predict_and_write(engine, PendingJobs(jobs, True, silent), OutputWriter(settings))
                == 0
            )

    return work


def silent(line: str) -> None:
    """Ignore a message."""


def serve(name: str, weights: Path, pictures: list[Path], output: Path) -> None:
    """Run one side: write the maps for each line of input; answer with seconds and memory."""
    work = plain_loop(weights) if name == PLAIN else by_engine(name, weights)
    work(pictures[:1], output)
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        work(pictures, output)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        memory = getrusage(RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"wall": wall, "processor": processor, "memory": memory}), flush=True)


def make_weights(path: Path, rows: int, cols: int) -> float:
    """Write a weights file of ML-Net; return the GFLOP per picture."""
    from salience.system.quiet import import_keras

    import_keras()
    import config as settings
    from benchmarks.cost import flop
    from model import system_module
    from salience.networks import weight_files

    config = settings.Config(rows=rows, cols=cols, backbone_weights="none")
    model = system_module(config.model).build(config)
    weight_files.save(model, path, {"system": "mlnet", "config": settings.to_json(config)})
    return sum(map(flop, model.layers)) / 1e9


def start_seconds(words: list[str]) -> float:
    """Return the duration of a command, seconds."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *words], check=True, stdin=subprocess.DEVNULL, capture_output=True
    )
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Time test from files to maps, by engine.")
    parser.add_argument("--data", type=Path, required=True, help="folder of OSIE")
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=240)
    parser.add_argument("--cols", type=int, default=320)
    parser.add_argument("--engines", nargs="+", default=["keras", "onnx", "openvino"])
    parser.add_argument("--serve", help=argparse.SUPPRESS)  # internal: name of the side
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    pictures = sorted(given.data.rglob("*.jpg"))[: given.pictures]
    if given.serve:
        serve(given.serve, given.weights, pictures, given.output)
        return
    with tempfile.TemporaryDirectory() as scratch:
        compare(given, pictures, Path(scratch))


def compare(given: argparse.Namespace, pictures: list[Path], scratch: Path) -> None:
    """Start all sides, run them in turns, and print the table."""
    os.environ["SALIENCY_CACHE"] = str(scratch / "cache")
    os.environ["OPENBLAS_NUM_THREADS"] = (
        "1"  # as in main.py; for the sides, as this process has already loaded NumPy
    )
    weights = scratch / "mlnet.weights.h5"
    code = (
        f"from benchmarks.engines import make_weights; from pathlib import Path; "
        f"print(make_weights(Path({str(weights)!r}), {given.rows}, {given.cols}))"
    )
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=HERE, check=True, capture_output=True, text=True
    )
    work = float(made.stdout)
    print(
        f"{len(pictures)} pictures, {given.rows} x {given.cols}, {work:.1f} GFLOP each", flush=True
    )

    names = [PLAIN, *given.engines]
    sides, starts, first = {}, {}, {}
    for name in names:
        words = [str(HERE / "benchmarks/engines.py"), "--data", str(given.data), "--pictures",
                 str(given.pictures), "--serve", name, "--weights", str(weights), "--output",
                 str(scratch / name)]  # fmt: skip
        (scratch / name).mkdir()
        one = words if name == PLAIN else [
            str(HERE / "main.py"), "test", str(pictures[0]), "--weights", str(weights), "--engine",
            name, "--output", str(scratch / "start"), "--overwrite"]  # fmt: skip
        first[name], starts[name] = start_seconds(one), min(start_seconds(one) for _ in range(3))
        sides[name] = subprocess.Popen(
            [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        sides[name].stdout.readline()

    rows: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    before = gflops()
    for _ in range(given.rounds):
        for name, side in sides.items():
            side.stdin.write("go\n")
            side.stdin.flush()
            row = json.loads(side.stdout.readline())
            after = gflops()
            row["speed"] = len(pictures) / row["wall"]
            row["share"] = row["speed"] * work / ((before + after) / 2)
            before = after
            rows[name].append(row)
    for side in sides.values():
        side.stdin.close()
        side.wait()

    print(
        "| side | images/s | share of the matrix product | ratio | ratio in processor time | "
        "start, s | first start, s | peak memory, MB |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for name in names:
        pairs = list(zip(rows[name], rows[PLAIN], strict=True))
        print(
            f"| {name} | {median(row['speed'] for row in rows[name]):.2f} "
            f"| {median(row['share'] for row in rows[name]):.0%} "
            f"| {median(row['share'] / plain['share'] for row, plain in pairs):.2f} "
            f"| {median(plain['processor'] / row['processor'] for row, plain in pairs):.2f} "
            f"| {starts[name]:.1f} | {first[name]:.1f} "
            f"| {max(row['memory'] for row in rows[name]):.0f} |"
        )


if __name__ == "__main__":
    main()

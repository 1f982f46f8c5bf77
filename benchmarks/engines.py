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

    python benchmarks/engines.py --data PATH/TO/osie --stub

replaces the network by one that costs nothing, on both sides: what is left is decoding, resizing
and writing PNGs. With `--main PATH/TO/ANOTHER/CHECKOUT`, its `test` takes turns with them.
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
from typing import Any

HERE = Path(__file__).resolve().parent.parent
if not __package__:  # run as a file: the program is not in this folder
    sys.path[0] = str(HERE)

import numpy as np

PLAIN, STUB, OTHER = "plain loop", "stub", "test of --main"
ENGINES = ("keras", "ncnn", "onnx", "openvino")
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


def stub(rows: int, cols: int):
    """Return an engine whose network costs nothing: its maps are always the same smooth ones."""
    from commands.prediction.engines import AT_ONCE, Engine
    from salience.pictures.letterbox import OutputGrid

    y, x = np.mgrid[: rows // 8, : cols // 8] / 10
    cells = (np.sin(x + y) ** 2).astype(np.float32)[None, :, :, None]
    return Engine(STUB, (rows, cols), OutputGrid(8), lambda batch: cells.repeat(len(batch), 0),
                  AT_ONCE)  # fmt: skip


def plain_loop(weights: Path, rows: int, cols: int, costs_nothing: bool):
    """Return a function that writes the maps of pictures in a plain loop over Keras."""
    import cv2

    from salience.pictures.letterbox import postprocess, preprocess

    if costs_nothing:
        engine = stub(rows, cols)
        input_shape, grid = engine.input_shape, engine.grid
        predict = engine.maps
    else:
        from salience.system.quiet import import_keras

        import_keras()
        from model import grid_of, load_model

        model = load_model(weights)
        input_shape, grid = model.input_shape[1:3], grid_of(model)
        predict = lambda batch: model.predict(batch, verbose=0)  # noqa: E731

    def work(pictures: list[Path], output: Path) -> None:
        for path in pictures:
            picture = np.asarray(cv2.imread(str(path)), np.uint8)
            x, box = preprocess(picture, input_shape)
            saliency_map = postprocess(predict(x[None])[0], box, grid)
            cv2.imwrite(str(output / f"{path.stem}.png"), np.round(saliency_map * 255))

    return work


def by_engine(name: str, weights: Path, rows: int, cols: int):
    """Return a function that writes the maps of pictures as `test` does."""
    from commands.prediction.inputs import Collection
    from commands.prediction.outputs import OutputWriter
    from commands.prediction.predict import PendingJobs, predict_and_write
    from config import PredictConfig

    engine = stub(rows, cols) if name == STUB else loaded(name, weights)

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


def serve(given: argparse.Namespace, pictures: list[Path]) -> None:
    """Run one side: write the maps for each line of input; answer with seconds and memory."""
    name, weights, output = given.serve, given.weights, given.output
    size = given.rows, given.cols
    plain = name == PLAIN
    work = plain_loop(weights, *size, given.stub) if plain else by_engine(name, weights, *size)
    work(pictures[:1], output)
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        work(pictures, output)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        memory = getrusage(RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"wall": wall, "processor": processor, "memory": memory}), flush=True)


def loaded(name: str, weights: Path) -> Any:
    """Return an engine; end the program if another one takes its place."""
    from commands.prediction import engines

    engine = engines.load(name, weights, silent)
    if engine.name != name:
        raise SystemExit(f"{name} does not run {weights}.")
    return engine


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
    parser.add_argument("--engines", nargs="+", default=ENGINES, choices=ENGINES)
    parser.add_argument("--stub", action="store_true", help="with a network that costs nothing")
    parser.add_argument("--main", type=Path, help="another checkout, to compare with --stub")
    parser.add_argument("--serve", help=argparse.SUPPRESS)  # internal: name of the side
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    pictures = sorted(given.data.rglob("*.jpg"))[: given.pictures]
    if given.serve:
        serve(given, pictures)
        return
    with tempfile.TemporaryDirectory() as scratch:
        (compare_stub if given.stub else compare)(given, pictures, Path(scratch))


def words_of(name: str, given: argparse.Namespace, weights: Path, output: Path) -> list[str]:
    """Return the arguments of the process of a side."""
    home, name = (given.main, STUB) if name == OTHER else (HERE, name)
    return [str(home / "benchmarks/engines.py"), "--data", str(given.data), "--pictures",
            str(given.pictures), "--rows", str(given.rows), "--cols", str(given.cols),
            *(["--stub"] if given.stub else []), "--serve", name, "--weights", str(weights),
            "--output", str(output)]  # fmt: skip


def started(name: str, given: argparse.Namespace, weights: Path, output: Path) -> Any:
    """Start the process of a side; return it once it is ready."""
    words = words_of(name, given, weights, output)
    side: Any = subprocess.Popen(
        [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    side.stdout.readline()
    return side


def one_round(side: Any) -> dict[str, float]:
    """Let a side write the maps once; return its seconds and memory."""
    side.stdin.write("go\n")
    side.stdin.flush()
    return json.loads(side.stdout.readline())


def end(sides: dict[str, Any]) -> None:
    """End the processes of all sides."""
    for side in sides.values():
        side.stdin.close()
        side.wait()


def compare_stub(given: argparse.Namespace, pictures: list[Path], scratch: Path) -> None:
    """Run the plain loop and `test` in turns with a network that costs nothing; print the table."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as in main.py
    sides, rows = {}, {}
    for name in (PLAIN, *([OTHER] if given.main else []), STUB):
        (scratch / name).mkdir()
        sides[name] = started(name, given, scratch, scratch / name)
        rows[name] = []
    for _ in range(given.rounds):
        for name, side in sides.items():
            rows[name].append(one_round(side))
    end(sides)
    print("| side | images/s | processor ms a picture | pictures a processor-second | ratio |\n"
          "| --- | ---: | ---: | ---: | ---: |")  # fmt: skip
    for name, own in rows.items():
        processor = median(row["processor"] for row in own) / len(pictures)
        speed = median(len(pictures) / row["wall"] for row in own)
        ratio = median(b["wall"] / n["wall"] for b, n in zip(rows[PLAIN], own, strict=True))
        print(f"| {'test' if name == STUB else name} | {speed:.1f} | {1000 * processor:.1f} "
              f"| {1 / processor:.0f} | {ratio:.2f} |")  # fmt: skip


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
        (scratch / name).mkdir()
        one = words_of(name, given, weights, scratch / name) if name == PLAIN else [
            str(HERE / "main.py"), "test", str(pictures[0]), "--weights", str(weights), "--engine",
            name, "--output", str(scratch / "start"), "--overwrite"]  # fmt: skip
        first[name], starts[name] = start_seconds(one), min(start_seconds(one) for _ in range(3))
        sides[name] = started(name, given, weights, scratch / name)

    rows: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    before = gflops()
    for _ in range(given.rounds):
        for name, side in sides.items():
            row = one_round(side)
            after = gflops()
            row["speed"] = len(pictures) / row["wall"]
            row["share"] = row["speed"] * work / ((before + after) / 2)
            before = after
            rows[name].append(row)
    end(sides)

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

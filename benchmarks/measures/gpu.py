"""The parts of `benchmarks/gpu.sh`: each measures some rows of its table.

    KERAS_BACKEND=jax python benchmarks/measures/gpu.py --table ROWS --data PATH/TO/osie PART ...
    python benchmarks/measures/gpu.py --table ROWS

Without a part, the rows that were measured are printed. Rows are lines of JSON, so that a part that
fails, or that has no time left, costs only its own rows.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[2]
if not __package__:  # run as a file: the program is not in this folder
    sys.path[0] = str(HERE)

PRECISIONS = {"bf16": "mixed_bfloat16", "float32": "float32"}
STEPS = 20  # timed, after as many that compile; 1 if tiny
PRODUCT = 8192  # rows of the square matrices; 256 if tiny
PICTURES = 200  # of test, and of the feed
Row = dict[str, Any]


def of_step(given: argparse.Namespace, kind: str, precision: str) -> argparse.Namespace:
    """Return the arguments of `benchmarks/step.py`."""
    return argparse.Namespace(
        rows=given.rows, cols=given.cols, batch_size=given.batch_size, frozen=kind == "frozen",
        precision=PRECISIONS[precision], xla="auto", micro_batch=None, steps_per_execution=1,
        steps=1 if given.tiny else STEPS, channels_last=True,
    )  # fmt: skip


def step(given: argparse.Namespace, kind: str, precision: str) -> Iterator[Row]:
    """Time the step alone, and a matrix product beside it."""
    from benchmarks.step import Ours
    from commands.training.backends import compilations_kept
    from salience.system.cache import default_cache

    arguments = of_step(given, kind, precision)
    Ours.width = 0.05 if given.tiny else 1.0
    side = Ours(arguments)
    began = time.perf_counter()
    with compilations_kept(default_cache()):
        side.steps()
    first = time.perf_counter() - began
    speed = product(precision, 256 if given.tiny else PRODUCT)
    rate = rate_of(side, arguments)
    yield {
        "what": f"step, {kind}, {precision}",
        "rate": rate,
        "share": rate * side.about["gflop"] / speed,
        "device": side.device_memory(),
        "note": f"the product: {speed:,.0f} GFLOP/s; the first steps: {first:.1f} s",
    }


def plain(given: argparse.Namespace, kind: str, precision: str) -> Iterator[Row]:
    """Time the same step in plain PyTorch, channels last, where it finds the GPU."""
    what = f"step, {kind}, {precision}, plain PyTorch"
    if note := why_no_torch(given):
        yield {"what": what, "note": note}
        return
    from benchmarks.step import Plain

    arguments = of_step(given, kind, precision)
    side = Plain(arguments)
    side.steps()
    rate = rate_of(side, arguments)
    yield {"what": what, "rate": rate, "device": side.device_memory()}


def on_torch(given: argparse.Namespace, kind: str, precision: str) -> Iterator[Row]:
    """Time the step with Keras on PyTorch, in a process that has not imported Keras."""
    what = f"step, {kind}, {precision}, Keras on PyTorch"
    if note := why_no_torch(given):
        yield {"what": what, "note": note}
        return
    if "keras" in sys.modules:  # the row would be another backend's
        raise SystemExit("on_torch: Keras is imported already; measure it in a process of its own")
    os.environ["KERAS_BACKEND"] = "torch"
    for row in step(given, kind, precision):
        yield row | {"what": what}


def memory(given: argparse.Namespace, kind: str, precision: str, how: str) -> Iterator[Row]:
    """Time the step under JAX without XLA's trials of convolutions, which need memory, too.

    A step that an earlier process compiled is read ("kept") and so not tried; "untried" compiles it
    anew, by flag without trials. Each needs a process that has not imported JAX.
    """
    what = f"step, {kind}, {precision}, {'compiled before' if how == 'kept' else 'no autotuning'}"
    if os.environ.get("KERAS_BACKEND") != "jax":
        yield {"what": what, "note": "only JAX compiles by trials"}
        return
    if "jax" in sys.modules:  # its memory's peak and its flags are those of the process
        raise SystemExit("memory: JAX is imported already; measure it in a process of its own")
    measured = {row["what"] for row in rows_of(given.table)}
    if how == "kept" and f"step, {kind}, {precision}" not in measured:
        raise SystemExit(f"memory: step {kind} {precision} was not measured, so nothing is kept")
    if how == "untried":
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_autotune_level=0".strip()
    for row in step(given, kind, precision):
        yield row | {"what": what}


def why_no_torch(given: argparse.Namespace) -> str:
    """Return why PyTorch is not measured; "" if it is."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return "PyTorch is not installed"
    return "" if given.tiny or torch.cuda.is_available() else "PyTorch finds no GPU"


def rate_of(side: Any, arguments: argparse.Namespace) -> float:
    """Return the images/s of the faster of two turns."""
    taken = []
    for _ in range(2):
        began = time.perf_counter()
        side.steps()
        taken.append(time.perf_counter() - began)
    return arguments.steps * arguments.batch_size / min(taken)


def product(precision: str, size: int) -> float:
    """Return the GFLOP/s of a matrix product on the backend's device."""
    from keras import ops

    a = ops.ones((size, size), "bfloat16" if precision == "bf16" else "float32")
    best = 0.0
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(20):
            last = ops.matmul(a, a)
        float(ops.max(last))  # waits for the device
        best = max(best, 20 * 2 * size**3 / (time.perf_counter() - began) / 1e9)
    return best


def config(given: argparse.Namespace, **changes: Any) -> Any:
    """Return the settings of a training."""
    from config import Config

    about: dict[str, Any] = {"dataset": ("synthetic",), "width": 0.05}
    if given.data:
        about = {"dataset": ("osie",), "data": (given.data,)}
    about |= {"rows": given.rows, "cols": given.cols, "batch_size": given.batch_size,
              "backbone_weights": str(given.backbone_weights or "none"),
              "precision": PRECISIONS["bf16"], "workers": given.workers, "loss": "kld",
              "optimizer": "adam", "learning_rate": 1e-4, "decay": 0.0}  # fmt: skip
    return Config(**about | changes)


def feed(given: argparse.Namespace) -> Iterator[Row]:
    """Time the batches without a network, by reading threads."""
    from salience.system.quiet import import_keras

    import_keras()
    from commands.training import train
    from commands.training.devices import Devices
    from utilities import OutputGrid, opencv_threads

    counts = [1, 2] if given.tiny else sorted({n for n in (1, 4, 8) if n < given.workers})
    for workers in sorted({*counts, given.workers}):
        batches = train.batches(config(given, workers=workers), "train", OutputGrid())
        batches.samples = batches.samples[:PICTURES]
        batches.sizes = batches.counts = [len(batches.samples)]
        for kept in (False, True):  # the density maps are kept after the first pass
            reader = Devices().feed(batches)
            began = time.perf_counter()
            with opencv_threads(workers):
                for index in range(len(reader)):
                    reader[index]
            seconds = time.perf_counter() - began
            reader.close()
            if kept:
                rate = len(batches.samples) / seconds
                yield {"what": f"the feed alone, {workers} threads", "rate": rate}


def fit(given: argparse.Namespace, kind: str, cache: str) -> Iterator[Row]:
    """Train as `train` does, and return the rates of its epochs."""
    from salience.system.quiet import import_keras

    import_keras()
    from commands.training import train
    from commands.training.backends import peak_device_memory_mb

    # what follows the last epoch is no part of the table
    train.calibrate = train.score_shipped = lambda *about: None  # type: ignore[assignment]
    count = 2 if cache == "off" or given.tiny else 3
    folder = given.scratch / f"{kind}-{cache}"
    settings = config(
        given, freeze_backbone=kind == "frozen", feature_cache=cache, epochs=count, patience=count,
        output=folder, weights_dir=given.scratch / "weights", overwrite=True,
    )  # fmt: skip
    said: list[str] = []
    began = time.perf_counter()
    rows = train.train(settings, say=said.append).history
    whole = time.perf_counter() - began
    first, last = rows[0], rows[-1]
    note = (
        f"first epoch {first['images_per_second']:.0f} images/s; validation "
        f"{last['validation_seconds']:.1f} s, other {last['other_seconds']:.1f} s; {whole:.0f} s "
        "in all"
    )
    if "features_kept" in last:
        kept = "kept" if last["features_kept"] else "not kept"
        note += (
            f"; features {kept}: {last['features_compute_ms']:.2f} ms to compute, "
            f"{last['features_read_ms']:.2f} to read"
        )
    name = "" if kind == "finetuned" else f", feature cache {cache}"
    yield {
        "what": f"train, {kind}{name}, last epoch",
        "rate": last["images_per_second"],
        "of": f"step, {kind}, bf16",
        "device": peak_device_memory_mb(),
        "note": note,
    }


def test(given: argparse.Namespace) -> Iterator[Row]:
    """Time `test` of some pictures, with their reading and writing."""
    pictures = given.scratch / "pictures"
    if given.data:
        paths = sorted(given.data.rglob("*.jpg"))[:PICTURES]
    else:
        from benchmarks.peers import make_pictures

        pictures.mkdir(exist_ok=True)
        make_pictures(pictures, 8)
        paths = sorted(pictures.glob("*.jpg"))
    listed = given.scratch / "pictures.txt"
    listed.write_text("".join(f"{path.resolve()}\n" for path in paths))
    words = ["test", "--list", listed, "--output", given.scratch / "maps", "--overwrite"]
    words += ["--workers", given.workers]
    seconds, said = command(given, words)
    rates = re.findall(r"([\d.]+) images/s", said)
    yield {
        "what": f"test, {len(paths)} pictures",
        "rate": float(rates[-1]),
        "note": f"{seconds:.0f} s with the start",
    }


def evaluate(given: argparse.Namespace) -> Iterator[Row]:
    """Time `evaluate` with CC, NSS, AUC-Judd and the rows of the observers."""
    data = ["--dataset", "osie", "--data", given.data] if given.data else ["--dataset", "synthetic"]
    words = ["evaluate", *data, "--split", "test", "--metrics", "cc,nss,auc_judd", "--output"]
    for name in ("first", "again, its references kept")[: 1 if given.tiny else 2]:
        folder = given.scratch / f"scores {name}"
        seconds, _ = command(given, [*words, folder, "--workers", given.workers])
        lines = (folder / "per_image.csv").read_text().splitlines()[1:]
        count = len({line.split(",")[0] for line in lines})
        yield {"what": f"evaluate, {name}", "rate": count / seconds, "note": f"{seconds:.0f} s"}


def command(given: argparse.Namespace, words: list[Any]) -> tuple[float, str]:
    """Run a command of the program; return its seconds and what it printed."""
    weights = given.weights or HERE / "weights/mlnet-osie.weights.h5"
    if given.tiny:
        weights = given.scratch / "finetuned-off" / "best.weights.h5"
    command = [sys.executable, HERE / "main.py", *words, "--weights", weights]
    began = time.perf_counter()
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return time.perf_counter() - began, done.stdout + done.stderr


def rows_of(table: Path) -> list[Row]:
    """Return the rows that were measured."""
    return [json.loads(line) for line in table.read_text().splitlines()]


def show(rows: list[Row]) -> None:
    """Print the table."""
    print("| what | images/s | share of the product | of the step | device, MiB | |\n"
          "| --- | ---: | ---: | ---: | ---: | --- |")  # fmt: skip
    rates = {row["what"]: row.get("rate") for row in rows}
    for row in rows:
        rate, share, step = row.get("rate"), row.get("share"), rates.get(row.get("of", ""))
        cells = [
            row["what"],
            "" if rate is None else f"{rate:.3g}" if rate < 100 else f"{rate:,.0f}",
            "" if share is None else f"{share:.0%}",
            "" if step is None else f"{rate / step:.0%}",
            f"{row['device']:,.0f}" if row.get("device") else "",
            row.get("note", ""),
        ]
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    """Measure some parts, or print the table."""
    parts = {"step": step, "plain": plain, "on_torch": on_torch, "memory": memory, "feed": feed,
             "train": fit, "test": test, "evaluate": evaluate}  # fmt: skip
    parser = argparse.ArgumentParser(description="Measure parts of benchmarks/gpu.sh.")
    parser.add_argument("parts", nargs="*", help="such as 'step frozen bf16' or 'feed'")
    parser.add_argument("--table", type=Path, required=True, help="file that rows are added to")
    parser.add_argument("--data", type=Path, help="folder of OSIE; default: synthetic scenes")
    parser.add_argument("--backbone_weights", type=Path, help="VGG16's; default: random ones")
    parser.add_argument("--weights", type=Path, help="of test and evaluate; default: included")
    parser.add_argument("--rows", type=int, default=480)
    parser.add_argument("--cols", type=int, default=640)
    parser.add_argument("--batch_size", type=int, default=10)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--tiny", action="store_true", help="only shows that all of it works")
    given = parser.parse_args()
    if given.tiny:
        given.rows, given.cols, given.batch_size = 48, 64, 4
    for words in given.parts:
        name, *about = words.split()
        for row in parts[name](given, *about):
            with given.table.open("a") as file:
                file.write(json.dumps(row) + "\n")
    if not given.parts:
        show(rows_of(given.table))


if __name__ == "__main__":
    main()

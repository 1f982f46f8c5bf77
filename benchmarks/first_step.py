"""From the start of `train` to the end of its first step under JAX: a first start, and a second.

    KERAS_BACKEND=jax python benchmarks/first_step.py

A tiny ML-Net is fine-tuned (with --frozen, only its head is trained), each time in a new process.
The first start of a pair has an empty cache, the second finds what the first has compiled. The time
to import Keras and its backend is given apart. The losses of all starts must be equal.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent.parent


def child(arguments: argparse.Namespace) -> None:
    """Train one epoch, and print what was measured as JSON."""
    began = time.perf_counter()
    sys.path[0] = str(HERE)
    from salience.system.quiet import import_keras

    import_keras()
    imported, after_import = time.perf_counter(), time.process_time()
    from commands.training import epochs as module
    from commands.training import train
    from config import Config

    steps: list[tuple[float, float]] = []
    original = module.Epochs.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        original(self, batch, logs)
        if not steps:
            self.read_losses()  # waits for the step
            steps.append((time.perf_counter(), time.process_time()))

    module.Epochs.on_train_batch_end = on_train_batch_end  # type: ignore[method-assign]
    train.calibrate = train.score_shipped = lambda *about: None  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        config = Config(
            dataset=("synthetic",), rows=arguments.rows, cols=arguments.cols, width=arguments.width,
            backbone_weights="none", batch_size=8, epochs=1, freeze_backbone=arguments.frozen,
            feature_cache="off", output=Path(folder, "run"), weights_dir=Path(folder, "weights"),
        )  # fmt: skip
        run = train.train(config, say=lambda line: None)
        row = run.history[0]
    wall, used = steps[0]
    found: dict[str, Any] = {
        "import": imported - began,
        "wall": wall - imported,
        "processor": used - after_import,
        "epoch": time.perf_counter() - wall,
        "losses": [row["loss"], row["val_loss"]],
    }
    print(json.dumps(found))


def measure(cache: Path) -> dict[str, Any]:
    """Return what a start with a cache folder measured."""
    words = [sys.executable, __file__, *sys.argv[1:], "--child"]
    environment = {"KERAS_BACKEND": "jax", **os.environ, "SALIENCY_CACHE": str(cache)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    if done.stderr:
        print(f"on standard error: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run the benchmark, or one start of it."""
    parser = argparse.ArgumentParser(description="Time the way to the first step under JAX.")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--cols", type=int, default=64)
    parser.add_argument("--width", type=float, default=0.05, help="of the network's layers")
    parser.add_argument("--frozen", action="store_true", help="train only the head")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return child(arguments)
    found: dict[str, list[dict[str, Any]]] = {"first": [], "second": []}
    size = 0
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for rounds in found.values():
                rounds.append(measure(Path(folder)))
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    print("| start | import, s | to the first step, s | processor s | rest of the run, s |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, rounds in found.items():
        times = [median(r[key] for r in rounds) for key in ("import", "wall", "processor", "epoch")]
        print(f"| {name} | {times[0]:.1f} | {times[1]:.1f} | {times[2]:.1f} | {times[3]:.1f} |")
    for key in ("wall", "processor"):
        pairs = zip(found["first"], found["second"], strict=True)
        ratios = sorted(first[key] / second[key] for first, second in pairs)
        print(f"\nratio, {key}: {median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})", end="")
    losses = {tuple(one["losses"]) for rounds in found.values() for one in rounds}
    print(f"\n{size / 1e6:.1f} MB in the cache. The losses are "
          f"{'equal' if len(losses) == 1 else 'NOT EQUAL'}.")  # fmt: skip


if __name__ == "__main__":
    main()

"""Cost of ML-Net by input size and batch size.

    python benchmarks/growth.py

Each row is measured in a process of its own, so that its peak memory is separate. The rows are the
forward pass, the training step with a frozen backbone and the fine-tuning step, on random pictures
and weights, after a warm-up step. Since the speed of the machine varies, the speed is also given
relative to a matrix product that is timed just before and after.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

if not __package__:  # run as a file: the program is not in this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from salience.system.quiet import hushed

KINDS = ("forward", "frozen", "finetuned")
SIZES = ((120, 160), (240, 320), (480, 640))
BATCHES = (1, 2, 5, 10)
PRODUCT = 2048  # rows and columns of the matrices


def product_flops() -> float:
    """Return the FLOP/s of a float32 matrix product."""
    import keras
    import numpy as np

    side = np.random.default_rng(0).random((PRODUCT, PRODUCT), np.float32)
    matrix = keras.ops.convert_to_tensor(side)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        keras.ops.convert_to_numpy(keras.ops.matmul(matrix, matrix))
        seconds.append(time.perf_counter() - start)
    return 2 * PRODUCT**3 / median(seconds)


def measure(kind: str, rows: int, cols: int, batch: int, steps: int) -> dict[str, float]:
    """Return seconds per picture, the speed relative to a matrix product and peak memory, MiB."""
    with hushed():
        import keras  # noqa: F401
    import numpy as np

    from benchmarks.cost import flop, training_flop
    from commands.training.epochs import peak_memory_mb
    from commands.training.objective import set_up
    from config import Config
    from model import system_module

    config = Config(rows=rows, cols=cols, freeze_backbone=kind != "finetuned", batch_size=batch)
    model = system_module(config.model).build(config)
    set_up(model, config, steps_per_epoch=1)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (batch, rows, cols, 3), np.uint8)
    y = rng.random((batch, rows // 8, cols // 8, 2), np.float32)
    step = (lambda: model.predict_on_batch(x)) if kind == "forward" else (
        lambda: model.train_on_batch(x, y)
    )  # fmt: skip
    step()
    before = product_flops()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    ceiling = (before + product_flops()) / 2
    forward = sum(map(flop, model.layers))
    operations = forward if kind == "forward" else training_flop(model)
    each = median(seconds) / batch
    return {
        "seconds": each,
        "share": operations / each / ceiling,
        "peak_memory_mb": peak_memory_mb(),
    }


def in_its_own_process(kind: str, rows: int, cols: int, batch: int, steps: int) -> dict[str, float]:
    """Return the result of `measure` in a process of its own."""
    words = [sys.executable, __file__, "--one", kind, *map(str, (rows, cols, batch, steps))]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the table: sizes with a batch of 2, batches at 240x320."""
    parser = argparse.ArgumentParser(description="Show how the cost grows with size and batch.")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each kind")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        kind, *numbers = arguments.one
        print(json.dumps(measure(kind, *map(int, numbers))))
        return
    plan = [(*size, 2) for size in SIZES] + [(240, 320, batch) for batch in BATCHES]
    print("| input | batch | work | s a picture | share of a matrix product | peak memory, GiB |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    for rows, cols, batch in dict.fromkeys(plan):
        for kind in KINDS:
            row = in_its_own_process(kind, rows, cols, batch, arguments.steps)
            print(
                f"| {rows}x{cols} | {batch} | {kind} | {row['seconds']:.3f} | "
                f"{row['share']:.0%} | {row['peak_memory_mb'] / 1024:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""The time between two epochs of `train`: from the last step of one to the first of the next.

    python benchmarks/epoch_gap.py --main PATH/TO/ANOTHER/CHECKOUT [--data PATH/TO/osie]

A tiny ML-Net is trained by this checkout and by another one (for example a worktree of `main`), in
turn, each in its own process. The gap runs from the end of an epoch's last step to the end of the
next epoch's first step, without the median time of a step. Without --data, the pictures are the
built-in synthetic scenes. The table shows the median over epochs (the first, which compiles, and
the last are left out) and the time of a whole epoch. The two histories must be equal.
"""

import argparse
import hashlib
import itertools
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
NETWORK: dict[str, Any] = {
    "rows": 48, "cols": 64, "width": 0.05, "backbone_weights": "none", "loss": "kld",
    "optimizer": "adam", "batch_size": 10,
}  # fmt: skip


def child(arguments: argparse.Namespace) -> None:
    """Train with the checkout in the working folder, and print what was measured as JSON."""
    sys.path[0] = str(Path.cwd())
    from salience.system.quiet import import_keras

    import_keras()
    from commands.training import epochs as module
    from commands.training import train
    from config import Config

    steps: list[tuple[int, float]] = []  # epoch and end of each step
    original = module.Epochs.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        original(self, batch, logs)
        steps.append((self.at.epoch, time.perf_counter()))

    module.Epochs.on_train_batch_end = on_train_batch_end  # type: ignore[method-assign]
    data: dict[str, Any] = {"dataset": "synthetic"}
    if arguments.data:
        data = {"dataset": "osie", "data": arguments.data}
    # what follows the last epoch takes longer than the epochs of a tiny network
    train.calibrate = train.score_shipped = lambda *about: None  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SALIENCY_CACHE"] = str(Path(folder, "cache"))
        config = Config(
            **NETWORK, **data, epochs=arguments.epochs, patience=arguments.epochs,
            freeze_backbone=arguments.frozen, workers=arguments.workers,
            output=Path(folder, "run"), weights_dir=Path(folder, "weights"),
        )  # fmt: skip
        begun = time.perf_counter()
        run = train.train(config, say=lambda line: None)
        whole = time.perf_counter() - begun
        history = hashlib.sha256(run.path("history.csv").read_bytes()).hexdigest()
    pairs = list(itertools.pairwise(steps))
    step = median(b - a for (i, a), (j, b) in pairs if i == j and i > 0)
    gaps = [b - a - step for (i, a), (j, b) in pairs if i != j and i > 0]
    firsts = [at for i, (number, at) in enumerate(steps) if i == 0 or steps[i - 1][0] != number]
    lengths = [b - a for a, b in itertools.pairwise(firsts[1:])]
    print(json.dumps({
        "gap": median(gaps), "step": step, "epoch": median(lengths), "whole": whole,
        "history": history,
    }))  # fmt: skip


def measure(checkout: Path) -> dict:
    """Return what a checkout's training measured."""
    words = [sys.executable, str(HERE / "benchmarks" / "epoch_gap.py"), *sys.argv[1:], "--child"]
    done = subprocess.run(words, cwd=checkout, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run the benchmark, or one training of it."""
    parser = argparse.ArgumentParser(description="Time the gap between two epochs.")
    parser.add_argument("--main", type=Path, help="checkout to compare with")
    parser.add_argument("--data", type=Path, help="OSIE's folder; default: synthetic scenes")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--frozen", action="store_true", help="train only the head")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return child(arguments)
    checkouts = {"before": arguments.main, "now": HERE} if arguments.main else {"now": HERE}
    found: dict[str, list[dict]] = {name: [] for name in checkouts}
    for _ in range(arguments.rounds):
        for name, checkout in checkouts.items():
            found[name].append(measure(checkout))
    print("| | gap, ms (range of the rounds) | a step, ms | an epoch, s | the whole run, s |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, rounds in found.items():
        gaps = sorted(1000 * one["gap"] for one in rounds)
        step, epoch, whole = (median(r[key] for r in rounds) for key in ("step", "epoch", "whole"))
        print(
            f"| {name} | {median(gaps):.0f} ({gaps[0]:.0f} to {gaps[-1]:.0f}) | {1000 * step:.1f} "
            f"| {epoch:.2f} | {whole:.1f} |"
        )
    if arguments.main:
        pairs = zip(found["before"], found["now"], strict=True)
        ratios = sorted(before["gap"] / now["gap"] for before, now in pairs)
        print(f"\nThe gap is {median(ratios):.1f} times shorter ({ratios[0]:.1f} to "
              f"{ratios[-1]:.1f}).")  # fmt: skip
    digests = {one["history"] for rounds in found.values() for one in rounds}
    print("The histories are equal." if len(digests) == 1 else "THE HISTORIES DIFFER.")


if __name__ == "__main__":
    main()

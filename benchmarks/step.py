"""Speed of ML-Net's training step on the backend of KERAS_BACKEND, compared with plain PyTorch.

    KERAS_BACKEND=tensorflow python benchmarks/step.py

The same network, loss and optimiser are implemented in PyTorch below, with the same initial
weights. Each side runs in a process of its own, since the threads of two frameworks would
interfere. The sides take turns. Between turns, a matrix product is timed, whose speed is the
reference for the utilisation. The table shows medians over the repetitions. On a busy machine,
processor time is more reliable than wall time, especially with one thread (`--threads 1`), since
threads that wait for a core count as busy. `--precision` applies to both sides and to the product,
also on a GPU.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if not __package__:  # run as a file: the program is not in this folder
    sys.path[0] = str(ROOT)

import numpy as np

DEPTHS, CHANNELS = (2, 2, 3, 3, 3), (64, 128, 256, 512, 512)  # VGG16
PRODUCT = {"cpu": 2048, "cuda": 8192}  # rows of the square matrices
TOLERANCE = {"float32": 1e-3, "mixed_bfloat16": 0.1, "mixed_float16": 0.02}


def batch(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Return random pictures and ground truth."""
    rng = np.random.default_rng(0)
    shape = arguments.batch_size, arguments.rows, arguments.cols
    x = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    return x, rng.random((shape[0], shape[1] // 8, shape[2] // 8, 2)).astype(np.float32)


class Ours:
    """The program's network, compiled and fed as in `train`.

    Attributes:
        width: of the network's layers; the plain network has full width.
    """

    width = 1.0

    def __init__(self, arguments: argparse.Namespace) -> None:
        from salience.system.quiet import import_keras

        import_keras()
        import keras

        from benchmarks.cost import flop, training_flop
        from commands.training import backends, objective
        from config import Config
        from model import build

        config = Config(
            rows=arguments.rows, cols=arguments.cols, batch_size=arguments.batch_size,
            freeze_backbone=arguments.frozen, backbone_weights="none", xla=arguments.xla,
            width=self.width, precision=arguments.precision, micro_batch=arguments.micro_batch,
            steps_per_execution=arguments.steps_per_execution,
        )  # fmt: skip
        backends.make_deterministic(config.seed, config.xla)
        with backends.precision(config.precision):
            self.model = build(config)
        objective.set_up(self.model, config, arguments.steps)
        self.x, y = batch(arguments)
        pairs, steps = (self.x, y), arguments.steps

        class Repeated(keras.utils.PyDataset):
            def __len__(self) -> int:
                return steps

            def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
                return pairs

        self.data = Repeated()
        self.about = {
            "name": f"ours, {keras.backend.backend()}",
            "forward_gflop": sum(map(flop, self.model.layers)) / 1e9,
            "gflop": training_flop(self.model) / 1e9,
        }

    def start(self, folder: Path) -> dict[str, Any]:
        """Save the weights and their predictions."""
        weights: Any = {weight.path: np.asarray(weight) for weight in self.model.weights}
        np.savez(folder / "weights.npz", **weights)
        np.save(folder / "ours.npy", np.asarray(self.model.predict_on_batch(self.x)))
        return self.about

    def steps(self) -> None:
        """Train for some steps."""
        self.model.fit(self.data, shuffle=False, verbose=0)  # type: ignore

    def device_memory(self) -> float:
        """Return the peak memory of the GPU, MiB; 0 without a GPU."""
        from commands.training import backends

        return backends.peak_device_memory_mb()


class Plain:
    """The same network in plain PyTorch."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        import torch  # pyright: ignore[reportMissingImports]
        from torch import nn  # pyright: ignore[reportMissingImports]
        from torch.nn import functional  # pyright: ignore[reportMissingImports]

        class MLNet(nn.Module):
            def __init__(self, rows: int, cols: int) -> None:
                super().__init__()
                sizes = [3, *CHANNELS]
                self.blocks: Any = nn.ModuleList()
                for block, depth in enumerate(DEPTHS):
                    first, channels = sizes[block], sizes[block + 1]
                    self.blocks.append(
                        nn.ModuleList(
                            nn.Conv2d(first if i == 0 else channels, channels, 3, padding=1)
                            for i in range(depth)
                        )
                    )
                self.dropout = nn.Dropout(0.5)
                self.head1 = nn.Conv2d(1280, 64, 3, padding=1)
                self.head2 = nn.Conv2d(64, 1, 1)
                self.prior = nn.Parameter(torch.zeros(1, 1, max(1, rows // 80), max(1, cols // 80)))
                mean = torch.tensor([103.939, 116.779, 123.68]).reshape(1, 3, 1, 1)
                self.mean: Any
                self.register_buffer("mean", mean)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                x, taps = x - self.mean, []
                for number, block in enumerate(self.blocks):
                    for convolution in block:
                        x = functional.relu(convolution(x))
                    if number < 3:
                        x = functional.max_pool2d(x, 2)
                    elif number == 3:  # stride 1, padded by a row and a column
                        x = functional.max_pool2d(functional.pad(x, (0, 1, 0, 1)), 2, 1)
                    if number > 1:
                        taps.append(x)
                x = functional.relu(self.head1(self.dropout(torch.cat(taps, 1))))
                x = functional.relu(self.head2(x)).float()
                gain = functional.interpolate(1 + self.prior, x.shape[2:], mode="bilinear")
                return functional.relu(x * gain)

        self.torch, self.arguments = torch, arguments
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        memory = torch.channels_last if arguments.channels_last else torch.contiguous_format
        self.memory = memory
        network: Any = MLNet(arguments.rows, arguments.cols)
        self.model = network.to(self.device, memory_format=memory)
        if arguments.frozen:
            self.model.blocks.requires_grad_(False)
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.SGD(trained, 1e-3, momentum=0.9, nesterov=True)
        decay = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda t: 1 / (1 + 5e-4 * t))
        self.schedule = decay
        half = {"mixed_bfloat16": torch.bfloat16, "mixed_float16": torch.float16}
        self.half = half.get(arguments.precision)
        self.scaler = torch.amp.GradScaler(self.device, enabled=self.half == torch.float16)
        self.x, self.y = batch(arguments)

    def pictures(self) -> Any:
        """Return the pictures as input of the network."""
        x = self.torch.from_numpy(self.x).to(self.device).permute(0, 3, 1, 2).float()
        return x.contiguous(memory_format=self.memory)

    def predict(self, x: Any) -> Any:
        """Return the maps."""
        with self.torch.autocast(self.device, self.half, enabled=self.half is not None):
            return self.model(x)

    def start(self, folder: Path) -> dict[str, Any]:
        """Load the weights, and check that the predictions are the same."""
        torch = self.torch
        with np.load(folder / "weights.npz", allow_pickle=False) as found, torch.no_grad():
            convolutions = {
                f"block{b}_conv{i}": layer
                for b, block in enumerate(self.model.blocks, 1)
                for i, layer in enumerate(block, 1)
            } | {"head_conv1": self.model.head1, "head_conv2": self.model.head2}
            for name, layer in convolutions.items():
                kernel = torch.from_numpy(found[f"{name}/kernel"])
                layer.weight.copy_(kernel.permute(3, 2, 0, 1))
                layer.bias.copy_(torch.from_numpy(found[f"{name}/bias"]))
            self.model.prior[0, 0] = torch.from_numpy(found["prior/prior"])
            self.model.eval()
            maps = self.predict(self.pictures())[:, 0].float().cpu().numpy()
            self.model.train()
        ours = np.load(folder / "ours.npy", allow_pickle=False)[..., 0]
        difference = float(np.abs(maps - ours).max() / np.abs(ours).max())
        if difference > TOLERANCE[self.arguments.precision]:
            raise SystemExit(f"The two networks differ by {difference:.2g} of the maximum.")
        layout = "channels last" if self.arguments.channels_last else "channels first"
        return {"name": f"plain PyTorch, {layout}", "difference": difference}

    def steps(self) -> None:
        """Train for some steps."""
        torch = self.torch
        for _ in range(self.arguments.steps):
            truth = torch.from_numpy(self.y).to(self.device)[..., 0]
            maps = self.predict(self.pictures())
            peak = maps.amax((1, 2, 3), keepdim=True).clamp_min(1e-7)
            error = ((maps / peak)[:, 0] - truth) ** 2 / (1.1 - truth)
            loss = error.mean() + (self.model.prior**2).sum() / self.model.prior.numel()
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.schedule.step()
            loss.item()  # ours reads the loss, too

    def product(self) -> float:
        """Compute a matrix product; return its GFLOP."""
        size, torch = PRODUCT[self.device], self.torch
        a = torch.ones(size, size, device=self.device, dtype=self.half or torch.float32)
        times = 4 if self.device == "cpu" else 50
        for _ in range(times):
            torch.mm(a, a)
        if self.device == "cuda":
            torch.cuda.synchronize()
        return times * 2 * size**3 / 1e9

    def device_memory(self) -> float:
        """Return the most device memory held, MiB; 0 without a GPU."""
        used = self.torch.cuda.max_memory_allocated() if self.device == "cuda" else 0
        return used / 2**20


def work(side: str, arguments: argparse.Namespace) -> None:
    """Execute a command per line of standard input; answer with a line of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries must not mix with the answers
    worker: Any = {"ours": Ours, "plain": Plain}[side](arguments)
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        wall, processor = time.perf_counter(), time.process_time()
        found = worker.start(Path(rest)) if word == "start" else {}
        if word == "steps":
            worker.steps()
        elif word == "product":
            found = {"gflop": worker.product()}
        elif word == "memory":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
            found = {"peak": peak, "device": worker.device_memory()}
        found["wall"] = time.perf_counter() - wall
        found["processor"] = time.process_time() - processor
        print(json.dumps(found), file=answers, flush=True)


class Side:
    """A worker process that executes one command at a time."""

    def __init__(self, side: str, threads: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], "--worker", side],
            env=os.environ | threads,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, words: str) -> dict[str, Any]:
        """Send a command; return its answer."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"The worker ended with {self.process.wait()}.")
        return json.loads(line)


def measure(arguments: argparse.Namespace) -> None:
    """Run both sides in turns, and print the table."""
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    threads: dict[str, str] = {}
    if arguments.threads:
        threads = dict.fromkeys(names, str(arguments.threads))
    ours, plain = Side("ours", threads), Side("plain", threads)
    with tempfile.TemporaryDirectory() as folder:
        sides = [(ours, ours.ask(f"start {folder}"))]
        sides.append((plain, plain.ask(f"start {folder}")))
    gflop, count = sides[0][1]["gflop"], arguments.steps * arguments.batch_size
    print(
        f"ML-Net {arguments.rows}x{arguments.cols}, "
        f"{'frozen' if arguments.frozen else 'fine-tuned'}, batch {arguments.batch_size}, "
        f"{arguments.precision}: {sides[0][1]['forward_gflop']:.1f} GFLOP forward, {gflop:.1f} a "
        f"training step, a picture; the same weights predict the same to "
        f"{sides[1][1]['difference']:.1g} of the maximum\n"
    )
    for side, _ in sides:
        side.ask("steps")  # compiles
    plain.ask("product")
    times: list[list[tuple[float, float]]] = [[], []]
    ceilings: list[tuple[float, float]] = []
    for _ in range(arguments.repetitions):
        for (side, _), kept in zip(sides, times, strict=True):
            product = plain.ask("product")
            ceilings.append(tuple(product["gflop"] / product[t] for t in ("wall", "processor")))  # type: ignore
            found = side.ask("steps")
            kept.append((count / found["wall"], count / found["processor"]))
    print("| step | images/s | a processor-second | utilisation, wall | processor | peak MiB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    ceiling = [median(c) for c in zip(*ceilings, strict=True)]
    rates = [[median(t) for t in zip(*kept, strict=True)] for kept in times]
    for (side, about), rate in zip(sides, rates, strict=True):
        memory = side.ask("memory")
        device = f" + {memory['device']:.0f} on the device" if memory["device"] else ""
        shares = [gflop * r / c for r, c in zip(rate, ceiling, strict=True)]
        print(
            f"| {about['name']} | {rate[0]:.2f} | {rate[1]:.2f} | {shares[0]:.0%} | "
            f"{shares[1]:.0%} | {memory['peak']:.0f}{device} |"
        )
    pairs = [
        [a[i] / b[i] for a, b in zip(*times, strict=True)] for i in range(2)
    ]  # ratios of consecutive turns
    print(
        f"\nceiling: {ceiling[0]:.0f} GFLOP/s by the clock, {ceiling[1]:.0f} a processor-second "
        f"({PRODUCT['cpu']} or, on a GPU, {PRODUCT['cuda']} rows)\n"
        f"ours over plain: {median(pairs[0]):.2f} by the clock ({min(pairs[0]):.2f} to "
        f"{max(pairs[0]):.2f}), {median(pairs[1]):.2f} in processor time ({min(pairs[1]):.2f} to "
        f"{max(pairs[1]):.2f})"
    )


def main() -> None:
    """Run the benchmark, or one of its workers."""
    parser = argparse.ArgumentParser(description="Time ML-Net's training step beside PyTorch's.")
    parser.add_argument("--rows", type=int, default=240)
    parser.add_argument("--cols", type=int, default=320)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2, help="steps of each side per turn")
    parser.add_argument("--repetitions", type=int, default=5, help="turns of each side")
    parser.add_argument("--precision", choices=list(TOLERANCE), default="float32")
    parser.add_argument("--xla", choices=["auto", "on", "off"], default="auto")
    parser.add_argument("--micro_batch", type=int, help="ours only")
    parser.add_argument("--steps_per_execution", type=int, default=1, help="ours only")
    parser.add_argument("--frozen", action="store_true", help="train only the head")
    parser.add_argument("--channels_last", action="store_true", help="PyTorch's memory format")
    parser.add_argument("--threads", type=int, help="threads of each side; default: one per core")
    parser.add_argument("--worker", choices=["ours", "plain"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    work(arguments.worker, arguments) if arguments.worker else measure(arguments)


if __name__ == "__main__":
    main()

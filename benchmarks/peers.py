"""Speed, memory and start of published networks and of ours, by engine, on the same pictures.

    python benchmarks/peers.py [--data PATH/TO/PICTURES]

MSI-Net (Kroner et al., Neural Networks 2020, arXiv 1902.06634) and UNISAL (Droste et al., ECCV
2020, arXiv 2003.05477; the path of still pictures) are written plainly in PyTorch below, from their
papers. What those leave open, such as where skips begin, follows the authors' programs. All
networks have random weights, which do not affect the speed, and the same input size. Ours is ML-Net
at full width. Each side runs in a process of its own, and the sides take turns. A
side reads a picture file, places it in the input, and computes the map of the network, one picture
at a time. A float32 matrix product on all cores is timed between the turns.

The table shows medians over the rounds. The first start lasts from the start of a process with an
empty cache to the first map; ours then makes the engine's copy of the network. A start is the same
with what the first one has kept.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent.parent
if not __package__:  # run as a file: the program is not in this folder
    sys.path[0] = str(HERE)

import numpy as np

from benchmarks.engines import ENGINES, end, gflops, loaded, one_round

PEERS = ("MSI-Net", "UNISAL")
MADE = 24  # pictures that are made if none are given
# MobileNetV2's stages (Sandler et al., 2018, table 2): expansion, channels, blocks, stride
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
          (6, 320, 1, 1))  # fmt: skip
# means and standard deviations of UNISAL's priors, in shares of the picture, before training:
# (row, column), (logarithms of both)
PRIORS = (
    [((y / 4, x / 4), (-1.5, -1.5)) for y in (1, 2, 3) for x in (1, 2, 3)]
    + [((0.5, x / 4), (0.0, -1.5)) for x in (1, 2, 3)]
    + [((y / 4, 0.5), (-1.5, 0.0)) for y in (1, 2, 3)]
    + [((0.5, 0.5), (0.0, 0.0))]
)


def msinet() -> Any:
    """Return MSI-Net: pictures [b, 3, rows, cols] in BGR from 0 to 255 to maps [b, 1, rows, cols].

    VGG16 without its last two reductions, with a dilated fifth block; parallel dilated convolutions
    and the mean of the picture; a decoder of three steps (figure 2 of the paper).
    """
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]
    from torch.nn import functional  # pyright: ignore[reportMissingImports]

    def conv(before: int, after: int, size: int = 3, dilation: int = 1) -> Any:
        padding = dilation * (size // 2)
        layer = nn.Conv2d(before, after, size, padding=padding, dilation=dilation)
        return nn.Sequential(layer, nn.ReLU(inplace=True))

    def block(before: int, after: int, depth: int, dilation: int = 1) -> Any:
        sizes = [before] + [after] * depth
        pairs = itertools.pairwise(sizes)
        return nn.Sequential(*[conv(a, b, dilation=dilation) for a, b in pairs])

    class MSINet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean: Any
            self.register_buffer(
                "mean", torch.tensor([103.939, 116.779, 123.68]).reshape(1, 3, 1, 1)
            )
            reduction = nn.MaxPool2d(2)
            self.block3 = nn.Sequential(
                block(3, 64, 2), reduction, block(64, 128, 2), reduction, block(128, 256, 3),
                reduction,
            )  # fmt: skip
            self.block4, self.block5 = block(256, 512, 3), block(512, 512, 3, dilation=2)
            self.branches: Any = nn.ModuleList(
                [conv(1280, 256, 1)] + [conv(1280, 256, dilation=d) for d in (4, 8, 12)]
            )
            self.context, self.joined = conv(1280, 256, 1), conv(1280, 256, 1)
            self.decoder: Any = nn.ModuleList([conv(256, 128), conv(128, 64), conv(64, 32)])
            self.last = nn.Conv2d(32, 1, 3, padding=1)

        def forward(self, x: Any) -> Any:
            same = lambda x: functional.max_pool2d(functional.pad(x, (0, 1, 0, 1)), 2, 1)  # noqa: E731
            third = self.block3(x - self.mean)  # [b, 256, rows / 8, cols / 8], as all that follow
            fourth = same(self.block4(third))
            fifth = same(self.block5(fourth))
            x = torch.cat([third, fourth, fifth], 1)
            mean = self.context(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
            x = self.joined(torch.cat([*(branch(x) for branch in self.branches), mean], 1))
            for layer in self.decoder:
                x = layer(functional.interpolate(x, scale_factor=2, mode="bilinear"))
            x = self.last(x)
            x = x - x.amin((1, 2, 3), keepdim=True)
            return x / (x.amax((1, 2, 3), keepdim=True) + 1e-7)

    return MSINet()


def unisal() -> Any:
    """Return UNISAL for still pictures: as `msinet`; the maps are logarithms of densities.

    MobileNetV2 with 16 Gaussian priors at 1/32, and a decoder that takes features at 1/16 and 1/8.
    The recurrent layer is bypassed, as for still pictures (section 3 of the paper).
    """
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]
    from torch.nn import functional  # pyright: ignore[reportMissingImports]

    def pointwise(before: int, after: int) -> list[Any]:
        return [nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after)]

    class Inverted(nn.Module):
        """An inverted residual; the caller reduces its output, after a skip has been taken."""

        def __init__(self, before: int, after: int, expansion: int, residual: bool = True) -> None:
            super().__init__()
            hidden = before * expansion
            first = [*pointwise(before, hidden), nn.ReLU6(inplace=True)] if expansion > 1 else []
            depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False)
            self.layers = nn.Sequential(
                *first, depthwise, nn.BatchNorm2d(hidden), nn.ReLU6(inplace=True),
                *pointwise(hidden, after),
            )  # fmt: skip
            self.residual = residual and before == after

        def forward(self, x: Any) -> Any:
            return x + self.layers(x) if self.residual else self.layers(x)

    class UNISAL(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean: Any
            self.deviation: Any
            of_imagenet = {"mean": (0.406, 0.456, 0.485), "deviation": (0.225, 0.224, 0.229)}
            for name, values in of_imagenet.items():
                self.register_buffer(name, 255 * torch.tensor(values).reshape(1, 3, 1, 1))
            first = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
            self.first = nn.Sequential(first, nn.BatchNorm2d(32), nn.ReLU6(inplace=True))
            self.blocks: Any = nn.ModuleList()
            self.strides, before = [], 32
            for expansion, channels, count, stride in STAGES:
                for i in range(count):
                    self.blocks.append(Inverted(before, channels, expansion, residual=i > 0))
                    self.strides.append(stride if i == 0 else 1)
                    before = channels
            self.encoded = nn.Sequential(*pointwise(320, 1280), nn.ReLU6(inplace=True))
            self.priors = nn.Parameter(torch.tensor(PRIORS))  # [16, mean or deviation, y or x]
            self.after_encoder = Inverted(1280 + len(PRIORS), 256, 1)
            self.skip_16, self.skip_8 = self.skip(160, 128), self.skip(64, 64)
            self.decoder_16, self.decoder_8 = Inverted(384, 128, 2), Inverted(192, 64, 2)
            self.adaptation = nn.Conv2d(64, 1, 1)
            self.smoothing = nn.Conv2d(1, 1, 41, bias=False)

        @staticmethod
        def skip(before: int, after: int) -> Any:
            reduced = [nn.Conv2d(2 * before, after, 1), nn.BatchNorm2d(after)]
            return nn.Sequential(
                *pointwise(before, 2 * before), nn.ReLU6(inplace=True), nn.Dropout2d(0.6), *reduced
            )

        def prior_maps(self, rows: int, cols: int) -> Any:
            """Return the Gaussians on a grid, [16, rows, cols]."""
            device = self.priors.device
            axes = [torch.linspace(0, 1, n, device=device) for n in (rows, cols)]
            mean, deviation = self.priors[:, 0, :, None], self.priors[:, 1, :, None].exp()
            y, x = (
                torch.exp(-(((axis - mean[:, i]) / deviation[:, i]) ** 2) / 2)
                for i, axis in enumerate(axes)
            )
            return 6 * y[:, :, None] * x[:, None, :]

        def forward(self, x: Any) -> Any:
            size, skips = x.shape[2:], {}
            x = self.first((x - self.mean) / self.deviation)
            for block, stride in zip(self.blocks, self.strides, strict=True):
                x = block(x)
                if stride == 2:
                    skips[x.shape[1]] = x
                    x = x[..., ::2, ::2]
            x = self.encoded(x)
            priors = self.prior_maps(*x.shape[2:]).expand(len(x), -1, -1, -1)
            x = self.after_encoder(torch.cat([x, priors], 1))

            def wider(x: Any, other: Any) -> Any:
                shape = other.shape[2:]
                return torch.cat([functional.interpolate(x, shape, mode="bilinear"), other], 1)

            x = self.decoder_16(wider(x, self.skip_16(skips[160])))
            x = self.decoder_8(wider(x, self.skip_8(skips[64])))
            x = functional.interpolate(self.adaptation(x), size, mode="nearest")
            x = self.smoothing(functional.pad(x, [20] * 4, mode="replicate"))
            return functional.log_softmax(x.flatten(1), 1).reshape(x.shape)

    return UNISAL()


def peer(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the prediction function of a published network, as `Engine.maps`."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = {"MSI-Net": msinet, "UNISAL": unisal}[name]().eval().to(device)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):  # the default's values fade from layer to layer
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def maps(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            x = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).float()
            return network(x).permute(0, 2, 3, 1).cpu().numpy()

    return maps


def serve(given: argparse.Namespace) -> None:
    """Run one side: predict the pictures for each line of input; answer with seconds and memory."""
    from salience.pictures.letterbox import preprocess
    from salience.pictures.picture_files import read_image

    size = given.rows, given.cols
    maps = peer(given.serve) if given.serve in PEERS else loaded(given.serve, given.weights).maps
    paths = pictures_of(given.data, given.pictures)

    def work(path: Path) -> None:
        x, _ = preprocess(read_image(path), size)
        found = maps(x[None])
        assert np.isfinite(found).all()

    work(paths[0])
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        for path in paths:
            work(path)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        memory = getrusage(RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"wall": wall, "processor": processor, "memory": memory}), flush=True)


def pictures_of(folder: Path, count: int) -> list[Path]:
    """Return the first pictures of a folder."""
    return sorted(p for p in folder.rglob("*") if p.suffix in (".jpg", ".png"))[:count]


def make_pictures(folder: Path, count: int) -> None:
    """Write smooth random JPEGs of 800 x 600."""
    import cv2

    rng = np.random.default_rng(0)
    for i in range(count):
        noise = rng.integers(0, 256, (600, 800, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i}.jpg"), cv2.GaussianBlur(noise, (0, 0), 3))


def started(name: str, given: argparse.Namespace, weights: Path) -> tuple[Any, float]:
    """Start the process of a side; return it after its first map, and the seconds until then."""
    words = [str(HERE / "benchmarks/peers.py"), "--data", str(given.data), "--pictures",
             str(given.pictures), "--rows", str(given.rows), "--cols", str(given.cols), "--serve",
             name, "--weights", str(weights)]  # fmt: skip
    began = time.perf_counter()
    side: Any = subprocess.Popen(
        [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if not side.stdout.readline():
        raise SystemExit(f"{name}: the process ended with {side.wait()}.")
    return side, time.perf_counter() - began


def compare(given: argparse.Namespace, scratch: Path) -> None:
    """Start all sides, run them in turns, and print the table."""
    os.environ["SALIENCY_CACHE"] = str(scratch / "cache")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as in main.py
    if given.data is None:
        given.data = scratch / "pictures"
        given.data.mkdir()
        make_pictures(given.data, given.pictures)
    weights = scratch / "mlnet.weights.h5"
    code = (
        "from benchmarks.engines import make_weights; from pathlib import Path; "
        f"make_weights(Path({str(weights)!r}), {given.rows}, {given.cols})"
    )
    subprocess.run([sys.executable, "-c", code], cwd=HERE, check=True, capture_output=True)
    names = [*PEERS, *given.engines]
    sides, first, later = {}, {}, {}
    for name in names:
        side, first[name] = started(name, given, weights)
        end({name: side})
        sides[name], later[name] = started(name, given, weights)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    speeds, count = [], len(pictures_of(given.data, given.pictures))
    for _ in range(given.rounds):
        for name, side in sides.items():
            speeds.append(gflops())
            rows[name].append(one_round(side))
    end(sides)
    print(
        f"{count} pictures, {given.rows} x {given.cols}, one at a time; a matrix product between: "
        f"{min(speeds):.0f} to {max(speeds):.0f} GFLOP/s\n\n"
        "| network | engine | images/s | processor ms a picture | peak memory, MB | first start, s "
        "| start, s |\n| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    )
    for name in names:
        own = rows[name]
        network, engine = (name, "PyTorch") if name in PEERS else ("ML-Net, ours", name)
        print(
            f"| {network} | {engine} | {median(count / row['wall'] for row in own):.2f} "
            f"| {1000 * median(row['processor'] for row in own) / count:.0f} "
            f"| {max(row['memory'] for row in own):.0f} | {first[name]:.1f} | {later[name]:.1f} |"
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Time published networks beside ours.")
    parser.add_argument("--data", type=Path, help="folder of pictures; default: some are made")
    parser.add_argument("--pictures", type=int, default=MADE)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=240)
    parser.add_argument("--cols", type=int, default=320)
    parser.add_argument("--engines", nargs="*", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--serve", help=argparse.SUPPRESS)  # internal: name of the side
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return serve(given)
    with tempfile.TemporaryDirectory() as scratch:
        compare(given, Path(scratch))


if __name__ == "__main__":
    main()

"""CPU time of our metrics and pysaliency's on one picture.

In the throw-away environment that benchmarks/measures/parity.py describes:

    /tmp/parity/bin/python benchmarks/measures/metrics.py

prints two tables in Markdown. The first shows the CPU time of all threads per metric, in
milliseconds, for a picture of 600 x 800 pixels with 140 fixations. The two libraries take turns,
and the minimum of the repeats counts, because other load can only increase the time. pysaliency is
measured by its fastest functions, on arrays, without its models and their caches. For AUC, that is
the routine of `SaliencyMapModel.AUCs`; `AUC_per_image`, which `AUC` calls, has a line of its own.
The second table shows seconds for many pictures, with one thread and with all cores. Without
pysaliency, the first table shows only our metrics, including SSIM and EMD.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if not __package__:  # run as a file: the program is not in this folder
    sys.path[0] = str(ROOT)

import numpy as np
from numpy.typing import NDArray

from benchmarks.measures.parity import import_pysaliency
from salience.measures.metrics import (
    METRICS,
    auc_borji,
    auc_judd,
    cc,
    ig,
    kld,
    mse,
    nss,
    sauc,
    score,
    sim,
)
from salience.pictures.fixations import density_map

SHAPE = (600, 800)
FIXATIONS = 140
OTHERS = 28_000  # the number of fixations of 200 such pictures
SHARED = ("auc_judd", "sauc", "nss", "cc", "sim", "kld", "ig")
Task = Callable[[], object]


def picture(seed: int) -> dict[str, NDArray]:
    """Return a smooth map without ties, its ground truth, and fixations of other pictures."""
    rng = np.random.default_rng(seed)
    rows, columns = SHAPE

    def looks(count: int) -> NDArray:
        points = rng.normal((columns / 2, rows / 2), (columns / 6, rows / 6), (count, 2))
        return points.clip(0, (columns - 1, rows - 1))

    points, others = looks(FIXATIONS), looks(OTHERS)
    noise = rng.random(SHAPE)
    return {
        "saliency_map": density_map(points[::2], SHAPE, 24.0) + 0.02 * noise + 1e-3,
        "density_map": density_map(points, SHAPE, 24.0).astype(np.float64) + 1e-9,
        "fixations": points,
        "others": others,
        "baseline": density_map(others, SHAPE, 24.0).astype(np.float64) + 1e-2,
    }


def our_tasks(scene: dict[str, NDArray]) -> dict[str, Task]:
    """Return a function for each of our metrics."""
    saliency, density, points, others, baseline = scene.values()
    return {
        "auc_judd": partial(auc_judd, saliency, points),
        "sauc": partial(sauc, saliency, points, others),
        "nss": partial(nss, saliency, points),
        "cc": partial(cc, saliency, density),
        "sim": partial(sim, saliency, density),
        "kld": partial(kld, saliency, density),
        "ig": partial(ig, saliency, points, baseline),
        "auc_borji": partial(auc_borji, saliency, points),
        "mse": partial(mse, saliency, density),
    }


def their_tasks(scene: dict[str, NDArray]) -> dict[str, Task]:
    """Return a function for each of pysaliency's metrics on the same data."""
    import_pysaliency()
    from pysaliency import metrics as theirs  # type: ignore[import-not-found]
    from pysaliency.roc import (  # type: ignore[import-not-found]
        general_roc,
        general_rocs_per_positive,
    )

    saliency, density, points, others, baseline = scene.values()
    columns, rows = (points + 0.5).astype(int).T
    other_columns, other_rows = others.T + 0.5  # not rounded: its sAUC rounds them for each picture

    def negatives() -> NDArray:
        return saliency[other_rows.astype(int), other_columns.astype(int)]

    def information_gain() -> float:
        own, base = (
            np.log(theirs.convert_saliency_map_to_density(values))
            for values in (saliency, baseline)
        )
        return ((own - base)[rows, columns] / np.log(2)).mean()

    def positives() -> NDArray:
        return saliency[rows, columns]

    return {
        "auc_judd": lambda: general_rocs_per_positive(positives(), saliency.flatten()).mean(),
        "sauc": lambda: general_rocs_per_positive(positives(), negatives()).mean(),
        "nss": lambda: theirs.NSS(saliency, columns, rows).mean(),
        "cc": lambda: theirs.CC(saliency, density),
        "sim": lambda: theirs.SIM(saliency, density),
        "kld": lambda: theirs.MIT_KLDiv(saliency, density),
        "ig": information_gain,
        "AUC_per_image": lambda: general_roc(positives(), saliency.flatten())[0],
    }


def cpu_milliseconds(*tasks: Task, repeats: int) -> list[float]:
    """Return the minimum CPU time of tasks that take turns, milliseconds over all threads."""
    least = [np.inf] * len(tasks)
    for repeat in range(repeats + 1):
        for index, task in enumerate(tasks):
            start = time.process_time()
            task()
            spent = 1000 * (time.process_time() - start)
            if repeat:  # the first run is a warm-up
                least[index] = min(least[index], spent)
    return least


def print_side_by_side(repeats: int) -> None:
    """Print the table of both libraries, with a line per metric and the sum."""
    scene = picture(0)
    mine, their = our_tasks(scene), their_tasks(scene)
    for name in SHARED:
        np.testing.assert_allclose(mine[name](), their[name](), atol=1e-6, err_msg=name)  # type: ignore[arg-type]
    spent = np.array([cpu_milliseconds(mine[n], their[n], repeats=repeats) for n in SHARED])
    whole, full = cpu_milliseconds(
        lambda: [mine[name]() for name in SHARED], their["AUC_per_image"], repeats=repeats
    )
    print("| metric | ours, ms | pysaliency, ms | times faster |")
    print("| --- | ---: | ---: | ---: |")
    for name, (ours, theirs) in zip(SHARED, spent, strict=True):
        print(f"| {METRICS[name].name} | {ours:.2f} | {theirs:.2f} | {theirs / ours:.1f} |")
    ours, theirs = spent.sum(axis=0)
    print(f"| **sum** | **{ours:.2f}** | **{theirs:.2f}** | **{theirs / ours:.1f}** |")
    slower = theirs - spent[0, 1] + full
    print(f"| sum, AUC by `AUC_per_image` | {ours:.2f} | {slower:.2f} | {slower / ours:.1f} |")
    print(f"\nOur seven one after the other, measured as one: {whole:.2f} ms.")


def print_ours(repeats: int) -> None:
    """Print the table of our metrics, including SSIM and EMD if their libraries are installed."""
    scene = picture(0)
    tasks = our_tasks(scene)
    saliency, density = scene["saliency_map"], scene["density_map"]
    for name, library in (("ssim", "skimage"), ("emd", "ot")):
        if find_spec(library):
            tasks[name] = partial(METRICS[name].function, saliency, density)
    print("| metric | ms |\n| --- | ---: |")
    for name, task in tasks.items():
        print(f"| {METRICS[name].name} | {cpu_milliseconds(task, repeats=repeats)[0]:.2f} |")


def print_all_cores(pictures: int) -> None:
    """Print the seconds for many pictures without EMD and SSIM, by number of threads."""
    scenes = [picture(seed) for seed in range(pictures)]
    names = [*SHARED, "auc_borji", "mse"]

    def score_one(scene: dict[str, NDArray]) -> dict[str, float]:
        truth = (scene["saliency_map"], scene["density_map"], scene["fixations"])
        return score(*truth, names, others=scene["others"], baseline=scene["baseline"])

    cores = os.cpu_count() or 1
    print("| threads | seconds | pictures/s | times faster | CPU seconds |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    alone = 0.0
    for threads in sorted({1, cores}):
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(score_one, scenes[:threads]))
            wall, cpu = time.perf_counter(), time.process_time()
            list(pool.map(score_one, scenes))
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        alone = alone or wall
        print(
            f"| {threads} | {wall:.2f} | {pictures / wall:.1f} | {alone / wall:.2f} | {cpu:.2f} |"
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Measure the CPU time of the metrics.")
    parser.add_argument(
        "--repeats", type=int, default=30, help="repeats, of which the minimum counts"
    )
    parser.add_argument("--pictures", type=int, default=64, help="pictures of the second table")
    arguments = parser.parse_args()
    print(
        f"One picture of {SHAPE[0]} x {SHAPE[1]} pixels, {FIXATIONS} fixations, {OTHERS} of other "
        f"pictures; NumPy {np.__version__}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}\n"
    )
    if find_spec("pysaliency"):
        print_side_by_side(arguments.repeats)
    else:
        print_ours(arguments.repeats)
    print()
    print_all_cores(arguments.pictures)


if __name__ == "__main__":
    main()

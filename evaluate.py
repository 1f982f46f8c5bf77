"""What `evaluate` does: score a model on a split, beside the centre bias of the training split."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import datasets
import weight_files
from checkpoint import as_csv
from config import EvaluateConfig, to_json
from files import make_folder, write_json, write_text
from fixations import centre_bias
from metrics import METRICS, mean_scores, score
from model import load_model
from pictures import sample_density, sample_image
from sample import Sample
from utilities import Letterbox, postprocess, preprocess

SCORED = ("cc", "nss", "auc_judd", "sim", "kld")
MODEL, CENTRE_BIAS = "model", "centre bias"
Rows = list[dict[str, float]]


def evaluate(settings: EvaluateConfig, say: Callable[[str], None] = print) -> dict[str, Rows]:
    """Score a model and the centre bias, picture by picture at original size, and print the means.

    Args:
        settings: the model, the data and where to write.
        say: gets each line of news.

    Returns:
        The metrics of each picture, by the name of what was scored.

    Raises:
        UserError: the data or the weights are not usable, or the output cannot be written.
    """
    samples = load_split(settings, settings.split)
    centre = training_centre_bias(load_split(settings, "train"))
    if settings.output:
        make_folder(settings.output)
    weights = weight_files.choose(settings.weights, settings.weights_dir, say)
    rows = score_pictures(load_model(weights), centre, samples, settings)
    names = {MODEL: weight_files.card_path(weights).stem, CENTRE_BIAS: CENTRE_BIAS}
    results = {names[key]: [row[key] for row in rows] for key in rows[0]}
    say(table(results, f"{len(samples)} pictures of {settings.dataset}, {settings.split} split"))
    if settings.output:
        write(settings.output, results, samples, settings)
        say(f"wrote {settings.output}/metrics.json and {settings.output}/per_image.csv")
    return results


def load_split(settings: EvaluateConfig, split: str) -> list[Sample]:
    """Return the samples of a split."""
    return datasets.load(settings.dataset, settings.data, split, settings.split_seed)


def training_centre_bias(training: list[Sample]) -> NDArray[np.floating] | None:
    """Return the density of all training fixations, or None where there are none."""
    with_fixations = [s for s in training if s.fixations is not None]
    if not with_fixations:
        return None
    shapes = [sample_image(s).shape[:2] for s in with_fixations]
    pictures = [(s.fixations, shape) for s, shape in zip(with_fixations, shapes, strict=True)]
    return centre_bias(pictures, shapes[0], with_fixations[0].sigma_pixels)  # type: ignore[arg-type]


def score_pictures(
    model: Any, centre: NDArray | None, samples: list[Sample], settings: EvaluateConfig
) -> list[dict[str, dict[str, float]]]:
    """Return the metrics of each picture, of the model and of the centre bias.

    Args:
        model: from `load_model`.
        centre: the centre bias, at any size, or None.
        samples: the pictures.
        settings: reads batch_size, workers, smooth and sigma_pixels.
    """

    def read(sample: Sample) -> tuple[NDArray, Letterbox]:
        return preprocess(sample_image(sample), model.input_shape[1:3])

    def score_one(
        sample: Sample, prediction: NDArray, box: Letterbox
    ) -> dict[str, dict[str, float]]:
        density = sample_density(sample, box.image_shape, settings.sigma_pixels)
        maps = {MODEL: postprocess(prediction, box, settings.smooth)}
        if centre is not None:
            maps[CENTRE_BIAS] = np.asarray(cv2.resize(centre, box.image_shape[::-1]), np.float32)
        return {
            name: score(values, density, sample.fixations, SCORED) for name, values in maps.items()
        }

    bar = tqdm(total=len(samples), unit="images", disable=not sys.stderr.isatty())
    rows: list[dict[str, dict[str, float]]] = []
    with bar, ThreadPoolExecutor(settings.workers) as pool:
        for start in range(0, len(samples), settings.batch_size):
            batch = samples[start : start + settings.batch_size]
            inputs, boxes = zip(*pool.map(read, batch), strict=True)
            # one prediction a picture serves all metrics
            predictions = np.asarray(model.predict_on_batch(np.stack(inputs)))
            rows += pool.map(score_one, batch, predictions, boxes)
            bar.update(len(batch))
    return rows


def table(results: dict[str, Rows], caption: str) -> str:
    """Return the means as text, a line for each thing scored."""
    width = max(len(name) for name in results)
    lines = [caption, " " * width + "".join(f"{METRICS[m].name:>10}" for m in SCORED)]
    for name, rows in results.items():
        lines.append(f"{name:<{width}}" + "".join(f"{v:10.3f}" for v in mean_scores(rows).values()))
    return "\n".join(lines)


def write(
    folder: Path, results: dict[str, Rows], samples: list[Sample], settings: EvaluateConfig
) -> None:
    """Write the means as metrics.json and the pictures' rows as per_image.csv."""
    write_json(
        folder / "metrics.json",
        {
            "settings": to_json(settings),
            "pictures": len(samples),
            "means": {name: mean_scores(rows) for name, rows in results.items()},
        },
    )
    write_text(
        folder / "per_image.csv",
        as_csv(
            [
                {"picture": sample.name, "scored": name, **row}
                for name, rows in results.items()
                for sample, row in zip(samples, rows, strict=True)
            ]
        ),
    )

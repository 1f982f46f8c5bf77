"""Scores of a network on the validation pictures, after each epoch."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from commands.evaluation.map_sources import ModelMaps
from commands.evaluation.scored_split import pictures_of_training
from commands.settings import EvaluateConfig
from commands.training.devices import Devices
from commands.training.objective import loss_function, own_maps, training_metrics
from config import BUILT_IN, TABLE_SETS, Config, trained_config
from salience.measures.metrics import METRICS, mean_scores, score
from salience.networks import weight_files
from salience.networks.losses import nll
from salience.pictures.fixations import blurred
from salience.pictures.letterbox import Letterbox
from salience.pictures.reading import sample_density, sample_image, sample_shape
from salience.system.errors import Interrupted, UserError
from salience.system.signals import Stop
from salience.system.terminal import progress
from salience.system.threads import in_order
from utilities import SaliencyBatches, postprocess

VALIDATED = ("cc", "nss", "auc_judd")
GRID_PICTURES = 4
AHEAD, BEHIND = 3, 3  # batches read before, and scored after, the one in the network
KEPT_BYTES = 10**9  # of density maps at their pictures' size, kept between validations
# the centre bias that the information gain of each set is over: standard deviation of its blur, in
# widths of the output (OSIE's is 24 pixels of 800), and its share of the uniform density
BASELINE_BLUR, BASELINE_UNIFORM = 0.03, 0.01


def scores_line(row: dict[str, float]) -> str:
    """Return an epoch's validation results as text."""
    scores = "  ".join(f"{METRICS[n].name} {row[f'val_{n}']:.3f}" for n in VALIDATED)
    gains = "  ".join(
        f"IG {key.removeprefix('val_ig_')} {value:.3f}"
        for key, value in row.items()
        if key.startswith("val_ig_")
    )
    return f"validation loss {row['val_loss']:.4f}  {scores}{'  ' + gains if gains else ''}"


def centre_biases(training: SaliencyBatches, sets: int) -> list[NDArray]:
    """Return the centre bias of each data set on the output's grid, [rows, columns], sum 1.

    It is the blurred density of the set's training fixations, with a share of uniform density.

    Args:
        training: the training pictures.
        sets: number of data sets.
    """
    found = []
    for number in range(sets):
        counts: Any = 0
        for i, sample in enumerate(training.samples):
            if training.set_of(i) == number:
                box = Letterbox.fit(sample_shape(sample), training.input_shape)
                counts = counts + training.truth(i, box)[..., 1]
        density = blurred(counts, BASELINE_BLUR * counts.shape[1]).astype(np.float64)
        density /= max(density.sum(), 1e-12)
        found.append((1 - BASELINE_UNIFORM) * density + BASELINE_UNIFORM / density.size)
    return found


def score_shipped(
    config: Config, batches: SaliencyBatches, stop: Stop, say: Callable[[str], None]
) -> dict[str, Any]:
    """Return the scores of the included network on the validation pictures, at their original size.

    Returns {} if there is no included network, for synthetic scenes, if the network was trained on
    one of the pictures, if pictures cannot be read, or after a signal.

    Args:
        config: settings of the training to compare with.
        batches: the validation pictures.
        stop: true after a signal to end.
        say: called with each message.
    """
    if config.dataset_name in BUILT_IN:
        return {}
    included = weight_files.SHIPPED
    if not included.is_file():
        say("there is no included network to score on the validation pictures")
        return {}
    samples, rows = batches.samples, []
    try:
        if seen := sum(counts_of_training(included, config, batches)):
            say(
                f"the included network was trained on {seen} of the {len(samples)} validation "
                "pictures, so it is not compared"
            )
            return {}
        say("scoring the included network on the validation pictures, for comparison")
        source = ModelMaps(
            included, weight_files.name_of(included), config.batch_size, config.workers
        )
        shapes = [sample_shape(sample) for sample in samples]
        with progress(len(samples), "included network") as bar:
            found = source.maps(samples, shapes)
            for sample, shape, saliency_map in zip(samples, shapes, found, strict=True):
                if stop:
                    raise UserError("a signal was received.")
                density = sample_density(sample, shape, config.gaussian_pixels)
                rows.append(score(np.asarray(saliency_map), density, sample.fixations, VALIDATED))
                bar.update()
    except UserError as error:
        say(f"the included network is not scored on the validation pictures: {error}")
        return {}
    means = {f"val_{name}": mean for name, mean in mean_scores(rows, VALIDATED).items()}
    return {"weights": source.name, "sha256": source.digest, "pictures": len(rows), **means}


def counts_of_training(weights: Path, config: Config, batches: SaliencyBatches) -> Iterator[int]:
    """Yield for each data set of a run how many of its pictures other weights were trained on."""
    trained = trained_config(weights)
    for (name, root), own in zip(config.sets, batches.samples_by_set, strict=True):
        columns = config.columns if name in TABLE_SETS else ""
        where = EvaluateConfig(dataset=name, data=root, columns=columns, workers=config.workers)
        yield len(pictures_of_training(trained, where, own, weights)["train"])


class Validator:
    """Scores the network on the validation pictures, at their original size.

    Args:
        config: settings of the run.
        batches: the validation pictures.
        devices: devices of the run.
        training: the training pictures, whose fixations make the centre bias of each data set;
            needed to score each set of a joint training of a network with their numbers.
    """

    def __init__(
        self,
        config: Config,
        batches: SaliencyBatches,
        devices: Devices,
        training: SaliencyBatches | None = None,
    ) -> None:
        self.config, self.batches, self.devices = config, batches, devices
        self.training = training if batches.marks_sets else None
        self.baselines: list[NDArray] = []  # centre bias of each data set, on the output's grid
        self.loss = loss_function(config.model, config.loss)
        self.grid: list = []
        self.kept: dict[int, NDArray] = {}  # density maps by index of the picture

    def validate(self, model: keras.Model, stop: Stop | None = None) -> dict[str, float]:
        """Return `val_loss` and the mean metrics, from one prediction per picture.

        Args:
            model: the fitted model.
            stop: true after a signal to end.

        Raises:
            Interrupted: a signal was received.
            UserError: the loss of a picture is not finite.
        """
        own_metrics = training_metrics(self.config.model)
        columns = [*VALIDATED, "loss", *(metric.__name__ for metric in own_metrics)]
        if self.training:
            columns.append("ig")
        functions = [self.loss, *own_metrics, *([self.gain] if self.training else [])]
        own_indices = self.devices.share(range(len(self.batches)))
        ahead = min(AHEAD, self.batches.max_queue_size)  # fewer of features, which are large
        bar = progress(
            len(own_indices) * self.config.batch_size, "validation", shown=self.devices.is_chief
        )
        table: list[list[float]] = []
        self.grid = []
        with (
            bar,
            ThreadPoolExecutor(ahead) as makers,
            ThreadPoolExecutor(self.config.workers) as readers,
            ThreadPoolExecutor(self.config.workers) as scorers,
        ):
            scored: deque[tuple[list[Future], list]] = deque()  # of batches not yet in the table

            def collect(most: int) -> None:
                """Wait for scores until those of `most` batches are left."""
                while len(scored) > most:
                    futures, by_picture = scored.popleft()
                    for future, *values in zip(futures, *by_picture, strict=True):
                        row, picture = future.result()
                        table.append([*(row[name] for name in VALIDATED), *values])
                        self.grid += [picture] if picture else []
                    bar.update(len(futures))

            # the next batches are read, and the last ones scored, while the network runs
            read = partial(self.batches.read, 0, readers=readers)
            for index, (x, y) in in_order(makers, read, own_indices, ahead):
                if stop:
                    makers.shutdown(cancel_futures=True)
                    scorers.shutdown(cancel_futures=True)
                    raise Interrupted("in the validation")
                predicted = self.devices.predict(model, x)
                by_picture = [
                    keras.ops.convert_to_numpy(function(y, predicted)).tolist()
                    for function in functions
                ]
                predicted = np.asarray(own_maps(self.config.model, y, predicted))
                first = index * self.config.batch_size
                places = range(first, first + len(predicted))
                futures = [
                    scorers.submit(self.score, i, one)
                    for i, one in zip(places, predicted, strict=True)
                ]
                scored.append((futures, by_picture))
                collect(BEHIND)
            collect(0)
        # the training loss includes the regulariser; add it, so that both losses can be compared
        penalty = sum(float(keras.ops.convert_to_numpy(p)) for p in model.losses)
        gathered = self.devices.gather(np.array(table).reshape(-1, len(columns)))
        values = dict(zip(columns, gathered.T, strict=True))
        self.check_finite(values["loss"])
        scores = [dict(zip(columns, row, strict=True)) for row in gathered.tolist()]
        means = mean_scores(scores, VALIDATED)
        return {
            "val_loss": float(np.mean(values["loss"])) + penalty,
            **{f"val_{name}": mean for name, mean in means.items()},
            **{f"val_{m.__name__}": float(np.mean(values[m.__name__])) for m in own_metrics},
            **(self.gains_by_set(values["ig"]) if self.training else {}),
        }

    def gain(self, y: NDArray, predicted: NDArray) -> NDArray:
        """Return the information gain over the centre bias of each picture's set, bits, [b].

        It is computed on the cells of the output, and each map uses the numbers of its own set. It
        is NaN for a picture without fixations.
        """
        assert self.training
        if not self.baselines:
            self.baselines = centre_biases(self.training, len(self.config.dataset))
        own = [self.baselines[number] for number in y[:, 0, 0, 2].astype(int)]
        maps = own_maps(self.config.model, y, predicted)
        lost, before = (
            keras.ops.convert_to_numpy(nll(y, made)) for made in (maps, np.stack(own)[..., None])
        )
        return np.where(y[..., 1].any(axis=(1, 2)), before - lost, np.nan)

    def gains_by_set(self, gains: NDArray) -> dict[str, float]:
        """Return the mean information gain of each data set, and the criterion of the epoch.

        Sets whose validation pictures have no fixations are left out; {} without any other.
        """
        parts = np.split(gains, np.cumsum(self.batches.sizes)[:-1])
        means = {
            f"val_ig_{name}": float(np.nanmean(part))
            for name, part in zip(self.config.dataset, parts, strict=True)
            if np.isfinite(part).any()
        }
        chosen = min if self.config.criterion == "worst" else np.mean
        return {**means, "val_ig": float(chosen(list(means.values())))} if means else {}

    def check_finite(self, values: NDArray) -> None:
        """Check that all losses are finite.

        Raises:
            UserError: a loss is not finite; the message names the pictures.
        """
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            names = ", ".join(self.batches.samples[i].name for i in bad[:3])
            raise UserError(
                f"The validation loss is {values[bad[0]]} for {len(bad)} of {len(values)} pictures "
                f"({names}{', ...' if len(bad) > 3 else ''}). The weights of earlier epochs are "
                "kept. Try a lower --learning_rate."
            )

    def score(self, index: int, prediction: NDArray) -> tuple[dict[str, float], tuple | None]:
        """Return the metrics of one picture, and its row of the picture grid if it has one.

        Its batch must have been read.
        """
        sample, saliency_map = self.batches.samples[index], self.restored(index, prediction)
        density = self.density(index)
        scores = score(saliency_map, density, sample.fixations, VALIDATED)
        if index >= GRID_PICTURES:
            return scores, None
        caption = f"prediction: CC {scores['cc']:.2f}, NSS {scores['nss']:.2f}"
        return scores, (sample.name, sample_image(sample), density, saliency_map, caption)

    def density(self, index: int) -> NDArray:
        """Return the density map of a picture at its size; kept in memory up to KEPT_BYTES."""
        if index in self.kept:
            return self.kept[index]
        sample, box = self.batches.samples[index], self.batches.boxes[index]
        density = sample_density(sample, box.image_shape, self.config.gaussian_pixels)
        # threads may exceed the limit by a map each
        if sum(kept.nbytes for kept in list(self.kept.values())) + density.nbytes <= KEPT_BYTES:
            density.flags.writeable = False
            self.kept[index] = density
        return density

    def restored(self, index: int, prediction: NDArray) -> NDArray:
        """Return a prediction as a map at the picture's size; its batch must have been read."""
        return postprocess(prediction, self.batches.boxes[index], self.batches.grid)

"""What `train` does, in order: data, network, weights, epochs, and after each the validation."""

import dataclasses
import os
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import architectures
import cluster
import datasets
import feature_cache
import figures
import losses
import step
import weight_files
from checkpoint import RunFolder, WitnessedRun
from cluster import Devices
from config import Config
from errors import UserError
from files import make_folder
from metrics import METRICS, mean_scores, score
from pictures import sample_density, sample_image
from progress import progress
from schedules import LinearByEpoch, ScheduledSGD, linear_by_epoch
from utilities import OutputGrid, SaliencyBatches, postprocess

VALIDATED = ("cc", "nss", "auc_judd")
GRID_PICTURES = 4


def train(config: Config, say: Callable[[str], None] = print) -> RunFolder:
    """Train a network as configured; return its run folder, with the history.

    Args:
        config: the run's settings.
        say: gets each line of news.

    Raises:
        UserError: the data, the backbone's weights or the output folder are not usable.
    """
    config.check_start()
    with cluster.started(config) as devices:
        return train_on(devices, config, say if devices.is_chief else lambda line: None)


def train_on(devices: Devices, config: Config, say: Callable[[str], None]) -> RunFolder:
    """Train on the devices of a run; see `train`."""
    step.make_deterministic(config.seed, config.xla)
    with step.precision(config.precision):
        model = architectures.get(config.model).build(config)
    grid = architectures.grid_of(model)
    training, validation = (batches(config, split, grid) for split in ("train", "val"))
    check_loss_has_its_truth(config, training)
    with devices.chief_first():
        weights = load_start(model, config, say)
    check_same_start(devices, model, training)
    # where features are kept, what learns is fitted on them; it shares its layers with the network
    fitted, kept = feature_cache.attach(model, training, validation, config, say, devices)
    set_up(fitted, config, steps_per_epoch=len(training))
    feed = devices.feed(training)
    # last, so that bad input leaves no empty folder behind; only the chief writes
    run = RunFolder(config) if devices.is_chief else WitnessedRun(config)
    for name, root in config.sets:
        for remark in datasets.remarks(name, root):
            say(f"{name}: {remark}")
    say(describe(config, model, training, validation, weights))
    remarks = [kept, *step.remarks(model, config)]
    if devices.count > 1:
        remarks.append(
            f"{devices.count} devices of {devices.processes} processes share each batch, by JAX"
        )
    for remark in filter(None, remarks):
        say(remark)
    epochs = Epochs(config, run, model, training, validation, say, devices)
    try:
        fit(fitted, config, feed, len(training), epochs, say)
    except Exception:
        # Keras wraps what a reading thread raised; the user is owed the line that it had
        failure = training.failure or validation.failure
        if failure:
            raise failure from None
        raise
    finally:
        epochs.close()
    run.finish()
    best = run.best_epoch
    copy = f", and {run.published}"
    if run.kept_back:
        copy = f" alone: {run.published} is kept, as {run.kept_back}"
    say(
        f"Best: epoch {best['epoch']}, {scores_line(best)}. Weights: "
        f"{run.path('best.weights.h5')}{copy}"
    )
    return run


def fit(
    model: keras.Model,
    config: Config,
    feed: keras.utils.PyDataset,
    steps_per_epoch: int,
    epochs: "Epochs",
    say: Callable[[str], None],
) -> None:
    """Train a network; without XLA where that was asked for and cannot compile its step."""
    options = {
        "epochs": config.epochs,
        "shuffle": False,  # the generator shuffles, by seed and epoch
        "verbose": 0,
        "callbacks": [epochs],
    }
    try:
        model.fit(feed, **options)
    except Exception as error:
        tried = config.xla == "on" and model.jit_compile and not epochs.has_stepped
        # JAX has given its arrays away by then, and is of no use uncompiled
        if not tried or step.backend() == "jax":
            raise
        if epochs.training.failure or isinstance(error, UserError):
            raise
        say(f"XLA cannot compile this step, so it is not compiled: {first_line(error)}")
        set_up(model, dataclasses.replace(config, xla="off"), steps_per_epoch)
        model.fit(feed, **options)


def first_line(error: Exception) -> str:
    """Return the beginning of what an exception says; compilers say a page."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def check_same_start(devices: Devices, model: keras.Model, training: SaliencyBatches) -> None:
    """Refuse processes that would train other networks, or on other pictures.

    Raises:
        UserError: this one would.
    """
    if devices.processes == 1:
        return
    names = "\n".join(sample.name for sample in training.samples)
    devices.check_same("The training pictures of --data", names.encode())
    devices.check_same(
        "The weights that training starts from",
        b"".join(keras.ops.convert_to_numpy(w).tobytes() for w in model.weights),
    )


def load_start(model: keras.Model, config: Config, say: Callable[[str], None]) -> Path | None:
    """Load the weights that training begins with; return their file, or None for a random start."""
    if config.init_weights is None:
        return architectures.get(config.model).load_pretrained(model, config)
    card = weight_files.read_card(config.init_weights)
    weight_files.load(model, config.init_weights)
    say(weight_files.described(config.init_weights, card))
    return config.init_weights


def batches(config: Config, split: str, grid: OutputGrid) -> SaliencyBatches:
    """Return the generator of a split; only training shuffles and flips."""
    samples, sizes = [], []
    for name, root in config.sets:
        found = datasets.load(name, root, split, config.plan, config.out_of_bounds)
        if len(config.sets) > 1:  # two sets may each have a 001.jpg
            found = [dataclasses.replace(s, name=f"{name}/{s.name}") for s in found]
        samples += found
        sizes.append(len(found))
    return SaliencyBatches(
        samples,
        config.input_shape,
        config.batch_size,
        grid=grid,
        sigma_pixels=config.sigma_pixels,
        shuffle=split == "train",
        flip=config.flip and split == "train",
        sizes=sizes,
        mix=config.mix if split == "train" else (),
        seed=config.seed,
        workers=config.workers,
    )


def check_loss_has_its_truth(config: Config, training: SaliencyBatches) -> None:
    """Refuse a loss from fixations where the data set has none."""
    bare = [sample.name for sample in training.samples if sample.fixations is None]
    if bare and "nss" in config.loss:
        raise UserError(
            f"--loss {config.loss} needs fixations, but {len(bare)} pictures of "
            f"{config.dataset_name} have only maps; first: {bare[0]}. Choose a loss without nss, "
            "such as kld."
        )


def set_up(model: keras.Model, config: Config, steps_per_epoch: int) -> None:
    """Give a network its configured optimiser and loss."""
    model.compile(
        optimizer=optimizer(config, steps_per_epoch),
        loss=loss_function(config),
        metrics=[losses.zero_maps, *training_metrics(config)],
        steps_per_execution=step.steps_per_execution(config),
        # auto: Keras leaves XLA off under TensorFlow on a CPU (its convolutions are slower than
        # oneDNN's) and wherever reproducible operations are asked for
        jit_compile={"auto": "auto", "on": True, "off": False}[config.xla],
    )
    if config.part_size:
        step.take_in_parts(model, config.part_size)


def loss_function(config: Config) -> Callable:
    """Return the configured loss, with the system's own among the names."""
    system = architectures.get(config.model)
    own = {config.model: system.loss} if hasattr(system, "loss") else {}
    return losses.combine(config.loss, own, system.to_unit_range)


def training_metrics(config: Config) -> tuple[Callable, ...]:
    """Return what training is to watch, besides the loss, for the configured system."""
    return getattr(architectures.get(config.model), "TRAINING_METRICS", ())


def optimizer(config: Config, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Return the configured optimiser, with its schedules of step size and momentum."""
    return step.scaled(unscaled_optimizer(config, steps_per_epoch), config.precision)


def unscaled_optimizer(config: Config, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Return the configured optimiser as it is for float32."""
    if config.learning_rate_end is None:
        rate = keras.optimizers.schedules.InverseTimeDecay(
            config.learning_rate, decay_steps=1, decay_rate=config.decay
        )
    else:
        rate = LinearByEpoch(
            config.learning_rate, config.learning_rate_end, config.epochs, steps_per_epoch
        )
    if config.optimizer == "sgd" and config.momentum_end is not None:
        momentum = LinearByEpoch(
            config.momentum, config.momentum_end, config.epochs, steps_per_epoch
        )
        return ScheduledSGD(rate, momentum, nesterov=config.nesterov)
    if config.optimizer == "sgd":
        return keras.optimizers.SGD(rate, momentum=config.momentum, nesterov=config.nesterov)
    if config.optimizer == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=config.weight_decay)
    return keras.optimizers.Adam(rate)


def describe(
    config: Config,
    model: keras.Model,
    training: SaliencyBatches,
    validation: SaliencyBatches,
    weights: Path | None,
) -> str:
    """Return a few lines that say what is about to be trained, on what."""
    trainable = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    return (
        f"{config.system} ({config.strategy}) at {config.rows}x{config.cols}: {trainable:,} of "
        f"{model.count_params():,} weights learn; start: {weights or 'random'}\n"
        f"{config.dataset_name}: {training.count} training and {validation.count} validation "
        f"pictures{outside(config, training)}; loss {config.loss}, {config.optimizer}, "
        f"learning rate {config.learning_rate:g}, batch {config.batch_size}"
        f"{speed(config)}\n"
        f"writing to {config.run_folder}/"
    )


def speed(config: Config) -> str:
    """Return how the step is computed where that is not the plain way, or nothing."""
    words = "" if config.precision == "float32" else f", {config.precision}"
    if config.part_size:
        words += f", {config.part_size} at once"
    return words


def outside(config: Config, training: SaliencyBatches) -> str:
    """Return how many fixations lay outside their picture and what was done, or nothing."""
    count = sum(sample.outside for sample in training.samples)
    done = "clipped to the border" if config.out_of_bounds == "clip" else "dropped"
    return f" ({count} fixations outside their picture {done})" if count else ""


def scores_line(row: dict[str, float]) -> str:
    """Return an epoch's validation results as text."""
    scores = "  ".join(f"{METRICS[n].name} {row[f'val_{n}']:.3f}" for n in VALIDATED)
    return f"validation loss {row['val_loss']:.4f}  {scores}"


def peak_memory_mb() -> float:
    """Return the most memory that this process has held so far, MiB (main memory, not a GPU's)."""
    if sys.platform == "win32":
        return float("nan")
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)  # bytes there, KiB here


class Epochs(keras.callbacks.Callback):
    """What happens around an epoch: the order, the progress bar, validation, files, stopping."""

    def __init__(
        self,
        config: Config,
        run: RunFolder,
        network: keras.Model,
        training: SaliencyBatches,
        validation: SaliencyBatches,
        say: Callable[[str], None],
        devices: Devices,
    ) -> None:
        super().__init__()
        self.config, self.run, self.say, self.devices = config, run, say, devices
        self.network = network  # `self.model` may be but the part of it that learns
        self.training, self.validation = training, validation
        self.validator = Validator(config, validation, devices)
        self.events = EventLog(run.path("tensorboard")) if devices.is_chief else None
        self.bar = tqdm(disable=True)
        self.has_stepped = False

    def on_epoch_begin(self, epoch, logs=None):
        self.training.epoch = epoch
        self.started = time.monotonic()
        self.bar = progress(
            self.training.count,
            f"epoch {epoch + 1}/{self.config.epochs}",
            shown=self.devices.is_chief,
        )

    def on_train_batch_end(self, batch, logs=None):
        self.has_stepped = True
        # of several steps at once, Keras names the last, which the epoch's end may come before
        done = min((batch + 1) * self.config.batch_size, self.training.count)
        loss = float((logs or {}).get("loss", 0))
        self.refuse_if_not_finite(loss, f"loss after {done} pictures")
        self.bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        self.bar.update(done - self.bar.n)

    def on_epoch_end(self, epoch, logs=None):
        logs = self.devices.finish_epoch(self.model, self.training, logs or {})
        self.bar.close()
        seconds = time.monotonic() - self.started
        row = {
            "epoch": epoch + 1,
            "loss": float(logs["loss"]),
            "zero_maps": float(logs["zero_maps"]),
            **{m.__name__: float(logs[m.__name__]) for m in training_metrics(self.config)},
            **self.validator.validate(self.model),
            **self.step_sizes(epoch),
            "seconds": round(seconds, 2),
            "images_per_second": round(self.training.count / seconds, 3),
            "peak_memory_mb": peak_memory_mb(),
        }
        self.refuse_if_not_finite(row["val_loss"], "validation loss")
        best = self.run.record(self.network, row)
        if self.events:  # those of the one process that writes
            self.events.write(row)
            figures.curves(self.run.history, self.run.path("curves.png"), self.config.name)
            figures.picture_grid(self.validator.grid, self.run.path("examples.png"))
        self.say(
            f"epoch {epoch + 1}: loss {row['loss']:.4f}  {scores_line(row)}  "
            f"{row['images_per_second']:.2f} images/s{'  (best)' if best else ''}"
        )
        self.warn_of_zero_maps()
        if row["epoch"] - self.run.best_epoch["epoch"] >= self.config.patience:
            self.say(f"No better validation loss for {self.config.patience} epochs: stopping.")
            self.model.stop_training = True

    def step_sizes(self, epoch: int) -> dict[str, float]:
        """Return the step size that an epoch came to, and its momentum where that changes."""
        config = self.config

        def at(start: float, end: float) -> float:
            return linear_by_epoch(start, end, config.epochs, epoch)

        if config.learning_rate_end is None:
            rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        else:  # the optimiser has counted the epoch's last step: it stands at the next one's size
            rate = at(config.learning_rate, config.learning_rate_end)
        if config.optimizer != "sgd" or config.momentum_end is None:
            return {"learning_rate": rate}
        return {"learning_rate": rate, "momentum": at(config.momentum, config.momentum_end)}

    def refuse_if_not_finite(self, value: float, what: str) -> None:
        """End the run where its weights are ruined; what earlier epochs saved stays."""
        if not np.isfinite(value):
            raise UserError(
                f"epoch {len(self.run.history) + 1}: the {what} is {value}. Try a lower "
                "--learning_rate."
            )

    def warn_of_zero_maps(self) -> None:
        """Say so when more training maps are all zero than in the epoch before."""
        shares = [0.0] + [row["zero_maps"] for row in self.run.history]
        if shares[-1] > shares[-2]:
            self.say(
                f"warning: {shares[-1]:.1%} of the training maps were zero everywhere (before: "
                f"{shares[-2]:.1%}); no gradient comes through them where a ReLU is last. Try a "
                "lower --learning_rate, or --optimizer adam."
            )

    def close(self) -> None:
        """End the bar and the event file."""
        self.bar.close()
        if self.events:
            self.events.close()


class Validator:
    """Scores the network on the validation pictures, at their original size."""

    def __init__(self, config: Config, batches: SaliencyBatches, devices: Devices) -> None:
        self.config, self.batches, self.devices = config, batches, devices
        self.loss = loss_function(config)
        self.grid: list = []

    def validate(self, model: keras.Model) -> dict[str, float]:
        """Return `val_loss` and the mean metrics; one prediction a picture serves them all."""
        watched = training_metrics(self.config)
        columns = [*VALIDATED, "loss", *(metric.__name__ for metric in watched)]
        mine = self.devices.share(range(len(self.batches)))
        bar = progress(
            len(mine) * self.config.batch_size, "validation", shown=self.devices.is_chief
        )
        table: list[list[float]] = []
        self.grid = []
        with ThreadPoolExecutor(self.config.workers) as pool:
            coming = [pool.submit(self.batches.__getitem__, index) for index in mine[:1]]
            for index in mine:
                x, y = coming.pop().result()
                if index != mine[-1]:  # read while the network works
                    coming.append(pool.submit(self.batches.__getitem__, index + 1))
                predicted = self.devices.predict(model, x)
                by_picture = [
                    keras.ops.convert_to_numpy(function(y, predicted)).tolist()
                    for function in (self.loss, *watched)
                ]
                first = index * self.config.batch_size
                rows = list(pool.map(self.score, range(first, first + len(predicted)), predicted))
                for row, *values in zip(rows, *by_picture, strict=True):
                    table.append([*(row[name] for name in VALIDATED), *values])
                for i in range(first, min(first + len(predicted), GRID_PICTURES)):
                    self.grid.append(self.grid_row(i, predicted[i - first], rows[i - first]))
                bar.update(len(predicted))
        bar.close()
        # the regulariser is part of the training loss; with it the two curves are comparable
        penalty = sum(float(keras.ops.convert_to_numpy(p)) for p in model.losses)
        gathered = self.devices.gather(np.array(table).reshape(-1, len(columns)))
        values = dict(zip(columns, gathered.T, strict=True))
        scores = [dict(zip(columns, row, strict=True)) for row in gathered.tolist()]
        means = mean_scores(scores, VALIDATED)
        return {
            "val_loss": float(np.mean(values["loss"])) + penalty,
            **{f"val_{name}": mean for name, mean in means.items()},
            **{f"val_{m.__name__}": float(np.mean(values[m.__name__])) for m in watched},
        }

    def score(self, index: int, prediction: NDArray) -> dict[str, float]:
        """Return the metrics of one picture, whose batch has been read."""
        sample, box = self.batches.samples[index], self.batches.boxes[index]
        density = sample_density(sample, box.image_shape, self.config.sigma_pixels)
        return score(self.restored(index, prediction), density, sample.fixations, VALIDATED)

    def restored(self, index: int, prediction: NDArray) -> NDArray:
        """Return a prediction as a map of its picture, whose batch has been read."""
        return postprocess(prediction, self.batches.boxes[index], self.batches.grid)

    def grid_row(self, index: int, prediction: NDArray, scores: dict[str, float]) -> tuple:
        """Return a line of the picture grid."""
        sample, box = self.batches.samples[index], self.batches.boxes[index]
        return (
            sample.name,
            sample_image(sample),
            sample_density(sample, box.image_shape, self.config.sigma_pixels),
            self.restored(index, prediction),
            f"prediction: CC {scores['cc']:.2f}, NSS {scores['nss']:.2f}",
        )


class EventLog:
    """TensorBoard events, in TensorBoard's own record format whatever Keras' backend is."""

    def __init__(self, folder: Path) -> None:
        # this writer alone: TensorBoard's file writer would import TensorFlow under JAX and PyTorch
        from tensorboard.summary.writer.record_writer import RecordWriter

        make_folder(folder)
        name = f"events.out.tfevents.{int(time.time())}.{platform.node()}.{os.getpid()}"
        self.writer = RecordWriter((folder / name).open("wb"))
        self._add(file_version="brain.Event:2")

    def write(self, row: dict[str, float]) -> None:
        """Add an epoch's values."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore

        values = [Summary.Value(tag=k, simple_value=v) for k, v in row.items() if k != "epoch"]
        self._add(step=int(row["epoch"]), summary=Summary(value=values))

    def _add(self, **content: Any) -> None:
        """Append one event and flush it, so that a viewer sees it at once."""
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore

        self.writer.write(Event(wall_time=time.time(), **content).SerializeToString())
        self.writer.flush()

    def close(self) -> None:
        """End the file."""
        self.writer.close()

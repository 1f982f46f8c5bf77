"""What is done around each step and epoch of a training: bar, validation, files, stopping."""

import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

import figures
from cluster import Devices
from config import Config
from errors import UserError
from files import make_folder
from objective import training_metrics
from progress import progress
from run_folder import RunFolder
from schedules import linear_by_epoch
from utilities import SaliencyBatches
from validation import Validator, scores_line


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


def peak_memory_mb() -> float:
    """Return the most memory that this process has held so far, MiB (main memory, not a GPU's)."""
    if sys.platform == "win32":
        return float("nan")
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)  # bytes there, KiB here

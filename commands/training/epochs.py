"""The callback of a training: progress bar, validation, files, checkpoints and stopping.

Files, checkpoints and figures are written by one thread (`Epochs.background`) while the training
goes on. It gets copies on the host, since the next step alters the variables.
"""

import os
import platform
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from commands.pages import figures
from commands.training.checkpoint import Arrays, Standing, State, nonfinite_array
from commands.training.devices import Devices
from commands.training.nonfinite import NonfiniteGuard
from commands.training.objective import linear_by_epoch, training_metrics
from commands.training.run_folder import RunFolder
from commands.training.validation import Validator, scores_line
from config import Config
from salience.networks import weight_files
from salience.system.errors import Interrupted, StorageError, UserError
from salience.system.files import make_folder, write_json
from salience.system.signals import Stop
from salience.system.terminal import progress
from salience.system.threads import Background
from utilities import SaliencyBatches

READ_STEPS, READ_SECONDS = 16, 1.0  # losses of steps that the host has not read, and their age


class Callbacks(keras.callbacks.CallbackList):
    """Keras' list of callbacks that passes the results of a step as they are on the device.

    Keras' own list reads all of them after each step, so that the device waits for the host.
    """

    def on_train_batch_end(self, batch, logs=None):
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs)


class Epochs(keras.callbacks.Callback):
    """Keras callback that validates, saves and stops a training.

    Args:
        config: settings of the run.
        run: run folder.
        state: variables of the network and of the fitted model.
        training, validation: the batches.
        say: called with each message.
        devices: devices of the run.
        stop: true after a signal to end.
        standing: position of the training: the next step.
        arrays: values of the variables at that step; None at the first step.

    Attributes:
        is_interrupted: whether the training ends early and can be resumed.
    """

    def __init__(
        self,
        config: Config,
        run: RunFolder,
        state: State,
        training: SaliencyBatches,
        validation: SaliencyBatches,
        say: Callable[[str], None],
        devices: Devices,
        stop: Stop,
        standing: Standing,
        arrays: Arrays | None,
    ) -> None:
        super().__init__()
        self.config, self.run, self.say, self.devices = config, run, say, devices
        self.state, self.stop, self.at, self.arrays = state, stop, standing, arrays
        self.training = training
        self.guard = NonfiniteGuard(config.on_nan, state, run.checkpoints, standing.incidents)
        self.validator = Validator(config, validation, devices, training)
        self.events = None
        if devices.is_chief:
            self.events = EventLog(run.path("tensorboard"), run.history, say)
        self.bar = tqdm(disable=True)
        self.has_stepped = self.is_interrupted = False
        self.background = Background("writer")
        # steps whose loss is unread: finished steps before and after, and the loss on the device
        self.unread: deque[tuple[int, int, Any]] = deque()
        self.loss = 0.0  # mean loss of the epoch so far, as of the last reading
        self.saved = self.last_read = time.monotonic()
        self.started = self.saved - standing.seconds
        self.clock: float | None = None  # time from which steps are counted; None between epochs

    @property
    def is_over(self) -> bool:
        """Whether the last epoch is done, or the patience is exhausted."""
        if not self.run.history:
            return False
        since_best = self.run.history[-1]["epoch"] - self.run.best_epoch["epoch"]
        return since_best >= self.config.patience or self.at.epoch >= self.config.epochs

    def on_epoch_begin(self, epoch, logs=None):
        self.training.epoch = epoch
        self.first = self.at.step
        if self.arrays:
            self.state.restore(self.arrays, "network", "optimizer")
            if not self.at.is_between_epochs:  # Keras resets metrics at the start of an epoch
                self.state.restore(self.arrays, "metrics")
        elif self.config.on_nan == "rewind" and epoch == 0:
            self.save()  # the start, for a rewind
        self.bar = progress(
            self.training.count,
            f"epoch {epoch + 1}/{self.config.epochs}",
            shown=self.devices.is_chief,
        )
        if self.first:
            self.bar.update(self.pictures(self.first))
        self.guard.copy_variables()
        self.clock = time.monotonic()

    def count_steps(self, more: bool = True) -> None:
        """Add the time since the last call to that of the epoch's steps.

        Args:
            more: whether steps follow at once.
        """
        now = time.monotonic()
        if self.clock is not None:
            self.at.train_seconds += now - self.clock
        self.clock = now if more else None

    def pictures(self, steps: int) -> int:
        """Return the number of pictures in the first steps of an epoch."""
        return min(steps * self.config.batch_size, self.training.count)

    def on_train_batch_end(self, batch, logs=None):
        self.has_stepped, self.arrays = True, None
        self.background.check()
        # with steps_per_execution, `batch` is the last step, which may be beyond the epoch's end
        before, self.at.step = self.at.step, min(self.first + batch + 1, len(self.training))
        self.unread.append((before, self.at.step, (logs or {}).get("loss", 0)))
        if self.config.on_nan != "stop":  # a step may be undone, so none may follow
            self.sync_variables()
            self.read_losses()
        elif time.monotonic() - self.last_read >= READ_SECONDS:
            self.read_losses()
        elif len(self.unread) >= READ_STEPS:  # the device still has the later half to do
            self.read_losses(READ_STEPS // 2)
        done = self.pictures(self.at.step)
        self.bar.set_postfix(loss=f"{self.loss:.4f}", refresh=False)
        self.bar.update(done - self.bar.n)
        if self.asked_to_stop():
            self.interrupt()
        elif time.monotonic() - self.saved >= 60 * self.config.checkpoint_minutes:
            self.save()

    def read_losses(self, least: int = 0) -> None:
        """Read the losses of steps from the device, in order, and handle those not finite.

        A step's loss is the mean of its epoch so far. With the policy to stop, some steps follow on
        a loss that is not finite, but nothing is saved before it is read.

        Args:
            least: number of the newest steps that stay unread.

        Raises:
            UserError: the training must end.
        """
        while len(self.unread) > least:
            before, step, loss = self.unread.popleft()
            self.loss = float(loss)
            if np.isfinite(self.loss) and self.guard.has_finite_weights():
                self.at.good += 1
            else:
                self.handle_nonfinite(before, step)
        self.last_read = time.monotonic()

    def handle_nonfinite(self, before: int, step: int) -> None:
        """Handle steps with a non-finite loss or non-finite weights.

        Args:
            before: number of the epoch's steps before them.
            step: number of the epoch's steps with them.

        Raises:
            UserError: the training must end.
        """
        self.sync_variables()
        size = self.config.batch_size
        order = self.training.order()[before * size : step * size]
        names = [self.training.samples[i].name for i in order]
        try:
            self.background.wait()  # a rewind reads a checkpoint
            self.say(self.guard.handle_nonfinite(self.at.epoch + 1, step, self.loss, names))
        finally:
            if self.devices.is_chief:
                write_json(self.run.path("nonfinite.json"), self.at.incidents)

    def sync_variables(self) -> None:
        """Sync variables from JAX' trainer state; Keras does so on access to `model`."""
        _ = self.model

    def asked_to_stop(self) -> bool:
        """Return True if this process or another one has received a signal to end."""
        return self.devices.any(bool(self.stop))

    def save(self, write: Callable[[], object] | None = None) -> None:
        """Hand a checkpoint to the writing thread.

        Args:
            write: writes the files of a finished epoch, before the checkpoint that refers to them.

        Raises:
            UserError: the weights are not finite, or an earlier write has failed.
        """
        self.read_losses()
        self.sync_variables()
        is_within = self.clock is not None
        self.count_steps(more=False)
        self.at.seconds = time.monotonic() - self.started
        self.at.history = self.run.history
        if self.devices.is_chief:
            arrays = self.state.capture()
            if name := nonfinite_array(arrays):
                raise UserError(
                    f"epoch {self.at.epoch + 1}, step {self.at.step}: weights ({name}) are no "
                    "longer finite. The last checkpoint is kept. Try a lower --learning_rate, or "
                    "--on_nan skip."
                )
            self.background.submit(partial(self.write, self.at.copy(), arrays, write))
        self.saved = time.monotonic()
        self.clock = self.saved if is_within else None

    def write(
        self, standing: Standing, arrays: Arrays, before: Callable[[], object] | None
    ) -> None:
        """Write a checkpoint, and the files of a finished epoch; in the writing thread.

        The history names an epoch as finished only once its checkpoint is on the disk.
        """
        if before:
            before()
        self.run.checkpoints.save(standing, arrays)
        if before:
            self.run.write_history(standing.history)
            if self.events:
                self.events.write(standing.history[-1])

    def interrupt(self) -> None:
        """Write a checkpoint, and end Keras' training loop."""
        self.save()
        self.background.wait()
        self.is_interrupted = True
        self.model.stop_training = True

    def end_epoch(self) -> None:
        """Finish an epoch whose steps were done by an earlier process."""
        fitted = self.state.fitted
        self.set_model(fitted)
        logs = self.at.logs
        self.on_epoch_begin(self.at.epoch)
        self.arrays = None
        if logs:
            self.complete(logs)
        else:
            self.on_epoch_end(self.at.epoch, fitted.get_metrics_result())

    def on_epoch_end(self, epoch, logs=None):
        if self.is_interrupted:
            return
        self.read_losses()
        logs = self.devices.finish_epoch(self.model, self.training, logs or {})
        self.complete({name: float(value) for name, value in logs.items()})

    def complete(self, logs: dict[str, float]) -> None:
        """Validate the network after the steps of an epoch, write files, and decide on stopping.

        Args:
            logs: the epoch's training results.
        """
        if not self.at.good:
            raise UserError(
                f"epoch {self.at.epoch + 1}: the loss of every step was not finite (see "
                "nonfinite.json). Try a lower --learning_rate."
            )
        if not np.isfinite(logs["loss"]):  # from a last batch that is not divisible by the devices
            raise UserError(
                f"epoch {self.at.epoch + 1}: the loss is {logs['loss']}. Try a lower "
                "--learning_rate."
            )
        self.at.logs = logs
        self.count_steps(more=False)
        self.bar.close()
        is_single_process = self.devices.processes == 1
        # several processes validate together, so a signal must not end a single one
        if not is_single_process:
            self.save()
        began = time.monotonic()
        try:
            scores = self.validator.validate(self.model, self.stop if is_single_process else Stop())
        except Interrupted:
            return self.interrupt()
        now = time.monotonic()
        seconds, validating = now - self.started, now - began
        self.started = now
        row = {
            "epoch": self.at.epoch + 1,
            "loss": logs["loss"],
            "zero_maps": logs["zero_maps"],
            **{m.__name__: logs[m.__name__] for m in training_metrics(self.config.model)},
            **scores,
            **self.learning_rates(self.at.epoch),
            "seconds": round(seconds, 2),
            "train_seconds": round(self.at.train_seconds, 2),
            "validation_seconds": round(validating, 2),
            "other_seconds": round(max(0.0, seconds - self.at.train_seconds - validating), 2),
            "images_per_second": round(self.training.count / max(self.at.train_seconds, 1e-3), 3),
            "peak_memory_mb": peak_memory_mb(),
            **self.run.costs,
        }
        best = self.run.add(row)
        self.say(
            f"epoch {row['epoch']}: loss {row['loss']:.4f}  {scores_line(row)}  "
            f"{row['images_per_second']:.2f} images/s, training {row['train_seconds']:.1f} s, "
            f"validation {row['validation_seconds']:.1f} s, other {row['other_seconds']:.1f} s"
            f"{'  (best)' if best else ''}"
        )
        self.warn_of_zero_maps()
        self.at.go_to_next_epoch()
        self.save_epoch(row, best)
        if self.is_over:
            self.background.wait()
            self.model.stop_training = True
            if self.at.epoch < self.config.epochs:
                self.say(f"No better epoch for {self.config.patience} epochs: stopping.")
        elif self.asked_to_stop():
            self.interrupt()

    def save_epoch(self, row: dict[str, float], best: bool) -> None:
        """Hand weights, checkpoint, history and figures of an epoch to the writing thread.

        Args:
            row: row of the epoch.
            best: whether it is the best one so far.
        """
        if not self.devices.is_chief:
            return self.save()
        weights = weight_files.in_memory(self.state.network)
        draw = partial(self.draw, list(self.run.history), self.validator.grid)

        def write() -> None:
            self.run.save_weights(weights, row, best)
            if is_last:  # a run that is resumed after its last epoch draws no more
                draw()

        is_last = self.is_over
        self.save(write)
        if not is_last:
            self.background.submit_spare(draw)

    def draw(self, history: list[dict[str, float]], pictures: list[tuple]) -> None:
        """Draw the curves and some predictions; a full disk is only a warning."""
        try:
            curves, grid = self.run.path("curves.png"), self.run.path("examples.png")
            figures.DRAWING.submit(figures.curves, history, curves, self.config.name).result()
            figures.DRAWING.submit(figures.picture_grid, pictures, grid).result()
        except StorageError as error:
            self.say(f"warning: {error}")

    def learning_rates(self, epoch: int) -> dict[str, float]:
        """Return the learning rate of an epoch, and the momentum if it has a schedule."""
        config = self.config

        def at(start: float, end: float) -> float:
            return linear_by_epoch(start, end, config.epochs, epoch)

        if config.learning_rate_end is None:
            rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        else:  # the optimiser's step counter is already in the next epoch
            rate = at(config.learning_rate, config.learning_rate_end)
        if config.optimizer != "sgd" or config.momentum_end is None:
            return {"learning_rate": rate}
        return {"learning_rate": rate, "momentum": at(config.momentum, config.momentum_end)}

    def warn_of_zero_maps(self) -> None:
        """Warn if more training maps are all zero than in the epoch before."""
        shares = [0.0] + [row["zero_maps"] for row in self.run.history]
        if shares[-1] > shares[-2]:
            self.say(
                f"warning: {shares[-1]:.1%} of the training maps were zero everywhere (before: "
                f"{shares[-2]:.1%}); with a final ReLU, they have no gradient. Try a lower "
                "--learning_rate, or --optimizer adam."
            )

    def close(self) -> None:
        """End the writing thread after its work; close the progress bar and the event file."""
        self.background.close()
        self.bar.close()
        if self.events:
            self.events.close()


class EventLog:
    """A writer of TensorBoard events, independent of Keras' backend.

    After an error of the disk, a warning is given and no more events are written. The history of
    the run holds the same values.

    Args:
        folder: folder of the events.
        history: epochs of a resumed run, whose events are written again.
        say: called with each message.
    """

    def __init__(
        self, folder: Path, history: list[dict[str, float]], say: Callable[[str], None]
    ) -> None:
        self.say = say
        self.writer: Any = None
        try:
            # not TensorBoard's file writer, which imports TensorFlow also for JAX and PyTorch
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            say("no TensorBoard events: the package tensorboard is not installed")
            return
        make_folder(folder)
        for old in folder.glob("events.*"):  # the last may be cut off
            old.unlink()
        name = f"events.out.tfevents.{int(time.time())}.{platform.node()}.{os.getpid()}"
        # unbuffered, so that closing does not repeat a write error
        self.writer = RecordWriter((folder / name).open("wb", buffering=0))
        self._add(file_version="brain.Event:2")
        for row in history:
            self.write(row)

    def write(self, row: dict[str, float]) -> None:
        """Write the values of an epoch."""
        if not self.writer:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore

        values = [Summary.Value(tag=k, simple_value=v) for k, v in row.items() if k != "epoch"]
        self._add(step=int(row["epoch"]), summary=Summary(value=values))

    def _add(self, **content: Any) -> None:
        """Write one event and flush the file."""
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore

        if not self.writer:
            return
        try:
            self.writer.write(Event(wall_time=time.time(), **content).SerializeToString())
            self.writer.flush()
        except OSError as error:
            self.say(f"warning: no more TensorBoard events: {error.strerror}")
            self.close()

    def close(self) -> None:
        """Close the file."""
        if self.writer:
            self.writer.close()
        self.writer = None


def peak_memory_mb() -> float:
    """Return the peak main memory of this process, MiB."""
    if sys.platform == "win32":
        return float("nan")
    import resource  # not available on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # the unit is bytes on macOS, KiB on Linux
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)

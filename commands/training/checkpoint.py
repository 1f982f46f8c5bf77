"""Checkpoints of a training: all data that the next step depends on, restored bit by bit.

A checkpoint is an `.npz` file with all variables of network, optimiser, dropout and metrics, and a
JSON text with the position and the results of earlier epochs. It is written under a temporary name,
verified and renamed. The previous checkpoint is removed only afterwards.
"""

import io
import json
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from salience.system.arrays import UNREADABLE, arrays_in
from salience.system.errors import StorageError, UserError
from salience.system.files import atomic, make_folder, read_bytes, telling

VERSION = 1
ABOUT = "about"  # name of the array with the JSON text
KEPT = 2  # checkpoints per run
# errors of reading a damaged file: in the zip file, a header, the text, or its content
DAMAGED = (*UNREADABLE, KeyError, TypeError)

Arrays = dict[str, NDArray]


@dataclass
class Standing:
    """The position of a training: its next step, and the results so far.

    Attributes:
        epoch: index of the current epoch, from 0.
        step: finished steps of the epoch.
        good: executions (of one or several steps) in the epoch that ended with a finite loss.
        logs: training results of the epoch if only its validation is left; else None.
        seconds: duration of the epoch so far.
        train_seconds: duration of its steps so far.
        history: results of the finished epochs.
        started: start time of the run, which is part of its name.
        incidents: steps with a non-finite loss, see `nonfinite.py`.
    """

    epoch: int = 0
    step: int = 0
    good: int = 0
    logs: dict[str, float] | None = None
    seconds: float = 0.0
    train_seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    started: str = ""
    incidents: list[dict[str, Any]] = field(default_factory=list)

    def go_to_next_epoch(self) -> None:
        """Move to the start of the next epoch."""
        self.epoch, self.step, self.good, self.logs = self.epoch + 1, 0, 0, None
        self.seconds = self.train_seconds = 0.0

    def copy(self) -> "Standing":
        """Return a copy that does not change as the training goes on."""
        return replace(self, history=list(self.history), incidents=list(self.incidents))

    @property
    def is_between_epochs(self) -> bool:
        """Whether no step of the current epoch is done."""
        return self.step == 0 and self.logs is None

    def __str__(self) -> str:
        if self.logs is not None:
            return f"epoch {self.epoch + 1}, its validation"
        after = f"after step {self.step}" if self.step else "its first step"
        return f"epoch {self.epoch + 1}, {after}"


@dataclass(frozen=True)
class Checkpoint:
    """The content of a valid checkpoint."""

    standing: Standing
    arrays: Arrays


class State:
    """The variables that a training step reads and writes.

    Args:
        network: the whole network.
        fitted: the compiled model: the network, or its trainable part.
    """

    def __init__(self, network: keras.Model, fitted: keras.Model) -> None:
        self.network, self.fitted = network, fitted

    def variables(self, whole: bool = True) -> dict[str, Any]:
        """Return the variables by name, in the order of the model.

        Args:
            whole: whether to include variables of frozen layers.
        """
        if not self.fitted.optimizer.built:  # before the first step
            self.fitted.optimizer.build(self.fitted.trainable_variables)
        metrics = self.fitted.metrics_variables
        counted = {id(variable) for variable in metrics}
        model = self.network if whole else self.fitted
        groups = {
            # includes the states of dropout's random generators
            "network": [v for v in model.variables if id(v) not in counted],
            "optimizer": self.fitted.optimizer.variables,
            "metrics": metrics,
        }
        return {
            f"{group}/{place:04}": variable
            for group, variables in groups.items()
            for place, variable in enumerate(variables)
        }

    def capture(self, whole: bool = True) -> Arrays:
        """Return copies of the variables' values."""
        return {
            name: np.array(keras.ops.convert_to_numpy(variable))
            for name, variable in self.variables(whole).items()
        }

    def restore(self, arrays: Arrays, *groups: str, whole: bool = True) -> None:
        """Set variables to values that `capture` returned.

        Args:
            arrays: values of all groups.
            groups: groups to set: network, optimizer, metrics.
            whole: the value of `whole` in `capture`.

        Raises:
            UserError: the values are from another network; no variable is set.
        """
        chosen = {
            name: variable
            for name, variable in self.variables(whole).items()
            if name.partition("/")[0] in groups
        }
        expected = {name: tuple(variable.shape) for name, variable in chosen.items()}
        found = {k: v.shape for k, v in arrays.items() if k.partition("/")[0] in groups}
        if found != expected:
            name = min(k for k in expected | found if found.get(k) != expected.get(k))
            raise UserError(
                f"The checkpoint is not of this network: its {name} has shape {found.get(name)}, "
                f"{expected.get(name)} is expected. Train again with --overwrite."
            )
        for name, variable in chosen.items():
            variable.assign(arrays[name])


class Checkpoints:
    """The checkpoints of a run: the newest two, at least one of which is at the start of an epoch.

    Args:
        folder: folder of the checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self) -> list[Path]:
        """Return the files, the oldest first."""
        files = self.folder.glob("[0-9]*-[0-9]*.npz")
        return sorted(files, key=lambda file: [int(part) for part in file.stem.split("-")])

    def save(self, standing: Standing, arrays: Arrays) -> None:
        """Write a checkpoint, and remove those that are no longer needed.

        Raises:
            UserError: it cannot be written or verified; earlier checkpoints are unchanged.
        """
        make_folder(self.folder)
        # at an epoch's end, the names are `epoch, steps + 1` and then `epoch + 1, 0`
        step = standing.step + (standing.logs is not None)
        path = self.folder / f"{standing.epoch + 1:05}-{step:08}.npz"
        text = json.dumps({"version": VERSION, **asdict(standing)})
        with atomic(path) as temporary:
            with temporary.open("wb") as file:
                about = np.frombuffer(text.encode(), np.uint8)
                np.savez(file, allow_pickle=False, **{ABOUT: about, **arrays})
            _verify(temporary)
        paths = self.paths()
        keep = set(paths[-KEPT:])
        between = [path for path in paths if is_between(path)][-1:]
        if between and between[0] not in keep:
            keep = {paths[-1], *between}
        for old in set(paths) - keep:
            old.unlink(missing_ok=True)

    def newest(self, say: Callable[[str], None]) -> bytes | None:
        """Return the newest valid checkpoint as bytes, or None.

        Damaged checkpoints are removed if there is a valid one.

        Raises:
            StorageError: a checkpoint cannot be read from disk.
        """
        damaged = []
        for path in reversed(self.paths()):
            try:
                with telling(f"Cannot read {path}", "see why"):
                    data = read_bytes(path)
                read(data)
            except StorageError:
                raise
            except (UserError, *DAMAGED) as error:
                say(f"skipped: the checkpoint {path} is damaged ({error})")
                damaged.append(path)
            else:
                for other in damaged:  # otherwise they would count as the newest to keep
                    with suppress(OSError):
                        other.unlink()
                return data
        return None

    def between_epochs(self) -> Checkpoint:
        """Return the newest checkpoint at the start of an epoch.

        Raises:
            UserError: it cannot be read.
        """
        paths = [path for path in self.paths() if is_between(path)]
        try:
            return read(read_bytes(paths[-1]))
        except (IndexError, UserError, *DAMAGED) as error:
            raise UserError(
                f"There is no readable checkpoint of the epoch's start in {self.folder}."
            ) from error

    def put_aside(self, path: Path) -> None:
        """Move the newest checkpoint to another path."""
        for newest in self.paths()[-1:]:
            newest.replace(path)

    def take_up(self, path: Path) -> None:
        """Move a checkpoint that `put_aside` moved back; it is at the start of an epoch.

        Raises:
            UserError: it cannot be read.
        """
        try:
            with telling(f"Cannot read {path}", "see why"):
                epoch = read(read_bytes(path)).standing.epoch
        except DAMAGED as error:
            raise UserError(f"{path} is damaged ({error}): the run cannot go on.") from error
        make_folder(self.folder)
        path.replace(self.folder / f"{epoch + 1:05}-{0:08}.npz")

    def clear(self) -> None:
        """Remove all checkpoints."""
        for path in self.paths():
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def nonfinite_array(arrays: Arrays) -> str:
    """Return the name of an array with non-finite values, or ""; metrics are not checked."""
    return next(
        (
            name
            for name, array in arrays.items()
            if not name.startswith("metrics/")
            and array.dtype.kind == "f"
            and not np.isfinite(array).all()
        ),
        "",
    )


def is_between(path: Path) -> bool:
    """Return True if a checkpoint is at the start of an epoch, by its name."""
    return int(path.stem.partition("-")[2]) == 0


def read(data: bytes) -> Checkpoint:
    """Return the content of a checkpoint, whose checksums are verified.

    Raises:
        one of DAMAGED: the checkpoint is damaged.
    """
    arrays = arrays_in(io.BytesIO(data), most_bytes=len(data))  # they are not compressed
    about = json.loads(arrays.pop(ABOUT).tobytes())
    if about.pop("version") != VERSION:
        raise ValueError("of another version of this program")
    if name := nonfinite_array(arrays):
        raise ValueError(f"its {name} is not finite")
    return Checkpoint(Standing(**about), arrays)


def _verify(path: Path) -> None:
    """Verify the checksums of a written file.

    Raises:
        OSError: a checksum is wrong.
    """
    with zipfile.ZipFile(path) as file:
        damaged = file.testzip()
    if damaged:
        raise OSError(f"the written file has a wrong checksum ({damaged})")

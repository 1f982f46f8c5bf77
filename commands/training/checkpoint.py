"""Where a training stands, on disk: all that its next step depends on, restored to the last bit.

A checkpoint is one `.npz` file: every variable of network, optimiser, dropout and metrics, and a
JSON text that says which step comes next and what the epochs before it gave. It is written aside,
read back, and only then takes its name; the one before it stays until the next is good.
"""

import io
import json
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from salience.system.errors import StorageError, UserError
from salience.system.files import atomic, make_folder, read_bytes, telling

VERSION = 1
ABOUT = "about"  # the member that holds the JSON text
KEPT = 2
# what reading a damaged file raises: zip, header, text, or what the text says
DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)

Arrays = dict[str, NDArray]


@dataclass
class Standing:
    """Which step of a training comes next, and what those before it gave.

    Attributes:
        epoch: the one in progress, from 0.
        step: steps of it that are done.
        good: how many times in it a step, or several at once, ended with a loss that is a number.
        logs: the epoch's training results, where all its steps are done and only its validation is
            not; else None.
        seconds: what the epoch has taken so far.
        history: a row for each epoch that is done.
        started: when the run began; part of its name.
        incidents: steps whose loss was no number, see `nonfinite.py`.
    """

    epoch: int = 0
    step: int = 0
    good: int = 0
    logs: dict[str, float] | None = None
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    started: str = ""
    incidents: list[dict[str, Any]] = field(default_factory=list)

    def go_to_next_epoch(self) -> None:
        """Stand between two epochs."""
        self.epoch, self.step, self.good, self.logs, self.seconds = self.epoch + 1, 0, 0, None, 0.0

    @property
    def is_between_epochs(self) -> bool:
        """Whether no step of the epoch in progress is done."""
        return self.step == 0 and self.logs is None

    def __str__(self) -> str:
        if self.logs is not None:
            return f"epoch {self.epoch + 1}, its validation"
        after = f"after step {self.step}" if self.step else "its first step"
        return f"epoch {self.epoch + 1}, {after}"


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint, read and found whole."""

    standing: Standing
    arrays: Arrays


class State:
    """The variables that a step of a training reads and writes.

    Args:
        network: all of it.
        fitted: what is compiled and fitted: the network, or the part of it that learns.
    """

    def __init__(self, network: keras.Model, fitted: keras.Model) -> None:
        self.network, self.fitted = network, fitted

    def variables(self, whole: bool = True) -> dict[str, Any]:
        """Return the variables by name; their order is the model's, which its settings decide.

        Args:
            whole: with those of layers that are frozen, which training does not change.
        """
        if not self.fitted.optimizer.built:  # before its first step
            self.fitted.optimizer.build(self.fitted.trainable_variables)
        metrics = self.fitted.metrics_variables
        counted = {id(variable) for variable in metrics}
        model = self.network if whole else self.fitted
        groups = {
            # with the states of dropout's generators
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
            arrays: of all groups.
            groups: those to set: network, optimizer, metrics.
            whole: as they were captured.

        Raises:
            UserError: they are another network's. Nothing is set then.
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
                f"{expected.get(name)} is needed. Begin anew with --overwrite."
            )
        for name, variable in chosen.items():
            variable.assign(arrays[name])


class Checkpoints:
    """The checkpoints of a run: the newest two, one of which stands between two epochs.

    Args:
        folder: theirs alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self) -> list[Path]:
        """Return the files, the oldest first."""
        return sorted(self.folder.glob("[0-9]*-[0-9]*.npz"))

    def save(self, standing: Standing, arrays: Arrays) -> None:
        """Write a checkpoint and remove those that are not needed any more.

        Raises:
            UserError: it cannot be written, or not be read back; the earlier ones are as they were.
        """
        make_folder(self.folder)
        # an epoch's end is written `epoch, steps` and then `epoch + 1, 0`
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
        """Return the newest checkpoint that is whole, as bytes; None where there is none.

        Those that are damaged go, if there is one that is not.

        Raises:
            StorageError: the disk refuses.
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
                say(f"passed over: the checkpoint {path} is damaged ({error})")
                damaged.append(path)
            else:
                for other in damaged:  # which would be taken for the newest of those to be kept
                    with suppress(OSError):
                        other.unlink()
                return data
        return None

    def between_epochs(self) -> Checkpoint:
        """Return the newest that stands between two epochs.

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

    def clear(self) -> None:
        """Remove all of them."""
        for path in self.paths():
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def unsound(arrays: Arrays) -> str:
    """Return the name of an array that holds what is no number, or ""; metrics may."""
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
    """Return whether a checkpoint stands between two epochs, by its name."""
    return int(path.stem.partition("-")[2]) == 0


def read(data: bytes) -> Checkpoint:
    """Return a checkpoint that is whole; its checksums are compared.

    Raises:
        one of DAMAGED: it is not.
    """
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    about = json.loads(arrays.pop(ABOUT).tobytes())
    if about.pop("version") != VERSION:
        raise ValueError("of another version of this program")
    if name := unsound(arrays):
        raise ValueError(f"its {name} is infinite or no number")
    return Checkpoint(Standing(**about), arrays)


def _verify(path: Path) -> None:
    """Refuse a file that does not read back as it was written.

    Raises:
        OSError: it does not.
    """
    with zipfile.ZipFile(path) as file:
        damaged = file.testzip()
    if damaged:
        raise OSError(f"what was written is not what is read ({damaged})")

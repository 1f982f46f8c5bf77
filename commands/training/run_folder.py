"""The folder of a run: its settings, its history, its best and its last weights, who may write it.

Each file is saved whole or not at all. The best weights go to the run folder and to `weights/`.
Where a run stands in the middle of its work is `checkpoint.py`'s.
"""

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import keras
import numpy as np

import config as settings
from commands.training import checkpoint
from commands.training.checkpoint import Checkpoints, Standing
from commands.training.runs import DONE, changed_settings, history_of
from config import Config
from salience.networks import weight_files
from salience.networks.weight_files import versions
from salience.system.errors import UserError
from salience.system.files import (
    as_csv,
    make_folder,
    read_json,
    real_path,
    sweep,
    write_json,
    write_text,
)
from salience.system.flags import to_json
from salience.system.terminal import tell

RUN = "run.json"  # what a run is, besides its settings: of what pictures, since when, by whom
WAYS = "Choose another folder with --output, or replace that run with --overwrite."
# what a run took, which no two are alike in: kept apart from the history, which a repetition equals
CLOCK = ("seconds", "images_per_second", "peak_memory_mb")


@dataclass(frozen=True)
class Earlier:
    """What a run folder holds of an earlier run of the same settings.

    Attributes:
        is_done: it came to its end.
        is_unfinished: it did not, and can be taken up.
        about: what its `run.json` says.
        features: how it decided on the feature cache, whose rounding its weights have; "" where
            that is for this run to decide.
    """

    is_done: bool = False
    is_unfinished: bool = False
    about: dict[str, Any] = field(default_factory=dict)
    features: str = ""


def earlier(config: Config) -> Earlier:
    """Return what a run finds in its folder.

    Raises:
        UserError: a run that it may neither replace nor take up.
    """
    folder = config.run_folder
    if config.overwrite and config.resume:
        raise UserError("--overwrite begins anew and --resume goes on: leave one of them away.")
    trained = (folder / "history.csv").exists() or bool(_checkpoints(folder).paths())
    if config.overwrite or not trained:
        return Earlier()
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} holds an earlier run without its config.json. {WAYS}")
    done = (folder / DONE).exists()
    changed = changed_settings(config, moved=not done)
    if changed:
        raise UserError(f"{folder} holds an earlier run of other settings: {changed}. {WAYS}")
    if done and config.resume:
        return Earlier(is_done=True)
    if done:
        raise UserError(f"{folder} holds an earlier run, which is done. {WAYS}")
    if not (folder / RUN).exists():
        raise UserError(f"{folder} holds an earlier run that cannot be taken up: no {RUN}. {WAYS}")
    about = read_json(folder / RUN)
    if not isinstance(about, dict):
        raise UserError(f"{folder / RUN} is damaged. {WAYS}")
    backend = keras.backend.backend()
    if about.get("backend") != backend:
        raise UserError(
            f"{folder} holds an unfinished run on {about.get('backend')}, and this is {backend}: "
            f"set KERAS_BACKEND={about.get('backend')} to take it up. {WAYS}"
        )
    return Earlier(is_unfinished=True, about=about, features=str(about.get("features", "")))


def _checkpoints(folder: Path) -> Checkpoints:
    """Return the checkpoints of a run folder."""
    return Checkpoints(folder / "checkpoints")


class RunFolder:
    """The files of one training run, which one process writes at a time.

    Args:
        config: the run's settings; the folder is `config.run_folder`.
        same: names of what must be the same where the run is taken up: its pictures, the weights
            that it starts from.
        features: how it decided on the feature cache.
        say: gets what is to be told.
        writes: whether this process writes files; one that does not keeps the history alone.
        history: the rows of earlier epochs.

    Attributes:
        started: when; part of the run's name.
        kept_back: why the best weights are not in weights/.
        pictures: what the cards of its weights remember of its pictures, see `provenance`.
        resumed: the checkpoint that the run is taken up from, as bytes, or None.
        is_interrupted: it has ended before its time, to be taken up again.

    Raises:
        UserError: the run folder or the weights folder cannot be written, another process trains
            into it, or it holds another run.
    """

    started = kept_back = ""
    is_interrupted = False
    resumed: bytes | None = None
    pictures: dict[str, str] | None = None

    def __init__(
        self,
        config: Config,
        same: dict[str, str] | None = None,
        features: str = "",
        say: Callable[[str], None] = tell,
        writes: bool = True,
        history: Sequence[dict[str, float]] = (),
    ) -> None:
        self.config, self.writes = config, writes
        self.folder, self.weights_dir = config.run_folder, config.weights_dir
        self.history = list(history)
        self.checkpoints = _checkpoints(self.folder)
        if not writes:
            return
        make_folder(self.folder)
        make_folder(self.weights_dir, "--weights_dir")
        self.lock = self._locked(say)
        try:
            self._open(same or {}, features, say)
        except BaseException:
            self.close()
            raise

    def _open(self, same: dict[str, str], features: str, say: Callable[[str], None]) -> None:
        """Begin anew or go on, now that nobody else writes."""
        config, found = self.config, earlier(self.config)
        for folder in (self.folder, self.checkpoints.folder):
            sweep(folder, left_seconds=0)  # a killed process' unfinished files
        if found.is_unfinished:
            for what, name in same.items():
                if found.about.get(what) != name:
                    raise UserError(
                        f"{self.folder} holds an unfinished run, whose {what} were others than "
                        f"they are now. {WAYS}"
                    )
            self.resumed = self.checkpoints.newest(say)
            # the first is written after the first epoch's other files, or before
            begun = self.checkpoints.paths() or len(history_of(self.folder)) > 1
            if self.resumed is None and begun:
                raise UserError(
                    f"{self.folder} holds an unfinished run without a checkpoint that can be "
                    f"read. {WAYS}"
                )
        about = {
            **same,
            "backend": keras.backend.backend(),
            "features": features,
            "versions": versions(),
            "host": socket.gethostname(),
            "process": os.getpid(),
        }
        if self.resumed is None:
            self.started = _now()
            self._clear()
        else:
            self.take_up(checkpoint.read(self.resumed).standing)
            then = found.about.get("versions")
            if then != about["versions"]:
                say(f"warning: the run began with other versions ({then}): bits may differ")
        settings.save(config, self.path("config.json"))
        write_json(self.path(RUN), {"started": self.started, **about})

    def _locked(self, say: Callable[[str], None]) -> filelock.BaseFileLock:
        """Hold the folder against other trainings, for as long as this process lives.

        Raises:
            UserError: another has it.
        """
        lock = filelock.FileLock(self.path("run.lock"), timeout=0)
        try:
            lock.acquire()
        except OSError as error:
            if isinstance(error, filelock.Timeout):
                raise self._taken() from None
            # a file system that knows no locks; it may be trained on none the less
            say(f"warning: {self.folder} cannot be held against other trainings: {error.strerror}")
        return lock

    def _taken(self) -> UserError:
        """Return the error that says who has the folder."""
        about = read_json(self.path(RUN)) if self.path(RUN).exists() else {}
        return UserError(
            f"Another training writes to {self.folder} (process {about.get('process')} on "
            f"{about.get('host')}). Choose another folder with --output, or end that one."
        )

    def _clear(self) -> None:
        """Remove an earlier run: files of two runs side by side would be read as those of one."""
        for name in ("history.csv", "speed.csv", "*.weights.h5", "best.json", "last.json", "*.png",
                     "nonfinite.json", DONE, RUN, "tensorboard/events.*"):  # fmt: skip
            for old in self.folder.glob(name):
                old.unlink()
        self.checkpoints.clear()

    def take_up(self, standing: Standing) -> None:
        """Go on from where an earlier process came to."""
        self.started = standing.started
        self.history = standing.history
        if not self.writes:
            return
        # the files may be an epoch further than the checkpoint, which is written last
        self.write_history()
        if self.history:
            self.kept_back = self.why_kept_back(self.card(self.best_epoch))

    def path(self, name: str) -> Path:
        """Return the path of a file of this run."""
        return self.folder / name

    @property
    def best_epoch(self) -> dict[str, float]:
        """The history's row of the lowest validation loss."""
        return min(self.history, key=lambda row: row["val_loss"])

    def record(self, model: keras.Model, row: dict[str, float]) -> bool:
        """Add an epoch to the history and save the weights; return whether it is the best so far.

        Args:
            model: the network after this epoch.
            row: `epoch`, `loss`, `val_loss`, the metrics, and what it took (CLOCK).
        """
        self.history.append(row)
        best = self.best_epoch is row
        if not self.writes:
            return best
        self.write_history()
        card = self.card(row)
        weight_files.save(model, self.path("last.weights.h5"), card)
        if best:
            weight_files.save(model, self.path("best.weights.h5"), card)
            self.publish(model, card)
        return best

    def write_history(self) -> None:
        """Write what the epochs gave, and beside it what they took."""
        taken = [{k: row[k] for k in ("epoch", *CLOCK) if k in row} for row in self.history]
        given = [without_clock(row) for row in self.history]
        for name, rows in (("history.csv", given), ("speed.csv", taken)):
            if rows:
                write_text(self.path(name), as_csv(rows))
            else:
                self.path(name).unlink(missing_ok=True)

    @property
    def published(self) -> Path:
        """The file of the best weights in the weights folder."""
        return self.weights_dir / f"{self.config.name}.weights.h5"

    def publish(self, model: keras.Model, card: dict[str, Any]) -> None:
        """Copy the best weights to the weights folder, unless better ones of another run are there.

        Nor are weights published whose validation gave no number. Better is a higher validation
        CC on the same pictures. Weights of another data set are not replaced at all. `kept_back`
        says which.
        """
        self.kept_back = self.why_kept_back(card)
        if not self.kept_back:
            weight_files.save(model, self.published, card)

    def why_kept_back(self, card: dict[str, Any]) -> str:
        """Return why weights of a card are not to be published; "" if they are."""
        if not np.isfinite(card["metrics"]["val_cc"]):
            return "the validation CC is no number"
        if not self.published.exists():
            return ""
        try:
            there = weight_files.read_card(self.published)
        except UserError:
            there = {}  # nothing that could be used
        return weight_files.reason_to_keep(there, card) if there.get("run") != card["run"] else ""

    def note_rival(self, rival: dict[str, Any]) -> str:
        """Write on the cards of the best weights how the network in the box does; return a line.

        Args:
            rival: its scores on the same validation pictures, see `validation.score_shipped`.

        Returns:
            What to say where it does better, else "".
        """
        weight_files.amend(self.path("best.weights.h5"), {"box": rival})
        if not self.kept_back:
            weight_files.amend(self.published, {"box": rival})
        return weight_files.included_is_better({**self.card(self.best_epoch), "box": rival})

    def finish(self) -> None:
        """Mark the run as come to its end, by its last epoch or by patience."""
        if not self.writes:
            return
        best = without_clock(self.best_epoch)
        write_json(self.path(DONE), {"epochs": len(self.history), **best})
        self.checkpoints.clear()  # of ML-Net they take 250 MB, and nothing is to be taken up

    def close(self) -> None:
        """Let others write."""
        if self.writes:
            self.lock.release()

    def card(self, row: dict[str, float]) -> dict[str, Any]:
        """Return what the weights of an epoch are: for people, and for `load_model`."""
        return {
            "model": self.config.model,
            "system": self.config.system,
            "strategy": self.config.strategy,
            "input_shape": list(self.config.input_shape),
            "dataset": self.config.dataset_name,
            "run": f"{real_path(self.folder)} {self.started}",
            "metrics": without_clock(row),
            "date": _now(),
            "versions": versions(),
            "config": to_json(self.config),
            **({"pictures": self.pictures} if self.pictures else {}),
        }


def without_clock(row: dict[str, float]) -> dict[str, float]:
    """Return an epoch's row without what depends on the machine's day."""
    return {name: value for name, value in row.items() if name not in CLOCK}


def _now() -> str:
    """Return the date and time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")

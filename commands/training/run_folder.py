"""The folder of a training run: settings, history, best and last weights, and a lock.

Each file is replaced atomically. The best weights are saved in the run folder and in `weights/`.
`checkpoint.py` saves the position within a run.
"""

import math
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

import config as settings
from commands.training import checkpoint
from commands.training.checkpoint import Checkpoints, Standing
from commands.training.runs import (
    ABOUT,
    DONE,
    STATE,
    badness,
    changed_settings,
    clear,
    has_more_epochs,
    has_schedule,
    history_of,
    locked,
    reason_against_more_epochs,
)
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

REMEDY = "Choose another folder with --output, or replace that run with --overwrite."
# measurements of time and memory, stored apart: the history of a repeated run is identical
CLOCK = (
    *("seconds", "train_seconds", "validation_seconds", "other_seconds"),
    *("images_per_second", "peak_memory_mb"),
    *("features_kept", "features_compute_ms", "features_read_ms"),
)


@dataclass(frozen=True)
class EarlierRun:
    """An earlier run with the same settings in a run folder.

    Attributes:
        is_done: whether it is finished.
        is_unfinished: whether it is unfinished and can be resumed.
        about: content of its `run.json`.
        features: feature-cache mode of the run, see `feature_cache.Attachment`; "" if this run may
            choose.
    """

    is_done: bool = False
    is_unfinished: bool = False
    about: dict[str, Any] = field(default_factory=dict)
    features: str = ""


def find_earlier_run(config: Config) -> EarlierRun:
    """Return the earlier run in a run folder, if there is one.

    Args:
        config: settings of the new run.

    Raises:
        UserError: an earlier run can be neither replaced nor resumed with these settings.
    """
    folder = config.run_folder
    if config.overwrite and config.resume:
        raise UserError("--overwrite starts anew and --resume continues: use only one of them.")
    trained = (folder / "history.csv").exists() or bool(_checkpoints(folder).paths())
    if config.overwrite or not trained:
        return EarlierRun()
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} holds an earlier run without its config.json. {REMEDY}")
    done = (folder / DONE).exists()
    longer = has_more_epochs(config)
    if longer and (reason := reason_against_more_epochs(config)):
        raise UserError(
            f"{folder} holds an earlier run, which cannot go on to {config.epochs} epochs: "
            f"{reason}. {REMEDY}"
        )
    changed = changed_settings(config)
    if changed:
        raise UserError(f"{folder} holds an earlier run with other settings: {changed}. {REMEDY}")
    if done and config.resume and not longer:
        return EarlierRun(is_done=True)
    if done and not longer:
        raise UserError(
            f"{folder} holds an earlier run, which is finished. {REMEDY} More --epochs go on."
        )
    if not (folder / ABOUT).exists():
        raise UserError(
            f"{folder} holds an earlier run that cannot be resumed: no {ABOUT}. {REMEDY}"
        )
    about = read_json(folder / ABOUT)
    if not isinstance(about, dict):
        raise UserError(f"{folder / ABOUT} is damaged. {REMEDY}")
    backend = keras.backend.backend()
    if about.get("backend") != backend:
        raise UserError(
            f"{folder} holds an unfinished run on {about.get('backend')}, and this is {backend}: "
            f"set KERAS_BACKEND={about.get('backend')} to resume it. {REMEDY}"
        )
    return EarlierRun(is_unfinished=True, about=about, features=str(about.get("features", "")))


def _checkpoints(folder: Path) -> Checkpoints:
    """Return the checkpoints of a run folder."""
    return Checkpoints(folder / "checkpoints")


class RunFolder:
    """The files of one training run; a lock lets only one process write them.

    Args:
        config: settings of the run; the folder is `config.run_folder`.
        same: identities of the inputs that a resumed run must share: pictures, initial weights.
        features: feature-cache mode of the run.
        say: called with each message.
        writes: whether this process writes files; if not, it only keeps the history in memory.
        history: rows of earlier epochs.

    Attributes:
        started: start time, which is part of the run's name.
        unpublished_reason: why the best weights are not in `weights/`; "" if they are.
        pictures: provenance of the pictures, for the weights' cards; see `provenance`.
        costs: measurements of the run, which `speed.csv` repeats in each epoch.
        counts: numbers of the network's weights, for the cards.
        resumed: checkpoint from which the run is resumed, as bytes, or None.
        is_interrupted: whether the run was stopped early and can be resumed.

    Raises:
        UserError: the run folder or the weights folder cannot be written, another process writes
            the run folder, or it holds another run.
    """

    started = unpublished_reason = ""
    is_interrupted = False
    resumed: bytes | None = None
    pictures: dict[str, str] | None = None
    costs: Mapping[str, float] = MappingProxyType({})
    counts: Mapping[str, int] = MappingProxyType({})

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
        self.lock = locked(self.folder, say)
        try:
            self._open(same or {}, features, say)
        except BaseException:
            self.close()
            raise

    def _open(self, same: dict[str, str], features: str, say: Callable[[str], None]) -> None:
        """Start or resume the run, after the lock is acquired."""
        config, found = self.config, find_earlier_run(self.config)
        for folder in (self.folder, self.checkpoints.folder):
            sweep(folder, left_seconds=0)  # temporary files of killed processes
        if found.is_unfinished:
            for what, name in same.items():
                if found.about.get(what) != name:
                    raise UserError(
                        f"{self.folder} holds an unfinished run whose {what} differ from those "
                        f"of now. {REMEDY}"
                    )
            if self.path(STATE).exists():  # of a finished run, which goes on
                self.checkpoints.take_up(self.path(STATE))
            self.resumed = self.checkpoints.newest(say)
            # the first checkpoint may be written after the other files of the first epoch
            begun = self.checkpoints.paths() or len(history_of(self.folder)) > 1
            if self.resumed is None and begun:
                raise UserError(
                    f"{self.folder} holds an unfinished run without a readable checkpoint. {REMEDY}"
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
            clear(self.folder)
        else:
            self.resume(checkpoint.read(self.resumed).standing)
            self.path(DONE).unlink(missing_ok=True)  # before the settings name more epochs
            then = found.about.get("versions")
            if then != about["versions"]:
                say(f"warning: the run began with other versions ({then}): rounding may differ")
        settings.save(config, self.path("config.json"))
        write_json(self.path(ABOUT), {"started": self.started, **about})

    def resume(self, standing: Standing) -> None:
        """Continue from the position of an earlier process."""
        self.started = standing.started
        self.history = standing.history
        if not self.writes:
            return
        # the process may have ended between the writing of the checkpoint and of the history
        self.write_history(self.history)
        if self.history:
            self.unpublished_reason = self.reason_not_to_publish(self.card(self.best_epoch))

    def path(self, name: str) -> Path:
        """Return the path of a file of this run."""
        return self.folder / name

    @property
    def best_epoch(self) -> dict[str, float]:
        """Row of the history with the lowest validation loss; see `badness`."""
        return min(self.history, key=badness)

    def add(self, row: dict[str, float]) -> bool:
        """Add an epoch to the history in memory; return True for the best epoch so far.

        Args:
            row: `epoch`, `loss`, `val_loss`, the metrics, and measurements (CLOCK).
        """
        self.history.append(row)
        return self.best_epoch is row

    def save_weights(
        self, weights: weight_files.InMemory, row: dict[str, float], best: bool
    ) -> None:
        """Save an epoch's weights: as the last ones, and as the best ones if they are.

        Args:
            weights: copy of the weights, see `weight_files.in_memory`.
            row: row of the epoch.
            best: the answer of `add`.
        """
        card = self.card(row)
        weight_files.write(weights, self.path("last.weights.h5"), card)
        if best:
            weight_files.write(weights, self.path("best.weights.h5"), card)
            self.publish(weights, card)

    def write_history(self, history: Sequence[dict[str, float]]) -> None:
        """Write history.csv with the results, and speed.csv with the measurements (CLOCK)."""
        # epochs of an earlier version lack some measurements
        measured = [{k: row.get(k, math.nan) for k in ("epoch", *CLOCK)} for row in history]
        results = [without_clock(row) for row in history]
        for name, rows in (("history.csv", results), ("speed.csv", measured)):
            if rows:
                write_text(self.path(name), as_csv(rows))
            else:
                self.path(name).unlink(missing_ok=True)

    @property
    def published(self) -> Path:
        """The file of the best weights in the weights folder."""
        return self.weights_dir / f"{self.config.name}.weights.h5"

    def publish(self, weights: weight_files.InMemory, card: dict[str, Any]) -> None:
        """Save the best weights in the weights folder, unless it has better ones of another run.

        Better means a higher validation CC on the same pictures. Weights of another data set are
        never replaced, and weights without a finite validation CC are never published.
        `unpublished_reason` records the reason.

        Args:
            weights: copy of the best weights.
            card: card of the weights, see `card`.
        """
        self.unpublished_reason = self.reason_not_to_publish(card)
        if not self.unpublished_reason:
            weight_files.write(weights, self.published, card)

    def reason_not_to_publish(self, card: dict[str, Any]) -> str:
        """Return why weights with a card must not be published; "" if they may."""
        if not np.isfinite(card["metrics"]["val_cc"]):
            return "the validation CC is not finite"
        if not self.published.exists():
            return ""
        start = self.config.init_weights
        if start and real_path(start) == real_path(self.published):
            return "this training began with it"
        there = self.published_card()
        return weight_files.reason_to_keep(there, card) if there.get("run") != card["run"] else ""

    def published_card(self) -> dict[str, Any]:
        """Return the card of the weights in the weights folder; {} for missing or damaged ones."""
        try:
            return weight_files.read_card(self.published)
        except UserError:
            return {}  # damaged weights may be replaced

    def record_included(self, scores: dict[str, Any]) -> str:
        """Add the scores of the included weights to the cards of the best weights.

        Args:
            scores: scores of the included weights on the same validation pictures, see
                `validation.score_shipped`.

        Returns:
            A message if the included weights are better in all metrics, else "".
        """
        self.amend_best({"box": scores})
        return weight_files.included_is_better({**self.card(self.best_epoch), "box": scores})

    def amend_best(self, more: dict[str, Any]) -> None:
        """Add fields to the cards of the best weights.

        Another training of the same name may have replaced or removed the published ones since.
        """
        weight_files.amend(self.path("best.weights.h5"), more)
        if self.unpublished_reason:
            return
        if self.published_card().get("run") == self.card(self.best_epoch)["run"]:
            weight_files.amend(self.published, more)
        else:
            self.unpublished_reason = "another training has changed it since"

    def finish(self) -> None:
        """Mark the run as finished, after its last epoch or by patience.

        The last checkpoint is kept (120 MB for ML-Net) if more epochs could go on from it.
        """
        if not self.writes:
            return
        best = without_clock(self.best_epoch)
        # before the mark: an unfinished run takes the state up again
        if len(self.history) >= self.config.epochs and not has_schedule(to_json(self.config)):
            self.checkpoints.put_aside(self.path(STATE))
        write_json(self.path(DONE), {"epochs": len(self.history), **best})
        self.checkpoints.clear()

    def close(self) -> None:
        """Release the lock."""
        if self.writes:
            self.lock.release()

    def card(self, row: dict[str, float]) -> dict[str, Any]:
        """Return the card of an epoch's weights, for users and for `load_model`."""
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
            "counts": dict(self.counts),
            **({"pictures": self.pictures} if self.pictures else {}),
        }


def without_clock(row: dict[str, float]) -> dict[str, float]:
    """Return an epoch's row without its measurements of time and memory."""
    return {name: value for name, value in row.items() if name not in CLOCK}


def _now() -> str:
    """Return the UTC date and time in seconds, as ISO 8601 text."""
    return datetime.now(UTC).isoformat(timespec="seconds")

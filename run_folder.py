"""The state of a run on disk: its settings, its history, its best and its last weights.

Each file is saved whole or not at all. The best weights go to the run folder and to `weights/`.
"""

import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np

import config as settings
import weight_files
from config import Config
from errors import UserError
from files import as_csv, make_folder, write_json, write_text
from flags import to_json

VERSION = "0.1.0"


class RunFolder:
    """The files of one training run.

    Args:
        config: the run's settings; the folder is `config.run_folder`.

    Raises:
        UserError: the run folder or the weights folder cannot be written.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.folder = make_folder(config.run_folder)
        self.weights_dir = make_folder(config.weights_dir, "--weights_dir")
        self.history: list[dict[str, float]] = []
        self.started = _now()
        self.kept_back = ""  # why the best weights are not in weights/
        if self.path("history.csv").exists() and not config.overwrite:
            raise UserError(
                f"{self.folder} holds an earlier run. Choose another folder with --output, or "
                "replace that run with --overwrite."
            )
        # files of two runs side by side would be read as those of one
        for name in ("history.csv", "*.weights.h5", "best.json", "last.json", "*.png",
                     settings.DONE, "tensorboard/events.*"):  # fmt: skip
            for old in self.folder.glob(name):
                old.unlink()
        settings.save(config, self.path("config.json"))

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
            row: `epoch`, `loss`, `val_loss` and the metrics.
        """
        self.history.append(row)
        write_text(self.path("history.csv"), as_csv(self.history))
        card = self.card(row)
        weight_files.save(model, self.path("last.weights.h5"), card)
        best = self.best_epoch is row
        if best:
            weight_files.save(model, self.path("best.weights.h5"), card)
            self.publish(model, card)
        return best

    @property
    def published(self) -> Path:
        """The file of the best weights in the weights folder."""
        return self.weights_dir / f"{self.config.name}.weights.h5"

    def publish(self, model: keras.Model, card: dict[str, Any]) -> None:
        """Copy the best weights to the weights folder, unless better ones of another run are there.

        Better is a higher validation CC on the same data set; and weights from people's fixations
        are not replaced by those of a trial on synthetic scenes. `kept_back` says which.
        """
        self.kept_back = ""
        if self.published.exists():
            try:
                there = weight_files.read_card(self.published)
            except UserError:
                there = {}  # nothing that could be used
            if there.get("run") != card["run"]:
                self.kept_back = weight_files.why_better(there, card)
        if not self.kept_back:
            weight_files.save(model, self.published, card)

    def finish(self) -> None:
        """Mark the run as come to its end, by its last epoch or by patience."""
        write_json(self.path(settings.DONE), {"epochs": len(self.history), **self.best_epoch})

    def card(self, row: dict[str, float]) -> dict[str, Any]:
        """Return what the weights of an epoch are: for people, and for `load_model`."""
        return {
            "model": self.config.model,
            "system": self.config.system,
            "strategy": self.config.strategy,
            "input_shape": list(self.config.input_shape),
            "dataset": self.config.dataset_name,
            "run": f"{self.folder.resolve()} {self.started}",
            "metrics": row,
            "date": _now(),
            "versions": versions(),
            "config": to_json(self.config),
        }


class WitnessedRun(RunFolder):
    """A run that another process writes: its history alone, the same in all of them."""

    def __init__(self, config: Config) -> None:
        self.config, self.folder, self.weights_dir = config, config.run_folder, config.weights_dir
        self.history = []
        self.kept_back = ""

    def record(self, model: keras.Model, row: dict[str, float]) -> bool:
        """Add an epoch to the history; return whether it is the best so far."""
        self.history.append(row)
        return self.best_epoch is row

    def finish(self) -> None:
        """Leave the mark to the one that writes."""


def _now() -> str:
    """Return the date and time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {
        "program": VERSION,
        "python": platform.python_version(),
        "keras": keras.__version__,
        "backend": f"{keras.backend.backend()} {_backend_version()}",
        "numpy": np.__version__,
    }


def _backend_version() -> str:
    """Return the version of TensorFlow, JAX or PyTorch, whichever Keras runs on."""
    import importlib.metadata

    return importlib.metadata.version(keras.backend.backend())

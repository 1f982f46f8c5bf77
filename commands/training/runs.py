"""Run folders of `train`, weights files, and their arms: runs that differ only in their seed."""

import csv
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import filelock

import config as config_files
from config import OWN_SETS, Config
from salience.measures.references import model_name
from salience.networks import weight_files
from salience.system.errors import UserError
from salience.system.files import read_json, read_text, real_path
from salience.system.flags import to_json
from salience.system.terminal import PROGRAM

DONE = "done.json"  # marks the folder of a finished run
ABOUT = "run.json"  # facts about a run besides its settings: pictures, start time, process
STATE = "state.npz"  # checkpoint after the last epoch of a finished run that can go on
# settings that do not affect a run's results, or only their rounding (a resumed run keeps its
# feature-cache mode)
WITHOUT_EFFECT = (
    *("overwrite", "resume", "checkpoint_minutes", "output", "weights_dir", "workers"),
    *("feature_cache", "cache_limit", "steps_per_execution"),
    *("devices", "cluster", "cluster_timeout"),
)
# settings that may differ within an arm
NOT_OF_THE_ARM = (*WITHOUT_EFFECT, "seed", "xla")


@dataclass(frozen=True)
class Run:
    """A run folder of `train`, or a weights file with its card, which has no history.

    Raises:
        UserError: the folder is missing or holds no finished epoch.
    """

    folder: Path

    def __post_init__(self) -> None:
        if self.is_file:
            return
        for name in ("config.json", "best.weights.h5", "history.csv"):
            if not (self.folder / name).exists():
                raise UserError(
                    f"{self.folder} is not a run of {PROGRAM} train with a finished epoch: {name} "
                    "is missing."
                )

    @property
    def is_file(self) -> bool:
        """Whether this is a weights file alone."""
        return self.folder.is_file()

    @property
    def name(self) -> str:
        """Name of the folder, or of the weights file without its suffix."""
        return weight_files.name_of(self.folder)

    @cached_property
    def config(self) -> Config:
        """The settings of the run."""
        if self.is_file:
            return config_files.trained_config(self.folder)
        return Config(**config_files.read_settings(self.folder / "config.json"))

    @property
    def weights(self) -> Path:
        """The weights file of the best epoch."""
        return self.folder if self.is_file else self.folder / "best.weights.h5"

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """The results of each epoch; [] for a weights file."""
        return [] if self.is_file else history_of(self.folder)


def locked(folder: Path, say: Callable[[str], None]) -> filelock.BaseFileLock:
    """Return the lock of a run folder, acquired until it is released or this process ends.

    Args:
        folder: the run folder.
        say: called with a warning on a file system without locks: there is none, then.

    Raises:
        UserError: another process holds the lock; the message names it.
    """
    lock = filelock.FileLock(folder / "run.lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        about = read_json(folder / ABOUT) if (folder / ABOUT).exists() else {}
        raise UserError(
            f"Another training writes to {folder} (process {about.get('process')} on "
            f"{about.get('host')}). Choose another folder with --output, or stop that one."
        ) from None
    except OSError as error:
        say(f"warning: {folder} cannot be locked against other runs: {error.strerror}")
    return lock


def clear(folder: Path) -> None:
    """Remove the files of an earlier run, so that files of two runs do not mix."""
    for name in ("config.json", "history.csv", "speed.csv", "*.weights.h5", "best.json",
                 "last.json", "*.png", "nonfinite.json", DONE, STATE, ABOUT,
                 "tensorboard/events.*", "checkpoints/*.npz"):  # fmt: skip
        for old in folder.glob(name):
            old.unlink()


def run_of(named: Path) -> Run:
    """Return the run of a folder, or the weights of a file or of a name.

    Raises:
        UserError: there is no such run, file or name.
    """
    if named.exists() or named.name != str(named):
        return Run(named)
    try:
        return Run(weight_files.named(named, Config.weights_dir))
    except UserError as error:
        raise UserError(
            f"{named} is neither a run folder nor a weights file nor the name of weights; "
            "`weights` lists their names."
        ) from error


def changed_settings(config: Config) -> str:
    """Return the differences between the settings in a run folder and those of a run, as text.

    The data of an unfinished run may have moved, as resuming compares the pictures, and `on_nan`
    may differ. So may they where a finished run is only found to be finished.
    """
    before = config_files.read_settings(config.run_folder / "config.json")
    longer = has_more_epochs(config) and not reason_against_more_epochs(config)
    unfinished = not (config.run_folder / DONE).exists()
    only_found = config.resume and not has_more_epochs(config)
    ignored = (
        *WITHOUT_EFFECT,
        *(["data", "on_nan"] if unfinished or only_found else []),
        *(["epochs"] if longer else []),
    )
    changed = [
        (f.name, before.get(f.name, f.default), getattr(config, f.name))
        for f in dataclasses.fields(config)
        if f.name not in ignored
    ]
    return "; ".join(
        f"{name} {as_typed(then)}, now {as_typed(now)}"
        for name, then, now in changed
        if then != now
    )


def has_more_epochs(config: Config) -> bool:
    """Return True if a run asks for more epochs than the run in its folder."""
    before = config_files.read_settings(config.run_folder / "config.json")
    return config.epochs > before.get("epochs", Config.epochs)


def has_schedule(settings: dict[str, Any]) -> bool:
    """Return True if learning rate or momentum depend on the number of epochs."""
    of_sgd = settings.get("optimizer", Config.optimizer) == "sgd"
    return settings.get("learning_rate_end") is not None or (
        of_sgd and settings.get("momentum_end") is not None
    )


def reason_against_more_epochs(config: Config) -> str:
    """Return why the run in a folder cannot go on to more epochs; "" if it can.

    With more epochs, a run goes on exactly as if it had been started with them.
    """
    folder = config.run_folder
    before = config_files.read_settings(folder / "config.json")
    if has_schedule(before):
        return (
            f"its learning rate or momentum changes linearly until epoch {before['epochs']}, so a "
            "longer run differs from its first epoch on"
        )
    if not (folder / DONE).exists():
        return ""
    history, patience = history_of(folder), before.get("patience", Config.patience)
    best = min(history, key=badness) if history else {"epoch": 0}
    if history and history[-1]["epoch"] - best["epoch"] >= patience:
        return (
            f"it ended by --patience {patience}: epoch {best['epoch']:.0f} of {len(history)} was "
            "the best"
        )
    kept = (folder / STATE).exists() or any((folder / "checkpoints").glob("*.npz"))
    return "" if kept else f"its {STATE}, the state of the training, is missing"


def as_typed(value: Any) -> str:
    """Return a setting as it is typed after its flag."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def history_of(folder: Path) -> list[dict[str, float]]:
    """Return the results of each epoch of a run, and those of its costs that were measured."""
    results, costs = (rows_of(folder / name) for name in ("history.csv", "speed.csv"))
    cost = {row["epoch"]: {k: v for k, v in row.items() if not math.isnan(v)} for row in costs}
    return [{**row, **cost.get(row["epoch"], {})} for row in results]


def badness(row: dict[str, float]) -> float:
    """Return what the best epoch has least of: loss, or with several sets information gain lost."""
    return -row["val_ig"] if "val_ig" in row else row["val_loss"]


def rows_of(path: Path) -> list[dict[str, float]]:
    """Return the rows of a CSV file of numbers; [] if there is no file."""
    if not path.exists():
        return []
    lines = read_text(path).splitlines()
    return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]


@dataclass(frozen=True)
class Arm:
    """Runs of one strategy that differ only in their seed."""

    name: str
    runs: list[Run]


def arms_of(runs: list[Run]) -> list[Arm]:
    """Return the arms of runs, in their order, with unique names.

    The name of an arm is its strategy if all arms have the same system.

    Raises:
        UserError: a run is named twice, or two runs have the same settings and seed.
    """
    if len({real_path(run.folder) for run in runs}) < len(runs):
        raise UserError("A run folder is named twice; each run counts once.")
    groups: dict[str, list[Run]] = {}
    for run in runs:
        fields = {k: v for k, v in to_json(run.config).items() if k not in NOT_OF_THE_ARM}
        # the path of a named data set does not matter, but that of a user's own folder does
        fields["data"] = [str(root) for name, root in run.config.sets if name in OWN_SETS]
        if run.is_file:  # which other seeds there are is not known
            fields["file"] = str(real_path(run.folder))
        groups.setdefault(repr(sorted(fields.items())), []).append(run)
    arms = list(groups.values())
    for arm in arms:
        seeds: dict[int, Run] = {}
        for run in arm:
            twin = seeds.setdefault(run.config.seed, run)
            if twin is not run:
                raise UserError(f"{twin.folder} and {run.folder} have the same settings and seed.")
    of_one_system = len({arm[0].config.system for arm in arms}) == 1
    for names in (
        # weights are known by their own name
        [arm[0].name for arm in arms] if any(arm[0].is_file for arm in arms) else [],
        [arm[0].config.strategy if of_one_system else "" for arm in arms],
        [f"{arm[0].config.system}-{arm[0].config.strategy}" for arm in arms],
        [arm[0].config.name for arm in arms],
        [arm[0].name for arm in arms],
    ):
        if names and len(set(names)) == len(names):
            return [Arm(model_name(name), arm) for name, arm in zip(names, arms, strict=True)]
    return [Arm(model_name(str(arm[0].folder)), arm) for arm in arms]


def differing_settings(arms: list[Arm]) -> list[str]:
    """Return the settings that differ between arms, except those of the strategy."""
    own = (*NOT_OF_THE_ARM, "data", "freeze_backbone", "fixed_blocks", "backbone_weights")
    fields = [to_json(arm.runs[0].config) for arm in arms]
    values_of = {name: {repr(values[name]) for values in fields} for name in fields[0]}
    return [name for name, values in values_of.items() if name not in own and len(values) > 1]

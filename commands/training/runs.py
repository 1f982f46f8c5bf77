"""Runs that `train` wrote, and the arms that they make: runs that differ in their seed alone."""

import csv
import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import config as config_files
from config import OWN_SETS, Config
from salience.measures.references import model_name
from salience.system.errors import UserError
from salience.system.files import read_text, real_path
from salience.system.flags import to_json
from salience.system.terminal import PROGRAM

DONE = "done.json"  # in a run folder: the run has come to its end
# settings that change nothing in a run's results, or only their rounding (a run that is taken up
# keeps to what it decided on the feature cache)
WITHOUT_EFFECT = (
    *("overwrite", "resume", "checkpoint_minutes", "output", "weights_dir", "workers"),
    *("feature_cache", "cache_limit", "steps_per_execution"),
    *("devices", "cluster", "cluster_timeout"),
)
# those that do not tell two arms apart
NOT_THE_ARM = (*WITHOUT_EFFECT, "seed", "xla")


@dataclass(frozen=True)
class Run:
    """A run folder that `train` wrote.

    Raises:
        UserError: the folder is missing or holds no finished epoch.
    """

    folder: Path

    def __post_init__(self) -> None:
        for name in ("config.json", "best.weights.h5", "history.csv"):
            if not (self.folder / name).exists():
                raise UserError(
                    f"{self.folder} is no run of {PROGRAM} train that has finished an epoch: "
                    f"{name} is missing."
                )

    @cached_property
    def config(self) -> Config:
        """The settings it was trained with."""
        return Config(**config_files.read_settings(self.folder / "config.json"))

    @property
    def weights(self) -> Path:
        """The weights of its best epoch."""
        return self.folder / "best.weights.h5"

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """A row of numbers for each epoch."""
        return history_of(self.folder)


def changed_settings(config: Config, moved: bool = False) -> str:
    """Return where the settings that a run folder holds are not a run's own, as text.

    Args:
        config: of the run.
        moved: it is unfinished. Its data may lie elsewhere by now: who goes on with it compares the
            pictures. And who met a loss that is no number may deal with it in another way.
    """
    before = config_files.read_settings(config.run_folder / "config.json")
    left_out = (*WITHOUT_EFFECT, *(["data", "on_nan"] if moved else []))
    changed = [
        (f.name, before.get(f.name, f.default), getattr(config, f.name))
        for f in dataclasses.fields(config)
        if f.name not in left_out
    ]
    return "; ".join(
        f"{name} {as_typed(then)}, now {as_typed(now)}"
        for name, then, now in changed
        if then != now
    )


def as_typed(value: Any) -> str:
    """Return a setting as its flag would have it."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def history_of(folder: Path) -> list[dict[str, float]]:
    """Return what each epoch of a run gave and what it took, a row of numbers each."""
    given, taken = (rows_of(folder / name) for name in ("history.csv", "speed.csv"))
    cost = {row["epoch"]: row for row in taken}
    return [{**row, **cost.get(row["epoch"], {})} for row in given]


def rows_of(path: Path) -> list[dict[str, float]]:
    """Return the rows of a CSV file of numbers; none where it is absent."""
    if not path.exists():
        return []
    lines = read_text(path).splitlines()
    return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]


@dataclass(frozen=True)
class Arm:
    """Runs of one strategy that differ in their seed alone."""

    name: str
    runs: list[Run]


def arms_of(runs: list[Run]) -> list[Arm]:
    """Return the runs by arm, in their order; each arm is named by what tells it from the others.

    Of one system, that is its strategy.

    Raises:
        UserError: a run is named twice, or two are alike in all, the seed included.
    """
    if len({real_path(run.folder) for run in runs}) < len(runs):
        raise UserError("A run folder is named twice; each run counts once.")
    groups: dict[str, list[Run]] = {}
    for run in runs:
        fields = {k: v for k, v in to_json(run.config).items() if k not in NOT_THE_ARM}
        # where a named data set lies is no matter; which folder one's own is, is
        fields["data"] = [str(root) for name, root in run.config.sets if name in OWN_SETS]
        groups.setdefault(repr(sorted(fields.items())), []).append(run)
    arms = list(groups.values())
    for arm in arms:
        seeds: dict[int, Run] = {}
        for run in arm:
            twin = seeds.setdefault(run.config.seed, run)
            if twin is not run:
                raise UserError(
                    f"{twin.folder} and {run.folder} are one run twice: the same settings and seed."
                )
    of_one_system = len({arm[0].config.system for arm in arms}) == 1
    for names in (
        [arm[0].config.strategy if of_one_system else "" for arm in arms],
        [f"{arm[0].config.system}-{arm[0].config.strategy}" for arm in arms],
        [arm[0].config.name for arm in arms],
        [arm[0].folder.name for arm in arms],
    ):
        if len(set(names)) == len(names):
            return [Arm(model_name(name), arm) for name, arm in zip(names, arms, strict=True)]
    return [Arm(model_name(str(arm[0].folder)), arm) for arm in arms]


def differing_settings(arms: list[Arm]) -> list[str]:
    """Return the settings, besides the strategy's own, in which the arms are not alike."""
    own = (*NOT_THE_ARM, "data", "freeze_backbone", "fixed_blocks", "backbone_weights")
    fields = [to_json(arm.runs[0].config) for arm in arms]
    told = {name: {repr(values[name]) for values in fields} for name in fields[0]}
    return [name for name, values in told.items() if name not in own and len(values) > 1]

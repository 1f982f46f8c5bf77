"""What `train --strategies` does: one arm after the other, each with the same seeds, then compare.

Each run is a process of its own, so that none inherits another's memory, random state or compiled
graph, and its peak memory is its own. A run that is done is not run again.
"""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import config as config_files
from compare import compare
from config import DONE, STRATEGIES, Config
from errors import UserError
from files import make_folder
from hosts import choose_engine
from quiet import environment, import_keras

MAIN = Path(__file__).resolve().parent / "main.py"
INTERRUPTED = 130
# what changes nothing in a run's results
WITHOUT_EFFECT = (
    *("overwrite", "workers", "feature_cache", "cache_limit", "steps_per_execution"),
    *("devices", "cluster", "cluster_timeout"),
)


def run_strategies(
    config: Config,
    strategies: list[str],
    seeds: list[int],
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train every arm with every seed, unless done, and compare the arms on the test split.

    Args:
        config: of all runs, but for the strategy and the seed; `output` holds the run folders.
        strategies: keys of STRATEGIES.
        seeds: the same for every arm.
        say: gets each line of news.

    Returns:
        The comparison.

    Raises:
        UserError: a run failed, or its folder holds a run of other settings.
    """
    check(config, strategies, seeds)
    choose_engine(config.devices, config.cluster)  # for all arms, and their comparison
    root = make_folder(config.output or Path("runs") / f"{config.system}-strategies")
    runs = runs_of(dataclasses.replace(config, output=root), strategies, seeds)
    for number, run in enumerate(runs, 1):
        if is_done(run):
            say(f"run {number} of {len(runs)}: {run.run_folder} is done")
            continue
        say(f"run {number} of {len(runs)}: {run.run_folder}")
        train_apart(run)
    say("")
    import_keras()  # not before: while the runs train, their memory is theirs
    return compare(
        [run.run_folder for run in runs],
        {"output": root / "comparison", "workers": config.workers},
        say,
    )


def runs_of(config: Config, strategies: list[str], seeds: list[int]) -> list[Config]:
    """Return the settings of every arm with every seed, in folders below `config.output`.

    Raises:
        UserError: one of them could not start.
    """
    root = config.run_folder
    runs = [
        dataclasses.replace(
            config,
            **STRATEGIES[strategy],
            seed=seed,
            output=root / f"{strategy}-seed{seed}",
            # weights/ is for those who want a map: one file a strategy, of the first seed
            weights_dir=config.weights_dir if seed == seeds[0] else root / f"weights-seed{seed}",
        )
        for strategy in strategies
        for seed in seeds
    ]
    for run in runs:  # before hours of training
        run.check_start()
    return runs


def check(config: Config, strategies: list[str], seeds: list[int]) -> None:
    """Refuse, before hours of training, arms that could not be compared.

    Raises:
        UserError: a strategy or a seed is named twice, two strategies are one without weights, or
            several processes would train them.
    """
    if config.cluster:
        raise UserError(
            "--strategies trains one arm after the other, each in a process of its own: leave "
            "--cluster away, or train each arm with it and compare their run folders."
        )
    named: dict[str, list[Any]] = {"--strategies": strategies, "--seeds": seeds}
    for flag, values in named.items():
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise UserError(f"{flag} names {twice[0]} twice.")
    if config.starts_at_random and {"finetuned", "scratch"} <= set(strategies):
        raise UserError(
            "No --backbone_weights (or none) makes finetuned and scratch the same: "
            "leave one of them away."
        )


def is_done(run: Config) -> bool:
    """Return whether a run folder holds this very run, trained to its end.

    Raises:
        UserError: it holds a run of other settings.
    """
    written = run.run_folder / "config.json"
    if run.overwrite or not written.exists():
        return False
    before, now = config_files.read_settings(written), dataclasses.asdict(run)
    for name, value in now.items():
        if name not in WITHOUT_EFFECT and before.get(name, value) != value:
            raise UserError(
                f"{run.run_folder} holds a run with {name} {before[name]}, not {value}. Choose "
                "another folder with --output, or train anew with --overwrite."
            )
    return (run.run_folder / DONE).exists()


def train_apart(run: Config) -> None:
    """Train in a process of its own, which prints for itself.

    Raises:
        UserError: it ended with an error, which it has told.
    """
    settings = run.run_folder.with_name(f"{run.run_folder.name}.json")
    config_files.save(run, settings)
    # what half a run left is begun anew
    words = [sys.executable, str(MAIN), "train", "--config", str(settings), "--overwrite"]
    words += ["--devices", str(run.devices)]
    sys.stdout.flush()
    code = subprocess.run(words, env=environment()).returncode
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise UserError(
            f"{run.run_folder} ended with exit code {code}, see above. The same command goes on "
            "with this run; those that are done stay."
        )
    settings.unlink()

"""What `train` does: one run, or with `--strategies` every arm with the same seeds, compared.

Each run of these is a process of its own, so that none inherits another's memory, random state or
compiled graph, and its peak memory is its own. A run that is done is not run again.
"""

import dataclasses
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import config as config_files
from commands.preflight import check_inputs, choose_engine
from commands.settings import CompareConfig
from commands.training.runs import DONE, changed_settings
from config import STRATEGIES, Config, TrainConfig
from salience.system.errors import Interrupted, StorageError, UserError
from salience.system.files import make_folder
from salience.system.quiet import keras_started, program
from salience.system.signals import SIGNALS
from salience.system.terminal import tell


def run(settings: TrainConfig) -> bool:
    """Carry out `train`, of one run or of `--strategies`; return whether all could be compared."""
    config = settings.run
    if settings.strategies:
        seeds = list(settings.seeds) or [config.seed]
        return not run_strategies(config, list(settings.strategies), seeds)["left_out"]
    if not config.cluster and not is_done(config):
        check_inputs(config)  # in a cluster each process is to hear of it, once all have met
    choose_engine(config.devices, config.cluster)
    with keras_started():
        # here: the arms of a study are processes of their own
        from commands.training.train import train

        train(config)
    return True


def run_strategies(
    config: Config,
    strategies: list[str],
    seeds: list[int],
    say: Callable[[str], None] = tell,
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
    check(config.cluster, config.starts_at_random, strategies, seeds)
    choose_engine(config.devices, config.cluster)  # for all arms, and their comparison
    root = make_folder(
        config.output or Path("runs") / f"{config.system}-strategies-{config.sets_name}"
    )
    runs = runs_of(dataclasses.replace(config, output=root), strategies, seeds)
    for number, run in enumerate(runs, 1):
        if is_done(run):
            say(f"run {number} of {len(runs)}: {run.run_folder} is done")
            continue
        say(f"run {number} of {len(runs)}: {run.run_folder}")
        train_apart(run)
    say("")
    folders = tuple(run.run_folder for run in runs)
    asked = {"runs": folders, "output": root / "comparison", "workers": config.workers}
    with keras_started():  # not before: while the runs train, their memory is theirs
        from commands.evaluation.compare import compare

        return compare(CompareConfig.from_flags(asked), say)


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


def check(cluster: bool, starts_at_random: bool, strategies: list[str], seeds: list[int]) -> None:
    """Refuse, before hours of training, arms that could not be compared.

    Raises:
        UserError: a strategy or a seed is named twice, two strategies are one without weights, or
            several processes would train them.
    """
    if cluster:
        raise UserError(
            "--strategies trains one arm after the other, each in a process of its own: leave "
            "--cluster away, or train each arm with it and compare their run folders."
        )
    named: dict[str, list[Any]] = {"--strategies": strategies, "--seeds": seeds}
    for flag, values in named.items():
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise UserError(f"{flag} names {twice[0]} twice.")
    if starts_at_random and {"finetuned", "scratch"} <= set(strategies):
        raise UserError(
            "No --backbone_weights (or none) makes finetuned and scratch the same: "
            "leave one of them away."
        )


def is_done(run: Config) -> bool:
    """Return whether a run folder holds this very run, trained to its end.

    Raises:
        UserError: it holds a run of other settings.
    """
    if run.overwrite or not (run.run_folder / "config.json").exists():
        return False
    changed = changed_settings(run)
    if changed:
        raise UserError(
            f"{run.run_folder} holds a run of other settings: {changed}. Choose another folder "
            "with --output, or train anew with --overwrite."
        )
    return (run.run_folder / DONE).exists()


def train_apart(run: Config) -> None:
    """Train in a process of its own, which prints for itself; what half a run left is gone on with.

    Raises:
        Interrupted: a signal ended it; it is passed on.
        UserError: it ended with an error, which it has told.
    """
    settings = run.run_folder.with_name(f"{run.run_folder.name}.json")
    config_files.save(run, settings)
    words = program("train", "--config", str(settings))
    words += ["--overwrite" if run.overwrite else "--resume", "--devices", str(run.devices)]
    sys.stdout.flush()
    code, was_asked = ended(words)
    # where it had not begun, it ends by the signal, or as Python does
    if code == Interrupted.exit_code or (was_asked and code):
        again = " without --overwrite" if run.overwrite else ""
        raise Interrupted(f"the same command{again} goes on with the arms")
    if code:
        kind = StorageError if code == StorageError.exit_code else UserError
        raise kind(
            f"{run.run_folder} ended with exit code {code}, see above. The same command goes on "
            "with this run; those that are done stay."
        )
    settings.unlink()


def ended(words: list[str]) -> tuple[int, bool]:
    """Run a process; return its exit code, and whether a signal came that was passed on to it.

    Ctrl-C reaches both, since a terminal sends it to all that it runs; it takes them for one.
    """
    came: list[int] = []
    process: list[subprocess.Popen] = []

    def pass_on(number: int, frame: object) -> None:
        came.append(number)
        for one in process:
            one.send_signal(number)

    before = {
        number: signal.signal(number, pass_on)
        for number in SIGNALS
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        process.append(subprocess.Popen(words))
        for number in came[:1]:  # it came between the two
            process[0].send_signal(number)
        return process[0].wait(), bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

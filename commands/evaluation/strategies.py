"""The command `train`: trains one run, or with `--strategies` compares several arms.

Each run of a comparison is a process of its own, so that it does not inherit memory, random state
or compiled graphs, and its peak memory can be measured. Finished runs are not repeated.
"""

import dataclasses
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import config as config_files
from commands.preflight import check_inputs, choose_engine
from commands.settings import CompareConfig
from commands.training.runs import DONE, changed_settings, clear, has_more_epochs, locked
from config import STRATEGIES, Config, TrainConfig
from salience.system.errors import Interrupted, StorageError, UserError
from salience.system.files import make_folder
from salience.system.quiet import keras_started, program
from salience.system.signals import SIGNALS
from salience.system.terminal import tell


def run(settings: TrainConfig) -> bool:
    """Run the command `train`; return True if all pictures could be compared."""
    config = settings.run
    if settings.strategies:
        seeds = list(settings.seeds) or [config.seed]
        return not run_strategies(config, list(settings.strategies), seeds)["left_out"]
    if not config.cluster and not is_done(config):
        check_inputs(config)  # in a cluster, errors are exchanged once all processes are connected
    choose_engine(config.devices, config.cluster)
    # in a cluster, each process would say it
    with keras_started(None if config.cluster else tell):
        # here: arms are trained in processes of their own
        from commands.training.train import train

        train(config)
    return True


def run_strategies(
    config: Config,
    strategies: list[str],
    seeds: list[int],
    say: Callable[[str], None] = tell,
) -> dict[str, Any]:
    """Train every arm with every seed, and compare the arms on the test split.

    Args:
        config: settings of all runs except strategy and seed; run folders are made in `output`.
        strategies: keys of STRATEGIES.
        seeds: seeds, the same for every arm.
        say: called with each message.

    Returns:
        The comparison.

    Raises:
        UserError: a run failed, or its folder holds a run with other settings.
    """
    check_arms(config.cluster, config.starts_at_random, strategies, seeds)
    choose_engine(config.devices, config.cluster)  # for all arms and their comparison
    root = make_folder(
        config.output or Path("runs") / f"{config.system}-strategies-{config.sets_name}"
    )
    runs = runs_of(dataclasses.replace(config, output=root), strategies, seeds)
    if config.overwrite:  # all, since the same command without --overwrite goes on after a stop
        clear_all([run.run_folder for run in runs])
    for number, run in enumerate(runs, 1):
        if is_done(run):
            say(f"run {number} of {len(runs)}: {run.run_folder} is done")
            continue
        say(f"run {number} of {len(runs)}: {run.run_folder}")
        train_in_subprocess(run)
    say("")
    folders = tuple(run.run_folder for run in runs)
    flags = {"runs": folders, "output": root / "comparison", "workers": config.workers}
    # here: it would take memory from the runs
    from commands.evaluation.compare import compare

    return compare(CompareConfig.from_flags(flags), say)


def runs_of(config: Config, strategies: list[str], seeds: list[int]) -> list[Config]:
    """Return the settings of every arm with every seed, in folders below `config.output`.

    Raises:
        UserError: a run could not start.
    """
    root = config.run_folder
    runs = [
        dataclasses.replace(
            config,
            **STRATEGIES[strategy],
            seed=seed,
            output=root / f"{strategy}-seed{seed}",
            # weights/ gets one file per strategy, of the first seed
            weights_dir=config.weights_dir if seed == seeds[0] else root / f"weights-seed{seed}",
        )
        for strategy in strategies
        for seed in seeds
    ]
    for run in runs:  # find errors before hours of training
        run.check_start()
    return runs


def check_arms(
    cluster: bool, starts_at_random: bool, strategies: list[str], seeds: list[int]
) -> None:
    """Check that arms can be compared, before hours of training.

    Raises:
        UserError: a strategy or a seed is named twice, two strategies are the same without weights,
            or `--cluster` is set.
    """
    if cluster:
        raise UserError(
            "--strategies trains one arm after another, each in a process of its own. Omit "
            "--cluster, or train each arm with --cluster and compare their run folders."
        )
    named: dict[str, list[Any]] = {"--strategies": strategies, "--seeds": seeds}
    for flag, values in named.items():
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise UserError(f"{flag} names {twice[0]} twice.")
    if starts_at_random and {"finetuned", "scratch"} <= set(strategies):
        raise UserError(
            "Without --backbone_weights, finetuned and scratch are the same: omit one of them."
        )


def clear_all(folders: list[Path]) -> None:
    """Remove the files of earlier runs.

    Raises:
        UserError: another training writes to one of the folders; nothing is removed.
    """
    there = [folder for folder in folders if folder.exists()]
    with ExitStack() as locks:
        for folder in there:
            lock = locked(folder, lambda line: None)  # the training says what is odd
            locks.callback(lock.release)
        for folder in there:
            clear(folder)


def is_done(run: Config) -> bool:
    """Return True if a run folder holds this run, completely trained.

    Raises:
        UserError: the folder holds a run with other settings.
    """
    if run.overwrite or not (run.run_folder / "config.json").exists():
        return False
    changed = changed_settings(run)
    if changed:
        raise UserError(
            f"{run.run_folder} holds a run with other settings: {changed}. Choose another folder "
            "with --output, or train again with --overwrite."
        )
    return (run.run_folder / DONE).exists() and not has_more_epochs(run)


def train_in_subprocess(run: Config) -> None:
    """Train a run in a process of its own; an interrupted run is resumed.

    Raises:
        Interrupted: a signal ended the process.
        UserError: the process ended with an error, which it has printed.
    """
    settings = run.run_folder.with_name(f"{run.run_folder.name}.json")
    config_files.save(run, settings)
    words = program("train", "--config", str(settings))
    words += ["--overwrite" if run.overwrite else "--resume", "--devices", str(run.devices)]
    sys.stdout.flush()
    code, was_signalled = run_process(words)
    # a process that has not yet installed its handlers ends by the signal itself
    if code == Interrupted.exit_code or (was_signalled and code):
        again = " without --overwrite" if run.overwrite else ""
        raise Interrupted(f"the same command{again} resumes the arms")
    if code:
        kind = StorageError if code == StorageError.exit_code else UserError
        raise kind(
            f"{run.run_folder} ended with exit code {code}, see above. The same command resumes "
            "this run; finished runs are kept."
        )
    settings.unlink()


def run_process(words: list[str]) -> tuple[int, bool]:
    """Run a process; return its exit code, and whether a signal was forwarded to it.

    Ctrl-C reaches the process twice, from the terminal and from here; it counts them as one.
    """
    received: list[int] = []
    process: list[subprocess.Popen] = []

    def forward(number: int, frame: object) -> None:
        received.append(number)
        for child in process:
            child.send_signal(number)

    before = {
        number: signal.signal(number, forward)
        for number in SIGNALS
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        process.append(subprocess.Popen(words))
        for number in received[:1]:  # received before the process had started
            process[0].send_signal(number)
        return process[0].wait(), bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

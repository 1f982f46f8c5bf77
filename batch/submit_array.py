"""Submit a study to SLURM: strategies x seeds x data sets, one run per task, one page per data set.

python batch/submit_array.py train --strategies frozen finetuned scratch --seeds 0 1 2 \
    --dataset osie toronto --data PATH PATH --output runs/study

The arguments are those of main.py, with one difference: several data sets are not trained on
together, but each has its own runs and page. Input is checked before jobs are submitted. If a study
is submitted again, finished runs are kept and others are resumed. DRY_RUN=1 only prints the
commands. sbatch reads options for all jobs from the environment: SBATCH_PARTITION, SBATCH_ACCOUNT,
SBATCH_GPUS=0 without a GPU.
"""

import dataclasses
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import config as config_files
from commands.evaluation.strategies import check_arms, is_done, runs_of
from config import Config, TrainConfig
from salience.data import loading
from salience.system.errors import UserError
from salience.system.files import make_folder
from salience.system.flags import Parser, add_flags

# flags that are set by the tasks, which use one GPU each
NOT_OF_A_STUDY = (
    *("freeze_backbone", "mix", "weights_dir", "overwrite", "resume", "devices", "cluster"),
)


def studies(words: list[str]) -> list[list[Config]]:
    """Return the runs of each data set, in the order of their tasks.

    Raises:
        UserError: the arguments are not those of a study, or a run could not start.
    """
    parser = Parser(prog="main.py train")
    add_flags(parser, TrainConfig)
    flags = vars(parser.parse_args(words[1:])) if words[:1] == ["train"] else {}
    if not flags.get("strategies"):
        raise UserError("A study needs the arguments: train --strategies STRATEGY ...")
    for name in NOT_OF_A_STUDY:
        if name in flags:
            raise UserError(f"--{name} cannot be used for a study, as its tasks set it: omit it.")
    settings = TrainConfig.from_flags(flags)
    config, strategies = settings.run, list(settings.strategies)
    seeds = list(settings.seeds) or [config.seed]
    check_arms(config.cluster, config.starts_at_random, strategies, seeds)
    root = config.output or Path("runs") / f"{config.system}-strategies-{config.sets_name}"
    found = []
    for name, data in config.sets:
        of_one = dataclasses.replace(
            config,
            dataset=(name,),
            data=(data,) if data else (),
            mix=(),
            output=root / name,
            weights_dir=root / name / "weights",
        )
        loading.load(name, data, "train", of_one.plan, of_one.out_of_bounds, columns=of_one.columns)
        found.append(runs_of(of_one, strategies, seeds))
    return found


def check_not_queued(root: Path) -> None:
    """Check that a study is not in the queue: two tasks would write into one run folder.

    Raises:
        UserError: the study is in the queue.
    """
    words = ["squeue", "--me", "--noheader", "--format=%A", f"--name={job_name(root)}"]
    jobs = sorted(set(output_of(words).split()))
    if jobs:
        raise UserError(
            f"{root} is in the queue as job {', '.join(jobs)}. Wait for its end, or end it with "
            f"scancel {' '.join(jobs)}."
        )


def job_name(root: Path) -> str:
    """Return the name of a study's jobs in the queue."""
    return str(root.resolve()).replace(",", "_")  # squeue would split the name at commas


def output_of(words: list[str]) -> str:
    """Return the output of a SLURM command.

    Raises:
        UserError: the command does not exist or fails.
    """
    try:
        done = subprocess.run(words, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(
            f"{words[0]} is not installed: submit from a machine with SLURM's commands."
        ) from None
    if done.returncode:
        raise UserError(f"{words[0]} failed: {done.stderr.strip()}")
    return done.stdout


def submit(runs_by_set: list[list[Config]], dry: bool) -> None:
    """Submit unfinished runs as one array, and a comparison for each data set."""

    def sbatch(*words: Any) -> str:
        command = ["sbatch", "--parsable", f"--job-name={job_name(root)}", *map(str, words)]
        if dry:
            print(shlex.join(command))
            return "JOB"
        return output_of(command).strip().split(";")[0]  # a federation adds the cluster's name

    runs = [run for of_one in runs_by_set for run in of_one]
    root = runs[0].run_folder.parent.parent
    if not dry:
        check_not_queued(root)
    waiting = [task for task, run in enumerate(runs) if not is_done(run)]
    array = ""
    if waiting:
        for task in waiting:
            if not dry:
                make_folder(runs[task].run_folder.parent)
                config_files.save(runs[task], settings_file(runs[task]))
        tasks = ",".join(map(str, waiting))
        array = sbatch(
            f"--array={tasks}",
            "batch/array.sh",
            *(run.run_folder for run in runs),
        )
        print(f"job {array}: {len(waiting)} of {len(runs)} runs; logs: batch/logs/array-{array}_*")
    else:
        print(f"all {len(runs)} runs are done")
    first = 0
    for of_one in runs_by_set:
        tasks = [task for task in waiting if first <= task < first + len(of_one)]
        after = ":".join(f"{array}_{task}" for task in tasks)
        dependency = [f"--dependency=afterany:{after}"] if tasks else []
        folders = [run.run_folder for run in of_one]
        page = folders[0].parent / "comparison" / "index.html"
        job = sbatch(*dependency, "batch/compare_array.sh", array or "none", first, *folders)
        print(f"job {job}: {page}; log: batch/logs/compare-{job}.log")
        first += len(of_one)


def settings_file(run: Config) -> Path:
    """Return the path of a run's settings, which its task reads."""
    return run.run_folder.with_name(f"{run.run_folder.name}.json")


def main(words: list[str]) -> int:
    """Submit a study; return the exit code."""
    try:
        if not Path("batch/array.sh").exists():
            raise UserError(
                "Submit from the folder of main.py: batch/array.sh does not exist here."
            )
        submit(studies(words), bool(os.environ.get("DRY_RUN")))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

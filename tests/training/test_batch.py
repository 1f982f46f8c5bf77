"""The scripts of `batch/`: their words against the program's own flags, then a real SLURM."""

import csv
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
import slurm
from conftest import PROJECT, TINY, TWO_DEVICES

from batch import submit_array
from main import parser

pytestmark = pytest.mark.waits
TRAIN = ["train", *(word for name, value in TINY.items() for word in (f"--{name}", str(value)))]
WAIT = 240  # seconds for jobs: far more than they need on an idle machine
JOB = {"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "4"}
TASK = {
    "SLURM_ARRAY_TASK_ID": "1",
    "SLURM_ARRAY_TASK_COUNT": "3",
    "SLURM_ARRAY_TASK_MIN": "1",
    "SLURM_ARRAY_TASK_MAX": "3",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Stand in a folder like the project's, in which jobs may write."""
    folder = tmp_path / "project"
    folder.mkdir()
    for path in [*PROJECT.glob("*.py"), PROJECT / "commands", PROJECT / "salience"]:
        (folder / path.name).symlink_to(path)
    # what other runs of the scripts have logged stays where it is
    shutil.copytree(PROJECT / "batch", folder / "batch", ignore=shutil.ignore_patterns("*.log"))
    (folder / ".venv").symlink_to(sys.prefix)
    monkeypatch.chdir(folder)
    return folder


def script(name, *words, code=0, **environment):
    """Run a script as a job of SLURM's would, where it only says what it runs."""
    done = subprocess.run(
        ["bash", f"batch/{name}.sh", *map(str, words)],
        env={**os.environ, "DRY_RUN": "1", **environment},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done


def words_of(said):
    """Return the parsed command of main.py that a script said it would run."""
    words = shlex.split(said.stdout)
    start = words.index("main.py")
    assert words[start - 1] == "python"
    return parser().parse_args(words[start + 1 :])


def test_one_gpu_takes_the_words_of_the_program(project):
    said = words_of(script("one_gpu", *TRAIN, "--output", "runs/a b", **JOB))
    assert (said.command, said.output.name, said.epochs) == ("train", "a b", 1)


def test_several_gpus_are_the_devices_of_one_process(project):
    said = words_of(script("several_gpus", *TRAIN, **JOB))
    assert (said.devices, getattr(said, "cluster", False)) == (4, False)


def test_several_hosts_run_a_process_each_with_its_gpus(project):
    said = script("several_hosts", *TRAIN, **JOB, SLURM_CPUS_PER_TASK="8")
    assert said.stdout.startswith("srun ")
    assert "--cpus-per-task=8" in shlex.split(said.stdout)
    assert (words_of(said).devices, words_of(said).cluster) == (4, True)


def test_a_task_takes_its_part_of_the_pictures(project):
    said = words_of(script("test_array", "test", "images", "--output", "maps", **TASK))
    assert (said.command, said.shard) == ("test", "1/3")


@pytest.mark.parametrize(("least", "most"), [(0, 2), (2, 4), (1, 5)])
def test_parts_that_would_miss_pictures_are_refused(project, least, most):
    gap = {**TASK, "SLURM_ARRAY_TASK_MIN": str(least), "SLURM_ARRAY_TASK_MAX": str(most)}
    assert "submit all tasks, from 1" in script("test_array", "test", "x", code=2, **gap).stderr


def test_a_task_trains_the_run_at_its_place_by_the_settings_beside_it(project):
    said = words_of(script("array", "runs/s/a", "runs/s/b c", **TASK))
    assert str(said.config) == "runs/s/b c.json"
    assert said.resume


def test_a_task_leaves_to_the_program_whether_its_run_is_done(project):
    """It may be asked for more epochs."""
    (project / "run").mkdir()
    (project / "run" / "done.json").write_text("{}")
    assert words_of(script("array", "other", "run", **TASK)).resume


@pytest.mark.parametrize("flag", ["--overwrite", "--overwrite True", "--overwrite=True"])
def test_a_job_that_is_queued_again_overwrites_nothing(project, flag):
    command = ["printf", "%s\n", "train", *flag.split(), "--data", "a", "b"]
    for restarts, expected in (("0", command[2:]), ("1", ["train", "--data", "a", "b"])):
        done = subprocess.run(
            ["bash", "-c", '. batch/environment.sh; run "$@"', "bash", *command],
            env={**os.environ, "SLURM_RESTART_COUNT": restarts}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.stdout.split() == expected, done.stderr


def test_what_is_done_is_compared(project):
    for name in ("s/a", "s/b"):
        (project / name).mkdir(parents=True)
        (project / name / "done.json").write_text("{}")
    said = words_of(script("compare_array", "12", "4", "s/a", "s/b"))
    assert [str(run) for run in said.runs] == ["s/a", "s/b"]
    assert str(said.output) == "s/comparison"


def test_what_is_missing_is_named_with_the_log_of_its_task(project):
    (project / "s/a").mkdir(parents=True)
    (project / "s/a/done.json").write_text("{}")
    said = script("compare_array", "12", "4", "s/a", "s/b", code=1)
    assert "not done: s/b (its log: batch/logs/array-12_5.log)" in said.stderr
    assert "1 of 2 runs are not done" in said.stderr
    assert said.stdout == ""


def test_every_script_logs_into_a_folder_that_a_clone_has():
    assert (PROJECT / "batch/logs/.gitignore").exists()
    for path in PROJECT.glob("batch/*.sh"):
        if path.name != "environment.sh":
            assert "\n#SBATCH --output=batch/logs/" in path.read_text(), path


STUDY = [*TRAIN, "--strategies", "frozen", "scratch", "--seeds", "0", "1", "--output", "runs/s"]


def test_a_study_is_one_array_and_one_comparison_a_data_set(project, monkeypatch, capsys):
    for folder in ("own/images", "own/maps"):
        (project / folder).mkdir(parents=True)
        for name in range(10):
            cv2.imwrite(f"{folder}/{name}.png", np.full((30, 40), 20 * name, np.uint8))
    monkeypatch.setenv("DRY_RUN", "1")
    both = [*STUDY, "--dataset", "synthetic", "folder", "--data", "own"]
    assert submit_array.main(both) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("sbatch")]
    assert len(said) == 3
    assert "--array=0,1,2,3,4,5,6,7" in said[0]
    assert "runs/s/folder/scratch-seed1" in said[0]
    assert "--dependency=afterany:JOB_4:JOB_5:JOB_6:JOB_7 batch/compare_array.sh JOB 4" in said[2]
    assert not (project / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (TRAIN, "needs the arguments: train --strategies"),
        (["test", "images"], "needs the arguments: train --strategies"),
        ([*STUDY, "--overwrite"], "--overwrite cannot be used for a study"),
        ([*STUDY, "--weights_dir", "w"], "--weights_dir cannot be used for a study"),
        ([*STUDY, "--dataset", "folder", "--data", "no"], "no"),
        ([*STUDY, "--dataset", "osie"], "--data is needed"),
        ([*STUDY, "--rows", "50"], "is not a multiple of 8"),
        ([*STUDY, "--seeds", "1", "1"], "--seeds names 1 twice"),
    ],
)
def test_a_bad_study_is_refused_before_it_is_queued(project, capsys, words, message):
    assert submit_array.main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
    assert not (project / "runs").exists()


def test_a_study_is_submitted_from_the_projects_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert submit_array.main(STUDY) == 2
    assert "batch/array.sh does not exist here" in capsys.readouterr().err


def test_a_study_in_the_queue_is_not_submitted_twice(project, tmp_path, monkeypatch, capsys):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/squeue").write_text("#!/bin/sh\necho 12; echo 12\n")
    (tmp_path / "bin/squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    assert submit_array.main(STUDY) == 2
    err = capsys.readouterr().err
    assert "runs/s is in the queue as job 12." in err and "scancel 12" in err
    assert not (project / "runs").exists()


def test_a_machine_without_slurm_says_so(project, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert submit_array.main(STUDY) == 2
    assert "squeue is not installed" in capsys.readouterr().err


@pytest.fixture(scope="module")
def queue():
    """Return the environment of a cluster that runs while these tests do."""
    if (absent := slurm.missing()) and "REQUIRE_SLURM" not in os.environ:
        pytest.skip(f"apt-get install slurm-wlm munge: {', '.join(absent)} not installed")
    with slurm.cluster() as environment:
        yield environment


def losses(folder):
    """Return the losses that a run has written."""
    with (folder / "history.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) for name in ("loss", "val_loss")]


def sbatch(queue, *words, code=0, **environment):
    """Submit a job, wait for its end and return what it logged.

    `sbatch --wait` would ask at ever longer intervals, and notice the end half a minute late.
    """
    done = subprocess.run(
        ["sbatch", "--parsable", "--output=job.log", *map(str, words)],
        env={**queue, **environment}, capture_output=True, text=True, timeout=WAIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    wait_for_the_end(queue)
    log, ended = Path("job.log").read_text(), ["scontrol", "show", "job", done.stdout.strip()]
    codes = re.findall(r"ExitCode=(\d+):", slurm.called(ended, queue))
    assert set(codes) == {str(code)}, log
    return log


def submit(queue, *words, code=0, **environment):
    """Submit a study and return what was said of it."""
    done = subprocess.run(
        [sys.executable, "batch/submit_array.py", *words],
        env={**queue, **environment}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def wait_for_the_end(queue):
    """Wait until the queue is empty."""
    until = time.monotonic() + WAIT
    while slurm.called(["squeue", "--noheader"], queue):
        assert time.monotonic() < until, slurm.called(["squeue"], queue)
        time.sleep(0.5)


@pytest.mark.slow
def test_a_job_trains_and_a_failing_one_says_why(project, queue):
    log = sbatch(queue, "batch/one_gpu.sh", *TRAIN, "--output", "runs/x")
    assert "epoch 1: loss" in log
    assert (project / "runs/x/done.json").exists()
    assert (project / "weights/mlnet-scratch-frozen-synthetic.weights.h5").exists()
    # submitted again, or put back into the queue, it replaces nothing
    log = sbatch(queue, "batch/one_gpu.sh", *TRAIN, "--output", "runs/x", code=2)
    assert "holds an earlier run" in log


@pytest.mark.slow
def test_an_array_trains_a_study_and_ends_in_its_page(project, queue):
    submit(queue, *STUDY)
    assert "runs/s is in the queue as job" in submit(queue, *STUDY, code=2)
    wait_for_the_end(queue)
    logs = {path.name: path.read_text() for path in (project / "batch/logs").glob("*.log")}
    assert len(logs) == 5
    root = project / "runs/s/synthetic"
    assert (root / "comparison/index.html").stat().st_size > 50_000, logs
    assert "scratch minus scratch-frozen" in next(
        log for name, log in logs.items() if name.startswith("compare")
    )
    assert (root / "weights/mlnet-scratch-synthetic.weights.h5").exists()
    assert (root / "weights-seed1/mlnet-scratch-synthetic.weights.h5").exists()
    assert "all 4 runs are done" in submit(queue, *STUDY)
    wait_for_the_end(queue)


@pytest.mark.slow
def test_a_failed_task_is_told_and_alone_submitted_again(project, queue):
    (project / "broken.h5").write_text("no weights")
    words = [*STUDY, "--seeds", "3", "--backbone_weights", "broken.h5"]
    submit(queue, *words)
    wait_for_the_end(queue)
    logs = {path.name: path.read_text() for path in (project / "batch/logs").glob("*.log")}
    compared = next(log for name, log in logs.items() if name.startswith("compare"))
    assert "1 of 2 runs are not done" in compared
    name = compared.partition("(its log: batch/logs/")[2].partition(")")[0]
    assert re.search(r"error: .*broken.h5 .*HDF5 file", logs[name])
    assert not (project / "runs/s/synthetic/comparison").exists()
    assert "--array=0 " in submit(queue, *words, DRY_RUN="1")


@pytest.mark.slow
def test_two_hosts_and_two_devices_train_as_one_does(project, queue):
    sbatch(queue, "batch/one_gpu.sh", *TRAIN, "--output", "one", KERAS_BACKEND="jax")
    sbatch(queue, "batch/several_hosts.sh", *TRAIN, "--output", "hosts")
    words = ("batch/several_gpus.sh", *TRAIN, "--output", "gpus")
    sbatch(queue, "--gpus=2", *words, XLA_FLAGS=TWO_DEVICES)
    one, hosts, gpus = (losses(Path(name)) for name in ("one", "hosts", "gpus"))
    assert hosts == pytest.approx(one, rel=1e-4)
    assert gpus == pytest.approx(one, rel=1e-4)


@pytest.mark.slow
def test_an_array_writes_the_maps_of_all_pictures(project, pictures, trained, queue):
    words = ("test", pictures, "--recursive", "--weights", trained, "--output", "maps")
    sbatch(queue, "--array=1-2", "batch/test_array.sh", *words)
    written = sorted(path.relative_to("maps").as_posix() for path in Path("maps").rglob("*.png"))
    assert written == ["a.png", "b.png", "sub/c.png"]


def test_a_signal_reaches_the_command_and_its_exit_code_the_queue(project):
    """Without SLURM: what stands for the queue's command notes how it was called."""
    (project / "scontrol").write_text('#!/bin/bash\necho "$@" >> requeued\n')
    (project / "scontrol").chmod(0o755)
    command = "trap 'exit 75' TERM; touch ready; while :; do sleep 0.1; done"
    for name, expected in (("USR1", "requeue 7\n"), ("TERM", "")):
        for leftover in ("ready", "requeued"):
            Path(leftover).unlink(missing_ok=True)
        job = subprocess.Popen(
            ["bash", "-c", f'. batch/environment.sh; run bash -c "{command}"'],
            env={**os.environ, "SLURM_JOB_ID": "7", "PATH": f"{project}:{os.environ['PATH']}"},
        )
        while not Path("ready").exists():
            time.sleep(0.05)
        job.send_signal(getattr(signal, f"SIG{name}"))
        assert job.wait(timeout=20) == 75
        requeued = Path("requeued")
        assert (requeued.read_text() if requeued.exists() else "") == expected


def runs(words):
    """Return whether a process of this machine has a command line that begins so."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            if path.read_text(errors="replace").startswith(words):
                return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("several", [False, True])
def test_a_job_that_is_near_its_time_limit_goes_on_later(project, queue, several):
    """A process, and two that train together: they end at the same step."""
    words = [*TRAIN, "--epochs", "25", "--patience", "25", "--output", "runs/x"]
    script = f"batch/{'several_hosts' if several else 'one_gpu'}.sh"
    submitted = subprocess.run(
        ["sbatch", "--parsable", "--output=job.log", script, *words],
        env={**queue, "KERAS_BACKEND": "jax", "SALIENCY_CACHE": str(project / "cache")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    job, log = submitted.stdout.strip(), Path("job.log")

    def wait_for(text, *meanwhile):
        wait_until(lambda: log.exists() and text in log.read_text(), *meanwhile)

    def wait_until(true, *meanwhile):
        until = time.monotonic() + WAIT
        while not true():
            if time.monotonic() > until:
                of_queue = [
                    slurm.called(words, queue)
                    for words in (["scontrol", "show", "job"], ["scontrol", "show", "node"])
                ]
                of_daemons = slurm.last_words(Path(queue["SLURM_CONF"]).parent)
                raise TimeoutError("\n".join([log.read_text(), *of_queue, of_daemons]))
            for words in meanwhile:
                slurm.called(words, queue)
            time.sleep(0.5)

    wait_for("epoch 2:")
    slurm.called(["scancel", "--batch", "--signal=USR1", job], queue)
    wait_for("the job is requeued")
    # SLURM lets what it took back rest for two minutes. It hears no wish before the job has ended,
    # and fails a job that it is made to begin beside what is left of its first time.
    wait_until(lambda: not runs(f"slurmstepd: [{job}."))
    wait_until(lambda: slurm.is_idle(queue))
    wait_until(lambda: slurm.called(["squeue", "-h", "-o", "%T"], queue).split() == ["PENDING"])
    time.sleep(2)  # slurmd counts seconds, and starts no job in that in which it ended it
    wait_for("resuming from epoch", ["scontrol", "update", f"JobId={job}", "StartTime=now"])
    wait_for_the_end(queue)
    assert (project / "runs/x/done.json").exists(), log.read_text()
    epochs = [line for line in log.read_text().splitlines() if re.match(r"epoch \d+:", line)]
    assert [int(line.split()[1].strip(":")) for line in epochs] == list(range(1, 26))

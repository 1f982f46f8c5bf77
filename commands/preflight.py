"""A first look at files, environment and engine, before what takes seconds is imported."""

import importlib.util
import json
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands.settings import PrepareConfig, ScoringConfig
from config import Config
from salience.data import loading
from salience.networks import weight_files
from salience.system.errors import UserError
from salience.system.files import how_to_install
from salience.system.flags import Checked

ENGINE = "jax"  # for several devices and processes


def check_data(flags: dict[str, Any]) -> None:
    """Look for the data set that flags name, where they name one.

    Settings may come from a card, whose reading takes Keras: so this is before there are any.

    Raises:
        UserError: it is not there.
    """
    name, root = flags.get("dataset"), flags.get("data")
    if isinstance(name, str) and isinstance(root, Path):
        loading.module_of(name, root)


def check_inputs(settings: Checked) -> None:
    """Look at the files that settings name, before networks are imported, which takes seconds.

    Raises:
        UserError: one is missing or of another type.
    """
    for field in ("weights", "init_weights", "reference"):
        if path := getattr(settings, field, None):
            weight_files.read_card(path)
    if (old := getattr(settings, "old", None)) and not old.is_file():
        raise UserError(f"{old}: no such file.")
    own = getattr(settings, "backbone_weights", None)
    if own not in (None, "none") and not Path(own).is_file():
        raise UserError(f"--backbone_weights {own}: no such file.")
    for name, root in _sets(settings):
        loading.module_of(name, root)


def _sets(settings: Any) -> list[tuple[str, Path | None]]:
    """Return the data sets that settings name, each with its folder; none that may be archives."""
    if isinstance(settings, Config):
        return settings.sets
    if isinstance(settings, ScoringConfig):
        return [(settings.dataset, settings.data)]
    if isinstance(settings, PrepareConfig):
        return [(settings.dataset, root) for root in settings.data if not root.is_file()]
    return []


@dataclass(frozen=True)
class Place:
    """The place of this process among those that train one network.

    Attributes:
        rank: from 0; process 0 is the chief, which alone writes.
        count: how many processes there are.
        host, port: where JAX's service on the chief waits for the others.
        local: the place among the processes of this host.
    """

    rank: int = 0
    count: int = 1
    host: str = "localhost"
    port: int = 0
    local: int = 0

    @property
    def name(self) -> str:
        """What this process is called in a line of news."""
        return f"process {self.rank} of {self.count} ({socket.gethostname()})"


def find_place(environment: Mapping[str, str]) -> Place:
    """Return the place that TF_CONFIG gives this process, or SLURM where there is none.

    Raises:
        UserError: there is neither, or what is there makes no sense.
    """
    if "TF_CONFIG" in environment:  # somebody set it; SLURM's is there whether wanted or not
        return from_tf_config(environment["TF_CONFIG"])
    if "SLURM_JOB_ID" in environment:
        return from_slurm(environment)
    raise UserError(
        "--cluster: neither TF_CONFIG nor SLURM's variables are set. Start the processes with "
        "srun, or give each a TF_CONFIG; on one machine --devices N does without."
    )


def from_tf_config(text: str) -> Place:
    """Return the place that a TF_CONFIG gives; a chief, where one is listed, is before the workers.

    >>> from_tf_config('{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"index": 1}}').host
    'a'

    Raises:
        UserError: it is no JSON, lists no workers, or the task is not among them.
    """
    form = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
    try:
        values = json.loads(text)
        cluster, task = values["cluster"], values["task"]
        chiefs, workers = list(cluster.get("chief", [])), list(cluster.get("worker", []))
        kind, index = task.get("type", "worker"), int(task["index"])
        found = [re.fullmatch(r"(.+):(\d{1,5})", address) for address in chiefs + workers]
        others = sorted(set(cluster) - {"chief", "worker"}) or [kind]
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError):
        raise UserError(f"TF_CONFIG is not understood; expected {form}.") from None
    if others[0] not in ("chief", "worker"):
        raise UserError(f"TF_CONFIG names '{others[0]}': only chief and worker train here.")
    addresses = [(one[1], int(one[2])) for one in found if one]
    if not addresses or None in found:
        raise UserError(f"TF_CONFIG lists no workers as host:port; expected {form}.")
    listed = chiefs if kind == "chief" else workers
    if not 0 <= index < len(listed):
        raise UserError(f"TF_CONFIG: there is no {kind} {index}; {len(listed)} are listed, from 0.")
    rank = index + (len(chiefs) if kind == "worker" else 0)
    (host, port), own = addresses[0], addresses[rank][0]
    if not 0 < port < 65536:
        raise UserError(f"TF_CONFIG: {port} is no port.")
    return Place(rank, len(found), host, port, [one for one, _ in addresses[:rank]].count(own))


def from_slurm(environment: Mapping[str, str]) -> Place:
    """Return the place that SLURM gives a process of a step.

    Raises:
        UserError: it is a job of several tasks outside any step, or a number is none.
    """
    tasks = environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1"))
    numbers = {"SLURM_STEP_NUM_TASKS": tasks, "SLURM_PROCID": environment.get("SLURM_PROCID", "")}
    for name in ("SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_STEP_ID"):
        numbers[name] = environment.get(name, "0")
    for name, value in numbers.items():
        if not value.isdecimal():
            raise UserError(f"--cluster: SLURM's {name} is {value}; start the processes with srun.")
    count, rank, local, job, step = map(int, numbers.values())
    if rank >= count:
        raise UserError(f"--cluster: SLURM's task {rank} is none of {count}, counted from 0.")
    nodes = environment.get("SLURM_STEP_NODELIST", "localhost")
    if count > 1 and "SLURM_STEP_NODELIST" not in environment:
        raise UserError(
            f"--cluster: SLURM gave the job {count} tasks, but this process is in none of its "
            "steps. Start it with srun."
        )
    # JAX has one port a job, and two steps of one job may run side by side
    return Place(rank, count, first_host(nodes), 61440 + (job + step) % 4096, local)


def first_host(nodes: str) -> str:
    """Return the first of a SLURM list of hosts; JAX 0.10.2 takes `rack2` for the last one here.

    >>> first_host("node[01-03,7],login"), first_host("a,b"), first_host("rack[2,4]-gpu[07-09]-x")
    ('node01', 'a', 'rack2-gpu07-x')
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0] if first else nodes)


def own_devices(visible: str | None, local: int, count: int) -> list[int]:
    """Return which of the devices that a process sees are its own.

    Those of one host either see the same devices, and then each takes its own `count`, or have
    been given theirs by the scheduler.

    Args:
        visible: CUDA_VISIBLE_DEVICES.
        local: the process' place on its host.
        count: how many it uses.

    >>> own_devices("0,1,2,3", 1, 2), own_devices("0,1", 1, 2), own_devices(None, 1, 1)
    ([2, 3], [0, 1], [1])
    """
    given = visible is not None and len(visible.split(",")) < (local + 1) * count
    first = 0 if given else local * count
    return list(range(first, first + count))


def choose_engine(devices: int, cluster: bool) -> None:
    """Choose JAX for several devices or processes; to be called before Keras is imported.

    Raises:
        UserError: JAX is not installed, another backend was asked for, or the environment names no
            place in a cluster.
    """
    if devices == 1 and not cluster:
        return
    if cluster:
        find_place(os.environ)
    if importlib.util.find_spec(ENGINE) is None:
        raise UserError(
            "Several devices need JAX, which is not installed: "
            f"{how_to_install('jax', 'pip install -r requirements/backends.txt')}."
        )
    refuse_other_engine(os.environ.setdefault("KERAS_BACKEND", ENGINE))


def refuse_other_engine(backend: str) -> None:
    """Refuse a backend that several devices do not work on.

    Raises:
        UserError: it is not JAX.
    """
    if backend != ENGINE:
        raise UserError(
            f"--devices and --cluster work on JAX, not on KERAS_BACKEND={backend}: leave "
            "KERAS_BACKEND away, or set it to jax."
        )

"""Checks of files, environment and backend before slow imports such as Keras.

They report mistakes at once: an import of Keras takes seconds.
"""

import importlib.util
import json
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands.prediction.engines import require_packages
from commands.settings import (
    CalibrateConfig,
    ExportConfig,
    PrepareConfig,
    ProbeConfig,
    ScoringConfig,
)
from commands.web.runtime import check_archive
from config import Config, folders_of
from salience.data import loading
from salience.networks import weight_files
from salience.networks.backbone_table import BACKBONES
from salience.system.errors import UserError
from salience.system.files import how_to_install
from salience.system.flags import Checked

ENGINE = "jax"  # backend for several devices or processes


def check_data(flags: dict[str, Any]) -> None:
    """Check that the data set in the flags exists, if the flags name one.

    Settings may come from a card, which needs Keras to be read. This check needs only the flags.

    Args:
        flags: values of the command line's flags.

    Raises:
        UserError: the data set does not exist.
    """
    name, root = flags.get("dataset"), flags.get("data")
    if isinstance(name, str) and isinstance(root, Path):
        loading.module_of(name, root)
    if isinstance(name, tuple) and isinstance(root, tuple):
        for one, folder in folders_of(name, root):
            loading.module_of(one, folder)


def check_inputs(settings: Checked) -> None:
    """Check the files that settings name, before networks are imported, which takes seconds.

    Args:
        settings: settings of a command.

    Raises:
        UserError: a file is missing or has the wrong type.
    """
    for field in ("weights", "init_weights", "reference"):
        if path := getattr(settings, field, None):
            folder = getattr(settings, "weights_dir", None)
            if field == "weights" and folder:  # these may be named without their folder
                path = weight_files.named(path, folder)
            weight_files.read_card(path)
    if (old := getattr(settings, "old", None)) and not old.is_file():
        raise UserError(f"{old}: no such file.")
    own = getattr(settings, "backbone_weights", None)
    if own not in (None, "none") and not Path(own).is_file():
        raise UserError(f"--backbone_weights {own}: no such file.")
    if own != "none" and not getattr(settings, "init_weights", None):
        for name in _backbones(settings):
            BACKBONES[name].need_hub()
    for name, root in _sets(settings):
        loading.module_of(name, root)
    if isinstance(settings, ExportConfig):
        require_packages(settings.format)
        if settings.runtime:
            check_archive(settings.runtime, f"--runtime {settings.runtime}")


def _backbones(settings: Any) -> tuple[str, ...]:
    """Return the backbones whose pretrained weights a command loads."""
    if isinstance(settings, ProbeConfig):
        return settings.backbones
    return (settings.backbone,) if isinstance(settings, Config) else ()


def _sets(settings: Any) -> list[tuple[str, Path | None]]:
    """Return name and folder of each data set in the settings, except archives."""
    if isinstance(settings, Config | CalibrateConfig):
        return settings.sets
    if isinstance(settings, ScoringConfig):
        return [(settings.dataset, settings.data)]
    if isinstance(settings, PrepareConfig):
        return [(settings.dataset, root) for root in settings.data if not root.is_file()]
    return []


@dataclass(frozen=True)
class Place:
    """The position of this process among the processes that train one network.

    Attributes:
        rank: index of the process, from 0. Process 0 is the chief: only it writes files.
        count: number of processes.
        host, port: address of JAX's service on the chief.
        local: index among the processes of this host, from 0.
    """

    rank: int = 0
    count: int = 1
    host: str = "localhost"
    port: int = 0
    local: int = 0

    @property
    def name(self) -> str:
        """Name of this process in messages."""
        return f"process {self.rank} of {self.count} ({socket.gethostname()})"


def find_place(environment: Mapping[str, str]) -> Place:
    """Return this process' place, from TF_CONFIG if it is set, else from SLURM.

    Args:
        environment: environment variables.

    Raises:
        UserError: neither is set, or the values are invalid.
    """
    if "TF_CONFIG" in environment:  # takes precedence: SLURM sets its variables in any case
        return from_tf_config(environment["TF_CONFIG"])
    if "SLURM_JOB_ID" in environment:
        return from_slurm(environment)
    raise UserError(
        "--cluster: neither TF_CONFIG nor SLURM's variables are set. Start the processes with "
        "srun, or set TF_CONFIG for each. On one machine, use --devices N instead."
    )


def from_tf_config(text: str) -> Place:
    """Return the place in a TF_CONFIG; a listed chief comes before the workers.

    Args:
        text: JSON text of the variable.

    >>> from_tf_config('{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"index": 1}}').host
    'a'

    Raises:
        UserError: it is not JSON, lists no workers, or does not list the task.
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
        raise UserError(f"TF_CONFIG names '{others[0]}': only chief and worker are supported.")
    addresses = [(one[1], int(one[2])) for one in found if one]
    if not addresses or None in found:
        raise UserError(f"TF_CONFIG lists no workers as host:port; expected {form}.")
    listed = chiefs if kind == "chief" else workers
    if not 0 <= index < len(listed):
        raise UserError(f"TF_CONFIG: there is no {kind} {index}; {len(listed)} are listed, from 0.")
    rank = index + (len(chiefs) if kind == "worker" else 0)
    (host, port), own = addresses[0], addresses[rank][0]
    if not 0 < port < 65536:
        raise UserError(f"TF_CONFIG: {port} is not a port.")
    return Place(rank, len(found), host, port, [one for one, _ in addresses[:rank]].count(own))


def from_slurm(environment: Mapping[str, str]) -> Place:
    """Return the place of a process in a SLURM step.

    Args:
        environment: environment variables.

    Raises:
        UserError: a job of several tasks runs outside a step, or a variable is not a number.
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
        raise UserError(f"--cluster: task {rank} of SLURM is not below the {count} tasks.")
    nodes = environment.get("SLURM_STEP_NODELIST", "localhost")
    if count > 1 and "SLURM_STEP_NODELIST" not in environment:
        raise UserError(
            f"--cluster: SLURM gave the job {count} tasks, but this process is outside its "
            "steps. Start it with srun."
        )
    # one port per step, unlike JAX's own: steps of a job may run at the same time
    return Place(rank, count, first_host(nodes), 61440 + (job + step) % 4096, local)


def first_host(nodes: str) -> str:
    """Return the first host of a SLURM node list; JAX 0.10.2 misreads several brackets.

    >>> first_host("node[01-03,7],login"), first_host("a,b"), first_host("rack[2,4]-gpu[07-09]-x")
    ('node01', 'a', 'rack2-gpu07-x')
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0] if first else nodes)


def own_devices(visible: str | None, local: int, count: int) -> list[int]:
    """Return the indices of a process' own devices among its visible devices.

    If all processes of a host see the same devices, each takes its own `count` of them. If the
    scheduler has assigned devices, each process takes the first `count` that it sees.

    Args:
        visible: value of CUDA_VISIBLE_DEVICES, or None.
        local: index of the process on its host, from 0.
        count: number of devices of each process.

    >>> own_devices("0,1,2,3", 1, 2), own_devices("0,1", 1, 2), own_devices(None, 1, 1)
    ([2, 3], [0, 1], [1])
    """
    assigned = visible is not None and len(visible.split(",")) < (local + 1) * count
    first = 0 if assigned else local * count
    return list(range(first, first + count))


def choose_engine(devices: int, cluster: bool) -> None:
    """Select JAX for several devices or processes; must be called before Keras is imported.

    Args:
        devices: number of devices of each process.
        cluster: whether several processes train together.

    Raises:
        UserError: JAX is not installed, another backend is set, or the environment has no place in
            a cluster.
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
    """Check that the backend supports several devices.

    Args:
        backend: name of the Keras backend.

    Raises:
        UserError: the backend is not JAX.
    """
    if backend != ENGINE:
        raise UserError(
            f"--devices and --cluster need JAX, but KERAS_BACKEND is {backend}: unset "
            "KERAS_BACKEND, or set it to jax."
        )

"""Processes that train one network together: who they are, how they meet, how they end together.

Only the environment and plain sockets: this is needed before Keras is imported, and what one
process says of its failure must reach the others while their engine waits for it.
"""

import contextlib
import importlib.util
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from salience.system.errors import UserError
from salience.system.files import how_to_install

ENGINE = "jax"
PORTS = 61440, 65536  # from which a SLURM job's is taken, as JAX does
POLL_SECONDS = 0.2
HELLO_SECONDS = 5.0  # for a connection to say who it is
GRACE_SECONDS = 3.0  # for a neighbour's own account of a failure to come, or to be taken
LINE_BYTES = 100_000  # no message is longer


@dataclass(frozen=True)
class Place:
    """The place of this process among those that train one network.

    Attributes:
        rank: from 0; process 0 is the chief, which alone writes.
        count: how many processes there are.
        host, port: where the chief waits for the others.
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
    """Return the place that a TF_CONFIG gives.

    A chief, where one is listed, comes before the workers.

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
        addresses = [re.fullmatch(r"(.+):(\d{1,5})", address) for address in chiefs + workers]
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise UserError(f"TF_CONFIG is not understood; expected {form}.") from error
    others = sorted(set(cluster) - {"chief", "worker"})
    if others or kind not in ("chief", "worker"):
        raise UserError(
            f"TF_CONFIG names '{(others or [kind])[0]}': only chief and worker train here."
        )
    if not addresses or None in addresses:
        raise UserError(f"TF_CONFIG lists no workers as host:port; expected {form}.")
    listed = chiefs if kind == "chief" else workers
    if not 0 <= index < len(listed):
        raise UserError(f"TF_CONFIG: there is no {kind} {index}; {len(listed)} are listed, from 0.")
    rank = index + (len(chiefs) if kind == "worker" else 0)
    hosts = [found[1] for found in addresses if found]
    port = next(int(found[2]) for found in addresses if found)
    if not 0 < port < 65536:
        raise UserError(f"TF_CONFIG: {port} is no port.")
    return Place(rank, len(hosts), hosts[0], port, hosts[:rank].count(hosts[rank]))


def from_slurm(environment: Mapping[str, str]) -> Place:
    """Return the place that SLURM gives a process of a step.

    Raises:
        UserError: it is a job of several tasks outside any step, or a number is none.
    """

    def number(name: str, default: str | None = None) -> int:
        text = environment.get(name, default)
        if text is None or not text.isdecimal():
            raise UserError(f"--cluster: SLURM's {name} is {text}; start the processes with srun.")
        return int(text)

    count = number("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1"))
    nodes = environment.get("SLURM_STEP_NODELIST")
    if count > 1 and not nodes:
        raise UserError(
            f"--cluster: SLURM gave the job {count} tasks, but this process is in none of its "
            "steps. Start it with srun."
        )
    rank = number("SLURM_PROCID")
    if rank >= count:
        raise UserError(f"--cluster: SLURM's task {rank} is none of {count}, counted from 0.")
    low, high = PORTS
    # two steps of one job may run side by side
    port = low + (number("SLURM_JOB_ID") + number("SLURM_STEP_ID", "0")) % (high - low)
    host = first_host(nodes) if nodes else "localhost"
    return Place(rank, count, host, port, number("SLURM_LOCALID", "0"))


def first_host(nodes: str) -> str:
    """Return the first of a SLURM list of hosts.

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


class Wire:
    """A connection that carries one JSON object a line."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.lines = connection.makefile("rb")
        # a host that vanishes says nothing; the system asks for it
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, name):  # not on every system
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, **message: Any) -> None:
        """Send a message; one to a process that has gone is lost."""
        with contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        """Return the next message; an empty one where the other end has gone or makes no sense."""
        try:
            message = json.loads(self.lines.readline(LINE_BYTES) or b"{}")
        except (OSError, ValueError, RecursionError):
            return {}
        return message if isinstance(message, dict) else {}

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.lines.close()
        self.connection.close()


class ProcessGroup:
    """The processes that train one network, connected to their chief until all are done.

    Where one fails or vanishes, the chief tells the others, and all end with its exit code, or 2:
    their engine would wait for ever, or end them with a dump.

    Args:
        place: of this process.
        settings: what must be equal in all.
        timeout: how long they wait for one another, seconds.
        leave: ends this process with an exit code, whatever its other threads do.

    Attributes:
        port: one that is free on the chief's host, the same for all, for the engine.

    Raises:
        UserError: the chief's port is taken, the chief is not to be reached, processes are
            missing, or their settings differ.
    """

    def __init__(
        self,
        place: Place,
        settings: dict[str, Any],
        timeout: float,
        leave: Callable[[int], Any] = os._exit,
    ) -> None:
        self.place, self.settings, self.leave = place, settings, leave
        self.ending = threading.Event()
        self.lock = threading.Lock()
        self.wires: dict[int, Wire] = {}  # by rank
        self.names = {0: f"process 0 of {place.count} ({place.host})"}
        deadline = time.monotonic() + timeout
        try:
            if place.rank == 0:
                self.gather(deadline, timeout)
            else:
                self.join(deadline, timeout)
        except UserError:
            self.close()
            raise
        self.watchers = [
            threading.Thread(target=self.watch, args=(rank,), daemon=True) for rank in self.wires
        ]
        for watcher in self.watchers:
            watcher.start()

    def gather(self, deadline: float, timeout: float) -> None:
        """As chief, wait for all others; then tell them to begin, or why not."""
        place = self.place
        try:
            listener = socket.create_server(("", place.port), backlog=place.count)
        except OSError as error:
            raise UserError(
                f"{place.name} cannot wait for the others at port {place.port}: "
                f"{error.strerror}. Name another in TF_CONFIG, or start the job anew."
            ) from error
        with listener:
            listener.settimeout(POLL_SECONDS)
            while len(self.wires) < place.count - 1:
                if time.monotonic() > deadline:
                    missing = sorted(set(range(1, place.count)) - self.wires.keys())
                    self.refuse(
                        f"of {place.count} processes {len(missing)} did not come within "
                        f"{timeout:g} s; first: process {missing[0]}. See what it printed, or "
                        "raise --cluster_timeout."
                    )
                try:
                    self.welcome(listener.accept()[0])
                except TimeoutError:
                    continue
        with socket.create_server(("", 0)) as free:
            self.port = free.getsockname()[1]
        for wire in self.wires.values():
            wire.send(begin=self.port)

    def welcome(self, connection: socket.socket) -> None:
        """Take a process that says who it is; let others be."""
        connection.settimeout(HELLO_SECONDS)
        wire = Wire(connection)
        hello = wire.receive()
        rank, count, settings = hello.get("rank"), hello.get("count"), hello.get("settings")
        if not isinstance(rank, int) or not isinstance(settings, dict):
            return wire.close()  # no process of ours
        connection.settimeout(None)
        before, self.wires[rank] = self.wires.get(rank), wire
        self.names[rank] = f"process {rank} of {count} ({hello.get('host')})"
        if before or count != self.place.count or not 0 < rank < self.place.count:
            if before:
                before.close()
            self.refuse(
                f"{self.names[rank]} is no place among {self.place.count}, or is taken: the "
                "processes do not have the same TF_CONFIG."
            )
        for name, value in self.settings.items():
            if settings.get(name) != value:
                self.refuse(
                    f"{self.names[rank]} has --{name} {settings.get(name)}, process 0 has {value}: "
                    "give all the same."
                )

    def refuse(self, why: str) -> None:
        """Tell those who came that there will be no training, and raise."""
        for wire in self.wires.values():
            wire.send(refused=why)
        raise UserError(why)

    def join(self, deadline: float, timeout: float) -> None:
        """Find the chief, say who this is, and wait until all have come."""
        place = self.place
        at = f"{place.host}:{place.port}"
        while True:
            try:
                connection = socket.create_connection(
                    (place.host, place.port), max(POLL_SECONDS, deadline - time.monotonic())
                )
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{place.name} did not reach process 0 at {at} within {timeout:g} s "
                        f"({error.strerror or error}). See whether it runs, or raise "
                        "--cluster_timeout."
                    ) from error
                time.sleep(POLL_SECONDS)
        wire = self.wires[0] = Wire(connection)
        wire.send(
            rank=place.rank,
            count=place.count,
            host=socket.gethostname(),
            settings=self.settings,
        )
        connection.settimeout(max(POLL_SECONDS, deadline - time.monotonic()) + HELLO_SECONDS)
        answer = wire.receive()
        if "refused" in answer:
            raise UserError(str(answer["refused"]))
        if not isinstance(answer.get("begin"), int):
            raise UserError(f"{place.name}: process 0 at {at} ended before the training began.")
        self.port = answer["begin"]
        connection.settimeout(None)

    def watch(self, rank: int) -> None:
        """Read what a process says until it is done; end where it fails or vanishes."""
        while True:
            message = self.wires[rank].receive()
            if "done" in message or self.ending.is_set():
                return
            why, code = message.get("failed"), message.get("code")
            self.end(
                str(why or f"{self.names[rank]} has gone."),
                code if isinstance(code, int) else UserError.exit_code,
            )

    def end(self, why: str, code: int) -> None:
        """Tell all others that one has failed, and end this process."""
        with self.lock:  # several may vanish at once: the first is told
            if self.ending.is_set():
                return
            self.ending.set()
            for wire in self.wires.values():
                wire.send(failed=why, code=code)
            # in one piece, since several processes may print at once
            sys.stderr.write(f"error: {why} {self.place.name} ends with it.\n")
            sys.stderr.flush()
            self.leave(code)

    def fail(self, error: BaseException) -> None:
        """Tell all others that this process has failed."""
        if not isinstance(error, UserError):
            # most likely the engine, which lost a neighbour: what that one said is on its way
            self.ending.wait(GRACE_SECONDS)
        with self.lock:
            self.ending.set()
        reason = str(error) or type(error).__name__
        code = getattr(error, "exit_code", UserError.exit_code)
        for wire in self.wires.values():
            wire.send(failed=f"{self.place.name} failed: {reason}", code=code)
        for watcher in self.watchers:  # they hang up once they have heard it
            watcher.join(GRACE_SECONDS)

    def finish(self) -> None:
        """Wait until all processes have come to their end."""
        if self.place.rank:
            self.wires[0].send(done=True)
        for watcher in self.watchers:
            watcher.join()
        if not self.place.rank:
            for wire in self.wires.values():
                wire.send(done=True)
        self.ending.set()

    def close(self) -> None:
        """End the connections."""
        self.ending.set()
        for wire in self.wires.values():
            wire.close()

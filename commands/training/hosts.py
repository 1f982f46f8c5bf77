"""Processes that train one network together with `jax.distributed`: their start and end.

JAX's service notices a process that has died. Its key-value store carries the error message of a
process that fails to the others, whose main threads wait in a collective operation.
"""

import atexit
import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from commands.preflight import Place, own_devices
from salience.system.errors import UserError, printable
from salience.system.quiet import LEVEL

HEARTBEAT_SECONDS = 30  # a process without a heartbeat for this time counts as dead
GRACE_SECONDS = 3  # time for all processes to read the error of a failed one
NO_LIMIT_MS = 10**9
HANDLERS: list[Any] = []  # C may call them until this process ends


class ProcessGroup:
    """The processes that train one network; if one fails or dies, all end.

    Args:
        place: position of this process among all.
        timeout: longest wait for other processes at the start, seconds.
    """

    client: Any = None  # of JAX's service

    def __init__(self, place: Place, timeout: float) -> None:
        self.place, self.timeout = place, timeout
        self.names: list[str] = []  # names of all processes, after `connect`
        self.ending, self.lock = threading.Event(), threading.Lock()
        self.listener = threading.Thread(target=self.listen, daemon=True)

    def connect(self, devices: list[int]) -> None:
        """Wait for all other processes.

        Args:
            devices: indices of this process' own devices.

        Raises:
            UserError: another program uses the chief's port.
        """
        import jax  # pyright: ignore[reportMissingImports]
        from jax._src import distributed  # pyright: ignore[reportMissingImports]

        place = self.place
        try:  # JAX 0.10.2 ends in a segmentation fault on a taken port
            socket.create_server(("", 0 if place.rank else place.port)).close()
        except OSError as error:
            raise UserError(
                f"cannot wait for the others at port {place.port}: {error.strerror}. Name another "
                "in TF_CONFIG, or start the job anew."
            ) from error
        # the service would replace the SIGTERM handler of salience.system.signals
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(
            f"{place.host}:{place.port}",
            place.count,
            place.rank,
            local_device_ids=devices,
            cluster_detection_method="deactivate",  # preflight.py has found the place
            initialization_timeout=round(self.timeout),
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
        self.client = distributed.global_state.client  # as multihost_utils does
        self.names = self.exchange("name", place.name)
        self.listener.start()

    def exchange(self, key: str, value: str) -> list[str]:
        """Share a value under a key; return the values of all processes, by rank."""
        self.client.key_value_set(f"{key}/{self.place.rank}", value)
        return [
            self.client.blocking_key_value_get(f"{key}/{rank}", round(self.timeout * 1000))
            for rank in range(self.place.count)
        ]

    def check_same(self, settings: dict[str, Any]) -> None:
        """Check that all processes have the settings of process 0.

        Raises:
            UserError: a process has other settings; raised in every process.
        """
        first, *others = map(json.loads, self.exchange("settings", json.dumps(settings)))
        for name, other in zip(self.names[1:], others, strict=True):
            for key in first:
                if other.get(key) != first[key]:
                    raise UserError(
                        f"{name} has --{key} {other.get(key)}, process 0 has {first[key]}: give "
                        "all the same."
                    )

    def listen(self) -> None:
        """Wait for the error message of another process, then end this process."""
        with contextlib.suppress(Exception):  # the service has ended
            failure = json.loads(self.client.blocking_key_value_get("failed", NO_LIMIT_MS))
            self.end(failure["message"], failure["code"])

    def end(self, message: str, code: int) -> None:
        """End this process with a one-line message, unless it is already ending."""
        with self.lock:
            if not self.ending.is_set():
                self.ending.set()
                # in one write, since several processes may print at once
                sys.stderr.write(f"error: {printable(message)} {self.place.name} ends with it.\n")
                self.linger()
                leave(code)

    def linger(self) -> None:
        """Keep the chief, which runs JAX's service, until all processes have read the error."""
        if self.place.rank == 0:
            time.sleep(GRACE_SECONDS)

    def fail(self, error: BaseException) -> None:
        """Send the error message of this process to all others."""
        if self.names and isinstance(error, (RuntimeError, ValueError)):
            # most likely a collective operation lost a process, which JAX will name
            self.ending.wait(HEARTBEAT_SECONDS + GRACE_SECONDS)
        with self.lock:  # `end` does not release it
            self.ending.set()
        if self.client:
            message = f"{self.place.name} failed: {str(error) or type(error).__name__}"
            code = getattr(error, "exit_code", UserError.exit_code)
            failure = {"message": message, "code": code}
            with contextlib.suppress(Exception):  # another process has failed before
                self.client.key_value_set("failed", json.dumps(failure))
            self.linger()

    def explain(self, log: str) -> str:
        """Return why JAX aborts this process, from its log; "" if the abort is not from JAX."""
        silent = re.search(r"heartbeats\):\n((?:.*\d\n)+)", log)
        if silent and self.names:
            ranks = map(int, re.findall(r"(\d+)\n", silent[1]))
            return f"{' and '.join(self.names[rank] for rank in ranks)} has gone."
        if "Failed to send RPC" in log and self.names:
            return f"{self.names[0]} has gone."
        if "incarnation" in log:
            return "One place is taken twice: the processes do not have the same TF_CONFIG."
        if "DEADLINE_EXCEEDED" in log and not self.names:
            return (
                f"not all of {self.place.count} processes came to "
                f"{self.place.host}:{self.place.port} within {self.timeout:g} s. See what they "
                "printed, and that they have the same TF_CONFIG, or raise --cluster_timeout."
            )
        status = re.search(r"absl::Status: (.*)", log)
        return f"JAX: {status[1]}" if status else ""


@contextlib.contextmanager
def aborts_in_one_line(group: ProcessGroup) -> Iterator[None]:
    """Turn an abort by JAX into one line and exit code 2.

    If another process has died, JAX's client logs a page and calls C's `abort`, which Python cannot
    prevent. In this context, the log of C++ goes to a file, and a C handler of SIGABRT calls
    Python. Python's standard error is unchanged. docs/decisions/training.md lists the alternatives.
    """
    if LEVEL in os.environ:  # the user wants to read JAX's log
        yield
        return

    def aborted(number: int) -> None:
        text = os.pread(log.fileno(), 1_000_000, 0).decode(errors="replace")
        if message := group.explain(text):
            group.end(message, UserError.exit_code)
            time.sleep(HEARTBEAT_SECONDS)  # another thread ends the process, with its own message
            leave(UserError.exit_code)
        sys.stderr.write(text)
        leave(128 + number)

    log = tempfile.TemporaryFile()  # noqa: SIM115, which stays open where the block ends in an error
    stderr, library = sys.stderr, ctypes.CDLL(None)
    HANDLERS.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted))
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    os.dup2(log.fileno(), 2)
    library.signal(signal.SIGABRT, HANDLERS[-1])
    yield  # nothing is restored after an error, since this process ends
    library.signal(signal.SIGABRT, None)
    os.dup2(sys.stderr.fileno(), 2)
    sys.stderr.close()
    log.close()
    sys.stderr = stderr


@contextlib.contextmanager
def together(
    place: Place, settings: dict[str, Any], devices: int, timeout: float
) -> Iterator[None]:
    """Start and end together with the other processes; an error in one ends all.

    Args:
        place: position of this process among all.
        settings: settings that must be equal in all processes.
        devices: number of devices of each process.
        timeout: longest wait for other processes at the start, seconds.
    """
    import jax  # pyright: ignore[reportMissingImports]
    from jax.experimental.multihost_utils import sync_global_devices  # pyright: ignore[reportMissingImports]

    group = ProcessGroup(place, timeout)
    own = own_devices(os.environ.get("CUDA_VISIBLE_DEVICES"), place.local, devices)
    with aborts_in_one_line(group):
        try:
            group.connect(own)
            group.check_same(settings)
            yield
            sync_global_devices("end")
            group.ending.set()
            jax.distributed.shutdown()
            group.listener.join()  # Python may not end while a thread is in C++
        except BaseException as error:
            # at exit, JAX would wait for processes that have ended; registered first, because a
            # signal may interrupt the next lines
            code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
            atexit.register(leave, code)
            group.fail(error)
            if isinstance(error, UserError):
                raise type(error)(f"{place.name}: {error}") from error
            raise


def leave(code: int) -> None:
    """End this process now."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

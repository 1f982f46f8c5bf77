"""Signals: end a run in good order, so that nothing is lost.

SIGTERM, SIGINT (Ctrl-C), SIGHUP and SIGUSR1 have the same effect: save and exit soon. A second
signal, some seconds later, ends the process at once. A signal that the caller ignores (`nohup`)
stays ignored.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from salience.system.errors import Interrupted, NotBegun

SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)  # Windows has the first two
)
ONE_SIGNAL_SECONDS = 2  # queues may deliver one signal twice within this time
GRACE_SECONDS = 25  # SLURM and Kubernetes kill a process 30 s after the signal by default


@contextmanager
def as_interrupts(at_once: bool = False) -> Iterator[None]:
    """Raise KeyboardInterrupt in the block for each of SIGNALS; exit code 130.

    Args:
        at_once: exit the process immediately instead. This is for blocks that write nothing and
            import libraries, which may treat the exception as a failure of their own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    chosen = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    words = os.dup(2) if at_once else 2  # `hushed` may redirect the stream during an import

    def heard(number: int, frame: object) -> None:
        if at_once:
            os.write(words, b"interrupted\n")
            os._exit(NotBegun.exit_code)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, heard) for number in chosen}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if at_once:
            os.close(words)


class Stop:
    """A request to end a run, made by a signal.

    Attributes:
        name: name of the signal, such as SIGTERM; "" before a signal.
        can_wait: whether the run checks `name` after each step. Otherwise a signal raises
            `NotBegun` in the main thread.
    """

    def __init__(self) -> None:
        self.name = ""
        self.can_wait = False

    def __bool__(self) -> bool:
        return bool(self.name)

    def heard(self, number: int, frame: object = None) -> None:
        """Record a signal; raise `NotBegun` unless the run checks for signals itself."""
        self.name = signal.Signals(number).name
        if not self.can_wait:
            raise NotBegun(f"stopped by {self.name}, before a step was done")


@contextmanager
def heeded(
    say: Callable[[str], None],
    grace_seconds: float = GRACE_SECONDS,
    leave: Callable[[int], object] = os._exit,
) -> Iterator[Stop]:
    """Turn signals into a request to stop while the block runs.

    Python handles a signal only between two of its instructions, and a training step is one
    instruction. Therefore a second thread also receives the signal, and ends the process if the
    step takes too long.

    Args:
        say: function that reports a line.
        grace_seconds: time after which the process ends in any case.
        leave: function that ends the process with an exit code.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python handles signals only in the main thread
        return
    chosen = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    before = {number: signal.signal(number, stop.heard) for number in chosen}
    waker = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(
        target=_watch, args=(reading, chosen, stop, say, grace_seconds, leave), daemon=True
    )
    watcher.start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(waker)
        for number, handler in before.items():
            signal.signal(number, handler)
        writing.close()  # the watcher's end
        watcher.join()
        reading.close()


def _watch(
    reading: socket.socket,
    chosen: list[signal.Signals],
    stop: Stop,
    say: Callable[[str], None],
    grace_seconds: float,
    leave: Callable[[int], object],
) -> None:
    """Receive signals in a thread: report them, and end the process after the grace period."""
    deadline = first = None
    while True:
        reading.settimeout(deadline and max(deadline - time.monotonic(), 0.001))
        try:
            numbers = reading.recv(1)
        except TimeoutError:
            say(
                f"The step has not ended within {grace_seconds:g} s: exiting; the last checkpoint "
                "remains."
            )
            return _end(Interrupted.exit_code, leave)
        if not numbers:
            return
        if numbers[0] not in chosen:
            continue
        now = time.monotonic()
        if first is not None and now - first > ONE_SIGNAL_SECONDS:
            return _end(128 + numbers[0], leave)
        if first is not None:
            continue
        first, deadline = now, now + grace_seconds
        if stop.can_wait:
            say(
                f"{signal.Signals(numbers[0]).name}: saving a checkpoint after this step. A second "
                "signal stops at once."
            )


def _end(code: int, leave: Callable[[int], object]) -> None:
    """End this process now, after its output is flushed."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    leave(code)

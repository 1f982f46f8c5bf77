"""What a queue or a person asks of a long run by a signal: stop now, but lose nothing.

SIGTERM, SIGINT (Ctrl-C), SIGHUP and SIGUSR1 mean the same: end soon, and well. A second one, some
seconds later, means at once. One that the caller has set to be ignored (`nohup`) stays ignored.
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
ONE_SIGNAL_SECONDS = 2  # what comes so soon after another was only passed on twice, as queues do
GRACE_SECONDS = 25  # SLURM and Kubernetes kill 30 s after they asked, unless told otherwise


@contextmanager
def as_interrupts(at_once: bool = False) -> Iterator[None]:
    """Let each of SIGNALS end the block as Ctrl-C does: what is half written goes, exit code 130.

    Args:
        at_once: leave the process where it stands. For a block that writes nothing and runs code
            of libraries, such as their import, which may take an exception for a failure.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    chosen = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    words = os.dup(2) if at_once else 2  # the stream may be shut while a library is imported

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
    """Whether a run has been asked to end, and by which signal.

    Attributes:
        name: of the signal, such as SIGTERM; "" until one comes.
        can_wait: whether the run looks at `name` itself, at the end of each step; else a signal
            raises `Interrupted` wherever the main thread is.
    """

    def __init__(self) -> None:
        self.name = ""
        self.can_wait = False

    def __bool__(self) -> bool:
        return bool(self.name)

    def heard(self, number: int, frame: object = None) -> None:
        """Note a signal; raise where nobody looks. Python calls it in the main thread."""
        self.name = signal.Signals(number).name
        if not self.can_wait:
            raise NotBegun(f"stopped by {self.name}, before a step was done")


@contextmanager
def heeded(
    say: Callable[[str], None],
    grace_seconds: float = GRACE_SECONDS,
    leave: Callable[[int], object] = os._exit,
) -> Iterator[Stop]:
    """Turn signals into a request to stop, while the block runs.

    Python handles a signal between two of its own instructions, and a step of a network is one: so
    another thread hears of it, too, and ends the process where that step takes too long.

    Args:
        say: gets what is to be told.
        grace_seconds: after so long the process ends, whatever it does.
        leave: ends the process with an exit code.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python lets no other thread handle signals
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
    """Hear of signals at once: say what is done, and end the process where it must."""
    deadline = first = None
    while True:
        reading.settimeout(deadline and max(deadline - time.monotonic(), 0.001))
        try:
            numbers = reading.recv(1)
        except TimeoutError:
            say(
                f"The step has not ended within {grace_seconds:g} s: leaving with the last "
                "checkpoint."
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
                f"{signal.Signals(numbers[0]).name}: this step ends, then where training stands is "
                "saved. Once more stops at once."
            )


def _end(code: int, leave: Callable[[int], object]) -> None:
    """End this process now, with what it has said."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    leave(code)

"""Parallel work in threads: results in order, with a bounded number in advance; work beside."""

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import suppress
from itertools import islice
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # options of glibc's mallopt
KEPT_ARRAY, KEPT_HEAP = 2**23, 2**26  # bytes


def in_order(
    pool: Executor, function: Callable, items: Iterable, ahead: int
) -> Iterator[tuple[Any, Any]]:
    """Yield each item with function(item), in order, at most `ahead` computed in advance."""
    futures: deque[tuple[Any, Future]] = deque()
    for item in items:
        futures.append((item, pool.submit(function, item)))
        if len(futures) > ahead:
            item, future = futures.popleft()
            yield item, future.result()
    for item, future in futures:
        yield item, future.result()


def groups(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Yield the items in lists of `size`; the last may be shorter.

    >>> list(groups(iter("abc"), 2))
    [['a', 'b'], ['c']]
    """
    while group := list(islice(items, size)):
        yield group


def keep_freed_memory() -> None:
    """Let the C library keep the memory of freed arrays for the next ones, for this process.

    glibc maps each array of more than 128 kB anew, and the kernel clears its pages. That took 4 of
    24 processor ms of a picture in `test`. Larger arrays than `KEPT_ARRAY` are still returned at
    once, and a heap returns what exceeds `KEPT_HEAP`. Other C libraries are left as they are.
    """
    with suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - other libraries may number the options otherwise
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_ARRAY)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_HEAP)


class Background:
    """Jobs that one thread does in order, while the caller goes on.

    At most one job waits behind the one that runs, so that their data do not pile up. After a job
    has failed, no other job runs, and every method but `close` raises its exception.

    Args:
        name: name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._jobs: deque[Callable[[], object]] = deque()
        self._spare: Callable[[], object] | None = None
        self._failure: BaseException | None = None
        self._is_busy = self._is_closed = False
        self._thread: threading.Thread | None = None

    def submit(self, job: Callable[[], object]) -> None:
        """Do a job after the earlier ones; wait while another one is waiting."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure or not self._jobs)
            self.check()
            self._jobs.append(job)
            self._start()

    def submit_spare(self, job: Callable[[], object]) -> None:
        """Do a job when no other one is left; it replaces an earlier spare one that waits."""
        with self._changed:
            self.check()
            self._spare = job
            self._start()

    def check(self) -> None:
        """Raise the exception of the job that failed, if one did."""
        if self._failure:
            raise self._failure

    def wait(self) -> None:
        """Wait until all jobs are done."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._is_busy or self._jobs or self._spare))
            self.check()

    def close(self) -> None:
        """End the thread after its jobs."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread:
            self._thread.join()

    def _start(self) -> None:
        """Tell the thread about a job; the first one starts it."""
        if not self._thread:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _work(self) -> None:
        """Do jobs until `close`."""
        while job := self._next():
            try:
                job()
            except BaseException as error:  # raised in the caller's thread
                with self._changed:
                    self._failure, self._spare = error, None
                    self._jobs.clear()
            del job  # its data, while the thread waits
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()

    def _next(self) -> Callable[[], object] | None:
        """Return the next job once there is one; None after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._spare or self._is_closed)
            if self._jobs:
                job = self._jobs.popleft()
            else:
                job, self._spare = self._spare, None
            self._is_busy = job is not None
            self._changed.notify_all()
            return job

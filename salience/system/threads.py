"""Parallel work in threads: results in order, with a bounded number in advance."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import islice
from typing import Any


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

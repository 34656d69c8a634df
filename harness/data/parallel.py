"""Work in threads, results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["ordered_map"]

_A = TypeVar("_A")
_B = TypeVar("_B")

# Enough to keep every thread busy, few enough that decoded images do not pile up.
_AHEAD = 64


def ordered_map(function: Callable[[_A], _B], items: Iterable[_A]) -> Iterator[_B]:
    """Yield ``function(item)`` in the items' order, computed by threads that run a little ahead."""
    pool = ThreadPoolExecutor()
    pending: deque[Future[_B]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)

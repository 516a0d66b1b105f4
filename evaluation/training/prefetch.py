"""Prefetching of batches by threads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

__all__ = ["Prefetcher"]

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Runs jobs ahead in threads and yields their results in order.

    A context manager that ends its threads, also after an error. The error of a job is raised when
    its result is taken.

    Args:
        depth: number of jobs that run or wait to be taken, each in a thread of its own; 0 to run
            each job when its result is taken.

    Attributes:
        waited: total seconds of waiting for results.

    >>> with Prefetcher[int](2) as prefetcher:
    ...     list(prefetcher.over([lambda: 1, lambda: 2, lambda: 3]))
    [1, 2, 3]
    """

    def __init__(self, depth: int) -> None:
        self.waited = 0.0
        self._depth = depth
        self._pool = ThreadPoolExecutor(depth, "prefetch") if depth else None

    def __enter__(self) -> Prefetcher[T]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def over(self, jobs: Iterable[Callable[[], T]]) -> Iterator[T]:
        """The results of `jobs`, in their order."""
        pool, pending = self._pool, deque[Future[T]]()
        for job in jobs:
            if pool is None:
                yield self._taken(job)
                continue
            pending.append(pool.submit(job))
            # One job more than threads, so that no thread is idle when a result is taken.
            if len(pending) > self._depth:
                yield self._taken(pending.popleft().result)
        while pending:
            yield self._taken(pending.popleft().result)

    def _taken(self, take: Callable[[], T]) -> T:
        started = time.perf_counter()
        result = take()
        self.waited += time.perf_counter() - started
        return result

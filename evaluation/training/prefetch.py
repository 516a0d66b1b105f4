"""The next batches are read while the present one is trained on."""

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
    """What jobs return, in their order, each done by a thread before it is asked for.

    As a context manager it leaves no thread behind, whatever happened; what a job raised is raised
    where its result is taken.

    Args:
        depth: how many jobs are under way or done and not yet taken, each in a thread of its
            own; 0 to do each where it is asked for.

    Attributes:
        waited: seconds that taking results took in all.

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
            # Not before the first is asked for: a job more than there are threads waits.
            if len(pending) > self._depth:
                yield self._taken(pending.popleft().result)
        while pending:
            yield self._taken(pending.popleft().result)

    def _taken(self, take: Callable[[], T]) -> T:
        started = time.perf_counter()
        result = take()
        self.waited += time.perf_counter() - started
        return result

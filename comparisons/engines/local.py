"""The local engine: cells in worker processes of this machine."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from comparisons.cells.cell import Cell
from comparisons.cells.run import run_cell
from comparisons.engines.engine import RETRIES, WorkerLost
from comparisons.engines.ranks import RankLost, run_in_ranks
from comparisons.engines.resources import Resources
from comparisons.engines.worker import set_up_child
from evaluation.storage.records import CellResult
from evaluation.storage.store import Store

__all__ = ["LocalExecutor"]


class LocalExecutor:
    """Worker processes of this machine, each with its own threads and its share of the GPUs.

    Several processes of one thread train small networks faster than one process of several
    threads. Workers end with the process that started them, however it ends. The cell of a worker
    that dies is started again in a new one; other cells go on.

    Args:
        store: the run's directory.
        workers: number of processes.
        resources: of each process.
    """

    def __init__(self, store: Store, *, workers: int, resources: Resources) -> None:
        self.slots = workers
        self._store = store
        self._resources = resources
        self._gpus = [resources.visible_gpus(slot) for slot in range(workers)]
        # A pool for each slot: the one that breaks is that of the lost cell.
        self._pools = [self._new_pool(slot) for slot in range(workers)]
        self._free = list(range(workers))
        self._lock = threading.Lock()
        self._stopping = False

    def about(self) -> str:
        """The number of workers, their threads and their device in words."""
        each = f"{self._resources.threads} thread{'s' if self._resources.threads > 1 else ''} each"
        workers = f"{self.slots} worker{'s' if self.slots > 1 else ''}"
        return f"This machine: {workers}, {each}, on {self._resources.device}"

    def submit(self, cell: Cell) -> Future[CellResult]:
        """Start a cell in as many free slots as it has ranks.

        Raises:
            ValueError: the cell has more ranks than there are workers.
        """
        if cell.ranks > self.slots:
            raise ValueError(
                f"a training of {cell.ranks} processes does not fit into {self.slots} "
                f"worker{'s' if self.slots > 1 else ''}: "
                "give more --workers, or fewer --ranks"
            )
        with self._lock:
            slots = [self._free.pop(0) for _ in range(cell.ranks)]
        outcome: Future[CellResult] = Future()
        self._start(cell, slots, outcome, RETRIES)
        return outcome

    def _start(
        self, cell: Cell, slots: Sequence[int], outcome: Future[CellResult], retries: int
    ) -> None:
        pool = self._pools[slots[0]]
        if cell.ranks == 1:
            running = pool.submit(run_cell, cell, self._store, device=self._resources.device)
        else:
            gpus = [self._gpus[slot] for slot in slots[1:]]
            running = pool.submit(run_in_ranks, cell, self._store, self._resources, gpus)
        running.add_done_callback(
            lambda ended: self._ended(cell, slots, outcome, retries, ended),
        )

    def _ended(
        self,
        cell: Cell,
        slots: Sequence[int],
        outcome: Future[CellResult],
        retries: int,
        ended: Future[CellResult],
    ) -> None:
        """Pass on a cell's result or error, or start the cell again if its worker was lost."""
        if ended.cancelled() or self._stopping:
            return
        error = ended.exception()
        lost = isinstance(error, BrokenProcessPool | RankLost)
        if isinstance(error, BrokenProcessPool):
            self._pools[slots[0]] = self._new_pool(slots[0])
        if lost and retries:
            self._start(cell, slots, outcome, retries - 1)
            return
        with self._lock:
            self._free = sorted([*self._free, *slots])
        if lost:
            outcome.set_exception(
                WorkerLost(
                    f"its worker process died {RETRIES + 1} times (killed, or out of memory?): "
                    "with fewer --workers each has more memory"
                )
            )
        elif error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(ended.result())

    def stop(self) -> None:
        """End the workers at once; running cells are lost, recorded results stay."""
        self._stopping = True
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for worker in multiprocessing.active_children():
            worker.terminate()

    def _new_pool(self, slot: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=set_up_child,
            initargs=(self._resources.threads, self._resources.memory_budget_mib, self._gpus[slot]),
        )

    @classmethod
    @contextmanager
    def running(
        cls, store: Store, *, workers: int, resources: Resources
    ) -> Iterator[LocalExecutor]:
        """An executor for the length of a block; its workers end with the block."""
        executor = cls(store, workers=workers, resources=resources)
        try:
            yield executor
        finally:
            executor.stop()

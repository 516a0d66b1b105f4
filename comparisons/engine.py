"""Runs a graph of cells in processes of this machine; the store is the truth about what is done."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from graphlib import TopologicalSorter
from multiprocessing.connection import wait as wait_for_end
from typing import Protocol

import torch

from comparisons.budget import MEMORY_BUDGET_MIB, set_memory_budget
from comparisons.cells import Cell, run_cell
from comparisons.graph import Node
from evaluation.records import CellResult
from evaluation.store import Store

__all__ = ["Event", "Executor", "LocalExecutor", "execute"]


class Executor(Protocol):
    """Runs cells somewhere; a cell reads and writes the store, whoever runs it."""

    slots: int

    def submit(self, cell: Cell) -> Future[CellResult]:
        """Start a cell, or queue it."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a node.

    Args:
        node: which.
        kind: ``started``, ``finished``, ``found`` (it was done before) or ``failed``.
        result: what it left, if it is done.
        error: why it failed, or which failed node it needed.
    """

    node: Node
    kind: str
    result: CellResult | None = None
    error: str | None = None


def execute(nodes: Iterable[Node], store: Store, executor: Executor) -> Iterator[Event]:
    """Run every cell whose result is not in the store, in an order that its needs allow.

    A cell that fails takes along only what needs it; everything else goes on.

    Args:
        nodes: the graph.
        store: where results are looked up, and where cells leave theirs.
        executor: where cells run.

    Yields:
        What happens, as it happens.
    """
    by_name = {node.name: node for node in nodes}
    sorter = TopologicalSorter({node.name: node.needs for node in by_name.values()})
    sorter.prepare()
    done: dict[str, CellResult] = {}
    failed: set[str] = set()
    ready: list[Node] = []
    running: dict[Future[CellResult], Node] = {}
    while sorter.is_active():
        ready += [by_name[name] for name in sorter.get_ready()]
        ready.sort(key=lambda node: node.priority)
        # Only as many as can run: what becomes ready later may be more urgent.
        if ready and len(running) < executor.slots and _may_start(ready[0], running.values()):
            node = ready.pop(0)
            missing = [name for name in node.needs if name in failed]
            cell = None if missing else node.make(done)
            found = None if cell is None else store.result(cell.id)
            if cell is None:
                failed.add(node.name)
                yield Event(node, "failed", error=f"needs {missing[0]!r}, which failed")
                sorter.done(node.name)
            elif found is not None:
                done[node.name] = found
                yield Event(node, "found", found)
                sorter.done(node.name)
            else:
                running[executor.submit(cell)] = node
                yield Event(node, "started")
            continue
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            node = running.pop(future)
            try:
                done[node.name] = future.result()
            except BrokenProcessPool:
                raise
            except Exception as error:
                failed.add(node.name)
                yield Event(node, "failed", error=f"{type(error).__name__}: {error}")
            else:
                yield Event(node, "finished", done[node.name])
            sorter.done(node.name)


def _may_start(node: Node, running: Iterable[Node]) -> bool:
    """Whether a node may run beside those that run: one that is timed runs alone."""
    others = list(running)
    return not others or not (node.alone or any(other.alone for other in others))


class LocalExecutor:
    """Worker processes of this machine, each with its own threads.

    Several processes of one thread train small networks faster than one process of several
    threads. Workers end with the process that started them, however it ends.

    Args:
        store: the run's directory.
        workers: how many processes.
        threads: threads of each.
        device: where networks run.
        memory_budget_mib: what one pass of a saliency method may hold, of each.
    """

    def __init__(
        self,
        store: Store,
        *,
        workers: int,
        threads: int,
        device: str,
        memory_budget_mib: int = MEMORY_BUDGET_MIB,
    ) -> None:
        self.slots = workers
        self._store = store
        self._device = device
        self._pool = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_set_up_worker,
            initargs=(threads, memory_budget_mib),
        )

    def submit(self, cell: Cell) -> Future[CellResult]:
        """Queue a cell for the next free process."""
        return self._pool.submit(run_cell, cell, self._store, device=self._device)

    def stop(self) -> None:
        """End the workers now; what they were at is lost, what they recorded stays."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for worker in multiprocessing.active_children():
            worker.terminate()

    @classmethod
    @contextmanager
    def running(
        cls,
        store: Store,
        *,
        workers: int,
        threads: int,
        device: str,
        memory_budget_mib: int = MEMORY_BUDGET_MIB,
    ) -> Iterator[LocalExecutor]:
        """An executor whose workers are gone afterwards, whatever happens."""
        executor = cls(
            store,
            workers=workers,
            threads=threads,
            device=device,
            memory_budget_mib=memory_budget_mib,
        )
        try:
            yield executor
        finally:
            executor.stop()


def _set_up_worker(threads: int, memory_budget_mib: int) -> None:
    # Ctrl-C reaches the whole process group: the driver alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    set_memory_budget(memory_budget_mib)
    _keep_freed_memory()
    # Captum and PyTorch repeat these at every call; what matters is recorded with the result.
    for message in (
        "Input Tensor .* did not already require gradients",
        "Setting backward hooks on ReLU",
        "Setting forward, backward hooks",
        "Using a non-full backward hook",
    ):
        warnings.filterwarnings("ignore", message=message)


def _keep_freed_memory() -> None:
    """Let glibc reuse the pages of freed tensors, which it would give back at every step.

    Measured on ResNet-9 training, batch 64, one thread: 916 images a second of processor
    time instead of 640.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library than glibc
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)
    mallopt(top_pad, 1 << 26)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_end([parent.sentinel])
        os._exit(1)

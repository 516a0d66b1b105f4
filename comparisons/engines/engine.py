"""Execution of a graph of cells: an executor runs them, the store holds their results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Protocol

from comparisons.cells.cell import Cell
from comparisons.graph.nodes import Node
from evaluation.storage.records import CellResult
from evaluation.storage.store import Store

__all__ = ["RETRIES", "Event", "Executor", "WorkerLost", "execute"]

# Number of times that a cell is started again after its worker or node was lost.
RETRIES = 3


class WorkerLost(RuntimeError):
    """The process of a cell was lost at every attempt; nothing that it recorded is lost."""


class Executor(Protocol):
    """A place where cells run; each reads and writes the store.

    A cell whose worker is lost is started again up to `RETRIES` times, then it fails with
    `WorkerLost`.
    """

    @property
    def slots(self) -> int:
        """Number of processes that may work at once; it may change during a run."""

    def about(self) -> str:
        """The place and number of workers in words."""

    def submit(self, cell: Cell) -> Future[CellResult]:
        """Start a cell, or queue it; it takes `Cell.ranks` of the slots."""


@dataclass(frozen=True)
class Event:
    """A change of a node's state.

    Args:
        node: the node.
        kind: ``started``, ``finished``, ``found`` (finished in an earlier run) or ``failed``.
        result: of a finished or found node.
        error: the reason of a failure, or the failed node that it needed.
    """

    node: Node
    kind: str
    result: CellResult | None = None
    error: str | None = None


def execute(nodes: Iterable[Node], store: Store, executor: Executor) -> Iterator[Event]:
    """Run every cell whose result is not in the store, each after the cells that it needs.

    If a cell fails, the cells that need it fail too; all others go on.

    Args:
        nodes: the graph.
        store: holds the results.
        executor: runs the cells.

    Yields:
        An event for each change of a node's state.
    """
    by_name = {node.name: node for node in nodes}
    sorter = TopologicalSorter({node.name: node.needs for node in by_name.values()})
    sorter.prepare()
    done: dict[str, CellResult] = {}
    failed: set[str] = set()
    ready: list[Node] = []
    running: dict[Future[CellResult], _Running] = {}
    while sorter.is_active():
        new = [by_name[name] for name in sorter.get_ready()]
        # Before anything starts, so that it is known from the first how much is left.
        found = {node.name: result for node in new if (result := _found(node, done, store))}
        ready = sorted(
            (node for node in (*ready, *new) if node.name not in found),
            key=lambda node: node.priority,
        )
        for name, result in found.items():
            done[name] = result
            yield Event(by_name[name], "found", result)
            sorter.done(name)
        if found:
            continue
        # Start only as many as can run: a cell that becomes ready later may be more urgent.
        if ready and _may_start(ready[0], running.values()):
            node = ready[0]
            missing = [name for name in node.needs if name in failed]
            if missing:
                failed.add(node.name)
                yield Event(node, "failed", error=f"needs {missing[0]!r}, which failed")
                sorter.done(ready.pop(0).name)
                continue
            cell = node.make(done)
            # Another node of the same cell may have run meanwhile.
            if (own := _stored(cell, store)) is not None:
                done[node.name] = own
                yield Event(node, "found", own)
                sorter.done(ready.pop(0).name)
                continue
            taken = sum(other.cell.ranks for other in running.values())
            # A cell larger than all slots starts alone: the number of slots may grow.
            if not running or taken + cell.ranks <= executor.slots:
                running[executor.submit(cell)] = _Running(ready.pop(0), cell)
                yield Event(node, "started")
                continue
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            node = running.pop(future).node
            try:
                done[node.name] = future.result()
            except Exception as error:
                failed.add(node.name)
                yield Event(node, "failed", error=f"{type(error).__name__}: {error}")
            else:
                yield Event(node, "finished", done[node.name])
            sorter.done(node.name)


@dataclass(frozen=True)
class _Running:
    node: Node
    cell: Cell


def _found(node: Node, done: Mapping[str, CellResult], store: Store) -> CellResult | None:
    """The stored result of a node whose needs are all done; None if there is none."""
    if not all(name in done for name in node.needs):
        return None
    return _stored(node.make(done), store)


def _stored(cell: Cell, store: Store) -> CellResult | None:
    """The stored result of a cell whose gallery is not lost; None if there is none."""
    result = store.result(cell.id)
    return None if result is None or store.lost_gallery(result.id) else result


def _may_start(node: Node, running: Iterable[_Running]) -> bool:
    """True if a node may start beside the running ones; a timed cell runs alone."""
    others = [other.node for other in running]
    return not others or not (node.alone or any(other.alone for other in others))

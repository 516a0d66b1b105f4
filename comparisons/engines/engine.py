"""Runs a graph of cells, wherever an executor puts them; the store says what is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Protocol

from comparisons.cells.cell import Cell
from comparisons.graph.nodes import Node
from evaluation.storage.records import CellResult
from evaluation.storage.store import Store

__all__ = ["RETRIES", "Event", "Executor", "WorkerLost", "execute"]

# How often a cell is started again whose worker or node went away.
RETRIES = 3


class WorkerLost(RuntimeError):
    """The process that ran a cell went away, again and again; nothing that it recorded is lost."""


class Executor(Protocol):
    """Runs cells somewhere; a cell reads and writes the store, whoever runs it.

    A cell whose worker goes away is started again up to `RETRIES` times, then it fails with
    `WorkerLost`.
    """

    @property
    def slots(self) -> int:
        """How many processes may work at once; it may change while a run goes on."""

    def about(self) -> str:
        """Where cells run, and how many at once, for people."""

    def submit(self, cell: Cell) -> Future[CellResult]:
        """Start a cell, or queue it; it takes `Cell.ranks` of the slots."""


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
    running: dict[Future[CellResult], _Running] = {}
    while sorter.is_active():
        ready += [by_name[name] for name in sorter.get_ready()]
        ready.sort(key=lambda node: node.priority)
        # Only as many as can run: what becomes ready later may be more urgent.
        if ready and _may_start(ready[0], running.values()):
            node = ready[0]
            missing = [name for name in node.needs if name in failed]
            cell = None if missing else node.make(done)
            found = None if cell is None else store.result(cell.id)
            if cell is None:
                failed.add(node.name)
                yield Event(node, "failed", error=f"needs {missing[0]!r}, which failed")
                sorter.done(ready.pop(0).name)
                continue
            if found is not None:
                done[node.name] = found
                yield Event(node, "found", found)
                sorter.done(ready.pop(0).name)
                continue
            taken = sum(other.cell.ranks for other in running.values())
            # A cell that is larger than all there is starts alone: what is there may grow.
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


def _may_start(node: Node, running: Iterable[_Running]) -> bool:
    """Whether a node may run beside those that run: one that is timed runs alone."""
    others = [other.node for other in running]
    return not others or not (node.alone or any(other.alone for other in others))

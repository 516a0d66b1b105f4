"""Simulation of the schedule of a graph of cells, in the order of the engine."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import count

from comparisons.graph.nodes import Node

__all__ = ["Schedule", "Task", "critical_path", "simulate"]


@dataclass(frozen=True)
class Task:
    """A cell with its estimated time.

    Args:
        node: the cell's node.
        seconds: time of the cell.
        width: number of workers that it takes at once.
    """

    node: Node
    seconds: float
    width: int = 1


@dataclass(frozen=True)
class Schedule:
    """A simulated schedule.

    Args:
        workers: number of workers.
        seconds: time at which the last cell is finished.
        busy_seconds: worker time of all cells together.
        started: starting times by name, in the order of starts.
    """

    workers: int
    seconds: float
    busy_seconds: float
    started: Mapping[str, float]

    @property
    def busy_share(self) -> float:
        """Share of the workers' time in which they work; 1 without any cell."""
        return self.busy_seconds / (self.workers * self.seconds) if self.seconds else 1.0


def simulate(tasks: Sequence[Task], workers: int) -> Schedule:
    """Simulate the schedule by which `comparisons.engines.engine.execute` runs a graph.

    Of the cells whose needs are finished, the one with the lowest priority number starts as soon as
    there are workers for it; those behind it wait. A cell that runs alone waits for all others,
    and they for it.

    Args:
        tasks: the cells.
        workers: number of processes that work at once.

    Raises:
        ValueError: a cell takes more workers than there are.
    """
    widest = max((task.width for task in tasks), default=1)
    if workers < widest:
        raise ValueError(
            f"a training takes {widest} workers at once, and --workers is {workers}: give at least "
            f"--workers {widest}"
        )
    by_name = {task.node.name: task for task in tasks}
    sorter = TopologicalSorter({name: task.node.needs for name, task in by_name.items()})
    sorter.prepare()
    arrival = count()
    ready: list[tuple[tuple[int, int, int], int, Task]] = []
    running: list[tuple[float, int, Task]] = []
    started: dict[str, float] = {}
    now, free = 0.0, workers
    while sorter.is_active():
        for name in sorter.get_ready():
            task = by_name[name]
            heapq.heappush(ready, (task.node.priority, next(arrival), task))
        if ready:
            first = ready[0][2]
            alone = first.node.alone or any(task.node.alone for _, _, task in running)
            if (not running or not alone) and first.width <= free:
                heapq.heappop(ready)
                started[first.node.name] = now
                free -= first.width
                heapq.heappush(running, (now + first.seconds, next(arrival), first))
                continue
        now, _, finished = heapq.heappop(running)
        free += finished.width
        sorter.done(finished.node.name)
    busy = sum(task.seconds * task.width for task in tasks)
    return Schedule(workers, now, busy, started)


def critical_path(tasks: Sequence[Task]) -> tuple[Task, ...]:
    """The longest chain of cells that each need the one before: no run is shorter.

    Args:
        tasks: the cells.

    Returns:
        The chain, first to last.
    """
    by_name = {task.node.name: task for task in tasks}
    order = TopologicalSorter({name: task.node.needs for name, task in by_name.items()})
    ends: dict[str, float] = {}
    before: dict[str, str | None] = {}
    for name in order.static_order():
        needs = by_name[name].node.needs
        last = max(needs, key=lambda need: ends[need], default=None)
        before[name] = last
        ends[name] = by_name[name].seconds + (0.0 if last is None else ends[last])
    chain: list[Task] = []
    link = max(ends, key=lambda each: ends[each], default=None)
    while link is not None:
        chain.append(by_name[link])
        link = before[link]
    return tuple(reversed(chain))

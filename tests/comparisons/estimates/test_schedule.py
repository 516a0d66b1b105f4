"""The simulated schedule against closed forms, Graham's bounds, and the engine itself."""

from __future__ import annotations

import math
import random
from concurrent.futures import Future

import pytest

from comparisons.cells.cell import Cell
from comparisons.engines import engine
from comparisons.engines.engine import execute
from comparisons.estimates.schedule import Task, critical_path, simulate
from comparisons.graph.nodes import Node
from evaluation.storage.records import CellResult
from evaluation.storage.store import Store


def _task(
    name: str, seconds: float, *needs: str, priority: int = 0, alone: bool = False, width: int = 1
) -> Task:
    def make(_) -> Cell:
        return Cell("fake", {"name": name})

    return Task(Node(name, "fake", needs, (priority, 0, 0), 1, make, alone), seconds, width)


def _random_tasks(seed: int, *, alone: bool = False) -> list[Task]:
    """A few dozen cells; each needs up to three of those before it."""
    rng = random.Random(seed)
    tasks: list[Task] = []
    for number in range(40):
        earlier = [task.node.name for task in tasks]
        needs = rng.sample(earlier, min(len(earlier), rng.randrange(4)))
        seconds = rng.choice([0.0, 1.0, 2.5, 7.0]) + rng.random()
        timed = alone and number % 9 == 8
        task = _task(f"cell {number}", seconds, *needs, priority=rng.randrange(3), alone=timed)
        tasks.append(task)
    return tasks


@pytest.mark.parametrize(("cells", "workers"), [(12, 1), (12, 5), (3, 8), (40, 8)])
def test_equal_cells_take_turns(cells, workers):
    found = simulate([_task(str(number), 3.0) for number in range(cells)], workers)
    assert found.seconds == 3.0 * math.ceil(cells / workers)
    assert found.busy_seconds == 3.0 * cells
    assert found.busy_share == pytest.approx(cells / workers / math.ceil(cells / workers))


def test_a_chain_takes_its_sum_whatever_the_workers():
    chain = [_task("0", 1.0), *(_task(str(n), n + 1.0, str(n - 1)) for n in range(1, 5))]
    assert simulate(chain, 1).seconds == simulate(chain, 64).seconds == 1 + 2 + 3 + 4 + 5
    assert [task.node.name for task in critical_path(chain)] == ["0", "1", "2", "3", "4"]


def test_the_more_urgent_cell_goes_first():
    tasks = [_task("late", 1.0, priority=2), _task("soon", 1.0, priority=1)]
    assert list(simulate(tasks, 1).started) == ["soon", "late"]


def test_what_is_timed_runs_alone():
    tasks = [_task("a", 4.0), _task("timed", 2.0, priority=1, alone=True), _task("b", 4.0)]
    found = simulate(tasks, 2)
    assert found.started == {"a": 0.0, "b": 0.0, "timed": 4.0}
    assert found.seconds == 6.0


def test_ranks_take_their_workers_together():
    # 3 workers: two ranks beside one, then the second pair alone, then what waited behind it.
    tasks = [
        _task("one", 5.0, priority=0),
        _task("pair", 3.0, priority=1, width=2),
        _task("second pair", 3.0, priority=2, width=2),
        _task("behind", 1.0, priority=3),
    ]
    found = simulate(tasks, 3)
    assert found.started == {"one": 0.0, "pair": 0.0, "second pair": 3.0, "behind": 5.0}
    assert found.seconds == 6.0
    assert found.busy_seconds == 5 + 6 + 6 + 1
    with pytest.raises(
        ValueError, match="takes 2 workers at once, and --workers is 1: give at least"
    ):
        simulate(tasks, 1)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("workers", [1, 3, 8])
def test_any_graph_is_within_graham_s_bounds(seed, workers):
    """Graham 1969: a list schedule takes at most W / m + (1 - 1/m) of the longest chain."""
    tasks = _random_tasks(seed)
    found = simulate(tasks, workers)
    work = sum(task.seconds for task in tasks)
    chain = sum(task.seconds for task in critical_path(tasks))
    assert found.seconds >= max(chain, work / workers) - 1e-9
    assert found.seconds <= work / workers + (1 - 1 / workers) * chain + 1e-9
    ends = {task.node.name: found.started[task.node.name] + task.seconds for task in tasks}
    for task in tasks:
        assert all(found.started[task.node.name] >= ends[need] for need in task.node.needs)


class _InVirtualTime:
    """Runs cells of the engine by a clock that jumps to the next end."""

    def __init__(self, tasks: list[Task], slots: int) -> None:
        self.slots = slots
        self.now = 0.0
        self.started: dict[str, float] = {}
        self._seconds = {task.node.name: task.seconds for task in tasks}
        self._ends: list[tuple[float, int, Future[CellResult], Cell]] = []

    def submit(self, cell: Cell) -> Future[CellResult]:
        name, future = cell.spec["name"], Future()
        self.started[name] = self.now
        end = self.now + self._seconds[name]
        self._ends.append((end, len(self.started), future, cell))
        return future

    def wait(self, _, **__):
        """In the place of `concurrent.futures.wait`: time passes until a cell ends."""
        first = min(self._ends, key=lambda end: end[:2])
        self._ends.remove(first)
        self.now, _, future, cell = first
        future.set_result(CellResult(cell.id, "fake", cell.spec, ()))
        return type("Waited", (), {"done": {future}})


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_engine_starts_every_cell_when_the_simulation_says(
    seed, workers, tmp_path, monkeypatch
):
    tasks = _random_tasks(seed, alone=True)
    executor = _InVirtualTime(tasks, workers)
    monkeypatch.setattr(engine, "wait", executor.wait)
    for _ in execute([task.node for task in tasks], Store(tmp_path), executor):
        pass
    found = simulate(tasks, workers)
    assert found.started == pytest.approx(executor.started)
    assert found.seconds == pytest.approx(executor.now)

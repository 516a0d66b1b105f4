"""The same plan on Ray: equal to the last digit, through the loss of a worker and of a node."""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from comparisons.cells.cell import Cell
from comparisons.cells.run import run_cell
from comparisons.engines import on_ray
from comparisons.engines.on_ray import RayExecutor, RayMissing
from comparisons.engines.resources import Resources
from comparisons.engines.select import Engine, engine_of
from comparisons.runs.session import RunError
from evaluation.storage.records import CellResult
from evaluation.storage.store import Store

psutil = pytest.importorskip("psutil")
ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.training,
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
# Cells that build the network in a worker, each once: trainings, and what explains them.
_BUILD = ("base", "maps", "retrain", "mask_only", "profile")
PRINT = print
_PATIENCE_S = 300  # of a wait that a loaded machine may stretch; nothing is timed


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    """A cluster of one node with one processor, to which tests add others."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": 80 * 2**20},
    )
    yield made
    made.shutdown()


def _records(result: CellResult) -> list[object]:
    """What was measured, besides times."""
    return [record for record in result.records if not record.timed]


def _assert_equal(one: Path, other: Path) -> None:
    """Two runs of one plan left the same results to the last digit."""
    expected = {result.id: result for result in Store(one).results()}
    found = {result.id: result for result in Store(other).results()}
    assert found.keys() == expected.keys()
    for name, result in found.items():
        assert result.hashes == expected[name].hashes
        assert result.correct == expected[name].correct
        assert _records(result) == _records(expected[name])
        losses = [[epoch.get("loss") for epoch in r.history] for r in (result, expected[name])]
        assert losses[0] == losses[1]


def _wait(ready) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.slow
def test_a_run_that_loses_a_worker_and_a_node_is_the_run_here(
    cluster, mortal, tmp_path, make_tiny_plan, run_on
):
    plan = make_tiny_plan("smoe-linear")
    model = f"{mortal}/mortal.py:network"
    plan = replace(plan, model=model, seeds=(0, 1), modes=("roar",), mask_only=())
    here, there = tmp_path / "here", tmp_path / "there"
    run_on(plan, here, Engine(workers=1))
    built_here = len((mortal / "built").read_text().splitlines())
    (mortal / "built").unlink()

    second = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    first_node = cluster.head_node.node_id
    (mortal / "hold").touch()
    refused: list[str] = []

    def disturb() -> None:
        try:
            lose_a_node_and_a_worker()
        finally:
            (mortal / "hold").unlink()

    def lose_a_node_and_a_worker() -> None:
        # A network is being trained on each node; neither goes on before the second node is gone.
        _wait(lambda: len(list(mortal.glob("held-*"))) == 2)
        try:
            run_on(plan, there, Engine(workers=1))
        except RunError as error:
            refused.append(str(error))
        lost = int((mortal / f"held-{second.node_id}").read_text())
        cluster.remove_node(second, allow_graceful=False)
        # Its worker may live on for a moment, and would finish its cell.
        _wait(lambda: _is_gone(lost))
        (mortal / "kill-0").touch()  # the next training in the first node loses its worker

    disturbance = threading.Thread(target=disturb)
    disturbance.start()
    said = run_on(plan, there, Engine("ray", address=cluster.address))
    disturbance.join()
    assert (mortal / f"held-{first_node}").exists()
    assert not (mortal / "kill-0").exists()
    assert f"another run is working in {there}: wait for it, stop it (process " in refused[0]
    assert re.search(r"Ray [\d.]+: 2 nodes, 2 CPUs; 2 workers", said)
    _assert_equal(here, there)
    # Every cell once, and once more for the lost node and the lost worker each.
    kinds = Counter(result.kind for result in Store(here).results())
    assert built_here == sum(kinds[kind] for kind in _BUILD)
    assert len((mortal / "built").read_text().splitlines()) == built_here + 2
    # What is recorded is not run again.
    (mortal / "built").unlink()
    run_on(plan, there, Engine("ray", address=cluster.address))
    assert not (mortal / "built").exists()


@pytest.mark.slow
def test_ranks_of_which_one_is_lost_are_those_here(
    cluster, mortal, tmp_path, make_tiny_plan, run_on
):
    plan = make_tiny_plan("centre")
    plan = replace(
        plan,
        model=f"{mortal}/mortal.py:network",
        modes=("roar",),
        mask_only=(),
        recipe=replace(plan.recipe, ranks=2),
    )
    here, there = tmp_path / "here", tmp_path / "there"
    second = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    try:
        run_on(plan, here, Engine(workers=2))
        (mortal / "kill-0").touch()  # one rank of the first training, on either node
        run_on(plan, there, Engine("ray", address=cluster.address))
    finally:
        cluster.remove_node(second, allow_graceful=False)
    assert not (mortal / "kill-0").exists()
    _assert_equal(here, there)


def test_what_a_cell_raises_comes_back_as_it_was(cluster, tmp_path):
    store = Store(tmp_path)
    resources = Resources()
    with RayExecutor.running(
        store, address=cluster.address, workers=None, resources=resources
    ) as executor:
        error = executor.submit(Cell("no such kind", {})).exception(timeout=_PATIENCE_S)
    assert isinstance(error, KeyError)
    # The same type and message as where the cell runs in this process.
    with pytest.raises(KeyError) as here:
        run_cell(Cell("no such kind", {}), store)
    assert type(error) is type(here.value)
    assert str(error) == str(here.value)
    assert "'no such kind'" in str(error)
    assert print is PRINT


def test_workers_bound_what_runs_at_once(cluster, tmp_path):
    more = cluster.add_node(num_cpus=3, object_store_memory=80 * 2**20)
    try:
        for cpus, workers, expected in ((1.0, None, 4), (2.0, None, 1), (0.5, 5, 5)):
            with RayExecutor.running(
                Store(tmp_path),
                address=cluster.address,
                workers=workers,
                resources=Resources(cpus=cpus),
            ) as executor:
                # Of two processors for each worker only the larger node has room, once. A node that
                # another test took away is missed after some seconds.
                _wait(lambda: executor.slots == expected)  # noqa: B023
    finally:
        cluster.remove_node(more, allow_graceful=False)


def test_no_cluster_at_an_address_is_one_message(tmp_path):
    with (
        pytest.raises(
            ConnectionError, match=r"no Ray cluster answers at '127.0.0.1:1' .* leave --address out"
        ),
        RayExecutor.running(
            Store(tmp_path), address="127.0.0.1:1", workers=1, resources=Resources()
        ),
    ):
        pass


def test_without_ray_the_message_says_what_to_install(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "ray.util.scheduling_strategies", raising=False)
    with pytest.raises(RayMissing, match=r"needs Ray: pip install -e '.\[cluster\]'"):
        on_ray.RayExecutor(
            Store(tmp_path), address=None, workers=1, resources=engine_of("ray").resources
        )

"""Several processes of this machine that train one network."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from comparisons.cells.cell import Cell
from comparisons.engines.ranks import RankLost, run_in_ranks
from comparisons.engines.resources import Resources
from comparisons.engines.select import Engine
from comparisons.runs.session import RunError
from evaluation.storage.store import Store

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore::UserWarning")]


@pytest.fixture
def plan_of_ranks(mortal, make_tiny_plan):
    plan = make_tiny_plan("centre")
    return replace(
        plan,
        model=f"{mortal}/mortal.py:network",
        modes=("roar",),
        mask_only=(),
        recipe=replace(plan.recipe, ranks=2),
    )


@pytest.mark.slow
def test_ranks_that_are_lost_change_nothing(mortal, plan_of_ranks, tmp_path, run_on):
    whole, disturbed = tmp_path / "whole", tmp_path / "disturbed"
    run_on(plan_of_ranks, whole, Engine(workers=2))
    (mortal / "kill-0").touch()  # whichever rank is first at its second step
    run_on(plan_of_ranks, disturbed, Engine(workers=2))
    assert not (mortal / "kill-0").exists()
    expected = {result.id: result for result in Store(whole).results()}
    found = {result.id: result for result in Store(disturbed).results()}
    assert found.keys() == expected.keys()
    for name, result in found.items():
        assert result.hashes == expected[name].hashes
        assert result.correct == expected[name].correct
    trained = [result for result in found.values() if result.kind in ("base", "retrain")]
    assert {result.spec["recipe"]["ranks"] for result in trained} == {2}


@pytest.mark.slow
def test_a_rank_that_fails_says_why(mortal, plan_of_ranks, tmp_path, run_on):
    (mortal / "rank-1-fails").touch()
    with pytest.raises(RunError, match=r"rank 1 failed: .*too much for this rank"):
        run_on(plan_of_ranks, tmp_path / "run", Engine(workers=2))


ROOT = Path(__file__).parents[3]


class _Killer:
    """Kills the first process that appears below this one, at a depth, as soon as it is there."""

    def __init__(self, depth: int) -> None:
        self.killed: int | None = None
        self._depth, self._ended = depth, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while self.killed is None and not self._ended.is_set():
            generation = [psutil.Process()]
            try:
                for _ in range(self._depth):
                    generation = [child for each in generation for child in each.children()]
                    generation = [
                        each for each in generation if "spawn_main" in str(each.cmdline())
                    ]
                for each in generation:
                    os.kill(each.pid, signal.SIGKILL)
                    self.killed = each.pid
            except (psutil.NoSuchProcess, ProcessLookupError):
                pass
            time.sleep(0.01)

    def __enter__(self) -> _Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def _of_ranks() -> Cell:
    return Cell("base", {"model": "resnet9", "data": "none", "seed": 0, "recipe": {"ranks": 2}})


def test_a_rank_that_is_killed_as_soon_as_it_starts_is_noticed_at_once(tmp_path):
    store = Store(tmp_path)
    started = time.monotonic()
    with (
        _Killer(1) as killer,
        pytest.raises(RankLost, match="rank 1 was killed by signal 9"),
    ):
        run_in_ranks(_of_ranks(), store, Resources("cpu", 1, 1000, cpus=1.0), [None])
    assert killer.killed is not None
    assert time.monotonic() - started < 30  # it was half an hour
    (said,) = store.notes.new()
    assert said.startswith("rank 1 was killed by signal 9: all ranks of base cell")


_GONE = """
import os, signal, sys
from comparisons.cells.cell import Cell
from comparisons.engines import ranks
from comparisons.engines.resources import Resources
from evaluation.storage.store import Store
from torch.distributed import FileStore

def gone(cell, store, resources, rank, gpus, folder):
    # It says that it is here, and is gone before the ranks meet.
    FileStore(str(folder / "rendezvous"), 2).set(ranks._here(rank), "")
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    ranks._take_part, ranks._SECONDS_TO_END = gone, 0.5
    cell = Cell("base", {"model": "resnet9", "data": "none", "seed": 0, "recipe": {"ranks": 2}})
    ranks.run_in_ranks(cell, Store(sys.argv[1]), Resources("cpu", 1, 1000, cpus=1.0), [None])
"""


@pytest.mark.heavy
def test_a_rank_that_is_gone_before_the_ranks_meet_ends_the_first_too(tmp_path):
    script = tmp_path / "gone.py"
    script.write_text(_GONE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), str(tmp_path / "run")]
    ended = subprocess.run(command, env=environment, timeout=120, check=False)
    assert ended.returncode != 0
    (said,) = Store(tmp_path / "run").notes.new()
    assert "rank 1" in said
    assert "all ranks" in said


@pytest.mark.slow
def test_a_run_goes_on_though_a_rank_was_killed_as_soon_as_it_started(
    plan_of_ranks, tmp_path, run_on
):
    whole, disturbed = tmp_path / "whole", tmp_path / "disturbed"
    run_on(plan_of_ranks, whole, Engine(workers=2))
    with _Killer(2) as killer:
        said = run_on(plan_of_ranks, disturbed, Engine(workers=2))
    assert killer.killed is not None
    assert "rank 1 was killed by signal 9: all ranks of base cell" in said
    expected = {result.id: result.hashes for result in Store(whole).results()}
    assert {result.id: result.hashes for result in Store(disturbed).results()} == expected

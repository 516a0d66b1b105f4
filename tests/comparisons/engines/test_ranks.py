"""Several processes of this machine that train one network."""

from __future__ import annotations

from dataclasses import replace

import pytest

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

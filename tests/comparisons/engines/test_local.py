"""Worker processes of this machine: one that dies, GPUs shared out, and who holds a directory."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace

import pytest

from comparisons.engines import local
from comparisons.engines.resources import Resources
from comparisons.engines.select import Engine, engine_of, in_ranks
from comparisons.runs.session import RunError, working_in
from evaluation.storage.store import Store
from evaluation.training.recipe import Recipe

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore::UserWarning")]
# Cells that build the network in a worker, each once: trainings, and what explains them.
_BUILD = ("base", "maps", "retrain", "mask_only", "profile")


@pytest.mark.slow
def test_a_worker_that_dies_takes_nothing_along(mortal, tmp_path, make_tiny_plan, run_on):
    model = f"{mortal}/mortal.py:network"
    plan = replace(make_tiny_plan("centre"), model=model, modes=("roar",), mask_only=())
    whole, disturbed = tmp_path / "whole", tmp_path / "disturbed"
    run_on(plan, whole, Engine(workers=1))
    undisturbed = (mortal / "built").read_text().splitlines()
    (mortal / "built").unlink()
    for number in range(2):
        (mortal / f"kill-{number}").touch()
    run_on(plan, disturbed, Engine(workers=2))
    assert not list(mortal.glob("kill-*"))
    expected = {result.id: result for result in Store(whole).results()}
    found = {result.id: result for result in Store(disturbed).results()}
    assert found.keys() == expected.keys()
    for name, result in found.items():
        assert result.hashes == expected[name].hashes
        assert result.correct == expected[name].correct
    # Each cell once, and once more for each worker that died in the middle of one.
    built = (mortal / "built").read_text().splitlines()
    kinds = Counter(result.kind for result in expected.values())
    assert len(undisturbed) == sum(kinds[kind] for kind in _BUILD)
    assert len(built) == len(undisturbed) + 2


def test_a_cell_whose_workers_all_die_fails_and_the_others_go_on(
    mortal, tmp_path, make_tiny_plan, run_on, monkeypatch
):
    monkeypatch.setattr(local, "RETRIES", 1)
    (mortal / "always").touch()
    plan = replace(make_tiny_plan("centre"), model=f"{mortal}/mortal.py:network")
    with pytest.raises(RunError) as caught:
        run_on(plan, tmp_path / "run", Engine(workers=1))
    message = str(caught.value)
    died = "WorkerLost: its worker process died 2 times (killed, or out of memory?)"
    assert f"unmasked, seed 0: {died}" in message
    assert len((mortal / "built").read_text().splitlines()) == 2
    assert {result.kind for result in Store(tmp_path / "run").results()} == {"data"}


def test_the_second_driver_is_told_who_is_first(tmp_path):
    with working_in(tmp_path):
        who = json.loads((tmp_path / ".lock-holder.json").read_text())
        assert who["process"] == os.getpid()
        told = rf"another run is working in .* \(process {os.getpid()} on {who['host']}, since "
        with pytest.raises(RunError, match=told), working_in(tmp_path):
            pass
    with working_in(tmp_path):
        pass
    assert not (tmp_path / ".lock-holder.json").exists()


def test_workers_share_the_gpus_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    whole = Resources(device="cuda", gpus=1.0)
    assert [whole.visible_gpus(slot) for slot in range(3)] == ["2", "5", "7"]
    half = Resources(device="cuda", gpus=0.5, cpus=0.01)
    assert [half.visible_gpus(slot) for slot in range(6)] == ["2", "2", "5", "5", "7", "7"]
    assert half.workers_here() == 6
    assert Resources().visible_gpus(0) is None
    assert Resources(device="cuda:1").visible_gpus(0) is None


def test_a_cell_has_what_its_ranks_share():
    engine = engine_of("ray", device="cuda", gpus_per_cell=4.0, cpus_per_cell=16.0, ranks=4)
    assert (engine.resources.gpus, engine.resources.cpus) == (1.0, 4.0)
    assert engine_of("local", device="cuda", gpus_per_cell=0.5).resources.gpus == 0.5
    with pytest.raises(ValueError, match=r"--gpus-per-cell 3 with --ranks 2: expected a whole"):
        in_ranks(Recipe(ranks=2), 3.0)
    with pytest.raises(ValueError, match=r"--gpus-per-cell 1 for 2 ranks: expected a GPU for each"):
        engine_of("ray", device="cuda", gpus_per_cell=1.0, ranks=2)
    with pytest.raises(ValueError, match=r"a training of 2 ranks does not fit into 1 worker: give"):
        engine_of("local", workers=1, ranks=2)

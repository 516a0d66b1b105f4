"""Cells that are interrupted again and again, beside the same cells without an interruption."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from comparisons.cells import measures
from comparisons.cells.cell import Cell
from comparisons.cells.run import run_cell
from comparisons.engines.engine import execute
from comparisons.graph.nodes import build_nodes
from evaluation.masking.variants import Variant, crossfitted
from evaluation.storage.checkpoint import Checkpoint
from evaluation.storage.store import Store

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]

INTERRUPTIONS = 2
TRAININGS = {"base", "retrain", "mask_only", "fold", "permuted", "fine_tuned"}


class Interrupted(Exception):
    """The end of a worker, just after a checkpoint was written."""


@pytest.fixture(scope="module")
def nodes(make_tiny_plan):
    plan = replace(
        make_tiny_plan("centre", "gradient-sgsq"),
        measures=("road", "weights", "labels", "localisation", "descriptions", "f-fidelity"),
        measure_images=24,
        modes=("roar",),
        variants=(Variant(target_from=crossfitted(2)),),
    )
    return build_nodes(plan, train_images=64, test_images=32)


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as monkeypatch:
        # Three parts of the images a measure.
        monkeypatch.setattr(measures, "_PIXELS_AT_ONCE", 8 * 16 * 16)
        yield monkeypatch


@pytest.fixture(scope="module")
def whole(nodes, patch, tmp_path_factory, inline_executor):
    store = Store(tmp_path_factory.mktemp("whole"))
    return _results(execute(nodes, store, inline_executor(store)))


@pytest.fixture(scope="module")
def interrupted(nodes, whole, patch, tmp_path_factory, inline_executor):
    """The store, its results, and how often each kind of cell was interrupted."""
    store, saved = Store(tmp_path_factory.mktemp("interrupted")), Counter()
    save = Checkpoint.save

    def save_and_end(self, *state):
        save(self, *state)
        saved[self._path] += 1
        if saved[self._path] <= INTERRUPTIONS:
            raise Interrupted

    patch.setattr(Checkpoint, "due", True)
    patch.setattr(Checkpoint, "save", save_and_end)
    kinds: Counter[str] = Counter()

    class Executor(inline_executor):
        def submit(self, cell):
            while True:
                try:
                    run_cell(cell, store)
                except Interrupted:
                    kinds[cell.kind] += 1
                else:
                    return super().submit(cell)

    return store, _results(execute(nodes, store, Executor(store))), kinds


def _results(events):
    return {event.node.name: event.result for event in events if event.kind == "finished"}


def test_every_kind_that_takes_long_was_interrupted(whole, interrupted):
    expected = Counter(result.kind for result in whole.values())
    assert expected.keys() > TRAININGS
    _, _, kinds = interrupted
    for kind in (*TRAININGS, "measure"):
        assert kinds[kind] == INTERRUPTIONS * expected[kind], kind


def test_results_are_those_of_cells_that_were_not(whole, interrupted):
    _, found, _ = interrupted
    assert found.keys() == whole.keys()
    for name, result in whole.items():
        other = found[name]
        assert other.id == result.id
        assert other.hashes == result.hashes, name
        assert other.correct == result.correct, name
        assert _untimed(other.records) == _untimed(result.records), name
        for entry, expected in zip(other.history, result.history, strict=True):
            assert _without_seconds(entry) == _without_seconds(expected), name


def _untimed(records):
    return [record for record in records if not record.timed]


def _without_seconds(entry):
    return {name: value for name, value in entry.items() if "seconds" not in name}


def test_seconds_are_those_of_all_starts(interrupted):
    _, found, _ = interrupted
    for result in found.values():
        if result.kind in TRAININGS:
            assert result.seconds > sum(entry["seconds"] for entry in result.history) > 0


def test_checkpoints_go_when_their_cells_are_done(interrupted):
    store, _, _ = interrupted
    assert store.listed("unfinished", ".pt") == []


def test_the_run_says_how_far_its_cells_are(interrupted):
    store, _, _ = interrupted
    said = store.notes.new()
    for title in (
        "unmasked, seed 0",
        "gradient-sgsq, roar 50 %, seed 0",
        "centre, mask only, roar 50 %, seed 0",
        "road of gradient-sgsq, seed 0",
    ):
        own = [sentence for sentence in said if sentence.startswith(f"{title}: ")]
        assert any("goes on after" in sentence for sentence in own), title
        assert all(" % in 0 min" in sentence for sentence in own), title


def test_cells_are_called_as_in_the_plan(nodes, whole):
    """Up to the words of variants and of what a network was fine-tuned for."""
    called = {name: Cell(result.kind, result.spec).title for name, result in whole.items()}
    kinds = {"base", "retrain", "mask_only", "measure", "permuted"}
    same = {name for name in called if whole[name].kind in kinds and "[" not in name}
    assert len(same) > 12
    assert {name: called[name] for name in same} == {name: name for name in same}


def test_a_damaged_checkpoint_is_set_aside_and_the_cell_starts_again(interrupted, whole):
    result = whole["unmasked, seed 0"]
    store, _, _ = interrupted
    path = store.root / "unfinished" / f"{result.id}.pt"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"not a checkpoint")
    store.cell(result.id).unlink()
    again = run_cell(Cell(result.kind, result.spec), store)
    assert again.hashes == result.hashes
    assert (store.root / "set-aside" / "unfinished" / path.name).read_bytes() == b"not a checkpoint"
    assert not path.exists()

"""Measures of one method in one process, which take the maps that the first of them made."""

from __future__ import annotations

from dataclasses import replace

import pytest

from comparisons.cells import measures
from comparisons.cells.cell import Cell
from comparisons.cells.run import run_cell
from comparisons.engines.engine import execute
from comparisons.graph.nodes import build_nodes
from comparisons.methods import METHODS
from evaluation.storage.store import Store

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]

IMAGES, PART = 24, 8
MEASURES = ("road", "localisation", "descriptions")


@pytest.fixture(scope="module")
def run(make_tiny_plan, tmp_path_factory, inline_executor):
    """The store of a run of two methods, and its measures by name, each without maps of another."""
    plan = replace(
        make_tiny_plan("gradient", "smoe-linear"),
        measures=MEASURES,
        measure_images=IMAGES,
        modes=(),
        mask_only=(),
    )
    store = Store(tmp_path_factory.mktemp("run"))
    nodes = build_nodes(plan, train_images=64, test_images=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "_PIXELS_AT_ONCE", PART * 16 * 16)
        patch.setattr(measures, "memory_budget_bytes", lambda: 0)
        events = list(execute(nodes, store, inline_executor(store)))
        yield store, {event.node.name: event.result for event in events if event.result}


@pytest.fixture
def explained(monkeypatch):
    """The methods that were asked for maps, once for each part of the images."""
    asked: list[str] = []
    measures._MAPS.clear()
    for name in ("gradient", "smoe-linear"):
        method = METHODS[name]

        def prepare(model, method=method, name=name):
            explain = method.prepare(model)

            def counted(batch):
                asked.append(name)
                return explain(batch)

            return counted

        monkeypatch.setitem(METHODS, name, replace(method, prepare=prepare))
    yield asked
    measures._MAPS.clear()


def _taken_again(run, names):
    store, results = run
    for name in names:
        result = results[name]
        store.cell(result.id).unlink()
        again = run_cell(Cell(result.kind, result.spec), store)
        assert again.history == result.history
        assert [record.value for record in again.records] == [
            record.value for record in result.records
        ]


@pytest.mark.parametrize(
    ("mib", "times"),
    [(512, 1), (0, len(MEASURES)), (PART * 16 * 16 * 4 / 2**20, 1 / 3 + len(MEASURES) * 2 / 3)],
    ids=["all maps fit", "none fits", "those of one part fit"],
)
def test_maps_are_made_once_where_they_fit(run, explained, monkeypatch, mib, times):
    monkeypatch.setattr(measures, "memory_budget_bytes", lambda: int(mib * 2**20))
    _taken_again(run, [f"{measure} of gradient, seed 0" for measure in MEASURES])
    assert explained.count("gradient") == round(times * IMAGES / PART)


def test_another_method_has_maps_of_its_own(run, explained, monkeypatch):
    monkeypatch.setattr(measures, "memory_budget_bytes", lambda: 2**29)
    turns = ("gradient", "smoe-linear", "gradient")
    _taken_again(
        run, [f"{measure} of {name}, seed 0" for name, measure in zip(turns, MEASURES, strict=True)]
    )
    assert explained == [name for name in turns for _ in range(IMAGES // PART)]
    assert len(measures._MAPS) == 1

"""Ids of recorded cells: no move and no rename of Python may change one.

``recorded_ids.json`` has the id of every cell of four plans as it was before the code moved into
folders, with the name people knew it by. Each node is made from results whose hashes are words, so
that nothing is trained. A change that means other results raises ``CODE_VERSION``, and the list is
written anew in the same commit:
``PYTHONPATH=. python tests/comparisons/graph/test_recorded_ids.py``
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from comparisons.cli.plan_options import _plan
from comparisons.graph.costs import build_cost_cells
from comparisons.graph.layers import Layers, build_layer_nodes
from comparisons.graph.nodes import Node, build_nodes
from comparisons.plans.costs import CostPlan
from comparisons.plans.layers import LayersPlan
from evaluation.storage.archive import RunArchive

ROOT = Path(__file__).parents[3]
RECORDED = Path(__file__).with_name("recorded_ids.json")
RECORDED_RUNS = sorted(path.parent for path in (ROOT / "reports" / "runs").glob("*/cells.zip"))


class _Hashes(dict[str, str]):
    """A word for each hash that is asked for: the cell's id and what the hash is of."""

    def __init__(self, cell: str) -> None:
        super().__init__()
        self._cell = cell

    def __missing__(self, name: str) -> str:
        return f"{name} of {self._cell}"


def _finished(nodes: Iterable[Node]) -> dict[str, str]:
    """The id of each node's cell, every node it needs finished before it."""
    left = {node.name: node for node in nodes}
    done: dict[str, Any] = {}
    while left:
        ready = [node for node in left.values() if all(name in done for name in node.needs)]
        assert ready, f"nodes that wait for each other: {', '.join(left)}"
        for node in ready:
            cell = node.make(done)
            done[node.name] = SimpleNamespace(id=cell.id, hashes=_Hashes(cell.id))
            del left[node.name]
    return {result.id: name for name, result in sorted(done.items())}


def _preset(name: str, **options: Any) -> dict[str, str]:
    # The precision that the ids were recorded with; not every machine takes it by itself.
    plan = _plan(preset=name, device="cpu", precision="bfloat16", **options)
    return _finished(build_nodes(plan, train_images=320, test_images=80))


def _layers() -> dict[str, str]:
    plan = LayersPlan("shapes", "resnet9", ("smoe_scale", "mean"), seeds=(0, 1))
    layers = Layers(("stem", "layer1", "layer2"), (16384, 8192, 4096), (3.0, 2.0, 1.0), 4.0)
    labels = np.zeros(80, np.int64)
    dataset: Any = SimpleNamespace(
        train=SimpleNamespace(labels=labels), test=SimpleNamespace(labels=labels)
    )
    return _finished(build_layer_nodes(plan, layers, dataset))


def _profile() -> dict[str, str]:
    methods = ("smoe-linear", "fastcam", "gradient", "gradient-sgsq", "captum-layer-gradcam")
    plan = CostPlan(("resnet18", "resnet50"), methods, precisions=("float32", "bfloat16"))
    return {cell.id: name for name, cell in build_cost_cells(plan)}


PLANS = {
    "smoke": lambda: _preset("smoke"),
    # As the preset was when the ids were recorded.
    "quick": lambda: _preset("quick", fractions="10,50,90", train_images=2000),
    "layers": _layers,
    "profile": _profile,
}


@pytest.mark.parametrize("plan", PLANS)
def test_ids_are_those_recorded(plan):
    assert PLANS[plan]().keys() == json.loads(RECORDED.read_text())[plan].keys()


@pytest.mark.parametrize("run", RECORDED_RUNS, ids=lambda path: path.name)
def test_cells_of_recorded_runs_have_the_ids_of_what_they_say(run):
    from comparisons.cells.cell import Cell

    results = RunArchive(run).results()
    assert results
    for result in results:
        assert Cell(result.kind, result.spec).id == result.id


if __name__ == "__main__":
    found = {name: make() for name, make in PLANS.items()}
    RECORDED.write_text(json.dumps(found, indent=1) + "\n")

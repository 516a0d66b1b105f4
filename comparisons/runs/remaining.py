"""The unfinished cells of a run, and the artefacts that they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

import numpy as np

from comparisons.cells.maps import whole_of
from comparisons.graph.layers import Layers, build_layer_nodes
from comparisons.graph.nodes import Node, build_nodes
from comparisons.plans.layers import LayersPlan
from comparisons.plans.plan import Plan
from comparisons.runs.plan_on_disk import PlanOnDisk
from evaluation.datasets.dataset import SPLITS, Dataset, Split
from evaluation.storage.archive import RunFolder
from evaluation.storage.records import CellResult

__all__ = ["Remaining"]


@dataclass(frozen=True)
class Remaining:
    """The unfinished cells of a run, and the artefacts that they read.

    Args:
        count: number of unfinished cells of the plan; None if it is unknown.
        networks: ids of finished cells whose networks or predictions are read, directly or to make
            again what is.
        maps: ids of cells whose levels are read, or made in part.
    """

    count: int | None
    networks: frozenset[str] = frozenset()
    maps: frozenset[str] = frozenset()

    @classmethod
    def of(cls, plan: PlanOnDisk, results: Sequence[CellResult], files: RunFolder) -> Remaining:
        """Compare the nodes of a plan with the finished cells."""
        if plan.kind == "profile":  # its cells read nothing of each other
            return cls(None)
        finished = {result.id: result for result in results}
        try:
            return cls._among(_nodes(plan, results, files), finished)
        except (OSError, ValueError, TypeError, KeyError):
            # A file of weights or a method is missing, or the code has changed: keep everything.
            every = frozenset(finished)
            return cls(None, every, every)

    @classmethod
    def _among(cls, nodes: list[Node], finished: Mapping[str, CellResult]) -> Remaining:
        by_name = {node.name: node for node in nodes}
        done: dict[str, CellResult] = {}
        left: list[Node] = []
        maps: set[str] = set()
        graph = {node.name: node.needs for node in nodes}
        for name in TopologicalSorter(graph).static_order():
            node = by_name[name]
            cell = node.make(done) if all(need in done for need in node.needs) else None
            if cell is not None and cell.id in finished:
                done[name] = finished[cell.id]
                continue
            left.append(node)
            maps |= {done[need].id for need in node.needs if need in done}
            if cell is not None and cell.kind in ("maps", "part"):
                maps.add(whole_of(cell).id)
        networks: set[str] = set()
        seen: set[str] = set()
        queue = [need for node in left for need in node.needs]
        while queue:
            name = queue.pop()
            if name not in seen:
                seen.add(name)
                queue += by_name[name].needs
                networks |= {done[name].id} if name in done else set()
        return cls(len(left), frozenset(networks), frozenset(maps))


def _nodes(plan: PlanOnDisk, results: Sequence[CellResult], files: RunFolder) -> list[Node]:
    options = plan.content["plan"]
    facts: Mapping[str, Any] = {}
    for result in results:
        facts = (result.kind == "data" and files.image_facts(result.id)) or facts
    train, test = (int(facts.get(f, options.get(f"{f}_images") or 0)) for f in SPLITS)
    if plan.kind == "run":
        return build_nodes(Plan.from_json(options), train_images=train, test_images=test)
    names = tuple(plan.content["layers"])
    # Names are enough: times and sizes do not enter specifications.
    layers = Layers(names, (0,) * len(names), (0.0,) * len(names), 0.0)
    dataset = Dataset(str(options["data"]), (), _counted(train), _counted(test))
    return build_layer_nodes(LayersPlan.from_json(options), layers, dataset)


def _counted(images: int) -> Split:
    return Split(np.empty((0, 0, 0, 3), np.uint8), np.zeros(images, np.int64))

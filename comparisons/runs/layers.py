"""Runs that mask the scales inside a network."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from comparisons.engines.engine import Executor
from comparisons.engines.select import Engine
from comparisons.graph.layers import Layers, build_layer_nodes, probe_layers
from comparisons.graph.nodes import Node
from comparisons.plans.layers import LayersPlan
from comparisons.runs.engine_run import EngineRun
from comparisons.runs.plan_on_disk import keep_plan
from comparisons.runs.prior import write_prior
from evaluation.datasets.dataset import Dataset
from evaluation.layers.layer_arrays import RANDOM
from fastsal.statistics.registry import STATISTICS
from reports.formatting import counted, duration
from reports.paper import TITLES

__all__ = ["run_layers"]


def run_layers(
    plan: LayersPlan,
    out: Path,
    *,
    weights_out: Path | None,
    log_base: float | None,
    engine: Engine,
    command: str,
    console: Console,
    source: Path | None = None,
) -> Path:
    """Run the cells of a plan that are not done yet; write the report and, if asked, weights.

    Args:
        plan: the options.
        out: directory of the run.
        weights_out: file that gets one weight a scale; None for none.
        log_base: base of the information score's logarithm; None for e.
        engine: runs the cells.
        command: the command line, for the record.
        console: gets the messages.
        source: an archive whose cells are taken up; None for none.

    Returns:
        The report's path.

    Raises:
        RunError: another run is working in `out`, `out` belongs to a different plan, or some
            cells failed; what is finished stays.
        evaluation.datasets.dataset.DatasetError: the images cannot be used.
        ValueError: the network cannot be used, or no weights come out of the run.
    """
    run = _LayersRun(plan, out, engine, command, console, None, source, weights_out, log_base)
    return run.run()


@dataclass
class _LayersRun(EngineRun[LayersPlan]):
    weights_out: Path | None = None
    log_base: float | None = None
    layers: Layers = field(init=False)

    def nodes(self, dataset: Dataset) -> list[Node]:
        self.layers = probe_layers(self.plan, dataset)
        # Kept after the checks: a mistyped option must not claim the folder.
        keep_plan(
            self.out,
            {
                "kind": "layers",
                "plan": asdict(self.plan),
                "layers": self.layers.names,
                "methods": {name: _described(name) for name in (RANDOM, *self.plan.statistics)},
                "log_base": self.log_base,
                "command": self.command,
            },
        )
        return build_layer_nodes(self.plan, self.layers, dataset)

    def announce(self, nodes: list[Node], dataset: Dataset, executor: Executor) -> None:
        trainings = sum(node.stage == "tune" for node in nodes)
        networks = sum(node.stage == "activations" for node in nodes)
        count = len(dataset.train.labels)
        tuned = min(self.plan.tuning_images or count, count)
        kept = networks * (tuned + len(dataset.test.labels)) * 4 * sum(self.layers.numbers)
        seconds = 1e-6 * sum(node.passes for node in nodes) / executor.slots
        self.console.print(
            f"Plan: {counted(networks, 'network')}, {counted(trainings, 'fine-tuning')} at "
            f"{', '.join(self.layers.names)}; {kept / 2**20:,.0f} MiB of activations; about "
            f"{duration(seconds)} with {counted(executor.slots, 'worker')}, less what is done "
            "already",
            soft_wrap=True,
            markup=False,
        )

    def finish(self) -> None:
        if self.weights_out is not None:
            results = list(self.store.results())
            write_prior(self.weights_out, results, self.plan, self.layers.names)
            self.console.print(f"Weights: {self.weights_out}", soft_wrap=True, markup=False)
        # Activations are most of a run's disk, and one pass over the images makes them again.
        removed = self.store.remove_activations()
        if removed:
            self.console.print(f"Removed {removed / 2**20:,.0f} MiB of activations", soft_wrap=True)


def _described(name: str) -> dict[str, Any]:
    control = name == RANDOM
    return {
        "title": TITLES.get(name, name.replace("_", " ")),
        "citation": "" if control else STATISTICS[name].citation,
        "parameters": {},
        "group": "control" if control else "smoe",
    }

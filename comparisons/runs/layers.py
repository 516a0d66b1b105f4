"""One run inside the network: what is said before and after it, and what keeps it whole."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

import reports
from comparisons.engines.select import Engine
from comparisons.graph.layers import Layers, build_layer_nodes, look_at
from comparisons.graph.nodes import Node
from comparisons.graph.specs import data_cell
from comparisons.plans.layers import LayersPlan
from comparisons.runs.archive import take_up
from comparisons.runs.prior import write_prior
from comparisons.runs.session import RunError, kept_plan, run_nodes, staged, told, working_in
from evaluation.datasets.dataset import Dataset
from evaluation.layers.layer_arrays import RANDOM
from evaluation.storage.store import Store, write_atomically
from fastsal.statistics.registry import STATISTICS
from reports.formatting import duration
from reports.paper import TITLES

__all__ = ["run_layers"]

_KIND = "layers"


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
    """Run what is not done yet of a plan; write the report, and weights where they are asked for.

    Args:
        plan: the options.
        out: directory of the run.
        weights_out: file that gets one weight a scale; None for none.
        log_base: base of the information score's logarithm; None for e.
        engine: where cells run, and what each worker has.
        command: what was typed, for the record.
        console: where to say what happens.
        source: an archive whose cells are taken up; None for none.

    Returns:
        The report's path.

    Raises:
        RunError: another run is working in `out`, `out` belongs to a different plan, or some
            cells failed; what is finished stays.
        evaluation.datasets.dataset.DatasetError: the images cannot be used.
        ValueError: the network cannot be used, or no weights come out of the run.
    """
    store = Store(out)
    with working_in(out):
        _refuse_another_plan(plan, out)
        if source is not None:
            take_up(source, out, plan)
        console.print(f"Images: {plan.data}", soft_wrap=True, markup=False)
        dataset = staged(data_cell(plan), store, console)
        layers = look_at(plan, dataset)
        # Only now: a mistyped option must not keep the directory from the corrected one.
        _keep_plan(plan, layers, out, command, log_base)
        nodes = build_layer_nodes(plan, layers, dataset)
        with engine.running(store) as executor:
            console.print(executor.about(), soft_wrap=True, markup=False)
            _announce(plan, layers, nodes, dataset, executor.slots, console)
            failures = run_nodes(nodes, store, executor, console)
        report = reports.build(out)
        if failures:
            raise RunError(told(failures, report))
        if weights_out is not None:
            write_prior(weights_out, list(store.results()), plan, layers.names)
            console.print(f"Weights: {weights_out}", soft_wrap=True, markup=False)
        # By far the most of a run's disk, and one pass over the images makes them again.
        removed = store.remove_activations()
        if removed:
            console.print(f"Removed {removed / 2**20:,.0f} MiB of activations", soft_wrap=True)
    return report


def _announce(
    plan: LayersPlan,
    layers: Layers,
    nodes: list[Node],
    dataset: Dataset,
    workers: int,
    console: Console,
) -> None:
    trainings = sum(node.stage == "tune" for node in nodes)
    networks = sum(node.stage == "activations" for node in nodes)
    count = len(dataset.train.labels)
    tuned = min(plan.tuning_images or count, count)
    kept = networks * (tuned + len(dataset.test.labels)) * 4 * sum(layers.numbers)
    seconds = 1e-6 * sum(node.passes for node in nodes) / workers
    console.print(
        f"Plan: {networks} network{'s' if networks > 1 else ''}, {trainings} fine-tunings at "
        f"{', '.join(layers.names)}; {kept / 2**20:,.0f} MiB of activations; about "
        f"{duration(seconds)} with {workers} workers, less what is done already",
        soft_wrap=True,
        markup=False,
    )


def _refuse_another_plan(plan: LayersPlan, out: Path) -> None:
    before = kept_plan(out, _KIND)
    if before is None:
        return
    changed = LayersPlan.from_json(before["plan"]).conflicts(plan)
    if changed:
        raise RunError(
            f"{out} holds a run with another {', '.join(changed)}: give another --out, or "
            "the same options to continue it"
        )


def _keep_plan(
    plan: LayersPlan, layers: Layers, out: Path, command: str, log_base: float | None
) -> None:
    content = {
        "kind": _KIND,
        "plan": asdict(plan),
        "layers": layers.names,
        "methods": {name: _described(name) for name in (RANDOM, *plan.statistics)},
        "log_base": log_base,
        "command": command,
    }
    text = json.dumps(content, indent=1).encode()
    write_atomically(out / "plan.json", lambda file: file.write(text))


def _described(name: str) -> dict[str, Any]:
    control = name == RANDOM
    return {
        "title": TITLES.get(name, name.replace("_", " ")),
        "citation": "" if control else STATISTICS[name].citation,
        "parameters": {},
        "group": "control" if control else "smoe",
    }

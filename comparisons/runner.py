"""One run of a plan: what is said before, during and after it, and what keeps it whole."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

import reports
from comparisons.budget import set_memory_budget
from comparisons.engines import Engine
from comparisons.estimate import Estimate, estimate
from comparisons.graph import Node, build_nodes
from comparisons.methods import METHODS
from comparisons.plan import Plan
from comparisons.session import (
    RunError,
    kept_plan,
    run_nodes,
    staged,
    told,
    working_in,
)
from comparisons.specs import data_cell
from evaluation.images import Dataset
from evaluation.networks import build_network
from evaluation.store import Store, write_atomically
from reports.formatting import duration

__all__ = ["RunError", "run_plan"]


def run_plan(
    plan: Plan,
    out: Path,
    *,
    engine: Engine,
    command: str,
    console: Console,
    scratch: Path | None = None,
) -> Path:
    """Run what is not done yet of a plan, and write the report.

    Args:
        plan: the options.
        out: directory of the run.
        engine: where cells run, and what each worker has.
        command: what was typed, for the record.
        console: where to say what happens.
        scratch: folder on each machine's own disk for what trainings read; None for `out` itself.

    Returns:
        The report's path.

    Raises:
        RunError: another run is working in `out`, `out` belongs to a different plan, or some
            cells failed; what is finished stays.
        evaluation.images.DatasetError: the images cannot be used.
        ValueError: the network cannot be used.
    """
    set_memory_budget(engine.resources.memory_budget_mib)
    store = Store(out, scratch)
    with working_in(out):
        _refuse_another_plan(plan, out)
        weights = plan.given_weights
        console.print(f"Images: {plan.data}", soft_wrap=True, markup=False)
        dataset = staged(data_cell(plan), store, console)
        for skipped in dataset.skipped:
            console.print(f"  skipped {skipped.path}: {skipped.why}", soft_wrap=True, markup=False)
        build_network(plan.model, len(dataset.classes), 0, size=dataset.size)
        if weights is not None:
            weights.check_classes(len(dataset.classes))
        # Only now: a mistyped option must not keep the directory from the corrected one.
        _keep_plan(plan, out, command)
        nodes = build_nodes(
            plan,
            train_images=len(dataset.train.labels),
            test_images=len(dataset.test.labels),
        )
        with engine.running(store) as executor:
            workers = executor.slots
            console.print(executor.about(), soft_wrap=True, markup=False)
            _announce(_estimate(plan, nodes, dataset, workers), workers, console)
            failures = run_nodes(nodes, store, executor, console)
        report = reports.build(out)
    if failures:
        raise RunError(told(failures, report))
    return report


def _estimate(plan: Plan, nodes: list[Node], dataset: Dataset, workers: int) -> Estimate:
    return estimate(
        plan,
        nodes,
        classes=len(dataset.classes),
        size=dataset.size,
        images=len(dataset.train.labels) + len(dataset.test.labels),
        workers=workers,
    )


def _announce(cost: Estimate, workers: int, console: Console) -> None:
    console.print(
        f"Plan: {cost.trainings} trainings ({cost.training_images:,} images through the network), "
        f"{cost.attribution_passes:,} attribution passes, {cost.disk_bytes / 2**20:,.0f} MiB of "
        f"disk; about {duration(cost.seconds)} with {workers} workers, less what is done already",
        soft_wrap=True,
    )
    if cost.seconds > 3600:
        console.print(
            "[bold]This needs hours.[/] It can be stopped with Ctrl-C at any time; the same "
            "command continues. Fewer --methods, --fractions, --seeds or --epochs take less.",
            soft_wrap=True,
        )


def _refuse_another_plan(plan: Plan, out: Path) -> None:
    before = kept_plan(out, "run")
    if before is None:
        return
    changed = Plan.from_json(before["plan"]).conflicts(plan)
    if changed:
        raise RunError(
            f"{out} holds a run with another {', '.join(changed)}: give another --out, or "
            "the same options to continue it"
        )


def _keep_plan(plan: Plan, out: Path, command: str) -> None:
    methods = {
        name: {
            "title": METHODS[name].title,
            "citation": METHODS[name].citation,
            "parameters": dict(METHODS[name].parameters),
            "group": METHODS[name].group,
        }
        for name in plan.methods
    }
    content: dict[str, Any] = {"plan": asdict(plan), "command": command, "methods": methods}
    text = json.dumps(content, indent=1).encode()
    write_atomically(out / "plan.json", lambda file: file.write(text))

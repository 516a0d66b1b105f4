"""One run of a plan: what is said before, during and after it, and what keeps it whole."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

import reports
from comparisons.budget import set_memory_budget
from comparisons.engines.select import Engine
from comparisons.estimates.cost import Cost, cost_of
from comparisons.estimates.files import PlanFile
from comparisons.estimates.throughput import measured
from comparisons.graph.nodes import Node, build_nodes
from comparisons.graph.specs import data_cell
from comparisons.methods import get_method
from comparisons.plans.plan import Plan
from comparisons.runs.archive import take_up
from comparisons.runs.session import RunError, kept_plan, run_nodes, staged, told, working_in
from evaluation.datasets.dataset import Dataset
from evaluation.datasets.load import Extent
from evaluation.storage.store import Store, write_atomically
from evaluation.training.networks import build_network
from evaluation.training.retraining import check_device
from reports.formatting import duration

__all__ = ["RunError", "run_plan"]

# A plan file's cost comes of a longer trial; this one is made at every start.
_TRIAL_S = 2.0


def run_plan(
    plan: Plan,
    out: Path,
    *,
    engine: Engine,
    command: str,
    console: Console,
    scratch: Path | None = None,
    plan_file: PlanFile | None = None,
    source: Path | None = None,
) -> Path:
    """Run what is not done yet of a plan, and write the report.

    Args:
        plan: the options.
        out: directory of the run.
        engine: where cells run, and what each worker has.
        command: what was typed, for the record.
        console: where to say what happens.
        scratch: folder on each machine's own disk for what trainings read; None for `out` itself.
        plan_file: the file that says the plan, if one does; the report cites it.
        source: an archive whose cells are taken up; None for none.

    Returns:
        The report's path.

    Raises:
        RunError: another run is working in `out`, `out` belongs to a different plan, or some
            cells failed; what is finished stays.
        evaluation.datasets.dataset.DatasetError: the images cannot be used.
        ValueError: the network cannot be used.
    """
    set_memory_budget(engine.resources.memory_budget_mib)
    store = Store(out, scratch)
    with working_in(out):
        _refuse_another_plan(plan, out)
        if source is not None:
            take_up(source, out, plan)
        weights = plan.given_weights
        console.print(f"Images: {plan.data}", soft_wrap=True, markup=False)
        dataset = staged(data_cell(plan), store, console)
        for skipped in dataset.skipped:
            console.print(f"  skipped {skipped.path}: {skipped.why}", soft_wrap=True, markup=False)
        build_network(plan.model, len(dataset.classes), 0, size=dataset.size)
        if weights is not None:
            weights.check_classes(len(dataset.classes))
        # Only now: a mistyped option must not keep the directory from the corrected one.
        _keep_plan(plan, out, command, plan_file)
        nodes = build_nodes(
            plan,
            train_images=len(dataset.train.labels),
            test_images=len(dataset.test.labels),
        )
        with engine.running(store) as executor:
            workers = executor.slots
            console.print(executor.about(), soft_wrap=True, markup=False)
            if plan.recipe.ranks > executor.slots:
                console.print(
                    f"A training takes {plan.recipe.ranks} workers at once, and waits until there "
                    "are so many"
                )
            if _has(engine.resources.device):
                _announce(_estimate(plan, nodes, dataset, engine, workers), workers, console)
            else:
                console.print(
                    f"No {engine.resources.device} here for a trial: what the plan takes is not "
                    "estimated"
                )
            failures = run_nodes(nodes, store, executor, console)
        report = reports.build(out)
    if failures:
        raise RunError(told(failures, report))
    return report


def _has(device: str) -> bool:
    """Whether this process could use a device: the driver of a cluster need not."""
    try:
        check_device(device)
    except ValueError:
        return False
    return True


def _estimate(
    plan: Plan, nodes: list[Node], dataset: Dataset, engine: Engine, workers: int
) -> Cost:
    train, test = len(dataset.train.labels), len(dataset.test.labels)
    extent = Extent(dataset.name, len(dataset.classes), train, test, dataset.size, found=True)
    throughput = measured(
        plan,
        classes=extent.classes,
        size=dataset.size,
        resources=engine.resources,
        seconds=_TRIAL_S,
    )
    return cost_of(plan, extent, dataset.size, throughput, workers=workers, nodes=nodes)


def _announce(cost: Cost, workers: int, console: Console) -> None:
    total, seconds = cost.total, cost.schedule.seconds
    console.print(
        f"Plan: {total.trainings} trainings ({total.work.training:,} images through the network), "
        f"{total.work.forward + total.work.gradient:,} passes for maps and tests, "
        f"{(total.staged_bytes + total.stored_bytes) / 2**20:,.0f} MiB of disk; about "
        f"{duration(seconds)} with {workers} workers, less what is done already",
        soft_wrap=True,
    )
    if seconds > 3600:
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


def _keep_plan(plan: Plan, out: Path, command: str, plan_file: PlanFile | None) -> None:
    methods = {
        name: {
            "title": get_method(name).title,
            "citation": get_method(name).citation,
            "parameters": dict(get_method(name).parameters),
            "group": get_method(name).group,
        }
        for name in plan.methods
    }
    content: dict[str, Any] = {"plan": asdict(plan), "command": command, "methods": methods}
    cited = _citation(plan, out, plan_file)
    if cited is not None:
        content["plan_file"] = cited
    text = json.dumps(content, indent=1).encode()
    write_atomically(out / "plan.json", lambda file: file.write(text))


def _citation(plan: Plan, out: Path, plan_file: PlanFile | None) -> dict[str, Any] | None:
    """What is said of the plan's file; a run that goes on with the same plan keeps it."""
    if plan_file is not None:
        return plan_file.citation
    before = kept_plan(out, "run") or {}
    same = "plan_file" in before and Plan.from_json(before["plan"]) == plan
    return before["plan_file"] if same else None

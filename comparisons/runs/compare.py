"""Runs that compare methods by ROAR and KAR, or without retraining."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from comparisons.budget import set_memory_budget
from comparisons.engines.engine import Executor
from comparisons.engines.select import Engine
from comparisons.estimates.cost import Cost, cost_of
from comparisons.estimates.files import PlanFile
from comparisons.estimates.throughput import measured
from comparisons.estimates.trial import TrialFailed
from comparisons.graph.nodes import Node, build_nodes
from comparisons.methods import get_method
from comparisons.plans.plan import Plan
from comparisons.runs.engine_run import EngineRun
from comparisons.runs.plan_on_disk import PlanOnDisk, keep_plan
from comparisons.runs.session import RunError
from evaluation.datasets.dataset import Dataset
from evaluation.datasets.load import Extent
from evaluation.metrics.passes import check_engine
from evaluation.networks.build import build_network
from evaluation.networks.class_places import class_places
from evaluation.training.retraining import check_device
from reports.formatting import counted, duration

__all__ = ["RunError", "run_plan"]

# A trial is made at every start. One that is too short for the plan's batch has much of what a step
# takes whatever its images, and says hours too many: a run of hours bears one as long as `plan`'s.
_TRIAL_S, _LONG_TRIAL_S, _LONG_RUN_S = 2.0, 45.0, 3600.0


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
    """Run the cells of a plan that are not done yet, and write the report.

    Args:
        plan: the options.
        out: folder of the run.
        engine: runs the cells.
        command: the command line, for the record.
        console: gets the messages.
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
    return _Comparison(plan, out, engine, command, console, scratch, source, plan_file).run()


@dataclass
class _Comparison(EngineRun[Plan]):
    plan_file: PlanFile | None = None

    def check(self) -> None:
        super().check()
        check_engine(self.plan.passes_in, self.engine.resources.device)
        _ = self.plan.given_weights  # refuses weights that there are not

    def nodes(self, dataset: Dataset) -> list[Node]:
        plan, classes = self.plan, len(dataset.classes)
        for skipped in dataset.skipped:
            self.console.print(
                f"  skipped {skipped.path}: {skipped.why}", soft_wrap=True, markup=False
            )
        network = build_network(
            plan.model,
            plan.outputs(classes),
            0,
            size=dataset.size,
            channels=dataset.channels,
        )
        if plan.takes_own_classes:
            if class_places(dataset.classes, network, plan.model) is None:
                self.console.print(
                    f"The classes of {plan.data} are not all known among those of {plan.model}: "
                    "its accuracy, and that of ROAD, are not measured",
                    soft_wrap=True,
                    markup=False,
                )
        elif plan.given_weights is not None:
            plan.given_weights.check_classes(classes)
        # Kept after the checks: a mistyped option must not claim the folder.
        self._keep_plan()
        train, test = len(dataset.train.labels), len(dataset.test.labels)
        return build_nodes(plan, train_images=train, test_images=test)

    def announce(self, nodes: list[Node], dataset: Dataset, executor: Executor) -> None:
        workers, device = executor.slots, self.engine.resources.device
        if self.plan.recipe.ranks > workers:
            self.console.print(
                f"A training takes {self.plan.recipe.ranks} workers at once, and waits until there "
                "are so many"
            )
        if _can_use(device):
            try:
                cost = _estimate(self.plan, nodes, dataset, self.engine, workers)
            except TrialFailed as error:
                said = f"What the plan takes is not estimated: {error}"
                self.console.print(said, soft_wrap=True, markup=False)
            else:
                _announce(cost, workers, self.console)
        else:
            self.console.print(
                f"No {device} here for a trial: what the plan takes is not estimated"
            )

    def _keep_plan(self) -> None:
        content: dict[str, Any] = {
            "plan": self.plan.to_json(),
            "command": self.command,
            "methods": {name: get_method(name).described for name in self.plan.methods},
        }
        cited = _citation(self.plan, self.out, self.plan_file)
        if cited is not None:
            content["plan_file"] = cited
        keep_plan(self.out, content)


def _citation(plan: Plan, out: Path, plan_file: PlanFile | None) -> dict[str, Any] | None:
    """Return the citation of the plan's file; a run continued with the same plan keeps it."""
    if plan_file is not None:
        return plan_file.citation
    before = PlanOnDisk.of_kind(out, "run")
    if before is None or "plan_file" not in before.content:
        return None
    same = Plan.from_json(before.content["plan"]) == plan
    return before.content["plan_file"] if same else None


def _can_use(device: str) -> bool:
    """Return True if this process can use a device; the driver of a cluster may not."""
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

    def after(seconds: float) -> tuple[Cost, bool]:
        throughput = measured(
            plan,
            classes=extent.classes,
            size=dataset.size,
            resources=engine.resources,
            seconds=seconds,
        )
        cost = cost_of(plan, extent, dataset.size, throughput, workers=workers, nodes=nodes)
        return cost, bool(throughput.notes)

    cost, deviates = after(_TRIAL_S)
    if deviates and cost.schedule.seconds > _LONG_RUN_S:
        cost, _ = after(_LONG_TRIAL_S)
    return cost


def _announce(cost: Cost, workers: int, console: Console) -> None:
    total, seconds = cost.total, cost.schedule.seconds
    trained = f" ({counted(total.work.training, 'image')} through the network)"
    console.print(
        f"Plan: {counted(total.trainings, 'training')}{trained if total.trainings else ''}, "
        f"{counted(total.work.forward + total.work.gradient, 'pass')} for maps and tests, "
        f"{(total.staged_bytes + total.stored_bytes) / 2**20:,.0f} MiB of disk; about "
        f"{duration(seconds)} with {counted(workers, 'worker')}, less what is done already",
        soft_wrap=True,
    )
    if seconds > _LONG_RUN_S:
        console.print(
            "[bold]This needs hours.[/] It can be stopped with Ctrl-C at any time; the same "
            f"command continues. {_less(total.trainings)} take less.",
            soft_wrap=True,
        )


def _less(trainings: int) -> str:
    """Return the options of which fewer take less, in words."""
    if trainings:
        return "Fewer --methods, --fractions, --seeds or --epochs"
    return "Fewer --methods, --measure-images or --measure-steps"

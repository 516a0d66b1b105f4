"""The command ``python -m comparisons run``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from comparisons.budget import MEMORY_BUDGET_CUDA_MIB, MEMORY_BUDGET_MIB
from comparisons.cli import options as shared
from comparisons.cli.archive import FROM
from comparisons.cli.engine_options import EngineOptions, with_engine_options
from comparisons.cli.options import typed_command
from comparisons.cli.plan_options import PlanOptions, with_plan_options
from comparisons.engines.select import in_ranks
from comparisons.estimates.files import PlanFile, read_plan_file
from comparisons.plans.plan import Plan
from comparisons.runs.archive import archived_plan
from comparisons.runs.compare import run_plan
from comparisons.runs.session import one_message
from evaluation.training.retraining import check_device

__all__ = ["run"]

_console = Console(highlight=False)


@with_plan_options
@with_engine_options
def run(
    options: PlanOptions,
    machine: EngineOptions,
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", help="A file of the plan command, in place of all options above."),
    ] = None,
    source: Annotated[Path | None, FROM] = None,
    out: Annotated[Path, shared.OUT] = Path("runs/comparison"),
    scratch: Annotated[Path | None, shared.SCRATCH] = None,
    memory_budget: Annotated[
        int | None,
        typer.Option(
            help="MiB that one pass of a saliency method may hold, in each worker; by default "
            f"{MEMORY_BUDGET_MIB}, on a GPU {MEMORY_BUDGET_CUDA_MIB}."
        ),
    ] = None,
) -> None:
    """Run a comparison, or continue it, and write its report.

    Defaults below are those of --preset quick.
    """
    with one_message(_console, out):
        if machine.address is None:  # a cluster has what this machine may lack
            check_device(machine.device)
        command = typed_command()
        file = None
        if source is not None and plan_file is None and not options.stated:
            chosen, command = _archived(source, machine.gpus_per_cell)
        else:
            chosen, file = _chosen(options, plan_file, machine)
        report = run_plan(
            chosen,
            out,
            scratch=scratch,
            engine=machine.engine_of(ranks=chosen.recipe.ranks, memory_budget_mib=memory_budget),
            plan_file=file,
            command=command,
            console=_console,
            source=source,
        )
    _console.print(f"Report: {report}", soft_wrap=True, markup=False)


def _chosen(
    options: PlanOptions, path: Path | None, machine: EngineOptions
) -> tuple[Plan, PlanFile | None]:
    """Return the typed plan, or that of a file, which excludes typed options of a plan."""
    if path is None:
        typed = options.plan(machine.device)
        return replace(typed, recipe=in_ranks(typed.recipe, machine.gpus_per_cell)), None
    if options.stated:
        raise ValueError(
            f"--plan {path} says the whole plan: leave out {', '.join(options.stated)}, or make "
            "another file with `python -m comparisons plan`"
        )
    file = read_plan_file(path)
    _check_ranks(path, file.plan, machine.gpus_per_cell, "make another file with --ranks {}")
    return file.plan, file


def _archived(source: Path, gpus_per_cell: float | None) -> tuple[Plan, str]:
    """Return the plan of an archive, and the command that started its run."""
    content = archived_plan(source, "run").content
    plan = Plan.from_json(content["plan"])
    _check_ranks(source, plan, gpus_per_cell, "leave it out")
    return plan, content.get("command", "")


def _check_ranks(place: Path, plan: Plan, gpus_per_cell: float | None, cure: str) -> None:
    """Refuse GPUs for another number of ranks than a stored plan has."""
    ranks = in_ranks(plan.recipe, gpus_per_cell).ranks
    if ranks != plan.recipe.ranks:
        raise ValueError(
            f"--gpus-per-cell {gpus_per_cell:g} trains in {ranks} ranks, and {place} says "
            f"{plan.recipe.ranks}: {cure.format(ranks)}"
        )

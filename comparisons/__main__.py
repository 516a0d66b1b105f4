"""The command ``python -m comparisons``: runs of every kind, their cost, and the methods."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from comparisons.budget import MEMORY_BUDGET_CUDA_MIB, MEMORY_BUDGET_MIB
from comparisons.cli import options as shared
from comparisons.cli.archive import FROM, archive
from comparisons.cli.costs import profile
from comparisons.cli.growth import growth
from comparisons.cli.layers import layers
from comparisons.cli.plan import plan
from comparisons.cli.plan_options import PlanOptions, with_plan_options
from comparisons.deployment.command import deployment
from comparisons.engines.select import engine_of, in_ranks
from comparisons.estimates.files import PlanFile, read_plan_file
from comparisons.methods.controls import METHODS
from comparisons.plans.plan import Plan
from comparisons.runs.archive import archived_plan
from comparisons.runs.compare import run_plan
from comparisons.runs.session import one_message
from evaluation.training.retraining import check_device

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Compare saliency methods under identical ROAR and KAR.",
)
_console = Console(highlight=False)
app.command()(layers)
app.command()(profile)
app.command()(plan)
app.command()(growth)
app.command()(archive)
app.command()(deployment)


@app.command("methods")
def list_methods() -> None:
    """List every method with its citation and parameters."""
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "method", "group", "citation", "parameters"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "name")
    for entry in METHODS.values():
        parameters = ", ".join(f"{key}={value}" for key, value in entry.parameters.items())
        table.add_row(entry.name, entry.title, entry.group, entry.citation, parameters)
    _console.print(table)


@app.command()
@with_plan_options
def run(
    options: PlanOptions,
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", help="A file of the plan command, in place of all options above."),
    ] = None,
    source: Annotated[Path | None, FROM] = None,
    out: Annotated[Path, shared.OUT] = Path("runs/comparison"),
    scratch: Annotated[Path | None, shared.SCRATCH] = None,
    workers: Annotated[int | None, shared.WORKERS] = None,
    threads: Annotated[int, shared.THREADS] = 1,
    memory_budget: Annotated[
        int | None,
        typer.Option(
            help="MiB that one pass of a saliency method may hold, in each worker; by default "
            f"{MEMORY_BUDGET_MIB}, on a GPU {MEMORY_BUDGET_CUDA_MIB}."
        ),
    ] = None,
    device: Annotated[str, shared.DEVICE] = "cpu",
    engine: Annotated[str, shared.ENGINE] = "local",
    address: Annotated[str | None, shared.ADDRESS] = None,
    cpus_per_cell: Annotated[float | None, shared.CPUS_PER_CELL] = None,
    gpus_per_cell: Annotated[float | None, shared.GPUS_PER_CELL] = None,
) -> None:
    """Run a comparison, or continue it, and write its report."""
    with one_message(_console, out):
        if address is None:  # a cluster has what this machine may lack
            check_device(device)
        command = f"python -m comparisons {shlex.join(sys.argv[1:])}"
        file = None
        if source is not None and plan_file is None and not options.stated:
            chosen, command = _archived(source, gpus_per_cell)
        else:
            chosen, file = _chosen(options, plan_file, device, gpus_per_cell)
        report = run_plan(
            chosen,
            out,
            scratch=scratch,
            engine=engine_of(
                engine,
                address=address,
                workers=workers,
                threads=threads,
                cpus_per_cell=cpus_per_cell,
                gpus_per_cell=gpus_per_cell,
                ranks=chosen.recipe.ranks,
                device=device,
                memory_budget_mib=memory_budget,
            ),
            plan_file=file,
            command=command,
            console=_console,
            source=source,
        )
    _console.print(f"Report: {report}", soft_wrap=True, markup=False)


def _chosen(
    options: PlanOptions, path: Path | None, device: str, gpus_per_cell: float | None
) -> tuple[Plan, PlanFile | None]:
    """The plan that was typed, or that of a file, beside which nothing of it may be typed."""
    if path is None:
        typed = options.plan(device)
        return replace(typed, recipe=in_ranks(typed.recipe, gpus_per_cell)), None
    if options.stated:
        raise ValueError(
            f"--plan {path} says the whole plan: leave out {', '.join(options.stated)}, or make "
            "another file with `python -m comparisons plan`"
        )
    file = read_plan_file(path)
    ranks = in_ranks(file.plan.recipe, gpus_per_cell).ranks
    if ranks != file.plan.recipe.ranks:
        raise ValueError(
            f"--gpus-per-cell {gpus_per_cell:g} trains in {ranks} ranks, and {path} says "
            f"{file.plan.recipe.ranks}: make another file with --ranks {ranks}"
        )
    return file.plan, file


def _archived(source: Path, gpus_per_cell: float | None) -> tuple[Plan, str]:
    """The plan of an archive, and the command that started its run."""
    content = archived_plan(source, "run")
    plan = Plan.from_json(content["plan"])
    ranks = in_ranks(plan.recipe, gpus_per_cell).ranks
    if ranks != plan.recipe.ranks:
        raise ValueError(
            f"--gpus-per-cell {gpus_per_cell:g} trains in {ranks} ranks, and {source} says "
            f"{plan.recipe.ranks}: leave it out"
        )
    return plan, content.get("command", "")


if __name__ == "__main__":
    app(prog_name="python -m comparisons")

"""Runs that measure costs, one cell at a time in this process, since each is timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import reports
from comparisons.budget import set_memory_budget
from comparisons.cells.costs import NETWORK_ALONE
from comparisons.cells.run import run_cell
from comparisons.graph.costs import build_cost_cells
from comparisons.methods.costed import costed
from comparisons.plans.costs import CostPlan, sides_of
from comparisons.runs.plan_on_disk import keep_plan
from comparisons.runs.session import RunError, failure_message, working_in
from comparisons.runs.stored import fitting_plan, notes_said, set_aside_unfit
from evaluation.networks.build import build_network
from evaluation.profiling.timing import Interval
from evaluation.storage.store import Store
from reports.analysis.cost_rows import TimeTable
from reports.analysis.cost_tables import CostTables, cost_tables
from reports.formatting import digits, duration, quantity
from reports.records.reading import read_run

__all__ = ["run_costs"]


def run_costs(plan: CostPlan, out: Path, *, command: str, console: Console) -> Path:
    """Run the measurements that are not done yet, print a table, and write the report.

    Args:
        plan: the options.
        out: directory of the run; one that exists is continued, other options added to it.
        command: the command line, for the record.
        console: gets the messages.

    Returns:
        The report's path.

    Raises:
        RunError: `out` holds another kind of run or is in use, or some methods failed; what is
            measured stays.
        ValueError: the network cannot be used.
    """
    store = Store(out)
    failures = []
    with working_in(out), notes_said(store, console):
        before = fitting_plan(store, "profile")
        set_aside_unfit(store)
        for model in plan.models:
            size = sides_of(plan.grid) if plan.grid else (plan.size, plan.size)
            build_network(model, plan.classes, 0, size=size, channels=plan.channels)
        _keep_plan(plan, {} if before is None else before.content, out, command)
        set_memory_budget(plan.memory_budget_mib)
        cells = list(build_cost_cells(plan))
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,  # a log gets the lines alone
        )
        with bar:
            task = bar.add_task("starting", total=len(cells))
            for index, (title, cell) in enumerate(cells, 1):
                bar.update(task, description=title)
                found = store.result(cell.id) is not None
                try:
                    result = run_cell(cell, store, device=plan.device)
                except Exception as error:  # one method's failure leaves the others
                    failures.append(f"{title}: {type(error).__name__}: {error}")
                    said = f"FAILED: {error}"
                else:
                    said = "done before" if found else f"({duration(result.seconds)})"
                bar.console.print(
                    f"{index}/{len(cells)}  {title}  {said}", soft_wrap=True, markup=False
                )
                bar.advance(task)
        run = read_run(out)
        tables = cost_tables(run)
        for table in tables.times:
            console.print(_shown(table, tables))
        report = reports.build(out)
    if failures:
        raise RunError(failure_message("measurements", failures, report))
    return report


def _keep_plan(plan: CostPlan, before: Mapping[str, Any], out: Path, command: str) -> None:
    known = costed()
    about = {name: known[name].described for name in plan.methods}
    earlier = before.get("plan", {})
    # Networks, batches and methods of earlier measurements stay on the page.
    joined = {
        name: list(dict.fromkeys([*earlier.get(name, ()), *value]))
        for name, value in asdict(plan).items()
        if isinstance(value, tuple)
    }
    commands = dict.fromkeys([*before.get("command", "").splitlines(), command])
    content = {
        "kind": "profile",
        "plan": asdict(plan) | joined,
        "command": "\n".join(line for line in commands if line),
        "methods": {**before.get("methods", {}), **about},
    }
    keep_plan(out, content)


def _shown(table: TimeTable, tables: CostTables) -> Table:
    """Return the most important columns as a table for a terminal."""
    shown = Table(title=table.title, title_justify="left", box=None, pad_edge=False)
    shown.add_column("method", no_wrap=True)
    for heading in ("rounds", "alone", "ms", "added %", "x SMOE", "peak"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in table.rows:
        own = row.name == NETWORK_ALONE
        ratio = row.times_smoe
        counted = tables.counted(table.setting, row.name)
        peak = "forward_bytes" if own else "peak_bytes"
        shown.add_row(
            "the network" if own else row.name,
            str(row.rounds),
            digits(row.forward_ms.median),
            digits(row.map_ms.median),
            _interval(row.added) if row.runs_network else "no pass",
            "" if ratio is None else "\N{EN DASH}" if ratio.value is None else digits(ratio.value),
            "" if counted is None else quantity(counted.value(peak), "B"),
        )
    return shown


def _interval(found: Interval) -> str:
    return f"{digits(found.median)} ({digits(found.low)} to {digits(found.high)})"

"""The page of a run that measured costs alone."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from reports import figures
from reports.charts import Chart
from reports.cost_figures import added_time_figure, memory_figure
from reports.cost_reading import NETWORK_ALONE, CostTable, cost_tables, steps
from reports.provenance import set_up, traced
from reports.reading import GROUPS, Run

__all__ = ["costs_context"]

# What the paper claims that other methods add, in units of what SMOE Scale adds.
CLAIMS = {"guided-backprop": 97, "gradient-sgsq": 1456}
GPU_BATCHES = (1, 32, 128)
GPU_PRECISIONS = ("float32", "bfloat16")


def costs_context(run: Run) -> dict[str, Any]:
    """What the template shows."""
    tables = cost_tables(run)
    on_gpu = {
        (table.place["batch"], table.place["precision"], row.name): row
        for table in tables
        if table.place["device"].startswith("cuda")
        for row in table.rows
    }
    return {
        "run": run,
        "title": f"What a map costs: {', '.join(_networks(tables)) or 'nothing measured yet'}",
        "tables": tables,
        "network_alone": NETWORK_ALONE,
        "claims": CLAIMS,
        "charts": list(_charts(tables)),
        "steps": [(title, rows, _totals(rows)) for title, rows in steps(run)],
        "gpu_batches": GPU_BATCHES,
        "gpu_precisions": GPU_PRECISIONS,
        "on_gpu": on_gpu,
        "groups": GROUPS,
        **set_up(run),
        "record_count": len(run.all_records),
        "traced": traced(run.all_records),
    }


def _networks(tables: list[CostTable]) -> list[str]:
    return list(dict.fromkeys(table.place["model"] for table in tables))


def _charts(tables: list[CostTable]) -> list[tuple[str, list[Chart]]]:
    """For each network, size, precision and device the two figures, over its batches."""

    def place(table: CostTable) -> tuple[Any, ...]:
        return tuple(value for name, value in table.place.items() if name != "batch")

    found = []
    for _, group in groupby(tables, place):
        own = list(group)
        if not any(row.name != NETWORK_ALONE for table in own for row in table.rows):
            continue
        title = own[0].title.replace(f", batch {own[0].place['batch']}", "")
        charts = [
            Chart("Added time", figures.svg_uri(added_time_figure(own)), f"Added time, {title}"),
            Chart("Memory", figures.svg_uri(memory_figure(own)), f"Peak memory, {title}"),
        ]
        found.append((title, charts))
    return found


def _totals(rows: Any) -> dict[str, float]:
    names = [name for name in rows[0] if name not in ("channels", "height", "width")]
    return {name: sum(row[name] for row in rows) for name in names}

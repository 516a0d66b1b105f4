"""The cells of a run that measures costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from comparisons.cells.cell import Cell
from comparisons.cells.costs import NETWORK_ALONE
from comparisons.methods.costed import costed
from comparisons.plans.costs import CostPlan

__all__ = ["build_cost_cells"]


def build_cost_cells(plan: CostPlan) -> Iterator[tuple[str, Cell]]:
    """Yield the title and the cell of each measurement.

    The times of each network come before its counts, so that a method's first call is timed.
    """
    for model in plan.models:
        before = f"{model}, " if len(plan.models) > 1 else ""
        for precision in plan.precisions:
            of = f"{before}{precision}, " if len(plan.precisions) > 1 else before
            yield from _cells_of_network(plan, model, precision, of)


def _cells_of_network(
    plan: CostPlan, model: str, precision: str, of: str
) -> Iterator[tuple[str, Cell]]:
    common = {
        "model": model,
        "size": plan.size,
        "classes": plan.classes,
        "precision": precision,
        "weights": "enlivened",
    }
    # Entries of their own, which older specifications lack.
    common |= {"grid": plan.grid} if plan.grid else {}
    common |= {"channels": plan.channels} if plan.channels != 3 else {}
    place = {
        "device": plan.device,
        # A measurement of another machine does not count for this one.
        "hardware": _hardware(plan.device),
    }
    timed = {
        **common,
        **place,
        "threads": plan.threads,
        "rounds": plan.rounds,
        "limit_s": plan.limit_s,
    }
    budget = {"memory_budget_mib": plan.memory_budget_mib}
    for form, how in _forms(plan):
        for batch in plan.batches:
            for name, method in _rows(plan):
                spec = {**timed, **budget, **method, "batch": batch, **how}
                title = f"{of}{form}{name}, {batch} at once"
                yield title, Cell("cost", spec)
    for batch in plan.batches:
        title = f"{of}the statistic over one reading, {batch} at once"
        yield title, Cell("reading", {**timed, "batch": batch})
    for name, method in _rows(plan):
        yield f"{of}{name}, counted", Cell("counts", {**common, **place, **budget, **method})
    if not plan.grid:
        # The paper's formulas are those of images.
        yield f"{of}operations of each step", Cell("steps", common)


def _forms(plan: CostPlan) -> Iterator[tuple[str, dict[str, bool]]]:
    """Yield the forms that networks run in, as a title begins, and their part of a specification.

    Only CUDA graphs have an entry of their own, which older specifications lack.
    """
    yield "", {"compiled": False}
    if plan.compiled:
        yield "compiled, ", {"compiled": True}
    if plan.cuda_graphs:
        yield "CUDA graphs, ", {"compiled": True, "cuda_graphs": True}


def _rows(plan: CostPlan) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the title of the network alone and of each method, and its part of a specification."""
    yield "the network alone", {"method": NETWORK_ALONE, "parameters": {}}
    known = costed()
    for name in plan.methods:
        yield name, {"method": name, "parameters": dict(known[name].parameters)}


def _hardware(device: str) -> str:
    """Return the accelerator's name; a cell's environment tells processors apart."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "cpu"

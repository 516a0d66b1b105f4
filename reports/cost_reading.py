"""A run that measured costs, as tables: one for each network, size, batch, device and precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from evaluation.profiling import Quartiles, Timing
from evaluation.records import CellResult
from reports.reading import Run

__all__ = ["NETWORK_ALONE", "REFERENCE", "CostRow", "CostTable", "cost_tables", "steps"]

NETWORK_ALONE = "none"
# What the other methods' added time is held against.
REFERENCE = "smoe-linear"
# What makes two measurements neighbours in one table.
_PLACE = ("model", "size", "precision", "device", "hardware", "threads", "batch")


@dataclass(frozen=True)
class CostRow:
    """What one method, or the network alone, cost on a batch.

    Args:
        name: the method's, or `NETWORK_ALONE`.
        title: as the page calls it.
        group: of the method.
        cell: what measured it.
        reference: the row of SMOE Scale, if there is one.
        network: the row of the network alone, if there is one.
    """

    name: str
    title: str
    group: str
    cell: CellResult
    reference: CellResult | None
    network: CellResult | None

    def value(self, metric: str) -> float:
        """A number of the row's cell."""
        return _value(self.cell, metric)

    def added(self, metric: str) -> float | None:
        """What a count is beyond the network's own; None where that was not measured."""
        if self.name == NETWORK_ALONE or self.network is None:
            return None
        return self.value(metric) - _value(self.network, metric)

    @property
    def other_operations(self) -> float:
        """Operations that are no convolutions and matrix products."""
        kinds = ("map_elementwise", "map_transcendental", "map_reduction")
        return sum(self.value(kind) for kind in kinds)

    @property
    def not_counted(self) -> str:
        """Names of operations that no rule covers, so that the counts are too low by them."""
        return self.cell.hashes.get("not_counted", "")

    @cached_property
    def timing(self) -> Timing:
        """The rounds as they were measured."""
        return _timing(self.cell)

    @property
    def map_ms(self) -> Quartiles:
        """Of the whole batch."""
        return Quartiles.of(self.timing.map_ms)

    @property
    def added_ms(self) -> Quartiles:
        """Of the whole batch, paired by round."""
        return self.timing.added_ms

    @property
    def overhead_percent(self) -> Quartiles:
        """Of the round's forward pass, paired by round."""
        return self.timing.overhead_percent

    @property
    def times_smoe(self) -> float | None:
        """Added time over SMOE Scale's, each in forward passes; None where SMOE Scale is missing.

        In forward passes of the same rounds, since methods are measured one after the other.
        """
        if self.reference is None or self.name == NETWORK_ALONE:
            return None
        own = _timing(self.reference).overhead_percent.median
        return self.overhead_percent.median / own if own > 0 else None


@dataclass(frozen=True)
class CostTable:
    """The rows of one network, size, precision, device, number of threads and batch."""

    place: dict[str, Any]
    rows: tuple[CostRow, ...]

    @property
    def title(self) -> str:
        """What the table is about."""
        place = self.place
        machine = place["hardware"] if place["device"] != "cpu" else f"{place['threads']} threads"
        return (
            f"{place['model']}, {place['size']}x{place['size']}, {place['precision']}, "
            f"batch {place['batch']}, {place['device']}, {machine}"
        ).replace(", 1 threads", ", 1 thread")


def cost_tables(run: Run) -> list[CostTable]:
    """One table for each place, its methods in the plan's order; the latest cell of each counts."""
    places: dict[tuple[Any, ...], dict[str, CellResult]] = {}
    for cell in run.cells("cost"):
        key = tuple(cell.spec[name] for name in _PLACE)
        places.setdefault(key, {})[cell.spec["method"]] = cell
    order = [NETWORK_ALONE, *run.methods]
    tables = []
    for key, by_method in sorted(places.items(), key=lambda item: _sortable(item[0])):
        names = sorted(by_method, key=lambda name: order.index(name) if name in order else 10**6)
        rows = tuple(
            CostRow(
                name=name,
                title=_title(run, name),
                group=run.methods[name].group if name in run.methods else "other",
                cell=by_method[name],
                reference=by_method.get(REFERENCE),
                network=by_method.get(NETWORK_ALONE),
            )
            for name in names
        )
        tables.append(CostTable(dict(zip(_PLACE, key, strict=True)), rows))
    return tables


def _sortable(key: tuple[Any, ...]) -> list[str]:
    """Numbers in their order, and before names."""
    return [f"{part:012d}" if isinstance(part, int) else str(part) for part in key]


def steps(run: Run) -> list[tuple[str, Sequence[dict[str, float]]]]:
    """Operations of each step of SMOE Scale by network and size, a row a scale."""
    latest = {(cell.spec["model"], cell.spec["size"]): cell for cell in run.cells("steps")}
    return [
        (f"{model}, {size}x{size}", [dict(row) for row in cell.history])
        for (model, size), cell in latest.items()
    ]


def _title(run: Run, name: str) -> str:
    if name == NETWORK_ALONE:
        return "The network alone"
    return run.methods[name].title if name in run.methods else name


def _timing(cell: CellResult) -> Timing:
    return Timing(
        forward_ms=tuple(entry["forward_ms"] for entry in cell.history),
        map_ms=tuple(entry["map_ms"] for entry in cell.history),
        first_ms=_value(cell, "first_ms"),
        threads=cell.spec["threads"],
    )


def _value(cell: CellResult, metric: str) -> float:
    return next(record.value for record in cell.records if record.metric == metric)

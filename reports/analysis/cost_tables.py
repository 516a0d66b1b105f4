"""Tables of a run that measured costs: times by network and batch, counts by network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from evaluation.profiling.timing import Interval
from evaluation.storage.records import CellResult
from reports.analysis.cost_rows import (
    NETWORK_ALONE,
    CountRow,
    Setting,
    TimeRow,
    TimeTable,
    timing_of,
)
from reports.records.run import Run

__all__ = ["REFERENCE", "CostTables", "cost_tables"]

# The method that the others' added time is compared with.
REFERENCE = "smoe-linear"


@dataclass(frozen=True)
class CostTables:
    """The tables of a run that measured costs.

    Args:
        times: a table for each setting and batch.
        counts: by setting, the rows of one image.
        channel_sums: SMOE Scale's time over that of a sum over channels, by setting and batch.
        steps: operations of each step of SMOE Scale, a row a scale, by network and size.
    """

    times: Sequence[TimeTable]
    counts: Mapping[Setting, Sequence[CountRow]]
    channel_sums: Mapping[tuple[Setting, int], Interval]
    steps: Mapping[str, Sequence[Mapping[str, float]]]

    @cached_property
    def settings(self) -> list[Setting]:
        """Settings that were timed, in the order of the tables."""
        return list(dict.fromkeys(table.setting for table in self.times))

    @cached_property
    def models(self) -> list[str]:
        """The networks, in the order of the tables."""
        found = [*(table.setting for table in self.times), *self.counts]
        return list(dict.fromkeys(setting.model for setting in found))

    def of(self, setting: Setting) -> list[TimeTable]:
        """The times of a setting, a table a batch."""
        return [table for table in self.times if table.setting == setting]

    def counted(self, setting: Setting, name: str) -> CountRow | None:
        """The counts of a method; those of the eager network, whatever the threads."""
        rows = self.counts.get(_counted_as(setting), ())
        return next((row for row in rows if row.name == name), None)


def cost_tables(run: Run) -> CostTables:
    """The tables of a run, methods in the plan's order; of several cells the latest counts."""
    order = {name: place for place, name in enumerate([NETWORK_ALONE, *run.methods])}
    counts = {
        setting: [
            CountRow(name, *_shown(run, name), cell, by_method.get(NETWORK_ALONE))
            for name, cell in sorted(by_method.items(), key=lambda item: order.get(item[0], 10**6))
        ]
        for (setting,), by_method in _grouped(run, "counts").items()
    }
    idle = {
        (setting, row.name)
        for setting, rows in counts.items()
        for row in rows
        if row.name != NETWORK_ALONE and (row.added("map_flops") or 0) < 0
    }
    times = [
        TimeTable(
            setting,
            batch,
            tuple(
                TimeRow(
                    name,
                    *_shown(run, name),
                    cell,
                    by_method.get(REFERENCE),
                    runs_network=(_counted_as(setting), name) not in idle,
                )
                for name, cell in sorted(
                    by_method.items(), key=lambda item: order.get(item[0], 10**6)
                )
            ),
        )
        for (setting, batch), by_method in _grouped(run, "cost", "batch").items()
    ]
    models = list(dict.fromkeys(table.setting.model for table in times))
    times.sort(key=lambda table: (models.index(table.setting.model), *_place(table)))
    return CostTables(
        times=times,
        counts=counts,
        channel_sums={
            (Setting.of(cell), cell.spec["batch"]): timing_of(cell).ratio
            for cell in run.cells("reading")
        },
        steps={
            f"{cell.spec['model']}, {cell.spec['size']}x{cell.spec['size']}": [
                dict(row) for row in cell.history
            ]
            for cell in run.cells("steps")
        },
    )


def _place(table: TimeTable) -> tuple[Any, ...]:
    setting = table.setting
    return (
        *(
            setting.on_gpu,
            setting.size,
            setting.grid,
            setting.precision != "float32",
            setting.compiled,
        ),
        *(setting.cuda_graphs, setting.hardware, setting.threads, table.batch),
    )


def _counted_as(setting: Setting) -> Setting:
    return replace(setting, compiled=False, cuda_graphs=False, threads=0)


def _grouped(run: Run, kind: str, *names: str) -> dict[tuple[Any, ...], dict[str, CellResult]]:
    """Cells of a kind by setting and some of their specification's entries, then by method."""
    found: dict[tuple[Any, ...], dict[str, CellResult]] = {}
    for cell in run.cells(kind):
        key = (Setting.of(cell), *(cell.spec[name] for name in names))
        found.setdefault(key, {})[cell.spec["method"]] = cell
    return found


def _shown(run: Run, name: str) -> tuple[str, str]:
    """A row's title and group."""
    if name == NETWORK_ALONE:
        return "The network alone", "other"
    if name not in run.methods:
        return name, "other"
    return run.methods[name].title, run.methods[name].group

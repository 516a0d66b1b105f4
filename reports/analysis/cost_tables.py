"""A run that measured costs, as tables: times by network and batch, counts by network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from evaluation.profiling.timing import Interval, Quartiles, Timing
from evaluation.storage.records import CellResult
from reports.records.run import Run

__all__ = [
    "NETWORK_ALONE",
    "REFERENCE",
    "CostTables",
    "CountRow",
    "Ratio",
    "Setting",
    "TimeRow",
    "TimeTable",
    "cost_tables",
]

NETWORK_ALONE = "none"
# What the other methods' added time is held against.
REFERENCE = "smoe-linear"

Cells = Mapping[str, CellResult]


@dataclass(frozen=True)
class Setting:
    """What measurements have in common that are neighbours in a table.

    Args:
        model: the network.
        size: height and width of the images.
        precision: of weights and images.
        compiled: whether `torch.compile` made the network.
        device: where it ran.
        hardware: the accelerator's name, or "cpu".
        threads: of PyTorch; 0 where they do not matter.
    """

    model: str
    size: int
    precision: str
    compiled: bool
    device: str
    hardware: str
    threads: int = 0

    @classmethod
    def of(cls, cell: CellResult) -> Setting:
        """The setting of a cell; nothing was compiled before it could be."""
        spec = cell.spec
        device = spec.get("device", "cpu")
        return cls(
            model=spec["model"],
            size=spec["size"],
            precision=spec["precision"],
            compiled=spec.get("compiled", False),
            device=device,
            hardware=spec.get("hardware", "cpu"),
            threads=spec.get("threads", 0) if device == "cpu" else 0,
        )

    @property
    def on_gpu(self) -> bool:
        """Whether it ran on CUDA."""
        return self.device.startswith("cuda")

    @property
    def title(self) -> str:
        """What a table is about.

        >>> Setting("resnet50", 224, "float32", False, "cpu", "cpu", 2).title
        'resnet50, 224x224, float32, cpu, 2 threads'
        """
        parts = [self.model, f"{self.size}x{self.size}", self.precision]
        parts += ["compiled"] if self.compiled else []
        parts += [self.hardware if self.on_gpu else self.device]
        parts += [f"{self.threads} thread{'s' if self.threads > 1 else ''}"] if self.threads else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Ratio:
    """How many times one added time is another, and the bounds that their intervals allow.

    Args:
        value: of the medians; None where the other is not above 0.
        low: the least, of the interval's ends.
        high: the most; infinite where the other's interval reaches 0.
    """

    value: float | None
    low: float
    high: float

    @classmethod
    def of(cls, own: Interval, other: Interval) -> Ratio:
        """Of two added times in one unit.

        >>> Ratio.of(Interval(100.0, 90.0, 110.0, 0.95), Interval(2.0, 1.0, 4.0, 0.95))
        Ratio(value=50.0, low=22.5, high=110.0)
        """
        return cls(
            value=own.median / other.median if other.median > 0 else None,
            low=_over(own.low, other.high if own.low > 0 else other.low, -math.inf),
            high=_over(own.high, other.low if own.high > 0 else other.high, math.inf),
        )


def _over(value: float, other: float, without_bound: float) -> float:
    return value / other if other > 0 else without_bound


@dataclass(frozen=True)
class TimeRow:
    """How long one method, or the network alone, took for a batch.

    Args:
        name: the method's, or `NETWORK_ALONE`.
        title: as the page calls it.
        group: of the method.
        cell: what measured it.
        reference: the cell of SMOE Scale, if there is one.
        runs_network: whether the method runs the network; one that does not adds no time to it.
    """

    name: str
    title: str
    group: str
    cell: CellResult
    reference: CellResult | None
    runs_network: bool = True

    @cached_property
    def timing(self) -> Timing:
        """The rounds as they were measured."""
        return _timing(self.cell)

    @property
    def rounds(self) -> int:
        """Pairs of samples."""
        return len(self.timing.map_ms)

    @property
    def map_ms(self) -> Quartiles:
        """Of the whole batch."""
        return Quartiles.of(self.timing.map_ms)

    @property
    def added_ms(self) -> Quartiles:
        """Of the whole batch, paired by round."""
        return self.timing.added_ms

    @cached_property
    def added(self) -> Interval:
        """Percent of the round's forward pass, paired by round."""
        return self.timing.overhead_interval

    @property
    def times_smoe(self) -> Ratio | None:
        """Added time over SMOE Scale's, each in forward passes; None where one is missing.

        In forward passes of the same rounds, since methods are measured one after the other.
        """
        if self.reference is None or self.name == NETWORK_ALONE or not self.runs_network:
            return None
        return Ratio.of(self.added, _timing(self.reference).overhead_interval)


@dataclass(frozen=True)
class TimeTable:
    """The times of one setting and batch."""

    setting: Setting
    batch: int
    rows: tuple[TimeRow, ...]

    @property
    def title(self) -> str:
        """What the table is about."""
        return f"{self.setting.title}, batch {self.batch}"

    def row(self, name: str) -> TimeRow | None:
        """A method's."""
        return next((row for row in self.rows if row.name == name), None)


@dataclass(frozen=True)
class CountRow:
    """What was counted of one method, or of the network alone, for one image.

    Args:
        name: the method's, or `NETWORK_ALONE`.
        title: as the page calls it.
        group: of the method.
        cell: what counted it.
        network: the cell of the network alone, if there is one.
    """

    name: str
    title: str
    group: str
    cell: CellResult
    network: CellResult | None

    def value(self, metric: str) -> float:
        """A number of the row's cell."""
        return _value(self.cell, metric)

    def added(self, metric: str) -> float | None:
        """What a count is beyond the network's own; None where that is not known, or is itself."""
        if self.name == NETWORK_ALONE or self.network is None:
            return None
        return self.value(metric) - _value(self.network, metric)

    @property
    def other_operations(self) -> float:
        """Operations that are no convolutions and matrix products."""
        return sum(self.value(kind) for kind in _KINDS)

    @property
    def added_percent(self) -> float | None:
        """All it adds in operations, in percent of the network's multiply-adds.

        As the paper counts: a multiply-add is one operation, and so is any other operation.
        """
        if self.name == NETWORK_ALONE or self.network is None:
            return None
        network = _value(self.network, "map_flops") / 2
        if not network:
            return None
        kinds = [self.value(kind) - _value(self.network, kind) for kind in _KINDS]
        return 100 * (self.value("map_flops") / 2 - network + sum(kinds)) / network

    @property
    def not_counted(self) -> str:
        """Names of operations that no rule covers, so that the counts are too low by them."""
        return self.cell.hashes.get("not_counted", "")


_KINDS = ("map_elementwise", "map_transcendental", "map_reduction")


@dataclass(frozen=True)
class CostTables:
    """All that a run measured of costs.

    Args:
        times: a table for each setting and batch.
        counts: by setting, the rows of one image.
        readings: by setting and batch: SMOE Scale's time over that of a sum over channels.
        steps: by network and size: operations of each step of SMOE Scale, a row a scale.
    """

    times: Sequence[TimeTable]
    counts: Mapping[Setting, Sequence[CountRow]]
    readings: Mapping[tuple[Setting, int], Interval]
    steps: Mapping[str, Sequence[Mapping[str, float]]]

    @cached_property
    def settings(self) -> list[Setting]:
        """Those with times, in the order of the tables."""
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
        """A method's counts, of the eager network, by what does not depend on threads."""
        rows = self.counts.get(_counted_as(setting), ())
        return next((row for row in rows if row.name == name), None)


def cost_tables(run: Run) -> CostTables:
    """What a run measured, its methods in the plan's order; the latest cell of each counts."""
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
        readings={
            (Setting.of(cell), cell.spec["batch"]): _timing(cell).ratio
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
        *(setting.on_gpu, setting.size, setting.precision != "float32", setting.compiled),
        *(setting.hardware, setting.threads, table.batch),
    )


def _counted_as(setting: Setting) -> Setting:
    return replace(setting, compiled=False, threads=0)


def _grouped(run: Run, kind: str, *names: str) -> dict[tuple[Any, ...], dict[str, CellResult]]:
    """The cells of a kind by setting and some of their specification, then by method."""
    found: dict[tuple[Any, ...], dict[str, CellResult]] = {}
    for cell in run.cells(kind):
        key = (Setting.of(cell), *(cell.spec[name] for name in names))
        found.setdefault(key, {})[cell.spec["method"]] = cell
    return found


def _shown(run: Run, name: str) -> tuple[str, str]:
    """Title and group of a row."""
    if name == NETWORK_ALONE:
        return "The network alone", "other"
    if name not in run.methods:
        return name, "other"
    return run.methods[name].title, run.methods[name].group


def _timing(cell: CellResult) -> Timing:
    first = [record.value for record in cell.records if record.metric == "first_ms"]
    return Timing(
        forward_ms=tuple(entry["forward_ms"] for entry in cell.history),
        map_ms=tuple(entry["map_ms"] for entry in cell.history),
        first_ms=first[0] if first else math.nan,
        threads=cell.spec["threads"],
    )


def _value(cell: CellResult, metric: str) -> float:
    return next(record.value for record in cell.records if record.metric == metric)

"""Rows of the cost tables: times and counts of one method in one setting."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from evaluation.profiling.timing import Interval, Quartiles, Timing
from evaluation.storage.records import CellResult

__all__ = ["NETWORK_ALONE", "CountRow", "Ratio", "Setting", "TimeRow", "TimeTable", "timing_of"]

NETWORK_ALONE = "none"


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
        return timing_of(self.cell)

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
        return Ratio.of(self.added, timing_of(self.reference).overhead_interval)


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


def timing_of(cell: CellResult) -> Timing:
    """The rounds that a cell timed."""
    first = [record.value for record in cell.records if record.metric == "first_ms"]
    return Timing(
        forward_ms=tuple(entry["forward_ms"] for entry in cell.history),
        map_ms=tuple(entry["map_ms"] for entry in cell.history),
        first_ms=first[0] if first else math.nan,
        threads=cell.spec["threads"],
    )


def _value(cell: CellResult, metric: str) -> float:
    return next(record.value for record in cell.records if record.metric == metric)

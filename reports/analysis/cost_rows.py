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
    """A network and the machine it was measured on: what the rows of a cost table share.

    Args:
        model: the network.
        size: height and width of the images.
        precision: of weights and images.
        compiled: True for a network made by `torch.compile`.
        device: ``"cpu"`` or a CUDA device.
        hardware: the accelerator's name, or ``"cpu"``.
        threads: of PyTorch; 0 for CUDA.
        cuda_graphs: True for one that was compiled with CUDA graphs.
        grid: the sides of volumes or signals, with an x between them; empty for square images.
    """

    model: str
    size: int
    precision: str
    compiled: bool
    device: str
    hardware: str
    threads: int = 0
    cuda_graphs: bool = False
    grid: str = ""

    @classmethod
    def of(cls, cell: CellResult) -> Setting:
        """The setting of a cell; cells older than an option have its default."""
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
            cuda_graphs=spec.get("cuda_graphs", False),
            grid=spec.get("grid", ""),
        )

    @property
    def on_gpu(self) -> bool:
        """True if it was measured on CUDA."""
        return self.device.startswith("cuda")

    @property
    def title(self) -> str:
        """The setting in words, as heading of a table.

        >>> Setting("resnet50", 224, "float32", False, "cpu", "cpu", 2).title
        'resnet50, 224x224, float32, cpu, 2 threads'
        """
        parts = [self.model, self.grid or f"{self.size}x{self.size}", self.precision]
        parts += ["compiled"] if self.compiled else []
        parts[-1] += " with CUDA graphs" if self.cuda_graphs else ""
        parts += [self.hardware if self.on_gpu else self.device]
        parts += [f"{self.threads} thread{'s' if self.threads > 1 else ''}"] if self.threads else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Ratio:
    """The ratio of two added times, with the bounds that their intervals allow.

    Args:
        value: ratio of the medians; None if the divisor is not told from 0, which allows any ratio.
        low: smallest ratio of values within the intervals.
        high: largest ratio of them.
    """

    value: float | None
    low: float
    high: float

    @classmethod
    def of(cls, own: Interval, other: Interval) -> Ratio:
        """The ratio of two added times in the same unit.

        A divisor whose interval reaches 0, or lies below it, gives no number.

        >>> Ratio.of(Interval(100.0, 90.0, 110.0, 0.95), Interval(2.0, 1.0, 4.0, 0.95))
        Ratio(value=50.0, low=22.5, high=110.0)
        >>> Ratio.of(Interval(100.0, 90.0, 110.0, 0.95), Interval(2.0, -1.0, 4.0, 0.95)).value
        """
        if other.low <= 0:
            return cls(None, -math.inf, math.inf)
        return cls(
            value=own.median / other.median,
            low=own.low / (other.high if own.low > 0 else other.low),
            high=own.high / (other.low if own.high > 0 else other.high),
        )


@dataclass(frozen=True)
class TimeRow:
    """The time that one method, or the network alone, took for a batch.

    Args:
        name: the method's, or `NETWORK_ALONE`.
        title: name on the page.
        group: of the method.
        cell: the cell that timed it.
        reference: the cell of SMOE Scale, if there is one.
        runs_network: False for a method that never runs the network, and so adds no time to it.
    """

    name: str
    title: str
    group: str
    cell: CellResult
    reference: CellResult | None
    runs_network: bool = True

    @cached_property
    def timing(self) -> Timing:
        """The timed rounds."""
        return timing_of(self.cell)

    @property
    def rounds(self) -> int:
        """Number of rounds, each one sample of the network and one of the map."""
        return len(self.timing.map_ms)

    @property
    def forward_ms(self) -> Quartiles:
        """Time of the network alone in the same rounds, for the whole batch."""
        return Quartiles.of(self.timing.forward_ms)

    @property
    def map_ms(self) -> Quartiles:
        """Time of the maps of the whole batch."""
        return Quartiles.of(self.timing.map_ms)

    @property
    def added_ms(self) -> Quartiles:
        """Time beyond the forward pass of the whole batch, paired by round."""
        return self.timing.added_ms

    @cached_property
    def added(self) -> Interval:
        """Added time in percent of the same round's forward pass."""
        return self.timing.overhead_interval

    @property
    def times_smoe(self) -> Ratio | None:
        """Added time over SMOE Scale's; None if one is missing.

        Both are in forward passes of their own rounds, since methods are timed one after another.
        """
        if self.reference is None or self.name == NETWORK_ALONE or not self.runs_network:
            return None
        return Ratio.of(self.added, timing_of(self.reference).overhead_interval)


@dataclass(frozen=True)
class TimeTable:
    """Times of one setting and batch, a row a method."""

    setting: Setting
    batch: int
    rows: tuple[TimeRow, ...]

    @property
    def title(self) -> str:
        """The setting and batch in words."""
        return f"{self.setting.title}, batch {self.batch}"

    def row(self, name: str) -> TimeRow | None:
        """The row of a method; None if it was not timed."""
        return next((row for row in self.rows if row.name == name), None)


@dataclass(frozen=True)
class CountRow:
    """Operations and memory of one method, or of the network alone, counted for one image.

    Args:
        name: the method's, or `NETWORK_ALONE`.
        title: name on the page.
        group: of the method.
        cell: the cell that counted it.
        network: the cell of the network alone, if there is one.
    """

    name: str
    title: str
    group: str
    cell: CellResult
    network: CellResult | None

    def value(self, metric: str) -> float:
        """The value of a metric."""
        return _value(self.cell, metric)

    def added(self, metric: str) -> float | None:
        """A count less that of the network alone; None for that row, or if it was not counted."""
        if self.name == NETWORK_ALONE or self.network is None:
            return None
        return self.value(metric) - _value(self.network, metric)

    @property
    def added_percent(self) -> float | None:
        """Added operations in percent of the network's multiply-adds.

        As the paper counts, a multiply-add is one operation, and so is any other operation.
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
        """Names of operations that no counting rule covers: the counts are too low by them."""
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

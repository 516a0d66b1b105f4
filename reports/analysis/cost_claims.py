"""The paper's claims and our goals on cost, checked against measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from evaluation.profiling.timing import Interval
from reports.analysis.cost_rows import Ratio, Setting
from reports.analysis.cost_tables import REFERENCE, CostTables

__all__ = ["GOALS", "RATIO_GOALS", "Claim", "Goal", "Verdict", "claims", "judged"]

# The paper's claims: a method's added time is at least so many times SMOE Scale's.
RATIO_GOALS = {"guided-backprop": 97.0, "gradient-sgsq": 1456.0}
_SIZE = 224
_MAIN = "resnet50"
_OTHERS = ("resnet18", "mobilenet_v3_large", "densenet121", "vgg16_bn")

# A measured number with its interval, or a ratio of two; None if it was not measured.
Measured = Interval | Ratio | None
# Looks up the number of a setting and batch.
Found = Callable[[CostTables, Setting, int], Measured]


@dataclass(frozen=True)
class Goal:
    """An upper or lower bound for a measured number.

    Args:
        title: name of the number.
        whose: ``paper`` or ``ours``.
        limit: the bound.
        unit: of it.
        at_most: True for an upper bound, False for a lower one.
        networks: names of the networks that it is set for.
        batches: batch sizes that it is set for; None for a count of one image.
        found: looks the number up.
        on_gpu: True if the goal is for CUDA.
    """

    title: str
    whose: str
    limit: float
    unit: str
    at_most: bool
    networks: tuple[str, ...]
    batches: tuple[int, ...] | None
    found: Found
    on_gpu: bool = False


@dataclass(frozen=True)
class Verdict:
    """The outcome of a number held against its bound.

    Args:
        met: True if the median meets the bound; None if there is no number.
        unsure: True if the bound lies within the number's interval, or the number is a ratio whose
            divisor is not told from 0.

    >>> judged(Interval(1.5, 1.3, 1.8, 0.95), 1.4, at_most=True).words
    'not told'
    """

    met: bool | None
    unsure: bool = False

    @property
    def words(self) -> str:
        """The verdict as the page prints it."""
        if self.met is None:
            return "not told (the divisor may be 0)" if self.unsure else "not measured"
        if self.unsure:
            return "not told"
        return "met" if self.met else "not met"

    @property
    def style(self) -> str:
        """CSS class of the table cell."""
        if self.unsure:
            return "untold"
        return {None: "missing", True: "met", False: "failed"}[self.met]


@dataclass(frozen=True)
class Claim:
    """A goal at one setting and batch, with the number measured there."""

    goal: Goal
    setting: Setting
    batch: int | None
    found: Measured

    @property
    def value(self) -> float | None:
        """The median of the number, or the ratio; None if there is none."""
        return _value(self.found)

    @property
    def verdict(self) -> Verdict:
        """The number held against the goal."""
        return judged(self.found, self.goal.limit, at_most=self.goal.at_most)

    @property
    def ratio(self) -> float | None:
        """The number over its bound; below 1 meets an upper bound."""
        return None if self.value is None else self.value / self.goal.limit


def judged(found: Measured, limit: float, *, at_most: bool) -> Verdict:
    """Hold the median of a number against its bound; a bound within the interval is not told.

    >>> judged(Ratio.of(Interval(9, 8, 10, 0.95), Interval(1, 0, 2, 0.95)), 5, at_most=True).words
    'not told (the divisor may be 0)'
    """
    value = _value(found)
    if found is None or value is None:
        return Verdict(None, unsure=found is not None)
    met = value <= limit if at_most else value >= limit
    return Verdict(met, unsure=found.low < limit < found.high)


def _value(found: Measured) -> float | None:
    return found.value if isinstance(found, Ratio) else None if found is None else found.median


def claims(tables: CostTables) -> Iterator[Claim]:
    """Each goal at each setting that it is set for: 224x224 images, float32, eager."""
    for setting in tables.settings:
        if setting.size != _SIZE or setting.precision != "float32" or setting.compiled:
            continue
        batches = [table.batch for table in tables.of(setting)]
        for goal in GOALS:
            if setting.model not in goal.networks or setting.on_gpu != goal.on_gpu:
                continue
            if goal.batches is None:
                yield Claim(goal, setting, None, goal.found(tables, setting, 1))
                continue
            for batch in batches:
                if batch in goal.batches:
                    yield Claim(goal, setting, batch, goal.found(tables, setting, batch))


def _added(method: str) -> Found:
    """Added time of a method in percent of the forward pass."""

    def found(tables: CostTables, setting: Setting, batch: int) -> Interval | None:
        rows = [t.row(method) for t in tables.of(setting) if t.batch == batch]
        return rows[0].added if rows and rows[0] is not None else None

    return found


def _times_smoe(method: str) -> Found:
    """Added time of a method over SMOE Scale's."""

    def found(tables: CostTables, setting: Setting, batch: int) -> Ratio | None:
        rows = [t.row(method) for t in tables.of(setting) if t.batch == batch]
        return rows[0].times_smoe if rows and rows[0] is not None else None

    return found


def _counted(metric: str, scale: float) -> Found:
    """A count of SMOE Scale for one image, the same in every run."""

    def found(tables: CostTables, setting: Setting, batch: int) -> Interval | None:
        del batch
        row = tables.counted(setting, REFERENCE)
        if row is None:
            return None
        value = row.added_percent if metric == "added_percent" else row.value(metric) / scale
        return None if value is None else Interval(value, value, value, 1.0)

    return found


def _over_channel_sum(tables: CostTables, setting: Setting, batch: int) -> Interval | None:
    return tables.channel_sums.get((setting, batch))


_ALL_BATCHES = (1, 8, 16)
GOALS = (
    Goal("SMOE Scale, added time", "ours", 1.4, "%", True, (_MAIN,), (1,), _added(REFERENCE)),
    Goal("SMOE Scale, added time", "ours", 1.2, "%", True, (_MAIN,), (8, 16), _added(REFERENCE)),
    Goal("SMOE Scale, added time", "ours", 3, "%", True, _OTHERS, _ALL_BATCHES, _added(REFERENCE)),
    Goal("Fast-CAM, added time", "ours", 3, "%", True, (_MAIN,), _ALL_BATCHES, _added("fastcam")),
    *(
        Goal(
            f"{title}, times SMOE Scale's added time",
            *("paper", RATIO_GOALS[name], "×", False, (_MAIN,), _ALL_BATCHES, _times_smoe(name)),
        )
        for name, title in (
            ("guided-backprop", "Guided Backprop"),
            ("gradient-sgsq", "SmoothGrad-Squared, 15 copies"),
        )
    ),
    Goal(
        "SMOE Scale's statistic over one reading of the activations",
        *("ours", 2.5, "×", True, (_MAIN,), (8, 16), _over_channel_sum),
    ),
    Goal(
        "SMOE Scale, memory besides the map, one image",
        *("paper", 117, "kB", True, (_MAIN,), None, _counted("scratch_bytes", 1000)),
    ),
    Goal(
        "SMOE Scale, operations added to the network's multiply-adds",
        *("paper", 1.0, "%", True, (_MAIN,), None, _counted("added_percent", 1)),
    ),
    Goal("SMOE Scale, added time", "ours", 3, "%", True, (_MAIN,), (32,), _added(REFERENCE), True),
)

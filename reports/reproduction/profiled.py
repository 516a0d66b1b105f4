"""Claims on time and memory, checked on runs of `python -m comparisons profile`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from evaluation.profiling.timing import Interval
from reports.analysis.cost_rows import Ratio, Setting
from reports.analysis.cost_tables import REFERENCE, cost_tables
from reports.formatting import digits
from reports.records.run import Run
from reports.reproduction.claims import Claim, command_of, nearest, of_kind, section
from reports.reproduction.counted import GRADIENT, MEMORY_BYTES, OVERHEAD, SMOOTHGRAD

__all__: list[str] = []

# The network and image size that the paper's costs are of.
_NETWORK = "resnet50"
_SIDE = 224
_PLAIN = ("gradient", "guided-backprop")
_SMOOTHED = ("gradient-sg", "gradient-sgsq", "guided-backprop-sg", "guided-backprop-sgsq")


@dataclass(frozen=True)
class _Figure:
    """One number of a profile, with its setting, command, and what its interval tells.

    It is None for a ratio whose divisor may be 0.
    """

    value: float | None
    measured_on: str
    command: str
    note: str = ""
    told: bool = True


@section("Added work and memory, profiled")
def _profiled(runs: Sequence[Run]) -> Iterator[Claim]:
    profiles = [(run, cost_tables(run)) for run in of_kind(runs, "profile")]
    rows = [
        (run, table, row)
        for run, tables in profiles
        for table in tables.times
        if _is_the_papers(table.setting)
        for row in table.rows
    ]
    yield from _bounded(
        "A map adds 0.3 to 1.0 % to a forward pass, in time",
        OVERHEAD,
        "%",
        (
            _Figure(
                row.added.median,
                table.title,
                command_of(run),
                _ends(row.added, "%"),
                _excludes(row.added, OVERHEAD[1]),
            )
            for run, table, row in rows
            if row.name == REFERENCE
        ),
    )
    for names, what, (low, high) in (
        (_PLAIN, "a gradient method", GRADIENT),
        (_SMOOTHED, "SmoothGrad with 15 copies", SMOOTHGRAD),
    ):
        yield from _bounded(
            f"A map adds {low:g} to {high:g} times less than {what}, in time",
            (low, high),
            "times",
            (
                _Figure(
                    ratio.value,
                    f"{row.title}; {table.title}",
                    command_of(run),
                    _ends(ratio, "times"),
                    _excludes(ratio, low),
                )
                for run, table, row in rows
                if row.name in names
                if (ratio := row.times_smoe) is not None
            ),
        )
    yield from _bounded(
        "Memory that a 224x224 image takes beyond the forward pass, besides the returned map",
        (MEMORY_BYTES, MEMORY_BYTES),
        "B",
        (
            _Figure(row.value("scratch_bytes"), f"{setting.title}; counted", command_of(run))
            for run, tables in profiles
            for setting, counts in tables.counts.items()
            if _is_the_papers(setting)
            for row in counts
            if row.name == REFERENCE
        ),
    )


def _is_the_papers(setting: Setting) -> bool:
    """True for the paper's network at its size, eager and in float32."""
    eager = setting.precision == "float32" and not setting.compiled
    return eager and (setting.model, setting.size) == (_NETWORK, _SIDE)


def _excludes(found: Interval | Ratio, bound: float) -> bool:
    return not found.low < bound < found.high


def _ends(found: Interval | Ratio, unit: str) -> str:
    if isinstance(found, Ratio) and found.value is None:
        return "SMOE Scale's added time is not told from 0, which allows any ratio"
    between = f"{digits(found.low)} to {digits(found.high)} {unit}"
    if isinstance(found, Ratio):
        return f"its intervals allow {between}"
    return f"{100 * found.covers:.0f} % interval {between}"


def _bounded(
    statement: str, claimed: tuple[float, float], unit: str, figures: Iterable[_Figure]
) -> Iterator[Claim]:
    """One claim for each figure, or one without a figure.

    A ratio is to be at least the lower end of the paper's range; a share or a size is to be at most
    the upper end.
    """
    low, high = claimed
    at_least = unit == "times"
    common = partial(
        Claim,
        "section 4.1" if unit == "B" else "claims beside Table 6",
        statement,
        "117 kB" if unit == "B" else f"{low:g} to {high:g} {unit}",
        "at least" if at_least else "at most",
        low if at_least else high,
        unit=unit,
    )
    nothing = True
    for figure in figures:
        nothing = False
        yield common(
            ours=figure.value,
            paper=None if figure.value is None else nearest(figure.value, low, high),
            measured_on=figure.measured_on,
            command=figure.command,
            note=figure.note,
            told=figure.told,
            unbounded=figure.value is None,
        )
    if nothing:
        yield common(ours=None, command=f"python -m comparisons profile --model {_NETWORK}")

"""The sheet on a plan's cost: as text in a terminal, as a Markdown page, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from comparisons.estimates.cost import Cost, Line
from comparisons.estimates.memory import device_bytes, memory_words
from comparisons.estimates.throughput import Throughput
from comparisons.methods import get_method, is_method
from comparisons.plans.plan import Plan
from comparisons.text_tables import print_paragraph, print_table
from evaluation.datasets.load import Extent
from reports.formatting import counted, duration, percent

__all__ = ["Sheet"]

_HOUR, _DAY = 3600.0, 86400.0
_GB = 1e9
# Columns of the table of methods: those of time, and those of counts and disk.
_TIMES, _COUNTS = (0, 1, 4, 5, 6, 7), (0, 2, 3, 8, 9)
_Rows = list[tuple[str, ...]]


@dataclass(frozen=True)
class Sheet:
    """The cost of a plan with the numbers that it follows from.

    Args:
        plan: the options.
        extent: numbers of images and classes.
        size: height and width of the images; of volumes three sides, of signals one.
        throughput: images a second and their source.
        cost: of the plan.
        device: of a worker, ``"cpu"`` or ``"cuda"``.
        rank_efficiency: as `cost_of` takes it.
        command: the command as typed.
        free_bytes: memory that is free on the device; None if it was not asked.
    """

    plan: Plan
    extent: Extent
    size: tuple[int, ...]
    throughput: Throughput
    cost: Cost
    device: str
    rank_efficiency: float
    command: str
    free_bytes: int | None = None

    def show(self, console: Console) -> None:
        """Print the sheet."""
        for name, words in self.facts():
            print_paragraph(console, name, words)
        headings, rows = self.lines()
        # Two tables: all ten columns would not fit a terminal of 80.
        for places in _TIMES, _COUNTS:
            console.print()
            chosen = [tuple(row[place] for place in places) for row in (headings, *rows)]
            print_table(console, chosen[0], chosen[1:], total=True)
        console.print()
        print_table(console, *self.finishing())
        console.print()
        for name, words in self.conditions():
            print_paragraph(console, name, words)

    def markdown(self, title: str) -> str:
        """The sheet as a Markdown page.

        Args:
            title: heading of the page.
        """
        parts = [f"# {title}", "Made by", f"```sh\n{self.command}\n```"]
        parts += [f"**{name}:** {words}" for name, words in self.facts()]
        parts += [_markdown(*self.lines(), total=True), "## When it is finished"]
        parts += [_markdown(*self.finishing())]
        parts += [f"**{name}:** {words}" for name, words in self.conditions()]
        return "\n\n".join(parts) + "\n"

    def to_json(self) -> dict[str, Any]:
        """The sheet as a plan file holds it."""
        return {
            "command": self.command,
            "plan": self.plan.to_json(),
            "extent": asdict(self.extent) | {"size": list(self.size)},
            "throughput": self.throughput.to_json(),
            "cost": self._cost_to_json(),
        }

    def facts(self) -> Iterator[tuple[str, str]]:
        """Images, plan, memory, throughput and total cost: a heading and a sentence each."""
        extent, plan = self.extent, self.plan
        source = "counted" if extent.found else "published counts, no file read"
        yield (
            "Images",
            f"{extent.name}: {extent.train:,} for training and {extent.test:,} for testing, of "
            f"{extent.classes:,} classes, {'x'.join(map(str, self.size))} ({source})",
        )
        total = self.cost.total
        modes = " and ".join(mode.upper() for mode in plan.modes)
        what = f"{modes} at {_percents(plan.fractions)} %" if modes else "without retraining"
        trained = (
            f" of {counted(plan.recipe.epochs, 'epoch')} "
            f"({plan.recipe.precision}, batch {plan.recipe.batch_size:,}), "
            f"{total.work.training:,} images through training"
        )
        yield (
            "Plan",
            f"{plan.model}, {counted(len(plan.methods), 'method')}, "
            f"seeds {', '.join(map(str, plan.seeds))}, {what}: "
            f"{counted(total.cells, 'cell')}, {counted(total.trainings, 'training')}"
            f"{trained if total.trainings else ''}, {total.work.gradient:,} forward and "
            f"back to the input, {total.work.forward:,} forward alone",
        )
        yield "Memory", memory_words(self._device_bytes, self.device, self.free_bytes)
        yield "Throughput", "; ".join((self.throughput.words, *self.throughput.notes))
        seconds, what = total.seconds, "GPU" if self.device == "cuda" else "process"
        share = total.training_seconds / seconds if seconds else 0.0
        takes = f"{seconds / _HOUR:,.0f} hours" if seconds >= _DAY else duration(seconds)
        yield (
            "Takes",
            f"{takes} of one {what} in all, training {percent(share)} % of it; "
            f"{_gigabytes(total.stored_bytes)} GB of disk for levels and networks and "
            f"{_gigabytes(total.staged_bytes)} GB for memory maps. By method:",
        )

    @property
    def _device_bytes(self) -> int:
        return device_bytes(self.plan, self.extent, self.size)

    def lines(self) -> tuple[tuple[str, ...], _Rows]:
        """The table of methods: headings, and rows, the last one of the total."""
        unit, one = self._unit
        headings = (
            *(
                "",
                "passes a map",
                "cells",
                "trainings",
                f"training, {unit}",
                f"maps and tests, {unit}",
            ),
            *(f"all, {unit}", "share, %", "kept, GB", "memory maps, GB"),
        )
        rows: _Rows = [
            (
                line.title,
                str(get_method(line.name).passes) if is_method(line.name) else "",
                f"{line.cells:,}",
                f"{line.trainings:,}",
                f"{line.training_seconds / one:,.1f}",
                f"{(line.seconds - line.training_seconds) / one:,.1f}",
                f"{line.seconds / one:,.1f}",
                percent(self.cost.share(line)),
                _gigabytes(line.stored_bytes),
                _gigabytes(line.staged_bytes),
            )
            for line in (*self.cost.lines, self.cost.total)
        ]
        return headings, rows

    @property
    def _unit(self) -> tuple[str, float]:
        """The unit of time in the table, and its seconds."""
        seconds = self.cost.total.seconds
        return ("h", _HOUR) if seconds >= _HOUR else ("min", 60.0) if seconds >= 600 else ("s", 1.0)

    def finishing(self) -> tuple[tuple[str, ...], _Rows]:
        """The table of finishing times: headings, and a row for each number of workers."""
        word = "GPUs" if self.device == "cuda" else "worker processes"
        rows: _Rows = [
            (
                f"{schedule.workers:,}",
                _span(schedule.seconds),
                f"{100 * schedule.busy_share:.0f}",
            )
            for schedule in self.cost.schedules
        ]
        return (word, "finished in", "of that at work, %"), rows

    def conditions(self) -> Iterator[tuple[str, str]]:
        """The longest chain, the assumptions and the omissions: a heading and a text each."""
        chain = self.cost.critical
        steps = ", then ".join(f"{name} ({_span(seconds)})" for name, seconds in chain if seconds)
        if steps:
            whole = sum(seconds for _, seconds in chain)
            yield "Longest chain", f"{steps}: {_span(whole)}, whatever the number of workers"
        yield "Assumed", "; ".join(self._assumed())
        yield "Not counted", "; ".join(self._not_counted())

    def _assumed(self) -> Iterator[str]:
        yield (
            "a worker beside others is as fast as one alone, and finds its images in memory as "
            "fast as the trial did"
            if self.throughput.source == "measured"
            else "every worker has this throughput, and never waits for images"
        )
        ranks = self.plan.recipe.ranks
        if ranks > 1:
            yield (
                f"{ranks} processes that train one network together are "
                f"{ranks * self.rank_efficiency:g} times as fast as one (not measured)"
            )
        yield "every pass back to the input takes what one of the plain gradient takes"
        yield "compressed levels take what they do for a typical choice of methods"

    def _not_counted(self) -> Iterator[str]:
        yield "reading, decoding and staging images; compressing and unpacking levels"
        yield "starting workers; what a cell does once, such as building its network; the report"
        if self.plan.measures:
            yield "what measures without retraining do beside their passes"
        if self.cost.timed_alone:
            alone = counted(self.cost.timed_alone, "cell")
            yield f"{alone} timing each method while nothing else runs"
        fills = {variant.fill for variant in self.plan.all_variants} - {"mean"}
        if fills:
            yield f"making the fill {', '.join(sorted(fills))} at the start of each training"

    def _cost_to_json(self) -> dict[str, Any]:
        cost = self.cost
        return {
            "lines": [self._line_to_json(line) for line in (*cost.lines, cost.total)],
            "trainings": cost.total.trainings,
            "device_seconds": cost.total.seconds,
            "stored_bytes": cost.total.stored_bytes,
            "staged_bytes": cost.total.staged_bytes,
            "device": self.device,
            "device_bytes": self._device_bytes,
            "gang_efficiency": self.rank_efficiency,
            "finished": [
                {"workers": each.workers, "seconds": each.seconds} for each in cost.schedules
            ],
            "longest_chain": [[name, seconds] for name, seconds in cost.critical],
        }

    def _line_to_json(self, line: Line) -> dict[str, Any]:
        return asdict(line) | {"share": self.cost.share(line)}


def _markdown(headings: Sequence[str], rows: _Rows, *, total: bool = False) -> str:
    lines = [headings, ["---", *("---:" for _ in headings[1:])], *rows]
    if total:
        lines[-1] = [cell and f"**{cell}**" for cell in rows[-1]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percents(fractions: Sequence[float]) -> str:
    return ", ".join(f"{100 * fraction:g}" for fraction in fractions)


def _gigabytes(count: float) -> str:
    """Bytes in GB, with two digits below 1 GB.

    >>> _gigabytes(20_480_000_000), _gigabytes(4_700_000)
    ('20.5', '0.0047')
    """
    return f"{count / _GB:,.1f}" if count >= _GB else f"{count / _GB:.2g}"


def _span(seconds: float) -> str:
    """A time in words, in days from two days on.

    >>> _span(90), _span(864_000)
    ('90 s', '10.0 days')
    """
    return f"{seconds / _DAY:,.1f} days" if seconds >= 2 * _DAY else duration(seconds)

"""The top of a page: the ranking by score, a summary, and the best methods beside the controls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evaluation.storage.records import METRICS, Metric
from reports.formatting import counted, estimated_percent, percent, trace
from reports.records.estimates import Estimate, Place, Sums
from reports.records.run import Method, Run

__all__ = [
    "REFERENCES",
    "HeadlineRow",
    "SumsRow",
    "best_places",
    "headline",
    "ranked_by",
    "ranked_sums",
    "summary",
    "time_metric",
]

# Controls that every method is compared with, if the run has them.
REFERENCES = ("random", "centre")
_HEADLINE_METHODS = 5

Costs = Mapping[str, Mapping[str, Estimate]]


@dataclass(frozen=True)
class SumsRow:
    """A method's line in the table of sums."""

    method: Method
    sums: Sums

    @property
    def score(self) -> Estimate | None:
        """The score that the method is ranked by: SUM, or KAR or ROAR if it has one mode."""
        return self.sums.total or self.sums.kar or self.sums.roar

    @property
    def seeds(self) -> str:
        """Number of seeds of the sums, in words."""
        found = (self.sums.kar, self.sums.roar, self.sums.total)
        counts = sorted({len(estimate.seeds) for estimate in found if estimate is not None})
        if counts == [1]:
            return "one seed, no interval"
        return " / ".join(str(count) for count in counts) or "–"


@dataclass(frozen=True)
class HeadlineRow:
    """A method's line in the table at the top."""

    row: SumsRow
    mask_only: Estimate | None
    mask_only_key: str
    time: Estimate | None


def ranked_sums(run: Run) -> list[SumsRow]:
    """All methods with their sums, the best first, those without a SUM last."""
    rows = [
        SumsRow(method, run.sums.get(name, Sums(None, None, None)))
        for name, method in run.methods.items()
    ]

    def rank(row: SumsRow) -> tuple[bool, float]:
        score = row.score
        return row.sums.total is not None, float("-inf") if score is None else score.mean

    return sorted(rows, key=rank, reverse=True)


def ranked_by(rows: Iterable[SumsRow]) -> str:
    """Name of the score that `ranked_sums` ranks by."""
    found = [row.sums for row in rows]
    if any(sums.total for sums in found):
        return "SUM"
    return "KAR score" if any(sums.kar for sums in found) else "ROAR score"


def summary(run: Run) -> list[str]:
    """The methods, images, network and unmasked accuracy of a run in a few sentences."""
    if run.dataset is None:
        return ["Nothing has been measured yet."]
    data = run.data
    images = ""
    if data:
        sides = data.get("size", ())
        size = "×".join(str(side) for side in sides)
        images = (
            f" ({len(data.get('classes', ()))} classes, {_grouped(data.get('train'))} training and "
            f"{_grouped(data.get('test'))} test {run.grid.samples} of {size} {run.grid.elements})"
        )
    controls = len(run.in_group("control"))
    methods = counted(len(run.methods) - controls, "method")
    methods += f" and {counted(controls, 'control')}" if controls else ""
    said = [f"{methods} on {run.dataset}{images} with the network {run.network}."]
    if run.unmasked is not None:
        chance = "" if run.chance is None else f"; chance is {percent(run.chance)} %"
        whole = estimated_percent(run.unmasked)
        said.append(f"Unmasked test accuracy is {whole}{chance}.")
    return said


def time_metric(costs: Costs) -> Metric:
    """The metric of a map's time: timed alone if any was, else as it took in the run."""
    return METRICS["map_ms" if costs["map_ms"] else "attribution_ms"]


def headline(
    run: Run,
    rows: Iterable[SumsRow],
    mask_only_at: tuple[str, float] | None,
    costs: Costs,
) -> list[HeadlineRow]:
    """Lines of the table at the top: the best methods and all controls, in the order of `rows`.

    Args:
        run: the run.
        rows: as `ranked_sums` orders them.
        mask_only_at: mode and fraction of the accuracies from masks alone; None for none.
        costs: estimates by metric and method.
    """
    scored = [row for row in rows if row.score is not None]
    best = [row.method.name for row in scored if row.method.group != "control"]
    shown = set(best[:_HEADLINE_METHODS])
    times = costs[time_metric(costs).name]
    lines = []
    for row in scored:
        name = row.method.name
        if name in shown or row.method.group == "control":
            place = None if mask_only_at is None else (name, *mask_only_at)
            lines.append(
                HeadlineRow(
                    row,
                    None if place is None else run.mask_only_accuracies.get(place),
                    "" if place is None else trace("mask_only_accuracy", *place),
                    times.get(name),
                )
            )
    return lines


def best_places(run: Run) -> set[Place]:
    """The best method of each mode and fraction, controls left out."""
    best = set()
    for mode in run.modes:
        for fraction in run.fractions:
            column = {
                place: estimate.mean
                for place, estimate in run.accuracies.items()
                if place[1:] == (mode, fraction) and run.methods[place[0]].group != "control"
            }
            if column:
                choose = max if mode == "kar" else min
                best.add(choose(column, key=lambda place: column[place]))
    return best


def _grouped(count: int | None) -> str:
    return "an unknown number of" if count is None else f"{count:,}"

"""Which figures the page shows, each as a data URI with its text alternative."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from reports import figures
from reports.formatting import share
from reports.overview import REFERENCES, Costs, SumsRow, time_metric
from reports.reading import GROUPS, Method, Run
from reports.tables import Estimate, Place, differences

__all__ = ["Chart", "cost_chart", "curve_charts", "forest_chart", "mask_only_charts"]

# With more lines than this in a panel nobody can tell them apart.
_MOST_LINES = 6


@dataclass(frozen=True)
class Chart:
    """A figure and what it says to who cannot see it."""

    title: str
    uri: str
    alt: str


def curve_charts(run: Run, unmasked: Estimate | None) -> Iterator[Chart]:
    """ROAR and KAR curves, a figure a group of methods; a large group is split by family."""
    rows = run.records
    rows = rows[(rows["metric"] == "accuracy") & rows["layer"].isna()]
    rows = rows[rows["mode"].isin(list(run.modes))]
    measured = set(rows["method"])
    controls = [method for method in run.in_group("control") if method.name in measured]
    parts = [
        (title, methods)
        for group in GROUPS
        if group != "control"
        for title, methods in _families(
            GROUPS[group], [m for m in run.in_group(group) if m.name in measured]
        )
    ]
    if not parts and controls:
        parts = [(GROUPS["control"], [])]
    for title, methods in parts:
        figure = figures.curves(rows, methods, controls, run.modes, unmasked, run.chance)
        names = ", ".join(method.title for method in (*methods, *controls))
        yield _chart(title, figure, f"Accuracy over the share of the pixels: {names}")


def forest_chart(run: Run) -> Chart | None:
    """Differences of SUM against the controls, paired by seed; None if nothing can be paired."""
    against = {
        reference: found
        for reference in REFERENCES
        if reference in run.methods
        and (found := differences(run.records, run.fractions, reference))
    }
    if not against:
        return None
    return _chart(
        "Differences paired by seed",
        figures.forest(against, run.methods),
        "Difference of SUM against the controls, a point and an interval a method",
    )


def mask_only_charts(
    run: Run, found: Mapping[Place, Estimate], mask_only: Mapping[Place, Estimate]
) -> Iterator[Chart]:
    """Accuracy from the mask alone against accuracy on masked images, where both are known."""
    for mode, fraction in sorted({place[1:] for place in mask_only}, reverse=True):
        places = {name: (name, mode, fraction) for name in run.methods}
        points = {
            name: (100 * mask_only[place].mean, 100 * found[place].mean)
            for name, place in places.items()
            if place in mask_only and place in found
        }
        if points:
            title = f"{mode.upper()} {share(fraction)}"
            figure = figures.scatter(
                points,
                run.methods,
                title=title,
                x_label="test accuracy from the mask alone (%)",
                y_label="test accuracy on masked images (%)",
                x_line=None if run.chance is None else ("chance", 100 * run.chance),
            )
            yield _chart(title, figure, f"Accuracy from the mask alone against accuracy, {title}")


def cost_chart(run: Run, rows: Iterable[SumsRow], costs: Costs) -> Chart | None:
    """SUM against the time of a map; None before both are known of any method."""
    metric = time_metric(costs)
    times = costs[metric.name]
    points = {
        row.method.name: (times[row.method.name].mean, row.sums.total.mean)
        for row in rows
        if row.sums.total is not None
        and row.method.name in times
        and times[row.method.name].mean > 0
    }
    if not points:
        return None
    figure = figures.scatter(
        points,
        run.methods,
        title="Compute against score",
        x_label=f"{metric.title.lower()} (ms)",
        y_label="SUM (higher is better)",
        log_x=True,
    )
    return _chart("Compute against score", figure, "Time of a map against SUM, a point a method")


def _chart(title: str, figure: Figure, alt: str) -> Chart:
    return Chart(title, figures.svg_uri(figure), alt)


def _families(title: str, methods: Sequence[Method]) -> list[tuple[str, list[Method]]]:
    """A group whole, or, where it is large, by what its titles say before the first comma."""
    if len(methods) <= _MOST_LINES:
        return [(title, list(methods))] if methods else []
    families: dict[str, list[Method]] = {}
    for method in methods:
        families.setdefault(method.title.split(",")[0], []).append(method)
    return [(f"{title}: {family}", members) for family, members in families.items()]

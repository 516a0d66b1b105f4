"""Charts of a run's page: figures as data URIs, each with its text alternative."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from reports.analysis.certainty import Certainty
from reports.analysis.overview import REFERENCES, Costs, SumsRow, time_metric
from reports.analysis.quality import QUALITIES, qualities
from reports.figures import drawing
from reports.figures.curves import accuracy_range, curves
from reports.figures.styles import method_styles
from reports.formatting import share
from reports.records.run import Method, Run

__all__ = [
    "Chart",
    "Curves",
    "chart",
    "cost_charts",
    "curve_charts",
    "forest_chart",
    "mask_only_charts",
    "pareto_front",
]

# More lines than this in one panel cannot be told apart.
_MOST_LINES = 8


@dataclass(frozen=True)
class Chart:
    """A figure with its title and text alternative."""

    title: str
    uri: str
    alt: str


@dataclass(frozen=True)
class Curves:
    """The curves of a run: one figure, or a small one for each method.

    Args:
        whole: all methods in one figure; None if they are too many to be told apart.
        multiples: a small figure a method, with the references; empty beside `whole`.
        keyed: methods that the key names, those of every panel.
    """

    whole: Chart | None
    multiples: Sequence[tuple[Method, Chart]]
    keyed: Sequence[Method]


def curve_charts(run: Run) -> Curves | None:
    """ROAR and KAR curves of every method; None before any accuracy was measured."""
    rows = run.accuracy_records
    rows = rows[rows["mode"].isin(list(run.modes))]
    measured = [method for method in run.methods.values() if method.name in set(rows["method"])]
    if not measured:
        return None
    draw = partial(
        curves,
        rows,
        modes=run.modes,
        styles=method_styles(run.methods.values()),
        unmasked=run.unmasked,
        chance=run.chance,
        limits=accuracy_range(rows, run.unmasked, run.chance),
        elements=run.grid.elements,
    )
    share = f"Accuracy over the share of the {run.grid.elements}"
    if len(measured) <= _MOST_LINES:
        names = ", ".join(method.title for method in measured)
        return Curves(
            chart("ROAR and KAR", draw(methods=measured), f"{share}: {names}"), [], measured
        )
    references = [method for method in measured if method.name in REFERENCES]
    # Methods first: controls are what they are compared with.
    others = sorted(
        (method for method in measured if method not in references),
        key=lambda method: method.group == "control",
    )
    return Curves(
        None,
        [
            (
                method,
                chart(
                    method.title,
                    draw(methods=[*references, method], small=True),
                    f"{share}: {method.title}, beside "
                    f"{' and '.join(reference.title for reference in references) or 'no control'}",
                ),
            )
            for method in others
        ],
        references,
    )


def forest_chart(run: Run, certainty: Certainty) -> Chart | None:
    """Differences from the controls, paired by seed; None if nothing can be paired."""
    against = {
        reference: {
            name: difference
            for name, entry in by_method.items()
            if (difference := getattr(entry.sums, certainty.ranked_by)) is not None
        }
        for reference, by_method in certainty.against.items()
    }
    if not against:
        return None
    totals = {row.method.name: row.sums.total for row in certainty.rows}
    # The order of the tables, which is that over common seeds.
    order = [row.method.name for row in certainty.rows]
    unmoved = {
        reference: -total.mean
        for reference in against
        if certainty.ranked_by == "total" and (total := totals[reference]) is not None
    }
    return chart(
        "Differences paired by seed",
        drawing.forest(against, run.methods, order=order, score=certainty.score, unmoved=unmoved),
        f"Difference of {certainty.score} against the controls, a point and an interval a method",
    )


def mask_only_charts(run: Run) -> Iterator[Chart]:
    """Scatter plots of the accuracy from the mask alone against that on masked images."""
    found, mask_only = run.accuracies, run.mask_only_accuracies
    lines = {} if run.unmasked is None else {"unmasked": 100 * run.unmasked.mean}
    lines |= {} if run.chance is None else {"chance": 100 * run.chance}
    for mode, fraction in sorted({place[1:] for place in mask_only}, reverse=True):
        places = {name: (name, mode, fraction) for name in run.methods}
        points = {
            name: (100 * mask_only[place].mean, 100 * found[place].mean)
            for name, place in places.items()
            if place in mask_only and place in found
        }
        if points:
            title = f"{mode.upper()} {share(fraction)}"
            figure = drawing.scatter(
                points,
                run.methods,
                title=title,
                x_label="test accuracy from the mask alone (%)",
                y_label="test accuracy on masked images (%)",
                x_lines=lines,
                y_lines=lines,
            )
            yield chart(title, figure, f"Accuracy from the mask alone against accuracy, {title}")


def cost_charts(run: Run, rows: Iterable[SumsRow], costs: Costs) -> Iterator[Chart]:
    """Scatter plots of the time of a map against its quality, one for each measured quality.

    A method has a thin line for each interval: over seeds, or over images where there is one seed.

    Args:
        run: the run.
        rows: its methods with their sums.
        costs: estimates by metric and method.
    """
    metric = time_metric(costs)
    times = {name: found for name, found in costs[metric.name].items() if found.mean > 0}
    passes = [found.mean for found in costs["forward_ms"].values() if found.mean > 0]
    for name, by_method in qualities(run, rows).items():
        shown = [method for method in run.methods if method in by_method and method in times]
        if not shown:
            continue
        points = {method: (times[method].mean, by_method[method].mean) for method in shown}
        title = f"Cost against quality: {name}"
        figure = drawing.scatter(
            points,
            run.methods,
            title=title,
            x_label=f"{metric.title.lower()} (ms)",
            y_label=QUALITIES[name],
            x_lines={"one forward pass": sum(passes) / len(passes)} if passes else {},
            y_lines={"unmasked or chance at every fraction": 0.0} if name == "SUM" else {},
            front=pareto_front(points.values()),
            spans={
                method: (_above_0(times[method].interval), by_method[method].interval)
                for method in shown
            },
            log_x=True,
        )
        yield chart(
            title,
            figure,
            f"Time of a map against {name}, a point and its intervals a method, and the front that "
            "none beats in both",
        )


def _above_0(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    """An interval that a logarithmic axis can show, or None."""
    return interval if interval is not None and interval[0] > 0 else None


def pareto_front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The Pareto front of points: the first coordinate is to be low, the second high.

    >>> pareto_front([(3, 5), (1, 2), (2, 1), (4, 4)])
    [(1, 2), (3, 5)]
    """
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front


def chart(title: str, figure: Figure, alt: str) -> Chart:
    """A figure as a chart.

    Args:
        title: heading above it.
        figure: the figure.
        alt: its text alternative.
    """
    return Chart(title, drawing.svg_uri(figure), alt)

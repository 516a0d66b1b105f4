"""The picture of cost against quality, of all methods that were measured without retraining.

The command is ``python -m reports.pictures.cost_quality --out FILE``; it measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from evaluation.masking.variants import BLURRED
from reports.analysis.certainty import certainty
from reports.analysis.overview import ranked_sums
from reports.figures.drawing import style, write_svg
from reports.measured.scores import scored
from reports.records.added_times import added_times
from reports.records.estimates import Estimate
from reports.records.reading import read_run
from reports.records.run import Method, Run
from reports.verdicts import title_of

__all__ = ["app", "picture"]

_RECORDED = Path(__file__).parents[1] / "runs"
_PHOTOGRAPHS = _RECORDED / "imagenette-lite0"
_COSTS = _RECORDED / "photographs-costs"
_RETRAINED = _RECORDED / "imagenette-retraining"
# Of the added times.
_THREADS = 1
_SCORES = {"area": "insertion less deletion", "road": "ROAD"}
# Added percent up to which the axis is linear, since the time of a map can be lost in the noise.
_LINEAR_TO = 1.0
_COLOURS = {"smoe": "#0173b2", "cam": "#d55e00", "activation": "#029e73"}
_OTHERS = "#6b6b6b"


@dataclass(frozen=True)
class _Panel:
    """A column of the picture: a value of each method, and those of the controls."""

    title: str
    values: Mapping[str, Estimate]
    controls: Mapping[str, float]


app = typer.Typer(add_completion=False)


def picture(photographs: Path, costs: Path, retrained: Path) -> Figure:
    """A row a method, the cheapest first: time added to a forward pass, and qualities of its map.

    The qualities are insertion less deletion, ROAD and the sum of KAR and ROAR, each with its 95 %
    interval; controls are dotted lines. A method without a time has no row.

    Args:
        photographs: run without retraining, or an archive of it.
        costs: profile of its network, of one image on one thread of a CPU.
        retrained: run of ROAR and KAR; one that does not exist has no panel.

    Raises:
        ValueError: no method has both a time and a quality.
    """
    run = read_run(photographs)
    network = str(run.model)
    times = {
        name: Estimate(own.median, (own.low, own.high), (None,), ())
        for name, by_network in added_times(costs, _THREADS).items()
        if (own := by_network.get(network)) is not None
    }
    qualities = list(_qualities(run))
    methods = dict(run.methods)
    if retrained.exists():
        trained = read_run(retrained)
        methods = {**trained.methods, **methods}
        qualities.append(_retrained(trained))
    rows = [
        methods[name]
        for name in sorted(times, key=lambda name: times[name].mean)
        if any(name in each.values for each in qualities) and methods[name].group != "control"
    ]
    if not rows:
        raise ValueError(
            f"no method of {photographs} has both a time on {network} in {costs} and a quality: "
            f"run python -m comparisons profile --model {network} --batch 1 --threads {_THREADS}"
        )
    with style(9):
        figure = Figure(
            figsize=(2.2 + 2.5 * (1 + len(qualities)), 1.2 + 0.26 * len(rows)),
            layout="constrained",
        )
        first, *others = figure.subplots(1, 1 + len(qualities), sharey=True)
        _draw(first, _Panel("time added to a forward pass (%)", times, {}), rows)
        first.set_xscale("symlog", linthresh=_LINEAR_TO)
        first.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        first.set_yticks(range(len(rows)), [title_of(row) for row in rows])
        first.set_ylim(len(rows) - 0.5, -0.5)
        for axes, panel in zip(others, qualities, strict=True):
            _draw(axes, panel, rows)
            axes.xaxis.set_major_locator(MaxNLocator(4))
    return figure


def _qualities(run: Run) -> Iterator[_Panel]:
    for each in scored(run):
        if each.score.key in _SCORES:
            found = {name: own.estimate for name, own in each.methods.items()}
            yield _panel(run, _SCORES[each.score.key], found)


def _retrained(run: Run) -> _Panel:
    rows = certainty(run, ranked_sums(run)).rows
    found = {row.method.name: row.sums.total for row in rows if row.sums.total is not None}
    return _panel(run, "retrained: KAR + ROAR", found)


def _panel(run: Run, title: str, found: Mapping[str, Estimate]) -> _Panel:
    controls = {
        run.methods[name].title: own.mean
        for name, own in found.items()
        # A blurred form is a control of its method alone.
        if run.methods[name].group == "control" and not name.endswith(BLURRED)
    }
    return _Panel(title, found, controls)


def _draw(axes: Axes, panel: _Panel, rows: Sequence[Method]) -> None:
    for name, value in panel.controls.items():
        axes.axvline(value, color="#7a7a7a", linestyle=":", linewidth=1.2)
        axes.annotate(
            name,
            (value, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -3),
            textcoords="offset points",
            va="top",
            rotation=90,
            color="#7a7a7a",
            fontsize=7.5,
        )
    for place, method in enumerate(rows):
        own = panel.values.get(method.name)
        if own is None:
            continue
        colour = _COLOURS.get(method.group, _OTHERS)
        if own.interval is not None:
            axes.plot(own.interval, (place, place), color=colour, linewidth=1.6)
        axes.plot(own.mean, place, marker="o", color=colour, markersize=5)
    axes.set_title(panel.title)
    axes.margins(x=0.1)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="The SVG file to write.")],
    photographs: Annotated[
        Path, typer.Option(help="Archive of a comparison of --modes none.", show_default=False)
    ] = _PHOTOGRAPHS,
    costs: Annotated[
        Path,
        typer.Option(
            help="Archive of python -m comparisons profile of its network, one image, one thread.",
            show_default=False,
        ),
    ] = _COSTS,
    retrained: Annotated[
        Path, typer.Option(help="Archive of a comparison of ROAR and KAR.", show_default=False)
    ] = _RETRAINED,
) -> None:
    """Draw what each method costs beside what its map is worth; by default from recorded runs."""
    try:
        write_svg(out, picture(photographs, costs, retrained))
    except (OSError, ValueError, KeyError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(out)


if __name__ == "__main__":
    app(prog_name="python -m reports.pictures.cost_quality")

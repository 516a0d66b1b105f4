"""Accuracy and difference from random at each scale, as in the paper's Figure 4."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.analysis.layer_tables import MODES, RANDOM, LayerTable
from reports.figures.drawing import style
from reports.figures.styles import line_styles
from reports.records.estimates import Estimate

__all__ = ["accuracy_figure", "apart", "difference_figure"]

_TITLES = {
    "kar": "KAR: most salient locations pass",
    "roar": "ROAR: least salient locations pass",
}
# In inches: a panel, the names beside it, the height.
_PANEL, _LABELS, _HEIGHT = 2.7, 1.5, 3.7
# Between two names, as a share of a panel's height.
_GAP = 0.062

Value = Callable[[str, str], Estimate | None]


def accuracy_figure(
    table: LayerTable,
    titles: Mapping[str, str],
    base: float | None = None,
    chance: float | None = None,
) -> Figure:
    """Accuracy after fine-tuning at each scale, a panel a mode.

    Args:
        table: the accuracies.
        titles: of the statistics.
        base: accuracy of the network without masks, a line; None for no line.
        chance: accuracy of guessing, likewise.
    """

    def panel(axes: Axes, mode: str) -> None:
        def value(name: str, layer: str) -> Estimate | None:
            return table.accuracy(name, mode, layer)

        _lines(axes, table, titles, (*table.statistics, RANDOM), value)
        if base is not None:
            axes.axhline(100 * base, color="#444444", linewidth=1.2, label="unmasked")
        if chance is not None:
            axes.axhline(100 * chance, color="#444444", linewidth=1, linestyle=":", label="chance")
        axes.set(title=_TITLES[mode])

    return _figure(table, [partial(panel, mode=mode) for mode in MODES], "test accuracy (%)")


def difference_figure(table: LayerTable, titles: Mapping[str, str]) -> Figure:
    """The gain of each statistic over random locations at each scale: the terms of Eq 8."""

    def panel(axes: Axes) -> None:
        _lines(axes, table, titles, table.statistics, lambda n, layer: table.difference(n, [layer]))
        axes.axhline(0, color="black", linewidth=1, linestyle=(0, (5, 2)), label=titles[RANDOM])
        axes.set(title="Difference score of each scale")

    return _figure(table, [panel], "KAR gain + ROAR drop (points)")


def _figure(table: LayerTable, panels: Sequence[Callable[[Axes], None]], label: str) -> Figure:
    width = 0.7 + len(panels) * (_PANEL + _LABELS)
    with style():
        figure = Figure(figsize=(width, _HEIGHT), layout="constrained")
        drawn = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, draw in zip(drawn, panels, strict=True):
            draw(axes)
            axes.set_xticks(range(len(table.layers)), table.layers)
            axes.set_xlabel("scale, the shallowest first")
            axes.margins(x=0.05, y=0.06)
        drawn[0].set_ylabel(label)
        # Limits are shared: labels are laid when every panel is drawn.
        for axes in drawn:
            _label_ends(axes)
    return figure


def _lines(
    axes: Axes, table: LayerTable, titles: Mapping[str, str], names: Sequence[str], value: Value
) -> None:
    styles = line_styles({**dict.fromkeys(table.statistics, False), RANDOM: True})
    for name in names:
        found = {
            place: estimate
            for place, layer in enumerate(table.layers)
            if (estimate := value(name, layer)) is not None
        }
        if not found:
            continue
        look = styles[name]
        means = [100 * estimate.mean for estimate in found.values()]
        halves = [100 * (estimate.half_width or 0.0) for estimate in found.values()]
        axes.errorbar(
            list(found),
            means,
            yerr=halves if any(halves) and look.control else None,
            color=look.colour,
            marker=look.marker,
            markersize=6.5 if look.control else 5,
            linestyle=look.dashes,
            linewidth=1.8 if look.control or name in _EMPHASISED else 1.1,
            label=titles[name],
        )


def _label_ends(axes: Axes) -> None:
    """Name each line beside its right end, with its marker, in the order of the ends."""
    low, high = axes.get_ylim()
    ends = []
    for artist, title in zip(*axes.get_legend_handles_labels(), strict=True):
        line = artist[0] if isinstance(artist, ErrorbarContainer) else artist
        if not isinstance(line, Line2D):
            continue
        x, y = (float(np.asarray(along)[-1]) for along in line.get_data())
        # A line across the panel ends at the frame.
        across = line.get_transform() != axes.transData
        ends.append(((y - low) / (high - low), 1.0 if across else x, across, title, line))
    ends.sort(key=lambda end: end[0])
    places = apart([end[0] for end in ends], _GAP)
    for place, (height, x, across, title, line) in zip(places, ends, strict=True):
        axes.annotate(
            "",
            (x, height if across else low + height * (high - low)),
            xycoords="axes fraction" if across else "data",
            xytext=(1.055, place),
            textcoords="axes fraction",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#8a8a8a", "linewidth": 0.5, "shrinkA": 0},
        )
        axes.text(1.14, place, title, transform=axes.transAxes, va="center", fontsize=8)
        axes.plot(
            *([1.06, 1.12], [place, place]),
            transform=axes.transAxes,
            clip_on=False,
            color=line.get_color(),
            linestyle=line.get_linestyle() if across else "-",
            linewidth=1.2,
            marker=line.get_marker(),
            markevery=[0],
            markersize=5,
        )


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Places in [0, 1] with a least distance, as near as they can be to where they were.

    Args:
        places: in rising order.
        gap: the distance; smaller where so many do not fit.

    >>> [round(place, 2) for place in apart([0.5, 0.5, 0.99], 0.1)]
    [0.45, 0.55, 0.99]
    """
    gap = min(gap, 1 / max(len(places) - 1, 1))
    # Runs of places that touch move together, about their mean.
    runs: list[list[float]] = []
    for place in places:
        runs.append([place])
        while len(runs) > 1 and _start(runs[-1], gap) < _start(runs[-2], gap) + gap * len(runs[-2]):
            last = runs.pop()
            runs[-1] += last
    return [_start(run, gap) + gap * index for run in runs for index in range(len(run))]


def _start(run: Sequence[float], gap: float) -> float:
    """The lowest place of a run whose places are a gap apart, within [0, 1]."""
    length = gap * (len(run) - 1)
    return min(max(sum(run) / len(run) - length / 2, 0.0), 1.0 - length)


_EMPHASISED = ("smoe_scale", "SMOE Scale")

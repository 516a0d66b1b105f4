"""Accuracy and difference from random at each scale, as in the paper's Figure 4."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.analysis.layer_tables import MODES, RANDOM, LayerTable
from reports.figures.drawing import legend_entries, style
from reports.records.estimates import Estimate

__all__ = ["accuracy_figure", "difference_figure"]

_TITLES = {
    "kar": "KAR: most salient locations pass",
    "roar": "ROAR: least salient locations pass",
}
_MARKERS = "osD^vP*Xphd<>"
_PANEL, _HEIGHT, _LEGEND = 3.7, 3.5, 2.2

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
    width = 0.7 + len(panels) * _PANEL + _LEGEND
    with style():
        figure = Figure(figsize=(width, _HEIGHT), layout="constrained")
        drawn = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, draw in zip(drawn, panels, strict=True):
            draw(axes)
            axes.set_xticks(range(len(table.layers)), table.layers)
            axes.set_xlabel("scale, the shallowest first")
        drawn[0].set_ylabel(label)
        artists, labels = legend_entries(drawn)
        figure.legend(artists, labels, loc="outside right upper", frameon=False)
    return figure


def _lines(
    axes: Axes, table: LayerTable, titles: Mapping[str, str], names: Sequence[str], value: Value
) -> None:
    palette = sns.color_palette("husl", max(len(table.statistics), 1))
    for index, name in enumerate(names):
        found = {
            place: estimate
            for place, layer in enumerate(table.layers)
            if (estimate := value(name, layer)) is not None
        }
        if not found:
            continue
        control = name == RANDOM
        means = [100 * estimate.mean for estimate in found.values()]
        halves = [100 * (estimate.half_width or 0.0) for estimate in found.values()]
        axes.errorbar(
            list(found),
            means,
            yerr=halves if any(halves) and control else None,
            color="black" if control else palette[index],
            marker="" if control else _MARKERS[index % len(_MARKERS)],
            markersize=5,
            linestyle=(0, (5, 2)) if control else "-",
            linewidth=1.8 if control or name in _EMPHASISED else 1.1,
            label=titles[name],
        )


_EMPHASISED = ("smoe_scale", "SMOE Scale")

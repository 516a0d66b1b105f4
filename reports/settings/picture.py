"""The picture of cheaper settings: added time against quality, a point a setting."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures.drawing import style
from reports.settings.rows import CENTRE, NETWORKS, QUALITIES, Quality, Row

__all__ = ["picture"]

_COLOURS = {"smoe": "#0173b2", "mean": "#d55e00", "std": "#029e73"}
_LATE = "late"


def picture(rows: Sequence[Row], network: str = "mobilenet_v3_large") -> Figure:
    """Added time on one network against each quality that was measured, a panel a quality.

    A setting is drawn where both its time and the quality were measured: filled for all scales,
    hollow for late ones, with its 95 % intervals. The dotted line is the disk at the centre.

    Args:
        rows: as `reports.settings.rows.rows` gives them.
        network: a key of `NETWORKS`.

    Raises:
        ValueError: no setting has both a time and a quality.
    """
    shown = [
        quality
        for quality in QUALITIES
        if any(network in row.added and quality.key in row.qualities for row in rows)
    ]
    if not shown:
        raise ValueError(
            f"no setting has both a time on {NETWORKS[network]} and a quality: run python -m "
            "comparisons profile and python -m comparisons run as the page says"
        )
    with style():
        figure = Figure(
            figsize=(4.2 * min(2, len(shown)), 3.4 * -(-len(shown) // 2)), layout="constrained"
        )
        panels = figure.subplots(-(-len(shown) // 2), min(2, len(shown)), squeeze=False).ravel()
        for axes, quality in zip(panels, shown, strict=False):
            _panel(axes, rows, quality, network)
        for axes in panels[len(shown) :]:
            axes.axis("off")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
        figure.supxlabel(f"time added to a forward pass of {NETWORKS[network]}, one image (%)")
    return figure


def _panel(axes: Axes, rows: Sequence[Row], quality: Quality, network: str) -> None:
    for row in rows:
        own = row.qualities.get(quality.key)
        if own is None:
            continue
        if row.method == CENTRE:
            axes.axhline(own.value.mean, color="#7a7a7a", linestyle=":", label="centre disk")
            continue
        if network not in row.added:
            continue
        statistic, _, scales = row.method.partition("-")
        colour, x, y = _COLOURS[statistic], row.added[network], own.value
        axes.plot((x.low, x.high), (y.mean, y.mean), color=colour, linewidth=1.2)
        if y.interval is not None:
            axes.plot((x.median, x.median), y.interval, color=colour, linewidth=1.2)
        title = {"smoe": "SMOE Scale", "mean": "mean", "std": "standard deviation"}[statistic]
        axes.plot(
            x.median,
            y.mean,
            marker="o",
            linestyle="none",
            color=colour,
            markerfacecolor="white" if scales == _LATE else colour,
            label=f"{title}, {'late' if scales == _LATE else 'all'} scales",
        )
    axes.set_title(quality.title)
    axes.set_xlim(left=0)

"""Figures of scores (curves, differences, scatter plots), and any figure as an SVG data URI.

Figures are drawn on `Figure` objects: neither a screen nor pyplot's state is needed.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatter, MaxNLocator

from evaluation.scoring.scores import t_interval
from reports.figures.labels import label_points
from reports.records.estimates import Estimate
from reports.records.run import Method

__all__ = [
    "CONTROL_STYLES",
    "curves",
    "forest",
    "legend_entries",
    "scatter",
    "style",
    "svg_uri",
]

MODE_TITLES = {"roar": "ROAR: most salient pixels removed", "kar": "KAR: most salient pixels kept"}

# Controls are black or grey and never share a dash pattern; methods are coloured, solid lines.
CONTROL_STYLES: tuple[tuple[str, str, Any], ...] = (
    ("#000000", "o", (0, (5, 2))),
    ("#000000", "s", (0, (1, 1.2))),
    ("#7a7a7a", "^", (0, (5, 1.5, 1, 1.5))),
    ("#7a7a7a", "D", (0, (3, 1, 1, 1, 1, 1))),
    ("#a8a8a8", "v", (0, (8, 3))),
)
_MARKERS = "osD^vP*Xphd"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "legend.fontsize": 9,
    "svg.hashsalt": "fastsal",
}
# KAR less ROAR of equal accuracies is 0, whether they are all the unmasked one or all chance.
_UNMOVED = "unmasked, chance"
# Of a figure of curves, in inches; the same for every group, so that panels line up.
_PANEL_WIDTH, _PANEL_HEIGHT, _LEFT, _LEGEND, _TOP, _BOTTOM = 3.6, 3.3, 0.65, 3.2, 0.35, 0.55


def svg_uri(figure: Figure) -> str:
    """A figure as ``data:image/svg+xml;base64,...``, the same bytes for the same figure."""
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(
            buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None}
        )
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def curves(
    records: pd.DataFrame,
    methods: Sequence[Method],
    controls: Sequence[Method],
    modes: Sequence[str],
    unmasked: Estimate | None,
    chance: float | None,
) -> Figure:
    """Accuracy over the fraction of the pixels, a panel a mode, as in the paper's Figure 5.

    Args:
        records: accuracy records, one a number.
        methods: coloured lines.
        controls: grey lines, the same in every figure.
        modes: the panels.
        unmasked: accuracy without a mask, a horizontal line; None for no line.
        chance: accuracy of guessing, likewise.

    Returns:
        The figure; bands are Student's 95 % intervals over seeds, absent for one seed.
    """
    rows = records[records["method"].isin([m.name for m in (*methods, *controls)])].copy()
    rows["percent"] = rows["fraction"].astype(float) * 100
    rows["value"] = rows["value"].astype(float) * 100
    ticks = sorted(rows["percent"].dropna().unique().tolist())
    with style():
        width = _LEFT + len(modes) * _PANEL_WIDTH + _LEGEND
        height = _TOP + _PANEL_HEIGHT + _BOTTOM
        figure = Figure(figsize=(width, height))
        panels = figure.subplots(1, len(modes), sharey=True, squeeze=False)[0]
        figure.subplots_adjust(
            left=_LEFT / width,
            right=1 - _LEGEND / width,
            bottom=_BOTTOM / height,
            top=1 - _TOP / height,
            wspace=0.06,
        )
        for axes, mode in zip(panels, modes, strict=True):
            of_mode = rows[rows["mode"] == mode]
            for index, method in enumerate(controls):
                colour, marker, dashes = CONTROL_STYLES[index % len(CONTROL_STYLES)]
                _line(axes, of_mode, method, colour, marker, dashes)
            palette = sns.color_palette("colorblind", max(len(methods), 1))
            for index, method in enumerate(methods):
                _line(axes, of_mode, method, palette[index], _MARKERS[index % len(_MARKERS)], "-")
            _reference_lines(axes, unmasked, chance)
            kept = "removed" if mode == "roar" else "kept"
            axes.set(title=MODE_TITLES[mode], xlabel=f"pixels {kept} (%)", xticks=ticks)
            axes.set(xlim=(0, 100), ylabel="")
        panels[0].set_ylabel("test accuracy after retraining (%)")
        artists, labels = legend_entries(panels)
        if labels:
            figure.legend(
                artists,
                labels,
                loc="upper left",
                bbox_to_anchor=(1 - (_LEGEND - 0.05) / width, 1 - _TOP / height),
                frameon=False,
            )
    return figure


def forest(
    differences: Mapping[str, Mapping[str, Estimate]],
    methods: Mapping[str, Method],
    *,
    score: str,
    unmoved: Mapping[str, float],
) -> Figure:
    """Paired differences of a score with 95 % intervals, a panel a reference.

    Args:
        differences: for each reference, estimates by method.
        methods: for the titles.
        score: name of the score.
        unmoved: for each reference, the difference of a network whose accuracy no mask changes.

    Returns:
        The figure; methods sorted by the first reference, ties as they come. A hollow point is one
        seed.
    """
    first = next(iter(differences.values()))
    names = sorted(
        dict.fromkeys(name for of_reference in differences.values() for name in of_reference),
        key=lambda name: first[name].mean if name in first else 0.0,
    )
    with style():
        figure = Figure(
            figsize=(3.6 * len(differences) + 2.2, 0.24 * len(names) + 0.9), layout="constrained"
        )
        panels = figure.subplots(1, len(differences), sharey=True, squeeze=False)[0]
        for axes, (reference, estimates) in zip(panels, differences.items(), strict=True):
            axes.axvline(0, color="black", linewidth=1)
            if reference in unmoved:
                _marked_lines(axes, {_UNMOVED: unmoved[reference]}, vertical=True)
            for place, name in enumerate(names):
                if name not in estimates:
                    continue
                found = estimates[name]
                colour = "#0173b2" if found.mean >= 0 else "#d55e00"
                if found.interval is not None:
                    axes.plot(found.interval, (place, place), color=colour, linewidth=1.6)
                axes.plot(
                    found.mean,
                    place,
                    "o",
                    color=colour,
                    markerfacecolor="white" if found.interval is None else colour,
                )
            axes.set(title=f"against {methods[reference].title}", xlabel=f"difference of {score}")
            axes.set_yticks(range(len(names)), [methods[name].title for name in names])
            axes.set_ylim(-0.7, len(names) - 0.3)
            axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure


def scatter(
    points: Mapping[str, tuple[float, float]],
    methods: Mapping[str, Method],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_lines: Mapping[str, float] | None = None,
    y_lines: Mapping[str, float] | None = None,
    front: Sequence[tuple[float, float]] = (),
    log_x: bool = False,
) -> Figure:
    """Labelled points, one a method; controls are black.

    Args:
        points: ``(x, y)`` by method.
        methods: for titles and groups.
        title: of the panel.
        x_label: with its unit.
        y_label: with its unit.
        x_lines: x of vertical lines by name, such as chance.
        y_lines: y of horizontal lines by name.
        front: the Pareto front, from the left, joined by steps.
        log_x: make the x axis logarithmic.
    """
    groups = list(dict.fromkeys(methods[name].group for name in points))
    palette = sns.color_palette("colorblind")
    with style():
        figure = Figure(figsize=(8.8, 5.4), layout="constrained")
        axes = figure.subplots()
        _marked_lines(axes, x_lines or {}, vertical=True)
        _marked_lines(axes, y_lines or {}, vertical=False)
        if front:
            across, up = zip(*front, strict=True)
            axes.step(across, up, where="post", color="#0173b2", linewidth=1, alpha=0.5, zorder=1)
        for name, (x, y) in points.items():
            group = methods[name].group
            colour = "black" if group == "control" else palette[groups.index(group)]
            axes.plot(x, y, _MARKERS[groups.index(group)], color=colour, markersize=6)
        if log_x:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(
                LogFormatter(labelOnlyBase=False, minor_thresholds=(1.5, 0.6))
            )
        axes.margins(x=0.1, y=0.08)
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        label_points(axes, {methods[name].title: point for name, point in points.items()})
    return figure


def _marked_lines(axes: Axes, lines: Mapping[str, float], *, vertical: bool) -> None:
    """Draw dotted lines across the panel, each with its name at its lower or left end."""
    for name, place in lines.items():
        draw = axes.axvline if vertical else axes.axhline
        draw(place, color="#7a7a7a", linestyle=":", linewidth=1.2)
        along: Any = ("data", "axes fraction") if vertical else ("axes fraction", "data")
        axes.annotate(
            name,
            (place, 0) if vertical else (0, place),
            xycoords=along,
            xytext=(3, 4),
            textcoords="offset points",
            rotation=90 if vertical else 0,
            color="#7a7a7a",
            fontsize=8,
        )


def legend_entries(panels: Iterable[Axes]) -> tuple[list[Artist], list[str]]:
    """The artists and labels of several panels, each label once."""
    found: dict[str, Artist] = {}
    for axes in panels:
        artists, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, artists, strict=True))
    return list(found.values()), list(found)


def style() -> AbstractContextManager[None]:
    """The fonts and grid of all figures of scores, while the block runs."""
    return mpl.rc_context({**sns.axes_style("whitegrid"), **_STYLE})


def _line(
    axes: Axes, rows: pd.DataFrame, method: Method, colour: Any, marker: str, dashes: Any
) -> None:
    own = rows[rows["method"] == method.name]
    if own.empty:
        return
    sns.lineplot(
        data=own,
        x="percent",
        y="value",
        errorbar=_interval,
        ax=axes,
        color=colour,
        marker=marker,
        markersize=5,
        markeredgewidth=0,
        linestyle=dashes,
        linewidth=1.6,
        err_kws={"alpha": 0.15, "linewidth": 0},
        label=method.title,
        legend=False,
    )


def _interval(values: Iterable[float]) -> tuple[float, float]:
    return t_interval(values) or (math.nan, math.nan)


def _reference_lines(axes: Axes, unmasked: Estimate | None, chance: float | None) -> None:
    if unmasked is not None:
        axes.axhline(100 * unmasked.mean, color="#444444", linewidth=1.2, label="unmasked")
        if unmasked.interval is not None:
            axes.axhspan(*(100 * end for end in unmasked.interval), color="#444444", alpha=0.12)
    if chance is not None:
        axes.axhline(100 * chance, color="#444444", linewidth=1, linestyle=":", label="chance")

"""Figures of scores (differences, scatter plots), and any figure as an SVG data URI.

Figures are drawn on `Figure` objects: neither a screen nor pyplot's state is needed.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatter, MaxNLocator

from evaluation.storage.writing import write_atomically
from reports.figures.labels import label_points
from reports.figures.styles import method_styles
from reports.formatting import counted
from reports.records.estimates import Estimate
from reports.records.run import Method

__all__ = [
    "forest",
    "scatter",
    "style",
    "svg_bytes",
    "svg_uri",
    "write_svg",
]

_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "legend.fontsize": 9,
    "svg.hashsalt": "fastsal",
    # A folder or class may have dollar signs in its name.
    "text.parse_math": False,
}
# KAR less ROAR of equal accuracies is 0, whether they are all the unmasked one or all chance.
_UNMOVED = "unmasked, chance"


def svg_uri(figure: Figure) -> str:
    """A figure as ``data:image/svg+xml;base64,...``."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg_bytes(figure)).decode("ascii")


def write_svg(path: Path, figure: Figure) -> None:
    """Write a figure as an SVG file, whole or not at all."""
    drawn = svg_bytes(figure)
    write_atomically(path, lambda file: file.write(drawn))


def svg_bytes(figure: Figure) -> bytes:
    """A figure as an SVG file's content, the same bytes for the same figure."""
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(
            buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None}
        )
    return buffer.getvalue()


def forest(
    differences: Mapping[str, Mapping[str, Estimate]],
    methods: Mapping[str, Method],
    *,
    order: Sequence[str],
    score: str,
    unmoved: Mapping[str, float],
) -> Figure:
    """Paired differences of a score with 95 % intervals, a panel a reference.

    Args:
        differences: for each reference, estimates by method.
        methods: all of the page, for titles and styles.
        order: of the methods, from top to bottom.
        score: name of the score.
        unmoved: for each reference, the difference of a network whose accuracy no mask changes.

    Returns:
        The figure; with the number of seeds of each method where it differs. A hollow point is
        one seed.
    """
    styles = method_styles(methods.values())
    seeds = {
        name: len(found.seeds)
        for of_reference in reversed(list(differences.values()))
        for name, found in of_reference.items()
    }
    # The second reference may have no difference from the first.
    names = [name for name in reversed(order) if name in seeds]
    labels = [
        f"{methods[name].title}, {counted(seeds[name], 'seed')}"
        if len(set(seeds.values())) > 1
        else methods[name].title
        for name in names
    ]
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
                colour = styles[name].colour
                if found.interval is not None:
                    axes.plot(found.interval, (place, place), color=colour, linewidth=1.6)
                axes.plot(
                    found.mean,
                    place,
                    marker=styles[name].marker,
                    markersize=7 if styles[name].control else 6,
                    color=colour,
                    markerfacecolor="white" if found.interval is None else colour,
                )
            axes.set(title=f"against {methods[reference].title}", xlabel=f"difference of {score}")
            axes.set_yticks(range(len(names)), labels)
            axes.set_ylim(-0.7, len(names) - 0.3)
            axes.margins(x=0.08)
            axes.xaxis.set_major_locator(MaxNLocator(5, min_n_ticks=3))
    return figure


# An interval; None if there is none.
Span = tuple[float, float] | None


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
    spans: Mapping[str, tuple[Span, Span]] | None = None,
    log_x: bool = False,
) -> Figure:
    """Labelled points, one a method, in its colour and marker.

    Args:
        points: ``(x, y)`` by method.
        methods: all of the page, for titles and styles.
        title: of the panel.
        x_label: with its unit.
        y_label: with its unit.
        x_lines: x of vertical lines by name, such as chance.
        y_lines: y of horizontal lines by name.
        front: the Pareto front, from the left, joined by steps.
        spans: the intervals of x and of y by method, drawn as thin lines; None for none.
        log_x: make the x axis logarithmic.
    """
    styles = method_styles(methods.values())
    with style():
        figure = Figure(figsize=(8.8, 5.4), layout="constrained")
        axes = figure.subplots()
        _marked_lines(axes, x_lines or {}, vertical=True)
        _marked_lines(axes, y_lines or {}, vertical=False)
        if front:
            across, up = zip(*front, strict=True)
            axes.step(across, up, where="post", color="#0173b2", linewidth=1, alpha=0.5, zorder=1)
        for name, (across_span, up_span) in (spans or {}).items():
            x, y = points[name]
            for along, other in ((across_span, (y, y)), ((x, x), up_span)):
                if along is not None and other is not None:
                    axes.plot(along, other, color=styles[name].colour, linewidth=1, alpha=0.6)
        for name, (x, y) in points.items():
            look = styles[name]
            size = 8 if look.control else 6.5
            axes.plot(x, y, marker=look.marker, color=look.colour, markersize=size)
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


def style(font_size: float = 10) -> AbstractContextManager[None]:
    """The fonts and grid of all figures of scores, while the block runs.

    Args:
        font_size: in points.
    """
    sizes: dict[Any, Any] = {"font.size": font_size, "axes.titlesize": 1.1 * font_size}
    return mpl.rc_context({**sns.axes_style("whitegrid"), **_STYLE, **sizes})

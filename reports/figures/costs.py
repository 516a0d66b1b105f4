"""Figures of costs on a logarithmic axis: added time and memory, a point a method."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from reports.analysis.cost_rows import NETWORK_ALONE, CountRow, TimeTable
from reports.formatting import quantity

__all__ = ["added_time_figure", "memory_figure"]

# A smaller added time is drawn at the end of the axis, hollow.
_LEAST_PERCENT = 0.1
_LEAST_BYTES = 1024.0


def added_time_figure(tables: Sequence[TimeTable]) -> Figure:
    """Added time in percent of the forward pass, a colour a batch, with 95 % intervals as lines.

    A point is hollow if its interval holds 0. Methods that do not run the network are left out.

    Args:
        tables: of one setting.
    """
    rows = [
        {
            "method": row.title,
            "batch": str(table.batch),
            "value": max(row.added.median, _LEAST_PERCENT),
            "low": max(row.added.low, _LEAST_PERCENT),
            "high": max(row.added.high, _LEAST_PERCENT),
            "sure": row.added.low > 0,
        }
        for table in tables
        for row in table.rows
        if row.name != NETWORK_ALONE and row.runs_network
    ]
    return _points(
        pd.DataFrame(rows),
        "added time (% of a forward pass)",
        lambda value: f"{value:g}" if value > _LEAST_PERCENT else f"{value:g} or less",
        base=10,
    )


def memory_figure(rows: Sequence[CountRow]) -> Figure:
    """Peak memory of one image in bytes beyond the forward pass.

    Args:
        rows: of one setting.
    """
    frame = [
        {
            "method": row.title,
            "batch": "1",
            "value": max(row.value("peak_bytes"), _LEAST_BYTES),
            "sure": True,
        }
        for row in rows
        if row.name != NETWORK_ALONE
    ]
    return _points(
        pd.DataFrame(frame),
        "peak memory of one image beyond the forward pass",
        lambda value: quantity(value, "B"),
        base=2,
    )


def _points(frame: pd.DataFrame, label: str, tick: Callable[[float], str], *, base: int) -> Figure:
    order = frame.groupby("method", sort=False)["value"].median().sort_values().index.tolist()
    batches = list(dict.fromkeys(frame["batch"]))
    colours = sns.color_palette("colorblind", len(batches))
    style = {
        **sns.axes_style("whitegrid"),
        "font.size": 10,
        "svg.hashsalt": "fastsal",
        "text.parse_math": False,
    }
    with mpl.rc_context(style):
        height = 0.9 + len(order) * (0.16 + 0.12 * len(batches)) + 0.3 * (len(batches) > 1)
        figure = Figure(figsize=(8.4, height), layout="constrained")
        axes = figure.subplots()
        sns.pointplot(
            frame,
            x="value",
            y="method",
            hue="batch",
            order=order,
            hue_order=batches,
            palette=colours,
            dodge=0.5 if len(batches) > 1 else False,
            linestyle="none",
            marker="none",
            errorbar=None,
            legend=False,
            ax=axes,
        )
        for index, (batch, colour) in enumerate(zip(batches, colours, strict=True)):
            shift = 0.5 * (index / (len(batches) - 1) - 0.5) if len(batches) > 1 else 0.0
            own = frame[frame["batch"] == batch]
            places = [order.index(method) + shift for method in own["method"]]
            if "low" in own:
                axes.hlines(places, own["low"], own["high"], color=colour, linewidth=1.6)
            for sure in (True, False):
                chosen = (own["sure"] == sure).to_numpy()
                axes.plot(
                    own["value"].to_numpy()[chosen],
                    [place for place, wanted in zip(places, chosen, strict=True) if wanted],
                    linestyle="none",
                    marker="o",
                    markersize=5.5,
                    markerfacecolor=colour if sure else "white",
                    markeredgecolor=colour,
                    label=batch if sure else None,
                )
        _log_axis(axes, tick, base)
        axes.set(xlabel=label, ylabel="")
        axes.yaxis.grid(True, color="#eeeeee")
        if len(batches) > 1:
            # Outside the axes, where the legend covers nothing.
            figure.legend(title="images at once", loc="outside lower center", ncols=len(batches))
    return figure


def _log_axis(axes: Axes, tick: Callable[[float], str], base: int) -> None:
    axes.set_xscale("log", base=base)
    # One tick in four powers of two.
    low, high = axes.get_xlim()
    step = 1 if base == 10 else 4
    first, last = (math.log(end, base) / step for end in (low, high))
    ticks = [float(base) ** (step * place) for place in range(math.ceil(first), int(last) + 1)]
    if base == 10:
        ticks = sorted({_LEAST_PERCENT, *ticks})
    axes.set_xticks(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axes.set_xlim(low, high)

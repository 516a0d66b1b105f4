"""Figures of costs: a bar a method, on a logarithmic axis, since they span four decades."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from reports.cost_reading import NETWORK_ALONE, CostTable
from reports.formatting import quantity

__all__ = ["added_time_figure", "memory_figure"]

# Below this an overhead is not told from none; bars start here.
_LEAST_PERCENT = 0.1
_LEAST_BYTES = 1024.0


def added_time_figure(tables: Sequence[CostTable]) -> Figure:
    """Added time in percent of the forward pass, a colour a batch; lines are quartiles.

    Args:
        tables: of one network, size, precision and device.
    """
    rows = [
        {
            "method": row.title,
            "batch": str(table.place["batch"]),
            "value": max(row.overhead_percent.median, _LEAST_PERCENT),
            "low": max(row.overhead_percent.low, _LEAST_PERCENT),
            "high": max(row.overhead_percent.high, _LEAST_PERCENT),
        }
        for table in tables
        for row in table.rows
        if row.name != NETWORK_ALONE
    ]
    return _bars(rows, "added time (% of a forward pass)", lambda value: f"{value:g}")


def memory_figure(tables: Sequence[CostTable]) -> Figure:
    """Peak bytes an image beyond the forward pass, a colour a batch.

    Args:
        tables: of one network, size, precision and device.
    """
    rows = [
        {
            "method": row.title,
            "batch": str(table.place["batch"]),
            "value": max(row.value("peak_bytes"), _LEAST_BYTES),
        }
        for table in tables
        for row in table.rows
        if row.name != NETWORK_ALONE
    ]
    return _bars(rows, "peak memory an image beyond the forward pass", lambda v: quantity(v, "B"))


def _bars(rows: Sequence[dict[str, object]], label: str, tick: object) -> Figure:
    frame = pd.DataFrame(rows)
    order = frame.groupby("method", sort=False)["value"].median().sort_values().index.tolist()
    batches = list(dict.fromkeys(frame["batch"]))
    style = {**sns.axes_style("whitegrid"), "font.size": 10, "svg.hashsalt": "fastsal"}
    with mpl.rc_context(style):
        height = 0.9 + len(order) * (0.14 + 0.14 * len(batches))
        figure = Figure(figsize=(8.4, height), layout="constrained")
        axes = figure.subplots()
        sns.barplot(
            frame,
            x="value",
            y="method",
            hue="batch",
            order=order,
            hue_order=batches,
            palette=sns.color_palette("colorblind", len(batches)),
            errorbar=None,
            ax=axes,
        )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))  # type: ignore[operator]
        axes.set(xlabel=label, ylabel="")
        if "low" in frame:
            _quartiles(axes.containers, frame, order, batches)
        axes.legend(title="images at once", loc="upper right")
    return figure


def _quartiles(
    containers: Sequence[object], frame: pd.DataFrame, order: Sequence[str], batches: Sequence[str]
) -> None:
    """A line from the lower to the upper quartile over each bar."""
    spans = {
        (row["method"], row["batch"]): (row["low"], row["high"]) for _, row in frame.iterrows()
    }
    for batch, bars in zip(batches, containers, strict=False):
        for bar in bars:  # type: ignore[attr-defined]
            middle = bar.get_y() + bar.get_height() / 2
            place = round(middle)
            if 0 <= place < len(order) and (order[place], batch) in spans:
                low, high = spans[order[place], batch]
                bar.axes.plot((low, high), (middle, middle), color="#222222", linewidth=1.2)

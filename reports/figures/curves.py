"""Accuracy over the share of the pixels: all methods in one figure, or a small one for each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evaluation.scoring.scores import t_interval
from reports.figures.drawing import style
from reports.figures.styles import LineStyle
from reports.records.estimates import Estimate
from reports.records.run import Method

__all__ = ["accuracy_range", "curves"]

# In inches: a panel, and the same in a small figure.
_PANEL, _SMALL = (4.4, 3.4), (1.72, 1.5)
# Of the axis on both sides, as a share of it, so that no marker at an end is cut.
_MARGIN = 0.04
# The greatest share of the pixels up to which the axis ends there: on the whole axis points of 3
# and 10 % alone would lie on one another.
_FEW = 50.0


def accuracy_range(
    records: pd.DataFrame, unmasked: Estimate | None, chance: float | None
) -> tuple[float, float]:
    """The least and greatest accuracy in percent that panels show, with a margin.

    Args:
        records: accuracy records.
        unmasked: accuracy without a mask.
        chance: accuracy of guessing.
    """
    values = [100 * float(value) for value in records["value"]]
    values += [100 * unmasked.mean] if unmasked is not None else []
    values += [100 * chance] if chance is not None else []
    low, high = min(values, default=0.0), max(values, default=100.0)
    margin = max(0.06 * (high - low), 1.0)
    return low - margin, high + margin


def curves(
    records: pd.DataFrame,
    methods: Sequence[Method],
    modes: Sequence[str],
    *,
    styles: Mapping[str, LineStyle],
    unmasked: Estimate | None,
    chance: float | None,
    limits: tuple[float, float],
    elements: str = "pixels",
    small: bool = False,
) -> Figure:
    """Accuracy over the fraction of the pixels, a panel a mode, as in the paper's Figure 5.

    Args:
        records: accuracy records, one a number.
        methods: lines, the last on top.
        modes: the panels.
        styles: of the methods by name.
        unmasked: accuracy without a mask, a horizontal line; None for no line.
        chance: accuracy of guessing, likewise.
        limits: of the accuracy axis, in percent; the same in figures that are compared.
        elements: that are removed or kept, in words.
        small: a figure of the small multiples, with the band of its last method alone.

    Returns:
        The figure, without a key; bands are Student's 95 % intervals over seeds, cut at the limits
        and absent for one seed.
    """
    rows = records[records["method"].isin([method.name for method in methods])].copy()
    rows["percent"] = rows["fraction"].astype(float) * 100
    rows["value"] = rows["value"].astype(float) * 100
    width, height = _SMALL if small else _PANEL
    greatest = float(rows["percent"].max())
    end = greatest if greatest <= _FEW else 100.0
    with style(font_size=7.5 if small else 10):
        figure = Figure(figsize=(len(modes) * width, height), layout="constrained")
        panels = figure.subplots(1, len(modes), sharey=True, squeeze=False)[0]
        for axes, mode in zip(panels, modes, strict=True):
            of_mode = rows[rows["mode"] == mode]
            for place, method in enumerate(methods, 1):
                own = of_mode[of_mode["method"] == method.name]
                banded = not small or place == len(methods)
                _line(axes, own, method, styles[method.name], banded=banded, small=small)
            _reference_lines(axes, unmasked, chance)
            kept = "removed" if mode == "roar" else "kept"
            title = mode.upper() if small else f"{mode.upper()}: most salient {elements} {kept}"
            axes.set(title=title, xlabel=f"{elements} {kept} (%)")
            axes.set(xlim=(-_MARGIN * end, (1 + _MARGIN) * end), ylim=limits, ylabel="")
            ticks = (0, end / 2, end) if small else sorted({0.0, *rows["percent"].dropna(), end})
            axes.set_xticks(list(ticks))
            axes.yaxis.set_major_locator(MaxNLocator(4 if small else 7, min_n_ticks=3))
        panels[0].set_ylabel("accuracy (%)" if small else "test accuracy after retraining (%)")
    return figure


def _line(
    axes: Axes, own: pd.DataFrame, method: Method, look: LineStyle, *, banded: bool, small: bool
) -> None:
    if own.empty:
        return
    sns.lineplot(
        data=own,
        x="percent",
        y="value",
        errorbar=_interval if banded else None,
        ax=axes,
        color=look.colour,
        marker=look.marker,
        markersize=(4 if small else 6.5) + 1.5 * look.control,
        markeredgewidth=0,
        linestyle=look.dashes,
        linewidth=1.2 if small and look.control else 1.6,
        err_kws={"alpha": 0.15, "linewidth": 0},
        label=method.title,
        legend=False,
    )


def _interval(values: Iterable[float]) -> tuple[float, float]:
    return t_interval(values) or (math.nan, math.nan)


def _reference_lines(axes: Axes, unmasked: Estimate | None, chance: float | None) -> None:
    if unmasked is not None:
        axes.axhline(100 * unmasked.mean, color="#444444", linewidth=1.2, label="unmasked")
    if chance is not None:
        axes.axhline(100 * chance, color="#444444", linewidth=1, linestyle=":", label="chance")

"""The figure of measures without retraining: ranks of methods, and maps after randomisation."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["measures_figure"]

_LINE = 22


def measures_figure(
    titles: Mapping[str, str],
    ranked: Mapping[str, Mapping[str, float]],
    kept: Mapping[str, Mapping[str, float]],
) -> Figure:
    """Two heat maps beside each other, a row a method.

    Args:
        titles: of the methods by name, in the order of the rows.
        ranked: values by measure and method, higher for a better method.
        kept: Spearman's correlation of the maps before and after, by the randomised part and
            method.

    Returns:
        The figure; values that were not measured are blank.
    """
    ranks = _frame(titles, ranked).rank(ascending=False, method="average")
    left = _frame(titles, kept)
    # Methods without any value have no row.
    some = ranks.notna().any(axis=1) | left.notna().any(axis=1)
    panels = [
        (frame[some], options)
        for frame, options in (
            (
                ranks,
                {
                    "title": "Rank under each measure (1 is best)",
                    "cmap": "crest",
                    "fmt": ".3g",
                    "vmin": 1,
                    "vmax": max(2, len(titles)),
                },
            ),
            (
                left,
                {
                    "title": "Spearman, before and after randomising",
                    "cmap": "vlag",
                    "fmt": ".2f",
                    "vmin": -1,
                    "vmax": 1,
                },
            ),
        )
        if frame.size
    ]
    style = {
        **sns.axes_style("white"),
        "font.size": 9,
        "svg.hashsalt": "fastsal",
        "text.parse_math": False,
    }
    with mpl.rc_context(style):
        columns = [len(frame.columns) for frame, _ in panels]
        figure = Figure(
            figsize=(2.6 + 0.55 * sum(columns), 2.3 + 0.3 * int(some.sum())), layout="constrained"
        )
        drawn = figure.subplots(
            1, len(panels), squeeze=False, sharey=True, gridspec_kw={"width_ratios": columns}
        )[0]
        for axes, (frame, options) in zip(drawn, panels, strict=True):
            _heat_map(axes, frame, options)
    return figure


def _heat_map(axes: Axes, frame: pd.DataFrame, options: Mapping[str, object]) -> None:
    given = dict(options)
    axes.set_title(str(given.pop("title")), fontsize=10)
    sns.heatmap(
        frame, ax=axes, annot=True, cbar=False, linewidths=0.5, annot_kws={"fontsize": 8}, **given
    )
    axes.set(xlabel="", ylabel="")
    labels = [textwrap.fill(str(name), _LINE) for name in frame.columns]
    axes.set_xticks(axes.get_xticks(), labels, rotation=40, ha="right", rotation_mode="anchor")
    axes.tick_params(axis="y", rotation=0)


def _frame(titles: Mapping[str, str], columns: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """A data frame with a row a method, under its title, and a column an entry; else NaN."""
    frame = pd.DataFrame(
        {name: pd.Series(dict(values), dtype="float64") for name, values in columns.items()},
        index=list(titles),
    )
    named: pd.DataFrame = frame.set_axis(list(titles.values()), axis=0)
    return named

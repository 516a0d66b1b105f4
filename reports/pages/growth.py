"""The page on the growth of time and memory: tables, a figure, and the machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evaluation.storage.writing import write_atomically
from reports.figures.drawing import svg_bytes
from reports.formatting import counted
from reports.pages.reading import reading_section

__all__ = [
    "COLUMNS",
    "MACHINE",
    "TABLE",
    "efficiencies",
    "read_growth",
    "write_growth",
    "write_table",
]

# Columns of the table: those of the machine, and all.
MACHINE = ("processor", "processors", "system", "python", "torch", "fastsal")
COLUMNS = (
    *("series", "value", "engine", "workers", "run", *MACHINE),
    *("total_s", "start_s", "run_s", "cells", "cells_s", "between_s"),
    *("largest_mib", "all_mib", "disk_mib"),
)
# The name of the file in the folder of the page.
TABLE = "growth.csv"
_FIGURE = "growth.svg"
_PAGE = "README.md"
_GROWING = {"images": "training images", "methods": "methods", "fractions": "fractions"}
_HEADINGS = {
    "run_s": "after the start, s",
    "start_s": "start, s",
    "cells": "cells",
    "cells_s": "in cells, s",
    "largest_mib": "largest process, MiB",
    "all_mib": "all processes, MiB",
    "disk_mib": "disk, MiB",
}
_EFFICIENT = 0.85
_OVERHEAD_S = 2.0


def read_growth(folder: Path) -> pd.DataFrame:
    """The table of runs measured so far, a row a run; empty in a new folder.

    Raises:
        ValueError: the table lacks some of `COLUMNS`; the message names them.
    """
    path = folder / TABLE
    if not path.exists():
        empty: pd.DataFrame = pd.DataFrame(columns=list(COLUMNS))
        return empty
    words = ("series", "value", "run", *(name for name in MACHINE if name != "processors"))
    frame: pd.DataFrame = pd.read_csv(path, dtype=dict.fromkeys(words, str))
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: give another --out")
    table: pd.DataFrame = frame[list(COLUMNS)]
    return table


def write_table(folder: Path, frame: pd.DataFrame) -> None:
    """Write the table whole.

    Args:
        folder: of the table.
        frame: with `COLUMNS`.
    """
    rows = frame[list(COLUMNS)]
    write_atomically(folder / TABLE, lambda file: rows.to_csv(file, index=False))


def write_growth(folder: Path, frame: pd.DataFrame, *, reading: pd.DataFrame, command: str) -> Path:
    """Write the page and its figure.

    Args:
        folder: of the table, the page and the figure.
        frame: as `read_growth` returns it.
        reading: as `reports.pages.reading.read_reading` returns it.
        command: the command as typed.

    Returns:
        The page.
    """
    drawn = _figure(frame)
    if drawn is not None:
        write_atomically(folder / _FIGURE, lambda file: file.write(drawn))
    text = "\n\n".join(_paragraphs(frame, reading, command, drawn is not None)) + "\n"
    write_atomically(folder / _PAGE, lambda file: file.write(text.encode()))
    return folder / _PAGE


def efficiencies(frame: pd.DataFrame) -> dict[int, float]:
    """Parallel efficiencies: the time of one worker over n times the time of n workers.

    Args:
        frame: as `read_growth` returns it.

    Returns:
        By number of workers; empty if no run of one worker was measured.
    """
    runs = frame[frame["series"] == "workers"].set_index("workers")["run_s"]
    if 1 not in runs.index:
        return {}
    return {int(n): float(runs[1] / (n * seconds)) for n, seconds in runs.sort_index().items()}


def _paragraphs(
    frame: pd.DataFrame, reading: pd.DataFrame, command: str, drawn: bool
) -> Iterator[str]:
    yield "# How a comparison grows"
    yield f"Made by\n\n```sh\n{command}\n```"
    parts = [part[list(MACHINE)] for part in (frame, reading) if len(part)]
    rows = pd.concat(parts) if parts else frame
    found = {name: ", ".join(dict.fromkeys(rows[name].astype(str))) for name in MACHINE}
    yield "\n".join(f"- {name}: {words}" for name, words in found.items())
    yield (
        "Each run is a command of its own. Its *start* (imports, a trial of the network, images, "
        "worker processes) is told apart from the time after it, from the first cell of a worker "
        "to the last. Memory is what processes hold themselves; files that they map are left out."
    )
    yield from _workers(frame)
    yield from _engines(frame)
    for series, title in _GROWING.items():
        yield from _growing(frame, series, title)
    yield from reading_section(reading)
    if drawn:
        yield f"![Time and memory against images, methods and fractions]({_FIGURE})"


def _workers(frame: pd.DataFrame) -> Iterator[str]:
    runs = _series(frame, "workers")
    if runs.empty:
        return
    yield "## Workers"
    found = efficiencies(frame)
    rows = [
        [
            str(row.workers),
            *_numbers(row, ("cells", "start_s", "run_s", "total_s")),
            f"{found[row.workers]:.2f}" if row.workers in found else "not measured",
        ]
        for row in _rows(runs)
    ]
    headings = ("workers", "cells", "start, s", "after the start, s", "in all, s", "efficiency")
    yield _markdown(headings, rows)
    several = {n: value for n, value in found.items() if n > 1}
    yield (
        "The same plan of nearly equal cells. Efficiency is the time after the start of one worker "
        f"over n times that of n; at least {_EFFICIENT} is asked for: "
        + "; ".join(
            f"{counted(n, 'worker')} {value:.2f}, {'met' if value >= _EFFICIENT else 'missed'}"
            for n, value in several.items()
        )
        + "."
        if several
        else "Efficiency: not measured."
    )


def _engines(frame: pd.DataFrame) -> Iterator[str]:
    runs = _series(frame, "engine")
    if runs.empty:
        return
    yield "## Engine"
    rows = [
        [
            row.engine,
            *_numbers(row, ("cells", "start_s", "run_s", "cells_s")),
            f"{row.between_s:.3f}",
            "met" if row.between_s < _OVERHEAD_S else "missed",
        ]
        for row in _rows(runs)
    ]
    headings = (
        *("engine", "cells", "start, s", "after the start, s", "in cells, s"),
        *("between cells, s a cell", f"under {_OVERHEAD_S:g} s"),
    )
    yield _markdown(headings, rows)
    yield "One worker, tiny cells: what is not in cells is the engine's."


def _growing(frame: pd.DataFrame, series: str, title: str) -> Iterator[str]:
    runs = _series(frame, series)
    if runs.empty:
        return
    yield f"## {title.capitalize()}"
    names = ("cells", "start_s", "run_s", "largest_mib", "all_mib", "disk_mib")
    rows = [[row.value, *_numbers(row, names)] for row in _rows(runs)]
    yield _markdown((title, *(_HEADINGS[name] for name in names)), rows)
    if len(runs) > 1:
        values, seconds = runs["value"].astype(float), runs["run_s"]
        slope, fixed = np.polyfit(values, seconds, 1)
        one = f"{1000 * slope:.2f} s a thousand" if series == "images" else f"{slope:.1f} s each"
        peaks = runs["largest_mib"]
        yield (
            f"A line through these times: {one}, and {fixed:.1f} s that do not depend on them. "
            f"The largest process's memory changes by {100 * (peaks.max() / peaks.min() - 1):.0f} "
            "% at most."
        )


def _rows(runs: pd.DataFrame) -> list[Any]:
    """The rows as named tuples."""
    rows: list[Any] = list(runs.itertuples())
    return rows


def _series(frame: pd.DataFrame, series: str) -> pd.DataFrame:
    runs: pd.DataFrame = frame[frame["series"] == series]
    if series == "engine":
        return runs
    ordered: pd.DataFrame = runs.sort_values("value", key=lambda values: values.astype(float))
    return ordered


def _figure(frame: pd.DataFrame) -> bytes | None:
    """Time and memory against images, methods and fractions, as SVG; None if nothing grows."""
    shown = [name for name in _GROWING if (frame["series"] == name).sum() > 1]
    if not shown:
        return None
    figure = Figure(figsize=(3.6 * len(shown), 5.4), layout="constrained")
    axes = figure.subplots(2, len(shown), sharex="col", squeeze=False)
    for column, name in enumerate(shown):
        runs = _series(frame, name)
        points = pd.DataFrame(
            {
                "value": runs["value"].astype(float),
                "run_s": runs["run_s"].astype(float),
                "largest_mib": runs["largest_mib"].astype(float),
            }
        )
        for row, (key, label) in enumerate(
            (("run_s", "seconds after the start"), ("largest_mib", "largest process, MiB"))
        ):
            axis = axes[row][column]
            sns.lineplot(points, x="value", y=key, marker="o", color="#1f5fa8", ax=axis)
            axis.set(xlabel=_GROWING[name] if row else "", ylabel="" if column else label)
            axis.set_ylim(0, 1.1 * points[key].max())
            axis.set_xlim(0, 1.05 * points["value"].max())
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    sns.despine(figure)
    return svg_bytes(figure)


def _numbers(row: Any, names: Sequence[str]) -> list[str]:
    return [
        f"{getattr(row, name):.0f}" if name == "cells" else f"{getattr(row, name):,.1f}"
        for name in names
    ]


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---:"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

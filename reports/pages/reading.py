"""The section on images held on the device and images read, of the page on growth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from evaluation.storage.writing import write_atomically

__all__ = ["READING_TABLE", "read_reading", "reading_section", "write_reading"]

# The name of the file in the folder of the page.
READING_TABLE = "reading.csv"
_TITLES = {"none": "images alone"}


def read_reading(folder: Path) -> pd.DataFrame:
    """The table of what was measured so far; empty in a new folder."""
    path = folder / READING_TABLE
    frame: pd.DataFrame = pd.read_csv(path) if path.exists() else pd.DataFrame()
    return frame


def write_reading(folder: Path, frame: pd.DataFrame) -> None:
    """Write the table whole."""
    path = folder / READING_TABLE
    write_atomically(path, lambda file: frame.to_csv(file, index=False))


def reading_section(frame: pd.DataFrame) -> Iterator[str]:
    """The paragraphs of the section; none for an empty table.

    Args:
        frame: as `read_reading` returns it.
    """
    if frame.empty:
        return
    yield "## Images on the device"
    lines = [
        "| network | device | images an epoch | read, images a second | held, images a second "
        "| time added by holding, % | in processor time, % |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in frame.to_dict("records"):
        clock, processor = (
            f"{row[f'{kind}_percent']:.1f} ({row[f'{kind}_low']:.1f} to {row[f'{kind}_high']:.1f})"
            for kind in ("clock", "processor")
        )
        name, precision = _TITLES.get(row["network"], row["network"]), row["precision"]
        lines.append(
            f"| {name} | {row['device']}, {precision} | {row['training_images']:,} "
            f"| {row['read']:,.0f} | {row['held']:,.0f} | {clock} | {processor} |"
        )
    yield "\n".join(lines)
    slower = [
        _TITLES.get(row["network"], row["network"])
        for row in frame.to_dict("records")
        if row["clock_low"] > 0
    ]
    told = f"slower with {', '.join(slower)}" if slower else "not told to be slower with any"
    yield (
        "Trainings of one epoch on masked images of 32x32, batch 64, in turns: batches read from "
        "memory maps ahead of their use, and images and levels held on the device. The difference "
        f"is the median of nine pairs, with its 95 % interval; holding is {told}. Both give the "
        'same bytes. "Images alone" is a network of one linear layer.'
    )
    if "cuda" not in set(frame["device"].astype(str).str.partition(":")[0]):
        yield (
            "On a GPU: not measured. `python -m comparisons growth --device cuda` measures it "
            "(with `--workers none --engines none --images none --methods none --fractions none`, "
            "it alone)."
        )

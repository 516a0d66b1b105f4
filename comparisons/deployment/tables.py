"""Markdown tables of deployment costs, made of the CSV files that hold them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

from reports.costs.added_times import ENGINE_NAMES
from reports.costs.form_goals import IN_ENGINES
from reports.formatting import markdown_table

Row = Mapping[str, str]


def read(path: Path) -> list[Row]:
    """Return the rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def engines(path: Path) -> str:
    """Return the table of engines: a row for each engine, network, precision and threads."""
    rows = read(path)
    same = ("engine", "network", "precision", "threads")
    sums = {tuple(row[key] for key in same): row for row in rows if row["what"] == "sums"}
    maps = {tuple(row[key] for key in same): row for row in rows if row["what"] == "map"}
    head = ["engine", "network", "precision", "threads", "network alone", "sums", "map", "goal"]
    lines = [[*head, "verdict"], ["---"] * (len(head) + 1)]
    for key in sorted(maps):
        row, (engine, network, precision, threads) = maps[key], key
        goal = IN_ENGINES.get((ENGINE_NAMES[engine], network.partition(",")[0]))
        if precision != "float32":
            goal = float(maps[engine, network, "float32", threads]["processor_median_percent"])
        lines.append(
            [
                *key,
                f"{float(row['network_processor_ms']):.1f} ms",
                _added(sums[key], "processor"),
                _added(row, "processor"),
                "" if goal is None else f"{goal:.1f} %",
                "" if goal is None else _verdict(row, goal),
            ]
        )
    return markdown_table(lines)


def _verdict(row: Row, goal: float) -> str:
    """Return whether the added time is at most a goal, as far as its interval tells."""
    if float(row["processor_high_percent"]) <= goal:
        return "held"
    return "failed" if float(row["processor_low_percent"]) > goal else "not told"


def exported(path: Path) -> str:
    """Return the table of exported files: a row for each network, map and precision."""
    rows = read(path)
    head = ["network", "map", "precision", "file", "1 thread", "2 threads", "rank correlation"]
    lines = [head, ["---"] * len(head)]
    for row in (one for one in rows if one["threads"] == "1"):
        threads = {
            other["threads"]: other
            for other in rows
            if all(other[key] == row[key] for key in ("network", "map", "precision"))
        }
        same = row["precision"] == "float32"
        ranks = f"{row['rank_correlation_median']} ({row['rank_correlation_least']})"
        lines.append(
            [
                row["network"],
                {"map": "SMOE Scale", "fastcam": "Fast-CAM"}[row["map"]],
                row["precision"],
                f"{int(row['added_bytes']) / 1000:.1f} kB",
                *(
                    _added(threads[count], "processor") if count in threads else "not measured"
                    for count in ("1", "2")
                ),
                "" if same else ranks,
            ]
        )
    return markdown_table(lines)


def large(path: Path) -> str:
    """Return the table of memory for large images: in tiles and whole."""
    rows = read(path)
    head = ["pixels", "in tiles", "whole", "of it maps", "the image itself"]
    lines = [head, ["---"] * len(head)]
    for side in sorted({int(row["side"]) for row in rows}):
        found = {row["tile"] != "0": row for row in rows if int(row["side"]) == side}
        peaks = (
            f"{int(found[tiled]['peak_megabytes']):,} MB" if tiled in found else "not run"
            for tiled in (True, False)
        )
        same = next(iter(found.values()))
        own = (f"{same[kind]} MB" for kind in ("maps_megabytes", "image_megabytes"))
        lines.append([f"{side} x {side}", *peaks, *own])
    return markdown_table(lines)


def moving(path: Path) -> str:
    """Return the table of videos: frames a second by processor time, without and with maps."""
    head = ["network", "threads", "network", "with maps", "added"]
    lines = [head, ["---"] * len(head)]
    for row in read(path):
        alone = 1000 / float(row["network_processor_ms"])
        maps = alone / (1 + float(row["processor_median_percent"]) / 100)
        lines.append(
            [
                row["network"],
                row["threads"],
                f"{alone:.1f} frames/s",
                f"{maps:.1f} frames/s",
                _added(row, "processor"),
            ]
        )
    return markdown_table(lines)


def seams(path: Path) -> str:
    """Return the table of seams: differences of tiled maps by overlap, over the photographs."""
    rows = read(path)
    head = ["overlap", "mean", "at the seams", "elsewhere", "largest"]
    lines = [head, ["---"] * len(head)]
    for overlap in dict.fromkeys(row["overlap"] for row in rows):
        found = [row for row in rows if row["overlap"] == overlap]
        means = (
            sum(float(row[name]) for row in found) / len(found)
            for name in ("mean", "at_seams", "elsewhere")
        )
        largest = max(float(row["largest"]) for row in found)
        lines.append([overlap, *(f"{value:.3f}" for value in means), f"{largest:.2f}"])
    return markdown_table(lines)


def watched(path: Path) -> str:
    """Return the table of training steps: the time that watching adds."""
    head = ["step", "every", "added", "a pass between samples"]
    lines = [head, ["---"] * len(head)]
    lines += [
        [
            f"{row['network']}, {row['images']} images",
            f"{int(row['every']):,}",
            _added(row, "processor"),
            f"{float(row['hook_microseconds']):.1f} µs",
        ]
        for row in read(path)
    ]
    return markdown_table(lines)


def _added(row: Row, kind: str) -> str:
    median, low, high = (float(row[f"{kind}_{end}_percent"]) for end in ("median", "low", "high"))
    return f"{median:.1f} % ({low:.1f} to {high:.1f})"


TABLES: dict[str, Callable[[Path], str]] = {
    "engines": engines,
    "exported": exported,
    "large": large,
    "moving": moving,
    "seams": seams,
    "watched": watched,
}

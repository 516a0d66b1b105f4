"""Records of costs as a data frame with the setting and the interval of each number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from evaluation.profiling.timing import Interval
from evaluation.storage.records import CellResult

__all__ = ["COST_COLUMNS", "with_settings"]

# The columns that stand after those of a record.
COST_COLUMNS: dict[str, str] = {
    "batch": "Int64",
    "size": "Int64",
    "device": "string",
    "hardware": "string",
    "threads": "Int64",
    "precision": "string",
    "compiled": "boolean",
    "cuda_graphs": "boolean",
    "rounds": "Int64",
    "low": "float64",
    "high": "float64",
}


def with_settings(records: pd.DataFrame, results: Iterable[CellResult]) -> pd.DataFrame:
    """Records of costs with the columns of `COST_COLUMNS`.

    `low` and `high` are the ends of the 95 % interval of the median over the rounds, in the unit of
    the value; a count and the time of a first call have none. Cells older than an option have its
    default.

    Args:
        records: as `reports.records.frames.records_frame`, of these cells.
        results: finished cells.
    """
    by_id = {result.id: result for result in results}
    intervals = {
        name: _intervals(cell) for name, cell in by_id.items() if cell.kind in ("cost", "profile")
    }
    rows = [
        {
            **_setting(by_id[cell]),
            **dict(zip(("low", "high"), intervals.get(cell, {}).get(metric, ()), strict=False)),
        }
        for cell, metric in zip(records["cell"], records["metric"], strict=True)
    ]
    added = pd.DataFrame(rows, columns=list(COST_COLUMNS), index=records.index)
    joined: pd.DataFrame = pd.concat([records, added.astype(COST_COLUMNS)], axis=1)
    return joined


def _setting(cell: CellResult) -> dict[str, Any]:
    spec = cell.spec
    device = spec.get("device", "cpu")
    return {
        "batch": spec.get("batch", 1),
        "size": spec.get("size"),
        "device": device,
        # Of a GPU the specification names it, since a measurement is of one machine.
        "hardware": cell.environment.get("processor", "cpu")
        if device == "cpu"
        else spec.get("hardware", device),
        # Threads of the host say nothing about a GPU, and nothing changes a count.
        "threads": spec.get("threads") if device == "cpu" else None,
        "precision": spec.get("precision"),
        "compiled": spec.get("compiled", False),
        "cuda_graphs": spec.get("cuda_graphs", False),
        "rounds": len(cell.history) or None,
    }


def _intervals(cell: CellResult) -> Mapping[str, tuple[float, float]]:
    """The ends of the interval of each time that a cell took in rounds, by metric."""
    rounds: Sequence[Mapping[str, float]] = cell.history
    if not rounds:
        return {}
    images = cell.spec["batch"]
    samples = {
        "forward_ms": [one["forward_ms"] / images for one in rounds],
        "map_ms": [one["map_ms"] / images for one in rounds],
        "overhead_percent": [
            100 * (one["map_ms"] - one["forward_ms"]) / one["forward_ms"] for one in rounds
        ],
    }
    found = {metric: Interval.of(values) for metric, values in samples.items()}
    return {metric: (interval.low, interval.high) for metric, interval in found.items()}

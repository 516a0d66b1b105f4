"""Time that methods add to a forward pass of one image, from the records of a profile."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from evaluation.profiling.timing import Interval

__all__ = ["added_times"]

_COVERS = 0.95


def added_times(folder: Path, threads: int) -> dict[str, dict[str, Interval]]:
    """Added times in percent by method and network: of one image, on the CPU, eager, in float32.

    Args:
        folder: of a profile, or of an archive of it; one without records has no times.
        threads: of PyTorch.

    Returns:
        Medians with their 95 % intervals.
    """
    path = folder / "records.parquet"
    if not path.exists():
        return {}
    frame = pd.read_parquet(path)
    frame = frame[(frame["metric"] == "overhead_percent") & (frame["batch"] == 1)]
    frame = frame[(frame["device"] == "cpu") & (frame["precision"] == "float32")]
    frame = frame[~frame["compiled"].astype(bool) & (frame["threads"] == threads)]
    found: dict[str, dict[str, Interval]] = {}
    for row in frame.itertuples():
        interval = Interval(float(row.value), float(row.low), float(row.high), _COVERS)
        found.setdefault(str(row.method), {})[str(row.model)] = interval
    return found

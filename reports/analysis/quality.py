"""The quality of maps as one number a method: SUM, and insertion less deletion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from evaluation.scoring.scores import t_interval
from reports.analysis.overview import SumsRow
from reports.records.estimates import Estimate
from reports.records.run import Run

__all__ = ["QUALITIES", "qualities"]

_GAINS, _LOSSES = "insertion_area", "deletion_area"
# Labels of the qualities, by the figures' titles.
QUALITIES = {
    "SUM": "SUM of KAR and ROAR (higher is better)",
    "insertion less deletion": "insertion area less deletion area (higher is better)",
}


def qualities(run: Run, rows: Iterable[SumsRow]) -> dict[str, dict[str, Estimate]]:
    """Estimates by a key of `QUALITIES` and by method; a quality that was not measured is left out.

    Args:
        run: the run.
        rows: its methods with their sums.
    """
    sums = {row.method.name: row.sums.total for row in rows if row.sums.total is not None}
    found = {"SUM": sums, "insertion less deletion": _insertion_less_deletion(run)}
    return {name: by_method for name, by_method in found.items() if by_method}


def _insertion_less_deletion(run: Run) -> dict[str, Estimate]:
    """The difference of each method, with its interval over seeds, or over images for one seed."""
    by_method: dict[str, dict[int | None, tuple[str, list[float]]]] = {}
    for cell in run.cells("measure"):
        values = [
            float(entry[_GAINS]) - float(entry[_LOSSES])
            for entry in cell.history
            if _GAINS in entry and _LOSSES in entry
        ]
        if values:
            seed = cell.spec.get("seed")
            by_method.setdefault(str(cell.spec["method"]), {})[seed] = cell.id, values
    return {name: _estimate(seeds) for name, seeds in by_method.items()}


def _estimate(seeds: Mapping[int | None, tuple[str, list[float]]]) -> Estimate:
    means = [float(np.mean(values)) for _, values in seeds.values()]
    (_, first), *others = seeds.values()
    return Estimate(
        mean=float(np.mean(means)),
        interval=t_interval(means if others else first),
        seeds=tuple(seeds),
        cells=tuple(cell for cell, _ in seeds.values()),
    )

"""How far the order of the methods stays the same over seeds, fills and other readings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import mean

import pandas as pd

from evaluation.scoring.significance import kendall_tau
from reports.records.estimates import SCORES, over_seeds, seed_sums
from reports.records.frames import TRACK_COLUMNS, of_metric
from reports.records.run import Run

__all__ = ["Agreement", "agreement", "agreements"]

# What each further column of the records is called.
_TITLES = {
    "seed": "seeds",
    "fill": "fills",
    "mask_unit": "units of the mask",
    "target_from": "targets",
    "recursive": "one pass and recursive",
}


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau between the orders of the methods in groups of records, a pair at a time.

    Args:
        title: what the groups differ in.
        groups: their values.
        methods: how many methods the orders share, in the pair that shares the fewest.
        tau: mean and lowest of the pairs, by score.
    """

    title: str
    groups: Sequence[str]
    methods: int
    tau: Mapping[str, tuple[float, float]]


def agreement(
    records: pd.DataFrame, fractions: Sequence[float], by: str, title: str = ""
) -> Agreement | None:
    """How far the order of the methods is the same in every group of records.

    Args:
        records: as `reports.records.frames.records_frame`, one record a number in each group.
        fractions: the fractions that scores run over.
        by: the column whose values make the groups.
        title: what the groups differ in; `by` where it is empty.

    Returns:
        None where there are not two groups with two methods in both.
    """
    rows = of_metric(records, "accuracy")
    rows = rows[(rows["method"] != "none") & rows[by].notna()]
    groups = {str(value): group for value, group in rows.groupby(by)}
    tau: dict[str, tuple[float, float]] = {}
    fewest = 0
    for score, modes in SCORES.items():
        orders = {value: _scores(group, fractions, modes) for value, group in groups.items()}
        pairs = [
            (found, len(first.keys() & second.keys()))
            for first, second in combinations(orders.values(), 2)
            if (found := kendall_tau(first, second)) is not None
        ]
        if pairs:
            tau[score] = mean(found for found, _ in pairs), min(found for found, _ in pairs)
            fewest = min(count for _, count in pairs)
    return Agreement(title or by, tuple(groups), fewest, tau) if tau else None


def agreements(run: Run) -> list[Agreement]:
    """Over the seeds, and over whatever else the run did in more than one way.

    Args:
        run: as `reports.records.run.read_run` reads it.
    """
    found = [agreement(run.records, run.fractions, "seed", _TITLES["seed"])]
    own = asdict(run.track)
    for column in TRACK_COLUMNS:
        # All else as in the tables of the page.
        rows = run.every_track
        for name, value in own.items():
            rows = rows if name == column else rows[rows[name] == value]
        if len(rows[column].unique()) > 1:
            title = _TITLES.get(column, column)
            found.append(agreement(rows, run.fractions, column, title))
    return [entry for entry in found if entry is not None]


def _scores(
    rows: pd.DataFrame, fractions: Sequence[float], modes: Sequence[str]
) -> dict[str, float]:
    """The mean over seeds of each method's score."""
    return {
        method: estimate.mean
        for method, by_seed in seed_sums(rows, fractions, modes).items()
        if (estimate := over_seeds(by_seed)) is not None
    }

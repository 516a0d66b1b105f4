"""Agreement of rankings: Kendall's tau between seeds, variants, and measures and retraining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import mean

import numpy as np
import pandas as pd

from evaluation.scoring.order_agreement import tau_interval
from evaluation.scoring.significance import kendall_tau
from reports.analysis.common_seeds import common_seeds
from reports.records.estimates import SCORES, seed_sums, values_of
from reports.records.frames import VARIANT_COLUMNS, of_metric
from reports.records.run import Run

__all__ = ["Agreement", "OrderAgreement", "agreement", "agreements", "order_agreement"]

# Titles of the columns that tell groups of records apart.
_TITLES = {
    "seed": "seeds",
    "fill": "fills",
    "mask_unit": "units of the mask",
    "target_from": "targets",
    "recursive": "one pass and recursive",
}


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau between the rankings of groups of records, over all pairs of groups.

    Args:
        title: name of the column that differs.
        groups: its values.
        methods: number of methods that a pair's rankings share, at the least.
        tau: mean and minimum over the pairs, by score.
    """

    title: str
    groups: Sequence[str]
    methods: int
    tau: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class OrderAgreement:
    """Kendall's tau between the orders of the methods by two scores.

    Args:
        tau: tau-b; None with fewer than two methods that both rank, or where one has no order.
        interval: of 95 %, over methods and seeds; None with too few methods.
        methods: names of those that both rank.
        seeds: seeds of the two scores.
    """

    tau: float | None
    interval: tuple[float, float] | None
    methods: tuple[str, ...]
    seeds: tuple[tuple[int, ...], tuple[int, ...]]


def order_agreement(
    first: Mapping[str, Mapping[int, float]],
    second: Mapping[str, Mapping[int, float]],
    *,
    same_networks: bool,
) -> OrderAgreement:
    """The agreement of two scores, each over the seeds that the methods share.

    Args:
        first: by method and seed, higher for a better method.
        second: likewise.
        same_networks: True if a seed names the same networks in both.
    """
    shared = [name for name in first if first[name] and second.get(name)]
    chosen, of_second = common_seeds({name: second[name].keys() for name in shared})
    chosen, of_first = common_seeds({name: first[name].keys() for name in chosen})
    seeds = tuple(of_first), tuple(of_second)
    if not chosen:
        return OrderAgreement(None, None, (), seeds)
    values = [
        np.array([[scores[name][seed] for seed in own] for name in chosen])
        for scores, own in zip((first, second), seeds, strict=True)
    ]
    means = (dict(zip(chosen, each.mean(1).tolist(), strict=True)) for each in values)
    tau = kendall_tau(*means)
    same = same_networks and seeds[0] == seeds[1]
    interval = None if tau is None else tau_interval(*values, same_seeds=same)
    return OrderAgreement(tau, interval, tuple(chosen), seeds)


def agreement(
    records: pd.DataFrame, fractions: Sequence[float], by: str, title: str = ""
) -> Agreement | None:
    """The agreement between the rankings of groups of records.

    Args:
        records: as `reports.records.frames.records_frame`, one record a number in each group.
        fractions: the fractions that scores run over.
        by: the column whose values make the groups.
        title: of the column; `by` if it is empty.

    Returns:
        None without two groups that share two methods.
    """
    rows = of_metric(records, "accuracy")
    rows = rows[(rows["method"] != "none") & rows[by].notna()]
    groups = {str(value): group for value, group in rows.groupby(by)}
    tau: dict[str, tuple[float, float]] = {}
    fewest = 0
    for score, modes in SCORES.items():
        scores = [_scores(group, fractions, modes) for group in groups.values()]
        pairs = [
            (found, len(first.keys()))
            for one, other in combinations(scores, 2)
            for first, second in [_orders(one, other, by)]
            if (found := kendall_tau(first, second)) is not None
        ]
        if pairs:
            tau[score] = mean(found for found, _ in pairs), min(found for found, _ in pairs)
            fewest = min(count for _, count in pairs)
    return Agreement(title or by, tuple(groups), fewest, tau) if tau else None


def agreements(run: Run) -> list[Agreement]:
    """The agreement over seeds, and over each setting that the run has several variants of.

    Args:
        run: as `reports.records.run.read_run` reads it.
    """
    found = [agreement(run.records, run.fractions, "seed", _TITLES["seed"])]
    own = asdict(run.variant)
    for column in VARIANT_COLUMNS:
        # All other settings are those of the page's tables.
        rows = run.every_variant
        for name, value in own.items():
            rows = rows if name == column else rows[rows[name] == value]
        if len(rows[column].unique()) > 1:
            title = _TITLES.get(column, column)
            found.append(agreement(rows, run.fractions, column, title))
    return [entry for entry in found if entry is not None]


def _scores(
    rows: pd.DataFrame, fractions: Sequence[float], modes: Sequence[str]
) -> dict[str, dict[int, float]]:
    """A score by method and seed."""
    return values_of(seed_sums(rows, fractions, modes))


def _orders(
    one: Mapping[str, Mapping[int, float]], other: Mapping[str, Mapping[int, float]], by: str
) -> list[dict[str, float]]:
    """Mean scores in two groups by method, over the seeds that all methods have in both."""
    if by == "seed":  # each group is one
        names = [name for name in one if one[name] and other.get(name)]
        return [{name: mean(group[name].values()) for name in names} for group in (one, other)]
    shared = {name: one[name].keys() & other.get(name, {}).keys() for name in one}
    chosen, seeds = common_seeds({name: own for name, own in shared.items() if own})
    return [
        {name: mean(group[name][seed] for seed in seeds) for name in chosen}
        for group in (one, other)
    ]

"""Changes of the ranking under another variant of ROAR and KAR, or with blurred maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy.stats import kendalltau, rankdata

from evaluation.masking.variants import BLURRED, Variant
from evaluation.scoring.scores import t_interval
from reports.records.estimates import SCORES, Estimate, SeedSums, seed_sums
from reports.records.frames import VARIANT_COLUMNS, of_metric, of_variant
from reports.records.run import Method, Run

__all__ = ["ChangedRow", "RankingChange", "ranking_changes"]

# Methods are ranked by the first of these scores that both rankings have.
_RANKED_BY = {"total": "SUM", "roar": "ROAR score", "kar": "KAR score"}


@dataclass(frozen=True)
class ChangedRow:
    """A method in both rankings.

    Args:
        method: the method.
        rank: under the first variant, 1 for the best; ties share the mean of their ranks.
        other_rank: in the other ranking.
        score: under the first variant, over the seeds that both have.
        other_score: in the other ranking.
        shift: other score minus score, paired by seed.
    """

    method: Method
    rank: float
    other_rank: float
    score: Estimate
    other_score: Estimate
    shift: Estimate

    @property
    def moved(self) -> float:
        """Number of ranks that the method moved, up or down."""
        return abs(self.other_rank - self.rank)


@dataclass(frozen=True)
class RankingChange:
    """A ranking compared with that of the plan's first variant.

    Args:
        title: the difference in words.
        variant: the other variant; None for blurred maps.
        score: title of the score that methods are ranked by.
        tau: Kendall's tau-b between the two rankings; None for fewer than two methods, or if all
            methods of a ranking are tied.
        rows: methods that both rankings have, the best under the first variant first.
        taken_over: number of values taken over from the first variant, since the masks are the
            same.
    """

    title: str
    variant: Variant | None
    score: str
    tau: float | None
    rows: Sequence[ChangedRow]
    taken_over: int


def ranking_changes(run: Run) -> list[RankingChange]:
    """Rankings of a run's other variants, and of blurred maps, compared with the first variant.

    Args:
        run: as `reports.records.run.read_run` reads it.

    Returns:
        One for each that shares a method with the first variant.
    """
    found = []
    for variant in _other_variants(run):
        records = of_metric(of_variant(run.every_variant, variant), "accuracy")
        pairs = {name: (name, name) for name in run.methods}
        taken = int(records["derived_from"].str.startswith("the first track").fillna(False).sum())
        found.append(
            _change(run, variant.title or "as the protocol", variant, pairs, records, taken)
        )
    blurred = {
        name: (name, name + BLURRED) for name in run.methods if name + BLURRED in run.methods
    }
    found.append(_change(run, "maps blurred", None, blurred, run.accuracy_records, 0))
    return [change for change in found if change is not None]


def _other_variants(run: Run) -> list[Variant]:
    """The variants that images were masked in but the first, the simplest first."""
    masked = run.every_variant[run.every_variant["mode"].isin(["roar", "kar"])]
    rows = masked[VARIANT_COLUMNS].drop_duplicates().to_dict("records")
    variants = {
        Variant(
            str(row["fill"]),
            str(row["mask_unit"]),
            str(row["target_from"]),
            bool(row["recursive"]),
        )
        for row in rows
    }
    usual = asdict(run.variant)

    def unusual(variant: Variant) -> list[bool]:
        return [value != usual[name] for name, value in reversed(asdict(variant).items())]

    return sorted(variants - {run.variant}, key=unusual)


def _change(
    run: Run,
    title: str,
    variant: Variant | None,
    pairs: Mapping[str, tuple[str, str]],
    records: pd.DataFrame,
    taken_over: int,
) -> RankingChange | None:
    for score, score_title in _RANKED_BY.items():
        before, after = run.seed_sums[score], seed_sums(records, run.fractions, SCORES[score])
        sides = {
            name: (before.get(own, {}), after.get(other, {}))
            for name, (own, other) in pairs.items()
        }
        shared = {name: side for name, side in sides.items() if side[0].keys() & side[1].keys()}
        if shared:
            rows, tau = _ranked(run, shared)
            return RankingChange(title, variant, score_title, tau, rows, taken_over)
    return None


def _ranked(
    run: Run, sides: Mapping[str, tuple[SeedSums, SeedSums]]
) -> tuple[list[ChangedRow], float | None]:
    estimates = {name: _paired(*both) for name, both in sides.items()}
    before = [own.mean for own, _, _ in estimates.values()]
    after = [other.mean for _, other, _ in estimates.values()]
    ranks, other_ranks = (rankdata(-np.array(means)) for means in (before, after))
    rows = [
        ChangedRow(run.methods[name], float(rank), float(other_rank), own, other, shift)
        for (name, (own, other, shift)), rank, other_rank in zip(
            estimates.items(), ranks, other_ranks, strict=True
        )
    ]
    tau = float(kendalltau(before, after).statistic) if len(rows) > 1 else float("nan")
    return sorted(rows, key=lambda row: row.rank), None if np.isnan(tau) else tau


def _paired(own: SeedSums, other: SeedSums) -> tuple[Estimate, Estimate, Estimate]:
    """Both scores and their difference, over the seeds that both have."""
    seeds = tuple(sorted(own.keys() & other.keys()))

    def estimate(values: Sequence[float], cells: Sequence[str]) -> Estimate:
        unique = tuple(dict.fromkeys(cells))
        return Estimate(float(np.mean(values)), t_interval(values), seeds, unique)

    one, two = ([side[seed][0] for seed in seeds] for side in (own, other))
    cells, other_cells = (
        [cell for seed in seeds for cell in side[seed][1]] for side in (own, other)
    )
    shift = [after - before for before, after in zip(one, two, strict=True)]
    return estimate(one, cells), estimate(two, other_cells), estimate(shift, cells + other_cells)

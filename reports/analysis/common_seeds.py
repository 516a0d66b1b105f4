"""The order of methods over the seeds that all of them have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from reports.analysis.overview import SumsRow
from reports.records.estimates import SCORES, Estimate, Sums, over_seeds
from reports.records.run import Method, Run

__all__ = ["CommonRanking", "common_ranking", "common_seeds", "in_order", "score_of"]


@dataclass(frozen=True)
class CommonRanking:
    """The order of methods over the seeds that all of them have.

    Args:
        rows: methods and controls with their sums over those seeds, the best first.
        seeds: the seeds.
        left_out: methods with a score that lack one of the seeds, and so have no place.
    """

    rows: Sequence[SumsRow]
    seeds: Sequence[int]
    left_out: Sequence[Method]

    @property
    def methods(self) -> list[SumsRow]:
        """The rows that are no controls."""
        return [row for row in self.rows if row.method.group != "control"]

    @property
    def controls(self) -> list[SumsRow]:
        """The rows of controls."""
        return [row for row in self.rows if row.method.group == "control"]


def common_ranking(run: Run, rows: Sequence[SumsRow], ranked_by: str) -> CommonRanking:
    """Rank methods by a score over common seeds alone.

    Methods with one seed have no place beside methods with several.

    Args:
        run: the run.
        rows: its methods with their sums.
        ranked_by: key of `SCORES`.
    """
    seeds = {
        row.method.name: set(found.numbered_seeds)
        for row in rows
        if (found := score_of(row.sums, ranked_by)) is not None
    }
    chosen, shared = common_seeds(seeds)
    own_rows = [
        replace(row, sums=_over(run, row, shared)) for row in rows if row.method.name in chosen
    ]

    def mean(row: SumsRow) -> float:
        found = score_of(row.sums, ranked_by)
        return float("-inf") if found is None else found.mean

    return CommonRanking(
        sorted(own_rows, key=mean, reverse=True),
        shared,
        [row.method for row in rows if row.method.name in seeds.keys() - set(chosen)],
    )


def common_seeds(seeds: Mapping[str, Set[int]]) -> tuple[list[str], list[int]]:
    """The methods that can be compared over the same seeds, and those seeds.

    Methods with one seed are left out beside two or more with several; where no seed is everyone's,
    those without the most frequent one.

    Args:
        seeds: of each method.

    >>> common_seeds({"a": {0, 1, 2}, "b": {0, 1}, "c": {0}})
    (['a', 'b'], [0, 1])
    """
    several = [name for name, own in seeds.items() if len(own) > 1]
    chosen = several if len(several) > 1 else list(seeds)
    shared = set[int]().union(*(seeds[name] for name in chosen))
    shared = shared.intersection(*(seeds[name] for name in chosen))
    counts = Counter(seed for name in chosen for seed in sorted(seeds[name]))
    if counts and not shared:
        shared = {counts.most_common(1)[0][0]}
    return [name for name in chosen if shared and shared <= seeds[name]], sorted(shared)


def in_order(rows: Sequence[SumsRow], common: CommonRanking) -> list[SumsRow]:
    """Rows with their own sums: those of the common order first, as it has them, then the others.

    Args:
        rows: every method with its sums.
        common: the order.
    """
    places = {row.method.name: place for place, row in enumerate(common.rows)}
    return sorted(rows, key=lambda row: places.get(row.method.name, len(places)))


def score_of(sums: Sums, key: str) -> Estimate | None:
    """KAR, ROAR or SUM.

    Args:
        sums: all three.
        key: of `SCORES`.
    """
    found: Estimate | None = getattr(sums, key)
    return found


def _over(run: Run, row: SumsRow, seeds: Sequence[int]) -> Sums:
    """The sums of a method over some seeds; those that run over just these are kept as they are."""
    found: dict[str, Estimate | None] = {}
    for key in SCORES:
        own = score_of(row.sums, key)
        if own is not None and set(own.numbered_seeds) != set(seeds):
            by_seed = run.seed_sums[key].get(row.method.name, {})
            own = over_seeds({seed: by_seed[seed] for seed in seeds if seed in by_seed})
        found[key] = own
    return Sums(**found)

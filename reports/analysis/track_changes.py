"""What another reading of ROAR and KAR, or a blur, does to the ranking of the methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy.stats import kendalltau, rankdata

from evaluation.masking.variants import BLURRED, Variant
from evaluation.scoring.scores import t_interval
from reports.records.run import Method, Run
from reports.records.tables import TRACK_COLUMNS, Estimate, of_track, seed_sums

__all__ = ["Change", "ChangedRow", "track_changes"]

# What methods are ranked by: the first of these that both sides measured.
_SCORES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("SUM", ("kar", "roar")),
    ("ROAR score", ("roar",)),
    ("KAR score", ("kar",)),
)
# Sums by seed, each with the cells that it was made of.
_Seeds = Mapping[int, tuple[float, tuple[str, ...]]]


@dataclass(frozen=True)
class ChangedRow:
    """A method on both sides.

    Args:
        method: the method.
        rank: on the first track, 1 for the best; ties share the mean of their ranks.
        other_rank: on the other side.
        score: on the first track, over the seeds that both sides have.
        other_score: on the other side.
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
        """How many places the method moved, up or down."""
        return abs(self.other_rank - self.rank)


@dataclass(frozen=True)
class Change:
    """A ranking beside the first track's.

    Args:
        title: what is different.
        track: the other track; None where the maps are blurred.
        score: what methods are ranked by.
        tau: Kendall's tau-b between the two rankings; None for fewer than two methods, or where a
            side tells none apart.
        rows: the methods that both sides measured, best of the first track first.
        taken_over: how many of the other side's numbers were taken over from the first track,
            since the masks are the same.
    """

    title: str
    track: Variant | None
    score: str
    tau: float | None
    rows: Sequence[ChangedRow]
    taken_over: int


def track_changes(run: Run) -> list[Change]:
    """Every other track of a run beside its first, and the blurred methods beside the plain.

    Args:
        run: as `reports.records.run.read_run` reads it.

    Returns:
        A change for each that shares a method with the first track.
    """
    first = _accuracies(run.records)
    found = []
    for track in _other_tracks(run):
        records = _accuracies(of_track(run.every_track, track))
        pairs = {name: (name, name) for name in run.methods}
        taken = int(records["derived_from"].str.startswith("the first track").fillna(False).sum())
        found.append(_change(run, track.title or "as the protocol", track, pairs, records, taken))
    blurred = {
        name: (name, name + BLURRED) for name in run.methods if name + BLURRED in run.methods
    }
    found.append(_change(run, "maps blurred", None, blurred, first, 0))
    return [change for change in found if change is not None]


def _other_tracks(run: Run) -> list[Variant]:
    """The tracks that images were masked in, the first left out, the simplest first."""
    masked = run.every_track[run.every_track["mode"].isin(["roar", "kar"])]
    rows = masked[TRACK_COLUMNS].drop_duplicates().to_dict("records")
    tracks = {
        Variant(
            str(row["fill"]),
            str(row["mask_unit"]),
            str(row["target_from"]),
            bool(row["recursive"]),
        )
        for row in rows
    }
    usual = asdict(run.track)

    def unusual(track: Variant) -> list[bool]:
        return [value != usual[name] for name, value in reversed(asdict(track).items())]

    return sorted(tracks - {run.track}, key=unusual)


def _accuracies(records: pd.DataFrame) -> pd.DataFrame:
    own: pd.DataFrame = records[(records["metric"] == "accuracy") & records["layer"].isna()]
    return own


def _change(
    run: Run,
    title: str,
    track: Variant | None,
    pairs: Mapping[str, tuple[str, str]],
    records: pd.DataFrame,
    taken_over: int,
) -> Change | None:
    first = _accuracies(run.records)
    for score, modes in _SCORES:
        sides = {
            name: (
                seed_sums(first[first["method"] == own], run.fractions, modes),
                seed_sums(records[records["method"] == other], run.fractions, modes),
            )
            for name, (own, other) in pairs.items()
        }
        shared = {name: side for name, side in sides.items() if side[0].keys() & side[1].keys()}
        if shared:
            rows, tau = _ranked(run, shared)
            return Change(title, track, score, tau, rows, taken_over)
    return None


def _ranked(
    run: Run, sides: Mapping[str, tuple[_Seeds, _Seeds]]
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


def _paired(own: _Seeds, other: _Seeds) -> tuple[Estimate, Estimate, Estimate]:
    """Both scores and their difference, over the seeds that both sides have."""
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

"""Records as data frames, and the tables of the paper made from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import pandas as pd

from evaluation.masking.variants import Variant
from evaluation.scoring.scores import kar_score, rescaled_accuracy, roar_score, t_interval
from evaluation.storage.records import CellResult, Record

__all__ = [
    "TRACK_COLUMNS",
    "Estimate",
    "Sums",
    "accuracies",
    "conflicts",
    "differences",
    "drop_superseded",
    "estimate",
    "levels",
    "of_track",
    "over_seeds",
    "per_method",
    "records_frame",
    "seed_sums",
    "sums",
    "unmasked",
]

_COLUMNS = [field.name for field in fields(Record)]
# How ROAR and KAR were read; the fields of a track.
TRACK_COLUMNS = [field.name for field in fields(Variant)]
# What makes two records the same number.
_KEY = ["dataset", "model", "method", "mode", "fraction", "layer", "metric", "seed"]
_KEY += TRACK_COLUMNS

_MOST_CONFLICTS = 5

Place = tuple[str, str, float]


@dataclass(frozen=True)
class Estimate:
    """A number over seeds, and where it comes from.

    Args:
        mean: over the seeds.
        interval: 95 % interval, Student's unless the page says otherwise; None for a single seed.
        seeds: one entry a value; None where no seed was used.
        cells: ids of the cells that measured it.
        derived_from: what it was taken over from, where it was not measured by itself.
        values: what `mean` is the mean of, one a seed; empty where nobody kept them.

    >>> Estimate(0.5, (0.4, 0.6), (0, 1), ("aa", "bb")).half_width
    0.1
    """

    mean: float
    interval: tuple[float, float] | None
    seeds: tuple[int | None, ...]
    cells: tuple[str, ...]
    derived_from: str | None = None
    values: tuple[float, ...] = ()

    @property
    def half_width(self) -> float | None:
        """Half the interval's width, or None for a single seed."""
        return None if self.interval is None else round(self.interval[1] - self.mean, 12)


@dataclass(frozen=True)
class Sums:
    """A method's row of Table 2; None where a fraction is missing for every seed."""

    kar: Estimate | None
    roar: Estimate | None
    total: Estimate | None


def records_frame(results: Iterable[CellResult]) -> pd.DataFrame:
    """One row a record, a column a field; parameters as JSON text.

    Args:
        results: finished cells, older ones first.

    Returns:
        A frame of 18 columns; `seed` is a nullable integer, a missing fraction NaN.

    >>> records_frame([]).shape
    (0, 18)
    """
    rows = [
        {name: getattr(record, name) for name in _COLUMNS}
        | {"parameters": json.dumps(dict(record.parameters), sort_keys=True)}
        for result in results
        for record in result.records
    ]
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    numbers = {"fraction": "float64", "value": "float64", "seed": "Int64", "recursive": "bool"}
    typed: pd.DataFrame = frame.astype({name: numbers.get(name, "string") for name in _COLUMNS})
    return typed


def drop_superseded(records: pd.DataFrame) -> pd.DataFrame:
    """Where two cells measured the same number, the later one's record alone."""
    latest: pd.DataFrame = records.drop_duplicates(_KEY, keep="last").reset_index(drop=True)
    return latest


def of_track(records: pd.DataFrame, track: Variant) -> pd.DataFrame:
    """The records of one track, and those that no track changes: of networks without a mask.

    Args:
        records: as `records_frame`.
        track: how ROAR and KAR were read.

    Returns:
        The rows, in their order.
    """
    same = pd.Series(True, index=records.index)
    for name, value in asdict(track).items():
        same &= records[name] == value
        if name == "fill":  # a map, and what it costs, knows nothing of what is done with it
            same |= records["mode"] == "unmasked"
    found: pd.DataFrame = records[same | (records["method"] == "none")]
    return found


def conflicts(records: pd.DataFrame) -> list[str]:
    """One sentence for each number that several cells measured, a few of them spelt out."""
    # How long a training waited is no such number: trainings of several kinds share its place.
    numbers = records[records["metric"] != "data_wait_share"]
    repeated = numbers[numbers.duplicated(_KEY, keep=False)]
    found = [
        f"{len(group)} cells measured the {key[6]} of {key[2]}, {key[3]}"
        f"{'' if pd.isna(key[4]) else f' {100 * key[4]:g} %'}"
        f"{'' if pd.isna(key[7]) else f', seed {key[7]}'}: {', '.join(group['cell'])}. The "
        "directory holds runs of different plans; the page shows the latest cell's."
        for key, group in repeated.groupby(_KEY, dropna=False, sort=False)
        if isinstance(key, tuple)
    ]
    more = len(found) - _MOST_CONFLICTS
    return found[:_MOST_CONFLICTS] + ([f"So did they for {more} more numbers."] if more > 0 else [])


def estimate(rows: pd.DataFrame) -> Estimate:
    """Mean and interval of the values of some records, one a seed.

    Args:
        rows: at least one record.

    Returns:
        The estimate.
    """
    values = rows["value"].tolist()
    derived = rows["derived_from"].dropna().unique().tolist()
    return Estimate(
        mean=float(np.mean(values)),
        interval=t_interval(values),
        seeds=tuple(None if pd.isna(seed) else int(seed) for seed in rows["seed"]),
        cells=tuple(rows["cell"].tolist()),
        derived_from="; ".join(derived) or None,
    )


def unmasked(records: pd.DataFrame) -> Estimate | None:
    """The accuracy without any masking, or None before it was measured."""
    rows = _of_metric(records, "accuracy")
    rows = rows[rows["mode"] == "unmasked"]
    return estimate(rows) if len(rows) else None


def accuracies(records: pd.DataFrame, metric: str = "accuracy") -> dict[Place, Estimate]:
    """Table 5: an estimate for every method, mode and fraction that was measured.

    Args:
        records: as `records_frame`, one record a number.
        metric: ``"accuracy"``, or another that is measured by mode and fraction.

    Returns:
        Estimates by ``(method, mode, fraction)``.
    """
    rows = _of_metric(records, metric)
    rows = rows[rows["mode"].isin(["roar", "kar"])]
    return {
        (str(method), str(mode), float(fraction)): estimate(group.sort_values("seed"))
        for (method, mode, fraction), group in rows.groupby(["method", "mode", "fraction"])
    }


def levels(records: pd.DataFrame, chance: float | None) -> dict[Place, Estimate]:
    """As `accuracies`, on the scale from chance (0) to the same seed's unmasked accuracy (1)."""
    rows = _of_metric(records, "accuracy")
    whole = rows[rows["mode"] == "unmasked"].set_index("seed")["value"].to_dict()
    if chance is None or not all(value > chance for value in whole.values()):
        return {}
    rows = rows[rows["seed"].isin(list(whole))].copy()
    rows["value"] = [
        rescaled_accuracy(value, whole[seed], chance)
        for value, seed in zip(rows["value"], rows["seed"], strict=True)
    ]
    return accuracies(rows)


def sums(records: pd.DataFrame, fractions: Sequence[float]) -> dict[str, Sums]:
    """Table 2: KAR, ROAR and SUM of every method, seed by seed, then over the seeds.

    A seed counts only where every fraction was measured, so that all sums have as many terms.

    Args:
        records: as `records_frame`, one record a number.
        fractions: the fractions a sum runs over.

    Returns:
        Sums by method.
    """
    rows = _of_metric(records, "accuracy")
    return {
        str(method): Sums(
            kar=over_seeds(seed_sums(group, fractions, ("kar",))),
            roar=over_seeds(seed_sums(group, fractions, ("roar",))),
            total=over_seeds(seed_sums(group, fractions, ("kar", "roar"))),
        )
        for method, group in rows[rows["method"] != "none"].groupby("method")
    }


def differences(
    records: pd.DataFrame,
    fractions: Sequence[float],
    reference: str,
    modes: Sequence[str] = ("kar", "roar"),
) -> dict[str, Estimate]:
    """A score of each method minus that of `reference`, paired by seed.

    Args:
        records: as `records_frame`, one record a number.
        fractions: the fractions a sum runs over.
        reference: name of a method.
        modes: both for SUM, one for KAR or ROAR.

    Returns:
        Differences by method, `reference` left out; empty where nothing can be paired.
    """
    rows = _of_metric(records, "accuracy")
    base = seed_sums(rows[rows["method"] == reference], fractions, modes)
    found = {}
    for method, group in rows[~rows["method"].isin(["none", reference])].groupby("method"):
        own = seed_sums(group, fractions, modes)
        paired = {
            seed: (value - base[seed][0], cells + base[seed][1])
            for seed, (value, cells) in own.items()
            if seed in base
        }
        over = over_seeds(paired)
        if over is not None:
            found[str(method)] = over
    return found


def per_method(records: pd.DataFrame, metric: str) -> dict[str, Estimate]:
    """Estimates of a metric that does not depend on mode and fraction, by method."""
    rows = _of_metric(records, metric)
    return {str(method): estimate(group) for method, group in rows.groupby("method")}


def seed_sums(
    rows: pd.DataFrame, fractions: Sequence[float], modes: Sequence[str]
) -> dict[int, tuple[float, tuple[str, ...]]]:
    """For each seed with every fraction measured: the sum of the modes' scores, and its cells.

    Args:
        rows: accuracy records of one method.
        fractions: the fractions a sum runs over.
        modes: ``"kar"`` counts up, ``"roar"`` down.

    Returns:
        ``(sum, cells)`` by seed.
    """
    found = {}
    wanted = {(mode, fraction) for mode in modes for fraction in fractions}
    for seed, group in rows.groupby("seed"):
        measured = {
            (mode, fraction): (float(value), str(cell))
            for mode, fraction, value, cell in zip(
                group["mode"], group["fraction"], group["value"], group["cell"], strict=True
            )
            if (mode, fraction) in wanted
        }
        if wanted and measured.keys() == wanted:
            by_mode = {
                mode: [measured[mode, fraction][0] for fraction in fractions] for mode in modes
            }
            score = kar_score(by_mode["kar"]) if "kar" in by_mode else 0.0
            score += roar_score(by_mode["roar"]) if "roar" in by_mode else 0.0
            found[int(str(seed))] = score, tuple(cell for _, cell in measured.values())
    return found


def over_seeds(by_seed: Mapping[int, tuple[float, tuple[str, ...]]]) -> Estimate | None:
    """Mean and Student's interval of a score by seed; None without any seed.

    Args:
        by_seed: ``(score, cells)`` by seed, as `seed_sums` gives them.
    """
    if not by_seed:
        return None
    values = tuple(value for value, _ in by_seed.values())
    cells = dict.fromkeys(cell for _, own in by_seed.values() for cell in own)
    return Estimate(
        float(np.mean(values)), t_interval(values), tuple(by_seed), tuple(cells), values=values
    )


def _of_metric(records: pd.DataFrame, metric: str) -> pd.DataFrame:
    # Inside the network (a layer) is another experiment than on the input.
    rows: pd.DataFrame = records[(records["metric"] == metric) & records["layer"].isna()]
    return rows

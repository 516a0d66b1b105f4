"""Means and intervals over seeds: accuracies, sums and differences, as in the paper's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from evaluation.scoring.scores import kar_score, rescaled_accuracy, roar_score, t_interval
from reports.records.frames import of_metric

__all__ = [
    "SCORES",
    "SCORE_TITLES",
    "Estimate",
    "Place",
    "SeedSums",
    "Sums",
    "accuracies",
    "binomial_interval",
    "differences",
    "estimate",
    "levels",
    "over_seeds",
    "per_method",
    "score_sums",
    "seed_sums",
    "sums",
    "unmasked",
    "values_of",
]

# Method, mode and fraction.
Place = tuple[str, str, float]
# A sum of accuracies and the cells that it was made of, by seed.
SeedSums = Mapping[int, tuple[float, tuple[str, ...]]]

# Modes of each score, by its name in `Sums`.
SCORES: dict[str, tuple[str, ...]] = {"kar": ("kar",), "roar": ("roar",), "total": ("kar", "roar")}
SCORE_TITLES = {"kar": "KAR", "roar": "ROAR", "total": "SUM"}


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its interval, and the cells that it was measured by.

    Args:
        mean: over the seeds.
        interval: of 95 %, Student's unless the page says otherwise; None for a single seed.
        seeds: one entry a value; None for a value without a seed.
        cells: ids of the cells that measured it.
        derived_from: the number it was taken from, if it was not measured itself.
        values: the values behind `mean`, one a seed; empty if they were not kept.

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
    def numbered_seeds(self) -> tuple[int, ...]:
        """The seeds that have a number."""
        return tuple(seed for seed in self.seeds if seed is not None)

    @property
    def half_width(self) -> float | None:
        """Half of the interval's width; None for a single seed."""
        return None if self.interval is None else round(self.interval[1] - self.mean, 12)

    @property
    def excludes_zero(self) -> bool:
        """True if 0 lies outside the interval, so that the sign is known; one seed has none.

        >>> Estimate(0.2, (0.1, 0.3), (0, 1), ()).excludes_zero
        True
        """
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


@dataclass(frozen=True)
class Sums:
    """A method's KAR, ROAR and SUM, as in Table 2; None if every seed lacks a fraction."""

    kar: Estimate | None
    roar: Estimate | None
    total: Estimate | None


def estimate(rows: pd.DataFrame) -> Estimate:
    """The mean and interval of records, one a seed.

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
    """The accuracy without any masking; None before it was measured."""
    rows = of_metric(records, "accuracy")
    rows = rows[rows["mode"] == "unmasked"]
    return estimate(rows) if len(rows) else None


def binomial_interval(accuracy: float, images: int | None) -> tuple[float, float] | None:
    """Wilson's 95 % interval of an accuracy over test images; None if their number is not known.

    Args:
        accuracy: share of the images that were classified right.
        images: number of test images.

    >>> low, high = binomial_interval(0.5, 100)
    >>> round(low, 3), round(high, 3)
    (0.404, 0.596)
    """
    if not images:
        return None
    low, high = proportion_confint(round(accuracy * images), images, method="wilson")
    return float(low), float(high)


def accuracies(records: pd.DataFrame, metric: str = "accuracy") -> dict[Place, Estimate]:
    """Accuracies by method, mode and fraction, as in Table 5.

    Args:
        records: as `reports.records.frames.records_frame`, one record a number.
        metric: ``"accuracy"``, or another that is measured by mode and fraction.

    Returns:
        Estimates by ``(method, mode, fraction)``.
    """
    rows = of_metric(records, metric)
    rows = rows[rows["mode"].isin(["roar", "kar"])]
    return {
        (str(method), str(mode), float(fraction)): estimate(group.sort_values("seed"))
        for (method, mode, fraction), group in rows.groupby(["method", "mode", "fraction"])
    }


def levels(records: pd.DataFrame, chance: float | None) -> dict[Place, Estimate]:
    """Accuracies rescaled so that chance is 0 and the same seed's unmasked accuracy is 1.

    Args:
        records: as `reports.records.frames.records_frame`, one record a number.
        chance: accuracy of guessing; None if it is not known.

    Returns:
        Estimates by ``(method, mode, fraction)``; empty if the network learned nothing.
    """
    rows = of_metric(records, "accuracy")
    whole = rows[rows["mode"] == "unmasked"].set_index("seed")["value"].to_dict()
    if chance is None or not all(value > chance for value in whole.values()):
        return {}
    rows = rows[rows["seed"].isin(list(whole))].copy()
    rows["value"] = [
        rescaled_accuracy(value, whole[seed], chance)
        for value, seed in zip(rows["value"], rows["seed"], strict=True)
    ]
    return accuracies(rows)


def sums(by_score: Mapping[str, Mapping[str, SeedSums]]) -> dict[str, Sums]:
    """KAR, ROAR and SUM of every method over its seeds, as in Table 2.

    Args:
        by_score: as `score_sums` returns it.

    Returns:
        Sums by method.
    """
    methods = next(iter(by_score.values()))
    return {
        method: Sums(**{score: over_seeds(by_score[score][method]) for score in SCORES})
        for method in methods
    }


def differences(by_method: Mapping[str, SeedSums], reference: str) -> dict[str, Estimate]:
    """A score of each method minus that of `reference`, paired by seed.

    Args:
        by_method: as `seed_sums` returns it.
        reference: name of a method.

    Returns:
        Differences by method, `reference` left out; empty where nothing can be paired.
    """
    base = by_method.get(reference, {})
    found = {}
    for method, own in by_method.items():
        paired = {
            seed: (value - base[seed][0], cells + base[seed][1])
            for seed, (value, cells) in own.items()
            if seed in base
        }
        over = over_seeds(paired)
        if over is not None and method != reference:
            found[method] = over
    return found


def per_method(records: pd.DataFrame, metric: str) -> dict[str, Estimate]:
    """Estimates by method of a metric that does not depend on mode and fraction."""
    rows = of_metric(records, metric)
    return {str(method): estimate(group) for method, group in rows.groupby("method")}


def score_sums(records: pd.DataFrame, fractions: Sequence[float]) -> dict[str, dict[str, SeedSums]]:
    """The sums of each of `SCORES`, by method; arguments as `seed_sums` takes them."""
    return {score: seed_sums(records, fractions, modes) for score, modes in SCORES.items()}


def seed_sums(
    records: pd.DataFrame, fractions: Sequence[float], modes: Sequence[str]
) -> dict[str, SeedSums]:
    """The sum of the modes' scores for each method and seed.

    A seed counts only where every fraction was measured, so that all sums have as many terms.

    Args:
        records: as `reports.records.frames.records_frame`, one record a number.
        fractions: the fractions a sum runs over.
        modes: ``"kar"`` counts up, ``"roar"`` down.

    Returns:
        Sums by seed, by method; empty for a method without a seed that counts.
    """
    rows = of_metric(records, "accuracy")
    return {
        str(method): _seed_sums_of(group, fractions, modes)
        for method, group in rows[rows["method"] != "none"].groupby("method")
    }


def values_of(by_method: Mapping[str, SeedSums]) -> dict[str, dict[int, float]]:
    """The sums alone, by method and seed.

    Args:
        by_method: as `seed_sums` returns them.

    >>> values_of({"random": {0: (2.5, ("a0", "a1"))}})
    {'random': {0: 2.5}}
    """
    return {
        method: {seed: value for seed, (value, _) in by_seed.items()}
        for method, by_seed in by_method.items()
    }


def _seed_sums_of(rows: pd.DataFrame, fractions: Sequence[float], modes: Sequence[str]) -> SeedSums:
    """The sums of one method, by seed."""
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


def over_seeds(by_seed: SeedSums) -> Estimate | None:
    """The mean and Student's interval of a score over its seeds; None without any seed.

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

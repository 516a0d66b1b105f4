"""Paired tests over seeds, certainty of rankings, and the number of seeds needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

__all__ = [
    "PairedTest",
    "RankCertainty",
    "kendall_tau",
    "paired_tests",
    "pooled_deviation",
    "rank_certainty",
    "seeds_needed",
    "wilcoxon_floor",
]

_ALPHA = 0.05
_POWER = 0.8
# Differences of accuracies that are equal up to rounding.
_NO_SPREAD = 1e-12


@dataclass(frozen=True)
class PairedTest:
    """Student's paired t test over seeds.

    Args:
        p: two-sided p-value.
        adjusted: p-value after Holm's correction for all tests made together.
    """

    p: float
    adjusted: float


def paired_tests(differences: Sequence[Sequence[float]]) -> list[PairedTest | None]:
    """Paired t tests of differences by seed against 0, corrected together by Holm's method.

    Args:
        differences: for each comparison, one difference a seed.

    Returns:
        A test a comparison; None if there is no test: one seed, or no spread at all.

    Reference:
        Holm 1979, "A simple sequentially rejective multiple test procedure".

    >>> first, second, third = paired_tests([[0.1, 0.12, 0.14], [0.01, -0.02, 0.03], [0.5]])
    >>> round(first.p, 4), round(first.adjusted, 4), round(second.adjusted, 4), third
    (0.0091, 0.0183, 0.6914, None)
    """
    samples = [np.asarray(sample, dtype=np.float64) for sample in differences]
    testable = [i for i, d in enumerate(samples) if len(d) > 1 and np.ptp(d) > _NO_SPREAD]
    found: list[PairedTest | None] = [None] * len(samples)
    if testable:
        # The paired test is the one-sample test of the differences.
        p_values = [float(stats.ttest_1samp(samples[i], 0.0).pvalue) for i in testable]
        adjusted = multipletests(p_values, alpha=_ALPHA, method="holm")[1]
        for i, p, holm in zip(testable, p_values, adjusted, strict=True):
            found[i] = PairedTest(p, float(holm))
    return found


def wilcoxon_floor(seeds: int) -> float:
    """The smallest two-sided p that Wilcoxon's signed-rank test can give: ``2^(1 - S)``.

    >>> wilcoxon_floor(5)
    0.0625
    """
    return 2.0 ** (1 - seeds)


def kendall_tau(first: Mapping[str, float], second: Mapping[str, float]) -> float | None:
    """Kendall's tau-b of two rankings of their common names.

    Args:
        first: a score by name.
        second: likewise.

    Returns:
        1 for the same order, -1 for the reverse; None with fewer than two common names, or if all
        scores of one ranking are tied.

    >>> round(kendall_tau({"a": 3, "b": 2, "c": 1}, {"a": 3, "b": 1, "c": 2}), 3)
    0.333
    """
    shared = [name for name in first if name in second]
    if len(shared) < 2:
        return None
    tau = float(stats.kendalltau([first[n] for n in shared], [second[n] for n in shared]).statistic)
    return None if math.isnan(tau) else tau


def pooled_deviation(differences: Sequence[Sequence[float]]) -> float | None:
    """Pooled standard deviation within groups: ``sqrt(sum of squares / degrees of freedom)``.

    Args:
        differences: for each comparison, one difference a seed.

    Returns:
        The deviation; None if no comparison has two seeds.

    >>> pooled_deviation([[0.0, 0.02], [0.1, 0.1], [0.5]])
    0.01
    """
    samples = [np.asarray(sample, dtype=np.float64) for sample in differences]
    free = sum(len(sample) - 1 for sample in samples if len(sample))
    if free == 0:
        return None
    squares = sum(float(((d - d.mean()) ** 2).sum()) for d in samples if len(d))
    return math.sqrt(squares / free)


def seeds_needed(deviation: float, difference: float = 0.01) -> int:
    """Number of seeds for a paired t test to find a difference, with 80 % power at a 5 % level.

    Args:
        deviation: standard deviation of the paired differences over seeds.
        difference: the true difference, in the same unit; 0.01 is one point of accuracy.

    Returns:
        The number of seeds, at least 2, below which there is no test.

    Raises:
        ValueError: a negative deviation, or no difference.

    >>> seeds_needed(0.0047 * 2**0.5)
    6
    """
    if not (deviation >= 0 and difference > 0):
        raise ValueError(
            f"deviation {deviation} and difference {difference}; expected 0 or more, and above 0"
        )
    if deviation <= _NO_SPREAD:
        return 2
    test, effect = TTestPower(), difference / deviation

    def too_few(seeds: int) -> bool:
        # The power is NaN if the effect is so large that these seeds are enough.
        return bool(test.power(effect, nobs=seeds, alpha=_ALPHA) < _POWER)

    # Not solve_power, whose root finder fails if two or three seeds are enough.
    low, high = 1, 2
    while too_few(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if too_few(middle) else (low, middle)
    return high


@dataclass(frozen=True)
class RankCertainty:
    """The certainty of a method's rank, as shares of the resamples.

    Args:
        at_rank: share in which the method has exactly this rank.
        above_next: share in which it is above the method at the next rank; None for the last.
        ranks: lowest and highest rank, from 1, of the 95 % interval.
    """

    at_rank: float
    above_next: float | None
    ranks: tuple[int, int]


def rank_certainty(
    scores: Sequence[float], deviations: NDArray[np.floating]
) -> list[RankCertainty]:
    """The certainty of each method's rank among the scores.

    Args:
        scores: ``(K,)``, higher is better.
        deviations: ``(K, resamples)``, deviation of each score in each resample.

    Returns:
        One entry a method, in the order of `scores`.

    >>> sure, unsure = rank_certainty([1.0, 0.9], np.array([[0.0, 0.0], [0.2, -0.2]]))
    >>> sure.at_rank, sure.above_next, sure.ranks, unsure.above_next
    (0.5, 0.5, (1, 2), None)
    """
    values = np.asarray(scores, dtype=np.float64)
    resampled = values[:, None] + deviations
    order = np.argsort(-values, kind="stable")
    # Rank of each method in each resample; equal scores keep the order of the methods.
    places = np.argsort(np.argsort(-resampled[order], axis=0, kind="stable"), axis=0) + 1
    found: dict[int, RankCertainty] = {}
    for place, method in enumerate(order):
        below = order[place + 1] if place + 1 < len(order) else None
        low, high = np.quantile(places[place], (0.025, 0.975), method="inverted_cdf")
        found[int(method)] = RankCertainty(
            at_rank=float((places[place] == place + 1).mean()),
            above_next=None if below is None else _above(resampled[method], resampled[below]),
            ranks=(int(low), int(high)),
        )
    return [found[index] for index in range(len(values))]


def _above(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Share of resamples in which the first is greater; ties count half."""
    return float((first > second).mean() + (first == second).mean() / 2)

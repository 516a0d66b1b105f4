"""Agreement of two orders of methods, with its interval over methods and seeds."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["FEWEST_METHODS", "tau_interval", "weighted_tau"]

# Of three methods or fewer a resample often holds one pair of different ones, or none.
FEWEST_METHODS = 4
_RESAMPLES = 2_000
_BLOCK = 200


def weighted_tau(
    first: NDArray[np.floating], second: NDArray[np.floating], counts: NDArray[np.integer]
) -> NDArray[np.float64]:
    r"""Kendall's tau-b of two orders in which each method stands so often.

    $$\tau_b = \frac{\sum_{ij} w_i w_j \operatorname{sgn}(a_i - a_j) \operatorname{sgn}(b_i - b_j)}
      {\sqrt{\sum_{ij} w_i w_j [a_i \ne a_j] \, \sum_{ij} w_i w_j [b_i \ne b_j]}}$$

    It is the tau-b of lists that repeat method \(i\) \(w_i\) times.

    Args:
        first: ``(R, K)``, a score of each of K methods, in R lists.
        second: ``(R, K)``, likewise.
        counts: ``(R, K)``, how often each method stands in a list.

    Returns:
        ``(R,)``; NaN where all scores of one order are tied.

    >>> weighted_tau(np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 3.0, 2.0]]),
    ...              np.ones((1, 3), np.int64)).round(3).tolist()
    [0.333]
    """
    signs = [np.sign(scores[:, :, None] - scores[:, None, :]) for scores in (first, second)]
    weights = counts[:, :, None].astype(np.float64) * counts[:, None, :]
    together = (weights * signs[0] * signs[1]).sum((1, 2))
    told = [(weights * np.abs(sign)).sum((1, 2)) for sign in signs]
    with np.errstate(invalid="ignore"):
        tau: NDArray[np.float64] = together / np.sqrt(told[0] * told[1])
    return tau


def tau_interval(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    *,
    same_seeds: bool,
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> tuple[float, float] | None:
    """95 % percentile interval of Kendall's tau-b, methods and seeds resampled.

    A resample draws as many methods with replacement, and as many seeds of each order, whose mean
    is a method's score: other methods, and other trainings, could have been compared. With one seed
    it draws methods alone, and the interval leaves the noise of training out.

    Args:
        first: ``(K, S)``, scores of K methods at S seeds.
        second: ``(K, T)``, scores of the same methods at T seeds.
        same_seeds: True if the seeds are the same ones in the same order: both draw the same then.
        resamples: number of resamples.
        seed: seed of the draws.

    Returns:
        The two ends; None for fewer than `FEWEST_METHODS` methods, or if half of the resamples have
        no order at all.

    Raises:
        ValueError: orders of different methods.

    Reference:
        Efron and Tibshirani 1993, section 13.3 (the percentile interval).

    >>> order = np.arange(5.0)[:, None]
    >>> tau_interval(order, order, same_seeds=True)
    (1.0, 1.0)
    """
    methods = len(first)
    if len(second) != methods:
        raise ValueError(f"orders of {methods} and {len(second)} methods: expected the same ones")
    if methods < FEWEST_METHODS:
        return None
    draws = np.random.default_rng(seed)
    found = []
    for start in range(0, resamples, _BLOCK):
        rows = min(_BLOCK, resamples - start)
        counts = draws.multinomial(methods, np.full(methods, 1 / methods), size=rows)
        of_first = _drawn(draws, first.shape[1], rows)
        of_second = of_first if same_seeds else _drawn(draws, second.shape[1], rows)
        found.append(weighted_tau(of_first @ first.T, of_second @ second.T, counts))
    taus = np.concatenate(found)
    taus = taus[~np.isnan(taus)]
    if len(taus) <= resamples / 2:
        return None
    low, high = np.quantile(taus, (0.025, 0.975))
    # Means of drawn seeds are rounded: 1 may come out as a little more.
    return max(-1.0, _rounded(low)), min(1.0, _rounded(high))


def _drawn(draws: np.random.Generator, seeds: int, rows: int) -> NDArray[np.float64]:
    """Shares of each seed in the mean of each resample, ``(rows, seeds)``."""
    counts = draws.multinomial(seeds, np.full(seeds, 1 / seeds), size=rows)
    shares: NDArray[np.float64] = counts / seeds
    return shares


def _rounded(value: float) -> float:
    return math.copysign(round(abs(float(value)), 12), value)

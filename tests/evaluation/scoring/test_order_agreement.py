"""Weighted tau-b against SciPy on repeated lists, and the interval against known orders."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evaluation.scoring.order_agreement import tau_interval, weighted_tau


def test_a_weight_stands_for_a_repeated_method():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 5, (20, 7)).astype(float)  # with ties
    second = rng.standard_normal((20, 7))
    counts = rng.multinomial(7, np.full(7, 1 / 7), size=20)
    found = weighted_tau(first, second, counts)
    for row in range(20):
        repeated = [scores[row].repeat(counts[row]) for scores in (first, second)]
        assert found[row] == pytest.approx(stats.kendalltau(*repeated).statistic, nan_ok=True)


def test_the_interval_is_the_percentiles_of_scipys_taus_of_drawn_methods():
    rng = np.random.default_rng(1)
    first = rng.standard_normal((8, 1))
    second = first + 0.7 * rng.standard_normal((8, 1))
    drawn = rng.integers(8, size=(4000, 8))
    taus = [stats.kendalltau(first[rows, 0], second[rows, 0]).statistic for rows in drawn]
    expected = np.nanquantile(taus, (0.025, 0.975))
    assert tau_interval(first, second, same_seeds=False) == pytest.approx(expected, abs=0.06)


def test_one_order_is_told_and_unrelated_ones_are_not():
    order = np.arange(10.0)[:, None]
    assert tau_interval(order, order**3, same_seeds=False) == (1.0, 1.0)
    assert tau_interval(order, -order, same_seeds=False) == (-1.0, -1.0)
    rng = np.random.default_rng(2)
    low, high = tau_interval(order, rng.permutation(np.arange(10.0))[:, None], same_seeds=False)
    assert low < 0 < high


def test_noise_over_seeds_widens_the_interval_and_shared_seeds_are_drawn_together():
    rng = np.random.default_rng(3)
    order = np.arange(8.0)[:, None]
    noisy = order + 3 * rng.standard_normal((8, 5))
    mean = noisy.mean(1, keepdims=True)
    low, high = tau_interval(order, noisy, same_seeds=False)
    low_of_mean, high_of_mean = tau_interval(order, mean, same_seeds=False)
    assert high - low > high_of_mean - low_of_mean
    assert tau_interval(noisy, noisy, same_seeds=True) == (1.0, 1.0)
    assert tau_interval(noisy, noisy, same_seeds=False)[0] < 1.0


def test_too_few_or_tied_methods_have_no_interval():
    few = np.arange(3.0)[:, None]
    assert tau_interval(few, few, same_seeds=True) is None
    tied = np.ones((6, 1))
    assert tau_interval(tied, np.arange(6.0)[:, None], same_seeds=False) is None
    with pytest.raises(ValueError, match="orders of 3 and 6 methods"):
        tau_interval(few, tied, same_seeds=False)

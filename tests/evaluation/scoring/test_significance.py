"""Tests over seeds against SciPy, formulas written out, and planted orders."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from evaluation.scoring.significance import (
    kendall_tau,
    paired_tests,
    pooled_deviation,
    rank_certainty,
    seeds_needed,
    wilcoxon_floor,
)


def test_paired_tests_are_scipy_s_corrected_as_holm_writes():
    rng = np.random.default_rng(0)
    reference = rng.normal(0.5, 0.01, 5)
    methods = [rng.normal(0.5 + gain, 0.01, 5) for gain in (0.0, 0.005, 0.02, 0.05)]
    found = paired_tests([method - reference for method in methods])
    plain = [stats.ttest_rel(method, reference).pvalue for method in methods]
    np.testing.assert_allclose([test.p for test in found], plain)
    highest = 0.0
    for rank, index in enumerate(np.argsort(plain)):
        highest = max(highest, min(1.0, (len(plain) - rank) * plain[index]))
        assert found[index].adjusted == pytest.approx(highest)


def test_one_seed_or_no_spread_makes_no_test_and_counts_in_no_correction():
    sample = [0.1, 0.12, 0.15]
    alone, one, same = paired_tests([sample, [0.3], [0.2, 0.2 + 1e-17]])
    assert alone.p == alone.adjusted == pytest.approx(stats.ttest_1samp(sample, 0).pvalue)
    assert one is None
    assert same is None
    assert paired_tests([]) == []


@pytest.mark.parametrize("seeds", range(2, 8))
def test_wilcoxon_s_test_cannot_go_below_its_floor(seeds):
    lowest = min(
        stats.wilcoxon(np.arange(1, seeds + 1) * np.array(signs)).pvalue
        for signs in itertools.product((1, -1), repeat=seeds)
    )
    assert wilcoxon_floor(seeds) == pytest.approx(lowest)


def test_kendall_s_tau_counts_pairs_of_the_names_in_both():
    first = {"a": 0.9, "b": 0.7, "c": 0.4, "d": 0.1, "only here": 5.0}
    second = {"c": 0.3, "b": 0.8, "d": 0.5, "a": 0.6, "only there": 0.0}
    pairs = list(itertools.combinations("abcd", 2))
    agree = sum((first[i] - first[j]) * (second[i] - second[j]) > 0 for i, j in pairs)
    assert kendall_tau(first, second) == pytest.approx((agree - (len(pairs) - agree)) / len(pairs))
    assert kendall_tau(first, first) == pytest.approx(1)
    assert kendall_tau({"a": 1.0}, first) is None
    assert kendall_tau(first, dict.fromkeys(first, 0.5)) is None


def test_a_planted_deviation_is_found_in_groups_with_different_means():
    rng = np.random.default_rng(0)
    groups = [rng.normal(mean, 0.03, 5) for mean in range(400)]
    assert pooled_deviation([*groups, [7.0], []]) == pytest.approx(0.03, rel=0.05)
    assert pooled_deviation([[0.1], []]) is None


@pytest.mark.parametrize("deviation", [0.003, 0.004, 0.0066, 0.008, 0.03, 0.1])
def test_the_seeds_needed_are_the_fewest_with_the_power(deviation):
    def power(seeds):
        critical = stats.t.ppf(0.975, seeds - 1)
        beyond = stats.nct(seeds - 1, 0.01 / deviation * math.sqrt(seeds))
        return beyond.sf(critical) + beyond.cdf(-critical)

    seeds = seeds_needed(deviation)
    assert power(seeds) >= 0.8 > power(seeds - 1)


def test_two_seeds_are_the_fewest_and_nonsense_is_refused():
    assert seeds_needed(0.0) == seeds_needed(1e-7) == seeds_needed(0.00078) == 2
    with pytest.raises(ValueError, match="deviation -1"):
        seeds_needed(-1.0)
    with pytest.raises(ValueError, match="difference 0"):
        seeds_needed(0.1, 0.0)


def test_a_planted_order_is_found_with_its_certainty():
    rng = np.random.default_rng(0)
    scores = [0.2, 0.9, 0.55, 0.6]
    noise = 0.05 * rng.standard_normal((4, 20_000))
    found = rank_certainty(scores, noise)
    # The difference of two scores has a standard deviation of 0.05 sqrt(2).
    close = stats.norm.cdf(0.05 / (0.05 * math.sqrt(2)))
    assert found[3].above_next == pytest.approx(close, abs=0.01)
    assert found[3].at_rank == pytest.approx(close, abs=0.01)
    assert found[1].at_rank == pytest.approx(1, abs=0.001)
    assert found[1].ranks == (1, 1)
    assert found[2].ranks == found[3].ranks == (2, 3)
    assert found[0].above_next is None


def test_rank_certainty_counts_as_a_slow_loop_does():
    rng = np.random.default_rng(1)
    scores, noise = rng.random(5), 0.4 * rng.standard_normal((5, 300))
    found = rank_certainty(scores, noise)
    order = sorted(range(5), key=lambda i: -scores[i])
    for place, method in enumerate(order):
        hits = above = 0
        for draw in range(300):
            values = [scores[i] + noise[i, draw] for i in range(5)]
            hits += 1 + sum(value > values[method] for value in values) == place + 1
            if place < 4:
                above += values[method] > values[order[place + 1]]
        assert found[method].at_rank == pytest.approx(hits / 300)
        if place < 4:
            assert found[method].above_next == pytest.approx(above / 300)


def test_two_equal_methods_are_above_each_other_half_of_the_time():
    first, second = rank_certainty([0.5, 0.5], np.tile([[0.1, -0.1, 0.2]], (2, 1)))
    assert first.above_next == 0.5
    assert second.above_next is None

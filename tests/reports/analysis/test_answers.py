"""The words of the first screen, against differences whose tests are worked out with SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from reports.analysis.answers import answers, told
from reports.analysis.certainty import certainty
from reports.analysis.common_seeds import common_ranking
from reports.analysis.overview import ranked_sums
from reports.records.estimates import per_method
from reports.records.reading import read_run

pytestmark = pytest.mark.heavy

SEEDS = (0, 1, 2, 3)
MODES = ("kar", "roar")


def accuracy(method: str, mode: str, fraction: float, seed: int) -> float:
    """SMOE Scale far above both controls, the gradient as the controls; seeds differ a little."""
    noise = np.random.default_rng([len(method), round(100 * fraction), seed, mode == "kar"])
    level = 0.5 + 0.2 * (method == "smoe-linear") * (1 if mode == "kar" else -1)
    return round(level + 0.01 * noise.normal(), 6)


def total(method: str, seed: int) -> float:
    """SUM by hand; the random control's KAR is its ROAR at the other end."""
    own = {mode: [accuracy(method, mode, f, seed) for f in (0.1, 0.5, 0.9)] for mode in MODES}
    return 0.0 if method == "random" else sum(own["kar"]) - sum(own["roar"])


def test_told_is_holm_s_test_and_not_the_order_of_the_means(new_run) -> None:
    run = read_run(new_run(seeds=SEEDS, accuracy=accuracy))
    sure = certainty(run, ranked_sums(run))
    common = common_ranking(run, sure.rows, sure.ranked_by)
    names = ("overhead_percent", "map_ms", "attribution_ms")
    costs = {name: per_method(run.records, name) for name in names}
    said = {answer.question: answer.text for answer in answers(run, sure, common, costs)}
    adjusted = []
    for control, by_name in sure.against.items():
        for name in by_name:
            by_hand = [total(name, seed) - total(control, seed) for seed in SEEDS]
            assert by_name[name].sums.total.values == pytest.approx(by_hand)
            adjusted.append(by_name[name].test.p)
            assert adjusted[-1] == pytest.approx(stats.ttest_1samp(by_hand, 0).pvalue)
            # Bonferroni's bound of five tests is never below Holm's.
            if name == "smoe-linear":
                assert told(by_name[name].sums.total, by_name[name].test)
                assert 5 * adjusted[-1] < 0.05
            else:
                assert not told(by_name[name].sums.total, by_name[name].test)
    assert len(adjusted) == 5
    for question in ("Told from random?", "Told from the centre disk?"):
        assert said[question].startswith("Yes, above it: difference 1.")
        assert "1 of 2 told above" in said[question]
    assert "1 of 2 told above random" in said["SUM"]


def test_a_mean_above_the_centre_disk_that_no_test_tells_is_no_finding(new_run) -> None:
    def noise(method: str, mode: str, fraction: float, seed: int) -> float:
        size = {"smoe-linear": 0.05, "gradient": 0.04}.get(method, 0.0)
        other = 0.005 * (method == "smoe-linear")
        return 0.5 + (mode == "kar") * (size * (-1) ** seed + other) + 0.001 * fraction

    run = read_run(new_run(seeds=SEEDS, accuracy=noise))
    sure = certainty(run, ranked_sums(run))
    common = common_ranking(run, sure.rows, sure.ranked_by)
    costs = {name: {} for name in ("overhead_percent", "map_ms", "attribution_ms")}
    said = {answer.question: answer.text for answer in answers(run, sure, common, costs)}
    found = [entry for by_name in sure.against.values() for entry in by_name.values()]
    assert all(not told(entry.sums.total, entry.test) for entry in found)
    assert said["Told from the centre disk?"].startswith("No: difference")
    assert said["Told from the centre disk?"].endswith("none told from the centre disk.")
    assert said["SUM"].endswith("none told from random or the centre disk.")
    best = common.methods[0].method.name
    assert said["Cost of its map"].endswith(f"python -m comparisons profile --methods {best}")


def test_a_difference_that_other_test_images_would_turn_is_not_told(new_run) -> None:
    # Seeds agree to a thousandth, which is far less than 20 test images can tell.
    def small(method: str, mode: str, fraction: float, seed: int) -> float:
        step = 0.004 * (method == "smoe-linear") * (1 if mode == "kar" else -1)
        noise = 0.0002 * (mode == "kar") * ((seed + len(method)) % 2)
        return round(0.5 + step + noise, 6)

    run = read_run(new_run(seeds=SEEDS, accuracy=small))
    sure = certainty(run, ranked_sums(run))
    common = common_ranking(run, sure.rows, sure.ranked_by)
    costs = {name: {} for name in ("overhead_percent", "map_ms", "attribution_ms")}
    said = {answer.question: answer.text for answer in answers(run, sure, common, costs)}
    entry = sure.against["centre"]["smoe-linear"]
    assert 5 * entry.test.p < 0.05
    low, high = entry.sums.total.interval
    assert low < 0 < high
    assert not told(entry.sums.total, entry.test)
    assert said["Told from the centre disk?"].startswith("No: difference ")
    assert "and its interval holds 0." in said["Told from the centre disk?"]

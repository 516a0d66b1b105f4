"""The quality of maps as one number a method, against NumPy and SciPy."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from scipy import stats

from reports.analysis.overview import SumsRow
from reports.analysis.quality import QUALITIES, qualities
from reports.records.estimates import Estimate, Sums
from reports.records.run import Method


def _cell(name, method, seed, pairs, **others):
    history = [
        {"image": i, "insertion_area": gain, "deletion_area": loss, **others}
        for i, (gain, loss) in enumerate(pairs)
    ]
    return SimpleNamespace(id=name, spec={"method": method, "seed": seed}, history=history)


def _run(*cells):
    return SimpleNamespace(cells=lambda kind: cells if kind == "measure" else ())


def _row(name, total):
    return SumsRow(Method(name, name, "", {}, "smoe"), Sums(None, None, total))


def test_one_seed_has_the_interval_over_its_images():
    pairs = [(0.7, 0.2), (0.9, 0.3), (0.4, 0.1)]
    found = qualities(_run(_cell("a", "smoe-linear", 0, pairs)), [])
    (by_method,) = found.values()
    values = [gain - loss for gain, loss in pairs]
    expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert by_method["smoe-linear"].mean == np.mean(values)
    np.testing.assert_allclose(by_method["smoe-linear"].interval, expected)


def test_several_seeds_have_the_interval_over_their_means():
    cells = [
        _cell(str(seed), "fem", seed, [(0.5 + 0.1 * seed, 0.1), (0.6, 0.2)]) for seed in range(3)
    ]
    found = qualities(_run(*cells), [])["insertion less deletion"]["fem"]
    means = [np.mean([0.4 + 0.1 * seed, 0.4]) for seed in range(3)]
    np.testing.assert_allclose(found.mean, np.mean(means))
    np.testing.assert_allclose(
        found.interval, stats.t.interval(0.95, 2, np.mean(means), stats.sem(means))
    )
    assert (found.seeds, found.cells) == ((0, 1, 2), ("0", "1", "2"))


def test_what_was_not_measured_is_left_out():
    other = SimpleNamespace(id="b", spec={"method": "fem"}, history=[{"image": 0, "road": 1.0}])
    assert qualities(_run(other), [_row("fem", None)]) == {}
    total = Estimate(0.5, (0.4, 0.6), (0, 1), ("x", "y"))
    found = qualities(_run(other), [_row("fem", total), _row("random", None)])
    assert found == {"SUM": {"fem": total}}
    assert set(found) < set(QUALITIES)

"""The table and picture of cheaper settings, from planted records and from the recorded ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from evaluation.profiling.timing import Interval
from reports.records.estimates import Estimate
from reports.settings import rows as settings
from reports.settings.picture import picture
from reports.settings.rows import QUALITIES, Measured, Row, Runs, rows
from reports.settings.table import ABSENT, MARKS, recommended, table

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "choose-a-statistic.md"


def _estimates(values: dict[str, dict[int, float]]) -> dict[str, Estimate]:
    return {
        name: Estimate(float(np.mean(list(of.values()))), None, tuple(of), (name,))
        for name, of in values.items()
    }


def test_settings_are_held_against_the_default_by_scipy_s_paired_test():
    rng = np.random.default_rng(0)
    easy = rng.normal(0.5, 0.2, 6)
    gains = {"smoe-linear": 0.0, "smoe-late": 0.08, "mean-linear": -0.08, "std-linear": 0.0}
    values = {
        name: dict(enumerate(easy + gain + rng.normal(0, 0.01, 6))) for name, gain in gains.items()
    }
    values["std-linear"].pop(2)  # a seed that it lacks
    found = settings._paired(_estimates(values), values)
    assert found["smoe-linear"].verdict == ""
    assert [found[n].verdict for n in ("smoe-late", "mean-linear")] == ["above", "below"]
    p = {}
    for name in ("smoe-late", "mean-linear", "std-linear"):
        shared = sorted(values[name])
        own = [values[name][seed] for seed in shared]
        first = [values["smoe-linear"][seed] for seed in shared]
        p[name] = stats.ttest_rel(own, first).pvalue
        assert found[name].test.p == pytest.approx(p[name])
        assert found[name].difference.mean == pytest.approx(np.mean(own) - np.mean(first))
    assert max(entry.test.adjusted for n, entry in found.items() if n in p) <= 1
    smallest = min(p, key=p.__getitem__)
    assert found[smallest].test.adjusted == pytest.approx(min(1, 3 * p[smallest]))


def _row(method: str, verdict: str, mean: float) -> Row:
    difference = None
    test = None
    if verdict:
        difference = Estimate(0.1 if verdict == "above" else -0.1, None, (None,), ())
        p = 0.5 if verdict == "not told" else 0.001
        test = settings.PairedTest(p, p)
    own = Measured(Estimate(mean, (mean - 0.01, mean + 0.01), (0, 1), ()), difference, test)
    added = {"mobilenet_v3_large": Interval(10 * mean, 9 * mean, 11 * mean, 0.95)}
    return Row(method, f"`{method}`", added, {quality.key: own for quality in QUALITIES})


def test_what_is_told_is_marked_and_recommended():
    found = [
        _row("smoe-linear", "", 0.5),
        _row("smoe-late", "not told", 0.49),
        _row("mean-linear", "below", 0.4),
        _row("centre", "below", 0.1),
    ]
    text = table(found)
    assert "| `smoe-late` | not measured | 4.9 (4.4 to 5.4) | 0.490 ± 0.010 |" in text
    assert "| `mean-linear` | not measured | 4.0 (3.6 to 4.4) | 0.400 ± 0.010 ▼ |" in text
    said = "\n".join(recommended(found))
    assert "told below the default: `mean-linear`; not told from it: `smoe-late`." in said
    assert "**No quality tells `smoe-late` below the default**" in said
    assert "`centre`" not in said
    better = [*found, _row("std-linear", "above", 0.6)]
    said = "\n".join(recommended(better))
    assert "`smoe-late` or `std-linear` below the default**, and `std-linear` is told above" in said
    assert f"told above it in {QUALITIES[0].title}" in said
    worse = [found[0], _row("smoe-late", "below", 0.3)]
    assert "**Take the default where quality counts**" in "\n".join(recommended(worse))


def test_what_costs_more_than_the_default_is_not_recommended():
    found = [_row("smoe-linear", "", 0.5), _row("std-linear", "not told", 0.5)]
    assert "No quality tells `std-linear`" in "\n".join(recommended(found))
    dear = {name: Interval(30.0, 29.0, 31.0, 0.95) for name in found[0].added}
    found[1] = Row("std-linear", "`std-linear`", dear, found[1].qualities)
    said = "\n".join(recommended(found))
    assert "Dearer than the default on every network that was timed, not cheaper: `std" in said
    assert "**Take the default" in said
    # Of intervals that overlap on one network nothing is told.
    found[1] = Row("std-linear", "`std-linear`", found[0].added, found[1].qualities)
    assert "Dearer" not in "\n".join(recommended(found))


def test_the_picture_has_a_panel_a_quality_and_a_point_a_setting():
    found = [_row("smoe-linear", "", 0.5), _row("smoe-late", "above", 0.6), _row("centre", "", 0.1)]
    drawn = picture(found)
    panels = [axes for axes in drawn.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == [quality.title for quality in QUALITIES]
    for axes in panels:
        points = [line.get_xydata()[0] for line in axes.lines if line.get_marker() == "o"]
        np.testing.assert_allclose(points, [[5.0, 0.5], [6.0, 0.6]])
    with pytest.raises(ValueError, match="no setting has both a time on MobileNetV3-Large"):
        picture([Row("smoe-linear", "", {}, {})])


def test_runs_that_are_not_there_read_not_measured(tmp_path):
    found = rows(Runs(tmp_path / "a", tmp_path / "b", tmp_path / "c"))
    assert [row.method for row in found] == list(settings.SETTINGS)
    assert all(not row.added and not row.qualities for row in found)
    assert ABSENT in table(found)
    assert list(recommended(found)) == []


def test_the_page_has_the_recorded_table():
    page = PAGE.read_text(encoding="utf-8")
    assert MARKS.put(page, table(rows())) == page

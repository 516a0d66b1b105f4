"""The paper's sentence on Guided Backprop, with planted accuracies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from evaluation.storage.sealed import opened, sealed
from reports.analysis.replacement import replacements, verdict
from reports.pages.build import build
from reports.records.estimates import Estimate
from reports.records.reading import read_run

pytestmark = pytest.mark.heavy

FRACTIONS = (0.3, 0.7)
PARAMETERS = {
    "random": {},
    "gradcam": {"cam": "gradcam"},
    "guided-gradcam": {"cam": "gradcam", "times": "guided-backprop"},
    "fastcam": {"cam": "gradcam", "weights": "linear"},
    "gradcam++": {"cam": "gradcam++"},
    "fastcam-gradcam++": {"cam": "gradcam++", "weights": "linear"},
}
# What each method adds to every accuracy, and what it adds to it a seed.
ADDED = {"fastcam": (0.05, 0.01), "guided-gradcam": (0.02, 0.004)}


def planted(method: str, mode: str, fraction: float, seed: int) -> float:
    added, step = ADDED.get(method, (0.0, 0.0))
    return round(0.4 + (added + step * seed) * (1 if mode == "kar" else -1) * (1 + fraction), 6)


@pytest.fixture
def run(new_run) -> Path:
    methods = dict.fromkeys(PARAMETERS, ("cam", 0.0, 0.3))
    path = new_run(methods=methods, fractions=FRACTIONS, seeds=(0, 1, 2), accuracy=planted)
    plan = json.loads((path / "plan.json").read_text())
    for name, parameters in PARAMETERS.items():
        plan["methods"][name]["parameters"] = parameters
    (path / "plan.json").write_text(json.dumps(plan))
    return path


def test_differences_are_paired_by_seed(run):
    (found,) = replacements(read_run(run))
    assert {role: method.name for role, method in found.methods.items()} == {
        "alone": "gradcam",
        "guided": "guided-gradcam",
        "fast": "fastcam",
    }
    # By hand: 0.03 + 0.006 seed at each fraction, times 1.3 + 1.7, both modes alike.
    by_seed = [(0.03 + 0.006 * seed) * 3.0 for seed in (0, 1, 2)]
    for score, times in (("kar", 1), ("roar", 1), ("total", 2)):
        gain = getattr(found.gain, score)
        assert gain.mean == pytest.approx(np.mean(by_seed) * times)
        assert gain.seeds == (0, 1, 2)
    assert found.sums["alone"].total.mean == pytest.approx(0.0)


def test_a_map_without_its_product_is_left_out(run):
    found = replacements(read_run(run))
    assert [entry.methods["fast"].name for entry in found] == ["fastcam"]


def test_blurred_maps_are_held_against_one_another(run):
    plan = json.loads((run / "plan.json").read_text())
    for name, blurred in (("gradcam++", "guided-gradcam"), ("fastcam-gradcam++", "fastcam")):
        plan["methods"][name]["parameters"] = {**PARAMETERS[blurred], "blur_sigma_share": 0.0625}
    (run / "plan.json").write_text(json.dumps(plan))
    found = [entry.methods for entry in replacements(read_run(run))]
    pairs = [(methods["fast"].name, methods["guided"].name) for methods in found]
    assert pairs == [("fastcam", "guided-gradcam"), ("fastcam-gradcam++", "gradcam++")]


def test_without_answers_the_interval_is_student_s(run):
    for file in (run / "cells").glob("*.json"):
        cell, _ = opened(file.read_text())
        file.write_text(sealed({**cell, "correct": None}))
    (found,) = replacements(read_run(run))
    by_seed = [(0.03 + 0.006 * seed) * 3.0 for seed in (0, 1, 2)]
    expected = stats.ttest_1samp(by_seed, 0).confidence_interval(0.95)
    assert found.gain.kar.interval == pytest.approx(tuple(expected))


def test_verdicts():
    def gain(mean: float, half: float | None) -> Estimate:
        interval = None if half is None else (mean - half, mean + half)
        return Estimate(mean, interval, (0,) if half is None else (0, 1), ())

    assert verdict(gain(0.2, 0.1)) == "held"
    assert verdict(gain(-0.2, 0.1)) == "fails"
    assert verdict(gain(0.1, 0.2)) == "not told: the interval holds 0"
    assert verdict(gain(-0.1, 0.2)) == "not told: the interval holds 0"
    assert verdict(gain(0.1, None)) == "not told: one seed"
    assert verdict(None) == "not measured"


def test_the_page_shows_the_sentence_where_it_is_tested(run):
    html = build(run).read_text()
    assert "Guided Backprop replaced by SMOE Scale" in html
    assert ">0.216</a>" in html.split('id="replacement"')[1].split("</table>")[0]


def test_the_page_of_another_run_does_not(finished_run, tmp_path):
    html = build(finished_run, tmp_path).read_text()
    assert "Guided Backprop replaced by SMOE Scale" not in html

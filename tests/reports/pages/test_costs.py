"""The page of costs, of cells with planted times: what is met is said, and what is missed."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.profiling.timing import Interval
from evaluation.storage.records import METRICS, CellResult, Record
from evaluation.storage.store import Store
from reports import build
from reports.analysis.cost_claims import GOALS, claims, judged
from reports.analysis.cost_rows import Ratio
from reports.analysis.cost_tables import cost_tables
from reports.records.reading import read_run

pytestmark = pytest.mark.heavy

METHODS = {
    "smoe-linear": ("SMOE Scale, linear weights", "smoe"),
    "fastcam": ("Fast-CAM", "cam"),
    "guided-backprop": ("Guided Backprop", "gradient"),
    "gradient-sgsq": ("Gradient, SmoothGrad-Squared", "gradient"),
    "read-once": ("Reading each activation once", "control"),
    "centre": ("Centre disk", "control"),
}
FLOPS = 8e9
# Added time in percent of the forward pass, in eight rounds around it.
ADDED = {
    "none": 0.0,
    "smoe-linear": 1.0,
    "fastcam": 3.5,
    "guided-backprop": 120.0,
    "gradient-sgsq": 1200.0,
    "read-once": -0.2,
    "centre": -99.0,
}


def plant(
    root: Path, *, model: str = "resnet50", spread: float = 0.1, rounds: int = 8, **place: Any
) -> Path:
    store = Store(root)
    root.mkdir(exist_ok=True)
    where = {"size": 224, "classes": 1000, "precision": "float32", "device": "cpu"}
    where |= {"hardware": "cpu", "model": model, **place}
    timed = {**where, "threads": 2, "rounds": 8, "limit_s": 30.0, "compiled": False} | place

    def save(kind: str, name: str, values: dict[str, float], history: Any, spec: Any) -> None:
        cell = f"{kind}-{model}-{name}-{'-'.join(map(str, place.values()))}"
        records = tuple(
            Record(
                *(name, {}, "noise", model, "unmasked", None, None, metric, value),
                *(METRICS[metric].unit, None, "0.1.0", cell),
            )
            for metric, value in values.items()
        )
        result = CellResult(cell, kind, {**spec, "method": name}, records, history=history)
        store.save_result(result)

    for name, added in ADDED.items():
        steps = [spread * step for step in (-4, -3, -2, -1, 1, 2, 3, 4)]
        taken = [{"forward_ms": 100.0, "map_ms": 100.0 + added + step} for step in steps]
        history = tuple(taken[:rounds])
        batch = timed.get("batch", 1)
        values = {"first_ms": 500.0, "forward_ms": 100.0 / batch, "overhead_percent": added}
        save("cost", name, values, history, {**timed, "batch": batch})
        counted = {
            "map_flops": 0.0 if name == "centre" else FLOPS * (2 if "guided" in name else 1),
            "map_elementwise": 3e6 + (0 if name == "none" else 2e7),
            "map_transcendental": 0.0 if name == "none" else 1e7,
            "map_reduction": 0.0 if name == "none" else 1e7,
            **{"peak_bytes": 60_000.0, "scratch_bytes": 50_000.0, "allocated_bytes": 70_000.0},
            **({"forward_bytes": 1e7} if name == "none" else {}),
        }
        save("counts", name, counted, (), where)
    reading = tuple({"forward_ms": 1.0, "map_ms": 2.0 + step / 10} for step in range(8))
    save("reading", "smoe-linear", {}, reading, {**timed, "batch": timed.get("batch", 1)})
    about = {
        name: {"title": title, "citation": "", "parameters": {}, "group": group}
        for name, (title, group) in METHODS.items()
    }
    plan = {"kind": "profile", "plan": {"methods": list(METHODS)}, "methods": about}
    (root / "plan.json").write_text(json.dumps(plan))
    return root


def section(root: Path, name: str) -> str:
    """Text of a section of the page, tags gone and blanks joined."""
    html = build(root).read_text()
    found = re.search(rf'<section id="{name}">(.*?)</section>', html, re.DOTALL)
    assert found
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", found[1])).split())


def test_goals_are_held_against_what_was_measured(tmp_path):
    plant(tmp_path, batch=1)
    found = {(c.goal.title, c.batch): c for c in claims(cost_tables(read_run(tmp_path)))}
    smoe = found["SMOE Scale, added time", 1]
    assert smoe.found.median == pytest.approx(1.0)
    assert (smoe.goal.limit, smoe.verdict.met) == (1.4, True)
    assert smoe.ratio == pytest.approx(1 / 1.4)
    fastcam = found["Fast-CAM, added time", 1]
    assert (fastcam.goal.limit, fastcam.verdict.met, fastcam.verdict.unsure) == (3, False, False)
    guided = found["Guided Backprop, times SMOE Scale's added time", 1]
    assert guided.value == pytest.approx(120)
    # 1 in 0.6 to 1.4 and 120 in 119.6 to 120.4: at least 85.4, at most 200.7.
    assert (guided.found.low, guided.found.high) == pytest.approx((119.6 / 1.4, 120.4 / 0.6))
    assert guided.verdict.words == "not told"
    smoothed = found["SmoothGrad-Squared, 15 copies, times SMOE Scale's added time", 1]
    assert smoothed.value == pytest.approx(1200)
    assert smoothed.verdict.met is False
    memory = found["SMOE Scale, memory besides the map, one image", None]
    assert (memory.found.median, memory.verdict.words) == (50.0, "met")
    # Four tenths of a hundred million operations beside four thousand million multiply-adds.
    operations = found["SMOE Scale, operations added to the network's multiply-adds", None]
    assert operations.found.median == pytest.approx(1.0)
    assert "SMOE Scale's statistic over one reading of the activations" not in {t for t, _ in found}


def test_what_is_missed_is_said_in_words_and_in_colour(tmp_path):
    plant(tmp_path, batch=1)
    html = build(tmp_path).read_text()
    assert '<td class="failed">not met</td>' in html
    assert '<td class="met">met</td>' in html
    assert ".failed, small.failed { color: var(--alert)" in html
    peers = section(tmp_path, "peers")
    assert "Gradient, SmoothGrad-Squared 1456 or more 1200 ×" in peers
    assert "not told" in peers.partition("Guided Backprop 97 or more 120 ×")[2][:40]


def test_each_row_has_the_network_alone_and_the_goals_by_form_their_floor(tmp_path):
    plant(tmp_path, batch=1)
    # Rounds, the network alone with its quartiles, then the map.
    assert "SMOE Scale, linear weights 8 100 100 to 100 101 " in section(tmp_path, "times")
    forms = section(tmp_path, "forms")
    # 1.4 times -0.2 and 0.5 are 0.22, and SMOE Scale adds 1.
    assert (
        "PyTorch, resnet50, 2 threads, batch 1 SMOE Scale 100 −0.2 −0.6 to 0.2 1 0.6 to 1.4 "
        "0.22 1.4 times the sum + 0.5 not told" in forms
    )
    command = "not measured python -m comparisons deployment engines 5 not measured"
    assert f"OpenVINO, resnet50, 1 thread, batch 1 SMOE Scale {command}" in forms
    # Nor of the goals of networks that the run has not.
    assert "mobilenet_v3_large" not in forms


def test_an_added_time_that_cannot_be_told_from_none_says_so(tmp_path):
    plant(tmp_path, batch=8)
    times = section(tmp_path, "times")
    assert re.search(
        r"Reading each activation once 8 .*? −0\.2 −0\.6 to 0\.2 not told from 0", times
    )
    assert re.search(r"The network beside itself 8 .*? not told from 0", times)
    assert re.search(r"Centre disk 8 .*? does not run the network –", times)
    assert "below 0" not in times


def test_one_that_is_surely_below_none_is_called_a_fault(tmp_path):
    plant(tmp_path, batch=8, spread=0.01)
    assert "below 0: no cost, a fault of the timing" in section(tmp_path, "times")
    plant(tmp_path / "few", batch=8, spread=0.01, rounds=3)
    few = section(tmp_path / "few", "times")
    assert "below 0: too few rounds to tell" in few
    assert "fault" not in few


def test_a_goal_of_one_network_is_none_of_another(tmp_path):
    plant(tmp_path, model="mine", batch=1)
    assert list(claims(cost_tables(read_run(tmp_path)))) == []
    page = build(tmp_path).read_text()
    # A page of a user's own network is about that one: no goals, and no links to them.
    for name in ("goals", "forms"):
        assert f'id="{name}"' not in page
        assert f'href="#{name}"' not in page
    assert "120 ×" in section(tmp_path, "peers")
    assert "97 or more" not in section(tmp_path, "peers")


def test_every_goal_has_its_row_on_the_networks_it_names(tmp_path):
    for batch in (1, 8, 16):
        for model in dict.fromkeys(name for goal in GOALS for name in goal.networks):
            plant(tmp_path, model=model, batch=batch)
    tables = cost_tables(read_run(tmp_path))
    shown = {id(claim.goal) for claim in claims(tables)}
    assert shown == {id(goal) for goal in GOALS if not goal.on_gpu}
    assert all(claim.found is not None for claim in claims(tables))
    side_by_side = section(tmp_path, "networks")
    assert "Method resnet50 resnet18 mobilenet_v3_large densenet121 vgg16_bn" in side_by_side


def test_without_a_gpu_one_line_has_the_command(tmp_path):
    plant(tmp_path, batch=1)
    gpu = section(tmp_path, "gpu")
    assert gpu.count("not measured") == 1
    assert "python -m comparisons profile --device cuda --batch 1,32,128" in gpu


def test_what_a_gpu_measured_stands_in_its_table(tmp_path):
    place = {"device": "cuda", "hardware": "Some GPU", "batch": 32}
    plant(tmp_path, precision="bfloat16", compiled=True, **place)
    plant(tmp_path, precision="float32", **place)
    gpu = section(tmp_path, "gpu")
    assert "resnet50, 224x224, Some GPU, compiled" in gpu
    # A column for each precision and batch that was measured, and nothing else.
    assert gpu.count("n.m.") == 2 * len(METHODS) + 2
    # Below each of the two tables.
    assert gpu.count(f"n.m. : not measured, {len(METHODS)} numbers.") == 2
    eager, _, compiled = gpu.partition("Some GPU, compiled")
    assert "SMOE Scale, linear weights n.m. 1 0.6 to 1.4 of 100 ms" in eager
    assert "SMOE Scale, linear weights 1 0.6 to 1.4 of 100 ms n.m." in compiled


def test_ratios_have_the_bounds_that_both_intervals_allow():
    own = Interval(100.0, 90.0, 110.0, 0.95)
    # The least and the greatest quotient of values from a fine grid over both intervals.
    other = Interval(0.5, 0.25, 2.0, 0.95)
    grid = np.linspace(90, 110, 101)[:, None] / np.linspace(0.25, 2, 101)
    assert Ratio.of(own, other) == Ratio(200.0, grid.min(), grid.max())
    below = Interval(-1.0, -2.0, 4.0, 0.95)
    assert Ratio.of(below, Interval(2.0, 1.0, 4.0, 0.95)) == Ratio(-0.5, -2.0, 4.0)


@pytest.mark.parametrize("low", [-1.0, 0.0])
@pytest.mark.parametrize(("median", "high"), [(0.05, 2.0), (-0.5, 2.0), (-0.5, -0.1)])
@pytest.mark.parametrize("at_most", [True, False])
def test_a_ratio_over_what_may_be_0_has_no_number_and_is_not_told(low, median, high, at_most):
    ratio = Ratio.of(Interval(4857.0, 4700.0, 5000.0, 0.95), Interval(median, low, high, 0.95))
    assert ratio.value is None
    verdict = judged(ratio, 1456.0, at_most=at_most)
    assert verdict.words == "not told (the divisor may be 0)"
    assert verdict.met is None
    assert verdict.style == "untold"


def test_the_page_has_no_ratio_over_an_added_time_that_may_be_0(tmp_path):
    # SMOE Scale adds 1 %, between -3 and 5.
    plant(tmp_path, batch=1, spread=1.0)
    found = {c.goal.title: c for c in claims(cost_tables(read_run(tmp_path))) if c.batch}
    for title in ("Guided Backprop", "SmoothGrad-Squared, 15 copies"):
        claim = found[f"{title}, times SMOE Scale's added time"]
        assert claim.value is claim.ratio is None
        assert claim.verdict.words == "not told (the divisor may be 0)"
    goals = section(tmp_path, "goals")
    assert "at least 1456 × not told – not told (the divisor may be 0)" in goals
    peers = section(tmp_path, "peers")
    assert "Gradient, SmoothGrad-Squared 1456 or more not told SMOE Scale's may be 0" in peers
    for text in (goals, peers, section(tmp_path, "times")):
        assert "1200 ×" not in text
        assert "inf" not in text
    row = re.search(r"Guided Backprop 8 .*? SmoothGrad", section(tmp_path, "times"))
    assert row is not None
    assert "not told" in row[0]


@pytest.mark.parametrize(
    ("median", "at_most", "words"),
    [(1.0, True, "met"), (2.5, True, "not met"), (2.5, False, "met"), (1.0, False, "not met")],
)
def test_the_median_decides_where_the_interval_tells(median, at_most, words):
    sure = Interval(median, median - 0.1, median + 0.1, 0.95)
    assert judged(sure, 2.0, at_most=at_most).words == words
    unsure = Interval(median, 0.0, 9.0, 0.95)
    assert judged(unsure, 2.0, at_most=at_most).met == (words == "met")
    assert judged(unsure, 2.0, at_most=at_most).words == "not told"
    assert judged(None, 2.0, at_most=at_most).words == "not measured"

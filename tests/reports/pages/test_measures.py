"""The section on measures without retraining, from a run whose numbers are planted."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from evaluation.storage.records import METRICS, CellResult, Record
from evaluation.storage.sealed import opened, sealed
from evaluation.storage.store import Store
from reports import build
from reports.analysis.overview import ranked_by, ranked_sums
from reports.figures.measures import measures_figure
from reports.pages import measures
from reports.pages.measures import measures_context
from reports.records.reading import read_run
from reports.records.run import Run

pytestmark = pytest.mark.heavy

IMAGES = 5
STAGES = ("head", "stem")
# Deletion area of each image is this plus 0.01 times its number.
DELETION = {"random": 0.50, "centre": 0.20, "smoe-linear": 0.40, "gradient": 0.30}


def _add(run: Path, metric: str, method: str, values: list[float], layer=None, seed=0) -> None:
    cell = f"measure-{metric}-{method}-{layer}-{seed}"
    key = metric if layer is None else f"{metric} {layer}"
    record = Record(
        *(method, {}, "shapes", "resnet9", "unmasked", None, layer, metric),
        *(float(np.mean(values)), METRICS[metric].unit, seed, "0.1.0", cell),
    )
    history = tuple({"image": i, key: value} for i, value in enumerate(values))
    Store(run).save_result(
        CellResult(cell, "measure", {"seed": seed}, (record,), history=history, seconds=1.0)
    )


@pytest.fixture
def measured(new_run) -> Path:
    run = new_run()
    for method, area in DELETION.items():
        _add(run, "deletion_area", method, [area + 0.01 * i for i in range(IMAGES)])
        _add(run, "total_variation", method, [0.25] * IMAGES)
        _add(run, "png_bytes", method, [700.0] * IMAGES)
    for layer, value in zip(STAGES, (0.9, 0.4), strict=True):
        _add(run, "weights_spearman", "gradient", [value] * IMAGES, layer)
        _add(run, "weights_ssim", "gradient", [value / 2] * IMAGES, layer)
    return run


def _context(path: Path) -> tuple[Run, dict]:
    run = read_run(path)
    rows = ranked_sums(run)
    return run, measures_context(run, rows, ranked_by(rows))


def _column(context: dict, name: str):
    return next(c for c in context["measure_ranking"] if c.metric.name == name)


def test_agreement_is_kendalls_tau_with_the_retrained_sum(measured):
    _, context = _context(measured)
    run = read_run(measured)
    total = {row.method.name: row.sums.total.mean for row in ranked_sums(run)}
    names = list(DELETION)
    # Less is better: the order by falling area is the measure's own.
    expected = stats.kendalltau([-DELETION[n] for n in names], [total[n] for n in names])
    column = _column(context, "deletion_area")
    found = column.agreement["total"]
    assert found.tau == pytest.approx(expected.statistic)
    assert len(found.methods) == 4
    assert METRICS["insertion_area"].title in context["measure_missing"]


def test_the_order_is_compared_with_each_retrained_score_and_an_interval(measured):
    run, context = _context(measured)
    column = _column(context, "deletion_area")
    for key in ("total", "roar", "kar"):
        scores = {name: getattr(run.sums[name], key).mean for name in DELETION}
        expected = stats.kendalltau([-DELETION[n] for n in DELETION], list(scores.values()))
        found = column.agreement[key]
        assert found.tau == pytest.approx(expected.statistic)
        assert found.methods == tuple(DELETION)
        assert found.seeds == ((0,), (0, 1))
        low, high = found.interval
        assert -1 <= low <= found.tau <= high <= 1
    assert context["measure_retrained"] == {"total": "SUM", "roar": "ROAR", "kar": "KAR"}
    html = build(measured).read_text()
    section = html[html.index('id="agreement"') : html.index('id="sanity"')]
    assert "<th>τ with SUM</th><th>τ with ROAR</th><th>τ with KAR</th>" in section
    assert "over methods and seeds" in section
    assert section.count(" [") == 3


def test_three_methods_are_too_few_to_tell(measured):
    for path in (measured / "cells").glob("measure-deletion_area-centre*"):
        path.unlink()
    _, context = _context(measured)
    found = _column(context, "deletion_area").agreement["roar"]
    assert (len(found.methods), found.interval) == (3, None)
    assert "<small> not told</small>" in build(measured).read_text()


def test_measures_of_fine_tuned_networks_have_a_table_of_their_own(measured):
    for place, method in enumerate(DELETION):
        _add(measured, "ffid_plus", method, [0.1 * place] * IMAGES)
        _add(measured, "idsds", method, [0.2 * place + 0.01 * i for i in range(IMAGES)])
    record = Record(
        *("none", {}, "shapes", "resnet9", "unmasked", None, None, "idsds_network_accuracy"),
        *(0.6875, "1", 0, "0.1.0", "tuned"),
    )
    Store(measured).save_result(CellResult("tuned", "fine_tuned", {"seed": 0}, (record,)))
    html = build(measured).read_text()
    section = html[html.index('id="fine-tuned"') : html.index('id="agreement"')]
    assert "On whole test images they get 68.8 % (IDSDS) right, before 75.5 %." in section
    for shown in ("0.300", "0.620", METRICS["ffid_plus"].title, METRICS["idsds"].title):
        assert shown in section
    # Both are in the table of agreement, with the deletion area and the pointing game.
    agreement = html[html.index('id="agreement"') : html.index('id="sanity"')]
    assert agreement.count('<th scope="row">') == 4
    assert METRICS["ffid_minus"].title in html  # in the line of what was not measured


def test_one_seed_has_its_interval_over_the_images(measured):
    _, context = _context(measured)
    found = _column(context, "deletion_area").by_method["gradient"]
    values = 0.30 + 0.01 * np.arange(IMAGES)
    half = stats.t.ppf(0.975, IMAGES - 1) * values.std(ddof=1) / np.sqrt(IMAGES)
    assert found.mean == pytest.approx(values.mean())
    assert found.half_width == pytest.approx(half)
    assert context["measure_spread"] == "the images, of one network"


def test_several_seeds_have_their_interval_over_the_seeds(measured):
    _add(measured, "deletion_area", "gradient", [0.42] * IMAGES, seed=1)
    _, context = _context(measured)
    found = _column(context, "deletion_area").by_method["gradient"]
    assert found.seeds == (0, 1)
    assert found.mean == pytest.approx((0.32 + 0.42) / 2)
    half = stats.t.ppf(0.975, 1) * np.std([0.32, 0.42], ddof=1) / np.sqrt(2)
    assert found.half_width == pytest.approx(half)
    assert context["measure_spread"].startswith("seeds")


def test_stages_come_in_the_order_they_were_randomised(measured, tmp_path):
    records = []
    for layer in ("z-output", "a-input"):
        records += [
            Record(
                *("centre", {}, "shapes", "resnet9", "unmasked", None, layer, "weights_spearman"),
                *(1.0, "1", 0, "0.1.0", "both"),
            )
        ]
    for path in (measured / "cells").glob("measure-weights*"):
        path.unlink()
    Store(measured).save_result(CellResult("both", "measure", {"seed": 0}, tuple(records)))
    assert _context(measured)[1]["measure_stages"] == ["z-output", "a-input"]


def test_the_page_shows_every_number_with_its_records(measured):
    html = build(measured).read_text()
    section = html[html.index('id="measures"') : html.index('id="set-up"')]
    for shown in ("0.320", "0.520", "0.900", "0.200", "700 B", "0.250"):
        assert shown in section
    links = set(re.findall(r'<a href="#([^"]+)"', section))
    assert links <= set(re.findall(r'id="([^"]+)"', html))
    # A description has no price: the table of costs leaves the file's size out.
    cost = html[html.index('id="cost"') : html.index('id="measures"')]
    assert METRICS["png_bytes"].title not in cost


def test_without_truth_the_page_says_so(measured):
    for meta in measured.glob("data/*/meta.json"):
        meta.write_text(json.dumps(json.loads(meta.read_text()) | {"has_object_masks": False}))
    for path in (measured / "cells").glob("maps-*.json"):
        found, _ = opened(path.read_text())
        found["records"] = [r for r in found["records"] if r["metric"] != "pointing_game"]
        path.write_text(sealed(found))
    html = build(measured).read_text()
    assert "not measured: no truth" in html
    assert METRICS["mass_in_object"].title + "</th>" not in html


def test_a_run_without_measures_says_not_measured(finished_run, tmp_path):
    html = build(finished_run, tmp_path).read_text()
    section = html[html.index('id="measures"') : html.index('id="set-up"')]
    # One line with what the command needs, and no column of any table; one for the control
    # without a peak.
    assert section.count('<p class="missing">') == 2
    assert section.count(">n.m.</abbr></td>") == 1
    said = " ".join(section.split())
    wanted = (
        '<a href="#set-up">The run\'s command</a> with <code>--measures all</code> measures them.'
    )
    assert wanted in said
    for name in ("deletion_area", "insertion_area", "png_bytes"):
        assert f"<th>{METRICS[name].title}</th>" not in section
        assert METRICS[name].title in section
    assert "test images, with the frozen network" not in section


def test_a_method_alone_has_no_rank(measured):
    run, context = _context(measured)
    column = _column(context, "deletion_area")
    name = next(iter(column.by_method))
    alone = replace(column, by_method={name: column.by_method[name]})
    assert measures._chart([run.methods[name]], {}, "SUM", [alone], []) is None
    assert measures._chart(list(run.methods.values()), {}, "SUM", [column], []) is not None


def test_the_figure_ranks_from_the_best(measured):
    figure = measures_figure(
        {"a": "First", "b": "Second", "c": "Third"},
        {"score": {"a": 3.0, "b": 5.0, "c": 3.0}},
        {"head": {"a": 1.0, "b": -0.25}},
    )
    ranks, kept = ([text.get_text() for text in axes.texts] for axes in figure.axes)
    assert ranks == ["2.5", "1", "2.5"]
    assert kept == ["1.00", "-0.25"]

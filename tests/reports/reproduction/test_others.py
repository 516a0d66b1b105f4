"""Figures of other groups: rank correlations against SciPy, and rows that are absent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from evaluation.storage.records import CellResult, Record
from evaluation.storage.store import Store
from reports.records.estimates import per_method
from reports.records.reading import read_run
from reports.records.run import Run
from reports.reproduction.claims import SECTIONS, Claim
from reports.reproduction.others import NOTEBOOK, TORCH_CAM, spearman
from reports.reproduction.page import frame_of

pytestmark = pytest.mark.heavy

RUNS = Path(__file__).parents[3] / "reports" / "runs"
TITLE = "Figures of other groups"


def _frame(*runs: Run) -> pd.DataFrame:
    return frame_of({TITLE: list(SECTIONS[TITLE](runs))})


def _row(frame: pd.DataFrame, words: str) -> pd.Series:
    (row,) = [row for _, row in frame.iterrows() if f"{words} " in f"{row['statement']} "]
    return row


def _measured(
    path: Path,
    metric: str,
    by_method: dict[str, float],
    images: int = 1,
    model: str = "resnet9",
) -> None:
    for method, value in by_method.items():
        cell = f"{metric}-{method}"
        record = Record(
            *(method, {}, "shapes", model, "unmasked", None, None, metric),
            *(value, "1", 0, "0.1.0", cell),
        )
        history = tuple({"image": image, metric: value} for image in range(images))
        Store(path).save_result(
            CellResult(cell, "measure", {"seed": 0}, (record,), history=history)
        )


def test_without_runs_each_row_has_the_command_that_measures_it():
    frame = _frame()
    assert set(frame["verdict"]) == {"not measured"}
    assert len(frame) == 2 + 3 + 8
    assert frame["command"].str.startswith("python -m comparisons run").all()
    curve = _row(frame, "Mean accuracy as Integrated Gradients' most relevant")
    # The mean over nine shares, 60 and 80 % half way between their neighbours.
    known = list(NOTEBOOK.values())
    expected = (sum(known) + (known[4] + known[5]) / 2 + (known[5] + known[6]) / 2) / 9
    assert curve["paper"] == pytest.approx(expected)


def test_the_notebook_s_row_says_what_differs(tmp_path):
    _measured(tmp_path, "road_most_accuracy", {"ig": 0.5}, model="resnet18")
    _measured(tmp_path, "accuracy", {"none": 0.75}, model="resnet18")
    run = read_run(tmp_path)
    curve = "Mean accuracy as Integrated Gradients' most relevant"
    row = _row(_frame(run), curve)
    assert (row["ours"], row["verdict"]) == (50.0, "other weights")
    assert row["note"].endswith("weights of another training")
    options = {"recipe": {"precision": "bfloat16"}, "data": "folder:copies"}
    note = _row(_frame(replace(run, options=options)), curve)["note"]
    assert note.endswith(
        "weights of another training; trained in bfloat16; the images are copies, those of "
        "folder:copies"
    )
    assert _row(_frame(run), "Accuracy of the unmasked resnet18 at 32x32")["ours"] == 75.0


def test_a_correlation_is_that_of_the_retrained_accuracies_and_the_measure(new_run):
    path = new_run()
    road = {"random": 0.7, "centre": 0.5, "smoe-linear": 0.4, "gradient": 0.6}
    _measured(path, "road_most_accuracy", road)
    run = read_run(path)
    row = _row(_frame(run), "Most relevant first, linear fill: with against")
    accuracy = {
        name: np.mean([run.accuracies[name, "roar", share].mean for share in (0.1, 0.5, 0.9)])
        for name in road
    }
    expected = stats.spearmanr(list(accuracy.values()), list(road.values())).statistic
    assert row["ours"] == pytest.approx(expected)
    assert row["verdict"] == "not told"  # of four methods any correlation is possible
    assert "retrained with the fixed fill" in row["note"]
    assert "4 methods, 2 seeds" in row["measured_on"]
    # Least relevant first was not measured.
    assert _row(_frame(run), "Least relevant first, linear fill: with")["verdict"] == "not measured"


def test_blurred_forms_do_not_count_beside_their_methods(new_run):
    lost = {
        "random": 0.2,
        "centre": 0.4,
        "gradient": 0.3,
        "smoe-linear": 0.45,
        "gradient+blur": 0.5,
    }
    path = new_run(
        methods=dict.fromkeys(lost, ("other", 0.1, 0.1)),
        accuracy=lambda method, _, fraction, __: 0.75 - lost[method] * fraction,
    )
    # The blurred form alone would be out of order.
    _measured(
        path, "road_most_accuracy", {**{n: 0.9 - x for n, x in lost.items()}, "gradient+blur": 1}
    )
    row = _row(_frame(read_run(path)), "Most relevant first, linear fill: with against")
    assert row["ours"] == pytest.approx(1.0)
    assert "4 methods, 2 seeds" in row["measured_on"]


def test_the_interval_is_that_of_scipys_correlations_of_drawn_methods():
    rng = np.random.default_rng(0)
    first = rng.standard_normal(12)
    second = first + rng.standard_normal(12)
    rho, (low, high) = spearman(first.tolist(), second.tolist())
    assert rho == pytest.approx(stats.spearmanr(first, second).statistic)
    drawn = rng.integers(12, size=(3000, 12))
    taken = [stats.spearmanr(first[rows], second[rows]).statistic for rows in drawn]
    assert (low, high) == pytest.approx(tuple(np.quantile(taken, (0.025, 0.975))), abs=0.06)


def test_average_drops_stand_beside_torch_cams_without_a_verdict(new_run):
    path = new_run()
    _measured(path, "average_drop", {"gradcam": 0.3, "smoe-linear": 0.2})
    _measured(path, "confidence_increase", {"gradcam": 0.25, "smoe-linear": 0.3})
    frame = _frame(read_run(path))
    row = _row(frame, "Average drop of gradcam")
    assert (row["ours"], row["paper"], row["verdict"]) == (0.3, 0.2686, "other weights")
    assert row["ratio"] == pytest.approx(0.3 / 0.2686)
    own = _row(frame, "Average drop of SMOE Scale, linear weights")
    assert own["claimed"] == "none published"
    assert np.isnan(own["ratio"])
    assert _row(frame, "Average drop of layercam")["verdict"] == "not measured"


def test_average_drops_are_those_of_the_run_with_the_most_images(new_run, tmp_path):
    runs = []
    for value, images in ((0.5, 2), (0.4, 3), (0.6, 1)):
        path = new_run().rename(tmp_path / f"{images} images")
        _measured(path, "average_drop", {"gradcam": value}, images)
        runs.append(read_run(path))
    row = _row(_frame(*runs), "Average drop of gradcam")
    assert row["ours"] == 0.4
    assert "3 test images measured" in row["measured_on"]


def test_a_figure_of_other_weights_neither_holds_nor_fails():
    claim = Claim("here", "so", "4", "equal to", 4.0, 4.0, paper=4.0, comparable=False)
    assert claim.verdict == "other weights"
    assert claim.ratio == 1.0


def test_recorded_runs_have_correlations_of_retrained_fills():
    row = _row(_frame(read_run(RUNS / "shapes-tracks")), "fixed against linear fill")
    run = read_run(RUNS / "shapes-tracks")
    rows = run.every_variant
    rows = rows[(rows["metric"] == "accuracy") & (rows["mode"] == "roar") & ~rows["recursive"]]
    rows = rows[(rows["mask_unit"] == "pixel") & (rows["target_from"] == "self")]
    by_fill = [
        rows[rows["fill"] == fill].set_index("method")["value"] for fill in ("mean", "noisy-linear")
    ]
    both = by_fill[0].to_frame("mean").join(by_fill[1].rename("linear"), how="inner")
    both = both[~both.index.str.endswith("+blur")]
    assert len(both) == 6
    expected = stats.spearmanr(both["mean"], both["linear"]).statistic
    assert row["ours"] == pytest.approx(expected)


def test_the_page_has_torch_cams_measures_of_the_recorded_run():
    run = read_run(RUNS / "imagenette-lite0")
    found = [per_method(run.records, name) for name in ("average_drop", "confidence_increase")]
    page = (RUNS.parents[1] / "docs" / "results" / "claims.md").read_text(encoding="utf-8")
    titles = {
        "gradcam": "Grad-CAM",
        "gradcam++": "Grad-CAM++",
        "smoothgradcam++": "Smooth Grad-CAM++",
        "layercam": "LayerCAM",
    }
    for method, title in titles.items():
        theirs, ours = (
            ", ".join(f"{value:.3f}" for value in values)
            for values in (TORCH_CAM[method], [by_method[method].mean for by_method in found])
        )
        assert f"| {title} | {theirs} | {ours} |" in page
    for method in ("smoe-linear", "fastcam", "centre", "random"):
        ours = ", ".join(f"{by_method[method].mean:.3f}" for by_method in found)
        assert ours in page

"""The picture of cost against quality, from planted records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from evaluation.storage.records import CellResult, Record
from evaluation.storage.store import Store
from reports.analysis.certainty import certainty
from reports.analysis.overview import ranked_sums
from reports.pictures.cost_quality import app, picture
from reports.records.reading import read_run

pytestmark = pytest.mark.heavy

# Added percent, the median with its interval; the centre disk was timed too.
TIMES = {"gradient": (150.0, 140.0, 155.0), "smoe-linear": (10.0, 8.0, 13.0)}
TIMES |= {"centre": (0.1, 0.0, 0.2), "unscored": (1.0, 0.5, 2.0)}
AREAS = {"gradient": (0.1, 0.2, 0.3), "smoe-linear": (0.4, 0.6, 0.5), "centre": (0.2, 0.2, 0.3)}


def _costs(folder: Path, model: str = "resnet9") -> Path:
    place = {"metric": "overhead_percent", "batch": 1, "device": "cpu", "precision": "float32"}
    rows = [
        {**place, "method": name, "model": model, "compiled": False, "threads": threads}
        | dict(zip(("value", "low", "high"), np.multiply(own, threads).tolist(), strict=True))
        for name, own in TIMES.items()
        for threads in (1, 2)
    ]
    folder.mkdir()
    pd.DataFrame(rows).to_parquet(folder / "records.parquet")
    return folder


def _measured(path: Path) -> Path:
    for method, areas in AREAS.items():
        cell = f"measured-{method}"
        record = Record(
            *(method, {}, "shapes", "resnet9", "unmasked", None, None, "insertion_area"),
            *(0.0, "1", 0, "0.1.0", cell),
        )
        history = tuple(
            {"image": image, "insertion_area": area, "deletion_area": 0.05}
            for image, area in enumerate(areas)
        )
        spec = {"method": method, "seed": 0}
        Store(path).save_result(CellResult(cell, "measure", spec, (record,), history=history))
    return path


def _drawn(axes) -> tuple[dict[float, float], dict[float, tuple[float, float]], set[float]]:
    """Points and intervals by row, and the places of the dotted lines."""
    points, spans, lines = {}, {}, set()
    for line in axes.lines:
        xy = np.asarray(line.get_xydata())
        if line.get_marker() == "o":
            points[xy[0, 1]] = xy[0, 0]
        elif line.get_linestyle() == ":":
            lines.add(xy[0, 0])
        else:
            spans[xy[0, 1]] = tuple(xy[:, 0])
    return points, spans, lines


def test_methods_stand_from_the_cheapest_beside_their_qualities(new_run, tmp_path):
    figure = picture(_measured(new_run()), _costs(tmp_path / "costs"), tmp_path / "none")
    time, area = figure.axes
    assert [label.get_text() for label in time.get_yticklabels()] == ["SMOE Scale", "Gradient"]
    points, spans, lines = _drawn(time)
    assert (points, lines) == ({0: 10.0, 1: 150.0}, set())
    assert spans == {0: (8.0, 13.0), 1: (140.0, 155.0)}
    points, spans, lines = _drawn(area)
    assert points == pytest.approx({0: 0.45, 1: 0.15})
    assert list(lines) == pytest.approx([0.7 / 3 - 0.05])
    # Student's interval of three images, a tenth apart.
    half = 4.302652729911275 * 0.1 / np.sqrt(3)
    assert spans[0] == pytest.approx((0.45 - half, 0.45 + half))


def test_a_retrained_run_is_one_more_column(new_run, tmp_path):
    run = _measured(new_run(seeds=(0, 1)))
    figure = picture(run, _costs(tmp_path / "costs"), run)
    points, spans, lines = _drawn(figure.axes[-1])
    rows = certainty(read_run(run), ranked_sums(read_run(run))).rows
    sums = {row.method.name: row.sums.total for row in rows}
    assert points == pytest.approx({0: sums["smoe-linear"].mean, 1: sums["gradient"].mean})
    assert spans[1] == pytest.approx(sums["gradient"].interval)
    assert sorted(lines) == pytest.approx(sorted(sums[name].mean for name in ("random", "centre")))
    assert len(figure.axes) == 3


def test_a_blurred_form_is_no_line_of_the_picture(new_run, tmp_path):
    lost = {"random": 0.2, "centre": 0.3, "smoe-linear": 0.4, "smoe-linear+blur": 0.5}
    groups = {name: "smoe" if name == "smoe-linear" else "control" for name in lost}
    run = _measured(
        new_run(
            methods={name: (group, 0.1, 0.1) for name, group in groups.items()},
            accuracy=lambda method, _, fraction, __: 0.75 - lost[method] * fraction,
        )
    )
    figure = picture(run, _costs(tmp_path / "costs"), run)
    _, _, lines = _drawn(figure.axes[-1])
    assert len(lines) == 2


def test_a_network_without_times_is_an_error_with_the_command(new_run, tmp_path):
    costs = _costs(tmp_path / "costs", model="another")
    with pytest.raises(ValueError, match="profile --model resnet9 --batch 1 --threads 1"):
        picture(_measured(new_run()), costs, tmp_path / "none")


def test_the_command_writes_the_same_file_twice(new_run, tmp_path):
    given = ["--photographs", str(_measured(new_run())), "--costs", str(_costs(tmp_path / "costs"))]
    written = []
    for name in ("a.svg", "b.svg"):
        out = tmp_path / name
        asked = [*given, "--retrained", str(tmp_path / "none"), "--out", str(out)]
        assert CliRunner().invoke(app, asked).exit_code == 0
        written.append(out.read_bytes())
    assert written[0] == written[1]
    assert b"insertion less deletion" in written[0]


def test_a_run_that_is_not_there_is_one_line(tmp_path):
    asked = ["--photographs", str(tmp_path / "none"), "--out", str(tmp_path / "a.svg")]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 2
    assert result.output.startswith("error: ")
    assert not (tmp_path / "a.svg").exists()

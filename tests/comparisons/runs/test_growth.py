"""What growth measures: cells' times told apart from what lies between them; runs not repeated."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pandas as pd
import pytest
import typer.testing

from comparisons import __main__ as command
from comparisons.cli import growth as growing
from comparisons.estimates.reading import Reading, measure_reading
from comparisons.graph.nodes import build_nodes
from comparisons.plans.growth import Case, Sizes, cases
from comparisons.runs import growth
from comparisons.runs.growth import Measured, Times, measure_run, times
from comparisons.runs.session import RunError
from evaluation.storage.records import CellResult

pytestmark = pytest.mark.training


def _ended(kind: str, end: float, seconds: float) -> tuple[float, CellResult]:
    return end, CellResult(f"{kind} {end}", kind, {}, (), seconds=seconds)


def test_what_lies_between_cells_of_one_worker():
    ended = [
        _ended("retrain", 133.0, 10.0),
        _ended("data", 112.0, 3.0),
        _ended("base", 120.0, 5.0),  # began at 115
        _ended("maps", 122.5, 2.0),  # half a second after the base network
    ]
    # The third one began half a second after the maps.
    found = times(ended, 100.0, workers=1)
    assert found == Times(cells=3, start_s=15.0, run_s=18.0, cells_s=17.0, between_s=0.5)
    several = times(ended, 100.0, workers=2)
    assert math.isnan(several.between_s)
    assert replace(several, between_s=0.5) == found


def test_cells_that_workers_share_are_of_one_size():
    shared = [case for case in cases(Sizes(), "float32") if case.series == "workers"]
    assert [case.workers for case in shared] == [1, 2]
    assert shared[0].plan == shared[1].plan
    nodes = build_nodes(shared[0].plan, train_images=4000, test_images=500)
    trained = [node.work.training for node in nodes if node.work.training]
    assert len(trained) == 24
    assert set(trained) == {4000}


def test_a_series_differs_in_one_thing():
    found = cases(Sizes(), "float32")
    images, methods = ([c.plan for c in found if c.series == n] for n in ("images", "methods"))
    first = images[0]
    for n, plan in zip((1000, 4000, 16000), images, strict=True):
        assert replace(plan, train_images=1000) == first
        assert plan.train_images == n
    assert [len(plan.methods) for plan in methods] == [2, 4, 8]
    # Where two series meet, the run is the same and is not measured twice.
    meeting = [case.id for case in found if case.plan == first and case.engine == "local"]
    assert len(meeting) == 3
    assert len(set(meeting)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": (0,)}, "images 0: expected numbers of at least 1"),
        ({"methods": (2, 99)}, "methods 2, 99: expected numbers from 1 to 8"),
        ({"fractions": (6,)}, "fractions 6: expected numbers from 1 to 5"),
        ({"engines": ("dask",)}, "engine 'dask': expected some of local, ray"),
        ({"cell_images": 0}, "cell images 0: expected at least 1"),
    ],
)
def test_sizes_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        Sizes(**changes)


def test_every_run_is_kept_at_once_and_none_is_made_twice(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    ran: list[tuple[str, str]] = []

    def fake(case: Case, folder) -> Measured:
        if case.value == "4":
            raise RunError("the run of methods 4 failed")
        ran.append((case.series, case.value))
        return Measured(9.0, Times(4, 2.0, 5.0, 4.5, 0.1), 100.0, 200.0, 3.0)

    monkeypatch.setattr(growing, "measure_run", fake)

    def call() -> tuple[int, str]:
        arguments = "growth --workers none --engines local --images 64,128 --methods 2,4 "
        arguments += f"--fractions 1 --training-images 0 --out {tmp_path}"
        result = typer.testing.CliRunner().invoke(command.app, arguments.split())
        return result.exit_code, result.output

    code, said = call()
    assert code == 2
    assert "Error: the run of methods 4 failed" in said
    kept = pd.read_csv(tmp_path / "growth.csv", dtype={"value": str})
    assert list(zip(kept["series"], kept["value"], strict=True)) == [
        ("engine", "local"),
        ("images", "64"),
        ("images", "128"),
        ("methods", "2"),
    ]
    # Methods 2 and images 64 are one run.
    assert ran == [("engine", "local"), ("images", "64"), ("images", "128")]
    assert "not measured now" not in said
    monkeypatch.setattr(
        growing, "measure_run", lambda case, folder: fake(replace(case, value="5"), folder)
    )
    code, said = call()
    assert code == 0, said
    assert ran[3:] == [("methods", "5")]
    # What an earlier call measured is not said as if this one had.
    figure = "5.0 s after 2.0 s of start"
    told = f"not measured now; growth.csv in {tmp_path} says {figure}"
    lines = [line.split("  ", 1)[1] for line in said.splitlines() if "s of start" in line]
    assert lines == [
        *(f"{name}: {told}" for name in ("engine local", "images 64", "images 128", "methods 2")),
        f"methods 4: {figure}",
        f"fractions 1: {told}",
    ]
    assert (tmp_path / "README.md").exists()


def test_figures_of_another_machine_are_kept_and_not_on_the_page(tmp_path, monkeypatch):
    fake = Measured(9.0, Times(4, 2.0, 5.0, 4.5, 0.1), 100.0, 200.0, 3.0)
    monkeypatch.setattr(growing, "measure_run", lambda *_: fake)
    call = "growth --workers none --engines none --fractions none --images {} --methods none "
    call += "--training-images 0 "
    runner = typer.testing.CliRunner()
    first = [*call.format("64").split(), "--out", str(tmp_path)]
    assert runner.invoke(command.app, first).exit_code == 0
    table = pd.read_csv(tmp_path / "growth.csv")
    table.assign(processor="an abacus", run_s=77.7).to_csv(tmp_path / "growth.csv", index=False)
    second = [*call.format("128").split(), "--out", str(tmp_path)]
    assert runner.invoke(command.app, second).exit_code == 0
    kept = pd.read_csv(tmp_path / "growth.csv")
    assert sorted(kept["value"]) == [64, 128]
    page = (tmp_path / "README.md").read_text()
    assert "| 128 |" in page
    assert "abacus" not in page
    assert "77.7" not in page


def test_images_held_and_read_are_measured_once_a_machine_and_device(tmp_path, monkeypatch):
    measured: list[int] = []
    row = Reading("resnet9", 64, "cpu", "float32", 1, 100.0, 125.0, -20.0, -22.0, -18.0, 0, 0, 0)

    def fake(images: int, device: str):
        measured.append(images)
        yield replace(row, training_images=images, device=device)

    monkeypatch.setattr(growing, "measure_reading", fake)
    nothing = "growth --workers none --engines none --fractions none --images none --methods none"

    def call(images: int) -> str:
        arguments = [*nothing.split(), "--training-images", str(images), "--out", str(tmp_path)]
        result = typer.testing.CliRunner().invoke(command.app, arguments)
        assert result.exit_code == 0, result.output
        return (tmp_path / "README.md").read_text()

    assert "| resnet9 | cpu, float32 | 64 | 100 | 125 | -20.0 (-22.0 to -18.0) |" in call(64)
    assert "| 64 | 100 | 125 |" in call(64)
    assert measured == [64]
    assert "| 128 | 100 | 125 |" in (page := call(128))
    assert "| 64 |" not in page
    assert measured == [64, 128]
    assert "| 128 |" in call(0)
    assert measured == [64, 128]


def test_a_reading_counts_images_of_both_ways():
    found = list(measure_reading(64, "cpu"))
    assert [each.network for each in found] == ["none", "resnet9", "fastnet"]
    for each in found:
        assert each.held == pytest.approx(each.read / (1 + each.clock_percent / 100))
        assert each.clock_low <= each.clock_percent <= each.clock_high
    # A network of one layer trains on more images than ResNet-9, and that on more than fastnet.
    assert found[0].held > 3 * found[1].held > 3 * found[2].held / 2
    with pytest.raises(ValueError, match="training images 0: expected at least 1"):
        list(measure_reading(0, "cpu"))


@pytest.mark.slow
def test_a_run_in_processes_of_its_own(tmp_path):
    sizes = Sizes(workers=(), engines=("local",), images=(), methods=(), fractions=())
    (case,) = cases(sizes, "float32")
    found = measure_run(case, tmp_path)
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["plan_file"]["file"] == "plan.json"
    nodes = build_nodes(case.plan, train_images=64, test_images=32)
    assert found.times.cells == len(nodes) - 1
    assert found.times.start_s + found.times.run_s <= found.total_s
    assert found.times.cells_s <= found.times.run_s
    # A process that has loaded PyTorch holds tens of megabytes; there are two of them at least.
    assert found.largest_mib > 50
    assert found.all_mib > 1.5 * found.largest_mib


def test_a_run_that_fails_says_its_last_words(tmp_path, monkeypatch):
    sizes = Sizes(workers=(), engines=("local",), images=(), methods=(), fractions=())
    (case,) = cases(sizes, "float32")
    monkeypatch.setattr(growth, "_ROOT", tmp_path)  # where there is no such module
    with pytest.raises(RunError, match=r"the run of engine local failed:\n(.|\n)*comparisons"):
        measure_run(case, tmp_path)


def test_a_later_option_of_plans_changes_no_id():
    sizes = Sizes(workers=(1, 2), engines=(), images=(), methods=(), fractions=(1,))
    found = [case.id for case in cases(sizes, "float32")]
    assert found == ["30e101d5301c8cd5", "8f9f32a542a71976", "ee6aa1d23d9f86e2"]

"""Archives of runs: the same page, and cells that are taken up without training twice."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import reports
from comparisons.__main__ import app
from comparisons.cells.cell import CELL_KINDS, Cell
from comparisons.cells.run import run_cell
from comparisons.engines.engine import execute
from comparisons.graph.layers import build_layer_nodes, probe_layers
from comparisons.graph.nodes import build_nodes
from comparisons.graph.specs import data_cell
from comparisons.plans.layers import LayersPlan, tuning_recipe
from comparisons.plans.plan import Plan
from comparisons.runs.archive import archive_run, take_up
from comparisons.runs.session import RunError
from evaluation.datasets.dataset import DatasetError, open_staged
from evaluation.storage.archive import FILES, ArchiveError, RunArchive
from evaluation.storage.array_files import ArrayFile
from evaluation.storage.store import Store
from evaluation.training.retraining import Recipe

ROOT = Path(__file__).parents[3]
# One epoch on 64 images teaches nothing, as reports say.
pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore:.*has learned nothing")]

# Cells that a stopped run has left, all of them on maps that are finished.
LEFT = {"retrain": 2, "mask_only": 1, "profile": 1}


def _invoke(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture
def finished(tiny, tmp_path) -> Path:
    """A finished run of the tiny plan with its page, in a folder of this test's own."""
    out = tmp_path / "run"
    shutil.copytree(tiny.store.root, out)  # with the times of its files
    (out / "plan.json").write_text(json.dumps({"plan": asdict(tiny.plan), "methods": {}}))
    reports.build(out)
    return out


@pytest.fixture
def stopped(finished) -> Path:
    """The same run without its last trainings: those on the oracle's maps."""
    for result in Store(finished).results():
        if result.kind in LEFT and result.spec["method"] == "oracle":
            Store(finished).cell(result.id).unlink()
    return finished


def _go_on(plan: Plan, store: Store, inline_executor) -> list[Cell]:
    """Run what is left of a plan; the cells that were run."""
    executor = inline_executor(store)
    nodes = build_nodes(plan, train_images=64, test_images=32)
    run_cell(nodes[0].make({}), store)
    failed = [event.error for event in execute(nodes, store, executor) if event.kind == "failed"]
    assert failed == []
    return executor.submitted


def _numbers(store: Store) -> dict[str, Any]:
    return {
        result.id: (
            [record for record in result.records if not record.timed],
            result.correct,
            {} if result.kind == "profile" else dict(result.hashes),
        )
        for result in store.results()
    }


def test_a_page_made_of_the_archive_is_that_of_the_folder(finished, tmp_path):
    code, said = _invoke("archive", finished, "--to", tmp_path / "archive")
    assert code == 0
    assert f"{len(list(Store(finished).results()))} cells" in said
    assert "left to run" not in said
    archive = tmp_path / "archive"
    assert sorted(path.name for path in archive.iterdir()) == sorted(FILES)
    made = reports.build(archive, tmp_path / "again")
    page = (finished / "report.html").read_bytes()
    assert b"data:image/png" in page
    assert page == (archive / "report.html").read_bytes() == made.read_bytes()
    for name in ("records.parquet", "plan.json"):
        assert (archive / name).read_bytes() == (finished / name).read_bytes()
    assert not (tmp_path / "again" / "records.csv").exists()
    reports.build(archive, tmp_path / "again", csv=True)
    csv = (tmp_path / "again" / "records.csv").read_bytes()
    assert csv == (finished / "records.csv").read_bytes()
    names = RunArchive(archive)._names
    assert not [name for name in names if name.startswith(("models/", "maps/"))]  # none is needed


def test_a_second_archive_is_the_first(finished, tmp_path):
    archive = tmp_path / "archive"
    archive_run(finished, archive)
    before = {path.name: path.read_bytes() for path in archive.iterdir()}
    archive_run(finished, archive)
    assert {path.name: path.read_bytes() for path in archive.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "run"]


@pytest.mark.parametrize("maps", [True, False])
def test_a_stopped_run_is_taken_up_and_nothing_trained_twice(
    stopped, tiny, tmp_path, inline_executor, maps
):
    archive = tmp_path / "archive"
    found = archive_run(stopped, archive, maps=maps)
    assert found.left == sum(LEFT.values())
    assert found.models_bytes > 0
    assert (found.maps_bytes or 0) > 0 or not maps
    assert (archive / "report.html").read_bytes() == reports.build(stopped).read_bytes()
    shutil.rmtree(stopped)
    out = Store(tmp_path / "new")
    take_up(archive, out.root, tiny.plan)
    kept = {path.name: path.read_bytes() for path in out.cell("x").parent.iterdir()}
    ran = _go_on(tiny.plan, out, inline_executor)
    assert {kind: sum(cell.kind == kind for cell in ran) for kind in LEFT} == LEFT
    assert len(ran) == sum(LEFT.values())
    after = {path.name: path.read_bytes() for path in out.cell("x").parent.iterdir()}
    assert after.items() >= kept.items()
    assert _numbers(out) == _numbers(tiny.store)
    assert list(out.root.glob(".partial-*")) == []


def _counted(monkeypatch) -> list[str]:
    """The kinds of cells that are worked on, those made again among them."""
    worked: list[str] = []

    def counting(kind: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def count(*arguments: Any) -> Any:
            worked.append(kind)
            return work(*arguments)

        return count

    for kind, work in list(CELL_KINDS.items()):
        monkeypatch.setitem(CELL_KINDS, kind, counting(kind, work))
    return worked


def test_artefacts_that_are_gone_are_made_again_once(
    stopped, tiny, tmp_path, inline_executor, monkeypatch
):
    archive = tmp_path / "archive"
    archive_run(stopped, archive, maps=False)
    out = Store(tmp_path / "new")
    take_up(archive, out.root, tiny.plan)
    worked = _counted(monkeypatch)
    _go_on(tiny.plan, out, inline_executor)
    assert worked.count("maps") == 1
    assert "base" not in worked
    # Without its weights the network is trained again, which gives the recorded ones.
    shutil.rmtree(out.root / "models")
    shutil.rmtree(out.root / "maps")
    before = _numbers(out)
    for result in out.results():
        if result.kind in LEFT and result.spec["method"] == "gradient":
            out.cell(result.id).unlink()
    worked.clear()
    _go_on(tiny.plan, out, inline_executor)
    assert worked.count("base") == worked.count("maps") == 1
    assert _numbers(out) == before


def test_a_machine_that_makes_other_maps_says_so(
    stopped, tiny, tmp_path, inline_executor, monkeypatch
):
    archive = tmp_path / "archive"
    archive_run(stopped, archive, maps=False)
    out = Store(tmp_path / "new")
    take_up(archive, out.root, tiny.plan)
    make = CELL_KINDS["maps"]
    monkeypatch.setitem(
        CELL_KINDS, "maps", lambda *given: make(*given) | {"hashes": {"maps": "others"}}
    )
    executor = inline_executor(out)
    nodes = build_nodes(tiny.plan, train_images=64, test_images=32)
    run_cell(nodes[0].make({}), out)
    errors = {e.error for e in execute(nodes, out, executor) if e.kind == "failed"}
    (error,) = errors
    assert "this machine makes others (maps others, recorded " in error
    (oracle,) = [r for r in out.results() if r.kind == "maps" and r.spec["method"] == "oracle"]
    assert not out.maps(oracle.id).exists()  # nobody can take them for the recorded ones


def test_other_images_are_told(stopped, tiny, tmp_path):
    archive = tmp_path / "archive"
    archive_run(stopped, archive)
    out = Store(tmp_path / "new")
    take_up(archive, out.root, tiny.plan)
    (data,) = [result for result in out.results() if result.kind == "data"]
    out.cell(data.id).write_text(replace(data, hashes={"data": "others"}).to_json())
    node = build_nodes(tiny.plan, train_images=64, test_images=32)[0]
    with pytest.raises(DatasetError, match="images of shapes on this machine are not those"):
        run_cell(node.make({}), out)
    assert not out.data(data.id).exists()


def test_a_layers_run_is_taken_up(tmp_path, inline_executor):
    plan = LayersPlan(
        *("shapes", "resnet9", ("mean",)),
        train_images=64,
        test_images=32,
        image_size=16,
        base=Recipe(epochs=1, batch_size=16),
        tuning=tuning_recipe(epochs=1, batch_size=16),
    )

    def go_on(store: Store) -> list[Cell]:
        data = run_cell(data_cell(plan), store)
        dataset = open_staged(store.data(data.id))
        layers = probe_layers(plan, dataset)
        content = {"kind": "layers", "plan": asdict(plan), "layers": layers.names, "methods": {}}
        content |= {"log_base": None, "command": "python -m comparisons layers"}
        (store.root / "plan.json").write_text(json.dumps(content))
        executor = inline_executor(store)
        events = list(execute(build_layer_nodes(plan, layers, dataset), store, executor))
        assert not [event for event in events if event.kind == "failed"]
        return executor.submitted

    run = Store(tmp_path / "run")
    go_on(run)
    undisturbed = _numbers(run)
    tuned = [result for result in run.results() if result.kind == "tune"]
    for result in tuned[:3]:
        run.cell(result.id).unlink()
    found = archive_run(run.root, tmp_path / "archive")
    assert found.left == 3
    page = reports.build(run.root).read_bytes()
    assert reports.build(tmp_path / "archive", tmp_path / "again").read_bytes() == page
    out = Store(tmp_path / "new")
    take_up(tmp_path / "archive", out.root, plan)
    assert [cell.kind for cell in go_on(out)] == ["tune"] * 3
    assert _numbers(out) == undisturbed
    # Locations of another machine are refused, not trained on.
    out.cell(tuned[0].id).unlink()
    spec = tuned[0].spec
    places = out.activations(spec["activations"]).glob(f"{spec['method']}/*/test-*.npy")
    for path in list(places):
        others = ~np.load(path)
        with ArrayFile(path, others.shape, "|u1", f"{path.parent.name}/{path.name}") as file:
            file.append(others)
    executor = inline_executor(out)
    error = executor.submit(Cell("tune", spec)).exception()
    assert f"the locations of {spec['method']} at {spec['layer']}" in str(error)


def test_weights_come_of_an_archive_without_its_images(tmp_path):
    recorded, path = ROOT / "reports" / "runs" / "layers-cifar10", tmp_path / "prior.json"
    code, said = _invoke("layers", "--from", recorded, "--weights-out", path)
    assert (code, said) == (0, f"Weights: {path}")
    found = json.loads(path.read_text())
    assert found["weights"] == [0.187917, 0.170917, 0.180917, 0.166833]
    assert found["run"] == "028e627e2d4a415f"


def test_a_profile_gives_the_same_page(tmp_path):
    out = tmp_path / "run"
    code, said = _invoke(
        *("profile", "--model", "resnet9", "--methods", "smoe-linear", "--batch", "1"),
        *("--size", "32", "--classes", "10", "--rounds", "3", "--out", out),
    )
    assert code == 0, said
    archive_run(out, tmp_path / "archive")
    page = (out / "report.html").read_bytes()
    assert (tmp_path / "archive" / "report.html").read_bytes() == page
    assert reports.build(tmp_path / "archive", tmp_path / "again").read_bytes() == page


def test_a_page_whose_maps_are_gone_keeps_its_pictures(finished, tmp_path):
    pictures = re.findall('data:image/png;base64,[^"]*', (finished / "report.html").read_text())
    for name in ("gallery", "models", "maps"):
        shutil.rmtree(finished / name)
    code, said = _invoke("archive", finished, "--to", tmp_path / "archive")
    assert code == 0
    assert "is the one that was there" not in said
    made = reports.build(tmp_path / "archive", tmp_path / "again").read_text()
    assert re.findall('data:image/png;base64,[^"]*', made) == pictures
    assert (tmp_path / "archive" / "report.html").read_text() == made


def test_a_page_whose_images_are_gone_is_kept(finished, tmp_path):
    for name in ("gallery", "data", "models", "maps"):
        shutil.rmtree(finished / name)
    (finished / "report.html").write_text("the page with its pictures")
    code, said = _invoke("archive", finished, "--to", tmp_path / "archive")
    assert code == 0
    assert "report.html is the one that was there" in said
    assert (tmp_path / "archive" / "report.html").read_text() == "the page with its pictures"


def test_what_cannot_be_archived_is_told(finished, tiny, tmp_path):
    archive = tmp_path / "archive"
    assert _invoke("archive", tmp_path / "none", "--to", archive)[0] == 2
    archive_run(finished, archive)
    assert "is an archive already" in _invoke("archive", archive, "--to", tmp_path / "x")[1]
    assert "holds something else" in _invoke("archive", finished, "--to", finished)[1]
    other = asdict(replace(tiny.plan, model="resnet20"))
    (finished / "plan.json").write_text(json.dumps({"plan": other}))
    with pytest.raises(RunError, match=r"archive of another run than .*, with another model"):
        archive_run(finished, archive)
    (finished / "plan.json").write_text(json.dumps({"kind": "profile", "plan": {}}))
    with pytest.raises(RunError, match="with another kind"):
        archive_run(finished, archive)


def test_an_archive_of_another_plan_is_not_taken_up(stopped, tiny, tmp_path):
    archive = tmp_path / "archive"
    archive_run(stopped, archive)
    with pytest.raises(RunError, match="a run with another model: give --from alone"):
        take_up(archive, tmp_path / "new", replace(tiny.plan, model="resnet20"))
    assert not (tmp_path / "new" / "cells").exists()
    code, said = _invoke("run", "--from", tmp_path / "none", "--out", tmp_path / "new")
    assert code == 2
    assert "expected an archive" in said
    code, said = _invoke("layers", "--from", archive, "--out", tmp_path / "new")
    assert code == 2
    assert "holds what `python -m comparisons run` made" in said
    (archive / "cells.zip").write_bytes(b"no zip")
    with pytest.raises(ArchiveError, match=r"cells\.zip is damaged"):
        take_up(archive, tmp_path / "new", tiny.plan)


def test_the_command_takes_the_plan_and_the_cells(stopped, tiny, tmp_path):
    archive = tmp_path / "archive"
    archive_run(stopped, archive)
    shutil.rmtree(stopped)
    code, said = _invoke(
        *("run", "--from", archive, "--out", tmp_path / "new", "--workers", "1"),
    )
    assert code == 0, said
    out = Store(tmp_path / "new")
    assert {result.id for result in out.results()} == {result.id for result in tiny.store.results()}
    archived = {result.id: result for result in RunArchive(archive).results()}
    assert {result.id: result for result in out.results() if result.id in archived} == archived
    command = json.loads((out.root / "plan.json").read_text())["command"]
    assert command == ""  # that of the run, not the one that took it up

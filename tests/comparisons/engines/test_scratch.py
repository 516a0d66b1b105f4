"""Cells on a machine that has its own disk beside the run's directory."""

from __future__ import annotations

import shutil

import pytest
from typer.testing import CliRunner

from comparisons.__main__ import app
from comparisons.cells.run import run_cell
from comparisons.engines import select
from evaluation.storage.store import Store

pytestmark = [
    pytest.mark.training,
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already"),
]


def test_a_machine_that_joins_trains_from_its_own_disk_and_gets_the_same(tiny, tmp_path):
    root, node = tmp_path / "shared", tmp_path / "node"
    shutil.copytree(tiny.store.root, root)
    for path in (*root.glob("maps/*/train.npy"), *root.glob("maps/*/test.npy")):
        path.unlink()
    names = ("gradient, roar 50 %, seed 0", "unmasked, seed 0", "maps of gradient")
    store = Store(root, node)
    for name in names:
        result = tiny.results[name]
        # One at a time, since a training needs the result of its maps.
        store.cell(result.id).unlink()
        again = run_cell(tiny.cells[result.id], store)
        assert (again.hashes, again.correct) == (result.hashes, result.correct)
    assert not [*root.glob("maps/*/train.npy"), *root.glob("maps/*/test.npy")]
    maps = store.local() / "maps" / tiny.results["maps of gradient"].id
    assert sorted(path.name for path in maps.glob("*.npy")) == ["test.npy", "train.npy"]
    data = tiny.results["data"].id
    kept = {path.name: path.read_bytes() for path in store.data(data).iterdir()}
    copied = store.local() / "data" / data
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == kept


def test_the_command_hands_its_scratch_folder_to_the_workers(
    tmp_path, monkeypatch, inline_executor
):
    given = []

    class Stopped(Exception):
        pass

    class Noted:
        @staticmethod
        def running(store, **_):
            given.append(store)
            raise Stopped

    monkeypatch.setattr(select, "LocalExecutor", Noted)
    arguments = ["run", "--preset", "smoke", "--out", str(tmp_path / "run")]
    ended = CliRunner().invoke(app, [*arguments, "--scratch", str(tmp_path / "scratch")])
    assert isinstance(ended.exception, Stopped)
    (store,) = given
    assert store.local().parent == tmp_path / "scratch"
    assert store.root == tmp_path / "run"

"""The zip of an archive: the same bytes again, nothing outside its folder, damage by name."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from evaluation.storage.archive import (
    CELLS,
    FILES,
    ArchiveError,
    RunArchive,
    new_archive,
    open_run,
    page_members,
    write_members,
)
from evaluation.storage.records import CellResult
from evaluation.storage.run_files import RunFolder


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    """Three cells, the last by id finished first, with images and a gallery of two of them."""
    run = RunFolder(tmp_path / "run")
    store = run.store
    for age, (cell, kind) in enumerate((("c", "data"), ("a", "maps"), ("b", "retrain"))):
        store.save_result(CellResult(cell, kind, {}, ()))
        os.utime(store.cell(cell), ns=(age, age))
    store.data("c").mkdir(parents=True)
    (store.data("c") / "meta.json").write_text(json.dumps({"name": "shapes"}))
    np.save(store.data("c") / "test_labels.npy", np.arange(10))
    np.save(
        store.data("c") / "test_images.npy", np.arange(120, dtype=np.uint8).reshape(10, 2, 2, 3)
    )
    store.save_arrays(store.gallery("a"), {"index": np.array([7, 2])})
    (run.root / "plan.json").write_text("{}")
    return run


def _archive(folder: RunFolder, place: Path) -> RunArchive:
    place.mkdir()
    write_members(place / CELLS, page_members(folder, folder.results()))
    return RunArchive(place)


def test_an_archive_reads_as_the_folder_does(folder, tmp_path):
    archive = _archive(folder, tmp_path / "archive")
    assert isinstance(open_run(archive.root), RunArchive)
    assert isinstance(open_run(folder.root), RunFolder)
    assert archive.results() == folder.results()
    assert [result.id for result in archive.results()] == ["c", "a", "b"]  # older ones first
    assert archive.image_facts("c") == {"name": "shapes"}
    assert archive.image_facts("a") == {}
    assert archive.gallery("a")["index"].tolist() == [7, 2]
    assert archive.gallery("b") is None
    for name in ("test_labels", "test_images"):
        shown = archive.of_test_images("c", name, [7, 2])
        assert np.array_equal(shown, folder.of_test_images("c", name, [7, 2]))
    assert archive.of_test_images("c", "test_object_masks", [7]) is None
    assert archive.of_test_images("c", "test_labels", [3]) is None  # no gallery shows it


def test_the_same_run_gives_the_same_bytes(folder, tmp_path):
    one, other = (_archive(folder, tmp_path / name) for name in ("one", "other"))
    assert (one.root / CELLS).read_bytes() == (other.root / CELLS).read_bytes()
    with zipfile.ZipFile(one.root / CELLS) as file:
        assert file.namelist() == sorted(file.namelist())
        assert {entry.date_time for entry in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize(
    "name",
    ["../evil", "/evil", "cells/../../evil", "models/a/../../../evil", "cells\\..\\evil",
     "C:/evil", "models/.lock", "code.py", "cells//a.json"],
)  # fmt: skip
def test_a_name_outside_the_folder_is_refused(folder, tmp_path, name):
    place = tmp_path / "archive"
    place.mkdir()
    members = page_members(folder, folder.results())
    write_members(place / CELLS, {**members, name: b"evil"})
    with pytest.raises(ArchiveError, match=f"{CELLS} is no archive of a run: it holds"):
        RunArchive(place)
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


def test_a_damaged_zip_is_named(folder, tmp_path):
    archive = _archive(folder, tmp_path / "archive")
    path = archive.root / CELLS
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArchiveError, match=f"{path} is damaged"):
        RunArchive(archive.root)
    # One byte of a stored member, which its checksum tells.
    write_members(path, {**page_members(folder, folder.results()), "models/a.pt": b"weights" * 9})
    path.write_bytes(path.read_bytes().replace(b"weights", b"Weights", 1))
    out = tmp_path / "out"
    with pytest.raises(ArchiveError, match=f"{path} is damaged: models/a.pt"):
        RunArchive(archive.root).unpack(out)
    assert list(out.rglob("*.json")) == []  # results come last


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"id": "b"}', b"\xff"])
def test_a_damaged_cell_is_named(folder, tmp_path, content):
    place = tmp_path / "archive"
    place.mkdir()
    members = page_members(folder, folder.results())
    write_members(place / CELLS, {**members, "cells/b.json": content})
    with pytest.raises(ArchiveError, match=rf"{CELLS} is damaged: cells/b\.json"):
        RunArchive(place).results()


def test_a_cell_that_the_order_lacks_is_damage(folder, tmp_path):
    place = tmp_path / "archive"
    place.mkdir()
    members = page_members(folder, folder.results())
    del members["cells/b.json"]
    write_members(place / CELLS, members)
    with pytest.raises(ArchiveError, match=r"order\.json does not list its cells"):
        RunArchive(place).results()


def test_unpacking_keeps_what_is_there_and_the_order(folder, tmp_path):
    archive = _archive(folder, tmp_path / "archive")
    out = RunFolder(tmp_path / "out")
    out.store.save_result(CellResult("b", "retrain", {"own": 1}, ()))
    archive.unpack(out.root)
    assert {result.id: dict(result.spec) for result in out.results()}["b"] == {"own": 1}
    order = [result.id for result in out.results()]
    assert order.index("c") < order.index("a")
    assert out.store.gallery("a").read_bytes() == folder.store.gallery("a").read_bytes()
    assert not out.store.data("c").exists()  # images are staged anew


def _half(place: Path) -> None:
    with new_archive(place) as partial:
        (partial / CELLS).write_bytes(b"half")
        raise RuntimeError("half way")


def test_an_archive_is_there_whole_or_not_at_all(tmp_path):
    place = tmp_path / "deep" / "archive"
    with pytest.raises(RuntimeError, match="half way"):
        _half(place)
    assert list(place.parent.iterdir()) == []
    for content in (b"first", b"second"):
        with new_archive(place) as partial:
            for name in FILES:
                (partial / name).write_bytes(content)
        assert (place / CELLS).read_bytes() == content
    with pytest.raises(RuntimeError, match="half way"):
        _half(place)
    assert (place / CELLS).read_bytes() == b"second"
    assert [path.name for path in place.parent.iterdir()] == ["archive"]


@pytest.mark.parametrize("names", [["thesis.tex"], [*FILES, "notes.txt"], ["plan.json"]])
def test_a_folder_of_something_else_stays(tmp_path, names):
    place = tmp_path / "mine"
    place.mkdir()
    for name in names:
        (place / name).write_text("mine")
    with pytest.raises(ArchiveError, match="holds something else"), new_archive(place):
        raise AssertionError("it was opened")
    assert sorted(path.name for path in place.iterdir()) == sorted(names)

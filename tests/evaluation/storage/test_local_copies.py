"""Copies on a machine's own disk: made once, whole or not at all; again if a file is gone."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evaluation.storage.local_copies import copied
from evaluation.storage.store import Store

ROOT = Path(__file__).parents[3]


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "shared" / "data" / "d0"
    (folder / "parts").mkdir(parents=True)
    np.save(folder / "images.npy", np.arange(1000))
    (folder / "parts" / "labels.txt").write_text("1 2 3")
    (folder / ".partial-xyz").write_bytes(b"half")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "file").write_bytes(b"half")
    return folder


def _content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_copy_has_every_finished_file_and_is_made_once(source, tmp_path):
    place = copied(source, tmp_path / "scratch" / "d0")
    expected = _content(source)
    del expected[".partial-xyz"], expected[".hidden/file"]
    assert _content(place) == expected
    before = (place / "images.npy").stat()
    assert copied(source, place) == place
    after = (place / "images.npy").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_images_of_another_run_by_the_same_path_are_not_taken_for_these(source, tmp_path):
    place = copied(source, tmp_path / "scratch" / "d0")
    shutil.rmtree(source)
    source.mkdir()
    np.save(source / "images.npy", np.arange(1000)[::-1])  # as many bytes
    (source / "parts").mkdir()
    (source / "parts" / "labels.txt").write_text("3 2 1")
    os.utime(source / "images.npy", (0, 10 * 365 * 86400))
    assert np.load(copied(source, place) / "images.npy")[0] == 999
    assert (place / "parts" / "labels.txt").read_text() == "3 2 1"


@pytest.mark.parametrize("harm", ["removed", "cut"])
def test_a_copy_that_lost_something_is_made_again(source, tmp_path, harm):
    place = copied(source, tmp_path / "scratch" / "d0")
    expected = _content(place)
    if harm == "removed":
        (place / "parts" / "labels.txt").unlink()
    else:
        (place / "images.npy").write_bytes(b"")
    copied(source, place)
    assert _content(place) == expected


def test_a_copy_that_fails_leaves_nothing_and_what_a_kill_left_goes(source, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    (scratch / ".partial-d0-killed").mkdir(parents=True)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", full)
        with pytest.raises(OSError, match="No space left"):
            copied(source, scratch / "d0")
    assert [path.name for path in scratch.iterdir()] == [".lock"]
    assert (copied(source, scratch / "d0") / "images.npy").exists()


_COPY = """
import shutil, sys, time
from pathlib import Path
from evaluation.storage.store import Store

copytree, count = shutil.copytree, Path(sys.argv[3])

def slow(source, *arguments, **options):
    if Path(source).name == "d0":  # it calls itself for folders within
        with count.open("a") as file:
            file.write("x")
        time.sleep(0.5)
    return copytree(source, *arguments, **options)

shutil.copytree = slow
print(sorted(path.name for path in Store(sys.argv[1], sys.argv[2]).local_data("d0").iterdir()))
"""


@pytest.mark.heavy
def test_of_two_processes_of_a_machine_one_copies_and_both_have_it(source, tmp_path):
    arguments = [tmp_path / "shared", tmp_path / "scratch", tmp_path / "count"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _COPY, *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for _ in range(2)
    ]
    found = [process.communicate(timeout=60)[0] for process in processes]
    assert found == ["['images.npy', 'parts']\n"] * 2
    assert (tmp_path / "count").read_text() == "x"


def test_runs_share_a_scratch_folder_and_a_machine_that_has_none_makes_it(source, tmp_path):
    shared, other = tmp_path / "shared", tmp_path / "other"
    shutil.copytree(source, other / "data" / "d0")
    np.save(other / "data" / "d0" / "images.npy", np.arange(5))
    stores = [Store(root, tmp_path / "scratch") for root in (shared, other)]
    # As a worker on another machine gets it: made elsewhere, with nothing there yet.
    stores = [pickle.loads(pickle.dumps(store)) for store in stores]
    images = [np.load(store.local_data("d0") / "images.npy") for store in stores]
    assert [len(array) for array in images] == [1000, 5]
    assert len({store.local() for store in stores}) == 2
    # The same run by another path is the same run.
    (tmp_path / "link").symlink_to(shared)
    assert Store(tmp_path / "link", tmp_path / "scratch").local() == stores[0].local()


def test_without_scratch_everything_lies_in_the_runs_directory(source, tmp_path):
    store = Store(tmp_path / "shared")
    assert store.local_data("d0") == store.data("d0") == source
    assert store.local_levels("m0", "train") == store.maps("m0") / "train.npy"
    assert store.local() == store.root

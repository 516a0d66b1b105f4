"""The manifest after kills, changes and foreign hands."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from fastsal.cli.manifest import BusyError, Manifest, file_hash, folder_lock


def lines(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def entry(folder, file, **changes):
    picture = folder / f"{file}_map.png"
    picture.write_bytes(b"a picture")
    made = {"file": file, "sha256": "9f", "settings": {"size": 8}, "stem": file}
    return {**made, "pictures": {"map": picture.name}, **changes}


def test_an_image_is_done_for_the_same_content_settings_and_pictures(tmp_path):
    Manifest(tmp_path).add(entry(tmp_path, "cat"))
    manifest = Manifest(tmp_path)
    assert manifest.is_done("cat", "9f", {"size": 8})
    assert not manifest.is_done("cat", "00", {"size": 8})
    assert not manifest.is_done("cat", "9f", {"size": 9})
    assert not manifest.is_done("dog", "9f", {"size": 8})
    (tmp_path / "cat_map.png").unlink()
    assert not manifest.is_done("cat", "9f", {"size": 8})
    manifest.add({**entry(tmp_path, "cat"), "error": "broken"})
    assert not manifest.is_done("cat", "9f", {"size": 8})


@pytest.mark.parametrize("kept", [1, 20, -2, -1])
def test_a_torn_last_line_is_dropped_wherever_it_is_torn(tmp_path, kept):
    manifest = Manifest(tmp_path)
    for file in ("cat", "dog"):
        manifest.add(entry(tmp_path, file))
    whole, last = manifest.path.read_text().splitlines(keepends=True)
    manifest.path.write_text(whole + last[:kept])
    again = Manifest(tmp_path)
    again.add(entry(tmp_path, "emu"))
    assert [line["file"] for line in lines(tmp_path)] == ["cat", "emu"]


def test_the_last_of_several_lines_counts_and_one_is_left(tmp_path):
    manifest = Manifest(tmp_path)
    for size in (8, 9):
        manifest.add(entry(tmp_path, "cat", settings={"size": size}))
    assert len(lines(tmp_path)) == 2
    Manifest(tmp_path)
    assert [line["settings"] for line in lines(tmp_path)] == [{"size": 9}]


@pytest.mark.parametrize("foreign", ["my notes\n", '{"name": "cat"}\n', "[1]\n", "\n"])
def test_a_foreign_file_is_refused_and_left(tmp_path, foreign):
    (tmp_path / "manifest.jsonl").write_text(foreign)
    with pytest.raises(ValueError, match="line 1 is not one of fastsal's"):
        Manifest(tmp_path)
    assert (tmp_path / "manifest.jsonl").read_text() == foreign


def test_begun_anew_nothing_vouches_for_the_pictures(tmp_path):
    manifest = Manifest(tmp_path)
    manifest.add(entry(tmp_path, "cat"))
    manifest.invalidate("cat")
    # As a process that is killed now leaves it.
    (tmp_path / "cat_map.png").write_bytes(b"of other settings")
    assert not Manifest(tmp_path).is_done("cat", "9f", {"size": 8})
    assert lines(tmp_path) == [{"file": "cat", "error": "interrupted"}]


def test_stems_are_kept_and_never_shared(tmp_path):
    manifest = Manifest(tmp_path)
    for file, stem in (("cat.jpg", "cat"), ("cat.png", "cat-2"), ("cat.tif", "cat-3")):
        assert manifest.stem(file, "cat") == stem
        manifest.add(entry(tmp_path, file, stem=stem))
    again = Manifest(tmp_path)
    assert [again.stem(file, "cat") for file in ("cat.tif", "cat.jpg", "cat.bmp")] == [
        "cat-3",
        "cat",
        "cat-4",
    ]


def test_names_that_are_no_unicode_survive(tmp_path):
    name = b"caf\xe9 \xe2\x80\xa8.jpg".decode("utf-8", "surrogateescape")
    Manifest(tmp_path).add({"file": name, "error": "gone"})
    assert list(Manifest(tmp_path).entries) == [name]


def test_the_hash_is_sha256(tmp_path):
    (tmp_path / "three").write_bytes(b"abc" * 1_000_000)
    code = "import hashlib,sys;print(hashlib.sha256(open(sys.argv[1],'rb').read()).hexdigest())"
    told = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "three"], capture_output=True, text=True, check=True
    )
    assert file_hash(tmp_path / "three") == told.stdout.strip()


HOLDER = """
import sys, time
from pathlib import Path
from fastsal.cli.manifest import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.heavy
def test_a_folder_is_held_by_one_run_until_its_process_ends(tmp_path):
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with (
                pytest.raises(BusyError, match=r"another run writes to .*; wait for it"),
                folder_lock(tmp_path),
            ):
                pass
        finally:
            holder.kill()
    # Not let go of by itself, but by the system.
    with folder_lock(tmp_path):
        with pytest.raises(BusyError), folder_lock(tmp_path):
            pass
        with folder_lock(tmp_path / ".."):
            pass
    with folder_lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_where_there_are_no_locks_nothing_is_held(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with folder_lock(tmp_path), folder_lock(tmp_path):
        pass

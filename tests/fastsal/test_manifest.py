"""The manifest after kills, changes and foreign hands."""

import json
import subprocess
import sys

import pytest

from fastsal.manifest import Manifest, file_hash


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
    manifest.begin("cat")
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

"""Class folders inside one tar file, and Imagenette as torchvision unpacks it."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import Imagenette

from evaluation.datasets.dataset import DatasetError, open_staged
from evaluation.datasets.load import (
    Extent,
    Request,
    extent_of,
    files_hash,
    list_images,
    load_dataset,
    stage,
)

WNIDS = ("n01440764", "n03028079", "n03888257")


def _photographs(root: Path, counts: dict[str, int], test: str = "val") -> Path:
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for wnid in WNIDS:
            folder = root / (test if split == "val" else split) / wnid
            (folder / "inner").mkdir(parents=True)
            for number in range(count):
                size = (*rng.integers(30, 60, 2), 3)
                image = Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8))
                inside = folder / "inner" if number == 1 else folder
                image.save(inside / f"{wnid}_{number}.JPEG", quality=95)
            (folder / "notes.txt").write_text("no image")
    return root


@pytest.fixture
def folder(tmp_path) -> Path:
    return _photographs(tmp_path / "few", {"train": 4, "val": 2})


def _packed(folder: Path, around: str = "", mode: str = "w") -> Path:
    path = folder.with_suffix(".tar" if mode == "w" else ".tgz")
    with tarfile.open(path, mode) as tar:
        # In another order than that of names.
        for name in ("val", "train"):
            tar.add(folder / name, f"{around}{name}")
    return path


@pytest.mark.parametrize("source", ["folder", "imagenet"])
@pytest.mark.parametrize("around", ["", "./", "few-224/"])
def test_a_tar_file_is_the_folder_that_was_packed(folder, source, around):
    packed = _packed(folder, around)
    request = Request(image_size=24, train_images=9, test_images=3, seed=3)
    expected = load_dataset(f"{source}:{folder}", request)
    found = load_dataset(f"{source}:{packed}", request)
    assert found.name == expected.name == ("imagenet" if source == "imagenet" else "few")
    assert found.classes == expected.classes
    for ours, theirs in ((found.train, expected.train), (found.test, expected.test)):
        np.testing.assert_array_equal(ours.images, theirs.images)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert (found.mean, found.std) == (expected.mean, expected.std)
    names = [
        listed.pixels.names
        for listed in (
            list_images(f"{source}:{place}", Request()).train for place in (folder, packed)
        )
    ]
    assert list(names[0]) == list(names[1])


def test_the_ten_classes_have_torchvision_s_names(folder):
    for place in (folder, _packed(folder)):
        listing = list_images(f"imagenet:{place}", Request())
        assert listing.classes == ("tench", "church", "parachute")
        assert list_images(f"folder:{place}", Request()).classes == WNIDS


def test_a_tar_file_is_staged_and_its_change_is_seen(folder, tmp_path):
    packed = _packed(folder)
    data, request = f"folder:{packed}", Request(image_size=16)
    hashes = stage(data, request, tmp_path / "staged")
    expected = load_dataset(data, request)
    np.testing.assert_array_equal(
        open_staged(tmp_path / "staged").train.images, expected.train.images
    )
    assert hashes["files"] == files_hash(data)
    os.utime(packed, (1, 1))
    assert files_hash(data) != hashes["files"]
    assert extent_of(data, request) == Extent("few", 3, 12, 6, (16, 16), found=True)


@pytest.mark.parametrize("mode", ["w:gz", "cut"])
def test_a_compressed_or_cut_tar_file_is_said(folder, mode):
    packed = _packed(folder, mode="w" if mode == "cut" else mode)
    if mode == "cut":
        packed.write_bytes(packed.read_bytes()[:5000])
    with pytest.raises(DatasetError, match=r"tar file .* is broken .*again, uncompressed"):
        list_images(f"imagenet:{packed}", Request())


def test_what_is_not_in_a_tar_file_is_said(folder):
    (folder / "val").rename(folder / "elsewhere")
    (folder / "val").mkdir()
    with pytest.raises(DatasetError, match=r"no folder 'val' \(nor validation, .*in '.*few.tar'"):
        list_images(f"imagenet:{_packed(folder)}", Request())
    (folder / "val").rmdir()
    (folder / "elsewhere").rename(folder / "val")
    for file in (folder / "val" / WNIDS[1]).rglob("*.JPEG"):
        file.unlink()
    with pytest.raises(DatasetError, match=f"class {WNIDS[1]} is in train but not in val"):
        list_images(f"imagenet:{_packed(folder)}", Request())


def test_a_tar_file_is_no_folder_of_other_sources(folder):
    packed = _packed(folder)
    for source in ("cowc", "places365", "webdataset"):
        with pytest.raises(DatasetError):
            list_images(f"{source}:{packed}", Request())


# Imagenette.


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def archives(tmp_path, monkeypatch) -> Iterator[Path]:
    """Small archives in the place of torchvision's, on a server of this machine."""
    there, known = tmp_path / "there", {}
    there.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(there)))
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for key, name in (("full", "imagenette2"), ("320px", "imagenette2-320")):
        root = _photographs(there / name, {"train": 2, "val": 1})
        path = there / f"{name}.tgz"
        with tarfile.open(path, "w:gz") as tar:
            tar.add(root, name)
        known[key] = (f"{address}/{path.name}", hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setattr(Imagenette, "_ARCHIVES", known)
    yield there
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("size", "unpacked"),
    [
        (32, "imagenette2-320"),
        (280, "imagenette2-320"),
        (281, "imagenette2"),
        (None, "imagenette2"),
    ],
)
def test_imagenette_is_downloaded_once(archives, tmp_path, size, unpacked):
    root = tmp_path / "here"
    request = Request(image_size=size)
    before = extent_of(f"imagenette:{root}", Request(image_size=size or 300))
    assert before == Extent("imagenette", 10, 9469, 3925, ((size or 300),) * 2, found=False)
    listing = list_images(f"imagenette:{root}", request)
    assert listing.name == "imagenette"
    assert listing.classes == ("tench", "church", "parachute")
    assert (len(listing.train), len(listing.test)) == (6, 3)
    assert [path.name for path in root.iterdir() if path.is_dir()] == [unpacked]
    for file in archives.rglob("*.tgz"):
        file.unlink()
    again = list_images(f"imagenette:{root}", request)
    assert list(again.train.pixels.names) == list(listing.train.pixels.names)
    theirs = Imagenette(root, "train", "full" if unpacked == "imagenette2" else "320px")
    assert again.train.labels.tolist() == [label for _, label in theirs._samples]


def test_imagenette_goes_to_runs_data(archives, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = load_dataset("imagenette", Request(image_size=24))
    assert (tmp_path / "runs" / "data" / "imagenette" / "imagenette2-320").is_dir()
    assert (dataset.name, dataset.size) == ("imagenette", (24, 24))


def test_without_a_network_imagenette_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(Imagenette, "_ARCHIVES", {"320px": ((tmp_path / "none.tgz").as_uri(), "0")})
    with pytest.raises(DatasetError, match=r"could not be loaded from .*use imagenet:PATH"):
        list_images(f"imagenette:{tmp_path}", Request(image_size=64))

"""CIFAR-10 and CIFAR-100 as torchvision reads their archives."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from torchvision.datasets import cifar

from evaluation.datasets.dataset import DatasetError, open_staged
from evaluation.datasets.load import Extent, Request, extent_of, load_dataset, stage


class Archive(NamedTuple):
    """A small copy: its place, its batches by name, its classes."""

    name: str
    root: Path
    batches: dict[str, dict[str, Any]]
    classes: list[str]


def _write(folder: Path, name: str, content: object) -> str:
    """Put a pickle where the archive has one; its MD5 sum, which torchvision compares."""
    folder.mkdir(exist_ok=True)
    written = pickle.dumps(content)
    (folder / name).write_bytes(written)
    return hashlib.md5(written).hexdigest()


@pytest.fixture
def cifar10(tmp_path, monkeypatch) -> Archive:
    """In the layout of its own archive, three images of each class a batch."""
    folder = tmp_path / "cifar-10-batches-py"
    rng = np.random.default_rng(0)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    batches, sums = {}, {}
    for name in names:
        data = rng.integers(0, 256, (30, 3072), dtype=np.uint8)
        batches[name] = {"data": data, "labels": rng.permutation(np.arange(30) % 10).tolist()}
        sums[name] = _write(folder, name, batches[name])
    classes = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    meta = _write(folder, "batches.meta", {"label_names": classes})
    checked = cifar.CIFAR10
    monkeypatch.setattr(checked, "train_list", [[name, sums[name]] for name in names[:-1]])
    monkeypatch.setattr(checked, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(checked, "meta", checked.meta | {"md5": meta})
    return Archive("cifar10", tmp_path, batches, classes)


@pytest.fixture
def cifar100(tmp_path, monkeypatch) -> Archive:
    """In the layout of its own archive: fine classes beside coarse ones."""
    folder = tmp_path / "cifar-100-python"
    rng = np.random.default_rng(1)
    batches, sums = {}, {}
    for name, count in (("train", 200), ("test", 100)):
        fine = rng.permutation(np.arange(count) % 100)
        data = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        batches[name] = {
            "data": data,
            "fine_labels": fine.tolist(),
            "coarse_labels": (fine // 5).tolist(),
        }
        sums[name] = _write(folder, name, batches[name])
    classes = [f"fine {label}" for label in range(100)]
    coarse = [f"coarse {label}" for label in range(20)]
    meta = _write(folder, "meta", {"fine_label_names": classes, "coarse_label_names": coarse})
    checked = cifar.CIFAR100
    for split in ("train", "test"):
        monkeypatch.setattr(checked, f"{split}_list", [[split, sums[split]]])
    monkeypatch.setattr(checked, "meta", checked.meta | {"md5": meta})
    return Archive("cifar100", tmp_path, batches, classes)


@pytest.mark.parametrize(
    ("fixture", "batch", "labels", "first"),
    [("cifar10", "data_batch_2", "labels", 30), ("cifar100", "train", "fine_labels", 0)],
)
def test_the_files_are_read_as_they_are_published(request, fixture, batch, labels, first):
    archive = request.getfixturevalue(fixture)
    dataset = load_dataset(f"{archive.name}:{archive.root}", Request())
    assert dataset.name == archive.name
    assert dataset.classes == tuple(archive.classes)
    assert dataset.size == (32, 32)
    read, index = archive.batches[batch], first + 4
    # A row of the archive holds 1,024 red, then 1,024 green, then 1,024 blue values.
    for channel in range(3):
        np.testing.assert_array_equal(
            dataset.train.images[index][..., channel].ravel(),
            read["data"][4][1024 * channel : 1024 * (channel + 1)],
        )
    assert dataset.train.labels[index] == read[labels][4]


@pytest.mark.parametrize("fixture", ["cifar10", "cifar100"])
def test_a_balanced_subset_is_staged(request, fixture, tmp_path):
    archive = request.getfixturevalue(fixture)
    classes = len(archive.classes)
    wanted = Request(train_images=classes, test_images=classes)
    stage(f"{archive.name}:{archive.root}", wanted, tmp_path / "staged")
    dataset = open_staged(tmp_path / "staged")
    assert np.bincount(dataset.train.labels).tolist() == [1] * classes
    assert np.bincount(dataset.test.labels).tolist() == [1] * classes


@pytest.mark.parametrize("fixture", ["cifar10", "cifar100"])
def test_it_is_32x32(request, fixture):
    archive = request.getfixturevalue(fixture)
    data = f"{archive.name}:{archive.root}"
    for refused in (load_dataset, extent_of):
        with pytest.raises(DatasetError, match=f"--image-size 64: {fixture} is 32x32"):
            refused(data, Request(image_size=64))
    assert load_dataset(data, Request(image_size=32)).size == (32, 32)


@pytest.mark.parametrize(("name", "title"), [("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100")])
def test_without_files_or_network_it_says_what_to_do(name, title, tmp_path, monkeypatch):
    def no_network(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(cifar, "download_and_extract_archive", no_network)
    with pytest.raises(
        DatasetError, match=rf"{title} could not be loaded from .*no route.*folder:PATH"
    ):
        load_dataset(f"{name}:{tmp_path}", Request())


def test_the_extent_needs_no_files(cifar10, tmp_path):
    there = extent_of(f"cifar10:{cifar10.root}", Request(train_images=500))
    assert there == Extent("cifar10", 10, 500, 10_000, (32, 32), True)
    missing = extent_of(f"cifar100:{tmp_path / 'missing'}", Request())
    assert missing == Extent("cifar100", 100, 50_000, 10_000, (32, 32), False)

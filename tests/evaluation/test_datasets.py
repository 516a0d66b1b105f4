"""Sources of images by name."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest

from evaluation.datasets import SOURCES, Request, has_object_masks, load_dataset
from evaluation.images import DatasetError, open_staged, stage_dataset
from evaluation.shapes import make_shapes


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """CIFAR-10 in the layout of its own archive, three images of each class a batch."""
    torchvision = pytest.importorskip("torchvision")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    files = {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        data = rng.integers(0, 256, (30, 3072), dtype=np.uint8)
        batch = {"data": data, "labels": rng.permutation(np.arange(30) % 10).tolist()}
        files[name] = batch
        (folder / name).write_bytes(pickle.dumps(batch))
    names = ["airplane", "automobile", "bird", "cat", "deer"]
    names += ["dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    checked = torchvision.datasets.cifar.CIFAR10

    def md5(name: str) -> str:
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    monkeypatch.setattr(
        checked, "train_list", [[f"data_batch_{i}", md5(f"data_batch_{i}")] for i in range(1, 6)]
    )
    monkeypatch.setattr(checked, "test_list", [["test_batch", md5("test_batch")]])
    monkeypatch.setattr(checked, "meta", checked.meta | {"md5": md5("batches.meta")})
    return tmp_path, files, names


def test_cifar10_reads_torchvision_s_files(cifar10):
    root, files, names = cifar10
    dataset = load_dataset(f"cifar10:{root}", Request())
    assert dataset.name == "cifar10"
    assert dataset.classes == tuple(names)
    assert dataset.train.images.shape == (150, 32, 32, 3)
    assert dataset.test.images.shape == (30, 32, 32, 3)
    # A row of the archive holds 1,024 red, then 1,024 green, then 1,024 blue values.
    row = files["data_batch_2"]["data"][4]
    image = dataset.train.images[34]
    for channel in range(3):
        np.testing.assert_array_equal(
            image[..., channel].ravel(), row[1024 * channel : 1024 * (channel + 1)]
        )
    assert dataset.train.labels[34] == files["data_batch_2"]["labels"][4]


def test_cifar10_takes_a_balanced_subset(cifar10):
    root, _, _ = cifar10
    dataset = load_dataset(f"cifar10:{root}", Request(train_images=50, test_images=20))
    assert np.bincount(dataset.train.labels).tolist() == [5] * 10
    assert np.bincount(dataset.test.labels).tolist() == [2] * 10


def test_cifar10_is_32x32(cifar10):
    root, _, _ = cifar10
    with pytest.raises(DatasetError, match="--image-size 64: cifar10 is 32x32"):
        load_dataset(f"cifar10:{root}", Request(image_size=64))
    assert load_dataset(f"cifar10:{root}", Request(image_size=32)).size == (32, 32)


def test_cifar10_without_files_or_network_says_what_to_do(tmp_path, monkeypatch):
    torchvision = pytest.importorskip("torchvision")

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", no_network)
    with pytest.raises(DatasetError, match=r"CIFAR-10 could not be had .*no route.*folder:PATH"):
        load_dataset(f"cifar10:{tmp_path}", Request())


def test_shapes_are_the_generator_s(tmp_path):
    dataset = load_dataset(
        "shapes", Request(train_images=24, test_images=16, image_size=20, seed=3)
    )
    train, test = make_shapes(train=24, test=16, size=20, seed=3)
    np.testing.assert_array_equal(dataset.train.images, train.images)
    np.testing.assert_array_equal(dataset.test.object_masks, test.object_masks)
    assert dataset.chance == 1 / 8
    stage_dataset(dataset, tmp_path)
    again = open_staged(tmp_path)
    np.testing.assert_array_equal(again.train.object_masks, train.object_masks)
    np.testing.assert_array_equal(again.test.labels, test.labels)
    assert not again.train.images.flags.writeable


def test_images_of_the_two_splits_have_different_numbers():
    dataset = load_dataset("shapes", Request(train_images=24, test_images=16))
    train = dataset.first_index("train") + np.arange(24)
    test = dataset.first_index("test") + np.arange(16)
    assert not set(train) & set(test)


def test_a_constant_channel_does_not_divide_by_zero(tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (4, 4), (255, 255, 255)).save(tmp_path / split / name / "0.png")
    assert load_dataset(f"folder:{tmp_path}", Request()).std == (1e-3, 1e-3, 1e-3)


@pytest.mark.parametrize("data", ["imagenet", "", "shape:", "folders:here"])
def test_unknown_data_names_the_sources(data):
    with pytest.raises(
        DatasetError, match=f"unknown data {data!r}: expected one of shapes, cifar10"
    ):
        load_dataset(data, Request())


def test_only_sources_with_object_masks_say_so():
    said = {name: has_object_masks(name) for name in SOURCES}
    assert said == {"shapes": True, "cifar10": False, "folder": False}
    assert load_dataset("shapes", Request("", 8, 8)).train.object_masks is not None

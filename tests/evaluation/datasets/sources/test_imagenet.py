"""ImageNet in torchvision's layout, and as plain class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder, ImageNet
from torchvision.models import ResNet50_Weights

from evaluation.datasets.dataset import DatasetError
from evaluation.datasets.load import Request, extent_of, list_images, load_dataset

WNIDS = ("n01440764", "n01443537", "n03028079")
NAMES = (("tench", "Tinca tinca"), ("goldfish", "Carassius auratus"), ("church", "church building"))


def _fill(root: Path, test: str = "val") -> Path:
    """Photographs' sizes, none square; as many as tell the splits apart."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), (test, 2)):
        for wnid in WNIDS:
            folder = root / split / wnid
            folder.mkdir(parents=True)
            for number in range(count):
                size = (*rng.integers(40, 90, 2), 3)
                noise = rng.integers(0, 256, size, dtype=np.uint8)
                Image.fromarray(noise).save(folder / f"{wnid}_{number}.JPEG", quality=95)
    return root


@pytest.fixture
def imagenet(tmp_path) -> Path:
    root = _fill(tmp_path / "imagenet")
    torch.save((dict(zip(WNIDS, NAMES, strict=True)), [WNIDS[0]]), root / "meta.bin")
    return root


@pytest.mark.parametrize("size", [24, 32])
def test_it_is_what_torchvision_reads_and_crops(imagenet, size):
    shorter = {24: 27, 32: 37}[size]  # 24 * 256 / 224 = 27.4, 32 * 256 / 224 = 36.6
    view = transforms.Compose([transforms.Resize(shorter), transforms.CenterCrop(size)])
    dataset = load_dataset(f"imagenet:{imagenet}", Request(image_size=size))
    assert (dataset.name, dataset.size) == ("imagenet", (size, size))
    for ours, split in ((dataset.train, "train"), (dataset.test, "val")):
        theirs = ImageNet(str(imagenet), split=split, transform=view)
        assert [names[0] for names in theirs.classes] == list(dataset.classes)
        assert theirs.targets == ours.labels.tolist()
        for image, (expected, _) in zip(ours.images, theirs, strict=True):
            np.testing.assert_array_equal(image, np.asarray(expected))


def test_the_view_at_224_is_resize_256_and_crop_224(tmp_path):
    _fill(tmp_path)
    rng = np.random.default_rng(1)
    photograph = rng.integers(0, 256, (300, 451, 3), dtype=np.uint8)
    path = tmp_path / "train" / WNIDS[0] / "a.png"
    Image.fromarray(photograph).save(path)
    shown = load_dataset(f"imagenet:{tmp_path}", Request(image_size=224)).train.images[0]
    view = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    np.testing.assert_array_equal(shown, np.asarray(view(Image.fromarray(photograph))))


@pytest.mark.parametrize("test", ["val", "validation", "valid", "test"])
def test_class_folders_alone_are_enough(tmp_path, test):
    root = _fill(tmp_path, test)
    listing = list_images(f"imagenet:{root}", Request())
    assert listing.classes == WNIDS
    theirs = ImageFolder(str(root / test))
    assert listing.test.labels.tolist() == theirs.targets
    names = [str(root / name) for name in listing.test.pixels.names]
    assert names == [path for path, _ in theirs.samples]


def test_a_thousand_classes_are_called_as_torchvision_calls_them(tmp_path):
    wnids = [
        "n01440764",
        *(f"n{number:08d}" for number in range(2_000_000, 2_000_998)),
        "n15075141",
    ]
    for split in ("train", "val"):
        for wnid in wnids:
            (tmp_path / split / wnid).mkdir(parents=True)
            (tmp_path / split / wnid / "0.jpg").touch()
    classes = list_images(f"imagenet:{tmp_path}", Request()).classes
    assert list(classes) == ResNet50_Weights.DEFAULT.meta["categories"]
    assert extent_of(f"imagenet:{tmp_path}", Request(image_size=64)).train == 1000


def test_names_are_not_unpickled(imagenet):
    class Harm:
        def __reduce__(self):
            return (Path.touch, (imagenet / "harmed",))

    torch.save((Harm(), []), imagenet / "meta.bin")
    with pytest.raises(DatasetError, match=r"meta.bin' cannot be read .*remove it to do without"):
        list_images(f"imagenet:{imagenet}", Request())
    assert not (imagenet / "harmed").exists()


def test_validation_images_that_are_not_sorted_are_said(imagenet):
    for folder in (imagenet / "val").iterdir():
        for image in folder.iterdir():
            image.rename(imagenet / "val" / image.name)
        folder.rmdir()
    with pytest.raises(DatasetError, match=r"no class folder in .*val': expected those of train"):
        list_images(f"imagenet:{imagenet}", Request())


def test_many_classes_that_lack_are_not_all_listed(imagenet):
    for number in range(900):
        (imagenet / "train" / f"n{number:08d}").mkdir()
    with pytest.raises(DatasetError, match=r"n00000004, ... \(900 in all\) is in train but not in"):
        list_images(f"imagenet:{imagenet}", Request())


def test_no_such_folder_says_what_was_expected(tmp_path):
    with pytest.raises(
        DatasetError, match=r"no folder .*train': expected .*train/WNID/\* and .*val"
    ):
        load_dataset(f"imagenet:{tmp_path}", Request())
    with pytest.raises(DatasetError, match="names no folder: expected imagenet:PATH"):
        load_dataset("imagenet", Request())


def test_the_extent_is_counted_or_published(imagenet):
    there = extent_of(f"imagenet:{imagenet}", Request(image_size=32, test_images=3))
    assert (there.classes, there.train, there.test, there.size) == (3, 9, 3, (32, 32))
    assert there.found
    with Image.open(imagenet / "train" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG") as first:
        size = (first.height, first.width)
    assert extent_of(f"imagenet:{imagenet}", Request()).size == size
    missing = extent_of("imagenet:nowhere", Request(train_images=10_000))
    assert (missing.classes, missing.train, missing.test) == (1000, 10_000, 50_000)
    assert not missing.found
    assert missing.size is None

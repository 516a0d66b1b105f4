"""Places365 in torchvision's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms
from torchvision.datasets import Places365

from evaluation.datasets.dataset import DatasetError
from evaluation.datasets.load import Request, extent_of, load_dataset

# Not in the order of their numbers, as no format promises it.
CATEGORIES = {"/b/bridge": 1, "/a/airfield": 0, "/a/apartment_building/outdoor": 2}


@pytest.fixture(params=["256", "large"])
def places(request, tmp_path) -> Path:
    """Three of the categories, in the small or the large images' folders."""
    rng = np.random.default_rng(0)
    train, val = [], []
    for name, number in CATEGORIES.items():
        for count in range(3):
            train.append(f"{name}/{count:08d}.jpg {number}")
            val.append(f"Places365_val_{len(val):08d}.jpg {number}")
    # Interleaved: lists of images need not be sorted by class.
    train, val = train[::2] + train[1::2], val[::-1]
    for lines, folder in ((train, f"data_{request.param}_standard"), (val, f"val_{request.param}")):
        for line in lines:
            path = tmp_path / folder / line.split()[0].lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = rng.integers(0, 256, (*rng.integers(40, 60, 2), 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
    for name, lines in (
        ("categories_places365.txt", [f"{name} {number}" for name, number in CATEGORIES.items()]),
        ("places365_train_standard.txt", train),
        ("places365_val.txt", val),
    ):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    return tmp_path


def test_it_is_what_torchvision_reads(places, monkeypatch):
    monkeypatch.setattr(Places365, "_check_integrity", lambda *_: True)
    view = transforms.Compose([transforms.Resize(37), transforms.CenterCrop(32)])
    dataset = load_dataset(f"places365:{places}", Request(image_size=32))
    assert dataset.classes == ("airfield", "bridge", "apartment_building/outdoor")
    small = (places / "val_256").exists()
    for ours, split in ((dataset.train, "train-standard"), (dataset.test, "val")):
        theirs = Places365(str(places), split=split, small=small, transform=view)
        assert theirs.targets == ours.labels.tolist()
        for image, (expected, _) in zip(ours.images, theirs, strict=True):
            np.testing.assert_array_equal(image, np.asarray(expected))
        for name, number in theirs.class_to_idx.items():
            assert name[3:] == dataset.classes[number]


def test_the_extent_is_counted_or_published(places):
    there = extent_of(f"places365:{places}", Request(image_size=32, train_images=6))
    assert (there.classes, there.train, there.test, there.found) == (3, 6, 9, True)
    missing = extent_of("places365:nowhere", Request(image_size=224))
    assert (missing.classes, missing.train, missing.test) == (365, 1_803_460, 36_500)
    assert not missing.found


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "categories_places365.txt",
            "/a/airfield 0\n/b/bridge 2\n",
            r"numbers its classes \[0, 2\]: expected",
        ),
        ("categories_places365.txt", "", r"numbers its classes \[\]: expected"),
        ("places365_val.txt", "Places365_val_00000001.jpg 3\n", "class 3: expected 0 to 2"),
        ("places365_val.txt", "Places365_val_00000001.jpg\n", r"line 1 of .*expected a name and a"),
        ("places365_val.txt", "nothing.jpg 0\n", r"nothing.jpg' is not in .*beside the list"),
        ("places365_val.txt", "", "no image in .*beside the list"),
        ("places365_val.txt", None, r"no file .*places365_val.txt'.*torchvision.*folder:PATH"),
    ],
)
def test_a_list_that_is_wrong_is_named(places, file, content, message):
    (places / file).unlink()
    if content is not None:
        (places / file).write_text(content)
    with pytest.raises(DatasetError, match=message):
        load_dataset(f"places365:{places}", Request(image_size=32))


def test_lists_without_images_say_which_folder_is_missing(places):
    for folder in (*places.glob("val_*"),):
        folder.rename(places / "elsewhere")
    with pytest.raises(DatasetError, match=r"no folder .*val_256' \(nor val_large\): expected"):
        load_dataset(f"places365:{places}", Request(image_size=32))

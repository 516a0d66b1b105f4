"""Any folder that torchvision's ImageFolder reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from evaluation.datasets.load import Request, extent_of, files_hash, load_dataset


def _fill(root: Path, test: str) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", test):
        for name in ("Zebra", "ant", "bee/honey"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in (10, 9, 1):
                pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
        Image.new("RGB", (6, 6)).save(root / split / "bee" / "wild.PNG")
        (root / split / "ant" / "notes.txt").write_text("no image")
    return root


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation"])
def test_it_is_what_torchvision_s_image_folder_reads(tmp_path, test):
    root = _fill(tmp_path, test)
    dataset = load_dataset(f"folder:{root}", Request())
    for ours, split in ((dataset.train, "train"), (dataset.test, test)):
        theirs = ImageFolder(str(root / split))
        assert tuple(theirs.classes) == dataset.classes == ("Zebra", "ant", "bee")
        assert theirs.targets == ours.labels.tolist()
        assert len(ours.images) == 10
        for image, (expected, _) in zip(ours.images, theirs, strict=True):
            np.testing.assert_array_equal(image, np.asarray(expected))


def test_a_test_folder_goes_before_one_for_validation(tmp_path):
    root = _fill(tmp_path, "test")
    (root / "val").mkdir()
    assert len(load_dataset(f"folder:{root}", Request()).test.labels) == 10


def test_the_extent_is_counted(tmp_path):
    extent = extent_of(f"folder:{_fill(tmp_path / 'bugs', 'val')}", Request(train_images=5))
    assert (extent.name, extent.classes, extent.train, extent.test) == ("bugs", 3, 5, 10)
    assert extent.size == (6, 6)
    assert extent.found


def test_any_change_below_the_folder_is_seen(tmp_path):
    root = _fill(tmp_path / "bugs", "val")
    elsewhere = tmp_path / "elsewhere"
    (root / "train" / "ant").rename(elsewhere)
    (root / "train" / "ant").symlink_to(elsewhere)
    seen = [files_hash(f"folder:{root}")]
    assert seen[0] == files_hash(f"imagenet:{root}")
    Image.new("RGB", (6, 6)).save(elsewhere / "9.png")
    seen.append(files_hash(f"folder:{root}"))
    (elsewhere / "1.png").rename(elsewhere / "2.png")
    seen.append(files_hash(f"folder:{root}"))
    (root / "val" / "bee" / "honey" / "1.png").unlink()
    seen.append(files_hash(f"folder:{root}"))
    assert len(set(seen)) == 4


def _link_to_own_folder(root: Path) -> Path:
    link = root / "train" / "ant" / "again"
    link.symlink_to(link.parent)
    return link


def _link_to_the_split_beside_the_classes(root: Path) -> Path:
    link = root / "train" / "everything"
    link.symlink_to(root / "train")
    return link


def _relative_link_far_up(root: Path) -> Path:
    link = root / "test" / "bee" / "honey" / "up"
    link.symlink_to("../../../..")
    return link


def _link_to_itself(root: Path) -> Path:
    link = root / "train" / "Zebra" / "me"
    link.symlink_to(link)
    return link


def _two_folders_elsewhere_that_lead_to_each_other(root: Path) -> Path:
    one, other = root.parent / "one", root.parent / "other"
    for folder in (one, other):
        folder.mkdir()
    (one / "over").symlink_to(other)
    (other / "back").symlink_to(one)
    (root / "train" / "ant" / "outside").symlink_to(one)
    return root / "train" / "ant" / "outside" / "over" / "back"


@pytest.mark.parametrize(
    "add",
    [
        _link_to_own_folder,
        _link_to_the_split_beside_the_classes,
        _relative_link_far_up,
        _link_to_itself,
        _two_folders_elsewhere_that_lead_to_each_other,
    ],
)
def test_a_circle_of_links_is_skipped_and_said(tmp_path, add):
    root = _fill(tmp_path / "bugs", "test")
    expected = load_dataset(f"folder:{root}", Request())
    link = add(root)
    with pytest.warns(UserWarning, match="is a link to a folder that it is in") as said:
        found = load_dataset(f"folder:{root}", Request())
    assert str(link) in str(said[0].message)
    assert found.classes == expected.classes
    assert found.content_hash() == expected.content_hash()
    assert files_hash(f"folder:{root}") == files_hash(f"folder:{root}")


def test_a_link_that_leads_elsewhere_is_followed(tmp_path):
    root = _fill(tmp_path / "bugs", "test")
    (root / "train" / "ant" / "more").symlink_to(root / "test" / "ant")
    assert len(load_dataset(f"folder:{root}", Request()).train.labels) == 13

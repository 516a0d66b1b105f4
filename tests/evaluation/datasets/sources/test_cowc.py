"""Cars Overhead With Context: counts as classes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from evaluation.datasets.dataset import DatasetError
from evaluation.datasets.load import Request, extent_of, load_dataset

SITES = ("Toronto_ISPRS", "Utah_AGRC")


def _patch(path: Path, level: int) -> None:
    """A patch whose grey level tells it apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 12), (level, level, level)).save(path)


@pytest.fixture
def folders(tmp_path) -> Path:
    for split, counts in (("train", (0, 2, 9, 10, 31)), ("test", (0, 2, 9, 10))):
        for count in counts:
            for number in range(2):
                _patch(tmp_path / split / str(count) / f"{number}.png", 4 * count + number)
    return tmp_path


def test_counts_are_classes_in_the_order_of_numbers(folders):
    dataset = load_dataset(f"cowc:{folders}", Request())
    assert dataset.classes == ("0", "2", "9", "10", "31")
    assert dataset.train.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    for image, label in zip(dataset.train.images, dataset.train.labels, strict=True):
        assert image[0, 0, 0] // 4 == int(dataset.classes[label])
    # A count that is rare is in one split alone.
    assert dataset.test.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.fixture
def published(tmp_path) -> tuple[Path, dict[str, list[tuple[str, int]]]]:
    """The published lists beside the folders of two sites, as their archives unpack."""
    counts = {"train": [0, 12, 3, 0, 3, 12], "test": [3, 0, 12, 0]}
    listed: dict[str, list[tuple[str, int]]] = {}
    for split, of_split in counts.items():
        listed[split] = []
        for number, count in enumerate(of_split):
            name = f"{SITES[number % 2]}/{split}/scene.{number:05d}.{count:03d}.png"
            _patch(tmp_path / name, 10 * number + len(split))
            listed[split].append((name, count))
        lines = "\r\n".join(f"{name} {count}" for name, count in listed[split])
        path = tmp_path / f"COWC_{split}_list_64_class.txt"
        path.write_text(lines + "\r\n", encoding="utf-8-sig")
    return tmp_path, listed


def test_the_published_lists_are_read(published):
    root, listed = published
    dataset = load_dataset(f"cowc:{root}", Request(image_size=6))
    assert dataset.classes == ("0", "3", "12")
    assert dataset.size == (6, 6)
    for split, ours in (("train", dataset.train), ("test", dataset.test)):
        assert [int(dataset.classes[label]) for label in ours.labels] == [
            count for _, count in listed[split]
        ]
        for (name, _), image in zip(listed[split], ours.images, strict=True):
            with Image.open(root / name) as patch:
                assert (image == patch.getpixel((0, 0))).all()


def test_the_extent_is_counted(published):
    extent = extent_of(f"cowc:{published[0]}", Request(train_images=3))
    assert (extent.name, extent.classes, extent.train, extent.test) == ("cowc", 3, 3, 4)
    assert extent.size == (12, 12)


def test_a_folder_that_is_no_count_is_named(folders):
    (folders / "test" / "many").mkdir()
    with pytest.raises(DatasetError, match=r"class folder 'many' .*expected a count of cars"):
        load_dataset(f"cowc:{folders}", Request())


@pytest.mark.parametrize("line", ["Utah_AGRC/train/a.png", "Utah_AGRC/train/a.png three"])
def test_a_line_that_is_wrong_is_named(published, line):
    root, _ = published
    with (root / "COWC_train_list_64_class.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DatasetError, match=r"line 7 of .*COWC_train.*expected the path of a patch"):
        load_dataset(f"cowc:{root}", Request())


def test_one_list_alone_is_an_error(published):
    root, _ = published
    (root / "COWC_test_list_64_class.txt").unlink()
    with pytest.raises(DatasetError, match=r"no file .*COWC_test_list_64_class.txt'.*together"):
        load_dataset(f"cowc:{root}", Request())


def test_no_files_say_what_was_expected(tmp_path):
    with pytest.raises(DatasetError, match=r"expected .*train/COUNT/\*.*COWC_train_list_64_class"):
        load_dataset(f"cowc:{tmp_path}", Request())

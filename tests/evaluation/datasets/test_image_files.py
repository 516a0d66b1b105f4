"""Folders of images as people have them: grey, transparent, broken, of several sizes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.datasets.dataset import DatasetError, choose_balanced, open_staged
from evaluation.datasets.load import Request, load_dataset, stage

COLOURS = {"cat": (200, 10, 10), "dog": (10, 200, 10), "owl": (10, 10, 200)}


def _fill(root: Path, *, train: int = 4, test: int = 2, size: tuple[int, int] = (8, 8)) -> Path:
    """Plain images; the grey level in the first pixel tells them apart."""
    for split, count in (("train", train), ("test", test)):
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.full((*size, 3), colour, np.uint8)
                pixels[0, 0] = number
                Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return root


@pytest.fixture
def folder(tmp_path) -> Path:
    return _fill(tmp_path / "pets")


def _load(folder: Path, **options: int):
    return load_dataset(f"folder:{folder}", Request(**options))


def test_images_labels_and_name(folder):
    dataset = _load(folder)
    assert dataset.name == "pets"
    assert dataset.classes == ("cat", "dog", "owl")
    assert dataset.train.images.shape == (12, 8, 8, 3)
    assert dataset.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert dataset.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.train.object_masks is None
    for image, label in zip(dataset.train.images, dataset.train.labels, strict=True):
        assert tuple(image[3, 3]) == COLOURS[dataset.classes[label]]
    assert dataset.train.images[:4, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_mean_and_deviation_are_those_of_the_training_pixels(folder):
    dataset = _load(folder)
    values = [[pixel / 255 for pixel in dataset.train.images[..., c].ravel()] for c in range(3)]
    for channel in range(3):
        mean = sum(values[channel]) / len(values[channel])
        variance = sum((v - mean) ** 2 for v in values[channel]) / len(values[channel])
        assert dataset.mean[channel] == pytest.approx(mean, rel=1e-9)
        assert dataset.std[channel] == pytest.approx(variance**0.5, rel=1e-9)


def test_staged_images_come_back_equal(folder, tmp_path):
    (folder / "train" / "cat" / "00.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match="skipped"):
        dataset = _load(folder)
    with pytest.warns(UserWarning, match="skipped"):
        stage(f"folder:{folder}", Request(), tmp_path / "staged")
    again = open_staged(tmp_path / "staged")
    assert (again.name, again.classes, again.mean, again.std, again.skipped) == (
        dataset.name,
        dataset.classes,
        dataset.mean,
        dataset.std,
        dataset.skipped,
    )
    assert again.content_hash() == dataset.content_hash()
    assert again.skipped[0].path == "train/cat/00.png"


def test_no_such_folder(tmp_path):
    with pytest.raises(DatasetError, match=r"no folder .*nowhere/train.*check the path"):
        _load(tmp_path / "nowhere")


def test_no_test_split(folder):
    (folder / "test").rename(folder / "holdout")
    with pytest.raises(DatasetError, match=r"no folder .*pets/test"):
        _load(folder)


def test_empty_class(folder):
    for file in (folder / "train" / "dog").iterdir():
        file.unlink()
    (folder / "train" / "dog" / "notes.txt").write_text("no image")
    with pytest.raises(DatasetError, match=r"class folder .*train/dog' is empty"):
        _load(folder)


def test_class_in_test_that_is_not_in_train(folder):
    (folder / "test" / "yak").mkdir()
    with pytest.raises(DatasetError, match="class yak is in test but not in train"):
        _load(folder)


def test_class_in_train_that_is_not_in_test(folder):
    (folder / "train" / "yak").mkdir()
    with pytest.raises(DatasetError, match="class yak is in train but not in test"):
        _load(folder)


def test_one_class_is_not_enough(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split / "cat").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"1 class folders in .*expected at least 2"):
        _load(tmp_path)


def test_hidden_folders_are_no_classes(folder):
    (folder / "train" / ".thumbnails").mkdir()
    assert _load(folder).classes == ("cat", "dog", "owl")


def _truncated(kind: str) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()[: len(stream.getvalue()) // 2]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("zz.png", _truncated("PNG")),
        ("zz.jpg", _truncated("JPEG")),
        ("zz.gif", b"GIF89a"),
        ("zz.jpg", b""),
        ("zz.png", b"<html>not found</html>"),
        # Pillow's own ValueError: the file says that its brightest value is 0.
        ("zz.ppm", b"P6 8 8 0\n" + bytes(192)),
        ("zz.ppm", b"P3 2 2 255\n1 2 x 4 5 6 7 8 9 1 2 3\n"),
    ],
)
def test_a_corrupt_image_is_recorded_and_skipped(folder, name, content):
    (folder / "train" / "dog" / name).write_bytes(content)
    with pytest.warns(UserWarning, match=f"train/dog/{name} cannot be read and is skipped"):
        dataset = _load(folder)
    (skipped,) = dataset.skipped
    assert skipped.path == f"train/dog/{name}"
    assert skipped.why
    assert str(folder) not in skipped.why
    # The good ones are there, with the labels that belong to them.
    assert dataset.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert all(
        tuple(image[3, 3]) == COLOURS[dataset.classes[label]]
        for image, label in zip(dataset.train.images, dataset.train.labels, strict=True)
    )


def test_labels_stay_with_their_images_when_one_in_the_middle_is_corrupt(folder):
    (folder / "train" / "cat" / "02.png").write_bytes(b"broken")
    with pytest.warns(UserWarning, match="skipped"):
        dataset = _load(folder)
    assert dataset.train.labels.tolist() == [0] * 3 + [1] * 4 + [2] * 4
    assert dataset.train.images[:4, 0, 0, 0].tolist() == [0, 1, 3, 0]


def test_a_class_of_corrupt_images_alone_is_an_error(folder):
    for file in (folder / "test" / "owl").iterdir():
        file.write_bytes(b"broken")
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(DatasetError, match=r"class owl has no readable image in .*pets/test"),
    ):
        _load(folder)


def test_different_sizes_are_an_error_that_names_one(folder):
    Image.new("RGB", (5, 9)).save(folder / "train" / "owl" / "odd.png")
    with pytest.raises(DatasetError, match=r"different sizes \(8x8, 9x5; .*odd.png' is 9x5\)"):
        _load(folder)


def test_splits_of_different_sizes_are_an_error(folder):
    for file in (folder / "test").rglob("*.png"):
        Image.new("RGB", (6, 6)).save(file)
    with pytest.raises(DatasetError, match=r"differ in size \(6x6, 8x8\): give --image-size"):
        _load(folder)


def test_image_size_resizes_the_shorter_side_and_crops_the_middle(folder):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 255  # the middle third is white, and all that is left
    Image.fromarray(wide).save(folder / "train" / "owl" / "zwide.png")
    dataset = _load(folder, image_size=4)
    assert dataset.size == (4, 4)
    assert dataset.test.images.shape[1:] == (4, 4, 3)
    assert (dataset.train.images[-1, :, 1:3] == 255).all()


def test_grey_images_become_equal_channels(folder):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(grey).save(folder / "train" / "owl" / "zgrey.png")
    np.testing.assert_array_equal(_load(folder).train.images[-1], np.dstack([grey] * 3))


def test_sixteen_bit_grey_keeps_its_shades(folder):
    grey = (np.arange(64, dtype=np.uint16) * 1040).reshape(8, 8)
    Image.fromarray(grey).save(folder / "train" / "owl" / "zgrey.png")
    np.testing.assert_array_equal(_load(folder).train.images[-1, ..., 1], grey / 257 // 1)


def test_transparent_images_show_white(folder):
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[..., 0] = 100
    rgba[:4, :, 3] = 255
    rgba[4, :, 3] = 128
    Image.fromarray(rgba).save(folder / "train" / "owl" / "zclear.png")
    image = _load(folder).train.images[-1].astype(int)
    assert (image[:4] == (100, 0, 0)).all()
    assert (image[5:] == 255).all()
    # Half over white: colour * alpha + 255 * (1 - alpha).
    expected = np.array([100, 0, 0]) * 128 / 255 + 255 * (1 - 128 / 255)
    assert np.abs(image[4] - expected).max() <= 1


def test_palette_images_keep_their_colours(folder):
    image = Image.new("RGB", (8, 8), (10, 20, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    image.save(folder / "train" / "owl" / "zpalette.gif")
    assert np.abs(_load(folder).train.images[-1].astype(int) - (10, 20, 30)).max() <= 1


def test_a_balanced_subset_is_the_same_every_time(folder):
    first, second = (_load(folder, train_images=6, test_images=3) for _ in range(2))
    assert np.bincount(first.train.labels).tolist() == [2, 2, 2]
    assert np.bincount(first.test.labels).tolist() == [1, 1, 1]
    assert first.content_hash() == second.content_hash()


def test_another_seed_takes_other_images():
    labels = np.repeat(np.arange(5), 100)
    chosen = [choose_balanced(labels, 50, seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(chosen[0], chosen[1])
    assert set(chosen[0]) != set(chosen[2])
    assert (np.diff(chosen[0]) > 0).all()


def test_small_classes_are_taken_whole_and_the_others_fill_up():
    labels = np.array([0] * 2 + [1] * 50 + [2] * 50)
    chosen = choose_balanced(labels, 30, 0)
    assert np.bincount(labels[chosen]).tolist() == [2, 14, 14]


def test_all_images_where_more_are_asked_for():
    assert choose_balanced(np.array([1, 0, 1]), 100, 0).tolist() == [0, 1, 2]
    assert choose_balanced(np.array([1, 0, 1]), None, 0).tolist() == [0, 1, 2]


def test_fewer_images_than_classes_is_an_error():
    with pytest.raises(DatasetError, match="2 images asked for, but there are 3 classes"):
        choose_balanced(np.array([0, 1, 2, 0]), 2, 0)

"""Sources of images by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluation.datasets.dataset import DatasetError, open_staged
from evaluation.datasets.load import (
    SOURCES,
    Extent,
    Request,
    extent_of,
    has_object_masks,
    load_dataset,
    stage,
)
from evaluation.datasets.shapes import make_shapes


def test_shapes_are_the_generator_s(tmp_path):
    request = Request(train_images=24, test_images=16, image_size=20, seed=3)
    dataset = load_dataset("shapes", request)
    train, test = make_shapes(train=24, test=16, size=20, seed=3)
    np.testing.assert_array_equal(dataset.train.images, train.images)
    np.testing.assert_array_equal(dataset.test.object_masks, test.object_masks)
    assert dataset.chance == 1 / 8
    stage("shapes", request, tmp_path)
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


@pytest.mark.parametrize("data", ["imagenets", "", "shape:", "folders:here"])
def test_unknown_data_names_the_sources(data):
    with pytest.raises(
        DatasetError, match=f"unknown data {data!r}: expected one of cifar10, cifar100"
    ):
        load_dataset(data, Request())


def test_only_sources_with_object_masks_say_so():
    known = [name for name in SOURCES if has_object_masks(name)]
    assert known == ["volumes", "signals", "shapes"]
    for name in known:
        assert load_dataset(name, Request("", 8, 8)).train.object_masks is not None


def test_the_extent_of_shapes_is_what_would_be_drawn():
    assert extent_of("shapes", Request()) == Extent("shapes", 8, 4000, 1000, (32, 32), True)
    asked = extent_of("shapes", Request(train_images=10**6, image_size=64))
    assert (asked.train, asked.size) == (10**6, (64, 64))


@pytest.mark.parametrize("name", [name for name in SOURCES if SOURCES[name].takes_folder])
def test_every_source_of_files_says_what_it_expected(name, tmp_path):
    with pytest.raises(DatasetError, match=f"names no folder: expected {name}:PATH"):
        load_dataset(name, Request())
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "missing"):
        with pytest.raises(DatasetError, match=r"^no (folder|file|shards) .*: expected "):
            load_dataset(f"{name}:{tmp_path / folder}", Request())


@pytest.mark.parametrize("name", [name for name in SOURCES if SOURCES[name].takes_folder])
def test_what_is_neither_there_nor_published_has_no_extent(name, tmp_path):
    if SOURCES[name].published is not None:
        assert not extent_of(f"{name}:{tmp_path / 'missing'}", Request()).found
        return
    with pytest.raises(DatasetError, match=r"^no (folder|file|shards) "):
        extent_of(f"{name}:{tmp_path / 'missing'}", Request())


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_is_in_the_table_and_in_the_help(name):
    from comparisons.cli.options import DATA

    page = Path(__file__).parents[3] / "docs" / "benchmark" / "datasets.md"
    table = page.read_text().partition("\n## ")[0]
    assert f"`{name}`" in table or f"`{name}:PATH`" in table
    assert name in DATA.help

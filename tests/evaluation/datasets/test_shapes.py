"""The image set ``shapes``: its truth is planted, so every claim about it can be checked."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import ndimage

from evaluation.datasets.outlines import OUTLINES, REACH
from evaluation.datasets.shape_scenes import draw_block
from evaluation.datasets.shapes import CLASSES, ShapesSplit, make_shapes


@pytest.fixture(scope="module")
def splits() -> tuple[ShapesSplit, ShapesSplit]:
    return make_shapes(train=4000, test=1000)


def _least_squares_accuracy(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> float:
    """A linear classifier by least squares on one-hot labels."""
    mean, std = train.mean(0), train.std(0) + 1e-9

    def design(features: np.ndarray) -> np.ndarray:
        return np.hstack([(features - mean) / std, np.ones((len(features), 1))])

    weights = np.linalg.lstsq(design(train), np.eye(len(CLASSES))[train_labels], rcond=None)[0]
    return float(((design(test) @ weights).argmax(1) == test_labels).mean())


def _centroid_accuracy(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> float:
    """The nearest class mean, after scaling each feature to unit variance."""
    std = train.std(0) + 1e-9
    means = np.stack([train[train_labels == c].mean(0) for c in range(len(CLASSES))]) / std
    distances = ((test[:, None] / std - means) ** 2).sum(-1)
    return float((distances.argmin(1) == test_labels).mean())


def _object_statistics(split: ShapesSplit) -> dict[str, np.ndarray]:
    """Statistics that may not tell the class: area, position, colours, contrast, corners."""
    area = split.object_masks.sum((1, 2), keepdims=False).astype(float)
    rows, columns = np.mgrid[: split.images.shape[1], : split.images.shape[2]]
    centroid = np.stack(
        [(split.object_masks * axis).sum((1, 2)) / area for axis in (rows, columns)], axis=1
    )
    pixels = split.images.astype(float)
    inside = split.object_masks[..., None]
    object_colour = (pixels * inside).sum((1, 2)) / area[:, None]
    rest_colour = (pixels * ~inside).sum((1, 2)) / (inside[0].size - area)[:, None]
    corners = pixels[:, [0, 0, -1, -1], [0, -1, 0, -1]].reshape(len(pixels), -1)
    return {
        "area": area[:, None],
        "centroid": centroid,
        "image mean": pixels.mean((1, 2)),
        "object colour": object_colour,
        "background colour": rest_colour,
        "contrast": object_colour - rest_colour,
        "corner pixels": corners,
    }


def test_a_pixel_is_the_objects_or_the_same_without_it() -> None:
    with_object, masks = draw_block("train", 64, 32, 3)
    without, same_masks = draw_block("train", 64, 32, 3, with_object=False)
    differs = (with_object != without).any(-1)
    np.testing.assert_array_equal(masks, same_masks)
    assert not (differs & ~masks).any()
    # Object and what it hides agree at a few pixels by chance.
    assert differs[masks].mean() > 0.97


@pytest.mark.parametrize("size", [16, 32, 47])
def test_the_object_is_one_whole_piece_inside_the_image(size: int) -> None:
    split, _ = make_shapes(train=128, test=0, size=size)
    assert split.images.shape == (128, size, size, 3)
    assert split.object_masks.shape == (128, size, size)
    border = np.ones((size, size), bool)
    border[1:-1, 1:-1] = False
    assert not split.object_masks[:, border].any()
    if size < 32:  # thin waists can break at a coarse grid
        return
    for mask, label in zip(split.object_masks, split.labels, strict=True):
        pieces = ndimage.label(mask, np.ones((3, 3)))[1]
        assert pieces == (2 if CLASSES[label] == "bars" else 1)
        holes = ndimage.label(~mask)[1] - 1
        assert holes == (1 if CLASSES[label] == "ring" else 0)


def test_types_and_exact_class_balance(splits: tuple[ShapesSplit, ShapesSplit]) -> None:
    for split, count in zip(splits, (4000, 1000), strict=True):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        assert split.object_masks.dtype == np.bool_
        np.testing.assert_array_equal(np.bincount(split.labels), count // 8)
    assert len(CLASSES) == 8 == len(set(CLASSES))
    with pytest.raises(dataclasses.FrozenInstanceError):
        splits[0].labels = splits[1].labels  # type: ignore[misc]


def test_an_image_depends_on_seed_split_and_position_alone(
    splits: tuple[ShapesSplit, ShapesSplit],
) -> None:
    for train, test in ((1, 0), (70, 129), (64, 65)):
        for small, large in zip(make_shapes(train=train, test=test), splits, strict=True):
            count = len(small.labels)
            np.testing.assert_array_equal(small.images, large.images[:count])
            np.testing.assert_array_equal(small.object_masks, large.object_masks[:count])
            np.testing.assert_array_equal(small.labels, large.labels[:count])


def test_no_image_repeats_over_seeds_and_splits() -> None:
    drawn = [part for seed in range(3) for part in make_shapes(train=64, test=64, seed=seed)]
    images = np.concatenate([part.images for part in drawn]).reshape(3 * 128, -1)
    assert len(np.unique(images, axis=0)) == 3 * 128


@pytest.mark.parametrize(("position", "name"), list(enumerate(CLASSES)))
def test_outlines_have_unit_area_and_their_centroid_at_the_origin(position: int, name: str) -> None:
    axis = (np.arange(2000, dtype=np.float32) + 0.5) / 1000 - 1
    x, y = np.meshgrid(axis, axis)
    inside = OUTLINES[name](x, y)
    assert CLASSES[position] == name
    assert inside.sum() / 1e6 == pytest.approx(1, abs=2e-3)
    assert x[inside].mean() == pytest.approx(0, abs=1e-3)
    assert y[inside].mean() == pytest.approx(0, abs=1e-3)
    assert np.hypot(x, y)[inside].max() <= REACH


@pytest.mark.parametrize("name", CLASSES)
def test_a_flip_keeps_the_outline_and_so_the_class(name: str) -> None:
    axis = (np.arange(600, dtype=np.float32) + 0.5) / 300 - 1
    x, y = np.meshgrid(axis, axis)
    outline = OUTLINES[name]
    # Rounding may decide otherwise on a pixel of the edge.
    assert (outline(x, y) != outline(-x, y)).mean() < 1e-4


def test_no_statistic_but_the_outline_tells_the_class(
    splits: tuple[ShapesSplit, ShapesSplit],
) -> None:
    train, test = splits
    # Four standard deviations of a guesser's accuracy over 1,000 test images above chance.
    limit = 1 / 8 + 4 * math.sqrt(1 / 8 * 7 / 8 / 1000)
    train_statistics, test_statistics = _object_statistics(train), _object_statistics(test)
    for name, features in train_statistics.items():
        for classify in (_least_squares_accuracy, _centroid_accuracy):
            accuracy = classify(features, train.labels, test_statistics[name], test.labels)
            assert accuracy < limit, f"{name}: {classify.__name__} {accuracy:.3f}"


def test_the_leak_check_finds_a_planted_leak(splits: tuple[ShapesSplit, ShapesSplit]) -> None:
    features = [_object_statistics(s)["area"] + 60 * (s.labels[:, None] == 7) for s in splits]
    for classify in (_least_squares_accuracy, _centroid_accuracy):
        assert classify(features[0], splits[0].labels, features[1], splits[1].labels) > 1 / 6


def test_no_brightness_finds_the_object(splits: tuple[ShapesSplit, ShapesSplit]) -> None:
    masks = splits[0].object_masks
    brightness = splits[0].images.astype(int).sum(-1)
    levels = np.arange(3 * 255 + 2)
    above, right = (
        1 - np.searchsorted(np.sort(brightness[where]), levels) / where.sum()
        for where in (~masks, masks)
    )
    precision = right * masks.mean() / (right * masks.mean() + above * (~masks).mean() + 1e-12)
    assert (2 * precision * right / (precision + right + 1e-12)).max() < 0.75


def test_a_disk_at_the_centre_misses_most_of_the_objects(
    splits: tuple[ShapesSplit, ShapesSplit],
) -> None:
    masks = splits[0].object_masks
    rows, columns = np.mgrid[:32, :32] - 15.5
    nearest = np.argsort((rows**2 + columns**2).ravel(), kind="stable")
    by_nearness = masks.reshape(len(masks), -1)[:, nearest]
    assert by_nearness[:, :102].sum() / masks.sum() < 0.25
    assert by_nearness[:, :307].sum() / masks.sum() < 0.65


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"train": -1}, ValueError, "train must be at least 0, got -1"),
        ({"test": -8}, ValueError, "test must be at least 0, got -8"),
        ({"size": 15}, ValueError, "size must be at least 16, got 15"),
        ({"seed": -2}, ValueError, "seed must be at least 0, got -2"),
        ({"train": 8.0}, TypeError, r"train must be an integer, got 8\.0"),
        ({"seed": "0"}, TypeError, "seed must be an integer, got '0'"),
        ({"size": True}, TypeError, "size must be an integer, got True"),
    ],
)
def test_bad_arguments_are_named(
    arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_shapes(**arguments)  # type: ignore[arg-type]


def test_none_asked_none_made() -> None:
    train, test = make_shapes(train=0, test=0, size=20)
    assert train.images.shape == test.images.shape == (0, 20, 20, 3)

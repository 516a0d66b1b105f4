"""Random crops that are resized: by index, mask and image together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from evaluation.masking.levels import Masking
from evaluation.masking.views import InputView
from evaluation.training.augmentation import EpochDraw, resize_crops, resized_boxes
from evaluation.training.recipe import Recipe

RECIPE = Recipe(crop_padding=0, resized_crop=0.2)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (9, 14), (224, 200), (1, 5)])
def test_boxes_lie_in_the_image_and_have_the_area_and_shape_they_should(height, width):
    draw = np.random.default_rng(0).random((4000, 4))
    top, left, rows, columns = resized_boxes(draw, height, width, 0.2).T
    assert min(top.min(), left.min()) == 0
    assert min(rows.min(), columns.min()) >= 1
    assert (top + rows).max() == height
    assert (left + columns).max() == width
    if min(height, width) > 100:  # where rounding to pixels hardly matters
        share = rows * columns / (height * width)
        assert np.quantile(share, [0, 0.25, 0.5, 0.75, 1]) == pytest.approx(
            [0.2, 0.4, 0.6, 0.8, 1], abs=0.02
        )
        stretched = columns / rows
        assert stretched.min() > 0.7
        assert stretched.max() < 1.4


@pytest.mark.parametrize("box", [(0, 0, 8, 8), (2, 1, 4, 4), (1, 3, 5, 3), (7, 0, 1, 8)])
def test_a_resized_crop_is_torch_s_nearest_exact(box):
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    top, left, rows, columns = box
    part = image[:, :, top : top + rows, left : left + columns]
    expected = F.interpolate(part, size=(8, 8), mode="nearest-exact")
    assert torch.equal(resize_crops(image, torch.tensor([box])), expected)


def test_the_whole_image_as_a_box_is_the_image():
    images = torch.rand(5, 3, 7, 11, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resize_crops(images, torch.tensor([[0, 0, 7, 11]] * 5)), images)


def test_a_crop_of_a_masked_image_shows_its_pixels_and_the_mean_alone():
    # Masked, then cropped: as the crop of the image with the crop of the mask, no value between.
    rng = np.random.default_rng(1)
    images = rng.integers(1, 256, (20, 12, 12, 3), dtype=np.uint8)
    levels = rng.integers(0, 2, (20, 12, 12), dtype=np.uint8)
    normalisation = (0.0,) * 3, (1.0,) * 3
    masked = InputView(images, *normalisation, levels, Masking("roar", 0.5, (0.5,)))
    order = np.arange(20)
    draw, index = EpochDraw.make(20, RECIPE, 0, 1).on("cpu", RECIPE), torch.from_numpy(order)
    seen = draw.augment(masked(order), index)
    whole = draw.augment(InputView(images, *normalisation)(order), index)
    kept = torch.from_numpy(levels != 0)[:, None].float().expand(-1, 3, -1, -1)
    assert torch.equal(seen, whole * draw.augment(kept, index))
    assert 0.3 < float((seen == 0).float().mean()) < 0.7


def test_a_draw_depends_on_seed_epoch_and_image_alone():
    one, again = (EpochDraw.make(30, RECIPE, 3, 2) for _ in range(2))
    np.testing.assert_array_equal(one.crop, again.crop)
    for seed, epoch in ((3, 1), (4, 2)):
        assert (EpochDraw.make(30, RECIPE, seed, epoch).crop != one.crop).any()
    images = torch.rand(30, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    everything = one.on("cpu", RECIPE).augment(images, torch.arange(30))
    some = torch.tensor([17, 3, 29])
    assert torch.equal(one.on("cpu", RECIPE).augment(images[some], some), everything[some])


def test_other_draws_do_not_depend_on_resized_crops():
    plain = EpochDraw.make(30, Recipe(crop_padding=0), 3, 2)
    resized = EpochDraw.make(30, RECIPE, 3, 2)
    assert plain.crop is None
    for name in ("order", "top", "left", "flip"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(resized, name))


def test_alternating_flips_show_each_image_both_ways_in_two_epochs():
    recipe = Recipe(flip=False, alternating_flip=True)
    odd, even, third = (EpochDraw.make(400, recipe, 3, epoch) for epoch in (1, 2, 3))
    np.testing.assert_array_equal(odd.flip, ~even.flip)
    np.testing.assert_array_equal(odd.flip, third.flip)
    assert 150 < odd.flip.sum() < 250
    assert (odd.flip != EpochDraw.make(400, recipe, 4, 1).flip).any()
    images = torch.rand(400, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    uncropped = Recipe(flip=False, alternating_flip=True, crop_padding=0)
    seen = [
        EpochDraw.make(400, uncropped, 3, epoch).on("cpu", uncropped).augment(images, index)
        for epoch, index in ((1, torch.arange(400)), (2, torch.arange(400)))
    ]
    mirrored = torch.from_numpy(odd.flip)[:, None, None, None]
    assert torch.equal(seen[0], torch.where(mirrored, images.flip(3), images))
    assert torch.equal(seen[1], torch.where(mirrored, images, images.flip(3)))


def test_other_draws_do_not_depend_on_how_flips_are_drawn():
    plain = EpochDraw.make(30, Recipe(), 3, 2)
    alternating = EpochDraw.make(30, Recipe(flip=False, alternating_flip=True), 3, 2)
    for name in ("order", "top", "left"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(alternating, name))

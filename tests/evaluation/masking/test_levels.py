"""Masks of exactly k pixels, whatever the ties, against a slow sort."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from evaluation.masking.levels import (
    FILLS,
    MODES,
    Masking,
    check_fractions,
    pixels_at,
    saliency_levels,
)

CUTS = (0.1, 0.3, 0.5, 0.7, 0.9)
# 10, 30, 50, 70 and 90 % of 1,024 pixels, worked out by hand.
PIXELS_OF_32 = {0.1: 102, 0.3: 307, 0.5: 512, 0.7: 717, 0.9: 922}


def _upsampled_cam(seed: int) -> np.ndarray:
    """Two 32x32 maps of 4x4 blocks: 64 tied pixels a value."""
    coarse = torch.from_numpy(np.random.default_rng(seed).random((2, 1, 4, 4)))
    return F.interpolate(coarse, size=(32, 32), mode="nearest")[:, 0].numpy()


def _rectified_cam(seed: int) -> np.ndarray:
    """Smooth maps with more than half of the pixels tied at zero, as a CAM after its ReLU."""
    coarse = torch.from_numpy(np.random.default_rng(seed).standard_normal((2, 1, 4, 4)) - 0.5)
    return F.interpolate(coarse, size=(32, 32), mode="bilinear")[:, 0].clamp(min=0).numpy()


MAPS = {
    "distinct": np.random.default_rng(0).random((2, 32, 32)),
    "all tied": np.zeros((2, 32, 32)),
    "two values": (np.random.default_rng(1).random((2, 32, 32)) < 0.2).astype(np.float32),
    "upsampled": _upsampled_cam(2),
    "rectified": _rectified_cam(3),
    "negative": -np.random.default_rng(4).random((2, 32, 32)),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fraction", CUTS)
@pytest.mark.parametrize("saliency", MAPS.values(), ids=MAPS.keys())
def test_mask_has_exactly_k_pixels(saliency, fraction, mode):
    levels = saliency_levels(saliency, CUTS, np.arange(2))
    kept = Masking(mode, fraction, CUTS).kept(levels)
    k = PIXELS_OF_32[fraction]
    expected = 1024 - k if mode == "roar" else k
    assert kept.sum((1, 2)).tolist() == [expected, expected]


@pytest.mark.parametrize("height", [1, 3, 15])
@pytest.mark.parametrize("fraction", CUTS)
def test_k_is_the_nearest_whole_number_of_pixels_for_odd_sizes(height, fraction):
    pixels = height * 7
    levels = saliency_levels(np.zeros((1, height, 7)), CUTS, np.array([5]))
    removed = (~Masking("roar", fraction, CUTS).kept(levels)).sum()
    # In whole tenths: round(tenths * pixels / 10), halves up.
    tenths = round(10 * fraction)
    assert removed == (2 * tenths * pixels + 10) // 20 == pixels_at(fraction, pixels)


@pytest.mark.parametrize("saliency", MAPS.values(), ids=MAPS.keys())
def test_levels_are_those_of_a_slow_sort(saliency):
    maps = saliency[:, 10:22, 6:18]
    pixels = 144
    every = tuple(k / pixels for k in range(1, pixels))
    indices = np.array([7, 300])
    # With a cut at every pixel a constant map shows the whole order of ties.
    tie_rank = saliency_levels(np.ones((2, 12, 12)), every, indices, seed=3)
    levels = saliency_levels(maps, CUTS, indices, seed=3)
    for image in range(2):
        flat, tie = maps[image].ravel(), tie_rank[image].ravel()
        order = sorted(range(pixels), key=lambda p, v=flat, t=tie: (-v[p], t[p]))
        expected = [0] * pixels
        for rank, pixel in enumerate(order):
            expected[pixel] = sum(rank >= pixels_at(cut, pixels) for cut in CUTS)
        assert levels[image].ravel().tolist() == expected


def test_order_of_ties_is_a_permutation_of_all_pixels():
    every = tuple(k / 144 for k in range(1, 144))
    ranks = saliency_levels(np.zeros((1, 12, 12)), every, np.array([0]))
    assert sorted(ranks.ravel().tolist()) == list(range(144))


def test_no_tied_pixel_is_favoured():
    # Over 600 images each pixel of a constant map is removed at 30 % about 180 times;
    # 5 standard deviations of a binomial are 56. Order by position would give 0 or 600.
    levels = saliency_levels(np.zeros((600, 8, 8)), (0.3,), np.arange(600))
    removed = (levels == 0).sum(0)
    expected = 600 * pixels_at(0.3, 64) / 64
    assert np.abs(removed - expected).max() < 5 * np.sqrt(expected * 0.7)


def test_order_of_ties_depends_on_the_image_and_the_seed():
    def constant(index: int, seed: int) -> np.ndarray:
        return saliency_levels(np.zeros((1, 16, 16)), CUTS, np.array([index]), seed=seed)

    assert not np.array_equal(constant(0, 0), constant(1, 0))
    assert not np.array_equal(constant(0, 0), constant(0, 1))
    assert np.array_equal(constant(1, 1), constant(1, 1))


def test_order_of_ties_does_not_depend_on_the_method_or_the_batch():
    # Two "methods" that differ in their top value and in scale, and tie on the same pixels.
    one, other = np.zeros((3, 16, 16)), np.full((3, 16, 16), -4.0)
    one[:, 3, 3], other[:, 3, 3] = 1.0, 50.0
    indices = np.array([11, 12, 13])
    together = saliency_levels(one, CUTS, indices)
    np.testing.assert_array_equal(together, saliency_levels(other, CUTS, indices))
    alone = saliency_levels(one[1:2], CUTS, indices[1:2])
    np.testing.assert_array_equal(together[1:2], alone)


@pytest.mark.parametrize("saliency", MAPS.values(), ids=MAPS.keys())
def test_larger_fractions_contain_smaller_ones(saliency):
    levels = saliency_levels(saliency, CUTS, np.arange(2))
    sets = [Masking("kar", cut, CUTS).kept(levels) for cut in CUTS]
    for inner, outer in pairwise(sets):
        assert not (inner & ~outer).any()
        assert (outer & ~inner).any()


@pytest.mark.parametrize("fraction", CUTS)
def test_kar_keeps_what_roar_removes(fraction):
    levels = saliency_levels(MAPS["rectified"], CUTS, np.arange(2))
    roar, kar = (Masking(mode, fraction, CUTS).kept(levels) for mode in ("roar", "kar"))
    np.testing.assert_array_equal(roar, ~kar)


@pytest.mark.parametrize("fraction", CUTS)
def test_roar_removes_the_most_salient_pixels(fraction):
    saliency = MAPS["distinct"]
    kept = Masking("roar", fraction, CUTS).kept(saliency_levels(saliency, CUTS, np.arange(2)))
    for image in range(2):
        assert saliency[image][kept[image]].max() < saliency[image][~kept[image]].min()


@pytest.mark.parametrize("fraction", CUTS)
def test_keeping_a_share_leaves_as_many_pixels_as_removing_the_rest(fraction):
    # What makes the random control its own dual.
    levels = saliency_levels(MAPS["all tied"], CUTS, np.arange(2))
    rest = round(1 - fraction, 10)
    kept = Masking("kar", fraction, CUTS).kept(levels).sum()
    left = Masking("roar", rest, CUTS).kept(levels).sum()
    assert kept == left == 2 * PIXELS_OF_32[fraction]


def test_six_levels_serve_five_fractions():
    levels = saliency_levels(MAPS["distinct"], CUTS, np.arange(2))
    counts = np.bincount(levels[0].ravel())
    assert counts.tolist() == [102, 307 - 102, 512 - 307, 717 - 512, 922 - 717, 1024 - 922]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_not_finite_is_refused_by_image(bad):
    saliency = np.random.default_rng(0).random((3, 4, 4))
    saliency[2, 1, 1] = bad
    with pytest.raises(ValueError, match=r"image 42 .*NaN or infinity"):
        saliency_levels(saliency, CUTS, np.array([40, 41, 42]))


def test_saliency_is_left_as_it_was():
    saliency = MAPS["distinct"].copy()
    saliency_levels(saliency, CUTS, np.arange(2))
    np.testing.assert_array_equal(saliency, MAPS["distinct"])


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ([0.0, 0.5], "fraction 0 % is out of range"),
        ([1.0], "fraction 100 % is out of range"),
        ([-0.1], "fraction -10 % is out of range"),
        ([float("nan")], "fraction nan % is out of range"),
        ([0.3, 0.1, 0.3], "fraction 30 % is given twice"),
        ([], "no fractions given"),
    ],
)
def test_bad_fractions_are_named(fractions, message):
    with pytest.raises(ValueError, match=message):
        check_fractions(fractions)


@pytest.mark.parametrize(
    ("mode", "fraction", "fill", "message"),
    [
        ("road", 0.1, "mean", "unknown mode 'road': expected one of roar, kar"),
        ("roar", 0.2, "mean", "fraction 20 % is not among the cuts"),
        ("roar", 0.1, "median", f"unknown fill 'median': expected one of {', '.join(FILLS)}"),
    ],
)
def test_bad_maskings_are_named(mode, fraction, fill, message):
    with pytest.raises(ValueError, match=message):
        Masking(mode, fraction, CUTS, fill)

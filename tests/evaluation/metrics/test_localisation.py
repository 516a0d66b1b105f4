"""Pointing game and mass in the object, where the truth is planted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from evaluation.metrics.localisation import mass_in_object, object_ranking, peaks, pointing_game


def _objects(count: int = 40, size: int = 8) -> np.ndarray:
    rng = np.random.default_rng(0)
    objects = np.zeros((count, size, size), bool)
    for one in objects:
        top, left = rng.integers(0, size - 3, 2)
        one[top : top + 3, left : left + 3] = True
    return objects


def test_maps_planted_on_and_off_the_object():
    objects = _objects()
    noise = np.random.default_rng(1).random(objects.shape)
    hits = np.arange(len(objects)) % 4 != 0
    on_object = np.where(hits[:, None, None], objects, ~objects)
    found = peaks(noise + 10 * on_object, np.arange(len(objects)))
    assert pointing_game(found, objects) == 0.75


def test_peak_is_the_largest_value():
    maps = np.random.default_rng(0).random((5, 4, 6))
    assert peaks(maps, np.arange(5)).tolist() == maps.reshape(5, -1).argmax(1).tolist()


def test_constant_map_points_anywhere_not_at_the_top_left():
    count = 2000
    objects = np.zeros((count, 8, 8), bool)
    objects[:, :4, :4] = True
    found = peaks(np.zeros(objects.shape), np.arange(count))
    # A quarter of the image; three standard deviations of 2000 draws are 0.03.
    assert pointing_game(found, objects) == pytest.approx(0.25, abs=0.03)
    assert np.bincount(found, minlength=64).min() > 0


def test_the_same_image_has_the_same_peak_for_every_map_with_its_ties():
    one, other = np.zeros((3, 4, 4)), np.full((3, 4, 4), 7.0)
    assert peaks(one, np.arange(3)).tolist() == peaks(other, np.arange(3)).tolist()


def test_mass_is_the_share_of_a_loop_over_pixels():
    objects = _objects(6)
    maps = np.random.default_rng(2).normal(size=objects.shape)
    for one, object_mask, share in zip(maps, objects, mass_in_object(maps, objects), strict=True):
        inside = total = 0.0
        for row in range(8):
            for column in range(8):
                mass = one[row, column] - one.min()
                total += mass
                inside += mass if object_mask[row, column] else 0.0
        assert share == pytest.approx(inside / total)


def test_mass_of_planted_maps():
    objects = _objects()
    assert mass_in_object(objects.astype(float), objects).tolist() == [1.0] * len(objects)
    assert mass_in_object(-objects.astype(float), objects).tolist() == [0.0] * len(objects)
    # Constant, at whatever value: the object's share of the image.
    for value in (0.0, -3.0, 1e6):
        share = mass_in_object(np.full(objects.shape, value), objects)
        np.testing.assert_allclose(share, 9 / 64)


def test_the_ranking_is_mann_whitney_s():
    rng = np.random.default_rng(0)
    # Few values, so that many tie.
    saliency = rng.integers(0, 5, (4, 6, 7)).astype(np.float64)
    objects = rng.random((4, 6, 7)) < 0.3
    found = object_ranking(saliency, objects)
    for one, inside, value in zip(saliency, objects, found, strict=True):
        u = mannwhitneyu(one[inside], one[~inside]).statistic
        assert value == pytest.approx(u / (inside.sum() * (~inside).sum()))
    np.testing.assert_allclose(object_ranking(np.exp(saliency), objects), found)
    np.testing.assert_allclose(object_ranking(np.ones((4, 6, 7)), objects), 0.5)


def test_a_ranking_needs_pixels_on_both_sides():
    with pytest.raises(ValueError, match="at least one pixel"):
        object_ranking(np.zeros((1, 2, 2)), np.ones((1, 2, 2), np.bool_))

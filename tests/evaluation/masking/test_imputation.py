"""Pixels filled from their neighbours, against dense algebra and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import spsolve

from evaluation.masking.imputation import noisy_linear

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 9, 7, 3), dtype=np.uint8)
INDICES = np.array([4, 5, 900])


def _kept(share: float, shape: tuple[int, ...] = (3, 9, 7)) -> np.ndarray:
    return np.random.default_rng(1).random(shape) < share


def _dense(image: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The same system, entry by entry, for one channel."""
    height, width = image.shape
    matrix, right = np.zeros((image.size,) * 2), np.zeros(image.size)
    for row in range(height):
        for column in range(width):
            here = row * width + column
            if kept[row, column]:
                matrix[here, here], right[here] = 1.0, image[row, column]
                continue
            neighbours = [
                (row + y, column + x, 1 / 12 if x and y else 1 / 6)
                for y in (-1, 0, 1)
                for x in (-1, 0, 1)
                if (x or y) and 0 <= row + y < height and 0 <= column + x < width
            ]
            matrix[here, here] = 1.0
            for y, x, weight in neighbours:
                matrix[here, y * width + x] -= weight / sum(w for _, _, w in neighbours)
    return np.linalg.solve(matrix, right).reshape(height, width)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_it_solves_the_dense_system(share):
    kept = _kept(share)
    filled = noisy_linear(IMAGES, kept, INDICES, noise=0.0)
    for image in range(3):
        for channel in range(3):
            expected = _dense(IMAGES[image, :, :, channel].astype(float), kept[image])
            np.testing.assert_allclose(filled[image, :, :, channel], expected, atol=1e-3)


def _of_road(image: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """ROAD's imputer as pytorch-grad-cam has it: the removed pixels alone, as a sparse system."""
    ways = [((y, x), 1 / 12 if x and y else 1 / 6) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    removed = list(zip(*np.nonzero(~kept), strict=True))
    place = {pixel: index for index, pixel in enumerate(removed)}
    matrix = sparse.lil_matrix((len(removed),) * 2)
    right = np.zeros(len(removed))
    for (row, column), index in place.items():
        for (y, x), weight in ways:
            near = row + y, column + x
            inside = 0 <= near[0] < image.shape[0] and 0 <= near[1] < image.shape[1]
            if (y, x) == (0, 0) or not inside:
                continue
            matrix[index, index] -= weight
            if near in place:
                matrix[index, place[near]] += weight
            else:
                right[index] -= weight * image[near]
    filled = image.copy()
    filled[~kept] = spsolve(matrix.tocsc(), right)
    return filled


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_it_is_the_imputer_of_road(share):
    images = np.random.default_rng(3).integers(0, 256, (2, 24, 20, 3), dtype=np.uint8)
    kept = _kept(share, (2, 24, 20))
    filled = noisy_linear(images, kept, INDICES[:2], noise=0.0)
    for image in range(2):
        for channel in range(3):
            expected = _of_road(images[image, :, :, channel] / 255, kept[image])
            np.testing.assert_allclose(filled[image, :, :, channel] / 255, expected, atol=2e-6)


def test_a_channel_with_a_mask_of_its_own_is_filled_by_itself():
    kept = _kept(0.4, (3, 9, 7, 3))
    filled = noisy_linear(IMAGES, kept, INDICES, noise=0.0)
    for channel in range(3):
        one = noisy_linear(IMAGES[..., [channel]], kept[..., channel], INDICES, noise=0.0)
        np.testing.assert_array_equal(filled[..., [channel]], one)


def test_one_removed_pixel_is_the_weighted_mean_of_its_neighbours():
    kept = np.ones((1, 9, 7), bool)
    kept[0, 4, 3] = False
    filled = noisy_linear(IMAGES[:1], kept, INDICES[:1], noise=0.0)[0, 4, 3]
    near = IMAGES[0].astype(float)
    side = near[3, 3] + near[5, 3] + near[4, 2] + near[4, 4]
    corner = near[3, 2] + near[3, 4] + near[5, 2] + near[5, 4]
    np.testing.assert_allclose(filled, side / 6 + corner / 12, rtol=1e-6)


def test_at_the_border_the_mean_is_of_the_neighbours_there_are():
    kept = np.ones((1, 9, 7), bool)
    kept[0, 0, 0] = False
    filled = noisy_linear(IMAGES[:1], kept, INDICES[:1], noise=0.0)[0, 0, 0]
    near = IMAGES[0].astype(float)
    expected = (2 * near[0, 1] + 2 * near[1, 0] + near[1, 1]) / 5
    np.testing.assert_allclose(filled, expected, rtol=1e-6)


def test_a_linear_ramp_is_kept_away_from_the_edges():
    rows, columns = np.mgrid[:12, :12]
    ramp = (3 * rows + 7 * columns)[None, ..., None].astype(np.uint8)
    kept = np.ones((1, 12, 12), bool)
    kept[0, 3:9, 2:8] = False
    filled = noisy_linear(ramp, kept, np.array([0]), noise=0.0)
    np.testing.assert_allclose(filled, ramp, atol=1e-4)


def test_what_is_kept_stays_to_the_bit_and_the_images_are_left_alone():
    before, kept = IMAGES.copy(), _kept(0.5)
    filled = noisy_linear(IMAGES, kept, INDICES, noise=0.1)
    np.testing.assert_array_equal(filled[kept], IMAGES[kept])
    np.testing.assert_array_equal(IMAGES, before)
    assert (filled[~kept] != IMAGES[~kept]).mean() > 0.99


def test_noise_has_the_stated_spread_and_is_fixed_for_an_image():
    images = np.full((40, 16, 16, 3), 128, np.uint8)
    kept = np.zeros((40, 16, 16), bool)
    kept[:, ::4, ::4] = True
    grain = noisy_linear(images, kept, np.arange(40), noise=0.1)[~kept] - 128
    # 28,800 draws: the deviation of a standard deviation of 25.5 is 0.11.
    assert abs(grain.std() - 25.5) < 5 * 0.11
    assert abs(grain.mean()) < 5 * 25.5 / np.sqrt(grain.size)
    together = noisy_linear(IMAGES, _kept(0.5), INDICES)
    alone = noisy_linear(IMAGES[1:2], _kept(0.5)[1:2], INDICES[1:2])
    np.testing.assert_array_equal(together[1:2], alone)
    other = noisy_linear(IMAGES[1:2], _kept(0.5)[1:2], np.array([6]))
    assert (alone != other).mean() > 0.4
    assert (alone != noisy_linear(IMAGES[1:2], _kept(0.5)[1:2], INDICES[1:2], seed=1)).mean() > 0.4


def test_nothing_left_to_fill_from_is_an_error():
    with pytest.raises(ValueError, match=r"nothing of image 5 is kept: .*at least one pixel"):
        noisy_linear(IMAGES, np.arange(3)[:, None, None] != np.ones((3, 9, 7)), INDICES)

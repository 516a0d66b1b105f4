"""IDSDS against SciPy, a slow rewrite, and a network that reads known patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from evaluation.masking.patches import patch_of_pixels
from evaluation.metrics.single_deletion import deletion_drops, patch_sums, single_deletion_score

GRID = 3


def test_patches_cover_every_pixel_once_in_blocks_of_nearly_one_size():
    patches = patch_of_pixels((10, 7), GRID)
    assert patches.shape == (10, 7)
    counts = np.bincount(patches.ravel(), minlength=9).reshape(3, 3)
    rows, columns = counts.sum(1) / 7, counts.sum(0) / 10
    assert sorted(rows) == [3, 3, 4]
    assert sorted(columns) == [2, 2, 3]
    for patch in range(9):
        where = np.argwhere(patches == patch)
        height, width = np.ptp(where, axis=0) + 1
        assert height * width == len(where)
    with pytest.raises(ValueError, match="grid of 8x8 patches on images of 4x9 pixels"):
        patch_of_pixels((4, 9), 8)


def test_drops_and_sums_are_those_of_a_loop_over_pixels():
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.standard_normal((2, 3, 9, 12), np.float32))
    weight = torch.from_numpy(rng.standard_normal((4, 324), np.float32))
    network = lambda x: torch.tanh(x.flatten(1) @ weight.T)  # noqa: E731
    target = torch.tensor([3, 1])
    drops = deletion_drops(network, inputs, target, GRID)
    sums = patch_sums(inputs[:, 0].numpy(), GRID)
    for row in range(2):
        for patch in range(9):
            top, left = 3 * (patch // 3), 4 * (patch % 3)
            holed = inputs[row].clone()
            holed[:, top : top + 3, left : left + 4] = 0
            expected = network(inputs[row][None]) - network(holed[None])
            assert drops[row, patch] == pytest.approx(float(expected[0, target[row]]), abs=1e-5)
            block = inputs[row, 0, top : top + 3, left : left + 4]
            assert sums[row, patch] == pytest.approx(float(block.sum()), abs=1e-5)


def test_the_score_is_spearmans_of_scipy_with_ties():
    rng = np.random.default_rng(1)
    maps = rng.integers(0, 3, (5, 3, 3)).astype(float)
    drops = rng.integers(0, 4, (5, 9)).astype(float)
    found = single_deletion_score(maps, drops)
    for row in range(5):
        expected = stats.spearmanr(maps[row].ravel(), drops[row]).statistic
        assert found[row] == pytest.approx(expected)


def test_a_network_that_reads_patches_gives_its_own_weights_1_and_their_reverse_minus_1():
    """Planted truth: each patch of ones weighs as much as its number in the logit."""
    patches = torch.from_numpy(patch_of_pixels((9, 9), GRID)).float()
    network = lambda x: torch.stack([(x[:, 0] * patches).sum((1, 2)), x.sum((1, 2, 3))], 1)  # noqa: E731
    drops = deletion_drops(network, torch.ones(2, 1, 9, 9), torch.zeros(2, dtype=torch.int64), GRID)
    truth = np.broadcast_to(patches.numpy(), (2, 9, 9))
    assert single_deletion_score(truth, drops).tolist() == pytest.approx([1.0, 1.0])
    assert single_deletion_score(-truth, drops).tolist() == pytest.approx([-1.0, -1.0])
    noise = np.random.default_rng(0).standard_normal((200, 9, 9))
    assert abs(single_deletion_score(noise, drops[:1].repeat(200, 0)).mean()) < 0.1


def test_a_map_without_an_order_tells_nothing():
    drops = np.arange(9.0)[None]
    assert single_deletion_score(np.ones((1, 3, 3)), drops).tolist() == [0.0]
    assert single_deletion_score(np.ones((1, 3, 3)), np.zeros((1, 9))).tolist() == [0.0]

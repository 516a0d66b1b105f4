"""Total variation and file size beside a loop, PyTorch and Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.metrics.complexity import png_bytes, scaled, total_variation


def _maps(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 9, 12)).astype(np.float32)


def test_total_variation_is_pytorchs_sum_of_neighbouring_differences():
    maps = _maps()
    for one, found in zip(maps, total_variation(maps), strict=True):
        values = torch.from_numpy(one).double()
        values = (values - values.min()) / (values.max() - values.min())
        expected = values.diff(dim=0).abs().sum() + values.diff(dim=1).abs().sum()
        assert found == pytest.approx(float(expected) / (9 * 12))


def test_total_variation_of_shapes_that_are_known():
    step = np.zeros((1, 10, 10))
    step[:, :, 5:] = 4.0
    assert total_variation(step).tolist() == [pytest.approx(0.1)]
    checkered = (np.indices((10, 10)).sum(0) % 2)[None] * 5.0
    assert total_variation(checkered).tolist() == [pytest.approx(2 * 90 / 100)]
    assert total_variation(np.full((1, 10, 10), 3.0)).tolist() == [0.0]


def test_descriptions_do_not_depend_on_the_maps_unit():
    maps = _maps().astype(np.float64)
    np.testing.assert_allclose(total_variation(maps), total_variation(1000 * maps - 5))
    assert png_bytes(maps).tolist() == png_bytes(1000 * maps - 5).tolist()


def test_file_size_is_that_of_the_file_on_disk(tmp_path):
    maps = _maps()
    for number, found in enumerate(png_bytes(maps)):
        levels = np.empty((9, 12), np.uint8)
        low, high = float(maps[number].min()), float(maps[number].max())
        for place in np.ndindex(9, 12):
            levels[place] = round(255 * (float(maps[number][place]) - low) / (high - low))
        Image.fromarray(levels).save(tmp_path / "map.png", optimize=True)
        assert found == (tmp_path / "map.png").stat().st_size


def test_noise_takes_more_bytes_than_a_smooth_map():
    across, noise = np.tile(np.arange(32.0), (32, 1)), np.random.default_rng(0).random((32, 32))
    smooth, noisy = png_bytes(np.stack([across, noise])).tolist()
    assert 4 * smooth < noisy


def test_scaled_reaches_both_ends():
    found = scaled(_maps())
    assert found.min(axis=(1, 2)).tolist() == [0.0] * 3
    assert found.max(axis=(1, 2)).tolist() == [1.0] * 3

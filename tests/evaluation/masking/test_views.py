"""Views of filled images: equal from a file and filled as read; the file goes with its view."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from evaluation.datasets.load import Request, load_dataset
from evaluation.masking.imputation import noisy_linear
from evaluation.masking.levels import Masking, saliency_levels
from evaluation.masking.views import InputView
from evaluation.training.retraining import Recipe, train

CUTS = (0.1, 0.5, 0.9)


class _Diverging(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return (self.weight + math.inf).expand(len(inputs), 8)


@pytest.fixture(scope="module")
def split():
    return load_dataset("shapes", Request(train_images=8, test_images=40, image_size=16)).test


def _view(split, unit: str) -> InputView:
    width = 16 if unit == "pixel" else 48
    saliency = np.random.default_rng(3).random((40, 16, width))
    levels = saliency_levels(saliency, CUTS, np.arange(40))
    masking = Masking("roar", 0.5, CUTS, "noisy-linear")
    return InputView(split.images, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), levels, masking)


@pytest.mark.parametrize("unit", ["pixel", "element"])
def test_a_fill_is_the_same_on_disk_and_as_read(split, tmp_path, unit):
    view = _view(split, unit)
    kept = view.masking.kept(view.levels).reshape(40, 16, 16, -1)
    expected = noisy_linear(split.images, kept, 80 + np.arange(40)).astype(np.float16)
    filled = view.filled(80, tmp_path)
    np.testing.assert_array_equal(filled.images, expected)
    chosen = np.array([39, 2])
    assert torch.equal(view.filled_as_read(80)(chosen), filled(chosen))


def test_what_needs_no_fill_is_left_as_it_is(split):
    whole = InputView(split.images, (0.5,) * 3, (0.2,) * 3)
    assert whole.filled(0) is whole.filled_as_read(0) is whole


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux for its memory maps")
def test_filled_images_are_a_file_that_ends_with_a_training_that_fails(split, tmp_path):
    def mapped() -> int:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return sum(str(tmp_path) in line for line in lines)

    filled = _view(split, "pixel").filled(80, tmp_path)
    assert list(tmp_path.iterdir()) == []  # a kill leaves nothing either
    assert mapped() == 1
    with pytest.raises(FloatingPointError):
        train(_Diverging(), filled, split.labels, Recipe(epochs=1), 0)
    del filled
    assert mapped() == 0

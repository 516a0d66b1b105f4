"""Random removal in front of a network: numbers, places and when it acts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from evaluation.masking.patches import patch_of_pixels
from evaluation.masking.views import InputView
from evaluation.training.recipe import Recipe
from evaluation.training.removal import RandomPatch, RandomPixels, removal
from evaluation.training.retraining import train


def test_numbers_of_removed_pixels_are_uniform_and_all_channels_go():
    torch.manual_seed(0)
    shown = RandomPixels(0.25)(torch.ones(4000, 3, 4, 4))
    holes = shown == 0
    assert (holes == holes[:, :1]).all()
    counts = np.bincount(holes[:, 0].sum((1, 2)).numpy(), minlength=5)
    assert len(counts) == 5  # from none to 4 of 16
    assert stats.chisquare(counts).pvalue > 1e-4
    by_pixel = holes[:, 0].sum(0).flatten().numpy()
    assert stats.chisquare(by_pixel).pvalue > 1e-4


def test_half_of_the_images_lose_one_whole_patch_each_equally_often():
    torch.manual_seed(0)
    holes = (RandomPatch(2)(torch.ones(4000, 1, 5, 4)) == 0)[:, 0]
    patches = torch.from_numpy(patch_of_pixels((5, 4), 2))
    lost = torch.stack([(holes == (patches == patch)).all((1, 2)) for patch in range(4)], 1)
    whole = ~holes.any((1, 2))
    assert (lost.any(1) | whole).all()
    assert stats.binomtest(int(whole.sum()), 4000, 0.5).pvalue > 1e-4
    assert stats.chisquare(lost.sum(0).numpy()).pvalue > 1e-4


@pytest.mark.parametrize(
    "spec", [{"removes": "pixels", "share": 0.5}, {"removes": "patch", "grid": 2}]
)
def test_nothing_goes_in_evaluation_mode_and_a_step_does_not_change_its_input(spec):
    images = torch.ones(64, 3, 4, 4)
    layer = removal(spec)
    assert (layer(images) == 0).any()
    assert (images == 1).all()
    assert layer.eval()(images) is images


def test_a_training_draws_the_holes_from_its_seed():
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3)).astype(np.uint8)
    view = InputView(images, (0.5,) * 3, (0.25,) * 3)
    recipe = Recipe(epochs=2, batch_size=8, learning_rate=0.01, crop_padding=0, flip=False)

    def trained(spec, seed):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        layers = [removal(spec)] if spec else []
        behind = nn.Sequential(*layers, network)
        return train(behind, view, np.arange(24) % 2, recipe, seed).model_hash, network

    spec = {"removes": "pixels", "share": 0.5}
    torch.manual_seed(99)
    first, network = trained(spec, 0)
    torch.manual_seed(100)
    again, _ = trained(spec, 0)
    plain, _ = trained(None, 0)
    assert first == again
    assert first not in (plain, trained(spec, 1)[0])
    assert list(network.state_dict()) == ["1.weight", "1.bias"]  # the network's own names


def test_unknown_removals_are_refused():
    with pytest.raises(ValueError, match="random removal of 'blobs': expected one of pixels"):
        removal({"removes": "blobs"})
    with pytest.raises(ValueError, match="share 0 of random pixels"):
        RandomPixels(0.0)


def test_a_fine_tuning_is_a_quarter_as_long_at_a_tenth_of_the_rate():
    recipe = Recipe(epochs=6, learning_rate=0.1, warmup=3, schedule="step", milestones=(0.5, 5))
    short = recipe.for_fine_tuning()
    assert (short.epochs, short.learning_rate, short.warmup) == (2, pytest.approx(0.01), 0.5)
    assert short.milestones == (0.5, pytest.approx(5 / 6))
    assert Recipe(epochs=1).for_fine_tuning().epochs == 1

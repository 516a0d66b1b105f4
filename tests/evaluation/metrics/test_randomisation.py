"""Randomisation tests: randomised and unchanged weights, and the two similarities of maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from skimage.metrics import structural_similarity
from torch import nn
from torchvision.models import densenet121, resnet18, vgg11_bn

from evaluation.metrics.randomisation import (
    permuted_labels,
    randomised_from_output,
    rank_correlation,
    structural_similarities,
    weight_groups,
)
from evaluation.networks.build import ResNet9, build_network, state_hash


def _resnet9(seed: int) -> nn.Module:
    return build_network("resnet9", 4, seed, size=(16, 16)).eval()


@pytest.mark.parametrize(
    "build", [lambda: ResNet9(4), resnet18, vgg11_bn, densenet121, lambda: nn.Linear(3, 2)]
)
def test_every_weight_and_buffer_is_in_exactly_one_stage(build):
    with torch.device("meta"):
        network = build()
    found = weight_groups(network)
    assert sorted(key for group in found for key in group.keys) == sorted(network.state_dict())
    assert all(group.keys for group in found)
    assert len(found) <= 6


def test_stages_go_from_the_input_to_the_output():
    assert [group.name for group in weight_groups(_resnet9(0))] == [
        *("stem", "stage1", "stage2", "stage3", "head")
    ]
    # More than six parts: neighbours are joined, the output stays apart.
    with torch.device("meta"):
        deep, two = resnet18(), vgg11_bn()
    names = [group.name for group in weight_groups(deep)]
    assert names == ["conv1 to bn1", "layer1", "layer2", "layer3", "layer4", "fc"]
    # Two parts alone: what is in the larger one counts.
    names = [group.name for group in weight_groups(two)]
    assert names[0].startswith("features.0")
    assert names[-1] == "classifier"


def test_a_network_in_a_wrapper_is_looked_into():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(3))
            self.model = _resnet9(0)

    found = weight_groups(Wrapper())
    assert [group.name for group in found][-1] == "model.head"
    # What no part owns goes with the first.
    assert "bias" in found[0].keys


def test_randomising_goes_down_stage_by_stage_and_leaves_the_network():
    network, untrained = _resnet9(0), _resnet9(1)
    before = state_hash(network)
    place = {
        key: number for number, group in enumerate(weight_groups(network)) for key in group.keys
    }
    learned, drawn = network.state_dict(), untrained.state_dict()
    names = []
    for step, (name, randomised) in enumerate(randomised_from_output(network, untrained)):
        names.append(name)
        last = len(weight_groups(network)) - 1 - step
        for key, value in randomised.state_dict().items():
            expected = drawn if place[key] >= last else learned
            assert torch.equal(value, expected[key]), (name, key)
        assert not randomised.training
    assert names == ["head", "stage3", "stage2", "stage1", "stem"]
    assert state_hash(randomised) == state_hash(untrained)
    assert state_hash(network) == before


def test_the_network_answers_as_before_while_its_copy_is_randomised():
    network, inputs = _resnet9(0), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        before = network(inputs)
        for _, randomised in randomised_from_output(network, _resnet9(1)):
            assert torch.equal(network(inputs), before)
            assert not torch.equal(randomised(inputs), before)


def test_another_architecture_is_refused():
    with pytest.raises(ValueError, match="same architecture"):
        next(randomised_from_output(nn.Linear(2, 2), nn.Linear(2, 3)))
    with pytest.raises(ValueError, match="no weights"):
        weight_groups(nn.ReLU())


def test_permuted_labels_keep_their_counts_and_lose_their_images():
    labels = np.repeat(np.arange(8), 500)
    permuted = permuted_labels(labels, 3)
    np.testing.assert_array_equal(np.bincount(permuted), np.bincount(labels))
    # An eighth stays by chance; three standard deviations of 4000 draws are 0.016.
    assert (permuted == labels).mean() == pytest.approx(1 / 8, abs=0.016)
    assert (permuted == permuted_labels(labels, 3)).all()
    assert (permuted != permuted_labels(labels, 4)).any()


def test_rank_correlation_is_scipys_spearman_with_ties():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 6, (5, 7, 8)).astype(np.float32)
    second = first + rng.integers(0, 9, first.shape)
    for before, after, found in zip(first, second, rank_correlation(first, second), strict=True):
        expected = stats.spearmanr(before.ravel(), after.ravel()).statistic
        assert found == pytest.approx(expected)


def test_similarities_of_equal_opposite_and_constant_maps():
    maps = np.random.default_rng(0).random((2, 16, 16))
    flat = np.full(maps.shape, 0.3)
    assert rank_correlation(maps, maps).tolist() == pytest.approx([1, 1])
    assert rank_correlation(maps, -maps).tolist() == pytest.approx([-1, -1])
    assert rank_correlation(flat, 2 * flat).tolist() == [1, 1]
    assert rank_correlation(maps, flat).tolist() == [0, 0]
    assert structural_similarities(maps, maps).tolist() == pytest.approx([1, 1])
    assert structural_similarities(flat, 2 * flat).tolist() == pytest.approx([1, 1])


def test_ssim_is_that_of_the_scaled_maps_with_the_window_of_the_paper():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 1, 16, 20))
    mine = structural_similarities(first, second)[0]

    def unit(values):
        return (values - values.min()) / (values.max() - values.min())

    assert mine == pytest.approx(_slow_ssim(unit(first[0]), unit(second[0])), abs=1e-6)
    assert mine != pytest.approx(structural_similarity(first[0], second[0], data_range=1.0))


def _slow_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004, Eq 13, with an 11x11 Gaussian window wherever it fits."""
    place = np.arange(-5, 6)
    weights = np.exp(-(place[:, None] ** 2 + place**2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2 = 0.01**2, 0.03**2
    found = []
    for row in range(5, x.shape[0] - 5):
        for column in range(5, x.shape[1] - 5):
            window = slice(row - 5, row + 6), slice(column - 5, column + 6)
            a, b = x[window], y[window]
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a = (weights * (a - mean_a) ** 2).sum()
            var_b = (weights * (b - mean_b) ** 2).sum()
            both = (weights * (a - mean_a) * (b - mean_b)).sum()
            found.append(
                ((2 * mean_a * mean_b + c1) * (2 * both + c2))
                / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
            )
    return float(np.mean(found))


def test_maps_smaller_than_the_window_are_refused():
    with pytest.raises(ValueError, match="maps of 8x8: SSIM needs at least 11x11"):
        structural_similarities(np.zeros((1, 8, 8)), np.zeros((1, 8, 8)))

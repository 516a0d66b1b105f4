"""Average drop and increase against torch-cam's own metric and the formula pixel by pixel."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from evaluation.metrics.average_drop import average_drop


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
        nn.Linear(128, 5),
    ).eval()  # fmt: skip


def test_it_is_torch_cams_on_torch_cams_maps(network):
    torchcam = pytest.importorskip("torchcam")
    from torchcam.metrics import ClassificationMetric

    images = 2 * torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torchcam.methods.GradCAM(network, target_layer="0") as extractor:
        metric = ClassificationMetric(extractor, partial(torch.softmax, dim=-1))
        metric.update(images)
        expected = metric.summary()
    with torchcam.methods.GradCAM(network, target_layer="0") as extractor:
        scores = network(images).softmax(1)  # whose gradient the metric takes
        (maps,) = extractor(scores.argmax(1).tolist(), scores)
    target = scores.argmax(1)
    drop, rises = average_drop(network, images, target, maps.detach().numpy())
    assert drop.mean() == pytest.approx(expected["avg_drop"], abs=1e-4)
    assert rises.mean() == pytest.approx(expected["conf_increase"], abs=1e-6)
    assert 0 < drop.mean() < 1


def test_signed_maps_are_scaled_by_their_least_and_largest_value(network):
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    maps = np.random.default_rng(0).standard_normal((2, 8, 8))
    target = torch.tensor([4, 0])
    drop, rises = average_drop(network, images, target, maps)
    for row in range(2):
        low, high = maps[row].min(), maps[row].max()
        shown = images[row] * torch.from_numpy((maps[row] - low) / (high - low)).float()
        with torch.no_grad():
            whole, masked = (
                float(network(each[None]).softmax(1)[0, target[row]])
                for each in (images[row], shown)
            )
        assert drop[row] == pytest.approx(max(0, whole - masked) / whole, abs=1e-5)
        assert rises[row] == float(whole < masked)


def test_a_map_of_all_pixels_but_one_drops_next_to_nothing(network):
    images = torch.randn(2, 3, 8, 8)
    maps = np.ones((2, 8, 8))
    maps[:, 0, 0] = 0
    drop, _ = average_drop(network, images, network(images).argmax(1), maps)
    nothing, _ = average_drop(network, images, network(images).argmax(1), np.zeros((2, 8, 8)))
    assert drop.max() < nothing.max()

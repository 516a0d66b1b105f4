"""Other authors' maps from activations, each against its equation and other packages."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models

from comparisons.methods import METHODS, Batch
from comparisons.methods.activation_maps import CLASS_MAPS, MAPS
from comparisons.methods.activation_maps.fem import fem
from fastsal import (
    CAM,
    FastCAM,
    MultiLayerCAM,
    ReciproCAM,
    RefineCAM,
    ScoreCAM,
    SMOEScale,
    find_scales,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SIZE = (96, 80)
LAYERS = ("relu", "layer1", "layer2", "layer3", "layer4")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A ResNet-18 with BatchNorm statistics that are not 0 and 1."""
    torch.manual_seed(0)
    network = models.resnet18(weights=None).train()
    with torch.no_grad():
        for seed in range(2):
            network(torch.randn(4, 3, *SIZE, generator=torch.Generator().manual_seed(seed)))
    return network.eval()


@pytest.fixture(scope="module")
def batch(network) -> Batch:
    images = torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(5))
    images[0, :, 20:50, 10:40] *= 3
    target = network(images).argmax(1)
    return Batch(images, target, torch.arange(3), 1.0, (0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def activations(network, batch) -> dict[str, np.ndarray]:
    """What each scale gives, `(N, C, h, w)` by the name of its module."""
    kept = {}

    def keep(name):
        return lambda _module, _args, output: kept.update({name: output.double().numpy()})

    handles = [network.get_submodule(n).register_forward_hook(keep(n)) for n in LAYERS]
    with torch.no_grad():
        network(batch.inputs)
    for handle in handles:
        handle.remove()
    return kept


def _explain(name: str, network: nn.Module, batch: Batch) -> np.ndarray:
    return METHODS[name].prepare(network)(batch).detach().double().numpy()


def _enlarged(small: np.ndarray) -> np.ndarray:
    """Bilinear, pixel by pixel: half a pixel of the border is not interpolated."""
    (height, width), (h, w) = SIZE, small.shape
    large = np.zeros(SIZE)
    for y in range(height):
        for x in range(width):
            down = min(max((y + 0.5) * h / height - 0.5, 0), h - 1)
            across = min(max((x + 0.5) * w / width - 0.5, 0), w - 1)
            top, left = int(down), int(across)
            low, right = min(top + 1, h - 1), min(left + 1, w - 1)
            b, r = down - top, across - left
            large[y, x] = (1 - b) * ((1 - r) * small[top, left] + r * small[top, right])
            large[y, x] += b * ((1 - r) * small[low, left] + r * small[low, right])
    return large


def _unit(small: np.ndarray) -> np.ndarray:
    return (small - small.min()) / (small.max() - small.min())


def _slow_fem(image: np.ndarray) -> np.ndarray:
    total = np.zeros(image.shape[1:])
    for channel in image:
        mean = channel.sum() / channel.size
        deviation = np.sqrt(((channel - mean) ** 2).sum() / channel.size)
        for place in np.ndindex(channel.shape):
            if channel[place] >= mean + 2 * deviation:
                total[place] += mean
    return total


# LaFAM.


def test_lafam_is_its_equation(network, batch, activations):
    expected = []
    for image in activations["layer4"]:
        mean = np.zeros(image.shape[1:])
        for channel in image:
            mean += channel / len(image)
        expected.append(_enlarged(_unit(mean)))
    np.testing.assert_allclose(_explain("lafam", network, batch), expected, atol=1e-5)


def test_lafam_is_the_mean_of_the_last_scale(network, batch):
    last = find_scales(network, batch.inputs[:1])[-1]
    attributor = SMOEScale(network, last, statistic="mean", normalize="minmax")
    expected = attributor.attribute(batch.inputs)[:, 0]
    torch.testing.assert_close(METHODS["lafam"].prepare(network)(batch), expected)


# FEM, of one layer and of several.


def test_fem_is_its_equation(network, batch, activations):
    found = [_enlarged(_unit(_slow_fem(image))) for image in activations["layer4"]]
    np.testing.assert_allclose(_explain("fem", network, batch), found, atol=1e-5)


def test_multi_layer_fem_is_the_mean_over_scales(network, batch, activations):
    expected = [
        np.mean([_enlarged(_unit(_slow_fem(activations[name][i]))) for name in LAYERS], axis=0)
        for i in range(len(batch.inputs))
    ]
    np.testing.assert_allclose(_explain("ml-fem", network, batch), expected, atol=1e-5)


def test_fem_differs_from_pytorch_grad_cam_s_in_weight_and_activation(network, batch, activations):
    """There the share of outstanding locations weighs the activation itself."""
    package = pytest.importorskip("pytorch_grad_cam")
    with package.FEM(network, [network.layer4]) as extractor:
        theirs = extractor(batch.inputs, None)
    for image, found in zip(activations["layer4"], theirs, strict=True):
        flat = image.reshape(len(image), -1)
        outstanding = flat > (flat.mean(1) + 2 * flat.std(1))[:, None]
        small = (outstanding.mean(1)[:, None] * flat).sum(0).reshape(image.shape[1:])
        # It min-max scales twice and enlarges by OpenCV.
        expected = _unit(_enlarged(_unit(small)))
        np.testing.assert_allclose(found, expected, atol=2e-3)


def test_fem_is_xplique_s_form(activations):
    values = torch.from_numpy(activations["layer2"])
    mean, deviation = values.mean((2, 3), keepdim=True), values.std((2, 3), False, keepdim=True)
    expected = ((values >= mean + 2 * deviation) * mean).sum(1)
    torch.testing.assert_close(fem(values).double(), expected, rtol=1e-5, atol=1e-5)


def test_fem_leaves_out_scales_in_which_nothing_can_stand_out():
    """At 64x64 ResNet-18's last scale has 4 locations, none 2 deviations above their mean."""
    torch.manual_seed(1)
    network = models.resnet18(weights=None).eval()
    images = torch.rand(2, 3, 64, 64)
    scales = find_scales(network, images[:1])
    assert scales[-1].shape[2:] == (2, 2)
    batch = Batch(images, torch.zeros(2, dtype=torch.long), torch.arange(2), 1.0, (0.0,) * 3)
    for name, layers in (("fem", scales[-2]), ("ml-fem", scales[:-1])):
        attributor = SMOEScale(network, layers, statistic=fem, normalize="minmax", weights="equal")
        expected = attributor.attribute(images)[:, 0]
        torch.testing.assert_close(METHODS[name].prepare(network)(batch), expected)


@pytest.mark.parametrize("name", ["fem", "ml-fem"])
def test_fem_of_four_locations_is_an_error(name):
    network = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(8, 2)),
    )
    batch = Batch(torch.rand(1, 3, 4, 4), torch.zeros(1).long(), torch.arange(1), 1.0, (0.0,) * 3)
    with pytest.raises(ValueError, match="FEM needs a scale of at least 5 locations"):
        METHODS[name].prepare(network)(batch)


# SMOE Scale of late scales.


def test_late_scales_are_those_after_the_first_two(network, batch):
    attributor = SMOEScale(network, ["layer2", "layer3", "layer4"], weights=[1, 2, 3])
    expected = attributor.attribute(batch.inputs)[:, 0]
    torch.testing.assert_close(METHODS["smoe-late"].prepare(network)(batch), expected)


# Those that are classes of fastsal, which have their own tests.


@pytest.mark.parametrize(
    ("name", "attributor"),
    [
        ("cam", CAM),
        ("recipro-cam", ReciproCAM),
        ("score-cam", ScoreCAM),
        ("layercam-fused", MultiLayerCAM),
        ("refine-cam", RefineCAM),
        ("out-of-class", partial(FastCAM, complement=True)),
    ],
)
def test_a_method_is_its_class_at_the_image_s_size(name, attributor, network, batch):
    small = attributor(network).attribute(batch.inputs, batch.target)[:, :1]
    expected = F.interpolate(small, SIZE, mode="bilinear")[:, 0]
    found = METHODS[name].prepare(network)(batch)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


# All of them.


@pytest.mark.parametrize("name", [e.name for e in MAPS + CLASS_MAPS if e.passes == 1])
def test_images_of_another_size_get_their_own_scales(name, network, batch):
    entry = METHODS[name]
    explain = entry.prepare(network)
    explain(batch)
    larger = F.interpolate(batch.inputs, (128, 96))
    other = Batch(larger, batch.target, batch.index, 1.0, (0.0,) * 3)
    found = explain(other)
    assert found.shape == (3, 128, 96)
    torch.testing.assert_close(found, entry.prepare(network)(other))

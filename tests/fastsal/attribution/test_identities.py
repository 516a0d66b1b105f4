"""Other people's formulas that SMOE Scale's settings give, each written out anew in float64."""

import math

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from fastsal import FastCAM, SMOEScale, find_scales
from fastsal.attribution.settings import Settings
from fastsal.export.model import with_fast_cam, with_map
from fastsal.statistics import STATISTICS, Statistic, get_statistic, with_epsilon


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 24, 3, padding=1), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5)),
        ).eval()


LAYERS = ["1", "4", "7"]


def llnl(net, images, epsilon):
    """The authors' modules SMOEScaleMap, GaussNorm2D and CombineSaliencyMaps."""
    x, maps = images, []
    with torch.no_grad():
        for name, layer in net.named_children():
            x = layer(x)
            if name not in LAYERS:
                continue
            shifted = x.double() + epsilon
            mean = shifted.mean(1)
            scale = mean * (mean.log2() - shifted.log2().mean(1))
            centred = scale - scale.mean((1, 2), keepdim=True)
            deviation = scale.std((1, 2), keepdim=True)
            maps.append(0.5 * (1 + torch.erf(centred / (deviation * math.sqrt(2)))))
    total = sum(
        weight * F.interpolate(one[:, None], images.shape[2:], mode="bilinear")
        for weight, one in enumerate(maps, 1)
    )
    return total[:, 0] / sum(range(1, len(maps) + 1))


@pytest.mark.parametrize("epsilon", [1e-6, 1e-7, 1e-4])
def test_the_authors_modules(net, images, epsilon):
    expected = llnl(net, images, epsilon)
    attributor = SMOEScale(net, LAYERS, epsilon=epsilon)
    for _ in range(2):  # The second call runs what the first prepared.
        found = attributor.attribute(images, expand_channels=False)[:, 0]
        assert (found - expected).abs().max() < 2e-6
    fast = FastCAM(net, scales=LAYERS, epsilon=epsilon).smoe
    assert torch.equal(fast.attribute(images, expand_channels=False)[:, 0], found)
    exported = with_map(net, images, layers=LAYERS, epsilon=epsilon)(images)[1]
    assert (exported - expected).abs().max() < 5e-6
    fast_module = with_fast_cam(net, images, layers=LAYERS, epsilon=epsilon)(images)[1]
    of_hooks = FastCAM(net, scales=LAYERS, epsilon=epsilon).attribute(images)[:, 0]
    torch.testing.assert_close(fast_module, of_hooks, rtol=1e-4, atol=1e-5)


def test_the_two_epsilons_differ_as_documented(net, images):
    away = (llnl(net, images, 1e-6) - llnl(net, images, 1e-7)).abs().max()
    assert 1e-5 < away < 0.05


@pytest.mark.parametrize(
    "name", [name for name, entry in STATISTICS.items() if entry.epsilon is not None]
)
def test_every_statistic_with_an_epsilon_takes_another(name):
    activations = torch.rand(2, 6, 3, 3, generator=torch.Generator().manual_seed(1)).relu()
    activations[:, :3] = 0
    entry = get_statistic(name)
    found = with_epsilon(entry, 1e-3)
    assert torch.equal(found(activations), entry.function(activations, epsilon=1e-3))
    assert found.epsilon == 1e-3
    assert with_epsilon(entry, 1e-6) is entry


@pytest.mark.parametrize("epsilon", [0, -1.0, float("nan"), float("inf"), "small"])
def test_an_epsilon_that_is_none_is_named(epsilon):
    with pytest.raises(ValueError, match="epsilon must be above 0, got"):
        Settings.checked(epsilon=epsilon)


@pytest.mark.parametrize("statistic", ["mean", "std", lambda activations: activations.amax(1)])
def test_a_statistic_without_an_epsilon_is_named(statistic):
    with pytest.raises(ValueError, match="has no epsilon, which epsilon=1e-07 would change"):
        Settings.checked(statistic=statistic, epsilon=1e-7)
    assert Settings.checked(statistic=statistic).statistic.epsilon is None


def test_lafam(net, images):
    """LaFAM: the mean of a layer's activations, from 0 to 1, enlarged."""
    with torch.no_grad():
        mean = net[:8](images).double().mean(1)
    low, high = mean.amin((1, 2), keepdim=True), mean.amax((1, 2), keepdim=True)
    expected = F.interpolate(
        ((mean - low) / (high - low))[:, None], images.shape[2:], mode="bilinear"
    )
    found = SMOEScale(net, "7", statistic="mean", normalize="minmax").attribute(images)
    torch.testing.assert_close(found[:, :1].double(), expected, rtol=0, atol=2e-6)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        return F.relu(self.second(x), inplace=True)


class BatchNormActs(nn.Module):
    """timm's batch normalisation with its activation in one module."""

    def __init__(self):
        super().__init__()
        norm = timm.layers.BatchNormAct2d
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.norm1, self.norm2 = norm(6), norm(8)

    def forward(self, x):
        x = F.max_pool2d(self.norm1(self.first(x)), 2)
        return self.norm2(self.second(x))


@pytest.mark.parametrize("build", [Functional, BatchNormActs])
def test_statistics_before_the_relu_read_before_it(build, images):
    torch.manual_seed(5)
    network = build().eval()
    with torch.no_grad():
        if build is BatchNormActs:
            before = [F.batch_norm(network.first(images), torch.zeros(6), torch.ones(6))]
        else:
            before = [network.first(images)]
        deep = network.second(F.max_pool2d(before[0].relu(), 2))
        if build is BatchNormActs:
            deep = F.batch_norm(deep, torch.zeros(8), torch.ones(8))
        before.append(deep)
    assert len(find_scales(network, images)) == 2
    smallest = Statistic("smallest", "this test", "pre_relu", lambda tensor: tensor.amin(1))
    found = SMOEScale(network, statistic=smallest, normalize="none").maps(images).per_scale
    for values, tensor in zip(found, before, strict=True):
        torch.testing.assert_close(values, tensor.amin(1))
        assert (values < 0).any()

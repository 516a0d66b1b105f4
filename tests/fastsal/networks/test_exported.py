"""Programs of torch.export, whose operations are functions: their maps are those of the network."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastsal import FastCAM, SMOEScale, find_scales, watch
from fastsal.networks.by_name import build_network

pytestmark = pytest.mark.filterwarnings("ignore:layer.* give negative activations")


def images(seed=0, side=64):
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(seed))


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.norm, self.dropout = nn.BatchNorm2d(16), nn.Dropout()
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.one(x)), 2)
        x = self.dropout(F.relu(self.norm(self.two(x))))
        return self.head(x.mean((2, 3)))


class Moving(Plain):
    """Looks at a mirrored part of its image alone."""

    def forward(self, x):
        return super().forward(x[:, :, 8:40, 16:].flip(3))


class Resizing(Plain):
    """Pads its image and makes it larger, and has channels last at the end."""

    def forward(self, x):
        x = F.interpolate(F.pad(x, (0, 16, 8, 8)), scale_factor=1.5, mode="bilinear")
        x = F.relu(self.one(x))[:, :, ::2, ::2]
        x = self.two(x).permute(0, 2, 3, 1).contiguous()
        return self.head(F.relu(x).flatten(1, 2).mean(1))


NETWORKS = {
    "plain": Plain,
    "moving": Moving,
    "resizing": Resizing,
    **{
        name: lambda name=name: build_network(name)
        for name in ("resnet18", "densenet121", "swin_t")
    },
}


@pytest.fixture(params=NETWORKS)
def pair(request):
    """A network, and the module of the program that it was exported to."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = NETWORKS[request.param]().eval()
    return network, torch.export.export(network, (images(),)).module()


def test_maps_are_those_of_the_network(pair):
    network, program = pair
    inputs = images(1)
    expected, found = (SMOEScale(model).maps(inputs) for model in pair)
    for one, other in zip(expected.scales, found.scales, strict=True):
        assert (one.strides, one.layout.order) == (other.strides, other.layout.order)
        assert not other.doubt
    for one, other in zip(expected.per_scale, found.per_scale, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.combined, expected.combined, atol=1e-5, rtol=0)
    assert expected.combined.std() > 0.05
    assert len(found.scales) == len(find_scales(program, inputs)) > 1
    expected, found = (FastCAM(model).attribute(inputs) for model in pair)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert expected.amax() > 0.1
    with watch(program, 1) as w:
        for _ in range(2):
            program(inputs)
    torch.testing.assert_close(w.latest.combined, SMOEScale(network).maps(inputs).combined)


@pytest.mark.parametrize("pair", ["plain", "moving"], indirect=True)
def test_values_before_the_activations_are_those_of_the_network(pair):
    expected, found = (
        SMOEScale(model, statistic="truncnormal_std").attribute(images(1)) for model in pair
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.05

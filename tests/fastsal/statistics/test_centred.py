"""Centred SMOE Scale against the equation by hand, and where negative activations come from."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastsal import SMOEScale
from fastsal.export.model import with_map
from fastsal.statistics import centred_smoe_scale, get_statistic, smoe_scale, with_epsilon
from fastsal.statistics.centred import centred

EPSILON = 1e-6


def by_hand(activations, epsilon=EPSILON):
    """The equation, location by location, in double precision."""
    images, channels, height, width = activations.shape
    values = activations.astype(np.float64)
    result = np.zeros((images, height, width))
    for image in range(images):
        stream = values[image]
        if stream.min() < 0:
            # The mean is raised by what float32 may round off.
            means = [channel.mean() + 2.0**-20 * abs(channel.mean()) for channel in stream]
            stream = np.stack([one - mean for one, mean in zip(stream, means, strict=True)])
        for row in range(height):
            for column in range(width):
                column_of_channels = [max(0.0, one) + epsilon for one in stream[:, row, column]]
                mean = sum(column_of_channels) / channels
                logs = sum(np.log2(mean / one) for one in column_of_channels)
                result[image, row, column] = mean * logs / channels
    return result


def stream(*shape, seed=0):
    """A residual stream: channels of other offsets and sizes."""
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.randn(1, shape[1], *[1] * (len(shape) - 2), generator=generator)
    return 0.5 * torch.randn(*shape, generator=generator) + 4 * offsets


@pytest.mark.parametrize("shape", [(2, 5, 4, 6), (1, 32, 7, 7), (3, 1, 2, 2), (1, 17, 1, 9)])
def test_the_equation(shape):
    values = stream(*shape)
    found = centred_smoe_scale(values)
    np.testing.assert_allclose(found, by_hand(values.numpy()), rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_computed_in_float32(dtype):
    values = stream(2, 8, 5, 5).to(dtype)
    found = centred_smoe_scale(values)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, centred_smoe_scale(values.float()))


def test_offsets_of_channels_count_for_nothing():
    values = stream(2, 8, 5, 6)
    moved = values + torch.arange(8.0).reshape(1, 8, 1, 1) - 9
    torch.testing.assert_close(
        centred_smoe_scale(moved), centred_smoe_scale(values), rtol=1e-3, atol=1e-5
    )


def test_each_image_decides_for_itself():
    signed, rectified = stream(1, 6, 5, 5), stream(1, 6, 5, 5, seed=1).abs()
    both = centred_smoe_scale(torch.cat([signed, rectified]))
    assert torch.equal(both[1:], smoe_scale(rectified))
    torch.testing.assert_close(both[:1], smoe_scale(centred(signed)))
    assert not torch.allclose(both[:1], smoe_scale(signed), atol=1e-2)


def test_slices_of_a_volume_have_one_mean():
    values = stream(1, 6, 3, 4, 5)
    found = get_statistic("centred_smoe_scale")(values)
    means = values.mean((2, 3, 4), keepdim=True)
    shifted = (values - means - 2.0**-20 * means.abs()).clamp_min(0)
    expected = by_hand(shifted.flatten(2, 3).numpy()).reshape(1, 3, 4, 5)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("size", [1e30, 1e37])
def test_large_activations(size):
    values = size * stream(1, 64, 9, 9)
    expected = by_hand(values.double().numpy() / size, EPSILON / size) * size
    found = centred_smoe_scale(values).double().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-4 * size)


def test_another_epsilon():
    values = stream(1, 6, 4, 4)
    found = with_epsilon(get_statistic("centred_smoe_scale"), 0.1)(values)
    np.testing.assert_allclose(found, by_hand(values.numpy(), 0.1), rtol=2e-4, atol=2e-6)


class Streams(nn.Module):
    """A residual stream with large offsets, and a ReLU as a function before it."""

    def __init__(self, functional=False):
        super().__init__()
        self.functional = functional
        self.stem, self.down = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 16, 2, 2)
        self.offset = nn.Parameter(5 * torch.randn(1, 16, 1, 1))
        self.block, self.last = nn.Conv2d(16, 16, 3, padding=1), nn.Identity()
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = self.down(x) + self.offset
        x = self.last(x + torch.tanh(self.block(x)))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Streams().eval()


IMAGES = torch.rand(2, 3, 16, 20, generator=torch.Generator().manual_seed(1))


def test_a_signed_layer_is_no_reason_for_a_warning(network):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = SMOEScale(network, statistic="centred_smoe_scale").maps(IMAGES)
    assert [scale.signed for scale in maps.scales] == [False, True]
    # The first is rectified by a function behind the layer, the second is a stream.
    with torch.no_grad():
        first = network.stem(IMAGES).relu()
        x = network.down(first) + network.offset
        second = x + torch.tanh(network.block(x))
    expected = [smoe_scale(first), torch.from_numpy(by_hand(second.numpy())).float()]
    for found, values in zip(maps.per_scale, expected, strict=True):
        spread = values - values.mean((1, 2), keepdim=True)
        scores = spread / values.std((1, 2), keepdim=True)
        normal = torch.distributions.Normal(0.0, 1.0).cdf(scores)
        torch.testing.assert_close(found, normal, atol=1e-3, rtol=0)


def test_smoe_scale_of_such_a_layer_shows_its_offsets(network):
    """The reason for centring: the map hardly depends on what the image shows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = SMOEScale(network, layers=["last"]).maps(IMAGES).per_scale[0]
    centred_map = SMOEScale(network, ["last"], statistic="centred_smoe_scale").maps(IMAGES)
    assert not torch.allclose(plain, centred_map.per_scale[0], atol=0.1)


@pytest.mark.parametrize("epsilon", [None, 1e-3])
def test_with_map_gives_the_same(network, epsilon):
    statistic = get_statistic("centred_smoe_scale")
    if epsilon is not None:
        statistic = with_epsilon(statistic, epsilon)
    layers = ["down", "last"]
    expected = SMOEScale(network, layers, statistic=statistic).maps(IMAGES).combined
    module = with_map(network, IMAGES, layers=layers, statistic=statistic)
    torch.testing.assert_close(module(IMAGES)[1], expected, atol=1e-4, rtol=0)
    program = torch.export.export(module, (IMAGES,)).module()
    torch.testing.assert_close(program(IMAGES)[1], expected, atol=1e-4, rtol=0)


def test_the_exported_map_of_a_relu_that_is_a_function(network):
    expected = SMOEScale(network, statistic="centred_smoe_scale").maps(IMAGES).combined
    module = with_map(network, IMAGES, statistic="centred_smoe_scale")
    torch.testing.assert_close(module(IMAGES)[1], expected, atol=1e-4, rtol=0)


def test_what_is_not_finite_is_named(network):
    with torch.no_grad():
        network.offset[0, 3] = torch.inf
    with pytest.raises(ValueError, match="last"):
        SMOEScale(network, statistic="centred_smoe_scale").attribute(IMAGES)

"""Planes of volumes and strips of signals, in pictures."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastsal import SMOEScale, heatmap, lovi, watch
from fastsal.images.planes import STRIP, Planes


def network(axes):
    torch.manual_seed(0)
    conv, pool = (getattr(nn, f"{name}{axes}d") for name in ("Conv", "MaxPool"))
    return nn.Sequential(
        conv(2, 4, 3, padding=1), nn.ReLU(), pool(2), conv(4, 6, 3, padding=1), nn.ReLU()
    ).eval()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_plane_with_the_largest_mean_is_taken_of_each_volume(axis):
    maps = torch.rand(3, 4, 5, 6) * 0.1
    places = [1, 3, 2]
    for image, place in enumerate(places):
        maps[image].select(axis, place).add_(1)
    planes = Planes(maps, axis)
    assert planes.indices == places
    stacked = torch.stack([maps, 2 * maps], 1)
    for image, place in enumerate(places):
        expected = maps[image].select(axis, place)
        assert torch.equal(planes.of(maps)[image], expected)
        assert torch.equal(planes.of(stacked)[image, 1], 2 * expected)
    assert Planes(maps, axis, -1).indices == [maps.shape[1 + axis] - 1] * 3


def test_planes_that_are_not_there_are_named():
    with pytest.raises(ValueError, match="axis is 0 for depth"):
        Planes(torch.zeros(1, 4, 4, 4), 3)
    with pytest.raises(ValueError, match="index=4 is no plane across the width of 4"):
        Planes(torch.zeros(1, 4, 4, 4), 2, 4)
    with pytest.raises(ValueError, match="index=1 chooses a plane of volumes"):
        Planes(torch.zeros(1, 4, 4), 0, 1)


def test_pictures_of_volumes_and_signals():
    maps = SMOEScale(network(3)).maps(torch.rand(1, 2, 4, 6, 8))
    found = maps.picture(axis=1, index=2).rgb
    torch.testing.assert_close(found, heatmap(maps.combined[:, :, 2])[0])
    torch.testing.assert_close(
        maps.picture(axis=0, index=3, scales=True).rgb, lovi(maps.stacked[:, :, 3])[0]
    )
    assert maps.picture(torch.rand(1, 2, 4, 6, 8), axis=2).rgb.shape == (3, 4, 6)
    signals = SMOEScale(network(1)).maps(torch.rand(1, 2, 32))
    strip = signals.picture().rgb
    assert strip.shape == (3, STRIP, 32)
    torch.testing.assert_close(strip[:, 5], heatmap(signals.combined[:, None])[0, :, 0])
    assert signals.picture(torch.rand(1, 2, 32), scales=True).rgb.shape == (3, STRIP, 32)


@pytest.mark.parametrize("axes", [1, 3])
def test_watch_shows_volumes_and_signals(axes):
    net = network(axes)
    size = {1: (32,), 3: (4, 6, 8)}[axes]
    inputs = torch.rand(3, 2, *size)
    with watch(net, every=1, images=2) as watched:
        for _ in range(2):
            net(inputs)
    sample = watched.latest
    assert sample.images.shape == (2, 2, *size)
    expected = SMOEScale(net).maps(inputs[:2])
    torch.testing.assert_close(sample.combined, expected.combined)
    for found, one in zip(sample.per_scale, expected.per_scale, strict=True):
        torch.testing.assert_close(found, one)
    height, width = {1: (STRIP, 32), 3: (6, 8)}[axes]
    assert sample.picture().shape == (3, 2 * height, 4 * width)

"""Places in volumes and signals that a network moves: the map lies where the voxels are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastsal import SMOEScale, find_scales
from fastsal.export.model import with_map

SIZE = (12, 16, 20)


class Moving(nn.Module):
    """A network that moves its inputs before its layers."""

    def __init__(self, move, axes):
        super().__init__()
        self.move = move
        conv, pool = (getattr(nn, f"{name}{axes}d") for name in ("Conv", "MaxPool"))
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            conv(1, 6, 3, padding=1), nn.ReLU(), pool(2), conv(6, 8, 3, padding=1), nn.ReLU()
        )

    def forward(self, x):
        return self.layers(self.move(x))


def volume(axes):
    torch.manual_seed(1)
    return torch.rand(2, 1, *SIZE[3 - axes :])


# What moves the input, and what moves the map of the moved input back.
MOVES = {
    "mirrored": (lambda x: x.flip(-1), lambda m: m.flip(-1)),
    "mirrored along the first axis": (lambda x: x.flip(2), lambda m: m.flip(1)),
    "rolled by the coarsest stride": (lambda x: x.roll(4, -1), lambda m: m.roll(-4, -1)),
}


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("name", ["mirrored", "mirrored along the first axis"])
def test_a_mirrored_input_has_its_map_where_its_voxels_are(axes, name):
    move, back = MOVES[name]
    net, x = Moving(move, axes).eval(), volume(axes)
    plain = Moving(lambda given: given, axes).eval()
    found = SMOEScale(net).attribute(x, expand_channels=False)[:, 0]
    expected = back(SMOEScale(plain).attribute(move(x), expand_channels=False)[:, 0])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(found, SMOEScale(plain).attribute(x)[:, 0], atol=1e-2)
    torch.testing.assert_close(with_map(net, x)(x)[1], found, atol=1e-5, rtol=0)
    maps = SMOEScale(net).maps(x)
    torch.testing.assert_close(maps.stacked.shape, (2, 2, *x.shape[2:]))


@pytest.mark.parametrize("axes", [1, 3])
def test_what_a_network_crops_away_has_no_salience(axes):
    keep = [slice(4, -4)] * axes
    net, x = Moving(lambda x: x[(slice(None), slice(None), *keep)], axes).eval(), volume(axes)
    found = SMOEScale(net).attribute(x, expand_channels=False)[:, 0]
    inner = found[(slice(None), *keep)]
    outside = found.clone()
    outside[(slice(None), *keep)] = 0
    assert outside.abs().max() == 0
    plain = Moving(lambda given: given, axes).eval()
    cropped = x[(slice(None), slice(None), *keep)].contiguous()
    expected = SMOEScale(plain).attribute(cropped, expand_channels=False)[:, 0]
    torch.testing.assert_close(inner, expected, atol=1e-5, rtol=0)


def test_axes_in_another_order_are_put_back():
    net, x = Moving(lambda x: x.permute(0, 1, 4, 2, 3), 3).eval(), volume(3)
    plain = Moving(lambda given: given, 3).eval()
    found = SMOEScale(net).attribute(x, expand_channels=False)[:, 0]
    moved = SMOEScale(plain).attribute(x.permute(0, 1, 4, 2, 3).contiguous(), expand_channels=False)
    torch.testing.assert_close(found, moved[:, 0].permute(0, 2, 3, 1), atol=1e-5, rtol=0)


def test_a_turned_volume_is_warned_of():
    turn = torch.tensor([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0]])

    def turned(x):
        grid = F.affine_grid(turn.expand(len(x), 3, 4), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)

    net = Moving(turned, 3).eval()
    with pytest.warns(UserWarning, match="no slices, rows and columns of voxels.*another place"):
        SMOEScale(net).attribute(volume(3))


def test_windows_of_slices_that_are_images_of_a_batch_are_refused():
    class Slices(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())

        def forward(self, x):
            return self.conv(x.transpose(1, 2).flatten(0, 1)).mean((1, 2, 3))

    with pytest.raises(ValueError, match="slices or frames become images"):
        find_scales(Slices(), volume(3))

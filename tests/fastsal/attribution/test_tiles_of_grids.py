"""Tiles of volumes and signals, joined as they are or blended."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fastsal import SMOEScale
from fastsal.attribution.tiles import Seams, Span, Tiling, checked_tile, spans

TILES = {1: (64,), 3: (8, 16, 16)}
SIZES = {1: (300,), 3: (20, 40, 28)}


def network(axes):
    torch.manual_seed(axes)
    conv, pool = (getattr(nn, f"{name}{axes}d") for name in ("Conv", "MaxPool"))
    return nn.Sequential(
        conv(1, 4, 3, padding=1), nn.ReLU(), pool(2), conv(4, 6, 3, padding=1), nn.ReLU()
    ).eval()


def given(axes):
    torch.manual_seed(5)
    return torch.rand(2, 1, *SIZES[axes])


@pytest.mark.parametrize("axes", TILES)
def test_with_overlap_enough_the_map_is_that_of_the_whole(axes):
    net, whole = network(axes), given(axes)
    expected = SMOEScale(net).attribute(whole)
    # The last layer sees 5 voxels to each side.
    options = {"tile": TILES[axes], "overlap": 6, "blend": "none"}
    for layers in (None, ["1", "4"]):
        found = SMOEScale(net, layers, **options).attribute(whole)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert SMOEScale(net, **options).maps(whole).logits is None


@pytest.mark.parametrize("axes", TILES)
@pytest.mark.parametrize("blend", ["linear", "gaussian"])
def test_blended_tiles_differ_little_and_have_no_seams(axes, blend):
    """Without enough overlap tiles join with steps, which blending makes small."""
    net, whole = network(axes), given(axes)
    expected = SMOEScale(net, ["4"], normalize="none").attribute(whole)

    def error(**options):
        found = SMOEScale(net, ["4"], normalize="none", tile=TILES[axes], **options)
        return (found.attribute(whole) - expected).abs()

    hard, blended = error(overlap=2, blend="none"), error(overlap=8, blend=blend)
    assert blended.mean() < 0.1 * expected.mean()
    assert blended.max() < hard.max()


def by_hand(parts, weights, size):
    """The weighted mean of parts, location by location."""
    total, weight = np.zeros(size), np.zeros(size)
    for (start, values), shares in zip(parts, weights, strict=True):
        for place in np.ndindex(*values.shape):
            at = tuple(first + step for first, step in zip(start, place, strict=True))
            share = np.prod([along[step] for along, step in zip(shares, place, strict=True)])
            total[at] += share * values[place]
            weight[at] += share
    return total / weight


def test_weights_are_nnu_nets_gaussians():
    """Two tiles of a line of 16 locations, stride 1, each seeing 12 of them."""
    tiles = [(Span(0, 8, 0, 12),), (Span(8, 16, 4, 16),)]
    values = [torch.rand(1, 12), torch.rand(1, 12)]
    seams = Seams("layer", (1,), (16,), "gaussian")
    for tile, part in zip(tiles, values, strict=True):
        seams.add(tile, part)
    place = np.arange(12) + 0.5
    gaussian = np.exp(-((place - 6) ** 2) / (2 * (12 / 8) ** 2))
    parts = [((0,), values[0][0].numpy()), ((4,), values[1][0].numpy())]
    expected = by_hand(parts, [[gaussian], [gaussian]], (16,))
    np.testing.assert_allclose(seams.joined()[0], expected, rtol=1e-5)


def test_linear_weights_sum_to_one_where_two_tiles_overlap():
    tiles = [(Span(0, 8, 0, 12),), (Span(8, 16, 4, 16),)]
    seams = Seams("layer", (1,), (16,), "linear")
    # 0 before, 1 after: what is left is the second tile's weight.
    seams.add(tiles[0], torch.zeros(1, 12))
    seams.add(tiles[1], torch.ones(1, 12))
    found = seams.joined()[0].numpy()
    np.testing.assert_allclose(found[:4], 0)
    np.testing.assert_allclose(found[12:], 1)
    np.testing.assert_allclose(found[4:12], (np.arange(8) + 0.5) / 8, atol=1e-6)


def test_the_overlap_of_volumes_is_a_quarter_and_of_others_128():
    assert checked_tile((64, 32, 32), None).on((99, 99, 99)) == Tiling(
        (64, 32, 32), (16, 8, 8), "gaussian"
    )
    assert checked_tile((64, 32), None).on((99, 99)) == Tiling((64, 32), (128, 128), "none")
    assert checked_tile((64,), (3,), "linear").on((1, 999)) == Tiling((1, 64), (0, 3), "linear")
    assert checked_tile((8, 8, 8), (2, 4, 4)).on((9, 9, 9)).shown == (12, 16, 16)
    assert spans(1, 1, 0, 1) == [Span(0, 1, 0, 1)]


def test_tiles_that_do_not_fit_the_input_say_so():
    net, whole = network(3), given(3)
    cases = [
        ({"tile": (8, 8)}, r"has 2 number\(s\).*give tile=\(depth, height, width\)"),
        ({"tile": (8, 9, 8), "overlap": 2}, r"stride 2.*take tile=\(8, 8, 8\)"),
        ({"tile": (8, 8, 8), "overlap": (2, 2)}, "has 2 numbers"),
        ({"tile": (8, 8, 8), "blend": "soft"}, "blend is one of none, linear, gaussian"),
        ({"tile": (8, 8, 8), "overlap": (2, -1, 2)}, "overlap is a number of pixels, 0 or more"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            SMOEScale(net, **options).attribute(whole)

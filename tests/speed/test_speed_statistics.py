"""Statistics and their combination alone, and how each grows."""

from __future__ import annotations

import pytest
import torch

from fastsal.maps.combination import combine
from fastsal.maps.normalization import NORMALIZATIONS
from fastsal.statistics.registry import STATISTICS

# ResNet-50's five scales at 224x224.
SCALES = ((64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7))
READ_ONCE = "sum over channels"


def activations(images: int, channels: int, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(images, channels, side, side, generator=generator).relu()


def statistic(name):
    return (lambda tensor: tensor.sum(1)) if name == READ_ONCE else STATISTICS[name]


@pytest.mark.parametrize("name", [READ_ONCE, *STATISTICS])
def test_statistics_of_one_scale(measure, timed, name):
    images, channels, side = (8, 256, 56) if timed else (2, 8, 6)
    tensor, function = activations(images, channels, side), statistic(name)
    values = measure(
        f"statistics of {images} x {channels} x {side} x {side}", lambda: function(tensor)
    )
    assert values.shape == (images, side, side)


@pytest.mark.parametrize("images", [1, 8, 16])
@pytest.mark.parametrize("name", [READ_ONCE, "smoe_scale", "mean", "std"])
def test_statistics_of_resnet_50_s_scales(measure, timed, name, images):
    scales = SCALES if timed else SCALES[-1:]
    tensors = [activations(images, *scale) for scale in scales]
    function = statistic(name)
    values = measure(
        f"ResNet-50's scales, {images} at once",
        lambda: [function(tensor) for tensor in tensors],
        images=images,
    )
    assert len(values) == len(scales)


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_normalization(measure, timed, name):
    maps = activations(8, 1, 112 if timed else 8)[:, 0]
    values = measure("normalization of 8 maps of 112 x 112", lambda: NORMALIZATIONS[name](maps))
    assert values.shape == maps.shape


@pytest.mark.parametrize("images", [1, 8, 16])
def test_combination(measure, timed, images):
    size = 224 if timed else 16
    maps = [torch.rand(images, max(1, side * size // 224), side) for _, side in SCALES]
    values = measure(
        "combination of five scales at 224 x 224",
        lambda: combine(maps, [1.0, 2.0, 3.0, 4.0, 5.0], (size, size)),
        images=images,
    )
    assert values.shape == (images, size, size)


@pytest.mark.parametrize(
    ("grown", "times"),
    [(grown, times) for grown in ("batch", "side", "channels") for times in (1, 2, 4, 8)],
)
def test_smoe_scale_grows(measure, timed, grown, times):
    unit = (
        {"batch": 1, "side": 14, "channels": 128}
        if timed
        else dict.fromkeys(("batch", "side", "channels"), 4)
    )
    unit[grown] *= times
    tensor = activations(unit["batch"], unit["channels"], unit["side"])
    values = measure(
        f"SMOE Scale by {grown}, from 1 x 128 x 14 x 14",
        lambda: STATISTICS["smoe_scale"](tensor),
        images=unit["batch"],
    )
    assert values.shape == (unit["batch"], unit["side"], unit["side"])


@pytest.mark.parametrize("scales", range(1, 6))
def test_combination_grows(measure, timed, scales):
    size = 224 if timed else 16
    maps = [torch.rand(1, 14, 14) for _ in range(scales)]
    values = measure(
        "combination by number of scales",
        lambda: combine(maps, [1.0] * scales, (size, size)),
    )
    assert values.shape == (1, size, size)

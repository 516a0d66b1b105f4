"""Exported modules and ONNX files of networks for volumes and signals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastsal import FastCAM, SMOEScale
from fastsal.export.model import with_fast_cam, with_map
from fastsal.export.onnx import write_onnx

SIZES = {1: (48,), 3: (8, 12, 16)}


def network(axes):
    torch.manual_seed(axes)
    conv, mean = (getattr(nn, f"{name}{axes}d") for name in ("Conv", "AdaptiveAvgPool"))
    return nn.Sequential(
        conv(2, 8, 3, padding=1), nn.ReLU(), conv(8, 12, 3, 2, 1), nn.ReLU(),
        mean(1), nn.Flatten(), nn.Linear(12, 4),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("axes", SIZES)
def test_the_module_has_the_maps_of_the_attributors(axes):
    net, example = network(axes), torch.rand(2, 2, *SIZES[axes])
    other = torch.rand(1, 2, *[2 * side for side in SIZES[axes]])
    mapped, fast = with_map(net, example), with_fast_cam(net, example, target=1)
    for inputs in (example, other):
        maps = SMOEScale(net).maps(inputs)
        output, combined, per_scale = mapped(inputs)
        torch.testing.assert_close(output, net(inputs))
        torch.testing.assert_close(combined, maps.combined, atol=1e-4, rtol=0)
        for found, expected in zip(per_scale, maps.per_scale, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        expected = FastCAM(net).attribute(inputs, 1, expand_channels=False)[:, 0]
        torch.testing.assert_close(fast(inputs)[1], expected, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match=f"of {axes + 2} dimensions as in the example"):
        mapped(torch.rand(2, 2))


def test_colours_of_scales_are_for_images_and_signals():
    with pytest.raises(ValueError, match="lovi=True gives a picture of images"):
        with_map(network(3), torch.rand(1, 2, *SIZES[3]), lovi=True)
    strip = with_map(network(1), torch.rand(1, 2, *SIZES[1]), lovi=True)(torch.rand(1, 2, 48))[3]
    assert strip.shape == (1, 3, 1, 48)


@pytest.mark.heavy
@pytest.mark.parametrize("axes", SIZES)
def test_the_onnx_file_takes_other_sizes(axes, tmp_path):
    net, example = network(axes), torch.rand(1, 2, *SIZES[axes])
    written = write_onnx(
        with_map(net, example), example, tmp_path / "net.onnx", dynamic_batch=True,
        dynamic_size=True,
    )  # fmt: skip
    # Compared with PyTorch on larger inputs that the export has not seen.
    assert written.outputs == ("output", "map", "scale_1", "scale_2")
    assert written.difference < 1e-4

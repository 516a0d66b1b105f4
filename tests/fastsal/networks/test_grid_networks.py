"""The scales of networks for volumes, signals and pictures of text, and their maps."""

from __future__ import annotations

import pytest
import torch

from fastsal import FastCAM, GradCAM, SMOEScale, find_scales
from fastsal.export.model import with_map
from reports.families.grid_networks import GRID_NETWORKS

# The layer and the strides of each scale, from the architecture.
SCALES = {
    "r3d_18": [
        ("layer1", (1, 2, 2)), ("layer2", (2, 4, 4)), ("layer3", (4, 8, 8)),
        ("layer4", (8, 16, 16)),
    ],
    "mc3_18": [
        ("layer1", (1, 2, 2)), ("layer2", (1, 4, 4)), ("layer3", (1, 8, 8)),
        ("layer4", (1, 16, 16)),
    ],
    "convnet-3d": [
        ("stages.0", (1, 1, 1)), ("stages.1", (2, 2, 2)), ("stages.2", (4, 4, 4)),
        ("stages", (8, 8, 8)),
    ],
    "convnet-1d": [
        ("stages.0", (1, 1)), ("stages.1", (1, 2)), ("stages.2", (1, 4)), ("stages", (1, 8)),
    ],
    "ResNet1d": [
        ("stem", (1, 1)), ("stages.0", (1, 2)), ("stages.1", (1, 4)), ("stages.2", (1, 8)),
        ("stages", (1, 16)),
    ],
}  # fmt: skip
# Smaller inputs than those that costs are measured with.
SMALL = {
    "r3d_18": (3, 8, 48, 48), "mc3_18": (3, 8, 48, 48), "convnet-3d": (1, 16, 24, 32),
    "convnet-1d": (2, 256), "ResNet1d": (12, 512), "EEGNet": (1, 32, 512), "CRNN": (1, 32, 100),
    "monai:DenseNet121": (1, 32, 32, 32), "monai:UNet": (1, 32, 32, 32),
}  # fmt: skip


def network(name):
    torch.manual_seed(0)
    return GRID_NETWORKS[name].build()


def inputs(name):
    torch.manual_seed(1)
    return torch.rand(1, *SMALL[name])


@pytest.mark.parametrize("name", SCALES)
def test_scales_are_octaves_of_any_axis(name):
    net, given = network(name).eval(), inputs(name)
    scales = find_scales(net, given)
    assert [(scale.name, scale.strides) for scale in scales] == SCALES[name]
    maps = SMOEScale(net).maps(given)
    assert maps.combined.shape == (1, *SMALL[name][1:])
    assert maps.combined.isfinite().all()
    assert 0 <= maps.combined.min() < maps.combined.max() <= 1
    _, exported, per_scale = with_map(net, given)(given)
    torch.testing.assert_close(exported, maps.combined, atol=1e-4, rtol=0)
    assert [one.shape for one in per_scale] == [one.shape for one in maps.per_scale]
    assert GradCAM(net).attribute(given, 1).shape[2:] == maps.per_scale[-1].shape[1:]
    assert FastCAM(net).attribute(given, 1).shape == given.shape


def test_a_network_of_electrodes_by_time_has_octaves_of_time():
    net, given = network("EEGNet").eval(), inputs("EEGNet")
    with torch.no_grad():
        net(given)
    # The spatial filters make one row of 32; the last pooling makes no scale of its own.
    assert [scale.strides for scale in find_scales(net, given)] == [(1, 1), (32, 1), (32, 4)]
    attribution = SMOEScale(net).attribute(given)
    assert attribution.shape == given.shape
    assert attribution.isfinite().all()
    assert attribution.std() > 0.01


def test_a_line_of_text_has_octaves_of_its_height_and_width():
    net, given = network("CRNN").eval(), inputs("CRNN")
    strides = [scale.strides for scale in find_scales(net, given)]
    assert strides[:4] == [(1, 1), (2, 2), (4, 4), (8, 4)]
    saliency = SMOEScale(net).attribute(given)
    assert saliency.shape == given.shape
    # One symbol at one step: a gradient through the LSTM.
    fast = FastCAM(net, net.features[11]).attribute(given, lambda output: output[3, :, 5])
    assert fast.shape == given.shape
    assert fast.isfinite().all()


@pytest.mark.parametrize("name", ["monai:DenseNet121", "monai:UNet"])
def test_networks_of_monai(name):
    pytest.importorskip("monai")
    net, given = network(name).eval(), inputs(name)
    scales = find_scales(net, given)
    strides = [max(scale.strides) for scale in scales]
    assert strides == sorted(strides)
    assert len(strides) >= 3
    assert all(len(set(scale.strides)) == 1 for scale in scales)
    attribution = SMOEScale(net).attribute(given)
    assert attribution.shape == given.shape
    assert attribution.isfinite().all()
    assert attribution.std() > 0.01

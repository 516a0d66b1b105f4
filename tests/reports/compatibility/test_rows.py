"""Rows of compatibility: each network measured anew on a small input, and against lists by hand."""

import pytest
import torch

from fastsal import SMOEScale
from fastsal.export.model import with_fast_cam, with_map
from reports.compatibility.__main__ import RECORDS
from reports.compatibility.measuring import layout_of_scales, lively, measure
from reports.compatibility.networks import NETWORKS, Network
from reports.compatibility.page import SAME
from reports.compatibility.rows import read_rows
from tests.fastsal.networks.test_grid_networks import SCALES, SMALL
from tests.fastsal.networks.test_scales_of_networks import NETWORKS as BY_HAND
from tests.fastsal.networks.test_scales_of_networks import SIGNED

pytestmark = [
    pytest.mark.filterwarnings("ignore:layer.* give negative activations"),
    pytest.mark.filterwarnings("ignore:.*image of .* is 0 everywhere"),
    pytest.mark.filterwarnings("ignore:Using padding='same'"),
]
ROWS = read_rows(RECORDS)
# Seconds each, from the first trace to the program of torch.export.
FAST = (
    *("resnet18", "U-Net", "YOLO's structure", "YOLO's structure, end to end", "EEGNet", "CRNN"),
    *("convnet-1d", "convnet-3d", "ResNet1d", "lraspp_mobilenet_v3_large"),
    *("timm:convnextv2_atto", "timm:vit_tiny_patch16_224", "timm:deit_tiny_patch16_224"),
)
# Networks that take images of one size alone, and those that need more than 64 rows.
SIDES = {"inception_v3": 160, "alexnet": 96, "squeezenet1_1": 96}
OF_ONE_SIZE = ("maxvit", "vit", "deit", "Dinov2", "mixer", "swin_v2", "Hiera", "Pvt")


def small_input(network):
    if network.name in SMALL:
        return SMALL[network.name]
    fixed = network.group == "Detectors" or any(part in network.name for part in OF_ONE_SIZE)
    if fixed or "SwinFor" in network.name:
        return network.shape
    side = SIDES.get(network.name, 64)
    return (network.shape[0], *(min(side, length) for length in network.shape[1:]))


def anew(name):
    network = NETWORKS[name]
    for package in network.wants:
        pytest.importorskip(package)
    return lively(Network(name, network.group, network.build, small_input(network)))


def verdict(call):
    """True if a call gives a map, False if it raises an error of any class."""
    try:
        return call() is not None
    except Exception:
        return False


def marked(name):
    return name if name in FAST else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", [marked(name) for name in NETWORKS if name in ROWS])
def test_a_small_input_gives_the_recorded_row(name):
    row = ROWS[name]
    model, inputs = anew(name)
    image = inputs[:1]
    maps = SMOEScale(model).maps(image)
    assert [scale.strides for scale in maps.scales] == [scale.strides for scale in row.scales]
    assert [scale.name for scale in maps.scales] == [
        one.name.partition(" +")[0].removesuffix(", input") for one in row.scales
    ]
    assert layout_of_scales(maps.scales) == row.layout
    assert row.finite
    assert maps.combined.shape == (1, *image.shape[2:])
    assert maps.combined.isfinite().all()
    if row.with_map is not None and row.with_map <= SAME:
        module = with_map(model, image)
        found = module(image)[1]
        assert torch.allclose(found, maps.combined, rtol=0, atol=SAME)
        program = verdict(lambda: torch.export.export(module, (image,)).module()(image)[1])
        assert program == (row.program is not None)
    assert verdict(lambda: with_fast_cam(model, image)) == row.fast_cam


@pytest.mark.parametrize("name", [name for name in BY_HAND if name in ROWS])
def test_recorded_scales_are_those_of_the_network_s_definition(name):
    _, expected = BY_HAND[name]
    found = [(one.name, max(one.strides), one.signed) for one in ROWS[name].scales]
    assert found == [(layer, stride, SIGNED in rest) for layer, stride, _, *rest in expected]


@pytest.mark.parametrize("name", [name for name in SCALES if name in ROWS])
def test_recorded_scales_of_volumes_and_signals(name):
    assert [(one.name, one.strides) for one in ROWS[name].scales] == SCALES[name]


def test_a_network_that_is_refused_is_a_row_with_its_message():
    network = Network(
        "flat",
        "Tokens of one resolution",
        lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 4)),
        (3, 4, 4),
    )
    row = measure(network)
    assert row.scales == ()
    assert "found no candidate for a spatial scale" in row.refused["SMOEScale"]

"""Operations counted by hand, by PyTorch's own counter and by the paper's Table 6."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from comparisons.methods import METHODS, Batch
from evaluation.networks.build import build_network
from evaluation.profiling.operations import Operations, count_operations
from evaluation.profiling.smoe_scale_steps import paper_operations
from fastsal import SMOEScale
from fastsal.maps.combination import combine
from fastsal.statistics.registry import STATISTICS

pytestmark = pytest.mark.heavy

TABLE6 = Path(__file__).parents[3] / "reports" / "paper" / "table6_flops_resnet50.csv"


def table6() -> list[dict[str, float]]:
    with TABLE6.open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return build_network("resnet9", 8, 0, size=(16, 16)).eval()


def _forward(network: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return network(torch.zeros(2, 3, 16, 16))


def _gradient(network: nn.Module) -> torch.Tensor:
    inputs = torch.ones(2, 3, 16, 16, requires_grad=True)
    return torch.autograd.grad(network(inputs).sum(), inputs)[0]


@pytest.mark.parametrize("layer", range(5))
def test_table_6_follows_to_the_last_digit(layer):
    rows = table6()
    shapes = [(int(row["channels"]), int(row["height"]), int(row["width"])) for row in rows]
    found, printed = paper_operations(shapes, (224, 224))[layer], rows[layer]
    assert found.statistic == printed["smoe_ops"]
    assert found.normalization == printed["norm_ops"]
    assert found.combination == printed["combine_ops"]


def test_table_6_s_totals():
    shapes = [(int(row["channels"]), int(row["height"]), int(row["width"])) for row in table6()]
    rows = paper_operations(shapes, (224, 224))
    assert sum(row.statistic for row in rows) == 9_249_093
    assert sum(row.normalization for row in rows) == 200_508
    assert sum(row.combination for row in rows) == 1_580_544
    assert sum(row.total for row in rows) == 9_249_093 + 200_508 + 1_580_544


def test_convolutions_of_the_forward_pass_are_pytorch_s(network):
    with FlopCounterMode(display=False) as counter:
        _forward(network)
    found = count_operations(lambda: _forward(network))
    assert found.flops == counter.get_total_flops() == 2 * found.multiply_adds > 0


def test_inference_mode_is_counted_alike(network):
    def forward() -> torch.Tensor:
        with torch.inference_mode():
            return network(torch.zeros(2, 3, 16, 16))

    assert count_operations(forward) == count_operations(lambda: _forward(network))


def test_a_gradient_of_the_input_takes_as_much_again(network):
    # Each convolution's gradient by its input takes as many operations as itself.
    forward = count_operations(lambda: _forward(network))
    assert count_operations(lambda: _gradient(network)).flops == 2 * forward.flops


def test_operations_by_hand():
    x, y = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    n = x.numel()
    cases = {
        lambda: x + y: Operations(elementwise=n),
        lambda: torch.add(x, y, alpha=2): Operations(elementwise=2 * n),
        lambda: x.clone().add_(y, alpha=0.5): Operations(elementwise=2 * n),
        lambda: x.clone().mul_(y): Operations(elementwise=n),
        lambda: x.log2(): Operations(transcendental=n),
        lambda: x.clone().sqrt_(): Operations(transcendental=n),
        lambda: x**3: Operations(elementwise=2 * n),
        lambda: x**0.5: Operations(transcendental=n),
        lambda: x.sum(1): Operations(reduction=n),
        lambda: x.prod(1): Operations(reduction=n),
        lambda: torch.linalg.eigh(torch.eye(4)): Operations(elementwise=9 * 4**3),
        lambda: x.mean(1): Operations(reduction=n, elementwise=n // 3),
        lambda: x.std(1): Operations(
            reduction=4 * n, elementwise=2 * n // 3, transcendental=n // 3
        ),
        lambda: F.relu(x): Operations(elementwise=n),
        lambda: F.max_pool2d(x, 2): Operations(elementwise=n),
        lambda: F.interpolate(x, size=(8, 8), mode="bilinear"): Operations(elementwise=9 * 4 * n),
        lambda: x.softmax(1): Operations(elementwise=n, transcendental=n, reduction=n),
        lambda: x.reshape(6, 16)[2:].T.contiguous(): Operations(),
    }
    for work, expected in cases.items():
        assert count_operations(work) == expected


def test_what_no_rule_covers_is_named():
    assert count_operations(lambda: torch.ones(4).median()).unknown == ("median",)


@pytest.mark.filterwarnings(
    "ignore:Input Tensor", "ignore:Setting .*backward hooks", "ignore:layer.* give no negative"
)
@pytest.mark.parametrize("name", [n for n in METHODS if METHODS[n].passes <= 25])
def test_every_operation_of_every_method_has_a_rule(network, name):
    inputs = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    batch = Batch(
        inputs,
        torch.tensor([1, 2]),
        torch.arange(2),
        1.0,
        (0.0, 0.0, 0.0),
        torch.zeros(2, 16, 16, dtype=torch.bool),
    )
    explain = METHODS[name].prepare(network)
    explain(batch)
    assert count_operations(lambda: explain(batch)).unknown == ()


# What grows, and by how much; the cost must grow by the same factor, to the last operation.
@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("grown", ["batch", "pixels"])
def test_a_statistic_is_linear_in_batch_and_pixels(statistic, grown):
    def cost(times: int) -> int:
        shape = (2 * times, 16, 8, 8) if grown == "batch" else (2, 16, 8 * times, 8)
        return count_operations(lambda: STATISTICS[statistic](torch.rand(shape))).other

    # Three operations for each channel of an image, and one for the image, however many pixels its
    # means are of.
    of_means = 2 * (3 * 16 + 1) if statistic == "centred_smoe_scale" and grown == "pixels" else 0
    of_pixels = [cost(times) - of_means for times in (1, 2, 3, 7)]
    assert of_pixels[1:] == [times * of_pixels[0] for times in (2, 3, 7)]


@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_statistic_is_linear_in_channels(statistic):
    # A part for each location stays the same, as the 1 in the paper's 4 r + 1.
    def cost(channels: int) -> int:
        return count_operations(lambda: STATISTICS[statistic](torch.rand(2, channels, 8, 8))).other

    fixed, slope = cost(16) - (cost(32) - cost(16)), (cost(32) - cost(16)) // 16
    assert slope > 0
    assert [cost(c) for c in (48, 64, 256)] == [fixed + slope * c for c in (48, 64, 256)]


def test_combining_is_linear_in_scales():
    maps = [torch.rand(2, 4, 4) for _ in range(6)]

    def cost(scales: int) -> int:
        return count_operations(lambda: combine(maps[:scales], [1.0] * scales, (16, 16))).other

    # A single scale's weight is 1, which is no multiplication.
    each = cost(2) // 2
    assert [cost(scales) for scales in (2, 3, 4, 6)] == [2 * each, 3 * each, 4 * each, 6 * each]
    assert each > 0


@pytest.mark.parametrize("grown", ["batch", "pixels"])
def test_the_whole_map_is_linear_in_batch_and_pixels(network, grown):
    attributor = SMOEScale(network)

    def cost(times: int) -> int:
        shape = (times, 3, 16, 16) if grown == "batch" else (1, 3, 16 * times, 16)
        inputs = torch.rand(shape)
        attributor.maps(inputs)  # finds the scales of images of this shape

        def forward() -> torch.Tensor:
            with torch.no_grad():
                return network(inputs)

        added = count_operations(lambda: attributor.maps(inputs).combined)
        return (added - count_operations(forward)).other

    per_time = cost(2) - cost(1)
    fixed = cost(1) - per_time
    assert [cost(times) for times in (3, 5)] == [fixed + per_time * times for times in (3, 5)]
    # What does not grow is small: checks of a few numbers.
    assert 0 <= fixed < per_time / 100

"""What is counted of a map's cost, by hand and by PyTorch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from evaluation.networks import build_network
from evaluation.profiling import count_flops, peak_bytes, profile


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return build_network("resnet9", 8, 0, size=(16, 16)).eval()


def _forward(network: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return network(torch.zeros(2, 3, 16, 16))


def _gradient(network: nn.Module) -> torch.Tensor:
    inputs = torch.ones(2, 3, 16, 16, requires_grad=True)
    return torch.autograd.grad(network(inputs).sum(), inputs)[0]


def test_operations_of_the_forward_pass_are_pytorch_s(network):
    with FlopCounterMode(display=False) as counter:
        _forward(network)
    assert count_flops(lambda: _forward(network)) == counter.get_total_flops() > 0


def test_inference_mode_is_counted_alike(network):
    def forward() -> torch.Tensor:
        with torch.inference_mode():
            return network(torch.zeros(2, 3, 16, 16))

    assert count_flops(forward) == count_flops(lambda: _forward(network))


def test_a_gradient_of_the_input_takes_as_much_again(network):
    # Each convolution's gradient by its input takes as many operations as itself.
    assert count_flops(lambda: _gradient(network)) == 2 * count_flops(lambda: _forward(network))


def test_captum_s_gradient_can_be_counted(network):
    captum = pytest.importorskip("captum.attr")
    inputs, target = torch.ones(2, 3, 16, 16), torch.tensor([1, 2])

    def explain() -> torch.Tensor:
        return captum.Saliency(network).attribute(inputs.requires_grad_(), target=target)

    assert count_flops(explain) == 2 * count_flops(lambda: _forward(network))


def test_peak_is_what_is_alive_together():
    def chain() -> torch.Tensor:
        x = torch.ones(1000)  # 4,000 bytes
        for _ in range(5):
            x = x + 1  # the old one is dropped after the new one is there
        return x

    def heap() -> list[torch.Tensor]:
        return [torch.ones(1000) for _ in range(5)]

    assert peak_bytes(chain) == 8000
    assert peak_bytes(heap) == 20000


def test_views_and_work_in_place_take_no_memory():
    def views() -> torch.Tensor:
        x = torch.ones(100, 10)
        return x.T.reshape(10, 100)[2:].add_(1)

    x = torch.ones(100, 10)
    assert peak_bytes(lambda: x.view(1000)[3:].mul_(2)) == 0
    assert peak_bytes(views) == 4000


def test_a_map_is_profiled_beside_the_forward_pass(network):
    cost = profile(lambda: _forward(network), lambda: _gradient(network), rounds=1)
    assert cost.map_flops == 2 * count_flops(lambda: _forward(network))
    assert cost.extra_peak_bytes > 2 * 16 * 16 * 16 * 4  # keeps the activations
    assert min(cost.forward_ms, cost.map_ms) > 0

"""Bytes counted by hand, and beside PyTorch's allocator."""

from __future__ import annotations

import pytest
import torch
from captum.attr import GuidedBackprop, LayerGradCam, Saliency
from torch import nn
from torch.profiler import ProfilerActivity, profile

from evaluation.networks.build import build_network
from evaluation.profiling.memory import allocated_peak_bytes, count_memory, peak_bytes
from fastsal import SMOEScale
from fastsal.kernels.cpu import available

pytestmark = pytest.mark.heavy

KILO = 4000  # bytes of a thousand numbers


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return build_network("resnet9", 8, 0, size=(16, 16)).eval()


def test_peak_is_what_is_alive_together():
    def chain() -> torch.Tensor:
        x = torch.ones(1000)
        for _ in range(5):
            x = x + 1  # the old one is dropped after the new one is there
        return x

    def heap() -> list[torch.Tensor]:
        return [torch.ones(1000) for _ in range(5)]

    assert peak_bytes(chain) == 2 * KILO
    assert peak_bytes(heap) == 5 * KILO


def test_what_is_returned_is_told_apart():
    def work() -> dict[str, torch.Tensor]:
        kept = torch.ones(1000)
        large = torch.ones(3000)
        return {"kept": kept, "view": kept[10:], "sum": large.sum()}

    memory = count_memory(work)
    assert memory.peak_bytes == KILO + 3 * KILO + 4
    assert memory.returned_bytes == KILO + 4
    assert memory.scratch_bytes == 3 * KILO


def test_scratch_has_a_peak_of_its_own():
    # The peak of all is at the end, when nothing but the result is there.
    def work() -> torch.Tensor:
        torch.ones(2000).sum()
        return torch.ones(5000)

    memory = count_memory(work)
    assert (memory.peak_bytes, memory.scratch_bytes) == (5 * KILO, 2 * KILO + 4)


def test_views_and_work_in_place_take_no_memory():
    def views() -> torch.Tensor:
        x = torch.ones(100, 10)
        return x.T.reshape(10, 100)[2:].add_(1)

    x = torch.ones(100, 10)
    assert peak_bytes(lambda: x.view(1000)[3:].mul_(2)) == 0
    assert peak_bytes(views) == KILO


def test_a_resized_storage_counts_at_its_new_size():
    def made() -> torch.Tensor:
        x = torch.ones(10)
        return x.resize_(1000)

    before = torch.ones(10)
    assert peak_bytes(made) == KILO
    assert peak_bytes(lambda: before.resize_(1000)) == KILO - 40
    # With out=, the storage is the argument's.
    assert peak_bytes(lambda: torch.add(before, before, out=torch.empty(0))) == KILO


def test_an_address_that_is_used_again_is_another_storage():
    def work() -> None:
        for _ in range(100):
            torch.ones(1000)

    assert peak_bytes(work) == KILO


def test_backward_and_hooks_are_seen():
    x = torch.ones(1000, requires_grad=True)
    found = []

    def work() -> None:
        y = x * 2
        y.register_hook(lambda gradient: found.append(gradient * 3))
        (z,) = torch.autograd.grad(y.sum(), x)
        found.append(z)

    # y, what the hook kept, the gradient by x; the sum and its gradient are single numbers, and
    # the gradient by y a view of that.
    assert peak_bytes(work) == 3 * KILO + 4 + 4
    assert len(found) == 2


def test_what_a_forward_pass_with_gradients_leaves_is_what_the_allocator_says(network):
    inputs = torch.rand(2, 3, 16, 16)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        output = network(inputs)
    left = sum(
        e.nbytes() for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"
    )
    del output
    # All that autograd keeps for the backward pass, and the output, count as returned.
    kept: list[torch.Tensor] = []

    def forward() -> list[torch.Tensor]:
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
        ):
            return [network(inputs), *kept]

    assert count_memory(forward).returned_bytes == left > 100_000


def test_the_allocator_never_has_less_than_the_storages(network):
    inputs = torch.rand(2, 3, 16, 16)

    def gradient() -> torch.Tensor:
        x = inputs.clone().requires_grad_()
        return torch.autograd.grad(network(x).sum(), x)[0]

    assert allocated_peak_bytes(gradient) >= peak_bytes(gradient)


@pytest.mark.filterwarnings("ignore:Input Tensor", "ignore:Setting .*backward hooks")
def test_gradients_keep_the_activations_and_smoe_does_not(network):
    inputs, target = torch.rand(2, 3, 32, 32), torch.tensor([1, 2])
    smoe = SMOEScale(network)
    smoe.maps(inputs[:1])

    def forward() -> torch.Tensor:
        with torch.inference_mode():
            return network(inputs)

    def grown(work: object) -> int:
        return peak_bytes(work) - peak_bytes(forward)

    first_scale = 2 * 32 * 32 * 16 * 4
    peers = {
        "saliency": lambda: Saliency(network).attribute(inputs, target=target),
        "guided": lambda: GuidedBackprop(network).attribute(inputs, target=target),
        "cam": lambda: LayerGradCam(network, network.stage3).attribute(inputs, target=target),
    }
    least = min(grown(work) for work in peers.values())
    assert least > 2 * first_scale
    assert grown(lambda: smoe.maps(inputs).combined) < least / 2
    if available():
        # In the fused form no copy of an activation is made: 32 channels' maps would be more.
        assert grown(lambda: smoe.maps(inputs).combined) < first_scale / 4

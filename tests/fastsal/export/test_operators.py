"""The map of a module in eager and compiled passes: the kernels' values, and one graph."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fastsal import SMOEScale
from fastsal.export import with_map
from fastsal.export.graph_forms import smoe_of_sums, smoe_sums
from fastsal.export.operators import KernelForm, combined_maps, reduced_smoe_scale
from fastsal.kernels import cpu
from fastsal.kernels.memory import without_kernels
from fastsal.maps.combination import combine
from fastsal.maps.normalization import gaussian
from fastsal.statistics.smoe import smoe_scale_plain


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 10, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(10, 16, 3, padding=1),
            nn.Hardswish(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 5),
        ).eval()


def images(count, height, width):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("channels", [1, 3, 4, 7, 64])
@pytest.mark.parametrize("epsilon", [1e-6, 1e-12, 0.1])
@pytest.mark.parametrize("constant", [False, True])
def test_the_reduction_is_the_papers_equation(channels, epsilon, constant):
    activations = torch.rand(2, channels, 5, 6, generator=torch.Generator().manual_seed(0))
    activations = torch.full_like(activations, 0.7) if constant else activations.square()
    found = reduced_smoe_scale(activations, epsilon) / math.log(2)
    wanted = smoe_scale_plain(activations.double(), epsilon).float()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-6)
    if constant:
        assert not found.any()


def test_overflow_is_not_hidden():
    activations = torch.full((1, 8, 2, 2), 3e38)
    activations[:, :4] = 1.0
    assert not reduced_smoe_scale(activations, 1e-6).isfinite().any()


@pytest.mark.skipif(not cpu.available(), reason="needs Numba")
@pytest.mark.parametrize("sizes", [[(8, 12)], [(16, 24), (4, 6), (1, 1)]])
def test_the_operator_is_the_combination(sizes):
    generator = torch.Generator().manual_seed(0)
    statistics = [torch.rand(2, *size, generator=generator) for size in sizes]
    shares = [(index + 1) / sum(range(len(sizes) + 1)) for index in range(len(sizes))]
    with without_kernels():
        normalized = [gaussian(values) for values in statistics]
        wanted = [combine(normalized, shares, (16, 24)), *normalized]
        # Of PyTorch's operations, as where Numba is missing.
        slow = torch.ops.fastsal.combined_maps(statistics, shares, 16, 24)
        assert combined_maps(statistics, shares, (16, 24)) is None
    for made in (
        combined_maps(statistics, shares, (16, 24)),
        torch.ops.fastsal.combined_maps(statistics, shares, 16, 24),
        slow,
    ):
        torch.testing.assert_close(made, wanted, rtol=0, atol=1e-6)
    torch.library.opcheck(
        torch.ops.fastsal.combined_maps, (statistics, shares, 16, 24), test_utils="test_faketensor"
    )


@pytest.mark.skipif(not cpu.available(), reason="needs Numba")
@pytest.mark.parametrize("epsilon", [1e-6, 1e-3])
def test_an_eager_pass_runs_the_kernels_of_smoe_scale(network, epsilon, monkeypatch):
    inputs = images(2, 16, 24)
    module = with_map(network, inputs, epsilon=epsilon)
    ran = []
    run = cpu.StatisticCall.run
    monkeypatch.setattr(
        cpu.StatisticCall, "run", lambda *arguments: ran.append(1) or run(*arguments)
    )
    with torch.no_grad():
        _, combined, per_scale = module(inputs)
    assert len(ran) == len(per_scale) == 2
    expected = SMOEScale(network, epsilon=epsilon).maps(inputs)
    assert torch.equal(combined, expected.combined)
    with torch.no_grad(), without_kernels():
        slow = module(inputs)
    assert len(ran) == 4
    torch.testing.assert_close(slow[1], combined, rtol=0, atol=1e-5)


def test_a_statistic_of_another_type_or_layout():
    form = KernelForm(smoe_sums, smoe_of_sums, rectified=False, linear=False, epsilon=1e-6)
    activations = torch.randn(1, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    for given in (activations.double(), activations[..., ::2, ::2], activations.mT):
        wanted = smoe_scale_plain(given.relu().float(), 1e-6)
        found = form(given)
        if not isinstance(found, torch.Tensor):
            found = form.of_sums(found.sums).reshape(wanted.shape) / math.log(2)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-6)


@pytest.mark.skipif(not cpu.available(), reason="needs Numba")
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_compiled_module_is_one_graph_with_one_operator(network, dynamic):
    graphs = []

    def backend(graph, _):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph

    torch._dynamo.reset()
    inputs = images(2, 16, 24)
    module = with_map(network, inputs)
    compiled = torch.compile(module, fullgraph=True, dynamic=dynamic, backend=backend)
    with torch.no_grad():
        output, combined, per_scale = compiled(inputs)
    (targets,) = graphs
    assert sum("combined_maps" in target for target in targets) == 1
    assert not any("interpolate" in target for target in targets)
    expected = SMOEScale(network).maps(inputs)
    torch.testing.assert_close(output, expected.logits)
    torch.testing.assert_close(combined, expected.combined, rtol=0, atol=1e-5)
    torch.testing.assert_close(per_scale, expected.per_scale, rtol=0, atol=1e-5)


def test_an_exported_program_has_operators_of_pytorch_alone(network):
    inputs = images(2, 16, 24)
    program = torch.export.export(with_map(network, inputs), (inputs,))
    targets = {str(node.target) for node in program.graph.nodes}
    assert not any("fastsal" in target for target in targets)
    torch.testing.assert_close(
        program.module()(inputs)[1], SMOEScale(network).maps(inputs).combined, rtol=0, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.skipif(not cpu.available(), reason="needs Numba")
@pytest.mark.parametrize("size", [(16, 24), (18, 30)])
def test_inductor_gives_the_same_map(network, size):
    torch._dynamo.reset()
    inputs = images(2, *size)
    compiled = torch.compile(with_map(network, inputs), fullgraph=True)
    with torch.no_grad():
        combined = compiled(inputs)[1]
    expected = SMOEScale(network).maps(inputs).combined
    torch.testing.assert_close(combined, expected, rtol=0, atol=1e-5)

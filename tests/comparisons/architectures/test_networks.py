"""The small networks: what they read, and what their rivals are."""

import numpy as np
import pytest
import torch
from scipy.stats import t as student
from scipy.stats import ttest_1samp
from torch import nn

from comparisons.architectures import measuring
from comparisons.architectures.differences import difference, paired
from comparisons.architectures.measuring import Measured, measured
from comparisons.architectures.networks import ARCHITECTURES, SIZE, build
from comparisons.architectures.tokens.rollout import attention_rollout, rolled_out
from comparisons.architectures.tokens.tensors import of_tensors
from evaluation.networks.build import state_hash
from fastsal import find_scales
from fastsal.statistics.smoe import smoe_scale

pytestmark = pytest.mark.filterwarnings("ignore:layer.* give negative activations")
# The strides of each family's scales at 32x32.
STRIDES = {
    "resnet": [1, 2, 4, 8],
    "vgg": [1, 2, 4, 8],
    "densenet": [1, 2, 4],
    "convnext": [2, 4, 8, 16],
    "swin": [4, 8],
    "pvt": [2, 4, 8, 16],
    "vit": [4, 4, 4, 4],
    "mixer": [4, 4, 4, 4],
}


def images(count=2):
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_has_its_scales_and_the_weights_of_its_seed(name):
    network = build(name, 8, 0).eval()
    assert network(images()).shape == (2, 8)
    strides = [scale.stride for scale in find_scales(network, images())]
    if name in STRIDES:
        assert strides == STRIDES[name]
    assert len(strides) >= 2
    same, other = (state_hash(build(name, 8, seed)) for seed in (0, 1))
    assert state_hash(network) == same != other


def test_values_are_those_that_attention_mixes():
    network = build("vit", 8, 0).eval()
    attributor = of_tensors("vit", network)["values last"]
    kept = []
    attention = network.blocks[5].attn
    handle = attention.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    found = attributor.maps(images())
    handle.remove()
    # The values of all heads beside each other.
    weight, bias = attention.qkv.weight[-64:], attention.qkv.bias[-64:]
    values = (kept[0] @ weight.T + bias)[:, 1:]
    values = (values - values.mean(1, keepdim=True)).relu()
    expected = smoe_scale(values.transpose(1, 2).reshape(2, 64, 8, 8).detach())
    spread = (expected - expected.mean((1, 2), keepdim=True)) / expected.std((1, 2), keepdim=True)
    normal = torch.distributions.Normal(0.0, 1.0).cdf(spread)
    torch.testing.assert_close(found.per_scale[0], normal, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["swin", "pvt", "convnext"])
def test_the_tensors_of_a_hierarchy(name):
    network = build(name, 8, 0).eval()
    found = of_tensors(name, network)
    seen = {}
    hooks = [
        module.register_forward_hook(
            lambda _, __, output, layer=layer: seen.update({layer: output})
        )
        for layer, module in network.named_modules()
    ]
    network(images())
    for hook in hooks:
        hook.remove()
    norms = {layer for layer, module in network.named_modules() if isinstance(module, nn.LayerNorm)}
    stages = {"swin": 2, "pvt": 4, "convnext": 4}[name]
    for tensor in ("block", "hidden", "normed", "end"):
        scales = found[f"{tensor} depths"].maps(images()).scales
        assert len(scales) == stages
        # Swin's norm of merged patches has the next stage's stride, ConvNeXt's the stage's before.
        assert [scale.stride for scale in scales] == {
            ("swin", "end"): [8, 8],
            ("convnext", "end"): [2, 4, 8, 16],
        }.get((name, tensor), {"swin": [4, 8], "pvt": [2, 4, 8, 16]}.get(name, [4, 8, 16, 32]))
        if tensor in ("normed", "end"):
            assert {scale.name for scale in scales} <= norms
        (last,) = found[f"{tensor} last"].maps(images()).scales
        assert last.name == scales[-1].name
    # The end of a stage is what the norm makes of the output of the stage's last block.
    if name == "pvt":
        for number in range(4):
            block = found["block depths"].maps(images()).scales[number].name
            norm = network.get_submodule(f"stages.{number}.norm")
            torch.testing.assert_close(seen[f"stages.{number}.norm"], norm(seen[block]))


def test_rollout_is_the_product_by_hand():
    generator = torch.Generator().manual_seed(0)
    layers = [torch.rand(1, 2, 3, 3, generator=generator).softmax(-1) for _ in range(3)]
    found = rolled_out(layers)[0]
    expected = np.eye(3)
    for layer in layers:
        heads = np.mean([head.numpy() for head in layer[0]], axis=0)
        mixed = (heads + np.eye(3)) / 2
        expected = np.array(
            [
                [sum(mixed[i, k] * expected[k, j] for k in range(3)) for j in range(3)]
                for i in range(3)
            ]
        )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_rollout_leaves_the_network_as_it_was():
    network = build("vit", 8, 0).eval()
    fused = [block.attn.fused_attn for block in network.blocks]
    maps = attention_rollout(network, images())
    assert maps.shape == (2, SIZE, SIZE)
    assert [block.attn.fused_attn for block in network.blocks] == fused
    assert not any(block.attn.attn_drop._forward_hooks for block in network.blocks)


def records(seeds, shift):
    rng = np.random.default_rng(0)
    found = []
    for seed in range(seeds):
        centre = rng.random(200)
        better = centre + shift + 0.1 * rng.standard_normal(200)
        both = {"centre": tuple(centre), "smoe-linear": tuple(better)}
        found.append(Measured("vit", seed, 0.5, ("a",), both, both, (1.0,)))
    return found


def test_the_interval_of_one_seed_is_student_s():
    found = difference(records(1, 0.01), "smoe-linear", "centre", "mass")
    (one,) = records(1, 0.01)
    values = np.subtract(one.mass["smoe-linear"], one.mass["centre"])
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))


@pytest.mark.parametrize(("shift", "verdict"), [(0.1, "above"), (-0.1, "below"), (0.0, "not told")])
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_planted_difference_is_told(shift, verdict, seeds):
    found = difference(records(seeds, shift), "smoe-linear", "centre", "ranking")
    assert found.verdict == verdict
    assert found.low <= found.value <= found.high


def test_seeds_that_differ_widen_the_interval():
    values = np.repeat([[0.0], [0.1], [0.2]], 50, axis=1)
    found = paired(values, [0, 1, 2])
    half = student.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    assert found.high - found.value == pytest.approx(half, rel=0.1)


def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch):
    (one,) = records(1, 0.0)
    (tmp_path / "vit-0.json").write_text(one.line())
    monkeypatch.setattr(measuring, "trained", None)
    assert measured("vit", 0, tmp_path, print) == one

"""The statistics against slow rewrites in float64 and the paper's worked values."""

import functools
import math

import pytest
import torch

from fastsal.statistics.distributions import truncnormal_mean
from fastsal.statistics.registry import STATISTICS, Statistic, get_statistic, register_statistic
from fastsal.statistics.smoe import smoe_scale

# Table 3 of the paper: two activations and their SMOE Scale.
TABLE_3 = [
    (0.5, 1, 0.064),
    (1, 2, 0.127),
    (2, 4, 0.255),
    (2, 3, 0.074),
    (0.6125, 1.8375, 0.254),
]


def slow_smoe_scale(activations, epsilon=1e-6):
    """Equation 1 and 2 as printed: a loop over locations and channels, in Python's floats."""
    images, channels, height, width = activations.shape
    result = torch.zeros(images, height, width, dtype=torch.float64)
    for n in range(images):
        for i in range(height):
            for j in range(width):
                values = [v + epsilon for v in activations[n, :, i, j].tolist()]
                mu = math.fsum(values) / channels
                result[n, i, j] = math.fsum(mu * math.log2(mu / v) for v in values) / channels
    return result


@pytest.mark.parametrize(("first", "second", "expected"), TABLE_3)
def test_table_3(first, second, expected):
    column = torch.tensor([first, second], dtype=torch.float32).reshape(1, 2, 1, 1)
    # The table's last row is cut to three digits (0.25465), its others are rounded.
    assert smoe_scale(column).item() == pytest.approx(expected, abs=7e-4)
    assert smoe_scale(column).item() == pytest.approx(slow_smoe_scale(column).item(), rel=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 7, 8, 64, 130])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_equals_the_equation(channels, scale):
    generator = torch.Generator().manual_seed(channels)
    activations = torch.randn(2, channels, 3, 5, generator=generator).relu() * scale
    expected = slow_smoe_scale(activations)
    mean = activations.double().mean(1)
    error = (smoe_scale(activations) - expected).abs()
    # In units of the mean: the difference of two float32 logarithms is all that is lost.
    assert (error <= 1e-5 * mean + 1e-10).all()


def test_both_memory_layouts_and_slices_of_a_batch_agree(monkeypatch):
    activations = torch.rand(5, 19, 6, 4, generator=torch.Generator().manual_seed(1))
    whole = smoe_scale(activations)
    last = activations.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(smoe_scale(last), whole, rtol=1e-5, atol=1e-7)
    monkeypatch.setattr("fastsal.statistics.slices.CHUNK_ELEMENTS", 1)
    assert torch.equal(smoe_scale(activations), whole)
    one_by_one = torch.cat([smoe_scale(image[None]) for image in activations])
    assert torch.equal(one_by_one, whole)


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e-6, 0.3, 1.0, 77.7, 6e4, 1e9, 1e15, 1e30])
@pytest.mark.parametrize("channels", [1, 4, 6, 2048])
def test_constant_columns_are_exactly_zero(value, channels):
    activations = torch.full((1, channels, 3, 3), value)
    assert torch.equal(smoe_scale(activations), torch.zeros(1, 3, 3))


@pytest.mark.parametrize("factor", [1e10, 1e20, 1e30])
def test_values_whose_products_leave_float32(factor):
    activations = torch.rand(1, 8, 2, 2, generator=torch.Generator().manual_seed(2)) + 0.1
    expected = slow_smoe_scale(activations.double() * factor)
    # log2(1e30) is 100, of which float32 keeps five digits behind the point.
    result = smoe_scale(activations * factor).double()
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=0)


def test_scales_with_the_activations():
    activations = torch.rand(1, 8, 4, 4, generator=torch.Generator().manual_seed(3)) + 0.1
    torch.testing.assert_close(
        smoe_scale(16 * activations), 16 * smoe_scale(activations), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_computed_in_float32(dtype):
    activations = torch.rand(1, 64, 4, 4, generator=torch.Generator().manual_seed(4)).to(dtype)
    result = smoe_scale(activations)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, slow_smoe_scale(activations).float(), rtol=1e-4, atol=1e-6)


def test_does_not_write_to_its_input_and_counts_negatives_as_zero():
    activations = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(5))
    before = activations.clone()
    assert torch.equal(smoe_scale(activations), smoe_scale(activations.relu()))
    assert torch.equal(activations, before)


def test_a_small_epsilon_still_holds():
    activations = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0]).reshape(1, 5, 1, 1)
    expected = slow_smoe_scale(activations.double(), 1e-15).item()
    assert smoe_scale(activations, epsilon=1e-15).item() == pytest.approx(expected, rel=1e-5)


def test_mean_and_std_are_numpys():
    activations = torch.rand(2, 7, 3, 3, generator=torch.Generator().manual_seed(6))
    array = activations.numpy().astype("float64")
    for name, expected in (("mean", array.mean(1)), ("std", array.std(1))):
        result = STATISTICS[name](activations)
        torch.testing.assert_close(result.double(), torch.from_numpy(expected), rtol=1e-5, atol=0)


def test_a_function_is_a_statistic_after_the_relu_unless_registered_otherwise():
    def largest(activations):
        return activations.amax(1)

    statistic = get_statistic(largest)
    assert (statistic.name, statistic.domain) == ("largest", "post_relu")
    activations = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(7))
    assert torch.equal(statistic(activations), activations.amax(1))
    assert get_statistic(truncnormal_mean) is STATISTICS["truncnormal_mean"]
    assert get_statistic(functools.partial(torch.amax, dim=1)).name == "partial"


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda activations: activations.amax(1, keepdim=True), r"\(2, 1, 4, 5\)"),
        (lambda activations: activations.amax((1, 2, 3)), r"\(2,\)"),
        (lambda activations: activations.max(1), "max"),
    ],
)
def test_what_is_no_map_is_an_error(function, got):
    expected = (
        rf"statistic 'broken' gave {got} for activations of shape \(2, 3, 4, 5\), .*\(2, 4, 5\)"
    )
    with pytest.raises(ValueError, match=expected):
        Statistic("broken", "a test", "post_relu", function)(torch.zeros(2, 3, 4, 5))


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"\(N, C, H, W\), got \(3, 4\)"):
        smoe_scale(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="epsilon must be above 0, got 0"):
        smoe_scale(torch.zeros(1, 1, 1, 1), epsilon=0)
    with pytest.raises(ValueError, match=r"unknown statistic 'smo'; choose from \[.*'smoe_scale'"):
        get_statistic("smo")
    with pytest.raises(TypeError, match=r"a statistic is a name, a Statistic or a function.*got 3"):
        get_statistic(3)
    with pytest.raises(ValueError, match="'mean' is registered already"):
        register_statistic("mean", citation="")(lambda activations: activations.mean(1))

"""Every statistic of a fitted distribution against SciPy, column by column in float64."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from fastsal import smoe_scale
from fastsal.statistics.gamma import gamma_entropy, gamma_scale, gamma_shape
from fastsal.statistics.registry import STATISTICS

pytestmark = pytest.mark.heavy

EPSILON = 1e-6


def scipy_gamma(column):
    shape, _, scale = stats.gamma.fit(column.clip(0) + EPSILON, floc=0)
    return shape, scale


def scipy_lognormal(column):
    logs = np.log(column.clip(0) + EPSILON)
    return stats.lognorm(s=logs.std(), scale=math.exp(logs.mean()))


def scipy_truncated(column):
    mean, deviation = column.mean(), column.std()
    alpha = -mean / deviation
    # SciPy's entropy is NaN for an infinite upper end; beyond 60 deviations nothing is left.
    return stats.truncnorm(alpha, abs(alpha) + 60, loc=mean, scale=deviation)


# What SciPy (or its entropy of a distribution p) says of one column of float64 numbers.
REFERENCES = {
    "mean": np.mean,
    "std": np.std,
    "shannon_entropy": lambda column: stats.entropy(column.clip(0)),
    "renyi_entropy": lambda column: (
        -math.log(np.square(column.clip(0) / column.clip(0).sum()).sum())
    ),
    "normal_entropy": lambda column: stats.norm.entropy(scale=column.std()),
    "lognormal_mean": lambda column: scipy_lognormal(column).mean(),
    "lognormal_entropy": lambda column: scipy_lognormal(column).entropy(),
    "truncnormal_mean": lambda column: scipy_truncated(column).mean(),
    "truncnormal_std": lambda column: scipy_truncated(column).std(),
    "truncnormal_entropy": lambda column: scipy_truncated(column).entropy(),
    "gamma_scale": lambda column: scipy_gamma(column)[1],
    "gamma_entropy": lambda column: stats.gamma.entropy(
        scipy_gamma(column)[0], scale=scipy_gamma(column)[1]
    ),
}


def activations(kind, channels=64):
    """Typical and difficult activations (1, C, 2, 3)."""
    generator = torch.Generator().manual_seed(channels)
    normal = torch.randn(1, channels, 2, 3, generator=generator)
    return {
        "signed": normal,
        "mostly negative": normal - 1.5,
        "mostly positive": normal + 2.5,
        "rectified": normal.relu() + 0.0,
        "heavy tailed": (3 * normal).exp(),
        "narrow": 1 + 0.01 * normal,
    }[kind]


def columns(tensor):
    """The channels of each location in float64."""
    return tensor.double().permute(0, 2, 3, 1).reshape(-1, tensor.shape[1]).numpy()


def assert_equal_to_scipy(name, tensor, unit=1.0, **tolerances):
    result = STATISTICS[name](tensor).flatten().double().numpy()
    # A column without two positive values is degenerate for SciPy, and tested below.
    pairs = [
        (REFERENCES[name](column), value)
        for column, value in zip(columns(tensor), result, strict=True)
        if (column > 0).sum() > 1
    ]
    assert len(pairs) >= 3
    expected, values = np.array(pairs).T
    np.testing.assert_allclose(values / unit, expected / unit, **tolerances)


def test_every_statistic_has_a_reference():
    # SMOE Scale and its centred form have slow rewrites in files of their own.
    assert set(REFERENCES) | {"smoe_scale", "centred_smoe_scale"} == set(STATISTICS)
    before = {name for name, s in STATISTICS.items() if s.domain == "pre_relu"}
    assert before == {"truncnormal_mean", "truncnormal_std", "truncnormal_entropy"}


@pytest.mark.parametrize(
    "kind",
    ["signed", "mostly negative", "mostly positive", "rectified", "heavy tailed", "narrow"],
)
@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("channels", [64, 301])
def test_equals_scipy(name, kind, channels):
    assert_equal_to_scipy(name, activations(kind, channels), rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("factor", [1e-3, 1e3, 1e30])
def test_equals_scipy_far_from_one(name, factor):
    tensor = (activations("rectified", 8) + 0.5) * factor
    unit = 1.0 if "entropy" in name else factor
    assert_equal_to_scipy(name, tensor, unit, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("deviations", [-1e6, -1e3, -50, -8, -4.01, -3.99, -1, 0, 1, 4, 13, 1e3])
def test_truncated_normal_wherever_its_mean_lies(deviations):
    # Two values one below and one above the mean: the deviation is 1.
    pair = torch.tensor([deviations - 1, deviations + 1]).reshape(1, 2, 1, 1)
    mu, sigma = pair.double().mean().item(), pair.double().std(correction=0).item()
    names = ("truncnormal_mean", "truncnormal_std", "truncnormal_entropy")
    for name, expected in zip(names, exact_truncated(mu, sigma), strict=True):
        assert STATISTICS[name](pair).item() == pytest.approx(expected, rel=5e-6, abs=1e-6), name


def exact_truncated(mu, sigma):
    """The formulas as printed, with enough digits for their cancellations."""
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(40):
        mu, sigma = mpmath.mpf(mu), mpmath.mpf(sigma)
        alpha = -mu / sigma
        # erfc underflows nowhere in mpmath.
        z = mpmath.erfc(alpha / mpmath.sqrt(2)) / 2
        density = mpmath.npdf(alpha)
        hazard = density / z
        mean = mu + sigma * hazard
        deviation = sigma * mpmath.sqrt(1 + alpha * hazard - hazard**2)
        entropy = mpmath.log(mpmath.sqrt(2 * mpmath.pi * mpmath.e) * sigma * z) + alpha * hazard / 2
        return float(mean), float(deviation), float(entropy)


@pytest.mark.parametrize("spread", [1e-13, 1e-8, 1e-4, 1e-2, 0.05, 0.1, 0.5, 1.0, 3.0, 20.0, 80.0])
def test_gamma_shape_solves_its_equation(spread):
    shape = gamma_shape(torch.tensor(spread)).double().item()
    # log(k) - psi(k) is 1/(2k) + 1/(12k^2) where float64's difference has no digits left.
    left = (
        math.log(shape) - special.digamma(shape)
        if shape < 1e5
        else 0.5 / shape + 1 / (12 * shape**2)
    )
    assert left == pytest.approx(spread, rel=3e-6)


@pytest.mark.parametrize("variation", [1e-5, 1e-4, 1e-3, 1e-2])
def test_gamma_scale_of_nearly_equal_channels(variation):
    tensor = 7 * (1 + variation * activations("signed", 64))
    expected = []
    for column in columns(tensor):
        d = column / column.mean() - 1
        # Of a small spread s, theta is 2 mean s up to a third of s.
        s = np.mean(d - np.log1p(d))
        expected.append(column.mean() * 2 * s * (1 - s / 3))
    result = gamma_scale(tensor).flatten().double().numpy()
    # A step of float32 beside the variation.
    np.testing.assert_allclose(result, expected, rtol=1e-5 + 2e-7 / variation)


def test_gamma_entropy_tends_to_the_normal_one():
    tensor = 5 + 1e-3 * activations("signed")
    normal = STATISTICS["normal_entropy"](tensor)
    torch.testing.assert_close(gamma_entropy(tensor), normal, rtol=0, atol=1e-4)


# What the docstrings promise of a column of one value: (of zeros, of the value 3).
FLOOR = 0.5 * math.log(2 * math.pi * math.e) + math.log(EPSILON)
CONSTANT = {
    "smoe_scale": (0, 0),
    "mean": (0, 3),
    "std": (0, 0),
    "shannon_entropy": (0, math.log(5)),
    "renyi_entropy": (0, math.log(5)),
    "normal_entropy": (FLOOR, FLOOR),
    "lognormal_mean": (EPSILON, 3),
    "lognormal_entropy": (math.log(EPSILON) + FLOOR, math.log(3) + FLOOR),
    "truncnormal_mean": (0, 3),
    "truncnormal_std": (0, 0),
    "truncnormal_entropy": (FLOOR - math.log(2), FLOOR),
    "gamma_scale": (0, 0),
    "gamma_entropy": (FLOOR, FLOOR),
    "centred_smoe_scale": (0, 0),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_constant_columns_have_the_stated_values(name):
    for value, expected in zip((0.0, 3.0), CONSTANT[name], strict=True):
        result = STATISTICS[name](torch.full((2, 5, 2, 2), value))
        torch.testing.assert_close(
            result, torch.full((2, 2, 2), expected * 1.0), atol=1e-6, rtol=5e-7
        )


def test_constant_negative_columns_before_the_relu():
    column = torch.full((1, 5, 1, 1), -2.0)
    assert STATISTICS["truncnormal_mean"](column).item() == 0
    assert STATISTICS["truncnormal_std"](column).item() == 0
    # An exponential distribution of scale sigma^2 / |mu|, whose entropy is 1 + ln of that.
    expected = 1 + math.log(EPSILON**2 / 2)
    assert STATISTICS["truncnormal_entropy"](column).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("channels", [1, 2, 130])
@pytest.mark.parametrize("factor", [0.0, 1e-38, 1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_finite_for_any_finite_column(name, channels, factor):
    normal = torch.randn(1, channels, 3, 3, generator=torch.Generator().manual_seed(0))
    one_hot = torch.zeros(1, channels, 3, 3)
    one_hot[:, 0] = 1
    for column in (normal, normal.relu(), -normal.abs(), 1 + 1e-6 * normal, one_hot, -one_hot):
        assert STATISTICS[name](column * factor).isfinite().all()
    assert STATISTICS[name](torch.full((1, channels, 1, 1), factor)).isfinite().all()


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_computed_in_float32_without_writing_to_the_input(name, dtype):
    tensor = activations("signed").to(dtype)
    before = tensor.clone()
    result = STATISTICS[name](tensor)
    assert result.dtype == torch.float32
    assert torch.equal(result, STATISTICS[name](tensor.float()))
    assert torch.equal(tensor, before)


@pytest.mark.parametrize("name", STATISTICS)
def test_slices_of_a_batch_and_memory_layouts_agree(name, monkeypatch):
    tensor = torch.randn(3, 19, 6, 4, generator=torch.Generator().manual_seed(1))
    whole = STATISTICS[name](tensor)
    assert whole.shape == (3, 6, 4)
    last = tensor.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(STATISTICS[name](last), whole, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr("fastsal.statistics.slices.CHUNK_ELEMENTS", 1)
    torch.testing.assert_close(STATISTICS[name](tensor), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", STATISTICS)
def test_bad_arguments(name):
    with pytest.raises(ValueError, match=r"\(N, C, H, W\), got \(3, 4\)"):
        STATISTICS[name](torch.zeros(3, 4))


@pytest.mark.parametrize(
    "name", ["normal_entropy", "lognormal_mean", "lognormal_entropy", "truncnormal_entropy"]
)
def test_bad_epsilon(name):
    for function in (STATISTICS[name].function, gamma_scale, gamma_entropy):
        with pytest.raises(ValueError, match="epsilon must be above 0, got 0"):
            function(torch.zeros(1, 1, 1, 1), epsilon=0)


def test_smoe_scale_orders_columns_of_one_mean_as_the_gamma_scale_does():
    generator = torch.Generator().manual_seed(2)
    tensor = torch.rand(1, 64, 1, 50, generator=generator) ** torch.linspace(0.1, 6, 50)
    tensor = tensor / tensor.mean(1, keepdim=True)
    smoe, gamma = smoe_scale(tensor).flatten(), gamma_scale(tensor).flatten()
    assert torch.equal(smoe.argsort(), gamma.argsort())
    # Of columns with unequal means it is not so: one is mu * s, the other mu / k(s).
    pair = torch.tensor([[0.01, 0.51], [1.51, 0.26]]).T.reshape(1, 2, 1, 2)
    assert smoe_scale(pair).argmax() == 0
    assert gamma_scale(pair).argmax() == 1

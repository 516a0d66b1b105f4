"""SMOE Scale: kernels where there are any, else PyTorch's operations."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from fastsal.kernels.constants import EPSILON
from fastsal.kernels.dispatch import kernels_for
from fastsal.statistics.moments import channel_mean
from fastsal.statistics.registry import register_statistic
from fastsal.statistics.slices import by_slices, check_activations, check_epsilon, rectified

# Channels to a logarithm: the product of four numbers from 1e-9 to 4e9 is a normal float32 number.
GROUP = 4


@register_statistic(
    "smoe_scale", citation="Mundhenk, Chen & Friedland 2019, Eq 1 and 2", rectifies=True
)
def smoe_scale(activations: Tensor, epsilon: float = EPSILON) -> Tensor:
    r"""Return SMOE Scale of each location.

    $$\phi_{ij} = \frac{1}{r} \sum_k \mu_{ij} \log_2 \frac{\mu_{ij}}{T_{ijk}}
                = \mu_{ij} \Big(\log_2 \mu_{ij} - \frac{1}{r} \sum_k \log_2 T_{ijk}\Big)$$

    with `T` the activations plus epsilon, `mu` their mean over the `r = C` channels. It is 0
    where all channels are equal, never negative, and proportional to the activations (but for
    epsilon). Deviations from the paper: none in value; logarithms are taken of products of
    channels, and a difference of logarithms below float32's resolution counts as 0. Computed in one
    pass over the activations by a kernel, on a CPU with Numba and on a GPU with Triton; else by
    `smoe_scale_plain`.

    Args:
        activations: Non-negative `(N, C, H, W)`, of any floating type; computed in float32.
            Negative values count as 0.
        epsilon: Added to every activation, above 0.

    Returns:
        `(N, H, W)`, float32.

    Raises:
        ValueError: If activations are not of four dimensions, or epsilon is not positive.

    Reference:
        Mundhenk, Chen & Friedland, "Efficient Saliency Maps for Explainable AI", Eq 1 and 2.

    >>> column = torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1)
    >>> round(smoe_scale(column).item(), 3)
    0.064
    """
    check_activations(activations)
    check_epsilon(epsilon)
    values: Tensor | None = kernels_for(activations).smoe_scale(activations, epsilon)
    return smoe_scale_plain(activations, epsilon) if values is None else values


def smoe_scale_plain(activations: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Return SMOE Scale of each location by PyTorch's operations alone, on any device.

    Args:
        activations: As for `smoe_scale`.
        epsilon: As for `smoe_scale`.

    Returns:
        As `smoe_scale` does, but for rounding.

    >>> column = torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1)
    >>> round(smoe_scale_plain(column).item(), 3)
    0.064
    """
    return by_slices(partial(_smoe_scale, epsilon=epsilon), activations)


def _smoe_scale(activations: Tensor, epsilon: float) -> Tensor:
    channels = activations.shape[1]
    # `rectified` makes a copy, so that the network's own tensor is never written to.
    shifted = rectified(activations.float()).add_(epsilon)
    mean = channel_mean(shifted)
    mean_log = _sum_log2(shifted, epsilon) / channels
    finite = torch.isfinite(mean_log)
    if not finite.all():
        mean_log = torch.where(finite, mean_log, shifted.log2().mean(1))
    log_mean = mean.log2()
    difference = log_mean - mean_log
    # Equal values leave rounding behind, which a later normalisation would amplify.
    rounding = 8 * torch.finfo(torch.float32).eps * (1 + log_mean.abs())
    difference.masked_fill_(difference < rounding, 0)
    return mean * difference


def _sum_log2(shifted: Tensor, epsilon: float) -> Tensor:
    """Return the sum of log2 over the channels, by the product of GROUP channels at a time."""
    quarter = shifted.shape[1] // GROUP
    if quarter == 0 or epsilon < 1e-9:
        return shifted.log2().sum(1)
    # Blocks of neighbouring channels: contiguous reads in either memory layout.
    blocks = torch.split(shifted[:, : GROUP * quarter], quarter, 1)
    product = blocks[0] * blocks[1]
    for block in blocks[2:]:
        product.mul_(block)
    total: Tensor = product.log2_().sum(1)
    if shifted.shape[1] > GROUP * quarter:
        total.add_(shifted[:, GROUP * quarter :].log2().sum(1))
    return total

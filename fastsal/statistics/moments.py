"""Mean and standard deviation over channels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastsal.kernels.memory import untraced
from fastsal.statistics.registry import register_statistic
from fastsal.statistics.slices import by_slices, check_activations, scale_by_peak


@register_statistic("mean", citation="Mundhenk, Chen & Friedland 2019, Table 1")
def mean(activations: Tensor) -> Tensor:
    """Return the mean over channels.

    Args:
        activations: `(N, C, H, W)`, of any floating type; computed in float32.

    Returns:
        `(N, H, W)`, float32.

    >>> mean(torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1)).item()
    0.75
    """
    check_activations(activations)
    return channel_mean(activations.float())


@register_statistic("std", citation="Mundhenk, Chen & Friedland 2019, Table 1")
def std(activations: Tensor) -> Tensor:
    """Return the (population) standard deviation over channels.

    Args:
        activations: `(N, C, H, W)`, of any floating type; computed in float32.

    Returns:
        `(N, H, W)`, float32.

    >>> std(torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1)).item()
    0.25
    """
    return mean_and_std(activations)[1]


def channel_mean(activations: Tensor) -> Tensor:
    """Return the mean over channels `(N, H, W)` of float32 numbers, also where their sum overflows.

    >>> channel_mean(torch.full((1, 64, 1, 1), 1e37)).item() == torch.tensor(1e37).item()
    True
    """
    if torch.compiler.is_compiling() or not untraced():
        # A tracer sees no values, and a compiler makes one pass of it.
        return mean_and_std(activations)[0]
    means = activations.mean(1)
    # One sum is the cheapest check: it is not finite if a mean is not.
    if math.isfinite(means.sum().item()):
        return means
    return torch.where(means.isfinite(), means, mean_and_std(activations)[0])


def mean_and_std(activations: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the (population) standard deviation over channels, `(N, H, W)` each.

    Computed in float32. The standard deviation of equal values is exactly 0, however large they
    are.
    """

    def stacked(part: Tensor) -> Tensor:
        scaled, power = scale_by_peak(part.float())
        both = torch.stack(torch.std_mean(scaled, 1, correction=0)[::-1], 1)
        # Neither is above the largest magnitude, but for rounding, which could overflow.
        peak = scaled.abs().amax(1, keepdim=True)
        return both.clamp(-peak, peak).mul_(power)

    mean, deviation = by_slices(stacked, activations).unbind(1)
    return mean, deviation

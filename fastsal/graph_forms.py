"""Statistic, normal CDF and combination as a compiler or an exporter can follow them.

They hold no branch on values or sizes and write to nothing in place, and give what the forms that
`SMOEScale` takes give. They are laid out for few passes over the activations where, as in
onnxruntime, each operation is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsal.normalize import CONSTANT
from fastsal.statistics import GROUP, STATISTICS, Statistic

EPSILON = 1e-6


def graph_form(statistic: Statistic, rectified: bool) -> Callable[[Tensor], Tensor]:
    """Return a function of a layer's tensor `(N, C, h, w)` to the statistic `(N, h, w)`.

    SMOE Scale, the mean and the standard deviation have forms of their own; of the others it is
    the registered function itself. A factor that is the same everywhere is left out: the normal
    CDF takes it away.

    Args:
        statistic: The statistic, defined after the ReLU.
        rectified: The tensor is known to have no negative values.

    >>> from fastsal.statistics import get_statistic
    >>> column = torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1)
    >>> bits = graph_form(get_statistic("smoe_scale"), True)(column) / math.log(2)
    >>> round(bits.item(), 3)
    0.064
    """
    registered = STATISTICS.get(statistic.name) is statistic
    own = GRAPH_FORMS.get(statistic.name, statistic) if registered else statistic

    def form(activations: Tensor) -> Tensor:
        activations = activations.float()
        return own(activations if rectified else activations.clamp_min(0))

    return form


def smoe_scale_nats(activations: Tensor) -> Tensor:
    """Return SMOE Scale with the natural logarithm, `(N, h, w)`, of non-negative `(N, C, h, w)`."""
    channels = activations.shape[1]
    quarter = channels // GROUP
    shifted = activations + EPSILON
    mean = _channel_mean(activations, EPSILON)
    sizes = [quarter] * GROUP * (quarter > 0) + [channels % GROUP] * (channels % GROUP > 0)
    parts = torch.split(shifted, sizes, 1)
    sum_log: Tensor | float = 0.0
    if quarter:
        # Of four factors the product stays a normal float32 number, as in `smoe_scale`.
        product = (parts[0] * parts[1]) * (parts[2] * parts[3])
        sum_log = _channel_mean(product.log()) * quarter
    if channels % GROUP:
        sum_log = sum_log + parts[-1].log().sum(1, keepdim=True)
    log_mean = mean.log()
    difference = log_mean - sum_log / channels
    # As in `smoe_scale`, which has both in bits. What left float32's range stays to be seen.
    rounding = 8 * torch.finfo(torch.float32).eps
    negligible = difference.abs() < log_mean.abs() * rounding + rounding * math.log(2)
    return (mean * torch.where(negligible, 0.0, difference)).squeeze(1)


def mean(activations: Tensor) -> Tensor:
    """Return the mean over channels, `(N, h, w)`, of `(N, C, h, w)`."""
    return _channel_mean(activations).squeeze(1)


def std(activations: Tensor) -> Tensor:
    """Return the standard deviation over channels, `(N, h, w)`, of `(N, C, h, w)`."""
    deviations = activations - _channel_mean(activations)
    return _channel_mean(deviations * deviations).sqrt().squeeze(1)


GRAPH_FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "smoe_scale": smoe_scale_nats,
    "mean": mean,
    "std": std,
}


def _channel_mean(activations: Tensor, bias: float = 0.0) -> Tensor:
    """Return the mean over channels plus a number, `(N, 1, h, w)`.

    By a convolution, which onnxruntime does in a third of the time that its ReduceMean takes.
    """
    channels = activations.shape[1]
    weight = activations.new_full((1, channels, 1, 1), 1 / channels)
    return F.conv2d(activations, weight, activations.new_full((1,), bias) if bias else None)


def gaussian(maps: Tensor) -> Tensor:
    """Return the normal CDF of maps `(N, h, w)` each by its own mean and deviation.

    As `fastsal.normalize.gaussian` does it; a constant map is 0.5 everywhere.

    >>> squashed = gaussian(torch.tensor([[[1.0, 2.0, 3.0]]]))
    >>> [round(value, 4) for value in squashed.flatten().tolist()]
    [0.1587, 0.5, 0.8413]
    """
    tiny = torch.finfo(torch.float32).tiny
    maps = maps / maps.abs().amax((1, 2), keepdim=True).clamp_min(tiny)
    centred = maps - maps.mean((1, 2), keepdim=True)
    locations = maps.shape[1] * maps.shape[2]
    # Of one location, which deviates by 0, the divisor is 1; a branch would fix an image's size.
    correction = locations / (locations - 1 + 1 // locations)
    deviation = ((centred * centred).mean((1, 2), keepdim=True) * correction).sqrt()
    constant = deviation <= CONSTANT
    slope = torch.where(constant, 0.0, math.sqrt(0.5) / torch.where(constant, 1.0, deviation))
    return torch.erf(centred * slope) * 0.5 + 0.5


def upsampled(maps: Sequence[Tensor], image: Tensor) -> Tensor:
    """Return maps `(N, h, w)` of several scales as `(N, R, H, W)`, at the image's size."""
    size = image.shape[2:]
    return torch.cat(
        [
            F.interpolate(one.unsqueeze(1), size=size, mode="bilinear", align_corners=False)
            for one in maps
        ],
        1,
    )


def weighted(stacked: Tensor, shares: Sequence[float]) -> Tensor:
    """Return the sum `(N, H, W)` of maps `(N, R, H, W)`, each times its share."""
    weight = torch.tensor(shares, dtype=stacked.dtype, device=stacked.device)
    return F.conv2d(stacked, weight.reshape(1, -1, 1, 1)).squeeze(1)

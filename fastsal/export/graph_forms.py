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

from fastsal.kernels.constants import CONSTANT, EPSILON
from fastsal.statistics.registry import STATISTICS, Statistic
from fastsal.statistics.smoe import GROUP

# Of channels that are read together; GROUP times a power of two.
MOST_PARTS = 16


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
    mean = channel_mean(activations) + EPSILON
    log_mean = mean.log()
    difference = log_mean - _sum_log(activations) / channels
    # As in `smoe_scale`, which has both in bits. What left float32's range stays to be seen.
    rounding = 8 * torch.finfo(torch.float32).eps
    negligible = difference.abs() < log_mean.abs() * rounding + rounding * math.log(2)
    return (mean * torch.where(negligible, 0.0, difference)).squeeze(1)


def _sum_log(activations: Tensor) -> Tensor:
    """Return the sum over channels of the logarithms, `(N, 1, h, w)`, of `(N, C, h, w)`.

    Of four factors the product stays a normal float32 number, as in `smoe_scale`; of two such
    products' square roots it does too, and so on, so that one logarithm serves up to 16 channels.
    The parts are small enough to stay in a processor's cache from one operation to the next, which
    the whole tensor is not.
    """
    channels = activations.shape[1]
    parts = GROUP
    while parts < MOST_PARTS and channels % (2 * parts) == 0:
        parts *= 2
    each, left = channels // parts, channels % parts
    split = torch.split(activations, [each] * parts * (each > 0) + [left] * (left > 0), 1)
    shifted = [part + EPSILON for part in split]
    total = shifted.pop().log().sum(1, keepdim=True) if left else None
    if not each:
        return activations.new_zeros(()) if total is None else total
    products = _in_pairs(_in_pairs(shifted))
    while len(products) > 1:
        products = _in_pairs([product.sqrt() for product in products])
    # Each halving of their number took square roots of all factors.
    grouped = channel_mean(products[0].log()) * (each * parts // GROUP)
    return grouped if total is None else grouped + total


def _in_pairs(factors: Sequence[Tensor]) -> list[Tensor]:
    return [factors[index] * factors[index + 1] for index in range(0, len(factors), 2)]


def mean(activations: Tensor) -> Tensor:
    """Return the mean over channels, `(N, h, w)`, of `(N, C, h, w)`."""
    return channel_mean(activations).squeeze(1)


def std(activations: Tensor) -> Tensor:
    """Return the standard deviation over channels, `(N, h, w)`, of `(N, C, h, w)`."""
    deviations = activations - channel_mean(activations)
    return channel_mean(deviations * deviations).sqrt().squeeze(1)


GRAPH_FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "smoe_scale": smoe_scale_nats,
    "mean": mean,
    "std": std,
}


def channel_mean(activations: Tensor) -> Tensor:
    """Return the mean over channels, `(N, 1, h, w)`.

    By a matrix product, which onnxruntime does in a fraction of the time of its ReduceMean, and in
    less than a convolution, for which it lays memory out anew.

    >>> channel_mean(torch.tensor([1.0, 5.0]).reshape(1, 2, 1, 1)).item()
    3.0
    """
    images, channels, height, width = activations.shape
    weight = activations.new_full((1, 1, channels), 1 / channels)
    mean = torch.matmul(weight, activations.reshape(images, channels, height * width))
    return mean.reshape(images, 1, height, width)


def gaussian(maps: Tensor) -> Tensor:
    """Return the normal CDF of maps `(N, h, w)` each by its own mean and deviation.

    As `fastsal.maps.normalization.gaussian` does it; a constant map is 0.5 everywhere.

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

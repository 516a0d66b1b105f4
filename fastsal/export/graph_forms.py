"""The statistic, the normal CDF and the combination in a form that compilers can trace.

The functions have no branch on values or sizes and no in-place operation. Their results are those
of the kernels that `SMOEScale` runs. They take few operations, since onnxruntime makes a pass over
memory of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsal.kernels.constants import CONSTANT_SPREAD, EPSILON
from fastsal.statistics import slices
from fastsal.statistics.registry import STATISTICS, Statistic
from fastsal.statistics.smoe import GROUP

# The largest number of blocks into which the channels are split: GROUP times a power of two.
MOST_BLOCKS = 16
# Below, a product of four activations could lose digits.
LEAST_EPSILON = 1e-9


def graph_form(statistic: Statistic, rectified: bool) -> Callable[[Tensor], Tensor]:
    """Return the function from a layer's tensor `(N, C, h, w)` to the statistic `(N, h, w)`.

    SMOE Scale, the mean and the standard deviation have forms of their own here; for every other
    statistic it is the registered function. A constant factor is left out, since the normal CDF
    cancels it.

    Args:
        statistic: A statistic that is defined after the ReLU.
        rectified: True if the tensor has no negative values; else they are set to 0 first.

    Example:
        >>> from fastsal.statistics import get_statistic
        >>> column = torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1)
        >>> bits = graph_form(get_statistic("smoe_scale"), True)(column) / math.log(2)
        >>> round(bits.item(), 3)
        0.064
    """
    registered = STATISTICS.get(statistic.name)
    function: Callable[[Tensor], Tensor] = statistic
    if registered is statistic:
        function = GRAPH_FORMS.get(statistic.name, statistic)
    elif (
        registered is not None
        and statistic.epsilon is not None
        and _has_another_epsilon(statistic, registered)
    ):
        function = partial(smoe_scale_nats, epsilon=statistic.epsilon)
    # Not a function in this one, which could not be pickled.
    return partial(_of_rectified, function, rectified)


def _has_another_epsilon(statistic: Statistic, registered: Statistic) -> bool:
    """Return True for SMOE Scale with another epsilon, for which its form here is exact."""
    given = statistic.function
    return (
        registered.name == "smoe_scale"
        and isinstance(given, partial)
        and given.func is registered.function
        and given.keywords.keys() == {"epsilon"}
        and given.keywords["epsilon"] >= LEAST_EPSILON
    )


def _of_rectified(
    function: Callable[[Tensor], Tensor], rectified: bool, activations: Tensor
) -> Tensor:
    activations = activations.float()
    return function(activations if rectified else slices.rectified(activations))


def smoe_scale_nats(activations: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Return SMOE Scale in nats, `(N, h, w)`, of non-negative activations `(N, C, h, w)`."""
    channels = activations.shape[1]
    mean = channel_mean(activations) + epsilon
    log_mean = mean.log()
    difference = log_mean - _sum_log(activations, epsilon) / channels
    return of_logarithms(mean, log_mean, difference).squeeze(1)


def of_logarithms(mean: Tensor, log_mean: Tensor, difference: Tensor) -> Tensor:
    """Return the mean times a difference of logarithms, which is 0 where rounding alone made it.

    Args:
        mean: The mean of the channels.
        log_mean: Its natural logarithm.
        difference: `log_mean` less the mean of the channels' logarithms.
    """
    # As in `smoe_scale`, which has both in bits. Overflow stays visible as infinity or NaN.
    rounding = 8 * torch.finfo(torch.float32).eps
    negligible = difference.abs() < log_mean.abs() * rounding + rounding * math.log(2)
    return mean * torch.where(negligible, 0.0, difference)


def _sum_log(activations: Tensor, epsilon: float) -> Tensor:
    """Return the sum over channels of the logarithms, `(N, 1, h, w)`, of `(N, C, h, w)`.

    The channels are split into blocks, and one logarithm of a product over the blocks serves up to
    16 channels. The product of four factors stays a normal float32 number, as in `smoe_scale`; so
    does the product of the square roots of two such products, and so on. A block stays in the
    processor's cache from one operation to the next; the whole tensor does not.
    """
    channels = activations.shape[1]
    blocks = GROUP
    while blocks < MOST_BLOCKS and channels % (2 * blocks) == 0:
        blocks *= 2
    width, rest = channels // blocks, channels % blocks
    split = torch.split(activations, [width] * blocks * (width > 0) + [rest] * (rest > 0), 1)
    shifted = [block + epsilon for block in split]
    total = shifted.pop().log().sum(1, keepdim=True) if rest else None
    if not width:
        return activations.new_zeros(()) if total is None else total
    products = _products_of_pairs(_products_of_pairs(shifted))
    while len(products) > 1:
        products = _products_of_pairs([product.sqrt() for product in products])
    # Every halving of the number of products took the square root of all factors.
    grouped = channel_mean(products[0].log()) * (width * blocks // GROUP)
    return grouped if total is None else grouped + total


def _products_of_pairs(factors: Sequence[Tensor]) -> list[Tensor]:
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
    """Return the mean over channels, `(N, 1, h, w)`, of `(N, C, h, w)` as a matrix product.

    onnxruntime runs a matrix product in a fraction of the time of its ReduceMean, and faster than
    a convolution, for which it changes the memory layout.

    Example:
        >>> channel_mean(torch.tensor([1.0, 5.0]).reshape(1, 2, 1, 1)).item()
        3.0
    """
    images, channels, height, width = activations.shape
    weight = activations.new_full((1, 1, channels), 1 / channels)
    mean = torch.matmul(weight, activations.reshape(images, channels, height * width))
    return mean.reshape(images, 1, height, width)


def gaussian(maps: Tensor) -> Tensor:
    """Return the normal CDF of maps `(N, h, w)`, each with its own mean and standard deviation.

    The result is that of `fastsal.maps.normalization.gaussian`; a constant map is 0.5 everywhere.

    Example:
        >>> normalized = gaussian(torch.tensor([[[1.0, 2.0, 3.0]]]))
        >>> [round(value, 4) for value in normalized.flatten().tolist()]
        [0.1587, 0.5, 0.8413]
    """
    tiny = torch.finfo(torch.float32).tiny
    maps = maps / maps.abs().amax((1, 2), keepdim=True).clamp_min(tiny)
    centred = maps - maps.mean((1, 2), keepdim=True)
    locations = maps.shape[1] * maps.shape[2]
    # The divisor is 1 for a single location, whose deviation is 0. A branch would fix the size.
    correction = locations / (locations - 1 + 1 // locations)
    deviation = ((centred * centred).mean((1, 2), keepdim=True) * correction).sqrt()
    constant = deviation <= CONSTANT_SPREAD
    slope = torch.where(constant, 0.0, math.sqrt(0.5) / torch.where(constant, 1.0, deviation))
    return torch.erf(centred * slope) * 0.5 + 0.5


def upsampled(maps: Sequence[Tensor], image: Tensor) -> Tensor:
    """Return the maps `(N, h, w)` of R scales as `(N, R, H, W)`, upsampled to the image's size."""
    size = image.shape[2:]
    return torch.cat(
        [
            F.interpolate(one.unsqueeze(1), size=size, mode="bilinear", align_corners=False)
            for one in maps
        ],
        1,
    )


def weighted(stacked: Tensor, shares: Sequence[float]) -> Tensor:
    """Return the weighted sum `(N, H, W)` of maps `(N, R, H, W)`.

    Args:
        stacked: The maps.
        shares: R weights, whose sum is 1.
    """
    weight = torch.tensor(shares, dtype=stacked.dtype, device=stacked.device)
    return F.conv2d(stacked, weight.reshape(1, -1, 1, 1)).squeeze(1)

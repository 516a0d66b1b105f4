"""The statistic, the normal CDF and the combination in a form that compilers can trace.

The functions have no branch on values and no in-place operation. Their results are those of the
kernels that `SMOEScale` runs. They take few operations, since engines make a pass over memory of
each: a statistic is a function of one or two sums over the channels, and that function is computed
once for the locations of all scales.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsal.arguments.inputs import grid_of
from fastsal.kernels.constants import CONSTANT_SPREAD, EPSILON
from fastsal.statistics import slices
from fastsal.statistics.centred import centred, less_means
from fastsal.statistics.registry import STATISTICS, Statistic
from fastsal.statistics.smoe import GROUP

# The values of an image from which on its channels are split into 8 and into 16 blocks: below, the
# further operations take longer than the logarithms that they save.
EIGHT_BLOCKS, SIXTEEN_BLOCKS = 2**17, 2**18
# Below, a product of four activations could lose digits.
LEAST_EPSILON = 1e-9


@dataclass(frozen=True)
class Reading:
    """What is read from the tensor of one scale.

    Attributes:
        sums: S sums over the channels, `(N, S, h * w)`.
        size: (h, w); (d, h, w) of volumes.
    """

    sums: Tensor
    size: tuple[int, ...]


@dataclass(frozen=True)
class GraphForm:
    """A statistic as a function of sums over the channels.

    Attributes:
        sums: The function from activations `(N, C, h, w)`, float32, to S sums `(N, S, h * w)`.
        of_sums: The function from sums `(N, S, P)` to the statistic `(N, 1, P)`.
        rectified: True if the activations have no negative values; else they are set to 0 first.
        linear: True if the activations are centred before that, as those of a residual stream.
    """

    sums: Callable[[Tensor], Tensor]
    of_sums: Callable[[Tensor], Tensor]
    rectified: bool
    linear: bool

    def __call__(self, activations: Tensor) -> Reading | Tensor:
        """Return the sums of a layer's tensor `(N, C, h, w)`."""
        return self.reading(self.centred(activations))

    def centred(self, activations: Tensor) -> Tensor:
        """Return activations less their channels' means, if they are centred."""
        return less_means(activations) if self.linear else activations

    def reading(self, activations: Tensor) -> Reading:
        """Return the sums of activations `(N, C, h, w)`, which are centred if they are to be."""
        activations = activations.float()
        if not self.rectified:
            activations = slices.rectified(activations)
        return Reading(self.sums(activations), tuple(activations.shape[2:]))


def graph_form(statistic: Statistic, rectified: bool, linear: bool = False) -> GraphForm:
    """Return the form of a statistic that compilers can trace.

    SMOE Scale, the mean and the standard deviation have forms of their own here; for every other
    statistic it is the registered function. A constant factor is left out, since the normal CDF
    cancels it.

    Args:
        statistic: A statistic that is not defined before the ReLU.
        rectified: True if the tensor has no negative values, or the statistic is defined on them;
            else they are set to 0 first.
        linear: True if no activation function made the tensor, which is centred before that.

    Example:
        >>> from fastsal.statistics import get_statistic
        >>> form = graph_form(get_statistic("smoe_scale"), True)
        >>> column = torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1)
        >>> bits = form.of_sums(form(column).sums) / math.log(2)
        >>> round(bits.item(), 3)
        0.064
    """
    registered = STATISTICS.get(statistic.name)
    if registered is statistic and statistic.name in GRAPH_FORMS:
        return GraphForm(*GRAPH_FORMS[statistic.name], rectified, linear)
    if (
        registered is not None
        and statistic.epsilon is not None
        and _has_another_epsilon(statistic, registered)
    ):
        sums, of_sums = GRAPH_FORMS[statistic.name]
        return GraphForm(partial(sums, epsilon=statistic.epsilon), of_sums, rectified, linear)
    # Not a function in this one, which could not be pickled.
    return GraphForm(partial(_whole, statistic), _itself, rectified, linear)


def _has_another_epsilon(statistic: Statistic, registered: Statistic) -> bool:
    """Return True for a statistic with another epsilon, for which its form here is exact."""
    given = statistic.function
    return (
        registered.name in GRAPH_FORMS
        and isinstance(given, partial)
        and given.func is registered.function
        and given.keywords.keys() == {"epsilon"}
        and given.keywords["epsilon"] >= LEAST_EPSILON
    )


def _whole(statistic: Callable[[Tensor], Tensor], activations: Tensor) -> Tensor:
    return statistic(activations).flatten(1).unsqueeze(1)


def _itself(values: Tensor) -> Tensor:
    return values


def smoe_sums(activations: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Return the mean plus epsilon, and the mean logarithm, of activations `(N, C, h, w)`."""
    activations = activations.flatten(2)
    # One tensor of both: onnxruntime then ends with a scale before it goes on with the network.
    return torch.cat([channel_mean(activations) + epsilon, _mean_log(activations, epsilon)], 1)


def centred_smoe_sums(activations: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Return `smoe_sums` of centred activations `(N, C, h, w)`."""
    return smoe_sums(slices.rectified(centred(activations)), epsilon)


def smoe_of_sums(sums: Tensor) -> Tensor:
    """Return SMOE Scale in nats of the mean plus epsilon and the mean logarithm."""
    return smoe_of_means(sums[:, :1], sums[:, 1:])


def smoe_of_means(mean: Tensor, mean_log: Tensor) -> Tensor:
    """Return SMOE Scale in nats of the mean plus epsilon and the mean logarithm, one shape."""
    log_mean = mean.log()
    difference = log_mean - mean_log
    # As in `smoe_scale`, which has both in bits. Overflow stays visible as infinity or NaN.
    rounding = 8 * torch.finfo(torch.float32).eps
    negligible = difference.abs() < log_mean.abs() * rounding + rounding * math.log(2)
    return mean * torch.where(negligible, 0.0, difference)


def _mean_log(activations: Tensor, epsilon: float) -> Tensor:
    """Return the mean over channels of the logarithms, `(N, 1, P)`, of `(N, C, P)`.

    The channels are split into blocks, and one logarithm of a product over the blocks serves up to
    16 channels. The product of four factors stays a normal float32 number, as in `smoe_scale`; so
    does the product of the square roots of two such products, and so on. The blocks are slices,
    which OpenVINO does not copy, and a block stays in the processor's cache from one operation to
    the next.
    """
    channels, locations = activations.shape[1:]
    blocks = _blocks(channels, locations)
    width = channels // blocks
    shifted = [
        activations[:, index * width : (index + 1) * width] + epsilon for index in range(blocks)
    ]
    total = (activations[:, width * blocks :] + epsilon).log().sum(1, keepdim=True)
    if not width:
        return total / channels
    products = _products_of_pairs(_products_of_pairs(shifted))
    while len(products) > 1:
        products = _products_of_pairs([product.sqrt() for product in products])
    # Every halving of the number of products took the square root of all factors.
    grouped = _weighted_sum(products[0].log(), blocks // GROUP / channels)
    return grouped + total / channels if width * blocks < channels else grouped


def _blocks(channels: int, locations: int) -> int:
    """Return the number of blocks of channels: GROUP, or 2 or 4 times that if it divides them."""
    # A compiler may have a symbol for the locations, of which a comparison would make a constant.
    values = channels * locations if isinstance(locations, int) else SIXTEEN_BLOCKS
    for blocks, least in ((4 * GROUP, SIXTEEN_BLOCKS), (2 * GROUP, EIGHT_BLOCKS)):
        if values >= least and channels % blocks == 0:
            return blocks
    return GROUP


def _products_of_pairs(factors: Sequence[Tensor]) -> list[Tensor]:
    return [factors[index] * factors[index + 1] for index in range(0, len(factors), 2)]


def mean_sums(activations: Tensor) -> Tensor:
    """Return the mean over the channels of activations `(N, C, h, w)`."""
    return channel_mean(activations.flatten(2))


def variance_sums(activations: Tensor) -> Tensor:
    """Return the variance over the channels of activations `(N, C, h, w)`."""
    activations = activations.flatten(2)
    deviations = activations - channel_mean(activations)
    return channel_mean(deviations * deviations)


GRAPH_FORMS: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor], Tensor]]] = {
    "smoe_scale": (smoe_sums, smoe_of_sums),
    "centred_smoe_scale": (centred_smoe_sums, smoe_of_sums),
    "mean": (mean_sums, _itself),
    "std": (variance_sums, torch.sqrt),
}


def channel_mean(activations: Tensor) -> Tensor:
    """Return the mean over channels, `(N, 1, P)`, of `(N, C, P)` as a matrix product.

    onnxruntime runs a matrix product in a fraction of the time of its ReduceMean, and faster than
    a convolution, for which it changes the memory layout.

    Example:
        >>> channel_mean(torch.tensor([1.0, 5.0]).reshape(1, 2, 1)).item()
        3.0
    """
    return _weighted_sum(activations, 1 / activations.shape[1])


def _weighted_sum(values: Tensor, weight: float) -> Tensor:
    return torch.matmul(values.new_full((1, 1, values.shape[1]), weight), values)


def gaussian(maps: Tensor) -> Tensor:
    """Return the normal CDF of maps `(N, h, w)`, each with its own mean and standard deviation.

    The result is that of `fastsal.maps.normalization.gaussian`; a constant map is 0.5 everywhere.
    Maps of volumes are `(N, d, h, w)`.

    Example:
        >>> normalized = gaussian(torch.tensor([[[1.0, 2.0, 3.0]]]))
        >>> [round(value, 4) for value in normalized.flatten().tolist()]
        [0.1587, 0.5, 0.8413]
    """
    tiny = torch.finfo(torch.float32).tiny
    axes = tuple(range(1, maps.dim()))
    maps = maps / maps.abs().amax(axes, keepdim=True).clamp_min(tiny)
    spread = maps - maps.mean(axes, keepdim=True)
    locations = math.prod(maps.shape[1:])
    # The divisor is 1 for a single location, whose deviation is 0. A branch would fix the size.
    correction = locations / (locations - 1 + 1 // locations)
    deviation = ((spread * spread).mean(axes, keepdim=True) * correction).sqrt()
    return torch.erf(spread * slope_of(deviation)) * 0.5 + 0.5


def slope_of(deviation: Tensor) -> Tensor:
    """Return the factor of a centred map in the error function: 0 for a constant map."""
    constant = deviation <= CONSTANT_SPREAD
    return torch.where(constant, 0.0, math.sqrt(0.5) / torch.where(constant, 1.0, deviation))


def upsampled(maps: Tensor, image: Tensor) -> Tensor:
    """Return maps `(N, h, w)` as `(N, H, W)`, upsampled to the image's size.

    Args:
        maps: `(N, h, w)`; of volumes `(N, d, h, w)`, of signals `(N, 1, t)`.
        image: The batch of images, volumes or signals.
    """
    mode = "bilinear" if maps.dim() == 3 else "trilinear"
    size = grid_of(image)
    return F.interpolate(maps.unsqueeze(1), size=size, mode=mode).squeeze(1)


def weighted(maps: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Return the weighted sum `(N, H, W)` of maps `(N, H, W)`.

    Args:
        maps: R maps.
        shares: R weights, whose sum is 1.
    """
    total = maps[0] * shares[0]
    for one, share in zip(maps[1:], shares[1:], strict=True):
        total = total + one * share
    return total

"""Normalisations of maps to [0, 1], before the scales are combined.

A normalisation maps `(N, H, W)` to `(N, H, W)`, each image by itself; `each_map` applies one to
maps on any grid, and `over_batch` to a batch as a whole. A new one is a function decorated with
`register_normalization`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from fastsal.kernels.constants import CONSTANT_SPREAD
from fastsal.kernels.dispatch import kernels_for
from fastsal.registry import Registry
from fastsal.statistics.gamma import gamma_shape, log_spread, minus_log1p

Normalization = Callable[[Tensor], Tensor]
NormalizeOver = Literal["image", "batch"]

# Added to each value, as a share of the map's largest magnitude.
GAMMA_EPSILON = 1e-6
# The Gamma shape from which on the expansion around the normal CDF is exact in float32.
NEARLY_NORMAL = 1e4

NORMALIZATIONS: Registry[Normalization] = Registry("normalization")


def register_normalization(name: str) -> Callable[[Normalization], Normalization]:
    """Register the decorated function as a normalisation; the function is returned unchanged.

    Args:
        name (str): The name for `SMOEScale(normalize=name)`.

    Returns:
        A decorator.

    Raises:
        ValueError: If the name is taken.

    Example:
        >>> @register_normalization("halves")
        ... def halves(maps):
        ...     return maps / 2
        >>> get_normalization("halves")(torch.ones(1, 1, 1)).item()
        0.5
        >>> del NORMALIZATIONS["halves"]
    """

    def decorate(function: Normalization) -> Normalization:
        NORMALIZATIONS.register(name, function)
        return function

    return decorate


def get_normalization(name: str) -> Normalization:
    """Return the normalisation of a name.

    Raises:
        ValueError: If no normalisation has that name; the message lists the names.

    >>> get_normalization("gaussian").__name__
    'gaussian'
    """
    return NORMALIZATIONS[name]


def each_map(normalization: Normalization, maps: Tensor) -> Tensor:
    """Return maps normalised one by one, those of volumes `(N, D, H, W)` as maps of D H rows.

    >>> each_map(minmax, torch.tensor([[[[1.0]], [[2.0]], [[3.0]]]])).flatten().tolist()
    [0.0, 0.5, 1.0]
    """
    return normalization(maps.flatten(1, -2)).reshape(maps.shape)


def over_batch(normalization: Normalization, maps: Tensor) -> Tensor:
    """Return maps normalised together, as if the batch were one large map.

    Args:
        normalization: A normalisation of single maps.
        maps: `(N, H, W)`.

    Returns:
        `(N, H, W)`; the order of values is kept also between images.

    >>> over_batch(minmax, torch.tensor([[[1.0, 2.0]], [[3.0, 5.0]]])).tolist()
    [[[0.0, 0.25]], [[0.5, 1.0]]]
    """
    return normalization(maps.reshape(1, -1, maps.shape[-1])).reshape(maps.shape)


@register_normalization("gaussian")
def gaussian(maps: Tensor) -> Tensor:
    r"""Return the normal CDF of each value, with the mean and standard deviation of its map.

    $$\gamma(x) = \tfrac{1}{2}\Big(1 + \mathrm{erf}\frac{x - \mu}{\sigma\sqrt{2}}\Big)$$

    The standard deviation divides by the number of locations less one, as in the authors' code. A
    constant map, a single location among them, is 0.5 everywhere.

    Args:
        maps: `(N, H, W)`.

    Returns:
        `(N, H, W)` in [0, 1], float32 or finer.

    Reference:
        Mundhenk, Chen & Friedland, "Efficient Saliency Maps for Explainable AI", section 2.

    >>> squashed = gaussian(torch.tensor([[[1.0, 2.0, 3.0]]]))
    >>> [round(value, 4) for value in squashed.flatten().tolist()]
    [0.1587, 0.5, 0.8413]
    """
    maps = _at_least_float32(maps)
    from_kernel: Tensor | None = kernels_for(maps).gaussian(maps)
    if from_kernel is not None:
        return from_kernel
    if maps.shape[1] * maps.shape[2] < 2:
        return torch.full_like(maps, 0.5)
    # Divided by the largest value: squares of very large or small values leave float32's range.
    maps = maps / maps.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    deviation, mean = torch.std_mean(maps, (1, 2), keepdim=True)
    constant = deviation <= CONSTANT_SPREAD
    scores = (maps - mean) / deviation.masked_fill(constant, 1)
    squashed: Tensor = torch.special.ndtr(scores.masked_fill_(constant, 0))
    return squashed


@register_normalization("gamma")
def gamma(maps: Tensor) -> Tensor:
    r"""Return the Gamma CDF of each value, with the maximum-likelihood fit to its map.

    $$\gamma(x) = P(k, x / \theta), \qquad k, \theta \text{ as in } \texttt{gamma\_scale}$$

    with `P` the regularised lower incomplete Gamma function. Zeros have no logarithm: 1e-6 of the
    map's largest magnitude is added to each value first. A map with negative values, for which a
    Gamma distribution is not defined, is shifted so that its smallest is 0. A constant map, a
    single location among them, is 0.5 everywhere. The paper has the normal CDF alone.
    Deviations from the authors' code: that subtracts each map's smallest value, adds 1e-7 whatever
    the unit, and limits k to 18.

    Args:
        maps: `(N, H, W)`.

    Returns:
        `(N, H, W)` in [0, 1], float32 or finer.

    >>> squashed = gamma(torch.tensor([[[1.0, 2.0, 3.0]]]))
    >>> [round(value, 4) for value in squashed.flatten().tolist()]
    [0.0986, 0.5574, 0.8744]
    """
    maps = _at_least_float32(maps)
    if maps.shape[1] * maps.shape[2] < 2:
        return torch.full_like(maps, 0.5)
    maps = maps / maps.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    maps = maps - maps.amin((1, 2), keepdim=True).clamp_max(0) + GAMMA_EPSILON
    deviation, mean = torch.std_mean(maps, (1, 2), keepdim=True)
    constant = deviation <= CONSTANT_SPREAD
    ratios = maps / mean
    shape = gamma_shape(log_spread(ratios, (1, 2)))
    small = shape.clamp_max(NEARLY_NORMAL)
    squashed: Tensor = torch.special.gammainc(small, small * ratios)
    if (shape > NEARLY_NORMAL).any():
        squashed = torch.where(shape > NEARLY_NORMAL, _nearly_normal(shape, ratios), squashed)
    return squashed.masked_fill(constant, 0.5)


def _nearly_normal(shape: Tensor, ratios: Tensor) -> Tensor:
    """Return P(k, k r) for large k, by the first term of Temme's uniform expansion.

    The incomplete Gamma function itself loses the digits of r near 1.
    """
    eta = (2 * minus_log1p(ratios)).sqrt().copysign(ratios - 1)
    scores = eta * shape.sqrt()
    density = torch.exp(-scores.square() / 2) / math.sqrt(2 * math.pi)
    normal: Tensor = torch.special.ndtr(scores)
    return normal + density * (1 / 3 - eta / 12) * shape.rsqrt()


@register_normalization("minmax")
def minmax(maps: Tensor) -> Tensor:
    """Return each map scaled linearly, its smallest value to 0 and its largest to 1.

    A constant map is 0.5 everywhere.

    Args:
        maps: `(N, H, W)`.

    Returns:
        `(N, H, W)` in [0, 1], float32 or finer.

    >>> minmax(torch.tensor([[[1.0, 2.0, 3.0]]])).tolist()
    [[[0.0, 0.5, 1.0]]]
    """
    maps = _at_least_float32(maps)
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    peak = torch.maximum(low.abs(), high.abs())
    # Halved, since two large numbers of different signs can be further apart than float32 holds.
    share = torch.where(peak > torch.finfo(maps.dtype).max / 2, 0.5, 1.0).to(maps.dtype)
    low, spread = low * share, high * share - low * share
    constant = spread <= CONSTANT_SPREAD * peak
    return ((maps * share - low) / spread.masked_fill(constant, 1)).masked_fill_(constant, 0.5)


@register_normalization("none")
def none(maps: Tensor) -> Tensor:
    """Return the maps unchanged, so that values of different images can be compared.

    >>> none(torch.tensor([[[1.0, 2.0]]])).tolist()
    [[[1.0, 2.0]]]
    """
    return maps


def _at_least_float32(maps: Tensor) -> Tensor:
    return maps.to(torch.promote_types(maps.dtype, torch.float32))

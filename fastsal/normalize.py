"""Ways to squash each map to [0, 1] before the scales are combined.

Each maps `(N, H, W)` to `(N, H, W)`, every image by itself. One is added by writing one function
and decorating it with `register_normalization`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Normalization = Callable[[Tensor], Tensor]

# A spread this small beside the values is what float32 leaves of a constant map.
CONSTANT = 1e-6

NORMALIZATIONS: dict[str, Normalization] = {}


def register_normalization(name: str) -> Callable[[Normalization], Normalization]:
    """Register the decorated function under a name.

    Raises:
        ValueError: If the name is taken.
    """

    def decorate(function: Normalization) -> Normalization:
        if name in NORMALIZATIONS:
            raise ValueError(f"a normalization named {name!r} is registered already")
        NORMALIZATIONS[name] = function
        return function

    return decorate


def get_normalization(name: str) -> Normalization:
    """Return the normalization of a name.

    Raises:
        ValueError: If there is none of that name; the message lists those there are.

    >>> get_normalization("gaussian").__name__
    'gaussian'
    """
    if name not in NORMALIZATIONS:
        raise ValueError(f"unknown normalization {name!r}; choose from {sorted(NORMALIZATIONS)}")
    return NORMALIZATIONS[name]


@register_normalization("gaussian")
def gaussian(maps: Tensor) -> Tensor:
    r"""Return the normal CDF of every value, by its own map's mean and standard deviation.

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
    if maps.shape[1] * maps.shape[2] < 2:
        return torch.full_like(maps, 0.5)
    # By the largest value first: squares of very large or small maps leave float32's range.
    maps = maps / maps.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    deviation, mean = torch.std_mean(maps, (1, 2), keepdim=True)
    constant = deviation <= CONSTANT
    scores = (maps - mean) / deviation.masked_fill(constant, 1)
    squashed: Tensor = torch.special.ndtr(scores.masked_fill_(constant, 0))
    return squashed


@register_normalization("minmax")
def minmax(maps: Tensor) -> Tensor:
    """Return every map stretched linearly, its smallest value to 0 and its largest to 1.

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
    spread = high - low
    constant = spread <= CONSTANT * torch.maximum(low.abs(), high.abs())
    return ((maps - low) / spread.masked_fill(constant, 1)).masked_fill_(constant, 0.5)


@register_normalization("none")
def none(maps: Tensor) -> Tensor:
    """Return the maps as they are, so that values can be compared between images.

    >>> none(torch.tensor([[[1.0, 2.0]]])).tolist()
    [[[1.0, 2.0]]]
    """
    return maps


def _at_least_float32(maps: Tensor) -> Tensor:
    return maps.to(torch.promote_types(maps.dtype, torch.float32))

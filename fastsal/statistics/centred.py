"""SMOE Scale of residual streams: activations are centred before negative ones count as 0."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastsal.geometry.placement import Placement
from fastsal.kernels.constants import EPSILON
from fastsal.statistics.registry import register_statistic
from fastsal.statistics.slices import check_activations
from fastsal.statistics.smoe import smoe_scale

__all__ = ["centred", "centred_smoe_scale", "less_means"]

# Of a mean, in units of it.
ROUNDING = 8 * torch.finfo(torch.float32).eps


@register_statistic(
    "centred_smoe_scale", citation="ours, of Mundhenk, Chen & Friedland 2019, Eq 1", domain="any"
)
def centred_smoe_scale(activations: Tensor, epsilon: float = EPSILON) -> Tensor:
    r"""Return SMOE Scale of each location, of centred activations where any is negative.

    $$x'_{ijk} = \max\Big(0,\; x_{ijk} - \frac{1}{h w} \sum_{i j} x_{ijk}\Big)$$

    The channels of a residual stream, as of ConvNeXt, PVT or a vision transformer, have offsets of
    their own, and 0 has no meaning there; the channel's mean over the locations of an image takes
    its place. An image whose activations are all non-negative, as after a ReLU, keeps them: its
    value is that of `smoe_scale`. Under `tile=` the mean is that of a tile. Means are raised by
    2^-20 of their magnitude, which float32 may round off: equal values leave no noise behind.

    Args:
        activations: `(N, C, H, W)` of any sign and floating type; computed in float32.
        epsilon: Added to every activation, above 0.

    Returns:
        `(N, H, W)`, float32.

    Raises:
        ValueError: If activations are not of four dimensions, or epsilon is not positive.

    Reference:
        `docs/results/architectures.md`, where it is measured.

    >>> stream = torch.tensor([[9.0, 9.5], [-1.0, 1.0]]).reshape(1, 2, 1, 2)
    >>> shifted = torch.tensor([[0.0, 0.25], [0.0, 1.0]]).reshape(1, 2, 1, 2)
    >>> torch.allclose(centred_smoe_scale(stream), smoe_scale(shifted), atol=1e-4)
    True
    """
    check_activations(activations)
    of_centred: Callable[..., Tensor] = smoe_scale
    return of_centred(centred(activations), epsilon)


def centred(activations: Tensor) -> Tensor:
    """Return activations less each channel's mean over the locations, where any is negative.

    Args:
        activations: `(N, C, H, W)` or `(N, C, D, H, W)`.

    Returns:
        In their shape, float32; images without negative activations keep them.

    >>> centred(torch.tensor([[3.0, -3.0], [-4.0, 4.0]]).reshape(1, 2, 1, 2)).flatten().tolist()
    [3.0, -3.0, -4.0, 4.0]
    """
    values = activations.float()
    signed = values.amin(tuple(range(1, values.dim())), keepdim=True) < 0
    return torch.where(signed, less_means(values), values)


def less_means(activations: Tensor, placement: Placement | None = None) -> Tensor:
    r"""Return activations less each channel's mean over the locations of an image.

    $$x_{ijk} - \frac{1}{h w} \sum_{i j} x_{ijk}$$

    The mean is raised by 2^-20 of its magnitude, which float32 may round off.

    Args:
        activations: `(N, C, H, W)` or `(N, C, D, H, W)`; `(N * blocks, C, H, W)` if the batch grows
            in the network, as by windows.
        placement: The places of the images' blocks; None if there are none.

    Returns:
        In the shape of the activations, float32.

    >>> less_means(torch.tensor([[3.0, -3.0], [-4.0, 4.0]]).reshape(1, 2, 1, 2)).flatten().tolist()
    [3.0, -3.0, -4.0, 4.0]
    """
    values = activations.float()
    locations = tuple(range(2, values.dim()))
    # Divided before they are summed, since numbers near float32's largest have a mean too.
    means = (values / math.prod(values.shape[2:])).sum(locations, keepdim=True)
    if placement is not None and placement.blocks > 1:
        along = 1 if placement.interleaved else 0
        shape = (-1, placement.blocks) if placement.interleaved else (placement.blocks, -1)
        blocks = means.unflatten(0, shape)  # type: ignore[no-untyped-call]
        means = blocks.mean(along, keepdim=True).expand_as(blocks).flatten(0, 1)
    return values - _rounded_up(means)


def _rounded_up(means: Tensor) -> Tensor:
    """Return means raised by what float32 may round off, which is all that equal values leave.

    After the rectification of statistics a channel of one value is 0 then, and no noise.
    """
    return means + ROUNDING * means.abs()

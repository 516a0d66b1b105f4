"""The weighted average of the maps of several scales."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from fastsal.geometry.placement import Placement
from fastsal.kernels.dispatch import kernels_for
from fastsal.maps.placing import placed
from fastsal.maps.resize import upsample


def combine(
    maps: Sequence[Tensor],
    weights: Sequence[float],
    size: Sequence[int],
    channels: int | None = None,
    placements: Sequence[Placement | None] | None = None,
) -> Tensor:
    r"""Return the weighted average of maps upsampled to one size, $\sum_k w_k S_k / \sum_k w_k$.

    Args:
        maps: One map `(N, h, w)` for each scale; `(N, d, h, w)` of volumes.
        weights: One weight for each map.
        size: (H, W) of the result; (D, H, W) of volumes, which are upsampled trilinearly.
        channels: The number of copies of the average along a channel dimension, each with memory
            of its own; None gives no such dimension.
        placements: The places of each scale's maps on the image, as `placed` takes them; None
            stretches all over the image.

    Returns:
        `(N, H, W)`, or `(N, channels, H, W)`. On a CPU with Numba and on a GPU with Triton no other
        tensor of that size is held; else, and of volumes, one upsampled map at a time is.

    Reference:
        Mundhenk, Chen & Friedland, "Efficient Saliency Maps for Explainable AI", Eq 3.

    >>> import torch
    >>> maps = [torch.zeros(1, 4, 4), torch.ones(1, 1, 1)]
    >>> combine(maps, [1, 3], (4, 4)).unique().tolist()
    [0.75]
    """
    if placements is not None:
        maps = [
            one if placement is None else placed(one, placement, size)
            for one, placement in zip(maps, placements, strict=True)
        ]
    total = math.fsum(weights)
    shares = [weight / total for weight in weights]
    repeated = maps[0].new_empty((maps[0].shape[0], channels or 1, *size))
    if len(size) > 2 or not kernels_for(repeated).combine(maps, shares, repeated):
        combined = repeated[:, 0].zero_()
        for scale_map, share in zip(maps, shares, strict=True):
            combined.add_(upsample(scale_map.to(combined.device), size)[:, 0], alpha=share)
        repeated[:, 1:] = repeated[:, :1]
    return repeated[:, 0] if channels is None else repeated

"""The maps of several scales as one: upsampling and the weighted average."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from fastsal.kernels import cpu, cuda
from fastsal.maps.prior import Prior, loaded

# Measured on ResNet-50, the shallowest scale first. Taken from the paper as given: no formula tried
# on its Table 4 (difference and information scores, by data set, statistic and logarithm, and
# their averages) gives all five. Nearest is ImageNet's SMOE Scale, by layer,
# rho log2(z / rho) + kappa log2(kappa / z): 0.192, 0.172, 0.344, 0.402, 0.695.
PRIOR_WEIGHTS = (0.18, 0.15, 0.37, 0.4, 0.72)

Weights = str | Path | Prior | Sequence[float]


def combine(
    maps: Sequence[Tensor],
    weights: Sequence[float],
    size: tuple[int, int],
    channels: int | None = None,
) -> Tensor:
    r"""Return the weighted average of maps upsampled to one size, $\sum_k w_k S_k / \sum_k w_k$.

    Args:
        maps: For each scale `(N, h, w)`.
        weights: One for each map.
        size: (H, W).
        channels: Repeats the average over so many, each its own memory; None gives no such
            dimension.

    Returns:
        `(N, H, W)`, or `(N, channels, H, W)`. Nothing else of that size is held on a CPU with Numba
        and on a GPU with Triton; else one upsampled map at a time.

    Reference:
        Mundhenk, Chen & Friedland, "Efficient Saliency Maps for Explainable AI", Eq 3.

    >>> import torch
    >>> maps = [torch.zeros(1, 4, 4), torch.ones(1, 1, 1)]
    >>> combine(maps, [1, 3], (4, 4)).unique().tolist()
    [0.75]
    """
    total = math.fsum(weights)
    shares = [weight / total for weight in weights]
    repeated = maps[0].new_empty((maps[0].shape[0], channels or 1, *size))
    forms = cpu if repeated.is_cpu else cuda
    if not forms.combine(maps, shares, repeated):
        combined = repeated[:, 0].zero_()
        for scale_map, share in zip(maps, shares, strict=True):
            combined.add_(upsample(scale_map.to(combined.device), size)[:, 0], alpha=share)
        repeated[:, 1:] = repeated[:, :1]
    return repeated[:, 0] if channels is None else repeated


def upsample(maps: Tensor, size: Sequence[int], mode: str = "bilinear") -> Tensor:
    """Return maps `(N, h, w)` interpolated to `(N, 1, H, W)`; corners are not aligned.

    >>> import torch
    >>> upsample(torch.ones(2, 3, 3), (6, 6)).shape
    torch.Size([2, 1, 6, 6])
    """
    maps = maps.unsqueeze(1)
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    aligned = False if mode in ("bilinear", "bicubic") else None
    return F.interpolate(maps, size=tuple(size), mode=mode, align_corners=aligned)


def layer_weights(weights: Weights, layers: int, names: Sequence[str] = ()) -> tuple[float, ...]:
    """Return one weight for each layer, the shallowest first.

    Args:
        weights: "equal", "linear" (1, 2, 3, ...), "prior" (the last of ResNet-50's five), numbers,
            or a file of weights measured on this network: a path that ends in ".json".
        layers: How many.
        names: The layers' names, which a file's have to be.

    Raises:
        ValueError: If the name is unknown, "prior" has too few numbers, or the numbers are of
            another count, negative, not finite or all 0, or a file's are of other layers.

    >>> layer_weights("linear", 3), layer_weights("prior", 2)
    ((1.0, 2.0, 3.0), (0.4, 0.72))
    """
    weights = loaded(weights)
    if isinstance(weights, Prior):
        return weights.for_layers(names)
    if isinstance(weights, str):
        if weights == "equal":
            return (1.0,) * layers
        if weights == "linear":
            return tuple(float(k) for k in range(1, layers + 1))
        if weights != "prior":
            raise ValueError(
                f"unknown weights {weights!r}; choose 'linear', 'equal' or 'prior', or give "
                f"{layers} numbers, or a .json file of them"
            )
        if layers > len(PRIOR_WEIGHTS):
            raise ValueError(
                f"weights='prior' has {len(PRIOR_WEIGHTS)} numbers, measured on ResNet-50, and "
                f"there are {layers} layers; give {layers} numbers, or 'linear' or 'equal'"
            )
        return PRIOR_WEIGHTS[len(PRIOR_WEIGHTS) - layers :]
    numbers = tuple(float(weight) for weight in weights)
    if len(numbers) != layers:
        raise ValueError(f"expected {layers} weights, one for each layer, got {numbers}")
    if not all(math.isfinite(weight) and weight >= 0 for weight in numbers) or not sum(numbers):
        raise ValueError(f"weights must be finite, not negative and not all 0, got {numbers}")
    return numbers

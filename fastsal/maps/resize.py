"""Maps resized to images, and attributions in the shape of the inputs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsal.arguments.inputs import Inputs, as_tuple


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


def as_attributions(inputs: Inputs, maps: Tensor, expand_channels: bool) -> Inputs:
    """Return maps `(N, H, W)`, or `(N, C, H, W)` alike in every channel, in each input's shape.

    A tuple for a tuple; without `expand_channels` with one channel. Maps that fit already are
    returned as they are. An input that is no image batch gives an empty tensor, as in Captum's
    GuidedGradCam.
    """
    if (
        isinstance(inputs, Tensor)
        and inputs.shape == maps.shape
        and inputs.dtype == maps.dtype
        and maps.is_contiguous()
    ):
        return maps
    if maps.dim() == 3:
        maps = maps.unsqueeze(1)
    attributions = []
    unused = maps.is_contiguous()
    for tensor in as_tuple(inputs):
        if tensor.dim() != 4:
            warnings.warn(
                f"an input of shape {tuple(tensor.shape)} is no image batch; its attribution is "
                "empty",
                stacklevel=3,
            )
            attributions.append(torch.empty(0))
            continue
        attribution = maps
        if tensor.shape[2:] != maps.shape[2:]:
            attribution = upsample(maps[:, 0], tensor.shape[2:])
        if tensor.is_floating_point():
            attribution = attribution.to(torch.promote_types(tensor.dtype, torch.float32))
        shape = tensor.shape if expand_channels else (len(maps), 1, *tensor.shape[2:])
        if attribution.shape != shape:
            attribution = attribution[:, :1].expand(shape)
        if attribution is maps and unused:
            unused = False
        else:
            attribution = attribution.clone(memory_format=torch.contiguous_format)
        attributions.append(attribution)
    return tuple(attributions) if isinstance(inputs, tuple) else attributions[0]

"""Resize maps to images, and to attributions in the shape of the inputs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsal.arguments.inputs import Images, as_tuple, images_of, without_row

# The mode of `torch.nn.functional.interpolate` that is linear along each axis.
LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}
# Modes that may align corners.
_OF_CORNERS = (*LINEAR.values(), "bicubic")


def upsample(maps: Tensor, size: Sequence[int], mode: str = "bilinear") -> Tensor:
    """Return maps `(N, h, w)` interpolated to `(N, 1, H, W)`, without aligned corners.

    Args:
        maps: `(N, h, w)`; `(N, d, h, w)` of volumes, `(N, t)` of signals.
        size: (H, W); (D, H, W), or (T,).
        mode: A mode of `torch.nn.functional.interpolate`; "bilinear" is trilinear for volumes, and
            linear for signals.

    Raises:
        ValueError: If maps of these axes have no such mode.

    >>> upsample(torch.ones(2, 3, 3), (6, 6)).shape
    torch.Size([2, 1, 6, 6])
    >>> upsample(torch.tensor([[0.0, 1.0]]), (4,)).tolist()
    [[[0.0, 0.25, 0.75, 1.0]]]
    """
    maps = maps.unsqueeze(1)
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    mode = LINEAR[maps.dim()] if mode == "bilinear" else mode
    if mode == "bicubic" and maps.dim() != 4:
        raise ValueError(
            f"mode 'bicubic' is for images, and the maps have the size {tuple(size)}; choose "
            "'bilinear', which is linear along each axis, 'nearest' or 'area'"
        )
    if mode == "trilinear" and maps.is_cpu and not torch.compiler.is_compiling():
        return _trilinear(maps[:, 0], size).unsqueeze(1)
    aligned = False if mode in _OF_CORNERS else None
    return F.interpolate(maps, size=tuple(size), mode=mode, align_corners=aligned)


def _trilinear(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Return maps of volumes `(N, d, h, w)` as `(N, D, H, W)`, linear along each axis.

    Between planes that are interpolated first: two to three times as fast as PyTorch's own
    trilinear form, which reads eight voxels for each.
    """
    depth, *plane = size
    if tuple(maps.shape[2:]) != tuple(plane):
        maps = F.interpolate(maps, size=tuple(plane), mode="bilinear", align_corners=False)
    planes = maps.shape[1]
    if planes == depth:
        return maps
    precise = torch.promote_types(maps.dtype, torch.float32)
    steps = torch.arange(depth, dtype=precise, device=maps.device)
    # The centre of each voxel, in planes; before the first plane's centre there is nothing.
    places = ((steps + 0.5) * (planes / depth) - 0.5).clamp_min(0)
    before = places.long()
    after = (before + 1).clamp_max(planes - 1)
    shares = (places - before).to(maps.dtype).view(-1, 1, 1)
    first = maps.index_select(1, before)
    return maps.index_select(1, after).sub_(first).mul_(shares).add_(first)


def as_attributions(inputs: Images, maps: Tensor, expand_channels: bool) -> Images:
    """Return maps as Captum's attributions: one tensor for each input, in that input's shape.

    Args:
        inputs: A tensor or a tuple of tensors, as Captum's `attribute` is given them.
        maps: `(N, H, W)`, or `(N, C, H, W)` with equal channels; of volumes `(N, D, H, W)` or
            `(N, C, D, H, W)`, of signals `(N, 1, T)` or `(N, C, 1, T)`, an image of one row.
        expand_channels: True repeats the maps over an input's channels; False gives one channel.

    Returns:
        A tensor for a tensor, a tuple for a tuple. Maps that have an input's shape are not copied.
        For an input that is no image batch the attribution is an empty tensor, as in Captum's
        GuidedGradCam.
    """
    image = images_of(as_tuple(inputs))[0]
    maps = without_row(maps, image)
    if (
        isinstance(inputs, Tensor)
        and inputs.shape == maps.shape
        and inputs.dtype == maps.dtype
        and maps.is_contiguous()
    ):
        return maps
    if maps.dim() < image.dim():
        maps = maps.unsqueeze(1)
    attributions = []
    unused = maps.is_contiguous()
    for tensor in as_tuple(inputs):
        if tensor.dim() != image.dim():
            warnings.warn(
                f"an input of shape {tuple(tensor.shape)} is no image batch; its attribution is "
                "empty",
                stacklevel=3,
            )
            attributions.append(maps.new_empty(0))
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

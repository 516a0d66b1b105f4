"""Inputs and attributions in Captum's shapes: a tensor for a tensor, a tuple for a tuple."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from fastsal.maps.combination import upsample

Inputs = Tensor | tuple[Tensor, ...]


def as_tuple(inputs: Inputs) -> tuple[Tensor, ...]:
    """Return Captum's inputs as a tuple of tensors.

    Raises:
        TypeError: If they are neither a tensor nor a tuple of tensors.
    """
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
        kinds = [type(tensor).__name__ for tensor in tensors]
        raise TypeError(
            f"inputs must be a tensor or a tuple of tensors, got {kinds}; several images go in as "
            "one batch (N, C, H, W)"
        )
    return tensors


def image_of(inputs: tuple[Tensor, ...]) -> Tensor:
    """Return the first image batch `(N, C, H, W)` among the inputs.

    Raises:
        ValueError: If there is none, or it is empty.
    """
    for tensor in inputs:
        if tensor.dim() == 4 and tensor.numel():
            return tensor
    shapes = [tuple(tensor.shape) for tensor in inputs]
    raise ValueError(f"expected an image batch (N, C, H, W) among the inputs, got shapes {shapes}")


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

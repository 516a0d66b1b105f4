"""Inputs and attributions in Captum's shapes: a tensor for a tensor, a tuple for a tuple."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from fastsal.combine import upsample

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
    """Return maps `(N, H, W)` in the shape of each input, a tuple for a tuple.

    An input that is no image batch gives an empty tensor, as in Captum's GuidedGradCam.
    """
    attributions = []
    for tensor in as_tuple(inputs):
        if tensor.dim() != 4:
            warnings.warn(
                f"an input of shape {tuple(tensor.shape)} is no image batch; its attribution is "
                "empty",
                stacklevel=3,
            )
            attributions.append(torch.empty(0))
            continue
        attribution = upsample(maps, tensor.shape[2:])
        if tensor.is_floating_point():
            attribution = attribution.to(torch.promote_types(tensor.dtype, torch.float32))
        if expand_channels:
            attribution = attribution.expand(tensor.shape)
        attributions.append(attribution.contiguous())
    return tuple(attributions) if isinstance(inputs, tuple) else attributions[0]

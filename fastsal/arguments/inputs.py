"""Captum's inputs: a tensor, or a tuple of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor

# Dimensions of a batch of signals, images, volumes.
SIGNAL, IMAGE, VOLUME = 3, 4, 5
# In the order in which they are looked for among several inputs.
KINDS = (IMAGE, VOLUME, SIGNAL)
EXPECTED = "an image batch (N, C, H, W), volumes (N, C, D, H, W) or signals (N, C, T)"

Inputs = Tensor | tuple[Tensor, ...]
# The same, or one image after the other.
Images = Inputs | list[Tensor]


def as_tuple(inputs: Images) -> tuple[Tensor, ...]:
    """Return Captum's inputs as a tuple of tensors.

    Raises:
        TypeError: If the inputs are neither a tensor nor a tuple of tensors.
    """
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
        kinds = [type(tensor).__name__ for tensor in tensors]
        raise TypeError(
            f"inputs must be a tensor or a tuple of tensors, got {kinds}; several images go in as "
            "one batch (N, C, H, W)"
        )
    return cast("tuple[Tensor, ...]", tensors)


def images_of(inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the inputs whose locations a map has: images, else volumes, else signals.

    Args:
        inputs: The model's tensors: images `(N, C, H, W)`; without one, volumes `(N, C, D, H, W)`;
            without these, signals `(N, C, T)`.

    >>> import torch
    >>> [image.dim() for image in images_of([torch.ones(2, 7), torch.ones(2, 1, 9)])]
    [3]
    """
    for dimensions in KINDS:
        found = [tensor for tensor in inputs if tensor.dim() == dimensions]
        if any(tensor.numel() for tensor in found):
            return found
    return []


def image_of(inputs: Sequence[Tensor]) -> Tensor:
    """Return the first batch of images among the inputs, or of volumes or signals.

    Raises:
        ValueError: If there is none with at least one image.
    """
    for tensor in images_of(inputs):
        if tensor.numel():
            return tensor
    shapes = [tuple(tensor.shape) for tensor in inputs]
    raise ValueError(f"expected {EXPECTED} among the inputs, got shapes {shapes}")


def grid_of(image: Tensor) -> tuple[int, ...]:
    """Return the size of a batch's grid: (H, W), (D, H, W) of volumes, (1, T) of signals.

    A signal counts as an image of one row.

    >>> import torch
    >>> grid_of(torch.ones(2, 3, 8, 6)), grid_of(torch.ones(2, 12, 500))
    ((8, 6), (1, 500))
    """
    size = tuple(image.shape[2:])
    return (1, *size) if len(size) == 1 else size


def without_row(maps: Tensor, image: Tensor) -> Tensor:
    """Return maps `(..., 1, T)` of signals as `(..., T)`; those of images and volumes unchanged.

    Args:
        maps: The maps, on the grid of `grid_of`.
        image: The batch that they are of.
    """
    return maps.squeeze(-2) if image.dim() == SIGNAL else maps

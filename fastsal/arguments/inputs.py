"""Captum's inputs: a tensor, or a tuple of tensors."""

from __future__ import annotations

from torch import Tensor

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
    return tensors


def image_of(inputs: tuple[Tensor, ...]) -> Tensor:
    """Return the first image batch `(N, C, H, W)` among the inputs.

    Raises:
        ValueError: If no input is an image batch with at least one image.
    """
    for tensor in inputs:
        if tensor.dim() == 4 and tensor.numel():
            return tensor
    shapes = [tuple(tensor.shape) for tensor in inputs]
    raise ValueError(f"expected an image batch (N, C, H, W) among the inputs, got shapes {shapes}")

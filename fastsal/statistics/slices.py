"""Slices of large activations, columns scaled into float32's range, and checks of arguments."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# About as many elements as a core's cache holds; larger activations go through in slices. On a GPU,
# where each operation has to be worth its launch, slices are larger.
CHUNK_ELEMENTS = 1 << 20
GPU_CHUNK_ELEMENTS = 1 << 24


def by_slices(function: Callable[[Tensor], Tensor], activations: Tensor) -> Tensor:
    """Return a function of activations `(N, C, H, W)`, a few images or rows at a time.

    Intermediate copies are then no larger than a core's cache, or 64 MiB on other devices. A
    compiler gets it whole.

    Args:
        function: `(n, C, h, W)` to `(n, h, W)`, or to `(n, any, h, W)`, location by location.
        activations: `(N, C, H, W)`.

    Raises:
        ValueError: If activations are not of four dimensions.
    """
    check_activations(activations)
    elements = activations.numel()
    chunk_elements = CHUNK_ELEMENTS if activations.is_cpu else GPU_CHUNK_ELEMENTS
    if elements <= chunk_elements or torch.compiler.is_compiling():
        return function(activations)
    images, _, height, _ = activations.shape
    at_once = max(1, images * chunk_elements // elements)
    rows = min(height, max(1, height * images * chunk_elements // elements))
    return torch.cat(
        [
            torch.cat([function(part) for part in torch.split(chunk, rows, 2)], -2)
            if rows < height
            else function(chunk)
            for chunk in torch.split(activations, at_once)
        ]
    )


def scale_by_peak(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return columns `(N, C, H, W)` over a power of two, and that power `(N, 1, H, W)`.

    The largest magnitude of a column is then from 1 to 2 (0 where it was), so that no sum or
    square leaves float32's range; dividing by a power of two rounds nothing.
    """
    peak = values.abs().amax(1, keepdim=True)
    # The exponent's bits of a float32 number are a power of two.
    power = (peak.view(torch.int32) & 0x7F800000).view(torch.float32)
    power = power.clamp_min(torch.finfo(torch.float32).tiny)
    return values / power, power


def check_activations(activations: Tensor) -> None:
    """Raise if activations are not of four dimensions.

    Raises:
        ValueError: Naming their shape.
    """
    if activations.dim() != 4:
        raise ValueError(
            f"expected activations of shape (N, C, H, W), got {tuple(activations.shape)}"
        )


def check_epsilon(epsilon: float) -> None:
    """Raise if what keeps logarithms finite is not above 0.

    Raises:
        ValueError: Naming it.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be above 0, got {epsilon!r}")

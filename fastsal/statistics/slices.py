"""Large activations in slices, scaling into float32's range, and checks of arguments."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements of a slice: about as many as a core's cache holds. On a GPU slices are larger, since each
# operation has to be worth its launch.
CHUNK_ELEMENTS = 1 << 20
GPU_CHUNK_ELEMENTS = 1 << 24


def by_slices(function: Callable[[Tensor], Tensor], activations: Tensor) -> Tensor:
    """Apply a function to activations `(N, C, H, W)`, a few images or rows at a time.

    Intermediate copies are then no larger than a core's cache, or 64 MiB on other devices. Under a
    compiler the function is applied to the whole tensor.

    Args:
        function: `(n, C, h, W)` to `(n, h, W)` or `(n, any, h, W)`, each location independently.
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


def rectified(activations: Tensor) -> Tensor:
    """Return activations with 0 for each negative number, in memory of their own.

    NaN stays and minus infinity becomes NaN, so that what is not finite is seen in the statistic.

    >>> rectified(torch.tensor([-1.0, 2.0, -torch.inf])).tolist()
    [-0.0, 2.0, nan]
    """
    # A slope of 0 multiplies; `relu` and `clamp_min` would give 0 for minus infinity.
    return F.leaky_relu(activations, 0.0)


def scale_by_peak(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return values `(N, C, H, W)` divided by a power of two, and that power `(N, 1, H, W)`.

    At each location the largest magnitude is then from 1 to 2 (or 0), so that no sum or square
    leaves float32's range. Division by a power of two rounds nothing.
    """
    peak = values.abs().amax(1, keepdim=True)
    # The exponent bits of a float32 number alone are a power of two.
    power = (peak.view(torch.int32) & 0x7F800000).view(torch.float32)
    power = power.clamp_min(torch.finfo(torch.float32).tiny)
    return values / power, power


def check_activations(activations: Tensor) -> None:
    """Raise an error if activations are not of four dimensions.

    Raises:
        ValueError: If they are not; the message has their shape.
    """
    if activations.dim() != 4:
        raise ValueError(
            f"expected activations of shape (N, C, H, W), got {tuple(activations.shape)}"
        )


def check_epsilon(epsilon: float) -> None:
    """Raise an error if `epsilon`, which keeps logarithms finite, is not above 0.

    Raises:
        ValueError: If it is not.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be above 0, got {epsilon!r}")

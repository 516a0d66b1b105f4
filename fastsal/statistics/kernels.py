"""Statistics of rectified activations, by kernels where there are any."""

from __future__ import annotations

from torch import Tensor

from fastsal.kernels import cpu
from fastsal.statistics.moments import mean, std
from fastsal.statistics.registry import Statistic
from fastsal.statistics.slices import rectified
from fastsal.statistics.smoe import smoe_scale

_KERNELS = ((smoe_scale, "smoe_scale"), (mean, "mean"), (std, "std"))


def kernel_of(statistic: Statistic) -> str | None:
    """Return the name of a statistic's kernel for non-negative activations, or None without one.

    >>> from fastsal.statistics.registry import get_statistic
    >>> kernel_of(get_statistic("std")), kernel_of(get_statistic("gamma_scale"))
    ('std', None)
    """
    # By identity, since a function of the caller's may have no hash.
    return next((name for function, name in _KERNELS if statistic.function is function), None)


def of_rectified(statistic: Statistic, activations: Tensor) -> Tensor:
    """Return a statistic that is defined after the ReLU, with 0 for each negative activation.

    Args:
        statistic: The statistic.
        activations: `(N, C, H, W)`; volumes `(N, C, D, H, W)` give `(N, D, H, W)`.

    >>> from fastsal.statistics.registry import get_statistic
    >>> import torch
    >>> of_rectified(get_statistic("mean"), torch.tensor([-1.0, 1.0]).reshape(1, 2, 1, 1)).item()
    0.5
    """
    if statistic.rectifies:
        return statistic(activations)
    name = kernel_of(statistic)
    if name is not None:
        # A kernel sees the slices of a volume as rows of one image.
        values = cpu.statistic(name, activations.flatten(2, -2))
        if values is not None:
            return values.reshape(-1, *activations.shape[2:])
    # Whether there are negative values depends on the image.
    return statistic(rectified(activations))

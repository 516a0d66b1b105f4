"""Dispatch to the kernels for a tensor's device."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from fastsal.kernels import cpu, cuda


def kernels_for(tensor: Tensor) -> ModuleType:
    """Return the module of kernels for a tensor's device: `cpu` for a CPU, `cuda` for any other.

    Both have `smoe_scale`, `gaussian` and `combine`. These return None, `combine` False, where a
    kernel cannot be used and PyTorch's operations have to do it.

    >>> import torch
    >>> kernels_for(torch.ones(1)).__name__
    'fastsal.kernels.cpu'
    """
    return cpu if tensor.is_cpu else cuda

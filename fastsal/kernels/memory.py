"""Layouts of tensors in memory, and the conditions for a kernel to read that memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

# The types of activations that have kernels, as the kernels' names end.
DTYPE_NAMES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
_DISABLED: ContextVar[bool] = ContextVar("fastsal_kernels_disabled", default=False)
# Local names, since between two layers of a network each look-up waits for memory.
_tracing_state = torch._C._get_tracing_state
_transform = torch._C._functorch.peek_interpreter_stack
_forward_ad = torch.autograd.forward_ad
_modes = torch._C._len_torch_dispatch_stack
_mode = torch._C._get_dispatch_mode
_MODES = (
    torch._C._TorchDispatchModeKey.FAKE,
    torch._C._TorchDispatchModeKey.PROXY,
    torch._C._TorchDispatchModeKey.FUNCTIONAL,
)


@contextmanager
def without_kernels() -> Iterator[None]:
    """Use PyTorch's operations in place of kernels inside the block, in this thread.

    Counters of operations see those, and do not see kernels.

    >>> with without_kernels():
    ...     kernels_disabled()
    True
    """
    token = _DISABLED.set(True)
    try:
        yield
    finally:
        _DISABLED.reset(token)


def kernels_disabled() -> bool:
    """Return True inside `without_kernels`."""
    return _DISABLED.get()


class Layout(NamedTuple):
    """The layout of a tensor in memory, with its type and device."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def layout_of(tensor: Tensor) -> Layout:
    """Return the layout of a tensor.

    >>> layout_of(torch.zeros(1, 2, 3, 4)).stride
    (24, 12, 4, 1)
    """
    return Layout(tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


def has_statistic_kernel(layout: Layout) -> bool:
    """Return True if the kernels of statistics take activations `(N, C, H, W)` of this layout."""
    if layout.dtype not in DTYPE_NAMES or not layout.shape.numel():
        return False
    _, _, height, width = layout.shape
    _, of_channels, of_rows, of_columns = layout.stride
    if height > 1 and of_rows != width * of_columns:
        return False
    return of_columns == 1 or height * width == 1 or of_channels == 1


def ordinary(tensor: Tensor) -> bool:
    """Return True if a tensor has its values in memory, and nothing traces the operations on it.

    False inside `without_kernels`.
    """
    return (
        not torch.compiler.is_compiling()
        and type(tensor) is Tensor
        and tensor.layout is torch.strided
        and not tensor.is_neg()
        and not (tensor.requires_grad and torch.is_grad_enabled())
        and untraced()
        and not kernels_disabled()
    )


def in_memory(tensor: Tensor) -> bool:
    """Return True if a tensor has its values in memory, in a pass that `ordinary` allowed before.

    The conditions that hold for a whole forward pass are not checked again.
    """
    return tensor.layout is torch.strided and not tensor.is_neg() and _transform() is None


def untraced() -> bool:
    """Return True if no tracer, transform or dispatch mode of PyTorch sees the operations."""
    return (
        _tracing_state() is None
        and _transform() is None
        and _forward_ad._current_level < 0
        and not (_modes() and any(_mode(kind) is not None for kind in _MODES))
    )


def contiguous_float32(maps: Tensor) -> bool:
    """Return True if maps are contiguous float32 numbers, and at least one."""
    return maps.dtype == torch.float32 and maps.is_contiguous() and maps.numel() > 0

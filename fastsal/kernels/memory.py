"""Conditions on which kernels may read a tensor's memory, and the tensor's layout there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

DTYPE_NAMES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
_PLAIN: ContextVar[bool] = ContextVar("fastsal_plain", default=False)
# By one name each: between two layers of a network every look-up waits for memory.
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
def plain() -> Iterator[None]:
    """Take the plain PyTorch forms inside, in this thread, as where Numba is not installed.

    They are what a counter of operations can follow.

    >>> with plain():
    ...     plain_alone()
    True
    """
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def plain_alone() -> bool:
    """Return whether `plain` holds, on any device."""
    return _PLAIN.get()


class Layout(NamedTuple):
    """How a tensor lies in memory."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def layout_of(tensor: Tensor) -> Layout:
    """Return how a tensor lies in memory.

    >>> layout_of(torch.zeros(1, 2, 3, 4)).stride
    (24, 12, 4, 1)
    """
    return Layout(tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


def channels_first(layout: Layout, channels_last: bool) -> Layout:
    """Return how a layer's tensor lies when seen as `(N, C, H, W)`."""
    if not channels_last:
        return layout
    (n, h, w, c), (of_n, of_h, of_w, of_c) = layout.shape, layout.stride
    return layout._replace(shape=torch.Size((n, c, h, w)), stride=(of_n, of_c, of_h, of_w))


def fits_statistic(layout: Layout) -> bool:
    """Return whether there is a kernel for activations `(N, C, H, W)` that lie so."""
    if layout.dtype not in DTYPE_NAMES or not layout.shape.numel():
        return False
    _, _, height, width = layout.shape
    _, of_channels, of_rows, of_columns = layout.stride
    if height > 1 and of_rows != width * of_columns:
        return False
    return of_columns == 1 or height * width == 1 or of_channels == 1


def ordinary(tensor: Tensor) -> bool:
    """Return whether a tensor has values in its device's memory, and nothing follows what is read.

    Not where `plain` holds.
    """
    return (
        not torch.compiler.is_compiling()
        and type(tensor) is Tensor
        and tensor.layout is torch.strided
        and not tensor.is_neg()
        and not (tensor.requires_grad and torch.is_grad_enabled())
        and unfollowed()
        and not plain_alone()
    )


def in_memory(tensor: Tensor) -> bool:
    """Return whether a tensor has values in its device's memory that kernels may read.

    What holds for a whole forward pass, as `readable` asks for it, is not asked for again.
    """
    return tensor.layout is torch.strided and not tensor.is_neg() and _transform() is None


def unfollowed() -> bool:
    """Return whether no tracer, transform or mode of PyTorch's follows the operations."""
    return (
        _tracing_state() is None
        and _transform() is None
        and _forward_ad._current_level < 0
        and not (_modes() and any(_mode(kind) is not None for kind in _MODES))
    )


def plain_maps(maps: Tensor) -> bool:
    """Return whether maps are float32 numbers that follow each other in memory."""
    return maps.dtype == torch.float32 and maps.is_contiguous() and maps.numel() > 0

"""When the fused forms stand in for the plain ones, and how threads share their work.

Each function returns None, or False, where the plain PyTorch form has to be taken: on other devices
and types, where gradients, a compiler or a transform follow the operations, and without Numba.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

# Elements read that a further thread must have to itself, to be worth waking.
ELEMENTS_A_THREAD = 1 << 21

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
    ...     available()
    False
    """
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def available() -> bool:
    """Return whether there are fused forms: Numba is installed, and `plain` does not hold."""
    return not _PLAIN.get() and _kernels() is not None


class _Kernels:
    """The compiled kernels, and how they name what they read."""

    def __init__(self) -> None:
        import numpy

        from fastsal import kernels, map_kernels

        self.statistics = kernels
        self.maps = map_kernels
        self.array = numpy.array
        # As `kernels` reads them: the bits of halves, which Numba has no type for.
        self.kinds = {
            torch.float32: numpy.float32(0),
            torch.float64: numpy.float64(0),
            torch.bfloat16: numpy.int16(0),
            torch.float16: numpy.uint16(0),
        }


@cache
def _kernels() -> _Kernels | None:
    try:
        import numba
    except (ImportError, OSError):
        return None
    return None if numba.config.DISABLE_JIT else _Kernels()


def smoe_scale(activations: Tensor, epsilon: float) -> Tensor | None:
    """Return SMOE Scale `(N, H, W)` of activations `(N, C, H, W)`, or None."""
    kernels = _kernels_for(activations)
    if kernels is None or activations.dtype not in kernels.kinds or not activations.numel():
        return None
    images, channels, height, width = activations.shape
    of_images, of_channels, of_rows, of_columns = activations.stride()
    if height > 1 and of_rows != width * of_columns:
        return None
    values = torch.empty((images, height, width), device="cpu", dtype=torch.float32)
    locations = height * width
    source = kernels.kinds[activations.dtype], activations.data_ptr()
    target = channels, locations, float(epsilon), values.data_ptr()
    if of_columns == 1 or locations == 1:
        planes = kernels.statistics.planes
        scratch_bytes = kernels.statistics.PLANES_SCRATCH_BYTES

        def work(first: int, last: int) -> None:
            scratch = torch.empty(scratch_bytes, dtype=torch.uint8)
            strides = of_images, of_channels
            planes(*source, *strides, *target, scratch.data_ptr(), first, last)

        units = images * -(-locations // kernels.statistics.BLOCK)
    elif of_channels == 1:
        columns = kernels.statistics.columns

        def work(first: int, last: int) -> None:
            columns(*source, of_images, of_columns, *target, first, last)

        units = images * locations
    else:
        return None
    _share(work, units, activations.numel())
    return values


def gaussian(maps: Tensor, in_place: bool = False) -> Tensor | None:
    """Return maps `(N, H, W)` through the normal CDF, or None."""
    kernels = _kernels_for(maps)
    if kernels is None or not _plain_maps(maps):
        return None
    squashed = maps if in_place else torch.empty_like(maps)
    locations = maps.shape[1] * maps.shape[2]
    gaussian = kernels.maps.gaussian

    def work(first: int, last: int) -> None:
        gaussian(maps.data_ptr(), squashed.data_ptr(), locations, first, last)

    _share(work, len(maps), 8 * maps.numel())
    return squashed


def combine(maps: Sequence[Tensor], weights: Sequence[float], out: Tensor) -> bool:
    """Write the weighted sum of maps upsampled to `out` `(N, H, W)`; return whether it was done."""
    kernels = _kernels_for(out)
    images, height, width = out.shape
    if (
        kernels is None
        or out.dtype != torch.float32
        or out.stride()[1:] != (width, 1)
        or not out.numel()
        or not all(_kernels_for(given) and _plain_maps(given) for given in maps)
    ):
        return False
    table = [(given.data_ptr(), given.shape[1], given.shape[2], -1, -1) for given in maps]
    shares = kernels.array(weights, "float32")

    def work(first: int, last: int) -> None:
        scratch = torch.empty(5 * len(maps) * width, dtype=torch.float32)
        target = out.data_ptr(), out.stride(0), height, width, scratch.data_ptr()
        kernels.maps.combine(kernels.array(table, "int64"), shares, *target, first, last)

    _share(work, images * height, 8 * out.numel())
    return True


def _plain_maps(maps: Tensor) -> bool:
    return maps.dtype == torch.float32 and maps.is_contiguous() and maps.numel() > 0


def _kernels_for(tensor: Tensor) -> _Kernels | None:
    """Return the kernels, if they may read this tensor's memory unseen by PyTorch."""
    if (
        torch.compiler.is_compiling()
        or type(tensor) is not Tensor
        or not tensor.is_cpu
        or tensor.layout is not torch.strided
        or tensor.is_neg()
        or (tensor.requires_grad and torch.is_grad_enabled())
        or _tracing_state() is not None
        or _transform() is not None
        or _forward_ad._current_level >= 0
        or (_modes() and any(_mode(kind) is not None for kind in _MODES))
        or _PLAIN.get()
    ):
        return None
    return _kernels()


def _share(work: Callable[[int, int], None], units: int, elements: int) -> None:
    """Do a range of work in this thread, or share it with others where it is long enough."""
    threads = min(torch.get_num_threads(), units, elements // ELEMENTS_A_THREAD)
    if threads < 2:
        work(0, units)
        return
    bounds = [units * part // threads for part in range(threads + 1)]
    own, *parts = pairwise(bounds)
    others = [_pool().submit(work, *part) for part in parts]
    try:
        work(*own)
    finally:
        # What they read and write must not go before they are done.
        wait(others)
    for other in others:
        other.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), "fastsal")


# A forked process has no threads but the one that forked.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)

"""Statistics, the normal CDF and the weighted sum on a CPU, by kernels that Numba compiles.

Each function returns None, or False, where PyTorch's operations have to be used instead: for other
devices and types, under autograd, a compiler or a transform, and without Numba.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import addressof
from functools import cache, lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from fastsal.kernels.constants import EPSILON
from fastsal.kernels.memory import (
    DTYPE_NAMES,
    Layout,
    contiguous_float32,
    has_statistic_kernel,
    kernels_disabled,
    layout_of,
    ordinary,
)
from fastsal.kernels.tasks import (
    STATISTIC_SCRATCH_BYTES,
    CombineTask,
    ScaleMaps,
    SquashTask,
    StatisticTask,
    combine_scratch_bytes,
)
from fastsal.kernels.threads import run_in_parallel, workers_for

# Locations of a block, at most and at least: their sums stay in the cache over all channels.
LARGEST_BLOCK, SMALLEST_BLOCK = 1024, 16
# The module of each statistic's kernels, and true for a moment about the mean.
STATISTICS = {"smoe_scale": ("smoe", False), "mean": ("moments", False), "std": ("moments", True)}
# The number of prepared calls that are kept, with their layouts.
MOST_CALLS = 256
# Bands of rows for each thread, so that a slow thread leaves some to the others.
BANDS = 4


def available() -> bool:
    """Return True if kernels may be used: Numba is installed, and no `without_kernels` is open."""
    return not kernels_disabled() and _kernels() is not None


@cache
def _kernels() -> Callable[[str, str], Any] | None:
    """Return a function from a module and a name to the compiled kernel, or None without Numba."""
    try:
        import numba
    except (ImportError, OSError):
        return None
    if numba.config.DISABLE_JIT:
        return None
    from fastsal.kernels.numba import maps, moments, smoe
    from fastsal.kernels.numba.jit import compile_kernel

    modules = {"maps": maps, "moments": moments, "smoe": smoe}

    def compiled(module: str, name: str) -> Any:
        return compile_kernel(getattr(modules[module], name))

    return compiled


def _kernel(module: str, name: str) -> Any:
    """Return the compiled kernel of a name; Numba must be installed."""
    kernels: Any = _kernels()
    return kernels(module, name)


class StatisticCall:
    """One reusable kernel call: a statistic of tensors with one layout.

    Negative activations count as 0.

    Args:
        layout: The layout of the activations, as `(N, C, H, W)`.
        epsilon: Added to each activation by SMOE Scale.
        statistic: One of `STATISTICS`.

    Attributes:
        bytes: The size of the result.
        scratch_bytes: The size of the scratch memory.
        workers: The number of threads.
    """

    def __init__(
        self, layout: Layout, epsilon: float = EPSILON, statistic: str = "smoe_scale"
    ) -> None:
        images, channels, height, width = layout.shape
        of_images, of_channels, _, of_columns = layout.stride
        locations = height * width
        channels_first = of_columns == 1 or locations == 1
        order = "channels_first" if channels_first else "channels_last"
        module, deviates = STATISTICS[statistic]
        kernel = _kernel(module, f"{order}_{DTYPE_NAMES[layout.dtype]}")
        self._call, self._address = kernel.call, kernel.address
        workers = workers_for(images * -(-locations // SMALLEST_BLOCK), layout.shape.numel())
        # At least as many blocks as threads, each of whole vectors.
        per_worker = -(-locations * images // workers)
        # No more scratch for many threads than for two.
        largest = min(LARGEST_BLOCK, 2 * LARGEST_BLOCK // workers)
        block = max(SMALLEST_BLOCK, min(largest, -(-min(per_worker, locations) // 16) * 16))
        units = images * -(-locations // block)
        self.bytes = 4 * images * locations
        self.workers = min(workers, units)
        self.scratch_bytes = self.workers * block * STATISTIC_SCRATCH_BYTES
        self._new_task = partial(
            StatisticTask,
            workers=self.workers,
            units=units,
            image_stride=of_images,
            stride=of_channels if channels_first else of_columns,
            channels=channels,
            locations=locations,
            block=block,
            deviates=deviates,
            epsilon=epsilon,
        )
        # The tasks that no call uses.
        self._idle = [self._new_task()]

    def run(self, source: int, target: int, scratch: int) -> bool:
        """Compute the statistic of the activations at an address.

        Args:
            source: The address of the activations.
            target: The address of the result, of `bytes`.
            scratch: The address of scratch memory, of `scratch_bytes`.

        Returns:
            False if the result is 0 everywhere.
        """
        # Taken off the list, so that no call inside this one, as by a signal handler, writes to it.
        try:
            task = self._idle.pop()
        except IndexError:
            task = self._new_task()
        task.source, task.target, task.scratch = source, target, scratch
        task.claimed = task.joined = task.not_zero = 0
        run_in_parallel(self._call, self._address, addressof(task), self.workers)
        not_zero = task.not_zero
        self._idle.append(task)
        return bool(not_zero)


def smoe_scale(activations: Tensor, epsilon: float) -> Tensor | None:
    """Return SMOE Scale `(N, H, W)` of activations `(N, C, H, W)`, or None without a kernel."""
    return statistic("smoe_scale", activations, epsilon)


def statistic(name: str, activations: Tensor, epsilon: float = EPSILON) -> Tensor | None:
    """Return a statistic `(N, H, W)` of activations `(N, C, H, W)`, or None without a kernel.

    Negative activations count as 0.

    Args:
        name: One of `STATISTICS`.
        activations: `(N, C, H, W)`.
        epsilon: Added to each activation by SMOE Scale.
    """
    if not readable(activations):
        return None
    call = _statistic_call(layout_of(activations), epsilon, name, torch.get_num_threads())
    if call is None:
        return None
    images, _, height, width = activations.shape
    values = torch.empty((images, height, width), device="cpu", dtype=torch.float32)
    scratch = torch.empty(call.scratch_bytes, device="cpu", dtype=torch.uint8)
    call.run(activations.data_ptr(), values.data_ptr(), scratch.data_ptr())
    return values


@lru_cache(maxsize=MOST_CALLS)
def _statistic_call(layout: Layout, epsilon: float, name: str, _: int) -> StatisticCall | None:
    """Return the call for a layout and a number of threads, or None without a kernel."""
    return StatisticCall(layout, epsilon, name) if has_statistic_kernel(layout) else None


def gaussian(maps: Tensor, in_place: bool = False) -> Tensor | None:
    """Return the normal CDF of maps `(N, H, W)`, or None without a kernel.

    Args:
        maps: Each is normalised by its own mean and standard deviation.
        in_place: True writes the result over the maps.
    """
    if not readable(maps) or not contiguous_float32(maps):
        return None
    squashed = maps if in_place else torch.empty_like(maps)
    task = SquashTask(
        workers=workers_for(len(maps), 8 * maps.numel()),
        units=len(maps),
        source=maps.data_ptr(),
        target=squashed.data_ptr(),
        locations=maps.shape[1] * maps.shape[2],
    )
    _run("gaussian", task)
    return squashed


class CombineCall:
    """One reusable kernel call: the weighted sum of maps of given sizes, upsampled.

    Args:
        sizes: (h, w) of each scale's maps.
        weights: The weight of each scale.
        images: The number of images.
        size: (H, W) of the sum.
        squash: True puts each map through the normal CDF first.

    Attributes:
        scratch_bytes: The size of the scratch memory.
        workers: The number of threads.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        weights: Sequence[float],
        images: int,
        size: tuple[int, int],
        squash: bool,
    ) -> None:
        height, width = size
        widest = max(columns for _, columns in sizes)
        scratch_bytes = combine_scratch_bytes(len(sizes), width, widest)
        # The scratch of all threads together is at most one byte for each location of the result.
        affordable = max(1, images * height * width // scratch_bytes)
        workers = min(affordable, workers_for(images * height, 8 * images * height * width))
        bands = min(height, -(-BANDS * workers // images) if workers > 1 else 1)
        band = -(-height // bands)
        units = images * -(-height // band)
        self.workers = min(workers, units)
        self._scales = (ScaleMaps * len(sizes))(
            *(
                ScaleMaps(rows=rows, columns=columns, weight=weight)
                for (rows, columns), weight in zip(sizes, weights, strict=True)
            )
        )
        self.scratch_bytes = self.workers * scratch_bytes
        self._task = CombineTask(
            workers=self.workers,
            units=units,
            scales=addressof(self._scales),
            count=len(sizes),
            squash=squash,
            height=height,
            width=width,
            band=band,
            widest=widest,
            scratch_bytes=scratch_bytes,
        )

    def run(self, sources: Sequence[int], result: Tensor, scratch: int) -> list[int]:
        """Write the sum to each channel of a result.

        Args:
            sources: The address of each scale's maps.
            result: `(N, channels, H, W)`.
            scratch: The address of scratch memory, of `scratch_bytes`.

        Returns:
            The scales whose maps had values that are not finite, if they were squashed.
        """
        for scale, source in zip(self._scales, sources, strict=True):
            scale.source, scale.not_finite = source, 0
        task = self._task
        task.target, task.scratch = result.data_ptr(), scratch
        task.channels = result.shape[1]
        task.image_stride, task.channel_stride, _, _ = result.stride()
        _run("combine", task)
        return [index for index, scale in enumerate(self._scales) if scale.not_finite]


def combine(maps: Sequence[Tensor], weights: Sequence[float], out: Tensor) -> bool:
    """Write the weighted sum of maps `(N, h, w)`, upsampled, to each channel of `(N, C, H, W)`.

    Returns:
        False if there is no kernel for it, and nothing was written.
    """
    images, _, height, width = out.shape
    if (
        not readable(out)
        or out.dtype != torch.float32
        or out.stride()[2:] != (width, 1)
        or not out.numel()
        or not all(readable(one) and contiguous_float32(one) for one in maps)
    ):
        return False
    sizes = tuple([(one.shape[1], one.shape[2]) for one in maps])
    key = sizes, tuple(weights), images, (height, width)
    idle = _idle_combine_calls(*key, torch.get_num_threads())
    # Taken off the list, as the tasks of a `StatisticCall` are.
    try:
        call = idle.pop()
    except IndexError:
        call = CombineCall(*key, squash=False)
    scratch = torch.empty(call.scratch_bytes, device="cpu", dtype=torch.uint8)
    call.run([one.data_ptr() for one in maps], out, scratch.data_ptr())
    idle.append(call)
    return True


@lru_cache(maxsize=MOST_CALLS)
def _idle_combine_calls(*_: Any) -> list[CombineCall]:
    """Return the calls for a combination of maps and a number of threads that no pass uses."""
    return []


def readable(tensor: Tensor) -> bool:
    """Return True if there are kernels, and they may read this tensor's memory."""
    return tensor.is_cpu and ordinary(tensor) and available()


def _run(name: str, task: Any) -> None:
    kernel = _kernel("maps", name)
    task.claimed, task.joined = 0, 0
    run_in_parallel(kernel.call, kernel.address, addressof(task), task.workers)

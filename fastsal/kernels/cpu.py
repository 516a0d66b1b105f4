"""When the fused forms stand in for the plain ones on a CPU; `launched` says it of a GPU.

Each function returns None, or False, where the plain PyTorch form has to be taken: on other devices
and types, where gradients, a compiler or a transform follow the operations, and without Numba.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import addressof
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fastsal.kernels.constants import EPSILON
from fastsal.kernels.memory import (
    DTYPE_NAMES,
    Layout,
    fits_statistic,
    layout_of,
    ordinary,
    plain_alone,
    plain_maps,
)
from fastsal.kernels.tasks import (
    STATISTIC_SCRATCH_BYTES,
    CombineTask,
    ScaleMaps,
    SquashTask,
    StatisticTask,
    combine_scratch_bytes,
)
from fastsal.kernels.threads import share, workers_for

# Locations whose sums stay in the cache while the channels go by, at most and at least.
LARGEST_BLOCK, SMALLEST_BLOCK = 1024, 16
# Bands of rows for each thread, so that one that is late leaves some to the others.
BANDS = 4


def available() -> bool:
    """Return whether there are fused forms: Numba is installed, and `plain` does not hold."""
    return not plain_alone() and _kernels() is not None


@cache
def _kernels() -> Callable[[str], Any] | None:
    """Return what gives a kernel of a name, compiled, or None without Numba."""
    try:
        import numba
    except (ImportError, OSError):
        return None
    if numba.config.DISABLE_JIT:
        return None
    from fastsal.kernels import numba_maps, numba_statistic
    from fastsal.kernels.jit import entry

    return lambda name: entry(getattr(numba_statistic, name, None) or getattr(numba_maps, name))


def _kernel(name: str) -> Any:
    """Return a kernel, compiled, where Numba is installed."""
    kernels: Any = _kernels()
    return kernels(name)


class StatisticWork:
    """SMOE Scale of tensors that lie alike, but for where they are, what comes of it and scratch.

    Attributes:
        task: What the kernel reads; `source`, `target` and `scratch` are to be set.
        bytes: How many `target` takes.
        scratch_bytes: How many `scratch` takes.
    """

    def __init__(self, layout: Layout, epsilon: float = EPSILON) -> None:
        images, channels, height, width = layout.shape
        of_images, of_channels, _, of_columns = layout.stride
        locations = height * width
        planes = of_columns == 1 or locations == 1
        kernel = _kernel(f"{'planes' if planes else 'columns'}_{DTYPE_NAMES[layout.dtype]}")
        self._call, self._address = kernel.call, kernel.address
        workers = workers_for(images * -(-locations // SMALLEST_BLOCK), layout.shape.numel())
        # As many blocks as threads at least, each in whole vectors.
        each = -(-locations * images // workers)
        # And no more scratch for many threads than for two.
        largest = min(LARGEST_BLOCK, 2 * LARGEST_BLOCK // workers)
        block = max(SMALLEST_BLOCK, min(largest, -(-min(each, locations) // 16) * 16))
        units = images * -(-locations // block)
        self.bytes = 4 * images * locations
        self.workers = min(workers, units)
        self.scratch_bytes = self.workers * block * STATISTIC_SCRATCH_BYTES
        self.task = StatisticTask(
            workers=self.workers,
            units=units,
            image_stride=of_images,
            stride=of_channels if planes else of_columns,
            channels=channels,
            locations=locations,
            block=block,
            epsilon=epsilon,
        )
        self._task = addressof(self.task)

    def do(self, source: int) -> None:
        """Read the activations at an address."""
        task = self.task
        task.source, task.claimed, task.joined = source, 0, 0
        share(self._call, self._address, self._task, self.workers)


def smoe_scale(activations: Tensor, epsilon: float) -> Tensor | None:
    """Return SMOE Scale `(N, H, W)` of activations `(N, C, H, W)`, or None."""
    if not readable(activations) or not fits_statistic(layout := layout_of(activations)):
        return None
    work = StatisticWork(layout, epsilon)
    images, _, height, width = layout.shape
    values = torch.empty((images, height, width), device="cpu", dtype=torch.float32)
    scratch = torch.empty(work.scratch_bytes, device="cpu", dtype=torch.uint8)
    work.task.target, work.task.scratch = values.data_ptr(), scratch.data_ptr()
    work.do(activations.data_ptr())
    return values


def gaussian(maps: Tensor, in_place: bool = False) -> Tensor | None:
    """Return maps `(N, H, W)` through the normal CDF, or None."""
    if not readable(maps) or not plain_maps(maps):
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


class CombineWork:
    """The weighted sum of maps of given sizes, but for where they and the sum are, and scratch.

    Attributes:
        task: What the kernel reads; `target`, its strides and `scratch` are to be set.
        scales: Where the scales' maps are; each `source` is to be set.
        scratch_bytes: How many `scratch` takes.
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
        each = combine_scratch_bytes(len(sizes), width, widest)
        # Scratch of all threads is no more than a byte for each location.
        affordable = max(1, images * height * width // each)
        workers = min(affordable, workers_for(images * height, 8 * images * height * width))
        bands = min(height, -(-BANDS * workers // images) if workers > 1 else 1)
        band = -(-height // bands)
        units = images * -(-height // band)
        self.workers = min(workers, units)
        self.scales = (ScaleMaps * len(sizes))(
            *(
                ScaleMaps(rows=rows, columns=columns, weight=weight)
                for (rows, columns), weight in zip(sizes, weights, strict=True)
            )
        )
        self.scratch_bytes = self.workers * each
        self.task = CombineTask(
            workers=self.workers,
            units=units,
            scales=addressof(self.scales),
            count=len(sizes),
            squash=squash,
            height=height,
            width=width,
            band=band,
            widest=widest,
            scratch_bytes=each,
        )

    def do(self, result: Tensor) -> None:
        """Write the sum to a result `(N, channels, H, W)`, to all its channels alike."""
        task = self.task
        task.target = result.data_ptr()
        task.channels = result.shape[1]
        task.image_stride, task.channel_stride, _, _ = result.stride()
        _run("combine", task)

    def not_finite(self) -> list[int]:
        """Return which scales had values that are not finite, as found where they were squashed."""
        return [index for index, scale in enumerate(self.scales) if scale.not_finite]


def combine(maps: Sequence[Tensor], weights: Sequence[float], out: Tensor) -> bool:
    """Write the weighted sum of maps `(N, h, w)`, upsampled, to all channels of `(N, C, H, W)`.

    Returns:
        Whether it was done.
    """
    images, _, height, width = out.shape
    if (
        not readable(out)
        or out.dtype != torch.float32
        or out.stride()[2:] != (width, 1)
        or not out.numel()
        or not all(readable(given) and plain_maps(given) for given in maps)
    ):
        return False
    sizes = [(given.shape[1], given.shape[2]) for given in maps]
    work = CombineWork(sizes, weights, images, (height, width), squash=False)
    scratch = torch.empty(work.scratch_bytes, device="cpu", dtype=torch.uint8)
    work.task.scratch = scratch.data_ptr()
    for scale, given in zip(work.scales, maps, strict=True):
        scale.source = given.data_ptr()
    work.do(out)
    return True


def readable(tensor: Tensor) -> bool:
    """Return whether kernels are there and may read a tensor's memory unseen by PyTorch."""
    return tensor.is_cpu and ordinary(tensor) and available()


def _run(name: str, task: Any) -> None:
    kernel = _kernel(name)
    task.claimed, task.joined = 0, 0
    share(kernel.call, kernel.address, addressof(task), task.workers)

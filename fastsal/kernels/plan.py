"""Plans: the kernels for all scales of a batch of a known shape, set up once.

A plan keeps the calls of its kernels from one forward pass to the next, and takes memory for each
pass: the maps of all scales and scratch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from fastsal.kernels import cpu, cuda
from fastsal.kernels.memory import Layout, has_statistic_kernel, kernels_disabled


class Plan(Protocol):
    """The kernels for the scales of a batch with known layouts, on one device."""

    def available(self) -> bool:
        """Return True if the kernels may be used now."""

    def begin(self) -> None:
        """Take the memory for one pass."""

    def end(self) -> None:
        """Give the memory back."""

    def read(self, index: int, tensor: Tensor, /) -> bool:
        """Compute the statistic of a layer's tensor; False if it is known to be 0 everywhere.

        Raises:
            RuntimeError: If no pass has begun, or it has ended.
        """

    def combined(self, channels: int, /) -> tuple[Tensor, list[int]]:
        """Return the average `(N, channels, H, W)`, and the scales with values not finite."""

    def values(self, index: int, /) -> Tensor:
        """Return a layer's statistic `(N, h, w)`; after `combined` it may be its normalised map."""


class CpuPlan:
    """The `Plan` on a CPU: a statistic, the normal CDF and the weighted average.

    Args:
        layouts: The layout of each layer's tensor, as `(N, C, h, w)`.
        shares: The weights of the scales, which sum to 1.
        size: (H, W) of the average.
        statistic: The name of the statistic.
    """

    def __init__(
        self,
        layouts: Sequence[Layout],
        shares: Sequence[float],
        size: tuple[int, int],
        statistic: str = "smoe_scale",
    ) -> None:
        self._size = size
        self._statistics = [cpu.StatisticCall(layout, statistic=statistic) for layout in layouts]
        self._images = layouts[0].shape[0]
        sizes = [(layout.shape[2], layout.shape[3]) for layout in layouts]
        self._shapes = [(self._images, *size) for size in sizes]
        self._combination = cpu.CombineCall(sizes, shares, self._images, size, squash=True)
        self._starts = []
        end = 0
        for call in self._statistics:
            self._starts.append(end)
            end += call.bytes
        self._scratch = -(-end // 64) * 64
        scratches = [call.scratch_bytes for call in self._statistics]
        self._bytes = self._scratch + max(*scratches, self._combination.scratch_bytes)
        self.available = cpu.available
        # The maps and scratch of one pass.
        self._memory: Tensor | None = None

    @staticmethod
    def fits(layouts: Sequence[Layout], statistic: str) -> bool:
        """Return True if there are kernels for these layouts and this statistic."""
        return statistic in cpu.STATISTICS and all(map(has_statistic_kernel, layouts))

    def begin(self) -> None:
        """Take the memory for one pass."""
        self._memory = torch.empty(self._bytes, device="cpu", dtype=torch.uint8)

    def end(self) -> None:
        """Give the memory back."""
        self._memory = None

    def read(self, index: int, tensor: Tensor) -> bool:
        """Compute the statistic of a layer's tensor; False if it is 0 everywhere."""
        # This name holds the memory until the kernel has ended.
        memory = _begun(self._memory)
        start = memory.data_ptr()
        target, scratch = start + self._starts[index], start + self._scratch
        return self._statistics[index].run(tensor.data_ptr(), target, scratch)

    def combined(self, channels: int) -> tuple[Tensor, list[int]]:
        """Return the average `(N, channels, H, W)`, and the scales with values not finite."""
        memory = _begun(self._memory)
        start = memory.data_ptr()
        shape = (self._images, channels, *self._size)
        result = torch.empty(shape, device="cpu", dtype=torch.float32)
        sources = [start + offset for offset in self._starts]
        return result, self._combination.run(sources, result, start + self._scratch)

    def values(self, index: int) -> Tensor:
        """Return a layer's statistic `(N, h, w)`."""
        start = self._starts[index]
        values = _begun(self._memory)[start : start + self._statistics[index].bytes]
        return values.view(torch.float32).view(self._shapes[index])


def _begun(memory: Tensor | None) -> Tensor:
    """Return a pass's memory.

    Raises:
        RuntimeError: If no pass has begun, or it has ended.
    """
    if memory is None:
        raise RuntimeError("a plan reads between `begin` and `end` alone")
    return memory


class GpuPlan:
    """The `Plan` on a GPU: SMOE Scale, the normal CDF and the weighted average.

    Args:
        layouts: As for `CpuPlan`.
        shares: As for `CpuPlan`.
        size: As for `CpuPlan`.
    """

    def __init__(
        self, layouts: Sequence[Layout], shares: Sequence[float], size: tuple[int, int]
    ) -> None:
        self._device = layouts[0].device
        self._size = size
        self._shapes = [(layout.shape[0], *layout.shape[2:]) for layout in layouts]
        self._images = self._shapes[0][0]
        sizes = [(height, width) for _, height, width in self._shapes]
        self._combination = cuda.CombineLaunch(sizes, shares, self._images, size, self._device)
        self._starts = self._combination.starts
        self._launches = [
            cuda.StatisticLaunch(layout, start)
            for layout, start in zip(layouts, self._starts, strict=True)
        ]
        self._memory: Tensor | None = None
        self._stream = 0

    @staticmethod
    def fits(layouts: Sequence[Layout], statistic: str) -> bool:
        """Return True if there are kernels for these layouts and this statistic, and fast ones."""
        return statistic == "smoe_scale" and all(
            has_statistic_kernel(layout) and math.prod(layout.shape[2:]) <= cuda.LARGEST_MAP
            for layout in layouts
        )

    def available(self) -> bool:
        """Return True if the kernels may be used now."""
        return not kernels_disabled()

    def begin(self) -> None:
        """Take the memory for one pass."""
        self._stream = cuda.stream_on(self._device)
        self._memory = torch.empty(
            self._combination.elements, device=self._device, dtype=torch.float32
        )

    def end(self) -> None:
        """Give the memory back."""
        self._memory = None

    def read(self, index: int, tensor: Tensor) -> bool:
        """Compute the statistic of a layer's tensor; True, since it waits for no result."""
        memory = _begun(self._memory)
        with cuda.on(self._device):
            if cuda.stream_on(self._device) != self._stream:
                # PyTorch gives memory back in the order of the stream that it was taken on.
                memory.record_stream(torch.cuda.current_stream(self._device))
            self._launches[index].run(tensor, memory)
        return True

    def combined(self, channels: int) -> tuple[Tensor, list[int]]:
        """Return the average `(N, channels, H, W)`, and the scales with values not finite."""
        shape = (self._images, channels, *self._size)
        result = torch.empty(shape, device=self._device, dtype=torch.float32)
        memory = _begun(self._memory)
        with cuda.on(self._device):
            self._combination.squash(memory)
            self._combination.combine(memory, result)
            return result, self._combination.not_finite(memory)

    def values(self, index: int) -> Tensor:
        """Return a layer's statistic `(N, h, w)`; after `combined` its normalised map."""
        start, shape = self._starts[index], self._shapes[index]
        return _begun(self._memory)[start : start + math.prod(shape)].view(shape)

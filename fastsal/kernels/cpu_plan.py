"""Reading the scales of a batch like an earlier one on a CPU, by kernels that are set up once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastsal.kernels import cpu


class CpuPlan:
    """Reads scales whose tensors lie as planned, and combines them, on a CPU.

    Args:
        firsts: How each layer's tensor lies, seen as `(N, C, h, w)`.
        shares: The scales' weights, which sum to 1.
        size: (H, W) of the combined map.
    """

    def __init__(
        self, firsts: Sequence[cpu.Layout], shares: Sequence[float], size: tuple[int, int]
    ) -> None:
        self._size = size
        self._works = [cpu.StatisticWork(first) for first in firsts]
        self._images = firsts[0].shape[0]
        sizes = [(first.shape[2], first.shape[3]) for first in firsts]
        self._shapes = [(self._images, *size) for size in sizes]
        self._combination = cpu.CombineWork(sizes, shares, self._images, size, squash=True)
        self._starts = []
        end = 0
        for work in self._works:
            self._starts.append(end)
            end += work.bytes
        self._scratch = -(-end // 64) * 64
        scratches = [work.scratch_bytes for work in self._works]
        self._bytes = self._scratch + max(*scratches, self._combination.scratch_bytes)
        self.available = cpu.available
        # Of one pass: the maps and scratch.
        self._memory: Any = None

    @staticmethod
    def fits(firsts: Sequence[cpu.Layout]) -> bool:
        """Return whether there are kernels for tensors that lie so."""
        return all(map(cpu.StatisticWork.fits, firsts))

    def begin(self) -> None:
        """Take the memory for one pass."""
        self._memory = torch.empty(self._bytes, device="cpu", dtype=torch.uint8)
        start = self._memory.data_ptr()
        scratch = start + self._scratch
        for work, scale, offset in zip(
            self._works, self._combination.scales, self._starts, strict=True
        ):
            work.task.target = scale.source = start + offset
            work.task.scratch = scratch
            scale.not_finite = 0
        self._combination.task.scratch = scratch

    def end(self) -> None:
        """Give the memory back."""
        self._memory = None

    def read(self, index: int, tensor: Tensor) -> None:
        """Take the statistic of a layer's tensor."""
        self._works[index].do(tensor.data_ptr())

    def combined(self, channels: int) -> tuple[Tensor, list[int]]:
        """Return the average `(N, channels, H, W)`, and the scales that are not finite."""
        shape = (self._images, channels, *self._size)
        result = torch.empty(shape, device="cpu", dtype=torch.float32)
        self._combination.do(result)
        return result, self._combination.not_finite()

    def values(self, index: int) -> Tensor:
        """Return the statistic of a layer, as the kernel wrote it."""
        start = self._starts[index]
        values: Tensor = self._memory[start : start + self._works[index].bytes]
        return values.view(torch.float32).view(self._shapes[index])

"""Reading the scales of a batch like an earlier one, by kernels that are set up once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from fastsal.kernels import cpu, cuda
from fastsal.kernels.memory import Layout, fits_statistic, plain_alone


class Plan(Protocol):
    """How scales whose tensors lie as planned are read and combined on a device."""

    def available(self) -> bool:
        """Return whether the kernels may be used now."""

    def begin(self) -> None:
        """Take the memory for one pass."""

    def end(self) -> None:
        """Give the memory back."""

    def read(self, index: int, tensor: Tensor, /) -> None:
        """Take the statistic of a layer's tensor."""

    def combined(self, channels: int, /) -> tuple[Tensor, list[int]]:
        """Return the average `(N, channels, H, W)`, and the scales that are not finite."""

    def values(self, index: int, /) -> Tensor:
        """Return the statistic of a layer; once they are combined it may be its normalised map."""


class CpuPlan:
    """Reads scales whose tensors lie as planned, and combines them, on a CPU.

    Args:
        firsts: How each layer's tensor lies, seen as `(N, C, h, w)`.
        shares: The scales' weights, which sum to 1.
        size: (H, W) of the combined map.
    """

    def __init__(
        self, firsts: Sequence[Layout], shares: Sequence[float], size: tuple[int, int]
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
    def fits(firsts: Sequence[Layout]) -> bool:
        """Return whether there are kernels for tensors that lie so."""
        return all(map(fits_statistic, firsts))

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


class GpuPlan:
    """Reads scales whose tensors lie as planned, and combines them, on a GPU.

    Args:
        firsts: As for `CpuPlan`.
        shares: As for `CpuPlan`.
        size: As for `CpuPlan`.
    """

    def __init__(
        self, firsts: Sequence[Layout], shares: Sequence[float], size: tuple[int, int]
    ) -> None:
        self._device = firsts[0].device
        self._size = size
        self._shapes = [(first.shape[0], *first.shape[2:]) for first in firsts]
        self._images = self._shapes[0][0]
        sizes = [(height, width) for _, height, width in self._shapes]
        self._combination = cuda.CombineLaunch(sizes, shares, self._images, size, self._device)
        self._starts = self._combination.starts
        self._launches = [
            cuda.StatisticLaunch(first, start)
            for first, start in zip(firsts, self._starts, strict=True)
        ]
        self._memory: Any = None

    @staticmethod
    def fits(firsts: Sequence[Layout]) -> bool:
        """Return whether there are kernels for tensors that lie so, and fast ones."""
        return all(
            fits_statistic(first) and math.prod(first.shape[2:]) <= cuda.LARGEST_MAP
            for first in firsts
        )

    def available(self) -> bool:
        """Return whether the kernels may be used now."""
        return not plain_alone()

    def begin(self) -> None:
        """Take the memory for one pass."""
        self._memory = torch.empty(
            self._combination.elements, device=self._device, dtype=torch.float32
        )

    def end(self) -> None:
        """Give the memory back."""
        self._memory = None

    def read(self, index: int, tensor: Tensor) -> None:
        """Take the statistic of a layer's tensor."""
        with cuda.on(self._device):
            self._launches[index].do(tensor, self._memory)

    def combined(self, channels: int) -> tuple[Tensor, list[int]]:
        """Return the average `(N, channels, H, W)`, and the scales that are not finite."""
        shape = (self._images, channels, *self._size)
        result = torch.empty(shape, device=self._device, dtype=torch.float32)
        with cuda.on(self._device):
            self._combination.squash(self._memory)
            self._combination.combine(self._memory, result)
            return result, self._combination.not_finite(self._memory)

    def values(self, index: int) -> Tensor:
        """Return the statistic of a layer, normalised once it is combined."""
        start, shape = self._starts[index], self._shapes[index]
        values: Tensor = self._memory[start : start + math.prod(shape)].view(shape)
        return values

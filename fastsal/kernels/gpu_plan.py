"""Reading the scales of a batch like an earlier one on a GPU, by launches that are set up once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastsal.kernels import cpu, cuda


class GpuPlan:
    """Reads scales whose tensors lie as planned, and combines them, on a GPU.

    Args:
        firsts: As for `CpuPlan`.
        shares: As for `CpuPlan`.
        size: As for `CpuPlan`.
    """

    def __init__(
        self, firsts: Sequence[cpu.Layout], shares: Sequence[float], size: tuple[int, int]
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
    def fits(firsts: Sequence[cpu.Layout]) -> bool:
        """Return whether there are kernels for tensors that lie so, and fast ones."""
        return all(
            cpu.StatisticWork.fits(first) and math.prod(first.shape[2:]) <= cuda.LARGEST_MAP
            for first in firsts
        )

    def available(self) -> bool:
        """Return whether the kernels may be used now."""
        return not cpu.plain_alone()

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

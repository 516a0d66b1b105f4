"""Reading an attributor's scales again, by kernels that an earlier pass has set up.

Between two layers of a network every instruction waits for memory, so that all which stays the same
from one call to the next is done once: what a layer gives is looked at, and handed to its kernel.
Normalising, upsampling and combining are one kernel after the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fastsal import fused
from fastsal.capture import Tap
from fastsal.layers import NamedLayer, check_finite
from fastsal.scales import Scale

if TYPE_CHECKING:
    from fastsal.reading import ScaleReader


# What a hook returns for a layer whose statistic lies in a plan's memory.
NOTHING = torch.empty(0)


class Occasion(NamedTuple):
    """What has to be the same for a plan to hold.

    Attributes:
        method: The statistic's function, the normalisation, and what is normalised as one.
        layers: The layers that are read.
        weights: Theirs, as they were given.
        shape: The images'.
        layer_input: Whether the layers' inputs are read.
        threads: How many share the work.
    """

    method: tuple[object, ...]
    layers: tuple[NamedLayer, ...]
    weights: object
    shape: torch.Size
    layer_input: bool
    threads: int


class PlannedReader:
    """Reads SMOE Scale during one forward pass as a `ScaleReader` does, where all is as it was.

    A layer that gives another tensor than planned is read by the `ScaleReader` instead.

    Attributes:
        occasion: When it may be used.
        layers: As in `ScaleReader`.
        size: As in `ScaleReader`.
        channels: As in `ScaleReader`.
        taps: As in `ScaleReader`.
        scales: As in `ScaleReader`, as they were at the earlier pass.
    """

    def __init__(
        self,
        occasion: Occasion,
        scales: Sequence[Scale],
        layouts: Sequence[fused.Layout],
        taps: Sequence[Tap],
        shares: Sequence[float],
    ) -> None:
        self.occasion = occasion
        self.layers = occasion.layers
        _, self.channels, *size = occasion.shape
        self.size = (size[0], size[1])
        self.scales = tuple(scales)
        self._layouts = tuple(layouts)
        firsts = [
            fused.channels_first(layout, scale.channels_last)
            for layout, scale in zip(layouts, scales, strict=True)
        ]
        self._works = [fused.StatisticWork(first) for first in firsts]
        self._images = firsts[0].shape[0]
        sizes = [(first.shape[2], first.shape[3]) for first in firsts]
        self._shapes = [(self._images, *size) for size in sizes]
        self._combination = fused.CombineWork(sizes, shares, self._images, self.size, squash=True)
        self._starts = []
        end = 0
        for work in self._works:
            self._starts.append(end)
            end += work.bytes
        self._scratch = -(-end // 64) * 64
        scratches = [work.scratch_bytes for work in self._works]
        self._bytes = self._scratch + max(*scratches, self._combination.scratch_bytes)
        self.taps = [
            tap._replace(read=partial(self._read, index)) for index, tap in enumerate(taps)
        ]
        # Of one pass each: the maps and scratch, and what reads what was not planned.
        self._memory: Any = None
        self._ordinary: Any = None
        self._otherwise: Any = None
        self._unplanned: dict[int, Tensor] = {}

    def begin(self, ordinary: Callable[[], ScaleReader]) -> None:
        """Take the memory for one pass; `ordinary` gives what reads what was not planned."""
        self._ordinary = ordinary
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
        self._memory = self._ordinary = self._otherwise = None
        self._unplanned.clear()

    def _read(self, index: int, tensor: Tensor) -> Tensor:
        shape, stride, dtype = self._layouts[index]
        if (
            type(tensor) is Tensor
            and tensor.shape == shape
            and tensor.dtype is dtype
            and fused.in_memory(tensor)
            and tensor.stride() == stride
        ):
            if self._unplanned:
                # Of several calls of a module it is the last that counts.
                self._unplanned.pop(index, None)
            self._works[index].do(tensor.data_ptr())
            return NOTHING
        if self._otherwise is None:
            self._otherwise = self._ordinary()
        values: Tensor = self._otherwise.taps[index].read(tensor)
        self._unplanned[index] = values
        return values

    def joined(self, readings: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Return what the taps read of the one part that there is."""
        return list(readings[0])

    def combined(self, _: Sequence[Tensor], channels: int | None = None) -> Tensor:
        """Return the weighted average of the normalised maps, as `ScaleReader.combined` does.

        Raises:
            ValueError: If a layer's activations are not finite.
        """
        if not self._unplanned:
            height, width = self.size
            shape = (self._images, channels or 1, height, width)
            result = torch.empty(shape, device="cpu", dtype=torch.float32)
            self._combination.do(result)
            for index in self._combination.not_finite():
                check_finite(self.layers[index][0], "activations", self._values(index))
            return result if channels is not None else result[:, 0]
        values = [
            self._unplanned.get(index, self._values(index)) for index in range(len(self._works))
        ]
        self._otherwise.assume(self.scales)
        combined: Tensor = self._otherwise.combined(self._otherwise.joined([values]), channels)
        return combined

    def _values(self, index: int) -> Tensor:
        """Return the statistic of a layer, as the kernel wrote it."""
        start = self._starts[index]
        values: Tensor = self._memory[start : start + self._works[index].bytes]
        return values.view(torch.float32).view(self._shapes[index])

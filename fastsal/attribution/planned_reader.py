"""Reading an attributor's scales again, by kernels that an earlier pass has set up.

Between two layers of a network every instruction waits for memory, so that all which stays the same
from one call to the next is done once: what a layer gives is looked at, and handed to its kernel.
Normalising, upsampling and combining are one kernel after the pass, or two on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fastsal.kernels import cpu
from fastsal.networks.hooks import Tap
from fastsal.networks.layers import NamedLayer, check_finite
from fastsal.networks.scales import Scale

if TYPE_CHECKING:
    from fastsal.attribution.reader import ScaleReader


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
        device: The images'.
    """

    method: tuple[object, ...]
    layers: tuple[NamedLayer, ...]
    weights: object
    shape: torch.Size
    layer_input: bool
    threads: int
    device: torch.device


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
        available: Returns whether the plan's kernels may be used now.
    """

    def __init__(
        self,
        occasion: Occasion,
        scales: Sequence[Scale],
        layouts: Sequence[cpu.Layout],
        taps: Sequence[Tap],
        plan: Plan,
    ) -> None:
        self.occasion = occasion
        self.layers = occasion.layers
        _, self.channels, *size = occasion.shape
        self.size = (size[0], size[1])
        self.scales = tuple(scales)
        self._layouts = tuple(layouts)
        self._plan = plan
        self.available = plan.available
        self.taps = [
            tap._replace(read=partial(self._read, index)) for index, tap in enumerate(taps)
        ]
        # Of one pass each: what reads what was not planned, and what that read.
        self._ordinary: Any = None
        self._otherwise: Any = None
        self._unplanned: dict[int, Tensor] = {}

    def begin(self, ordinary: Callable[[], ScaleReader]) -> None:
        """Take the memory for one pass; `ordinary` gives what reads what was not planned."""
        self._ordinary = ordinary
        self._plan.begin()

    def end(self) -> None:
        """Give the memory back."""
        self._plan.end()
        self._ordinary = self._otherwise = None
        self._unplanned.clear()

    def _read(self, index: int, tensor: Tensor) -> Tensor:
        shape, stride, dtype, device = self._layouts[index]
        if (
            type(tensor) is Tensor
            and tensor.shape == shape
            and tensor.dtype is dtype
            and tensor.device == device
            and cpu.in_memory(tensor)
            and tensor.stride() == stride
        ):
            if self._unplanned:
                # Of several calls of a module it is the last that counts.
                self._unplanned.pop(index, None)
            self._plan.read(index, tensor)
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
            result, not_finite = self._plan.combined(channels or 1)
            for index in not_finite:
                check_finite(self.layers[index][0], "activations", self._plan.values(index))
            return result if channels is not None else result[:, 0]
        values = [
            self._unplanned[index] if index in self._unplanned else self._plan.values(index)
            for index in range(len(self.taps))
        ]
        self._otherwise.assume(self.scales)
        combined: Tensor = self._otherwise.combined(self._otherwise.joined([values]), channels)
        return combined

"""A reader for a batch of a known shape: runs kernels that an earlier call prepared.

Between two layers of a network every instruction waits for memory. So all work that is the same
from one call to the next is done once: each layer's tensor is inspected, and its kernel is set up.
Normalisation, upsampling and combination are one kernel after the pass, or two on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from fastsal.attribution.reader import ScaleReader
from fastsal.attribution.settings import Settings
from fastsal.kernels.memory import Layout, in_memory
from fastsal.kernels.plan import CpuPlan, GpuPlan, Plan
from fastsal.maps.normalization import gaussian
from fastsal.networks.hooks import Tap
from fastsal.networks.layers import NamedLayer, check_finite
from fastsal.networks.scales import Scale
from fastsal.statistics.centred import less_means
from fastsal.statistics.kernels import kernel_of

# The number of kinds of batches with a plan: the last batch of an epoch is often smaller.
MOST_PLANS = 4
# The return value of a hook whose layer's statistic lies in a plan's memory.
NOTHING = torch.empty(0, device="cpu", dtype=torch.float32)


class CacheKey(NamedTuple):
    """The properties of a call that a plan depends on.

    Attributes:
        settings: The attributor's settings.
        layers: The layers that are read.
        shape: The shape of the images.
        dtype: The type of the images.
        layer_input: True if the layers' inputs are read.
        threads: How many threads share the work.
        device: The device of the images.
    """

    settings: Settings
    layers: tuple[NamedLayer, ...]
    shape: torch.Size
    dtype: torch.dtype
    layer_input: bool
    threads: int
    device: torch.device

    @classmethod
    def of(
        cls, settings: Settings, layers: tuple[NamedLayer, ...], image: Tensor, layer_input: bool
    ) -> CacheKey:
        """Return the key of a call with an image batch, made now."""
        threads = torch.get_num_threads()
        return cls(settings, layers, image.shape, image.dtype, layer_input, threads, image.device)


class PlannedReader:
    """A `ScaleReader` for a batch of a known shape: runs kernels prepared by an earlier call.

    A layer that gives a tensor of another layout than planned, or whose statistic is 0 everywhere,
    is read by a `ScaleReader` instead.

    Args:
        key: The calls that it is for.
        scales: The scales as an earlier pass found them.
        layouts: The layout of each layer's tensor.
        taps: The taps of the earlier pass.
        plan: The kernels.

    Attributes:
        key: The calls that it is for.
        layers: As in `ScaleReader`.
        size: As in `ScaleReader`.
        channels: As in `ScaleReader`.
        taps: As in `ScaleReader`.
        scales: As in `ScaleReader`, as the earlier pass found them.
        available: Returns True if the plan's kernels may be used now.
    """

    def __init__(
        self,
        key: CacheKey,
        scales: Sequence[Scale],
        layouts: Sequence[Layout],
        taps: Sequence[Tap],
        plan: Plan,
    ) -> None:
        self.key = key
        self.layers = key.layers
        _, self.channels, *size = key.shape
        self.size: tuple[int, ...] = tuple(size)
        self.scales = tuple(scales)
        self._layouts = tuple(layouts)
        self._centred = tuple(scale if scale.linear else None for scale in scales)
        self._plan = plan
        self.available = plan.available
        self.taps = [
            tap._replace(read=partial(self._read, index), modes=())
            for index, tap in enumerate(taps)
        ]
        # For one pass each: the reader of tensors that were not planned, and the values it read.
        self._make_fallback: Callable[[], ScaleReader] | None = None
        self._fallback: ScaleReader | None = None
        self._unplanned: dict[int, Tensor] = {}

    @classmethod
    def after(cls, reader: ScaleReader, key: CacheKey) -> PlannedReader | None:
        """Return a planned reader for more calls like the one that a reader has just read.

        None if the kernels do not cover all of it: they have SMOE Scale, and on a CPU the mean and
        the standard deviation, with the normal CDF of each whole image on one device.
        """
        settings, layouts = reader.settings, reader.layouts
        statistic = kernel_of(settings.statistic)
        if (
            statistic is None
            or settings.normalization is not gaussian
            or settings.normalize_over != "image"
            or settings.tiling is not None
            or len(reader.size) > 2
            or len(layouts) != len(reader.layers)
            or not all(map(_plannable, reader.scales))
        ):
            return None
        (device, *others) = {device for _, device in layouts}
        if others:
            return None
        pairs = [layouts[index, device] for index in range(len(reader.layers))]
        in_order, firsts = zip(*pairs, strict=True)
        on_cpu = device.type == "cpu"
        fits = (CpuPlan if on_cpu else GpuPlan).fits(firsts, statistic)
        if not fits or len({first.shape[0] for first in firsts}) > 1:
            return None
        weights = reader.weights()
        total = math.fsum(weights)
        height, width = reader.size
        shares = [weight / total for weight in weights]
        plan: Plan = (
            CpuPlan(firsts, shares, (height, width), statistic)
            if on_cpu
            else GpuPlan(firsts, shares, (height, width))
        )
        return cls(key, reader.scales, in_order, reader.taps, plan)

    def begin(self, make_fallback: Callable[[], ScaleReader]) -> None:
        """Take the memory for one pass.

        Args:
            make_fallback: Returns the reader of tensors that were not planned.
        """
        self._make_fallback = make_fallback
        self._plan.begin()

    def end(self) -> None:
        """Give the memory back."""
        self._plan.end()
        self._make_fallback = self._fallback = None
        self._unplanned.clear()

    def _read(self, index: int, tensor: Tensor) -> Tensor:
        shape, stride, dtype, device = self._layouts[index]
        if (
            type(tensor) is Tensor
            and tensor.shape == shape
            and tensor.dtype is dtype
            and tensor.device == device
            and in_memory(tensor)
            and tensor.stride() == stride
        ):
            if self._unplanned:
                # If a module runs several times, its last call counts.
                self._unplanned.pop(index, None)
            scale = self._centred[index]
            read = tensor
            if scale is not None:
                # Fast-CAM may have switched gradients on.
                read = less_means(scale.channels_first(tensor.detach()))
            if self._plan.read(index, read):
                return NOTHING
            # 0 everywhere: the other reader looks for the reason.
        values = self._fallback_reader().taps[index].read(tensor)
        self._unplanned[index] = values
        return values

    def _fallback_reader(self) -> ScaleReader:
        if self._fallback is None:
            if self._make_fallback is None:
                raise RuntimeError("a planned reader reads between `begin` and `end` alone")
            self._fallback = self._make_fallback()
        return self._fallback

    def end_part(self, images: int) -> None:
        """Do nothing: a batch has one part."""

    def joined(self, values: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Return what the taps read of a batch, which has one part."""
        return list(values[0])

    def combined(self, _: Sequence[Tensor], channels: int | None = None) -> Tensor:
        """Return the weighted average of the normalised maps, as `ScaleReader.combined` does.

        Raises:
            ValueError: If a layer's activations are not finite.
        """
        if not self._unplanned:
            result, not_finite = self._plan.combined(channels or 1)
            for index in not_finite:
                check_finite(self.layers[index].name, "activations", self._plan.values(index))
            return result if channels is not None else result[:, 0]
        values = [
            self._unplanned[index] if index in self._unplanned else self._plan.values(index)
            for index in range(len(self.taps))
        ]
        fallback = self._fallback_reader()
        fallback.set_missing_scales(self.scales)
        return fallback.combined(fallback.joined([values]), channels)


def _plannable(scale: Scale) -> bool:
    """Return True if a scale's map is stretched over the image, and kernels can read its tensor.

    A tensor that is centred is put in order first.
    """
    return scale.plain or (scale.linear and scale.placement is None and not scale.varies)


class PlanCache:
    """The planned readers of an attributor's last kinds of batches; empty in copies.

    Each method is one step of a list, so that no two threads get one reader.
    """

    def __init__(self) -> None:
        self._readers: list[PlannedReader] = []

    def __reduce__(self) -> tuple[type[PlanCache], tuple[()]]:
        # A plan holds addresses in memory.
        return PlanCache, ()

    def take(self, key: CacheKey) -> PlannedReader | None:
        """Remove and return the reader of a key, if there is one whose kernels may be used now."""
        for reader in tuple(self._readers):
            if reader.key == key and reader.available():
                # ValueError: another thread was faster.
                with suppress(ValueError):
                    self._readers.remove(reader)
                    return reader
        return None

    def put(self, reader: PlannedReader) -> None:
        """Keep a reader as the latest, and drop the oldest of more than `MOST_PLANS`."""
        self._readers.insert(0, reader)
        del self._readers[MOST_PLANS:]

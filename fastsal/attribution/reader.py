"""Reading an attributor's scales during forward passes, and the maps that come of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fastsal.attribution.planned_reader import Occasion, PlannedReader
from fastsal.kernels import cpu, cuda
from fastsal.kernels.cpu_plan import CpuPlan
from fastsal.kernels.gpu_plan import GpuPlan
from fastsal.maps.combination import combine, layer_weights
from fastsal.maps.normalization import gaussian, over_batch
from fastsal.maps.prior import Prior
from fastsal.networks.layers import NamedLayer, check_each_finite, check_finite
from fastsal.networks.preactivation import PreActivations
from fastsal.networks.scales import Scale
from fastsal.statistics.registry import smoe_scale

if TYPE_CHECKING:
    from fastsal.attribution.smoe_scale import SMOEScale


class ScaleReader:
    """Reads one attributor's scales during forward passes, and combines them.

    Attributes:
        layers: What is read: name, module, and the scale where it is known.
        size: (H, W), the image's.
        channels: C, the image's.
        known: Where each map will be read, if that is known before; else empty.
        seen: (H, W) of what the network is given: the image's, or a tile's.
        taps: What has to be read, for `hooks.forward`.
    """

    def __init__(
        self,
        attributor: SMOEScale,
        layers: Sequence[NamedLayer],
        image: Tensor,
        layer_input: bool,
    ) -> None:
        self.attributor = attributor
        self.layers = tuple(layers)
        self._occasion = occasion(attributor, self.layers, image, layer_input)
        self.size = (image.shape[2], image.shape[3])
        self.channels = image.shape[1]
        self.seen = self.size
        known = [scale for _, _, scale in layers if scale is not None and not layer_input]
        self.known = tuple(known) if len(known) == len(self.layers) else ()
        self._scales: dict[int, Scale] = {}
        self._layouts: dict[tuple[int, torch.device], cpu.Layout] = {}
        self._smoe = attributor.statistic.function is smoe_scale
        # A batch in parts, an image in tiles, either on several devices, is one only when they are
        # joined. And what can wait should: between two layers even a few instructions wait for
        # memory.
        joined_later = attributor.normalize_over == "batch" or attributor.tiling is not None
        self._later = self._smoe or joined_later
        self._before: PreActivations | None = None
        if attributor.statistic.domain == "pre_relu":
            self._before = PreActivations()
        self._rectified: list[str] = []
        self.taps = [
            layer.tap(
                partial(
                    self._read,
                    (index, layer.name, layer.module, layer_input),
                    None if layer_input else layer.scale,
                ),
                layer_input=layer_input,
                mode=self._before,
            )
            for index, layer in enumerate(layers)
        ]

    def _read(
        self, layer: tuple[int, str, nn.Module, bool], scale: Scale | None, tensor: Tensor
    ) -> Tensor:
        index, *_ = layer
        if scale is None:
            scale = self.attributor.describe(layer, tensor, self.seen)
        # Of several parts of a batch one with negative activations is remembered.
        if index not in self._scales or scale.signed:
            self._scales[index] = scale
        if self._smoe and (cpu.readable(tensor) or cuda.readable(tensor)):
            self._layouts[index, tensor.device] = cpu.layout_of(tensor)
        if self._before is not None:
            tensor = self._before_relu(self._before, scale, tensor)
        # Fast-CAM may have gradients on by now, which the map has no part in.
        activations = scale.channels_first(tensor.detach())
        statistic = self.attributor.statistic
        rectify = statistic.domain == "post_relu" and not statistic.rectifies
        if rectify and (scale.signed or scale.functional_relu):
            activations = activations.relu()
        values = statistic(activations)
        if not self._later:
            check_finite(self.layers[index][0], "activations", values)
            return self._normalized(values)
        # Another statistic's values may be the network's own, which it may write over.
        return values if self._smoe else values.clone()

    def _before_relu(self, before: PreActivations, scale: Scale, tensor: Tensor) -> Tensor:
        """Return what the activation function was given that made a layer's tensor.

        A tensor that no activation function made is itself before the next one.
        """
        given = before.of(tensor)
        if given is not None:
            return given
        if not (scale.signed or scale.functional_relu):
            self._rectified.append(scale.name)
        return tensor

    @property
    def scales(self) -> tuple[Scale, ...]:
        """Where each map was read, known after the pass."""
        return tuple(self._scales[index] for index in range(len(self._scales)))

    def joined(self, readings: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Return the normalised maps of a whole batch from what the taps read of its parts."""
        whole = [
            values[0] if len(values) == 1 else torch.cat(values)
            for values in zip(*readings, strict=True)
        ]
        if not self._later:
            return whole
        check_each_finite([name for name, _, _ in self.layers], "activations", whole)
        return [self._normalized(values) for values in whole]

    def _normalized(self, values: Tensor) -> Tensor:
        """Return a scale's map of what the statistic gave, which may be written over."""
        normalization = self.attributor.normalization
        if self.attributor.normalize_over == "batch":
            return over_batch(normalization, values)
        squashed = None
        if normalization is gaussian:
            # So that no second map is held.
            squashed = cpu.gaussian(values, in_place=self._smoe)
        return normalization(values) if squashed is None else squashed

    def combined(self, readings: Sequence[Tensor], channels: int | None = None) -> Tensor:
        """Return the weighted average of what the taps read, as `combine` does.

        Warns where activations were negative.
        """
        scales = self.scales
        if self.attributor.statistic.domain == "post_relu":
            self.attributor.warn_signed([scale.name for scale in scales if scale.signed])
        self.attributor.warn_rectified(self._rectified)
        return combine(readings, self._weights(), self.size, channels)

    def _weights(self) -> tuple[float, ...]:
        names = [scale.name for scale in self.scales]
        return layer_weights(self.attributor.weights, len(names), names)

    def assume(self, scales: Sequence[Scale]) -> None:
        """Take the scales of the layers that this has not read to be these."""
        for index, scale in enumerate(scales):
            self._scales.setdefault(index, scale)

    def planned(self) -> PlannedReader | None:
        """Return what reads the next images like these in less time, after a pass of them all.

        None where the fused forms are not all there is to it.
        """
        if (
            not self._smoe
            or self.attributor.normalization is not gaussian
            or self.attributor.normalize_over != "image"
            or self.attributor.tiling is not None
            or len(self._layouts) != len(self.layers)
        ):
            return None
        (device, *others) = {device for _, device in self._layouts}
        if others:
            return None
        layouts = [self._layouts[index, device] for index in range(len(self.layers))]
        firsts = [
            cpu.channels_first(layout, scale.channels_last)
            for layout, scale in zip(layouts, self.scales, strict=True)
        ]
        of_device = CpuPlan if device.type == "cpu" else GpuPlan
        if not of_device.fits(firsts) or len({first.shape[0] for first in firsts}) > 1:
            return None
        weights = self._weights()
        total = math.fsum(weights)
        shares = [weight / total for weight in weights]
        plan = of_device(firsts, shares, self.size)
        return PlannedReader(self._occasion, self.scales, layouts, self.taps, plan)


def occasion(
    attributor: SMOEScale, layers: tuple[NamedLayer, ...], image: Tensor, layer_input: bool
) -> Occasion:
    """Return what has to be the same for a plan to hold."""
    weights = attributor.weights
    if not isinstance(weights, (str, Prior)):
        weights = tuple(weights)
    method = attributor.statistic.function, attributor.normalization, attributor.normalize_over
    return Occasion(
        method, layers, weights, image.shape, layer_input, torch.get_num_threads(), image.device
    )

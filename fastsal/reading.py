"""Reading an attributor's scales during one forward pass, and the maps that come of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastsal import capture
from fastsal.combine import combine, layer_weights, upsample
from fastsal.layers import NamedLayer
from fastsal.normalize import over_batch
from fastsal.preactivation import PreActivations
from fastsal.scales import Scale

if TYPE_CHECKING:
    from fastsal.attribution import SMOEScale


@dataclass(frozen=True, eq=False)
class Maps:
    """The saliency maps of a batch, all from one forward pass.

    Attributes:
        scales: Where each map was read, the shallowest first; R of them.
        per_scale: For each scale its normalised map `(N, h, w)`, at the layer's own size.
        combined: `(N, H, W)`, their weighted average at the input's size.
        logits: The model's output as it was.
    """

    scales: tuple[Scale, ...]
    per_scale: tuple[Tensor, ...]
    combined: Tensor
    logits: Any

    @cached_property
    def stacked(self) -> Tensor:
        """The maps of all scales `(N, R, H, W)`, upsampled to the input's size."""
        size = self.combined.shape[1:]
        return torch.cat([upsample(scale_map, size) for scale_map in self.per_scale], 1)


class ScaleReader:
    """Reads one attributor's scales during one forward pass, and combines them.

    Attributes:
        layers: What is read: name, module, and the scale where it is known.
        size: (H, W), the image's.
        channels: C, the image's.
        taps: What has to be read, for `capture.forward`.
        scales: Where each was read; known after the pass.
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
        self.size = (image.shape[2], image.shape[3])
        self.channels = image.shape[1]
        self.scales: dict[int, Scale] = {}
        self._before: PreActivations | None = None
        if attributor.statistic.domain == "pre_relu":
            self._before = PreActivations()
        self._rectified: list[str] = []
        # A batch on several devices is one only when they are joined.
        shared = None
        if attributor.normalize_over == "batch":
            shared = partial(over_batch, attributor.normalization)
        self.taps = [
            capture.Tap(
                name=name,
                module=module,
                read=partial(
                    self._read, (index, name, module, layer_input), None if layer_input else scale
                ),
                call=None if scale is None else scale.call,
                layer_input=layer_input or (scale is not None and scale.layer_input),
                mode=self._before,
                finish=shared,
            )
            for index, (name, module, scale) in enumerate(layers)
        ]

    def _read(
        self, layer: tuple[int, str, nn.Module, bool], scale: Scale | None, tensor: Tensor
    ) -> Tensor:
        index, name, _, _ = layer
        if scale is None:
            scale = self.attributor.describe(layer, tensor, self.size)
        self.scales[index] = scale
        if self._before is not None:
            tensor = self._before_relu(self._before, scale, tensor)
        # Fast-CAM may have gradients on by now, which the map has no part in.
        activations = scale.channels_first(tensor.detach())
        statistic = self.attributor.statistic
        rectify = statistic.domain == "post_relu" and not statistic.rectifies
        if rectify and (scale.signed or scale.functional_relu):
            activations = activations.relu()
        values = statistic(activations)
        if not _all_finite(values):
            raise ValueError(
                f"layer {name!r} gives activations that are not finite; check the input for NaN, "
                "and half precision for overflow"
            )
        if self.attributor.normalize_over == "batch":
            return values
        return self.attributor.normalization(values)

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

    def maps(self, readings: Sequence[Tensor], output: Any) -> Maps:
        """Return the maps from what the taps read."""
        scales = tuple(self.scales[index] for index in range(len(readings)))
        return Maps(scales, tuple(readings), self.combined(readings), output)

    def combined(self, readings: Sequence[Tensor], channels: int | None = None) -> Tensor:
        """Return the weighted average of what the taps read, as `combine` does.

        Warns where activations were negative.
        """
        scales = [self.scales[index] for index in range(len(readings))]
        if self.attributor.statistic.domain == "post_relu":
            self.attributor.warn_signed([scale.name for scale in scales if scale.signed])
        self.attributor.warn_rectified(self._rectified)
        weights = layer_weights(
            self.attributor.weights, len(scales), [scale.name for scale in scales]
        )
        return combine(readings, weights, self.size, channels)


def _all_finite(values: Tensor) -> bool:
    # A sum with a value that is not finite is not finite; the other way round is rare.
    return math.isfinite(values.sum().item()) or bool(torch.isfinite(values).all())

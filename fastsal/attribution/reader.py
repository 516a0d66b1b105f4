"""The reader of a network's scales during forward passes, and of their combined map."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastsal.arguments.inputs import IMAGE, grid_of
from fastsal.attribution.layer_notes import LayerNotes
from fastsal.attribution.settings import Settings
from fastsal.geometry.following import Following
from fastsal.geometry.placement import of_parts
from fastsal.kernels import cpu, cuda
from fastsal.kernels.constants import CONSTANT_SPREAD
from fastsal.kernels.memory import Layout, layout_of
from fastsal.maps.combination import combine
from fastsal.maps.normalization import each_map, gaussian, over_batch
from fastsal.maps.placing import by_image
from fastsal.networks.layers import (
    NamedLayer,
    check_each_finite,
    check_finite,
)
from fastsal.networks.preactivation import PreActivations
from fastsal.networks.scales import Scale
from fastsal.networks.state import LayerError
from fastsal.statistics.centred import less_means
from fastsal.statistics.kernels import kernel_of, of_rectified
from fastsal.statistics.smoe import smoe_scale

SEVERAL_DEVICES = "the images on each of several devices lie in places of their own"


class ScaleReader:
    """The reader of one batch's scales during forward passes; it combines their maps.

    Args:
        settings: The attributor's settings.
        notes: The attributor's notes of its layers.
        layers: The layers that are read, the shallowest first.
        image: `(N, C, H, W)`; volumes `(N, C, D, H, W)`, signals `(N, C, T)`.
        layer_input: Reads the layers' inputs in place of their outputs.
        found: The scales were found for images like this one, and their places are known.

    Attributes:
        settings: The attributor's settings.
        layers: The layers that are read.
        size: (H, W), the image's; (D, H, W) of volumes, (1, T) of signals.
        channels: C, the image's.
        known_scales: The scales, if all are known before the pass; else empty.
        input_size: The size of the network's input: the image's, or a tile's.
        tiling: The tiles; None for an image that is read whole.
        layouts: The layout of each tensor that was read, and that of the activations `(N, C, h, w)`
            that the statistic is of, by the layer's index and the device, if kernels can read them.
        taps: The places that are read, for `hooks.forward`.
    """

    def __init__(
        self,
        settings: Settings,
        notes: LayerNotes,
        layers: Sequence[NamedLayer],
        image: Tensor,
        layer_input: bool,
        found: bool = False,
    ) -> None:
        self.settings = settings
        self.layers = tuple(layers)
        self.size = grid_of(image)
        self.channels = image.shape[1]
        self.input_size = self.size
        tiling = None if settings.tiling is None else settings.tiling.on(self.size)
        self.tiling = None if tiling is None or tiling.fits(self.size) else tiling
        known = [layer.scale for layer in layers if layer.scale is not None and not layer_input]
        self.known_scales = tuple(known) if len(known) == len(self.layers) else ()
        self.layouts: dict[tuple[int, torch.device], tuple[Layout, Layout]] = {}
        self._notes = notes
        self._layer_input = layer_input
        self._scales: dict[int, Scale] = {}
        # The scales that the pass so far has read, and those of each part of the batch before.
        self._of_pass: dict[int, Scale] = {}
        self._devices: dict[int, torch.device] = {}
        self._of_parts: list[tuple[int, dict[int, Scale]]] = []
        self._is_smoe = settings.statistic.function is smoe_scale
        self._has_kernel = kernel_of(settings.statistic) is not None
        # Parts of a batch, tiles of an image and several devices are joined after the pass; then a
        # map can be normalised. Work that can wait should: between two layers even a few
        # instructions wait for memory.
        joined_later = settings.normalize_over == "batch" or settings.tiling is not None
        self._normalize_later = self._is_smoe or joined_later
        self._preactivations: PreActivations | None = None
        modes: list[TorchFunctionMode] = []
        if settings.statistic.domain == "pre_relu":
            self._preactivations = PreActivations()
            modes.append(self._preactivations)
        # Given layers are placed in the first pass of each kind of batch.
        self._kind = (image.shape, image.dtype, image.device, layer_input)
        self._following: Following | None = None
        varies = any(layer.scale is not None and layer.scale.varies for layer in layers)
        self._placed = found and not layer_input and not varies
        keys = [(index, *self._kind) for index in range(len(self.layers))]
        if not self._placed and not all(map(notes.known, keys)):
            self._following = Following()
            modes.append(self._following)
        # Layers whose values before the ReLU are not known.
        self._rectified: list[str] = []
        # The largest activation of each layer whose statistic was constant in every part so far.
        self._small: dict[str, float] = {}
        self._distinct: set[str] = set()
        self.taps = [
            layer.tap(
                partial(self._read, index, layer.scale if self._placed else None),
                layer_input=layer_input,
                modes=tuple(modes),
            )
            for index, layer in enumerate(layers)
        ]

    def locate(self, index: int, tensor: Tensor) -> Scale:
        """Return the scale of a layer that was given, from its whole tensor."""
        layer = self.layers[index]
        kind: Hashable = (index, *self._kind)
        key = kind if self.tiling is None else (kind, self.input_size)
        layer = layer._replace(scale=None) if self._layer_input else layer
        scale = self._notes.scale(key, layer, tensor, self.input_size, self._following)
        if self._notes.known(key):
            # Every call has tiles of the same sizes.
            self._notes.note(kind)
        return scale

    def read_first(self, index: int, tensor: Tensor, count: int) -> Tensor:
        """Return what a tap reads of the first images of a batch.

        Args:
            index: The layer's index.
            tensor: Its tensor of the whole batch.
            count: The number of images.
        """
        known = self.layers[index].scale if self._placed else None
        scale = known or self.locate(index, tensor)
        placement = scale.placement
        if placement is None or placement.blocks == 1:
            return self._read(index, scale, tensor[:count])
        return self._read(index, scale, tensor)[: count * placement.blocks]

    def _read(self, index: int, scale: Scale | None, tensor: Tensor) -> Tensor:
        """Return the statistic of a layer's tensor, or its normalised map."""
        statistic = self.settings.statistic
        if scale is None:
            scale = self.locate(index, tensor)
        # If any part of the batch has negative activations, the layer counts as signed.
        if index not in self._scales or scale.signed:
            self._scales[index] = scale
        known = self._of_pass.get(index)
        if known is not None and scale.varies and self._devices[index] != tensor.device:
            scale = replace(scale, placement=None, doubt=SEVERAL_DEVICES)
        self._of_pass[index], self._devices[index] = scale, tensor.device
        after_relu = statistic.domain == "post_relu"
        centres = after_relu and scale.linear
        if self._preactivations is not None:
            tensor = self._before_relu(self._preactivations, scale, tensor)
        # Fast-CAM may have switched gradients on, which the map does not need.
        activations = given = scale.channels_first(tensor.detach())
        if centres:
            activations = less_means(activations, scale.placement)
        planned = self._has_kernel and (tensor.is_cpu or tensor.dim() == IMAGE or centres)
        if planned and (cpu.readable(tensor) or cuda.readable(tensor)):
            self.layouts[index, tensor.device] = layout_of(tensor), layout_of(activations)
        # The tensor may be from before the ReLU that the network applies by a function.
        after_relu |= statistic.domain == "any" and scale.functional_relu
        read = partial(of_rectified, statistic) if after_relu else statistic
        values = by_image(read(activations), scale.placement)
        if self._notes.looks_for_small(index, tensor):
            self._look_for_small(self.layers[index].name, given, values)
        if not self._normalize_later:
            check_finite(self.layers[index].name, "activations", values)
            return self._normalized(values)
        # Another statistic may return a view of the network's tensor, which is overwritten later.
        return values if self._is_smoe else values.clone()

    def _look_for_small(self, name: str, activations: Tensor, values: Tensor) -> None:
        """Note a layer whose statistic is constant since its activations are below the epsilon."""
        low, high = (one.item() for one in values.aminmax())
        epsilon = None
        if high - low <= CONSTANT_SPREAD * max(abs(low), abs(high)):
            epsilon = self.settings.statistic.epsilon
        largest = math.inf if epsilon is None else activations.amax().item()
        if epsilon is not None and largest < epsilon:
            self._small[name] = max(largest, self._small.get(name, -math.inf))
        else:
            self._distinct.add(name)

    def _before_relu(self, before: PreActivations, scale: Scale, tensor: Tensor) -> Tensor:
        """Return the input of the activation function that made a layer's tensor.

        A tensor that no activation function made is itself the input of the next one.
        """
        given = before.of(tensor)
        if given is not None:
            return given
        if not (scale.signed or scale.functional_relu):
            self._rectified.append(scale.name)
        return tensor

    @property
    def scales(self) -> tuple[Scale, ...]:
        """The scale of every layer that was read, known after the pass."""
        return tuple(self._scale(index) for index in range(len(self._scales)))

    def _scale(self, index: int) -> Scale:
        """Return a layer's scale, of images in different places with those of the whole batch."""
        scale = self._scales[index]
        read = [(images, part[index]) for images, part in self._of_parts if index in part]
        if not scale.varies or not read:
            return scale
        placement = of_parts([(images, one.placement) for images, one in read], self.size)
        doubt = next((one.doubt for _, one in read if one.doubt), "")
        return replace(scale, placement=None if doubt else placement, doubt=doubt)

    def end_part(self, images: int) -> None:
        """Note that the pass of a part of the batch is over.

        Args:
            images: The number of its images.
        """
        self._of_parts.append((images, self._of_pass))
        self._of_pass = {}

    def joined(self, values: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Return each scale's normalised map of a whole batch.

        Args:
            values: For each part of the batch what the taps read.

        Raises:
            ValueError: If a layer's activations are not finite.
        """
        whole = []
        for layer, maps in zip(self.layers, zip(*values, strict=True), strict=True):
            sizes = {tuple(of_part.shape[1:]) for of_part in maps}
            if len(sizes) > 1:
                raise LayerError(
                    f"layer {layer.name!r} gives maps of several sizes, {sorted(sizes)}, for the "
                    "parts of a batch, since the network's path depends on the images; give images "
                    "of one path, or no max_batch"
                )
            whole.append(maps[0] if len(maps) == 1 else torch.cat(maps))
        if not self._normalize_later:
            return whole
        check_each_finite([layer.name for layer in self.layers], "activations", whole)
        return [self._normalized(of_scale) for of_scale in whole]

    def _normalized(self, values: Tensor) -> Tensor:
        """Return the normalised map of a scale from its statistic, which may be written over."""
        normalization = self.settings.normalization
        if self.settings.normalize_over == "batch":
            return over_batch(normalization, values)
        squashed = None
        if normalization is gaussian:
            # In place, so that no second map is held.
            squashed = cpu.gaussian(values.flatten(1, -2), in_place=self._is_smoe)
        return (
            each_map(normalization, values) if squashed is None else squashed.reshape(values.shape)
        )

    def combined(self, maps: Sequence[Tensor], channels: int | None = None) -> Tensor:
        """Return the weighted average of the scales' maps at the image's size, as `combine` does.

        The first time, it warns of layers with negative activations, and of those with none above
        the statistic's epsilon.

        Args:
            maps: From `joined`.
            channels: As for `combine`.
        """
        scales = self.scales
        statistic = self.settings.statistic
        if statistic.domain == "post_relu":
            signed = [scale.name for scale in scales if scale.signed and not scale.linear]
            self._notes.warn_signed(signed, statistic.name)
        self._notes.warn_rectified(self._rectified, statistic.name)
        self._notes.warn_doubt(scales)
        small = {name: self._small[name] for name in self._small if name not in self._distinct}
        self._notes.warn_small(small, statistic)
        placements = [scale.placement for scale in scales]
        # Of tiles each has places of its own; they are put together evenly.
        placed = placements if any(placements) and self.tiling is None else None
        return combine(maps, self.weights(), self.size, channels, placed)

    def weights(self) -> tuple[float, ...]:
        """Return the weight of each scale that was read."""
        return self.settings.layer_weights([scale.name for scale in self.scales])

    def set_missing_scales(self, scales: Sequence[Scale]) -> None:
        """Set the scales of the layers that this reader has not read."""
        for index, scale in enumerate(scales):
            self._scales.setdefault(index, scale)

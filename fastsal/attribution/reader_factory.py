"""The factory of an attributor's readers; layers, notes and prepared kernels outlive a call."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from fastsal.arguments.call import Call
from fastsal.arguments.inputs import grid_of, image_of
from fastsal.attribution.layer_notes import LayerNotes
from fastsal.attribution.planned_reader import CacheKey, PlanCache, PlannedReader
from fastsal.attribution.reader import ScaleReader
from fastsal.attribution.settings import Settings
from fastsal.attribution.tiles import crop
from fastsal.kernels.memory import untraced
from fastsal.networks import state
from fastsal.networks.layers import Layer, NamedLayer, are_found, name_layers, of_found
from fastsal.networks.scales import Scale, find_scales

# The number of kinds of calls whose scales are kept.
MOST_KINDS = 64


class ReaderFactory:
    """The factory of the readers of an attributor's calls.

    Args:
        model: The network, or any callable that runs it.
        layers: As for `SMOEScale`; None and "late" find them at the first call.
        settings: The attributor's settings.

    Attributes:
        settings: The attributor's settings.

    Raises:
        ValueError: If a layer is missing, or the weights do not fit.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        layers: Layer | Scale | Sequence[Layer | Scale] | None,
        settings: Settings,
    ) -> None:
        found = are_found(layers)
        if found and state.root_module(model) is None:
            raise ValueError(
                f"cannot find scales inside {model!r}, which is no torch.nn.Module; give the "
                "layers yourself, layers=[module, ...]"
            )
        self.settings = settings
        self._given = layers
        self._layers = None if layers is None or found else name_layers(model, layers)
        # By all of a call that scales depend on, so that nothing about an image outlives it.
        self._found: dict[Hashable, tuple[NamedLayer, ...]] = {}
        self._notes = LayerNotes()
        self._plans = PlanCache()
        names = None if self._layers is None else [layer.name for layer in self._layers]
        settings.check_weights(names)

    @property
    def finds_layers(self) -> bool:
        """True if the layers are found, not given."""
        return self._layers is None

    def described(self) -> str:
        """Return the names of the scales, if they are known, for one line of text.

        >>> from torch import nn
        >>> ReaderFactory(nn.Conv2d(3, 4, 3), None, Settings.checked()).described()
        'scales found at the first call'
        """
        known = self._layers or next(reversed(self._found.values()), None)
        if known is None:
            late = "" if self._given is None else "late "
            return f"{late}scales found at the first call"
        return f"scales {[layer.name for layer in known]}"

    def with_settings(self, settings: Settings) -> ReaderFactory:
        """Return a factory for the same layers with other settings."""
        changed = copy.copy(self)
        changed.settings = settings
        changed._plans = PlanCache()
        if settings.tiling != self.settings.tiling:
            changed._found = {}
        return changed

    def for_image(self, image: Tensor, layer_input: bool = False) -> ScaleReader:
        """Return a reader of layers that were given.

        Args:
            image: `(N, C, H, W)`.
            layer_input: Reads the layers' inputs in place of their outputs.

        Raises:
            RuntimeError: If the layers are to be found, which takes a whole call.
        """
        if self._layers is None:
            raise RuntimeError("the layers are to be found, which takes a call: use for_call")
        return ScaleReader(self.settings, self._notes, self._layers, image, layer_input)

    def for_call(self, call: Call, layer_input: bool = False) -> ScaleReader:
        """Return a reader of a call, whose layers are found first if they are not known.

        Args:
            call: The call, or its first part.
            layer_input: Reads the layers' inputs in place of their outputs.

        Raises:
            ValueError: If no input is an image batch, or no scales are found.
        """
        image = image_of(call.inputs)
        layers = self._layers_of(call, image)
        return self._reader(layers, image, layer_input)

    def _reader(
        self, layers: tuple[NamedLayer, ...], image: Tensor, layer_input: bool
    ) -> ScaleReader:
        found = layers is not self._layers
        return ScaleReader(self.settings, self._notes, layers, image, layer_input, found)

    @contextmanager
    def cached(
        self, calls: Sequence[Call], layer_input: bool = False
    ) -> Iterator[ScaleReader | PlannedReader]:
        """Give a reader of a batch for the combined map alone.

        It is the planned reader of an earlier batch like this one, if there is one; else a
        `ScaleReader`, after which one is prepared for the next.

        Args:
            calls: One for each part of the batch.
            layer_input: Reads the layers' inputs in place of their outputs.

        Raises:
            ValueError: As `for_call` raises it.
        """
        image = image_of(calls[0].inputs)
        layers = self._layers_of(calls[0], image)
        ordinary = partial(self._reader, layers, image, layer_input)
        if len(calls) > 1 or self.settings.tiling is not None:
            yield ordinary()
            return
        key = CacheKey.of(self.settings, layers, image, layer_input)
        planned = self._plans.take(key) if untraced() else None
        if planned is None:
            reader = ordinary()
            yield reader
            planned = PlannedReader.after(reader, key)
        else:
            planned.begin(ordinary)
            try:
                yield planned
            finally:
                planned.end()
        if planned is not None:
            self._plans.put(planned)

    def _layers_of(self, call: Call, image: Tensor) -> tuple[NamedLayer, ...]:
        if self._layers is not None:
            return self._layers
        key = call.kind
        if key not in self._found:
            inputs, tiling = call.inputs, self.settings.tiling
            if tiling is not None:
                size = grid_of(image)
                inputs = crop(inputs, size, [(0, side) for side in tiling.on(size).shown])
            found = find_scales(call.forward_func, inputs, call.additional_forward_args)
            if len(self._found) >= MOST_KINDS:
                self._found.pop(next(iter(self._found)), None)
            self._found[key] = tuple(map(NamedLayer.of_scale, of_found(found, self._given)))
        return self._found[key]

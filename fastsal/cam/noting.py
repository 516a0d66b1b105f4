"""The noting of where a layer lies in the image, during a pass."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsal.arguments.call import Call
from fastsal.arguments.inputs import grid_of, images_of
from fastsal.geometry.following import Following
from fastsal.networks import hooks
from fastsal.networks.layers import NamedLayer, place_of
from fastsal.networks.scales import Scale

# The number of kinds of batches whose places are kept.
MOST_KINDS = 64
# The scales of layers, by the kind of batch.
Places = dict[Hashable, Scale | None]


class Noting(NamedTuple):
    """The noting of where a layer lies in the image, during a pass.

    Attributes:
        layer: The layer.
        places: The scales of layers by the kind of batch.
        key: That of this layer and batch.
        size: (H, W) of the image; (D, H, W) of volumes, (1, T) of signals; None without one.
        layer_input: Takes the layer's input in place of its output.
        modes: What the pass runs under, to follow pixels.
    """

    layer: NamedLayer
    places: Places
    key: Hashable
    size: tuple[int, ...] | None
    layer_input: bool
    modes: tuple[Following, ...]

    @classmethod
    def of(
        cls,
        layer: NamedLayer,
        call: Call,
        places: Places,
        *,
        found: bool = False,
        layer_input: bool = False,
        following: Following | None = None,
    ) -> Noting:
        """Return the noting of a layer.

        Args:
            layer: The layer.
            call: The model with its inputs.
            places: As for `layer_contributions`.
            found: As for `layer_contributions`.
            layer_input: As for `layer_contributions`.
            following: A mode that layers of one pass share; None for a new one.
        """
        image = next(iter(images_of(call.inputs)), None)
        size = None if image is None else grid_of(image)
        key = (layer, layer_input, call.kind)
        fixed = layer.scale is not None and not layer.scale.varies
        if found and fixed and not layer_input:
            places = {key: layer.scale}
        elif image is None:
            # Tokens, numbers: there is no image on which a map could be laid.
            places = {key: None}
        modes = () if key in places else (following or Following(),)
        return cls(layer, places, key, size, layer_input, modes)

    @property
    def rectify(self) -> bool:
        """True if the network rectifies the layer's tensor by a function."""
        scale = self.layer.scale
        return scale is not None and scale.functional_relu and not self.layer_input

    def noted(self, tensor: Tensor) -> Tensor:
        """Note the place of a tensor, and return it without its graph."""
        if self.key not in self.places and self.size is not None:
            if len(self.places) >= MOST_KINDS:
                self.places.pop(next(iter(self.places)))
            given = self.layer._replace(scale=None) if self.layer_input else self.layer
            self.places[self.key] = place_of(given, tensor, self.size, *self.modes)
        return tensor.detach()

    def scale(self) -> Scale | None:
        """Return the layer's scale after the pass."""
        scale = self.places[self.key]
        if scale is not None and scale.varies:
            # Other images have other places.
            del self.places[self.key]
        return scale


def plain_pass(
    call: Call, tap: hooks.Tap, taps: Sequence[hooks.Tap] = ()
) -> tuple[Any, list[Tensor]]:
    """Return a model's output without gradients, and the values of further taps and of a tap.

    Args:
        call: The model with its inputs.
        tap: Its value comes last.
        taps: Further taps.
    """
    with torch.no_grad():
        return hooks.forward(
            call.forward_func,
            call.inputs,
            call.additional_forward_args,
            [*taps, tap],
            call.device_ids,
        )

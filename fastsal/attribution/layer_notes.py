"""Notes of an attributor's layers that outlive a call: their places, and the warnings given."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from fastsal.geometry.following import Following
from fastsal.networks.layers import NOT_FOLLOWED, NamedLayer, doubt_of, scale_of
from fastsal.networks.scales import Scale
from fastsal.statistics.registry import Statistic


class LayerNotes:
    """Places of an attributor's layers by the kind of batch, and warnings given once."""

    # Images of more sizes than this are traced anew.
    MOST_KINDS = 64

    def __init__(self) -> None:
        # For each kind of batch a layer's scale in each size of its tensor.
        self._scales: dict[Hashable, list[Scale]] = {}
        self._warned: set[str] = set()
        # The indices of the layers on a GPU in which small activations were looked for.
        self._looked: set[int] = set()

    def __reduce__(self) -> tuple[type[LayerNotes], tuple[()]]:
        return LayerNotes, ()

    def known(self, key: Hashable) -> bool:
        """Return True if a layer's scale has been noted under a key."""
        return key in self._scales

    def note(self, key: Hashable) -> None:
        """Note that a layer's scales are known for a kind of batch."""
        self._scales.setdefault(key, [])

    def scale(
        self,
        key: Hashable,
        layer: NamedLayer,
        tensor: Tensor,
        size: tuple[int, ...],
        following: Following | None,
    ) -> Scale:
        """Return the scale of a layer that was given, as noted under a key or from its tensor.

        Args:
            key: All that the scale depends on but the tensor's shape and type.
            layer: The layer.
            tensor: Its tensor.
            size: The size of the network's input.
            following: Tells the tensor's place in the first pass of this kind.
        """
        for noted in self._scales.get(key, ()):
            if noted.shape == tensor.shape:
                return noted
            # A layer that has got other channels has its locations where they were.
            if noted.layout.sizes(noted.shape) == noted.layout.sizes(tensor.shape):
                return replace(noted, shape=tuple(tensor.shape))
        scale = scale_of(layer, tensor, size, following)
        if following is None and layer.scale is None:
            # A tensor of another size than in all passes before.
            scale = replace(scale, doubt=NOT_FOLLOWED)
        if following is None or scale.varies:
            return scale
        if key not in self._scales and len(self._scales) >= self.MOST_KINDS:
            self._scales.pop(next(iter(self._scales)), None)
        self._scales.setdefault(key, []).append(scale)
        return scale

    def warn_signed(self, names: Sequence[str], statistic: str) -> None:
        """Warn once of layers with negative activations, for which a statistic is not defined."""
        if names and "signed" not in self._warned:
            self._warned.add("signed")
            warnings.warn(
                f"layer(s) {', '.join(names)} give negative activations, for which "
                f"{statistic} is not defined; they count as 0, as after a ReLU. If no activation "
                "function made them, as of a residual stream, let the scales be found, which are "
                "centred then, or take statistic='centred_smoe_scale'",
                stacklevel=2,
            )

    def looks_for_small(self, index: int, tensor: Tensor) -> bool:
        """Return True if a layer is to be searched for activations below the statistic's epsilon.

        On a GPU, which each search waits for, it is at the first call alone.
        """
        if tensor.is_cpu:
            return True
        first = index not in self._looked
        self._looked.add(index)
        return first

    def warn_small(self, largest: Mapping[str, float], statistic: Statistic) -> None:
        """Warn once of layers whose maps are constant, since all is below the epsilon.

        Args:
            largest: The largest activation of each such layer, by the layer's name.
            statistic: The statistic.
        """
        if largest and "small" not in self._warned:
            self._warned.add("small")
            listing = ", ".join(f"{name} ({value:g})" for name, value in largest.items())
            warnings.warn(
                f"layer(s) whose largest activation is below epsilon, {statistic.epsilon:g}: "
                f"{listing}. {statistic.name} is the same at all their locations, and the map is "
                "0.5 there. Load the weights, or normalise the image as the network expects; if "
                "activations are meant to be so small, give "
                "a smaller epsilon=...",
                stacklevel=2,
            )

    def warn_rectified(self, names: Iterable[str], statistic: str) -> None:
        """Warn once of layers whose values before the ReLU are not known."""
        listing = ", ".join(dict.fromkeys(names))
        if listing and "rectified" not in self._warned:
            self._warned.add("rectified")
            warnings.warn(
                f"layer(s) {listing} give no negative activations, and no activation function was "
                f"seen to make them; {statistic} is defined before the ReLU, and is "
                "taken of them as they are. Choose the activation's own layer, or the one before",
                stacklevel=2,
            )

    def warn_doubt(self, scales: Sequence[Scale]) -> None:
        """Warn once of scales whose places in the image are not certain."""
        message = doubt_of(scales)
        if message and "doubt" not in self._warned:
            self._warned.add("doubt")
            warnings.warn(message, stacklevel=2)

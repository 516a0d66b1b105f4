"""The saliency maps of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fastsal.maps.placing import placed
from fastsal.networks.scales import Scale


def stacked(scales: Sequence[Scale], per_scale: Sequence[Tensor], combined: Tensor) -> Tensor:
    """Return the maps of all scales `(N, R, H, W)`, each laid on the image.

    Args:
        scales: The scales.
        per_scale: For each scale its map `(N, h, w)`.
        combined: `(N, H, W)`, of the image's size.
    """
    size = combined.shape[1], combined.shape[2]
    laid = [
        placed(one, scale.placement, size) for scale, one in zip(scales, per_scale, strict=True)
    ]
    return torch.stack(laid, 1)


@dataclass(frozen=True, eq=False)
class Maps:
    """The saliency maps of a batch, all from one forward pass.

    Attributes:
        scales: The layer of each map, the shallowest first; R of them.
        per_scale: For each scale its normalised map `(N, h, w)`, at the layer's own size. If the
            network makes several views of an image, their maps follow each other.
        combined: `(N, H, W)`, their weighted average at the input's size.
        logits: The model's output, unchanged; None for an image that was read tile by tile.
    """

    scales: tuple[Scale, ...]
    per_scale: tuple[Tensor, ...]
    combined: Tensor
    logits: Any

    @cached_property
    def stacked(self) -> Tensor:
        """The maps of all scales `(N, R, H, W)`, upsampled to the input's size and in place."""
        return stacked(self.scales, self.per_scale, self.combined)

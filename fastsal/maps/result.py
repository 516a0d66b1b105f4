"""The saliency maps of one forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fastsal.maps.resize import upsample
from fastsal.networks.scales import Scale


@dataclass(frozen=True, eq=False)
class Maps:
    """The saliency maps of a batch, all from one forward pass.

    Attributes:
        scales: The layer of each map, the shallowest first; R of them.
        per_scale: For each scale its normalised map `(N, h, w)`, at the layer's own size.
        combined: `(N, H, W)`, their weighted average at the input's size.
        logits: The model's output, unchanged; None for an image that was read tile by tile.
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

"""CAM, for networks that end in global average pooling and one linear layer."""

from __future__ import annotations

from comparisons.methods.activation_maps.attributors import of_layer
from comparisons.methods.base import Method
from fastsal import CAM as ZhouCAM

__all__ = ["CAM"]

CAM = Method(
    "cam",
    ZhouCAM.get_name(),
    "cam",
    "Zhou et al. 2016, Eq 2",
    {"layer": "last scale", "interpolate": "bilinear", "reduction": "signed"},
    of_layer(ZhouCAM),
    passes=1,
    gradients=0,
)

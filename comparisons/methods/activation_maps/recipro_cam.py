"""Recipro-CAM of the last scale: the part after it runs once for each location."""

from __future__ import annotations

from comparisons.methods.activation_maps.attributors import of_layer
from comparisons.methods.base import Method
from fastsal import ReciproCAM

__all__ = ["RECIPRO_CAM"]

# The part of a network after its last scale is a small part of a pass, and is not counted.
RECIPRO_CAM = Method(
    "recipro-cam",
    ReciproCAM.get_name(),
    "cam",
    "Byun and Lee 2024",
    {"layer": "last scale", "masks": "each location", "interpolate": "bilinear"},
    of_layer(ReciproCAM),
    passes=1,
    gradients=0,
)

"""LayerCAM of all scales, fused by their maximum."""

from __future__ import annotations

from comparisons.methods.activation_maps.attributors import of_size
from comparisons.methods.base import Method
from fastsal import LayerCAM, MultiLayerCAM

__all__ = ["MULTI_LAYER_CAM"]

# The gradient goes back to the first scale, nearly to the input: it counts as a whole one.
MULTI_LAYER_CAM = Method(
    "layercam-fused",
    f"{LayerCAM.get_name()}, scales fused",
    "cam",
    "Jiang et al. 2021, Eq 7 to 9",
    {"cam": "layercam", "layers": "all scales", "fusion": "maximum"},
    of_size(MultiLayerCAM),
    passes=1,
)

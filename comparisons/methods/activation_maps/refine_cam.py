"""RefineCAM: Grad-CAM++ of all scales, multiplied."""

from __future__ import annotations

from comparisons.methods.activation_maps.attributors import of_size
from comparisons.methods.base import Method
from fastsal import RefineCAM

__all__ = ["REFINE_CAM"]

# As for LayerCAM of all scales, the gradient counts as a whole one.
REFINE_CAM = Method(
    "refine-cam",
    RefineCAM.get_name(),
    "cam",
    "arXiv 2605.14641 (2026)",
    {"cam": "gradcam++", "layers": "all scales", "fusion": "product"},
    of_size(RefineCAM),
    passes=1,
)

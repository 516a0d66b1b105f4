"""Score-CAM of the last scale: a forward pass for each of its channels."""

from __future__ import annotations

from comparisons.methods.activation_maps.attributors import of_layer
from comparisons.methods.base import Method
from fastsal import ScoreCAM

__all__ = ["SCORE_CAM"]

# The built-in ResNet-9 has 128 channels in its last scale; other networks have other numbers.
_CHANNELS = 128

SCORE_CAM = Method(
    "score-cam",
    ScoreCAM.get_name(),
    "cam",
    "Wang et al. 2020",
    {"layer": "last scale", "masks": "each channel", "interpolate": "bilinear"},
    of_layer(ScoreCAM),
    passes=1 + _CHANNELS,
    gradients=0,
)

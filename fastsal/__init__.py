"""SMOE Scale and Fast-CAM: saliency maps as Captum attribution classes."""

from fastsal._version import __version__
from fastsal.attribution import SMOEScale
from fastsal.cam import Cam, register_cam
from fastsal.fastcam import FastCAM
from fastsal.gamma import gamma_scale
from fastsal.layer_cam import (
    ClassActivationMap,
    GradCAM,
    GradCAMPlusPlus,
    SmoothGradCAMPlusPlus,
)
from fastsal.lovi import heatmap, lovi, overlay
from fastsal.monitor import Watch, watch
from fastsal.normalize import register_normalization
from fastsal.reading import Maps
from fastsal.sample import Sample
from fastsal.scales import Candidate, Scale, candidates, find_scales
from fastsal.statistics import Statistic, register_statistic, smoe_scale

__all__ = [
    "Cam",
    "Candidate",
    "ClassActivationMap",
    "FastCAM",
    "GradCAM",
    "GradCAMPlusPlus",
    "Maps",
    "SMOEScale",
    "Sample",
    "Scale",
    "SmoothGradCAMPlusPlus",
    "Statistic",
    "Watch",
    "__version__",
    "candidates",
    "find_scales",
    "gamma_scale",
    "heatmap",
    "lovi",
    "overlay",
    "register_cam",
    "register_normalization",
    "register_statistic",
    "smoe_scale",
    "watch",
]

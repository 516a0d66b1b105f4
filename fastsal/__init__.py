"""SMOE Scale and Fast-CAM: saliency maps as Captum attribution classes."""

from fastsal._version import __version__
from fastsal.attribution.class_activation import (
    ClassActivationMap,
    GradCAM,
    GradCAMPlusPlus,
    SmoothGradCAMPlusPlus,
)
from fastsal.attribution.fast_cam import FastCAM
from fastsal.attribution.smoe_scale import SMOEScale
from fastsal.cam.registry import Cam, register_cam
from fastsal.images.colour import heatmap, lovi, overlay
from fastsal.maps.normalization import register_normalization
from fastsal.maps.result import Maps
from fastsal.monitoring.monitor import Watch, watch
from fastsal.monitoring.sample import Sample
from fastsal.networks.scales import Candidate, Scale, candidates, find_scales
from fastsal.statistics.gamma import gamma_scale
from fastsal.statistics.registry import Statistic, register_statistic, smoe_scale

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

"""Captum attribution classes: SMOE Scale, Fast-CAM and class activation maps."""

from fastsal.attribution.class_activation import (
    ClassActivationMap,
    GradCAM,
    GradCAMPlusPlus,
    SmoothGradCAMPlusPlus,
)
from fastsal.attribution.fast_cam import FastCAM
from fastsal.attribution.smoe_scale import SMOEScale

__all__ = [
    "ClassActivationMap",
    "FastCAM",
    "GradCAM",
    "GradCAMPlusPlus",
    "SMOEScale",
    "SmoothGradCAMPlusPlus",
]

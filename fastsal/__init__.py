"""Saliency maps from a network's activations, as Captum attribution classes.

`SMOEScale` needs one forward pass and no gradients. `FastCAM` multiplies its map by a class
activation map such as `GradCAM`, and so explains one class. `watch` makes maps during training;
`fastsal.export` puts a network and its map into one module or ONNX file.

Reference:
    Mundhenk, Chen & Friedland, "Efficient Saliency Maps for Explainable AI".

Example:
    >>> import torch
    >>> network = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
    ...     torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.ReLU(),
    ... )
    >>> SMOEScale(network).attribute(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 3, 8, 8])
"""

from fastsal._version import __version__
from fastsal.arguments.detections import Boxes, Detection, Detections
from fastsal.attribution.cams.linear import CAM
from fastsal.attribution.cams.one_layer import EigenCAM, HiResCAM, LayerCAM, XGradCAM
from fastsal.attribution.cams.recipro import ReciproCAM
from fastsal.attribution.cams.score import ScoreCAM
from fastsal.attribution.cams.several_layers import MultiLayerCAM, RefineCAM
from fastsal.attribution.class_activation import (
    ClassActivationMap,
    GradCAM,
    GradCAMPlusPlus,
    SmoothGradCAMPlusPlus,
)
from fastsal.attribution.fast_cam import FastCAM
from fastsal.attribution.smoe_scale import SMOEScale
from fastsal.cam.registry import Cam, register_cam
from fastsal.images.batch import ImageBatch, load_images
from fastsal.images.colour import heatmap, lovi, overlay
from fastsal.images.pictures import Picture, picture
from fastsal.maps.normalization import register_normalization
from fastsal.maps.result import Maps
from fastsal.monitoring.monitor import Watch, watch
from fastsal.monitoring.sample import Sample
from fastsal.networks.scales import Candidate, Scale, candidates, find_scales
from fastsal.statistics.gamma import gamma_scale
from fastsal.statistics.registry import Statistic, register_statistic
from fastsal.statistics.smoe import smoe_scale

__all__ = [
    "CAM",
    "Boxes",
    "Cam",
    "Candidate",
    "ClassActivationMap",
    "Detection",
    "Detections",
    "EigenCAM",
    "FastCAM",
    "GradCAM",
    "GradCAMPlusPlus",
    "HiResCAM",
    "ImageBatch",
    "LayerCAM",
    "Maps",
    "MultiLayerCAM",
    "Picture",
    "ReciproCAM",
    "RefineCAM",
    "SMOEScale",
    "Sample",
    "Scale",
    "ScoreCAM",
    "SmoothGradCAMPlusPlus",
    "Statistic",
    "Watch",
    "XGradCAM",
    "__version__",
    "candidates",
    "find_scales",
    "gamma_scale",
    "heatmap",
    "load_images",
    "lovi",
    "overlay",
    "picture",
    "register_cam",
    "register_normalization",
    "register_statistic",
    "smoe_scale",
    "watch",
]

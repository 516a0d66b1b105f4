"""Saliency methods of the comparison behind one signature, by name.

Importing the package registers every method. To add one, decorate a function that takes the model
and returns a function from a `Batch` to the saliency ``(N, H, W)`` of its images, higher for more
salient pixels.
"""

from comparisons.methods import controls  # noqa: F401
from comparisons.methods.activation_maps import register_class_maps, register_maps
from comparisons.methods.base import GROUPS, Batch, Explain, Method, Prepare, check_axes
from comparisons.methods.class_activation import register_cam_methods
from comparisons.methods.gradients import register_gradients
from comparisons.methods.registry import METHODS, get_method, is_method, method, resolve
from comparisons.methods.statistics import register_statistics

__all__ = [
    "GROUPS",
    "METHODS",
    "Batch",
    "Explain",
    "Method",
    "Prepare",
    "check_axes",
    "get_method",
    "is_method",
    "method",
    "resolve",
]

# The order of registration is the order in reports; the controls came with their module.
register_statistics()
register_maps()
register_cam_methods()
register_class_maps()
register_gradients()

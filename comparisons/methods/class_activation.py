"""Class activation maps alone, times Guided Backprop, and as Fast-CAM.

The three methods of a class activation map share its layer and its upsampling; one that is of no
class stands alone. The paper claims
that SMOE Scale is better than Guided Backprop as the second factor.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from comparisons.budget import Rows, within_budget
from comparisons.guided_backprop import GuidedBackprop
from comparisons.methods.base import PAPER, Explain, Group, Prepare
from comparisons.methods.gradients import abs_sum
from comparisons.methods.registry import method
from fastsal import (
    ClassActivationMap,
    EigenCAM,
    FastCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    SmoothGradCAMPlusPlus,
    XGradCAM,
)
from fastsal.cam.registry import CAMS, Cam
from fastsal.maps.resize import upsample

__all__ = ["register_cam_methods"]

_TITLES = {
    "gradcam": GradCAM.get_name(),
    "gradcam++": GradCAMPlusPlus.get_name(),
    "smoothgradcam++": SmoothGradCAMPlusPlus.get_name(),
    "hirescam": HiResCAM.get_name(),
    "xgradcam": XGradCAM.get_name(),
    "layercam": LayerCAM.get_name(),
    "eigencam": EigenCAM.get_name(),
}

_Build = Callable[[nn.Module, Cam], Rows]
_INTERPOLATION = "bilinear"


def register_cam_methods() -> None:
    """Register the methods of each class activation map of `fastsal.cam`."""
    # Those of no class first, since their group is.
    for cam in sorted(CAMS.values(), key=lambda cam: cam.orders > 0):
        _register(cam)


def _register(cam: Cam) -> None:
    title = _TITLES.get(cam.name, cam.name)
    # One pass for the image itself, and one for each noisy copy.
    passes = 1 + (cam.samples if cam.noise else 0)
    noise = {"copies": cam.samples, "noise_share": cam.noise} if cam.noise else {}
    plain = {"cam": cam.name, "layer": "last scale", "interpolate": _INTERPOLATION, **noise}
    product = {**plain, "times": "guided-backprop", "reduction": "abs_sum"}
    group: Group = "cam" if cam.orders else "activation"
    named = method(cam.name, title, group, cam.citation, plain, passes=passes, gradients=0)
    named(_each_batch(_alone, cam))
    if not cam.orders:
        return
    named = method(
        f"guided-{cam.name}",
        f"Guided {title}",
        "cam",
        "Selvaraju et al. 2017" if cam.name == "gradcam" else f"Selvaraju et al. 2017; {title}",
        product,
        passes=passes + 1,
        gradients=1,
        by_channel=_each_batch(_guided_channels, cam),
    )
    named(_each_batch(_guided, cam))
    named = method(
        "fastcam" if cam.name == "gradcam" else f"fastcam-{cam.name}",
        "Fast-CAM" if cam.name == "gradcam" else f"Fast-CAM, {title}",
        "cam",
        PAPER,
        {"weights": "linear", "cam": cam.name, **noise},
        passes=passes,
        gradients=0,
    )
    named(_each_batch(_fastcam, cam))


def _each_batch(build: _Build, cam: Cam) -> Prepare:
    def prepare(model: nn.Module) -> Explain:
        explain = within_budget(build(model, cam))
        return lambda batch: explain(batch.inputs, batch.target)

    return prepare


def _alone(model: nn.Module, cam: Cam) -> Rows:
    attributor = ClassActivationMap(model, cam=cam)

    def explain(inputs: Tensor, target: Tensor) -> Tensor:
        maps: Tensor = attributor.attribute(inputs, target)
        return upsample(maps[:, 0], inputs.shape[2:], _INTERPOLATION)[:, 0]

    return explain


def _guided(model: nn.Module, cam: Cam) -> Rows:
    guided = GuidedBackprop(model)
    alone = _alone(model, cam)

    def explain(inputs: Tensor, target: Tensor) -> Tensor:
        return abs_sum(guided.attribute(inputs, target)) * alone(inputs, target)

    return explain


def _guided_channels(model: nn.Module, cam: Cam) -> Rows:
    guided = GuidedBackprop(model)
    alone = _alone(model, cam)

    def explain(inputs: Tensor, target: Tensor) -> Tensor:
        gradients: Tensor = guided.attribute(inputs, target)
        return gradients.abs() * alone(inputs, target)[:, None]

    return explain


def _fastcam(model: nn.Module, cam: Cam) -> Rows:
    attributor = FastCAM(model, cam=cam)

    def explain(inputs: Tensor, target: Tensor) -> Tensor:
        maps: Tensor = attributor.attribute(inputs, target, expand_channels=False)
        return maps[:, 0]

    return explain

"""Every method of the comparison behind one signature, in one registry.

To add a method, decorate a function that takes the model and returns a function from a
`Batch` to the saliency ``(N, H, W)`` of its images, higher for more salient pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from captum.attr import (
    GuidedBackprop,
    GuidedGradCam,
    IntegratedGradients,
    Saliency,
)
from torch import Tensor, nn
from torch.nn import functional as F

from comparisons.budget import within_budget
from comparisons.gradients import Gradients, smoothed
from comparisons.registry import GROUPS, METHODS, Batch, Explain, Method, Prepare, method, resolve
from fastsal import FastCAM, SMOEScale, find_scales

# Whoever wants the registry filled takes it from here.
__all__ = ["GROUPS", "METHODS", "Batch", "Explain", "Method", "method", "resolve"]

# SmoothGrad of Hooker et al. 2018: 15 copies, noise of 0.15 of the range of the input.
_NOISY_COPIES = 15
_NOISE_SHARE = 0.15
_IG_STEPS = 25
# Each noisy copy takes as many gradients as steps; the copies average over the path as well.
_IG_STEPS_SMOOTHED = 3
_RANDOM_MAP_SEED = 0x5EED
_PAPER = "Mundhenk, Chen and Friedland 2020"


@method("random", "Random", "control", "Hooker et al. 2018", {}, self_dual=True)
def _random(model: nn.Module) -> Explain:
    del model

    def explain(batch: Batch) -> Tensor:
        size = tuple(batch.inputs.shape[2:])
        seeds = (np.random.SeedSequence([_RANDOM_MAP_SEED, int(index)]) for index in batch.index)
        draws = [np.random.Generator(np.random.Philox(seed)).random(size) for seed in seeds]
        return torch.from_numpy(np.stack(draws))

    return explain


@method("centre", "Centre disk", "control", "a disk that never looks at the image", {})
def _centre(model: nn.Module) -> Explain:
    del model

    def explain(batch: Batch) -> Tensor:
        n, _, height, width = batch.inputs.shape
        rows = torch.arange(height) - (height - 1) / 2
        columns = torch.arange(width) - (width - 1) / 2
        return -(rows[:, None] ** 2 + columns**2).sqrt().expand(n, height, width)

    return explain


@method("sobel", "Sobel edges", "control", "Sobel and Feldman 1968", {"reduction": "sq_sum"})
def _sobel(model: nn.Module) -> Explain:
    del model
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    kernels = torch.stack([across, across.T])[:, None]

    def explain(batch: Batch) -> Tensor:
        n, channels, height, width = batch.inputs.shape
        padded = F.pad(batch.inputs, (1, 1, 1, 1), mode="replicate")
        planes = padded.reshape(n * channels, 1, height + 2, width + 2)
        edges = F.conv2d(planes, kernels.to(planes))
        return edges.square().reshape(n, channels * 2, height, width).sum(1)

    return explain


@method("oracle", "True object", "control", "the generator's own mask", {}, needs_object_mask=True)
def _oracle(model: nn.Module) -> Explain:
    del model

    def explain(batch: Batch) -> Tensor:
        if batch.object_mask is None:
            raise ValueError("oracle needs the true object's pixels: batch.object_mask is None")
        return batch.object_mask.float()

    return explain


def _register_smoe(weights: str) -> None:
    def scales(model: nn.Module) -> Explain:
        attributor = SMOEScale(model, weights=weights)
        return lambda batch: attributor.maps(batch.inputs).stacked

    @method(
        f"smoe-{weights}",
        f"SMOE Scale, {weights} weights",
        "smoe",
        _PAPER,
        {"weights": weights, "statistic": "smoe_scale", "normalize": "gaussian"},
        passes=1,
        scales=scales,
    )
    def prepare(model: nn.Module) -> Explain:
        attributor = SMOEScale(model, weights=weights)
        explain = within_budget(lambda inputs, _: attributor.maps(inputs).combined)
        return lambda batch: explain(batch.inputs, batch.target)


for _weights in ("equal", "linear", "prior"):
    _register_smoe(_weights)


@method("fastcam", "Fast-CAM", "cam", _PAPER, {"weights": "linear", "cam": "gradcam"}, passes=1)
def _fastcam(model: nn.Module) -> Explain:
    attributor = FastCAM(model)

    def explain(inputs: Tensor, target: Tensor) -> Tensor:
        # In the shape of the input, as Captum has it: every channel is the same map.
        attribution: Tensor = attributor.attribute(inputs, target=target)
        return attribution[:, 0]

    explain_slices = within_budget(explain)
    return lambda batch: explain_slices(batch.inputs, batch.target)


@method(
    "guided-gradcam",
    "Guided Grad-CAM",
    "cam",
    "Selvaraju et al. 2017",
    {"reduction": "abs_sum", "layer": "last scale"},
    passes=2,
)
def _guided_gradcam(model: nn.Module) -> Explain:
    attributor: GuidedGradCam | None = None

    def explain(inputs: Tensor, target: Tensor) -> Tensor:
        nonlocal attributor
        if attributor is None:
            attributor = GuidedGradCam(model, find_scales(model, inputs[:1])[-1].module)
        return _abs_sum(attributor.attribute(inputs, target=target))

    explain_slices = within_budget(explain)
    return lambda batch: explain_slices(batch.inputs, batch.target)


class _Captum(Protocol):
    """One of Captum's gradient methods, for a model."""

    def __call__(self, model: nn.Module, *, smoothed: bool) -> Gradients:
        """What explains batches."""


def _saliency(model: nn.Module, *, smoothed: bool) -> Gradients:
    del smoothed
    return Gradients(Saliency(model), lambda _: {"abs": False})


def _guided(model: nn.Module, *, smoothed: bool) -> Gradients:
    del smoothed
    return Gradients(GuidedBackprop(model), lambda _: {})


def _integrated(model: nn.Module, *, smoothed: bool) -> Gradients:
    def arguments(batch: Batch) -> dict[str, Any]:
        black = torch.tensor(batch.black).to(batch.inputs)[None, :, None, None]
        return {"baselines": black.expand_as(batch.inputs[:1])}

    steps = _IG_STEPS_SMOOTHED if smoothed else _IG_STEPS
    return Gradients(IntegratedGradients(model), arguments, steps)


def _register_gradient(
    name: str,
    title: str,
    citation: str,
    build: _Captum,
    plain: Mapping[str, Any] = MappingProxyType({}),
    with_noise: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    @method(
        name,
        title,
        "gradient",
        citation,
        {"reduction": "abs_sum", **plain},
        passes=plain.get("steps", 1),
    )
    def prepare(model: nn.Module) -> Explain:
        gradients = build(model, smoothed=False)
        return lambda batch: _abs_sum(gradients(batch))

    for suffix, squared, added, source, reduction in (
        ("sg", False, "SmoothGrad", "Smilkov et al. 2017", "abs_sum"),
        ("sgsq", True, "SmoothGrad-Squared", "Hooker et al. 2018", "sq_sum"),
    ):
        parameters = {
            "reduction": reduction,
            "copies": _NOISY_COPIES,
            "noise_share": _NOISE_SHARE,
            **with_noise,
        }
        named = method(
            f"{name}-{suffix}",
            f"{title}, {added}",
            "gradient",
            f"{citation}; {source}",
            parameters,
            passes=_NOISY_COPIES * with_noise.get("steps", 1),
        )
        named(_smoothed(build, squared))


def _smoothed(build: _Captum, squared: bool) -> Prepare:
    def prepare(model: nn.Module) -> Explain:
        gradients = build(model, smoothed=True)
        return lambda batch: _abs_sum(
            smoothed(
                gradients,
                batch,
                copies=_NOISY_COPIES,
                deviation=_NOISE_SHARE * batch.input_range,
                squared=squared,
            )
        )

    return prepare


def _abs_sum(attribution: Tensor) -> Tensor:
    # Of squares already averaged (SmoothGrad-Squared) the absolute value changes nothing.
    return attribution.detach().abs().sum(1)


_register_gradient("gradient", "Gradient", "Simonyan et al. 2013", _saliency)
_register_gradient("guided-backprop", "Guided Backprop", "Springenberg et al. 2014", _guided)
_register_gradient(
    "ig",
    "Integrated Gradients",
    "Sundararajan et al. 2017",
    _integrated,
    plain={"steps": _IG_STEPS, "baseline": "black"},
    with_noise={"steps": _IG_STEPS_SMOOTHED, "baseline": "black"},
)

"""Every method of the comparison behind one signature, in one registry.

To add a method, decorate a function that takes the model and returns a function from a
`Batch` to the saliency ``(N, H, W)`` of its images, higher for more salient pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from captum.attr import GuidedBackprop, IntegratedGradients, Saliency
from torch import Tensor, nn
from torch.nn import functional as F

from comparisons.budget import within_budget
from comparisons.methods.blobs import arrival_times
from comparisons.methods.class_activation import register_cam_methods
from comparisons.methods.gradients import Gradients, abs_sum, smoothed
from comparisons.methods.registry import (
    GROUPS,
    METHODS,
    Batch,
    Explain,
    Method,
    Prepare,
    method,
    resolve,
)
from fastsal import SMOEScale, Statistic
from fastsal.cam.registry import CAMS
from fastsal.statistics.registry import STATISTICS
from reports.paper import TITLES

# Whoever wants the registry filled takes it from here.
__all__ = ["GROUPS", "METHODS", "Batch", "Explain", "Method", "method", "resolve"]

# SmoothGrad of Hooker et al. 2018: 15 copies, noise of 0.15 of the range of the input.
_NOISY_COPIES = 15
_NOISE_SHARE = 0.15
_IG_STEPS = 25
# Each noisy copy takes as many gradients as steps; the copies average over the path as well.
_IG_STEPS_SMOOTHED = 3
_RANDOM_MAP_SEED = 0x5EED
_BLOB_SEED = 0xB10B
_PAPER = "Mundhenk, Chen and Friedland 2020"
_SMOE = "smoe_scale"


def _draws(batch: Batch, seed: int) -> Iterator[np.random.Generator]:
    """Chance for each image, the same wherever and whenever the image is explained."""
    for index in batch.index:
        yield np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, int(index)])))


def _uniform(batch: Batch, size: tuple[int, ...]) -> Tensor:
    draws = [draw.random(size) for draw in _draws(batch, _RANDOM_MAP_SEED)]
    return torch.from_numpy(np.stack(draws))


def _random_channels(model: nn.Module) -> Explain:
    del model
    return lambda batch: _uniform(batch, tuple(batch.inputs.shape[1:]))


@method(
    "random",
    "Random",
    "control",
    "Hooker et al. 2018",
    {},
    self_dual=True,
    by_channel=_random_channels,
)
def _random(model: nn.Module) -> Explain:
    del model
    return lambda batch: _uniform(batch, tuple(batch.inputs.shape[2:]))


@method(
    "random-blobs",
    "Random blobs",
    "control",
    "a region that grows from a random pixel; Eden 1961, Hammersley and Welsh 1965",
    {"step": "exponential"},
)
def _random_blobs(model: nn.Module) -> Explain:
    del model

    def explain(batch: Batch) -> Tensor:
        height, width = batch.inputs.shape[2:]
        draws = _draws(batch, _BLOB_SEED)
        return torch.from_numpy(np.stack([-arrival_times(height, width, draw) for draw in draws]))

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


def _register_statistic(statistic: Statistic, weights: str) -> None:
    prefix = "smoe" if statistic.name == _SMOE else statistic.name
    title = TITLES.get(statistic.name, statistic.name.replace("_", " ").capitalize())

    def scales(model: nn.Module) -> Explain:
        attributor = SMOEScale(model, weights=weights, statistic=statistic)
        return lambda batch: attributor.maps(batch.inputs).stacked

    @method(
        f"{prefix}-{weights}",
        f"{title}, {weights} weights",
        "smoe",
        _PAPER if statistic.name == _SMOE else statistic.citation,
        {"weights": weights, "statistic": statistic.name, "normalize": "gaussian"},
        passes=1,
        gradients=0,
        scales=scales,
    )
    def prepare(model: nn.Module) -> Explain:
        attributor = SMOEScale(model, weights=weights, statistic=statistic)
        # Not `maps`, which keeps the map of every scale too and takes longer.
        explain = within_budget(
            lambda inputs, _: attributor.attribute(inputs, expand_channels=False)[:, 0]
        )
        return lambda batch: explain(batch.inputs, batch.target)


for _weights in ("equal", "linear", "prior"):
    _register_statistic(STATISTICS[_SMOE], _weights)
for _statistic in STATISTICS.values():
    if _statistic.name != _SMOE:
        _register_statistic(_statistic, "linear")
# Beside SMOE Scale, those that Table 5 has.
for _name in ("std", "truncnormal_entropy"):
    _register_statistic(STATISTICS[_name], "prior")


for _cam in CAMS.values():
    register_cam_methods(_cam)


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
    def channels(model: nn.Module) -> Explain:
        gradients = build(model, smoothed=False)
        return lambda batch: gradients(batch).abs()

    @method(
        name,
        title,
        "gradient",
        citation,
        {"reduction": "abs_sum", **plain},
        passes=plain.get("steps", 1),
        by_channel=channels,
    )
    def prepare(model: nn.Module) -> Explain:
        gradients = build(model, smoothed=False)
        return lambda batch: abs_sum(gradients(batch))

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
            # Of squares already averaged the absolute value changes nothing.
            by_channel=_smoothed(build, squared, torch.abs),
        )
        named(_smoothed(build, squared, abs_sum))


def _smoothed(build: _Captum, squared: bool, reduce: Callable[[Tensor], Tensor]) -> Prepare:
    def prepare(model: nn.Module) -> Explain:
        gradients = build(model, smoothed=True)
        return lambda batch: reduce(
            smoothed(
                gradients,
                batch,
                copies=_NOISY_COPIES,
                deviation=_NOISE_SHARE * batch.input_range,
                squared=squared,
            )
        )

    return prepare


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

"""Gradient methods over many images, steps and noisy copies, within a memory budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import torch
from captum.attr import IntegratedGradients, Saliency
from torch import Tensor, nn

from comparisons.budget import Passes, Rows, in_slices
from comparisons.guided_backprop import GuidedBackprop
from comparisons.methods.base import Batch, Explain, Prepare
from comparisons.methods.registry import method

__all__ = ["Gradients", "abs_sum", "register_gradients", "smoothed"]

# SmoothGrad of Hooker et al. 2018: 15 copies, noise of 0.15 of the range of the input.
_NOISY_COPIES = 15
_NOISE_SHARE = 0.15
_IG_STEPS = 25
# Each noisy copy takes as many gradients as steps; the copies average over the path as well.
_IG_STEPS_SMOOTHED = 3

# Noise is drawn for so many copies of each image in turn, whatever fits into a pass.
_COPIES_DRAWN = 5
# Numbers that PyTorch's generator makes together on a processor.
_DRAWN_TOGETHER = 16

Arguments = Callable[[Batch], dict[str, Any]]


class Gradients:
    """A gradient method, each pass within the memory budget.

    Args:
        attributor: the method.
        arguments: further arguments of `attribute` for a batch, beside inputs and target.
        steps: points of the path of a method that integrates; None for one that does not.
    """

    def __init__(self, attributor: Any, arguments: Arguments, steps: int | None = None) -> None:
        self._attributor = attributor
        self._arguments = arguments
        self._steps = steps
        self._passes = Passes()

    def __call__(self, batch: Batch) -> Tensor:
        """Return the attribution of a batch, in the shape of its inputs."""
        explain, at_once = self.rows(batch)
        return in_slices(explain, batch.inputs, batch.target, at_once)

    def rows(self, batch: Batch) -> tuple[Rows, int]:
        """Return a function that explains images like a batch's, and how many it takes at once.

        As many as their steps fit into a pass; of a single image the steps may take several.
        """
        options = self._arguments(batch)
        if self._steps is None:
            explain = self._attribute(options)
            return explain, self._passes.images(explain, batch.inputs, batch.target)
        one = self._attribute({**options, "n_steps": 1})
        images = self._passes.images(one, batch.inputs, batch.target)
        path = {"n_steps": self._steps, "internal_batch_size": images}
        return self._attribute({**options, **path}), max(1, images // self._steps)

    def _attribute(self, options: Mapping[str, Any]) -> Rows:
        def explain(inputs: Tensor, target: Tensor) -> Tensor:
            attribution: Tensor = self._attributor.attribute(inputs, target=target, **options)
            return attribution.detach()

        return explain


def smoothed(
    gradients: Gradients, batch: Batch, *, copies: int, deviation: float, squared: bool
) -> Tensor:
    r"""Return the mean attribution over noisy copies of every image.

    $$\frac{1}{n} \sum_{k=1}^{n} A(x + \epsilon_k) \quad\text{or}\quad
      \frac{1}{n} \sum_{k=1}^{n} A(x + \epsilon_k)^2,
      \qquad \epsilon_k \sim \mathcal{N}(0, \sigma^2)$$

    The numbers of Captum's `NoiseTunnel` at five copies a pass and the seed of the batch's first
    image, with as many copies a pass as the memory budget allows. Deviations: none.

    Args:
        gradients: `A`.
        batch: the images, `x`.
        copies: `n`, a multiple of 5.
        deviation: sigma, in the unit of the inputs.
        squared: the second form, SmoothGrad-Squared.

    Returns:
        `(N, C, H, W)`.

    Raises:
        ValueError: `copies` is no multiple of 5.

    Reference:
        Smilkov et al. 2017, section 3; Hooker et al. 2018 for the squares.
    """
    if copies % _COPIES_DRAWN:
        raise ValueError(f"copies={copies}: expected a multiple of {_COPIES_DRAWN}")
    # The same noise on every device and at every call.
    generator = torch.Generator().manual_seed(int(batch.index[0]))
    images = torch.arange(len(batch.inputs)).repeat_interleave(_COPIES_DRAWN)
    explain, at_once = gradients.rows(batch)
    # For other sizes, noise drawn in slices differs from noise drawn at once.
    sliced = batch.inputs[0].numel() % _DRAWN_TOGETHER == 0
    drawn = at_once if sliced else len(images)
    total = torch.zeros_like(batch.inputs)
    for _ in range(copies // _COPIES_DRAWN):
        for rows in torch.split(images, drawn):
            noise = torch.randn(
                (len(rows), *batch.inputs.shape[1:]), generator=generator, dtype=batch.inputs.dtype
            )
            places = rows.to(batch.inputs.device)
            noisy = batch.inputs[places] + deviation * noise.to(batch.inputs.device)
            attribution = in_slices(explain, noisy, batch.target[places], at_once)
            total.index_add_(0, places, attribution.square() if squared else attribution)
    return total / copies


def abs_sum(attribution: Tensor) -> Tensor:
    """Sum the sizes over the channels: `(N, C, H, W)` to `(N, H, W)`.

    >>> abs_sum(torch.tensor([[[[1.0]], [[-2.0]]]])).tolist()
    [[[3.0]]]
    """
    return attribution.detach().abs().sum(1)


def register_gradients() -> None:
    """Register the gradient methods: each plain, with SmoothGrad and with its squares."""
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


class _SetUp(Protocol):
    """A function that sets up a gradient method for a model."""

    def __call__(self, model: nn.Module, *, smoothed: bool) -> Gradients:
        """Return the attribution function."""


def _saliency(model: nn.Module, *, smoothed: bool) -> Gradients:
    del smoothed
    return Gradients(Saliency(model), lambda _: {"abs": False})


def _guided(model: nn.Module, *, smoothed: bool) -> Gradients:
    del smoothed
    return Gradients(GuidedBackprop(model), lambda _: {})


def _integrated(model: nn.Module, *, smoothed: bool) -> Gradients:
    def arguments(batch: Batch) -> dict[str, Any]:
        one = batch.inputs[:1]
        black = torch.tensor(batch.black).to(one).reshape(1, -1, *[1] * (one.dim() - 2))
        return {"baselines": black.expand_as(one)}

    steps = _IG_STEPS_SMOOTHED if smoothed else _IG_STEPS
    return Gradients(IntegratedGradients(model), arguments, steps)


def _register_gradient(
    name: str,
    title: str,
    citation: str,
    build: _SetUp,
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
            # Averaged squares are their own absolute value.
            by_channel=_smoothed(build, squared, torch.abs),
        )
        named(_smoothed(build, squared, abs_sum))


def _smoothed(build: _SetUp, squared: bool, reduce: Callable[[Tensor], Tensor]) -> Prepare:
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

"""Captum's gradient methods over many images, steps and noisy copies, within a memory budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from comparisons.budget import Passes, Rows, in_slices
from comparisons.methods.registry import Batch

__all__ = ["Gradients", "abs_sum", "smoothed"]

# Noise is drawn for so many copies of each image in turn, whatever fits into a pass.
_COPIES_DRAWN = 5
# Numbers that PyTorch's generator makes together on a processor.
_DRAWN_TOGETHER = 16

Arguments = Callable[[Batch], dict[str, Any]]


class Gradients:
    """One of Captum's gradient methods, each pass within the memory budget.

    Args:
        attributor: the method.
        arguments: what its `attribute` takes for a batch, beside inputs and target.
        steps: points of the path of a method that integrates; None for one that does not.
    """

    def __init__(self, attributor: Any, arguments: Arguments, steps: int | None = None) -> None:
        self._attributor = attributor
        self._arguments = arguments
        self._steps = steps
        self._passes = Passes()

    def __call__(self, batch: Batch) -> Tensor:
        """The attribution of a batch, in the shape of its inputs."""
        explain, at_once = self.rows(batch)
        return in_slices(explain, batch.inputs, batch.target, at_once)

    def rows(self, batch: Batch) -> tuple[Rows, int]:
        """What explains images like those of a batch, and how many it takes together.

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
    # The same wherever and whenever the batch is computed, and on every device.
    generator = torch.Generator().manual_seed(int(batch.index[0]))
    images = torch.arange(len(batch.inputs)).repeat_interleave(_COPIES_DRAWN)
    explain, at_once = gradients.rows(batch)
    # Of an odd size, numbers drawn in slices would be others than those drawn together.
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

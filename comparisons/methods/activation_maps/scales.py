"""Methods that read some of a network's scales, which the first images of a size show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from comparisons.budget import Rows, within_budget
from comparisons.methods.base import Batch, Explain, Prepare
from fastsal import Scale, find_scales

__all__ = ["on_scales", "uncentred"]

Build = Callable[[nn.Module, Sequence[Scale]], Rows]


def on_scales(build: Build) -> Prepare:
    """Return a method that is built for a network and its scales, for each image size once.

    Args:
        build: takes the network and all of its scales, the shallowest first; returns a function
            from images and their classes to saliency.
    """

    def prepare(model: nn.Module) -> Explain:
        built: dict[tuple[int, ...], Rows] = {}

        def rows(inputs: Tensor, target: Tensor) -> Tensor:
            size = tuple(inputs.shape[1:])
            if size not in built:
                built[size] = build(model, find_scales(model, inputs[:1]))
            return built[size](inputs, target)

        explain = within_budget(rows)

        def explain_batch(batch: Batch) -> Tensor:
            return explain(batch.inputs, batch.target)

        return explain_batch

    return prepare


def uncentred(scales: Sequence[Scale]) -> list[Scale]:
    """Return scales of which a statistic is taken as its paper has it, without centring.

    Args:
        scales: of a network.
    """
    return [replace(scale, linear=False) for scale in scales]

"""Methods that are Captum attribution classes of fastsal, within a pass's memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from comparisons.budget import Rows, within_budget
from comparisons.methods.base import Batch, Explain, Prepare
from fastsal.maps.resize import upsample

__all__ = ["of_layer", "of_size"]


def of_layer(make: Callable[[nn.Module], Any]) -> Prepare:
    """Return a method whose attributor gives maps of a layer's size, enlarged bilinearly.

    Args:
        make: takes the network; returns an attributor that gives ``(N, 1, h, w)``.
    """

    def prepare(model: nn.Module) -> Explain:
        attributor = make(model)

        def rows(inputs: Tensor, target: Tensor) -> Tensor:
            return upsample(attributor.attribute(inputs, target)[:, 0], inputs.shape[2:])[:, 0]

        return _each_batch(rows)

    return prepare


def of_size(make: Callable[[nn.Module], Any]) -> Prepare:
    """Return a method whose attributor gives maps of the images' size.

    Args:
        make: takes the network; returns an attributor that gives ``(N, 1, H, W)``.
    """

    def prepare(model: nn.Module) -> Explain:
        attributor = make(model)

        def rows(inputs: Tensor, target: Tensor) -> Tensor:
            maps: Tensor = attributor.attribute(inputs, target, expand_channels=False)
            return maps[:, 0]

        return _each_batch(rows)

    return prepare


def _each_batch(rows: Rows) -> Explain:
    explain = within_budget(rows)

    def explain_batch(batch: Batch) -> Tensor:
        return explain(batch.inputs, batch.target)

    return explain_batch

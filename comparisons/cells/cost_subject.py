"""The network and the images that a cost is measured on."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from comparisons.methods import Batch
from comparisons.plans.costs import sides_of
from evaluation.networks.build import build_network
from evaluation.profiling.random_weights import enliven

__all__ = ["built_network", "noise"]


def built_network(spec: Any, device: str) -> nn.Module:
    """Return the network of a cell in evaluation mode, with random weights.

    With weights "enlivened" batch norms take the statistics of noise, as trained ones have those of
    images: else the activations of deep layers vanish, and a map looks for the reason in each call.

    Args:
        spec: the cell's: ``model``, ``classes``, ``size`` or ``grid``, ``precision``, and
            ``weights``, which older specifications lack.
        device: of the network.
    """
    channels, *size = shape = _shape(spec)
    network = build_network(spec["model"], spec["classes"], 0, size=tuple(size), channels=channels)
    if "weights" in spec:
        enliven(network, torch.rand(2, *shape, generator=torch.Generator().manual_seed(1)))
    network = network.to(device).eval()
    return network.to(torch.bfloat16) if spec["precision"] == "bfloat16" else network


def _shape(spec: Any) -> tuple[int, ...]:
    """The channels and the sides of an image."""
    grid = spec.get("grid")
    sides = sides_of(grid) if grid else (spec["size"], spec["size"])
    return spec.get("channels", 3), *sides


def noise(spec: Any, network: nn.Module, images: int, device: str) -> Batch:
    """Return images of uniform noise, and the classes that a network predicts for them.

    The cost of a map does not depend on the images, if the network's activations do not vanish.

    Args:
        spec: the cell's.
        network: on the device.
        images: number of images.
        device: of the images.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (images, *_shape(spec))
    dtype = next(network.parameters()).dtype
    inputs = torch.rand(shape, generator=generator).to(device, dtype)
    with torch.inference_mode():
        target = network(inputs).argmax(1)
    return Batch(
        inputs=inputs,
        target=target.clone(),
        index=torch.arange(images),
        input_range=1.0,
        black=(0.0, 0.0, 0.0),
    )

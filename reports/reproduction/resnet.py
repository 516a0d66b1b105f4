"""Operations and memory that SMOE Scale adds to ResNet-50 at 224x224, counted."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import torch
from captum.attr import Saliency
from torch import nn

from evaluation.networks.build import build_network
from evaluation.profiling.operations import Operations, count_operations
from evaluation.profiling.profile import count
from evaluation.profiling.smoe_scale_steps import (
    StepOperations,
    count_combination,
    count_map_steps,
)
from fastsal import SMOEScale

__all__ = ["SIZE", "Counted", "as_he_et_al", "count_resnet50"]

SIZE = (224, 224)
_CLASSES = 1000


@dataclass(frozen=True)
class Counted:
    """Counts for one image.

    Args:
        shapes: (channels, height, width) of each scale, the shallowest first.
        forward: operations of the plain pass.
        he_et_al: multiply-adds of the same network with its strides where He et al. have them.
        steps: of our code, step by step, all scales together.
        added: by a whole map, beyond the plain pass.
        gradient_added: by the gradient of a class's score by the image, beyond the plain pass.
        scratch_bytes: memory that a map takes beyond the plain pass, besides the map itself.
        map_bytes: memory of the map, one channel.
    """

    shapes: tuple[tuple[int, int, int], ...]
    forward: Operations
    he_et_al: int
    steps: StepOperations
    added: Operations
    gradient_added: Operations
    scratch_bytes: int
    map_bytes: int


@cache
def count_resnet50() -> Counted:
    """Count operations and memory of ResNet-50 with random weights, on which no count depends."""
    network = build_network("resnet50", _CLASSES, 0, size=SIZE).eval()
    inputs = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    smoe, saliency = SMOEScale(network), Saliency(network)

    def forward() -> object:
        with torch.inference_mode():
            return network(inputs)

    def explain() -> object:
        with torch.inference_mode():
            return smoe.attribute(inputs, expand_channels=False)

    def gradient() -> object:
        return saliency.attribute(inputs.clone().requires_grad_(), target=0)

    scales = smoe.maps(inputs).scales
    shapes = tuple((scale.shape[1], scale.shape[2], scale.shape[3]) for scale in scales)
    counts = count(forward, explain)
    original = as_he_et_al(deepcopy(network))
    return Counted(
        shapes=shapes,
        forward=counts.forward,
        he_et_al=count_operations(lambda: original(inputs)).multiply_adds,
        steps=_steps(shapes),
        added=counts.map - counts.forward,
        gradient_added=count_operations(gradient) - counts.forward,
        scratch_bytes=counts.extra_scratch_bytes,
        map_bytes=counts.map_memory.returned_bytes,
    )


def as_he_et_al(network: nn.Module) -> nn.Module:
    """Move the strides of torchvision's ResNet-50 from 3x3 to the first 1x1 convolutions, in place.

    He et al. have them there; torchvision's variant takes 6 % more multiply-adds.
    """
    for block in network.modules():
        first, second = (getattr(block, name, None) for name in ("conv1", "conv2"))
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d):
            first.stride, second.stride = second.stride, first.stride
    return network


def _steps(shapes: tuple[tuple[int, int, int], ...]) -> StepOperations:
    statistics, normalizations = zip(*map(count_map_steps, shapes), strict=True)
    return StepOperations(sum(statistics), sum(normalizations), count_combination(shapes, SIZE))

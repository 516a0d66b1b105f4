"""Operations of SMOE Scale's three steps: by the paper's formulas, and counted in our code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from evaluation.profiling.operations import count_operations
from fastsal.maps.combination import combine
from fastsal.maps.normalization import get_normalization
from fastsal.statistics.registry import get_statistic

__all__ = ["StepOperations", "count_combination", "count_map_steps", "paper_operations"]

# Channels, height and width of a scale.
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class StepOperations:
    """Operations for one image, a logarithm counted as one: a row of the paper's Table 6.

    Args:
        statistic: of SMOE Scale.
        normalization: of the normal CDF.
        combination: of upsampling and adding the map to the others.
    """

    statistic: int
    normalization: int
    combination: float

    @property
    def total(self) -> float:
        """Operations of the three steps."""
        return self.statistic + self.normalization + self.combination


def paper_operations(shapes: Sequence[Shape], size: tuple[int, int]) -> list[StepOperations]:
    r"""Return the operations of SMOE Scale by the paper's formulas, a row a scale.

    $$(4 r + 1)\, h w, \qquad 12\, h w, \qquad 4.5\, H W \text{ (first scale) or } 6.75\, H W$$

    for the statistic, the normalisation and the combination of a scale of `r` channels and
    `h x w` locations. Deviations from the paper: none.

    Args:
        shapes: (r, h, w) of each scale, the shallowest first.
        size: (H, W) of the image.

    Returns:
        A row for each scale.

    Reference:
        Mundhenk, Chen & Friedland, "Efficient Saliency Maps for Explainable AI", Table 6.

    >>> paper_operations([(64, 112, 112)], (224, 224))[0].statistic
    3223808
    """
    pixels = size[0] * size[1]
    return [
        StepOperations(
            statistic=(4 * channels + 1) * height * width,
            normalization=12 * height * width,
            combination=(4.5 if index == 0 else 6.75) * pixels,
        )
        for index, (channels, height, width) in enumerate(shapes)
    ]


def count_map_steps(shape: Shape, *, device: str = "cpu") -> tuple[int, int]:
    """Count the operations of a scale's own map: of its statistic and of its normalisation.

    Args:
        shape: (r, h, w) of the scale.
        device: the device to count on.

    >>> count_map_steps((16, 32, 32))
    (86016, 14342)
    """
    statistic, normalization = get_statistic("smoe_scale"), get_normalization("gaussian")
    activations = torch.rand((1, *shape), device=device)
    values = statistic(activations)
    return (
        count_operations(lambda: statistic(activations)).other,
        count_operations(lambda: normalization(values)).other,
    )


def count_combination(
    shapes: Sequence[Shape], size: tuple[int, int], *, device: str = "cpu"
) -> int:
    """Count the operations of upsampling the maps of scales and adding them.

    Args:
        shapes: (r, h, w) of each scale.
        size: (H, W) of the image.
        device: the device to count on.
    """
    maps = [torch.rand((1, height, width), device=device) for _, height, width in shapes]
    return count_operations(lambda: combine(maps, [1.0] * len(maps), size)).other

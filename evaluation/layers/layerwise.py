"""Layerwise ROAR and KAR: the passing locations of a scale, and masked activations as inputs.

One scale at a time, locations of its activations are set to zero across all channels, and the part
of the network after it is fine-tuned. The part before it is frozen and in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.masking.levels import LevelArray, Mode, by_saliency, pixels_at
from evaluation.masking.views import RawBatch, View

__all__ = ["ActivationView", "Locations", "kept_locations", "rank_locations"]

_BITS: Mapping[Mode, int] = {"kar": 1, "roar": 2}


@dataclass(frozen=True)
class Locations:
    """The shares of locations that pass the masks of KAR and ROAR, and the seed of ties.

    KAR passes the `kar` most salient locations, ROAR the `roar` **least** salient: the
    interpretation of the paper that its Table 4 confirms. At least one location passes.

    Args:
        kar: share of the locations, in (0, 1).
        roar: share of the locations, in (0, 1).
        tie_seed: seed of the order of tied locations, and of the random control.

    Raises:
        ValueError: a share beyond (0, 1).

    Reference:
        arXiv 1911.11293, section 3.1: 2.5 % and 10 %.

    >>> Locations().count("kar", 28 * 28), Locations().count("kar", 4 * 4)
    (20, 1)
    """

    kar: float = 0.025
    roar: float = 0.1
    tie_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse shares of all or no locations."""
        for mode in _BITS:
            if not 0 < self.fraction(mode) < 1:
                raise ValueError(
                    f"{mode} fraction {100 * self.fraction(mode):g} %: expected more than 0 and "
                    "less than 100 % of the locations"
                )

    def fraction(self, mode: Mode) -> float:
        """The share of the locations that pass in a mode."""
        return {"kar": self.kar, "roar": self.roar}[mode]

    def count(self, mode: Mode, locations: int) -> int:
        """The number of `locations` that pass in a mode: the nearest whole number, at least one."""
        return max(1, pixels_at(self.fraction(mode), locations))


def rank_locations(
    saliency: NDArray[np.floating], orders: NDArray[np.int64], locations: Locations
) -> NDArray[np.uint8]:
    """The modes in which each location of a scale passes, as bits.

    Args:
        saliency: ``(N, h, w)``, higher is more salient; finite.
        orders: the orders of ties, from `evaluation.masking.levels.tie_orders`.
        locations: the shares of locations that pass.

    Returns:
        ``(N, h, w)``; bit 0 is set if the location passes in KAR, bit 1 if it passes in ROAR.

    >>> maps = np.array([[[0.1, 0.9], [0.5, 0.2]]])
    >>> rank_locations(maps, np.array([[0, 1, 2, 3]]), Locations(kar=0.25, roar=0.5)).tolist()
    [[[2, 1], [0, 2]]]
    """
    n, height, width = saliency.shape
    pixels = height * width
    ranked = by_saliency(saliency.reshape(n, pixels), orders)
    bits = np.zeros((n, pixels), dtype=np.uint8)
    top = ranked[:, : locations.count("kar", pixels)]
    last = ranked[:, pixels - locations.count("roar", pixels) :]
    np.put_along_axis(bits, top, _BITS["kar"], axis=1)
    # If the shares add up to more than 100 %, a location may pass in both modes.
    np.put_along_axis(bits, last, np.take_along_axis(bits, last, axis=1) | _BITS["roar"], axis=1)
    return bits.reshape(n, height, width)


def kept_locations(bits: LevelArray, mode: Mode) -> LevelArray:
    """True for locations that pass in a mode, from the bits of `rank_locations`.

    >>> kept_locations(np.array([[2, 1], [0, 2]], dtype=np.uint8), "roar").tolist()
    [[True, False], [False, True]]
    """
    kept: Any = (bits & _BITS[mode]) != 0
    return kept  # type: ignore[no-any-return]


@dataclass(frozen=True)
class ActivationView(View):
    """A scale's activations as inputs of the part after it: 0 in all channels where masked.

    Args:
        activations: ``(N, h, w, C)``, may be a memory map.
        bits: ``(N, h, w)``, from `rank_locations`; None for no mask.
        mode: the mode of the mask; None for no mask.
        channels_last: True if the network itself has the tensor as ``(N, h, w, C)``.

    >>> bits = np.array([[[1, 0]]], dtype=np.uint8)
    >>> ActivationView(np.ones((1, 1, 2, 3), np.float32), bits, "kar")(np.array([0]))[0, 0].tolist()
    [[1.0, 0.0]]
    """

    activations: NDArray[np.float32]
    bits: NDArray[np.uint8] | None = None
    mode: Mode | None = None
    channels_last: bool = False

    def __post_init__(self) -> None:
        """Refuse bits without a mode, and a mode without bits."""
        if (self.bits is None) != (self.mode is None):
            raise ValueError("bits and mode belong together: give both, or neither")

    def __len__(self) -> int:
        return len(self.activations)

    def read(self, indices: NDArray[np.integer]) -> RawBatch:
        """Activations ``(B, h, w, C)`` of ``(B,)`` indices and, if there is a mask, its bits."""
        chosen = torch.from_numpy(self.activations[indices])
        return (chosen,) if self.bits is None else (chosen, torch.from_numpy(self.bits[indices]))

    def to_inputs(self, raw: RawBatch) -> Tensor:
        """Inputs ``(B, C, h, w)``, or ``(B, h, w, C)`` if the network is channels-last."""
        chosen = raw[0]
        if self.mode is not None:
            chosen.mul_(kept_locations(raw[1], self.mode)[..., None])
        return chosen if self.channels_last else chosen.permute(0, 3, 1, 2)

"""Levels of saliency, and masks of an exact number of pixels.

A map becomes *levels* once: level 0 holds the most salient pixels up to the first cut,
level 1 those up to the second, and so on. Every fraction of both modes is then one
comparison with the levels, so that all trainings of a method share the same ranking.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evaluation.seeding import generator

__all__ = [
    "FILLS",
    "MODES",
    "LevelArray",
    "Masking",
    "as_elements",
    "by_saliency",
    "check_fractions",
    "continued_levels",
    "pixels_at",
    "saliency_levels",
    "tie_orders",
]

Mode = Literal["roar", "kar"]
LevelArray = TypeVar("LevelArray", NDArray[Any], Tensor)
MODES: tuple[Mode, ...] = ("roar", "kar")
FILLS: tuple[str, ...] = ("mean", "noisy-linear")


def check_fractions(fractions: Sequence[float]) -> tuple[float, ...]:
    """Sorted fractions of the pixels, each inside (0, 1) and none twice.

    Raises:
        ValueError: naming the fraction that is out of range or given twice.

    >>> check_fractions([0.5, 0.1])
    (0.1, 0.5)
    """
    if not fractions:
        raise ValueError("no fractions given: expected at least one between 0 and 100 %")
    for fraction in fractions:
        if not 0.0 < fraction < 1.0:
            raise ValueError(
                f"fraction {100 * fraction:g} % is out of range: expected more than 0 and "
                "less than 100 % of the pixels"
            )
    ordered = tuple(sorted(fractions))
    for first, second in pairwise(ordered):
        if first == second:
            raise ValueError(f"fraction {100 * first:g} % is given twice: give each once")
    return ordered


def pixels_at(fraction: float, pixels: int) -> int:
    """The number of pixels in a fraction of `pixels`: the nearest whole number, halves up.

    >>> pixels_at(0.1, 1024)
    102
    """
    return int(np.floor(fraction * pixels + 0.5))


def saliency_levels(
    saliency: NDArray[np.floating],
    cuts: Sequence[float],
    indices: NDArray[np.integer],
    *,
    seed: int = 0,
) -> NDArray[np.uint8]:
    """The levels of maps: every pixel is ranked, and its level is the first cut that holds it.

    The level ``l`` of a pixel is the number of cuts whose most salient pixels do not include
    it: exactly ``pixels_at(cuts[j], H * W)`` pixels have a level of at most ``j``, whatever
    the ties. Tied pixels are ordered by a random permutation that depends on
    `seed` and the image alone, so that it is the same for every method.

    Args:
        saliency: ``(N, H, W)``, higher is more salient; finite. Maps of volumes are
            ``(N, D, H, W)``, of signals ``(N, T)``.
        cuts: fractions as `check_fractions` returns them.
        indices: ``(N,)``, index of each map's image in its split.
        seed: seed of the order of ties.

    Returns:
        Levels of the maps' shape, ``0 .. len(cuts)``.

    Raises:
        ValueError: a map holds a NaN or an infinity; names the image.

    >>> saliency_levels(np.array([[[0.1, 0.9], [0.5, 0.2]]]), [0.25, 0.5], np.array([0]))
    array([[[2, 0],
            [1, 2]]], dtype=uint8)
    """
    n, pixels = len(saliency), math.prod(saliency.shape[1:])
    _refuse_not_finite(saliency, indices)
    counts = np.array([pixels_at(cut, pixels) for cut in cuts])
    level_of_rank = np.searchsorted(counts, np.arange(pixels), side="right").astype(np.uint8)
    levels = np.empty((n, pixels), dtype=np.uint8)
    ranked = by_saliency(saliency.reshape(n, pixels), tie_orders(pixels, indices, seed))
    np.put_along_axis(levels, ranked, np.broadcast_to(level_of_rank, levels.shape), axis=1)
    return levels.reshape(saliency.shape)


def continued_levels(
    saliency: NDArray[np.floating],
    removed: NDArray[np.bool_],
    fraction: float,
    indices: NDArray[np.integer],
    *,
    seed: int = 0,
) -> NDArray[np.uint8]:
    """The levels of one cut that holds the pixels removed before, then the most salient others.

    Args:
        saliency: ``(N, H, W)``, higher is more salient; finite.
        removed: ``(N, H, W)``, at most as many pixels as `fraction` is.
        fraction: the cut.
        indices: ``(N,)``, index of each map's image in its split.
        seed: seed of the order of ties.

    Returns:
        ``(N, H, W)``: 0 for pixels within the cut, 1 for the others.

    Raises:
        ValueError: a map holds a NaN or an infinity; names the image.

    >>> saliency, removed = np.array([[[4.0, 3.0, 2.0, 1.0]]]), np.array([[[0, 0, 0, 1]]]) > 0
    >>> continued_levels(saliency, removed, 0.5, np.array([0])).tolist()
    [[[0, 1, 1, 0]]]
    """
    _refuse_not_finite(saliency, indices)
    n, pixels = len(saliency), math.prod(saliency.shape[1:])
    ranked = by_saliency(saliency.reshape(n, pixels), tie_orders(pixels, indices, seed))
    # Whole numbers without ties, with pixels removed before above all others.
    scores = np.empty((n, pixels))
    np.put_along_axis(scores, ranked, np.broadcast_to(-np.arange(pixels), scores.shape), axis=1)
    scores += pixels * removed.reshape(n, pixels)
    return saliency_levels(scores.reshape(saliency.shape), (fraction,), indices, seed=seed)


def as_elements(
    saliency: NDArray[np.floating], channels: int, axes: int = 2
) -> NDArray[np.floating]:
    """Maps as rows of elements: the channels of each pixel side by side.

    Args:
        saliency: ``(N, H, W)``, the same for every channel, or ``(N, C, H, W)``.
        channels: ``C``.
        axes: number of axes of a map: 2 of images, 3 of volumes, 1 of signals.

    Returns:
        ``(N, H, W * C)``.

    >>> as_elements(np.array([[[1.0, 2.0]]]), 3).tolist()
    [[[1.0, 1.0, 1.0, 2.0, 2.0, 2.0]]]
    """
    if saliency.ndim == 1 + axes:
        return saliency.repeat(channels, axis=axes)
    grid = saliency.shape[2:]
    return np.moveaxis(saliency, 1, -1).reshape(len(saliency), *grid[:-1], grid[-1] * channels)


def tie_orders(pixels: int, indices: NDArray[np.integer], seed: int) -> NDArray[np.int64]:
    """A random order of the pixels for each image, the same for every map of it.

    Args:
        pixels: number of pixels of a map.
        indices: ``(N,)``, index of each image in its split.
        seed: seed of the orders.

    Returns:
        ``(N, pixels)``, each row a permutation.
    """
    orders = np.empty((len(indices), pixels), dtype=np.int64)
    for row, index in enumerate(indices):
        orders[row] = generator(seed, int(index)).permutation(pixels)
    return orders


def by_saliency(saliency: NDArray[np.floating], orders: NDArray[np.int64]) -> NDArray[np.int64]:
    """The pixels of each map, the most salient first, tied ones in a given order.

    Args:
        saliency: ``(N, pixels)``, finite.
        orders: the orders of ties, from `tie_orders`.

    Returns:
        ``(N, pixels)`` indices of pixels.

    >>> by_saliency(np.array([[0.5, 0.9, 0.5]]), np.array([[2, 1, 0]])).tolist()
    [[1, 2, 0]]
    """
    drawn = np.take_along_axis(saliency, orders, axis=1)
    ranked = np.argsort(-drawn, axis=1, kind="stable")
    return np.take_along_axis(orders, ranked, axis=1)


def _refuse_not_finite(saliency: NDArray[np.floating], indices: NDArray[np.integer]) -> None:
    finite = np.isfinite(saliency).reshape(len(saliency), -1).all(axis=1)
    if not finite.all():
        bad = int(indices[np.flatnonzero(~finite)[0]])
        raise ValueError(
            f"the saliency map of image {bad} holds NaN or infinity: a ranking needs finite "
            "values; look at the method's output for that image"
        )


@dataclass(frozen=True)
class Masking:
    """The mask of a mode and a fraction.

    ROAR removes the `fraction` most salient pixels; KAR keeps the `fraction` most
    salient and removes the rest (Hooker et al. 2018, section 3).

    Args:
        mode: ``"roar"`` or ``"kar"``.
        fraction: share of the pixels removed (ROAR) or kept (KAR); one of `cuts`.
        cuts: the cuts of the levels.
        fill: fill of removed pixels: ``"mean"``, the training set's channel mean, or
            ``"noisy-linear"``, by `evaluation.masking.imputation.noisy_linear`.

    Raises:
        ValueError: an unknown mode or fill, or a fraction that is not among the cuts.

    >>> Masking("roar", 0.25, (0.25, 0.5)).kept(np.array([[[2, 0], [1, 2]]]))
    array([[[ True, False],
            [ True,  True]]])
    """

    mode: Mode
    fraction: float
    cuts: tuple[float, ...]
    fill: str = "mean"

    def __post_init__(self) -> None:
        """Refuse unknown words and fractions that the levels do not hold."""
        if self.mode not in MODES:
            raise ValueError(f"unknown mode {self.mode!r}: expected one of {', '.join(MODES)}")
        if self.fill not in FILLS:
            raise ValueError(f"unknown fill {self.fill!r}: expected one of {', '.join(FILLS)}")
        if self.fraction not in self.cuts:
            raise ValueError(
                f"fraction {100 * self.fraction:g} % is not among the cuts of the levels "
                f"({', '.join(f'{100 * cut:g}' for cut in self.cuts)} %): "
                "compute the maps with it"
            )

    def kept(self, levels: LevelArray) -> LevelArray:
        """True for the pixels that stay, from levels of any shape, an array or a tensor."""
        salient: Any = levels <= self.cuts.index(self.fraction)
        kept: LevelArray = ~salient if self.mode == "roar" else salient
        return kept

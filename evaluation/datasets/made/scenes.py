"""Random streams, textures, checks and splits of the sets that are made from a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.datasets.dataset import Split

__all__ = ["band_limited", "checked_counts", "in_bytes", "made_split", "stream"]

_SPLITS = {"train": 0, "test": 1}


def stream(seed: int, split: str, index: int) -> np.random.Generator:
    """The random numbers of one sample, which depend on these alone.

    >>> stream(0, "train", 3).random() == stream(0, "train", 3).random()
    True
    """
    return np.random.default_rng([seed, _SPLITS[split], index])


def band_limited(
    draws: np.random.Generator, shape: tuple[int, ...], coarse: int
) -> NDArray[np.float64]:
    """Noise of unit deviation at the nodes of a coarse grid, interpolated linearly between them.

    Args:
        draws: the source of random numbers.
        shape: of the result.
        coarse: nodes along each axis.

    >>> band_limited(np.random.default_rng(0), (8, 8), 4).shape
    (8, 8)
    """
    values = draws.standard_normal((coarse,) * len(shape))
    for axis, side in enumerate(shape):
        at = np.linspace(0, coarse - 1, side)[:, None]
        spread = np.maximum(0, 1 - abs(at - np.arange(coarse)))
        values = np.moveaxis(np.tensordot(spread, values, (1, axis)), 0, axis)
    return values


def in_bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Values rounded to 0 .. 255.

    >>> in_bytes(np.array([-3.0, 12.6, 300.0])).tolist()
    [0, 13, 255]
    """
    rounded: NDArray[np.uint8] = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded


def checked_counts(name: str, least_size: int, **given: int) -> None:
    """Check numbers of samples, a size and a seed.

    Args:
        name: the function whose arguments they are.
        least_size: the least size.
        given: the arguments by name.

    Raises:
        ValueError: a number is below its least value.
        TypeError: a number is not an integer.
    """
    for argument, value in given.items():
        least = least_size if argument == "size" else 0
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name}: {argument} must be an integer, got {value!r}")
        if value < least:
            raise ValueError(f"{name}: {argument} must be at least {least}, got {value}")


def made_split(
    draw: Callable[[int], tuple[NDArray[np.uint8], NDArray[np.bool_]]],
    count: int,
    shape: Sequence[int],
    classes: int,
) -> Split:
    """Draw a split; the label of a sample is its number modulo the number of classes.

    Args:
        draw: from a sample's number to the sample and its object's places.
        count: number of samples.
        shape: of a sample, the channels last.
        classes: number of classes.

    >>> one = lambda index: (np.full((2, 1), index, np.uint8), np.ones(2, bool))
    >>> made_split(one, 3, (2, 1), 2).labels.tolist()
    [0, 1, 0]
    """
    images = np.empty((count, *shape), np.uint8)
    masks = np.empty((count, *shape[:-1]), np.bool_)
    for index in range(count):
        images[index], masks[index] = draw(index)
    return Split(images, np.arange(count, dtype=np.int64) % classes, masks)

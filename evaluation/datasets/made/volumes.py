"""The embedded set ``volumes``: five solids in textured volumes, made from a seed.

The three-dimensional sibling of ``shapes``: no download, and the object's voxels are known. The
class names the solid alone. Its place, volume, turn and brightness, the texture and the distractors
(halves of solids) are drawn from one distribution for all classes. Objects lie towards the eight
corners, so that a ball at the centre is a poor guess.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from evaluation.datasets.dataset import Split
from evaluation.datasets.made.scenes import (
    band_limited,
    checked_counts,
    in_bytes,
    made_split,
    stream,
)
from evaluation.datasets.made.solids import REACH, SOLIDS, Bool, Float

__all__ = ["CLASSES", "draw_volume", "make_volumes"]

CLASSES: tuple[str, ...] = tuple(SOLIDS)
LEAST_SIZE = 16

# The object's share of the volume; a distractor's as a share of the object's.
_VOLUME = (0.012, 0.022)
_PART = (0.3, 0.7)
_DISTRACTORS = 2
# Radians about each axis: few enough that some hundred steps of training learn the classes.
_TURN = np.pi / 6
# Distance of an object from the middle along each axis, as a share of that to the border.
_OFF_CENTRE = (0.85, 1.0)
# In 8-bit levels: the background, the step to an object, the amplitude of the texture, the grain.
_BACKGROUND = (60.0, 100.0)
_STEP = (80.0, 130.0)
_TEXTURE = (3.0, 10.0)
_GRAIN = 6.0
_GRID = 6


def make_volumes(
    *, train: int = 2000, test: int = 500, size: int = 24, seed: int = 0
) -> tuple[Split, Split]:
    """Draw the training and test split of the set ``volumes``.

    Volume i of a split depends on (`seed`, split, i, `size`) alone. Its label is i modulo 5.

    Args:
        train: number of training volumes, at least 0.
        test: number of test volumes, at least 0.
        size: voxels along each axis, at least 16.
        seed: any integer from 0.

    Returns:
        Two splits: images ``(N, size, size, size, 1)`` uint8, object masks without the channel.

    Raises:
        ValueError: a number is below its least value.
        TypeError: a number is not an integer.

    >>> train, test = make_volumes(train=5, test=2)
    >>> train.images.shape, test.object_masks.shape, CLASSES[test.labels[1]]
    ((5, 24, 24, 24, 1), (2, 24, 24, 24), 'shell')
    """
    checked_counts("make_volumes", LEAST_SIZE, train=train, test=test, size=size, seed=seed)

    def draw(split: str, index: int) -> tuple[NDArray[np.uint8], Bool]:
        volume, mask = draw_volume(split, index, size=size, seed=seed)
        return volume[..., None], mask

    shape = (size, size, size, 1)
    return (
        made_split(partial(draw, "train"), train, shape, len(CLASSES)),
        made_split(partial(draw, "test"), test, shape, len(CLASSES)),
    )


def draw_volume(
    split: str, index: int, *, size: int, seed: int, with_object: bool = True
) -> tuple[NDArray[np.uint8], Bool]:
    """Draw one volume, and its object's voxels.

    Args:
        split: ``"train"`` or ``"test"``.
        index: its number.
        size: voxels along each axis.
        seed: any integer from 0.
        with_object: False for the same volume without its object.

    Returns:
        ``(size, size, size)`` uint8 and bool.
    """
    draws = stream(seed, split, index)
    background = draws.uniform(*_BACKGROUND)
    step = draws.uniform(*_STEP)
    scene = background + draws.uniform(*_TEXTURE) * band_limited(draws, (size,) * 3, _GRID)
    volume = draws.uniform(*_VOLUME) * size**3
    for _ in range(_DISTRACTORS):
        part = draws.uniform(*_PART) * volume * 2
        kind = CLASSES[draws.integers(len(CLASSES))]
        place = draws.uniform(-size / 2, size / 2, 3)
        x, y, z = _own_coordinates(draws, place, part, size)
        # Cut in two, so that no distractor is a whole solid.
        half = SOLIDS[kind](x, y, z) & (x >= 0 if draws.random() < 0.5 else z >= 0)
        scene = np.where(half, background + step * draws.uniform(0.7, 1.3), scene)
    room = size / 2 - 0.5 - REACH * volume ** (1 / 3)
    corner = np.where(draws.random(3) < 0.5, -1, 1)
    place = room * corner * draws.uniform(*_OFF_CENTRE, 3)
    mask = SOLIDS[CLASSES[index % len(CLASSES)]](*_own_coordinates(draws, place, volume, size))
    inside = background + step + draws.uniform(*_TEXTURE) * band_limited(draws, (size,) * 3, _GRID)
    if with_object:
        scene = np.where(mask, inside, scene)
    return in_bytes(scene + _GRAIN * draws.standard_normal(scene.shape)), mask


def _own_coordinates(
    draws: np.random.Generator, place: Float, volume: float, size: int
) -> tuple[Float, Float, Float]:
    """Coordinates of each voxel in a solid's own axes, which are turned a little."""
    turn = np.eye(3)
    for axis, angle in enumerate(draws.uniform(-_TURN, _TURN, 3)):
        plane = np.ix_(*[[other for other in range(3) if other != axis]] * 2)
        one = np.eye(3)
        one[plane] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        turn = turn @ one
    line = np.arange(size) - (size - 1) / 2
    offsets = np.stack(np.meshgrid(line, line, line, indexing="ij")) - place[:, None, None, None]
    x, y, z = np.einsum("ab,bdhw->adhw", turn, offsets) / volume ** (1 / 3)
    return x, y, z

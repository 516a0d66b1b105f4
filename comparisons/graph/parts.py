"""The maps of many images in parts, which several workers make at a time."""

from __future__ import annotations

from dataclasses import replace

from comparisons.cells.cell import Cell
from evaluation.masking.level_files import shards_of

__all__ = ["PART_SHARDS", "part_of", "parts_of"]

# Shards that one worker makes at a time, where there are more: 16,384 images.
PART_SHARDS = 16


def parts_of(train_images: int, test_images: int) -> list[range]:
    """Return the shards of each part of the maps of an image set.

    Args:
        train_images: number of training images.
        test_images: number of test images.

    Returns:
        Shards counted through the training images first and then the test images; nothing where
        there are too few for parts.

    >>> parts_of(30_000, 10_000)
    [range(0, 16), range(16, 32), range(32, 40)]
    """
    shards = len(shards_of(train_images)) + len(shards_of(test_images))
    if shards <= PART_SHARDS:
        return []
    starts = range(0, shards, PART_SHARDS)
    return [range(start, min(start + PART_SHARDS, shards)) for start in starts]


def part_of(maps: Cell, shards: range) -> Cell:
    """Return the cell that makes some shards of another cell's maps.

    The whole does not depend on its parts: its id is the same, however many workers make it.
    """
    return replace(maps, kind="part", spec={**maps.spec, "shards": [shards.start, shards.stop]})

"""Patches: the cells of a regular grid on an image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["patch_of_pixels"]


def patch_of_pixels(size: tuple[int, int], grid: int) -> NDArray[np.int64]:
    """The patch of each pixel, counted row by row, of as many rows and columns as `grid` says.

    Patches differ by at most one row and one column of pixels where the sides cannot be divided.

    Args:
        size: height and width of the image.
        grid: rows, and columns, of patches.

    Returns:
        ``(H, W)``, ``0 .. grid * grid - 1``.

    Raises:
        ValueError: an image with fewer rows or columns of pixels than the grid has.

    >>> patch_of_pixels((2, 4), 2).tolist()
    [[0, 0, 1, 1], [2, 2, 3, 3]]
    """
    if grid < 1 or min(size) < grid:
        raise ValueError(
            f"a grid of {grid}x{grid} patches on images of {size[0]}x{size[1]} pixels: expected at "
            "least one patch, and one pixel for each row and column of patches"
        )
    rows, columns = (np.arange(side) * grid // side for side in size)
    patches: NDArray[np.int64] = rows[:, None] * grid + columns[None]
    return patches

"""Random contiguous regions, a control for masks that score well only for being one blob."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

__all__ = ["arrival_times"]


def arrival_times(height: int, width: int, draw: np.random.Generator) -> NDArray[np.float64]:
    """Return the time at which a region that grows from a random pixel reaches each pixel.

    First-passage percolation: each pair of pixels that share a side takes an exponential time to
    cross, and a pixel is reached by the fastest way. The earliest k pixels are in one piece for
    every k, since the fastest way to a pixel leads through earlier ones.

    Args:
        height: rows.
        width: columns.
        draw: generator of the first pixel and of the times.

    Returns:
        `(H, W)`, 0 at the first pixel.

    >>> arrival_times(2, 2, np.random.default_rng(0)).min()
    np.float64(0.0)
    """
    first, second = _sides(height, width)
    pixels = height * width
    times = draw.exponential(size=len(first))
    # SciPy 1.14's dijkstra takes 32-bit indices only.
    places = first.astype(np.int32), second.astype(np.int32)
    graph = csr_array((times, places), shape=(pixels, pixels))
    start = int(draw.integers(pixels))
    reached: NDArray[np.float64] = dijkstra(graph, directed=False, indices=start)
    return reached.reshape(height, width)


@cache
def _sides(height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the two pixels of every pair that shares a side."""
    place = np.arange(height * width).reshape(height, width)
    first = np.concatenate([place[:, :-1].ravel(), place[:-1].ravel()])
    second = np.concatenate([place[:, 1:].ravel(), place[1:].ravel()])
    return first, second

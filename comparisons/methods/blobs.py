"""Random contiguous regions: what a mask earns for being a blob, wherever it is."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

__all__ = ["arrival_times"]


def arrival_times(height: int, width: int, draw: np.random.Generator) -> NDArray[np.float64]:
    """When a region that grows from a random pixel reaches each pixel.

    First-passage percolation: each pair of pixels that share a side takes an exponential time to
    cross, and a pixel is reached by the fastest way. The earliest k pixels are in one piece for
    every k, since the fastest way to a pixel leads through earlier ones.

    Args:
        height: rows.
        width: columns.
        draw: what decides on the first pixel and the times.

    Returns:
        `(H, W)`, 0 at the first pixel.

    >>> arrival_times(2, 2, np.random.default_rng(0)).min()
    np.float64(0.0)
    """
    first, second = _sides(height, width)
    pixels = height * width
    times = draw.exponential(size=len(first))
    # SciPy 1.14 finds paths by indices of 32 bits alone.
    places = first.astype(np.int32), second.astype(np.int32)
    graph = csr_array((times, places), shape=(pixels, pixels))
    start = int(draw.integers(pixels))
    reached: NDArray[np.float64] = dijkstra(graph, directed=False, indices=start)
    return reached.reshape(height, width)


@cache
def _sides(height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pixels on both sides of every pair that shares a side."""
    place = np.arange(height * width).reshape(height, width)
    first = np.concatenate([place[:, :-1].ravel(), place[:-1].ravel()])
    second = np.concatenate([place[:, 1:].ravel(), place[1:].ravel()])
    return first, second

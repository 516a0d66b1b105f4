"""Normalising maps, and combining those of all scales in one pass; `fused` says when."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from fastsal.compiled import compiled, pointer

# A spread this small beside the values is what float32 leaves of a constant map.
CONSTANT = 1e-6


@compiled()
def _normal_cdf(score: Any) -> Any:
    """Return the normal CDF by a rational function for erf, to 1e-7, flat beyond 5.65.

    In double, so that rounding never turns two values' order around.
    """
    x = min(max(score * 0.7071067811865476, -4), 4)
    t = x * x
    p = -2.72614225801306e-10 * t + 2.77068142495902e-08
    p = p * t + -2.10102402082508e-06
    p = p * t + -5.69250639462346e-05
    p = p * t + -7.34990630326855e-04
    p = p * t + -2.95459980854025e-03
    p = p * t + -1.60960333262415e-02
    q = -1.45660718464996e-05 * t + -2.13374055278905e-04
    q = q * t + -1.68282697438203e-03
    q = q * t + -7.37332916720468e-03
    q = q * t + -1.42647390514189e-02
    erf = min(max(x * p / q, -1), 1)
    return np.float32(0.5 + 0.5 * erf)


@compiled(fastmath={"reassoc"})
def _moments(values: Any) -> Any:
    """Return mean, standard deviation and largest magnitude."""
    total, largest = 0.0, np.float32(0)
    for l in range(values.size):  # noqa: E741
        total += values[l]
        largest = max(largest, abs(values[l]))
    mean = total / values.size
    squares = 0.0
    for l in range(values.size):  # noqa: E741
        squares += (values[l] - mean) ** 2
    return mean, np.sqrt(squares / max(1, values.size - 1)), largest


@compiled()
def gaussian(source: int, target: int, locations: int, first: int, last: int) -> None:
    """Write the normal CDF of maps by each one's mean and standard deviation.

    Args:
        source: Address of the float32 maps `(N, HW)`.
        target: Address of the result, of the same shape.
        locations: HW.
        first: The first of the work's maps.
        last: The map after the last.
    """
    maps = carray(pointer(source, np.float32), (last * locations,))
    result = carray(pointer(target, np.float32), (last * locations,))
    for unit in range(first, last):
        values = maps[unit * locations : (unit + 1) * locations]
        squashed = result[unit * locations : (unit + 1) * locations]
        mean, deviation, largest = _moments(values)
        if not np.isfinite(mean):
            squashed[:] = np.float32(np.nan)
        elif deviation <= CONSTANT * largest:
            squashed[:] = np.float32(0.5)
        else:
            per_deviation = 1 / deviation
            for l in range(locations):  # noqa: E741
                squashed[l] = _normal_cdf((values[l] - mean) * per_deviation)


@compiled()
def _source(position: Any, size: Any, scale: Any) -> Any:
    """Return the neighbours of an upsampled position and the second's weight, as PyTorch's."""
    real = max(scale * (np.float32(position) + np.float32(0.5)) - np.float32(0.5), np.float32(0))
    lower = min(np.int32(real), np.int32(size - 1))
    upper = min(np.int32(lower + 1), np.int32(size - 1))
    return lower, upper, min(max(real - np.float32(lower), np.float32(0)), np.float32(1))


@compiled()
def _widened(row: Any, wide: Any, left: Any, right: Any, weight: Any) -> None:
    for x in range(wide.size):
        w = weight[x]
        wide[x] = (np.float32(1) - w) * row[left[x]] + w * row[right[x]]


@compiled()
def combine(
    scales: Any,
    weights: Any,
    target: int,
    image_stride: int,
    height: int,
    width: int,
    scratch: int,
    first: int,
    last: int,
) -> None:
    """Write the weighted sum of maps, upsampled as by PyTorch's "bilinear", corners not aligned.

    Args:
        scales: For each of K scales the maps' address, their height and width, and -1, -1: which
            rows are held widened, for this function to keep.
        weights: K.
        target: Address of the float32 result `(N, H, W)`.
        image_stride: The result's; its rows follow each other.
        height: H.
        width: W.
        scratch: Address of `5 K W` numbers of four bytes.
        first: The first of the work's rows, counted through all images.
        last: The row after the last.
    """
    count = len(weights)
    images = (last + height - 1) // height
    result = carray(pointer(target, np.float32), ((images - 1) * image_stride + height * width,))
    wide = carray(pointer(scratch, np.float32), (count, 2, width))
    row_weights = carray(pointer(scratch + 8 * count * width, np.float32), (count, width))
    neighbours = carray(pointer(scratch + 12 * count * width, np.int32), (count, 2, width))
    for k in range(count):
        across = np.float32(scales[k, 2]) / np.float32(width)
        for x in range(width):
            left, right, row_weights[k, x] = _source(x, scales[k, 2], across)
            neighbours[k, 0, x], neighbours[k, 1, x] = left, right
    image = -1
    for unit in range(first, last):
        if unit // height != image:
            image = unit // height
            scales[:, 3:] = -1
        y = unit % height
        out = result[image * image_stride + y * width :][:width]
        for k in range(count):
            rows, row_size = scales[k, 1], scales[k, 2]
            lower, upper, weight = _source(y, rows, np.float32(rows) / np.float32(height))
            # Each row is widened once; rows are held by turns, the even and the odd ones.
            for row in (lower, upper):
                if scales[k, 3 + row % 2] != row:
                    values = carray(
                        pointer(scales[k, 0], np.float32), ((image + 1) * rows * row_size,)
                    )
                    start = (image * rows + row) * row_size
                    _widened(
                        values[start : start + row_size],
                        wide[k, row % 2],
                        neighbours[k, 0],
                        neighbours[k, 1],
                        row_weights[k],
                    )
                    scales[k, 3 + row % 2] = row
            a, b = wide[k, lower % 2], wide[k, upper % 2]
            above = np.float32(weights[k] * (1 - weight))
            below = np.float32(weights[k] * weight)
            if k == 0:
                for x in range(width):
                    out[x] = above * a[x] + below * b[x]
            else:
                for x in range(width):
                    out[x] += above * a[x] + below * b[x]

"""The normal CDF and the weighted sum of maps, as functions for Numba to compile."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from fastsal.kernels.constants import CONSTANT_SPREAD
from fastsal.kernels.numba.jit import claim, compiled, join, pointer
from fastsal.kernels.tasks import CombineTask, ScaleMaps, SquashTask

COMBINE = np.dtype(CombineTask)
SCALE = np.dtype(ScaleMaps)
SQUASH = np.dtype(SquashTask)


@compiled()
def _normal_cdf(score: Any) -> Any:
    """Return the normal CDF by a rational function for erf, to 1e-7, constant beyond 5.65.

    In double precision, so that rounding never reverses the order of two values.
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
    """Return the mean, the standard deviation and the largest magnitude of a map."""
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
def _centre(values: Any) -> Any:
    """Return a map's mean and the inverse of its standard deviation.

    The inverse is 0 for a constant map; the mean is NaN if a value is not finite.
    """
    mean, deviation, largest = _moments(values)
    if not np.isfinite(mean):
        return np.nan, 0.0
    # All scores of a constant map are 0.
    return mean, 0.0 if deviation <= CONSTANT_SPREAD * largest else 1 / deviation


def gaussian(address: int) -> None:
    """Write the normal CDF of maps, each with its own mean and standard deviation.

    Args:
        address: The address of a `SquashTask`.
    """
    if join(address) < 0:
        return
    task = carray(pointer(address, SQUASH), 1)[0]
    locations = task.locations
    maps = carray(pointer(task.source, np.float32), (task.units * locations,))
    result = carray(pointer(task.target, np.float32), (task.units * locations,))
    unit = claim(address)
    while unit >= 0:
        values = maps[unit * locations : (unit + 1) * locations]
        squashed = result[unit * locations : (unit + 1) * locations]
        mean, per_deviation = _centre(values)
        if np.isfinite(mean):
            _squash(values, squashed, mean, per_deviation)
        else:
            for l in range(locations):  # noqa: E741
                squashed[l] = np.float32(np.nan)
        unit = claim(address)


@compiled()
def _squash(values: Any, squashed: Any, mean: Any, per_deviation: Any) -> None:
    for l in range(values.size):  # noqa: E741
        squashed[l] = _normal_cdf((values[l] - mean) * per_deviation)


@compiled()
def _source(position: Any, size: Any, scale: Any) -> Any:
    """Return the first neighbour of an upsampled position and the next's weight, as in PyTorch."""
    real = max(scale * (np.float32(position) + np.float32(0.5)) - np.float32(0.5), np.float32(0))
    lower = min(np.int32(real), np.int32(size - 1))
    return np.int64(lower), min(max(real - np.float32(lower), np.float32(0)), np.float32(1))


@compiled()
def _widened(row: Any, wide: Any, left: Any, weight: Any) -> None:
    for x in range(wide.size):
        w = weight[x]
        wide[x] = (np.float32(1) - w) * row[left[x]] + w * row[left[x] + 1]


@compiled()
def _copy(values: Any, to: Any) -> None:
    for x in range(values.size):
        to[x] = values[x]


@compiled()
def _blended(out: Any, a: Any, b: Any, above: Any, below: Any, first: Any) -> None:
    if first:
        for x in range(out.size):
            out[x] = above * a[x] + below * b[x]
    else:
        for x in range(out.size):
            out[x] += above * a[x] + below * b[x]


def combine(address: int) -> None:
    """Write the weighted sum of maps, upsampled as by PyTorch's "bilinear", corners not aligned.

    In a band of rows, each row of a map is squashed and widened once.

    Args:
        address: The address of a `CombineTask`.
    """
    worker = join(address)
    if worker < 0:
        return
    task = carray(pointer(address, COMBINE), 1)[0]
    height, width, count = task.height, task.width, task.count
    scales = carray(pointer(task.scales, SCALE), count)
    bands = (height + task.band - 1) // task.band
    images = task.units // bands
    extent = (images - 1) * task.image_stride + (task.channels - 1) * task.channel_stride
    result = carray(pointer(task.target, np.float32), (extent + height * width,))
    # For each scale: mean, inverse deviation, and the even and the odd row that are held widened.
    at = task.scratch + worker * task.scratch_bytes
    centres = carray(pointer(at, np.float64), (count, 2))
    held = carray(pointer(at + 16 * count, np.int64), (count, 2))
    at += 32 * count
    wide = carray(pointer(at, np.float32), (count, 2, width))
    weights = carray(pointer(at + 8 * count * width, np.float32), (count, width))
    left = carray(pointer(at + 12 * count * width, np.int32), (count, width))
    row = carray(pointer(at + 16 * count * width, np.float32), (task.widest + 1,))
    for k in range(count):
        columns = scales[k].columns
        across = np.float32(columns) / np.float32(width)
        for x in range(width):
            left[k, x], weights[k, x] = _source(x, columns, across)
    image = -1
    unit = claim(address)
    while unit >= 0:
        if unit // bands != image:
            image = unit // bands
            for k in range(count):
                held[k, 0], held[k, 1] = -1, -1
                if task.squash:
                    size = scales[k].rows * scales[k].columns
                    maps = carray(pointer(scales[k].source, np.float32), ((image + 1) * size,))
                    centres[k, 0], centres[k, 1] = _centre(maps[image * size :])
                    if not np.isfinite(centres[k, 0]):
                        scales[k].not_finite = 1
        start = unit % bands * task.band
        end = min(start + task.band, height)
        for y in range(start, end):
            out = result[image * task.image_stride + y * width :][:width]
            for k in range(count):
                rows, columns = scales[k].rows, scales[k].columns
                lower, weight = _source(y, rows, np.float32(rows) / np.float32(height))
                upper = min(lower + 1, rows - 1)
                for source in (lower, upper):
                    if held[k, source % 2] != source:
                        end_of_maps = (image + 1) * rows * columns
                        maps = carray(pointer(scales[k].source, np.float32), (end_of_maps,))
                        values = maps[(image * rows + source) * columns :][:columns]
                        if task.squash:
                            _squash(values, row[:columns], centres[k, 0], centres[k, 1])
                        else:
                            _copy(values, row)
                        row[columns] = row[columns - 1]
                        _widened(row, wide[k, source % 2], left[k], weights[k])
                        held[k, source % 2] = source
                share = scales[k].weight
                _blended(
                    out,
                    wide[k, lower % 2],
                    wide[k, upper % 2],
                    np.float32(share * (1 - weight)),
                    np.float32(share * weight),
                    k == 0,
                )
        first = image * task.image_stride + start * width
        for channel in range(1, task.channels):
            to = first + channel * task.channel_stride
            _copy(result[first : first + (end - start) * width], result[to:])
        unit = claim(address)

"""The mean and the standard deviation over channels, as functions for Numba to compile.

Negative activations count as 0. For the deviation a block of locations is read twice, the second
time from the cache, so that the digits of a small deviation are not lost in large squares. A unit
of a task is a block of one image's locations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from fastsal.kernels.numba.jit import claim, compiled, join, pointer
from fastsal.kernels.numba.smoe import shifted
from fastsal.kernels.tasks import STATISTIC_SCRATCH_BYTES, StatisticTask

TASK = np.dtype(StatisticTask)
# With a location's sum between these, its sums of eight terms are float32 numbers with all digits.
LEAST, LARGEST = 1e-8, 4e9


@compiled()
def _term(value: Any, mean: Any, squared: Any) -> Any:
    """Return an activation's deviation from a mean, or the square of it."""
    deviation = shifted(value, np.float32(0)) - mean
    return deviation * deviation if squared else deviation


@compiled()
def _by_eights(
    x: Any, at: Any, stride: Any, channels: Any, means: Any, squared: Any, sums: Any
) -> None:
    """Add the terms of channels, a multiple of 8, to a block's sums."""
    size = sums.size
    for channel in range(0, channels, 8):
        first = at + channel * stride
        a = x[first : first + size]
        b = x[first + stride : first + stride + size]
        c = x[first + 2 * stride : first + 2 * stride + size]
        d = x[first + 3 * stride : first + 3 * stride + size]
        first += 4 * stride
        e = x[first : first + size]
        f = x[first + stride : first + stride + size]
        g = x[first + 2 * stride : first + 2 * stride + size]
        h = x[first + 3 * stride : first + 3 * stride + size]
        for l in range(size):  # noqa: E741
            m = np.float32(means[l])
            t0, t1 = _term(a[l], m, squared), _term(b[l], m, squared)
            t2, t3 = _term(c[l], m, squared), _term(d[l], m, squared)
            t4, t5 = _term(e[l], m, squared), _term(f[l], m, squared)
            t6, t7 = _term(g[l], m, squared), _term(h[l], m, squared)
            sums[l] += ((t0 + t1) + (t2 + t3)) + ((t4 + t5) + (t6 + t7))


@compiled()
def _one_by_one(
    x: Any, at: Any, stride: Any, channels: Any, means: Any, squared: Any, sums: Any
) -> None:
    """Add the terms of channels to a block's sums in double precision; for any values."""
    size = sums.size
    for channel in range(channels):
        values = x[at + channel * stride : at + channel * stride + size]
        for l in range(size):  # noqa: E741
            sums[l] += _term(values[l], means[l], squared)


@compiled()
def _clear(sums: Any) -> None:
    for l in range(sums.size):  # noqa: E741
        sums[l] = 0.0


@compiled()
def _ordinary(total: Any) -> Any:
    """Return True for a sum that float32 numbers were enough for."""
    return total == 0 or LEAST <= total < LARGEST


@compiled()
def _any_extraordinary(totals: Any) -> Any:
    count = 0
    for l in range(totals.size):  # noqa: E741
        count += not _ordinary(totals[l])
    return count > 0


@compiled()
def _write(values: Any, sums: Any, channels: Any, deviates: Any) -> Any:
    """Write a block's means, or deviations, and return True if one is not 0."""
    not_zero = 0
    for l in range(values.size):  # noqa: E741
        value = np.float32(np.sqrt(sums[l] / channels) if deviates else sums[l] / channels)
        values[l] = value
        not_zero += value != np.float32(0)
    return not_zero > 0


@compiled()
def _scratch(task: Any, worker: Any) -> Any:
    """Return a worker's scratch: two double sums for each location."""
    start = task.scratch + worker * task.block * STATISTIC_SCRATCH_BYTES
    totals = carray(pointer(start, np.float64), (task.block,))
    return totals, carray(pointer(start + 8 * task.block, np.float64), (task.block,))


@compiled()
def _channels_first(address: Any, kind: Any) -> None:
    """Write a moment of activations whose locations are adjacent in memory."""
    task = carray(pointer(address, TASK), 1)[0]
    worker = join(address)
    if worker < 0:
        return
    channels, locations, stride = task.channels, task.locations, task.stride
    deviates = task.deviates
    blocks = (locations + task.block - 1) // task.block
    images = task.units // blocks
    span = (images - 1) * task.image_stride + (channels - 1) * stride + locations
    x = carray(pointer(task.source, kind), (span,))
    values = carray(pointer(task.target, np.float32), (images * locations,))
    scratch = _scratch(task, worker)
    unit = claim(address)
    while unit >= 0:
        start = unit % blocks * task.block
        size = min(task.block, locations - start)
        at = unit // blocks * task.image_stride + start
        sums, means = scratch[0][:size], scratch[1][:size]
        eights = channels // 8 * 8
        _clear(means)
        _clear(sums)
        _by_eights(x, at, stride, eights, means, False, sums)
        rest = at + eights * stride
        _one_by_one(x, rest, stride, channels - eights, means, False, sums)
        if _any_extraordinary(sums):
            eights, rest = 0, at
            _clear(sums)
            _one_by_one(x, at, stride, channels, means, False, sums)
        if deviates:
            for l in range(size):  # noqa: E741
                # Rounded, so that all channels deviate from the same number.
                means[l] = np.float32(sums[l] / channels)
            _clear(sums)
            _by_eights(x, at, stride, eights, means, True, sums)
            _one_by_one(x, rest, stride, channels - eights, means, True, sums)
        first = unit // blocks * locations + start
        if _write(values[first : first + size], sums, channels, deviates):
            task.not_zero = 1
        unit = claim(address)


@compiled(fastmath={"reassoc"})
def _sum(column: Any, mean: Any, squared: Any) -> Any:
    """Return the sum of the terms of a location's channels; of equal ones without rounding."""
    total = 0.0
    for k in range(column.size):
        total += np.float64(_term(column[k], mean, squared))
    return total


@compiled()
def _moment(column: Any, deviates: Any) -> Any:
    """Return the sum of a location's channels, or of their squared deviations."""
    total = _sum(column, np.float32(0), False)
    ordinary = _ordinary(total)
    if not ordinary:
        total = _sum(column, 0.0, False)
    if not deviates:
        return total
    mean = total / column.size
    return _sum(column, np.float32(mean), True) if ordinary else _sum(column, mean, True)


@compiled()
def _channels_last(address: Any, kind: Any) -> None:
    """Write a moment of activations whose channels are adjacent in memory."""
    task = carray(pointer(address, TASK), 1)[0]
    worker = join(address)
    if worker < 0:
        return
    channels, locations, deviates = task.channels, task.locations, task.deviates
    blocks = (locations + task.block - 1) // task.block
    images = task.units // blocks
    span = (images - 1) * task.image_stride + (locations - 1) * task.stride + channels
    x = carray(pointer(task.source, kind), (span,))
    values = carray(pointer(task.target, np.float32), (images * locations,))
    sums = _scratch(task, worker)[0]
    unit = claim(address)
    while unit >= 0:
        begin = unit % blocks * task.block
        size = min(task.block, locations - begin)
        for l in range(size):  # noqa: E741
            at = unit // blocks * task.image_stride + (begin + l) * task.stride
            sums[l] = _moment(x[at : at + channels], deviates)
        first = unit // blocks * locations + begin
        if _write(values[first : first + size], sums, channels, deviates):
            task.not_zero = 1
        unit = claim(address)


def channels_first_float32(address: int) -> None:
    """Write a moment of float32 activations whose locations are adjacent in memory."""
    _channels_first(address, np.float32)


def channels_first_float64(address: int) -> None:
    """Write a moment of float64 activations whose locations are adjacent in memory."""
    _channels_first(address, np.float64)


def channels_first_bfloat16(address: int) -> None:
    """Write a moment of bfloat16 activations whose locations are adjacent in memory."""
    _channels_first(address, np.int16)


def channels_first_float16(address: int) -> None:
    """Write a moment of float16 activations whose locations are adjacent in memory."""
    _channels_first(address, np.uint16)


def channels_last_float32(address: int) -> None:
    """Write a moment of float32 activations whose channels are adjacent in memory."""
    _channels_last(address, np.float32)


def channels_last_float64(address: int) -> None:
    """Write a moment of float64 activations whose channels are adjacent in memory."""
    _channels_last(address, np.float64)


def channels_last_bfloat16(address: int) -> None:
    """Write a moment of bfloat16 activations whose channels are adjacent in memory."""
    _channels_last(address, np.int16)


def channels_last_float16(address: int) -> None:
    """Write a moment of float16 activations whose channels are adjacent in memory."""
    _channels_last(address, np.uint16)

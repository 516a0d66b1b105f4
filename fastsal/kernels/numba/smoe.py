"""SMOE Scale in one pass over the activations, as functions for Numba to compile.

For each location the sum of the channels is kept, and their product as a mantissa and an exponent:
one logarithm of the product is the sum of the channels' logarithms. A unit of a task is a block of
one image's locations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, types
from numba.extending import overload

from fastsal.kernels.numba.jit import claim, compiled, join, pointer
from fastsal.kernels.tasks import STATISTIC_SCRATCH_BYTES, StatisticTask

TASK = np.dtype(StatisticTask)
# The product of four values below this, and none below LEAST_EPSILON, is a float32 number.
LARGEST = 4e9
LEAST_EPSILON = 1e-9
# Channels to one product of mantissas, a fourth as many, which is then below 2 ** 64.
CHANNELS_A_PRODUCT = 256


def _number(value: Any) -> Any:
    """Return a stored number as float32: int16 is a bfloat16's bits, uint16 a float16's."""
    raise NotImplementedError


def _from_bfloat16(value: Any) -> Any:
    return np.int32(np.int32(value) << np.int32(16)).view(np.float32)


def _from_float16(value: Any) -> Any:
    bits = np.int32(value)
    magnitude = np.int32((bits & np.int32(0x7FFF)) << np.int32(13)).view(np.float32)
    # float16's least exponent is 112 above float32's; infinities become NaN, and NaN stays.
    number = magnitude * np.float32(2.0**112)
    if number >= np.float32(65536):
        number = np.float32(np.nan)
    return -number if bits & np.int32(0x8000) else number


def _from_float(value: Any) -> Any:
    return np.float32(value)


@overload(_number)
def _number_of(value: Any) -> Any:
    if value == types.int16:
        return _from_bfloat16
    return _from_float16 if value == types.uint16 else _from_float


@compiled()
def shifted(value: Any, epsilon: Any) -> Any:
    """Return a stored number as float32, a negative one as 0, plus epsilon."""
    number = _number(value)
    below = number if number < np.float32(0) else np.float32(0)
    # A negative number less itself is 0; NaN stays, and minus infinity becomes NaN.
    return (number - below) + epsilon


@compiled()
def _exponent(number: Any) -> Any:
    return (np.float32(number).view(np.int32) >> np.int32(23)) - np.int32(127)


@compiled()
def _mantissa(number: Any) -> Any:
    bits = np.float32(number).view(np.int32)
    return np.int32((bits & np.int32(0x7FFFFF)) | np.int32(0x3F800000)).view(np.float32)


@compiled()
def _log2(mantissa: Any) -> Any:
    """Return log2 of a number in [1, 2), by artanh's series about 1.5, to 1e-11."""
    s = (np.float64(mantissa) - 1.5) / (np.float64(mantissa) + 1.5)
    t = s * s
    series = 1 + t * (1 / 3 + t * (1 / 5 + t * (1 / 7 + t * (1 / 9 + t * (1 / 11 + t / 13)))))
    return 0.5849625007211562 + 2.8853900817779268 * s * series


@compiled()
def _smoe(total: Any, product: Any, exponent: Any, channels: Any) -> Any:
    """Return SMOE Scale of a location from its sum and its product's mantissa and exponent."""
    mean = np.float32(total / channels)
    log_mean = _exponent(mean) + _log2(_mantissa(mean))
    difference = log_mean - (exponent + _log2(product)) / channels
    # Equal values leave rounding behind, which a later normalisation would amplify.
    if difference < 8 * 1.1920929e-07 * (1 + abs(log_mean)):
        difference = 0.0
    return mean * np.float32(difference)


@compiled()
def _one_by_one(x: Any, at: Any, stride: Any, channels: Any, epsilon: Any, sums: Any) -> None:
    """Add channels to a block's sums one by one; for any positive finite values."""
    total, product, exponent = sums
    size = total.size
    for channel in range(channels):
        values = x[at + channel * stride : at + channel * stride + size]
        for l in range(size):  # noqa: E741
            value = shifted(values[l], epsilon)
            total[l] += value
            p = _mantissa(value) * product[l]
            exponent[l] += _exponent(value) + _exponent(p)
            product[l] = _mantissa(p)


@compiled()
def _by_eights(x: Any, at: Any, stride: Any, channels: Any, epsilon: Any, sums: Any) -> None:
    """Add channels, a multiple of 8, to a block's sums; for values LEAST_EPSILON to LARGEST."""
    total, product, exponent = sums
    size = total.size
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
            v0, v1 = shifted(a[l], epsilon), shifted(b[l], epsilon)
            v2, v3 = shifted(c[l], epsilon), shifted(d[l], epsilon)
            v4, v5 = shifted(e[l], epsilon), shifted(f[l], epsilon)
            v6, v7 = shifted(g[l], epsilon), shifted(h[l], epsilon)
            total[l] += ((v0 + v1) + (v2 + v3)) + ((v4 + v5) + (v6 + v7))
            p = (v0 * v1) * (v2 * v3) * product[l]
            q = (v4 * v5) * (v6 * v7) * _mantissa(p)
            exponent[l] += _exponent(p) + _exponent(q)
            product[l] = _mantissa(q)


@compiled()
def _clear(sums: Any) -> None:
    total, product, exponent = sums
    # By a loop, which Numba compiles faster than assignments to whole arrays.
    for l in range(total.size):  # noqa: E741
        total[l], product[l], exponent[l] = 0.0, np.float32(1), 0


@compiled()
def _any_large(total: Any) -> Any:
    large = 0
    for l in range(total.size):  # noqa: E741
        large += not total[l] < LARGEST
    return large > 0


@compiled()
def _write(values: Any, sums: Any, channels: Any) -> Any:
    """Write a block's values, and return True if one is not 0."""
    total, product, exponent = sums
    not_zero = 0
    for l in range(values.size):  # noqa: E741
        value = _smoe(total[l], product[l], exponent[l], channels)
        values[l] = value
        not_zero += value != np.float32(0)
    return not_zero > 0


@compiled()
def _sums(task: Any, worker: Any) -> Any:
    """Return a worker's scratch: a double sum, a product and an exponent for each location."""
    start = task.scratch + worker * task.block * STATISTIC_SCRATCH_BYTES
    totals = carray(pointer(start, np.float64), (task.block,))
    products = carray(pointer(start + 8 * task.block, np.float32), (task.block,))
    return totals, products, carray(pointer(start + 12 * task.block, np.int32), (task.block,))


@compiled()
def _channels_first(address: Any, kind: Any) -> None:
    """Write SMOE Scale of activations whose locations are adjacent in memory."""
    task = carray(pointer(address, TASK), 1)[0]
    worker = join(address)
    if worker < 0:
        return
    channels, locations, stride = task.channels, task.locations, task.stride
    shift = np.float32(task.epsilon)
    blocks = (locations + task.block - 1) // task.block
    images = task.units // blocks
    span = (images - 1) * task.image_stride + (channels - 1) * stride + locations
    x = carray(pointer(task.source, kind), (span,))
    values = carray(pointer(task.target, np.float32), (images * locations,))
    totals, products, exponents = _sums(task, worker)
    eights = channels // 8 * 8 if task.epsilon >= LEAST_EPSILON else 0
    unit = claim(address)
    while unit >= 0:
        start = unit % blocks * task.block
        size = min(task.block, locations - start)
        at = unit // blocks * task.image_stride + start
        sums = totals[:size], products[:size], exponents[:size]
        _clear(sums)
        _by_eights(x, at, stride, eights, shift, sums)
        _one_by_one(x, at + eights * stride, stride, channels - eights, shift, sums)
        if _any_large(sums[0]):
            _clear(sums)
            _one_by_one(x, at, stride, channels, shift, sums)
        first = unit // blocks * locations + start
        if _write(values[first : first + size], sums, channels):
            task.not_zero = 1
        unit = claim(address)


@compiled(fastmath={"reassoc"})
def _column(column: Any, epsilon: Any) -> Any:
    """Return the sum of a location's channels, and their product's mantissa and exponent."""
    exponent = 0
    quarter = column.size // 4
    a, b, c, d = column[:quarter], column[quarter:], column[2 * quarter :], column[3 * quarter :]
    subtotal, mantissas = np.float32(0), np.float32(1)
    for k in range(quarter):
        v0, v1 = shifted(a[k], epsilon), shifted(b[k], epsilon)
        v2, v3 = shifted(c[k], epsilon), shifted(d[k], epsilon)
        subtotal += (v0 + v1) + (v2 + v3)
        p = (v0 * v1) * (v2 * v3)
        exponent += _exponent(p)
        mantissas *= _mantissa(p)
    return subtotal, _mantissa(mantissas), exponent + _exponent(mantissas)


@compiled()
def _channels_last(address: Any, kind: Any) -> None:
    """Write SMOE Scale of activations whose channels are adjacent in memory."""
    task = carray(pointer(address, TASK), 1)[0]
    worker = join(address)
    if worker < 0:
        return
    channels, locations = task.channels, task.locations
    shift = np.float32(task.epsilon)
    blocks = (locations + task.block - 1) // task.block
    images = task.units // blocks
    span = (images - 1) * task.image_stride + (locations - 1) * task.stride + channels
    x = carray(pointer(task.source, kind), (span,))
    values = carray(pointer(task.target, np.float32), (images * locations,))
    totals, products, exponents = _sums(task, worker)
    fours = channels // 4 * 4 if task.epsilon >= LEAST_EPSILON else 0
    unit = claim(address)
    while unit >= 0:
        begin = unit % blocks * task.block
        size = min(task.block, locations - begin)
        for l in range(size):  # noqa: E741
            at = unit // blocks * task.image_stride + (begin + l) * task.stride
            total, product, exponent = 0.0, np.float32(1), 0
            for start in range(0, fours, CHANNELS_A_PRODUCT):
                part = _column(x[at + start : at + min(start + CHANNELS_A_PRODUCT, fours)], shift)
                total += part[0]
                p = product * part[1]
                exponent += part[2] + _exponent(p)
                product = _mantissa(p)
            rest = fours
            if not total < LARGEST:
                total, product, exponent, rest = 0.0, np.float32(1), 0, 0
            for k in range(at + rest, at + channels):
                value = shifted(x[k], shift)
                total += value
                p = _mantissa(value) * product
                exponent += _exponent(value) + _exponent(p)
                product = _mantissa(p)
            totals[l], products[l], exponents[l] = total, product, exponent
        first = unit // blocks * locations + begin
        # In a loop of its own, so that several logarithms are computed at a time.
        if _write(values[first : first + size], (totals, products, exponents), channels):
            task.not_zero = 1
        unit = claim(address)


def channels_first_float32(address: int) -> None:
    """Write SMOE Scale of float32 activations whose locations are adjacent in memory."""
    _channels_first(address, np.float32)


def channels_first_float64(address: int) -> None:
    """Write SMOE Scale of float64 activations whose locations are adjacent in memory."""
    _channels_first(address, np.float64)


def channels_first_bfloat16(address: int) -> None:
    """Write SMOE Scale of bfloat16 activations whose locations are adjacent in memory."""
    _channels_first(address, np.int16)


def channels_first_float16(address: int) -> None:
    """Write SMOE Scale of float16 activations whose locations are adjacent in memory."""
    _channels_first(address, np.uint16)


def channels_last_float32(address: int) -> None:
    """Write SMOE Scale of float32 activations whose channels are adjacent in memory."""
    _channels_last(address, np.float32)


def channels_last_float64(address: int) -> None:
    """Write SMOE Scale of float64 activations whose channels are adjacent in memory."""
    _channels_last(address, np.float64)


def channels_last_bfloat16(address: int) -> None:
    """Write SMOE Scale of bfloat16 activations whose channels are adjacent in memory."""
    _channels_last(address, np.int16)


def channels_last_float16(address: int) -> None:
    """Write SMOE Scale of float16 activations whose channels are adjacent in memory."""
    _channels_last(address, np.uint16)

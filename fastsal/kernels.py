"""SMOE Scale in one pass over the activations; `fused` says when.

Of a location's channels a sum is kept, and their product as a mantissa and an exponent: one
logarithm of it stands for all of theirs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, types
from numba.extending import overload

from fastsal.compiled import compiled, pointer

# Locations whose sums stay in the cache while the channels go by.
BLOCK = 1024
# Bytes that `planes` needs: a double sum, a product and an exponent for each of them.
PLANES_SCRATCH_BYTES = 16 * BLOCK
# Below it four values' product is a float32 number, if none is below the least epsilon.
LARGEST = 4e9
LEAST_EPSILON = 1e-9
# Channels of a column whose mantissas' product, a fourth as many, is below 2 ** 64.
COLUMN = 256


def _number(value: Any) -> Any:
    """Return a stored number as float32; int16 are a bfloat16's bits, uint16 a float16's."""
    raise NotImplementedError


def _from_bfloat16(value: Any) -> Any:
    return np.int32(np.int32(value) << np.int32(16)).view(np.float32)


def _from_float16(value: Any) -> Any:
    bits = np.int32(value)
    magnitude = np.int32((bits & np.int32(0x7FFF)) << np.int32(13)).view(np.float32)
    # float16's least exponent is 112 above float32's; infinities and NaN stay none.
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
def _shifted(value: Any, epsilon: Any) -> Any:
    number = _number(value)
    # NaN is not below 0 and stays.
    return (np.float32(0) if number < np.float32(0) else number) + epsilon


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
    """Return the statistic of a location from its sum, and its product as mantissa and exponent."""
    mean = np.float32(total / channels)
    log_mean = _exponent(mean) + _log2(_mantissa(mean))
    difference = log_mean - (exponent + _log2(product)) / channels
    # What equal values leave behind is rounding, which a later normalisation would amplify.
    if difference < 8 * 1.1920929e-07 * (1 + abs(log_mean)):
        difference = 0.0
    return mean * np.float32(difference)


@compiled()
def _one_by_one(x: Any, at: Any, stride: Any, channels: Any, epsilon: Any, sums: Any) -> None:
    """Add channels to a block's sums, one by one; any positive finite value will do."""
    total, product, exponent = sums
    size = total.size
    for channel in range(channels):
        values = x[at + channel * stride : at + channel * stride + size]
        for l in range(size):  # noqa: E741
            value = _shifted(values[l], epsilon)
            total[l] += value
            p = _mantissa(value) * product[l]
            exponent[l] += _exponent(value) + _exponent(p)
            product[l] = _mantissa(p)


@compiled()
def _by_eights(x: Any, at: Any, stride: Any, channels: Any, epsilon: Any, sums: Any) -> None:
    """Add channels, a multiple of 8, to a block's sums; none of the values too large or small."""
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
            v0, v1 = _shifted(a[l], epsilon), _shifted(b[l], epsilon)
            v2, v3 = _shifted(c[l], epsilon), _shifted(d[l], epsilon)
            v4, v5 = _shifted(e[l], epsilon), _shifted(f[l], epsilon)
            v6, v7 = _shifted(g[l], epsilon), _shifted(h[l], epsilon)
            total[l] += ((v0 + v1) + (v2 + v3)) + ((v4 + v5) + (v6 + v7))
            p = (v0 * v1) * (v2 * v3) * product[l]
            q = (v4 * v5) * (v6 * v7) * _mantissa(p)
            exponent[l] += _exponent(p) + _exponent(q)
            product[l] = _mantissa(q)


@compiled()
def _clear(sums: Any) -> None:
    total, product, exponent = sums
    total[:] = 0.0
    product[:] = np.float32(1)
    exponent[:] = 0


@compiled()
def _any_large(total: Any) -> Any:
    large = 0
    for l in range(total.size):  # noqa: E741
        large += not total[l] < LARGEST
    return large > 0


@compiled()
def planes(
    kind: Any,
    source: int,
    image_stride: int,
    channel_stride: int,
    channels: int,
    locations: int,
    epsilon: float,
    target: int,
    scratch: int,
    first: int,
    last: int,
) -> None:
    """Write SMOE Scale of activations whose locations follow each other in memory.

    Args:
        kind: Any number of the type that is stored, as `_number` reads it.
        source: Address of the activations.
        image_stride: From one image to the next.
        channel_stride: From one channel to the next.
        channels: C.
        locations: HW.
        epsilon: Added to every activation.
        target: Address of the float32 values `(N, HW)`.
        scratch: Address of `PLANES_SCRATCH_BYTES`.
        first: The first of the work's blocks, counted through all images.
        last: The block after the last.
    """
    shift = np.float32(epsilon)
    blocks = (locations + BLOCK - 1) // BLOCK
    images = (last + blocks - 1) // blocks
    span = (images - 1) * image_stride + (channels - 1) * channel_stride + locations
    x = carray(pointer(source, kind), (span,))
    values = carray(pointer(target, np.float32), (images * locations,))
    totals = carray(pointer(scratch, np.float64), (BLOCK,))
    products = carray(pointer(scratch + 8 * BLOCK, np.float32), (BLOCK,))
    exponents = carray(pointer(scratch + 12 * BLOCK, np.int32), (BLOCK,))
    eights = channels // 8 * 8 if epsilon >= LEAST_EPSILON else 0
    for unit in range(first, last):
        start = unit % blocks * BLOCK
        size = min(BLOCK, locations - start)
        at = unit // blocks * image_stride + start
        sums = totals[:size], products[:size], exponents[:size]
        _clear(sums)
        _by_eights(x, at, channel_stride, eights, shift, sums)
        rest = at + eights * channel_stride
        _one_by_one(x, rest, channel_stride, channels - eights, shift, sums)
        if _any_large(sums[0]):
            _clear(sums)
            _one_by_one(x, at, channel_stride, channels, shift, sums)
        result = values[unit // blocks * locations + start :][:size]
        for l in range(size):  # noqa: E741
            result[l] = _smoe(sums[0][l], sums[1][l], sums[2][l], channels)


@compiled(fastmath={"reassoc"})
def _column(column: Any, epsilon: Any) -> Any:
    """Return a column's sum, and its product's mantissa and exponent, four values at a time."""
    total, exponent, product = 0.0, 0, np.float32(1)
    quarter = column.size // 4
    a, b, c, d = column[:quarter], column[quarter:], column[2 * quarter :], column[3 * quarter :]
    subtotal, mantissas = np.float32(0), np.float32(1)
    for k in range(quarter):
        v0, v1 = _shifted(a[k], epsilon), _shifted(b[k], epsilon)
        v2, v3 = _shifted(c[k], epsilon), _shifted(d[k], epsilon)
        subtotal += (v0 + v1) + (v2 + v3)
        p = (v0 * v1) * (v2 * v3)
        exponent += _exponent(p)
        mantissas *= _mantissa(p)
    exponent += _exponent(mantissas)
    product = _mantissa(mantissas)
    total += subtotal
    return total, product, exponent


@compiled()
def columns(
    kind: Any,
    source: int,
    image_stride: int,
    location_stride: int,
    channels: int,
    locations: int,
    epsilon: float,
    target: int,
    first: int,
    last: int,
) -> None:
    """Write SMOE Scale of activations whose channels follow each other in memory.

    Args:
        kind: As for `planes`.
        source: As for `planes`.
        image_stride: As for `planes`.
        location_stride: From one location to the next.
        channels: As for `planes`.
        locations: As for `planes`.
        epsilon: As for `planes`.
        target: As for `planes`.
        first: The first of the work's locations, counted through all images.
        last: The location after the last.
    """
    shift = np.float32(epsilon)
    images = (last + locations - 1) // locations
    span = (images - 1) * image_stride + (locations - 1) * location_stride + channels
    x = carray(pointer(source, kind), (span,))
    values = carray(pointer(target, np.float32), (images * locations,))
    fours = channels // 4 * 4 if epsilon >= LEAST_EPSILON else 0
    for unit in range(first, last):
        at = unit // locations * image_stride + unit % locations * location_stride
        total, product, exponent = 0.0, np.float32(1), 0
        for start in range(0, fours, COLUMN):
            sums = _column(x[at + start : at + min(start + COLUMN, fours)], shift)
            total += sums[0]
            p = product * sums[1]
            exponent += sums[2] + _exponent(p)
            product = _mantissa(p)
        rest = fours
        if not total < LARGEST:
            total, product, exponent, rest = 0.0, np.float32(1), 0, 0
        for k in range(at + rest, at + channels):
            value = _shifted(x[k], shift)
            total += value
            p = _mantissa(value) * product
            exponent += _exponent(value) + _exponent(p)
            product = _mantissa(p)
        values[unit] = _smoe(total, product, exponent, channels)

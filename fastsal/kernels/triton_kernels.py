"""SMOE Scale, the normal CDF and the weighted sum, as kernels for Triton to compile.

The maps of all scales lie in one float32 memory, one scale after another. `table` has for each
scale the start of its maps `(N, h, w)`, h and w. Kernels are not specialised on numbers that make
no memory access faster, so that another batch size needs no other code.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastsal.kernels.constants import CONSTANT_SPREAD

# Kernels can read global names of this type alone.
FLAT = tl.constexpr(CONSTANT_SPREAD)


@triton.jit
def probe(target):
    """Write 1, to see if Triton can compile and launch."""
    tl.store(target, 1.0)


@triton.jit
def _exponent(number):
    return (number.to(tl.int32, bitcast=True) >> 23) - 127


@triton.jit
def _mantissa(number):
    bits = (number.to(tl.int32, bitcast=True) & 0x7FFFFF) | 0x3F800000
    return bits.to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["channels", "blocks"])
def statistic(
    source,
    maps,
    start,
    of_images,
    of_channels,
    of_locations,
    step,
    channels,
    locations,
    blocks,
    epsilon,
    share,
    CHANNELS: tl.constexpr,
    LOCATIONS: tl.constexpr,
):
    """Write SMOE Scale of a block of one image's locations.

    `step` is the distance from one block of channels to the next, and `share` is 1 over the number
    of channels. The sum of the channels is kept, and their product as a mantissa and an exponent,
    which no value above epsilon can overflow: one logarithm for each row of the block is the sum of
    the logarithms of that row's channels.
    """
    program = tl.program_id(0)
    image = (program // blocks).to(tl.int64)
    at = (program % blocks) * LOCATIONS + tl.arange(0, LOCATIONS)
    inside = at < locations
    channel = tl.arange(0, CHANNELS)
    columns = at.to(tl.int64)[None, :] * of_locations
    pointers = source + image * of_images + channel.to(tl.int64)[:, None] * of_channels + columns
    total = tl.zeros((CHANNELS, LOCATIONS), tl.float32)
    product = tl.full((CHANNELS, LOCATIONS), 1.0, tl.float32)
    exponent = tl.zeros((CHANNELS, LOCATIONS), tl.int32)
    for first in range(0, channels, CHANNELS):
        there = (channel[:, None] + first < channels) & inside[None, :]
        value = tl.load(pointers, mask=there, other=0.0).to(tl.float32)
        # A negative number times 0 is 0; NaN and minus infinity become NaN.
        value = value * tl.where(value > 0, 1.0, 0.0) + epsilon
        total += tl.where(there, value, 0.0) * share
        value = tl.where(there, value, 1.0)
        product *= _mantissa(value)
        exponent += _exponent(value) + _exponent(product)
        product = _mantissa(product)
        pointers += step
    mean = tl.sum(total, 0)
    logarithm = tl.log2(_mantissa(mean))
    # Integers and fractions apart, so that nearly equal logarithms keep all digits.
    integer = (_exponent(mean) * channels - tl.sum(exponent, 0)).to(tl.float32)
    fraction = logarithm * channels - tl.sum(tl.log2(product), 0)
    difference = (integer + fraction) * share
    # Equal values leave rounding behind, which a later normalisation would amplify.
    log_mean = _exponent(mean).to(tl.float32) + logarithm
    rounding = 8 * 1.1920929e-07 * (1 + tl.abs(log_mean))
    difference = tl.where(difference < rounding, 0.0, difference)
    tl.store(maps + start + image * locations + at, mean * difference, mask=inside)


@triton.jit(do_not_specialize=["images", "flags"])
def squash(maps, table, images, flags, BLOCK: tl.constexpr):
    """Replace a map by its normal CDF, with its own mean and standard deviation.

    The map's flag, in the memory from `flags` on, is set to 1 if a value is not finite, else to 0.
    """
    program = tl.program_id(0)
    row = table + 3 * (program // images)
    size = tl.load(row + 1) * tl.load(row + 2)
    values = maps + tl.load(row) + (program % images) * size
    offset = tl.arange(0, BLOCK)
    # In double precision: no square leaves the range, and little is lost beside a large mean.
    total = tl.zeros((BLOCK,), tl.float64)
    squares = tl.zeros((BLOCK,), tl.float64)
    peak = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, size, BLOCK):
        value = tl.load(values + first + offset, mask=first + offset < size, other=0.0)
        value = value.to(tl.float64)
        total += value
        squares += value * value
        peak = tl.maximum(peak, tl.abs(value))
    count = size.to(tl.float64)
    mean = tl.sum(total, 0) / count
    spread = tl.maximum(tl.sum(squares, 0) - count * mean * mean, 0.0)
    deviation = tl.sqrt(spread / tl.maximum(count - 1, 1.0))
    # All scores of a constant map are 0.
    constant = deviation <= tl.max(peak, 0) * FLAT
    per_deviation = tl.where(constant, 0.0, 1 / tl.where(constant, 1.0, deviation))
    for first in range(0, size, BLOCK):
        there = first + offset < size
        value = tl.load(values + first + offset, mask=there, other=0.0).to(tl.float64)
        score = ((value - mean) * per_deviation).to(tl.float32)
        tl.store(values + first + offset, 0.5 + 0.5 * tl.erf(score * 0.70710678), mask=there)
    # The mean of finite float32 numbers is below this; a NaN is not below any number.
    finite = tl.abs(mean) < 1e39
    tl.store(maps + flags + program, tl.where(finite, 0.0, 1.0))


@triton.jit
def _neighbours(position, ratio, size):
    """Return both neighbours of an upsampled position and the second's weight, as in PyTorch."""
    real = tl.maximum(ratio * (position.to(tl.float32) + 0.5) - 0.5, 0.0)
    lower = tl.minimum(real.to(tl.int32), size - 1)
    weight = tl.minimum(tl.maximum(real - lower.to(tl.float32), 0.0), 1.0)
    return lower, tl.minimum(lower + 1, size - 1), weight


@triton.jit(do_not_specialize=["scales", "channels", "width", "blocks"])
def combine(
    maps,
    table,
    factors,
    result,
    scales,
    channels,
    width,
    pixels,
    blocks,
    BLOCK: tl.constexpr,
):
    """Write a block of one image of the weighted sum of maps to each channel of the result.

    The maps are upsampled as by PyTorch's "bilinear", corners not aligned. `factors` has for each
    scale its weight, h / H and w / W.
    """
    program = tl.program_id(0)
    image = (program // blocks).to(tl.int64)
    at = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = at < pixels
    total = tl.zeros((BLOCK,), tl.float32)
    for scale in range(scales):
        rows = tl.load(table + 3 * scale + 1).to(tl.int32)
        columns = tl.load(table + 3 * scale + 2).to(tl.int32)
        factor = factors + 3 * scale
        upper, lower, below = _neighbours(at // width, tl.load(factor + 1), rows)
        left, right, across = _neighbours(at % width, tl.load(factor + 2), columns)
        values = maps + tl.load(table + 3 * scale) + image * rows * columns
        a = tl.load(values + upper * columns + left, mask=inside, other=0.0)
        b = tl.load(values + upper * columns + right, mask=inside, other=0.0)
        c = tl.load(values + lower * columns + left, mask=inside, other=0.0)
        d = tl.load(values + lower * columns + right, mask=inside, other=0.0)
        above = (1 - across) * a + across * b
        total += tl.load(factor) * ((1 - below) * above + below * ((1 - across) * c + across * d))
    target = result + image * channels * pixels + at
    for _channel in range(channels):
        tl.store(target, total, mask=inside)
        target += pixels

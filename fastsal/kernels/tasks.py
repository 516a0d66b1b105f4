"""Tasks: C structures with the arguments of kernels, which take a task's address.

A task is divided into units. Each thread claims one unit after another until none is left.
"""

from __future__ import annotations

import ctypes
from typing import Any

# Scratch bytes for each location of a block: a double sum, and a product and an exponent or a mean.
STATISTIC_SCRATCH_BYTES = 16


def _numbers(*names: str) -> list[tuple[str, Any]]:
    return [(name, ctypes.c_int64) for name in names]


class Task(ctypes.Structure):
    """The first fields of all tasks: the units, and the threads that work on them.

    Attributes:
        claimed: The number of units that threads have claimed so far.
        joined: The number of threads that have started so far.
        workers: The number of threads that get units.
        units: The number of units.
        scratch: The address of scratch memory for all workers.
    """

    _fields_ = _numbers("claimed", "joined", "workers", "units", "scratch")


class StatisticTask(ctypes.Structure):
    """A statistic of activations `(N, C, HW)`.

    Attributes:
        source: The address of the activations.
        image_stride: Elements from one image to the next.
        stride: Elements from one channel to the next if locations are adjacent, else from one
            location to the next.
        channels: C.
        locations: HW.
        block: The locations of a unit; their sums stay in the cache over all channels.
        target: The address of the float32 values `(N, HW)`.
        not_zero: Set to 1 by the kernel if a value is not 0.
        deviates: 1 for the standard deviation, 0 for the mean; SMOE Scale reads no such field.
        epsilon: Added to each activation by SMOE Scale.
    """

    _fields_ = [
        *Task._fields_,
        *_numbers("source", "image_stride", "stride", "channels", "locations", "block", "target"),
        *_numbers("not_zero", "deviates"),
        ("epsilon", ctypes.c_double),
    ]


class SquashTask(ctypes.Structure):
    """The normal CDF of maps; a unit is one map.

    Attributes:
        source: The address of the float32 maps `(N, HW)`.
        target: The address of the result, of the same shape.
        locations: HW.
    """

    _fields_ = [*Task._fields_, *_numbers("source", "target", "locations")]


class ScaleMaps(ctypes.Structure):
    """The maps of one scale, as an argument of a `CombineTask`.

    Attributes:
        source: The address of the float32 maps `(N, h, w)`.
        rows: h.
        columns: w.
        not_finite: Set to 1 by the kernel if a value is not finite.
        weight: The scale's weight.
    """

    _fields_ = [
        *_numbers("source", "rows", "columns", "not_finite"),
        ("weight", ctypes.c_double),
    ]


class CombineTask(ctypes.Structure):
    """The weighted sum of maps, upsampled; a unit is a band of rows of one image.

    Attributes:
        scales: The address of K `ScaleMaps`.
        count: K.
        squash: 1 to put each map through the normal CDF first, 0 to take the maps unchanged.
        target: The address of the float32 result `(N, channels, H, W)`, whose rows are adjacent.
        image_stride: Elements from one image of the result to the next.
        channel_stride: Elements from one channel of the result to the next.
        channels: The number of equal channels to write.
        height: H.
        width: W.
        band: The number of rows of a unit.
        widest: The largest w.
        scratch_bytes: The size of each worker's scratch memory.
    """

    _fields_ = [
        *Task._fields_,
        *_numbers("scales", "count", "squash", "target", "image_stride", "channel_stride"),
        *_numbers("channels", "height", "width", "band", "widest", "scratch_bytes"),
    ]


def combine_scratch_bytes(scales: int, width: int, widest: int) -> int:
    """Return the size of each worker's scratch memory for a `CombineTask`."""
    return -(-(4 * (4 * scales * width + widest + 1) + 32 * scales) // 64) * 64

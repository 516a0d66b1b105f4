"""What kernels are given the address of; each thread claims a unit of the work at a time."""

from __future__ import annotations

import ctypes
from typing import Any

# Bytes a location of a block: a double sum, a product and an exponent.
STATISTIC_SCRATCH_BYTES = 16


def _numbers(*names: str) -> list[tuple[str, Any]]:
    return [(name, ctypes.c_int64) for name in names]


class Task(ctypes.Structure):
    """Work in units, and who does it; each other task begins with the same.

    Attributes:
        claimed: Units that threads have claimed.
        joined: Threads that have come for work.
        workers: Threads that get any.
        units: How much work there is.
        scratch: Address of memory for each worker.
    """

    _fields_ = _numbers("claimed", "joined", "workers", "units", "scratch")


class StatisticTask(ctypes.Structure):
    """SMOE Scale of activations `(N, C, HW)`.

    Attributes:
        source: Address of the activations.
        image_stride: Elements from one image to the next.
        stride: From one channel to the next in `planes`, from one location in `columns`.
        channels: C.
        locations: HW.
        block: Locations of a unit; their sums stay in the cache while the channels go by.
        target: Address of the float32 values `(N, HW)`.
        epsilon: Added to every activation.
    """

    _fields_ = [
        *Task._fields_,
        *_numbers("source", "image_stride", "stride", "channels", "locations", "block", "target"),
        ("epsilon", ctypes.c_double),
    ]


class SquashTask(ctypes.Structure):
    """Maps through the normal CDF, each a unit.

    Attributes:
        source: Address of the float32 maps `(N, HW)`.
        target: Address of the result, of the same shape.
        locations: HW.
    """

    _fields_ = [*Task._fields_, *_numbers("source", "target", "locations")]


class ScaleMaps(ctypes.Structure):
    """The maps of one scale.

    Attributes:
        source: Address of the float32 maps `(N, h, w)`.
        rows: h.
        columns: w.
        not_finite: Set to 1 where a value is not.
        weight: Their share of the average.
    """

    _fields_ = [
        *_numbers("source", "rows", "columns", "not_finite"),
        ("weight", ctypes.c_double),
    ]


class CombineTask(ctypes.Structure):
    """The weighted sum of maps, upsampled.

    Attributes:
        scales: Address of K `ScaleMaps`.
        count: K.
        squash: 1 if each map goes through the normal CDF first, 0 if they are as they should be.
        target: Address of the float32 result `(N, channels, H, W)`, whose rows follow each other.
        image_stride: The result's, in elements.
        channel_stride: The result's, in elements.
        channels: How many are written, all the same.
        height: H.
        width: W.
        band: Rows of a unit.
        widest: The widest map's w.
        scratch_bytes: For each worker.
    """

    _fields_ = [
        *Task._fields_,
        *_numbers("scales", "count", "squash", "target", "image_stride", "channel_stride"),
        *_numbers("channels", "height", "width", "band", "widest", "scratch_bytes"),
    ]


def combine_scratch_bytes(scales: int, width: int, widest: int) -> int:
    """Return the bytes that each worker at a `CombineTask` needs."""
    return -(-(4 * (4 * scales * width + widest + 1) + 32 * scales) // 64) * 64

"""Pictures of samples of any axes: images, one plane of each volume, lines of signals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fastsal.images.planes import STRIP, Planes

__all__ = ["SHOWN", "as_plane", "as_rgb", "planes_shown"]

Pixels = NDArray[np.uint8]

# What a page says of its pictures, by the number of axes of a sample.
SHOWN = {
    1: "Each channel of a signal is a line; the signal's maps are strips, time from left to right.",
    2: "",
    3: "Of each volume one plane across its depth is shown: the one with most of the true object, "
    "or the middle one where the object is not known.",
}
_LINE = (31, 58, 95)
# Pixels of a band in which a channel of a signal is drawn.
_BAND = 64


def planes_shown(depth: int, object_masks: NDArray[np.bool_] | None, count: int) -> list[int]:
    """The place of the plane that stands for each volume.

    Args:
        depth: planes of a volume.
        object_masks: ``(K, D, H, W)``; None if the true objects are not known.
        count: number of volumes, ``K``.

    >>> masks = np.zeros((1, 4, 2, 2), bool)
    >>> masks[0, 3, 0] = True
    >>> planes_shown(4, masks, 1), planes_shown(4, None, 2)
    ([3], [2, 2])
    """
    if object_masks is None:
        return [depth // 2] * count
    return Planes(torch.from_numpy(np.asarray(object_masks))).indices


def as_plane(values: NDArray[Any], axes: int, plane: int | None) -> NDArray[Any]:
    """A map ``(..., H, W)`` for a picture, of one of any axes.

    Args:
        values: ``(..., H, W)`` of an image, ``(..., D, H, W)`` of a volume, ``(..., T)`` of a
            signal.
        axes: 2, 3 or 1.
        plane: the plane of a volume; None for others.

    >>> as_plane(np.arange(8).reshape(2, 2, 2), 3, 1).tolist()
    [[4, 5], [6, 7]]
    >>> as_plane(np.array([1, 2]), 1, None).shape
    (48, 2)
    """
    if axes == 1:
        return np.repeat(values[..., None, :], STRIP, axis=-2)
    return values if plane is None else values.take(plane, axis=-3)


def as_rgb(sample: Pixels, plane: int | None) -> Pixels:
    """A picture ``(H, W, 3)`` of one sample.

    Args:
        sample: ``(H, W, 3)``, ``(D, H, W, C)`` or ``(T, C)``; one channel is shown in grey.
        plane: the plane of a volume; None for others.

    Raises:
        ValueError: an image or a volume of two channels, or of more than three.

    >>> as_rgb(np.full((4, 2, 2, 1), 7, np.uint8), 0).shape
    (2, 2, 3)
    """
    if sample.ndim == 2:
        return _lines(sample)
    shown = sample if plane is None else sample[plane]
    channels = shown.shape[-1]
    if channels not in (1, 3):
        raise ValueError(f"a picture of {channels} channels: expected 1 or 3")
    return shown if channels == 3 else shown.repeat(3, axis=-1)


def _lines(signal: Pixels) -> Pixels:
    """The channels of a signal ``(T, C)`` as lines, one band below the other."""
    length, channels = signal.shape
    picture = Image.new("RGB", (length, _BAND * channels), "white")
    draw = ImageDraw.Draw(picture)
    for channel in range(channels):
        foot = (channel + 1) * _BAND - 1
        heights = foot - signal[:, channel].astype(np.float64) / 255 * (_BAND - 1)
        points: Sequence[tuple[float, float]] = list(enumerate(heights.tolist()))
        draw.line(points, fill=_LINE, width=2)
    return np.asarray(picture)

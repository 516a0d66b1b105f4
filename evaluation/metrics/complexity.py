"""Complexity of maps: total variation and size as a PNG file; neither end is better."""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["png_bytes", "scaled", "total_variation"]


def scaled(maps: NDArray[np.floating]) -> NDArray[np.float64]:
    """Each map scaled to [0, 1] by its least and largest value; a constant map is 0.

    Args:
        maps: ``(N, H, W)``, finite.

    Returns:
        ``(N, H, W)``.

    >>> scaled(np.array([[[-1.0, 1.0]], [[5.0, 5.0]]])).tolist()
    [[[0.0, 1.0]], [[0.0, 0.0]]]
    """
    flat = maps.reshape(len(maps), -1).astype(np.float64)
    low = flat.min(1, keepdims=True)
    reach = flat.max(1, keepdims=True) - low
    levels: NDArray[np.float64] = (flat - low) / np.where(reach > 0, reach, 1.0)
    return levels.reshape(maps.shape)


def total_variation(maps: NDArray[np.floating]) -> NDArray[np.float64]:
    r"""Total variation of each map: the mean change from pixel to pixel.

    $$V = \frac{1}{H W} \sum_{i,j} |s_{i+1,j} - s_{i,j}| + |s_{i,j+1} - s_{i,j}|$$

    `s` is the map scaled to [0, 1]; a volume has a third difference, a signal one. The anisotropic
    form, as PyTorch libraries have it; deviation from the paper: absolute differences in place of
    the gradient's length, and the mean over pixels, so that sizes compare. Low for a smooth map,
    high for a grainy one; it does not tell if the map is right.

    Args:
        maps: `(N, H, W)`, finite.

    Returns:
        `(N,)`, in levels of [0, 1] a pixel.

    Reference:
        Rudin, Osher and Fatemi 1992, Eq 2.2.

    >>> total_variation(np.array([[[0.0, 4.0], [0.0, 4.0]]])).tolist()
    [0.5]
    """
    values = scaled(maps)
    axes = tuple(range(1, maps.ndim))
    along = [np.abs(np.diff(values, axis=axis)).sum(axes) for axis in axes]
    variation: NDArray[np.float64] = np.sum(along, axis=0) / math.prod(maps.shape[1:])
    return variation


def png_bytes(maps: NDArray[np.floating]) -> NDArray[np.int64]:
    """Size of each map as an 8-bit grey PNG file, a measure of its information.

    The map is scaled to [0, 1] and rounded to 256 levels; Pillow compresses without loss, at its
    strongest setting. A constant map is the smallest file, noise the largest. The slices of a
    volume lie one below the other, and a signal is one row.

    Args:
        maps: ``(N, H, W)``, finite.

    Returns:
        ``(N,)``, in bytes, the file's header included.

    >>> png_bytes(np.zeros((1, 32, 32))).tolist() < png_bytes(np.eye(32)[None]).tolist()
    True
    """
    levels = np.rint(255.0 * scaled(maps)).astype(np.uint8)
    sizes = []
    for level in levels.reshape(len(levels), -1, levels.shape[-1]):
        file = io.BytesIO()
        Image.fromarray(level).save(file, format="png", optimize=True)
        sizes.append(file.tell())
    return np.array(sizes, dtype=np.int64)

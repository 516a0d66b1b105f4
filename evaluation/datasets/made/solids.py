"""The outlines of the image set ``volumes``: five solids of one volume, by their inside."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["REACH", "SOLIDS"]

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

# A solid of volume 1: the half length of a rod, the radii of a plate and of a shell.
_ROD = 0.95
_ROD_RADIUS = math.sqrt(1 / (2 * math.pi * _ROD))
_PLATE_RADIUS = 0.72
_PLATE = 1 / (2 * math.pi * _PLATE_RADIUS**2)
_BALL = (3 / (4 * math.pi)) ** (1 / 3)
_SHELL = 0.72
_HOLLOW = (_SHELL**3 - _BALL**3) ** (1 / 3)


def _ball(x: Float, y: Float, z: Float) -> Bool:
    inside: Bool = x**2 + y**2 + z**2 <= _BALL**2
    return inside


def _shell(x: Float, y: Float, z: Float) -> Bool:
    radius: Float = np.sqrt(x**2 + y**2 + z**2)
    inside: Bool = (radius <= _SHELL) & (radius > _HOLLOW)
    return inside


def _cube(x: Float, y: Float, z: Float) -> Bool:
    farthest: Float = np.maximum(np.maximum(abs(x), abs(y)), abs(z))
    inside: Bool = farthest <= 0.5
    return inside


def _rod(x: Float, y: Float, z: Float) -> Bool:
    return (x**2 + y**2 <= _ROD_RADIUS**2) & (abs(z) <= _ROD)


def _plate(x: Float, y: Float, z: Float) -> Bool:
    return (x**2 + y**2 <= _PLATE_RADIUS**2) & (abs(z) <= _PLATE)


# From coordinates, in units of the cube root of the volume, to the inside; centred at 0.
SOLIDS: dict[str, Callable[[Float, Float, Float], Bool]] = {
    "ball": _ball,
    "shell": _shell,
    "cube": _cube,
    "rod": _rod,
    "plate": _plate,
}
# The distance from the centre to the farthest point of any solid.
REACH = max(math.hypot(_ROD, _ROD_RADIUS), math.sqrt(3) / 2, math.hypot(_PLATE, _PLATE_RADIUS))

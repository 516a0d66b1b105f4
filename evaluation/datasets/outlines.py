"""Outlines of the image set ``shapes``, as point-in-shape tests.

Each outline has area 1 and its centroid at the origin: one scale then gives every class the same
area, and one position the same centroid. Each is its own mirror image in the vertical axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["OUTLINES", "REACH", "Bool", "Float", "Outline"]

Bool = NDArray[np.bool_]
Float = NDArray[np.floating[Any]]
# Coordinates x (to the right) and y (down) of points -> True for those inside.
Outline = Callable[[Float, Float], Bool]

# Farthest point of any outline from its centroid (the triangle's corner).
REACH = 0.878


def _disk(x: Float, y: Float) -> Bool:
    return x * x + y * y <= 1 / math.pi


def _ring(x: Float, y: Float) -> Bool:
    hole = 0.5
    radius2 = 1 / (math.pi * (1 - hole**2))
    r2 = x * x + y * y
    return (r2 <= radius2) & (r2 >= hole**2 * radius2)


def _square(x: Float, y: Float) -> Bool:
    return np.maximum(abs(x), abs(y)) <= 0.5


def _triangle(x: Float, y: Float) -> Bool:
    inradius = 1 / math.sqrt(3 * math.sqrt(3))
    half = math.sqrt(3) / 2
    inside: Bool = np.maximum(-y, half * abs(x) + 0.5 * y) <= inradius
    return inside


def _cross(x: Float, y: Float) -> Bool:
    arm = 1 / math.sqrt(5)
    return (np.maximum(abs(x), abs(y)) <= 1.5 * arm) & (np.minimum(abs(x), abs(y)) <= 0.5 * arm)


def _star(x: Float, y: Float) -> Bool:
    waist, tenth = 0.45, math.pi / 5
    tip = 1 / math.sqrt(5 * waist * math.sin(tenth))
    # Ten congruent triangles: fold the plane into one, then test the side from tip to waist.
    turn = np.arctan2(x, -y) % (2 * tenth)
    angle = np.minimum(turn, 2 * tenth - turn)
    r = np.hypot(x, y)
    u, v = r * np.cos(angle), r * np.sin(angle)
    du, dv = tip * (waist * math.cos(tenth) - 1), tip * waist * math.sin(tenth)
    inside: Bool = du * v - dv * (u - tip) >= 0
    return inside


def _chevron(x: Float, y: Float) -> Bool:
    # Three squares in an L, turned by 45 degrees: its own mirror image.
    side = 1 / math.sqrt(3)
    u = (x - y) / (math.sqrt(2) * side) + 5 / 6
    v = -(x + y) / (math.sqrt(2) * side) + 5 / 6
    inside: Bool = (np.minimum(u, v) >= 0) & (np.maximum(u, v) <= 2) & (np.minimum(u, v) <= 1)
    return inside


def _bars(x: Float, y: Float) -> Bool:
    width = 1 / math.sqrt(6)
    return (abs(y) <= 1.5 * width) & (abs(x) >= 0.5 * width) & (abs(x) <= 1.5 * width)


OUTLINES: dict[str, Outline] = {
    "disk": _disk,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "star": _star,
    "chevron": _chevron,
    "bars": _bars,
}

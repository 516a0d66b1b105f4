"""Scenes of the image set ``shapes``: an object and distractors on a textured background.

Scenes are drawn in blocks of `BLOCK` images.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from evaluation.datasets.made.scenes import in_bytes
from evaluation.datasets.outlines import OUTLINES, REACH, Bool, Float

__all__ = ["BLOCK", "draw_block"]

_SPLITS = {"train": 0, "test": 1}
# Images are always drawn in whole, aligned blocks: vectorised arithmetic may round differently at
# another position of an array, and an image may not depend on the number of images.
BLOCK = 64
_DISTRACTORS = 3
_NOISE_GRID = 9

# The object's area as a fraction of the image's, and a fragment's as a fraction of the object's.
_AREA = (0.07, 0.14)
_FRAGMENT_AREA = (0.15, 0.45)
# Radians to either side: few enough that some hundred steps of training learn the classes.
_TURN = math.pi / 6
# Distance of an object from the image's middle row and column, as a share of that to the border.
_OFF_CENTRE = (0.7, 1.0)
# In 8-bit levels: the range of an image's brightness and of each channel, the step from the
# background's colour to an object's or a distractor's, the amplitudes of the textures and the
# grain of single pixels.
_BRIGHTNESS = 10.0
_TINT = 20.0
_CONTRAST = (20.0, 220.0)
_GRATING = (0.0, 12.0)
_NOISE = (4.0, 14.0)
_GRAIN = 8.0
# Length of the random hue added to a unit step towards white: 0 is grey, 1 may be any hue.
_HUE = 0.45


class _Draws:
    """Random numbers of a block's images, each image from a stream of its own."""

    def __init__(self, split: str, start: int, size: int, seed: int) -> None:
        streams = [
            np.random.default_rng([seed, _SPLITS[split], i]) for i in range(start, start + BLOCK)
        ]
        self._streams = streams
        self.size = size

    def uniform(self, low: float, high: float, *shape: int) -> Float:
        """Float (block, *shape), uniform in [low, high)."""
        drawn = np.stack([stream.random(shape, dtype=np.float32) for stream in self._streams])
        return low + (high - low) * drawn

    def normal(self, *shape: int) -> Float:
        """Float (block, *shape), of the standard normal distribution."""
        return np.stack([s.standard_normal(shape, dtype=np.float32) for s in self._streams])

    def direction(self) -> Float:
        """Float (block, 3), unit vectors in colour space."""
        drawn = self.normal(3)
        unit: Float = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        return unit


def draw_block(
    split: str, start: int, size: int, seed: int, *, with_object: bool = True
) -> tuple[NDArray[np.uint8], Bool]:
    """Draw the scenes of a block of images.

    Args:
        split: ``"train"`` or ``"test"``.
        start: the first image, a multiple of `BLOCK`.
        size: height and width in pixels.
        seed: any integer from 0.
        with_object: False for the same scenes without their object.

    Returns:
        Images, uint8 (block, H, W, 3), and the object's masks, bool (block, H, W).
    """
    draws = _Draws(split, start, size, seed)
    labels = np.arange(start, start + BLOCK) % len(OUTLINES)

    # Objects and distractors are brighter than what they lie on, by a random step of random hue.
    # With a random sign too, networks would spend their few epochs on learning to ignore it.
    middle = 128 + draws.uniform(-_BRIGHTNESS, _BRIGHTNESS, 1) + draws.uniform(-_TINT, _TINT, 3)
    step = draws.uniform(*_CONTRAST, 1)
    near = middle - step / 2 * _lighter(draws)
    far = middle + step / 2 * _lighter(draws)
    odd = middle + step / 2 * _lighter(draws)

    area = draws.uniform(*_AREA) * size**2
    # Room for the widest class, whatever the class: the position then tells nothing. Objects lie
    # towards the four corners, so that a disk at the centre is a poor guess.
    room = size / 2 - 0.5 - REACH * np.sqrt(area)[:, None]
    corner = np.where(draws.uniform(-1, 1, 2) < 0, -1, 1)
    place = room * corner * draws.uniform(*_OFF_CENTRE, 2)
    turn = draws.uniform(-_TURN, _TURN)
    mask = _inside(labels, place, turn, area, size)

    scene = _textured(draws, near)
    for index in range(_DISTRACTORS):
        patch = _fragment(draws, area) if index % 2 == 0 else _segment(draws)
        colour = np.where(draws.uniform(0, 1, 1) < 0.5, far, odd)
        scene = np.where(patch[..., None], _textured(draws, colour), scene)
    if with_object:
        scene = np.where(mask[..., None], _textured(draws, far), scene)
    else:
        _textured(draws, far)
    scene = scene + _GRAIN * draws.normal(size, size, 3)
    return in_bytes(scene), mask


def _lighter(draws: _Draws) -> Float:
    """Unit vectors (block, 3) in colour space, around the one towards white."""
    way = 1 / math.sqrt(3) + _HUE * draws.direction()
    unit: Float = way / np.linalg.norm(way, axis=1, keepdims=True)
    return unit


def _grid(size: int) -> tuple[Float, Float]:
    """Pixel centres (1, H, 1) and (1, 1, W) as (x, y), in pixels from the image's centre."""
    axis = np.arange(size, dtype=np.float32) - (size - 1) / 2
    return axis[None, None, :], axis[None, :, None]


def _inside(kinds: NDArray[np.int64], place: Float, turn: Float, area: Float, size: int) -> Bool:
    """Bool (block, H, W): pixels whose centre lies in the outline of each image's kind."""
    x, y = _grid(size)
    x = x - place[:, 0, None, None]
    y = y - place[:, 1, None, None]
    side = np.sqrt(area)[:, None, None]
    cos, sin = np.cos(turn)[:, None, None] / side, np.sin(turn)[:, None, None] / side
    u, v = cos * x + sin * y, cos * y - sin * x
    inside = np.empty(u.shape, np.bool_)
    for kind, outline in enumerate(OUTLINES.values()):
        chosen = kinds == kind
        inside[chosen] = outline(u[chosen], v[chosen])
    return inside


def _fragment(draws: _Draws, area: Float) -> Bool:
    """Bool (block, H, W): a smaller shape of any class, cut in two through its centroid."""
    kinds = draws.uniform(0, len(OUTLINES)).astype(np.int64)
    size = draws.size
    place = draws.uniform(-size / 2, size / 2, 2)
    part = 2 * draws.uniform(*_FRAGMENT_AREA) * area
    whole = _inside(kinds, place, draws.uniform(0, 2 * math.pi), part, size)
    x, y = _grid(size)
    turn = draws.uniform(0, 2 * math.pi)[:, None, None]
    cut = np.cos(turn) * (x - place[:, 0, None, None]) + np.sin(turn) * (
        y - place[:, 1, None, None]
    )
    return whole & (cut >= 0)


def _segment(draws: _Draws) -> Bool:
    """Bool (block, H, W): a straight line, from a stub to a third of the image long."""
    size = draws.size
    x, y = _grid(size)
    place = draws.uniform(-size / 2, size / 2, 2)[:, :, None, None]
    turn = draws.uniform(0, math.pi)[:, None, None]
    half_length = draws.uniform(size / 20, size / 6)[:, None, None]
    half_width = draws.uniform(size / 50, size / 22)[:, None, None]
    x, y = x - place[:, 0], y - place[:, 1]
    along, across = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    return (abs(along) <= half_length) & (abs(across) <= half_width)


def _textured(draws: _Draws, colour: Float) -> Float:
    """A colour (block, 3) with band-limited noise and a grating: float (block, H, W, 3)."""
    size = draws.size
    x, y = _grid(size)
    turn = draws.uniform(0, math.pi)[:, None, None]
    waves = draws.uniform(2, 8)[:, None, None] * 2 * math.pi / size
    phase = draws.uniform(0, 2 * math.pi)[:, None, None]
    grating = np.sin(waves * (np.cos(turn) * x + np.sin(turn) * y) + phase)
    grating_colour = draws.uniform(*_GRATING, 1) * draws.direction()
    # Linear interpolation of a coarse grid keeps the noise below the grid's frequency.
    at = np.linspace(0, _NOISE_GRID - 1, size, dtype=np.float32)[:, None]
    spread = np.maximum(0, 1 - abs(at - np.arange(_NOISE_GRID, dtype=np.float32)))
    noise = spread @ draws.normal(_NOISE_GRID, _NOISE_GRID) @ spread.T
    noise_colour = draws.uniform(*_NOISE, 1) * draws.direction()
    textured: Float = (
        colour[:, None, None]
        + grating[..., None] * grating_colour[:, None, None]
        + noise[..., None] * noise_colour[:, None, None]
    )
    return textured

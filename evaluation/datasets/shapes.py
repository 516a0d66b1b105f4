"""The embedded image set ``shapes``: eight shapes on textured backgrounds, made from a seed.

It needs no download and its truth is known: which pixels are the object's. Class names the shape's
outline alone. Everything else (place, area, turn, colours, textures, distractors) is drawn from
one distribution for all classes, so only pixels that show the outline can tell them apart. A class
is unchanged by a horizontal flip: each outline has a vertical axis of symmetry, and turns to the
left are as likely as turns to the right.

Accuracy in % as pixels are removed (ROAR) or kept (KAR) and the network is trained anew:

    ========================  ====  ====  ====  ====  ====
    share of the pixels       10 %  30 %  50 %  70 %  90 %
    ========================  ====  ====  ====  ====  ====
    ROAR random               87.2  74.5  56.3  38.7  22.5
    ROAR disk at the centre   68.4  38.4  15.9  13.1  12.6
    ROAR object's true mask   12.2  12.0  12.0  10.8  10.1
    KAR  random               22.5  38.7  56.3  74.5  87.2
    KAR  disk at the centre   23.0  65.3  85.9  91.4  92.2
    KAR  object's true mask    100  99.5  99.1  97.1  94.6
    ========================  ====  ====  ====  ====  ====

Unmasked 92.4, chance 12.5. KAR random at t is ROAR random at 100 - t, the same training. Measured
with `evaluation.training.retraining`: the built-in ``resnet9``, 3,000 training and 1,000 test
images of seed 0, one training of 4 epochs each (seed 0; batch 64, peak rate 0.1, label smoothing
0.1, bfloat16, fill by the channel mean); a test accuracy p has a standard error of sqrt(p (1 - p) /
1000), at most 1.6 points, and training seeds add theirs.

The true mask has the class's outline, so its hole is a cue as well: networks trained on the masks
alone (ROAR 50 %) reach 95.3. Those of the table have not learnt to see the hole, but 6 epochs over
4,000 images begin to (ROAR 50 %: 17.5), and longer trainings will see more of it. Read the
``oracle`` rows beside their mask-only accuracy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.datasets.outlines import OUTLINES, REACH, Bool, Float

__all__ = [
    "CLASSES",
    "ShapesSplit",
    "check_shapes",
    "draw_shapes",
    "labels_of_shapes",
    "make_shapes",
]

CLASSES: tuple[str, ...] = tuple(OUTLINES)
_SPLITS = {"train": 0, "test": 1}
# Images are always drawn in whole, aligned blocks: vectorised arithmetic may round differently at
# another position of an array, and an image may not depend on how many were asked for.
_BLOCK = 64
_DISTRACTORS = 3
_NOISE_GRID = 9

# The object's area as a fraction of the image's, and a fragment's as a fraction of the object's.
_AREA = (0.07, 0.14)
_FRAGMENT_AREA = (0.15, 0.45)
# Radians to either side: few enough that some hundred steps of training learn the classes.
_TURN = math.pi / 6
# How far from the image's middle row and column an object lies, of the way to the border.
_OFF_CENTRE = (0.7, 1.0)
# In 8-bit levels: how far an image's brightness and each of its channels stray, the step from the
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


@dataclass(frozen=True)
class ShapesSplit:
    """One split of the image set.

    Attributes:
        images: uint8 (N, H, W, 3), RGB.
        labels: int64 (N,), positions in `CLASSES`.
        object_masks: bool (N, H, W), true at the object's pixels.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    object_masks: Bool


def make_shapes(
    *, train: int = 4000, test: int = 1000, size: int = 32, seed: int = 0
) -> tuple[ShapesSplit, ShapesSplit]:
    """Draw the training and test split of the image set ``shapes``.

    Image i of a split depends on (`seed`, split, i, `size`) alone: a larger split starts with the
    smaller one. Its label is i modulo 8, so classes are balanced to within one image.

    Args:
        train: number of training images, at least 0.
        test: number of test images, at least 0.
        size: height and width in pixels, at least 16.
        seed: any integer from 0.

    Returns:
        (training split, test split).

    Raises:
        ValueError: a number is below its least value.
        TypeError: a number is not an integer.

    Example:
        >>> train, test = make_shapes(train=16, test=8)
        >>> train.images.shape, [CLASSES[label] for label in test.labels[:3]]
        ((16, 32, 32, 3), ['disk', 'ring', 'square'])
    """
    check_shapes(train=train, test=test, size=size, seed=seed)
    return (
        draw_shapes("train", 0, train, size=size, seed=seed),
        draw_shapes("test", 0, test, size=size, seed=seed),
    )


def check_shapes(*, train: int, test: int, size: int, seed: int) -> None:
    """Refuse numbers that `make_shapes` cannot draw by; its arguments and its errors."""
    for name, value, least in (
        ("train", train, 0),
        ("test", test, 0),
        ("size", size, 16),
        ("seed", seed, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"make_shapes: {name} must be an integer, got {value!r}")
        if value < least:
            raise ValueError(f"make_shapes: {name} must be at least {least}, got {value}")


def labels_of_shapes(start: int, stop: int) -> NDArray[np.int64]:
    """The classes of the images from `start` to before `stop`, of either split.

    >>> labels_of_shapes(6, 10).tolist()
    [6, 7, 0, 1]
    """
    return np.arange(start, stop, dtype=np.int64) % len(CLASSES)


def draw_shapes(split: str, start: int, stop: int, *, size: int, seed: int) -> ShapesSplit:
    """The images of a split from `start` to before `stop`, equal to those of `make_shapes`.

    Args:
        split: ``"train"`` or ``"test"``.
        start: the first image.
        stop: the image after the last one.
        size: height and width in pixels.
        seed: any integer from 0.

    >>> _, test = make_shapes(train=0, test=100)
    >>> bool((draw_shapes("test", 60, 70, size=32, seed=0).images == test.images[60:70]).all())
    True
    """
    images = np.empty((stop - start, size, size, 3), np.uint8)
    masks = np.empty((stop - start, size, size), np.bool_)
    for first in range(start - start % _BLOCK, stop, _BLOCK):
        scene, mask = _block(split, first, size, seed)
        wanted = slice(max(start, first), min(stop, first + _BLOCK))
        inside, place = (
            slice(wanted.start - offset, wanted.stop - offset) for offset in (first, start)
        )
        images[place] = scene[inside]
        masks[place] = mask[inside]
    return ShapesSplit(images, labels_of_shapes(start, stop), masks)


class _Draws:
    """Uniform numbers of a block's images, handed out by column: the stream of each image is its
    own."""

    def __init__(self, split: str, start: int, size: int, seed: int) -> None:
        streams = [
            np.random.default_rng([seed, _SPLITS[split], i]) for i in range(start, start + _BLOCK)
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
        """Float (block, 3), a colour direction of length 1."""
        drawn = self.normal(3)
        unit: Float = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        return unit


def _block(
    split: str, start: int, size: int, seed: int, *, with_object: bool = True
) -> tuple[NDArray[np.uint8], Bool]:
    """Images uint8 (block, H, W, 3) and the object's masks, from image `start` on; without the
    object, the same scene as it lies behind it."""
    draws = _Draws(split, start, size, seed)
    labels = np.arange(start, start + _BLOCK) % len(CLASSES)

    # Objects and distractors are brighter than what they lie on, by a random step of random hue.
    # Were the sign random too, networks would spend their few epochs on finding out.
    middle = 128 + draws.uniform(-_BRIGHTNESS, _BRIGHTNESS, 1) + draws.uniform(-_TINT, _TINT, 3)
    step = draws.uniform(*_CONTRAST, 1)
    near = middle - step / 2 * _lighter(draws)
    far = middle + step / 2 * _lighter(draws)
    odd = middle + step / 2 * _lighter(draws)

    area = draws.uniform(*_AREA) * size**2
    # Room for the widest class, whatever the class: the place then tells nothing. Objects lie
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
    return np.clip(np.rint(scene), 0, 255).astype(np.uint8), mask


def _lighter(draws: _Draws) -> Float:
    """A direction (block, 3) of length 1, around the one towards white."""
    way = 1 / math.sqrt(3) + _HUE * draws.direction()
    unit: Float = way / np.linalg.norm(way, axis=1, keepdims=True)
    return unit


def _grid(size: int) -> tuple[Float, Float]:
    """Pixel centres (1, H, 1) and (1, 1, W) as (x, y), in pixels from the image's centre."""
    axis = np.arange(size, dtype=np.float32) - (size - 1) / 2
    return axis[None, None, :], axis[None, :, None]


def _inside(kinds: NDArray[np.int64], place: Float, turn: Float, area: Float, size: int) -> Bool:
    """Bool (block, H, W): pixels whose centre lies in the outline `kinds` of each image."""
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
    """A smaller shape of any class, cut in two through its centroid."""
    kinds = draws.uniform(0, len(CLASSES)).astype(np.int64)
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
    """A straight line, from a stub to a third of the image long."""
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
    """A colour (block, 3) as float (block, H, W, 3): with band-limited noise and a grating."""
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

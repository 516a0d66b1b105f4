"""The embedded image set ``shapes``: eight shapes on textured backgrounds, made from a seed.

It needs no download and its truth is known: which pixels are the object's. Class names the shape's
outline alone. Everything else (position, area, turn, colours, textures, distractors) is drawn from
one distribution for all classes, so only pixels that show the outline can tell them apart. A class
is unchanged by a horizontal flip: each outline has a vertical axis of symmetry, and turns to the
left are as likely as turns to the right.

Accuracy in % as pixels are removed (ROAR) or kept (KAR) and the network is retrained:

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

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.datasets.made.scenes import checked_counts
from evaluation.datasets.outlines import OUTLINES, Bool
from evaluation.datasets.shape_scenes import BLOCK, draw_block

__all__ = [
    "CLASSES",
    "ShapesSplit",
    "check_shapes",
    "draw_shapes",
    "labels_of_shapes",
    "make_shapes",
]

CLASSES: tuple[str, ...] = tuple(OUTLINES)
_LEAST_SIZE = 16


@dataclass(frozen=True)
class ShapesSplit:
    """One split of the image set.

    Attributes:
        images: uint8 (N, H, W, 3), RGB.
        labels: int64 (N,), indices into `CLASSES`.
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
    """Check the arguments of `make_shapes` and raise its errors."""
    checked_counts("make_shapes", _LEAST_SIZE, train=train, test=test, size=size, seed=seed)


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
    for first in range(start - start % BLOCK, stop, BLOCK):
        scene, mask = draw_block(split, first, size, seed)
        wanted = slice(max(start, first), min(stop, first + BLOCK))
        inside, place = (
            slice(wanted.start - offset, wanted.stop - offset) for offset in (first, start)
        )
        images[place] = scene[inside]
        masks[place] = mask[inside]
    return ShapesSplit(images, labels_of_shapes(start, stop), masks)

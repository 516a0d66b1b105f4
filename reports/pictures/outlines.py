"""Outlines of objects drawn by hand, and the share of a map's salient pixels inside them."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw
from torch import Tensor

SIDE = 224

# Polygons of (x, y) on the square in the middle of the photograph: the cup with its handle but
# without saucer and spoon, the rocket without its platform, the astronaut without the helmet beside
# her. The cat's face has no outline, since it fills nearly the whole picture.
OUTLINES: dict[str, tuple[tuple[int, int], ...]] = {
    "coffee.png": (
        *((41, 62), (44, 42), (56, 24), (75, 13), (105, 9), (135, 13), (155, 25), (168, 45)),
        *((172, 62), (168, 85), (158, 110), (150, 122), (130, 130), (118, 134), (88, 136)),
        *((84, 152), (76, 166), (68, 173), (56, 170), (54, 158), (62, 142), (62, 130)),
        *((50, 112), (44, 85)),
    ),
    "rocket.jpg": ((113, 65), (117, 72), (120, 85), (120, 214), (108, 214), (108, 85), (109, 72)),
    "astronaut.png": (
        *((70, 25), (85, 10), (105, 6), (125, 15), (133, 40), (128, 58), (115, 65), (130, 85)),
        *((135, 105), (130, 120), (150, 135), (158, 160), (135, 175), (125, 200), (125, 223)),
        *((10, 223), (10, 190), (20, 150), (30, 120), (52, 95), (55, 75), (75, 65), (68, 45)),
    ),
}


def inside(outline: tuple[tuple[int, int], ...]) -> Tensor:
    """Return the mask of the pixels inside and on an outline: booleans `(SIDE, SIDE)`.

    >>> int(inside(((2, 1), (4, 1), (4, 2), (2, 2))).sum())
    6
    """
    picture = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(picture).polygon(outline, fill=1, outline=1)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return pixels.reshape(SIDE, SIDE).bool()


def share_on_object(saliency: Tensor, inside: Tensor, fraction: float) -> float:
    """Return the share of a map's most salient pixels that lies on the object.

    Args:
        saliency: `(H, W)`.
        inside: The object, booleans `(H, W)`.
        fraction: The most salient pixels as a fraction of all.

    Returns:
        In [0, 1]; a random map gives the object's share of the picture on average.

    >>> saliency = torch.tensor([[4.0, 3.0], [2.0, 1.0]])
    >>> share_on_object(saliency, torch.tensor([[True, False], [True, False]]), 0.5)
    0.5
    """
    count = round(fraction * saliency.numel())
    return float(inside.flatten()[saliency.flatten().topk(count).indices].float().mean())


def centre_disk() -> Tensor:
    """Return the map of the centre control: the nearer the centre, the more salient."""
    places = torch.arange(SIDE) - (SIDE - 1) / 2
    return -(places[:, None] ** 2 + places**2)

"""Words for samples by the number of their axes: signals, images, volumes."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["GRIDS", "Grid"]


class Grid(NamedTuple):
    """The words for samples of one number of axes.

    Attributes:
        sample: one of them.
        samples: several.
        elements: what a sample is made of.
    """

    sample: str
    samples: str
    elements: str


# By the number of a sample's axes.
GRIDS = {
    1: Grid("signal", "signals", "values"),
    2: Grid("image", "images", "pixels"),
    3: Grid("volume", "volumes", "voxels"),
}

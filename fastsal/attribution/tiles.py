"""The tiles of an image that is too large for one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastsal.arguments.copies import copied
from fastsal.networks.state import LayerError


class Span(NamedTuple):
    """The extent of a tile along one dimension of the image, in pixels.

    Attributes:
        start: The first pixel of the tile itself.
        stop: The pixel after the tile's last.
        shown_start: The first pixel that the network sees.
        shown_stop: The pixel after the last that the network sees.
    """

    start: int
    stop: int
    shown_start: int
    shown_stop: int


@dataclass(frozen=True)
class Tiling:
    """The size of the tiles that an image is cut into, and their overlap.

    Attributes:
        height: The height of a tile, in pixels.
        width: The width of a tile, in pixels.
        overlap: The number of pixels on each side of a tile that the network sees too.
    """

    height: int
    width: int
    overlap: int

    @property
    def shown(self) -> tuple[int, int]:
        """(height, width) of a tile with the overlap on each side."""
        return self.height + 2 * self.overlap, self.width + 2 * self.overlap

    def fits(self, size: tuple[int, int]) -> bool:
        """Return True if an image is no larger than a tile with its overlap."""
        return all(length <= most for length, most in zip(size, self.shown, strict=True))

    def checked(self, names: Sequence[str], strides: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """Return the coarsest strides of the layers, on whose grid every tile begins.

        Args:
            names: The layers' names, for the message.
            strides: The layers' strides, down and across.

        Raises:
            ValueError: If a side of the tiles is no multiple of the stride along it.
        """
        sides = (self.height, self.width)
        of_axis = [[stride[axis] for stride in strides] for axis in (0, 1)]
        coarsest = max(of_axis[0]), max(of_axis[1])
        for axis, stride in enumerate(coarsest):
            if sides[axis] % stride:
                near = tuple(
                    max(1, round(side / own)) * own
                    for side, own in zip(sides, coarsest, strict=True)
                )
                name = names[of_axis[axis].index(stride)]
                raise ValueError(
                    f"tile={sides} does not lie on the network's grid: layer {name!r} has "
                    f"stride {stride}, so that a tile's sides have to be multiples of {stride}; "
                    f"take tile={near}"
                )
        return coarsest

    def spans(self, length: int, side: int, stride: int) -> list[Span]:
        """Return the spans of the tiles along one dimension of the image.

        The network sees the same number of pixels of every tile: at the image's border the pixels
        that are missing outside are taken from inside. The last tile has up to a stride more, if
        the length is no multiple of the stride.

        Args:
            length: The image's height, or width.
            side: The tile's height, or width.
            stride: The coarsest stride of the layers.

        >>> [tuple(span) for span in Tiling(64, 64, 16).spans(200, 64, 32)]
        [(0, 64, 0, 128), (64, 128, 32, 160), (128, 192, 64, 200), (192, 200, 64, 200)]
        """
        overlap = -(-self.overlap // stride) * stride
        shown = side + 2 * overlap
        spans = []
        for start in range(0, length, side):
            stop = min(start + side, length)
            latest = max(0, length - shown) // stride * stride
            first = min(max(0, start - overlap), latest)
            # The remainder at the border is no tile of its own.
            last = length if length - (first + shown) < stride else first + shown
            spans.append(Span(start, stop, first, last))
        return spans


def checked_tile(tile: tuple[int, int] | None, overlap: int) -> Tiling | None:
    """Return the tiling for the arguments of `SMOEScale`, None without tiles.

    Args:
        tile: (height, width) in pixels, or None.
        overlap: In pixels.

    Raises:
        ValueError: If a number is not a number of pixels.

    >>> checked_tile((1024, 512), 64)
    Tiling(height=1024, width=512, overlap=64)
    """
    if tile is None:
        return None
    if not (isinstance(tile, Sequence) and len(tile) == 2 and all(map(_whole, tile)) and min(tile)):
        raise ValueError(f"tile is (height, width) in pixels, each 1 or more, got {tile!r}")
    if not _whole(overlap):
        raise ValueError(f"overlap is a number of pixels, 0 or more, got {overlap!r}")
    return Tiling(*tile, overlap)


def _whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0


def crop(
    inputs: tuple[Tensor, ...],
    size: tuple[int, int],
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> tuple[Tensor, ...]:
    """Return copies of the pixels in a range of rows and columns, of inputs of the image's size.

    Args:
        inputs: The model's tensors; those of another size are copied whole.
        size: (H, W), the image's.
        rows: The first row, and the one after the last.
        columns: The first column, and the one after the last.
    """
    return tuple(
        tensor.detach()[:, :, rows[0] : rows[1], columns[0] : columns[1]].clone(
            memory_format=torch.contiguous_format
        )
        if tensor.dim() == 4 and tensor.shape[2:] == size
        else copied(tensor)
        for tensor in inputs
    )


def own_part(
    values: Tensor, span: Span, length: int, stride: int, dimension: int, name: str
) -> Tensor:
    """Return the part of a crop's map that belongs to the tile itself.

    Args:
        values: The map of the crop.
        span: The tile's row, or column.
        length: The image's height, or width.
        stride: The layer's.
        dimension: The dimension of the map along the span.
        name: The layer's name, for messages.

    Raises:
        LayerError: If the map does not follow the stride.
    """
    found, shown = values.shape[dimension], span.shown_stop - span.shown_start
    first = (span.start - span.shown_start) // stride
    last = found if span.stop == length else (span.stop - span.shown_start) // stride
    if span.shown_stop == length:
        # A network without padding has fewer locations there, and maybe none in the last tile.
        first, last = min(first, found), min(last, found)
    if found > -(-shown // stride) or last > found:
        raise LayerError(
            f"layer {name!r} gives {found} locations for {shown} pixels, which stride {stride} "
            f"does not explain within the tile; take a larger overlap, or other layers; if the "
            "network resizes its image, do that before it"
        )
    return values.narrow(dimension, first, last - first)

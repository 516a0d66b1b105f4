"""Images too large for one forward pass: read tile by tile, each scale's map joined to one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsal.arguments.inputs import image_of
from fastsal.attribution.reader import ScaleReader
from fastsal.networks.state import LayerError

# Runs the network on a crop of the inputs; what it gave, and what each tap read.
Run = Callable[[tuple[Tensor, ...]], tuple[Any, list[Tensor]]]


class Span(NamedTuple):
    """One row (or column) of tiles: pixels of the image that it covers, and that are shown.

    Attributes:
        start: First pixel that is the tile's own.
        stop: Pixel after its last.
        shown_start: First pixel that the network is shown.
        shown_stop: Pixel after the last.
    """

    start: int
    stop: int
    shown_start: int
    shown_stop: int


@dataclass(frozen=True)
class Tiling:
    """How an image is cut.

    Attributes:
        height: Of a tile, in pixels.
        width: Of a tile.
        overlap: Pixels beside a tile that the network is shown too, on each side.
    """

    height: int
    width: int
    overlap: int

    def fits(self, size: tuple[int, int]) -> bool:
        """Return whether an image is no larger than what is shown of a tile."""
        shown = (side + 2 * self.overlap for side in (self.height, self.width))
        return all(length <= most for length, most in zip(size, shown, strict=True))

    def checked(self, names: Sequence[str], strides: Sequence[int]) -> int:
        """Return the coarsest stride, on whose grid every tile begins.

        Raises:
            ValueError: If a side is smaller than it, or no multiple of it.
        """
        coarsest = max(range(len(strides)), key=strides.__getitem__)
        stride = strides[coarsest]
        sides = (self.height, self.width)
        if any(side % stride for side in sides):
            near = tuple(max(1, round(side / stride)) * stride for side in sides)
            raise ValueError(
                f"tile={sides} does not lie on the network's grid: layer {names[coarsest]!r} has "
                f"stride {stride}, so that a tile's sides have to be multiples of {stride}; take "
                f"tile={near}"
            )
        return stride

    def spans(self, length: int, side: int, stride: int) -> list[Span]:
        """Return the tiles along a length.

        All are shown as many pixels, at the image's border too, where those beyond come from within
        (the last has up to a stride more, where the length is no multiple of it).

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
            # What is left over at the border is no tile of its own.
            last = length if length - (first + shown) < stride else first + shown
            spans.append(Span(start, stop, first, last))
        return spans


def checked_tile(tile: tuple[int, int] | None, overlap: int) -> Tiling | None:
    """Return how images are cut, None for not at all.

    Raises:
        ValueError: If a number is none of pixels.

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


def first_tile(inputs: tuple[Tensor, ...], tiling: Tiling) -> tuple[Tensor, ...]:
    """Return the inputs' first tile with what is shown beside it, where scales are looked for."""
    rows, columns = (side + 2 * tiling.overlap for side in (tiling.height, tiling.width))
    return _crop(inputs, (0, rows), (0, columns))


def read(inputs: tuple[Tensor, ...], tiling: Tiling, reader: ScaleReader, run: Run) -> list[Tensor]:
    """Return what the statistic gives for each scale of whole images, from one tile after another.

    Args:
        inputs: The model's tensors; all of the images' size are cut alike.
        tiling: How.
        reader: Reads the scales.
        run: Runs the network on a crop.

    Returns:
        For each scale `(N, h, w)`, as one pass over the whole image gives it, but for what lies
        further from a tile's border than the overlap and yet is seen, and for what the network
        pools over the whole image on the way.

    Raises:
        ValueError: If the tiles do not lie on the network's grid.
        LayerError: If a layer's map does not follow its stride.
    """
    height, width = image_of(inputs).shape[2:]
    scales = reader.known or reader.scales
    if not scales:
        # Of layers that were named the strides are known once they have given something.
        crop = first_tile(inputs, tiling)
        reader.seen = (image_of(crop).shape[2], image_of(crop).shape[3])
        run(crop)
        scales = reader.scales
    names, strides = [scale.name for scale in scales], [scale.stride for scale in scales]
    stride = tiling.checked(names, strides)
    rows: list[list[Tensor]] = []
    for row in tiling.spans(height, tiling.height, stride):
        parts: list[list[Tensor]] = []
        for column in tiling.spans(width, tiling.width, stride):
            crop = _crop(inputs, row[2:], column[2:])
            reader.seen = (image_of(crop).shape[2], image_of(crop).shape[3])
            _, values = run(crop)
            parts.append(
                [
                    _own(_own(value, row, height, step, 1, name), column, width, step, 2, name)
                    for value, step, name in zip(values, strides, names, strict=True)
                ]
            )
        rows.append([torch.cat(beside, 2) for beside in zip(*parts, strict=True)])
    return [torch.cat(below, 1) for below in zip(*rows, strict=True)]


def _crop(
    inputs: tuple[Tensor, ...], rows: Sequence[int], columns: Sequence[int]
) -> tuple[Tensor, ...]:
    size = image_of(inputs).shape[2:]
    return tuple(
        tensor[:, :, rows[0] : rows[1], columns[0] : columns[1]].contiguous()
        if tensor.dim() == 4 and tensor.shape[2:] == size
        else tensor
        for tensor in inputs
    )


def _own(values: Tensor, span: Span, length: int, stride: int, dimension: int, name: str) -> Tensor:
    """Return the part of a crop's map that belongs to the tile itself."""
    found, shown = values.shape[dimension], span.shown_stop - span.shown_start
    first = (span.start - span.shown_start) // stride
    last = found if span.stop == length else (span.stop - span.shown_start) // stride
    if span.shown_stop == length:
        # A network without padding has fewer locations there, and maybe none in the last tile.
        first, last = min(first, found), min(last, found)
    if found > -(-shown // stride) or last > found:
        raise LayerError(
            f"layer {name!r} gives {found} locations for {shown} pixels, which stride {stride} "
            f"does not explain within the tile; take a larger overlap, or other layers"
        )
    return values.narrow(dimension, first, last - first)

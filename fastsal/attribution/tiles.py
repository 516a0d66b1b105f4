"""The tiles of an image that is too large for one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from fastsal.arguments.copies import copied
from fastsal.arguments.inputs import grid_of, images_of
from fastsal.networks.state import LayerError

# Pixels beside a tile of an image, or of a signal, that the network sees too.
OVERLAP = 128
# Of a volume, as a share of the tile's side.
SHARE = 4
BLENDS = ("none", "linear", "gaussian")
# The standard deviation of Gaussian weights, as a share of what the network sees of a tile.
SIGMA = 1 / 8
NAMES = {1: "(length,)", 2: "(height, width)", 3: "(depth, height, width)"}


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
    """The size of the tiles that an image is cut into, their overlap, and how they are joined.

    Attributes:
        sides: The sides of a tile, in pixels: (height, width), of volumes (depth, height, width),
            of signals (length,).
        overlaps: For each side the number of pixels before and after a tile that the network sees
            too; one for all of them; None for 128, and for a quarter of the side of volumes.
        blend: "none", "linear" or "gaussian"; None for "gaussian" of volumes, "none" of others.
    """

    sides: tuple[int, ...]
    overlaps: tuple[int, ...] | None = None
    blend: str | None = None

    def on(self, size: Sequence[int]) -> Tiling:
        """Return the tiling with a side and an overlap for each axis of an image.

        Args:
            size: (H, W) of the image; (D, H, W) of a volume, (1, T) of a signal.

        Raises:
            ValueError: If the tile has another number of axes.

        >>> Tiling((64, 64, 32)).on((128, 128, 128)).overlaps
        (16, 16, 8)
        >>> Tiling((4096,)).on((1, 100000)).sides
        (1, 4096)
        """
        signal = len(size) == 2 and size[0] == 1
        axes = 1 if signal and len(self.sides) == 1 else len(size)
        if len(self.sides) != axes:
            raise ValueError(
                f"tile={self.sides} has {len(self.sides)} number(s), and the input's size is "
                f"{tuple(size)}; give tile={NAMES[axes]}"
            )
        overlaps = self._overlaps
        if len(overlaps) == 1:
            overlaps *= axes
        if len(overlaps) != axes:
            raise ValueError(
                f"overlap={overlaps} has {len(overlaps)} numbers, and tile={self.sides} has "
                f"{len(self.sides)}; give one number, or one for each side"
            )
        blend = self.blend or ("gaussian" if axes == 3 else "none")
        if axes == 1:
            # A signal is an image of one row.
            return Tiling((1, *self.sides), (0, *overlaps), blend)
        return replace(self, overlaps=overlaps, blend=blend)

    @property
    def _overlaps(self) -> tuple[int, ...]:
        """The overlaps that were given, else the usual ones."""
        if self.overlaps is not None:
            return self.overlaps
        volume = len(self.sides) == 3
        return tuple(side // SHARE if volume else OVERLAP for side in self.sides)

    @property
    def shown(self) -> tuple[int, ...]:
        """The sides of a tile with the overlap on each side; of a tiling for a known size."""
        pairs = zip(self.sides, self._overlaps, strict=True)
        return tuple(side + 2 * overlap for side, overlap in pairs)

    def fits(self, size: Sequence[int]) -> bool:
        """Return True if an image is no larger than a tile with its overlap."""
        return all(length <= most for length, most in zip(size, self.shown, strict=True))

    def checked(self, names: Sequence[str], strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """Return the coarsest strides of the layers, on whose grid every tile begins.

        Args:
            names: The layers' names, for the message.
            strides: The layers' strides, down and across.

        Raises:
            ValueError: If a side of the tiles is no multiple of the stride along it.
        """
        of_axes = list(zip(*strides, strict=True))
        coarsest = tuple(max(of_axis) for of_axis in of_axes)
        for side, of_axis, stride in zip(self.sides, of_axes, coarsest, strict=True):
            if side % stride:
                near = tuple(
                    max(1, round(side / own)) * own
                    for side, own in zip(self.sides, coarsest, strict=True)
                )
                name = names[of_axis.index(stride)]
                raise ValueError(
                    f"tile={self.sides} does not lie on the network's grid: layer {name!r} has "
                    f"stride {stride}, so that a tile's sides have to be multiples of {stride}; "
                    f"take tile={near}"
                )
        return coarsest

    def tiles(self, size: Sequence[int], strides: Sequence[int]) -> Iterator[tuple[Span, ...]]:
        """Yield the spans of every tile along each axis, row by row.

        Args:
            size: The image's size.
            strides: The coarsest stride of the layers along each axis.
        """
        each = zip(size, self.sides, self._overlaps, strides, strict=True)
        return product(*(spans(*of_axis) for of_axis in each))


def spans(length: int, side: int, overlap: int, stride: int) -> list[Span]:
    """Return the spans of the tiles along one dimension of the image.

    The network sees the same number of pixels of every tile: at the image's border the pixels
    that are missing outside are taken from inside. The last tile has up to a stride more, if
    the length is no multiple of the stride.

    Args:
        length: The image's height, or width.
        side: The tile's height, or width.
        overlap: The pixels on each side of a tile that the network sees too.
        stride: The coarsest stride of the layers.

    >>> [tuple(span) for span in spans(200, 64, 16, 32)]
    [(0, 64, 0, 128), (64, 128, 32, 160), (128, 192, 64, 200), (192, 200, 64, 200)]
    """
    overlap = -(-overlap // stride) * stride
    shown = side + 2 * overlap
    found = []
    for start in range(0, length, side):
        stop = min(start + side, length)
        latest = max(0, length - shown) // stride * stride
        first = min(max(0, start - overlap), latest)
        # The remainder at the border is no tile of its own.
        last = length if length - (first + shown) < stride else first + shown
        found.append(Span(start, stop, first, last))
    return found


def checked_tile(
    tile: Sequence[int] | None, overlap: int | Sequence[int] | None, blend: str | None = None
) -> Tiling | None:
    """Return the tiling for the arguments of `SMOEScale`, None without tiles.

    Args:
        tile: (height, width) in pixels, (depth, height, width), (length,), or None.
        overlap: In pixels, one number or one for each side; None for the usual one.
        blend: "none", "linear", "gaussian", or None.

    Raises:
        ValueError: If a number is not a number of pixels.

    >>> checked_tile((1024, 512), 64)
    Tiling(sides=(1024, 512), overlaps=(64,), blend=None)
    """
    if tile is None:
        return None
    known = isinstance(tile, Sequence) and len(tile) in NAMES
    if not (known and all(map(_whole, tile)) and min(tile)):
        raise ValueError(
            "tile is (height, width) in pixels, each 1 or more; of volumes (depth, height, width), "
            f"of signals (length,); got {tile!r}"
        )
    overlaps = None
    if overlap is not None:
        overlaps = tuple(overlap) if isinstance(overlap, Sequence) else (overlap,)
        if not overlaps or not all(map(_whole, overlaps)):
            raise ValueError(
                "overlap is a number of pixels, 0 or more, or one for each side of a tile, got "
                f"{overlap!r}"
            )
    if blend is not None and blend not in BLENDS:
        raise ValueError(f"blend is one of {', '.join(BLENDS)}, or None, got {blend!r}")
    return Tiling(tuple(tile), overlaps, blend)


def _whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0


def crop(
    inputs: tuple[Tensor, ...], size: Sequence[int], ranges: Sequence[tuple[int, int]]
) -> tuple[Tensor, ...]:
    """Return copies of the pixels in a range of each axis, of inputs of the image's size.

    Args:
        inputs: The model's tensors; those of another size are copied whole.
        size: (H, W), the image's; (D, H, W) of volumes, (1, T) of signals.
        ranges: For each axis the first pixel, and the one after the last.
    """
    dimensions = images_of(inputs)[0].dim()
    sides = [slice(*of_axis) for of_axis in ranges][2 - dimensions :]
    own = (slice(None), slice(None), *sides)
    return tuple(
        tensor.detach()[own].clone(memory_format=torch.contiguous_format)
        if tensor.dim() == dimensions and grid_of(tensor) == tuple(size)
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
    found = values.shape[dimension]
    first = (span.start - span.shown_start) // stride
    last = found if span.stop == length else (span.stop - span.shown_start) // stride
    if span.shown_stop == length:
        # A network without padding has fewer locations there, and maybe none in the last tile.
        first, last = min(first, found), min(last, found)
    check_follows(found, last, span, stride, name)
    return values.narrow(dimension, first, last - first)


def check_follows(found: int, last: int, span: Span, stride: int, name: str) -> None:
    """Raise if a crop's map does not follow the layer's stride.

    Args:
        found: The number of the map's locations along the span.
        last: The number of locations that it has to have, at least.
        span: The tile's row, or column.
        stride: The layer's.
        name: The layer's name.

    Raises:
        LayerError: If it does not.
    """
    shown = span.shown_stop - span.shown_start
    if found > -(-shown // stride) or last > found:
        raise LayerError(
            f"layer {name!r} gives {found} locations for {shown} pixels, which stride {stride} "
            f"does not explain within the tile; take a larger overlap, or other layers; if the "
            "network resizes its image, do that before it"
        )


class Seams:
    r"""The maps of one layer's tiles, joined to that of the whole image.

    $$M = \sum_t w_t M_t \Big/ \sum_t w_t$$

    with `M_t` the map of all that the network sees of tile `t`. Under "none" `w_t` is 1 in the tile
    itself and 0 beside it. Under "linear" it falls from 1 to 0 over the overlap of two tiles,
    under "gaussian" from the middle of what is seen, with a standard deviation of an eighth of it
    as in nnU-Net; along each axis, multiplied.

    Args:
        name: The layer's name, for messages.
        strides: The layer's strides.
        size: The image's size.
        blend: "none", "linear" or "gaussian".

    Reference:
        Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image
        segmentation", https://doi.org/10.1038/s41592-020-01008-z, inference.
    """

    def __init__(self, name: str, strides: Sequence[int], size: Sequence[int], blend: str) -> None:
        self._name, self._strides, self._size, self._blend = name, strides, size, blend
        # For each tile the first location along each axis, the map and its weights along each.
        self._parts: list[tuple[list[int], Tensor, list[Tensor]]] = []

    def add(self, tile: Sequence[Span], values: Tensor) -> None:
        """Add the map `(N, h, w)` of all that the network sees of a tile.

        Raises:
            LayerError: If the map does not follow the layer's strides.
        """
        firsts, weights = [], []
        for axis, (span, stride, length) in enumerate(
            zip(tile, self._strides, self._size, strict=True), 1
        ):
            if self._blend == "none":
                values = own_part(values, span, length, stride, axis, self._name)
                firsts.append(span.start // stride)
            else:
                found = values.shape[axis]
                last = 0 if span.shown_stop == length else (span.stop - span.shown_start) // stride
                check_follows(found, last, span, stride, self._name)
                firsts.append(span.shown_start // stride)
                weights.append(self._weights(found, span, stride, length).to(values))
        if not values.numel():
            # The last tile of a network without padding may have no location.
            return
        if self._blend == "none":
            # A view would keep what the network sees beside the tile.
            values = values.clone(memory_format=torch.contiguous_format)
        self._parts.append((firsts, values, weights))

    def _weights(self, count: int, span: Span, stride: int, length: int) -> Tensor:
        """Return the weights of a tile's locations along one axis, `(count,)`."""
        place = torch.arange(count, dtype=torch.float64, device="cpu") + 0.5
        if self._blend == "gaussian":
            seen = (span.shown_stop - span.shown_start) / stride
            return torch.exp(-((place - seen / 2) / (SIGMA * seen)).square() / 2)
        weights = torch.ones_like(place)
        before = 2 * (span.start - span.shown_start) / stride
        after = 2 * (span.shown_stop - span.stop) / stride
        # At the image's border there is no other tile.
        if span.shown_start > 0 and before:
            weights = weights * (place / before).clamp_max(1)
        if span.shown_stop < length and after:
            seen = (span.shown_stop - span.shown_start) / stride
            weights = weights * ((seen - place) / after).clamp(1e-3, 1)
        return weights

    def joined(self) -> Tensor:
        """Return the map of the whole image, `(N, h, w)`."""
        ends = zip(*(self._ends(firsts, values) for firsts, values, _ in self._parts), strict=True)
        grid = [max(of_axis) for of_axis in ends]
        first = self._parts[0][1]
        total = first.new_zeros((len(first), *grid))
        weight = first.new_zeros(grid) if self._blend != "none" else None
        while self._parts:
            firsts, values, weights = self._parts.pop()
            own = tuple(
                slice(start, start + count)
                for start, count in zip(firsts, values.shape[1:], strict=True)
            )
            of_all = (slice(None), *own)
            if weight is None:
                total[of_all] = values
                continue
            shares = torch.ones((), dtype=values.dtype, device=values.device)
            for axis, along in enumerate(weights):
                shares = shares * along.reshape(-1, *[1] * (len(grid) - 1 - axis))
            total[of_all] += values * shares
            weight[own] += shares
        return total if weight is None else total / weight

    @staticmethod
    def _ends(firsts: Sequence[int], values: Tensor) -> list[int]:
        return [first + count for first, count in zip(firsts, values.shape[1:], strict=True)]

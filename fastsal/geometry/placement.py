"""Placements: a tensor's dimensions of rows and columns, and their places in the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from fastsal.geometry.coordinates import Fields, Interval, Seen
from fastsal.geometry.fields import line_of, positions, step

# Locations may be so many locations off an even stretch over what is seen, or such a share of it,
# that the stretch is taken instead, as the paper does: windows of stride 2 with symmetric padding
# are centred half a location before it, those of a few layers without padding closer to the middle.
TOLERANCE = 0.75
SHARE = 0.04
# In pixels: nearer to the image's edge is at it.
NEAR = 0.51
# In pixels: below, two places are one.
EQUAL = 1e-2


class Layout(NamedTuple):
    """The meaning of a tensor's dimensions.

    Attributes:
        order: The dimensions of image, channel, row and column, after `tokens` are unfolded.
        tokens: For locations in one dimension: that dimension, the first location, and (h, w), or
            (w, h) if they go down the columns first; None for rows and columns of their own.
        sequence: The locations of that dimension row by row, where they come in another order.

    >>> Layout((0, 3, 1, 2)).channels_first(torch.zeros(1, 7, 7, 768)).shape
    torch.Size([1, 768, 7, 7])
    >>> Layout((0, 3, 1, 2), (1, 1, 14, 14)).channels_first(torch.zeros(1, 197, 384)).shape
    torch.Size([1, 384, 14, 14])
    """

    order: tuple[int, ...]
    tokens: tuple[int, int, int, int] | None = None
    sequence: tuple[int, ...] | None = None

    @property
    def transposed(self) -> bool:
        """True if the tensor has the image's columns before its rows."""
        return self.order[2] > self.order[3]

    @property
    def channel(self) -> int:
        """The dimension of channels in the tensor as it is."""
        dimension = self.order[1]
        unfolded = self.tokens is not None and dimension > self.tokens[0]
        return dimension - 1 if unfolded else dimension

    def channels_first(self, tensor: Tensor) -> Tensor:
        """Return the tensor as `(N, C, h, w)`, a view unless there is a `sequence`."""
        if self.tokens is not None:
            dimension, first, height, width = self.tokens
            if self.sequence is None:
                tensor = tensor.narrow(dimension, first, height * width)
            else:
                index = torch.tensor(self.sequence, device=tensor.device)
                tensor = tensor.index_select(dimension, index)
            tensor = torch.unflatten(tensor, dimension, (height, width))
        return tensor if self.order == (0, 1, 2, 3) else tensor.permute(self.order)


CHANNELS_FIRST = Layout((0, 1, 2, 3))
CHANNELS_LAST = Layout((0, 3, 1, 2))


class View(NamedTuple):
    """The places of one map's locations.

    Attributes:
        block: The map's number among those of one image.
        rows: The pixel row of each row of locations, `math.inf` for what shows no pixel.
        columns: The pixel column of each column of locations, likewise.
        seen: (first, last) of the pixel rows, and of the columns, that the network sees.
    """

    block: int
    rows: tuple[float, ...]
    columns: tuple[float, ...]
    seen: tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Placement:
    """The places of a scale's maps on the image, where they are not the plain stretch over it.

    Attributes:
        views: The views, of which an image's maps are the mean.
        blocks: The number of maps for each image: more than one if the batch grows inside.
        interleaved: True if an image's maps follow each other; False if a block holds all images.
        moved: True if the network moves, crops or pads its image; False if its windows alone bring
            locations away from an even stretch.
    """

    views: tuple[View, ...]
    blocks: int = 1
    interleaved: bool = False
    moved: bool = True


class Located(NamedTuple):
    """A tensor's place on the image.

    Attributes:
        layout: The meaning of its dimensions.
        steps: Pixels from a location to the next, down and across.
        strides: The same; if the network enlarges the image before its first weights, or makes it
            square, counted in elements of their input.
        placement: Its places; None for the plain stretch over the whole image.
        doubt: The reason why the places are not certain; empty if they are.
    """

    layout: Layout
    steps: tuple[float, float]
    strides: tuple[float, float]
    placement: Placement | None = None
    doubt: str = ""

    @property
    def octaves(self) -> tuple[int, int]:
        """The strides as powers of two (nominal), 1 or more."""
        down, across = (2 ** max(0, round(math.log2(stride))) for stride in self.strides)
        return down, across


def stretch_of(shape: Sequence[int], size: tuple[int, int]) -> Located | None:
    """Return the place of a tensor that counts as stretched over the image, by its shape alone.

    Args:
        shape: `(N, C, h, w)`; None is returned for another number of dimensions.
        size: (H, W) of the image.

    >>> stretch_of((1, 8, 4, 4), (32, 32)).octaves
    (8, 8)
    """
    if len(shape) != 4 or 0 in shape:
        return None
    steps = size[0] / shape[2], size[1] / shape[3]
    return Located(CHANNELS_FIRST, steps, steps)


def located(
    fields: Fields, shape: Sequence[int], images: int, size: tuple[int, int]
) -> Located | None:
    """Return the place of a tensor on the image, None if it shows no places along rows or columns.

    Args:
        fields: The tensor's coordinates.
        shape: Its shape.
        images: N of the images.
        size: (H, W) of the images.
    """
    if not fields.places or not 3 <= len(shape) <= 4:
        return None
    layout = layout_of(fields.places[0], shape, images)
    if layout is None:
        return None
    whole: tuple[Interval, Interval] = ((0.0, float(size[0])), (0.0, float(size[1])))
    seen = fields.seen or Seen((whole,), (1.0, 1.0))
    base = seen.steps
    doubt = ""
    if fields.unknown:
        doubt = f"it is not known where {', '.join(fields.unknown)} brings the pixels"
    views: list[View] = []
    steps: list[tuple[float, float]] = []
    blocks, interleaved, moved = 1, False, False
    for field in fields.places:
        full = field.expand(-1, *shape)
        places = torch.stack([layout.channels_first(part) for part in positions(full)])
        # Channels show one place, or their mean does.
        places = places.nanmean(2)
        entries = places.shape[1]
        blocks = max(1, entries // images)
        index = places[2].flatten(1).nanmean(1)
        interleaved = blocks > 1 and bool((index[:blocks] - index[0]).abs().max() < EQUAL)
        for block in range(blocks):
            first = block if interleaved else block * images
            entry = places[:, first]
            own = slice(block, None, blocks) if interleaved else slice(first, first + images)
            of_block = places[:2, own]
            if not _equal(of_block, of_block[:, :1]):
                doubt = doubt or "the places differ from image to image"
            rows, columns = line_of(entry[0], 0), line_of(entry[1], 1)
            if not _separable(entry, rows, columns):
                doubt = doubt or "rows and columns of locations are none of the image"
            sides = seen.of_entry(first, entries)
            lines = [_even(line, side) for line, side in zip((rows, columns), sides, strict=True)]
            views.append(View(block, lines[0], lines[1], sides))
            steps.append((step(rows), step(columns)))
            moved |= any(
                not _ascending(line) or abs(side[0]) > NEAR or abs(side[1] - length) > NEAR
                for line, side, length in zip(lines, sides, size, strict=True)
            )
    down, across = (
        one or (last - first) / max(count, 1)
        for one, (first, last), count in zip(
            steps[0], views[0].seen, (len(views[0].rows), len(views[0].columns)), strict=True
        )
    )
    placement: Placement | None = Placement(tuple(views), blocks, interleaved, moved)
    if doubt or (blocks == 1 and not moved and all(map(_is_even, views))):
        placement = None
    # If the network enlarges the image, or squares it, there is no one stride on the image.
    even = min(base) > 0.7 and abs(math.log2(base[0] / base[1])) < 0.6
    strides = (down, across) if even else (down / base[0], across / base[1])
    return Located(layout, (down, across), strides, placement, doubt)


def layout_of(field: Tensor, shape: Sequence[int], images: int) -> Layout | None:
    """Return the meaning of a tensor's dimensions by its coordinates, None if it is no map.

    Args:
        field: The tensor's field.
        shape: The tensor's shape.
        images: N of the images.
    """
    places = positions(field)
    dimensions = range(len(shape))
    of_image = _varying(places[2], ())
    if len(shape) == 4 and shape[0] % images == 0 and of_image in ([], [0]):
        # Views of one image in a batch that grows differ in rows and columns too.
        of_image = [0]
    rows, columns = (_varying(component, of_image) for component in places[:2])
    of_image = [d for d in of_image if not (d in rows and d in columns)]
    if len(of_image) > 1 or not (rows or columns):
        return None
    if of_image:
        batch = of_image[0]
    else:
        free = [d for d in dimensions if d not in rows + columns and shape[d] % images == 0]
        if not free:
            return None
        batch = free[0]
    if len(shape) == 3:
        if len(set(rows + columns)) != 1:
            return None
        dimension = (rows or columns)[0]
        (channel,) = (d for d in dimensions if d not in (batch, dimension))
        tokens = _token_grid(places[:2], dimension, shape[dimension])
        sequence = None
        if tokens is None:
            found = _scattered_grid(places[:2], dimension)
            if found is None:
                return None
            height, width, sequence = found
            tokens = (0, height, width, False)
        first, height, width, by_column = tokens
        # Unfolding moves the dimensions after it by one.
        order = [d + (d > dimension) for d in (batch, channel)]
        order += [dimension + 1, dimension] if by_column else [dimension, dimension + 1]
        return Layout(tuple(order), (dimension, first, height, width), sequence)
    if len(rows) == 2 and rows == columns:
        # Turned by an angle: rows and columns of locations, but not of pixels.
        (channel,) = (d for d in dimensions if d not in (batch, *rows))
        return Layout((batch, channel, *rows))
    if len(rows) > 1 or len(columns) > 1 or rows == columns:
        return None
    others = [d for d in dimensions if d not in (batch, *rows, *columns)]
    if rows and columns:
        row, column = rows[0], columns[0]
    elif columns:
        # One row: the dimension of size 1 beside the columns, or the first of that size.
        column = columns[0]
        beside = sorted((d for d in others if shape[d] == 1), key=lambda d: abs(column - 1 - d))
        if not beside:
            return None
        row = beside[0]
    else:
        row = rows[0]
        beside = sorted((d for d in others if shape[d] == 1), key=lambda d: abs(row + 1 - d))
        if not beside:
            return None
        column = beside[0]
    (channel,) = (d for d in dimensions if d not in (batch, row, column))
    return Layout((batch, channel, row, column))


def _varying(component: Tensor, without: Sequence[int]) -> list[int]:
    """Return the dimensions, but for some, along which rows, columns or images change.

    Of a patch of pixels in the channels, or branches whose windows are centred differently, all
    channels show one place: what changes by less than the distance of locations is left out.
    """
    ranges = []
    for dimension in range(component.dim()):
        least = component.nan_to_num(math.inf).amin(dimension)
        most = component.nan_to_num(-math.inf).amax(dimension)
        wide = 0.0 if dimension in without else float((most - least).max())
        ranges.append(max(0.0, wide))
    widest = max(range(len(ranges)), key=ranges.__getitem__)
    apart = step(component.movedim(widest, -1))
    return [
        dimension
        for dimension, width in enumerate(ranges)
        if width > EQUAL and (dimension == widest or width >= apart)
    ]


def _token_grid(places: Tensor, dimension: int, count: int) -> tuple[int, int, int, bool] | None:
    """Return the first token with a place, the grid's (h, w), and True if it goes by columns."""
    if places.shape[dimension + 1] != count:
        return None
    along = places.movedim(dimension + 1, -1).flatten(1, -2).nanmean(1)
    known = (~along[0].isnan()).nonzero()[:, 0]
    first, last = int(known[0]), int(known[-1]) + 1
    along = along[:, first:last]
    length = last - first
    for slow, fast in ((0, 1), (1, 0)):
        line = int((along[slow] - along[slow, 0]).abs().lt(EQUAL).long().cumprod(0).sum())
        if length % line:
            continue
        grid = torch.unflatten(along, 1, (length // line, line))
        same_line = (grid[slow] - grid[slow, :, :1]).abs().amax() < EQUAL
        same_place = (grid[fast] - grid[fast, :1]).abs().amax() < EQUAL
        if bool(same_line) and bool(same_place):
            return first, length // line, line, slow == 1
    return None


def _scattered_grid(places: Tensor, dimension: int) -> tuple[int, int, tuple[int, ...]] | None:
    """Return the (h, w) of tokens that are all locations of a grid, and their order row by row."""
    along = places.movedim(dimension + 1, -1).flatten(1, -2).nanmean(1)
    known = (~along[0].isnan()).nonzero()[:, 0]
    lines = [torch.unique((along[axis][known] / EQUAL).round()) for axis in (0, 1)]
    height, width = len(lines[0]), len(lines[1])
    if height * width != len(known):
        return None
    cells = [
        torch.searchsorted(lines[axis], (along[axis][known] / EQUAL).round()) for axis in (0, 1)
    ]
    cell = cells[0] * width + cells[1]
    if len(torch.unique(cell)) != len(cell):
        return None
    return height, width, tuple(known[cell.argsort()].tolist())


def _separable(entry: Tensor, rows: Tensor, columns: Tensor) -> bool:
    """Return True if all locations of a row show one pixel row, and of a column one column."""
    for places, mean, apart in (
        (entry[0], rows[:, None], step(rows)),
        (entry[1], columns[None, :], step(columns)),
    ):
        off = (places - mean).abs()
        off = off[~off.isnan()]
        # A few at the border may differ, where windows reach outside.
        if len(off) and float(off.sort().values[int(0.9 * (len(off) - 1))]) > 0.5 * (apart or 1.0):
            return False
    return True


def _equal(places: Tensor, other: Tensor) -> bool:
    off = (places - other).abs()
    return bool((off.nan_to_num(0.0) < 1.0).all())


def _finite(places: Tensor) -> tuple[float, ...]:
    return tuple(math.inf if math.isnan(place) else place for place in places.tolist())


def _even(line: Tensor, seen: Interval) -> tuple[float, ...]:
    """Return the places of a line of locations: evenly over what is seen, if they are nearly so."""
    places = _finite(line)
    ideal = _stretch(len(places), seen)
    if places[0] > places[-1]:
        ideal = ideal[::-1]
    width = seen[1] - seen[0]
    limit = max(TOLERANCE * width / len(places), SHARE * width)
    near = all(abs(place - even) <= limit for place, even in zip(places, ideal, strict=True))
    return ideal if near else places


def _stretch(count: int, seen: Interval) -> tuple[float, ...]:
    apart = (seen[1] - seen[0]) / count
    return tuple(seen[0] + (index + 0.5) * apart for index in range(count))


def _ascending(places: Sequence[float]) -> bool:
    return all(before <= after for before, after in pairwise(places))


def _is_even(view: View) -> bool:
    sides = zip((view.rows, view.columns), view.seen, strict=True)
    return all(places == _stretch(len(places), side) for places, side in sides)

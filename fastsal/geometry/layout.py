"""Layouts: which dimensions of a tensor are the image, the channel, the row and the column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastsal.geometry.fields import positions, step, with_padding

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

    def sizes(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return a tensor's shape without its channels.

        >>> Layout((0, 3, 1, 2)).sizes((1, 7, 5, 768))
        (1, 7, 5)
        """
        return (*shape[: self.channel], *shape[self.channel + 1 :])

    def channels_first(self, tensor: Tensor) -> Tensor:
        """Return the tensor as `(N, C, h, w)`, a view unless there is a `sequence`."""
        if self.tokens is not None:
            dimension, first, height, width = self.tokens
            if self.sequence is None:
                tensor = tensor.narrow(dimension, first, height * width)
            else:
                index = torch.tensor(self.sequence, dtype=torch.long, device=tensor.device)
                tensor = tensor.index_select(dimension, index)
            tensor = torch.unflatten(tensor, dimension, (height, width))
        return tensor if self.order == (0, 1, 2, 3) else tensor.permute(self.order)


CHANNELS_FIRST = Layout((0, 1, 2, 3))
CHANNELS_LAST = Layout((0, 3, 1, 2))


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
        of_padding = with_padding(field)[:2]
        tokens = _token_grid(of_padding, dimension, shape[dimension])
        sequence = None
        if tokens is None:
            found = _scattered_grid(of_padding, dimension)
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


def layout_of_one(shape: Sequence[int], images: int) -> Layout | None:
    """Return the layout of a tensor with one location an image, None if it has several.

    Its coordinates are the same everywhere and tell nothing; its rows and columns are of size 1.

    Args:
        shape: The tensor's shape.
        images: N of the images.

    >>> layout_of_one((2, 8, 1, 1), 2) == CHANNELS_FIRST
    True
    >>> layout_of_one((2, 1, 1, 8), 2) == CHANNELS_LAST
    True
    """
    if len(shape) != 4 or shape[0] % images:
        return None
    for layout in (CHANNELS_FIRST, CHANNELS_LAST):
        if all(shape[dimension] == 1 for dimension in layout.order[2:]):
            return layout
    return None


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
        for line in range(1, length + 1):
            # Padding may repeat the places of whole lines.
            if length % line or bool((along[fast, ::line] - along[fast, 0]).abs().amax() > EQUAL):
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

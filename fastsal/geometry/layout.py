"""Layouts: which dimensions of a tensor are the image, the channel and the axes of its grid."""

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
        order: The dimensions of image, channel, row and column, after `tokens` are unfolded; of
            volumes those of image, channel, slice, row and column.
        tokens: For locations in one dimension: that dimension, the first location, and (h, w), or
            (w, h) if they go down the columns first; (1, -1) if they all are one row, as of
            signals; None for rows and columns of their own.
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
        return list(self.order[2:]) != sorted(self.order[2:])

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
        """Return the tensor as `(N, C, h, w)`, a view unless there is a `sequence`.

        Volumes are `(N, C, d, h, w)`, and signals `(N, C, 1, t)`.
        """
        if self.tokens is not None:
            dimension, first, height, width = self.tokens
            if width < 0:
                tensor = tensor.unsqueeze(dimension)
                return tensor.permute(self.order)
            if self.sequence is None:
                tensor = tensor.narrow(dimension, first, height * width)
            else:
                index = torch.tensor(self.sequence, dtype=torch.long, device=tensor.device)
                tensor = tensor.index_select(dimension, index)
            tensor = torch.unflatten(tensor, dimension, (height, width))
        return tensor if self.order == tuple(range(tensor.dim())) else tensor.permute(self.order)

    def in_order(self, maps: Tensor) -> Tensor:
        """Return maps `(N, C, h, w)` with their axes in the order that the layer's tensor has.

        >>> Layout((0, 1, 3, 2)).in_order(torch.zeros(1, 1, 5, 7)).shape
        torch.Size([1, 1, 7, 5])
        """
        axes = self.order[2:]
        # The place of each axis among the tensor's own.
        return maps.permute(0, 1, *(2 + axes.index(axis) for axis in sorted(axes)))


CHANNELS_FIRST = Layout((0, 1, 2, 3))
CHANNELS_LAST = Layout((0, 3, 1, 2))
# Of volumes (N, C, D, H, W).
CHANNELS_FIRST_3D = Layout((0, 1, 2, 3, 4))
CHANNELS_LAST_3D = Layout((0, 4, 1, 2, 3))


# Of signals (N, C, T), whose locations are one row.
OF_SIGNAL = Layout((0, 1, 2, 3), (2, 0, 1, -1))
LAST = (CHANNELS_LAST, CHANNELS_LAST_3D)
# With a dimension for each axis, in the axes' order.
IN_ORDER = (CHANNELS_FIRST, CHANNELS_FIRST_3D, OF_SIGNAL, *LAST)


def layout_of(field: Tensor, shape: Sequence[int], images: int) -> Layout | None:
    """Return the meaning of a tensor's dimensions by its coordinates, None if it is no map.

    Args:
        field: The tensor's field.
        shape: The tensor's shape.
        images: N of the images.
    """
    places = positions(field)
    axes = len(places) - 1
    dimensions = range(len(shape))
    of_image = _varying(places[-1], ())
    if len(shape) == axes + 2 and shape[0] % images == 0 and of_image in ([], [0]):
        # Views of one image in a batch that grows differ in rows and columns too.
        of_image = [0]
    along = [_varying(component, of_image) for component in places[:-1]]
    of_image = [d for d in of_image if not all(d in of_axis for of_axis in along)]
    if len(of_image) > 1 or not any(along):
        return None
    if of_image:
        batch = of_image[0]
    else:
        shown = [d for of_axis in along for d in of_axis]
        free = [d for d in dimensions if d not in shown and shape[d] % images == 0]
        if not free:
            return None
        batch = free[0]
    if len(shape) == axes + 2:
        return _of_axes(along, batch, shape)
    if len(shape) != 3 or axes != 2 or len(set(along[0] + along[1])) != 1:
        return None
    dimension = (along[0] or along[1])[0]
    (channel,) = (d for d in dimensions if d not in (batch, dimension))
    of_padding = with_padding(field)[:-1]
    tokens = _token_grid(of_padding, dimension, shape[dimension])
    sequence = None
    if tokens is None:
        found = _scattered_grid(of_padding, dimension)
        if found is None:
            return None
        height, width, sequence = found
        tokens = (0, height, width, False)
    first, height, width, by_column = tokens
    if (first, height, width, by_column) == (0, 1, shape[dimension], False) and sequence is None:
        width = -1
    # Unfolding moves the dimensions after it by one.
    order = [d + (d > dimension) for d in (batch, channel)]
    order += [dimension + 1, dimension] if by_column else [dimension, dimension + 1]
    return Layout(tuple(order), (dimension, first, height, width), sequence)


def _of_axes(along: Sequence[list[int]], batch: int, shape: Sequence[int]) -> Layout | None:
    """Return the layout of a tensor with a dimension for each axis, None if it is no map.

    Args:
        along: For each axis the dimensions along which places change on it.
        batch: The dimension of images.
        shape: The tensor's shape.
    """
    turned = next((of_axis for of_axis in along if len(of_axis) > 1), None)
    if turned is not None:
        # Turned by an angle: rows and columns of locations, but not of pixels.
        straight = [of_axis[0] for of_axis in along if of_axis and of_axis != turned]
        plane = sorted({*turned, *straight})
        as_one = all(len(of_axis) == 1 or of_axis == turned for of_axis in along)
        if not as_one or len(plane) != len(along) or set(straight) & set(turned):
            return None
        return _with_channel((batch, *plane), shape)
    known = {axis: of_axis[0] for axis, of_axis in enumerate(along) if of_axis}
    if len(set(known.values())) < len(known):
        return None
    for axis in range(len(along)):
        if axis in known:
            continue
        # One row: the dimension of size 1 beside the columns, or the first of that size.
        nearest = min(known, key=lambda other: abs(other - axis))
        place = known[nearest] + axis - nearest
        taken = (batch, *known.values())
        free = [d for d in range(len(shape)) if d not in taken and shape[d] == 1]
        if not free:
            return None
        known[axis] = min(free, key=lambda d: abs(place - d))
    return _with_channel((batch, *(known[axis] for axis in range(len(along)))), shape)


def _with_channel(order: tuple[int, ...], shape: Sequence[int]) -> Layout | None:
    """Return the layout of all dimensions but one, which is that of the channels."""
    others = [d for d in range(len(shape)) if d not in order]
    return Layout((order[0], others[0], *order[1:])) if len(others) == 1 else None


def layout_of_one(shape: Sequence[int], images: int, size: Sequence[int]) -> Layout | None:
    """Return the layout of a tensor with one location an image, None if it has several.

    Its coordinates are the same everywhere and tell nothing; its rows and columns are of size 1.

    Args:
        shape: The tensor's shape.
        images: N of the images.
        size: (H, W) of the images.

    >>> layout_of_one((2, 8, 1, 1), 2, (9, 9)) == CHANNELS_FIRST
    True
    >>> layout_of_one((2, 1, 1, 8), 2, (9, 9)) == CHANNELS_LAST
    True
    """
    if shape[0] % images:
        return None
    if len(shape) == 3 and size[0] == shape[2] == 1:
        return OF_SIGNAL
    for layout in (CHANNELS_FIRST, CHANNELS_LAST, CHANNELS_FIRST_3D, CHANNELS_LAST_3D):
        if len(layout.order) != len(shape) or len(shape) != len(size) + 2:
            continue
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

"""Placements: the places in the image of the rows and columns of a tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from fastsal.geometry.coordinates import Fields
from fastsal.geometry.fields import line_of, positions, step
from fastsal.geometry.layout import (
    CHANNELS_FIRST,
    CHANNELS_FIRST_3D,
    EQUAL,
    OF_SIGNAL,
    Layout,
    layout_of,
    layout_of_one,
)
from fastsal.geometry.seen import Interval, Seen, Sides

# Locations may be so many locations off an even stretch over what is seen, or such a share of it,
# that the stretch is taken instead, as the paper does: windows of stride 2 with symmetric padding
# are centred half a location before it, those of a few layers without padding closer to the middle.
TOLERANCE = 0.75
SHARE = 0.04
# In pixels: nearer to the image's edge is at it.
NEAR = 0.51
# Pixels from a location to the next, down and across; of volumes from a slice to the next first.
Steps = tuple[float, ...]
TURNED = "its locations lie in no slices, rows and columns of voxels, as of a volume that is turned"


@dataclass(frozen=True, eq=False)
class Points:
    """The places of single locations, where rows of locations are no rows of pixels.

    Attributes:
        rows: `(h, w)`, the pixel row of each location; NaN for what shows no pixel.
        columns: `(h, w)`, the pixel column likewise.
        pitch: The distance of neighbours, in pixels.
    """

    rows: Tensor
    columns: Tensor
    pitch: float


class View(NamedTuple):
    """The places of one map's locations.

    Attributes:
        block: The map's number among those of one image.
        rows: The pixel row of each row of locations, `math.inf` for what shows no pixel.
        columns: The pixel column of each column of locations, likewise.
        seen: (first, last) of the pixel rows, and of the columns, that the network sees; of volumes
            those of the slices before.
        image: The image in the batch that is shown so; None for each of them.
        points: The places of single locations, as of an image that is turned by an angle; None if
            those of rows and of columns say it all.
        slices: The slice of voxels of each slice of locations; empty for an image.
    """

    block: int
    rows: tuple[float, ...]
    columns: tuple[float, ...]
    seen: Sides
    image: int | None = None
    points: Points | None = None
    slices: tuple[float, ...] = ()

    @property
    def lines(self) -> tuple[tuple[float, ...], ...]:
        """The places along each axis: rows and columns, of volumes slices before."""
        return (self.slices, self.rows, self.columns) if self.slices else (self.rows, self.columns)


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

    @property
    def varies(self) -> bool:
        """True if the images of a batch lie in different places."""
        return any(view.image is not None for view in self.views)

    def of_image(self, image: int) -> Placement:
        """Return the places of one image of the batch, alone."""
        own = [view for view in self.views if view.image in (None, image)]
        return replace(self, views=tuple(view._replace(image=None) for view in own))


class Located(NamedTuple):
    """A tensor's place on the image.

    Attributes:
        layout: The meaning of its dimensions.
        steps: Pixels from a location to the next, down and across; of volumes from a slice to the
            next first; of signals, which count as one row, the second is along it.
        strides: The same; if the network enlarges the image before its first weights, or makes it
            square, counted in elements of their input.
        placement: Its places; None for the plain stretch over the whole image.
        doubt: The reason why the places are not certain; empty if they are.
        varies: True if the images' values decide the places.
    """

    layout: Layout
    steps: tuple[float, ...]
    strides: tuple[float, ...]
    placement: Placement | None = None
    doubt: str = ""
    varies: bool = False

    @property
    def octaves(self) -> tuple[int, ...]:
        """The strides as powers of two (nominal), 1 or more."""
        return tuple(2 ** max(0, round(math.log2(stride))) for stride in self.strides)


def stretch_of(shape: Sequence[int], size: Sequence[int]) -> Located | None:
    """Return the place of a tensor that counts as stretched over the image, by its shape alone.

    Args:
        shape: `(N, C, h, w)`; `(N, C, d, h, w)` of volumes, `(N, C, t)` of signals; None is
            returned for another number of dimensions.
        size: (H, W) of the image; (D, H, W), or (1, T).

    >>> stretch_of((1, 8, 4, 4), (32, 32)).octaves
    (8, 8)
    >>> stretch_of((1, 8, 125), (1, 500)).octaves
    (1, 4)
    """
    if 0 in shape:
        return None
    if len(shape) == 3 and size[0] == 1 and len(size) == 2:
        steps = 1.0, size[1] / shape[2]
        return Located(OF_SIGNAL, steps, steps)
    if len(shape) != len(size) + 2:
        return None
    apart = tuple(side / count for side, count in zip(size, shape[2:], strict=True))
    return Located(CHANNELS_FIRST if len(size) == 2 else CHANNELS_FIRST_3D, apart, apart)


def located(
    fields: Fields,
    shape: Sequence[int],
    images: int,
    size: Sequence[int],
    single: bool = False,
) -> Located | None:
    """Return the place of a tensor on the image, None if it shows no places along rows or columns.

    Args:
        fields: The tensor's coordinates.
        shape: Its shape.
        images: N of the images.
        size: (H, W) of the images; (D, H, W) of volumes, (1, T) of signals.
        single: True if one location counts as a map, as of a layer that is given. Among those that
            are searched for scales it does not: features pooled from all of the image are no scale.
    """
    if not fields.places or not 3 <= len(shape) <= len(size) + 2:
        return None
    layout = layout_of(fields.places[0], shape, images)
    if layout is None and single:
        layout = layout_of_one(shape, images, size)
    if layout is None:
        return None
    seen = fields.seen or Seen((_all_of(size),), (1.0,) * len(size))
    base = seen.steps
    doubt = ""
    if fields.unknown:
        doubt = f"it is not known where {', '.join(fields.unknown)} brings the pixels"
    views: list[View] = []
    steps: list[Steps] = []
    blocks, interleaved, moved = 1, False, False
    for field in fields.places:
        # At its full size but for the channels, which are many.
        sizes = list(shape)
        sizes[layout.channel] = field.shape[layout.channel + 1]
        full = positions(field).expand(-1, *sizes)
        places = torch.stack([layout.channels_first(part) for part in full])
        # Channels show one place, or their mean does.
        places = places.nanmean(2)
        entries = places.shape[1]
        blocks = max(1, entries // images)
        index = places[-1].flatten(1).nanmean(1)
        interleaved = blocks > 1 and bool((index[:blocks] - index[0]).abs().max() < EQUAL)
        for block in range(blocks):
            of_block = slice(block, None, blocks)
            if not interleaved:
                of_block = slice(block * images, (block + 1) * images)
            block_places = places[:-1, of_block]
            alike = _equal(block_places, block_places[:, :1])
            for image in range(1 if alike else block_places.shape[1]):
                entry = range(entries)[of_block][image]
                view, apart = _view(block_places[:, image], block, seen.of_entry(entry, entries))
                views.append(view if alike else view._replace(image=image))
                steps.append(apart)
                moved |= not alike or _moves(view, size)
    apart = tuple(
        one or (last - first) / max(len(line), 1)
        for one, (first, last), line in zip(steps[0], views[0].seen, views[0].lines, strict=True)
    )
    if len(size) > 2 and any(view.points is not None for view in views):
        doubt = doubt or TURNED
    placement: Placement | None = Placement(tuple(views), blocks, interleaved, moved)
    if doubt or (blocks == len(views) == 1 and not moved and _is_even(views[0])):
        placement = None
    # If the network enlarges the image, or squares it, there is no one stride on the image.
    even = min(base) > 0.7 and math.log2(max(base) / min(base)) < 0.6
    strides = apart if even else tuple(one / of for one, of in zip(apart, base, strict=True))
    return Located(layout, apart, strides, placement, doubt, fields.varies)


def _all_of(size: Sequence[int]) -> Sides:
    return tuple((0.0, float(side)) for side in size)


def _view(entry: Tensor, block: int, sides: Sides) -> tuple[View, Steps]:
    """Return the view of one map, and the pixels from a location to the next.

    Args:
        entry: `(2, h, w)`, the pixel row and column of each location; `(3, d, h, w)` of volumes.
        block: The map's number among those of its image.
        sides: The rows and columns that the network sees.
    """
    means = [line_of(places, axis) for axis, places in enumerate(entry)]
    *slices, rows, columns = (_even(line, side) for line, side in zip(means, sides, strict=True))
    view = View(block, rows, columns, sides, slices=slices[0] if slices else ())
    if _separable(entry, means):
        return view, tuple(step(line) for line in means)
    apart = _pitch(entry)
    return view._replace(points=Points(entry[-2], entry[-1], min(apart))), apart


def _pitch(entry: Tensor) -> Steps:
    """Return the distance of neighbours down and across, where they lie in any direction."""
    places = entry.flatten(1)
    places = places[:, ~places.isnan().any(0)]
    extent = (places.amax(1) - places.amin(1)).clamp_min(1.0)
    # Of pixels in any order neighbours are far apart, and the map is as dense as ever.
    dense = (float(extent.prod()) / places.shape[1]) ** (1 / len(entry))
    found = []
    for dimension in range(1, entry.dim()):
        apart = entry.diff(dim=dimension).square().sum(0).sqrt().flatten()
        apart = apart[~apart.isnan()]
        found.append(min(float(apart.median()), dense) if apart.numel() else dense)
    return tuple(found)


def _moves(view: View, size: Sequence[int]) -> bool:
    """Return True if a network moves, crops or pads the image before a view of it."""
    return view.points is not None or any(
        not _ascending(line) or abs(side[0]) > NEAR or abs(side[1] - length) > NEAR
        for line, side, length in zip(view.lines, view.seen, size, strict=True)
    )


def _separable(entry: Tensor, means: Sequence[Tensor]) -> bool:
    """Return True if all locations of a row show one pixel row, and of a column one column."""
    for axis, (places, line) in enumerate(zip(entry, means, strict=True)):
        apart = step(line)
        off = (places - line.reshape(-1, *[1] * (len(means) - 1 - axis))).abs()
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
    sides = zip(view.lines, view.seen, strict=True)
    return all(places == _stretch(len(places), side) for places, side in sides)


def of_parts(
    parts: Sequence[tuple[int, Placement | None]], size: Sequence[int]
) -> Placement | None:
    """Return the places of a batch from those of its parts.

    Args:
        parts: For each part its number of images, and their places.
        size: (H, W) of the images; (D, H, W) of volumes.
    """
    first = parts[0][1]
    if all(place == first for _, place in parts) and not (first and first.varies):
        return first
    known = next(place for _, place in parts if place is not None)
    whole = _all_of(size)
    *slices, rows, columns = (
        _stretch(len(line), side) for line, side in zip(known.views[0].lines, whole, strict=True)
    )
    plain = Placement((View(0, rows, columns, whole, slices=slices[0] if slices else ()),))
    views: list[View] = []
    before = 0
    for images, place in parts:
        for image in range(images):
            own = (place or plain).of_image(image).views
            views += [view._replace(image=before + image) for view in own]
        before += images
    return replace(known, views=tuple(views))

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
from fastsal.geometry.layout import CHANNELS_FIRST, EQUAL, Layout, layout_of, layout_of_one
from fastsal.geometry.seen import Interval, Seen

# Locations may be so many locations off an even stretch over what is seen, or such a share of it,
# that the stretch is taken instead, as the paper does: windows of stride 2 with symmetric padding
# are centred half a location before it, those of a few layers without padding closer to the middle.
TOLERANCE = 0.75
SHARE = 0.04
# In pixels: nearer to the image's edge is at it.
NEAR = 0.51
# Pixels from a location to the next, down and across.
Steps = tuple[float, float]


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
        seen: (first, last) of the pixel rows, and of the columns, that the network sees.
        image: The image in the batch that is shown so; None for each of them.
        points: The places of single locations, as of an image that is turned by an angle; None if
            those of rows and of columns say it all.
    """

    block: int
    rows: tuple[float, ...]
    columns: tuple[float, ...]
    seen: tuple[tuple[float, float], tuple[float, float]]
    image: int | None = None
    points: Points | None = None


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
        steps: Pixels from a location to the next, down and across.
        strides: The same; if the network enlarges the image before its first weights, or makes it
            square, counted in elements of their input.
        placement: Its places; None for the plain stretch over the whole image.
        doubt: The reason why the places are not certain; empty if they are.
        varies: True if the images' values decide the places.
    """

    layout: Layout
    steps: tuple[float, float]
    strides: tuple[float, float]
    placement: Placement | None = None
    doubt: str = ""
    varies: bool = False

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
    fields: Fields,
    shape: Sequence[int],
    images: int,
    size: tuple[int, int],
    single: bool = False,
) -> Located | None:
    """Return the place of a tensor on the image, None if it shows no places along rows or columns.

    Args:
        fields: The tensor's coordinates.
        shape: Its shape.
        images: N of the images.
        size: (H, W) of the images.
        single: True if one location counts as a map, as of a layer that is given. Among those that
            are searched for scales it does not: features pooled from all of the image are no scale.
    """
    if not fields.places or not 3 <= len(shape) <= 4:
        return None
    layout = layout_of(fields.places[0], shape, images)
    if layout is None and single:
        layout = layout_of_one(shape, images)
    if layout is None:
        return None
    whole: tuple[Interval, Interval] = ((0.0, float(size[0])), (0.0, float(size[1])))
    seen = fields.seen or Seen((whole,), (1.0, 1.0))
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
        index = places[2].flatten(1).nanmean(1)
        interleaved = blocks > 1 and bool((index[:blocks] - index[0]).abs().max() < EQUAL)
        for block in range(blocks):
            of_block = slice(block, None, blocks)
            if not interleaved:
                of_block = slice(block * images, (block + 1) * images)
            block_places = places[:2, of_block]
            alike = _equal(block_places, block_places[:, :1])
            for image in range(1 if alike else block_places.shape[1]):
                entry = range(entries)[of_block][image]
                view, apart = _view(block_places[:, image], block, seen.of_entry(entry, entries))
                views.append(view if alike else view._replace(image=image))
                steps.append(apart)
                moved |= not alike or _moves(view, size)
    down, across = (
        one or (last - first) / max(count, 1)
        for one, (first, last), count in zip(
            steps[0], views[0].seen, (len(views[0].rows), len(views[0].columns)), strict=True
        )
    )
    placement: Placement | None = Placement(tuple(views), blocks, interleaved, moved)
    if doubt or (blocks == len(views) == 1 and not moved and _is_even(views[0])):
        placement = None
    # If the network enlarges the image, or squares it, there is no one stride on the image.
    even = min(base) > 0.7 and abs(math.log2(base[0] / base[1])) < 0.6
    strides = (down, across) if even else (down / base[0], across / base[1])
    return Located(layout, (down, across), strides, placement, doubt, fields.varies)


def _view(entry: Tensor, block: int, sides: tuple[Interval, Interval]) -> tuple[View, Steps]:
    """Return the view of one map, and the pixels from a location to the next.

    Args:
        entry: `(2, h, w)`, the pixel row and column of each location.
        block: The map's number among those of its image.
        sides: The rows and columns that the network sees.
    """
    rows, columns = line_of(entry[0], 0), line_of(entry[1], 1)
    lines = [_even(line, side) for line, side in zip((rows, columns), sides, strict=True)]
    view = View(block, lines[0], lines[1], sides)
    if _separable(entry, rows, columns):
        return view, (step(rows), step(columns))
    apart = _pitch(entry)
    return view._replace(points=Points(entry[0], entry[1], min(apart))), apart


def _pitch(entry: Tensor) -> Steps:
    """Return the distance of neighbours down and across, where they lie in any direction."""
    places = entry.flatten(1)
    places = places[:, ~places.isnan().any(0)]
    extent = (places.amax(1) - places.amin(1)).clamp_min(1.0)
    # Of pixels in any order neighbours are far apart, and the map is as dense as ever.
    dense = math.sqrt(float(extent.prod()) / places.shape[1])
    found = []
    for dimension in (1, 2):
        apart = entry.diff(dim=dimension).square().sum(0).sqrt().flatten()
        apart = apart[~apart.isnan()]
        found.append(min(float(apart.median()), dense) if apart.numel() else dense)
    return found[0], found[1]


def _moves(view: View, size: tuple[int, int]) -> bool:
    """Return True if a network moves, crops or pads the image before a view of it."""
    return view.points is not None or any(
        not _ascending(line) or abs(side[0]) > NEAR or abs(side[1] - length) > NEAR
        for line, side, length in zip((view.rows, view.columns), view.seen, size, strict=True)
    )


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


def of_parts(
    parts: Sequence[tuple[int, Placement | None]], size: tuple[int, int]
) -> Placement | None:
    """Return the places of a batch from those of its parts.

    Args:
        parts: For each part its number of images, and their places.
        size: (H, W) of the images.
    """
    first = parts[0][1]
    if all(place == first for _, place in parts) and not (first and first.varies):
        return first
    known = next(place for _, place in parts if place is not None)
    whole = ((0.0, float(size[0])), (0.0, float(size[1])))
    counts = len(known.views[0].rows), len(known.views[0].columns)
    lines = [_stretch(count, side) for count, side in zip(counts, whole, strict=True)]
    plain = Placement((View(0, lines[0], lines[1], whole),))
    views: list[View] = []
    before = 0
    for images, place in parts:
        for image in range(images):
            own = (place or plain).of_image(image).views
            views += [view._replace(image=before + image) for view in own]
        before += images
    return replace(known, views=tuple(views))

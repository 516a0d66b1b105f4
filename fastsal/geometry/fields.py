"""Fields: the pixel coordinates of a tensor's elements, and their arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

# The weight of what comes from a pixel, at least; and that of padding, whose place is known.
LEAST, PADDING = 1e-6, 1e-20
HALF = 0.5
# The most places that one location may show at once, as where an image is added to its mirror.
MOST_PLACES = 4


def start(image: Tensor, first: int, size: Sequence[int]) -> Tensor:
    """Return the field of an image batch.

    Its components are the weight, and the weight times the place along each axis, the slowest
    first, and times the image's index.

    Args:
        image: `(N, C, H, W)`; volumes `(N, C, D, H, W)`; signals `(N, C, T)`, which count as one
            row of pixels.
        first: The index of its first image.
        size: (H, W) in pixels of the scene that it shows; (D, H, W) in voxels; (1, T).

    >>> start(torch.zeros(1, 3, 2, 2), 0, (2, 2))[:, 0, 0, 1, 0].tolist()
    [1.0, 1.5, 0.5, 0.0]
    """
    count, _, *sides = image.shape
    device = image.device
    shape = (2 + len(size), count, 1, *sides)
    field = torch.ones(shape, device=device, dtype=torch.float32)
    # The one row of a signal.
    field[1] = HALF
    for axis in range(-len(sides), 0):
        side = sides[axis]
        places = torch.arange(side, dtype=torch.float32, device=device) + HALF
        places = places * (size[axis] / side)
        field[axis - 1] = places.reshape(-1, *[1] * (-axis - 1))
    index = torch.arange(first, first + count, dtype=torch.float32, device=device)
    field[-1] = index.reshape(-1, *[1] * (len(sides) + 1))
    return field


def axes_of(field: Tensor) -> int:
    """Return the number of axes of a field's places: 2 of images and signals, 3 of volumes."""
    return len(field) - 2


def nowhere(components: int, dimensions: int, device: torch.device) -> Tensor:
    """Return the field of a tensor that comes from no pixel."""
    return torch.zeros((components,) + (1,) * dimensions, dtype=torch.float32, device=device)


def whole(tensor: Tensor, places: Sequence[Tensor], components: int) -> Tensor:
    """Return a copy of a tensor's first field at its full size; nowhere if there is none."""
    field = places[0] if places else nowhere(components, tensor.dim(), tensor.device)
    return field.expand(-1, *tensor.shape).contiguous().clone()


def positions(field: Tensor) -> Tensor:
    """Return (row, column, image) `(3, ...)` of a field; NaN where it comes from no pixel.

    Of volumes (slice, row, column, image).
    """
    weight = field[0]
    return torch.where(weight > LEAST, field[1:] / weight.clamp_min(LEAST), math.nan)


def with_padding(field: Tensor) -> Tensor:
    """Return positions, as `positions` does, of padding too: its places beside the pixels."""
    weight = field[0]
    return torch.where(weight >= PADDING / 2, field[1:] / weight.clamp_min(PADDING / 2), math.nan)


def extent(field: Tensor) -> float:
    """Return the number of pixels between the farthest places that a field shows."""
    places = positions(field)[:-1].flatten(1)
    known = ~places[0].isnan()
    if not bool(known.any()):
        return 0.0
    places = places[:, known]
    return float((places.amax(1) - places.amin(1)).amax())


def spacing(field: Tensor) -> float:
    """Return the median number of pixels from a location to the next, along the closest dimension.

    0 if the field shows one place.
    """
    places = positions(field)[:-1]
    apart = [_neighbours(places, dimension, 1e-3) for dimension in range(1, places.dim())]
    return min((found for found in apart if found), default=0.0)


def spacings(field: Tensor) -> tuple[float, ...]:
    """Return the median number of pixels from a row to the next, and from a column; 0 for one."""
    neighbours = (
        [_neighbours(axis[None], dimension, 0.1) for dimension in range(1, axis.dim() + 1)]
        for axis in positions(field)[:-1]
    )
    return tuple(min((found for found in axis if found), default=0.0) for axis in neighbours)


def _neighbours(places: Tensor, dimension: int, least: float) -> float:
    """Return the median distance of neighbours that are apart, 0 for none.

    Args:
        places: `(axes, ...)`; the farther of the axes counts.
        dimension: The dimension along which they are neighbours.
        least: The least distance, in pixels.
    """
    steps = places.diff(dim=dimension).abs().amax(0).flatten()
    steps = steps[steps > least]
    return float(steps.nanmedian()) if steps.numel() else 0.0


def step(places: Tensor) -> float:
    """Return the distance of neighbours along the last dimension, 0 if there is none.

    That is the median, or the mean of those in the middle if few are alike and none is a jump. It
    is less if places are repeated, as by nearest-neighbour interpolation; what pads the ends does
    not count.

    Args:
        places: Rows, or columns, in pixels; NaN counts as none.

    >>> step(torch.tensor([1.0, 1.0, 3.0, 3.0])), step(torch.tensor([5.0, 7.0, 1.0, 3.0]))
    (1.0, 2.0)
    """
    lines = places.flatten(0, -2) if places.dim() > 1 else places[None]
    lines = lines[:, ~lines.isnan().all(0)]
    differences = lines.diff(dim=-1)
    differences = differences[~differences.isnan().any(1)]
    if not differences.numel():
        return 0.0
    line = differences[0]
    moves = line[line.abs() > 1e-3].abs()
    if not moves.numel():
        return 0.0
    middle = float(moves.median())
    ordered = bool((line > -1e-3).all() | (line < 1e-3).all())
    jumps = not ordered or float(moves.max()) > 2.5 * middle
    runs = _runs(line)
    if max(runs) > 1:
        return (middle if jumps else float(moves.mean())) * len(runs) / sum(runs)
    # Windows that reach outside are drawn to the edges: there, moves differ.
    usual = float(((moves - middle).abs() < 0.02 * middle).float().mean())
    if jumps or usual > 0.6:
        return middle
    edge = len(moves) // 4
    return float(moves[edge : len(moves) - edge].mean())


def _runs(line: Tensor) -> list[int]:
    """Return how often each place comes before the next, less what pads the ends of the line.

    Args:
        line: The differences of neighbours.
    """
    at = (line.abs() > 1e-3).nonzero()[:, 0].tolist()
    edges = [-1, *at, len(line)]
    runs = [after - before for before, after in pairwise(edges)]
    inner = sorted(runs[1:-1])
    usual = inner[len(inner) // 2] if inner else min(runs)
    return [min(runs[0], usual), *runs[1:-1], min(runs[-1], usual)]


def line_of(places: Tensor, dimension: int) -> Tensor:
    """Return the mean place along one dimension, continued evenly where it is nowhere.

    Args:
        places: Rows, or columns, in pixels; NaN is nowhere, such as padding.
        dimension: The dimension.

    >>> line_of(torch.tensor([torch.nan, 0.5, 1.5, torch.nan]), 0).tolist()
    [-0.5, 0.5, 1.5, 2.5]
    """
    line = places.movedim(dimension, -1).flatten(0, -2) if places.dim() > 1 else places[None]
    line = line.nanmean(0)
    known = (~line.isnan()).nonzero()[:, 0]
    if len(known) < 2 or len(known) == len(line):
        return line
    index = torch.arange(len(line), dtype=torch.long, device=line.device)
    first, last = known[0], known[-1]
    slope = torch.sign(line[last] - line[first]) * step(line[first : last + 1])
    line = torch.where(index < first, line[first] + (index - first) * slope, line)
    return torch.where(index > last, line[last] + (index - last) * slope, line)


def width_of(line: Tensor) -> float:
    """Return the number of pixels from the first to the last place of a line."""
    known = line[~line.isnan()]
    return float(known.max() - known.min()) if len(known) else 0.0


def compressed(field: Tensor) -> Tensor:
    """Return a field with size 1 along the dimensions in which all is equal."""
    for dimension in range(1, field.dim()):
        if field.shape[dimension] > 1:
            first = field.narrow(dimension, 0, 1)
            if field.stride(dimension) == 0 or bool((field == first).all()):
                field = first
    return field


def stacked(components: Sequence[Tensor]) -> Tensor:
    """Return the field of its components, which are copied at their least size."""
    parts = list(components)
    for dimension in range(parts[0].dim()):
        if all(part.shape[dimension] > 1 and part.stride(dimension) == 0 for part in parts):
            parts = [part.narrow(dimension, 0, 1) for part in parts]
    return compressed(torch.stack(parts))


def distinct(fields: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the fields that show other places than those before, `MOST_PLACES` at most."""
    kept: list[Tensor] = []
    for field in fields:
        if not any(field is other or _alike(field, other) for other in kept):
            kept.append(field)
    return tuple(kept[:MOST_PLACES])


def _alike(field: Tensor, other: Tensor) -> bool:
    difference = (positions(field) - positions(other)).abs()[:-1].amax(0)
    known = ~difference.isnan()
    if not bool(known.any()):
        return True
    # A location's neighbour is near enough: windows of two branches differ by so much.
    return float(difference[known].median()) <= max(spacing(field), spacing(other), 1.0)


def without_dimension(field: Tensor, dimension: int) -> tuple[Tensor, ...]:
    """Return the fields of values that are computed from all along one dimension.

    That is the mean, unless a few distant places are mixed, as in a concatenation of an image with
    its mirror: then one field each.

    Args:
        field: The field.
        dimension: The dimension, counted from the last (negative).
    """
    if field.shape[dimension] == 1:
        return (field,)
    mean = field.mean(dimension, keepdim=True)
    found: list[Tensor] = []
    # Slices of one kind follow each other: a search of the edges between them is enough.
    count = field.shape[dimension]
    equal = (field.diff(dim=dimension) == 0).movedim(dimension, -1).flatten(0, -2).all(0)
    edges = [0, *((~equal).nonzero()[:, 0] + 1).tolist()]
    if len(edges) > 4 * MOST_PLACES:
        return (mean,)
    for first in edges:
        part = field.narrow(dimension, first, 1)
        known = bool((part[0] > LEAST).any())
        if known and not any(_alike(part, other) and _as_wide(part, other) for other in found):
            found.append(part)
    if not 1 < len(found) <= MOST_PLACES or count == len(found) == 1:
        return (mean,)
    # Beside a trunk, pooled context shows its places coarsely.
    extents = [extent(part) for part in found]
    found = [part for part, far in zip(found, extents, strict=True) if far >= 0.9 * max(extents)]
    if len(found) == 1:
        return tuple(found)
    # Neighbours, as in a patch of pixels, are one place.
    if all(_alike(mean, part) for part in found):
        return (mean,)
    return tuple(found)


def _as_wide(field: Tensor, other: Tensor) -> bool:
    return abs(extent(field) - extent(other)) <= 0.1 * max(extent(field), extent(other))

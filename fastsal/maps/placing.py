"""Laying of maps on the image where a network has moved, cropped or padded it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from fastsal.geometry.placement import Placement, Points, View
from fastsal.maps.resize import upsample

HALF = 0.5
# No location of a turned grid is farther from a pixel between its locations, in pitches.
NEIGHBOUR = 0.75


def placed(maps: Tensor, placement: Placement | None, size: Sequence[int]) -> Tensor:
    r"""Return maps laid on the image, `(N, H, W)`.

    $$M = \frac{\sum_v R_v S_v C_v^T}{\sum_v r_v c_v^T}$$

    with `S_v` the map of a view, `R_v` and `C_v` the matrices that interpolate linearly between the
    rows and the columns of locations, and $r_v$, $c_v$ 1 where the view shows the pixel, else 0. A
    pixel that no view shows has no salience: 0. One that several views show has their mean. Slices
    of a volume are interpolated linearly after their rows and columns.

    Args:
        maps: `(N, h, w)`, or `(N * blocks, h, w)` with an image's maps one after the other; of
            volumes `(N, d, h, w)`.
        placement: Their places; None stretches them over the image, as `upsample` does.
        size: (H, W) of the image; (D, H, W) of volumes.

    >>> from fastsal.geometry.placement import View
    >>> mirrored = View(0, (0.5,), (1.5, 0.5), ((0.0, 1.0), (0.0, 2.0)))
    >>> placed(torch.tensor([[[1.0, 2.0]]]), Placement((mirrored,)), (1, 3)).tolist()
    [[[2.0, 1.0, 0.0]]]
    """
    if placement is None:
        return upsample(maps, size)[:, 0]
    images = maps.unflatten(0, (-1, placement.blocks))  # type: ignore[no-untyped-call]
    total = images.new_zeros((len(images), *size))
    shown = images.new_zeros((len(images) if placement.varies else 1, *size))
    for view in placement.views:
        own = slice(None) if view.image is None else slice(view.image, view.image + 1)
        laid, shows = _laid(images[own, view.block], view, size)
        total[own] += laid
        shown[own] += shows
    mean: Tensor = total / shown.clamp_min(1.0)
    return mean


def _laid(maps: Tensor, view: View, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return maps `(N, H, W)` laid as a view shows them, and 1 for the pixels that it shows."""
    if view.points is not None:
        return _scattered(maps, view.points, size)
    *slices, rows, columns = (one.to(maps.device, maps.dtype) for one in matrices(view, size))
    laid, shown = rows @ maps @ columns.T, rows.sum(1)[:, None] * columns.sum(1)
    for matrix in slices:
        laid = torch.einsum("zd,ndyx->nzyx", matrix, laid)
        shown = matrix.sum(1)[:, None, None] * shown
    return laid, shown


def _scattered(maps: Tensor, points: Points, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    r"""Return maps laid from single locations, and 1 for the pixels that they show.

    A pixel takes the mean of the locations less than a pitch `p` away, by the weights of linear
    interpolation, $(1 - |\Delta y| / p)(1 - |\Delta x| / p)$. It is shown if one of them is nearer
    than `NEIGHBOUR` pitches.
    """
    height, width = size
    pitch = max(points.pitch, 1.0)
    reach = math.ceil(pitch)
    at = torch.stack([points.rows, points.columns]).flatten(1).to(maps.device, maps.dtype)
    known = ~at.isnan().any(0)
    at, values = at[:, known], maps.flatten(1)[:, known]
    offsets = torch.arange(-reach, reach + 1, dtype=torch.long, device=maps.device)
    pixels = at.floor().long()[:, :, None] + offsets
    away = pixels + HALF - at[:, :, None]
    weights = (1 - away.abs() / pitch).clamp_min(0)
    weight = weights[0][:, :, None] * weights[1][:, None, :]
    inside = [(one >= 0) & (one < side) for one, side in zip(pixels, size, strict=True)]
    weight = weight * (inside[0][:, :, None] & inside[1][:, None, :])
    rows, columns = (one.clamp(0, side - 1) for one, side in zip(pixels, size, strict=True))
    cells = (rows[:, :, None] * width + columns[:, None, :]).flatten()
    distance = (away[0].square()[:, :, None] + away[1].square()[:, None, :]).sqrt()
    near = ((distance <= NEIGHBOUR * pitch) & (weight > 0)).flatten().to(maps.dtype)
    shows = maps.new_zeros(height * width).index_add_(0, cells, near).clamp_max(1)
    total = maps.new_zeros(height * width).index_add_(0, cells, weight.flatten())
    laid = maps.new_zeros((len(maps), height * width))
    laid.index_add_(1, cells, (values[:, :, None, None] * weight).flatten(1))
    laid = laid * shows / total.clamp_min(torch.finfo(maps.dtype).tiny)
    return laid.unflatten(1, size), shows.unflatten(0, size)  # type: ignore[no-untyped-call]


def matrices(view: View, size: Sequence[int]) -> tuple[Tensor, ...]:
    """Return the matrices that lay a view's map on an image, `(H, h)` and `(W, w)`, float64.

    Args:
        view: The view.
        size: (H, W) of the image; (D, H, W) of a volume, whose first matrix is `(D, d)`.
    """
    axes = zip(view.lines, size, view.seen, strict=True)
    return tuple(_matrix(line, length, seen) for line, length, seen in axes)


def by_image(maps: Tensor, placement: Placement | None) -> Tensor:
    """Return maps with those of one image one after the other, from those of a network's batch.

    Args:
        maps: `(N * blocks, h, w)`.
        placement: Their places.
    """
    if placement is None or placement.blocks == 1 or placement.interleaved:
        return maps
    of_block = maps.unflatten(0, (placement.blocks, -1))  # type: ignore[no-untyped-call]
    in_order: Tensor = of_block.transpose(0, 1).flatten(0, 1)
    return in_order


@lru_cache(maxsize=256)
def _matrix(places: tuple[float, ...], length: int, seen: tuple[float, float]) -> Tensor:
    """Return the interpolation from locations at given places to pixels, `(pixels, locations)`.

    Its rows sum to 1 where a pixel is shown, and to 0 elsewhere.

    Args:
        places: The pixel coordinate of each location, `math.inf` for none.
        length: The number of pixels.
        seen: The first and the last pixel coordinate that the network sees.
    """
    matrix = torch.zeros((length, len(places)), dtype=torch.float64, device="cpu")
    order = sorted((place, index) for index, place in enumerate(places) if math.isfinite(place))
    groups = _merged(order)
    if not groups:
        return matrix
    sides = [place for place, _ in groups]
    apart = [after - before for before, after in pairwise(sides)]
    step = sorted(apart)[len(apart) // 2] if apart else seen[1] - seen[0]
    # Rounding must not leave out the pixel at the edge.
    lowest, highest = seen[0] - 1e-3, seen[1] + 1e-3
    at = 0
    for pixel in range(length):
        centre = pixel + HALF
        if not lowest <= centre <= highest:
            continue
        while at < len(sides) - 1 and sides[at + 1] <= centre:
            at += 1
        if centre <= sides[0] or at == len(sides) - 1:
            _share(matrix, pixel, groups[0 if centre <= sides[0] else at][1], 1.0)
            continue
        share = (centre - sides[at]) / apart[at]
        # A gap wider than two locations is no neighbourhood: what lies in it was not seen.
        if apart[at] > 2.5 * step:
            near = centre - sides[at] <= HALF * step, sides[at + 1] - centre <= HALF * step
            if not any(near):
                continue
            share = 0.0 if near[0] else 1.0
        _share(matrix, pixel, groups[at][1], 1.0 - share)
        _share(matrix, pixel, groups[at + 1][1], share)
    return matrix


def _merged(order: Sequence[tuple[float, int]]) -> list[tuple[float, list[int]]]:
    """Return the locations at each place, where several may lie at one."""
    groups: list[tuple[float, list[int]]] = []
    for place, index in order:
        if groups and place - groups[-1][0] < 1e-2:
            groups[-1][1].append(index)
        else:
            groups.append((place, [index]))
    return groups


def _share(matrix: Tensor, pixel: int, locations: Sequence[int], share: float) -> None:
    for location in locations:
        matrix[pixel, location] += share / len(locations)

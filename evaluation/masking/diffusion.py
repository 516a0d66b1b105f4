"""Removed pixels of a large image as weighted means of their neighbours, by conjugate gradients.

A banded factorisation takes a time that grows with the square of the image's width, a third of a
second for a hole of half of 224x224, and SciPy's sparse ones are no faster.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["SIDE", "diffused"]

# Weight of a neighbour across a side; one across a corner has half of it.
SIDE = 1 / 6
_SIDE, _CORNER = np.float32(SIDE), np.float32(SIDE / 2)
# Estimated error of a pixel, of 255, at which the iteration ends; the fill's noise is 2.55.
_ERROR = 0.02
_COARSEST = 8
_MOST_ITERATIONS = 1000

Floats = NDArray[np.float32]


def diffused(pixels: Floats, removed: NDArray[np.bool_]) -> Floats:
    r"""Fill removed pixels so that each is the weighted mean of its up to eight neighbours.

    $$t_i x_i - \sum_{j \in N(i) \cap R} w_{ij} x_j = \sum_{j \in N(i) \setminus R} w_{ij} x_j,
      \qquad t_i = \sum_{j \in N(i)} w_{ij}, \quad i \in R$$

    `R` are the removed pixels, `w` is one sixth across a side and one twelfth across a corner. The
    preconditioner sums the residual over blocks of 1, 2, 4, ... pixels, each sum divided by the
    energy of its block, so that the number of iterations grows little with the size of a hole. The
    iteration starts from the mean of the kept pixels in the smallest block that has any.

    Args:
        pixels: `(C, H, W)`, 0 to 255; what removed ones hold is not read.
        removed: `(H, W)`, true for those to fill; at least one is false.

    Returns:
        `(C, H, W)`; kept pixels are unchanged, filled ones within 1 of the exact solution.

    Raises:
        RuntimeError: no convergence, which a kept pixel rules out.

    Reference:
        Bramble, Pasciak and Xu 1990, "Parallel multilevel preconditioners"; deviation: constant
        over blocks in place of linear functions.

    >>> row = np.array([[[10.0, 0.0, 30.0]]], np.float32)
    >>> diffused(row, np.array([[False, True, False]])).round(2).tolist()
    [[[10.0, 20.0, 30.0]]]
    """
    height, width = removed.shape
    levels = 0
    while max(height, width) > _COARSEST << levels:
        levels += 1
    block = 2**levels
    padding = ((0, -height % block), (0, -width % block))
    hole = np.pad(removed, padding).astype(np.float32)
    inside = np.pad(np.ones(removed.shape, np.float32), padding)
    total = np.zeros_like(hole)
    _weighted(np.pad(inside, 1), inside, total)
    energies = tuple(_energies(hole, total, levels))
    inverse = tuple(
        np.divide(1, energy, out=np.zeros_like(energy), where=energy > 0) for energy in energies
    )
    kept = inside - hole
    filled = np.array(pixels, np.float32)
    for plane in filled:
        known = np.pad(plane, padding) * kept
        x = np.pad(_first_guess(known, kept, levels) * hole, 1)
        right = np.zeros_like(hole)
        _weighted(np.pad(known, 1), hole, right)
        if not _solve(x, right, hole, total, inverse, _ERROR, _MOST_ITERATIONS):
            raise RuntimeError(f"{int(removed.sum())} removed pixels: the fill does not converge")
        plane[removed] = x[1 : height + 1, 1 : width + 1][removed]
    return filled


@njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator,unused-ignore]
def _weighted(x: Floats, hole: Floats, out: Floats) -> None:
    """The weighted sum of the neighbours of each removed pixel; `x` has a border of 0."""
    height, width = out.shape
    for row in range(height):
        for column in range(width):
            sides = x[row, column + 1] + x[row + 2, column + 1]
            sides += x[row + 1, column] + x[row + 1, column + 2]
            corners = x[row, column] + x[row, column + 2]
            corners += x[row + 2, column] + x[row + 2, column + 2]
            out[row, column] = hole[row, column] * (_SIDE * sides + _CORNER * corners)


@njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator,unused-ignore]
def _solve(
    x: Floats,
    right: Floats,
    hole: Floats,
    total: Floats,
    inverse: tuple[Floats, ...],
    error: float,
    iterations: int,
) -> bool:
    """Conjugate gradients from `x`, which has a border of 0; True if they find the solution."""
    height, width = hole.shape
    moved = np.empty_like(hole)
    residual = np.empty_like(hole)
    z = np.empty_like(hole)
    sums = [np.empty_like(each) for each in inverse]
    parts = [np.empty_like(each) for each in inverse]
    direction = np.zeros_like(x)
    _weighted(x, hole, moved)
    for row in range(height):
        for column in range(width):
            own = hole[row, column] * total[row, column] * x[row + 1, column + 1]
            residual[row, column] = right[row, column] - own + moved[row, column]
    before = 1.0
    for iteration in range(iterations):
        _precondition(residual, hole, inverse, sums, parts, z)
        largest, power = np.float32(0), 0.0
        for row in range(height):
            of_row = np.float32(0)
            for column in range(width):
                value = z[row, column]
                of_row += value * residual[row, column]
                largest = max(largest, abs(value))
            power += of_row
        if largest < error:
            return True
        slope = np.float32(power / before if iteration else 0.0)
        for row in range(height):
            for column in range(width):
                place = direction[row + 1, column + 1]
                direction[row + 1, column + 1] = z[row, column] + slope * place
        _weighted(direction, hole, moved)
        curvature = 0.0
        for row in range(height):
            of_row = np.float32(0)
            for column in range(width):
                place = direction[row + 1, column + 1]
                value = total[row, column] * place - moved[row, column]
                moved[row, column] = value
                of_row += value * place
            curvature += of_row
        if curvature <= 0:
            return False
        step = np.float32(power / curvature)
        for row in range(height):
            for column in range(width):
                x[row + 1, column + 1] += step * direction[row + 1, column + 1]
                residual[row, column] -= step * moved[row, column]
        before = power
    return False


@njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator,unused-ignore]
def _precondition(
    residual: Floats,
    hole: Floats,
    inverse: tuple[Floats, ...],
    sums: list[Floats],
    parts: list[Floats],
    z: Floats,
) -> None:
    """The sum over levels of block sums of a residual over the energies of the blocks."""
    sums[0][:] = residual
    levels = len(sums)
    for level in range(1, levels):
        fine, coarse = sums[level - 1], sums[level]
        for row in range(coarse.shape[0]):
            for column in range(coarse.shape[1]):
                upper = fine[2 * row, 2 * column] + fine[2 * row, 2 * column + 1]
                lower = fine[2 * row + 1, 2 * column] + fine[2 * row + 1, 2 * column + 1]
                coarse[row, column] = upper + lower
    parts[levels - 1][:] = sums[levels - 1] * inverse[levels - 1]
    for level in range(levels - 2, -1, -1):
        own, scale, out, above = sums[level], inverse[level], parts[level], parts[level + 1]
        for row in range(own.shape[0]):
            for column in range(own.shape[1] // 2):
                coarse_value = above[row // 2, column]
                for place in (2 * column, 2 * column + 1):
                    out[row, place] = own[row, place] * scale[row, place] + coarse_value
    z[:] = parts[0] * hole


def _energies(hole: Floats, total: Floats, levels: int) -> Iterator[Floats]:
    """The energy of each block's removed pixels: ``sum t - sum w`` over the pairs inside it."""
    own = total * hole
    yield own
    # Weights between a block and the next one: right, below, and across both diagonals.
    right, below = _between(hole, 0, 1, _SIDE), _between(hole, 1, 0, _SIDE)
    falling, rising = _between(hole, 1, 1, _CORNER), _between(hole, 1, -1, _CORNER)
    for _ in range(levels):
        inner = right[::2, ::2] + right[1::2, ::2] + below[::2, ::2] + below[::2, 1::2]
        inner += falling[::2, ::2] + rising[::2, 1::2]
        # Each pair inside counts twice.
        own = _pooled(own) - 2 * inner
        yield own
        # A pair across a diagonal may join blocks that share a side.
        over = np.zeros_like(rising)
        over[:, :-1] = rising[:, 1:]
        right, below, falling, rising = (
            right[::2, 1::2] + right[1::2, 1::2] + falling[::2, 1::2] + over[::2, 1::2],
            below[1::2, ::2] + below[1::2, 1::2] + falling[1::2, ::2] + rising[1::2, 1::2],
            falling[1::2, 1::2],
            rising[1::2, ::2],
        )


def _between(hole: Floats, down: int, across: int, weight: np.float32) -> Floats:
    """Weights of removed pixels and next ones that are removed too, listed at the upper one."""
    out = np.zeros_like(hole)
    height, width = hole.shape
    first = slice(max(0, -across), width - max(0, across))
    second = slice(max(0, across), width - max(0, -across))
    out[: height - down, first] = hole[: height - down, first] * hole[down:, second]
    out *= weight
    return out


def _first_guess(known: Floats, kept: Floats, levels: int) -> Floats:
    """The mean of the kept pixels in the smallest block around each pixel that has any."""
    sums, counts = [known], [kept]
    for _ in range(levels):
        sums.append(_pooled(sums[-1]))
        counts.append(_pooled(counts[-1]))
    out = np.full_like(sums[-1], known.sum() / kept.sum())
    for place in range(levels, -1, -1):
        if place < levels:
            out = out.repeat(2, axis=0).repeat(2, axis=1)
        out = np.where(counts[place] > 0, sums[place] / np.maximum(counts[place], 1), out)
    return out


def _pooled(x: Floats) -> Floats:
    """Sums over blocks of two by two pixels."""
    rows = x[::2] + x[1::2]
    out: Floats = rows[:, ::2] + rows[:, 1::2]
    return out

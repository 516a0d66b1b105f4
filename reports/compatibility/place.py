"""The place of a map's change, on pairs of images that differ in one square."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from evaluation.metrics.localisation import object_ranking

__all__ = ["rankings_of_change", "squares"]


def squares(grid: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Yield a square of a quarter of each side, in the middle of each quarter of an image.

    Of a volume it is a cube in each eighth, of a signal a piece of each half. An axis of one
    location is not cut.

    Args:
        grid: the sides.

    >>> [one[1] for one in squares((1, 16))]
    [slice(2, 6, None), slice(10, 14, None)]
    """
    for corner in itertools.product(*((0, 1) if side > 1 else (None,) for side in grid)):
        yield tuple(
            slice(0, side)
            if end is None
            else slice((1 + 4 * end) * side // 8, end * side // 2 + 3 * side // 8)
            for side, end in zip(grid, corner, strict=True)
        )


def rankings_of_change(
    map_of: Callable[[Tensor], Tensor], shape: Sequence[int]
) -> tuple[float, ...]:
    r"""Return for each square the probability that a map changes more inside it than outside.

    $$P\big(|M(y)_p - M(x)_p| > |M(y)_q - M(x)_q|\big), \qquad p \in S,\; q \notin S$$

    for noise `x`, and `y` that is `x` but for other noise in the square `S`; ties count half. It is
    half if the map's change has nothing to do with the square, and less than half if it lies
    elsewhere, as in a map that is mirrored, turned or shifted. It holds for random weights too: a
    location of a network that does not see the square does not change. It says where a map lies,
    and not what it is worth.

    Args:
        map_of: from `(1, C, *grid)` to the map `(1, *grid)`.
        shape: `(C, *grid)`.

    >>> rankings_of_change(lambda x: x.abs().sum(1), (1, 16, 16))
    (1.0, 1.0, 1.0, 1.0)
    >>> max(rankings_of_change(lambda x: x.abs().sum(1).flip(2), (1, 16, 16))) < 0.5
    True
    """
    generator = torch.Generator().manual_seed(0)
    first, other = torch.rand((2, 1, *shape), generator=generator)
    before = map_of(first)
    found = []
    for square in squares(shape[1:]):
        changed, inside = first.clone(), torch.zeros(1, *shape[1:], dtype=torch.bool)
        inside[0][square] = True
        channels_too = (slice(None), *square)
        changed[0][channels_too] = other[0][channels_too]
        change = (map_of(changed) - before).abs()
        found.append(float(object_ranking(change.numpy(), inside.numpy())[0]))
    return tuple(found)

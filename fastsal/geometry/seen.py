"""The part of the image that a network sees: what reaches its first weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastsal.geometry import fields as f

Interval = tuple[float, float]
# One for each axis: rows and columns, or slices, rows and columns.
Sides = tuple[Interval, ...]


class Seen(NamedTuple):
    """The part of the image that reaches a network's first weights.

    Attributes:
        sides: For each entry of the batch the first and the last pixel row that is seen, as
            distances from the upper edge, and the same of columns from the left edge; one if all
            are equal. With padding they lie outside the image. Of volumes slices come first.
        steps: Pixels from one element of the first weights' input to the next, down and across.
    """

    sides: tuple[Sides, ...]
    steps: tuple[float, ...]

    def of_entry(self, entry: int, entries: int) -> Sides:
        """Return the rows and columns that one entry of a batch sees."""
        if len(self.sides) == entries:
            return self.sides[entry]
        of_axes = zip(*self.sides, strict=True)
        return tuple(
            (min(first for first, _ in axis), max(last for _, last in axis)) for axis in of_axes
        )


# Padding by so much of the image is that of a window.
WINDOW = 0.015


def seen_of(place: Tensor, size: Sequence[int]) -> Seen:
    """Return the part of the image that a tensor of pixels shows."""
    places = f.positions(place)[:-1]
    of_batch = places.dim() == len(size) + 3
    entries = places.shape[1] if of_batch else 1
    sides: list[Sides] = []
    steps = [float(side) for side in size]
    for entry in range(entries):
        own = places[:, entry] if of_batch else places
        of_entry: list[Interval] = []
        lines = [[f.line_of(axis, d) for d in range(axis.dim())] for axis in own]
        for axis, length in enumerate(size):
            along = max(range(own.dim() - 1), key=lambda d: f.width_of(lines[axis][d]))
            line = lines[axis][along]
            step = f.step(line)
            # Of an image that is turned, elements go down and across at once.
            apart = math.hypot(*(f.step(of_axis[along]) for of_axis in lines))
            if apart:
                steps[axis] = apart
            else:
                # One row of pixels is as high as a column is wide, or is the whole image.
                others = [line for one in range(len(size)) if one != axis for line in lines[one]]
                across = max(f.step(other) for other in others)
                step = steps[axis] = across or float(length)
            shown = line[~line.isnan()]
            first, last = (float(shown.min()), float(shown.max())) if len(shown) else (0.0, length)
            low, high = first - step / 2, last + step / 2
            # Padding by the reach of a window, as for convolutions without their own.
            reach = max(1.0, WINDOW * length)
            low, high = (0.0 if -reach <= low < 0 else low), high
            of_entry.append((low, length if length < high <= length + reach else high))
        sides.append(tuple(of_entry))
    return Seen(_sides(sides), tuple(steps))


def after_cut(seen: Seen, before: Tensor, after: Tensor, size: Sequence[int]) -> Seen:
    """Return what is seen of a tensor from whose borders a function may have cut locations.

    Args:
        seen: What is seen of the function's input.
        before: The input's field.
        after: The result's field.
        size: (H, W) of the image.
    """
    wide, narrow = (f.positions(field)[:-1].flatten(1) for field in (before, after))
    wide, narrow = (places[:, ~places.isnan().any(0)] for places in (wide, narrow))
    if not wide.numel() or not narrow.numel():
        return seen
    lost = torch.maximum(narrow.amin(1) - wide.amin(1), wide.amax(1) - narrow.amax(1))
    # Every second location loses the last one, too.
    apart = [max(pair) for pair in zip(f.spacings(before), f.spacings(after), strict=True)]
    if all(float(off) <= 1.01 * step for off, step in zip(lost, apart, strict=True)):
        return seen
    left = seen_of(after, size)
    entries = max(len(seen.sides), len(left.sides))
    sides = [
        tuple(
            (max(first, low), min(last, high))
            for (first, last), (low, high) in zip(
                seen.of_entry(entry, entries), left.of_entry(entry, entries), strict=True
            )
        )
        for entry in range(entries)
    ]
    return seen._replace(sides=_sides(sides))


def _sides(of_entries: Sequence[Sides]) -> tuple[Sides, ...]:
    """Return the rows and columns that each entry sees; one of them if all are equal."""
    alike = all(sides == of_entries[0] for sides in of_entries)
    return tuple(of_entries[:1] if alike else of_entries)


def union(seen: Sequence[Seen]) -> Seen | None:
    """Return what any of several tensors sees, None for none."""
    if not seen:
        return None
    if all(one == seen[0] for one in seen):
        return seen[0]
    counts = {len(one.sides) for one in seen}
    entries = max(counts)
    if counts - {1, entries}:
        sides = tuple(side for one in seen for side in one.sides)
        return Seen((Seen(sides, seen[0].steps).of_entry(0, 0),), seen[0].steps)
    united = tuple(
        Seen(tuple(one.of_entry(entry, entries) for one in seen), seen[0].steps).of_entry(0, 0)
        for entry in range(entries)
    )
    return Seen(united, seen[0].steps)

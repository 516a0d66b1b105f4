"""Fields between their locations and beyond them: interpolation, stretching, padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsal.geometry.fields import LEAST, PADDING, positions


def sampled(field: Tensor, dimension: int, at: Tensor) -> Tensor:
    """Return a field at fractional indices along one dimension, linearly between neighbours.

    Args:
        field: The field.
        dimension: The dimension; a field that is equal along it is returned as it is.
        at: The indices; beyond the first and the last the field goes on evenly.
    """
    last = field.shape[dimension] - 1
    if last == 0:
        return field
    if bool((field[0] <= LEAST).any()):
        # A window half of which is padding still lies where its centre is.
        at = at.clamp(0, last)
        inside = _between(field, dimension, at)
        places = _between(_continued(positions(field), dimension), dimension, at)
        # Where a line does not go on, as at the border of a turned image, what is known counts.
        return torch.cat([inside[:1], torch.where(places.isnan(), inside[1:], places * inside[:1])])
    inside = _between(field, dimension, at.clamp(0, last))
    if bool(((at >= 0) & (at <= last)).all()):
        return inside
    beyond = _between(field, dimension, at)
    # Beside what comes from no pixel there is nothing to go on from.
    return torch.where((beyond[:1] - inside[:1]).abs() < 1e-6, beyond, inside)


def _between(values: Tensor, dimension: int, at: Tensor) -> Tensor:
    """Return values at fractional indices along a dimension; outside they go on evenly."""
    shape = [1] * values.dim()
    shape[dimension] = len(at)
    low = at.floor().long().clamp(0, values.shape[dimension] - 2)
    share = (at - low).to(values.dtype).reshape(shape)
    before = values.index_select(dimension, low)
    after = values.index_select(dimension, low + 1)
    # Beside NaN, an index that is whole has its own value.
    return torch.where(
        share == 0, before, torch.where(share == 1, after, torch.lerp(before, after, share))
    )


def _continued(places: Tensor, dimension: int) -> Tensor:
    """Return places that go on evenly along a dimension where its ends are nowhere."""
    known = (~places[0].isnan()).movedim(dimension - 1, 0).flatten(1).any(1)
    found = known.nonzero()[:, 0]
    length = places.shape[dimension]
    if len(found) < 2 or len(found) == length:
        return places
    first, last = int(found[0]), int(found[-1])
    at = torch.arange(length, dtype=places.dtype, device=places.device)
    inner = places.narrow(dimension, first, last - first + 1)
    return _between(inner, dimension, at - first)


def stretched(field: Tensor, size: Sequence[int]) -> Tensor:
    """Return a field whose last dimensions are stretched to a size, without aligned corners.

    >>> from fastsal.geometry.fields import start
    >>> image = start(torch.zeros(1, 1, 4, 4), 0, (4, 4))
    >>> stretched(image, (2, 2))[1, 0, 0, :, 0].tolist()
    [1.0, 3.0]
    """
    for index, after in enumerate(size):
        dimension = field.dim() - len(size) + index
        before = field.shape[dimension]
        order = torch.arange(after, dtype=torch.float32, device=field.device)
        at = (order + 0.5) * (before / after) - 0.5
        field = sampled(field, dimension, at)
    return field


def padded(field: Tensor, padding: Sequence[int], mode: str) -> Tensor:
    """Return a field with padding, as `torch.nn.functional.pad` does; constants are nowhere.

    Constants have the places that go on evenly from the pixels', with a weight of next to nothing.

    Args:
        field: The field, at the tensor's own size along the dimensions that are padded.
        padding: As for `torch.nn.functional.pad`.
        mode: As for `torch.nn.functional.pad`.
    """
    result = torch.stack([F.pad(part, list(padding), mode=mode) for part in field])
    if mode != "constant":
        return result
    places = positions(result)
    for dimension in range(result.dim() - len(padding) // 2, result.dim()):
        places = _continued(places, dimension)
    beside = torch.cat([torch.full_like(places[:1], PADDING), PADDING * places])
    return torch.where((result[:1] > 0) | beside.isnan().any(0), result, beside)

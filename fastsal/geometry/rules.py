"""Rules by which places go through PyTorch's functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastsal.geometry import fields as f
from fastsal.geometry.functions import (
    JOINS,
    MOVES,
    PRODUCTS,
    REDUCTIONS,
    RESAMPLINGS,
    SCATTERS,
    SEQUENCES,
    plain_name,
)
from fastsal.geometry.sampling import padded
from fastsal.geometry.windows import windowed, windows_of

RESHAPES: dict[str, Callable[..., Any]] = {"view": Tensor.reshape, "view_as": Tensor.reshape_as}

Places = Sequence[Tensor]
Made = list[list[Tensor]]


class Rules:
    """The rules by which places go from the tensors that a function reads to those that it makes.

    Args:
        places_of: Returns a tensor's fields, one for each place that a location shows.
        is_certain: Returns False if a tensor's places are a guess.
        age_of: Returns the number of a tensor in the pass.
    """

    def __init__(
        self,
        places_of: Callable[[Tensor], Places],
        is_certain: Callable[[Tensor], bool],
        age_of: Callable[[Tensor], int],
    ) -> None:
        self._of = places_of
        self._is_certain = is_certain
        self._age_of = age_of

    def made(
        self,
        name: str,
        function: Callable[..., Any],
        args: Any,
        kwargs: Any,
        known: Sequence[Tensor],
        made: Sequence[Tensor],
    ) -> Made | None:
        """Return the places of each result, None if the function is not known.

        Args:
            name: The function's name.
            function: The function.
            args: Its arguments.
            kwargs: Its keyword arguments.
            known: The tensors in the arguments whose places are known.
            made: The tensors in the result.
        """
        if name == "__setitem__":
            return self._assigned(function, *args)
        short = plain_name(name)
        first = known[0]
        if short in SCATTERS:
            return None
        if short == "copy":
            return [[place.expand(-1, *args[1].shape) for place in self._of(args[1])]]
        if short in MOVES:
            return self._moved(short, function, args, kwargs, known)
        if short == "pad":
            return [self._padded(first, *args[1:], **_without(kwargs, "input", "value"))]
        if "conv" in short or ("pool" in short and "roi" not in short):
            return self._windowed(short, first, args, kwargs, made)
        if short in RESAMPLINGS:
            return [self._resampled(function, first, args, kwargs)]
        if short in SEQUENCES:
            # Attention is for the query; one that is learned shows no place.
            query = next(iter(tensors_in((args, kwargs))))
            found = self.of_channels(query, -1)
            # Weights that mix rows or columns say nothing of where these come to lie.
            mixes = query.dim() == 4 and found and _mixes(self._of(query)[0], found[0])
            return None if mixes else [found]
        if short in PRODUCTS:
            return [self._product(short, function, args, kwargs, known)]
        if short in REDUCTIONS and made[0].shape != first.shape:
            return self._reduced(first, args, kwargs, made)
        return [self._pointwise(known, tensor) for tensor in made]

    def of_channels(self, tensor: Tensor, dimension: int) -> list[Tensor]:
        """Return the places of what is computed from all of a tensor along one dimension.

        Args:
            tensor: The tensor.
            dimension: The dimension, counted from the last (negative).
        """
        return [
            part for place in self._of(tensor) for part in f.without_dimension(place, dimension)
        ]

    def _windowed(
        self, name: str, first: Tensor, args: Any, kwargs: Any, made: Sequence[Tensor]
    ) -> Made:
        given = args or (first,)
        windows = windows_of(name, given, kwargs, made[0].shape)
        places: Sequence[Tensor] = self._of(first)
        if "conv" in name and windows is not None:
            places = self.of_channels(first, -1 - len(windows))
        return [[windowed(place, windows, first.shape, made[0].shape) for place in places]] * len(
            made
        )

    def _pointwise(self, known: Sequence[Tensor], made: Tensor) -> list[Tensor]:
        """Return the places of a function that computes an element from those at its place."""
        certain = [tensor for tensor in known if self._is_certain(tensor)] or known
        found: list[Tensor] = []
        # Of a sum with what a branch makes of the trunk, the trunk's own places are exact.
        for tensor in sorted(certain, key=self._age_of):
            for place in self._of(tensor):
                shape = (1,) * (made.dim() - tensor.dim()) + place.shape[1:]
                if len(shape) != made.dim() or any(
                    own not in (1, size) for own, size in zip(shape, made.shape, strict=True)
                ):
                    raise ValueError("the result is no broadcast of the inputs")
                found.append(place.reshape(len(place), *shape))
        if len(found) == 1:
            return found
        extents = [f.extent(place) for place in found]
        # A gate that says one thing of the whole image shows no place.
        least = max(extents) / 2
        return [place for place, far in zip(found, extents, strict=True) if far >= least]

    def _moved(
        self,
        name: str,
        function: Callable[..., Any],
        args: Any,
        kwargs: Any,
        known: Sequence[Tensor],
    ) -> Made:
        # Coordinates may lie in memory in another order than the tensor that is viewed.
        function = RESHAPES.get(name, function)
        # Of all but concatenations the first tensor moves, and others, such as indices, say where.
        moving = None if name in JOINS else next(iter(tensors_in((args, kwargs))))
        if moving is not None and not self._of(moving):
            return []
        found: Made = []
        count = len(self._of(known[0])[0])
        for place in range(max(len(self._of(tensor)) for tensor in known)):
            components: list[list[Tensor]] = []
            for component in range(count):

                def exchanged(value: Any, at: tuple[int, int] = (place, component)) -> Any:
                    return self._exchanged(value, *at, moving)

                moved = function(*exchanged(args), **exchanged(kwargs))
                results = [moved] if isinstance(moved, Tensor) else list(moved)
                components.append(results)
            for index, parts in enumerate(zip(*components, strict=True)):
                if place == 0:
                    found.append([])
                found[index].append(f.stacked(parts))
        return found

    def _exchanged(self, value: Any, place: int, component: int, moving: Tensor | None) -> Any:
        """Return arguments with one component of the coordinates in place of a tensor.

        Args:
            value: The arguments.
            place: The number of the place.
            component: The number of the component.
            moving: The tensor; None for each of them.
        """
        if isinstance(value, Tensor):
            if moving is not None and value is not moving:
                return value
            places = self._of(value)
            if places:
                field = places[min(place, len(places) - 1)]
                return field[component].expand(value.shape)
            nothing = torch.zeros((), dtype=torch.float32, device=value.device)
            return nothing.expand(value.shape)
        if isinstance(value, Mapping):
            return {
                key: self._exchanged(item, place, component, moving) for key, item in value.items()
            }
        if type(value) in (tuple, list):
            return type(value)(self._exchanged(item, place, component, moving) for item in value)
        return value

    def _assigned(
        self, function: Callable[..., Any], target: Tensor, index: Any, value: Any
    ) -> Made:
        new = self._of(value) if isinstance(value, Tensor) else ()
        count = len((*new, *self._of(target))[0])
        whole = f.whole(target, self._of(target), count)
        for component in range(count):
            function(whole[component], index, new[0][component].expand(value.shape) if new else 0.0)
        return [[f.compressed(whole)]]

    def _padded(
        self, tensor: Tensor, pad: Sequence[int], mode: str = "constant", *_: object
    ) -> list[Tensor]:
        sizes = [-1] * (tensor.dim() - len(pad) // 2) + list(tensor.shape)[-(len(pad) // 2) :]
        return [padded(place.expand(-1, *sizes), pad, mode) for place in self._of(tensor)]

    def _resampled(
        self, function: Callable[..., Any], tensor: Tensor, args: Any, kwargs: Any
    ) -> list[Tensor]:
        found = []
        batch = tensor.shape[0] if isinstance(tensor, Tensor) else 1
        for place in self._of(tensor):
            sides = tensor.shape[2:]
            field = f.without_dimension(place, -1 - len(sides))[0].expand(-1, batch, 1, *sides)
            parts = [
                function(*_in_place_of(args, tensor, part), **_in_place_of(kwargs, tensor, part))
                for part in field
            ]
            found.append(f.stacked(parts))
        return found

    def _product(
        self,
        name: str,
        function: Callable[..., Any],
        args: Any,
        kwargs: Any,
        known: Sequence[Tensor],
    ) -> list[Tensor]:
        """Return the places of a sum of products: of the factor that shows more of the image."""
        if name in ("baddbmm", "addmm"):
            function, args = torch.matmul, args[1:]
        best: tuple[float, list[Tensor]] | None = None
        for factor in known:
            places = []
            for place in self._of(factor):
                parts = [
                    function(
                        *_in_place_of(args, factor, part, ones=True),
                        **_in_place_of(kwargs, factor, part, ones=True),
                    )
                    for part in place.expand(-1, *factor.shape)
                ]
                field = f.stacked(parts)
                # The mean, as the weight is a number of summands.
                places.append(field / field[0].amax().clamp_min(1e-6))
            far = max(map(f.extent, places))
            # Attention is for the query, which is the left factor.
            if best is None or far > 1.5 * best[0]:
                best = far, places
        if best is None:
            raise ValueError("no factor has coordinates")
        only = known[0]
        if len(known) == 1 and only.dim() == 4 and _mixes(self._of(only)[0], best[1][0]):
            raise ValueError("weights mix rows or columns")
        return best[1]

    def _reduced(
        self, tensor: Tensor, args: Any, kwargs: Any, made: Sequence[Tensor]
    ) -> Made | None:
        dims = kwargs.get("dim", kwargs.get("axis"))
        if dims is None:
            dims = next((arg for arg in args[1:] if isinstance(arg, (int, tuple, list))), None)
        if dims is None:
            return None
        listed = [dims] if isinstance(dims, int) else list(dims)
        listed = [dim % tensor.dim() + 1 for dim in listed]
        keep = made[0].dim() == tensor.dim()
        return [[place.mean(listed, keepdim=keep) for place in self._of(tensor)] for _ in made]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)


def _mixes(before: Tensor, after: Tensor) -> bool:
    """Return True if rows or columns that a field shows apart are one in another."""
    pairs = zip(f.positions(before)[:-1], f.positions(after)[:-1], strict=True)
    return any(f.width_of(one) > 4 * f.width_of(other) + 1 for one, other in pairs)


def _without(kwargs: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key not in names}


def _in_place_of(value: Any, tensor: Tensor, part: Tensor, ones: bool = False) -> Any:
    """Return arguments with one tensor exchanged, and others in the coordinates' type, or ones."""
    if value is tensor:
        return part
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            return value
        return value.new_ones(value.shape, dtype=part.dtype) if ones else value.to(part.dtype)
    if isinstance(value, Mapping):
        return {key: _in_place_of(item, tensor, part, ones) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_in_place_of(item, tensor, part, ones) for item in value)
    return value

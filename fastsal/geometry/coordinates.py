"""Pixel coordinates of the elements of a pass's tensors, carried through its operations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from fastsal.arguments.inputs import EXPECTED, grid_of
from fastsal.geometry import fields as f
from fastsal.geometry.functions import (
    CUTS,
    JOINS,
    MOVES,
    RESAMPLINGS,
    SHAPES,
    TO_PYTHON,
    WEIGHTED,
    name_of,
    plain_name,
)
from fastsal.geometry.rules import Rules, tensors_in
from fastsal.geometry.sampling import stretched
from fastsal.geometry.seen import Seen, after_cut, seen_of, union


class Fields(NamedTuple):
    """The coordinates of one tensor.

    Attributes:
        places: A field `(4, *shape)`, `(5, *shape)` of volumes, for each place that a location
            shows, mostly one. Dimensions along which coordinates are equal have size 1.
        unknown: The functions on the way whose effect on places is not known.
        seen: The part of the image that reached the first weights on the way; None before them.
        varies: True if the images' values decide the places, as in a spatial transformer, so that
            other images may have others.
    """

    places: tuple[Tensor, ...] = ()
    unknown: tuple[str, ...] = ()
    seen: Seen | None = None
    varies: bool = False


# Convolutions by the number of dimensions that they go over.
CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}


class _Noted:
    """The fields of every tensor that comes from the images; empty where they are not known."""

    def __init__(self) -> None:
        # With the number of the tensor in the pass; dropped with the tensor.
        self._fields: MutableMapping[Tensor, tuple[Fields, int]] = WeakTensorKeyDictionary()
        self._count = 0

    def of(self, tensor: Tensor) -> Fields:
        """Return a tensor's fields, empty ones if it has none."""
        return self.found(tensor) or Fields()

    def found(self, tensor: Tensor) -> Fields | None:
        """Return a tensor's fields, None if it does not come from the images."""
        return self._fields[tensor][0] if tensor in self._fields else None

    def age_of(self, tensor: Tensor) -> int:
        """Return the number of a tensor in the pass."""
        return self._fields[tensor][1]

    def set(self, tensor: Tensor, fields: Fields) -> None:
        """Note a tensor's fields."""
        self._count += 1
        self._fields[tensor] = fields, self._count


class Coordinates:
    """The pixel coordinates of every element of a pass's tensors.

    Beside a tensor lie homogeneous coordinates $(w, w y, w x, w n)$ of the pixels that an element
    comes from: `y` and `x` in pixels from the image's upper left corner (0.5 is the centre of the
    first), `n` the image's index in the batch, `w` 0 for what comes from no pixel, such as padding.
    Those of volumes have a slice `z` too, $(w, w z, w y, w x, w n)$; a signal is one row of pixels.
    Functions that move values are applied to the coordinates; windows (convolution, pooling) take
    those of the window's centre; attention takes the query's.

    Args:
        images: The image batches `(N, C, H, W)`, or volumes `(N, C, D, H, W)`, or signals
            `(N, C, T)`. The images of the second count on from the first, and show the same scene,
            whatever their size.

    Attributes:
        size: (H, W) of the first batch; (D, H, W) of volumes, (1, T) of signals.
        images: N of the first batch.
    """

    def __init__(self, images: Sequence[Tensor]) -> None:
        self.size = grid_of(images[0])
        self.images = images[0].shape[0]
        self._given = tuple(images[0].shape)
        self._noted = noted = _Noted()
        self._python_knows_values = False
        # No cycle: the fields of a pass are freed with it, and not by the collector.
        self._rules = Rules(
            lambda tensor: noted.of(tensor).places,
            lambda tensor: not noted.of(tensor).unknown,
            noted.age_of,
        )
        first = 0
        for image in images:
            if image.numel():
                self._noted.set(image, Fields((f.start(image, first, self.size),)))
            first += image.shape[0]

    def of(self, tensor: Tensor) -> Fields:
        """Return a tensor's coordinates, without places if they are not known."""
        return self._noted.of(tensor)

    def copy(self, tensor: Tensor, other: Tensor) -> None:
        """Note that another tensor has the coordinates of a tensor."""
        self._noted.set(other, self.of(tensor))

    def follow(
        self,
        function: Callable[..., Any],
        args: Any,
        kwargs: Any,
        read: Iterable[Tensor],
        made: Sequence[Tensor],
    ) -> None:
        """Note the coordinates of a function's results.

        Args:
            function: The function.
            args: Its arguments.
            kwargs: Its keyword arguments.
            read: The tensors in the arguments.
            made: The tensors in the result; the first argument of an assignment to its items.

        Raises:
            ValueError: If the images have no batch dimension.
        """
        # What is computed here is no function of the network to other modes.
        with torch._C.DisableTorchFunction():
            self._follow(function, args, kwargs, read, made)

    def _follow(
        self,
        function: Callable[..., Any],
        args: Any,
        kwargs: Any,
        read: Iterable[Tensor],
        made: Sequence[Tensor],
    ) -> None:
        name = name_of(function)
        derived = [tensor for tensor in read if self._noted.found(tensor) is not None]
        self._python_knows_values |= bool(derived) and name in TO_PYTHON
        known = [tensor for tensor in derived if self.of(tensor).places]
        if not known:
            for tensor in made if derived else ():
                self._noted.set(tensor, Fields())
            return
        if not made:
            return
        self._check_batch(name, known[0])
        unknown = _united(self.of(tensor).unknown for tensor in known)
        seen = union([part for tensor in known if (part := self.of(tensor).seen) is not None])
        if seen is None and name.startswith(WEIGHTED):
            seen = self._seen(name, known[0])
        varies = self._decide(name, args, kwargs) or any(self.of(one).varies for one in known)
        try:
            with torch.no_grad():
                found = self._rules.made(name, function, args, kwargs, known, made)
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, NotImplementedError):
            # A form of the function that the rules here do not fit.
            found = None
        if found is None:
            self.assume(name, derived, made, varies)
            return
        for tensor, places in zip(made, found, strict=False):
            if places and tensor.numel():
                own = seen
                if own is not None and plain_name(name) in CUTS:
                    own = after_cut(own, self.of(known[0]).places[0], places[0], self.size)
                self._write(name, tensor, Fields(f.distinct(places), unknown, own, varies))
        for tensor in made:
            if self._noted.found(tensor) is None:
                self._noted.set(tensor, Fields())

    def _check_batch(self, name: str, tensor: Tensor) -> None:
        """Raise if a convolution takes the whole batch for one image without a batch dimension."""
        dimensions = CONVOLUTIONS.get(name)
        if dimensions is not None and tensor.dim() == dimensions + 1 == len(self._given):
            raise ValueError(
                f"expected {EXPECTED} among the inputs, got shapes [{self._given}], which {name} "
                "takes for one image without its batch dimension; give a batch, inputs[None]"
            )

    def _seen(self, name: str, tensor: Tensor) -> Seen | None:
        """Return the part of the image that weights see of a tensor."""
        dimension = 1 - tensor.dim() if "conv" in name else -1
        return union(
            [seen_of(place, self.size) for place in self._rules.of_channels(tensor, dimension)]
        )

    def _decide(self, name: str, args: Any, kwargs: Any) -> bool:
        """Return True if values of the images decide what a function moves to where."""
        short = plain_name(name)
        if short not in MOVES | RESAMPLINGS | {"pad", "__setitem__"} or short in JOINS | SHAPES:
            return False
        # Of an assignment the values that are assigned decide nothing.
        given = (args[1:2] if short == "__setitem__" else args[1:], kwargs)
        return self._python_knows_values or any(
            self._noted.found(tensor) is not None for tensor in tensors_in(given)
        )

    def assume(
        self, name: str, read: Iterable[Tensor], made: Iterable[Tensor], varies: bool = False
    ) -> None:
        """Note a result of an operation that is not known; it counts as stretched over its input.

        Args:
            name: The operation's name.
            read: The tensors that it reads.
            made: The tensors that it makes.
            varies: True if the images' values decide what it does.
        """
        sources = [(tensor, self.of(tensor)) for tensor in read]
        for tensor in made:
            self._noted.set(tensor, Fields())
            for source, (places, unknown, seen, already) in sources:
                names = _united((unknown, (name,)))
                if places and source.shape == tensor.shape:
                    self._noted.set(tensor, Fields(places, names, seen, varies or already))
                    break
                if places and source.dim() == tensor.dim() == len(self._given):
                    size = tensor.shape[2:]
                    own = [f.without_dimension(place, 1 - tensor.dim())[0] for place in places]
                    wide = tuple(stretched(one, size) for one in own)
                    self._noted.set(tensor, Fields(wide, names, seen, varies or already))
                    break

    def _write(self, name: str, tensor: Tensor, fields: Fields) -> None:
        self._noted.set(tensor, fields)
        base = tensor._base
        if not _in_place(name) or base is None or not base.is_contiguous():
            return
        # What is written into a view is in its base as well.
        places, unknown, seen, varies = self.of(base)
        whole = f.whole(base, places, len(fields.places[0]))
        offset = tensor.storage_offset() - base.storage_offset()
        for component, new in zip(whole, fields.places[0], strict=True):
            first = component.storage_offset() + offset
            part = component.as_strided(tensor.shape, tensor.stride(), first)
            part.copy_(new.expand(tensor.shape))
        known = [one for one in (seen, fields.seen) if one is not None]
        united = _united((unknown, fields.unknown))
        varies |= fields.varies
        self._noted.set(base, Fields((f.compressed(whole),), united, union(known), varies))


def _in_place(name: str) -> bool:
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _united(names: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for some in names for name in some))

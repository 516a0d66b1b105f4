"""Pixel coordinates of the elements of a pass's tensors, carried through its operations."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsal.geometry import fields as f
from fastsal.geometry.windows import windowed, windows_of

# Functions that move values and compute none: coordinates move with them.
MOVES = frozenset(
    """view reshape flatten unflatten ravel permute transpose swapaxes swapdims movedim moveaxis t
    squeeze unsqueeze expand expand_as broadcast_to view_as reshape_as repeat repeat_interleave tile
    flip fliplr flipud rot90 roll narrow select index_select __getitem__ chunk split
    split_with_sizes tensor_split hsplit vsplit dsplit unbind unfold fold pixel_shuffle
    pixel_unshuffle channel_shuffle native_channel_shuffle gather take_along_dim diagonal cat concat
    concatenate stack hstack vstack dstack column_stack as_strided""".split()  # noqa: SIM905
)
JOINS = frozenset("cat concat concatenate stack hstack vstack dstack column_stack".split())  # noqa: SIM905
# Functions that bring values to places which only the values themselves decide.
SCATTERS = frozenset(
    """sort argsort topk msort scatter scatter_add scatter_reduce index_add index_copy masked_select
    nonzero argmax argmin bincount histc unique kthvalue cdist fft_fft fft_fft2 fft_fftn fft_rfft
    fft_rfft2 fft_rfftn fft_ifft fft_ifft2 fft_ifftn fft_irfft fft_irfft2 fft_irfftn""".split()  # noqa: SIM905
)
REDUCTIONS = frozenset(
    """mean sum amax amin max min std var norm logsumexp median nanmean prod any all var_mean
    std_mean aminmax vector_norm linalg_vector_norm""".split()  # noqa: SIM905
)
PRODUCTS = frozenset("matmul bmm einsum mm __matmul__ baddbmm addmm".split())  # noqa: SIM905
# Functions of a sequence that give one element for each of the first argument's.
SEQUENCES = frozenset(
    """linear scaled_dot_product_attention multi_head_attention_forward
    _native_multi_head_attention lstm gru rnn_tanh rnn_relu""".split()  # noqa: SIM905
)
# Functions that resample: they are applied to coordinates as to images.
RESAMPLINGS = frozenset(
    """interpolate upsample upsample_nearest upsample_bilinear upsample_nearest2d
    upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
    grid_sample grid_sampler grid_sampler_2d roi_align roi_pool ps_roi_align ps_roi_pool""".split()  # noqa: SIM905
)

# The beginnings of the names of functions that apply weights.
WEIGHTED = ("conv", "deform_conv", "linear", "matmul", "einsum", "bmm")

Made = list[list[Tensor]]


Interval = tuple[float, float]


class Seen(NamedTuple):
    """The part of the image that reaches a network's first weights.

    Attributes:
        sides: For each entry of the batch the first and the last pixel row that is seen, as
            distances from the upper edge, and the same of columns from the left edge; one if all
            are equal. With padding they lie outside the image.
        steps: Pixels from one element of the first weights' input to the next, down and across.
    """

    sides: tuple[tuple[Interval, Interval], ...]
    steps: tuple[float, float]

    def of_entry(self, entry: int, entries: int) -> tuple[Interval, Interval]:
        """Return the rows and columns that one entry of a batch sees."""
        if len(self.sides) == entries:
            return self.sides[entry]
        rows, columns = ([side[axis] for side in self.sides] for axis in (0, 1))
        return (
            (min(first for first, _ in rows), max(last for _, last in rows)),
            (min(first for first, _ in columns), max(last for _, last in columns)),
        )


class Fields(NamedTuple):
    """The coordinates of one tensor.

    Attributes:
        places: A field `(4, *shape)` for each place that a location shows, mostly one. Dimensions
            along which coordinates are equal have size 1.
        unknown: The functions on the way whose effect on places is not known.
        seen: The part of the image that reached the first weights on the way; None before them.
    """

    places: tuple[Tensor, ...] = ()
    unknown: tuple[str, ...] = ()
    seen: Seen | None = None


class Coordinates:
    """The pixel coordinates of every element of a pass's tensors.

    Beside a tensor lie homogeneous coordinates $(w, w y, w x, w n)$ of the pixels that an element
    comes from: `y` and `x` in pixels from the image's upper left corner (0.5 is the centre of the
    first), `n` the image's index in the batch, `w` 0 for what comes from no pixel, such as padding.
    Functions that move values are applied to the coordinates; windows (convolution, pooling) take
    those of the window's centre; attention takes the query's.

    Args:
        images: The image batches `(N, C, H, W)`. The images of the second count on from the first,
            and show the same scene, whatever their size.

    Attributes:
        size: (H, W) of the first batch.
        images: N of the first batch.
    """

    def __init__(self, images: Sequence[Tensor]) -> None:
        self.size = (images[0].shape[2], images[0].shape[3])
        self.images = images[0].shape[0]
        self._fields: dict[int, tuple[weakref.ref[Tensor], Fields]] = {}
        first = 0
        for image in images:
            if image.numel():
                self._set(image, Fields((f.start(image, first, self.size),)))
            first += image.shape[0]

    def of(self, tensor: Tensor) -> Fields:
        """Return a tensor's coordinates, without places if they are not known."""
        reference, fields = self._fields.get(id(tensor), (None, Fields()))
        # The id may be that of a freed tensor.
        return fields if reference is not None and reference() is tensor else Fields()

    def copy(self, tensor: Tensor, other: Tensor) -> None:
        """Note that another tensor has the coordinates of a tensor."""
        self._set(other, self.of(tensor))

    def _set(self, tensor: Tensor, fields: Fields) -> None:
        self._fields[id(tensor)] = (weakref.ref(tensor), fields)

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
        """
        known = [tensor for tensor in read if self.of(tensor).places]
        if not known or not made:
            return
        name = getattr(function, "__name__", str(function))
        unknown = _united(self.of(tensor).unknown for tensor in known)
        seen = _union([part for tensor in known if (part := self.of(tensor).seen) is not None])
        if seen is None and name.startswith(WEIGHTED):
            seen = _seen(self.of(known[0]).places[0], self.size)
        try:
            with torch.no_grad():
                found = self._made(name, function, args, kwargs, known, made)
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, NotImplementedError):
            # A form of the function that the rules here do not fit.
            found = None
        if found is None:
            self.assume(name, known, made)
            return
        for tensor, places in zip(made, found, strict=False):
            if places and tensor.numel():
                self._write(name, tensor, Fields(f.distinct(places), unknown, seen))

    def assume(self, name: str, read: Iterable[Tensor], made: Iterable[Tensor]) -> None:
        """Note a result of an operation that is not known; it counts as stretched over its input.

        Args:
            name: The operation's name.
            read: The tensors that it reads.
            made: The tensors that it makes.
        """
        sources = [(tensor, self.of(tensor)) for tensor in read]
        for tensor in made:
            for source, (places, unknown, seen) in sources:
                names = _united((unknown, (name,)))
                if places and source.shape == tensor.shape:
                    self._set(tensor, Fields(places, names, seen))
                    break
                if places and source.dim() == tensor.dim() == 4:
                    size = tensor.shape[2:]
                    own = [f.without_dimension(place, -3)[0] for place in places]
                    wide = tuple(f.stretched(one, size) for one in own)
                    self._set(tensor, Fields(wide, names, seen))
                    break

    def _write(self, name: str, tensor: Tensor, fields: Fields) -> None:
        self._set(tensor, fields)
        base = tensor._base
        if not _in_place(name) or base is None or not base.is_contiguous():
            return
        # What is written into a view is in its base as well.
        places, unknown, seen = self.of(base)
        whole = self._whole(base, places)
        offset = tensor.storage_offset() - base.storage_offset()
        for component, new in zip(whole, fields.places[0], strict=True):
            first = component.storage_offset() + offset
            part = component.as_strided(tensor.shape, tensor.stride(), first)
            part.copy_(new.expand(tensor.shape))
        known = [one for one in (seen, fields.seen) if one is not None]
        united = _united((unknown, fields.unknown))
        self._set(base, Fields((f.compressed(whole),), united, _union(known)))

    def _whole(self, tensor: Tensor, places: Sequence[Tensor]) -> Tensor:
        """Return a tensor's first field at its full size, to be written to."""
        field = places[0] if places else f.nowhere(tensor.dim(), tensor.device)
        return field.expand(f.COMPONENTS, *tensor.shape).contiguous().clone()

    def _made(
        self,
        name: str,
        function: Callable[..., Any],
        args: Any,
        kwargs: Any,
        known: Sequence[Tensor],
        made: Sequence[Tensor],
    ) -> Made | None:
        """Return the places of each result, None if the function is not known."""
        if name == "__setitem__":
            return self._assigned(function, *args)
        short = name if name.startswith("__") else name.removesuffix("_")
        first = known[0]
        if short in SCATTERS:
            return None
        if short == "copy":
            return [[place.expand(-1, *args[1].shape) for place in self.of(args[1]).places]]
        if short in MOVES:
            return self._moved(short, function, args, kwargs, known)
        if short == "pad":
            return [self._padded(first, *args[1:], **_without(kwargs, "input", "value"))]
        if "conv" in short or ("pool" in short and "roi" not in short):
            return self._windowed(short, first, args, kwargs, made)
        if short in RESAMPLINGS:
            return [self._resampled(function, first, args, kwargs)]
        if short in SEQUENCES:
            return [self._of_channels(first, -1)]
        if short in PRODUCTS:
            return [self._product(short, function, args, kwargs, known)]
        if short in REDUCTIONS and made[0].shape != first.shape:
            return self._reduced(first, args, kwargs, made)
        return [self._pointwise(known, tensor) for tensor in made]

    def _of_channels(self, tensor: Tensor, dimension: int) -> list[Tensor]:
        """Return the places of what is computed from all of a tensor's channels."""
        return [
            part
            for place in self.of(tensor).places
            for part in f.without_dimension(place, dimension)
        ]

    def _windowed(
        self, name: str, first: Tensor, args: Any, kwargs: Any, made: Sequence[Tensor]
    ) -> Made:
        given = args or (first,)
        windows = windows_of(name, given, kwargs, made[0].shape)
        places: Sequence[Tensor] = self.of(first).places
        if "conv" in name and windows is not None:
            places = self._of_channels(first, -1 - len(windows))
        return [[windowed(place, windows, first.shape, made[0].shape) for place in places]] * len(
            made
        )

    def _pointwise(self, known: Sequence[Tensor], made: Tensor) -> list[Tensor]:
        """Return the places of a function that computes an element from those at its place."""
        certain = [tensor for tensor in known if not self.of(tensor).unknown] or known
        found: list[Tensor] = []
        for tensor in certain:
            for place in self.of(tensor).places:
                shape = (1,) * (made.dim() - tensor.dim()) + place.shape[1:]
                if len(shape) != made.dim() or any(
                    own not in (1, size) for own, size in zip(shape, made.shape, strict=True)
                ):
                    raise ValueError("the result is no broadcast of the inputs")
                found.append(place.reshape(f.COMPONENTS, *shape))
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
        found: Made = []
        for place in range(max(len(self.of(tensor).places) for tensor in known)):
            components: list[list[Tensor]] = []
            for component in range(f.COMPONENTS):

                def exchanged(value: Any, at: tuple[int, int] = (place, component)) -> Any:
                    return self._exchanged(value, *at, name in JOINS)

                moved = function(*exchanged(args), **exchanged(kwargs))
                results = [moved] if isinstance(moved, Tensor) else list(moved)
                components.append(results)
            for index, parts in enumerate(zip(*components, strict=True)):
                if place == 0:
                    found.append([])
                found[index].append(f.stacked(parts))
        return found

    def _exchanged(self, value: Any, place: int, component: int, joins: bool) -> Any:
        """Return arguments with one component of the coordinates in place of each tensor."""
        if isinstance(value, Tensor):
            places = self.of(value).places
            if places:
                field = places[min(place, len(places) - 1)]
                return field[component].expand(value.shape)
            return torch.zeros((), device=value.device).expand(value.shape) if joins else value
        if isinstance(value, Mapping):
            return {
                key: self._exchanged(item, place, component, joins) for key, item in value.items()
            }
        if type(value) in (tuple, list):
            return type(value)(self._exchanged(item, place, component, joins) for item in value)
        return value

    def _assigned(
        self, function: Callable[..., Any], target: Tensor, index: Any, value: Any
    ) -> Made:
        whole = self._whole(target, self.of(target).places)
        new = self.of(value).places if isinstance(value, Tensor) else ()
        for component in range(f.COMPONENTS):
            function(whole[component], index, new[0][component].expand(value.shape) if new else 0.0)
        return [[f.compressed(whole)]]

    def _padded(
        self, tensor: Tensor, pad: Sequence[int], mode: str = "constant", *_: object
    ) -> list[Tensor]:
        sizes = [-1] * (tensor.dim() - len(pad) // 2) + list(tensor.shape)[-(len(pad) // 2) :]
        return [f.padded(place.expand(-1, *sizes), pad, mode) for place in self.of(tensor).places]

    def _resampled(
        self, function: Callable[..., Any], tensor: Tensor, args: Any, kwargs: Any
    ) -> list[Tensor]:
        found = []
        batch = tensor.shape[0] if isinstance(tensor, Tensor) else 1
        for place in self.of(tensor).places:
            field = f.without_dimension(place, -3)[0].expand(-1, batch, 1, *tensor.shape[2:])
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
            for place in self.of(factor).places:
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
        return [
            [place.mean(listed, keepdim=keep) for place in self.of(tensor).places] for _ in made
        ]


def _seen(place: Tensor, size: tuple[int, int]) -> Seen:
    """Return the part of the image that a tensor of pixels shows."""
    places = f.positions(place)[:2]
    entries = places.shape[1] if places.dim() == 5 else 1
    sides: list[list[Interval]] = []
    steps = [float(size[0]), float(size[1])]
    for entry in range(entries):
        own = places[:, entry] if places.dim() == 5 else places
        of_entry: list[Interval] = []
        for axis, length in enumerate(size):
            lines = [f.line_of(own[axis], d) for d in range(own.dim() - 1)]
            line = max(lines, key=f.width_of)
            step = f.step(line)
            if step:
                steps[axis] = step
            shown = line[~line.isnan()]
            first, last = (float(shown.min()), float(shown.max())) if len(shown) else (0.0, length)
            of_entry.append((first - step / 2, last + step / 2))
        sides.append(of_entry)
    pairs = [(rows, columns) for rows, columns in sides]
    equal = all(pair == pairs[0] for pair in pairs)
    return Seen(tuple(pairs[:1] if equal else pairs), (steps[0], steps[1]))


def _union(seen: Sequence[Seen]) -> Seen | None:
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


def _in_place(name: str) -> bool:
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _united(names: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for some in names for name in some))


def _without(kwargs: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key not in names}


def _in_place_of(value: Any, tensor: Tensor, part: Tensor, ones: bool = False) -> Any:
    """Return arguments with one tensor exchanged, and others in the coordinates' type, or ones."""
    if value is tensor:
        return part
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            return value
        return torch.ones_like(value, dtype=part.dtype) if ones else value.to(part.dtype)
    if isinstance(value, Mapping):
        return {key: _in_place_of(item, tensor, part, ones) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_in_place_of(item, tensor, part, ones) for item in value)
    return value

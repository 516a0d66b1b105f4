"""The images of a forward pass, and which of them a layer's tensor comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.attribution.reader import ScaleReader
from fastsal.networks.hooks import Reading, held
from fastsal.networks.state import LayerError
from fastsal.networks.trace import Trace

WATCH_PART = (
    "watch the part of the network that is called with one image batch at a time, such as "
    "fastsal.watch(model.encoder)"
)


class View:
    """One image batch of a pass, and the statistic of each layer that sees it.

    A layer that runs once for each of several batches, as in a siamese network, is read at the
    calls that see this one.

    Args:
        number: The number of the batch among those of the pass.
        image: `(N, C, H, W)`.
        count: The number of images that are read, the first of the batch.
        make_reader: Returns a reader of the scales for an image batch.
        traces: A trace of each batch of the pass; None if there is one batch alone.

    Attributes:
        images: `(n, C, H, W)`, a copy of the first images of the batch.
        reader: The reader of the scales.
        seen: For each layer, which batches its calls saw, of those that saw this one.
    """

    def __init__(
        self,
        number: int,
        image: Tensor,
        count: int,
        make_reader: Callable[[Tensor], ScaleReader],
        traces: Sequence[Trace] | None,
    ) -> None:
        # The caller may write over the batch afterwards.
        self.images = image[:count].detach().clone()
        self.reader = make_reader(image)
        self.seen: list[set[tuple[int, ...]]] = [set() for _ in self.reader.taps]
        self._number, self._batch, self._count = number, len(image), count
        self._image = image
        self._traces = traces
        self._parallel = False
        self._readings: dict[int, Reading] = {}
        # The taps on the output of the module that is called.
        self._last: list[Reading] = []
        # What the layers' last calls on each device gave.
        self._values: dict[tuple[int, torch.device], Tensor] = {}
        self._error: Exception | None = None

    @contextmanager
    def held(self, model: nn.Module, parallel: nn.Module | None) -> Iterator[None]:
        """Keep the taps on their layers.

        Args:
            model: The module that is called. Its own output goes to `take`: hooks on it would be
                removed while PyTorch may be going through them.
            parallel: As for `hooks.held`.
        """
        self._parallel = parallel is not None
        taps = {
            index: tap._replace(read=partial(self._read, index, tap.name))
            for index, tap in enumerate(self.reader.taps)
        }
        last = [index for index, tap in taps.items() if tap.module is model and not tap.layer_input]
        self._last = [Reading(taps[index]) for index in last]
        others = [index for index in taps if index not in last]
        read = [taps[index] for index in others]
        with held(read, (self._image,), parallel, own_pass=False) as readings:
            self._readings = dict(zip([*others, *last], [*readings, *self._last], strict=True))
            yield

    def take(self, output: Any) -> None:
        """Read the output of the module that is called, if it is one of the layers."""
        for reading in self._last if output is not None else ():
            try:
                reading(reading.tap.module, (), output)
            except Exception as error:
                self._error = error

    def values(self, device_ids: Sequence[int] | None) -> list[Tensor]:
        """Return the statistic of the first images, `(n, h, w)` for each scale.

        Raises:
            LayerError: If a layer did not run.
            Exception: Any error that the statistic or the reader raised during the pass.
        """
        if self._error is not None:
            raise self._error
        # Raises if a layer did not run, which the reader's scales then lack.
        whole = [
            self._readings[index].gathered(device_ids) for index in range(len(self.reader.taps))
        ]
        self.reader.end_part(self._count)
        values = []
        for of_layer, scale in zip(whole, self.reader.scales, strict=True):
            blocks = 1 if scale.placement is None else scale.placement.blocks
            values.append(of_layer[: self._count * blocks])
        return values

    def _read(self, index: int, name: str, tensor: Tensor) -> Tensor:
        """Read the first images if the tensor comes from this batch; keep the error if it fails."""
        place = index, tensor.device
        if self._traces is not None:
            seen = tuple(
                number for number, trace in enumerate(self._traces) if trace.nodes_in(tensor)
            )
            if self._number not in seen:
                return self._values.get(place, tensor.new_empty(0))
            self.seen[index].add(seen)
        try:
            placement = self.reader.locate(index, tensor).placement
            blocks = 1 if placement is None else placement.blocks
            if len(tensor) != self._batch * blocks and not self._parallel:
                raise LayerError(
                    f"layer {name!r} has a batch of {len(tensor)} where the images are "
                    f"{self._batch}, so that it is not known whose map is whose; {WATCH_PART}"
                )
            value = self.reader.read_first(index, tensor, self._count)
        # An error of a map must not end the model's pass.
        except Exception as error:
            self._error = error
            value = tensor.new_empty(0)
        self._values[place] = value
        return value


def chosen_view(views: Sequence[View]) -> View:
    """Return the first image batch of a pass that every layer sees.

    Raises:
        LayerError: If there is none, or a layer runs for this batch alone and again for it together
            with others.
    """
    if len(views) == 1:
        return views[0]
    for view in views:
        if all(view.seen):
            break
    else:
        sees = "; ".join(
            f"{tap.name!r} sees {[number for number, view in enumerate(views) if view.seen[index]]}"
            for index, tap in enumerate(views[0].reader.taps)
        )
        raise LayerError(
            f"the pass has {len(views)} image batches, and no one of them is seen by all layers "
            f"(counted from 0: {sees}); give layers of one branch, or {WATCH_PART}"
        )
    for tap, seen in zip(view.reader.taps, view.seen, strict=True):
        if len(seen) > 1:
            raise LayerError(
                f"layer {tap.name!r} runs for one image batch and again for several "
                f"({sorted(seen)}, counted from 0), so that it is not known which call to read; "
                f"give the scale with its call, as fastsal.find_scales does, or {WATCH_PART}"
            )
    return view

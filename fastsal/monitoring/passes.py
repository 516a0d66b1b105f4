"""Forward passes that a model runs anyway: counted, and read from their beginning to their end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fastsal.arguments.inputs import image_of
from fastsal.attribution.reader import ScaleReader
from fastsal.attribution.smoe_scale import readers_of
from fastsal.networks import hooks, state
from fastsal.networks.trace import Trace

if TYPE_CHECKING:
    from fastsal.monitoring.monitor import Watch

COMPILED = (
    "a compiled model calls no hooks, so that its passes cannot be read: compile it first, watch "
    "what torch.compile returned and give run_eager=True; the passes that are read then run "
    "uncompiled"
)


class Counter:
    """The hook that is there between samples; a copy of the model has one that does nothing."""

    def __init__(self, watch: Watch | None = None) -> None:
        self.watch = watch

    def __call__(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        """Tell the watch of a pass."""
        if self.watch is not None:
            if state.within_compiled():
                raise RuntimeError(COMPILED)
            self.watch.count(args, kwargs)

    def __reduce__(self) -> tuple[type[Counter], tuple[()]]:
        return Counter, ()


class Pass:
    """One forward pass that is read, or traced: hooks from its beginning to its end.

    Attributes:
        step: Its number.
        thread: That it runs in.
        trace: Of a pass in which the scales are found; else None.
        reader: What reads the scales of another.
        readings: What it read.
        error: What a reading raised.
        images: `(n, C, H, W)`, the first images of the batch.
        device_ids: The order of devices over which the batch is split; None for one.
    """

    reader: ScaleReader
    readings: list[hooks.Reading]
    images: Tensor

    def __init__(self, watch: Watch, step: int) -> None:
        self.watch = watch
        self.step = step
        self.thread = threading.get_ident()
        self.trace: Trace | None = None
        self.error: Exception | None = None
        self.device_ids = getattr(watch.model, "device_ids", None)
        self._hooks = ExitStack()

    def begin(self, args: Any, kwargs: Any) -> None:
        """Set the hooks that read, and the one that ends this pass, whether it fails or not."""
        watch = self.watch
        model, network = watch.model, watch.network
        given = tuple(hooks.tensors_in((args, kwargs)))
        image = image_of(given)
        handle = model.register_forward_hook(self._after, always_call=True)
        self._hooks.callback(handle.remove)
        self._hooks.enter_context(state.eager(state.parts(model)))
        if not watch.found:
            self.trace = Trace([tensor for tensor in given if tensor.dim() == 4])
            self._hooks.enter_context(state.hooked(self.trace.hooks(network)))
            self._hooks.enter_context(self.trace)
            return
        # What the caller does with its batch afterwards is not the sample's.
        self.images = image[: watch.images].detach().clone()
        self.reader = readers_of(watch.attributor).for_image(image)
        taps = [tap._replace(read=self._first(tap.read)) for tap in self.reader.taps]
        parallel = network if isinstance(model, nn.DataParallel) else None
        self.readings = self._hooks.enter_context(hooks.held(taps, parallel))

    def _first(self, read: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def first(tensor: Tensor) -> Tensor:
            try:
                return read(tensor[: self.watch.images])
            # Kept for the end: what is wrong with a map is no fault of the pass.
            except Exception as error:
                self.error = error
                return tensor.new_empty(0)

        return first

    def end(self) -> None:
        """Take all hooks off."""
        self._hooks.close()

    def _after(self, _: nn.Module, __: Any, output: Any) -> None:
        self.end()
        self.watch.finish(self, output)

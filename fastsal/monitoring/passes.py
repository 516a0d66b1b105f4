"""Hooks that count a model's forward passes, and hooks that read one of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from fastsal.arguments.inputs import image_of
from fastsal.attribution.reader import ScaleReader
from fastsal.keeping.parts import parts
from fastsal.networks import hooks, state
from fastsal.networks.trace import Trace

COMPILED = (
    "a compiled model calls no hooks, so that its passes cannot be read: compile it first, watch "
    "what torch.compile returned and give run_eager=True; the passes that are read then run "
    "uncompiled"
)


class Counter:
    """A forward pre-hook that reports every pass; in a copy of the model it does nothing.

    Args:
        on_pass: Called with a pass's arguments and keyword arguments; None does nothing.
    """

    def __init__(self, on_pass: Callable[[Any, Any], None] | None = None) -> None:
        self.on_pass = on_pass

    def __call__(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        """Report a pass.

        Raises:
            RuntimeError: If a compiled function runs it.
        """
        if self.on_pass is not None:
            if state.within_compiled():
                raise RuntimeError(COMPILED)
            self.on_pass(args, kwargs)

    def __reduce__(self) -> tuple[type[Counter], tuple[()]]:
        return Counter, ()


class Pass:
    """One forward pass with hooks that read its scales, or trace it where no scales are known.

    Args:
        step: The pass's number.
        model: The module that is called.
        network: The network in it, without the wrappers of the compiler and of several devices.
        count: The number of images that are read, the first of the batch.
        make_reader: Returns a reader of the scales for an image batch; None traces the pass.
        on_end: Called with this pass and the model's output at its end; the output of a pass that
            failed is None.

    Attributes:
        step: The pass's number.
        thread: The thread that runs it.
        trace: The graph of a pass that is traced; else None.
        reader: The reader of a pass whose scales are read.
        images: `(n, C, H, W)`, the first images of the batch.
    """

    reader: ScaleReader
    images: Tensor
    _readings: list[hooks.Reading]

    def __init__(
        self,
        step: int,
        model: nn.Module,
        network: nn.Module,
        count: int,
        make_reader: Callable[[Tensor], ScaleReader] | None,
        on_end: Callable[[Pass, Any], None],
    ) -> None:
        self.step = step
        self.thread = threading.get_ident()
        self.trace: Trace | None = None
        self._model, self._network = model, network
        self._count = count
        self._make_reader = make_reader
        self._on_end = on_end
        self._error: Exception | None = None
        self._hooks = ExitStack()

    def begin(self, args: Any, kwargs: Any) -> None:
        """Register the hooks, among them one that ends this pass whether it fails or not.

        Args:
            args: The model's arguments.
            kwargs: The model's keyword arguments.

        Raises:
            ValueError: If none of them is an image batch.
        """
        model, network = self._model, self._network
        given = tuple(hooks.tensors_in((args, kwargs)))
        image = image_of(given)
        handle = model.register_forward_hook(self._after, always_call=True)
        self._hooks.callback(handle.remove)
        self._hooks.enter_context(state.eager(parts(model)))
        if self._make_reader is None:
            self.trace = Trace([tensor for tensor in given if tensor.dim() == 4])
            self._hooks.enter_context(state.hooked(self.trace.hooks(network)))
            self._hooks.enter_context(self.trace)
            return
        # The caller may write over the batch afterwards.
        self.images = image[: self._count].detach().clone()
        self.reader = self._make_reader(image)
        taps = [tap._replace(read=self._of_first(tap.read)) for tap in self.reader.taps]
        parallel = network if isinstance(model, nn.DataParallel) else None
        self._readings = self._hooks.enter_context(hooks.held(taps, given, parallel))

    def values(self) -> list[Tensor]:
        """Return the statistic of the first images, `(n, h, w)` for each scale.

        Raises:
            Exception: Any error that the statistic or the reader raised during the pass.
        """
        if self._error is not None:
            raise self._error
        # `DataParallel` splits the batch over these devices, in their order.
        devices = getattr(self._model, "device_ids", None)
        return [reading.gathered(devices)[: self._count] for reading in self._readings]

    def end(self) -> None:
        """Remove all hooks."""
        self._hooks.close()

    def _of_first(self, read: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return a function that reads the first images and keeps the error where it fails."""

        def read_first(tensor: Tensor) -> Tensor:
            try:
                return read(tensor[: self._count])
            # An error of a map must not end the model's pass.
            except Exception as error:
                self._error = error
                return tensor.new_empty(0)

        return read_first

    def _after(self, _: nn.Module, __: Any, output: Any) -> None:
        self.end()
        self._on_end(self, output)

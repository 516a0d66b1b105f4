"""One forward pass that `watch` reads, or traces to find the network's scales."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from fastsal.arguments.inputs import image_of, images_of
from fastsal.attribution.reader import ScaleReader
from fastsal.keeping.parts import parts
from fastsal.monitoring.views import View, chosen_view
from fastsal.networks import hooks, state
from fastsal.networks.trace import Trace

LIST_OF_IMAGES = (
    "the model is called with a list of images, as torchvision's detectors are, which it resizes, "
    "pads and puts into one batch itself: watch the part that gets that batch, such as "
    "fastsal.watch(model.backbone)"
)


def _has_list_of_images(arguments: Any) -> bool:
    args, kwargs = arguments
    return any(
        isinstance(one, (list, tuple))
        and bool(one)
        and all(isinstance(image, Tensor) and image.dim() == 3 for image in one)
        for one in (*args, *kwargs.values())
    )


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
        trace: The graph of a pass that is traced; else None.
    """

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
        self.trace: Trace | None = None
        self._model, self._network = model, network
        self._count = count
        self._make_reader = make_reader
        self._on_end = on_end
        self._views: list[View] = []
        self._hooks = ExitStack()

    def begin(self, args: Any, kwargs: Any) -> None:
        """Register the hooks.

        Args:
            args: The model's arguments.
            kwargs: The model's keyword arguments.

        Raises:
            ValueError: If none of them is an image batch.
        """
        given = tuple(hooks.tensors_in((args, kwargs)))
        if all(tensor.dim() != 4 for tensor in given) and _has_list_of_images((args, kwargs)):
            raise ValueError(LIST_OF_IMAGES)
        image_of(given)
        images = [tensor for tensor in images_of(given) if tensor.numel()]
        self._hooks.enter_context(state.eager(parts(self._model)))
        if self._make_reader is None:
            self.trace = Trace(images)
            self._follow(self.trace)
            return
        batches = list({id(image): image for image in images}.values())
        traces = [Trace([batch]) for batch in batches] if len(batches) > 1 else None
        for trace in traces or ():
            self._follow(trace)
        parallel = self._network if isinstance(self._model, nn.DataParallel) else None
        for number, batch in enumerate(batches):
            view = View(number, batch, self._count, self._make_reader, traces)
            self._hooks.enter_context(view.held(self._model, parallel))
            self._views.append(view)

    def _follow(self, trace: Trace) -> None:
        # The called module itself counts as no operation, and PyTorch may be going through its
        # hooks when they are removed.
        found = [hook for hook in trace.hooks(self._network) if hook[0] is not self._model]
        self._hooks.enter_context(state.hooked(found, own_pass=False))
        self._hooks.enter_context(trace)

    def chosen(self) -> tuple[View, list[Tensor]]:
        """Return the image batch that every layer sees, and the statistic of its first images.

        Raises:
            LayerError: If a layer did not run, or it is not clear which call of it shows which
                batch.
            Exception: Any error that the statistic or the reader raised during the pass.
        """
        view = chosen_view(self._views)
        # `DataParallel` splits the batch over these devices, in their order.
        return view, view.values(getattr(self._model, "device_ids", None))

    def leave(self, output: Any) -> None:
        """Remove all hooks; the output is None if the pass failed."""
        with self._hooks:
            for view in self._views:
                view.take(output)

    def finish(self, output: Any) -> None:
        """Hand the pass on with the model's output; None if the pass failed."""
        self._on_end(self, output)

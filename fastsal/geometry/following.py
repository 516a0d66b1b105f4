"""A torch function mode that follows the pixels of a pass's images through its operations."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastsal.arguments.inputs import images_of
from fastsal.geometry.coordinates import Coordinates
from fastsal.geometry.functions import name_of
from fastsal.geometry.placement import Located, located
from fastsal.geometry.rules import tensors_in

# Pooling inside boxes.
BOX_POOLING = ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool")


class Following(TorchFunctionMode):
    """A torch function mode that tells where in the image the tensors of a pass lie.

    >>> import torch
    >>> image = torch.rand(1, 3, 4, 4)
    >>> following = Following()
    >>> following.begin([image])
    >>> with following:
    ...     mirrored = image.flip(3)
    >>> following.located(mirrored).placement.views[0].columns
    (3.5, 2.5, 1.5, 0.5)
    """

    def __init__(self) -> None:
        super().__init__()
        self._local = threading.local()

    def begin(self, inputs: Sequence[Tensor]) -> None:
        """Start a pass of this thread.

        Args:
            inputs: The network's tensors; the 4-D ones are the images, or without one volumes or
                signals.
        """
        images = images_of(inputs)
        self._local.coordinates = Coordinates(images) if images else None

    def end(self) -> None:
        """Forget this thread's pass."""
        self._local.__dict__.pop("coordinates", None)

    @property
    def paused(self) -> bool:
        """True while a hook of this thread computes, whose functions are not followed."""
        return getattr(self._local, "paused", False)

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._local.paused = paused

    def located(self, tensor: Tensor) -> Located | None:
        """Return the place of a tensor on the first images, None if it is not known."""
        coordinates: Coordinates | None = getattr(self._local, "coordinates", None)
        if coordinates is None:
            return None
        fields = coordinates.of(tensor)
        images, size = coordinates.images, coordinates.size
        return located(fields, tensor.shape, images, size, single=True)

    def copy(self, tensor: Tensor, other: Tensor) -> None:
        """Note that another tensor takes a tensor's place in the pass."""
        coordinates: Coordinates | None = getattr(self._local, "coordinates", None)
        if coordinates is not None:
            coordinates.copy(tensor, other)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function and note the coordinates of its result."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        coordinates: Coordinates | None = getattr(self._local, "coordinates", None)
        name = name_of(func)
        if coordinates is None or self.paused or name.endswith("_like") or name.startswith("new_"):
            return result
        made = [args[0]] if name == "__setitem__" else list(tensors_in(result))
        coordinates.follow(func, args, kwargs, list(tensors_in((args, kwargs))), made)
        return result

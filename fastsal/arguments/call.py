"""One call of a model, as Captum's `attribute` is given it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor


class Call(NamedTuple):
    """A forward function with its arguments, under the names that Captum gives them.

    Attributes:
        forward_func: The model, or any callable that runs it.
        inputs: The model's tensors.
        target: In any of Captum's forms, a callable of the output, or None.
        additional_forward_args: Further arguments: one, or a tuple of them, or None.
        device_ids: The order of the devices over which a `DataParallel` model splits a batch.
        part: True if the tensors are a part of the caller's batch.
    """

    forward_func: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    target: Any = None
    additional_forward_args: object = None
    device_ids: Sequence[int] | None = None
    part: bool = False

    @property
    def kind(self) -> Hashable:
        """All of the arguments that the network's path can depend on but the tensors' values."""
        return _kind((self.inputs, self.additional_forward_args))


def _kind(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.device
    if isinstance(value, (tuple, list)):
        return tuple(map(_kind, value))
    if isinstance(value, Mapping):
        return tuple((key, _kind(item)) for key, item in value.items())
    if isinstance(value, (bool, int, float, str, bytes, type(None))):
        return value
    return type(value).__qualname__

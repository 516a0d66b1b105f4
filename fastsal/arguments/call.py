"""One call of a model, as Captum's `attribute` is given it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

"""A batch split by `max_batch`, and the outputs joined again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Part(NamedTuple):
    """Some images of a batch, with their targets and further arguments."""

    inputs: tuple[Tensor, ...]
    target: Any
    additional_forward_args: object


def checked_max_batch(max_batch: int | None) -> int | None:
    """Return the number of images that go through a network at once, None for all.

    Raises:
        ValueError: If it is below 1, or no whole number.

    >>> checked_max_batch(8)
    8
    """
    if max_batch is None:
        return None
    if isinstance(max_batch, bool) or not isinstance(max_batch, int) or max_batch < 1:
        raise ValueError(
            f"max_batch is how many images go through at once, 1 or more, got {max_batch!r}"
        )
    return max_batch


def parts(
    inputs: tuple[Tensor, ...],
    target: Any,
    additional_forward_args: object,
    max_batch: int | None,
) -> list[Part]:
    """Return a batch in parts of at most `max_batch` images; None gives it whole.

    As in Captum's `internal_batch_size`, tensors among the further arguments are split with the
    images, and so are targets of which each image has one. Other arguments, and tensors whose first
    dimension is not the batch's, go to every part unchanged.

    >>> [part.target for part in parts((torch.ones(3, 1, 2, 2),), [5, 6, 7], None, 2)]
    [[5, 6], [7]]
    """
    images = inputs[0].shape[0]
    if max_batch is None or images <= max_batch:
        return [Part(inputs, target, additional_forward_args)]

    def of(value: Any, start: int) -> Any:
        if isinstance(value, Tensor):
            each = value.dim() > 0 and len(value) == images
        else:
            each = isinstance(value, list) and len(value) == images
        return value[start : start + max_batch] if each else value

    return [
        Part(
            tuple(of(tensor, start) for tensor in inputs),
            of(target, start),
            _tensors_of(additional_forward_args, start, of),
        )
        for start in range(0, images, max_batch)
    ]


def _tensors_of(arguments: object, start: int, of: Any) -> object:
    if isinstance(arguments, tuple):
        return tuple(_tensors_of(argument, start, of) for argument in arguments)
    return of(arguments, start) if isinstance(arguments, Tensor) else arguments


def joined_outputs(outputs: Sequence[Any]) -> Any:
    """Return a model's outputs for the parts of a batch as its output for the whole.

    Tensors are joined by their first dimension, lists (one entry for each image) end to end, tuples
    and mappings item by item; the first of anything else stands for all.

    >>> joined_outputs([{"logits": torch.ones(2, 3)}, {"logits": torch.ones(1, 3)}])["logits"].shape
    torch.Size([3, 3])
    """
    first = outputs[0]
    if len(outputs) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(list(outputs)) if first.dim() else torch.stack(list(outputs))
    if isinstance(first, list):
        return [item for output in outputs for item in output]
    if isinstance(first, Mapping):
        joined = {key: joined_outputs([output[key] for output in outputs]) for key in first}
        return joined if type(first) is dict else type(first)(joined)  # type: ignore[call-arg]
    if isinstance(first, tuple):
        items = [joined_outputs(list(each)) for each in zip(*outputs, strict=True)]
        return type(first)(*items) if hasattr(first, "_fields") else tuple(items)
    return first

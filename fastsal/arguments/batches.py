"""Split a batch by `max_batch` and join the outputs again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastsal.arguments.call import Call
from fastsal.arguments.copies import copied


def checked_max_batch(max_batch: int | None) -> int | None:
    """Return `max_batch`, the number of images in one forward pass; None for all.

    Raises:
        ValueError: If `max_batch` is below 1, or no whole number.

    >>> checked_max_batch(8)
    8
    """
    if max_batch is None:
        return None
    if isinstance(max_batch, bool) or not isinstance(max_batch, int) or max_batch < 1:
        raise ValueError(
            f"max_batch is the number of images in one forward pass, 1 or more, got {max_batch!r}"
        )
    return max_batch


def split(call: Call, max_batch: int | None) -> list[Call]:
    """Split a call into calls of at most `max_batch` images each; None leaves it whole.

    As in Captum's `internal_batch_size`, tensors among the further arguments are split with the
    images, and so are targets of which each image has one. Other arguments, and tensors whose first
    dimension is not the batch's, go to every call: to the first unchanged, to the others as copies,
    since the model may write to them.

    >>> call = Call(torch.nn.Identity(), (torch.ones(3, 1, 2, 2),), [5, 6, 7])
    >>> [part.target for part in split(call, 2)]
    [[5, 6], [7]]
    """
    images = call.inputs[0].shape[0]
    if max_batch is None or images <= max_batch:
        return [call]

    def select(value: Any, start: int) -> Any:
        if isinstance(value, Tensor):
            one_per_image = value.dim() > 0 and len(value) == images
        else:
            one_per_image = isinstance(value, list) and len(value) == images
        if one_per_image:
            return value[start : start + max_batch]
        return copied(value) if start else value

    return [
        call._replace(
            part=True,
            inputs=tuple(select(tensor, start) for tensor in call.inputs),
            target=select(call.target, start),
            additional_forward_args=select_tensors(call.additional_forward_args, start, select),
        )
        for start in range(0, images, max_batch)
    ]


def select_tensors(arguments: object, start: int, select: Callable[[Any, int], Any]) -> object:
    """Return a call's further arguments for the part of a batch that begins at an image.

    Args:
        arguments: One argument, or a tuple of them.
        start: The first image of the part.
        select: Returns the part of a tensor from the first image on.

    >>> select_tensors((torch.tensor([4, 5]), "sum"), 1, lambda tensor, start: tensor[start:])
    (tensor([5]), 'sum')
    """
    if isinstance(arguments, tuple):
        return tuple(select_tensors(argument, start, select) for argument in arguments)
    if isinstance(arguments, Tensor):
        return select(arguments, start)
    return copied(arguments) if start else arguments


def joined_outputs(outputs: Sequence[Any]) -> Any:
    """Join a model's outputs for the parts of a batch to its output for the whole batch.

    Tensors are concatenated along their first dimension, lists (one entry for each image) end to
    end, tuples and mappings item by item. Of any other type the first part's output is taken.

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

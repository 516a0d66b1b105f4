"""Lists of images of different sizes, as detectors take them, one image at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fastsal.arguments.batches import select_tensors


class OneImage(NamedTuple):
    """The arguments of the call of one image of a list or a batch.

    Attributes:
        inputs: The image as a batch of one, `(1, C, H, W)`; of several inputs a tuple.
        target: Its own target.
        additional_forward_args: The further arguments, of tensors its own part.
    """

    inputs: Tensor | tuple[Tensor, ...]
    target: Any
    additional_forward_args: object


def one_by_one(
    inputs: Tensor | tuple[Tensor, ...] | Sequence[Tensor],
    target: Any = None,
    additional_forward_args: object = None,
) -> list[OneImage]:
    """Return the arguments of each image's own call.

    Tensors among the further arguments whose first dimension is the number of images, and targets
    that are lists or tensors of that length, give each image its own part, as in Captum's
    `internal_batch_size`.

    Args:
        inputs: A list of images `(C, H, W)`, of any sizes; a batch, or a tuple of batches.
        target: As for `attribute`.
        additional_forward_args: As for `attribute`.

    Raises:
        TypeError: If a list holds anything but images `(C, H, W)`.
        ValueError: If there is no image.

    >>> import torch
    >>> images = [torch.zeros(3, 8, 6), torch.zeros(3, 4, 9)]
    >>> [(tuple(one.inputs.shape), one.target) for one in one_by_one(images, [1, 2])]
    [((1, 3, 8, 6), 1), ((1, 3, 4, 9), 2)]
    """
    if isinstance(inputs, list):
        given = [
            tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__ for one in inputs
        ]
        if not all(isinstance(one, Tensor) and one.dim() == 3 for one in inputs):
            raise TypeError(
                f"a list of inputs holds one tensor (C, H, W) for each image, got {given}; several "
                "inputs of one model go in as a tuple, images of one size as a batch (N, C, H, W)"
            )
        batches: list[Tensor | tuple[Tensor, ...]] = [one[None] for one in inputs]
    else:
        first = inputs[0] if isinstance(inputs, tuple) else inputs
        if not isinstance(first, Tensor) or not first.dim():
            raise TypeError(f"inputs must be a tensor or a tuple of tensors, got {type(first)}")
        batches = [
            tuple(tensor[k : k + 1] for tensor in inputs)
            if isinstance(inputs, tuple)
            else first[k : k + 1]
            for k in range(len(first))
        ]
    images = len(batches)
    if not images:
        raise ValueError("expected at least one image, got none; leave out empty lists and batches")

    def own(value: Any, image: int) -> Any:
        several = isinstance(value, list) or (isinstance(value, Tensor) and value.dim() > 0)
        if not several or len(value) != images:
            return value
        # One target may be a function.
        return value[image] if isinstance(value, list) else value[image : image + 1]

    return [
        OneImage(batch, own(target, image), select_tensors(additional_forward_args, image, own))
        for image, batch in enumerate(batches)
    ]

"""Maps of images of different sizes, and of every detection: one image at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.arguments.copies import copied
from fastsal.arguments.detections import Detections, FixedDetection, is_every_detection
from fastsal.arguments.image_lists import OneImage, one_by_one
from fastsal.arguments.inputs import as_tuple
from fastsal.networks import hooks


def one_at_a_time(inputs: Any, target: Any = None) -> bool:
    """Return True if `attribute` gives a list, with an entry for each image.

    Args:
        inputs: As for `attribute`.
        target: As for `attribute`.

    >>> one_at_a_time(torch.ones(2, 3, 4, 4)), one_at_a_time([torch.ones(3, 4, 4)])
    (False, True)
    """
    return isinstance(inputs, list) or is_every_detection(target)


def attributed(
    attribute: Callable[..., Any],
    forward_func: Callable[..., Any],
    inputs: Any,
    target: Any = None,
    additional_forward_args: object = None,
    **settings: Any,
) -> list[Any]:
    """Return each image's attribution, or that of each of its detections.

    Args:
        attribute: The attribution of a batch, which takes the arguments that follow.
        forward_func: The model.
        inputs: A list of images `(C, H, W)`, or for `Detections` also a batch.
        target: As for `attribute`; `Detections` gives one map for each.
        additional_forward_args: As for `attribute`.
        settings: Further arguments of `attribute`.

    Returns:
        For each image what `attribute` gives for it alone, a tensor without its first dimension;
        for `Detections` `(K, ...)`, one for each, the best first.

    Raises:
        TypeError: As `one_by_one` does.
        ValueError: As `one_by_one` and `attribute` do.
    """
    found = []
    for one in one_by_one(inputs, target, additional_forward_args):
        if is_every_detection(one.target):
            found.append(_of_detections(attribute, forward_func, one, settings))
        else:
            single = attribute(one.inputs, one.target, one.additional_forward_args, **settings)
            found.append(_alone(single))
    return found


def _of_detections(
    attribute: Callable[..., Any],
    forward_func: Callable[..., Any],
    one: OneImage,
    settings: dict[str, Any],
) -> Any:
    """Return the maps of all detections of an image, `(K, ...)`."""
    target: Detections = one.target

    def arguments() -> tuple[Any, object]:
        # The model may write to them.
        return copied((one.inputs, one.additional_forward_args))

    with torch.no_grad():
        inputs, further = arguments()
        output, _ = hooks.forward(forward_func, as_tuple(inputs), further)
    (boxes,) = target.found(output)
    maps = []
    for place, label in zip(boxes.places.tolist(), boxes.labels.tolist(), strict=True):
        inputs, further = arguments()
        fixed = FixedDetection(place, label, target.classes, target.extra)
        maps.append(attribute(inputs, fixed, further, **settings))
    if not maps:
        image = as_tuple(one.inputs)[0]
        return image.new_empty((0, *image.shape[1:]))
    if isinstance(maps[0], tuple):
        return tuple(torch.cat(parts) for parts in zip(*maps, strict=True))
    return torch.cat(maps)


def _alone(maps: Any) -> Any:
    """Return the maps of a batch of one image without the dimension of the batch."""
    return maps[0] if isinstance(maps, Tensor) else maps

"""Targets in all of Captum's forms: checks, and the scores that a target selects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from captum._utils.common import _select_targets, _validate_target
from torch import Tensor

from fastsal.arguments.logits import logits_of


class TargetError(ValueError, AssertionError):
    """A target that does not fit the model's output; also an AssertionError, as in Captum."""


def check_target(output: Any, target: Any, samples: int) -> None:
    """Raise an error if a target does not fit the model's output.

    Raises:
        TargetError: If it does not fit; the message has the target and the output's shape.
    """
    output = logits_of(output)
    if target is None or callable(target) or not isinstance(output, Tensor):
        return
    if type(target) is int and output.dim() == 2 and 0 <= target < output.shape[1]:
        # A shortcut for one class: selecting its scores takes as long as one layer's statistic.
        return
    select_target(output, target, samples)


def select_target(output: Tensor, target: Any, samples: int) -> Tensor:
    """Return the scores that a target selects from a model's output.

    Args:
        output: The model's output.
        target: In any of Captum's forms.
        samples: The number of images.

    Raises:
        TargetError: If the target does not fit.

    >>> import torch
    >>> select_target(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), [1, 0], 2).tolist()
    [2.0, 3.0]
    """
    try:
        _validate_target(_rows(output, samples), target)
        # Checked here, since an index out of bounds on a GPU ends the process.
        several = target.numel() > 1 if isinstance(target, Tensor) else isinstance(target, list)
        if several and output.dim() == 2 and not isinstance(target[0], tuple):
            classes = output.shape[1]
            # One copy of the whole tensor, since each copy waits for the GPU.
            indices = target.tolist() if isinstance(target, Tensor) else target
            if any(not 0 <= int(index) < classes for index in indices):
                raise IndexError(f"a class lies outside 0 to {classes - 1}")
        if isinstance(target, Tensor):
            target = target.to(output.device)
        selected: Tensor = _select_targets(output, target)
    except (AssertionError, IndexError, RuntimeError, TypeError) as error:
        raise TargetError(
            f"target {target!r} does not fit the model's output of shape {tuple(output.shape)}: "
            f"{str(error).rstrip('. ')}. Give a class, a list or tensor with one for each of the "
            f"{samples} image(s), or tuples for an output of more dimensions"
        ) from error
    return selected


def select_scores(output: Any, target: Any, samples: int, part: bool = False) -> Tensor:
    """Return one score for each image, whose gradient a class activation map takes.

    A network that pools several images into one row of its output, as in multiple-instance
    learning, has one score for each row: that of all the row's images.

    Args:
        output: The model's output; of one that names its logits `(N, classes)`, these are taken,
            unless the target is callable.
        target: In any of Captum's forms, a callable of the output, or None for the predicted
            class. If the output is one number for each image, None takes that number.
        samples: The number of images.
        part: True if the images are a part of the caller's batch.

    Returns:
        N scores, or one for each row of the output.

    Raises:
        TargetError: If the target does not fit the output, or selects another number of scores; if
            images are pooled into rows, and only a part of them is there.

    >>> import torch
    >>> select_scores(torch.tensor([[1.0, 2.0], [4.0, 3.0]]), None, 2).flatten().tolist()
    [2.0, 4.0]
    """
    if not callable(target):
        output = logits_of(output)
    if callable(target):
        scores = target(output)
    elif not isinstance(output, Tensor):
        raise TargetError(
            f"the model's output is {_described(output)}, from which target {target!r} selects no "
            "score; give a callable of the output that returns one score an image, such as "
            f"target=lambda output: {_example(output)}[:, 0]"
        )
    elif target is not None:
        scores = select_target(output, target, samples)
    elif _has_classes(output, samples):
        scores = output.gather(1, output.argmax(1, keepdim=True))
    elif output.numel() == _rows(output, samples):
        scores = output
    else:
        raise TargetError(
            f"the model's output has shape {tuple(output.shape)}, and so no one predicted class "
            f"for each of the {samples} image(s); give a tuple of indices, a list of tuples with "
            "one for each image, or a callable of the output that returns one score an image, such "
            "as target=lambda output: output[:, 0].flatten(1).sum(1)"
        )
    rows = _rows(output, samples)
    if rows < samples and part:
        raise TargetError(
            f"the model pools {samples} image(s) into {rows} row(s) of its output, and max_batch "
            "divides the batch: leave out max_batch, so that images of one row stay together"
        )
    if not isinstance(scores, Tensor) or scores.numel() not in (samples, rows):
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise TargetError(
            f"target {target!r} gives {shape}, expected one score for each of the {samples} "
            "image(s); give a class, or a callable of the output that returns one score an image"
        )
    return scores


def select_classes(output: Any, target: Any, samples: int, part: bool = False) -> Tensor:
    """Return the class of each row of an output `(rows, classes)`, whose score is selected.

    Args:
        output: The model's output.
        target: As for `select_scores`, but no callable.
        samples: As for `select_scores`.
        part: As for `select_scores`.

    Returns:
        One class for each row.

    Raises:
        TargetError: As `select_scores` does.

    >>> import torch
    >>> select_classes(torch.tensor([[1.0, 2.0], [4.0, 3.0]]), None, 2).tolist()
    [1, 0]
    """
    output = logits_of(output)
    classes = torch.arange(output.shape[1], device=output.device, dtype=torch.long)
    classes = classes.expand(output.shape)
    return select_scores(classes, fixed_target(output, target, samples), samples, part).flatten()


def fixed_target(output: Any, target: Any, samples: int) -> Any:
    """Return the predicted classes if the target is None and the output has classes, or the target.

    >>> import torch
    >>> fixed_target(torch.tensor([[1.0, 2.0], [4.0, 3.0]]), None, 2)
    [1, 0]
    """
    output = logits_of(output)
    if target is None and isinstance(output, Tensor) and _has_classes(output, samples):
        return output.argmax(1).tolist()
    return target


def _has_classes(output: Tensor, samples: int) -> bool:
    return output.dim() == 2 and output.shape[0] == _rows(output, samples)


def _rows(output: Any, samples: int) -> int:
    """Return the number of rows of an output: of images, or of groups of as many images each."""
    if not isinstance(output, Tensor) or output.dim() not in (1, 2):
        return samples
    rows = output.shape[0]
    return rows if rows and samples % rows == 0 else samples


def _described(output: Any) -> str:
    """Return the type of an output in words, with the names or shapes of its items."""
    kind = type(output).__name__
    if isinstance(output, Mapping):
        return f"a {kind} with the keys {', '.join(map(repr, output))}"
    fields = _fields(output)
    if fields:
        return f"a {kind} with the fields {', '.join(fields)}"
    if isinstance(output, (tuple, list)):
        items = [
            str(tuple(item.shape)) if isinstance(item, Tensor) else type(item).__name__
            for item in output
        ]
        return f"a {kind} of {', '.join(items) or 'nothing'}"
    return f"a {kind}"


def _example(output: Any) -> str:
    """Return the Python expression for one item of an output."""
    fields = _fields(output)
    if isinstance(output, Mapping) and output:
        return f"output[{next(iter(output))!r}]"
    return f"output.{fields[0]}" if fields else "output[0]"


def _fields(output: Any) -> tuple[str, ...]:
    """Return the field names of a named tuple or a dataclass."""
    return tuple(getattr(output, "_fields", getattr(output, "__dataclass_fields__", ())))

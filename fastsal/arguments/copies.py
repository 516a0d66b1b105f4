"""Copies of a call's arguments, for passes beyond the one that its user asked for."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn

Value = TypeVar("Value")


def copied(value: Value) -> Value:
    """Return arguments whose tensors are copies, in containers of their own.

    A forward that writes to its inputs (`x.sub_(mean)`) then writes to the copies. Tensors are
    found in nested tuples, lists, dictionaries and plain objects; anything else is handed on. A
    tensor that comes twice comes twice in the copy.

    >>> import torch
    >>> given = (torch.zeros(2), {"scale": torch.ones(1)})
    >>> _ = copied(given)[0].add_(1)
    >>> given[0].tolist()
    [0.0, 0.0]
    """
    result: Value = _copied(value, {})
    return result


def _copied(value: Any, known: dict[int, Any]) -> Any:
    if id(value) in known:
        return known[id(value)]
    kind = type(value)
    made: Any
    if isinstance(value, Tensor):
        made = value.detach().clone()
    elif isinstance(value, (list, set, dict)):
        made = known[id(value)] = copy.copy(value)
        if isinstance(value, list):
            made[:] = [_copied(item, known) for item in value]
        elif isinstance(value, dict):
            for key, item in value.items():
                made[key] = _copied(item, known)
    elif isinstance(value, tuple):
        items = [_copied(item, known) for item in value]
        made = kind(*items) if hasattr(value, "_fields") else kind(items)
    elif _holds_tensors(value, 3):
        made = known[id(value)] = copy.copy(value)
        for name, item in vars(value).items():
            vars(made)[name] = _copied(item, known)
    else:
        made = value
    known[id(value)] = made
    return made


def _holds_tensors(value: Any, depth: int) -> bool:
    """Return True for a plain object with tensors among its attributes."""
    if isinstance(value, (nn.Module, type)) or callable(value) or not depth:
        return False
    return any(
        isinstance(item, (Tensor, list, tuple, dict)) or _holds_tensors(item, depth - 1)
        for item in getattr(value, "__dict__", {}).values()
    )

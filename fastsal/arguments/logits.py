"""Logits of outputs that are objects or mappings, as those of Hugging Face's models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def logits_of(output: Any) -> Any:
    """Return the logits `(N, classes)` that an output names so; any other output as it is.

    Args:
        output: A model's output; `transformers.modeling_outputs.ImageClassifierOutput` is one that
            has logits.

    >>> import torch
    >>> logits_of({"loss": None, "logits": torch.ones(2, 3)}).shape, logits_of([1])
    (torch.Size([2, 3]), [1])
    """
    named = named_item(output, "logits")
    return named if isinstance(named, Tensor) and named.dim() == 2 else output


def named_item(output: Any, name: str) -> Any:
    """Return what an output that is a mapping or an object names so; None for others.

    Args:
        output: A model's output.
        name: The key, or the attribute.

    >>> named_item({"logits": 3}, "logits"), named_item([3], "logits")
    (3, None)
    """
    if isinstance(output, Tensor):
        return None
    found = output.get(name) if isinstance(output, Mapping) else None
    return getattr(output, name, None) if found is None else found

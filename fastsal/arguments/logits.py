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
    if isinstance(output, Tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else None
    named = getattr(output, "logits", None) if named is None else named
    return named if isinstance(named, Tensor) and named.dim() == 2 else output

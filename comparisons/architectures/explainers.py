"""Maps of a small network: methods of the comparison, tensors of tokens, and their rivals."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from comparisons.architectures.tokens.rollout import attention_rollout
from comparisons.architectures.tokens.tensors import (
    NOT_CENTRED,
    ROLLOUT,
    not_centred,
    of_tensors,
)
from comparisons.methods import Batch, get_method
from comparisons.methods.base import Explain
from fastsal import SMOEScale

__all__ = ["METHODS", "Maps", "explainers"]

METHODS = ("random", "centre", "smoe-linear", "gamma_scale-linear", "gradcam", "fastcam")

Maps = Callable[[Batch], NDArray[np.floating[Any]]]


def explainers(name: str, network: nn.Module) -> dict[str, Maps]:
    """Return functions from a batch to maps `(N, H, W)`, by method.

    Args:
        name: A key of `comparisons.architectures.networks.ARCHITECTURES`.
        network: The network.

    Returns:
        Those of `METHODS`; of a network whose scales are centred also SMOE Scale of them as they
        are; of a network of tokens those of `of_tensors`, and of the vision transformer attention
        rollout.
    """
    found = {method: _quiet(get_method(method).prepare(network)) for method in METHODS}
    if (as_they_are := not_centred(network)) is not None:
        found[NOT_CENTRED] = _quiet(partial(_first_channel, as_they_are))
    for tensor, attributor in of_tensors(name, network).items():
        found[tensor] = _quiet(partial(_first_channel, attributor))
    if name == "vit":
        found[ROLLOUT] = _quiet(lambda batch: attention_rollout(network, batch.inputs))
    return found


def _first_channel(attributor: SMOEScale, batch: Batch) -> Tensor:
    maps: Tensor = attributor.attribute(batch.inputs, expand_channels=False)
    return maps[:, 0]


def _quiet(explain: Explain) -> Maps:
    """Return a method's maps as arrays, without its warnings."""

    def maps(batch: Batch) -> NDArray[np.floating[Any]]:
        with warnings.catch_warnings():
            # Signed layers, and classes without a positive gradient: known, and in the numbers.
            warnings.simplefilter("ignore", UserWarning)
            saliency: NDArray[np.floating[Any]] = explain(batch).detach().float().numpy()
        return saliency

    return maps

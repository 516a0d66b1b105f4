"""Maps of a small network: methods of the comparison, tensors of tokens, and their rivals."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from comparisons.architectures.tokens.rollout import attention_rollout
from comparisons.architectures.tokens.tensors import ROLLOUT, of_tensors
from comparisons.methods import Batch, get_method
from fastsal import SMOEScale

__all__ = ["METHODS", "Maps", "explainers"]

METHODS = (
    *("random", "centre", "smoe-linear", "centred_smoe_scale-linear", "gamma_scale-linear"),
    *("gradcam", "fastcam"),
)

Maps = Callable[[Batch], NDArray[np.floating[Any]]]


def explainers(name: str, network: nn.Module) -> dict[str, Maps]:
    """Return functions from a batch to maps `(N, H, W)`, by method.

    Args:
        name: A key of `comparisons.architectures.networks.ARCHITECTURES`.
        network: The network.

    Returns:
        Those of `METHODS`; of a network of tokens also those of `of_tensors`, and of the vision
        transformer attention rollout.
    """
    found = {method: _of_method(method, network) for method in METHODS}
    for tensor, attributor in of_tensors(name, network).items():
        found[tensor] = _of_attributor(attributor)
    if name == "vit":
        found[ROLLOUT] = lambda batch: attention_rollout(network, batch.inputs).numpy()
    return found


def _of_method(method: str, network: nn.Module) -> Maps:
    explain = get_method(method).prepare(network)

    def maps(batch: Batch) -> NDArray[np.floating[Any]]:
        with warnings.catch_warnings():
            # Signed layers, and classes without a positive gradient: known, and in the numbers.
            warnings.simplefilter("ignore", UserWarning)
            saliency: NDArray[np.floating[Any]] = explain(batch).detach().float().numpy()
        return saliency

    return maps


def _of_attributor(attributor: SMOEScale) -> Maps:
    def maps(batch: Batch) -> NDArray[np.floating[Any]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            saliency = attributor.attribute(batch.inputs, expand_channels=False)
        found: NDArray[np.floating[Any]] = saliency[:, 0].detach().float().numpy()
        return found

    return maps

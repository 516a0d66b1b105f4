"""Gradients for the part of a network after one layer, in any gradient mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.networks.hooks import joined
from fastsal.networks.state import ForwardFunction, LayerError


class GradientSource:
    """A tap's `replace`: the gradient starts at its layer, and what comes before needs none."""

    def __init__(self, rectify: bool = False) -> None:
        self.rectify = rectify
        self.leaves: dict[torch.device, Tensor] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        """Return the tensor that goes on through the network, with gradients from here on."""
        torch.set_grad_enabled(True)
        leaf = (tensor.relu() if self.rectify else tensor).detach().requires_grad_()
        self.leaves[tensor.device] = leaf
        if self.rectify:
            # The network's own ReLU comes next; at exactly 0 it would let no gradient through.
            return leaf + torch.finfo(leaf.dtype).tiny
        # The network may write to it in place, which a leaf forbids.
        return leaf.clone()

    def activations(self, device_ids: Sequence[int] | None = None) -> Tensor:
        """Return the layer's tensor."""
        return joined(self.leaves, device_ids).detach()

    def gradients(
        self, score: Tensor, device_ids: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the layer's tensor and the gradient of a score by it.

        Raises:
            LayerError: If the score does not depend on the layer, or the model stopped gradients.
        """
        leaves = list(self.leaves.values())
        try:
            gradients = torch.autograd.grad(score, leaves)
        except RuntimeError as error:
            raise LayerError(
                "the score has no gradient by the CAM's layer: it must depend on it, and the "
                "model's forward must not run under no_grad, inference_mode or detach after that "
                f"layer ({error})"
            ) from error
        by_device = dict(zip(self.leaves, gradients, strict=True))
        return self.activations(device_ids), joined(by_device, device_ids)


@contextmanager
def gradients_after_source(forward_func: ForwardFunction) -> Iterator[None]:
    """Switch gradients off, inference mode too, until a `GradientSource` switches them on.

    Gradient mode is back as it was on the way out. `DataParallel` joins its outputs in this thread,
    where the copies' switch has no effect: there gradients are on from the start.

    Raises:
        LayerError: If the model itself was made under inference mode.
    """
    parallel = isinstance(forward_func, nn.DataParallel)
    with torch.inference_mode(False), torch.set_grad_enabled(parallel):
        try:
            yield
        except RuntimeError as error:
            if "Inference tensors" not in str(error):
                raise
            raise LayerError(
                "the model's parameters, or tensors it keeps, were made under inference_mode and "
                "have no gradients; make or load the model outside it"
            ) from error


def outside_inference(value: Any) -> Any:
    """Return tensors made under inference mode as copies that autograd can save; call outside it.

    Looks into a tuple, and leaves all else as it is.
    """
    if isinstance(value, tuple):
        return tuple(outside_inference(item) for item in value)
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value

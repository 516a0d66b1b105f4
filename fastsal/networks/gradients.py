"""Gradients for the part of a network after one layer, in any gradient mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.networks.hooks import joined
from fastsal.networks.state import ForwardFunction, LayerError


class GradientSource:
    """A tap's `replace` at which the gradient starts: the part before its layer needs none.

    Args:
        rectify: Applies the ReLU that the network applies next as a function.
        grad_kwargs: Further arguments of `torch.autograd.grad`.
    """

    def __init__(
        self, rectify: bool = False, grad_kwargs: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self.rectify, self.grad_kwargs = rectify, grad_kwargs
        self.leaves: dict[torch.device, Tensor] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        """Return the tensor that goes on through the network and requires gradients."""
        torch.set_grad_enabled(True)
        leaf = (tensor.relu() if self.rectify else tensor).detach().requires_grad_()
        self.leaves[tensor.device] = leaf
        if self.rectify:
            # The network's own ReLU comes next; at exactly 0 it would pass no gradient.
            return leaf + torch.finfo(leaf.dtype).tiny
        # The network may write to it in place, which a leaf forbids.
        return leaf.clone()

    def activations(self, device_ids: Sequence[int] | None = None) -> Tensor:
        """Return the layer's tensor, joined from several devices in their order."""
        return joined(self.leaves, device_ids).detach()

    def gradients(
        self, score: Tensor, device_ids: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the layer's tensor and the gradient of a score by it.

        Args:
            score: The score, a scalar.
            device_ids: The order of the devices.

        Raises:
            LayerError: If the score does not depend on the layer, or the model stopped gradients.
        """
        leaves = list(self.leaves.values())
        try:
            gradients = torch.autograd.grad(score, leaves, **self.grad_kwargs)
            if any(gradient is None for gradient in gradients):
                raise RuntimeError("allow_unused gave None; materialize_grads gives 0 for it")
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
    """Switch off gradients and inference mode, until a `GradientSource` switches gradients on.

    Both modes are restored on the way out. `DataParallel` joins its outputs in this thread, where
    the switch in its copies' threads has no effect: with it gradients are on from the start.

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
    """Return copies that autograd can save of tensors made under inference mode.

    It is called outside inference mode. The items of a tuple are copied likewise; anything else is
    returned unchanged.
    """
    if isinstance(value, tuple):
        return tuple(outside_inference(item) for item in value)
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value

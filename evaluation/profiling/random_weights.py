"""Random weights with which no layer is silent."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["enliven"]


def enliven(network: nn.Module, images: Tensor) -> None:
    """Give random weights healthy activations, and set evaluation mode.

    Gains that begin near 0 (a residual block's last norm, layer scale) become 1, and batch norms
    take the statistics of the images: else residual branches and deep layers are constant.

    Args:
        network: The network, changed in place.
        images: Images `(N, C, H, W)`.
    """
    norms = []
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            gain = parameter.dim() < 2 or name.startswith(("gamma", "layer_scale"))
            if gain and "bias" not in name and parameter.detach().abs().amax() < 1e-2:
                nn.init.ones_(parameter)
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            norms.append((module, module.momentum))
    network.eval()
    for norm, _ in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        network(images)
    for norm, momentum in norms:
        norm.momentum = momentum
    network.eval()

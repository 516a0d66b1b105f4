"""Attention rollout, a rival of networks of tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastsal.maps.resize import upsample

__all__ = ["attention_rollout", "rolled_out"]


def rolled_out(attentions: list[Tensor]) -> Tensor:
    r"""Attention of all layers, followed from the last to the first.

    $$\tilde A = A_L \cdots A_1, \qquad A_l = \tfrac12 (W_l + I)$$

    with `W_l` the attention weights of layer l, averaged over its heads.

    Args:
        attentions: For each layer `(N, heads, L, L)`, the first layer first.

    Returns:
        `(N, L, L)`; each row sums to 1.

    Reference:
        Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers", section 3.

    >>> even = torch.full((1, 2, 2, 2), 0.5)
    >>> rolled_out([even, even])[0].tolist()
    [[0.625, 0.375], [0.375, 0.625]]
    """
    result: Tensor | None = None
    for attention in attentions:
        mixed = 0.5 * (attention.mean(1) + torch.eye(attention.shape[-1]))
        result = mixed if result is None else mixed @ result
    if result is None:
        raise ValueError("no attention weights given: expected those of one layer or more")
    return result


def attention_rollout(network: nn.Module, inputs: Tensor) -> Tensor:
    """Attention rollout of timm's vision transformer, from its class token.

    Args:
        network: A `timm.models.VisionTransformer`, whose blocks compute their attention by hand
            meanwhile.
        inputs: `(N, 3, H, W)`.

    Returns:
        `(N, H, W)`.
    """
    found: list[Tensor] = []
    handles, fused = [], []
    for block in network.get_submodule("blocks").children():
        attention = block.get_submodule("attn")
        fused.append((attention, attention.fused_attn))
        attention.fused_attn = False  # type: ignore[assignment]
        softened = attention.get_submodule("attn_drop")
        handles.append(
            softened.register_forward_hook(lambda _, __, output: found.append(output.detach()))
        )
    try:
        with torch.no_grad():
            network(inputs)
    finally:
        for handle in handles:
            handle.remove()
        for attention, was in fused:
            attention.fused_attn = was
    of_class = rolled_out(found)[:, 0, 1:]
    side = round(of_class.shape[1] ** 0.5)
    maps = of_class.reshape(-1, side, side)
    return upsample(maps, inputs.shape[2:])[:, 0]

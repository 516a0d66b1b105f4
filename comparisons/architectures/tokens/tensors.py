"""Tensors of networks of tokens whose channels a statistic may be taken of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from torch import Tensor, nn

from fastsal import SMOEScale
from fastsal.networks.tokens.depths import evenly_spaced
from fastsal.statistics.smoe import smoe_scale

__all__ = ["READ", "RIVALS", "ROLLOUT", "TENSORS", "of_tensors"]

ROLLOUT = "rollout"

# The tensors by name, and their names in the table.
TENSORS = {
    "hidden": "hidden layer of the MLP, after its GELU",
    "block": "output of the block",
    "attention": "output of the attention",
    "normed": "normed tokens before the MLP",
    "values": "values of the attention",
}
RIVALS = {
    ROLLOUT: "attention rollout",
    "gradcam": "Grad-CAM",
    "fastcam": "Fast-CAM",
    "random": "random",
}
READ = {"depths": "evenly spaced", "last": "the last"}
# Of the blocks that are read: evenly spaced ones, or the last.
_READ: Mapping[str, Callable[[list[str]], list[str]]] = {
    "depths": evenly_spaced,
    "last": lambda blocks: blocks[-1:],
}


def of_tensors(name: str, network: nn.Module) -> dict[str, SMOEScale]:
    """Return SMOE Scale of each tensor, at evenly spaced depths and at the last, for a network.

    Of Swin the last block of each stage is read, and of "last" that of the last stage.

    Args:
        name: A key of `comparisons.architectures.networks.ARCHITECTURES`.
        network: The network.

    Returns:
        The attributors by tensor and blocks, such as "hidden depths"; none for a network of no
        tokens.
    """
    layers = _LAYERS.get(name)
    if layers is None:
        return {}
    found = {}
    for tensor, one in layers(network).items():
        for what, choose in _READ.items():
            chosen = list(one) if name == "swin" and what == "depths" else choose(list(one))
            statistic = _of_values if tensor == "values" else "smoe_scale"
            found[f"{tensor} {what}"] = SMOEScale(network, chosen, statistic=statistic)
    return found


def _of_values(activations: Tensor) -> Tensor:
    """The statistic of the values, the last third of the channels of queries, keys and values."""
    return smoe_scale(activations[:, 2 * (activations.shape[1] // 3) :])


def _in_blocks(
    blocks: Callable[[nn.Module], Iterable[str]], inside: Mapping[str, str], network: nn.Module
) -> dict[str, list[str]]:
    return {
        tensor: [f"{block}{layer}" for block in blocks(network)] for tensor, layer in inside.items()
    }


def _plain(network: nn.Module) -> list[str]:
    blocks = network.get_submodule("blocks")
    return [f"blocks.{number}" for number in range(len(list(blocks.children())))]


def _stages(network: nn.Module) -> list[str]:
    """The last block of each stage of torchvision's Swin."""
    features = network.get_submodule("features")
    return [
        f"features.{number}.{len(list(stage.children())) - 1}"
        for number, stage in enumerate(features.children())
        if number % 2
    ]


_LAYERS: dict[str, Callable[[nn.Module], dict[str, list[str]]]] = {
    "vit": partial(
        _in_blocks,
        _plain,
        {
            "hidden": ".mlp.act",
            "block": "",
            "attention": ".attn.proj",
            "normed": ".norm2",
            "values": ".attn.qkv",
        },
    ),
    "mixer": partial(
        _in_blocks, _plain, {"hidden": ".mlp_channels.act", "block": "", "normed": ".norm2"}
    ),
    "swin": partial(
        _in_blocks,
        _stages,
        {"hidden": ".mlp.1", "block": "", "attention": ".attn", "normed": ".norm2"},
    ),
}

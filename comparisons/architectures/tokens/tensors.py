"""Tensors of networks of tokens whose channels a statistic may be taken of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from comparisons.methods.activation_maps.scales import uncentred
from fastsal import SMOEScale, Statistic, find_scales
from fastsal.networks.tokens.depths import evenly_spaced
from fastsal.statistics import centred_smoe_scale

__all__ = [
    "HIERARCHIES",
    "NOT_CENTRED",
    "READ",
    "RIVALS",
    "ROLLOUT",
    "TENSORS",
    "not_centred",
    "of_tensors",
]

# Networks of several resolutions whose residual streams lie before layer norms.
HIERARCHIES = ("swin", "pvt", "convnext")
ROLLOUT = "rollout"
NOT_CENTRED = "smoe not centred"

# The tensors by name, and their names in the table.
TENSORS = {
    "hidden": "hidden layer of the MLP, after its GELU",
    "block": "output of the block",
    "attention": "output of the attention",
    "normed": "normed tokens before the MLP",
    "values": "values of the attention",
    "end": "end of the stage, behind a layer norm",
}
RIVALS = {
    NOT_CENTRED: "SMOE Scale of its own scales, not centred",
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

    Of a hierarchy the last block of each stage is read, and of "last" that of the last stage.

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
            chosen = one if name in HIERARCHIES and what == "depths" else choose(one)
            # As for the scales that are found: what no activation function made is centred.
            statistic = _STATISTICS.get(tensor, "centred_smoe_scale")
            found[f"{tensor} {what}"] = SMOEScale(network, chosen, statistic=statistic)
    return found


def not_centred(network: nn.Module) -> SMOEScale | None:
    """Return SMOE Scale of the scales of a network as they are, None if it centres none of them.

    Args:
        network: A network for images of 32x32.
    """
    # Of an image of zeros a network without biases would have no negative value.
    scales = find_scales(network, torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32))
    if not any(scale.linear for scale in scales):
        return None
    return SMOEScale(network, uncentred(scales))


def _of_values(activations: Tensor) -> Tensor:
    """The statistic of the values, the last third of the channels of queries, keys and values."""
    return centred_smoe_scale(activations[:, 2 * (activations.shape[1] // 3) :])


_STATISTICS: Mapping[str, str | Statistic] = {
    "hidden": "smoe_scale",
    "values": Statistic("values", "ours", "any", _of_values),
}


def _in_blocks(
    blocks: Callable[[nn.Module], Iterable[str]], inside: Mapping[str, str], network: nn.Module
) -> dict[str, list[str]]:
    return {
        tensor: [f"{block}{layer}" for block in blocks(network)] for tensor, layer in inside.items()
    }


def _plain(network: nn.Module) -> list[str]:
    blocks = network.get_submodule("blocks")
    return [f"blocks.{number}" for number in range(len(list(blocks.children())))]


def _last_blocks(network: nn.Module) -> list[str]:
    """The last block of each stage of timm's hierarchies."""
    return [
        f"stages.{number}.blocks.{len(list(stage.get_submodule('blocks').children())) - 1}"
        for number, stage in enumerate(network.get_submodule("stages").children())
    ]


def _features(network: nn.Module) -> list[str]:
    """The last block of each stage of torchvision's Swin."""
    features = network.get_submodule("features")
    return [
        f"features.{number}.{len(list(stage.children())) - 1}"
        for number, stage in enumerate(features.children())
        if number % 2
    ]


def _in_swin(network: nn.Module) -> dict[str, list[str]]:
    # The norm before patches are merged sees four of them, at the next stage's resolution.
    inside = {"hidden": ".mlp.1", "block": "", "attention": ".attn", "normed": ".norm2"}
    merging = range(2, len(list(network.get_submodule("features").children())), 2)
    ends = [f"features.{number}.norm" for number in merging]
    return _in_blocks(_features, inside, network) | {"end": [*ends, "norm"]}


def _in_pvt(network: nn.Module) -> dict[str, list[str]]:
    inside = {"hidden": ".mlp.act", "block": "", "attention": ".attn.proj", "normed": ".norm2"}
    ends = [f"{block.partition('.blocks')[0]}.norm" for block in _last_blocks(network)]
    return _in_blocks(_last_blocks, inside, network) | {"end": ends}


def _in_convnext(network: nn.Module) -> dict[str, list[str]]:
    # The first of these norms ends the stem; the last stage has one behind global pooling alone.
    inside = {"hidden": ".mlp.act", "block": "", "normed": ".norm"}
    stages = [block.partition(".blocks")[0] for block in _last_blocks(network)]
    ends = [f"{stage}.downsample.0" for stage in stages]
    return _in_blocks(_last_blocks, inside, network) | {"end": ends}


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
    "swin": _in_swin,
    "pvt": _in_pvt,
    "convnext": _in_convnext,
}

"""Depths of a network that keeps one resolution of tokens, in place of spatial scales."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from fastsal.networks.roles import LOOKUPS, attention_weights, only_beside, role_of, short_name
from fastsal.networks.trace import ACTIVATIONS, Node, Trace

T = TypeVar("T")

# As many as Ranftl et al. 2021 read of a vision transformer for dense predictions: the blocks 3, 6,
# 9 and 12 of 12.
DEPTHS = 4
# Functions that are attention even if queries, keys and values are one tensor.
ATTENTIONS = frozenset(("multi_head_attention_forward", "_native_multi_head_attention"))
# The fewest that take the place of scales.
FEWEST = 2


class Depths(NamedTuple):
    """The depths of a network that keeps one resolution of tokens.

    Attributes:
        chosen: The nodes of the blocks' outputs that take the place of scales.
        of_class: The node on the trunk that a class activation map reads.
    """

    chosen: set[int]
    of_class: int


def depths_of(trace: Trace, output: Any, trunk: Mapping[int, bool]) -> Depths | None:
    """Return the depths of a network, None if it has several resolutions or no tokens.

    Args:
        trace: The traced pass.
        output: The network's output.
        trunk: The nodes on the trunk that lie on the image's grid, in the network's order, each
            with False if it comes from pooling or a norm.
    """
    places = [found for index in trunk if (found := trace.located(index)) is not None]
    if len({found.octaves for found in places}) != 1:
        return None
    # Blocks of channels first are those of a convolutional network, whatever is inside them.
    ends = [index for index, eligible in trunk.items() if eligible and of_tokens(trace, index)]
    blocks: dict[int, None] = {}
    for hidden in hidden_layers(trace, output, places[0].octaves):
        # A hidden layer of no residual block is on the trunk itself.
        blocks |= dict.fromkeys([index for index in ends if index >= hidden][:1])
    if len(blocks) < FEWEST:
        return None
    of_class = last_with_gradient(trace, output, list(trunk))
    return Depths(set(evenly_spaced(list(blocks))), of_class)


def hidden_layers(trace: Trace, output: Any, octaves: tuple[int, ...]) -> list[int]:
    """Return the nodes of the hidden layers of a network's blocks, in the network's order.

    A hidden layer is what an activation function makes at each token alone, as in the MLP of a
    transformer's block; its channels come last. Of an activation function that is written by hand
    the last tensor counts.

    Args:
        trace: The traced pass.
        output: The network's output.
        octaves: The strides of the tokens.
    """
    nodes = trace.nodes
    beside, shares = only_beside(trace), attention_weights(nodes)
    last: dict[int, int] = {}
    for index in sorted(trace.before(trace.nodes_in(output)[:1])):
        found = trace.located(index)
        if found is None or found.octaves != octaves or not of_tokens(trace, index):
            continue
        maker = trace.maker(index)
        role = role_of(nodes, maker)
        activation = role.activation and not role.norm
        activation |= nodes[maker].operation in ACTIVATIONS
        if activation and not (role.of_outputs or beside[index] or index in shares):
            last[maker if role.source is None else role.source] = index
    return sorted(last.values())


def of_tokens(trace: Trace, index: int) -> bool:
    """Return True if a node's tensor has places, its channels last, and more than one of them.

    Args:
        trace: The traced pass.
        index: The node.
    """
    found, shape = trace.located(index), trace.nodes[index].shape or ()
    last = found is not None and found.layout.channel == len(shape) - 1
    return last and trace.channels(index) > 1


def evenly_spaced(nodes: Sequence[T], count: int = DEPTHS) -> list[T]:
    """Return so many of a sequence, evenly spaced, the last among them; all of fewer.

    >>> evenly_spaced(range(1, 13)), evenly_spaced(range(1, 7)), evenly_spaced([1, 2])
    ([3, 6, 9, 12], [2, 3, 5, 6], [1, 2])
    """
    if len(nodes) <= count:
        return list(nodes)
    return [nodes[math.ceil(part * len(nodes) / count) - 1] for part in range(1, count + 1)]


def last_with_gradient(trace: Trace, output: Any, trunk: Sequence[int]) -> int:
    """Return the last node on the trunk whose tokens the class depends on.

    Where the class is made of a token beside the grid, as a class token, the tokens of the grid
    after the last attention count for nothing: their gradient is 0.

    Args:
        trace: The traced pass.
        output: The network's output.
        trunk: Nodes on the trunk that lie on the grid, in the network's order.
    """
    node, found = trace.nodes[trunk[-1]], trace.located(trunk[-1])
    if found is None or node.shape is None or found.layout.tokens is None:
        return trunk[-1]
    dimension, _, height, width = found.layout.tokens
    if node.shape[dimension] == height * width:
        return trunk[-1]
    needed = trace.before(trace.nodes_in(output)[:1])
    attentions = [index for index in needed if _is_attention(trace.nodes[index])]
    before = [index for index in trunk if index < max(attentions, default=0)]
    return before[-1] if before else trunk[-1]


def _is_attention(node: Node) -> bool:
    """Return True if a node looks up tokens by tokens, and is no product with weights."""
    name = short_name(node)
    return name in ATTENTIONS or (name in LOOKUPS and len(node.sources) > 1)

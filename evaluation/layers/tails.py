"""The tail of a network: the part after one of its layers, as a module of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from fastsal.networks import hooks
from fastsal.networks.layers import NamedLayer
from fastsal.networks.scales import Scale
from fastsal.networks.state import evaluating

__all__ = ["TailError", "read_scales", "tail_of"]


class TailError(ValueError):
    """Error of a network that cannot be cut at a layer; says why and what to do."""


def read_scales(network: nn.Module, scales: tuple[Scale, ...], inputs: Tensor) -> list[Tensor]:
    """The tensor of each scale from one forward pass, in the network's own layout.

    Args:
        network: the whole network.
        scales: the scales to read.
        inputs: ``(N, 3, H, W)``.

    Returns:
        A tensor a scale.
    """
    # Copies, since later layers may write into the tensors.
    taps = [NamedLayer.of_scale(scale).tap(torch.clone) for scale in scales]
    with torch.no_grad():
        return hooks.forward(network, (inputs,), taps=taps)[1]


def tail_of(network: nn.Module, scale: Scale, inputs: Tensor) -> nn.Module:
    """The tail of a network after a scale: from the scale's tensor to the network's output.

    The tail holds the network's own modules under their own names, so that training the tail trains
    them, and no module before the cut. It is traced in evaluation mode: modules (BatchNorm,
    Dropout) follow the tail's own mode, while ``functional.dropout`` stays off.

    Args:
        network: the whole network.
        scale: the scale to cut at, from `fastsal.find_scales` of this network.
        inputs: ``(N, 3, H, W)``, some images for a check.

    Returns:
        The tail.

    Raises:
        TailError: a forward that `torch.fx` cannot trace, a path around the layer, weights that
            are used both before and after the cut, or a tail whose output differs from the
            network's.

    >>> from fastsal import find_scales
    >>> net = nn.Sequential(
    ...     nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3), nn.ReLU()
    ... )
    >>> images = torch.rand(2, 3, 10, 10)
    >>> first = find_scales(net, images)[0]
    >>> first.name, [name for name, _ in tail_of(net, first, images).named_children()]
    ('1', ['2', '3', '4'])
    """
    with evaluating(network):
        try:
            graph = _Tracer(scale.module).trace(network)
        except Exception as error:
            raise TailError(
                f"torch.fx cannot follow {type(network).__name__}.forward ({error}): fine-tuning "
                "after a layer needs a network without control flow that depends on the data"
            ) from error
        cut = _cut(graph, scale)
        after = _ancestors(_output(graph), stop=cut)
        if any(node.op == "placeholder" for node in after):
            raise TailError(
                f"a path avoids layer {scale.name!r}: every path from the images to the output has "
                "to pass it"
            )
        _refuse_shared(network, set(_ancestors(cut)) | {cut}, after, scale.name)
        tail = fx.GraphModule(network, _copy(graph, cut, after))
        _check(network, tail, scale, inputs)
    return tail


class _Tracer(fx.Tracer):
    """A tracer that keeps the scale's own module as one node."""

    def __init__(self, kept: nn.Module) -> None:
        super().__init__()
        self._kept = kept

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m is self._kept or super().is_leaf_module(m, module_qualified_name)


def _cut(graph: fx.Graph, scale: Scale) -> fx.Node:
    """The node whose value is the scale's tensor."""
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == scale.name]
    index = -1 if scale.call is None else scale.call
    if not -len(calls) <= index < len(calls):
        raise TailError(
            f"layer {scale.name!r} is not where torch.fx looks for it: its module has another "
            "name too, or does not run as a module"
        )
    node: fx.Node = calls[index]
    return node.all_input_nodes[0] if scale.layer_input else node


def _output(graph: fx.Graph) -> fx.Node:
    output: fx.Node = next(node for node in graph.nodes if node.op == "output")
    return output


def _ancestors(node: fx.Node, stop: fx.Node | None = None) -> list[fx.Node]:
    """The ancestors of a node, in no order, without `stop` and its ancestors."""
    found: dict[fx.Node, None] = {}
    waiting = list(node.all_input_nodes)
    while waiting:
        source = waiting.pop()
        if source is not stop and source not in found:
            found[source] = None
            waiting += source.all_input_nodes
    return list(found)


def _copy(graph: fx.Graph, cut: fx.Node, after: list[fx.Node]) -> fx.Graph:
    wanted = {*after, _output(graph)}
    copy = fx.Graph()
    places = {cut: copy.placeholder("activations")}
    for node in graph.nodes:
        if node in wanted:
            places[node] = copy.node_copy(node, lambda source: places[source])
    return copy


def _refuse_shared(
    network: nn.Module, before: set[fx.Node], after: list[fx.Node], name: str
) -> None:
    frozen = {id(parameter) for parameter in _parameters(network, before)}
    if any(id(parameter) in frozen for parameter in _parameters(network, after)):
        raise TailError(
            f"weights before layer {name!r} are used again after it: they cannot be frozen and "
            "fine-tuned at once"
        )


def _parameters(network: nn.Module, nodes: set[fx.Node] | list[fx.Node]) -> Iterator[nn.Parameter]:
    for node in nodes:
        if node.op == "call_module":
            yield from network.get_submodule(str(node.target)).parameters()
        elif node.op == "get_attr":
            value: Any = network
            for part in str(node.target).split("."):
                value = getattr(value, part)
            if isinstance(value, nn.Parameter):
                yield value


def _check(network: nn.Module, tail: nn.Module, scale: Scale, inputs: Tensor) -> None:
    with torch.no_grad():
        expected = network(inputs)
        (activations,) = read_scales(network, (scale,), inputs)
        given = tail(activations)
    # In evaluation mode both are one tensor, also with auxiliary heads.
    if not torch.allclose(given, expected, rtol=1e-4, atol=1e-5):
        raise TailError(
            f"the part after layer {scale.name!r} does not give what the whole network gives: "
            "its forward does more than torch.fx sees"
        )

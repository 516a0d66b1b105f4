"""The nodes that make a map in an ONNX graph: their names and their order in the file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# The names of the nodes that make the map begin so: quantisation has to leave them out.
PREFIX = "fastsal/"


def remove_metadata(proto: Any) -> None:
    """Remove the exporter's notes on Python modules and source lines."""
    graph = proto.graph
    for node in graph.node:
        node.ClearField("doc_string")
    for noted in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del noted.metadata_props[:]
    del graph.value_info[:]


def mark_map_nodes(graph: Any, own_outputs: Sequence[str]) -> None:
    """Add the prefix to the names of the nodes that the model's own outputs do not depend on."""
    makers = {name: node for node in graph.node for name in node.output}
    waiting, own = list(own_outputs), set()
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.name not in own:
            own.add(node.name)
            waiting.extend(node.input)
    for node in graph.node:
        if node.name not in own:
            node.name = PREFIX + node.name


def place_map_nodes(graph: Any) -> None:
    """Move the nodes of the map behind the model's own, those of the first scale last of them.

    onnxruntime runs a node as late as it can, and of what a node needs first what is last in the
    file. In this order each scale is read as soon as it is made, while it lies in the processor's
    cache and before anything else needs its memory.
    """
    own = [node for node in graph.node if not node.name.startswith(PREFIX)]
    made = {name: place for place, node in enumerate(own) for name in node.output}
    sources: dict[str, frozenset[int]] = {name: frozenset((place,)) for name, place in made.items()}
    of_one: dict[int, list[Any]] = {}
    of_none, of_several = [], []
    for node in graph.node:
        if not node.name.startswith(PREFIX):
            continue
        found = frozenset().union(*(sources.get(name, frozenset()) for name in node.input))
        sources.update(dict.fromkeys(node.output, found))
        if len(found) == 1:
            of_one.setdefault(min(found), []).append(node)
        elif found:
            of_several.append(node)
        else:
            of_none.append(node)
    branches = [node for place in sorted(of_one, reverse=True) for node in of_one[place]]
    nodes = [*of_none, *own, *branches, *of_several]
    del graph.node[:]
    graph.node.extend(nodes)

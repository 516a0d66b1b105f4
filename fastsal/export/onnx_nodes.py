"""The nodes that make a map in an ONNX graph: their names and their order in the file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fastsal.optional import needed

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


def keep_slices(graph: Any, prefix: str = PREFIX) -> None:
    """Let each slice of the map name a second axis, which it takes whole.

    onnxruntime and OpenVINO put slices along one axis that lie side by side into one Split. It
    copies the whole tensor at once, out of the processor's cache again, and OpenVINO's takes as
    long as the layer that made the tensor.

    Args:
        graph: The `onnx.GraphProto`.
        prefix: The names of the map's nodes begin so.
    """
    onnx: Any = needed("onnx", "an ONNX file")
    constants = {one.name: one for one in graph.initializer}
    replaced = set()
    bounds = {"begin": 0, "end": 2**63 - 1, "axis": 0, "step": 1}
    for node in graph.node:
        if node.op_type != "Slice" or not node.name.startswith(prefix):
            continue
        given = [constants.get(name) for name in node.input[1:]]
        if len(given) != len(bounds) or None in given:
            continue
        values = [onnx.numpy_helper.to_array(one).flatten() for one in given]
        if any(len(one) != 1 for one in values) or values[2][0] != 1:
            continue
        replaced.update(node.input[1:])
        for index, ((what, whole), value) in enumerate(zip(bounds.items(), values, strict=True), 1):
            name = f"{prefix}{what}_{value[0]}"
            node.input[index] = name
            if name not in constants:
                constants[name] = onnx.helper.make_tensor(
                    name, onnx.TensorProto.INT64, [2], [whole, int(value[0])]
                )
                graph.initializer.append(constants[name])
    replaced -= names_read(graph.node)
    for one in [one for one in graph.initializer if one.name in replaced]:
        graph.initializer.remove(one)


def names_read(nodes: Iterable[Any]) -> set[str]:
    """Return the names of what nodes read, in graphs inside them too."""
    found: set[str] = set()
    for node in nodes:
        found.update(node.input)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                found |= names_read(inner.node)
    return found

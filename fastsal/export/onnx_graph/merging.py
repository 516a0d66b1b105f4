"""The graph of the map put behind the nodes of an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from fastsal.export.onnx_graph.examples import Dimension, Images
from fastsal.export.onnx_graph.graph_file import GraphFile, all_names, graphs_of
from fastsal.export.onnx_graph.map_graph import IMAGE
from fastsal.export.onnx_nodes import PREFIX, place_map_nodes
from fastsal.optional import needed

# From this version on, initializers need not be inputs too.
LEAST_IR = 4


def merged(
    file: GraphFile, added: Any, images: Images, scales: Sequence[str]
) -> tuple[Any, dict[str, str]]:
    """Return a file's model with the map behind it, and the names of its further outputs.

    The file's nodes, weights and outputs come first, as they are. Names of the map's tensors begin
    as no other name does, and its nodes' names as `map_nodes` asks.

    Args:
        file: The file.
        added: The map as an `onnx.ModelProto` of its own, in the file's version of operators.
        images: The inputs of the file.
        scales: The names of the tensors that are read.

    Returns:
        The `onnx.ModelProto`, and the name of each output of the map by its usual one.
    """
    onnx: Any = needed("onnx", "an ONNX file")
    compose: Any = needed("onnx.compose", "an ONNX file", "onnx")
    model = onnx.ModelProto()
    model.CopyFrom(file.model)
    taken = all_names(model)
    prefix = _free_prefix(taken)
    usual = [one.name for one in added.graph.output]
    for index, node in enumerate(added.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    graph = compose.add_prefix_graph(added.graph, prefix)
    outputs = {name: _free_name(name, taken) for name in usual}
    tensors = {f"tensor_{index}": name for index, name in enumerate(scales, 1)}
    own = {IMAGE: images.inputs[images.image].name, **tensors, **outputs}
    renamed = {prefix + name: new for name, new in own.items()}
    for inner in graphs_of(graph):
        for node in inner.node:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    names[index] = renamed.get(name, name)
    model.graph.node.extend(graph.node)
    model.graph.initializer.extend(graph.initializer)
    batch, _, height, width = images.shape
    sizes = {"batch": batch, "height": height, "width": width}
    for output in graph.output:
        output.name = renamed[output.name]
        _rename_dimensions(output, sizes)
        model.graph.output.append(output)
    place_map_nodes(model.graph)
    model.ir_version = max(model.ir_version, LEAST_IR)
    return model, outputs


def _free_prefix(taken: set[str]) -> str:
    """Return a prefix that no name has."""
    numbered = (PREFIX if number == 1 else f"{PREFIX}{number}/" for number in count(1))
    return next(one for one in numbered if not any(name.startswith(one) for name in taken))


def _free_name(name: str, taken: set[str]) -> str:
    """Return a name, with a number if it is taken."""
    numbered = (name if number == 1 else f"{name}_{number}" for number in count(1))
    return next(one for one in numbered if one not in taken)


def _rename_dimensions(output: Any, sizes: Mapping[str, Dimension]) -> None:
    """Give an output's open dimensions the names that the file has for its image."""
    for dimension in output.type.tensor_type.shape.dim:
        name = sizes.get(dimension.dim_param)
        if not dimension.HasField("dim_value"):
            dimension.Clear()
        if isinstance(name, int):
            dimension.dim_value = name
        elif name is not None:
            dimension.dim_param = name

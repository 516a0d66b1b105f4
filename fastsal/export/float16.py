"""ONNX files in half precision, whose map is computed in single precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastsal.export.onnx import checked_folder, map_nodes
from fastsal.files import written_whole
from fastsal.optional import needed

# ONNX's numbers for the types.
FLOAT, FLOAT16 = 1, 10


def write_float16(path: Path | str, target: Path | str) -> Path:
    """Write a float32 file of `write_onnx` as one whose network computes in float16.

    onnxruntime's own `convert_float_to_float16` converts the network. Inputs and outputs stay
    float32, and so does the map from the activations on. The tool can leave out the map's nodes,
    but still rounds every value between two of them to float16, where a product of four activations
    is 0 and its logarithm infinite: these casts are removed.

    Args:
        path (str or pathlib.Path): A file of `write_onnx`.
        target (str or pathlib.Path): The new file, which is written whole or not at all; its folder
            must exist.

    Returns:
        The target.

    Raises:
        ImportError: If onnx or onnxruntime is not installed.
        OSError: If a file cannot be read or written.

    Example:
        ```python
        write_onnx(with_map(model, images), images, "model.onnx")
        write_float16("model.onnx", "half.onnx")
        ```
    """
    target = checked_folder(target)
    onnx: Any = needed("onnx", "half precision")
    float16: Any = needed("onnxruntime.transformers.float16", "half precision", "onnxruntime")
    proto = float16.convert_float_to_float16(
        onnx.load(str(path)), keep_io_types=True, node_block_list=map_nodes(path)
    )
    _remove_round_trips(proto.graph)
    # The tool's inferred shapes have outdated types, and are optional.
    del proto.graph.value_info[:]
    with written_whole(target) as partial:
        onnx.save(proto, partial)
    return target


def _remove_round_trips(graph: Any) -> None:
    """Remove casts from float32 to float16 and straight back."""
    outputs = {output.name for output in graph.output}
    # An output keeps its name: the node before the casts takes it over.
    for begin, end in _round_trips(graph):
        if end in outputs:
            graph.node.remove(next(node for node in graph.node if end in node.output))
            for node in graph.node:
                _rename(node.input, {begin: end})
                _rename(node.output, {begin: end})
    straight = {end: begin for begin, end in _round_trips(graph) if end not in outputs}
    for node in graph.node:
        _rename(node.input, straight)
    while unused := _unused_casts(graph, outputs):
        for node in unused:
            graph.node.remove(node)


def _round_trips(graph: Any) -> list[tuple[str, str]]:
    """Return the name of the value before the casts and of the one after them, for each pair."""
    half = {node.output[0]: node.input[0] for node in graph.node if _casts_to(node, FLOAT16)}
    return [
        (half[node.input[0]], node.output[0])
        for node in graph.node
        if _casts_to(node, FLOAT)
        and node.input[0] in half
        and half[node.input[0]] != node.output[0]
    ]


def _casts_to(node: Any, kind: int) -> bool:
    return node.op_type == "Cast" and any(
        attribute.name == "to" and attribute.i == kind for attribute in node.attribute
    )


def _rename(names: Any, new: dict[str, str]) -> None:
    for index, name in enumerate(names):
        if name in new:
            names[index] = new[name]


def _unused_casts(graph: Any, outputs: set[str]) -> list[Any]:
    used = outputs.union(*(node.input for node in graph.node))
    return [node for node in graph.node if node.op_type == "Cast" and node.output[0] not in used]

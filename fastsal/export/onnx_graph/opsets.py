"""The graph of the map in other versions of ONNX's operators than it was exported in.

onnx's own converter raises versions. Downwards it has no form for Split; and an old file is left as
it is rather than raised, so that its nodes stay what they were.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastsal.export.onnx_check import ExportError
from fastsal.export.onnx_graph.graph_file import opset_of
from fastsal.optional import needed, one_line

# The least version in which the map can be written.
LEAST_OPSET = 12
# The first version in which an operator takes its axes as an input and not as an attribute.
AXES_AS_INPUT = {
    **dict.fromkeys(("ReduceSum", "Squeeze", "Unsqueeze"), 13),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2"), 18),
}
# The first version that knows an attribute, and the value by which the operator is as before; None
# for any, as of maps, which have locations and are reduced along given axes.
ATTRIBUTES = {
    **{(name, "noop_with_empty_axes"): (first, None) for name, first in AXES_AS_INPUT.items()},
    ("Resize", "antialias"): (18, 0),
    ("Resize", "keep_aspect_ratio_policy"): (18, b"stretch"),
    ("Reshape", "allowzero"): (14, None),
    ("Cast", "saturate"): (19, 1),
    ("Cast", "round_mode"): (24, b"up"),
    ("Split", "num_outputs"): (18, None),
}


def in_opset(model: Any, opset: int) -> Any:
    """Return a model in another version of ONNX's operators.

    Args:
        model: An `onnx.ModelProto`.
        opset: The version.

    Raises:
        ExportError: If an operator has no form in it.
    """
    own = opset_of(model)
    if own == opset:
        return model
    onnx: Any = needed("onnx", "an ONNX file")
    converter: Any = needed("onnx.version_converter", "an ONNX file", "onnx")
    # The converter and the checker raise many classes, whose one common base is Exception.
    try:
        if own < opset:
            return converter.convert_version(model, opset)
        made = _lowered(model, opset)
        onnx.checker.check_model(made)
    except Exception as error:
        raise ExportError(
            f"version {own} of ONNX's operators cannot be turned into {opset}: {one_line(error)}"
        ) from error
    return made


def _lowered(model: Any, opset: int) -> Any:
    """Return a copy of a model, its nodes as an earlier version has them."""
    onnx: Any = needed("onnx", "an ONNX file")
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    constants = {one.name: one for one in graph.initializer}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        _drop_attributes(node, opset)
        if opset < AXES_AS_INPUT.get(node.op_type, 0):
            _take_attribute(node, 1, "axes", constants)
        form = FORMS.get(node.op_type)
        graph.node.extend([node] if form is None else form(node, opset, graph, constants))
    read = {name for node in graph.node for name in node.input}
    for one in [one for one in graph.initializer if one.name not in read]:
        graph.initializer.remove(one)
    for entry in made.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = opset
    return made


def _drop_attributes(node: Any, opset: int) -> None:
    """Remove attributes that an operator does not have yet.

    Raises:
        ValueError: If the operator does something else with it.
    """
    onnx: Any = needed("onnx", "an ONNX file")
    for attribute in list(node.attribute):
        first, usual = ATTRIBUTES.get((node.op_type, attribute.name), (0, None))
        if opset >= first:
            continue
        value = onnx.helper.get_attribute_value(attribute)
        if usual is not None and value != usual:
            raise ValueError(f"{node.op_type} with {attribute.name} {value!r}")
        node.attribute.remove(attribute)


def _take_attribute(node: Any, index: int, name: str, constants: dict[str, Any]) -> None:
    """Turn a constant input of a node, which is its last, into an attribute."""
    onnx: Any = needed("onnx", "an ONNX file")
    if len(node.input) <= index:
        return
    values = onnx.numpy_helper.to_array(constants[node.input[index]]).flatten().tolist()
    del node.input[index:]
    node.attribute.append(onnx.helper.make_attribute(name, values))


def _split(node: Any, opset: int, _: Any, constants: dict[str, Any]) -> list[Any]:
    if opset < 13:
        _take_attribute(node, 1, "split", constants)
    return [node]


def _resize(node: Any, opset: int, graph: Any, constants: dict[str, Any]) -> list[Any]:
    """Return the node; before version 13 it needs the inputs that it does not read."""
    onnx: Any = needed("onnx", "an ONNX file")
    for index in (1, 2):
        if opset < 13 and not node.input[index]:
            node.input[index] = empty = f"{node.name}_unread_{index}"
            made = onnx.helper.make_tensor(empty, onnx.TensorProto.FLOAT, [0], [])
            graph.initializer.append(made)
            constants[empty] = made
    return [node]


def _shape(node: Any, opset: int, graph: Any, _: dict[str, Any]) -> list[Any]:
    """Return the whole shape and a part of it, where a node gives a part alone."""
    onnx: Any = needed("onnx", "an ONNX file")
    if opset >= 15 or not node.attribute:
        return [node]
    given = {one.name: one.i for one in node.attribute}
    whole = f"{node.output[0]}_whole"
    names = []
    for name, value in (("start", given.get("start", 0)), ("end", given.get("end", 2**31))):
        names.append(f"{node.output[0]}_{name}")
        graph.initializer.append(
            onnx.helper.make_tensor(names[-1], onnx.TensorProto.INT64, [1], [value])
        )
    return [
        onnx.helper.make_node("Shape", node.input, [whole], name=node.name),
        onnx.helper.make_node("Slice", [whole, *names], node.output, name=f"{node.name}_part"),
    ]


FORMS: dict[str, Callable[[Any, int, Any, dict[str, Any]], list[Any]]] = {
    "Split": _split,
    "Resize": _resize,
    "Shape": _shape,
}

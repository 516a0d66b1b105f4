"""The nodes that make a map in an ONNX graph: their names, their order, and how engines take them.

A matrix that interpolates has two values other than 0 in a row, and one that tells the scale of
each location has one: the file has nodes that make such constants from a few numbers. Engines
compute them once, when they load the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsal.optional import needed

# The names of the nodes that make the map begin so: quantisation has to leave them out.
PREFIX = "fastsal/"
# The numbers of a constant from which on it takes more bytes than its nodes.
LEAST_NUMBERS = 256
# The largest difference of a made number, as a share of the largest: places have 24 bits, so that
# between the hundredth column and the next a weight has 17.
ROUNDING = 1e-5
# A place that is no column's neighbour.
OUTSIDE = -2.0


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
    copies the whole tensor at once, so that the first blocks have left the processor's cache when
    they are read.

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


class Made(NamedTuple):
    """Nodes that make a constant.

    Attributes:
        constants: What they read, by name.
        nodes: The operator, inputs and output of each; the last one makes the constant.
    """

    constants: dict[str, Tensor]
    nodes: list[tuple[str, list[str], str]]


def write_constants_as_nodes(graph: Any, prefix: str = PREFIX) -> None:
    """Replace the large constants of the map by nodes that make them, where they have a form.

    Args:
        graph: The `onnx.GraphProto`.
        prefix: The names of the map's nodes begin so, and those of its new ones will.
    """
    onnx: Any = needed("onnx", "an ONNX file")
    others = names_read(node for node in graph.node if not node.name.startswith(prefix))
    others.update(output.name for output in graph.output)
    read = names_read(graph.node) - others
    made: dict[bytes, str] = {}
    nodes, constants, renamed = [], [], {}
    for initializer in list(graph.initializer):
        if initializer.name not in read:
            continue
        array = onnx.numpy_helper.to_array(initializer)
        key = f"{array.dtype} {array.shape} ".encode() + array.tobytes()
        if key not in made:
            name = f"{prefix}made_{len(made) + 1}"
            found = nodes_of(torch.from_numpy(array.copy()), name)
            if found is None:
                continue
            made[key] = name
            constants += [
                onnx.numpy_helper.from_array(value.numpy(), constant)
                for constant, value in found.constants.items()
            ]
            nodes += [
                onnx.helper.make_node(operation, inputs, [output], name=output)
                for operation, inputs, output in found.nodes
            ]
        renamed[initializer.name] = made[key]
        graph.initializer.remove(initializer)
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
    graph.initializer.extend(constants)
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)


def nodes_of(constant: Tensor, name: str) -> Made | None:
    """Return nodes that make a constant; None if it is small or has no form.

    Args:
        constant: The constant.
        name: Its new name, with which those of its nodes begin.

    Example:
        >>> made = nodes_of(torch.full((1, 1, 300), 0.5), "mean")
        >>> made.nodes, made.constants["mean_shape"].tolist()
        ([('Expand', ['mean_value', 'mean_shape'], 'mean')], [1, 1, 300])
    """
    if constant.numel() < LEAST_NUMBERS:
        return None
    return next(filter(None, (form(constant, name) for form in FORMS)), None)


def _equal(constant: Tensor, name: str) -> Made | None:
    """Return the nodes of a constant with one value."""
    value = constant.flatten()[:1]
    if not torch.equal(constant, value.expand_as(constant)):
        return None
    shape = torch.tensor(constant.shape, device="cpu", dtype=torch.int64)
    names = [f"{name}_value", f"{name}_shape"]
    return Made(dict(zip(names, (value.clone(), shape), strict=True)), [("Expand", names, name)])


def _interpolating(constant: Tensor, name: str) -> Made | None:
    r"""Return the nodes of a matrix that interpolates between its columns or its rows.

    $$M_{jk} = \max(0, s - |s p_j - s k|)$$

    with `p` the place of each row among the columns, and `s` the sum of each row.
    """
    if constant.dim() != 2 or constant.dtype != torch.float32:
        return None
    for lying in (False, True):
        rows = (constant.T if lying else constant).double()
        steps = torch.arange(rows.shape[1], device="cpu", dtype=torch.float64)
        share = rows.sum(1).amax()
        if not share > 0:
            continue
        # A row of zeros is that of a pixel outside.
        places = torch.where(rows.any(1), rows @ steps / share, OUTSIDE)
        places, steps, share = (
            (share * places)[:, None].float(),
            (share * steps)[None].float(),
            share.float().reshape(1),
        )
        difference = torch.relu(share - (places - steps).abs()) - rows
        if not difference.abs().amax() <= ROUNDING * share:
            continue
        if lying:
            places, steps = places.T.contiguous(), steps.T.contiguous()
        names = [f"{name}_places", f"{name}_steps", f"{name}_share"]
        between = [f"{name}_difference", f"{name}_distance", f"{name}_slope"]
        return Made(
            dict(zip(names, (places, steps, share), strict=True)),
            [
                ("Sub", names[:2], between[0]),
                ("Abs", between[:1], between[1]),
                ("Sub", [names[2], between[1]], between[2]),
                ("Relu", between[2:], name),
            ],
        )
    return None


def _belonging(constant: Tensor, name: str) -> Made | None:
    """Return the nodes of a matrix whose rows or columns have one value over a range, else 0."""
    if constant.dim() != 2 or constant.dtype not in (torch.float32, torch.uint8):
        return None
    lying = constant.shape[0] > constant.shape[1]
    rows = constant.T if lying else constant
    values, filled = rows.amax(1), rows != 0
    begin = filled.to(torch.uint8).argmax(1)
    end = begin + filled.sum(1)
    steps = torch.arange(rows.shape[1], device="cpu", dtype=torch.int64)
    inside = (steps >= begin[:, None]) & (steps < end[:, None])
    zero = values.new_zeros(1)
    if not torch.equal(torch.where(inside, values[:, None], zero), rows):
        return None
    row = name if not lying else f"{name}_rows"
    made = Made(
        {
            f"{name}_first": steps.new_zeros(()),
            f"{name}_count": steps.new_tensor(len(steps)),
            f"{name}_step": steps.new_ones(()),
            f"{name}_begin": begin[:, None].clone(),
            f"{name}_end": end[:, None].clone(),
            f"{name}_values": values[:, None].clone(),
            f"{name}_zero": zero,
        },
        [
            ("Range", [f"{name}_first", f"{name}_count", f"{name}_step"], f"{name}_all"),
            ("GreaterOrEqual", [f"{name}_all", f"{name}_begin"], f"{name}_begun"),
            ("Less", [f"{name}_all", f"{name}_end"], f"{name}_open"),
            ("And", [f"{name}_begun", f"{name}_open"], f"{name}_inside"),
            ("Where", [f"{name}_inside", f"{name}_values", f"{name}_zero"], row),
        ],
    )
    if lying:
        made.nodes.append(("Transpose", [row], name))
    return made


FORMS: tuple[Callable[[Tensor, str], Made | None], ...] = (_equal, _belonging, _interpolating)

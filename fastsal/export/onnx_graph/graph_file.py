"""ONNX files as they are read: their graph, their large tensors beside them, their names."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastsal.export.onnx_check import ExportError
from fastsal.export.onnx_nodes import PREFIX
from fastsal.optional import needed, one_line

# Bytes at whose multiples systems map files into memory.
ALIGNMENT = 65536
ONNX_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class GraphFile:
    """An ONNX file.

    Attributes:
        path: The file.
        model: Its `onnx.ModelProto`, without tensors that lie in other files.
        external: The names of these files, relative to the folder.
    """

    path: Path
    model: Any
    external: tuple[str, ...]

    @property
    def graph(self) -> Any:
        """The file's `onnx.GraphProto`."""
        return self.model.graph

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators."""
        return opset_of(self.model)

    @property
    def inputs(self) -> list[Any]:
        """The inputs that are no initializers."""
        constants = {one.name for one in self.graph.initializer}
        return [one for one in self.graph.input if one.name not in constants]

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return tuple(one.name for one in self.graph.output)

    def session(self, outputs: Sequence[str] = (), fused: bool = True) -> Any:
        """Return an onnxruntime session that hands out further tensors.

        Args:
            outputs: The tensors' names, beside the file's own outputs.
            fused: False runs the nodes one by one as they are written.

        Raises:
            ExportError: If onnxruntime does not take the file.
        """
        onnx: Any = needed("onnx", "an ONNX file")
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        own = set(self.outputs)
        for name in outputs:
            if name not in own:
                model.graph.output.append(onnx.ValueInfoProto(name=name))
        return session_of(model, self.path.parent, fused=fused)

    def constant(self, initializer: Any) -> Tensor:
        """Return the value of an initializer."""
        onnx: Any = needed("onnx", "an ONNX file")
        array = onnx.numpy_helper.to_array(initializer, base_dir=str(self.path.parent))
        return as_tensor(array.copy())


def as_tensor(array: Any) -> Tensor:
    """Return an array of NumPy as a tensor."""
    return torch.from_numpy(array) if array.ndim else torch.from_numpy(array.reshape(1))[0]


def opset_of(model: Any) -> int:
    """Return the version of ONNX's own operators that a model is written in."""
    return next((one.version for one in model.opset_import if one.domain in ONNX_DOMAINS), 1)


def read_graph(path: Path | str) -> GraphFile:
    """Read an ONNX file; functions of its own are written out in its graph.

    Args:
        path: The file.

    Raises:
        ExportError: If it is no ONNX file, or a file that it needs is not there.
        OSError: If it cannot be read.
        ImportError: If onnx is not installed.
    """
    path = Path(path)
    onnx: Any = needed("onnx", "an ONNX file")
    content = path.read_bytes()
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    # protobuf's own class of error is not always the same.
    except Exception as error:
        raise ExportError(f"{path} is no ONNX file: {one_line(error)}") from error
    if not model.graph.node or not model.opset_import:
        raise ExportError(f"{path} is no ONNX file: it has no graph of operators")
    external = tuple(dict.fromkeys(location for _, location in outside(model)))
    for location in external:
        if not (path.parent / location).is_file():
            raise ExportError(
                f"{path} has its weights in {location!r}, which is not beside it: put that file "
                f"into {path.parent}"
            )
    if any(node.name.startswith(PREFIX) for node in model.graph.node):
        raise ExportError(
            f"{path} has its map already, nodes named {PREFIX}...; give the file without it"
        )
    if model.functions:
        inliner: Any = needed("onnx.inliner", "an ONNX file", "onnx")
        model = inliner.inline_local_functions(model)
    return GraphFile(path, model, external)


def data_path(path: Path) -> Path:
    """Return the file beside an ONNX file in which its weights lie, if they do not lie in it."""
    return path.with_name(f"{path.name}.data")


def save_model(model: Any, source: GraphFile, path: Path) -> None:
    """Write a model, and the weights that the source has in other files into one beside it.

    Args:
        model: An `onnx.ModelProto`, which is changed.
        source: The file that its weights are from.
        path: The new file.

    Raises:
        ExportError: If the model is too large for one file.
        OSError: If a file cannot be read or written.
    """
    if source.external:
        _copy_weights(model, source, data_path(path))
    try:
        path.write_bytes(model.SerializeToString())
    # protobuf's own class of error is not always the same.
    except Exception as error:
        if isinstance(error, OSError):
            raise
        raise ExportError(
            f"the file with its map is larger than ONNX allows, 2 GB: {one_line(error)}. Save the "
            "file with its weights beside it first, as onnx.save(save_as_external_data=True) does"
        ) from error


def _copy_weights(model: Any, source: GraphFile, path: Path) -> None:
    """Copy the files of weights into one, and let the model's tensors lie there."""
    begins = {}
    with path.open("wb") as target:
        for location in source.external:
            # Tensors stay where a file can be mapped into memory.
            target.write(bytes(-target.tell() % ALIGNMENT))
            begins[location] = target.tell()
            with (source.path.parent / location).open("rb") as weights:
                shutil.copyfileobj(weights, target)
    for tensor, location in list(outside(model)):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        offset = int(entries.get("offset", 0))
        if "length" not in entries:
            size = (source.path.parent / location).stat().st_size
            entries["length"] = str(size - offset)
        entries |= {"location": path.name, "offset": str(begins[location] + offset)}
        entries.pop("checksum", None)
        del tensor.external_data[:]
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)


def session_of(model: Any, folder: Path, fused: bool = True) -> Any:
    """Return an onnxruntime session of a model in memory.

    Args:
        model: An `onnx.ModelProto`.
        folder: The folder of the files that its tensors lie in.
        fused: False runs the nodes one by one as they are written.

    Raises:
        ExportError: If onnxruntime does not take the model.
    """
    key = "session.model_external_initializers_file_folder_path"
    return _session(model.SerializeToString(), fused, {key: str(folder.resolve())})


def load_session(path: Path, fused: bool = True) -> Any:
    """Return an onnxruntime session of a file.

    Args:
        path: The file.
        fused: False runs the nodes one by one as they are written.

    Raises:
        ExportError: If onnxruntime does not take the file.
    """
    return _session(str(path), fused, {})


def _session(model: bytes | str, fused: bool, settings: Mapping[str, str]) -> Any:
    runtime: Any = needed("onnxruntime", "an ONNX file")
    options = runtime.SessionOptions()
    # Warnings, as of outputs without a shape, are no concern of the caller.
    options.log_severity_level = 4
    for key, value in settings.items():
        options.add_session_config_entry(key, value)
    if not fused:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # onnxruntime raises many classes, whose one common base is Exception.
    try:
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"onnxruntime does not take the file: {one_line(error)}") from error


def graphs_of(graph: Any) -> Iterator[Any]:
    """Yield a graph and the graphs inside its nodes (the branches of If, the body of Loop)."""
    yield graph
    for node in graph.node:
        for inner in inner_graphs(node):
            yield from graphs_of(inner)


def inner_graphs(node: Any) -> Iterator[Any]:
    """Yield the graphs that a node has as attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def outside(model: Any) -> Iterator[tuple[Any, str]]:
    """Yield the tensors of a model that lie in other files, with the files' names."""
    onnx: Any = needed("onnx", "an ONNX file")
    for graph in graphs_of(model.graph):
        tensors = list(graph.initializer)
        for sparse in graph.sparse_initializer:
            tensors += [sparse.values, sparse.indices]
        tensors += [
            attribute.t
            for node in graph.node
            for attribute in node.attribute
            if attribute.HasField("t")
        ]
        for tensor in tensors:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                entries = {entry.key: entry.value for entry in tensor.external_data}
                yield tensor, entries.get("location", "")


def outer_names(node: Any) -> list[str]:
    """Return the names that the graphs inside a node take from around it."""
    found: list[str] = []
    for graph in inner_graphs(node):
        known = {one.name for one in (*graph.input, *graph.initializer)}
        for inner in graph.node:
            found += [name for name in (*inner.input, *outer_names(inner)) if name not in known]
            known.update(inner.output)
        found += [one.name for one in graph.output if one.name not in known]
    return list(dict.fromkeys(name for name in found if name))


def in_order(graph: Any) -> list[Any]:
    """Return a graph's nodes, each after those that it reads: tools may append nodes at the end."""
    nodes = list(graph.node)
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    found: dict[int, None] = {}
    for begin in range(len(nodes)):
        waiting = [begin]
        while waiting:
            index = waiting[-1]
            names = (*nodes[index].input, *outer_names(nodes[index]))
            before = [makers[name] for name in names if name in makers]
            missing = [one for one in before if one not in found and one not in waiting]
            if missing and index not in found:
                waiting += missing[::-1]
            else:
                found[waiting.pop()] = None
    return [nodes[index] for index in found]


def all_names(model: Any) -> set[str]:
    """Return every name of a tensor or node in a model, inside its nodes too."""
    found: set[str] = set()
    for graph in graphs_of(model.graph):
        for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
            found.add(value.name)
        for node in graph.node:
            found.update((node.name, *node.input, *node.output))
    return found


def attributes_of(node: Any) -> Mapping[str, Any]:
    """Return a node's attributes, text as `str`; those that are graphs are left out."""
    onnx: Any = needed("onnx", "an ONNX file")
    found = {}
    for attribute in node.attribute:
        if attribute.HasField("g") or attribute.graphs or attribute.ref_attr_name:
            continue
        value = onnx.helper.get_attribute_value(attribute)
        found[attribute.name] = value.decode() if isinstance(value, bytes) else value
    return found

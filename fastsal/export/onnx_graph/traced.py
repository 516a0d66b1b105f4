"""The trace of an ONNX graph, in the form of that of a PyTorch network, and its scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.export.onnx_check import ExportError
from fastsal.export.onnx_graph.calls import calls_of
from fastsal.export.onnx_graph.examples import Images, images_of
from fastsal.export.onnx_graph.graph_file import (
    GraphFile,
    as_tensor,
    attributes_of,
    in_order,
    outer_names,
    read_graph,
)
from fastsal.export.onnx_graph.operation import Call, Operation, Value
from fastsal.geometry.placement import located, stretch_of
from fastsal.networks.hooks import tensors_in
from fastsal.networks.scales import SELECTIONS, Candidate, Scale, candidates_of
from fastsal.networks.trace import Trace
from fastsal.optional import one_line
from fastsal.registry import similar_names

# Operators that take the shape of their input alone.
SHAPES = frozenset(("Shape", "Size", "RandomNormalLike", "RandomUniformLike", "EyeLike"))
# Constants of at most so many elements are read; of larger ones the shape is enough.
MOST_READ = 4096


class GraphTensors(nn.Module):
    """The tensors of a graph as modules, by whose names scales are called."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: dict[str, nn.Module] = {}

    def add(self, name: str) -> nn.Module:
        """Return the module of a tensor."""
        return self.tensors.setdefault(name, nn.Identity())

    def named_modules(self, *_: Any, **__: Any) -> Iterator[tuple[str, nn.Module]]:
        """Yield this module, and those of tensors: their names may have dots."""
        yield "", self
        yield from self.tensors.items()


class TracedGraph:
    """One pass of an ONNX file, as a trace.

    The values are onnxruntime's own; the pixels are followed through the PyTorch functions that the
    operators stand for.

    Args:
        file: The file.
        images: Its inputs.
        example: Example inputs by their names.

    Attributes:
        trace: The trace.
        values: The tensors that come from the images, by name.

    Raises:
        ExportError: If the file does not run on the example.
    """

    def __init__(self, file: GraphFile, images: Images, example: Mapping[str, Tensor]) -> None:
        self._file = file
        self.root = GraphTensors()
        self.values: dict[str, Value] = {}
        rank_4 = [example[one.name] for one in images.inputs if len(one.shape) == 4]
        first = example[images.inputs[images.image].name]
        rank_4 = [first, *(one for one in rank_4 if one is not first)]
        seen = [images.channels_first(one) for one in rank_4]
        self.size = (seen[0].shape[2], seen[0].shape[3])
        self.count = seen[0].shape[0]
        derived = _derived(file, images)
        self._names = [name for node in file.graph.node for name in node.output if name]
        made = {name for node in derived for name in node.output if name}
        self._found = _run(file, example, made, derived)
        self.trace = Trace(seen)
        self._constants: dict[str, Tensor] = {}
        self._initializers = {one.name: one for one in file.graph.initializer}
        by_id = {id(one): channels_first for one, channels_first in zip(rank_4, seen, strict=True)}
        with torch.no_grad():
            for one in images.inputs:
                given = example[one.name]
                if id(given) in by_id:
                    self.values[one.name] = self._given(by_id[id(given)], given)
            for node in derived:
                self._follow(node)
        ends = [self.values[name] for name in file.outputs if name in self.values]
        self.output = tuple(ends)

    def candidates(self) -> tuple[Candidate, ...]:
        """Return the tensors that may end a scale, as `fastsal.networks.scales.candidates` does.

        Raises:
            ScalesError: As there.
        """
        return candidates_of(self.root, self.trace, self.output)

    def scale(self, name: str) -> Scale:
        """Return a tensor of the graph as a scale.

        Args:
            name: The tensor's name.

        Raises:
            ExportError: If it has no locations, or comes from no image.
        """
        tensor = self.values.get(name)
        if name not in self._names:
            path, question = self._file.path, similar_names(name, self._names)
            raise ExportError(
                f"{path} has no tensor named {name!r}; {question}{' ' if question else ''}"
                f"`fastsal layers {path}` lists those that can be read"
            )
        nodes = self.trace.nodes_in(tensor) if isinstance(tensor, Tensor) else ()
        if not isinstance(tensor, Tensor) or not nodes or not tensor.is_floating_point():
            raise ExportError(
                f"tensor {name!r} has no activations of the image: expected one of floating-point "
                "numbers that is computed from it"
            )
        fields = self.trace.coordinates.of(tensor)
        shape = tuple(tensor.shape)
        place = located(fields, shape, self.count, self.size, single=True)
        place = place or stretch_of(shape, self.size)
        if place is None:
            raise ExportError(
                f"tensor {name!r} has shape {shape}, expected (N, C, h, w), (N, h, w, C) or "
                f"(N, h w, C) on the grid of the {self.size[0]}x{self.size[1]} image; choose "
                "another one"
            )
        return Scale(
            name=name,
            module=self.root.add(name),
            call=0,
            shape=shape,
            strides=place.octaves,
            signed=bool(tensor.amin() < 0),
            layout=place.layout,
            placement=place.placement,
            doubt=place.doubt,
            varies=place.varies,
        )

    def dtype(self, name: str) -> torch.dtype:
        """Return the type of a tensor."""
        (tensor,) = tensors_in(self.values[name])
        return tensor.dtype

    def operation(self, name: str) -> str:
        """Return the function that computed a tensor, in PyTorch's words."""
        index = self.trace.nodes_in(self.values[name])[0]
        return self.trace.nodes[self.trace.maker(index)].operation

    def _given(self, image: Tensor, given: Tensor) -> Tensor:
        """Return an input of the file, which for channels last is the image in another order."""
        if image is given:
            return image
        made = image.permute(0, 2, 3, 1)
        self._call(Call(Tensor.permute, (image, [0, 2, 3, 1])), [made])
        return made

    def _follow(self, node: Any) -> None:
        """Note a node in the trace."""
        outputs = [self._found.get(name) for name in node.output]
        read = [*node.input, *outer_names(node)]
        inputs = [self._value(name) if name else None for name in read]
        for name, value in zip(node.output, outputs, strict=True):
            if name:
                self.values[name] = value
        if not self.trace.nodes_in(inputs) or not any(True for _ in tensors_in(outputs)):
            return
        operation = Operation(node.op_type, attributes_of(node), inputs, outputs)
        calls = calls_of(operation)
        for call in calls[:-1]:
            self._call(call, list(tensors_in(calls[-1].args))[:1])
        made = outputs if calls[-1].outputs is None else outputs[: calls[-1].outputs]
        self._call(calls[-1], list(tensors_in(made)))
        if calls[-1].function.__name__ in SELECTIONS:
            # A part of a tensor ends no scale.
            return
        for name, value in zip(node.output, outputs, strict=True):
            nodes = self.trace.nodes_in(value)
            if name and isinstance(value, Tensor) and nodes and value.is_floating_point():
                module = self.root.add(name)
                self.trace.makers_of.setdefault(nodes[0], []).append((module, 0))
                self.trace.calls[module] = 1

    def _call(self, call: Call, made: list[Tensor]) -> None:
        result: Any = made[0] if len(made) == 1 else tuple(made)
        self.trace.__torch_function__(_Replayed(call, result), (), call.args, dict(call.kwargs))

    def _value(self, name: str) -> Value:
        """Return the value of a tensor; of large constants a stand-in of their shape."""
        if name in self.values:
            return self.values[name]
        if name in self._constants:
            return self._constants[name]
        initializer = self._initializers.get(name)
        value = self._found.get(name)
        if initializer is not None:
            shape = tuple(initializer.dims)
            value = torch.zeros((), dtype=torch.float32, device="cpu").expand(shape)
            if value.numel() <= MOST_READ:
                value = self._file.constant(initializer)
        if not isinstance(value, Tensor):
            return value
        # The trace knows weights by it.
        self._constants[name] = nn.Parameter(value, requires_grad=False)
        return self._constants[name]


class _Replayed:
    """A PyTorch function whose result for the arguments of the pass is known.

    Args:
        call: The call; applied to other arguments, as to coordinates, the function is run.
        result: The known result.
    """

    def __init__(self, call: Call, result: Any) -> None:
        self.__name__ = call.function.__name__
        self._function: Callable[..., Any] = call.function
        self._args, self._result = call.args, result

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the result."""
        known = len(args) == len(self._args) and all(
            one is other for one, other in zip(args, self._args, strict=True)
        )
        return self._result if known else self._function(*args, **kwargs)


def traced_graph(path: Path | str, size: int) -> TracedGraph:
    """Return one pass of an ONNX file on random inputs.

    Args:
        path: The file.
        size: Height and width of its images, where it leaves them open.

    Raises:
        ExportError: If it is no ONNX file, has no image among its inputs, or does not run.
    """
    file = read_graph(path)
    images = images_of(file)
    return TracedGraph(file, images, images.example(1, size))


def _derived(file: GraphFile, images: Images) -> list[Any]:
    """Return the nodes that the values of images reach, each after those that it reads."""
    reached = {one.name for one in images.inputs if len(one.shape) == 4}
    found = []
    for node in in_order(file.graph):
        read = {*node.input, *outer_names(node)} & reached
        if read and node.op_type not in SHAPES:
            reached.update(node.output)
            found.append(node)
    return found


def _run(
    file: GraphFile, example: Mapping[str, Tensor], made: set[str], derived: list[Any]
) -> dict[str, Value]:
    """Return the values of nodes' tensors in onnxruntime, and of those that they read."""
    computed = {name for node in file.graph.node for name in node.output if name}
    read = {name for node in derived for name in (*node.input, *outer_names(node)) if name}
    names = sorted(made | (read & computed))
    session = file.session(names, fused=False)
    try:
        arrays = session.run(names, {name: one.numpy() for name, one in example.items()})
    except Exception as error:
        shapes = ", ".join(f"{name} {tuple(one.shape)}" for name, one in example.items())
        raise ExportError(
            f"onnxruntime does not run {file.path} on {shapes}: {one_line(error)}"
        ) from error
    return {
        **dict(example),
        **{name: _as_value(array) for name, array in zip(names, arrays, strict=True)},
    }


def _as_value(array: Any) -> Value:
    if isinstance(array, (list, tuple)):
        return tuple(_as_value(one) for one in array)
    try:
        return as_tensor(array)
    except (TypeError, AttributeError):
        # Text, and types that PyTorch has not.
        return None

"""The graph of one forward pass's operations, and the tensors that every path crosses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from fastsal.arguments.copies import copied
from fastsal.arguments.inputs import KINDS, images_of
from fastsal.geometry.coordinates import Coordinates, Fields
from fastsal.geometry.following import BOX_POOLING
from fastsal.geometry.functions import TO_PYTHON, name_of
from fastsal.geometry.placement import Located, located
from fastsal.keeping.parts import parts
from fastsal.networks import hooks, state

# Functions that pass on a tensor's values unchanged.
REARRANGEMENTS = frozenset(
    """permute transpose movedim moveaxis swapaxes swapdims contiguous clone to float dropout
    dropout1d dropout2d dropout3d detach view view_as reshape reshape_as flatten unflatten squeeze
    unsqueeze flip roll rot90""".split()  # noqa: SIM905
)
# In evaluation mode these return the very tensor that they get, in training mode another one.
DROPOUTS = frozenset(
    ("dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "alpha_dropout")
)
WEIGHTED = ("conv", "linear", "matmul", "einsum", "bmm")
ACTIVATIONS = frozenset(
    """relu relu_ relu6 hardtanh hardtanh_ leaky_relu leaky_relu_ prelu rrelu rrelu_ elu elu_ selu
    selu_ celu celu_ gelu silu mish hardswish hardsigmoid sigmoid sigmoid_ softplus tanh tanh_
    softsign threshold threshold_ logsigmoid tanhshrink""".split()  # noqa: SIM905
)
RELUS = frozenset(("relu", "relu_"))

NO_FIELDS = Fields()


@dataclass
class Node:
    """One operation of the traced pass; node 0 stands for the images.

    Attributes:
        operation: The function's name, or the type of a module whose inside is not traced.
        sources: The nodes that the operation reads.
        shape: The shape of its output; None for several outputs.
        non_negative: True if its output has three to five dimensions and no negative value.
        weight: The `id` of the parameter that it applies, if it applies one.
        parameters: The number of elements of the tensors that it applies and the images do not
            reach.
        fields: The coordinates of its output.
        place: The last module call before the operation, and the number of functions since.
    """

    operation: str
    sources: tuple[int, ...]
    shape: tuple[int, ...] | None = None
    non_negative: bool = False
    weight: int | None = None
    parameters: int = 0
    fields: Fields = NO_FIELDS
    place: tuple[nn.Module, int, int] | None = None


class Place(NamedTuple):
    """The module call by which hooks find a traced tensor.

    Attributes:
        module: The module.
        call: Which call of the module in the pass, from 0.
        functional_relu: The tensor is a ReLU function of the module's output.
        layer_input: The tensor is the module's input in place of its output.
        functions: The tensor is what so many functions after the module's output make of it and of
            others; 0 for the output itself.
    """

    module: nn.Module
    call: int
    functional_relu: bool = False
    layer_input: bool = False
    functions: int = 0


def trace_forward(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    further: tuple[object, ...] = (),
    forward_func: Callable[..., Any] | None = None,
) -> tuple[Trace, Any]:
    """Return the graph of one forward pass in evaluation mode, and the network's output.

    The pass runs on copies, since the network may write to its inputs.

    Args:
        network: The network; its state is restored afterwards.
        inputs: The network's tensors; the 4-D ones are the images, or without one volumes or
            signals.
        further: Further arguments of the network.
        forward_func: What runs the network, such as a method of it other than `forward`; None
            calls the network.
    """
    # Under inference mode a view does not know its base.
    with torch.inference_mode(False), torch.no_grad():
        inputs, further = copied((inputs, further))
        trace = Trace(images_of(inputs))
        with state.evaluation_pass(network), state.hooked(trace.hooks(network)), trace:
            output = (forward_func or network)(*inputs, *further)
    return trace, output


class Trace(TorchFunctionMode):
    """A torch function mode that records the operations from the images to the output as a graph.

    Code that calls no PyTorch functions (NumPy, an extension, a `torch.jit` module) is one
    operation, that of the module around it.

    Args:
        images: The image batches `(N, C, H, W)`, or volumes, or signals.
    """

    def __init__(self, images: Sequence[Tensor]) -> None:
        super().__init__()
        self.coordinates = Coordinates(images)
        self.nodes = [
            Node("input", (), tuple(images[0].shape), fields=self.coordinates.of(images[0]))
        ]
        self._located: dict[int, Located | None] = {}
        self._nodes_of: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()
        self.makers_of: dict[int, list[tuple[nn.Module, int]]] = {}
        self.readers_of: dict[int, list[tuple[nn.Module, int]]] = {}
        self.calls: dict[nn.Module, int] = {}
        # Of each running module its tensors, and how often values had gone to Python before.
        self._inputs_of: dict[nn.Module, tuple[list[Tensor], int]] = {}
        # Tensors that functions made of none from the images, and how often values went to Python.
        self._constants: MutableMapping[Tensor, bool] = WeakTensorKeyDictionary()
        self._to_python = 0
        # The last module call that has ended, and the number of functions since.
        self._last: tuple[nn.Module, int] | None = None
        self._since = 0
        for image in images:
            self._assign(image, 0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function and record its inputs and outputs."""
        kwargs = kwargs or {}
        self._since += 1
        name = name_of(func)
        # `view_as` and the like take only the shape of the second tensor.
        sources = self.nodes_in(args[:1] if name.endswith("_as") else (args, kwargs))
        result = func(*args, **kwargs)
        made = [args[0]] if name == "__setitem__" else list(hooks.tensors_in(result))
        self._to_python += bool(sources) and name in TO_PYTHON
        # These take only the shape of their input.
        shape_alone = name.endswith("_like") or name.startswith("new_")
        if shape_alone or not sources:
            for tensor in made:
                self._constants[tensor] = True
        if shape_alone:
            return result
        read = list(hooks.tensors_in((args, kwargs)))
        if sources and not (name.startswith(BOX_POOLING) and len(sources) > 1):
            # Boxes that are found in the image differ from image to image.
            self.coordinates.follow(func, args, kwargs, read, made)
        if name in DROPOUTS and len(sources) == 1:
            # In either mode the tensor before the dropout is read.
            self._assign(made[0], sources[0])
        elif sources and made and not (name in REARRANGEMENTS and made[0] is args[0]):
            weighted = name.startswith(WEIGHTED) and len(args) > 1
            weight = id(args[1]) if weighted and isinstance(args[1], nn.Parameter) else None
            applied = sum(tensor.numel() for tensor in read if self._node(tensor) is None)
            self._add(name, sources, made, weight, applied)
        return result

    def hooks(self, network: nn.Module) -> list[tuple[nn.Module, Callable[..., None], bool]]:
        """Return hooks that record the nodes which each of a network's modules reads and makes."""
        return [
            hook
            for part in parts(network)
            if not isinstance(part, torch.jit.ScriptModule)
            for hook in self._hooks(part, whole=part is network)
        ]

    def _hooks(
        self, module: nn.Module, whole: bool
    ) -> list[tuple[nn.Module, Callable[..., None], bool]]:
        # The network itself, `whole`, counts as no operation.
        def before(_: nn.Module, args: Any, kwargs: Any) -> None:
            call = self.calls.get(module, 0)
            self.calls[module] = call + 1
            read = list(hooks.tensors_in((args, kwargs)))
            node = self._node(read[0]) if len(read) == 1 else None
            if node is not None:
                self.readers_of.setdefault(node, []).append((module, call))
            self._inputs_of[module] = read, self._to_python

        def after(_: nn.Module, __: Any, output: Any) -> None:
            # What a hook computes is no function of the network.
            with torch._C.DisableTorchFunction():
                leave(output)
            if not whole:
                self._last, self._since = (module, self.calls[module] - 1), 0

        def leave(output: Any) -> None:
            read, before_it = self._inputs_of.pop(module, ([], 0))
            sources = self.nodes_in(read)
            made = list(hooks.tensors_in(output))
            # Such as embeddings of positions, which take the images' shape alone.
            constant = (
                made
                and before_it == self._to_python
                and all(one in self._constants for one in made)
            )
            if sources and not (whole or constant or self.nodes_in(output)):
                name = type(module).__name__.lower()
                self.coordinates.assume(type(module).__name__, read, made)
                applied = sum(parameter.numel() for parameter in module.parameters())
                self._add(name, sources, made, None, applied)
            node = self._node(output) if isinstance(output, Tensor) else None
            if node is not None:
                self.makers_of.setdefault(node, []).append((module, self.calls[module] - 1))

        return [(module, before, True), (module, after, False)]

    def nodes_in(self, value: Any) -> tuple[int, ...]:
        """Return the nodes of the tensors in nested tuples, lists, mappings and dataclasses."""
        found = (self._node(tensor) for tensor in hooks.tensors_in(value))
        return tuple(dict.fromkeys(node for node in found if node is not None))

    def before(
        self, ends: Iterable[int], through: Callable[[Node], bool] | None = None
    ) -> set[int]:
        """Return the nodes on paths from the images to the ends, including the ends.

        Args:
            ends: The last nodes of the paths.
            through: Returns True if paths through a node count; None counts all paths.
        """
        needed = set(ends)
        for index in range(len(self.nodes) - 1, -1, -1):
            if index in needed and (through is None or through(self.nodes[index])):
                needed.update(self.nodes[index].sources)
        return needed

    def cuts(self, ends: Collection[int]) -> list[int]:
        """Return the nodes that every path from the images to any of the ends crosses."""
        needed = self.before(ends)
        last = len(self.nodes)
        edges = [(source, node) for node in needed for source in self.nodes[node].sources]
        edges += [(end, last) for end in ends]
        # Paths follow the order of operations, so a path avoids a node only by an edge past it.
        furthest, cuts = 0, []
        reach = dict.fromkeys(needed, 0)
        for source, node in edges:
            reach[source] = max(reach[source], node)
        for node in sorted(needed):
            if furthest <= node:
                cuts.append(node)
            furthest = max(furthest, reach[node])
        return [cut for cut in cuts if cut > 0]

    def maker(self, index: int) -> int:
        """Return the node that computed a tensor's values, before any rearrangement of them."""
        nodes = self.nodes
        while nodes[index].operation in REARRANGEMENTS and len(nodes[index].sources) == 1:
            index = nodes[index].sources[0]
        return index

    def located(self, index: int) -> Located | None:
        """Return the place of a node's tensor on the image, None if it shows none."""
        if index not in self._located:
            node, found = self.nodes[index], None
            if node.shape is not None and node.fields.places:
                images, size = self.coordinates.images, self.coordinates.size
                found = located(node.fields, node.shape, images, size)
            self._located[index] = found
        return self._located[index]

    def channels(self, index: int) -> int:
        """Return the number of channels of a node's tensor, 0 if it shows no places."""
        found, shape = self.located(index), self.nodes[index].shape
        return 0 if found is None or shape is None else shape[found.layout.channel]

    def place(self, index: int, names: Mapping[nn.Module, str]) -> Place | None:
        """Return the module call that makes or takes a node's tensor, None if no module does.

        Args:
            index: The node.
            names: The name of every module; the network's own is empty.
        """
        modules = self._once_first(self._makers(index, names))
        if modules:
            return Place(*modules[0])
        node = self.nodes[index]
        if node.operation in RELUS and len(node.sources) == 1:
            modules = self._once_first(self._makers(node.sources[0], names))
            if modules:
                return Place(*modules[0], functional_relu=True)
        modules = self._once_first(self.readers_of.get(index, []))
        if modules:
            return Place(*modules[0], layer_input=True)
        if node.place is None or not names.get(node.place[0]) or not node.place[2]:
            return None
        module, call, functions = node.place
        return Place(module, call, functions=functions)

    def _makers(self, index: int, names: Mapping[nn.Module, str]) -> list[tuple[nn.Module, int]]:
        """Return the modules whose output a node is, the outermost first: a reader knows its name.

        Modules that come after and hand the tensor on unchanged (an Identity, Dropout) are last;
        the network itself is left out.
        """
        makers = [(module, call) for module, call in self.makers_of.get(index, []) if names[module]]
        if not makers:
            return []
        innermost = names[makers[0][0]] + "."
        around = [maker for maker in makers if innermost.startswith(names[maker[0]] + ".")]
        return around[::-1] + [maker for maker in makers if maker not in around]

    def _once_first(self, modules: list[tuple[nn.Module, int]]) -> list[tuple[nn.Module, int]]:
        """Return the modules that run once before those that run again."""
        return sorted(modules, key=lambda module: self.calls[module[0]] > 1)

    def _add(
        self,
        name: str,
        sources: tuple[int, ...],
        made: list[Tensor],
        weight: int | None = None,
        parameters: int = 0,
    ) -> None:
        place = None if self._last is None else (*self._last, self._since)
        operation = Node(name, sources, weight=weight, parameters=parameters, place=place)
        self.nodes.append(operation)
        index = len(self.nodes) - 1
        if len(made) > 1:
            for tensor in made:
                self.nodes.append(self._of_tensor(Node("output", (index,)), tensor))
                self._assign(tensor, len(self.nodes) - 1)
            return
        for tensor in made:
            self._of_tensor(operation, tensor)
            self._assign(tensor, index)
            # Values written into a view are in its base as well.
            in_place = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
            if in_place and tensor._base is not None:
                self._add("part", (index,), [tensor._base])

    def _of_tensor(self, node: Node, tensor: Tensor) -> Node:
        node.shape = tuple(tensor.shape)
        node.fields = self.coordinates.of(tensor)
        if tensor.dim() in KINDS and tensor.is_floating_point() and tensor.numel():
            node.non_negative = bool(tensor.detach().amin() >= 0)
        return node

    def _assign(self, tensor: Tensor, node: int) -> None:
        self._nodes_of[tensor] = node

    def _node(self, tensor: Tensor) -> int | None:
        return self._nodes_of.get(tensor)

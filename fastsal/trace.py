"""One forward pass as a graph of operations, and the tensors that every path crosses."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastsal import capture


@dataclass
class Node:
    """One operation of the traced pass; node 0 stands for the images."""

    operation: str
    sources: tuple[int, ...]
    shape: tuple[int, ...] | None = None
    non_negative: bool = False


class Trace(TorchFunctionMode):
    """Records the operations between the images and the output as a graph."""

    def __init__(self, images: Sequence[Tensor]) -> None:
        super().__init__()
        self.nodes = [Node("input", ())]
        self.node_of: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self.makers_of: dict[int, list[tuple[nn.Module, int]]] = {}
        self.readers_of: dict[int, list[tuple[nn.Module, int]]] = {}
        self.calls: dict[nn.Module, int] = {}
        for image in images:
            self._assign(image, 0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function and note which tensors it read and which it made."""
        kwargs = kwargs or {}
        sources = tuple(
            dict.fromkeys(
                node
                for tensor in capture.tensors_in((args, kwargs))
                if (node := self._node(tensor)) is not None
            )
        )
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        made = [args[0]] if name == "__setitem__" else list(capture.tensors_in(result))
        if sources and made:
            operation = Node(name, sources)
            if len(made) == 1:
                operation.shape = tuple(made[0].shape)
                if made[0].dim() == 4 and made[0].is_floating_point() and made[0].numel():
                    operation.non_negative = bool(made[0].detach().amin() >= 0)
            self.nodes.append(operation)
            for tensor in made:
                self._assign(tensor, len(self.nodes) - 1)
        return result

    def hooks(self, module: nn.Module) -> list[tuple[nn.Module, Callable[..., None], bool]]:
        """Return the hooks that note which nodes a module reads and makes."""

        def before(_: nn.Module, args: Any, kwargs: Any) -> None:
            call = self.calls.get(module, 0)
            self.calls[module] = call + 1
            read = list(capture.tensors_in((args, kwargs)))
            node = self._node(read[0]) if len(read) == 1 else None
            if node is not None:
                self.readers_of.setdefault(node, []).append((module, call))

        def after(_: nn.Module, __: Any, output: Any) -> None:
            node = self._node(output) if isinstance(output, Tensor) else None
            if node is not None:
                self.makers_of.setdefault(node, []).append((module, self.calls[module] - 1))

        return [(module, before, True), (module, after, False)]

    def cuts(self, output: Any) -> list[int]:
        """Return the nodes that every path from the images to the output crosses."""
        ends = {
            node
            for tensor in capture.tensors_in(output)
            if (node := self._node(tensor)) is not None
        }
        needed = set(ends)
        for index in range(len(self.nodes) - 1, -1, -1):
            if index in needed:
                needed.update(self.nodes[index].sources)
        last = len(self.nodes)
        edges = [(source, node) for node in needed for source in self.nodes[node].sources]
        edges += [(end, last) for end in ends]
        # A path climbs in the order of operations, so it avoids a node only by an edge over it.
        furthest, cuts = 0, []
        reach = dict.fromkeys(needed, 0)
        for source, node in edges:
            reach[source] = max(reach[source], node)
        for node in sorted(needed):
            if furthest <= node:
                cuts.append(node)
            furthest = max(furthest, reach[node])
        return [cut for cut in cuts if cut > 0]

    def _assign(self, tensor: Tensor, node: int) -> None:
        self.node_of[id(tensor)] = (weakref.ref(tensor), node)

    def _node(self, tensor: Tensor) -> int | None:
        reference, node = self.node_of.get(id(tensor), (None, 0))
        # An identity may be a freed tensor's.
        return node if reference is not None and reference() is tensor else None

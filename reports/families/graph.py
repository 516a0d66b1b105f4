"""Autograd's graph of a forward pass: what runs after a tensor, independently of the trace."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastsal.networks.hooks import tensors_in
from fastsal.networks.scales import Scale


class Call(NamedTuple):
    """One call of a module.

    Attributes:
        module: The module.
        end: How many calls had ended before.
        shape: The shape of its output, of the first tensor if there are several.
        made: The steps of autograd's graph that made its output.
        before: How many calls had ended when it began.
        read: The steps that made its input.
    """

    module: nn.Module
    end: int
    shape: tuple[int, ...]
    made: frozenset[Any]
    before: int
    read: frozenset[Any]

    @property
    def locations(self) -> int:
        """The number of locations that a module with parameters works on, 0 if it is not known."""
        own = next(self.module.parameters(recurse=False), None)
        if own is None or own.dim() == 0 or 0 in (self.shape or (0,)):
            return 0
        module = self.module
        channels = getattr(module, "out_channels", getattr(module, "out_features", own.shape[0]))
        if not isinstance(channels, int) or channels < 1:
            return 0
        return math.prod(self.shape) // (self.shape[0] * channels)


class Graph:
    """Autograd's graph of one pass, and the calls of modules in the order in which they end.

    Args:
        network: The network.
        images: Images `(N, C, H, W)`.
    """

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        self.calls: list[Call] = []
        self.images = images.clone().requires_grad_()
        begun: dict[nn.Module, list[tuple[int, frozenset[Any]]]] = {}

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            begun.setdefault(module, []).append((len(self.calls), _steps((args, kwargs))))

        def after(module: nn.Module, _: Any, output: Any) -> None:
            made = next(tensors_in(output), None)
            shape = () if made is None else tuple(made.shape)
            started = begun[module].pop()
            self.calls.append(Call(module, len(self.calls), shape, _steps(output), *started))

        parts = list(network.modules())
        handles = [part.register_forward_pre_hook(before, with_kwargs=True) for part in parts]
        handles += [part.register_forward_hook(after) for part in parts]
        try:
            with torch.enable_grad():
                self.ends = _steps(network(self.images))
        finally:
            for handle in handles:
                handle.remove()
        self.sources: dict[Any, list[Any]] = {}
        waiting = list(self.ends)
        while waiting:
            step = waiting.pop()
            if step not in self.sources:
                self.sources[step] = [each for each, _ in step.next_functions if each is not None]
                waiting += self.sources[step]
        self.readers: dict[Any, list[Any]] = {}
        for step, sources in self.sources.items():
            for source in sources:
                self.readers.setdefault(source, []).append(step)

    def after(self, steps: frozenset[Any]) -> set[int]:
        """Return the ids of the leaves that are read together with what comes from some steps."""
        seen: set[Any] = set()
        waiting = [reader for step in steps for reader in self.readers.get(step, [])]
        while waiting:
            step = waiting.pop()
            if step not in seen:
                seen.add(step)
                waiting += self.readers.get(step, [])
        read = (source for step in seen for source in self.sources[step])
        return {id(source.variable) for source in read if hasattr(source, "variable")}

    def around(self, steps: frozenset[Any]) -> set[int]:
        """Return the ids of the leaves from which paths lead to the output around some steps."""
        found: set[int] = set()
        seen = set(steps)
        waiting = [step for step in self.ends if step not in seen]
        while waiting:
            step = waiting.pop()
            if step in seen:
                continue
            seen.add(step)
            if hasattr(step, "variable"):
                found.add(id(step.variable))
            waiting += self.sources[step]
        return found

    def is_cut(self, steps: frozenset[Any]) -> bool:
        """Return True if all paths from the images to the output lead through some steps."""
        return bool(steps) and id(self.images) not in self.around(steps)


def _steps(value: Any) -> frozenset[Any]:
    steps = (tensor.grad_fn for tensor in tensors_in(value))
    return frozenset(step for step in steps if step is not None)


def grid_of(scale: Scale) -> tuple[int, int]:
    """Return the numbers of rows and columns of a scale."""
    rows = 1 if scale.channels_last else 2
    return scale.shape[rows], scale.shape[rows + 1]


def last_cut(graph: Graph, grid: tuple[int, int], when: int) -> Call | None:
    """Return the last call that gives a tensor on a grid which all paths to the output cross.

    Args:
        graph: The graph.
        grid: The numbers of rows and columns.
        when: The number of the call after which the tensor is made.
    """
    count = math.prod(grid)
    # The last call is that of the network itself.
    for call in reversed(graph.calls[when + 1 : -1]):
        size = call.shape[1:]
        on_grid = len(size) == 3 and grid in (size[:2], size[1:])
        # With and without a class token.
        tokens = len(size) == 2 and not {count, count + 1}.isdisjoint(size)
        if (on_grid or tokens) and graph.is_cut(call.made):
            return call
    return None


def missed(graph: Graph, grid: tuple[int, int], first: int, last: int) -> float:
    """Return the share of the parameters that work on a grid which runs between two calls.

    Args:
        graph: The graph.
        grid: The numbers of rows and columns.
        first: The number of the first call, which does not count.
        last: The number of the last call.
    """
    size: dict[nn.Module, int] = {}
    between: set[nn.Module] = set()
    count = math.prod(grid)
    for call in graph.calls:
        # Windows are padded, and class tokens are added.
        if count / 1.6 < call.locations < count * 1.6:
            size[call.module] = sum(p.numel() for p in call.module.parameters(recurse=False))
            if first < call.end <= last:
                between.add(call.module)
    return sum(size[module] for module in between) / max(1, sum(size.values()))

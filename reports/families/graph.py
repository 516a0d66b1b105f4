"""Autograd's graph of a forward pass: what runs after a tensor, independently of the trace."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.networks import hooks
from fastsal.networks.layers import NamedLayer
from fastsal.networks.scales import Scale


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module.

    Attributes:
        module: The module.
        end: How many calls had ended before.
        shape: The shape of its output, of the first tensor if there are several.
        made: The steps of autograd's graph that made its output.
    """

    module: nn.Module
    end: int
    shape: tuple[int, ...]
    made: frozenset[Any]

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
        network: The network, in evaluation mode.
        images: Images `(N, C, H, W)`.
        scales: The scales that are read in the pass.
    """

    def __init__(self, network: nn.Module, images: Tensor, scales: Sequence[Scale] = ()) -> None:
        self.calls: list[Call] = []
        # Of each scale the steps that made its tensor, and the number of the last call before.
        self.scales: list[tuple[frozenset[Any], int]] = [(frozenset(), -1)] * len(scales)
        self.images = images.clone().requires_grad_()

        def after(module: nn.Module, _: Any, output: Any) -> None:
            made = next(hooks.tensors_in(output), None)
            shape = () if made is None else tuple(made.shape)
            self.calls.append(Call(module, len(self.calls), shape, _steps(output)))

        def read(index: int, tensor: Tensor) -> Tensor:
            self.scales[index] = _steps(tensor), len(self.calls) - 1
            return tensor.detach()

        taps = [
            NamedLayer.of_scale(scale).tap(partial(read, index))
            for index, scale in enumerate(scales)
        ]
        handles = [part.register_forward_hook(after) for part in network.modules()]
        try:
            with torch.enable_grad():
                self.ends = _steps(hooks.forward(network, (self.images,), None, taps)[0])
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
        leaf = [step for step in self.sources if getattr(step, "variable", None) is self.images]
        self.of_images = _closure(leaf, self.readers)

    def after(self, steps: frozenset[Any]) -> set[int]:
        """Return the ids of the leaves that are applied to what comes from some steps.

        A leaf may be transposed or the like before, but has met no part of the images.
        """
        later = _closure(
            [one for step in steps for one in self.readers.get(step, [])], self.readers
        )
        applied = (one for step in later for one in self.sources[step] if one not in self.of_images)
        own = _closure(applied, self.sources)
        return {id(step.variable) for step in own if hasattr(step, "variable")}

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


def _closure(steps: Iterable[Any], following: Mapping[Any, Sequence[Any]]) -> set[Any]:
    """Return steps and all that follow them."""
    found: set[Any] = set()
    waiting = list(steps)
    while waiting:
        step = waiting.pop()
        if step not in found:
            found.add(step)
            waiting += following.get(step, [])
    return found


def _steps(value: Any) -> frozenset[Any]:
    steps = (tensor.grad_fn for tensor in hooks.tensors_in(value))
    return frozenset(step for step in steps if step is not None)


def last_cut(graph: Graph, grid: tuple[int, ...], when: int) -> Call | None:
    """Return the last call that gives a tensor on a grid which all paths to the output cross.

    Args:
        graph: The graph.
        grid: The numbers of rows and columns.
        when: The number of the call after which the tensor is made.
    """
    count = math.prod(grid)
    # The last call is that of the network itself.
    calls: list[Call] = graph.calls[when + 1 : -1]
    for call in reversed(calls):
        size = call.shape[1:]
        on_grid = len(size) == 3 and grid in (size[:2], size[1:])
        # With and without a class token.
        tokens = len(size) == 2 and not {count, count + 1}.isdisjoint(size)
        if (on_grid or tokens) and graph.is_cut(call.made):
            return call
    return None


def missed(graph: Graph, grid: tuple[int, ...], first: int, last: int) -> float:
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


def unread(graph: Graph, grids: Iterable[tuple[int, ...]]) -> list[int]:
    """Return the numbers of locations at which a layer that all paths cross works and no scale is.

    Args:
        graph: The graph.
        grids: The rows and columns of each scale.
    """
    read = [math.prod(grid) for grid in grids]
    found: set[int] = set()
    for call in graph.calls:
        # Of other modules with parameters the number of channels is a guess.
        count = call.locations if isinstance(call.module, (nn.Conv2d, nn.Linear)) else 0
        near = any(one / 1.6 < count < one * 1.6 for one in (*read, *found))
        if count > 1 and not near and graph.is_cut(call.made):
            found.add(count)
    return sorted(found, reverse=True)

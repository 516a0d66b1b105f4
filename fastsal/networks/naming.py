"""The module whose output or input a traced tensor is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import nn

from fastsal.networks.trace import Trace

RELUS = frozenset(("relu", "relu_"))


class Place(NamedTuple):
    """Where hooks find a tensor: as a module's output, the one before rectified, or an input."""

    module: nn.Module
    call: int
    functional_relu: bool = False
    layer_input: bool = False


def place_of(trace: Trace, node: int, names: Mapping[nn.Module, str]) -> Place | None:
    """Return where a traced tensor can be read, None where it is no module's output or input.

    Args:
        trace: The traced pass.
        node: The tensor's.
        names: Of all modules; the network's own is empty.
    """
    modules = _readable(_makers(trace, node, names), trace)
    if modules:
        return Place(*modules[0])
    operation, sources = trace.nodes[node].operation, trace.nodes[node].sources
    if operation in RELUS and len(sources) == 1:
        modules = _readable(_makers(trace, sources[0], names), trace)
        if modules:
            return Place(*modules[0], functional_relu=True)
    modules = _readable(trace.readers_of.get(node, []), trace)
    return Place(*modules[0], layer_input=True) if modules else None


def _makers(trace: Trace, node: int, names: Mapping[nn.Module, str]) -> list[tuple[nn.Module, int]]:
    """Return the modules whose output a node is: the outermost, the name a reader knows, first.

    Modules that come after and hand the tensor on as it is (an Identity, Dropout) are last; the
    network itself is left out.
    """
    makers = [(module, call) for module, call in trace.makers_of.get(node, []) if names[module]]
    if not makers:
        return []
    innermost = names[makers[0][0]] + "."
    around = [maker for maker in makers if innermost.startswith(names[maker[0]] + ".")]
    return around[::-1] + [maker for maker in makers if maker not in around]


def _readable(modules: list[tuple[nn.Module, int]], trace: Trace) -> list[tuple[nn.Module, int]]:
    """Return the modules that run once before those that run again."""
    return sorted(modules, key=lambda maker: trace.calls[maker[0]] > 1)

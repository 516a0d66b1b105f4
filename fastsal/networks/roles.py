"""The role of a traced operation: activation function, norm, pooling; however it is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fastsal.geometry.functions import plain_name
from fastsal.networks.preactivation import CLAMPS, COLLECTIONS
from fastsal.networks.trace import ACTIVATIONS, REARRANGEMENTS, Node, Trace

# Functions of each element alone, in which activation functions and norms are written by hand.
LINEAR = frozenset(
    """add sub rsub neg mul multiply div divide true_divide positive subtract clone detach to float
    __getitem__ output""".split()  # noqa: SIM905
)
NONLINEAR = ACTIVATIONS | frozenset(
    """clamp clamp_min clamp_max clip maximum minimum fmax fmin exp expm1 exp2 log log2 log1p sqrt
    rsqrt pow square abs sign where gt lt ge le greater less erf reciprocal sin cos atan masked_fill
    logaddexp heaviside __pow__ __gt__ __lt__ __ge__ __le__""".split()  # noqa: SIM905
)
# Activation functions that make an output of numbers in a range, and no features.
OF_OUTPUTS = frozenset("sigmoid hardsigmoid tanh softmax log_softmax logsigmoid".split())  # noqa: SIM905
FACTORS = frozenset("mul multiply __mul__ __rmul__".split())  # noqa: SIM905
LARGEST = frozenset(("max", "min"))
# Functions whose first factor says for which places they look up the others.
LOOKUPS = frozenset(
    """scaled_dot_product_attention multi_head_attention_forward matmul __matmul__ bmm
    baddbmm""".split()  # noqa: SIM905
)
EXPANSIONS = frozenset("expand expand_as repeat tile repeat_interleave broadcast_to".split())  # noqa: SIM905
SUMMARIES = frozenset("mean var std var_mean std_mean sum amax amin norm vector_norm".split())  # noqa: SIM905
RESAMPLINGS = ("interpolate", "upsample", "grid_sample", "pixel_unshuffle")
SUMS = frozenset("add __add__ __radd__ __iadd__".split())  # noqa: SIM905
# Functions by which what they read is rectified, beside activation functions.
RECTIFIED_BY = CLAMPS | frozenset(("clip", "maximum"))
# What passes values on: of several outputs each, a view's base, and a border of zeros too.
PASSES_ON = REARRANGEMENTS | COLLECTIONS | frozenset(("output", "part", "pad"))


class Role(NamedTuple):
    """The function that a node computes of one earlier tensor, element by element.

    Attributes:
        source: The node of the earlier tensor; None if there are several, or none.
        activation: True for an activation function: `x * sigmoid(x)` as well as `silu(x)`.
        of_outputs: True if all nonlinear functions in it are such as make outputs, as sigmoid does.
        norm: True if the tensor's mean or the like goes into it.
    """

    source: int | None
    activation: bool
    of_outputs: bool
    norm: bool


def role_of(nodes: Sequence[Node], index: int) -> Role:
    """Return the role of a node, by the functions between it and one earlier tensor.

    Args:
        nodes: The nodes of the trace.
        index: The node.
    """
    sources: set[int] = set()
    waiting, seen = [index], set[int]()
    activation = norm = False
    of_outputs = True
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        node = nodes[one]
        name = short_name(node)
        several = len(node.sources) > 1
        if one != index and name in SUMMARIES:
            norm = True
        elif name in NONLINEAR or (several and name in FACTORS | LARGEST):
            activation = True
            of_outputs &= name in OF_OUTPUTS
        elif name not in LINEAR or (name == "__getitem__" and several):
            sources.add(one)
            continue
        waiting += node.sources
    if len(sources) != 1 or index in sources:
        return Role(None, False, False, False)
    return Role(sources.pop(), activation, activation and of_outputs, norm)


def is_linear(trace: Trace, index: int, users: Sequence[Sequence[int]]) -> bool:
    """Return True if 0 has no meaning in a node's tensor, whose channels have offsets.

    It has negative values, no activation function made it (or the summands and parts of it), and
    not every function that reads it is one. So it is with a residual stream, with a linear
    bottleneck, and with what a convolution makes for a norm; not with what is rectified next.

    Args:
        trace: The traced pass.
        index: The node.
        users: From `users_of`.
    """
    nodes = trace.nodes
    return not (
        nodes[index].non_negative
        or _made_by_activations(nodes, index)
        or _read_by_activations(nodes, index, users)
    )


def users_of(nodes: Sequence[Node]) -> list[list[int]]:
    """Return for each node those that read it."""
    users: list[list[int]] = [[] for _ in nodes]
    for index, node in enumerate(nodes):
        for source in node.sources:
            users[source].append(index)
    return users


def _made_by_activations(nodes: Sequence[Node], index: int) -> bool:
    """Return True if activation functions made a node's tensor, or all that it is the sum of."""
    waiting, seen = [index], set[int]()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        node, name = nodes[one], short_name(nodes[one])
        if _is_activation(nodes, one) or node.non_negative:
            continue
        sources = list(node.sources)
        if name in FACTORS:
            # A gate gives a tensor no offset.
            sources = [source for source in sources if not _is_in_range(nodes, source)]
        elif not (_passes_on(node) or name in SUMS):
            return False
        waiting += sources
        if not node.sources:
            return False
    return True


def _read_by_activations(nodes: Sequence[Node], index: int, users: Sequence[Sequence[int]]) -> bool:
    """Return True if activation functions alone read a node's tensor, perhaps pooled before."""
    waiting, found = [index], False
    while waiting:
        for user in users[waiting.pop()]:
            if short_name(nodes[user]) in RECTIFIED_BY or _is_activation(nodes, user):
                found = True
            elif _passes_on(nodes[user]):
                waiting.append(user)
            else:
                return False
    return found


def _is_activation(nodes: Sequence[Node], index: int) -> bool:
    """Return True for an activation function, also one that is written by hand, and no norm."""
    role = role_of(nodes, index)
    return short_name(nodes[index]) in ACTIVATIONS or (role.activation and not role.norm)


def _passes_on(node: Node) -> bool:
    """Return True if a node's operation pools, rearranges or collects values."""
    return short_name(node) in PASSES_ON or is_pooling(node)


def only_beside(trace: Trace) -> list[bool]:
    """Return for each node True if all that is made of it is a gate, or is looked up by attention.

    What is looked up, such as the keys and values of attention, comes to the places of the first
    factor. A gate is a factor in a range, as `sigmoid` makes it, of a tensor that has none or that
    it is computed from: whatever its weights, it adds nothing to what is there.

    Args:
        trace: The traced pass.
    """
    nodes = trace.nodes
    goes_on: list[list[int]] = [[] for _ in nodes]
    for index, node in enumerate(nodes):
        gates: list[int] = []
        if short_name(node) in FACTORS and len(node.sources) > 1:
            gates = [source for source in node.sources if _is_in_range(nodes, source)]
        if short_name(node) in LOOKUPS:
            gates = list(node.sources[1:])
        elif len(gates) == len(node.sources):
            # Of several the one that is computed from another.
            gates = [one for one in gates if trace.before([one]) & (set(node.sources) - {one})]
        for source in node.sources:
            if source not in gates:
                goes_on[source].append(index)
    found = [False] * len(nodes)
    read = {source for node in nodes for source in node.sources}
    for index in range(len(nodes) - 1, -1, -1):
        found[index] = index in read and all(found[after] for after in goes_on[index])
    return found


def attention_weights(nodes: Sequence[Node]) -> set[int]:
    """Return the nodes that are weights of attention: products that a softmax makes shares.

    Args:
        nodes: The nodes of the trace.
    """
    found: set[int] = set()
    for index, node in enumerate(nodes):
        name = short_name(node)
        if name in REARRANGEMENTS and node.sources[0] in found:
            found.add(index)
        if name != "softmax":
            continue
        way = [index]
        while True:
            index = nodes[way[-1]].sources[0]
            name = short_name(nodes[index])
            way.append(index)
            if name in LOOKUPS:
                found.update(way)
            if name not in LINEAR | REARRANGEMENTS or not nodes[index].sources:
                break
    return found


def _is_in_range(nodes: Sequence[Node], index: int) -> bool:
    """Return True if a node is an activation in a range, perhaps resampled or rearranged."""
    while True:
        node = nodes[index]
        name = short_name(node)
        if name in OF_OUTPUTS:
            return True
        on_its_way = name in LINEAR | REARRANGEMENTS | EXPANSIONS or name.startswith(RESAMPLINGS)
        if len(node.sources) != 1 or not on_its_way:
            return False
        index = node.sources[0]


def short_name(node: Node) -> str:
    """Return the name of a node's function, without the underscore of those in place."""
    return plain_name(node.operation)


def is_pooling(node: Node) -> bool:
    """Return True if a node's operation pools or resamples locations."""
    name = node.operation
    return "pool" in name or name in ("mean", "amax") or name.startswith(RESAMPLINGS)


def rearranged(trace: Trace, index: int) -> Iterator[int]:
    """Yield the nodes whose values a node's tensor has in another order, in as many maps."""
    blocks = _blocks(trace, index)
    node = trace.nodes[index]
    while node.operation in REARRANGEMENTS and len(node.sources) == 1:
        if _blocks(trace, node.sources[0]) == blocks:
            yield node.sources[0]
        node = trace.nodes[node.sources[0]]


def _blocks(trace: Trace, index: int) -> int:
    """Return the number of maps of each image in a node's tensor, as of windows."""
    found = trace.located(index)
    return 1 if found is None or found.placement is None else found.placement.blocks


def weighted(trace: Trace, index: int) -> bool:
    """Return True if weights run between a node and the pooling before it."""
    waiting = [index]
    while waiting:
        node = trace.nodes[waiting.pop()]
        if node.parameters and short_name(node) not in LINEAR:
            return True
        if not is_pooling(node):
            waiting += node.sources
    return False

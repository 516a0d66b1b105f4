"""Which tensor of a network ends each spatial scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fastsal import capture, untouched
from fastsal.trace import Node, Trace

ACTIVATIONS = frozenset(
    """relu relu_ relu6 hardtanh hardtanh_ leaky_relu leaky_relu_ prelu rrelu rrelu_ elu elu_ selu
    selu_ celu celu_ gelu silu mish hardswish hardsigmoid sigmoid sigmoid_ softplus tanh tanh_
    softsign threshold threshold_ logsigmoid tanhshrink""".split()  # noqa: SIM905
)
RELUS = frozenset(("relu", "relu_"))
REARRANGEMENTS = frozenset(
    "permute transpose movedim swapaxes contiguous clone to float dropout dropout2d".split()  # noqa: SIM905
)
WEIGHTED = ("conv", "linear", "matmul", "einsum", "bmm")


@dataclass(frozen=True)
class Scale:
    """A layer whose output (or input) is read as one spatial scale.

    Attributes:
        name: The module's name in the network.
        module: The module.
        call: Which call of the module in a forward pass, from 0; None for the last.
        shape: The tensor's shape as traced, as the network lays it out.
        stride: Input locations for one of the layer, a power of two (nominal).
        signed: The tensor had negative values that the network does not rectify.
        channels_last: The layout is `(N, H, W, C)`.
        functional_relu: The network rectifies the tensor by a function rather than a module.
        layer_input: The tensor is the module's input, since no module's output is it.
    """

    name: str
    module: nn.Module
    call: int | None
    shape: tuple[int, ...]
    stride: int
    signed: bool
    channels_last: bool
    functional_relu: bool = False
    layer_input: bool = False

    def channels_first(self, tensor: Tensor) -> Tensor:
        """Return the layer's tensor as a view `(N, C, H, W)`."""
        return tensor.movedim(-1, 1) if self.channels_last else tensor


@dataclass(frozen=True)
class Candidate:
    """A tensor that every path through the network crosses.

    Attributes:
        scale: How it would be read.
        operation: The function that made it.
        preferred: It is an activation function's output, or non-negative, and comes from neither
            pooling nor a norm.
        eligible: It comes from neither pooling nor a norm.
        chosen: It ends its scale.
    """

    scale: Scale
    operation: str
    preferred: bool
    eligible: bool
    chosen: bool = False


def find_scales(
    model: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    additional_forward_args: object = None,
) -> tuple[Scale, ...]:
    """Return the layers that end the network's spatial scales, the shallowest first.

    One forward pass in evaluation mode is traced. Of the tensors that every path from input to
    output crosses, each octave of resolution gives its last that an activation function made (or
    that is non-negative), else its last that comes from neither a norm nor pooling. For ResNet-50
    these are the five of the paper: relu, layer1, layer2, layer3, layer4.

    Args:
        model: The network; a compiled one is traced uncompiled.
        inputs: `(N, C, H, W)`, or a tuple of the model's inputs; 4-D ones count as images.
        additional_forward_args: Further arguments of the model, as in Captum.

    Returns:
        One `Scale` for each octave.

    Raises:
        ValueError: If fewer than two scales are found, as in a plain vision transformer; the
            message lists the candidates.

    Reference:
        Mundhenk, Chen & Friedland, "Efficient Saliency Maps for Explainable AI", section 2: the
        last tensor of each scale.

    >>> net = nn.Sequential(
    ...     nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    ...     nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(),
    ... )
    >>> [(scale.name, scale.stride) for scale in find_scales(net, torch.rand(1, 3, 8, 8))]
    [('1', 1), ('4', 2)]
    """
    found = candidates(model, inputs, additional_forward_args)
    chosen = tuple(candidate.scale for candidate in found if candidate.chosen)
    if len(chosen) < 2:
        listing = "; ".join(
            f"{candidate.scale.name} {candidate.scale.shape}" for candidate in found
        )
        raise ValueError(
            f"found {len(chosen)} spatial scale(s), expected two or more; a plain vision "
            "transformer has only one. Give the layers yourself, layers=[name or module, ...]. "
            f"Candidates: {listing or 'none'}"
        )
    return chosen


def candidates(
    model: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    additional_forward_args: object = None,
) -> tuple[Candidate, ...]:
    """Return every tensor that `find_scales` chooses from, in the network's order.

    Args:
        model: The network.
        inputs: As for `find_scales`.
        additional_forward_args: As for `find_scales`.

    Returns:
        The candidates; those chosen are marked.

    Raises:
        ValueError: If the model is no `torch.nn.Module`, or no input is an image batch.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    >>> [(c.scale.name, c.chosen) for c in candidates(net, torch.rand(1, 3, 8, 8))]
    [('0', False), ('1', False), ('2', True)]
    """
    root = untouched.root_module(model)
    if root is None:
        raise ValueError(
            f"cannot look for scales inside {model!r}, which is no torch.nn.Module; give the "
            "layers yourself, layers=[module, ...]"
        )
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    images = [tensor for tensor in inputs if tensor.dim() == 4]
    if not images:
        shapes = [tuple(tensor.shape) for tensor in inputs]
        raise ValueError(f"expected an image batch (N, C, H, W) among the inputs, got {shapes}")
    trace = Trace(images)
    names = {module: name for name, module in root.named_modules()}
    hooks = [hook for module in names for hook in trace.hooks(module)]
    with (
        torch.no_grad(),
        untouched.evaluating(root),
        untouched.eager(root),
        untouched.hooked(hooks),
        trace,
    ):
        output = root(*inputs, *capture.as_arguments(additional_forward_args))
    cuts = trace.cuts(output)
    height, width = images[0].shape[2:]
    return _choose(_candidates(trace, cuts, names, height, width))


def _candidates(
    trace: Trace, cuts: list[int], names: dict[nn.Module, str], height: int, width: int
) -> list[Candidate]:
    found: list[Candidate] = []
    nodes = trace.nodes
    weighted = next(
        (i for i, n in enumerate(nodes) if n.operation.startswith(WEIGHTED)), len(nodes)
    )
    channels_last, octave, size = False, 0, (height, width)
    # Octaves are counted from scale to scale: over five, the rounding of odd sizes would add up.
    first_size = size
    for cut in cuts:
        node = nodes[cut]
        if node.shape is None or len(node.shape) != 4:
            continue
        maker = _maker(nodes, cut)
        pooled = "pool" in maker.operation or maker.operation == "mean"
        # What follows global pooling has no locations left.
        if pooled and node.shape[2:] == (1, 1) and size != (1, 1):
            break
        layout = image_layout(node.shape, *first_size, channels_last)
        if layout is None:
            continue
        channels_last, octaves = layout
        # A decoder repeats earlier scales.
        if octaves < 0:
            break
        size = (node.shape[1], node.shape[2]) if channels_last else (node.shape[2], node.shape[3])
        if octaves > 0:
            octave, first_size = octave + octaves, size
        scale = _scale(trace, cut, names, octave, channels_last)
        if cut < weighted or scale is None:
            continue
        eligible = not pooled and "norm" not in maker.operation
        preferred = eligible and (maker.operation in ACTIVATIONS or node.non_negative)
        found.append(Candidate(scale, maker.operation, preferred, eligible))
    return found


def _maker(nodes: list[Node], index: int) -> Node:
    """Return the node that made a tensor's values, past those that only lay them out anew."""
    while nodes[index].operation in REARRANGEMENTS and len(nodes[index].sources) == 1:
        index = nodes[index].sources[0]
    return nodes[index]


def image_layout(
    shape: Sequence[int], height: int, width: int, channels_last: bool = False
) -> tuple[bool, int] | None:
    """Return (channels last, octave) of a 4-D shape beside the image's size, None if neither.

    Where both layouts would do, `channels_last` decides.

    >>> image_layout((1, 256, 56, 56), 224, 224), image_layout((1, 7, 7, 768), 224, 224)
    ((False, 2), (True, 5))
    """
    for last in (channels_last, not channels_last):
        rows, columns = shape[1:3] if last else shape[2:4]
        if not (0 < rows <= 2 * height and 0 < columns <= 2 * width):
            continue
        octaves = math.log2(height / rows), math.log2(width / columns)
        # One location is all that remains of either side, however long it was.
        if round(octaves[0]) == round(octaves[1]) or abs(octaves[0] - octaves[1]) < 0.6:
            return last, round(sum(octaves) / 2)
    return None


def _scale(
    trace: Trace, cut: int, names: dict[nn.Module, str], octave: int, channels_last: bool
) -> Scale | None:
    """Return how a cut can be read: as a module's output, the one before rectified, or an input."""
    node = trace.nodes[cut]
    functional = layer_input = False
    modules = _readable(_makers(trace, cut, names), trace)
    if not modules and node.operation in RELUS and len(node.sources) == 1:
        modules = _readable(_makers(trace, node.sources[0], names), trace)
        functional = bool(modules)
    if not modules:
        modules = _readable(trace.readers_of.get(cut, []), trace)
        layer_input = bool(modules)
    if not modules:
        return None
    module, call = modules[0]
    return Scale(
        name=names[module],
        module=module,
        call=call,
        shape=node.shape or (),
        stride=2 ** max(octave, 0),
        signed=not node.non_negative,
        channels_last=channels_last,
        functional_relu=functional,
        layer_input=layer_input,
    )


def _makers(trace: Trace, node: int, names: dict[nn.Module, str]) -> list[tuple[nn.Module, int]]:
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


def _choose(found: list[Candidate]) -> tuple[Candidate, ...]:
    chosen = set()
    for stride in {candidate.scale.stride for candidate in found}:
        group = [index for index, c in enumerate(found) if c.scale.stride == stride]
        eligible = [index for index in group if found[index].eligible]
        preferred = [index for index in eligible if found[index].preferred]
        chosen.update((preferred or eligible)[-1:])
    return tuple(
        replace(candidate, chosen=index in chosen) for index, candidate in enumerate(found)
    )

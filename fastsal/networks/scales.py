"""The spatial scales of a network: the last tensor of each resolution."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.arguments.inputs import EXPECTED, as_tuple, images_of
from fastsal.geometry.layout import CHANNELS_FIRST, IN_ORDER, LAST, Layout
from fastsal.geometry.placement import Placement
from fastsal.networks import hooks, state
from fastsal.networks.backbone import (
    before_weights,
    find_trunk,
    output_nodes,
    pooled_away,
    why_no_candidate,
)
from fastsal.networks.roles import (
    attention_weights,
    is_linear,
    is_pooling,
    rearranged,
    role_of,
    users_of,
    weighted,
)
from fastsal.networks.tokens.depths import depths_of
from fastsal.networks.trace import ACTIVATIONS, Trace, trace_forward

# The share of a stage's parameters up to an activation function's output from which on that is
# taken, and not the stage's last tensor.
MOST_BEFORE = 0.7
# Functions that take a part of a tensor's values.
SELECTIONS = frozenset(("__getitem__", "slice", "select", "narrow", "index"))


@dataclass(frozen=True)
class Scale:
    """A layer whose output (or input) is read as one spatial scale.

    Attributes:
        name: The module's name in the network.
        module: The module.
        call: The call of the module in a forward pass, from 0; None for the last.
        shape: The tensor's shape as traced, in the network's layout.
        strides: Elements of the first weights' input for one location of the layer, down and
            across; each a power of two (nominal). Of volumes from slice to slice first; a signal
            counts as an image of one row.
        signed: True if the tensor had negative values that the network does not rectify.
        linear: True if it is signed and no activation function made it, such as a residual stream
            or a linear bottleneck: `fastsal.networks.roles.is_linear`. Then 0 has no meaning in it.
        layout: The meaning of the tensor's dimensions.
        functional_relu: True if the network rectifies the tensor by a function, not a module.
        layer_input: True if the tensor is the module's input; it is no module's output then.
        functions: The tensor is what so many functions after the module's output make of it; 0 for
            the output itself.
        placement: The places of its maps on the image; None if they are stretched over all of it.
        doubt: The reason why the places are not certain; empty if they are.
        varies: True if the images' values decide the places, which are then found in every pass.
        of_class: Of tokens, the tensor that a class activation map reads in place of this one.

    Example:
        >>> net = nn.Sequential(
        ...     nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        ...     nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(),
        ... )
        >>> scale = find_scales(net, torch.rand(1, 3, 8, 8))[1]
        >>> scale.name, scale.shape, scale.stride
        ('4', (1, 8, 4, 4), 2)
    """

    name: str
    module: nn.Module = field(repr=False)
    call: int | None
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    signed: bool
    layout: Layout = field(default=CHANNELS_FIRST, repr=False)
    functional_relu: bool = False
    layer_input: bool = False
    functions: int = 0
    placement: Placement | None = field(default=None, repr=False)
    doubt: str = ""
    varies: bool = False
    of_class: Scale | None = field(default=None, repr=False)
    linear: bool = False

    @property
    def stride(self) -> int:
        """The largest of the strides."""
        return max(self.strides)

    @property
    def channels_last(self) -> bool:
        """True if the tensor is `(N, H, W, C)`, or `(N, D, H, W, C)`."""
        return self.layout in LAST

    @property
    def plain(self) -> bool:
        """True if the tensor is `(N, C, H, W)` or the like, stretched over the image."""
        return self.placement is None and not self.varies and self.layout in IN_ORDER

    def channels_first(self, tensor: Tensor) -> Tensor:
        """Return the layer's tensor as `(N, C, H, W)`, `(N, C, D, H, W)` or `(N, C, 1, T)`."""
        return self.layout.channels_first(tensor)


@dataclass(frozen=True)
class Candidate:
    """A tensor that every path through the network crosses, which may end a scale.

    Attributes:
        scale: The tensor as a scale.
        operation: The function that made the tensor.
        preferred: True for an activation function's output, or a non-negative tensor, that comes
            from neither pooling nor a norm.
        eligible: True if the tensor comes from neither pooling nor a norm, and is no output.
        output: True if the tensor is the network's output, with nothing but a sigmoid or the like
            after it. It is taken if its scale has nothing else and it has several channels.
        chosen: True if the tensor ends its scale.
    """

    scale: Scale
    operation: str
    preferred: bool
    eligible: bool
    output: bool = False
    chosen: bool = False


class ScalesError(ValueError):
    """The error for a network or an input without scales; the message says why."""


def find_scales(
    model: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    additional_forward_args: object = None,
) -> tuple[Scale, ...]:
    """Return the layers that end the network's spatial scales, the shallowest first.

    One forward pass in evaluation mode is traced. The candidates are the tensors that every path
    down the trunk crosses. At each octave of resolution the last candidate that an activation
    function made (or that is non-negative) is chosen; without one, the last that comes from neither
    a norm nor pooling. For ResNet-50 these are the five of the paper: relu, layer1, layer2, layer3,
    layer4. The trunk leads to the output; with several outputs, to the first. In a U-Net or a
    feature pyramid, whose branches leave it on the way, it leads to the coarsest scale. Where all
    tokens have one resolution, depth takes the place of scale: `fastsal.networks.tokens.depths`.

    Args:
        model: The network; a compiled one is traced uncompiled.
        inputs: `(N, C, H, W)`, volumes `(N, C, D, H, W)` or signals `(N, C, T)`; or a tuple of the
            model's inputs, whose 4-D ones count as images. An octave of any axis is a scale. A
            detection model of torchvision takes a batch in place of its list of images.
        additional_forward_args: Further arguments of the model, as in Captum.

    Returns:
        One `Scale` for each octave, or each depth.

    Raises:
        ScalesError: A ValueError. If no scale is found; the message lists the candidates. If the
            network cannot be traced, or no input is an image batch.
        TypeError: If the inputs are neither a tensor nor a tuple of tensors.

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
    return chosen_scales(candidates(model, inputs, additional_forward_args))


def chosen_scales(found: Sequence[Candidate]) -> tuple[Scale, ...]:
    """Return the scales of the chosen candidates, with a warning if there is one alone.

    Raises:
        ScalesError: If there is none.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU())
    >>> len(chosen_scales(candidates(net, torch.rand(1, 3, 8, 8))))
    2
    """
    chosen = tuple(candidate.scale for candidate in found if candidate.chosen)
    listing = "; ".join(f"{c.scale.name} {c.scale.shape}" for c in found)
    if not chosen:
        raise ScalesError(f"{too_few(found)}. Candidates: {listing}")
    if len(chosen) == 1:
        warnings.warn(
            f"{too_few(found)}. The map is that of {chosen[0].name} alone. Candidates: {listing}",
            stacklevel=2,
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
        The candidates, one or more; those chosen are marked.

    Raises:
        ScalesError: A ValueError. If the model is no `torch.nn.Module` or is a `torch.jit` one, no
            input is an image batch, the output does not depend on it, or no tensor on the way has
            locations and is a module's output or input.
        TypeError: If the inputs are neither a tensor nor a tuple of tensors.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    >>> [(c.scale.name, c.chosen) for c in candidates(net, torch.rand(1, 3, 8, 8))]
    [('0', False), ('1', False), ('2', True)]
    """
    root = state.root_module(model)
    if root is None:
        raise ScalesError(
            f"cannot look for scales inside {model!r}, which is no torch.nn.Module; give the "
            "layers yourself, layers=[module, ...]"
        )
    if isinstance(root, torch.jit.ScriptModule):
        raise ScalesError(
            f"cannot look for scales inside a torch.jit module ({type(root).__name__}), whose "
            "layers run where neither hooks nor the trace see them; give the module that it was "
            "scripted or traced from"
        )
    inputs = as_tuple(inputs)
    if not images_of(inputs):
        shapes = [tuple(tensor.shape) for tensor in inputs]
        raise ScalesError(
            f"expected {EXPECTED} among the inputs, got {shapes}: only what lies on a grid has "
            "spatial scales"
        )
    further = hooks.as_arguments(additional_forward_args)
    trace, output = trace_forward(root, inputs, further, state.method_of(model))
    return candidates_of(root, trace, output)


def candidates_of(root: nn.Module, trace: Trace, output: Any) -> tuple[Candidate, ...]:
    """Return the candidates of a traced forward pass, as `candidates` does.

    Args:
        root: The network.
        trace: The traced pass.
        output: The network's output.

    Raises:
        ScalesError: As in `candidates`.
    """
    names = {module: name for name, module in root.named_modules()}
    trunk = find_trunk(trace, output)
    runs = _candidates(trace, trunk, output_nodes(trace, output), names)
    every = [one for run in runs for one in run]
    if not every:
        raise ScalesError(why_no_candidate(trace, trunk, names))
    several = [run for run in runs if len({c.scale.strides for _, c in run}) > 1]
    # Of two networks in a row the second makes the decision.
    found = dict(every)
    found |= _decided(trace, output, several[-1] if several else runs[0] or every)
    return tuple(found[index] for index in sorted(found))


def _candidates(
    trace: Trace, trunk: list[int], outputs: set[int], names: dict[nn.Module, str]
) -> list[list[tuple[int, Candidate]]]:
    """Return the candidates with their nodes, one list for each run of ever coarser scales."""
    runs: list[list[tuple[int, Candidate]]] = [[]]
    nodes = trace.nodes
    unweighted, pooled, weights = (
        before_weights(nodes),
        pooled_away(nodes),
        attention_weights(nodes),
    )
    users = users_of(nodes)
    coarsest: tuple[int, ...] = ()
    there: set[int] = set()
    for index in trunk:
        node, found = nodes[index], trace.located(index)
        no_features = unweighted[index] or pooled[index] or index in weights
        if found is None or no_features or node.operation == "pad":
            continue
        if index in outputs and trace.channels(index) == 1:
            continue
        place = trace.place(index, names)
        if place is None:
            continue
        if place.functions and (
            node.operation in SELECTIONS
            or not there.isdisjoint(rearranged(trace, index))
            or not weighted(trace, index)
        ):
            # A part of a tensor adds nothing to it, nor does another order of one that is there, or
            # what functions make of a pooled tensor. Windows that are put together are one map.
            continue
        octaves = found.octaves
        # A decoder repeats earlier scales.
        if any(own < before for own, before in zip(octaves, coarsest, strict=False)):
            runs.append([])
        coarsest = octaves
        scale = Scale(
            name=names[place.module],
            module=place.module,
            call=place.call,
            shape=node.shape or (),
            strides=octaves,
            signed=not node.non_negative,
            layout=found.layout,
            functional_relu=place.functional_relu,
            layer_input=place.layer_input,
            functions=place.functions,
            placement=found.placement,
            doubt=found.doubt,
            varies=found.varies,
            linear=is_linear(trace, index, users),
        )
        maker_index = trace.maker(index)
        maker, role = nodes[maker_index], role_of(nodes, maker_index)
        output = index in outputs
        eligible = not (output or is_pooling(maker) or "norm" in maker.operation or role.norm)
        activation = maker.operation in ACTIVATIONS or role.activation
        # What is written into an activation's tensor afterwards is no activation.
        preferred = eligible and (activation or (node.non_negative and not place.functions))
        candidate = Candidate(scale, maker.operation, preferred, eligible, output)
        runs[-1].append((index, candidate))
        there.add(index)
    return runs


def _decided(trace: Trace, output: Any, run: list[tuple[int, Candidate]]) -> dict[int, Candidate]:
    """Return the candidates of one run by their nodes, the chosen marked."""
    chosen = _choose(trace, run)
    of_class = None
    on_trunk = {index: one.eligible for index, one in run if not one.output}
    if (depths := depths_of(trace, output, on_trunk)) is not None:
        chosen, of_class = depths.chosen, dict(run)[depths.of_class].scale
    return {
        index: replace(one, scale=replace(one.scale, of_class=of_class), chosen=index in chosen)
        for index, one in run
    }


def _choose(trace: Trace, found: list[tuple[int, Candidate]]) -> set[int]:
    """Return the nodes that end the scales of one run."""
    nodes = trace.nodes
    chosen = set()
    before = 0
    for strides in dict.fromkeys(candidate.scale.strides for _, candidate in found):
        group = [(index, c) for index, c in found if c.scale.strides == strides]
        eligible = [index for index, c in group if c.eligible]
        eligible = eligible or [index for index, c in group if c.output]
        preferred = [index for index, c in group if c.preferred]
        if eligible:
            last = eligible[-1]
            of_stage = trace.before([last])
            parameters = {
                index: sum(nodes[node].parameters for node in of_stage if before < node <= index)
                for index in (last, *preferred[-1:])
            }
            late = preferred and parameters[preferred[-1]] >= MOST_BEFORE * parameters[last]
            chosen.add(preferred[-1] if late else last)
        before = group[-1][0]
    return chosen


def too_few(found: Sequence[Candidate]) -> str:
    """Return the reason why candidates give fewer than two scales, and a remedy.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    >>> too_few(candidates(net, torch.rand(1, 3, 8, 8)))[:63]
    'found 1 spatial scale(s), expected two or more: the network kee'
    """
    strides = {candidate.scale.stride for candidate in found}
    reason = (
        f"the network keeps one resolution, stride {min(strides)}"
        if len(strides) == 1
        else "at the other resolutions there is only what pooling or a norm made"
    )
    return (
        f"found {sum(candidate.chosen for candidate in found)} spatial scale(s), expected two or "
        f"more: {reason}. Give the layers yourself, layers=[name or module, ...]"
    )

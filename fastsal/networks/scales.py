"""The spatial scales of a network: the last tensor of each resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.arguments.inputs import as_tuple
from fastsal.networks import hooks, state
from fastsal.networks.backbone import (
    before_weights,
    find_trunk,
    grid_size,
    have_locations,
    image_layout,
    is_pooling,
    why_no_candidate,
)
from fastsal.networks.trace import ACTIVATIONS, Trace, trace_forward


@dataclass(frozen=True)
class Scale:
    """A layer whose output (or input) is read as one spatial scale.

    Attributes:
        name: The module's name in the network.
        module: The module.
        call: The call of the module in a forward pass, from 0; None for the last.
        shape: The tensor's shape as traced, in the network's layout.
        stride: Input pixels along a side for one location of the layer, a power of two (nominal).
        signed: True if the tensor had negative values that the network does not rectify.
        channels_last: True if the layout is `(N, H, W, C)`.
        functional_relu: True if the network rectifies the tensor by a function, not a module.
        layer_input: True if the tensor is the module's input; it is no module's output then.

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
    """A tensor that every path through the network crosses, which may end a scale.

    Attributes:
        scale: The tensor as a scale.
        operation: The function that made the tensor.
        preferred: True for an activation function's output, or a non-negative tensor, that comes
            from neither pooling nor a norm.
        eligible: True if the tensor comes from neither pooling nor a norm.
        chosen: True if the tensor ends its scale.
    """

    scale: Scale
    operation: str
    preferred: bool
    eligible: bool
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
    feature pyramid, whose branches leave it on the way, it leads to the coarsest scale.

    Args:
        model: The network; a compiled one is traced uncompiled.
        inputs: `(N, C, H, W)`, or a tuple of the model's inputs; 4-D ones count as images. A
            detection model of torchvision takes a batch in place of its list of images.
        additional_forward_args: Further arguments of the model, as in Captum.

    Returns:
        One `Scale` for each octave.

    Raises:
        ScalesError: A ValueError. If fewer than two scales are found, as in a plain vision
            transformer; the message lists the candidates. If the network cannot be traced, or no
            input is an image batch.
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
    """Return the scales of the chosen candidates.

    Raises:
        ScalesError: If there are fewer than two.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU())
    >>> len(chosen_scales(candidates(net, torch.rand(1, 3, 8, 8))))
    2
    """
    chosen = tuple(candidate.scale for candidate in found if candidate.chosen)
    if len(chosen) < 2:
        listing = "; ".join(f"{c.scale.name} {c.scale.shape}" for c in found)
        raise ScalesError(f"{too_few(found)}. Candidates: {listing}")
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
    if all(tensor.dim() != 4 for tensor in inputs):
        shapes = [tuple(tensor.shape) for tensor in inputs]
        raise ScalesError(
            f"expected an image batch (N, C, H, W) among the inputs, got {shapes}: only what lies "
            "on an image's grid has spatial scales"
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
    size = grid_size(trace)
    trunk = find_trunk(trace, output, size)
    found = _choose(_candidates(trace, trunk, names, size))
    if not found:
        raise ScalesError(why_no_candidate(trace, trunk, names))
    return found


def _candidates(
    trace: Trace, trunk: list[int], names: dict[nn.Module, str], size: tuple[int, int]
) -> list[Candidate]:
    found: list[Candidate] = []
    nodes = trace.nodes
    with_locations, unweighted = have_locations(nodes), before_weights(nodes)
    channels_last, octave = False, 0
    # Octaves are counted from scale to scale: over five, the rounding of odd sizes would add up.
    first_size = size
    for index in trunk:
        node = nodes[index]
        if unweighted[index] or node.operation == "pad":
            continue
        if node.shape is None or len(node.shape) != 4:
            continue
        if not with_locations[index]:
            break
        layout = image_layout(node.shape, *first_size, channels_last)
        if layout is None:
            continue
        channels_last, octaves = layout
        # A decoder repeats earlier scales.
        if octaves < 0:
            break
        if octaves > 0:
            octave += octaves
            rows = 1 if channels_last else 2
            first_size = node.shape[rows], node.shape[rows + 1]
        place = trace.place(index, names)
        if place is None:
            continue
        maker = trace.maker(index)
        scale = Scale(
            name=names[place.module],
            module=place.module,
            call=place.call,
            shape=node.shape,
            stride=2 ** max(octave, 0),
            signed=not node.non_negative,
            channels_last=channels_last,
            functional_relu=place.functional_relu,
            layer_input=place.layer_input,
        )
        eligible = not is_pooling(maker) and "norm" not in maker.operation
        preferred = eligible and (maker.operation in ACTIVATIONS or node.non_negative)
        found.append(Candidate(scale, maker.operation, preferred, eligible))
    return found


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


def too_few(found: Sequence[Candidate]) -> str:
    """Return the reason why candidates give fewer than two scales, and a remedy.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    >>> too_few(candidates(net, torch.rand(1, 3, 8, 8)))[:63]
    'found 1 spatial scale(s), expected two or more: the network kee'
    """
    strides = {candidate.scale.stride for candidate in found}
    reason = (
        f"the network keeps one resolution, stride {min(strides)}, as a plain vision transformer "
        "does"
        if len(strides) == 1
        else "at the other resolutions there is only what pooling or a norm made"
    )
    return (
        f"found {sum(candidate.chosen for candidate in found)} spatial scale(s), expected two or "
        f"more: {reason}. Give the layers yourself, layers=[name or module, ...]"
    )

"""The scales of the layers that an exported module reads, each at one call if there are several."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastsal.arguments.copies import copied
from fastsal.arguments.inputs import Inputs, as_tuple, grid_of, image_of, images_of
from fastsal.export.graph_forms import GraphForm, graph_form
from fastsal.export.operators import KernelForm
from fastsal.export.recording import Recording
from fastsal.geometry.following import Following
from fastsal.keeping.parts import uncompiled
from fastsal.networks.hooks import held
from fastsal.networks.layers import Layer, NamedLayer, are_found, name_layers, of_found, scale_of
from fastsal.networks.scales import Scale, candidates, chosen_scales
from fastsal.networks.state import LayerError, evaluation_pass, hooked, root_module
from fastsal.networks.trace import Trace
from fastsal.statistics.registry import Statistic, StatisticFunction, get_statistic
from fastsal.statistics.smoe import smoe_scale

Layers = Layer | Scale | Sequence[Layer | Scale]
# Operations whose output has no negative values.
RECTIFIERS = frozenset(("relu", "relu_", "relu6", "hardsigmoid", "sigmoid", "sigmoid_"))


def scales_of(
    network: nn.Module, inputs: tuple[Tensor, ...], layers: Layers, traced: bool = False
) -> tuple[Scale, ...]:
    """Return the scales of layers; a pass of the inputs tells where they lie, if that is not known.

    If several inputs are images, as of a siamese network, the map is that of the first, and a layer
    is read at its last call that sees it.

    Args:
        network: The network.
        inputs: Example inputs; the network may write to them.
        layers: The layers, the shallowest first.
        traced: True if the layers are scales that were found with these inputs, whose places are
            known.

    Raises:
        LayerError: If a layer did not run, does not see the first image, or runs for it alone and
            again for it together with others.
        ValueError: If a layer is not in the network, or not on the image's grid.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> scales_of(net, (torch.rand(1, 3, 8, 8),), "1")[0].shape
        (1, 4, 6, 6)
    """
    named = name_layers(network, layers)
    image = image_of(inputs)
    images = {id(tensor): tensor for tensor in images_of(inputs) if tensor.numel()}
    several = len(images) > 1
    known = [layer.scale for layer in named if layer.scale is not None]
    if traced and not several and len(known) == len(named):
        return tuple(known)
    traces = [Trace([one]) for one in images.values()] if several else []
    following = Following()
    size = grid_of(image)
    described = [_Described(layer, size, traces, following) for layer in named]
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluation_pass(network))
        for trace in traces:
            stack.enter_context(hooked(trace.hooks(network), own_pass=False))
            stack.enter_context(trace)
        taps = [
            layer.tap(one.read, modes=(following,))
            for layer, one in zip(named, described, strict=True)
        ]
        readings = stack.enter_context(held(taps, (image,)))
        network(*inputs)
    for reading in readings:
        # Raises if the layer did not run.
        reading.gathered(None)
    return tuple(one.scale() for one in described)


class _Described:
    """What the calls of one layer give.

    Args:
        layer: The layer.
        size: (H, W) of the first image; (D, H, W), or (1, T).
        traces: A trace of each image, if there are several.
        following: Follows the pixels of the first image.
    """

    def __init__(
        self,
        layer: NamedLayer,
        size: tuple[int, ...],
        traces: Sequence[Trace],
        following: Following,
    ) -> None:
        self._layer, self._size, self._traces = layer, size, traces
        self._following = following
        self._calls = 0
        self._scale: Scale | None = None
        # Which images its calls saw, of those that saw the first.
        self._seen: set[tuple[int, ...]] = set()

    def read(self, tensor: Tensor) -> Tensor:
        """Describe the tensor of a call, if it sees the first image."""
        call, self._calls = self._calls, self._calls + 1
        seen = tuple(number for number, trace in enumerate(self._traces) if trace.nodes_in(tensor))
        if not self._traces or 0 in seen:
            self._seen.add(seen)
            self._scale = scale_of(self._layer, tensor, self._size, self._following)
            if self._traces and self._layer.scale is None:
                self._scale = replace(self._scale, call=call)
        return tensor.new_empty(0)

    def scale(self) -> Scale:
        """Return the scale.

        Raises:
            LayerError: If it is not clear which call shows the first image.
        """
        name = self._layer.name
        if self._scale is None:
            raise LayerError(
                f"layer {name!r} does not see the first image, over which the map is laid; give "
                "layers of the first image's branch, or its image first"
            )
        if len(self._seen) > 1:
            raise LayerError(
                f"layer {name!r} runs for one image and again for several ({sorted(self._seen)}, "
                "counted from 0), so that it is not known which call to read; give the scale with "
                "its call, as fastsal.find_scales does"
            )
        return self._scale


def recordings_of(
    model: nn.Module,
    example: Inputs,
    layers: Layers | None,
    statistic: str | Statistic | StatisticFunction,
) -> tuple[nn.Module, tuple[Scale, ...], list[Recording]]:
    """Return the module to copy, its scales and a recording for each.

    Args:
        model: The model, or a wrapper of it.
        example: Its inputs.
        layers: As for `with_map`.
        statistic: The statistic of every scale.

    Raises:
        TypeError: If the model is no module.
        ValueError: If the statistic is defined before the ReLU.
        LayerError: If a scale is made by functions after its layer.
    """
    root = root_module(model)
    if root is None:
        raise TypeError(f"expected a torch.nn.Module, got {model!r}")
    if isinstance(root, DistributedDataParallel):
        root = uncompiled(root.module)
    chosen = get_statistic(statistic)
    if chosen.domain == "pre_relu":
        raise ValueError(
            f"statistic {chosen.name!r} is defined before the ReLU, which an exported module "
            "does not see; choose one that is defined after it, such as smoe_scale"
        )
    operations = {}
    if layers is None or are_found(layers):
        found = candidates(root, copied(as_tuple(example)))
        layers = of_found(chosen_scales(found), layers)
        operations = {one.scale: one.operation for one in found if one.chosen}
    scales = scales_of(root, copied(as_tuple(example)), layers, traced=bool(operations))
    function = chosen.function
    is_smoe = (function.func if isinstance(function, partial) else function) is smoe_scale
    recordings: list[Recording] = []
    for scale in scales:
        if scale.functions:
            raise LayerError(
                f"the last tensor of stride {scale.stride} is made by functions after layer "
                f"{scale.name!r}, which an exported module does not see; put them into a module, "
                "such as torch.nn.Identity around their result, give layers, or, of a program of "
                "torch.export, give what torch.export.unflatten makes of it"
            )
        read = form_of(chosen, scale, operations.get(scale, ""))
        if is_smoe and chosen.epsilon is not None:
            read = KernelForm(**vars(read), epsilon=chosen.epsilon)
        recordings.append(Recording(scale, read))
    return root, scales, recordings


def form_of(statistic: Statistic, scale: Scale, operation: str) -> GraphForm:
    """Return the form of a statistic for the tensor of one scale.

    Args:
        statistic: A statistic that is not defined before the ReLU.
        scale: The scale.
        operation: The function that made the tensor, in PyTorch's words; empty if it is not known.
    """
    any_sign = statistic.domain == "any"
    rectified = (any_sign or operation in RECTIFIERS) and not scale.functional_relu
    return graph_form(statistic, rectified, scale.linear and not any_sign)

"""Class activation maps without gradients, by the linear layer after global average pooling."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.arguments.call import Call
from fastsal.arguments.copies import copied
from fastsal.arguments.logits import logits_of
from fastsal.networks import hooks
from fastsal.networks.gradients import GradientSource, gradient_pass
from fastsal.networks.layers import NamedLayer
from fastsal.networks.scales import Scale
from fastsal.networks.trace import Trace, trace_forward

# The relative error of gradients through a linear layer and a mean, which are short sums.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class LinearHead:
    """The linear layer after global average pooling, and the explained class.

    Attributes:
        name: The layer's name in the network.
        target: The class; None is the predicted class of each image.
    """

    name: str
    target: int | None

    def class_activation_map(self, activations: Tensor, output: Tensor, model: nn.Module) -> Tensor:
        """Return the class activation map `(N, h, w)`, divided by its own maximum.

        Args:
            activations: `(N, C, h, w)`, the input of the global average pooling; of volumes
                `(N, C, d, h, w)`.
            output: `(N, classes)`, the model's output.
            model: The model, with the linear layer.

        Returns:
            The map in [0, 1]; it is 0 everywhere if no location raises the class's score.
        """
        weight = model.get_parameter(f"{self.name}.weight").detach()
        if self.target is None:
            rows = weight[output.detach().argmax(1)]
        else:
            rows = weight[self.target : self.target + 1]
        axes = activations.dim() - 2
        weights = rows.float().reshape(*rows.shape, *[1] * axes)
        cam = (activations.float() * weights).sum(1).relu()
        peak = cam.amax(tuple(range(1, 1 + axes)), keepdim=True)
        return cam / torch.where(peak > 0, peak, 1.0)


class HeadError(ValueError):
    """A network whose Fast-CAM map needs gradients; the message says why."""


def find_linear_head(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    scale: Scale,
    target: int | None,
    further: tuple[object, ...] = (),
    *,
    what: str = "Fast-CAM without gradients",
    instead: str = "FastCAM",
) -> LinearHead:
    """Return the linear layer whose input is the mean of a scale over its locations.

    Args:
        network: The network.
        inputs: Example inputs; the network runs on them.
        scale: The scale whose activations make the class activation map.
        target: The class; None is the predicted class of each image.
        further: Further arguments of the network.
        what: The map that needs the layer, as messages call it.
        instead: The class that takes gradients.

    Raises:
        HeadError: A ValueError, if other layers follow the scale; the message lists them.
        ValueError: If there is no such class.

    Example:
        >>> from fastsal.networks.scales import find_scales
        >>> net = nn.Sequential(
        ...     nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3), nn.ReLU(),
        ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
        ... ).eval()
        >>> image = torch.rand(1, 3, 16, 16)
        >>> find_linear_head(net, (image,), find_scales(net, image)[-1], None).name
        '7'
    """
    trace, output = trace_forward(network, inputs, further)
    output = logits_of(output)
    if not isinstance(output, Tensor) or output.dim() != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise HeadError(
            f"{what} needs an output (N, classes), got {shape}; use {instead}, which takes "
            "gradients"
        )
    (end,) = trace.nodes_in(output) or (0,)
    layers = {
        id(part.weight): name
        for name, part in network.named_modules()
        if isinstance(part, nn.Linear)
    }
    node, operations = trace.nodes[end], _last_operations(trace, end)
    if node.operation != "linear" or node.weight not in layers:
        raise HeadError(
            f"{what} needs a network that ends in global average pooling and a linear layer; this "
            f"one ends in {operations}. Use {instead}, which takes gradients"
        )
    name = layers[node.weight]
    weight = network.get_parameter(f"{name}.weight").detach()
    if not bool(weight.any()):
        raise HeadError(
            f"all weights of the linear layer {name!r} are 0, so that no location counts for a "
            "class and its map is 0 everywhere; load trained weights"
        )
    try:
        _check_gradient(network, inputs, further, scale, weight)
    except _OtherWayError:
        raise HeadError(
            f"{what} needs global average pooling and one linear layer after {scale.name!r}, so "
            "that every location has one and the same gradient; to linear layer "
            f"{name!r} there is more on the way: {operations}. Use {instead}, which takes "
            "gradients, or give the layer that is pooled last"
        ) from None
    if target is not None and not 0 <= target < len(weight):
        raise ValueError(f"target {target} is no class of the network, which has {len(weight)}")
    return LinearHead(name, target)


class _OtherWayError(Exception):
    """Locations whose gradients are not the linear layer's weights."""


def _check_gradient(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    further: tuple[object, ...],
    scale: Scale,
    weight: Tensor,
) -> None:
    """Compare the scores' gradient at a scale with the linear layer's weights.

    Raises:
        HeadError: If the scale has one location alone.
        _OtherWayError: If the gradient differs from them.
    """

    def use(source: GradientSource, output: Any) -> tuple[Tensor, Tensor]:
        output = logits_of(output)
        # One pass for all classes: a sum of their scores with different weights.
        generator = torch.Generator("cpu").manual_seed(0)
        drawn = torch.randn(output.shape[1], generator=generator, device="cpu", dtype=torch.float32)
        shares = drawn.to(output)
        return shares, source.gradients((output * shares).sum())[1]

    def tap(source: GradientSource) -> hooks.Tap:
        return NamedLayer.of_scale(scale).tap(torch.Tensor.detach, replace=source)

    with torch.no_grad():
        copies, arguments = copied((inputs, further))
        call = Call(network, copies, additional_forward_args=arguments)
    (shares, gradient), _ = gradient_pass(call, tap, use, rectify=scale.functional_relu)
    gradient = scale.channels_first(gradient)
    locations = prod(gradient.shape[2:])
    if locations == 1:
        raise HeadError(
            f"layer {scale.name!r} has one location alone for the example, of shape "
            f"{tuple(inputs[0].shape)}; give a larger one"
        )
    if gradient.shape[1] == weight.shape[1]:
        expected = (shares @ weight / locations).reshape(1, -1, *[1] * (gradient.dim() - 2))
        if (gradient - expected).abs().amax() <= TOLERANCE * expected.abs().amax():
            return
    raise _OtherWayError


def _last_operations(trace: Trace, end: int, most: int = 8) -> str:
    """Return the last operations before a node, at most `most`, in their order."""
    operations: list[str] = []
    while end > 0 and len(operations) < most:
        node = trace.nodes[end]
        operations.append(node.operation)
        end = max(node.sources, default=0)
    return ", ".join(operations[::-1])

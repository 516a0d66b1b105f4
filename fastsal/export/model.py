"""A model and its map as one plain module, for torch.export, torch.compile, torch.jit and ONNX.

>>> _ = torch.manual_seed(0)
>>> net = nn.Sequential(
...     nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
...     nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
...     nn.Linear(8, 5),
... ).eval()
>>> mapped = with_map(net, torch.rand(1, 3, 8, 8))
>>> output, saliency, per_scale = mapped(torch.rand(2, 3, 12, 8))
>>> output.shape, saliency.shape, [tuple(one.shape) for one in per_scale]
(torch.Size([2, 5]), torch.Size([2, 12, 8]), [(2, 12, 8), (2, 6, 4)])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.arguments.inputs import Inputs, as_tuple, image_of
from fastsal.export.graph_forms import gaussian, graph_form, upsampled, weighted
from fastsal.export.linear_head import LinearHead, find_linear_head
from fastsal.export.recording import Recorder, Recording, recording_copy
from fastsal.images.colour import lovi_colours
from fastsal.maps.combination import Weights, layer_weights
from fastsal.networks import hooks
from fastsal.networks.layers import Layer, describe_layer, name_layers
from fastsal.networks.scales import Scale, candidates, find_scales
from fastsal.networks.state import root_module
from fastsal.statistics.registry import Statistic, StatisticFunction, get_statistic

# What these make has no negative values.
RECTIFIERS = frozenset(("relu", "relu_", "relu6", "hardsigmoid", "sigmoid", "sigmoid_"))

__all__ = ["ModelWithMap", "with_fast_cam", "with_map"]


class ModelWithMap(nn.Module):
    """A model that gives its map beside its output; `with_map` and `with_fast_cam` make it.

    Attributes:
        model: The model's copy, with the model's own parameters.
        scales: Where each map is read, the shallowest first.
        outputs: What comes after the model's own output, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        scales: Sequence[Scale],
        recordings: Sequence[Recording],
        weights: Sequence[float],
        lovi: bool,
        head: LinearHead | None,
    ) -> None:
        super().__init__()
        self.recorder = Recorder(recordings)
        self.model = recording_copy(model, self.recorder)
        self.scales = tuple(scales)
        total = math.fsum(weights)
        self.shares = tuple(weight / total for weight in weights)
        self.lovi = lovi
        self.head = head
        per_scale = tuple(f"scale_{index}" for index in range(1, len(scales) + 1))
        self.outputs = ("map", *per_scale, *(("lovi",) if lovi else ()))
        self.training = False

    def forward(self, *inputs: Tensor) -> tuple[Any, ...]:
        """Return the model's output, the map and the maps of the scales.

        Args:
            inputs: The model's own; the first of four dimensions is the image `(N, C, H, W)`.

        Returns:
            The output as the model has it; the map `(N, H, W)`; a tuple of each scale's map
            `(N, h, w)`, all in [0, 1] and float32; and, where it was asked for, the LOVI picture
            `(N, 3, H, W)`.

        Raises:
            ValueError: If no input is an image batch.
        """
        # Written so that torch 2.6's compiler can follow it: no `next` with a default.
        images = [one for one in inputs if one.dim() == 4]
        if not images:
            shapes = [tuple(one.shape) for one in inputs]
            raise ValueError(f"expected an image batch (N, C, H, W), got inputs of shape {shapes}")
        image = images[0]
        self.recorder.begin()
        output = self.model(*inputs)
        readings = self.recorder.end()
        per_scale = tuple(gaussian(values) for values in readings[: len(self.scales)])
        stacked = upsampled(per_scale, image)
        combined = weighted(stacked, self.shares)
        if self.head is not None:
            cam = self.head.class_activation_map(readings[-1], output, self.model)
            combined = combined * upsampled([cam], image).squeeze(1)
        return output, combined, per_scale, *((lovi_colours(stacked),) if self.lovi else ())


def with_map(
    model: nn.Module,
    example: Inputs,
    *,
    layers: Layer | Scale | Sequence[Layer | Scale] | None = None,
    weights: Weights = "linear",
    statistic: str | Statistic | StatisticFunction = "smoe_scale",
    lovi: bool = False,
) -> ModelWithMap:
    r"""Return a module that gives a model's output and its SMOE Scale map, without hooks.

    The map is `SMOEScale`'s with the normal CDF (Eq 1 to 3). The model is copied layer by layer as
    empty shells that hold **the model's own parameters and buffers**: none is copied, what is
    trained or loaded in one is so in the other, and `to` and `half` change both. The layers that
    are read get a class made from their own, whose `forward` hands the tensor to the statistic at
    the very call that the scale names. The model itself is left as it was; of the module returned
    all parts are in evaluation mode.

    Chosen over a graph of torch.fx or torch.export with the statistic put in, since Python code
    goes on running as Python: sizes that differ from the example's, modules called several times,
    a ReLU reused in place or written as a function, writing in place after the scale, and any
    device. What traces the module, traces the map.

    Args:
        model: The network; of a compiled one the module under it.
        example: What the model is called with, `(N, C, H, W)` or a tuple; one forward pass of it
            finds the scales.
        layers: As for `SMOEScale`.
        weights: As for `SMOEScale`.
        statistic: As for `SMOEScale`, if it is defined after the ReLU.
        lovi: Gives the LOVI picture too.

    Returns:
        The `ModelWithMap`; it is called as the model is, with positional tensors.

    Raises:
        ValueError: If no scales are found, a layer cannot be read without hooks, the statistic is
            defined before the ReLU, or the weights do not fit.
        TypeError: If the model is no module.

    Reference:
        Mundhenk, Chen & Friedland, "Efficient Saliency Maps for Explainable AI", Eq 1 to 7.
    """
    root, scales, recordings = _read(model, example, layers, statistic)
    shares = layer_weights(weights, len(scales), [scale.name for scale in scales])
    return _tried(ModelWithMap(root, scales, recordings, shares, lovi, None), example)


def with_fast_cam(
    model: nn.Module,
    example: Inputs,
    *,
    target: int | None = None,
    layers: Layer | Scale | Sequence[Layer | Scale] | None = None,
    weights: Weights = "linear",
    statistic: str | Statistic | StatisticFunction = "smoe_scale",
    lovi: bool = False,
) -> ModelWithMap:
    r"""Return a module that gives a model's output and its Fast-CAM map, without gradients.

    $$F = S \cdot U\big(L / \max L\big), \qquad
      L = \mathrm{ReLU}\Big(\sum_k W_{ck} A_k\Big)$$

    with `S` the SMOE Scale map, `A` the last scale's activations and `W` the weights of the linear
    layer. Where global average pooling and one linear layer are all that follows, the score's
    gradient by `A_k` is `W_ck / P` at each of the P locations: Grad-CAM's weight but for a constant
    that the division by the maximum takes away. That this is so is checked against gradients of the
    example. The map is `FastCAM`'s.

    Args:
        model: The network, which ends in global average pooling and a linear layer.
        example: As for `with_map`.
        target: The class; None explains the one that is predicted for each image.
        layers: As for `with_map`; the class activation map is the last one's.
        weights: As for `with_map`.
        statistic: As for `with_map`.
        lovi: As for `with_map`.

    Returns:
        As for `with_map`, the map being Fast-CAM's; an image that no location speaks for has 0.

    Raises:
        ValueError: As for `with_map`; if the network ends otherwise, saying what was found; or if
            there is no such class.
        TypeError: As for `with_map`.

    Reference:
        Mundhenk, Chen & Friedland, "Efficient Saliency Maps for Explainable AI", section 4.2.

    >>> net = nn.Sequential(
    ...     nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    ...     nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ...     nn.Linear(8, 5),
    ... ).eval()
    >>> with_fast_cam(net, torch.rand(1, 3, 8, 8), target=3)(torch.rand(2, 3, 8, 8))[1].shape
    torch.Size([2, 8, 8])
    """
    root, scales, recordings = _read(model, example, layers, statistic)
    shares = layer_weights(weights, len(scales), [scale.name for scale in scales])
    head = find_linear_head(root, as_tuple(example), scales[-1], target)
    recordings.append(Recording(scales[-1], torch.relu if scales[-1].functional_relu else _as_is))
    return _tried(ModelWithMap(root, scales, recordings, shares, lovi, head), example)


def _as_is(tensor: Tensor) -> Tensor:
    # The network may write to it in place before the map is made.
    return tensor.clone()


def _read(
    model: nn.Module,
    example: Inputs,
    layers: Layer | Scale | Sequence[Layer | Scale] | None,
    statistic: str | Statistic | StatisticFunction,
) -> tuple[nn.Module, tuple[Scale, ...], list[Recording]]:
    """Return the module to copy, its scales and how each is read."""
    root = root_module(model)
    if root is None:
        raise TypeError(f"expected a torch.nn.Module, got {model!r}")
    chosen = get_statistic(statistic)
    if chosen.domain == "pre_relu":
        raise ValueError(
            f"statistic {chosen.name!r} is defined before the ReLU, which a module without hooks "
            "does not see; choose one that is defined after it, such as smoe_scale"
        )
    inputs = as_tuple(example)
    image = image_of(inputs)
    if layers is None:
        scales = find_scales(root, inputs)
        operations = {one.scale: one.operation for one in candidates(root, inputs) if one.chosen}
    else:
        scales = _described(root, inputs, layers, (image.shape[2], image.shape[3]))
        operations = {}
    recordings = []
    for scale in scales:
        rectified = operations.get(scale) in RECTIFIERS and not scale.functional_relu
        recordings.append(Recording(scale, graph_form(chosen, rectified)))
    return root, scales, recordings


def _described(
    root: nn.Module,
    inputs: tuple[Tensor, ...],
    layers: Layer | Scale | Sequence[Layer | Scale],
    size: tuple[int, int],
) -> tuple[Scale, ...]:
    """Return the scales of layers given in any form, by one forward pass where needed."""
    named = name_layers(root, layers)
    found: dict[int, Scale] = {}

    def describe(index: int, name: str, module: nn.Module, tensor: Tensor) -> Tensor:
        found[index] = describe_layer(name, module, tensor, size)
        return tensor.new_empty(0)

    taps = [
        layer.tap(partial(describe, index, layer.name, layer.module))
        for index, layer in enumerate(named)
        if layer.scale is None
    ]
    with torch.no_grad():
        hooks.forward(root, inputs, None, taps)
    return tuple(scale or found[index] for index, (_, _, scale) in enumerate(named))


def _tried(module: ModelWithMap, example: Inputs) -> ModelWithMap:
    """Return the module after one pass, which raises where a layer is not reached."""
    with torch.no_grad():
        module(*as_tuple(example))
    return module

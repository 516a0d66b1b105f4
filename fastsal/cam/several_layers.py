"""Class activation maps of several layers from one pass, and their fusions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastsal.arguments.call import Call
from fastsal.arguments.targets import select_scores
from fastsal.cam.noting import Noting, Places
from fastsal.cam.registry import Cam
from fastsal.geometry.following import Following
from fastsal.maps.normalization import each_map, minmax
from fastsal.networks import hooks
from fastsal.networks.gradients import GradientSource, gradient_pass, gradients_of
from fastsal.networks.layers import NamedLayer, check_finite
from fastsal.networks.scales import Scale
from fastsal.registry import Registry

# The sharpness of LayerCAM's fusion.
GAMMA = 2.0

Fusion = Callable[[Tensor], Tensor]
FUSIONS: Registry[tuple[Fusion, Fusion]] = Registry("fusion")


class _GraphPoint(GradientSource):
    """A tap's `replace` that keeps a tensor on its way, with its graph."""

    def __call__(self, tensor: Tensor) -> Tensor:
        """Keep the tensor, and return a copy, to which the network may write."""
        kept = tensor.relu() if self.rectify else tensor
        self.leaves[tensor.device] = kept
        # The network's own ReLU comes next; at exactly 0 it would pass no gradient.
        return kept + torch.finfo(kept.dtype).tiny if self.rectify else kept.clone()


def contributions_of_layers(
    cam: Cam, layers: Sequence[NamedLayer], call: Call, *, places: Places, found: bool = False
) -> list[tuple[Tensor, Scale | None]]:
    """Return each channel's contribution to the map of each layer, from one pass.

    One forward pass, with gradients from the first layer on.

    Args:
        cam: The class activation map, one that takes a gradient and no noisy copies.
        layers: In the order in which the network runs them.
        call: The model with its inputs and the target.
        places: As for `layer_contributions`.
        found: As for `layer_contributions`.

    Returns:
        For each layer `(N, C, h, w)`, and its scale; None without locations.

    Raises:
        ValueError: If the target does not fit the output, a layer cannot be read, or activations or
            gradients are not finite.
    """
    following = Following()
    notings = [Noting.of(layer, call, places, found=found, following=following) for layer in layers]
    images = call.inputs[0].shape[0]
    points = [_GraphPoint(noting.rectify) for noting in notings[1:]]

    def tap(noting: Noting, point: GradientSource) -> hooks.Tap:
        return noting.layer.tap(noting.noted, replace=point, modes=noting.modes)

    def use(source: GradientSource, output: Any) -> list[tuple[Tensor, Tensor]]:
        scores = select_scores(output, call.target, images, call.part)
        return gradients_of([source, *points], scores.sum(), None, call.device_ids)

    pairs, _ = gradient_pass(
        call,
        lambda source: tap(notings[0], source),
        use,
        rectify=notings[0].rectify,
        taps=[tap(noting, point) for noting, point in zip(notings[1:], points, strict=True)],
    )
    found_maps = []
    with torch.no_grad():
        for noting, (activations, gradient) in zip(notings, pairs, strict=True):
            gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
            powers = [gradient**power for power in range(1, cam.orders + 1)]
            activations = activations.to(gradient.dtype)
            scale = noting.scale()
            if scale is not None:
                activations = scale.channels_first(activations)
                powers = [scale.channels_first(power) for power in powers]
            contributions = cam.contributions(activations, torch.stack(powers))
            check_finite(noting.layer.name, "activations or gradients", contributions)
            found_maps.append((contributions, scale))
    return found_maps


def _tanh(maps: Tensor) -> Tensor:
    r"""Return LayerCAM's scaling of maps, $\tanh(2 L / \max L)$; 0 for a map of 0."""
    peak = maps.amax(tuple(range(1, maps.dim())), keepdim=True)
    return torch.tanh(GAMMA * maps / peak.masked_fill(peak <= 0, 1))


# Of each map, then of the maps of all layers `(layers, N, H, W)`.
FUSIONS.register("maximum", (_tanh, lambda maps: maps.amax(0)))
FUSIONS.register("product", (partial(each_map, minmax), lambda maps: maps.prod(0)))

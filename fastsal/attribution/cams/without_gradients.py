"""The common base of class activation maps of one layer that take no gradient."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from captum.attr._utils.attribution import LayerAttribution
from torch import Tensor

from fastsal.arguments.call import Call
from fastsal.arguments.copies import copied
from fastsal.arguments.inputs import Images, as_tuple, images_of, without_row
from fastsal.arguments.logits import logits_of
from fastsal.arguments.targets import TargetError, select_scores
from fastsal.attribution.base import NamedAttribution
from fastsal.cam.noting import MOST_KINDS, Noting, plain_pass
from fastsal.networks.layers import Layer, NamedLayer, check_finite, name_layer
from fastsal.networks.scales import Scale, find_scales
from fastsal.networks.state import LayerError, root_module

# Why a map is 0 everywhere.
NO_LOCATION = "no location counts for the class"


class WithoutGradients(NamedAttribution, LayerAttribution):  # type: ignore[misc]
    """A class activation map of one layer that takes no gradient.

    Args:
        forward_func: The network, or a callable that runs it; a callable needs `layer`.
        layer: The layer; None finds the last scale.
        device_ids: The order of devices.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Layer | Scale | None = None,
        device_ids: list[int] | None = None,
    ) -> None:
        LayerAttribution.__init__(self, forward_func, layer, device_ids)
        if layer is None and root_module(forward_func) is None:
            raise ValueError(
                f"cannot find the last scale inside {forward_func!r}, which is no torch.nn.Module; "
                "give the layer yourself, layer=module"
            )
        self._layer = None if layer is None else name_layer(forward_func, layer)
        self._scales: dict[Hashable, Scale] = {}

    def _facts(self) -> list[str]:
        known = next(reversed(self._scales.values()), None)
        name = self._layer.name if self._layer else known.name if known else None
        return ["layer found at the first call" if name is None else f"layer {name!r}"]

    def _scale(self, call: Call) -> Scale:
        """Return the layer's scale for a kind of batch, looked for once."""
        if call.kind not in self._scales:
            if self._layer is None:
                scales = find_scales(call.forward_func, call.inputs, call.additional_forward_args)
                found: Scale | None = scales[-1].of_class or scales[-1]
            else:
                noting = Noting.of(self._layer, call, {})
                again = call._replace(
                    inputs=copied(call.inputs),
                    additional_forward_args=copied(call.additional_forward_args),
                )
                plain_pass(again, self._layer.tap(noting.noted, modes=noting.modes))
                found = noting.scale()
            name = "" if self._layer is None else self._layer.name
            if found is None or found.varies:
                raise LayerError(
                    f"layer {name!r} gives no tensor with locations at fixed places of the image, "
                    "expected (N, C, h, w) or (N, h, w, C); choose another layer"
                )
            if len(self._scales) >= MOST_KINDS:
                self._scales.pop(next(iter(self._scales)))
            self._scales[call.kind] = found
        return self._scales[call.kind]

    def _activations(self, call: Call, scale: Scale) -> tuple[Tensor, Any]:
        """Return the layer's activations `(N, C, h, w)` and the model's output."""
        layer = NamedLayer.of_scale(scale)
        # A copy, since the network may write over it.
        output, (tensor,) = plain_pass(call, layer.tap(torch.clone))
        activations = scale.channels_first(tensor.relu() if scale.functional_relu else tensor)
        finer = activations.to(torch.promote_types(activations.dtype, torch.float32))
        check_finite(layer.name, "activations", finer)
        return finer, output

    def _returned(self, maps: Tensor, inputs: Images, scale: Scale) -> Images:
        """Return maps `(N, h, w)` as `attribute` gives them."""
        maps = scale.layout.in_order(maps.unsqueeze(1))
        maps = without_row(maps, images_of(as_tuple(inputs))[0]).contiguous()
        return (maps,) if isinstance(inputs, tuple) and len(inputs) == 1 else maps


def class_shares(output: Any, target: Any, images: int, part: bool = False) -> Tensor:
    """Return how each number of the output counts in each image's score, `(N, classes)`.

    Args:
        output: The model's output `(N, classes)`.
        target: In any of Captum's forms, or a callable of the output.
        images: N.
        part: As for `select_scores`.

    Raises:
        TargetError: If the target does not fit the output, or the output is no `(N, classes)`.
    """
    output = logits_of(output)
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != images:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise TargetError(
            f"the model's output is {shape}, expected ({images}, classes): a row for each image; "
            "use GradCAM, which takes any output"
        )
    with torch.inference_mode(False), torch.enable_grad():
        probe = output.detach().clone().requires_grad_()
        scores = select_scores(probe, target, images, part)
        (shares,) = torch.autograd.grad(scores.sum(), probe)
    return shares

"""Each channel's contribution to a class activation map, from gradients after the layer."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsal.arguments.call import Call
from fastsal.arguments.copies import copied
from fastsal.arguments.targets import fixed_target, select_classes, select_scores
from fastsal.cam.registry import Cam
from fastsal.geometry.following import Following
from fastsal.networks import hooks
from fastsal.networks.gradients import GradientSource, before_classes, gradient_pass
from fastsal.networks.layers import NamedLayer, check_finite, place_of
from fastsal.networks.scales import Scale

# The number of kinds of batches whose places are kept.
MOST_KINDS = 64
# The scales of layers, by the kind of batch.
Places = dict[Hashable, Scale | None]


class Contributions(NamedTuple):
    """Each channel's contribution to a layer's class activation map.

    Attributes:
        maps: `(N, C, h, w)`, rows and columns as in the image, or `(N, C, ...)` of a layer without
            locations; float32 or the layer's type if that is finer.
        scale: The layer's scale, with the maps' places in the image; None without locations.
        values: What each further tap's `read` returned.
    """

    maps: Tensor
    scale: Scale | None
    values: list[Tensor]


def layer_contributions(
    cam: Cam,
    layer: NamedLayer,
    call: Call,
    *,
    places: Places,
    found: bool = False,
    layer_input: bool = False,
    taps: Sequence[hooks.Tap] = (),
    grad_kwargs: Mapping[str, Any] | None = None,
) -> Contributions:
    """Return each channel's contribution to a layer's map, and the values of further taps.

    One forward pass, with gradients for the part of the network after the layer alone, and one
    more for each noisy copy that the map is averaged over; those see copies of all tensors. If
    there is no target, the copies have the class that is predicted for the images themselves.

    Args:
        cam: The class activation map.
        layer: The layer.
        call: The model with its inputs and the target.
        places: The scales of layers that were given; new kinds of batches are added.
        found: The layer's scale was found for images like these.
        layer_input: Takes the layer's input in place of its output.
        taps: Further places that are read during the pass of the images themselves.
        grad_kwargs: Further arguments of `torch.autograd.grad`.

    Raises:
        ValueError: If the target does not fit the output, the layer cannot be read, or its
            activations or gradients are not finite.
    """
    rectify = layer.scale is not None and layer.scale.functional_relu and not layer_input
    image = next((tensor for tensor in call.inputs if tensor.dim() == 4), None)
    key = (layer, layer_input, call.kind)
    fixed = layer.scale is not None and not layer.scale.varies
    if found and fixed and not layer_input:
        places = {key: layer.scale}
    elif image is None:
        # Signals, tokens: there is no image on which a map could be laid.
        places = {key: None}
    modes = () if key in places else (Following(),)

    def noted(tensor: Tensor) -> Tensor:
        if key not in places and image is not None:
            if len(places) >= MOST_KINDS:
                places.pop(next(iter(places)))
            given = layer._replace(scale=None) if layer_input else layer
            size = image.shape[2], image.shape[3]
            places[key] = place_of(given, tensor, size, *modes)
        return tensor.detach()

    images = call.inputs[0].shape[0]

    def tap(source: GradientSource) -> hooks.Tap:
        return layer.tap(noted, layer_input=layer_input, replace=source, modes=modes)

    def activations_alone(source: GradientSource, output: Any) -> tuple[Tensor, Any]:
        source.check(select_scores(output, call.target, images, call.part))
        # Copies without a target have the class of the images themselves.
        target = fixed_target(output, call.target, images)
        return source.activations(call.device_ids), target

    def with_gradients(source: GradientSource, output: Any) -> tuple[Tensor, Tensor]:
        # A callable may make its score of other tensors too.
        before = None if callable(target) or grad_kwargs else before_classes(output)
        if before is None:
            scores = select_scores(output, target, images, call.part)
            activations, gradients = source.gradients(
                scores.sum(), None, call.device_ids, grad_kwargs
            )
        else:
            features, weights = before
            classes = select_classes(output, target, images, call.part)
            activations, gradients = source.gradients(features, weights[classes], call.device_ids)
        return activations, _powers(gradients, cam.orders)

    if cam.noise:
        # The first pass may write to its inputs.
        with torch.no_grad():
            clean = copied((call.inputs, call.additional_forward_args))
        (activations, target), values = gradient_pass(
            call, tap, activations_alone, rectify=rectify, taps=taps
        )
        sums: list[Tensor] = []
        for copies in _noisy(clean[0], cam):
            again = call._replace(inputs=copies, additional_forward_args=copied(clean[1]))
            (_, powers), _ = gradient_pass(again, tap, with_gradients, rectify=rectify)
            with torch.no_grad():
                sums = [sums[0].add_(powers)] if sums else [powers]
        (derivatives,) = sums
    else:
        # Copies without noise would all be the image itself.
        target = call.target
        (activations, derivatives), values = gradient_pass(
            call, tap, with_gradients, rectify=rectify, taps=taps
        )
    with torch.no_grad():
        if cam.noise:
            derivatives.div_(cam.samples)
        activations = activations.to(derivatives.dtype)
        scale = places[key]
        if scale is not None and scale.varies:
            # Other images have other places.
            del places[key]
        if scale is not None:
            activations = scale.channels_first(activations)
            derivatives = torch.stack([scale.channels_first(power) for power in derivatives])
        contributions = cam.contributions(activations, derivatives)
    check_finite(layer.name, "activations or gradients", contributions)
    return Contributions(contributions, scale, values)


def warn_of_zero(zero: Tensor, cam: Cam, consequence: str) -> None:
    """Warn of images whose map is 0 everywhere; called from inside an `attribute`.

    Args:
        zero: `(N,)`, True for each such image.
        cam: The class activation map.
        consequence: The end of the message.
    """
    if zero.any():
        warnings.warn(
            f"{cam.name} is 0 everywhere for image(s) {zero.nonzero()[:, 0].tolist()} of the "
            f"batch: no location raises the target's score{consequence}",
            stacklevel=4,
        )


def _powers(gradients: Tensor, orders: int) -> Tensor:
    gradients = gradients.to(torch.promote_types(gradients.dtype, torch.float32))
    if orders == 1:
        return gradients.unsqueeze(0)
    return torch.stack([gradients**power for power in range(1, orders + 1)])


def _noisy(inputs: tuple[Tensor, ...], cam: Cam) -> Iterator[tuple[Tensor, ...]]:
    """Yield noisy copies of the inputs; only tensors with locations get noise.

    One pattern is drawn for all images, so that a batch gives the same maps as its images alone.
    """
    noised = [tensor.dim() > 2 and tensor.is_floating_point() for tensor in inputs]
    if not any(noised):
        kinds = [(tuple(tensor.shape), tensor.dtype) for tensor in inputs]
        raise ValueError(
            f"{cam.name} adds noise to floating-point images (N, C, H, W), got {kinds}; convert "
            "them, or set noise=0"
        )
    # Drawn on the CPU by a generator of its own: the same on every device, and the global random
    # state stays.
    generator = torch.Generator("cpu").manual_seed(cam.seed)
    for _ in range(cam.samples):
        yield tuple(
            _with_noise(tensor, cam.noise, generator) if has_noise else copied(tensor)
            for tensor, has_noise in zip(inputs, noised, strict=True)
        )


def _with_noise(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    values = images.flatten(1)
    deviation = share * (values.amax(1) - values.amin(1))
    drawn = torch.randn(images.shape[1:], generator=generator, device="cpu", dtype=torch.float32)
    pattern = drawn.to(images)
    return images + deviation.reshape(-1, *[1] * pattern.dim()) * pattern

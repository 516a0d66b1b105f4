"""Each channel's contribution to a class activation map, from gradients after the layer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsal.arguments.call import Call
from fastsal.arguments.copies import copied
from fastsal.arguments.logits import logits_of
from fastsal.arguments.targets import check_target, fixed_target, select_classes, select_scores
from fastsal.cam.noting import Noting, Places, plain_pass
from fastsal.cam.registry import Cam
from fastsal.networks import hooks
from fastsal.networks.gradients import GradientSource, before_classes, gradient_pass
from fastsal.networks.layers import NamedLayer, check_finite
from fastsal.networks.scales import Scale

# Of a map that takes no gradient, and of one that does.
_ZERO = ("no activation is above 0", "no location raises the target's score")


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
    there is no target, the copies have the class that is predicted for the images themselves. A map
    of no orders takes no gradient.

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
    noting = Noting.of(layer, call, places, found=found, layer_input=layer_input)
    noted, modes, rectify = noting.noted, noting.modes, noting.rectify

    def noted_copy(tensor: Tensor) -> Tensor:
        # The network may write over it.
        return noted(tensor).clone()

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
        before = None if callable(target) or grad_kwargs else before_classes(logits_of(output))
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

    if not cam.orders:
        output, values = plain_pass(
            call, layer.tap(noted_copy, layer_input=layer_input, modes=modes), taps
        )
        check_target(output, call.target, images)
        activations = values.pop()
        if rectify:
            activations = activations.relu()
        finer = torch.promote_types(activations.dtype, torch.float32)
        derivatives = activations.new_empty((0, *activations.shape), dtype=finer)
        check_finite(layer.name, "activations", activations)
    elif cam.noise:
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
        scale = noting.scale()
        if scale is not None:
            activations = scale.channels_first(activations)
            if cam.orders:
                derivatives = torch.stack([scale.channels_first(power) for power in derivatives])
        contributions = cam.contributions(activations, derivatives)
    check_finite(layer.name, "activations or gradients", contributions)
    return Contributions(contributions, scale, values)


def warn_of_zero(zero: Tensor, cam: Cam | str, consequence: str) -> None:
    """Warn of images whose map is 0 everywhere; called from inside an `attribute`.

    Args:
        zero: `(N,)`, True for each such image.
        cam: The class activation map, or the name of one that has no entry.
        consequence: The end of the message; for a name the reason.
    """
    if zero.any():
        name, reason = (cam, "") if isinstance(cam, str) else (cam.name, _ZERO[cam.orders > 0])
        warnings.warn(
            f"{name} is 0 everywhere for image(s) {zero.nonzero()[:, 0].tolist()} of the batch: "
            f"{reason}{consequence}",
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

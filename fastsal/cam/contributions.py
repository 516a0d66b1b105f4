"""Each channel's contribution to a class activation map, from gradients after the layer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastsal.arguments.call import Call
from fastsal.arguments.targets import fixed_target, select_scores
from fastsal.cam.registry import Cam
from fastsal.networks import hooks
from fastsal.networks.backbone import image_layout
from fastsal.networks.gradients import GradientSource, gradients_after_source, outside_inference
from fastsal.networks.layers import NamedLayer, check_finite


def layer_contributions(
    cam: Cam,
    layer: NamedLayer,
    call: Call,
    *,
    layer_input: bool = False,
    taps: Sequence[hooks.Tap] = (),
    grad_kwargs: Mapping[str, Any] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Return each channel's contribution to a layer's map, and the values of further taps.

    One forward pass, with gradients for the part of the network after the layer alone, and one
    more for each noisy copy that the map is averaged over. If there is no target, the copies have
    the class that is predicted for the images themselves.

    Args:
        cam: The class activation map.
        layer: The layer.
        call: The model with its inputs and the target.
        layer_input: Takes the layer's input in place of its output.
        taps: Further places that are read during the pass of the images themselves.
        grad_kwargs: Further arguments of `torch.autograd.grad`.

    Returns:
        `(N, C, ...)` at the layer's size, float32 or the layer's type if that is finer, channels
        second whatever the network's layout; and what each tap's `read` returned.

    Raises:
        ValueError: If the target does not fit the output, the layer cannot be read, or its
            activations or gradients are not finite.
    """
    scale = layer.scale
    rectify = scale is not None and scale.functional_relu and not layer_input
    device_ids = call.device_ids

    def run(
        inputs: tuple[Tensor, ...], taps: Sequence[hooks.Tap]
    ) -> tuple[GradientSource, Any, list[Tensor]]:
        source = GradientSource(rectify, grad_kwargs or {})
        tap = layer.tap(torch.Tensor.detach, layer_input=layer_input, replace=source)
        output, values = hooks.forward(
            call.forward_func, inputs, additional, [*taps, tap], device_ids
        )
        return source, output, values[:-1]

    target = call.target
    images = call.inputs[0].shape[0]
    with gradients_after_source(call.forward_func):
        inputs = outside_inference(call.inputs)
        additional = outside_inference(call.additional_forward_args)
        source, output, values = run(inputs, taps)
        scores = select_scores(output, target, images, call.part)
        if cam.noise:
            target = fixed_target(output, target, images)
            activations = source.activations(device_ids)
        else:
            # Copies without noise would all be the image itself.
            activations, gradients = source.gradients(scores.sum(), device_ids)
            derivatives = _powers(gradients, cam.orders)
        del source, output, scores
    for index, copies in enumerate(_noisy(inputs, cam) if cam.noise else ()):
        with gradients_after_source(call.forward_func):
            source, output, _ = run(copies, ())
            scores = select_scores(output, target, images, call.part)
            _, gradients = source.gradients(scores.sum(), device_ids)
            del source, output, scores
        with torch.no_grad():
            powers = _powers(gradients, cam.orders)
            derivatives = powers if index == 0 else derivatives.add_(powers)
    with torch.no_grad():
        if cam.noise:
            derivatives.div_(cam.samples)
        activations = activations.to(derivatives.dtype)
        if scale is None or layer_input:
            channels_last = _channels_last(activations, inputs)
        else:
            channels_last = scale.channels_last
        if channels_last:
            activations, derivatives = activations.movedim(-1, 1), derivatives.movedim(-1, 2)
        contributions = cam.contributions(activations, derivatives)
    check_finite(layer.name, "activations or gradients", contributions)
    return contributions, values


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
    generator = torch.Generator().manual_seed(cam.seed)
    for _ in range(cam.samples):
        yield tuple(
            _with_noise(tensor, cam.noise, generator) if has_noise else tensor
            for tensor, has_noise in zip(inputs, noised, strict=True)
        )


def _with_noise(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    values = images.flatten(1)
    deviation = share * (values.amax(1) - values.amin(1))
    pattern = torch.randn(images.shape[1:], generator=generator).to(images)
    return images + deviation.reshape(-1, *[1] * pattern.dim()) * pattern


def _channels_last(activations: Tensor, inputs: tuple[Tensor, ...]) -> bool:
    """Return True if a layer's tensor lies on an image's grid with its channels last."""
    image = next((tensor for tensor in inputs if tensor.dim() == 4), None)
    if image is None or activations.dim() != 4:
        return False
    layout = image_layout(activations.shape, image.shape[2], image.shape[3])
    return layout is not None and layout[0]

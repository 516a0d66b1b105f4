"""Recipro-CAM as a Captum attribution class."""

from __future__ import annotations

from math import prod
from typing import Any, ClassVar

import torch
from captum.log import log_usage
from torch import Tensor

from fastsal.arguments.inputs import Images
from fastsal.arguments.logits import logits_of
from fastsal.attribution.cams.without_gradients import WithoutGradients, class_shares
from fastsal.networks.hooks import forward
from fastsal.networks.layers import NamedLayer, check_finite
from fastsal.networks.scales import Scale
from fastsal.networks.state import LayerError


class ReciproCAM(WithoutGradients):
    r"""Recipro-CAM: the class's probability when one location of the layer alone is kept.

    $$L_{ij} = \mathrm{softmax}\big(f(A \odot M_{ij})\big)_c$$

    with `f` the part of the network after the layer and $M_{ij}$ 1 at one location, 0 elsewhere.
    All of an image's h w masked layers go through that part in one pass, beside the image itself.
    Deviations from the paper: none; its Gaussian masks are left out. OpenVINO XAI takes whatever
    its model gives, scores or probabilities.

    Reference:
        Byun & Lee, "ReciproCAM: Lightweight Gradient-free Class Activation Map for Post-hoc
        Explanations", https://arxiv.org/abs/2209.14074

    Args:
        forward_func (torch.nn.Module or Callable): As for `ClassActivationMap`. What follows the
            layer treats each image by itself.
        layer (str, torch.nn.Module or Scale, optional): As for `ClassActivationMap`.
            Default: None.
        device_ids (list[int], optional): As for `ClassActivationMap`. Default: None.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
        ...     torch.nn.Linear(128, 10),
        ... )
        >>> ReciproCAM(net, net[1]).attribute(torch.rand(2, 3, 8, 8), 1).shape
        torch.Size([2, 1, 4, 4])
    """

    _field_name: ClassVar[str | None] = "Recipro-CAM"

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(
        self, inputs: Images, target: Any = None, additional_forward_args: object = None
    ) -> Images:
        """Return the map of every image, at the layer's size.

        Args:
            inputs (Tensor or tuple[Tensor, ...]): `(N, C, H, W)`, or a tuple of the model's inputs.
            target (int, tuple, Tensor or list, optional): The class, in any of Captum's forms.
                Default: None, which takes the predicted class.
            additional_forward_args (Any, optional): Further arguments of the model: one, or a
                tuple. Default: None.

        Returns:
            `(N, 1, h, w)` in [0, 1]; a tuple of one input gives a tuple of one map.

        Raises:
            ValueError: If the target does not fit the output, the layer cannot be used, or what
                follows it does not give a row for each masked layer.
        """
        several = self._one_at_a_time(self.attribute, inputs, target, additional_forward_args)
        if several is not None:
            return several
        (call,) = self._calls(inputs, target, additional_forward_args)
        scale = self._scale(call)
        images = len(call.inputs[0])
        layer = NamedLayer.of_scale(scale)
        layout = scale.layout
        if scale.placement is not None or scale.varies or layout.sequence or layout.order[0]:
            raise LayerError(
                f"Recipro-CAM masks the locations of (N, C, h, w), (N, h, w, C) or (N, h w, C), "
                f"and layer {scale.name!r} gives another layout or moves the image; choose another"
            )
        with torch.no_grad():
            masked = layer.tap(torch.detach, replace=lambda tensor: _each_location(tensor, scale))
            output, (tensor,) = forward(
                call.forward_func,
                call.inputs,
                call.additional_forward_args,
                [masked],
                call.device_ids,
            )
            output = logits_of(output)
            grid = scale.channels_first(tensor).shape[2:]
            locations = prod(grid)
            rows = images * (locations + 1)
            if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != rows:
                shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise LayerError(
                    f"what follows layer {scale.name!r} gives {shape}, expected ({rows}, classes): "
                    "a row for each image and each of its masked layers; use GradCAM"
                )
            of_images = output.unflatten(0, (images, locations + 1))  # type: ignore[no-untyped-call]
            check_finite(scale.name, "scores", of_images)
            shares = class_shares(of_images[:, 0], call.target, images, call.part)
            finer = torch.promote_types(output.dtype, torch.float32)
            probabilities = of_images[:, 1:].to(finer).softmax(2)
            maps = (probabilities * shares[:, None].to(finer)).sum(2)
            maps = maps.reshape(images, *grid)
        return self._returned(maps, inputs, scale)


def _each_location(tensor: Tensor, scale: Scale) -> Tensor:
    """Return each image's tensor, and copies of it with one location kept in turn."""
    grid = scale.channels_first(tensor).shape[2:]
    masks = torch.eye(prod(grid), dtype=tensor.dtype, device=tensor.device)
    masks = torch.cat([torch.ones_like(masks[:1]), masks]).reshape(-1, 1, *grid)
    copies = tensor.repeat_interleave(len(masks), 0)
    # Tokens beside the grid, such as the class token, stay as they are.
    scale.channels_first(copies).mul_(masks.repeat(len(tensor), *(1 for _ in masks.shape[1:])))
    return copies

"""CAM, by the linear layer after global average pooling, as a Captum attribution class."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, ClassVar

import torch
from captum.log import log_usage
from torch import nn

from fastsal.arguments.inputs import Images
from fastsal.attribution.cams.without_gradients import (
    NO_LOCATION,
    WithoutGradients,
    class_shares,
)
from fastsal.cam.contributions import warn_of_zero
from fastsal.cam.linear_head import LinearHead, find_linear_head
from fastsal.networks.hooks import as_arguments
from fastsal.networks.layers import Layer
from fastsal.networks.scales import Scale
from fastsal.networks.state import root_module


class CAM(WithoutGradients):
    r"""CAM: the channels before global average pooling, weighted by the class's row of the head.

    $$L = \sum_k w_{ck} A_k$$

    with $w_c$ the class's row of the one linear layer that follows the pooling: Grad-CAM without
    its gradient, times the number of locations. Deviations from the paper: none.

    Reference:
        Zhou et al., "Learning Deep Features for Discriminative Localization", Eq 2,
        https://arxiv.org/abs/1512.04150

    Args:
        forward_func (torch.nn.Module): The network. It ends in global average pooling and one
            linear layer.
        layer (str, torch.nn.Module or Scale, optional): The layer that is pooled. Default: None,
            which takes the network's last scale, found at the first call.
        device_ids (list[int], optional): As for `ClassActivationMap`. Default: None.

    Raises:
        ValueError: If `forward_func` is no module.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        ...     torch.nn.Conv2d(4, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        ...     torch.nn.Flatten(), torch.nn.Linear(8, 5),
        ... )
        >>> CAM(net).attribute(torch.rand(2, 3, 16, 16), target=3).shape
        torch.Size([2, 1, 5, 5])
    """

    _field_name: ClassVar[str | None] = "CAM"

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Layer | Scale | None = None,
        device_ids: list[int] | None = None,
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        if not isinstance(root_module(forward_func), nn.Module):
            raise ValueError(
                f"CAM reads the network's linear layer, and {forward_func!r} is no "
                "torch.nn.Module; give the network itself, or use GradCAM"
            )
        self._heads: dict[Hashable, LinearHead] = {}

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Images,
        target: Any = None,
        additional_forward_args: object = None,
        *,
        relu_attributions: bool = False,
    ) -> Images:
        """Return the class activation map of every image, at the layer's size and unscaled.

        Args:
            inputs (Tensor or tuple[Tensor, ...]): `(N, C, H, W)`, or a tuple of the model's inputs.
            target (int, tuple, Tensor, list or Callable, optional): As for `ClassActivationMap`.
                Default: None, which takes the predicted class.
            additional_forward_args (Any, optional): Further arguments of the model: one, or a
                tuple. Default: None.
            relu_attributions (bool): Sets negative values to 0; the paper keeps them.
                Default: False.

        Returns:
            `(N, 1, h, w)`; a tuple of one input gives a tuple of one map. A warning names images
            whose map is 0 everywhere.

        Raises:
            ValueError: If other layers follow the pooling, with the layers in the message; if the
                target does not fit the output, or the layer cannot be used.
        """
        several = self._one_at_a_time(
            self.attribute,
            inputs,
            target,
            additional_forward_args,
            relu_attributions=relu_attributions,
        )
        if several is not None:
            return several
        (call,) = self._calls(inputs, target, additional_forward_args)
        scale = self._scale(call)
        root = root_module(call.forward_func)
        if root is None:
            raise RuntimeError("the constructor takes modules alone")
        if call.kind not in self._heads:
            further = as_arguments(call.additional_forward_args)
            given = call.inputs, scale, None, further
            self._heads[call.kind] = find_linear_head(root, *given, what="CAM", instead="GradCAM")
        activations, output = self._activations(call, scale)
        with torch.no_grad():
            weight = root.get_parameter(f"{self._heads[call.kind].name}.weight").detach()
            shares = class_shares(output, call.target, len(activations), call.part)
            rows = (shares @ weight).to(activations.dtype)
            weights = rows.reshape(*rows.shape, *[1] * (activations.dim() - 2))
            maps = (activations * weights).sum(1)
            maps = maps.relu() if relu_attributions else maps
        warn_of_zero(~maps.flatten(1).any(1), self.get_name(), NO_LOCATION)
        return self._returned(maps, inputs, scale)

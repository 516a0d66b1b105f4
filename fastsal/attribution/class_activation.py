"""Class activation maps as Captum attribution classes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any, ClassVar

from captum.attr._utils.attribution import GradientAttribution, LayerAttribution
from captum.log import log_usage

from fastsal.arguments.call import Call
from fastsal.arguments.inputs import Images, images_of, without_row
from fastsal.attribution.base import NamedAttribution
from fastsal.cam.contributions import layer_contributions, warn_of_zero
from fastsal.cam.noting import MOST_KINDS, Places
from fastsal.cam.registry import Cam, get_cam
from fastsal.networks.layers import Layer, NamedLayer, name_layer
from fastsal.networks.scales import Scale, find_scales
from fastsal.networks.state import root_module


class ClassActivationMap(NamedAttribution, LayerAttribution, GradientAttribution):  # type: ignore[misc]
    r"""The class activation map of one layer, by any entry of the registry.

    $$L = \mathrm{ReLU}\Big(\sum_k w_k A_k\Big)$$

    with `A_k` the layer's channels and `w_k` the weights of the `cam`. The gradient is taken for
    the part of the network after the layer alone. The class takes the place of Captum's
    `LayerGradCam`. Deviations from that class: the ReLU of the papers is on by default; without a
    target the predicted class is explained; a layer whose channels come last `(N, h, w, C)` is
    recognised; a layer that gives several tensors is an error; the map is float32 or finer.

    Args:
        forward_func (torch.nn.Module or Callable): The network, or any callable that runs it; a
            callable needs `layer`. A module runs in evaluation mode and is restored afterwards; a
            callable runs unchanged.
        layer (str, torch.nn.Module or Scale, optional): The layer. Default: None, which takes the
            network's last scale, found at the first call by `find_scales`.
        device_ids (list[int], optional): The order of devices, if `forward_func` splits batches
            over several. Default: None.
        cam (str or Cam): A registered class activation map, or a `Cam`. Default: "gradcam".

    Raises:
        ValueError: If a name is unknown, there is not one layer, or none can be found.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
        ...     torch.nn.Linear(128, 10),
        ... )
        >>> cam = ClassActivationMap(net, net[1], cam="gradcam++")
        >>> cam.attribute(torch.rand(2, 3, 8, 8), 1).shape
        torch.Size([2, 1, 4, 4])
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Layer | Scale | None = None,
        device_ids: list[int] | None = None,
        *,
        cam: str | Cam = "gradcam",
    ) -> None:
        LayerAttribution.__init__(self, forward_func, layer, device_ids)
        GradientAttribution.__init__(self, forward_func)
        if layer is None and root_module(forward_func) is None:
            raise ValueError(
                f"cannot find the last scale inside {forward_func!r}, which is no torch.nn.Module; "
                "give the layer yourself, layer=module"
            )
        self.cam = get_cam(cam)
        self._layer = None if layer is None else name_layer(forward_func, layer)
        self._places: Places = {}
        self._found: dict[Hashable, NamedLayer] = {}

    def _facts(self) -> list[str]:
        known = self._layer or next(reversed(self._found.values()), None)
        layer = "layer found at the first call" if known is None else f"layer {known.name!r}"
        return [layer, f"cam={self.cam.name!r}"]

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Images,
        target: Any = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = True,
        attr_dim_summation: bool = True,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> Images:
        """Return the class activation map of every image, at the layer's size and unscaled.

        The arguments are those of Captum's `LayerGradCam.attribute`, in the same order.
        `interpolate` brings the map to the image's size.

        Args:
            inputs (Tensor, tuple[Tensor, ...] or list[Tensor]): `(N, C, H, W)`, volumes
                `(N, C, D, H, W)`, signals `(N, C, T)`, or a tuple of the model's inputs. A list has
                one image `(C, H, W)` after the other, of any sizes, and gives a list of their maps.
            target (int, tuple, Tensor, list, Callable or Detections, optional): The class, in any
                of Captum's forms, or a callable of the model's output that returns one score for
                each image, such as a `Detection`. `Detections` gives a list of `(K, 1, h, w)`, one
                map for each detection of an image; of those LayerCAM's and HiResCAM's are local.
                Default: None, which takes the predicted class (of an output of one number for each
                image, that number).
            additional_forward_args (Any, optional): Further arguments of the model: one, or a
                tuple. Default: None.
            attribute_to_layer_input (bool): Takes the map at the layer's input in place of its
                output. Default: False.
            relu_attributions (bool): Sets negative values to 0, as the papers do; False keeps
                them, as Captum does by default. Default: True.
            attr_dim_summation (bool): Sums over the channels; False gives each channel's
                contribution. Default: True.
            grad_kwargs (dict[str, Any], optional): Further arguments of `torch.autograd.grad`:
                `materialize_grads=True` gives a map of 0 where the score does not depend on the
                layer, which is an error otherwise. The map has no graph, `create_graph` or not.
                Default: None.

        Returns:
            `(N, 1, h, w)`, or `(N, C, h, w)` without the sum; `(N, 1, d, h, w)` for volumes,
            `(N, 1, t)` for signals. A tuple of one input gives a tuple of
            one map, which `sensitivity_max` needs; several inputs give one map, as in Captum. A
            warning names images whose map is 0 everywhere after the ReLU.

        Raises:
            ValueError: If the target does not fit the output, or the layer cannot be used.
        """
        several = self._one_at_a_time(
            self.attribute,
            inputs,
            target,
            additional_forward_args,
            attribute_to_layer_input=attribute_to_layer_input,
            relu_attributions=relu_attributions,
            attr_dim_summation=attr_dim_summation,
            grad_kwargs=grad_kwargs,
        )
        if several is not None:
            return several
        (call,) = self._calls(inputs, target, additional_forward_args)
        layer = self._layer or self._find_layer(call)
        maps, scale, _ = layer_contributions(
            self.cam,
            layer,
            call,
            places=self._places,
            found=self._layer is None,
            layer_input=attribute_to_layer_input,
            grad_kwargs=grad_kwargs,
        )
        if scale is not None:
            # At the layer's size, as Captum gives it.
            maps = without_row(scale.layout.in_order(maps), images_of(call.inputs)[0])
        if attr_dim_summation:
            maps = maps.sum(1, keepdim=True)
        if relu_attributions:
            maps = maps.relu()
            warn_of_zero(maps.flatten(1).amax(1) <= 0, self.cam, "")
        maps = maps.contiguous()
        return (maps,) if isinstance(inputs, tuple) and len(inputs) == 1 else maps

    def _find_layer(self, call: Call) -> NamedLayer:
        key = call.kind
        if key not in self._found:
            scales = find_scales(call.forward_func, call.inputs, call.additional_forward_args)
            if len(self._found) >= MOST_KINDS:
                self._found.pop(next(iter(self._found)))
            self._found[key] = NamedLayer.of_scale(scales[-1]).of_class
        return self._found[key]


class NamedClassActivationMap(ClassActivationMap):
    """A `ClassActivationMap` of one entry of the registry, with the constructor of Captum's."""

    _cam: ClassVar[str]

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Layer | Scale | None = None,
        device_ids: list[int] | None = None,
    ) -> None:
        super().__init__(forward_func, layer, device_ids, cam=self._cam)


class GradCAM(NamedClassActivationMap):
    r"""Grad-CAM: channels weighted by the mean of their gradient.

    $$L = \mathrm{ReLU}\Big(\sum_k A_k \frac{1}{hw} \sum_{ij} \frac{\partial S}{\partial A_{kij}}
      \Big)$$

    Deviations from the paper: none. `relu_attributions=False` gives Captum's `LayerGradCam`.

    Reference:
        Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
        Localization", Eq 1 and 2,
        https://arxiv.org/abs/1610.02391

    Args:
        forward_func (torch.nn.Module or Callable): As for `ClassActivationMap`.
        layer (str, torch.nn.Module or Scale, optional): As for `ClassActivationMap`.
            Default: None.
        device_ids (list[int], optional): As for `ClassActivationMap`. Default: None.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.AvgPool2d(2), torch.nn.Flatten())
        >>> GradCAM(net, net[0]).attribute(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), 0).tolist()
        [[[[0.25, 0.5], [0.75, 1.0]]]]
    """

    _field_name: ClassVar[str | None] = "Grad-CAM"
    _cam: ClassVar[str] = "gradcam"


class GradCAMPlusPlus(NamedClassActivationMap):
    r"""Grad-CAM++: channels weighted by a weighted sum of their positive gradients.

    `fastsal.cam.registry.gradcam_plus_plus_weights` has the formula and its deviations.

    Reference:
        Chattopadhay et al., "Grad-CAM++: Improved Visual Explanations for Deep Convolutional
        Networks", Eq 7 and 19,
        https://arxiv.org/abs/1710.11063

    Args:
        forward_func (torch.nn.Module or Callable): As for `ClassActivationMap`.
        layer (str, torch.nn.Module or Scale, optional): As for `ClassActivationMap`.
            Default: None.
        device_ids (list[int], optional): As for `ClassActivationMap`. Default: None.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.AvgPool2d(2), torch.nn.Flatten())
        >>> images = torch.tensor([[[[1.0, 2.0], [1.0, 4.0]]]])
        >>> GradCAMPlusPlus(net, net[0]).attribute(images, 0).tolist()  # 4 * 1/4 / (2 + 8/4) = 1/4
        [[[[0.25, 0.5], [0.25, 1.0]]]]
    """

    _field_name: ClassVar[str | None] = "Grad-CAM++"
    _cam: ClassVar[str] = "gradcam++"


class SmoothGradCAMPlusPlus(ClassActivationMap):
    r"""Smooth Grad-CAM++: Grad-CAM++ with derivatives averaged over noisy copies of the image.

    `fastsal.cam.registry.gradcam_plus_plus_weights` has the formula and its deviations. A map
    takes `samples + 1` forward passes.

    Reference:
        Omeiza et al., "Smooth Grad-CAM++: An Enhanced Inference Level Visualization Technique for
        Deep Convolutional Neural Network Models",
        https://arxiv.org/abs/1908.01224

    Args:
        forward_func (torch.nn.Module or Callable): As for `ClassActivationMap`.
        layer (str, torch.nn.Module or Scale, optional): As for `ClassActivationMap`.
            Default: None.
        device_ids (list[int], optional): As for `ClassActivationMap`. Default: None.
        samples (int): The number of noisy copies of each image. Default: 15.
        noise (float): Standard deviation of the noise, as a share of each image's own range. 0
            gives Grad-CAM++. Default: 0.15.
        seed (int): The seed of the noise. Default: 0.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.AvgPool2d(2), torch.nn.Flatten())
        >>> images = torch.tensor([[[[1.0, 2.0], [1.0, 4.0]]]])
        >>> SmoothGradCAMPlusPlus(net, net[0], noise=0.0).attribute(images, 0).tolist()
        [[[[0.25, 0.5], [0.25, 1.0]]]]
    """

    _field_name: ClassVar[str | None] = "Smooth Grad-CAM++"

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Layer | Scale | None = None,
        device_ids: list[int] | None = None,
        *,
        samples: int = 15,
        noise: float = 0.15,
        seed: int = 0,
    ) -> None:
        cam = replace(get_cam("smoothgradcam++"), samples=samples, noise=noise, seed=seed)
        super().__init__(forward_func, layer, device_ids, cam=cam)

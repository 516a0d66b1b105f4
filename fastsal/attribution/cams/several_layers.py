"""Class activation maps of several layers fused into one, as Captum attribution classes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar

import torch
from captum.attr._utils.attribution import GradientAttribution, InternalAttribution
from captum.log import log_usage

from fastsal.arguments.call import Call
from fastsal.arguments.inputs import Images, grid_of, image_of
from fastsal.attribution.base import NamedAttribution
from fastsal.cam.contributions import warn_of_zero
from fastsal.cam.noting import MOST_KINDS, Places
from fastsal.cam.registry import Cam, get_cam
from fastsal.cam.several_layers import FUSIONS, contributions_of_layers
from fastsal.maps.placing import by_image, placed
from fastsal.maps.resize import as_attributions
from fastsal.networks.layers import Layer, NamedLayer, expected_on, name_layers
from fastsal.networks.scales import Scale, find_scales
from fastsal.networks.state import LayerError, root_module


class MultiLayerCAM(NamedAttribution, GradientAttribution, InternalAttribution):  # type: ignore[misc]
    r"""The class activation maps of several layers, fused into one of the image's size.

    $$\text{maximum:}\ \max_r U\Big(\tanh \frac{2 L_r}{\max L_r}\Big), \qquad
      \text{product:}\ \prod_r U\big(\mathrm{minmax}(L_r)\big)$$

    with `L_r` the map of layer r after the ReLU and `U` bilinear upsampling. "maximum" of LayerCAM
    is its paper's fusion. One pass takes the gradient from the class to the shallowest layer.
    Deviations from LayerCAM's paper: the maps of all layers are scaled, where it scales those of
    the shallow ones alone. torch-cam brings each map to [0, 1] by its smallest value too before
    the tanh; pytorch-grad-cam averages maps without the tanh.

    Reference:
        Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization",
        Eq 7 to 9, https://doi.org/10.1109/TIP.2021.3089943

    Args:
        forward_func (torch.nn.Module or Callable): The network, or any callable that runs it; a
            callable needs `layers`.
        layers (str, torch.nn.Module, Scale or a sequence of them, optional): In the order in which
            the network runs them. Default: None, which takes its scales, found at the first call.
        device_ids (list[int], optional): As for `ClassActivationMap`. Default: None.
        cam (str or Cam): A registered class activation map that takes a gradient, or a `Cam`; not
            one of noisy copies. Default: "layercam".
        fusion (str): "maximum" or "product". Default: "maximum".

    Raises:
        ValueError: If a name is unknown, the map takes no gradient or noisy copies, or no layer can
            be found.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        ...     torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
        ...     torch.nn.Linear(128, 10),
        ... )
        >>> MultiLayerCAM(net).attribute(torch.rand(2, 3, 8, 8), target=2).shape
        torch.Size([2, 3, 8, 8])
    """

    _field_name: ClassVar[str | None] = "Multi-layer CAM"

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layers: Layer | Scale | Sequence[Layer | Scale] | None = None,
        device_ids: list[int] | None = None,
        *,
        cam: str | Cam = "layercam",
        fusion: str = "maximum",
    ) -> None:
        InternalAttribution.__init__(self, forward_func, layers, device_ids)
        GradientAttribution.__init__(self, forward_func)
        if layers is None and root_module(forward_func) is None:
            raise ValueError(
                f"cannot find the scales inside {forward_func!r}, which is no torch.nn.Module; "
                "give the layers yourself, layers=[module, ...]"
            )
        self.cam = get_cam(cam)
        if self.cam.noise or not self.cam.orders:
            why = "averages noisy copies" if self.cam.noise else "takes no gradient"
            raise ValueError(
                f"cam={self.cam.name!r} {why}, and maps of several layers come from the gradients "
                "of one pass; choose another, such as 'layercam' or 'gradcam'"
            )
        self.fusion = fusion
        self._scaled, self._fused = FUSIONS[fusion]
        self._layers = None if layers is None else name_layers(forward_func, layers)
        self._places: Places = {}
        self._found: dict[Hashable, tuple[NamedLayer, ...]] = {}

    def _facts(self) -> list[str]:
        known = self._layers or next(reversed(self._found.values()), None)
        layers = "layers found at the first call"
        if known is not None:
            layers = f"layers {', '.join(layer.name for layer in known)}"
        return [layers, f"cam={self.cam.name!r}", f"fusion={self.fusion!r}"]

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Images,
        target: Any = None,
        additional_forward_args: object = None,
        *,
        expand_channels: bool = True,
    ) -> Images:
        """Return the fused map of every image.

        Args:
            inputs (Tensor or tuple[Tensor, ...]): `(N, C, H, W)`, or a tuple of the model's inputs;
                the first 4-D one is the image.
            target (int, tuple, Tensor, list or Callable, optional): As for `ClassActivationMap`.
                Default: None, which takes the predicted class.
            additional_forward_args (Any, optional): Further arguments of the model: one, or a
                tuple. Default: None.
            expand_channels (bool): Repeats the map over the input's channels; False gives
                `(N, 1, H, W)`. Default: True.

        Returns:
            A tensor of the input's shape in [0, 1], float32 or the input's type if that is finer; a
            tuple for a tuple. A warning names images whose map is 0 everywhere.

        Raises:
            ValueError: If the target does not fit the output, or a layer cannot be used.
        """
        several = self._one_at_a_time(
            self.attribute,
            inputs,
            target,
            additional_forward_args,
            expand_channels=expand_channels,
        )
        if several is not None:
            return several
        (call,) = self._calls(inputs, target, additional_forward_args)
        layers = self._layers or self._find_layers(call)
        found = contributions_of_layers(
            self.cam, layers, call, places=self._places, found=self._layers is None
        )
        size = grid_of(image_of(call.inputs))
        with torch.no_grad():
            laid = []
            for layer, (contributions, scale) in zip(layers, found, strict=True):
                if scale is None:
                    raise LayerError(
                        f"layer {layer.name!r} gives a tensor without locations, expected "
                        f"{expected_on(size)}; choose another layer"
                    )
                maps = by_image(contributions.sum(1).relu(), scale.placement)
                laid.append(placed(self._scaled(maps), scale.placement, size))
            fused = self._fused(torch.stack(laid))
            zero = fused.flatten(1).amax(1) <= 0
        warn_of_zero(zero, self.cam, f" in the {self.fusion} of {len(layers)} layers")
        return as_attributions(inputs, fused, expand_channels)

    def _find_layers(self, call: Call) -> tuple[NamedLayer, ...]:
        if call.kind not in self._found:
            scales = find_scales(call.forward_func, call.inputs, call.additional_forward_args)
            if len(self._found) >= MOST_KINDS:
                self._found.pop(next(iter(self._found)))
            *layers, last = (NamedLayer.of_scale(scale) for scale in scales)
            self._found[call.kind] = (*layers, last.of_class)
        return self._found[call.kind]


class RefineCAM(MultiLayerCAM):
    r"""RefineCAM: the class activation maps of several layers, multiplied.

    $$L = \prod_r U\big(\mathrm{minmax}(L_r)\big)$$

    Deviations: a constant map counts as 1/2 everywhere. torch-cam multiplies at the largest layer's
    size, and scales the product to [0, 1]; pytorch-grad-cam scales each map to [0, 1] twice,
    enlarges by OpenCV and scales the product. An image's pixels have another order there only
    because maps are multiplied at another size.

    Reference:
        "How to Evaluate and Refine your CAM", https://arxiv.org/abs/2605.14641

    Args:
        forward_func (torch.nn.Module or Callable): As for `MultiLayerCAM`.
        layers (str, torch.nn.Module, Scale or a sequence of them, optional): As for
            `MultiLayerCAM`. Default: None.
        device_ids (list[int], optional): As for `MultiLayerCAM`. Default: None.
        cam (str or Cam): As for `MultiLayerCAM`. Default: "gradcam++".

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        ...     torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
        ...     torch.nn.Linear(128, 10),
        ... )
        >>> RefineCAM(net, [net[1], net[4]]).attribute(torch.rand(2, 3, 8, 8), target=2).shape
        torch.Size([2, 3, 8, 8])
    """

    _field_name: ClassVar[str | None] = "RefineCAM"

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layers: Layer | Scale | Sequence[Layer | Scale] | None = None,
        device_ids: list[int] | None = None,
        *,
        cam: str | Cam = "gradcam++",
    ) -> None:
        super().__init__(forward_func, layers, device_ids, cam=cam, fusion="product")

"""Fast-CAM: SMOE Scale times a class activation map, as a Captum attribution class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, overload

import torch
from captum.attr._utils.attribution import GradientAttribution, InternalAttribution
from captum.log import log_usage
from torch import Tensor

from fastsal.arguments.batches import joined_outputs
from fastsal.arguments.call import Call
from fastsal.arguments.detections import is_detection
from fastsal.arguments.image_lists import one_by_one
from fastsal.arguments.inputs import Images, Inputs, as_tuple, image_of, without_row
from fastsal.attribution.base import NamedAttribution
from fastsal.attribution.planned_reader import PlannedReader
from fastsal.attribution.reader import ScaleReader
from fastsal.attribution.smoe_scale import SMOEScale, readers_of
from fastsal.cam.contributions import layer_contributions, warn_of_zero
from fastsal.cam.last_layer import contributions_of_last
from fastsal.cam.noting import Places
from fastsal.cam.registry import Cam, get_cam
from fastsal.geometry.placement import of_parts
from fastsal.kernels.constants import EPSILON
from fastsal.maps.normalization import NormalizeOver
from fastsal.maps.placing import by_image, placed
from fastsal.maps.prior import Weights
from fastsal.maps.resize import as_attributions, upsample
from fastsal.maps.several_images import one_at_a_time
from fastsal.networks.layers import Layer, expected_on, name_layer
from fastsal.networks.scales import Scale
from fastsal.networks.state import LayerError
from fastsal.statistics.registry import Statistic, StatisticFunction


class FastCAM(NamedAttribution, GradientAttribution, InternalAttribution):  # type: ignore[misc]
    r"""Fast-CAM: the combined SMOE Scale map times the class activation map of one layer.

    $$F = S \cdot U\big(L / \max L\big)$$

    with `S` the SMOE Scale map, `L` the class activation map, `U` the upsampling to the input's
    size. Guided Grad-CAM has guided backpropagation in place of `S`. The gradient is taken for the
    part of the network after the CAM's layer alone. Deviations from the paper: `L` is divided by
    its own largest value, image by image, so that maps lie in [0, 1].

    With `complement` it is $S \cdot (1 - U(L / \max L))$, the map of what the network finds
    elsewhere than at the class, which the authors' later notebook has.

    Reference:
        Mundhenk, Chen & Friedland, "Efficient Saliency Maps for Explainable AI", section 4.2,
        https://arxiv.org/abs/1911.11293

    Args:
        model (torch.nn.Module or Callable): The network, or any callable that runs it; a callable
            needs `layer` and `scales`.
        layer (str, torch.nn.Module or Scale, optional): The CAM's layer. Default: None, which takes
            the last scale; for a `Detection` the last on which the box's score depends.
        device_ids (list[int], optional): The order of devices, if `model` splits batches over
            several. Default: None.
        scales (str, torch.nn.Module, Scale or a sequence of them, optional): The layers that SMOE
            Scale reads, as its `layers`; "late" leaves the CAM as it is. Default: None, which finds
            them.
        cam (str or Cam): A registered class activation map, "gradcam", "gradcam++" or
            "smoothgradcam++", or a `Cam`. Default: None, which takes "gradcam", and "layercam" for
            `Detection` and `Detections`: means over all locations do not tell two objects of one
            class apart.
        weights (str, Path or sequence of float): As for `SMOEScale`. Default: "linear".
        statistic (str, Statistic or Callable): As for `SMOEScale`. Default: "smoe_scale".
        normalize (str): As for `SMOEScale`. Default: "gaussian".
        normalize_over (str): As for `SMOEScale`; class activation maps are always scaled one by
            one. Default: "image".
        max_batch (int, optional): As for `SMOEScale`. Default: None.
        epsilon (float): As for `SMOEScale`. Default: 1e-6.
        complement (bool): Multiplies by 1 less the class activation map. Default: False.

    Attributes:
        cam: The class activation map.
        smoe: The `SMOEScale` of the same network and settings.

    Raises:
        ValueError: If a name is unknown, a layer is missing, or the weights do not fit.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        ...     torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
        ...     torch.nn.Linear(128, 10),
        ... )
        >>> FastCAM(net, net[4]).attribute(torch.rand(2, 3, 8, 8), target=2).shape
        torch.Size([2, 3, 8, 8])
    """

    _field_name: ClassVar[str | None] = "Fast-CAM"

    def __init__(
        self,
        model: Callable[..., Any],
        layer: Layer | Scale | None = None,
        device_ids: list[int] | None = None,
        *,
        scales: Layer | Scale | Sequence[Layer | Scale] | None = None,
        cam: str | Cam | None = None,
        weights: Weights = "linear",
        statistic: str | Statistic | StatisticFunction = "smoe_scale",
        normalize: str = "gaussian",
        normalize_over: NormalizeOver = "image",
        max_batch: int | None = None,
        epsilon: float = EPSILON,
        complement: bool = False,
    ) -> None:
        InternalAttribution.__init__(self, model, layer, device_ids)
        GradientAttribution.__init__(self, model)
        self.cam = get_cam("gradcam" if cam is None else cam)
        self._cam_of_detections = get_cam("layercam" if cam is None else cam)
        self.complement = complement
        self.smoe = SMOEScale(
            model,
            scales,
            device_ids,
            weights=weights,
            statistic=statistic,
            normalize=normalize,
            normalize_over=normalize_over,
            max_batch=max_batch,
            epsilon=epsilon,
        )
        self._cam_layer = None if layer is None else name_layer(model, layer)
        self._places: Places = {}

    def _facts(self) -> list[str]:
        layer = [] if self._cam_layer is None else [f"layer {self._cam_layer.name!r}"]
        complement = ["complement=True"] if self.complement else []
        return [*layer, f"cam={self.cam.name!r}", *complement, *self.smoe._facts()]

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Images,
        target: Any = None,
        additional_forward_args: object = None,
        interpolate_mode: str = "bilinear",
        attribute_to_layer_input: bool = False,
        *,
        expand_channels: bool = True,
    ) -> Images:
        """Return the Fast-CAM map of every image.

        The arguments are those of Captum's `GuidedGradCam.attribute`, in the same order.

        Args:
            inputs (Tensor, tuple[Tensor, ...] or list[Tensor]): `(N, C, H, W)`, volumes
                `(N, C, D, H, W)` or signals `(N, C, T)`; or a tuple of the model's inputs, whose
                first 4-D one is the image. A list has one image `(C, H, W)` after the other, of any
                sizes; each goes through the network alone.
            target (int, tuple, Tensor, list, Callable or Detections, optional): The class, in any
                of Captum's forms, or a callable of the model's output that returns one score for
                each image, such as a `Detection`; of a list of images a list has the target of
                each. `Detections` gives a list of `(K, C, H, W)`, one map for each detection of an
                image, and takes one pass more than there are detections. Default: None, which takes
                the predicted class (of an output `(N,)`, the output itself).
            additional_forward_args (Any, optional): Further arguments of the model: one, or a
                tuple. Default: None.
            interpolate_mode (str): The interpolation of the class activation map: "bilinear",
                which is linear along each axis of volumes and signals too, "nearest", "area", or
                for images "bicubic". Default: "bilinear".
            attribute_to_layer_input (bool): Takes the CAM at its layer's input in place of its
                output. Default: False.
            expand_channels (bool): Repeats the map over the input's channels; False gives one, as
                `(N, 1, H, W)`. Default: True.

        Returns:
            A tensor of the input's shape in [0, 1] ("bicubic" may leave it), float32 or the
            input's type if that is finer; a tuple for a tuple, a list for a list. An image whose
            class activation map is 0 everywhere gives 0, with `complement` its SMOE Scale map, with
            a warning.

        Raises:
            ValueError: If the target does not fit the output, or a layer cannot be used.
        """
        self.smoe._check_alone(one_at_a_time(inputs, target))
        several = self._one_at_a_time(
            self.attribute,
            inputs,
            target,
            additional_forward_args,
            interpolate_mode=interpolate_mode,
            attribute_to_layer_input=attribute_to_layer_input,
            expand_channels=expand_channels,
        )
        if several is not None:
            return several
        if self._alone(inputs, target):
            self.smoe._check_alone(True)
            parts = [
                self.attribute(
                    one.inputs,
                    one.target,
                    one.additional_forward_args,
                    interpolate_mode,
                    attribute_to_layer_input,
                    expand_channels=expand_channels,
                )
                for one in one_by_one(inputs, target, additional_forward_args)
            ]
            joined: Images = joined_outputs(parts)
            return joined
        max_batch = self.smoe.settings.max_batch
        calls = self._calls(inputs, target, additional_forward_args, max_batch)
        with torch.no_grad(), readers_of(self.smoe).cached(calls) as reader:
            maps, activation_map, scale = self._read(calls, reader, attribute_to_layer_input)
            placement = scale.placement
            blocks = 1 if placement is None else placement.blocks
            product = reader.combined(maps, reader.channels if expand_channels else 1)
        with torch.no_grad():
            maps_of = activation_map.unflatten(0, (-1, blocks))  # type: ignore[no-untyped-call]
            peak = maps_of.flatten(1).amax(1)
            zero = peak <= 0
        result = "SMOE Scale alone" if self.complement else "0"
        warn_of_zero(zero, self._cam_for(target), f"; their Fast-CAM map is {result}")
        with torch.no_grad():
            peak = peak.masked_fill(zero, 1).repeat_interleave(blocks)
            activation_map = activation_map / peak.reshape(-1, *[1] * len(reader.size))
            if placement is None:
                laid = upsample(activation_map, reader.size, interpolate_mode)
            else:
                laid = placed(activation_map, placement, reader.size)[:, None]
            product *= (1 - laid if self.complement else laid).to(product.device)
            return as_attributions(inputs, product, expand_channels)

    @overload
    def class_activation_map(
        self,
        inputs: Inputs,
        target: Any = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
    ) -> Tensor: ...

    @overload
    def class_activation_map(
        self,
        inputs: list[Tensor],
        target: Any = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
    ) -> list[Tensor]: ...

    def class_activation_map(
        self,
        inputs: Images,
        target: Any = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
    ) -> Tensor | list[Tensor]:
        """Return the class activation map alone, at its layer's size and unscaled.

        Args:
            inputs (Tensor, tuple[Tensor, ...] or list[Tensor]): As for `attribute`.
            target (int, tuple, Tensor, list, Callable or Detections, optional): As for `attribute`.
                Default: None.
            additional_forward_args (Any, optional): As for `attribute`. Default: None.
            attribute_to_layer_input (bool): As for `attribute`. Default: False.

        Returns:
            `(N, h, w)`, not negative; `(N, d, h, w)` for volumes, `(N, t)` for signals; a list for
            a list and for `Detections`.

        Raises:
            ValueError: As for `attribute`.
        """
        self.smoe._check_alone(one_at_a_time(inputs, target))
        several = self._one_at_a_time(
            self.class_activation_map,
            inputs,
            target,
            additional_forward_args,
            attribute_to_layer_input=attribute_to_layer_input,
        )
        if several is not None:
            return several
        if self._alone(inputs, target):
            raise ValueError(
                "the detection of each image has the last layer on which it depends, and so a map "
                "of its own size: give the images as a list, or the layer to FastCAM"
            )
        max_batch = self.smoe.settings.max_batch
        calls = self._calls(inputs, target, additional_forward_args, max_batch)
        with torch.no_grad():
            reader = readers_of(self.smoe).for_call(calls[0])
            maps = self._read(calls, reader, attribute_to_layer_input)[1]
            return without_row(maps, image_of(calls[0].inputs))

    def _cam_for(self, target: Any) -> Cam:
        """Return the class activation map of a target."""
        return self._cam_of_detections if is_detection(target) else self.cam

    def _alone(self, inputs: Images, target: Any) -> bool:
        """Return True if each image of a batch may take another layer."""
        found = is_detection(target) and self._cam_layer is None
        return found and not isinstance(inputs, list) and len(as_tuple(inputs)[0]) > 1

    def _read(
        self, calls: Sequence[Call], reader: ScaleReader | PlannedReader, layer_input: bool
    ) -> tuple[list[Tensor], Tensor, Scale]:
        """Return the map of every scale, the CAM of a batch and the scale of the CAM's layer."""
        layer = self._cam_layer or reader.layers[-1].of_class
        activation_maps, values, placements = [], [], []
        scale: Scale | None = None
        for call in calls:
            if self._cam_layer is None and is_detection(call.target) and not layer_input:
                layer, contributions = contributions_of_last(
                    self._cam_of_detections,
                    reader.layers,
                    call,
                    places=self._places,
                    found=readers_of(self.smoe).finds_layers,
                    taps=reader.taps,
                )
            else:
                contributions = layer_contributions(
                    self._cam_for(call.target),
                    layer,
                    call,
                    places=self._places,
                    found=self._cam_layer is None and readers_of(self.smoe).finds_layers,
                    layer_input=layer_input,
                    taps=reader.taps,
                )
            scale = contributions.scale
            if scale is None:
                raise LayerError(
                    f"layer {layer.name!r} gives a tensor without locations, expected "
                    f"{expected_on(reader.size)}; choose another layer"
                )
            activation_map = contributions.maps.sum(1).relu()
            activation_maps.append(by_image(activation_map, scale.placement))
            values.append(contributions.values)
            images = len(call.inputs[0])
            reader.end_part(images)
            placements.append((images, scale.placement))
        whole = activation_maps[0] if len(calls) == 1 else torch.cat(activation_maps)
        if scale is None:
            raise RuntimeError("a batch has one part at least")
        placement = of_parts(placements, reader.size)
        return reader.joined(values), whole, replace(scale, placement=placement)
